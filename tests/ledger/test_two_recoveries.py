"""Availability and fault schedules play the same failures of an instance: they must agree on how long it stands."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.test_cluster import R1, WIDE, role, site
from tokenworks.ledger.availability_failures import PartFailure
from tokenworks.ledger.availability_stand import stand_of
from tokenworks.ledger.availability_years import play_years
from tokenworks.simulation.fault_plan import planned, times_of
from tokenworks.simulation.layout import device_layout
from tokenworks.simulation.recovery import Recovering
from tokenworks.specs.deployment import Deployment, Role
from tokenworks.specs.faults import load_faults
from tokenworks.specs.reliability import load_reliability

DAY = 86400.0
RATES = load_reliability()
RECOVERY = RATES.must_serve()
DETECT, SHRINK = float(RECOVERY.detect.value or 0.0), float(RECOVERY.shrink.value or 0.0)
SITES = {name: site(R1, name) for name in ("scalex40", "5xhgx-h100", "gb200-nvl72")}
NARROW = role(sequences=36 * 64, chunk=36 * 8192, dp=36, ep=36, redundant_experts=32)


def both(on: str, one: Role, failures: list[tuple[str, int, float]], **more: Any) -> tuple[float, float]:
    """Time without tokens of the instance, by histories and by a schedule [s].

    `failures` has a kind of parts, a number, and the time of its reset or repair, which begins when the failure is
    noticed; one failure a day. `for` of a schedule begins at the fault.
    """
    where = SITES[on]
    deployment = Deployment(model=R1, system=on, roles=(one,), **more)
    stand, layout = stand_of(deployment, where), device_layout(deployment, where.machine)
    drawn, faults = [], []
    for day, (kind, number, down_s) in enumerate(failures, start=1):
        parts = [part for part in stand.parts if part.kind == kind]
        part = parts[number % len(parts)]
        drawn.append(PartFailure(day * DAY, part, down_s > 3600, down_s, 1.0))
        faults.append({"at": f"{day * DAY} s", "part": part.name, "for": f"{DETECT + down_s} s"})
    history = play_years(stand, drawn, RECOVERY, (len(failures) + 2) * DAY)
    schedule = load_faults({"faults": faults})
    plan = Recovering(deployment, where, layout, times_of(deployment, where, RATES, schedule))
    plan.play(planned(schedule, where.machine, len(layout.instances), RATES))
    none = math.fsum(seconds for (state, _), seconds in history.states.items() if dict(state).get(0, 1) is None)
    return none, math.fsum(effect.down_s for effect in plan.effects)


MORE_THAN_A_START = st.floats(60.0, 40_000.0).map(lambda seconds: round(seconds, 3))
FAILURES = st.lists(st.tuples(st.just("device"), st.integers(0, 71), MORE_THAN_A_START), min_size=1, max_size=5)
HOSTS = st.lists(st.tuples(st.sampled_from(["device", "host"]), st.integers(0, 71), MORE_THAN_A_START), min_size=1,
                 max_size=4)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["scalex40", "5xhgx-h100", "gb200-nvl72"]), HOSTS)
def test_an_instance_that_is_not_elastic(on: str, failures: list[tuple[str, int, float]]) -> None:
    """Devices and whole hosts, on three machines; the largest has devices that no instance uses."""
    history, schedule = both(on, WIDE, failures)
    assert math.isclose(history, schedule, abs_tol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), FAILURES)
def test_spares_take_over(spares: int, failures: list[tuple[str, int, float]]) -> None:
    history, schedule = both("scalex40", NARROW, failures, spares=spares)
    assert math.isclose(history, schedule, abs_tol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["scalex40", "5xhgx-h100"]), FAILURES)
def test_an_elastic_instance_that_loses_a_rank(on: str, failures: list[tuple[str, int, float]]) -> None:
    """It stands twice for the time in which expert parallelism shrinks, whatever the repair takes."""
    history, schedule = both(on, WIDE, failures, elastic_ep=True)
    assert math.isclose(history, schedule, abs_tol=1e-3)
    assert math.isclose(schedule, 2 * SHRINK * len(failures), abs_tol=1e-3)


@settings(max_examples=25, deadline=None)
@given(HOSTS)
def test_an_elastic_instance_that_loses_too_many_ranks(failures: list[tuple[str, int, float]]) -> None:
    """Histories wait for the ranks to join, schedules start the instance anew: they differ by pauses only."""
    history, schedule = both("scalex40", WIDE, failures, elastic_ep=True)
    assert abs(history - schedule) <= (2 * SHRINK + DETECT) * len(failures)
