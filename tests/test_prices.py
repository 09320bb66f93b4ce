from datetime import date
from decimal import Decimal

import pytest

from metainf.accelerator_names import by_instance_type
from metainf.prices import bundled_price, bundled_prices


@pytest.mark.parametrize(
    ("instance_type", "region", "usd_per_hour"),
    [
        pytest.param("p5.48xlarge", "us-east-1", "55.04", id="aws"),
        pytest.param("p4d.24xlarge", "us-east-1", "21.957642", id="every digit of the list"),
        pytest.param("Standard_NC4as_T4_v3", "eastus", "0.526", id="azure"),
        pytest.param("standard_nc4as_t4_v3", "EastUS", "0.526", id="case does not matter"),
        pytest.param("g6.xlarge", None, "0.8048", id="a node without a region takes the list's"),
    ],
)
def test_gives_the_listed_price_of_a_node(instance_type: str, region: str | None, usd_per_hour: str) -> None:
    price = bundled_price(instance_type, region)
    assert price is not None
    assert price.usd_per_hour == Decimal(usd_per_hour)


@pytest.mark.parametrize(
    ("instance_type", "region"),
    [
        pytest.param("p5.48xlarge", "eu-west-1", id="another region is another price"),
        pytest.param("p5.96xlarge", "us-east-1", id="a type that the list does not have"),
        pytest.param("p5", "us-east-1", id="a family is no type"),
        pytest.param("", None, id="no type"),
        pytest.param("p5.48xlarge", "", id="an empty region is no region"),
    ],
)
def test_an_unlisted_price_is_unknown_and_not_a_guess(instance_type: str, region: str | None) -> None:
    assert bundled_price(instance_type, region) is None


def test_every_price_is_above_zero_dated_and_has_an_address() -> None:
    prices = bundled_prices()
    assert len(prices) == 31
    for price in prices:
        assert price.usd_per_hour > 0
        assert price.source.startswith("https://")
        assert price.as_of == date(2026, 10, 1)
        assert not price.spot


def test_no_type_has_two_prices_in_one_region() -> None:
    keys = [(price.instance_type.lower(), price.region) for price in bundled_prices()]
    assert len(keys) == len(set(keys))


def test_the_device_of_every_listed_type_is_known() -> None:
    unknown = [price.instance_type for price in bundled_prices() if by_instance_type(price.instance_type) is None]
    assert unknown == []
