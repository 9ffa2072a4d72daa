"""Costs: annuities and totals by hand, and laws of utilisation, prices, rent and currency."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.errors import SpecError
from tokenworks.ledger.cost import Served, capex, cost, mean_power, millions_per_hour
from tokenworks.ledger.site import Hardware, hardware_of
from tokenworks.ledger.terms import terms_of
from tokenworks.specs.compose import parts
from tokenworks.specs.price import Money
from tokenworks.specs.price_file import catalog_prices, load_prices

PRICES = catalog_prices()
BOX = Hardware(
    name="box", system="hgx-h100", device="h100", devices=8, systems=1, hosts=1, rack_units=8, power_w=10e3,
    tdp_w=5600, cooling="air",
)  # fmt: skip
SERVED = Served(
    effective_tok_s=8000, output_tok_s=10000, input_tok_s=30000, cached_tok_s=10000, input_share=0.3, cached_share=0.05,
    output_share=0.65, power_w=4000, idle_w=800, slo="ttft=2s,tpot=50ms",
)  # fmt: skip
BY_HAND = load_prices(
    {
        "systems": {"hgx-h100": "300000 USD/system"},
        "room": {
            "rack": "3000 USD/rack", "installation_rack": "1000 USD/rack", "space": "100 USD/kW-month",
            "staff": "876 USD/rack-year", "maintenance": 0.02, "idle_power": 0.3,
        },
        "electricity": {"us": "0.1 USD/kWh"},
        "pue": {"air": 1.5},
        "finance": {"years": 4, "rate": 0.1, "residual": 0, "cny_per_usd": 7},
    }
)  # fmt: skip

utilisations = st.floats(0.05, 1.0)
machines = st.sampled_from(["5xhgx-h100", "5xhgx-h20", "5xbw1000-8@roce400", "gb200-nvl72", "hgx-h200:4"])


def hardware(on: str) -> Hardware:
    return hardware_of(parts(on))


def middle(money: Money | None) -> float:
    assert money is not None
    return money.mid


def test_an_annuity_by_hand() -> None:
    """1 paid in 4 years at 10 %: 0.1 x 1.1^4 / (1.1^4 - 1) = 0.14641 / 0.4641 = 0.315471 a year."""
    terms = terms_of(BY_HAND, region="us")
    assert terms.annuity.mid == pytest.approx(0.14641 / 0.4641)
    assert terms_of(BY_HAND, region="us", rate=0.0).annuity.mid == pytest.approx(0.25)
    assert terms_of(BY_HAND, region="us", rate=0.0, residual=0.2).annuity.mid == pytest.approx(0.2)
    # a residual of 20 % after 4 years: (1 - 0.2 / 1.4641) x 0.315471
    assert terms_of(BY_HAND, region="us", residual=0.2).annuity.mid == pytest.approx(
        (1 - 0.2 / 1.4641) * 0.315471, 1e-5
    )


def test_a_machine_by_hand() -> None:
    """One box of 300,000 USD with a rack of 3,000 and a day of work of 1,000, half of the time busy.

    Purchase 304,000; a year 0.315471 x 304,000 = 95,903 and 2 % = 6,080 of repairs: 10.948 + 0.694 USD an hour.
    Power: busy 4,000 + 4,400 W, idle 800 + 4,400 W, mean 6,800 W, x 1.5 x 0.1 = 1.02 USD an hour.
    Space: 10 kW x 100 x 12 / 8760 = 1.370. Staff: 0.1. Together 14.132 USD an hour.
    Tokens of an hour: 8,000 x 0.5 x 3,600 = 14.4 M effective: 0.9814 USD a million.
    """
    result = cost(BOX, SERVED, BY_HAND, terms_of(BY_HAND, region="us"))
    assert result.capex is not None
    assert middle(result.capex.total) == 304_000
    by_hand = {
        "depreciation and interest": 304_000 * 0.14641 / 0.4641 / 8760,
        "maintenance": 6080 / 8760,
        "power": 6.8 * 1.5 * 0.1,
        "space": 12_000 / 8760,
        "staff": 0.1,
    }
    assert {name: money.mid for name, money in result.hourly.items()} == pytest.approx(by_hand)
    assert middle(result.per_hour) == pytest.approx(14.132, abs=0.001)
    assert middle(result.per_device_hour) == pytest.approx(14.132 / 8, abs=0.001)
    assert middle(result.per_million_effective) == pytest.approx(0.9814, abs=0.0001)
    assert middle(result.per_million_output) == pytest.approx(14.132 * 0.65 / 18, abs=0.0001)
    assert middle(result.per_million_input) == pytest.approx(14.132 * 0.3 / 54, abs=0.0001)
    assert middle(result.per_million_cached) == pytest.approx(14.132 * 0.05 / 18, abs=0.0001)


def test_a_network_by_hand() -> None:
    """Five servers: one switch of 64 ports, 40 links of two optics and a fibre, and 40 links to lay."""
    own = load_prices(
        {
            "network": {"switch_port": "500 USD/port", "optic_400g": "100 USD/optic", "fibre": "20 USD/cable"},
            "room": {"installation_link": "50 USD/cable", "installation_rack": "1000 USD/rack"},
        }
    )
    bought = capex(hardware("5xhgx-h100"), own)
    assert bought.parts["switches"].mid == 32_000
    assert bought.parts["optics and cables"].mid == 40 * 220
    assert bought.parts["installation"].mid == 3000 - 2000 + 40 * 50
    assert "switches" not in capex(hardware("hgx-h100"), own).parts


def test_a_built_up_h100_costs_what_an_analyst_computes() -> None:
    """SemiAnalysisAI/InferenceX-app constants.ts: 1.30 to 1.69 USD per GPU and hour over four years, all in.

    Ours has rent of space, maintenance and interest inside. It has to lie within 30 % of the higher one.
    """
    result = cost(hardware("5xhgx-h100"), SERVED, PRICES, terms_of(PRICES, utilisation=1.0, region="us"))
    assert middle(result.per_device_hour) == pytest.approx(1.69, rel=0.3)


@given(machines, utilisations, utilisations, st.sampled_from(["buy", "rent"]))
def test_cost_falls_as_utilisation_rises(on: str, one: float, other: float, pay: str) -> None:
    low, high = sorted((one, other))
    costs = [cost(hardware(on), SERVED, PRICES, terms_of(PRICES, utilisation=u, pay=pay)) for u in (low, high)]  # type: ignore[arg-type]
    if costs[0].per_million_effective is None:
        assert costs[0].missing == ("rent",)
        return
    for end in ("low", "mid", "high"):
        idle, busy = (getattr(each.per_million_effective, end) for each in costs)
        assert busy <= idle * (1 + 1e-12)


@given(machines, utilisations)
def test_low_middle_and_high_are_in_order(on: str, utilisation: float) -> None:
    result = cost(hardware(on), SERVED, PRICES, terms_of(PRICES, utilisation=utilisation))
    for money in (*result.hourly.values(), result.per_hour, result.per_million_effective, result.per_million_input):
        assert money is not None
        assert 0 <= money.low <= money.mid <= money.high


@given(st.floats(1e3, 1e7), st.floats(0.1, 10))
def test_cost_is_linear_in_the_price_of_the_machine(price: float, factor: float) -> None:
    def hourly(dollars: float) -> float:
        own = load_prices({"systems": {"hgx-h100": f"{dollars!r} USD/system"}})
        return middle(cost(BOX, SERVED, own, terms_of(own)).per_hour)

    free = hourly(0)
    assert hourly(price * factor) - free == pytest.approx((hourly(price) - free) * factor)


@given(machines, utilisations)
def test_kinds_of_tokens_share_all_cost(on: str, utilisation: float) -> None:
    result = cost(hardware(on), SERVED, PRICES, terms_of(PRICES, utilisation=utilisation))
    rates = (SERVED.input_tok_s, SERVED.cached_tok_s, SERVED.output_tok_s)
    each = (result.per_million_input, result.per_million_cached, result.per_million_output)
    paid = sum(middle(one) * millions_per_hour(rate, utilisation) for one, rate in zip(each, rates, strict=True))
    assert paid == pytest.approx(middle(result.per_hour))


@given(machines, utilisations)
def test_yuan_are_dollars_times_the_rate(on: str, utilisation: float) -> None:
    dollars, yuan = (
        cost(hardware(on), SERVED, PRICES, terms_of(PRICES, utilisation=utilisation, currency=currency))
        for currency in ("USD", "CNY")
    )
    assert middle(yuan.per_million_effective) == pytest.approx(
        middle(dollars.per_million_effective) * PRICES.cny_per_usd
    )
    assert yuan.terms.dollars(middle(yuan.per_hour)) == pytest.approx(middle(dollars.per_hour))


def test_rent_has_neither_purchase_nor_power() -> None:
    result = cost(hardware("5xhgx-h100"), SERVED, PRICES, terms_of(PRICES, pay="rent"))
    assert result.capex is None
    assert set(result.hourly) == {"rent"}
    assert middle(result.per_device_hour) == middle(PRICES.rental["h100"].range)
    dear = load_prices({"electricity": {"cn": "9 CNY/kWh"}, "cards": {"h100": "9e6 USD/card"}})
    assert cost(hardware("5xhgx-h100"), SERVED, dear, terms_of(dear, pay="rent")).per_hour == result.per_hour


def test_a_missing_price_is_named_and_not_zero() -> None:
    result = cost(hardware("scalex40"), SERVED, PRICES, terms_of(PRICES))
    assert result.missing == ("system",)
    assert result.per_hour is result.per_million_effective is None
    assert result.capex is not None
    assert result.capex.total is None
    assert result.needed == "system: give systems.scalex40 of the price list"
    rented = cost(hardware("scalex40"), SERVED, PRICES, terms_of(PRICES, pay="rent"))
    assert rented.needed == "rent: give rental.scalex40-card of the price list"
    bare = dataclasses.replace(BOX, rack_units=None, power_w=None)
    assert cost(bare, SERVED, BY_HAND, terms_of(BY_HAND)).missing == (
        "racks", "installation", "power", "space", "staff",
    )  # fmt: skip


def test_every_cost_says_utilisation_tokens_and_slo_and_lists_assumed_prices() -> None:
    result = cost(hardware("5xbw1000-8@roce400"), SERVED, PRICES, terms_of(PRICES, utilisation=0.4))
    for words in ("40% utilisation", "effective tokens", "SLO ttft=2s,tpot=50ms", "4 years at 6.0% interest"):
        assert words in result.words
    assert {"cards.bw1000", "servers.bw1000-8", "finance.rate"} <= {one.path for one in result.assumed}


def test_a_price_of_the_user_replaces_a_price_in_another_form() -> None:
    cards = load_prices({"cards": {"gb200": "10000 USD/card"}, "servers": {"gb200-nvl72": "1000 USD/server"}})
    assert capex(hardware("gb200-nvl72"), cards).parts["cards"].mid == 720_000
    own = dataclasses.replace(BOX, system="my-box", price_usd=1234.0)
    assert capex(own, PRICES).parts["system"].mid == 1234
    listed = load_prices({"systems": {"mine/my-box.yaml": "99 USD/system"}})
    assert capex(own, listed).parts["system"].mid == 99
    given = hardware_of(parts("2xgb200-nvl72", assume={"price": "1000 USD"}))
    assert capex(given, PRICES).parts["system"].mid == 2000
    card = hardware_of(parts("5xhgx-h100", assume={"device.price": "1000 USD"}))
    assert capex(card, PRICES).parts["cards"].mid == 40_000


def test_power_by_load() -> None:
    terms = terms_of(PRICES, utilisation=0.25)
    idle = Money(0.2, 0.3, 0.4)
    known = mean_power(BOX, terms, idle, busy_w=SERVED.power_w, idle_w=SERVED.idle_w)
    assert known == Money(6000, 6000, 6000)  # 0.25 x 8,400 + 0.75 x 5,200
    unknown = mean_power(BOX, terms, idle, busy_w=None)
    assert unknown == Money(4000, 4750, 5500)  # 0.25 x 10,000 + 0.75 x 30 % of it
    assert mean_power(dataclasses.replace(BOX, power_w=None), terms, idle, busy_w=SERVED.power_w) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("utilisation", 0.0), ("utilisation", 1.1), ("years", 0.0), ("rate", -0.1), ("residual", 2.0), ("pue", 0.9),
     ("electricity", -1.0), ("utilisation", float("nan"))],
)  # fmt: skip
def test_impossible_terms(name: str, value: float) -> None:
    with pytest.raises(SpecError, match=f"{name}: .* is not possible; write"):
        terms_of(PRICES, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"effective_tok_s": 2e4}, {"input_tok_s": -1.0}, {"input_share": 0.9}, {"output_tok_s": float("inf")}]
)
def test_impossible_rates(change: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="Served"):
        dataclasses.replace(SERVED, **change)  # type: ignore[arg-type]
