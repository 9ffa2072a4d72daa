"""Checks of memory: long contexts beside the weights, and KV tiers below HBM."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from tokenworks.ledger.claims.asks import Answers, ClaimAsk
from tokenworks.ledger.claims.basis import Basis, system_of
from tokenworks.ledger.claims.check import Check, Gauge
from tokenworks.ledger.claims.finding import ClaimTable, ClaimVerdict, Finding, TableCell, TurningPoint
from tokenworks.ledger.claims.runs import TierPoints, TiersAsk
from tokenworks.ledger.claims.steps import CAPACITY, LeastMemoryAsk, RoomAnswer, RoomAsk
from tokenworks.specs.slo import Slo

CONTEXTS = (8_192, 32_768, 131_072, 262_144)
"""Contexts of the tables [token]."""

LONG = 32_768
"""Contexts from this one on count as long; the article names none, so this is our choice [token]."""

USUAL_TPOT_S = 0.05
"""Bound on TPOT where the workload has none [s]."""

SERVER = 8
"""Cards of a server [count]."""

LOADS = (1.0, 1.5)
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


def _tiers_ask(basis: Basis) -> TiersAsk:
    plan = basis.plan(basis.mix.main, basis.mix.machine, workload=AGENTS)
    return TiersAsk(plan, LOADS)


def _tiers_asks(basis: Basis, _finding: Finding | None = None) -> Iterator[ClaimAsk]:
    yield _tiers_ask(basis)


def _tier_paths(basis: Basis) -> Iterable[str]:
    system = system_of(basis.mix.machine)
    return (f"{system}.{path}" for path in (CAPACITY, "host.dram", "host.ssd", "host.link"))


def _kept(answer: TierPoints) -> float | None:
    """Hits with all tiers / hits of a cache without an end, at the higher load."""
    last = [point for point in answer.points if point.share == max(LOADS)]
    return last[-1].hit_share / answer.endless if last and answer.endless else None


TIER_COLUMNS = (
    "KV cache in", "load / highest load of HBM alone", "hits", "TTFT [s]", "TTFT at the SLO's percentile [s]",
    "effective tokens/s a card", "SLO met",
)  # fmt: skip


def _tiers(basis: Basis, answers: Answers) -> Finding:
    answer: TierPoints = answers[_tiers_ask(basis)]
    kept = _kept(answer)
    if kept is None:
        return Finding("cannot be known", (f"{basis.mix.main} does not serve {AGENTS} on {basis.mix.machine}.",))
    first, last = ([point for point in answer.points if point.share == share] for share in (min(LOADS), max(LOADS)))
    bare, full = last[0], last[-1]
    meets = full.meets_slo
    verdict: ClaimVerdict = "holds" if meets else "holds if" if first[-1].meets_slo else "does not hold"
    return Finding(
        verdict,
        (
            f"At {max(LOADS):g} x the highest load of HBM alone, the cache serves {bare.hit_share:.1%} of the input "
            f"with HBM only and {full.hit_share:.1%} with {full.tiers}; a cache without an end would serve "
            f"{answer.endless:.1%}.",
            f"Mean TTFT is {bare.ttft_s:.3g} s with HBM only and {full.ttft_s:.3g} s with {full.tiers}.",
        ),
        kept, min(kept, bare.hit_share / answer.endless), kept, "",
        conditions=(f"It holds up to a load between {min(LOADS):g} and {max(LOADS):g} x that of HBM alone.",)
        if verdict == "holds if" else (),
        tables=(
            ClaimTable(
                f"{short(basis.mix.main)} on {basis.mix.machine}, {AGENTS}: {answer.deployment}",
                TIER_COLUMNS,
                tuple((one.tiers, one.share, one.hit_share, one.ttft_s, one.ttft_slo_s, one.effective_tok_s,
                       "yes" if one.meets_slo else "no") for one in answer.points),
            ),
        ),
        notes=(
            "The value is the share of the possible hits that all tiers serve; its low end is that of HBM alone.",
            "Memory and drives of a node are assumed.", *answer.missing,
        ),
    )  # fmt: skip


def _tiers_gauge(basis: Basis, answers: Answers, _finding: Finding) -> float | None:
    return _kept(answers[_tiers_ask(basis)])


CHECKS: dict[str, Check] = {
    "C14": Check(_card, _card_asks, rests_on=lambda basis: (_card_path(basis),), gauge=Gauge(_card_rooms, _card_gauge)),
    "C15": Check(_tiers, _tiers_asks, rests_on=_tier_paths, gauge=Gauge(_tiers_asks, _tiers_gauge)),
    "C29": Check(_server, _server_asks, rests_on=_server_paths, gauge=Gauge(_server_asks, _server_gauge)),
}
"""Number of a claim -> its check."""
