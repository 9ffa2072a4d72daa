"""Check of sizes: the same model on fewer cards, and on several boxes over the network."""

from __future__ import annotations

from collections.abc import Iterable

from tokenworks.ledger.claims.article import number_of
from tokenworks.ledger.claims.asks import Answers, ClaimAsk, PlanAsk, unsettled
from tokenworks.ledger.claims.basis import Basis, system_of
from tokenworks.ledger.claims.check import Check, Gauge
from tokenworks.ledger.claims.finding import ClaimTable, Finding, TableCell
from tokenworks.ledger.claims.sizes import UNCERTAIN, size_ratio
from tokenworks.ledger.study import Study
from tokenworks.planning.intervals import RatioInterval

BOXES = (2,)
"""Boxes of C10 over the network [count]."""

SMALLER = 32
"""Cards of the smaller machine [count]."""


def _plans(basis: Basis, *, simulate: bool = True) -> dict[str, PlanAsk]:
    """Words for a size -> its plan. The first one is the box itself."""
    on, model, system = basis.mix.machine, basis.mix.main, system_of(basis.mix.machine)
    cards = basis.parts(on).devices
    plans = {f"{cards} cards": basis.plan(model, on, simulate=simulate)}
    if cards > SMALLER:
        plans[f"{SMALLER} cards"] = basis.plan(model, on, devices=SMALLER, simulate=simulate)
    plans |= {
        f"{boxes} boxes of {cards} cards": basis.plan(model, f"{boxes}x{system}", simulate=simulate) for boxes in BOXES
    }
    return plans


def _asks(basis: Basis) -> Iterable[ClaimAsk]:
    return _plans(basis).values()


def _per_card(study: Study) -> float | None:
    return None if study.row is None else study.row.effective_tok_s_per_device


def _sizes(basis: Basis, answers: Answers) -> Finding:
    number, plans = number_of("C10"), _plans(basis)
    studies: dict[str, Study] = {name: answers[ask] for name, ask in plans.items()}
    first, base = next(iter(studies.items()))
    if base.row is None:
        return Finding("cannot be known", (f"{basis.mix.main} does not run on {first}: {base.error}.",))
    rows: list[tuple[TableCell, ...]] = [(first, _per_card(base), 1.0, None, None, str(base.row.deployment))]
    ratios: dict[str, RatioInterval] = {}
    failed: list[str] = []
    for name, study in list(studies.items())[1:]:
        if study.row is None:
            failed.append(name)
            rows.append((name, None, None, None, None, study.error))
            continue
        ratios[name] = size_ratio(study.row, base.row)
        one = ratios[name]
        rows.append((name, _per_card(study), one.value, one.low, one.high, str(study.row.deployment)))
    if not ratios:
        return Finding("does not hold", tuple(f"{name}: {studies[name].error}." for name in failed))
    low, high = min(one.low for one in ratios.values()), max(one.high for one in ratios.values())
    least = min(ratios, key=lambda name: ratios[name].value)
    kept = ", ".join(f"{name} serve {one.value:.0%} ({one.low:.0%} to {one.high:.0%})" for name, one in ratios.items())
    columns = ("size", "effective tok/s a card", f"/ {first}", "low", "high", "deployment")
    return Finding(
        "holds if" if failed else number.verdict(low, high),
        (f"Of the effective tokens a card of one box, {kept}.",),
        ratios[least].value,
        low,
        high,
        conditions=tuple(f"It does not hold for {name}: {studies[name].error}" for name in failed)
        + tuple(_sentence(name, one, number.value) for name, one in ratios.items()),
        tables=(ClaimTable(f"{basis.mix.main}, {basis.mix.workload}", columns, tuple(rows)),),
        notes=(
            "Growth by copies of the deployment keeps everything by itself. Clusters of hundreds of boxes are not "
            "planned here: beyond two boxes, copies stand side by side.",
            UNCERTAIN,
            *unsettled(plans.values(), answers),
        ),
        command=plans[least].command,
    )


def _sentence(name: str, one: RatioInterval, least: float) -> str:
    """Whether a size keeps enough, in words."""
    if one.low >= least:
        return f"It holds for {name}."
    if one.high < least:
        return f"It does not hold for {name}."
    return f"For {name}, {least:.0%} lie inside the interval: this size is not told apart from the box."


def _paths(basis: Basis) -> Iterable[str]:
    return (f"{system_of(basis.mix.machine)}.device.scale_up.bandwidth",)


def _deciding(basis: Basis) -> tuple[PlanAsk, PlanAsk]:
    """The box, and the smaller machine, in closed form: the plans of several boxes take long."""
    plans = list(_plans(basis, simulate=False).values())
    return plans[0], plans[1]


def _ratio(basis: Basis, answers: Answers, _finding: Finding) -> float | None:
    box, smaller = (_per_card(answers[ask]) for ask in _deciding(basis))
    return None if box is None or smaller is None else smaller / box


CHECKS: dict[str, Check] = {
    "C10": Check(_sizes, _asks, _paths, gauge=Gauge(lambda basis, _finding: _deciding(basis), _ratio)),
}
"""Number of a claim -> its check."""
