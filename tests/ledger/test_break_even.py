"""Break-even prices: put back in, they give the rival's cost; and what moves them most."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ledger.test_cost import BY_HAND, PRICES, SERVED, hardware, middle
from tokenworks.errors import SpecError
from tokenworks.ledger.break_even import Pair, api_per_million, break_even, sensitivity
from tokenworks.ledger.cost import Served, cost
from tokenworks.ledger.terms import terms_of
from tokenworks.specs.price import ApiPrice, Money, Price
from tokenworks.specs.price_file import load_prices

BOX, SERVERS = hardware("scalex40"), hardware("5xhgx-h100")
SLOWER = dataclasses.replace(SERVED, effective_tok_s=6000, power_w=None, idle_w=None)
PAIR = Pair(BOX, SLOWER, SERVERS, SERVED)


@given(
    st.floats(0.1, 100), st.floats(0.05, 1), st.sampled_from(["USD", "CNY"]),
    st.sampled_from(["scalex40", "2xscalex40"]), st.floats(0, 0.3),
)  # fmt: skip
def test_the_price_put_back_in_gives_the_cost_of_the_rival(
    rival: float, utilisation: float, currency: Literal["USD", "CNY"], on: str, rate: float
) -> None:
    machine = hardware(on)
    terms = terms_of(PRICES, utilisation=utilisation, currency=currency, rate=rate, region="us")
    asked = break_even(machine, SLOWER, PRICES, terms, rival)
    assert asked.price is not None
    assert asked.price.low <= asked.price.mid <= asked.price.high
    if asked.price.mid <= 0:
        assert "cannot win at any price" in asked.words
        assert asked.beside_per_million.mid >= rival
        return
    own = load_prices({"systems": {"scalex40": f"{asked.price.mid / machine.systems!r} {currency}/system"}})
    again = cost(machine, SLOWER, own, terms)
    assert middle(again.per_million_effective) == pytest.approx(rival, rel=1e-9)
    assert middle(asked.per_card) * machine.devices == pytest.approx(asked.price.mid)


def test_cards_and_hosts_at_the_break_even_price_of_their_own_cost_break_even() -> None:
    """Five servers cost what they cost, also as one price."""
    terms = terms_of(PRICES)
    own = cost(SERVERS, SERVED, PRICES, terms)
    asked = break_even(SERVERS, SERVED, PRICES, terms, middle(own.per_million_effective))
    assert own.capex is not None
    assert middle(asked.price) == pytest.approx(own.capex.parts["cards"].mid + own.capex.parts["hosts"].mid)


def test_a_break_even_price_by_hand() -> None:
    """A box that would cost 300,000 USD serves a million effective tokens for 0.9814 USD (test_cost.py)."""
    from tests.ledger.test_cost import BOX as box  # noqa: N811 - the box of the other test

    asked = break_even(box, SERVED, BY_HAND, terms_of(BY_HAND, region="us"), 0.98139)
    assert middle(asked.price) == pytest.approx(300_000, rel=1e-3)


def test_a_price_below_zero_is_said_in_words() -> None:
    asked = break_even(BOX, SLOWER, PRICES, terms_of(PRICES, utilisation=0.5), 0.01)
    assert asked.words.startswith("scalex40 cannot win at any price at 50% utilisation: power, space, staff, racks")
    assert "the rival costs 0.01" in asked.words


def test_a_missing_number_is_named() -> None:
    asked = break_even(hardware("kunlun-32"), SLOWER, PRICES, terms_of(PRICES), 1.0)
    assert asked.price is None
    assert "racks, installation, staff: give rack_units of the machine" in asked.words


def test_against_an_api_on_the_mix_of_the_workload() -> None:
    """1 M output tokens go with 3 M input and 1 M cached tokens: 3 x 0.5 + 1 x 0.1 + 1 x 2 = 3.6 USD."""

    def price(amount: float) -> Price:
        return Price(mid=amount, unit="USD/M tokens", status="published", source="a test")

    api = ApiPrice(input=price(0.5), cached_input=price(0.1), output=price(2))
    terms = terms_of(PRICES)
    assert middle(api_per_million(SERVED, api, PRICES, terms)) == pytest.approx(3.6)
    no_cache = ApiPrice(input=price(0.5), output=price(2))
    assert middle(api_per_million(SERVED, no_cache, PRICES, terms)) == pytest.approx(4.0)
    yuan = terms_of(PRICES, currency="CNY")
    assert middle(api_per_million(SERVED, api, PRICES, yuan)) == pytest.approx(3.6 * 7.1)
    unknown = ApiPrice(input=Price(status="not-published"), output=price(2))
    assert api_per_million(SERVED, unknown, PRICES, terms) is None


def test_effects_are_sorted_and_name_their_inputs() -> None:
    terms = terms_of(PRICES, utilisation=0.5)
    more = dataclasses.replace(PAIR, served=dataclasses.replace(SLOWER, effective_tok_s=7000))
    effects = sensitivity(PAIR, PRICES, terms, reuse={"reuse 10 %": PAIR, "reuse 50 %": more})
    assert {effect.name for effect in effects} == {"power", "capex", "utilisation", "interest", "reuse"}
    swings = [effect.swing for effect in effects]
    assert swings == sorted(swings, reverse=True)
    by_name = {effect.name: effect for effect in effects}
    base = PAIR.price(PRICES, terms)
    assert by_name["capex"].low < base < by_name["capex"].high
    assert by_name["reuse"].low == base < by_name["reuse"].high
    assert (by_name["utilisation"].low_input, by_name["utilisation"].high_input) == ("40%", "60%")


def test_a_rival_without_a_cost_and_a_machine_without_effective_tokens() -> None:
    terms = terms_of(PRICES)
    with pytest.raises(SpecError, match=r"scalex40: has no cost; system: give systems.scalex40"):
        dataclasses.replace(PAIR, rival=BOX).price(PRICES, terms)
    with pytest.raises(SpecError, match="serves no effective token"):
        break_even(BOX, Served(0, 100), PRICES, terms, 1.0)
    with pytest.raises(SpecError, match="price of a purchase"):
        break_even(BOX, SLOWER, PRICES, terms_of(PRICES, pay="rent"), 1.0)


def test_low_and_high_ends_are_the_ends_of_the_other_prices() -> None:
    fixed = load_prices({"room": {"space": "100 USD/kW-month"}})
    wide = load_prices({"room": {"space": {"low": 10, "mid": 100, "high": 1000, "unit": "USD/kW-month",
                                           "status": "assumed", "source": "a test"}}})  # fmt: skip
    narrow, broad = (break_even(BOX, SLOWER, own, terms_of(own), 5.0).price for own in (fixed, wide))
    assert narrow is not None
    assert broad is not None
    assert broad.low < narrow.low <= narrow.mid == broad.mid
    assert broad.high > narrow.high
    assert isinstance(broad, Money)
