"""The closed form orders deployments, simulation decides: what `plan` shows has been simulated.

Deployments are simulated in the order of their estimates, each at its own highest rate within the SLO, or under the
given load. The search ends when no estimate that is left, widened by the error of the closed form, reaches the
deployments that are listed.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress

from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.planning.bench import Bench, Budget, sessions_of
from tokenworks.planning.elsewhere import PROCESSES
from tokenworks.planning.ranking import ROOFS, Candidate, common
from tokenworks.planning.result import Binding, Ranked
from tokenworks.planning.tiered import AUTO, choices, must_fit, with_tiers
from tokenworks.simulation.capacity import TOLERANCE
from tokenworks.simulation.run import Simulation
from tokenworks.simulation.summary import busiest, roof_of, series
from tokenworks.specs.tier_setup import NO_TIERS

ERROR = 0.2
"""How far a deployment may exceed its estimate [-]: a deployment whose estimate is further behind is not simulated."""

STEP, SESSION_STEP = 1 + TOLERANCE, 1.05
"""Ratio of two neighbouring rates that are tried, as in `capacity`; the second where requests form sessions [-]."""

FIRST_UP, FIRST_DOWN = 2, 4
"""First strides from a rate that holds upwards, and from one that does not downwards [steps]; each next one doubles."""

TUNED = 3
"""Deployments whose sizes are tuned by simulation, best first; none where requests form sessions [count]."""

SIZES = (
    ("max_sequences", 1.5),
    ("max_sequences", 8.0),
    ("chunk_tokens", 2.0),
    ("chunk_tokens", 0.5),
    ("chunk_tokens", 0.125),
)
"""Sizes of a role that are changed to tune a deployment, and by which factor [-]."""

LEAST_GAIN = 0.01
"""Effective tokens that other KV tiers must add, as a share [-]."""

LEAST_LOSS = 0.01
"""Hits that HBM must lose, as a share of the input, before KV tiers are tried where requests form no sessions [-]."""

NEAR = 16
"""Steps up or down from its highest rate within which a listed deployment is confirmed [steps]."""

DEPTH = 5
"""Deployments that a search finds at least, listed or not: estimates may be wrong by more than `ERROR` [count]."""

LOWEST = 1 / 64
"""Share of the estimated rate below which a deployment is given up [-]."""

Say = Callable[[str], None]


def decide(
    bench: Bench, candidates: Iterable[Candidate], top: int, *, budget: Budget | None = None, tiers: str = AUTO,
    say: Say | None = None,
) -> tuple[tuple[Ranked, ...], bool]:  # fmt: skip
    """Simulate deployments in the order of their estimates until no other one can be among the best.

    Parameters
    ----------
    candidates : best estimate first; of each family the best simulated one is listed
    top : deployments to list; the search goes on until `DEPTH` deployments or more are certain, so that the best one
        does not depend on this number [count]
    budget : where the search ends; None is a fixed number of requests
    tiers : KV tiers to try, as `tiered.choices` takes them. Where requests form sessions, all deployments are simulated
        with the usual tiers of their engine; the best ones are then also simulated with other tiers, and without
    say : told in words which deployment is simulated

    Returns
    -------
    The deployments with simulated values, best first; and whether the search is settled: False where the budget ended
    before every deployment that could be better was simulated.
    """
    budget = budget or Budget()
    best: dict[tuple[str, int], Judged] = {}
    settled = True
    depth = max(top, DEPTH)
    coming = _Coming(candidates, tiers)
    for number, candidate in enumerate(coming, 1):
        listed = _listed(best.values(), depth)
        if _hopeless(candidate, best.values(), depth):
            break
        if best and budget.spent(bench, candidate):
            settled = False
            break
        if say:
            say(f"simulating {candidate.deployment} with {candidate.deployment.engine} ({number})")
        candidate = coming.equipped(candidate)  # noqa: PLW2901
        for other in coming.next(PROCESSES - 1):
            if not _hopeless(other, best.values(), depth):
                _expect(bench, other, _least(best, listed, other))
        known = best[candidate.family][0] if candidate.family in best else None
        row = _judged(bench, candidate, _least(best, listed, candidate))
        if row is not None and (known is None or _order(row) < _order(known)):
            best[candidate.family] = row, candidate
    chosen = sorted(best.values(), key=lambda pair: _order(pair[0]))
    if chosen and chosen[0][0].meets_slo:
        chosen = [(row, candidate) for row, candidate in chosen if row.meets_slo]
        if settled:
            tuned = _all_tuned(bench, chosen[:TUNED], say)
            most = 1 if sessions_of(tuned[0][1]) else TUNED
            tuned[:most] = [_tiered(bench, candidate, row, tiers, say) for row, candidate in tuned[:most]]
            chosen = sorted([*tuned, *chosen[TUNED:]], key=lambda pair: _order(pair[0]))
    rows = _confirmed(bench, chosen[:depth], top, say)[:top]
    if rows and rows[0].meets_slo:
        rows = [row for row in rows if row.meets_slo]
    return tuple(dataclasses.replace(row, rank=rank) for rank, row in enumerate(rows, 1)), settled


Judged = tuple[Ranked, Candidate]


class _Coming:
    """The deployments of a search in order, with a look at the next ones.

    Parameters
    ----------
    candidates, tiers : as in `decide`
    """

    def __init__(self, candidates: Iterable[Candidate], tiers: str) -> None:
        self._rest, self._seen = iter(candidates), deque[Candidate]()
        self._tiers = tiers

    def __iter__(self) -> Iterator[Candidate]:
        while self._seen or self._look():
            yield self._seen.popleft()

    def _look(self) -> bool:
        """Take one more deployment from the search; False if there is none."""
        candidate = next(self._rest, None)
        if candidate is not None:
            self._seen.append(candidate)
        return candidate is not None

    def equipped(self, candidate: Candidate) -> Candidate:
        """The deployment as it is simulated: with KV tiers where requests form sessions."""
        return _usual(candidate, self._tiers) if sessions_of(candidate) else candidate

    def next(self, count: int) -> Iterator[Candidate]:
        """The next deployments as they are simulated, at most `count`."""
        while len(self._seen) < count and self._look():
            pass
        for candidate in list(self._seen)[:count]:
            with suppress(SpecError, DoesNotFit):  # raised again when it is the turn of the deployment
                yield self.equipped(candidate)


def _listed(rows: Iterable[Judged], depth: int) -> float:
    """Effective tokens per device that a deployment must have to be among the first `depth`; 0 if all are."""
    values = sorted((row.effective_tok_s_per_device for row, _ in rows if row.meets_slo), reverse=True)
    return values[depth - 1] if len(values) >= depth else 0.0


def _hopeless(candidate: Candidate, rows: Collection[Judged], depth: int) -> bool:
    """Whether no deployment from this one on can be among the first `depth`, by its estimate."""
    tokens = _tokens(rows, candidate)  # the closed form does not know of requests that are refused
    estimate = candidate.estimated.effective_tok_s_per_device * tokens / candidate.costing.demand.request.osl
    if any(row.meets_slo for row, _ in rows):
        return estimate <= 0 or estimate * (1 + ERROR) < _listed(rows, depth)
    return estimate <= 0 and len(rows) >= depth  # none is expected to meet the SLO, and the nearest ones do not


def _least(best: dict[tuple[str, int], Judged], listed: float, candidate: Candidate) -> float:
    """Rate that a deployment must hold to be listed, and to be the best of its family [1/s]."""
    known = best[candidate.family][0] if candidate.family in best else None
    floor = max(listed, known.effective_tok_s_per_device if known and known.meets_slo else 0.0)
    return floor * candidate.charged / _tokens(best.values(), candidate)


def _expect(bench: Bench, candidate: Candidate, least: float) -> None:
    """Begin the first run of `best_run` in another process; `least` as there."""
    if candidate.costing.load is not None:
        bench.expect(candidate)
    else:
        first = _first_step(candidate, least) if least else 0
        bench.expect(candidate, candidate.estimated.requests_s * step_of(candidate) ** first)


def _all_tuned(bench: Bench, judged: Sequence[Judged], say: Say | None) -> list[Judged]:
    """Deployments with the sizes with which each holds the highest rate."""
    candidates = [candidate for _, candidate in judged]
    if any(one.costing.load is not None or sessions_of(one) for one in candidates):
        return list(judged)
    if say:
        say("simulating the best deployments with other sizes")
    return bench.each(candidates, lambda number: _tuned(bench, candidates[number], judged[number][0]))


def _tuned(bench: Bench, candidate: Candidate, row: Ranked) -> Judged:
    """A deployment with the sizes with which it holds the highest rate: the closed form chooses them only roughly."""
    for number in range(len(candidate.deployment.roles)):
        for size, factor in SIZES:
            other = _resized(candidate, number, size, factor)
            try:
                better = _judged(bench, other, row.offered_s * STEP)
            except (SpecError, DoesNotFit):  # the memory or a rule forbids the size
                continue
            if better is not None and better.meets_slo and _order(better) < _order(row):
                row, candidate = better, other
    return row, candidate


def _usual(candidate: Candidate, tiers: str) -> Candidate:
    """A deployment with the usual KV tiers of its engine, if the machine has room for them."""
    return next(_possible(candidate, tiers), candidate)


def _possible(candidate: Candidate, tiers: str) -> Iterator[Candidate]:
    """The deployment with each set-up of KV tiers that its machine has room for."""
    for name in choices(candidate, tiers):
        try:
            other = with_tiers(candidate, name)
            must_fit(other)
        except (SpecError, DoesNotFit):  # the machine has not the memory or the link
            if tiers == name:
                raise
            continue
        yield other


def _tiered(bench: Bench, candidate: Candidate, row: Ranked, tiers: str, say: Say | None) -> Judged:
    """A deployment with the KV tiers with which it holds the highest rate, without tiers if these gain nothing."""
    if not choices(candidate, tiers) or candidate.costing.load is not None:
        return row, candidate
    bare = with_tiers(candidate, NO_TIERS)
    if say:
        say(f"simulating {row.deployment} with other KV tiers")
    best: Judged = row, candidate
    if candidate.deployment.tiers:  # keep the tiers only if they hold a higher rate
        without = _judged(bench, bare, row.offered_s)
        if without is not None and without.meets_slo and not _gains(row, without):
            best = without, bare
    elif not _short_of_cache(row, candidate):
        return best
    for other in _possible(bare, tiers):
        if other.deployment == candidate.deployment:
            continue
        better = _judged(bench, other, best[0].offered_s * step_of(candidate))
        if better is not None and better.meets_slo and _gains(better, best[0]):
            best = better, other
    return best


def _gains(row: Ranked, other: Ranked) -> bool:
    """Whether a deployment has clearly more effective tokens than the same one with other KV tiers."""
    return row.effective_tok_s_per_device > (1 + LEAST_GAIN) * other.effective_tok_s_per_device


def _short_of_cache(row: Ranked, candidate: Candidate) -> bool:
    """Whether HBM serves fewer hits than an endless cache, so that tiers below it may serve some."""
    return row.hit_share < candidate.costing.setting.workload.hit_share - LEAST_LOSS


def _resized(candidate: Candidate, number: int, size: str, factor: float) -> Candidate:
    """A deployment with another size of one role; the token budget holds all sequences of a step."""
    roles = list(candidate.deployment.roles)
    role = roles[number]
    role = role.model_copy(update={size: max(1, round(getattr(role, size) * factor))})
    least = role.max_sequences * (1 + role.draft_tokens) if role.name != "prefill" else 1
    roles[number] = role.model_copy(update={"chunk_tokens": max(role.chunk_tokens, least)})
    return dataclasses.replace(candidate, deployment=candidate.deployment.model_copy(update={"roles": tuple(roles)}))


def _confirmed(bench: Bench, judged: Sequence[Judged], top: int, say: Say | None) -> list[Ranked]:
    """Deployments that are simulated again with other requests, best first.

    The best of many noisy rates is too high. The second simulation does not know that the first one was chosen. It ends
    where as many as are listed were simulated again and are the best. Where requests form sessions, it ends with one.

    Parameters
    ----------
    judged : deployments, best first
    top : deployments to list [count]
    """
    left, rows = list(judged), list[Ranked]()
    while left:
        sure = 1 if sessions_of(left[0][1]) else top
        if len(rows) >= sure and sorted(map(_order, rows))[sure - 1] < _order(left[0][0]):
            break
        together, left = left[: max(sure - len(rows), 1)], left[max(sure - len(rows), 1) :]
        if say:
            names = ", ".join(str(row.deployment) for row, _ in together)
            say(f"simulating {names} again, with other requests")
        rows += bench.each([one for _, one in together], _again_of(bench, together))
    return sorted([*rows, *(row for row, _ in left)], key=_order)


def _again_of(bench: Bench, judged: Sequence[Judged]) -> Callable[[int], Ranked]:
    """`_again` of the deployment of a number."""
    return lambda number: _again(bench, judged[number][1], judged[number][0])


def _again(bench: Bench, candidate: Candidate, row: Ranked) -> Ranked:
    """A deployment simulated with other requests, at a lower rate if it does not hold the same one, or at a higher one.

    Where requests form sessions, no higher rate is tried.
    """
    if candidate.costing.load is not None:
        run = bench.loaded(candidate, again=True)
    elif not row.meets_slo:
        run = bench.at(candidate, rate=candidate.estimated.requests_s, again=True)
    else:
        run = _near(bench, candidate, row.offered_s)
    bench.listed[candidate.deployment] = run
    return shown(candidate, run)


def _near(bench: Bench, candidate: Candidate, rate: float) -> Simulation:
    """The simulation at the highest rate within the SLO, near a given rate [1/s]; the lowest one if none holds."""

    def holds(step: int) -> Simulation | None:
        return bench.holds(candidate, rate * step_of(candidate) ** step, again=True)

    held = holds(0)
    if held is None:
        for step in range(1, NEAR):
            if run := holds(-step):
                return run
        return bench.at(candidate, rate=rate * step_of(candidate) ** -NEAR, again=True)
    if not sessions_of(candidate):
        for step in range(1, NEAR + 1):
            higher = holds(step)
            if higher is None:
                break
            held = higher
    return held


def step_of(candidate: Candidate) -> float:
    """Ratio of two neighbouring rates that are tried [-]."""
    return SESSION_STEP if sessions_of(candidate) else STEP


def _order(row: Ranked) -> tuple[float, float, int]:
    """Best first: effective tokens where the SLO is met, else how near it is; ties by the estimate."""
    missed = 0.0 if row.meets_slo else row.slo_pressure
    return (-row.effective_tok_s_per_device if row.meets_slo else 0.0, missed, row.estimated.rank)


def _tokens(rows: Iterable[Judged], candidate: Candidate) -> float:
    """Effective output tokens of a request that is sent, where the SLO is met: less than osl if some are refused."""
    seen = [
        row.effective_tok_s_per_device * other.charged / row.offered_s
        for row, other in rows
        if row.meets_slo and candidate.costing.load is None
    ]
    return max(seen, default=candidate.costing.demand.request.osl)


def _judged(bench: Bench, candidate: Candidate, least: float) -> Ranked | None:
    """A deployment with simulated values; None if it does not hold `least` requests per second [1/s]."""
    run = best_run(bench, candidate, least)
    return None if run is None else shown(candidate, run)


def best_run(bench: Bench, candidate: Candidate, least: float = 0.0) -> Simulation | None:
    """The simulation at the highest rate within the SLO, or under the given load; None if `least` is not held.

    Without a rate that holds, and with no `least`, it is the simulation at the estimated rate.

    Parameters
    ----------
    bench : runs the simulations
    candidate : the deployment, with estimates that say where the search starts
    least : rate that the deployment must hold; 0: any [1/s]
    """
    if candidate.costing.load is not None:
        return bench.loaded(candidate)
    highest = _highest(bench, candidate, least or None)
    if highest is not None:
        return highest
    return None if least else bench.at(candidate, rate=candidate.estimated.requests_s)


def _highest(bench: Bench, candidate: Candidate, least: float | None) -> Simulation | None:
    """The simulation at the highest rate within the SLO; None if the deployment does not hold `least` [1/s].

    That a deployment which holds a rate also holds lower ones is taken for granted.
    """
    start, ratio = candidate.estimated.requests_s, step_of(candidate)
    runs: dict[int, Simulation] = {}

    def holds(step: int, *after: int) -> bool:
        """Simulate at a step; `after` are the steps that may come next, begun in other processes."""
        for other in after:
            bench.expect(candidate, start * ratio**other)
        run = bench.holds(candidate, start * ratio**step)
        if run is not None:
            runs[step] = run
        return run is not None

    high: int | None = None
    if least is not None:
        low = _first_step(candidate, least)
        if not holds(low):
            return None
    elif holds(0, FIRST_UP, -FIRST_DOWN):
        low = 0
    else:
        high, stride = 0, FIRST_DOWN
        while not holds(high - stride, high - 3 * stride, high - stride // 2):
            high, stride = high - stride, 2 * stride
            if ratio ** (high - stride) < LOWEST:
                return None
        low = high - stride
    if high is None:
        stride = FIRST_UP
        while holds(low + stride, low + stride // 2, low + 3 * stride):
            low, stride = low + stride, 2 * stride
        high = low + stride
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle, *_middles(low, middle, high)) else (low, middle)
    return runs[low]


def _first_step(candidate: Candidate, least: float) -> int:
    """The lowest step of a deployment at which it has `least` requests per second, from its estimated rate on [1/s]."""
    return math.ceil(math.log(least / candidate.estimated.requests_s) / math.log(step_of(candidate)))


def _middles(low: int, middle: int, high: int) -> list[int]:
    """The steps that a bisection may try after `middle`."""
    return [(start + end) // 2 for start, end in ((low, middle), (middle, high)) if end - start > 1]


def shown(candidate: Candidate, run: Simulation) -> Ranked:
    """A row of the plan with the values of a simulation."""
    metrics, load, held = run.metrics, candidate.costing.load, run.meets_slo
    tpot = metrics.mean_tpot_ms / 1e3 or candidate.estimated.tpot_s
    pressure = max((bound.seen_s / bound.bound_s for bound in run.bounds.values()), default=0.0)
    if not held:
        sent = load.value if load and load.kind == "rate" else metrics.request_throughput
        pressure = max(pressure, sent / max(metrics.request_throughput, 1e-12), 1 + 1e-6)
    number = busiest(run.window.counts.pools)
    cache = run.window.counts.pools[0]
    return Ranked(
        **common(candidate, metrics.output_throughput / candidate.charged, tpot),
        effective_tok_s_per_device=metrics.effective_throughput / candidate.charged if held else 0.0,
        total_tok_s_per_device=metrics.total_token_throughput / candidate.charged,
        requests_s=metrics.request_throughput,
        offered_s=_offered(run),
        ttft_s=metrics.mean_ttft_ms / 1e3,
        ttft_slo_s=_at(run, "ttft", metrics.p99_ttft_ms),
        tpot_slo_s=_at(run, "tpot", metrics.p99_tpot_ms),
        slo_pressure=pressure,
        bound_by=_binding(run, number),
        bound_role=run.deployment.roles[number].name,
        hit_share=cache.hit_tokens / max(cache.query_tokens, 1),
        batch=run.window.counts.pools[-1].mean_batch,
    )


def _offered(run: Simulation) -> float:
    """The rate at which requests were sent [1/s]; of a closed loop the rate at which they completed."""
    rate = run.traffic.workload.rate if run.traffic.workload else None
    return run.metrics.request_throughput if rate is None else rate


def _at(run: Simulation, name: str, p99_ms: float) -> float:
    """A time at the percentile of its bound, of the class that is nearest to it; at the 99th without a bound [s]."""
    bounds = [bound for key, bound in run.bounds.items() if key.rpartition(".")[2] == name]
    return max(bounds, key=lambda bound: bound.seen_s / bound.bound_s).seen_s if bounds else p99_ms / 1e3


def _binding(run: Simulation, number: int) -> Binding:
    """What binds a run: the KV cache where requests wait for it most of the time, else the roof of the busiest role."""
    bound = series(run)["bound"]
    if 2 * bound.count("kv-capacity") > len(bound):
        return "kv-capacity"
    return ROOFS[roof_of(run, number)]
