"""What a PCIe link carries, and which generation a rate is of."""

import pytest

from metainf.pcie import PCIE_X16_BYTES_PER_S, pcie_bytes_per_s, pcie_generation


def test_a_link_of_a_generation_that_is_not_known_has_no_speed() -> None:
    assert pcie_bytes_per_s(5) == 63e9
    assert pcie_bytes_per_s(5, 4) == 15.75e9
    assert pcie_bytes_per_s(9) is None


@pytest.mark.parametrize("generation", PCIE_X16_BYTES_PER_S)
def test_a_generation_is_known_by_what_its_sixteen_lanes_carry(generation: int) -> None:
    assert pcie_generation(pcie_bytes_per_s(generation)) == generation


@pytest.mark.parametrize("rate", [pytest.param(None, id="no link"), pytest.param(1e9, id="of no generation")])
def test_a_rate_of_no_generation_is_none(rate: float | None) -> None:
    assert pcie_generation(rate) is None
