"""Checks of the size of a scale-up domain: which sizes serve what, and at how many tokens a card."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from tokenworks.ledger.claims.article import article
from tokenworks.ledger.claims.asks import Answers, ClaimAsk, PlanAsk
from tokenworks.ledger.claims.basis import Basis, system_of
from tokenworks.ledger.claims.check import Check, Gauge
from tokenworks.ledger.claims.finding import ClaimMap, ClaimTable, ClaimVerdict, Finding, MapCell, TableCell
from tokenworks.ledger.claims.memory import SERVER, short
from tokenworks.ledger.claims.sizes import (
    ENGINE,
    UNCERTAIN,
    SmallestAsk,
    SmallestSize,
    own_size,
    size_plan,
    size_ratio,
    sizes,
)
from tokenworks.ledger.study import Study
from tokenworks.ledger.sweep_reading import knee_of
from tokenworks.planning.intervals import OUTPUT, RatioInterval
from tokenworks.planning.result import Ranked
from tokenworks.specs.edits import workload_with
from tokenworks.specs.slo import Slo

LEAST_BUDGET = "1 request"
"""Budget of a plan that only has to find out whether an SLO can be met: its first deployment decides."""

DOUBLE = 2 * SERVER
"""Cards of the second size that the article calls too small [count]."""


# ── curves over sizes ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Curve:
    """Tokens per card of one model over sizes.

    Parameters
    ----------
    model : the model
    rows : size -> best deployment; sizes without one are left out
    why : size -> why there is none
    """

    model: str
    rows: Mapping[int, Ranked]
    why: Mapping[int, str]

    def tok_s(self, size: int) -> float | None:
        """Effective tokens per second and card [token/s]."""
        return self.rows[size].effective_tok_s_per_device if size in self.rows else None

    def ratio(self, size: int, base: int) -> RatioInterval | None:
        """Tokens per card of a size / those of another one, as `ratio_interval` with `SAME_CARD`."""
        if size not in self.rows or base not in self.rows:
            return None
        if size == base:
            return RatioInterval(1.0, 1.0, 1.0)
        return size_ratio(self.rows[size], self.rows[base])


def _curves(basis: Basis, answers: Answers) -> list[_Curve]:
    curves = []
    for model in basis.mix.models:
        studies: dict[int, Study] = {size: answers[size_plan(basis, model, size)] for size in sizes(basis)}
        found = {size: study.row for size, study in studies.items() if study.row is not None}
        rows = {size: row for size in studies if (row := _repeated(found, size)) is not None}
        curves.append(_Curve(model, rows, {size: one.error for size, one in studies.items() if size not in rows}))
    return curves


def _repeated(found: Mapping[int, Ranked], size: int) -> Ranked | None:
    """The best deployment of a size: its own one, or one of a smaller size as often as the cards allow.

    A domain can run each deployment of a smaller domain several times. Its cards that are left over stay idle. A plan
    tries many deployments, but not all of them, so the plan of the smaller size may have found a better one.
    """
    rows = [_scaled(row, size // small * small / size) for small, row in found.items() if small <= size]
    return max(rows, key=lambda row: row.effective_tok_s_per_device, default=None)


def _scaled(row: Ranked, factor: float) -> Ranked:
    """A deployment with another throughput per card."""
    low, high = row.interval[OUTPUT]
    return dataclasses.replace(
        row, effective_tok_s_per_device=row.effective_tok_s_per_device * factor,
        output_tok_s_per_device=row.output_tok_s_per_device * factor,
        interval={**row.interval, OUTPUT: (low * factor, high * factor)},
    )  # fmt: skip


def _mixed(
    basis: Basis, ratios: Mapping[str, RatioInterval | None], base: Mapping[str, float | None]
) -> RatioInterval | None:
    """The ratio of two machines for the whole mix; None if one of them does not serve a model.

    Each machine divides its time so that each model has its share w of the tokens. So a machine makes 1 / sum(w / t)
    tokens, and with t' = r t of the other machine

        R = sum(w / t) / sum(w / (r t))

    The interval is that of the model whose interval is the widest.

    Parameters
    ----------
    ratios : model -> tokens of the machine / tokens of the base machine
    base : model -> tokens t of the base machine [token/s]
    """
    shares = basis.mix.shares
    known = [(shares[model], ratio, base.get(model)) for model, ratio in ratios.items()]
    served = [(share, ratio, tok_s) for share, ratio, tok_s in known if ratio is not None and tok_s]
    if len(served) < len(known):
        return None
    value = math.fsum(share / tok_s for share, _, tok_s in served)
    value /= math.fsum(share / (ratio.value * tok_s) for share, ratio, tok_s in served)
    widest = max((ratio for _, ratio, _ in served), key=lambda one: one.high / one.low)
    return RatioInterval(value * widest.low / widest.value, value, value * widest.high / widest.value)


def _apart(ratio: RatioInterval | None) -> str:
    """How a ratio compares with 1."""
    if ratio is None:
        return "does not serve"
    return "more" if ratio.low > 1 else "fewer" if ratio.high < 1 else "not told apart"


REPEATED = "A larger domain can run each deployment of a smaller one several times: its value is never below that."


# ── C36: are 40 cards the sweet spot? ─────────────────────────────────────────────────────────────────────────────


def _knee_asks(basis: Basis) -> Iterator[ClaimAsk]:
    return (size_plan(basis, model, size) for model in basis.mix.models for size in sizes(basis))


def _paths(basis: Basis) -> Iterable[str]:
    system = system_of(basis.mix.machine)
    names = ("device.scale_up.bandwidth", "scale_up.endpoint", "device.hbm.bandwidth", "device.hbm.capacity",
             "device.peak.fp8")  # fmt: skip
    return (*(f"{system}.{name}" for name in names), "calibration.skew")


def _knee(basis: Basis, answers: Answers) -> Finding:
    own, curves = own_size(basis), _curves(basis, answers)
    shares = {curve.model: curve for curve in curves}
    others = [size for size in sizes(basis) if size != own]
    base = {name: one.tok_s(own) for name, one in shares.items()}
    mixed = {size: _mixed(basis, {name: one.ratio(size, own) for name, one in shares.items()}, base) for size in others}
    states = {size: _apart(ratio) for size, ratio in mixed.items()}
    served = {size: ratio for size, ratio in mixed.items() if ratio is not None}
    if not served:
        return Finding("cannot be known", (f"No other size serves the whole mix beside {own} cards.",))
    best = max(served, key=lambda size: served[size].value)
    top = served[best]
    alike = [size for size in others if states[size] == "not told apart"]
    better = [size for size in others if states[size] == "more"]
    verdict: ClaimVerdict = "does not hold" if better else "holds if" if alike else "holds"
    return Finding(
        verdict, tuple(_knee_words(own, best, top, alike, states)), 1 / top.value, 1 / top.high, 1 / top.low, "",
        conditions=_knee_conditions(own, best, top, alike) if verdict == "holds if" else (),
        tables=(_knee_table(basis, curves), _size_table(basis, curves, mixed)),
        maps=(_knee_map(basis, curves, mixed),),
        notes=(
            f"The value is tokens per card of {own} cards / those of the best other size, for the whole mix.",
            UNCERTAIN, REPEATED,
            f"All sizes have the same card, bandwidth per card and engine ({ENGINE}), and one layer of switches.",
            "The survey behind the claim is not published: this is a computation, not a survey.",
            *_doubts(_knee_asks(basis), answers),
        ),
        command=size_plan(basis, basis.mix.main, best).command,
    )  # fmt: skip


def _knee_words(own: int, best: int, top: RatioInterval, alike: list[int], states: Mapping[int, str]) -> Iterator[str]:
    yield (
        f"For the whole mix, {best} cards make {top.value:.3g} [{top.low:.3g} to {top.high:.3g}] x as many effective "
        f"tokens per card as {own} cards."
    )
    for state, words in (("fewer", "fewer tokens per card than"), ("more", "more tokens per card than")):
        named = [str(size) for size, one in states.items() if one == state]
        if named:
            yield f"Sizes that make {words} {own} cards: {', '.join(named)}."
    if alike:
        yield f"Sizes that cannot be told apart from {own} cards: {', '.join(map(str, alike))}."


def _knee_conditions(own: int, best: int, top: RatioInterval, alike: list[int]) -> tuple[str, ...]:
    low, high = min(*alike, own), max(*alike, own)
    more = abs(top.value - 1)
    side = "more" if top.value > 1 else "less"
    return (
        f"{own} cards are one of the sizes from {low} to {high} that the prediction cannot tell apart.",
        f"The price decides between them: {best} cards pay if a card with its share of the fabric costs less than "
        f"{more:.1%} {side} than with {own} cards." if top.value > 1 else
        f"The price decides between them: {best} cards pay if a card with its share of the fabric costs at least "
        f"{more:.1%} {side} than with {own} cards.",
    )  # fmt: skip


def _doubts(asks: Iterable[ClaimAsk], answers: Answers) -> Iterator[str]:
    """How many plans were not settled when their budget ended."""
    plans = [plan for ask in asks if (plan := answers[ask].plan) is not None]
    open_ = sum(1 for plan in plans if plan.decision and not plan.decision.settled)
    if open_:
        yield f"In {open_} of {len(plans)} plans the budget ended before every candidate was simulated: not settled."


def _knee_table(basis: Basis, curves: list[_Curve]) -> ClaimTable:
    own = own_size(basis)
    rows: list[tuple[TableCell, ...]] = []
    for curve in curves:
        served = [size for size in sizes(basis) if size in curve.rows]
        if not served:
            rows.append((short(curve.model), None, None, None, None, "no size serves the model"))
            continue
        best = max(served, key=lambda size: curve.rows[size].effective_tok_s_per_device)
        like = [size for size in served if size == best or _apart(curve.ratio(size, best)) == "not told apart"]
        knee = knee_of(served, [curve.rows[size].effective_tok_s_per_device for size in served])
        ratio = curve.ratio(own, best)
        first = next((size for size in sizes(basis) if size in curve.rows), None)
        rows.append((
            short(curve.model), best, ", ".join(map(str, like)), None if knee is None else int(knee.x),
            None if ratio is None else ratio.value, f"{first} cards are the fewest that serve it",
        ))  # fmt: skip
    columns = ("model", "best size [cards]", "sizes not told apart from it", "knee [cards]",
               f"tokens per card of {own} cards / of the best size", "remark")  # fmt: skip
    return ClaimTable("Best sizes", columns, tuple(rows))


def _size_table(basis: Basis, curves: list[_Curve], mixed: Mapping[int, RatioInterval | None]) -> ClaimTable:
    """Effective tokens per second and card; and by how much a card of a size may be dearer."""
    own = own_size(basis)
    rows: list[tuple[TableCell, ...]] = []
    for size in sizes(basis):
        ratio = mixed.get(size)
        dearer = 0.0 if size == own else None if ratio is None else (ratio.value - 1) * 100
        rows.append((size, *(curve.tok_s(size) for curve in curves), dearer))
    columns = ("cards", *(f"{short(curve.model)} [token/s a card]" for curve in curves),
               f"a card may cost more than with {own} cards [%]")  # fmt: skip
    return ClaimTable("Effective tokens per second and card", columns, tuple(rows))


def _knee_map(basis: Basis, curves: list[_Curve], mixed: Mapping[int, RatioInterval | None]) -> ClaimMap:
    own, cells = own_size(basis), []
    for curve in curves:
        cells += [
            _cell(short(curve.model), size, curve.ratio(size, own), curve.why.get(size, "")) for size in sizes(basis)
        ]
    whole = {**mixed, own: RatioInterval(1.0, 1.0, 1.0)}
    cells += [_cell("the mix", size, whole[size], "a model is not served") for size in sizes(basis)]
    return ClaimMap(f"Tokens per card / those of {own} cards", "model", "cards", "", None, tuple(cells))


def _cell(row: str, size: int, ratio: RatioInterval | None, why: str) -> MapCell:
    if ratio is None:
        return MapCell(row, str(size), None, state=why or "not served")
    return MapCell(row, str(size), ratio.value, ratio.low, ratio.high, _apart(ratio) if ratio.value != 1 else "")


def _gauged(pair: Callable[[Basis], tuple[int, int]]) -> Gauge:
    """The ratio of two sizes for the main model by the closed form.

    Parameters
    ----------
    pair : the two sizes [count]
    """

    def asks(basis: Basis, _finding: Finding | None = None) -> tuple[PlanAsk, ...]:
        return tuple(size_plan(basis, basis.mix.main, size, simulate=False) for size in pair(basis))

    def value(basis: Basis, answers: Answers, _finding: Finding) -> float | None:
        one, other = (answers[ask].row for ask in asks(basis))
        if one is None or other is None:
            return None
        return float(one.effective_tok_s_per_device / other.effective_tok_s_per_device)

    return Gauge(asks, value)


def _neighbours(basis: Basis) -> tuple[int, int]:
    """The supernode, and the next larger size; without one, the next smaller size."""
    own, all_ = own_size(basis), sizes(basis)
    place = all_.index(own)
    return own, all_[place + 1] if place + 1 < len(all_) else all_[place - 1]


# ── C03: do 8 and 16 cards lag? ───────────────────────────────────────────────────────────────────────────────────


def _small(basis: Basis) -> tuple[tuple[int, int], ...]:
    """Cards of a domain and domains: one domain of 8, as many of them as the supernode has room for, one of 16."""
    own = own_size(basis)
    several = own // SERVER
    places = ((SERVER, 1), (SERVER, several), (DOUBLE, 1))
    return tuple((size, count) for size, count in places if size < own)


def _small_asks(basis: Basis) -> Iterator[ClaimAsk]:
    for model in basis.mix.models:
        for size, count in ((own_size(basis), 1), *_small(basis)):
            yield size_plan(basis, model, size, domains=count)


def _wholes(basis: Basis, answers: Answers) -> dict[str, Ranked]:
    """The best deployment of the supernode for each model that it serves; see `_repeated`.

    Several small domains count as one size: what they run over the network, one domain runs over its own links.
    """
    wholes = {}
    for model in basis.mix.models:
        found: dict[int, Ranked] = {}
        for size, count in (*_small(basis), (own_size(basis), 1)):
            row = answers[size_plan(basis, model, size, domains=count)].row
            old = found.get(size * count)
            if row is not None and (old is None or old.effective_tok_s_per_device < row.effective_tok_s_per_device):
                found[size * count] = row
        if (best := _repeated(found, own_size(basis))) is not None:
            wholes[model] = best
    return wholes


def _small_ratios(
    basis: Basis, answers: Answers, wholes: Mapping[str, Ranked]
) -> dict[tuple[int, int], dict[str, RatioInterval | None]]:
    """Tokens per card of small domains / those of the supernode, by size and count, and by model."""
    ratios: dict[tuple[int, int], dict[str, RatioInterval | None]] = {}
    for size, count in _small(basis):
        of = ratios[size, count] = {}
        for model in basis.mix.models:
            part = answers[size_plan(basis, model, size, domains=count)].row
            of[model] = None if part is None or model not in wholes else size_ratio(part, wholes[model])
    return ratios


def _lag(basis: Basis, answers: Answers) -> Finding:
    own, wholes = own_size(basis), _wholes(basis, answers)
    ratios = _small_ratios(basis, answers, wholes)
    if not ratios:
        return Finding("cannot be known", (f"A domain of {own} cards is not larger than the small ones.",))
    base = {model: row.effective_tok_s_per_device for model, row in wholes.items()}
    mixed = {place: _mixed(basis, of, base) for place, of in ratios.items()}
    behind = {place: _apart(ratio) in ("fewer", "does not serve") for place, ratio in mixed.items()}
    models = {
        place: [short(model) for model, one in of.items() if one is None or one.high < 1]
        for place, of in ratios.items()
    }  # fmt: skip
    none = not any(models.values())
    verdict: ClaimVerdict = "holds" if all(behind.values()) else "does not hold" if none else "holds if"
    eight = mixed[SERVER, 1]
    return Finding(
        verdict,
        tuple(_lag_words(own, place, ratio) for place, ratio in mixed.items()),
        eight.value if eight else None, eight.low if eight else None, eight.high if eight else None, "",
        conditions=tuple(
            f"{_placed(place)}: {'it holds' if behind[place] else 'it does not hold'} for the mix, and it holds for "
            f"{', '.join(models[place]) or 'no model alone'}."
            for place in mixed
        ) if verdict == "holds if" else (),
        tables=(_lag_table(own, ratios, mixed),),
        notes=(
            f"The value is the ratio of one domain of {SERVER} cards, for the mix. A model lags if its tokens per card "
            f"are told apart from those of {own} cards.",
            REPEATED, UNCERTAIN, *_doubts(_small_asks(basis), answers),
        ),
        command=size_plan(basis, basis.mix.main, SERVER).command,
    )  # fmt: skip


def _placed(place: tuple[int, int]) -> str:
    size, count = place
    return f"{size} cards alone" if count == 1 else f"{count} x {size} cards over the network"


def _lag_words(own: int, place: tuple[int, int], ratio: RatioInterval | None) -> str:
    if ratio is None:
        return f"{_placed(place)} do not serve the whole mix."
    return (
        f"{_placed(place)}: {ratio.value:.3g} [{ratio.low:.3g} to {ratio.high:.3g}] x the tokens per card of {own} "
        "cards for the mix."
    )


def _lag_table(
    own: int, ratios: Mapping[tuple[int, int], Mapping[str, RatioInterval | None]],
    mixed: Mapping[tuple[int, int], RatioInterval | None],
) -> ClaimTable:  # fmt: skip
    rows: list[tuple[TableCell, ...]] = []
    for place, of in ratios.items():
        for label, ratio in (*((short(model), one) for model, one in of.items()), ("the mix", mixed[place])):
            ends = (None,) * 3 if ratio is None else (ratio.value, ratio.low, ratio.high)
            rows.append((_placed(place), label, *ends, _apart(ratio)))
    columns = ("cards", "model", "ratio", "low", "high", "tokens per card")
    return ClaimTable(f"Tokens per card / those of {own} cards in one domain", columns, tuple(rows))


# ── C04: do 32 to 40 cards cover most needs? ──────────────────────────────────────────────────────────────────────


def _needs(basis: Basis) -> Iterator[SmallestAsk]:
    """One question for each model and workload: the smallest size for each bound on TPOT."""
    system = own_size(basis)
    tried = [size for size in sizes(basis) if size <= system]
    for model in basis.mix.models:
        for workload in basis.mix.workloads:
            bounds = Slo.of(workload_with(workload, basis.shared).slo)
            slos = tuple(_with_tpot(bounds, speed) for speed in basis.mix.speeds)
            yield SmallestAsk(
                model, workload,
                tuple(tuple(_least(size_plan(basis, model, size, workload=workload, slo=slo)) for size in tried)
                      for slo in slos),
            )  # fmt: skip


def _least(ask: PlanAsk) -> PlanAsk:
    return dataclasses.replace(ask, budget=LEAST_BUDGET)


def _with_tpot(bounds: Slo, speed: str) -> str:
    return str(Slo(bounds.ttft, Slo.parse(f"tpot={speed.replace(' ', '')}").tpot))


def _covered(basis: Basis, answers: Answers) -> Finding:
    number = article().claims["C04"].number
    assert number is not None
    own = own_size(basis)
    tried = [size for size in sizes(basis) if size <= own]
    found: dict[SmallestAsk, tuple[SmallestSize, ...]] = {ask: answers[ask] for ask in _needs(basis)}
    weight = 1 / (len(basis.mix.workloads) * len(basis.mix.speeds))
    shares = dict.fromkeys(tried, 0.0)
    rows: list[tuple[TableCell, ...]] = []
    for ask, answer in found.items():
        for one in answer:
            for size in tried:
                if one.size is not None and one.size <= size:
                    shares[size] += basis.mix.shares[ask.model] * weight
            rows.append((short(ask.model), ask.workload, one.slo, one.size, one.pressure, one.error))
    whole, small = shares[own], shares[tried[0]]
    middle = max((size for size in tried if size < own), default=own)
    verdict = number.verdict(shares[middle], whole)
    return Finding(
        verdict,
        (
            f"{middle} cards meet {shares[middle]:.1%} of the needs, {own} cards {whole:.1%}.",
            f"{tried[0]} cards already meet {small:.1%}: meeting an SLO asks for few cards, and what more cards change "
            "is tokens per card (C36).",
        ),
        whole, shares[middle], whole, "",
        conditions=(f"It holds with {own} cards, not with {middle}.",) if verdict == "holds if" else (),
        tables=(
            ClaimTable("Share of the needs that a size meets", ("cards", "share"), tuple(shares.items())),
            ClaimTable("Smallest size that meets each need",
                       ("model", "workload", "SLO", "cards", "time / bound there", "why not"), tuple(rows)),
        ),
        notes=(
            "A need is a model with a workload and an SLO: no list of the needs of industries is published. The mix "
            "gives models and weights, and `--mix FILE` takes your own.",
            f"Most means at least {number.value:.0%}, our threshold.",
            "A size meets a need if its first deployment keeps the SLO in a simulation. A larger size meets what a "
            "smaller one meets.",
        ),
        command="",
    )  # fmt: skip


CHECKS: dict[str, Check] = {
    "C03": Check(_lag, _small_asks, rests_on=_paths, gauge=_gauged(lambda basis: (SERVER, own_size(basis)))),
    "C04": Check(_covered, _needs),
    "C36": Check(_knee, _knee_asks, rests_on=_paths, gauge=_gauged(_neighbours)),
}
"""Number of a claim -> its check."""
