"""Checks of serving: what communication takes, cost against load, effective tokens, utilisation, couplings."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tokenworks.ledger.claims import asks as plans
from tokenworks.ledger.claims.article import ABOUT
from tokenworks.ledger.claims.asks import Answers, ClaimAsk, PlanAsk
from tokenworks.ledger.claims.basis import Basis, system_of
from tokenworks.ledger.claims.check import Check, Gauge
from tokenworks.ledger.claims.finding import ClaimTable, ClaimVerdict, Finding, TableCell
from tokenworks.ledger.claims.memory import SERVER, short
from tokenworks.ledger.claims.runs import Couplings, CouplingsAsk, LoadPoint, Loads, LoadsAsk, unsettled
from tokenworks.ledger.claims.sizes import ENGINE
from tokenworks.ledger.claims.steps import TALK, StepAsk, StepParts
from tokenworks.ledger.cost import Served, UnitCost, cost
from tokenworks.ledger.priced import hardware, served_by
from tokenworks.ledger.study import Study, charged
from tokenworks.ledger.terms import terms_of
from tokenworks.simulation.capacity import TOLERANCE
from tokenworks.specs.given import Given
from tokenworks.specs.hf import load_model
from tokenworks.specs.price import Money
from tokenworks.specs.workload import Diurnal

BATCHES, CHUNK = (16, 64), 2_048
"""Decoding sequences and prefill tokens of a device in the steps of the check of communication [count]."""

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25)
"""Loads of the checks of cost and utilisation / highest load within the SLO [-]."""

LOW = 0.5
"""A utilisation below this share counts as low: our choice, the article names none [-]."""


PEAK = Diurnal(kind="diurnal").peak
"""Highest load of a day / its mean [-]."""


# ── C28: does communication bind MoE models on 8-card servers? ────────────────────────────────────────────────────


def _steps(basis: Basis, on: str, batches: Sequence[int] = BATCHES) -> Iterator[StepAsk]:
    """Steps of one instance on all cards of a machine, with experts on every card, for each MoE model."""
    devices = basis.parts(on).devices
    for model in basis.mix.models:
        experts = max((block.experts.count for block in load_model(model).blocks if block.experts), default=0)
        if not experts:
            continue
        redundant = f"redundant_experts={-experts % devices}"
        deploys: tuple[str, ...] = (f"dp={devices},ep={devices},{redundant}",)
        if devices <= SERVER:
            deploys += (f"tp={devices},ep={devices},{redundant}",)
        for batch in batches:
            yield StepAsk(
                model, on, basis.mix.workload, deploys, devices, batch, CHUNK, (*basis.numbers(on), *basis.shared),
                basis.calibration,
            )  # fmt: skip


def _step_asks(basis: Basis, _finding: Finding | None = None) -> Iterator[StepAsk]:
    for on in (*basis.mix.servers, *basis.mix.baselines, basis.mix.machine):
        yield from _steps(basis, on)


def _step_paths(basis: Basis) -> Iterator[str]:
    for system in dict.fromkeys(map(system_of, (*basis.mix.servers, *basis.mix.baselines))):
        yield from (f"{system}.{path}" for path in ("device.scale_up.bandwidth", "device.nic", "network.overhead"))
    yield "calibration.skew"


def _exchange(basis: Basis, answers: Answers, machines: Iterable[str]) -> list[tuple[StepAsk, StepParts]]:
    """All steps on some machines, the one with the largest share of communication first."""
    cells = [(ask, step) for on in machines for ask in _steps(basis, on) for step in answers[ask].steps]
    return sorted(cells, key=lambda cell: (-cell[1].exchange, cell[0].system, cell[0].model, cell[0].batch))


def _communication(basis: Basis, answers: Answers) -> Finding:
    alone = _exchange(basis, answers, basis.mix.servers)
    over = _exchange(basis, answers, basis.mix.baselines)
    own = _exchange(basis, answers, [basis.mix.machine])
    ours = [*alone, *over]
    if not ours:
        return Finding("cannot be known", ("No mixture-of-experts model of the mix fits an 8-card server.",))
    first = [(ask, step) for ask, step in ours if step.largest == TALK]
    verdict: ClaimVerdict = "holds" if len(first) == len(ours) else "holds if" if first else "does not hold"
    (ask, most), least = max(ours, key=lambda cell: cell[1].exchange), min(step.exchange for _, step in ours)
    names = dict.fromkeys(f"{short(one.model)} on {one.system}" for one, _ in first)
    return Finding(
        verdict,
        tuple(
            f"Communication takes {cells[-1][1].exchange:.1%} to {cells[0][1].exchange:.1%} of a step {words}."
            for cells, words in (
                (alone, "inside one 8-card server"), (over, "where experts are spread over several servers"),
                (own, f"on {basis.mix.machine}"),
            ) if cells
        ),
        most.exchange, least, most.exchange, "",
        conditions=(
            f"Communication is the largest part of the step in {len(first)} of {len(ours)} cases: {', '.join(names)}.",
        ) if verdict == "holds if" else (),
        tables=(_step_table(basis, answers),),
        notes=(
            "A bottleneck is the largest part of a step. Closed form, one instance over all cards of the machine.",
            "A planner may keep experts inside each server instead. Then communication is as inside one server, and "
            "each card holds more experts.",
        ),
        command=ask.command,
    )  # fmt: skip


def _step_table(basis: Basis, answers: Answers) -> ClaimTable:
    rows: list[tuple[TableCell, ...]] = []
    for ask in _step_asks(basis):
        found, name = answers[ask], (ask.system, short(ask.model))
        if found.error:
            rows.append((*name, None, ask.batch, None, None, None, found.error))
        rows += [
            (*name, step.kind, step.amount, step.seconds * 1e3, step.exchange, step.largest, "")
            for step in found.steps if step.kind == "decode" or ask.batch == BATCHES[0]
        ]  # fmt: skip
    columns = ("machine", "model", "step", "sequences or tokens a card", "time [ms]", "communication",
               "largest part", "why not")  # fmt: skip
    return ClaimTable("Share of a step that communication takes", columns, tuple(rows))


def _step_gauge(basis: Basis, answers: Answers, _finding: Finding) -> float | None:
    cells = _exchange(basis, answers, (*basis.mix.servers, *basis.mix.baselines))
    return cells[0][1].exchange if cells else None


# ── loads: C30, C31, C34 ──────────────────────────────────────────────────────────────────────────────────────────


def ordinary(basis: Basis) -> str:
    """The ordinary cluster: the last baseline of the mix."""
    return basis.mix.baselines[-1]


def _loads(basis: Basis, on: str) -> LoadsAsk:
    return LoadsAsk(basis.plan(basis.mix.main, on), SHARES)


def _cost_asks(basis: Basis) -> Iterator[ClaimAsk]:
    yield _loads(basis, ordinary(basis))


def _cost_paths(basis: Basis) -> Iterable[str]:
    device = basis.parts(ordinary(basis)).device.name
    names = ("electricity.cn", "finance.rate", "finance.years", f"cards.{device}")
    return tuple(f"prices.{name}" for name in names)


def _unit_cost(basis: Basis, on: str, served: Served) -> UnitCost:
    """Cost of a machine that serves all the time, bought with the prices of the basis."""
    return cost(hardware(on, basis.numbers(on)), served, basis.prices, terms_of(basis.prices, utilisation=1.0))


def _at(basis: Basis, on: str, loads: Loads, point: LoadPoint) -> Money | None:
    """Cost of a million effective tokens at one load."""
    watts = None if point.watts is None else point.watts * loads.charged
    tokens = min(point.effective_tok_s, point.output_tok_s)
    return _unit_cost(basis, on, Served(tokens, point.output_tok_s, power_w=watts)).per_million_effective


def _cost(basis: Basis, answers: Answers) -> Finding:
    on = ordinary(basis)
    loads: Loads = answers[_loads(basis, on)]
    costs = {point.share: _at(basis, on, loads, point) for point in loads.points}
    full = costs.get(1.0)
    if full is None:
        return Finding("cannot be known", (f"{on} has no price, or does not serve {basis.mix.main}.",))
    below = {
        share: [(money.low * share / full.low - 1) * 100, (money.mid * share / full.mid - 1) * 100,
                (money.high * share / full.high - 1) * 100]
        for share, money in costs.items() if money is not None and share < 1
    }  # fmt: skip
    worst = max(below, key=lambda share: abs(below[share][1]))
    over = [point for point in loads.points if point.share > 1]
    kept = abs(below[worst][1]) <= ABOUT * 100
    verdict: ClaimVerdict = "holds if" if kept else "does not hold"
    return Finding(
        verdict,
        (
            f"Below the highest load, the cost of an effective token differs from 1 / u by at most "
            f"{abs(below[worst][1]):.2g} %, at {worst:.0%} of the load: only power falls with the load.",
            *(f"At {point.share:g} x the highest load, {point.effective_tok_s / point.output_tok_s:.2%} of the tokens "
              "meet the SLO." for point in over[-1:]),
        ),
        below[worst][1], min(below[worst]), max(below[worst]), "%",
        conditions=("It holds up to the highest load that keeps the SLO. Beyond it, the cost of an effective token "
                    "rises with the load.",) if kept else (),
        tables=(_load_table(basis, on, loads, costs),),
        notes=(
            f"The value is the difference from 1 / u: cost at {worst:.0%} of the load x {worst:g} / cost at full load, "
            "less 1.",
            f"{short(basis.mix.main)} on {on}, bought at the prices of the list. u is load / highest load in the SLO.",
            *unsettled(loads),
        ),
    )  # fmt: skip


def _load_table(basis: Basis, on: str, loads: Loads, costs: dict[float, Money | None]) -> ClaimTable:
    columns = ("load / highest load", "output tokens/s", "effective tokens/s", "USD for a million effective tokens",
               "USD for a million output tokens", "power of a card [W]", "TPOT [ms]")  # fmt: skip
    rows = []
    for point in loads.points:
        money = costs[point.share]
        output = None if money is None else money.mid * min(point.effective_tok_s / point.output_tok_s, 1.0)
        rows.append((
            point.share, point.output_tok_s, point.effective_tok_s, None if money is None else money.mid, output,
            point.watts, point.tpot_s * 1e3,
        ))  # fmt: skip
    return ClaimTable(f"{short(basis.mix.main)} on {on}: {loads.deployment}; {loads.slo}", columns, tuple(rows))


# ── C31: is the cost of an effective token what counts? ───────────────────────────────────────────────────────────


def _metric_asks(basis: Basis) -> Iterator[ClaimAsk]:
    yield _loads(basis, ordinary(basis))
    yield from _machine_plans(basis)


def _machine_plans(basis: Basis) -> tuple[PlanAsk, ...]:
    return tuple(basis.plan(basis.mix.main, on) for on in (basis.mix.machine, *basis.mix.baselines))


def _metric(basis: Basis, answers: Answers) -> Finding:
    on = ordinary(basis)
    loads: Loads = answers[_loads(basis, on)]
    costs = {point.share: _at(basis, on, loads, point) for point in loads.points}
    known = {point.share: point for point in loads.points}
    if not loads.points:
        return Finding("cannot be known", (f"{on} does not serve {basis.mix.main} within the SLO.",))
    most, full = known[max(known)], known[1.0]
    share = most.effective_tok_s / most.output_tok_s
    output = full.output_tok_s / most.output_tok_s
    dearer = f"{full.effective_tok_s / most.effective_tok_s:,.1f} x as much" if most.effective_tok_s else "without end"
    verdict: ClaimVerdict = "holds" if share < 1 - ABOUT else "does not hold"
    return Finding(
        verdict,
        (
            f"At {most.share:g} x the highest load within the SLO, {on} makes {1 / output:.3g} x as many output "
            f"tokens, but only {share:.2%} of them are effective.",
            f"So an output token costs {output:.3g} x as much as at the highest load within the SLO, and an effective "
            f"token {dearer}.",
        ),
        share, share, 1.0, "",
        tables=(_load_table(basis, on, loads, costs), _price_table(basis, answers)),
        notes=("The value is the share of the output tokens that are effective above the highest load within the SLO.",
               "That a buyer should count effective tokens is an opinion. That the other metric misleads can be "
               "computed.", *unsettled(loads), *plans.unsettled(_machine_plans(basis), answers)),
    )  # fmt: skip


def _price_table(basis: Basis, answers: Answers) -> ClaimTable:
    rows: list[tuple[TableCell, ...]] = []
    for ask in _machine_plans(basis):
        study: Study = answers[ask]
        if study.best is None or study.plan is None:
            rows.append((ask.system, None, None, None, None, study.error))
            continue
        cards, tok_s = charged(study), study.best.effective_tok_s
        unit = _unit_cost(basis, ask.system, served_by(study.best, cards, str(study.plan.slo)))
        money = unit.per_million_effective
        ends = (None,) * 3 if money is None else (money.low, money.mid, money.high)
        rows.append((ask.system, tok_s / cards, *ends, unit.needed))
    columns = ("machine", "effective tokens/s a card", "low [USD]", "USD for a million effective tokens", "high [USD]",
               "missing")  # fmt: skip
    return ClaimTable("What an effective token costs at the highest load within the SLO", columns, tuple(rows))


# ── C32: users at once against the speed of answers ───────────────────────────────────────────────────────────────


def _front(basis: Basis) -> PlanAsk:
    return basis.plan(basis.mix.main, basis.mix.machine, fronts=True)


def _trade(basis: Basis, answers: Answers) -> Finding:
    study: Study = answers[_front(basis)]
    points = study.plan.pareto if study.plan else ()
    if len(points) < 2:
        return Finding("cannot be known", (f"{basis.mix.main} on {basis.mix.machine} has no Pareto front.",))
    fast, slow = points[0], points[-1]
    speed = fast.output_tok_s_per_user / slow.output_tok_s_per_user
    tokens = slow.output_tok_s_per_device / fast.output_tok_s_per_device
    steps = (a.output_tok_s_per_device < b.output_tok_s_per_device for a, b in itertools.pairwise(points))
    verdict: ClaimVerdict = "holds" if all(steps) and tokens > 1 + TOLERANCE else "does not hold"
    return Finding(
        verdict,
        (
            f"Answers that are {speed:.3g} x as fast ({fast.output_tok_s_per_user:.3g} instead of "
            f"{slow.output_tok_s_per_user:.3g} tokens/s a user) cost a factor of {tokens:.3g} in tokens per card.",
        ),
        tokens, tokens, tokens, "",
        tables=(
            ClaimTable(
                f"Pareto front of {short(basis.mix.main)} on {basis.mix.machine}",
                ("tok/s user", "tok/s device", "TTFT at the SLO's percentile [s]", "deployment"),
                tuple((one.output_tok_s_per_user, one.output_tok_s_per_device, one.ttft_slo_s, str(one.deployment))
                      for one in points),
            ),
        ),
        notes=("The value is tokens per card at the slow end / at the fast end of the front. No point of the front is "
               "better in both.", *plans.unsettled([_front(basis)], answers)),
        command=_front(basis).command,
    )  # fmt: skip


def _trade_asks(basis: Basis) -> Iterator[ClaimAsk]:
    yield _front(basis)


def _trade_paths(basis: Basis) -> Iterable[str]:
    system = system_of(basis.mix.machine)
    names = ("device.scale_up.bandwidth", "scale_up.endpoint", "device.hbm.bandwidth", "device.peak.fp8")
    return (*(f"{system}.{name}" for name in names), "calibration.skew")


def _closed_front(basis: Basis, _finding: Finding | None = None) -> Iterator[PlanAsk]:
    yield basis.plan(basis.mix.main, basis.mix.machine, engine=ENGINE, simulate=False)


def _trade_gauge(basis: Basis, answers: Answers, _finding: Finding) -> float | None:
    study: Study = answers[next(_closed_front(basis))]
    points = study.plan.pareto if study.plan else ()
    return points[-1].output_tok_s_per_device / points[0].output_tok_s_per_device if points else None


# ── C34: are ordinary clusters badly used? ────────────────────────────────────────────────────────────────────────


def _day_asks(basis: Basis) -> Iterator[ClaimAsk]:
    return (_loads(basis, on) for on in _clusters(basis))


def _clusters(basis: Basis) -> tuple[str, str]:
    return ordinary(basis), basis.mix.machine


def _over_a_day(loads: Loads, name: str) -> float:
    """Mean of a share over a day whose load is a sine with its peak at the highest load within the SLO.

    A request takes far less than a day, so at each time a deployment does what it does under a steady load.
    """
    hours = np.linspace(0.0, 1.0, 240, endpoint=False)
    load = (1 + (PEAK - 1) * np.sin(2 * np.pi * hours)) / PEAK
    points = [point for point in loads.points if point.share <= 1]
    at, values = [0.0, *(point.share for point in points)], [0.0, *(getattr(point, name) for point in points)]
    return float(np.mean(np.interp(load, at, values)))


def _utilisation(basis: Basis, answers: Answers) -> Finding:
    rows: list[tuple[TableCell, ...]] = []
    uses: dict[str, float] = {}
    most_used: dict[str, float] = {}
    for on in _clusters(basis):
        loads: Loads = answers[_loads(basis, on)]
        full = next((point for point in loads.points if point.share == 1.0), None)
        if full is None:
            rows.append((on, *(None,) * 6))
            continue
        served = _over_a_day(loads, "output_tok_s") / full.output_tok_s
        most = max(point.output_tok_s for point in loads.points)
        compute, hbm = _over_a_day(loads, "compute"), _over_a_day(loads, "hbm")
        rows.append((on, full.output_tok_s / most, served, full.compute, full.hbm, compute, hbm))
        uses[on], most_used[on] = max(compute, hbm), max(full.compute, full.hbm)
    usual, own = _clusters(basis)
    if usual not in uses:
        return Finding("cannot be known", (f"{usual} does not serve {basis.mix.main} within the SLO.",))
    value = uses[usual]
    verdict: ClaimVerdict = "holds if" if value < LOW else "does not hold"
    columns = (
        "machine", "tokens at the highest load within the SLO / at most", "tokens of a day / at the highest load",
        "time at the compute roof, highest load", "time at the HBM roof, highest load", "compute roof, mean of a day",
        "HBM roof, mean of a day",
    )  # fmt: skip
    return Finding(
        verdict,
        (
            f"Over a day whose load is a sine with its peak at the highest load within the SLO, a card of {usual} "
            f"spends {value:.1%} of the time at its nearest roof.",
            *((f"{own} on the same day: {uses[own]:.1%}.",) if own in uses else ()),
        ),
        value, value, most_used[usual], "",
        conditions=(f"It holds if the load of a day has a peak of {PEAK:g} x its mean, and if less than "
                    f"{LOW:.0%} counts as low.",) if verdict == "holds if" else (),
        tables=(ClaimTable("Utilisation under an SLO", columns, tuple(rows)),),
        notes=("The load of the day is assumed: no load of the clusters that the claim means is published.",
               "A roof is the rate of arithmetic or of HBM that kernels reach at best.",
               *unsettled(*(answers[_loads(basis, on)] for on in _clusters(basis)))),
    )  # fmt: skip


# ── C35: do layers that fit together give efficiency? ─────────────────────────────────────────────────────────────


def _couplings(basis: Basis, *, mtp: bool = True, simulate: bool = True) -> CouplingsAsk:
    """The couplings of the best deployment; without `mtp`, of the best one where no draft token is accepted."""
    more = () if mtp else (Given(path="calibration.acceptance", value="0.001", why="without MTP"),)
    return CouplingsAsk(basis.plan(basis.mix.main, basis.mix.machine, more=more, engine=ENGINE, simulate=simulate))


def _coupling_asks(basis: Basis) -> Iterator[CouplingsAsk]:
    return (_couplings(basis, mtp=mtp) for mtp in (True, False))


def _bare(answer: Couplings) -> float | None:
    """Tokens of a deployment with everything switched off that it uses; as it is if it uses nothing."""
    whole = next((one for one in answer.changed if one.name == "all"), None)
    return whole.tok_s if whole else answer.tok_s


def _gain(answers: Answers, asks: Iterable[CouplingsAsk]) -> float | None:
    """Tokens of the best deployment / those of the best one without MTP, with its other couplings switched off."""
    best, without = (answers[ask] for ask in asks)
    bare = _bare(without)
    return best.tok_s / bare if best.tok_s and bare else None


def _coupled(basis: Basis, answers: Answers) -> Finding:
    best, without = (answers[ask] for ask in _coupling_asks(basis))
    gain = _gain(answers, _coupling_asks(basis))
    if gain is None:
        return Finding("cannot be known", (f"{basis.mix.main} has no deployment without couplings to compare with.",))
    used = [one.name for one in best.changed if one.used and one.name != "all"]
    single = [best.tok_s / without.tok_s] if without.tok_s else []
    verdict: ClaimVerdict = "holds" if gain > 1 + TOLERANCE else "does not hold"
    return Finding(
        verdict,
        (
            f"The best deployment of {short(basis.mix.main)} on {basis.mix.machine} uses "
            f"{', '.join(used) if used else 'no coupling'}: it makes {gain:.3g} x the tokens per card of the best "
            "deployment without them.",
            *(f"Planned again without MTP alone, {one:.3g} x." for one in single),
        ),
        gain, min([gain, *single]), max([gain, *single]), "",
        tables=(_coupling_table("Best deployment", best), _coupling_table("Best deployment without MTP", without)),
        notes=(
            "Couplings that can be computed: draft tokens of the model's own heads (MTP), overlap of two batches, and "
            "redundant experts that EPLB places. All three run on other machines, too.",
            "Without MTP, the deployment is planned again. In each table, all other settings stay as they are, so a "
            "deployment that is tuned for a coupling loses more without it than a new plan would.",
            *unsettled(best, without),
        ),
    )  # fmt: skip


def _coupling_table(title: str, answer: Couplings) -> ClaimTable:
    rows: list[tuple[TableCell, ...]] = [("as planned", None, answer.tok_s, None, "")]
    for one in answer.changed:
        ratio = None if not one.tok_s else answer.tok_s / one.tok_s if one.used else one.tok_s / answer.tok_s
        remark = "" if one.tok_s else "not possible" if one.tok_s is None else "misses the SLO"
        rows.append((one.name, "yes" if one.used else "no", one.tok_s, ratio, remark))
    columns = ("coupling", "used", "effective tokens/s a card with it changed", "gain of using it", "remark")
    return ClaimTable(f"{title}: {answer.deployment}", columns, tuple(rows))


def _coupling_paths(basis: Basis) -> Iterable[str]:
    return (f"{system_of(basis.mix.machine)}.device.scale_up.bandwidth", "calibration.acceptance", "calibration.skew")


def _closed_couplings(basis: Basis, _finding: Finding | None = None) -> Iterator[CouplingsAsk]:
    return (_couplings(basis, mtp=mtp, simulate=False) for mtp in (True, False))


def _coupling_gauge(basis: Basis, answers: Answers, _finding: Finding) -> float | None:
    return _gain(answers, _closed_couplings(basis))


CHECKS: dict[str, Check] = {
    "C28": Check(_communication, _step_asks, rests_on=_step_paths, gauge=Gauge(_step_asks, _step_gauge)),
    "C30": Check(_cost, _cost_asks, rests_on=_cost_paths, turns=lambda _basis: ("prices.electricity.cn",)),
    "C31": Check(_metric, _metric_asks),
    "C32": Check(_trade, _trade_asks, rests_on=_trade_paths, gauge=Gauge(_closed_front, _trade_gauge)),
    "C34": Check(_utilisation, _day_asks),
    "C35": Check(_coupled, _coupling_asks, rests_on=_coupling_paths, gauge=Gauge(_closed_couplings, _coupling_gauge)),
}
"""Number of a claim -> its check."""
