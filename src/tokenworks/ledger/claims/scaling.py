"""Check of sizes: the same model on fewer cards, and on several boxes over the network."""

from __future__ import annotations

from collections.abc import Iterable

from tokenworks.ledger.claims.article import number_of
from tokenworks.ledger.claims.asks import Answers, ClaimAsk, PlanAsk
from tokenworks.ledger.claims.basis import Basis, system_of
from tokenworks.ledger.claims.check import Check, Gauge
from tokenworks.ledger.claims.finding import ClaimTable, Finding, TableCell
from tokenworks.ledger.study import Study
from tokenworks.planning.intervals import ratio_interval

BOXES = (2, 4)
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
    rows: list[tuple[TableCell, ...]] = []
    ratios: dict[str, float | None] = {}
    for name, study in studies.items():
        value, one = _per_card(study), _per_card(base)
        ratios[name] = None if value is None or not one else value / one
        ends: tuple[float | None, float | None] = (None, None)
        if study.row and name != first:
            wide = ratio_interval(study.row, base.row, basis.loaded_calibration.correlation)
            ends = (wide.low / wide.value * (ratios[name] or 0), wide.high / wide.value * (ratios[name] or 0))
        rows.append((name, value, ratios[name], *ends, str(study.row.deployment) if study.row else study.error))
    others = {name: ratio for name, ratio in ratios.items() if name != first}
    known = [ratio for ratio in others.values() if ratio is not None]
    failed = [name for name, ratio in others.items() if ratio is None]
    if not known:
        return Finding("does not hold", tuple(f"{name}: {studies[name].error}." for name in failed))
    least = min(known)
    verdict = "holds if" if failed else number.verdict(least, max(known))
    kept = ", ".join(f"{name} keep {ratio:.0%}" for name, ratio in others.items() if ratio)
    columns = ("size", "effective tok/s a card", f"/ {first}", "low", "high", "deployment")
    return Finding(
        verdict,
        (f"Of the tokens a card of one box, {kept}.",),
        least,
        least,
        max(known),
        "",
        tuple(f"It does not hold for {name}: {studies[name].error}" for name in failed)
        + tuple(
            f"It does not hold for {name}: {ratio:.0%}."
            for name, ratio in others.items()
            if ratio is not None and not number.met_by(ratio)
        ),
        (ClaimTable(f"{basis.mix.main}, {basis.mix.workload}", columns, tuple(rows)),),
        notes=(
            "Growth by copies of the deployment keeps everything by itself. Clusters of hundreds of boxes are not "
            "planned here: beyond four boxes, copies stand side by side.",
        ),
        command=plans[min(others, key=lambda name: others[name] or 0.0)].command,
    )


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
