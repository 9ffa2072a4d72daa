"""`tokenworks.compare`: the best simulated plan of each machine on the same work, at equal amounts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenworks.ledger.compare_asked import AskedServing, shares_of
from tokenworks.ledger.compare_axes import Axis, repeated, reuse_effects
from tokenworks.ledger.compare_machines import Equal, unit_of
from tokenworks.ledger.compare_rank import ranked, ratios_of
from tokenworks.ledger.comparison import Compared, Comparison
from tokenworks.ledger.curves import Curve, changes, crossings
from tokenworks.ledger.priced import paying, price_crossovers
from tokenworks.ledger.reasons import reasons
from tokenworks.ledger.study import Study
from tokenworks.ledger.terms import Pay
from tokenworks.ledger.workers import Say
from tokenworks.planning.setting import EngineChoice
from tokenworks.planning.tiered import AUTO
from tokenworks.processes import cores
from tokenworks.specs.calibration import DEFAULT, CalibrationLike, load_calibration
from tokenworks.specs.given import Assume, given
from tokenworks.specs.load import WorkloadLike
from tokenworks.specs.price import Currency, Prices, Region
from tokenworks.specs.reliability import PUBLISHED, ReliabilityLike, load_reliability
from tokenworks.specs.slo import SloLike


def compare(
    models: str | Sequence[str] | Mapping[str, float],
    on: Sequence[str],
    *,
    workload: WorkloadLike | None = None,
    isl: float | None = None,
    osl: float | None = None,
    slo: SloLike | None = None,
    engine: EngineChoice = "auto",
    equal: Equal = "devices",
    assume: Assume = None,
    assume_of: Mapping[str, Assume] | None = None,
    calibration: CalibrationLike = DEFAULT,
    budget: str | None = None,
    tiers: str = AUTO,
    reliability: ReliabilityLike = PUBLISHED,
    prices: str | Path | Mapping[str, Any] | Prices | None = None,
    pay: Pay = "buy",
    utilisation: float | Sequence[float] = 0.5,
    currency: Currency = "USD",
    region: Region = "cn",
    room: str | Path | Mapping[str, Any] | None = None,
    api: str | None = None,
    crossover: Sequence[Axis] = (),
    workers: int | None = None,
    progress: Say | None = None,
) -> Comparison:
    """Plan the same work on several machines, and rank them by effective tokens per second at equal amounts.

    Parameters
    ----------
    models : a model, or models with their shares of the effective tokens; without shares all are equal
    on : machines, as `plan` takes them
    workload, isl, osl, slo, engine, calibration, budget, tiers : as `plan` takes them
    equal : what the machines have equal amounts of: devices, power of the devices under load, racks, or cost an hour
    assume : numbers for all machines, as `plan` takes them
    assume_of : numbers of one machine, by its name in `on`
    reliability : failure rates and times: name of the catalog, YAML file, dict or `Reliability`
    prices : a price list in place of prices of the catalog, or litellm's list of API prices
    pay : "buy" the machines, or "rent" their devices
    utilisation : share of the time in which the machines serve; break-even prices are computed for each of several [-]
    currency, region : currency of all costs, and region of the price of electricity
    room : where the machines stand, as `site.Room` reads it
    api : model of the price list whose API price is a rival; None: the compared model
    crossover : axes on which the comparison is repeated: context, reuse
    workers : processes; None: one for each processor. The number changes no result [count]
    progress : told in words what happens

    Raises
    ------
    SpecError : bad input; a machine that cannot do the work is part of the result instead
    """
    began = time.perf_counter()
    shares = shares_of(models)
    asked = AskedServing(
        on=tuple(on), assume=given(assume),
        assume_of={name: given(numbers) for name, numbers in (assume_of or {}).items()}, equal=equal,
        paying=paying(
            prices=prices, pay=pay, utilisation=utilisation, currency=currency, region=region, room=room, api=api
        ),
        reliability=load_reliability(reliability), workers=cores() if workers is None else workers, shares=shares,
        arguments={
            "workload": workload, "isl": isl, "osl": osl, "rate": None, "concurrency": None, "slo": slo,
            "engine": engine, "calibration": calibration,
        },
        budget=budget, tiers=tiers,
    )  # fmt: skip
    asked.check()
    systems, unknown = ranked(asked, progress)
    curves = {one.system: _curve(one) for one in systems if one.effective_tok_s_per_unit is not None}
    crossed = list(crossings(curves)) if len(shares) == 1 else []
    for axis in dict.fromkeys(crossover):
        rows = repeated(asked, axis, systems, progress)
        crossed += changes(axis, {value: _winner(ranked) for value, ranked in rows.items()})
        systems = reuse_effects(asked, systems, rows) if axis == "reuse" else systems
    crossed += price_crossovers({one.system: one.costs for one in systems})
    ratios = tuple(ratios_of(systems, load_calibration(calibration, assume=asked.assume).correlation))
    return Comparison(
        models=shares, equal=equal, rates=asked.reliability, tiers=tiers, systems=systems, ratios=ratios,
        why=reasons(systems, ratios, unit_of(equal, asked.paying.terms), shares), crossovers=tuple(crossed),
        terms=asked.paying.terms, asked=asked.inputs(),
        notes=(*_notes(systems, equal), *unknown), elapsed_s=time.perf_counter() - began,
    )  # fmt: skip


def _curve(one: Compared) -> Curve:
    plan = one.answers[0].plan
    assert plan is not None
    assert one.devices is not None
    assert one.amount is not None
    return Curve.of(plan.pareto, one.devices / one.amount)


def _winner(systems: Sequence[Compared]) -> str | None:
    return systems[0].system if systems[0].effective_tok_s_per_unit is not None else None


def _notes(systems: Sequence[Compared], equal: Equal) -> Iterator[str]:
    """What a reader must know beside the numbers."""
    open_ = [one.system for one in systems for answer in one.answers if answer.plan and not _settled(answer)]
    if open_:
        names = ", ".join(dict.fromkeys(open_))
        yield f"Not settled: {names}. The budget ended before every deployment was simulated that could be better."
    if equal == "power":
        yield "Power is that of the devices under load, without hosts and network."
    notes = (note for one in systems for answer in one.answers if answer.plan for note in answer.plan.remarks)
    yield from dict.fromkeys(notes)


def _settled(answer: Study) -> bool:
    return bool(answer.plan and answer.plan.decision and answer.plan.decision.settled)
