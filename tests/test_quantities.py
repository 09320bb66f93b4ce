from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metainf_operator.quantities import quantity_or_none


@pytest.mark.parametrize(
    ("text", "number"),
    [
        pytest.param("8", "8", id="whole"),
        pytest.param("0", "0", id="zero"),
        pytest.param("3920m", "3.92", id="thousandths"),
        pytest.param("32777408Ki", "33564065792", id="kibibytes"),
        pytest.param("16Gi", "17179869184", id="gibibytes"),
        pytest.param("1.5G", "1500000000", id="decimal gigabytes"),
        pytest.param("1e3", "1000", id="exponent"),
        pytest.param("2E", "2000000000000000000", id="an E without a number is exa"),
        pytest.param("100n", "0.0000001", id="billionths"),
        pytest.param(".5", "0.5", id="no leading digit"),
        pytest.param("+4", "4", id="a plus sign"),
    ],
)
def test_reads_what_kubernetes_writes(text: str, number: str) -> None:
    assert quantity_or_none(text) == Decimal(number)


@pytest.mark.parametrize("text", [None, "", "-1", "8 ", "8GB", "8ki", "Gi", "1e9999", "NaN", "Infinity", "1_000", "٣"])
def test_what_is_no_quantity_is_none(text: str | None) -> None:
    assert quantity_or_none(text) is None


@given(number=st.integers(0, 10**12), suffix=st.sampled_from(["Ki", "Mi", "Gi"]))
def test_binary_suffixes_step_by_1024(number: int, suffix: str) -> None:
    power = {"Ki": 1, "Mi": 2, "Gi": 3}[suffix]
    assert quantity_or_none(f"{number}{suffix}") == number * 1024**power
