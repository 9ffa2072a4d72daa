"""Availability: laws of the random histories, and the histories against the closed form."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenworks
from tests.ledger.availability_cases import RATES, rates, scaled, stand
from tokenworks.costs import reliability as law
from tokenworks.errors import SpecError
from tokenworks.ledger.availability_failures import PartFailure, draw_failures
from tokenworks.ledger.availability_form import MachineForm, closed_form
from tokenworks.ledger.availability_sensitivity import interactions, tornado, uncertain
from tokenworks.ledger.availability_stand import Stand
from tokenworks.ledger.availability_years import PlayedYears, play_years
from tokenworks.simulation.variants import Condition
from tokenworks.specs.compose import machine
from tokenworks.specs.parts import parts_of
from tokenworks.specs.reliability import Reliability, load_reliability

YEAR = law.YEAR_S


def by_ranks(_role: int, condition: Condition) -> float:
    """A capacity that needs no simulation: ranks that are left, times the bandwidth that is left."""
    return (condition.live or 40) / 40 * condition.up_share * condition.out_share


def lost(of: Stand, history: PlayedYears) -> tuple[float, float]:
    """Share of the time without service, and share of the capacity that is lost."""
    none, less = 0.0, 0.0
    for (state, _), seconds in history.states.items():
        shares = {at: 0.0 if one is None else by_ranks(0, one) for at, one in state}
        capacity = of.capacity(shares)
        none += seconds * (capacity == 0)
        less += seconds * (1 - capacity)
    return none / history.seconds, less / history.seconds


def played(of: Stand, by: Reliability, seed: int, years: float = 1.0) -> PlayedYears:
    failures = draw_failures(of.machine, of.parts, by, years=years, seed=seed)
    return play_years(of, failures, by.must_serve(), years * YEAR)


def one_failure(of: Stand, kind: str, *, permanent: bool, hours: float = 12.0) -> PlayedYears:
    """A history with one failure at the start of the second day."""
    part = next(part for part in of.parts if part.kind == kind)
    down = hours * 3600 if permanent else 120.0
    return play_years(of, [PartFailure(86400.0, part, permanent, down, 0.0)], rates().must_serve(), YEAR)


# ── one failure, by hand ──────────────────────────────────────────────────────────────────────────────────────────


def times(history: PlayedYears) -> dict[Any, float]:
    """Time of each condition of the first instance [s]."""
    total: defaultdict[Any, float] = defaultdict(float)
    for (state, _), seconds in history.states.items():
        total[dict(state)[0]] += seconds
    return total


@pytest.mark.parametrize(
    ("spares", "permanent", "seconds"),
    [(0, False, 30 + 120 + 150), (0, True, 30 + 12 * 3600 + 150), (1, True, 30 + 150), (1, False, 30 + 150)],
)
def test_an_instance_without_elastic_ep_stands(spares: int, permanent: bool, seconds: float) -> None:
    """Detection 30 s, start 20 + 30 + 100 s. Between them: the reset, the repair, or nothing with a spare."""
    of = stand(instances=(40 - spares,), spares=spares)
    assert times(one_failure(of, "device", permanent=permanent)) == {None: pytest.approx(seconds)}


def test_an_elastic_instance_goes_on_with_39_of_40_ranks() -> None:
    history = one_failure(stand(least=37), "device", permanent=True)
    assert times(history) == {None: pytest.approx(60 + 60), Condition(39): pytest.approx(12 * 3600 + 150)}


def test_an_elastic_instance_stands_if_a_host_takes_too_many_ranks() -> None:
    history = one_failure(stand(least=37), "host", permanent=True)
    assert times(history) == {None: pytest.approx(60 + 12 * 3600 + 150 + 60)}


def test_a_switch_plane_of_four_takes_a_quarter_after_a_restart() -> None:
    history = one_failure(stand(), "switch", permanent=True)
    assert times(history) == {
        None: pytest.approx(30 + 150), Condition(None, 0.75): pytest.approx(12 * 3600 - 150),
    }  # fmt: skip


def test_the_only_switch_between_domains_stops_an_instance_over_domains_and_no_other() -> None:
    over = one_failure(stand("5xhgx-h100"), "switch", permanent=True)
    assert times(over) == {None: pytest.approx(30 + 12 * 3600 + 150)}
    assert one_failure(stand("5xhgx-h100", (8,) * 5), "switch", permanent=True).states == {}


def test_a_host_stops_one_of_five_instances() -> None:
    of = stand("5xhgx-h100", (8,) * 5)
    none, less = lost(of, one_failure(of, "host", permanent=True))
    assert none == 0
    assert less * YEAR == pytest.approx((30 + 12 * 3600 + 150) / 5)


# ── histories ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_equal_seeds_give_equal_histories() -> None:
    of = stand()
    assert played(of, rates(), 3) == played(of, rates(), 3)
    assert played(of, rates(), 3) != played(of, rates(), 4)


def test_no_failures_lose_nothing() -> None:
    history = played(stand(), scaled(0.0), 0)
    assert (history.states, history.broken_s, history.device_s) == ({}, 0.0, 0.0)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000), least=st.sampled_from([None, 30]), spares=st.integers(0, 3),
    on=st.sampled_from(["scalex40", "5xhgx-h100"]), factor=st.floats(0.1, 3),
)  # fmt: skip
def test_twice_the_hazard_is_never_less_downtime(
    seed: int, least: int | None, spares: int, on: str, factor: float
) -> None:
    of = stand(on, (40 - spares,), least=least, spares=spares)
    once, twice = (played(of, scaled(scale), seed, 0.3) for scale in (factor, 2 * factor))
    assert twice.broken_s >= once.broken_s
    assert twice.device_s >= once.device_s
    assert lost(of, twice)[0] >= lost(of, once)[0] - 1e-12
    assert all(twice.failures[kind] >= count for kind, count in once.failures.items())


def test_failures_of_a_lower_rate_are_among_those_of_a_higher_one() -> None:
    of = stand()
    once, twice = (
        {(one.at_s, one.part.name, one.permanent) for one in draw_failures(of.machine, of.parts, by, years=1, seed=5)}
        for by in (scaled(1), scaled(2))
    )
    assert once < twice


def test_a_few_bad_hosts_have_half_of_all_failures_and_the_mean_stays() -> None:
    of = stand()
    bad, plain = (
        np.array([len(draw_failures(of.machine, of.parts, by, years=0.5, seed=seed)) for seed in range(60)])
        for by in (rates(bad_hosts=0.1, bad_share=0.5), rates())
    )
    assert bad.mean() == pytest.approx(plain.mean(), rel=0.15)
    assert bad.std() > 2 * plain.std()


# ── histories against the closed form ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("on", "sizes", "least", "spares"),
    [("scalex40", (40,), None, 0), ("scalex40", (40,), 30, 0), ("scalex40", (38,), None, 2),
     ("5xhgx-h100", (40,), None, 0), ("5xhgx-h100", (8,) * 5, None, 0)],
)  # fmt: skip
def test_histories_agree_with_the_closed_form(on: str, sizes: tuple[int, ...], least: int | None, spares: int) -> None:
    of, by = stand(on, sizes, least=least, spares=spares), scaled(0.1)
    several = [lost(of, played(of, by, seed, 5.0)) for seed in range(40)]
    for at, outage in enumerate((True, False)):
        form = closed_form(of, by, load_s=0.0, share=by_ranks, outage=outage)
        mean = np.mean([one[at] for one in several])
        error = np.std([one[at] for one in several]) / math.sqrt(len(several))
        assert abs(mean - float(form.unavailability())) < 4 * error + 0.03 * mean + 1e-5


def test_the_machine_agrees_with_the_product_of_its_parts() -> None:
    of, by = stand(), scaled(0.1)
    form = MachineForm(of.machine, of.parts, by)
    several = [played(of, by, seed, 5.0) for seed in range(40)]
    whole = [1 - one.broken_s / one.seconds for one in several]
    assert np.mean(whole) == pytest.approx(float(form.whole()), abs=4 * float(np.std(whole)) / math.sqrt(40))
    devices = [1 - one.device_s / one.seconds / 40 for one in several]
    assert np.mean(devices) == pytest.approx(form.devices(), abs=4 * float(np.std(devices)) / math.sqrt(40))


def test_one_part_by_hand() -> None:
    """Two devices, MTBF 10,000 h, half of the failures 12 h + 30 s, half 2.5 min: A = 1 / (1 + l MTTR) each."""
    of = stand("hgx-h100:2", (2,))
    by = rates(parts={"device": RATES["parts"]["device"]})
    mean = 0.5 * (12 * 3600 + 30) + 0.5 * 150
    one = 1 / (1 + 1e-4 / 3600 * mean)
    assert float(MachineForm(of.machine, of.parts, by).whole()) == pytest.approx(one**2)
    assert MachineForm(of.machine, of.parts, by).devices() == pytest.approx(one)


# ── sensitivity ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_tornado_is_ordered_and_a_product_has_no_interaction() -> None:
    ranges = uncertain(rates(), ["device", "host", "switch", "software"], elastic=False, serves=True)
    assert ranges == {
        "failures.device": 2, "failures.host": 2, "failures.switch": 2, "failures.software": 2, "repair": 3,
        "detect": 4,
    }  # fmt: skip
    form = closed_form(stand(), rates(), load_s=0.0, share=by_ranks)
    swings = tornado(form.unavailability, ranges)
    spans = [swing.high_s - swing.low_s for swing in swings]
    assert spans == sorted(spans, reverse=True)
    assert all(span >= 0 for span in spans)
    assert swings[0].name == "repair"


def test_sobol_of_a_product() -> None:
    """The logarithm of a product is a sum: the shares add up to one, and no pair interacts."""
    pytest.importorskip("SALib")
    ranges = {"first": 2.0, "second": 4.0}
    shares, pairs = interactions(lambda scales: 1e-3 * scales["first"] * scales["second"], ranges)
    assert sum(alone for alone, _ in shares.values()) == pytest.approx(1, abs=0.02)
    assert shares["second"][1] == pytest.approx(0.8, abs=0.02)  # ln(4)^2 / (ln(2)^2 + ln(4)^2)
    assert all(pair.share < 0.02 for pair in pairs)


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_file_serves_training_and_serving() -> None:
    """Devices and memory of serving are the device failures of training; hosts agree with Llama 3's network."""
    published = load_reliability()
    rate = {kind: float(part.failures.value or 0) for kind, part in published.parts.items()}
    assert rate["device"] + rate["hbm"] == pytest.approx(published.device_failures.value)
    network = 35 / 16384 / 1296  # switches and cables of Llama 3, an hour and device
    assert rate["host"] + rate["software"] + 8 * (rate["nic"] + network) == pytest.approx(
        published.host_failures.value, rel=0.01
    )


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (RATES | {"repair": "0 h"}, "repair: is 0"),
        ({**RATES, "parts": {"device": {**RATES["parts"]["device"], "failures": -1e-5}}}, "not negative"),
        ({**RATES, "parts": {"device": {**RATES["parts"]["device"], "repair": "0 h"}}}, "must be above zero"),
        ({**RATES, "parts": {"card": RATES["parts"]["device"]}}, "parts"),
        ({**RATES, "recovery": {**RATES["recovery"], "detect": "0 s"}}, "in no time"),
        ({key: value for key, value in RATES.items() if key != "parts"}, "parts: is missing"),
        ({key: value for key, value in RATES.items() if key != "recovery"}, "recovery: is missing"),
        (RATES | {"bad_hosts": 0.5, "bad_share": 0.1}, "bad_share is at least bad_hosts"),
        (RATES | {"bad_hosts": 1.5, "bad_share": 1}, "a share is at least 0 and at most 1"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_said_in_words(file: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as error:
        tokenworks.availability("scalex40", reliability=file, seeds=1)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"years": 0}, "0 years"), ({"years": math.nan}, "nan years"), ({"seeds": 0}, "0 seeds"),
        ({"promise": 100}, "100 %"), ({"promise": 0}, "0 %"), ({"reliability": "none"}, "unknown failure rates"),
        ({"system": "scalex41"}, "scalex41"), ({"system": "tpu-v5e-pod"}, "counts no parts of a torus"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_said_in_words(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as error:
        tokenworks.availability(**({"system": "scalex40"} | arguments))
    assert words in str(error.value)


def test_a_machine_without_published_speed_has_an_availability() -> None:
    result = tokenworks.availability("kunlun-64", seeds=2)
    assert result.deployment is None
    assert {"scale_up.switches", "cables"} <= {item.path for item in result.assumed}
    assert len(parts_of(result.machine)) == sum(result.counts.values())


def test_rates_of_other_machines_are_said() -> None:
    """Hygon and NVL72 publish no rates; eight H100 in a host are close to what was measured."""
    for system, words in (("scalex40", "this vendor"), ("gb200-nvl72", "this machine"), ("5xhgx-h100", "")):
        assumed = {item.path: item.why for item in load_reliability().assumed_for(machine(system), ["device", "host"])}
        assert "reliability.repair" in assumed
        if words:
            assert f"no failure rate of {words} is published" in assumed["reliability.parts.device.failures"]
        else:
            assert "reliability.parts.device.failures" not in assumed


def test_an_interruption_keeps_the_finished_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def stopped(*arguments: Any, **fields: Any) -> list[PartFailure]:
        calls.append(fields["seed"])
        if len(calls) > 3:
            raise KeyboardInterrupt
        return draw_failures(*arguments, **fields)

    monkeypatch.setattr("tokenworks.ledger.availability.draw_failures", stopped)
    result = tokenworks.availability("scalex40", seeds=50)
    assert (result.partial, result.seeds, calls) == (True, 3, [0, 1, 2, 3])
