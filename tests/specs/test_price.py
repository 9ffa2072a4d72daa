"""Prices: ranges, units and currencies, the lists of the catalog, a user's list, and litellm's list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs import load
from tokenworks.specs.price import Money, Price, Prices
from tokenworks.specs.price_file import (
    api_price,
    catalog_prices,
    load_price_list,
    load_prices,
    price_list_names,
)

LITELLM = {
    "sample_spec": {"max_tokens": 8192, "mode": "chat", "input_cost_per_token": 0, "output_cost_per_token": 0},
    "deepinfra/acme/Big-1": {"input_cost_per_token": 4e-7, "output_cost_per_token": 2e-6, "mode": "chat"},
    "acme/big-1": {
        "input_cost_per_token": 5e-7,
        "cache_read_input_token_cost": 1e-7,
        "output_cost_per_token": 3e-6,
        "litellm_provider": "acme",
    },
    "picture-1": {"input_cost_per_image": 0.01},
}
amounts = st.floats(0, 1e9, allow_nan=False)


def test_every_price_of_the_catalog_has_a_source_and_a_range_in_order() -> None:
    seen = dict(catalog_prices().items())
    assert len(seen) > 120
    for path, price in seen.items():
        assert (price.range is None) == (price.status == "not-published"), path
        if price.range is None:
            continue
        assert price.source, path
        assert 0 <= price.range.low <= price.range.mid <= price.range.high, path
        assert price.status == "assumed" or price.date, path
        assert price.status != "assumed" or len(price.source) > 20, f"{path} must say why"


@pytest.mark.parametrize("name", price_list_names())
def test_every_list_names_itself_and_things_of_the_catalog(name: str) -> None:
    read = load_price_list(name)
    assert read.name == name
    assert read.title
    assert set(read.cards) | set(read.rental) <= set(load.catalog_names("device"))
    assert set(read.servers) | set(read.systems) <= set(load.catalog_names("system"))


def test_the_price_of_scalex40_is_unknown() -> None:
    prices = catalog_prices()
    assert prices.systems["scalex40"].range is None
    assert prices.cards["scalex40-card"].range is None


def test_prices_in_machine_files_lie_in_the_ranges_of_the_lists() -> None:
    prices = catalog_prices()
    for name in load.catalog_names("system"):
        own, listed = load.load_system(name).price.value, prices.systems.get(name)
        if own and listed and listed.range:
            assert listed.range.low <= own <= listed.range.high


def test_one_value_one_range_and_a_middle_that_is_missing() -> None:
    def card(price: Any) -> Money | None:
        return load_prices({"cards": {"h100": price}}).cards["h100"].range

    assert card("30,000 USD/card") == Money(30000, 30000, 30000)
    assert card(None) is None
    known = {"unit": "CNY/card", "status": "media", "source": "a page"}
    assert card({"low": 10, "high": 30, **known}) == Money(10, 20, 30)
    assert card({"value": 12, **known}) == Money(12, 12, 12)


def test_a_user_replaces_single_prices_and_keeps_the_others() -> None:
    mine = load_prices({"cards": {"h100": "20000 USD/card"}, "room": {"rack": "100 USD/rack"}, "pue": {"air": 1.2}})
    assert mine.cards["h100"].written == "20,000 USD/card"
    assert mine.cards["h200"] == catalog_prices().cards["h200"]
    assert mine.room.cdu == catalog_prices().room.cdu
    assert mine.pue["air"].range == Money(1.2, 1.2, 1.2)
    assert mine.pue["liquid"] == catalog_prices().pue["liquid"]


@given(amounts)
def test_yuan_and_dollars_and_back(amount: float) -> None:
    prices = catalog_prices()
    price = Price(mid=amount, unit="CNY/card", status="assumed", source="a test")
    dollars = prices.usd(price)
    assert dollars is not None
    assert dollars.mid * prices.cny_per_usd == pytest.approx(amount)


@given(st.lists(amounts, min_size=3, max_size=3), st.lists(amounts, min_size=3, max_size=3), st.floats(0, 1e3))
def test_ranges_stay_in_order(a: list[float], b: list[float], factor: float) -> None:
    one, other = Money(*sorted(a)), Money(*sorted(b))
    for result in (one + other, one - other, one * factor, one.times(other), one / (factor + 1)):
        assert result.low <= result.mid <= result.high


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"cards": {"h100": -5}}, r"cards.h100: value -5: a price must be finite and not negative"),
        ({"cards": {"h100": "5 USD"}}, r'unit "USD" is not one of USD/card, CNY/card; write it like "30000 USD/card"'),
        ({"cards": {"h100": "cheap"}}, r'cannot read "cheap" as a price'),
        ({"cards": {"h100": {"low": 5, "high": 4, "unit": "USD/card", "status": "media", "source": "x"}}},
         r"cards.h100: the range is not in order: 5 stands before 4; write low <= mid <= high"),
        ({"cards": {"h100": {"value": 5, "high": 4, "unit": "USD/card", "status": "media", "source": "x"}}},
         r"has both value and high"),
        ({"cards": {"h100": {"value": 5, "unit": "USD/card", "status": "media"}}}, r"a price needs a source"),
        ({"cards": {"h1000": "5 USD/card"}}, r"unknown device 'h1000'; prices: cards.h1000; did you mean h100"),
        ({"systems": {"hgx-h1000": "5 USD/system"}}, r"unknown system 'hgx-h1000'"),
        ({"cardz": {}}, r'cardz: unknown key; did you mean "cards"'),
        ({"cards": {"h100": "5 USD/card"}, "rental": {"h100": "5 USD/card-h"}},
         r"prices a purchase \(cards.h100\) and a rent \(rental.h100\) of the same machine; leave one of the two out"),
        ({"systems": {"hgx-h100": "5 USD/system"}, "rental": {"h100": "5 USD/card-h"}}, r"systems.hgx-h100"),
    ],
)  # fmt: skip
def test_bad_prices_are_refused(content: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        load_prices(content)


def test_the_list_of_litellm_is_read_in_dollars_for_a_million_tokens(tmp_path: Path) -> None:
    file = tmp_path / "model_prices_and_context_window.json"
    file.write_text(json.dumps(LITELLM))
    prices = load_prices(file)
    price, name = api_price(prices, "acme/big-1")
    assert name == "acme/big-1"
    assert [one and one.range for one in (price.input, price.cached_input, price.output)] == [
        Money(0.5, 0.5, 0.5), Money(0.1, 0.1, 0.1), Money(3, 3, 3),
    ]  # fmt: skip
    both, name = api_price(prices, "other/Big-1")
    assert name == "2 sellers of big-1"
    assert both.input.range == Money(0.4, 0.45, 0.5)
    assert prices.cards == catalog_prices().cards
    with pytest.raises(UnknownName, match="unknown API price 'acme/small'"):
        api_price(prices, "acme/small")


def test_prices_of_litellm_replace_catalog_prices_of_the_same_model(tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    entry = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
    file.write_text(json.dumps({"some-shop/DeepSeek-R1": entry}))
    price, name = api_price(load_prices(file), "deepseek-ai/DeepSeek-R1")
    assert name == "some-shop/DeepSeek-R1"
    assert price.input.range == Money(1, 1, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "is no price list: no entry has input_cost_per_token and output_cost_per_token; give a YAML file"),
        ('{"a": 1}', "is no price list"),
        ('{"a": ', "is not JSON"),
        ("just words", "is no price list; give a YAML file with the keys of the catalog"),
        ("item,low,mid\nH100,1,2\n", "is no price list"),
        ('{"m": {"input_cost_per_token": -1, "output_cost_per_token": 1}}', "input_cost_per_token: -1 is not a price"),
    ],
)  # fmt: skip
def test_another_format_is_refused_with_the_path_and_what_is_expected(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "prices.txt"
    file.write_text(text)
    with pytest.raises(SpecError, match=words) as caught:
        load_prices(file)
    assert str(file) in str(caught.value)


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        load_prices(tmp_path / "none.yaml")


def test_a_finished_list_is_returned_as_it_is() -> None:
    mine = Prices(name="mine")
    assert load_prices(mine) is mine
