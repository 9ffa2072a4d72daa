"""Checks of memory: long contexts beside the weights, and KV tiers below HBM."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from tokenworks.ledger.claims.article import ABOUT
from tokenworks.ledger.claims.asks import Answers, ClaimAsk
from tokenworks.ledger.claims.basis import Basis, system_of
from tokenworks.ledger.claims.check import Check, Gauge
from tokenworks.ledger.claims.finding import ClaimTable, ClaimVerdict, Finding, TableCell, TurningPoint
from tokenworks.ledger.claims.runs import TierPoints, TiersAsk, unsettled
from tokenworks.ledger.claims.sizes import ENGINE
from tokenworks.ledger.claims.steps import CAPACITY, LeastMemoryAsk, RoomAnswer, RoomAsk
from tokenworks.specs.given import Given
from tokenworks.specs.slo import Slo

CONTEXTS = (8_192, 32_768, 131_072, 262_144)
"""Contexts of the tables [token]."""

LONG = 32_768
"""Contexts from this one on count as long; the article names none, so this is our choice [token]."""

USUAL_TPOT_S = 0.05
"""Bound on TPOT where the workload has none [s]."""

SERVER = 8
"""Cards of a server [count]."""

THINK_S = (10.0, 156.0)
"""Think times of the check of KV tiers: median and mean of the sessions that the workload was counted from [s]."""

LOADS = (1.0, 1.25)
"""Loads of the check of KV tiers / highest load within the SLO with HBM only [-]."""

AGENTS = "agent"
"""Workload of the check of KV tiers: the one whose requests share most."""


def short(model: str) -> str:
    """The name of a model without its owner."""
    return model.rsplit("/", 1)[-1]


def bound_s(basis: Basis) -> float:
    """The bound on TPOT of the workload [s]."""
    bound = Slo.of(basis.workload.slo).tpot
    return bound.value if bound else USUAL_TPOT_S


def _room(basis: Basis, model: str, on: str) -> RoomAsk:
    return RoomAsk(model, on, CONTEXTS, bound_s(basis), basis.numbers(on), basis.calibration)


# ── C14: does the memory of a card support long contexts? ─────────────────────────────────────────────────────────


def _card_machines(basis: Basis) -> tuple[str, ...]:
    """Eight cards of the supernode, as many as a server has; and all of its cards."""
    on, domain = basis.mix.machine, basis.parts(basis.mix.machine).domain
    return (f"{system_of(on)}:{SERVER}", on) if domain > SERVER else (on,)


def _card_cells(basis: Basis) -> Iterator[tuple[RoomAsk, LeastMemoryAsk]]:
    numbers = tuple(item for item in basis.numbers(basis.mix.machine) if item.path != CAPACITY)
    for on in _card_machines(basis):
        yield from ((_room(basis, model, on), LeastMemoryAsk(model, on, numbers)) for model in basis.mix.models)


def _card_asks(basis: Basis) -> Iterator[ClaimAsk]:
    return itertools.chain.from_iterable(_card_cells(basis))


def _card_path(basis: Basis) -> str:
    return f"{system_of(basis.mix.machine)}.{CAPACITY}"


def _card(basis: Basis, answers: Answers) -> Finding:
    rows = tuple(_card_row(room, answers[room], answers[least]) for room, least in _card_cells(basis))
    held = [row[3] for row in rows]
    known = [value for value in held if isinstance(value, float)]
    failing = [f"{row[1]} on {row[0]}" for row in rows if not (isinstance(row[3], float) and row[3] >= 1)]
    verdict: ClaimVerdict = "holds" if not failing else "does not hold" if len(failing) == len(rows) else "holds if"
    needs = [answers[least] for _, least in _card_cells(basis)]
    turning, most = _card_turning(basis, needs, verdict), None if None in needs else max(needs)
    because = [
        f"One rank holds {min(known):,.3g} to {max(known):,.3g} requests of the longest length that each model reads."
        if known else "No model of the mix fits."
    ]  # fmt: skip
    if most:
        because.append(
            f"{most / 1e9:,.4g} GB a card are the least with which every model has room for one such request."
        )
    return Finding(
        verdict, tuple(because), min(known, default=None), min(known, default=None), max(known, default=None),
        "requests",
        conditions=(f"It does not hold for {', '.join(failing)}.",) if verdict == "holds if" else (),
        tables=(ClaimTable("Requests of the longest length that one rank holds", CARD_COLUMNS, rows),),
        notes=("Long context means the longest request that the model reads: the article names none.",),
        turning_points=turning, command=_room(basis, basis.mix.main, basis.mix.machine).command,
    )  # fmt: skip


CARD_COLUMNS = (
    "cards", "model", "longest request [token]", "held by a rank", "KV tokens a card", "least memory of a card [GB]",
    "why not",
)  # fmt: skip


def _card_row(room: RoomAsk, found: RoomAnswer, need: float | None) -> tuple[TableCell, ...]:
    least = None if need is None else need / 1e9
    if found.error:
        return room.system, short(room.model), None, None, None, least, found.error
    tokens = found.kv_tokens / found.devices
    return room.system, short(room.model), found.longest, found.concurrency, tokens, least, ""


def _card_turning(basis: Basis, needs: Sequence[float | None], verdict: ClaimVerdict) -> tuple[TurningPoint, ...]:
    """The memory of a card below which a model has no room; none if a model has none with any memory."""
    most = max((need for need in needs if need is not None), default=None)
    if most is None or None in needs:
        return ()
    item = basis.input(_card_path(basis))
    below: ClaimVerdict = "holds if" if len(needs) > 1 else "does not hold"
    return (TurningPoint(item.path, most, item.unit, item.value, verdict if verdict != "holds" else below, "holds"),)


def _card_gauge(basis: Basis, answers: Answers, _finding: Finding) -> float | None:
    rooms = (answers[room] for room in _card_rooms(basis))
    return min((one.concurrency for one in rooms if not one.error), default=None)


def _card_rooms(basis: Basis, _finding: Finding | None = None) -> Iterator[RoomAsk]:
    return (room for room, _ in _card_cells(basis))


# ── C29: is memory the bottleneck of long contexts on 8-card servers? ─────────────────────────────────────────────


def _server_asks(basis: Basis, _finding: Finding | None = None) -> Iterator[RoomAsk]:
    return (_room(basis, model, on) for on in basis.mix.servers for model in basis.mix.models)


def _server_paths(basis: Basis) -> Iterable[str]:
    systems = dict.fromkeys(map(system_of, basis.mix.servers))
    return (f"{name}.{path}" for name in systems for path in (CAPACITY, "device.hbm.bandwidth"))


def _worst(basis: Basis, answers: Answers) -> list[tuple[RoomAsk, int, float]]:
    """Sequences that memory holds / sequences that the speed allows, for each long context, smallest first."""
    cells = [
        (ask, row.context, row.held / row.quick)
        for ask in _server_asks(basis) for row in answers[ask].rows if row.context >= LONG and row.quick > 0
    ]  # fmt: skip
    return sorted(cells, key=lambda cell: (cell[2], cell[0].system, cell[0].model, cell[1]))


def _server(basis: Basis, answers: Answers) -> Finding:
    rows: list[tuple[TableCell, ...]] = []
    for ask in _server_asks(basis):
        found: RoomAnswer = answers[ask]
        if found.error:
            rows.append((ask.system, short(ask.model), None, None, None, None, found.error))
        for row in found.rows:
            binds = "memory" if row.held < row.quick else "speed"
            rows.append((ask.system, short(ask.model), row.context, row.held, row.quick, binds, ""))
    cells = _worst(basis, answers)
    if not cells:
        return Finding("cannot be known", ("No model of the mix with long contexts fits an 8-card server.",))
    bound = sum(ratio < 1 for _, _, ratio in cells)
    verdict: ClaimVerdict = "holds" if bound == len(cells) else "holds if" if bound else "does not hold"
    ask, context, least = cells[0]
    binding = dict.fromkeys(f"{short(one.model)} on {one.system}" for one, _, ratio in cells if ratio < 1)
    return Finding(
        verdict,
        (
            f"Memory ends before speed in {bound} of {len(cells)} cases with {LONG:,} tokens or more: it holds fewer "
            f"sequences than a TPOT of {bound_s(basis) * 1e3:g} ms allows.",
            f"The tightest case is {short(ask.model)} on {ask.system} with {context:,} tokens: memory holds "
            f"{least:,.3g} x the sequences that the speed allows.",
        ),
        least, least, cells[-1][2], "",
        conditions=(f"It holds for {', '.join(binding)}, not at every context.",) if verdict == "holds if" else (),
        tables=(
            ClaimTable(
                "Sequences that decode at the same time",
                ("server", "model", "context [token]", "memory holds", "speed allows", "bound by", "why not"),
                tuple(rows),
            ),
        ),
        notes=(f"Contexts from {LONG:,} tokens on count as long: the article names none.",
               "Closed form: one decode step of the split that leaves the largest KV cache."),
        command=ask.command,
    )  # fmt: skip


def _server_gauge(basis: Basis, answers: Answers, _finding: Finding) -> float | None:
    return min((ratio for _, _, ratio in _worst(basis, answers)), default=None)


# ── C15: do KV tiers meet the need for memory? ────────────────────────────────────────────────────────────────────


def _tiers_ask(basis: Basis, think_s: float, *, quick: bool = False) -> TiersAsk:
    """The question about one think time; `quick`: only all tiers, on the best deployment of the closed form."""
    more = (Given(path="workload.think_time", value=repr(think_s), why="think time"),)
    plan = basis.plan(basis.mix.main, basis.mix.machine, workload=AGENTS, more=more, engine=ENGINE, simulate=not quick)
    return TiersAsk(plan, (1.0,) if quick else LOADS, only_all=quick)


def _tiers_asks(basis: Basis) -> Iterator[TiersAsk]:
    return (_tiers_ask(basis, think_s) for think_s in THINK_S)


def _tier_paths(basis: Basis) -> Iterable[str]:
    system = system_of(basis.mix.machine)
    return (f"{system}.{path}" for path in (CAPACITY, "device.scale_up.bandwidth", "host.dram", "host.ssd"))


def _kept(answer: TierPoints, *, first: bool = False) -> float | None:
    """Hits with all tiers (`first`: with HBM only), at the load of HBM alone / hits of a cache without an end."""
    points = [point for point in answer.points if point.share == 1.0]
    return points[0 if first else -1].hit_share / answer.endless if points and answer.endless else None


def _tiers(basis: Basis, answers: Answers) -> Finding:
    found: list[TierPoints] = [answers[ask] for ask in _tiers_asks(basis)]
    kept = [_kept(answer) for answer in found]
    known = [(think, share, answer) for think, share, answer in zip(THINK_S, kept, found, strict=True) if share]
    if not known:
        return Finding("cannot be known", (f"{basis.mix.main} does not serve {AGENTS} on {basis.mix.machine}.",))
    met = [share is not None and share >= 1 - ABOUT for share in kept]
    verdict: ClaimVerdict = "holds" if all(met) else "holds if" if any(met) else "does not hold"
    least = min(share for _, share, _ in known)
    bare = min(_kept(answer, first=True) or 0.0 for _, _, answer in known)
    good = [f"{think:g} s" for think, one in zip(THINK_S, met, strict=True) if one]
    return Finding(
        verdict,
        tuple(_tier_words(think, answer) for think, _, answer in known),
        least, min(bare, least), max(share for _, share, _ in known), "",
        conditions=(f"It holds with a think time of {', '.join(good)}.",) if verdict == "holds if" else (),
        tables=tuple(_tier_table(basis, think, answer) for think, _, answer in known),
        notes=(
            f"The need is met if all tiers serve at least {1 - ABOUT:.0%} of the hits of a cache without an end, at "
            "the highest load within the SLO of HBM alone. The value is that share; its low end is that of HBM alone.",
            "Between two turns of a user, the context waits in the cache: the longer the think time, the more users "
            f"share the memory. {THINK_S[0]:g} s is the median of the sessions of the workload, {THINK_S[-1]:g} s the "
            "mean.",
            "Memory and drives of a node are assumed.",
            *dict.fromkeys(one for answer in found for one in answer.missing),
            *unsettled(*found),
        ),
    )  # fmt: skip


def _tier_words(think_s: float, answer: TierPoints) -> str:
    points = [point for point in answer.points if point.share == 1.0]
    bare, full = points[0], points[-1]
    return (
        f"With a think time of {think_s:g} s, HBM serves {bare.hit_share:.1%} of the input, and {full.tiers} "
        f"{full.hit_share:.1%}; a cache without an end would serve {answer.endless:.1%}. Mean TTFT: "
        f"{bare.ttft_s:.3g} s and {full.ttft_s:.3g} s."
    )


TIER_COLUMNS = (
    "KV cache in", "load / highest load of HBM alone", "hits", "TTFT [s]", "TTFT at the SLO's percentile [s]",
    "effective tokens/s a card", "SLO met",
)  # fmt: skip


def _tier_table(basis: Basis, think_s: float, answer: TierPoints) -> ClaimTable:
    rows = tuple(
        (one.tiers, one.share, one.hit_share, one.ttft_s, one.ttft_slo_s, one.effective_tok_s,
         "yes" if one.meets_slo else "no") for one in answer.points
    )  # fmt: skip
    title = f"{short(basis.mix.main)} on {basis.mix.machine}, {AGENTS}, think time {think_s:g} s: {answer.deployment}"
    return ClaimTable(title, TIER_COLUMNS, rows)


def _quick_tiers(basis: Basis, _finding: Finding | None = None) -> Iterator[TiersAsk]:
    return (_tiers_ask(basis, think_s, quick=True) for think_s in THINK_S[:1])


def _tiers_gauge(basis: Basis, answers: Answers, _finding: Finding) -> float | None:
    kept = [_kept(answers[ask]) for ask in _quick_tiers(basis)]
    return min((share for share in kept if share is not None), default=None)


CHECKS: dict[str, Check] = {
    "C14": Check(_card, _card_asks, rests_on=lambda basis: (_card_path(basis),), gauge=Gauge(_card_rooms, _card_gauge)),
    "C15": Check(_tiers, _tiers_asks, rests_on=_tier_paths, gauge=Gauge(_quick_tiers, _tiers_gauge)),
    "C29": Check(_server, _server_asks, rests_on=_server_paths, gauge=Gauge(_server_asks, _server_gauge)),
}
"""Number of a claim -> its check."""
