"""The closed form orders deployments, simulation decides: what `plan` shows has been simulated.

Deployments are simulated in the order of their estimates, each at its own highest rate within the SLO, or under the
given load. The search ends when no estimate that is left, widened by the error of the closed form, reaches the
deployments that are listed.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress

from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.planning.bench import Bench, Budget, Say, sessions_of
from tokenworks.planning.elsewhere import PROCESSES
from tokenworks.planning.judge import Judged, first_step, judged_at, order, shown, step_of
from tokenworks.planning.ranking import Candidate
from tokenworks.planning.result import Ranked
from tokenworks.planning.tiered import AUTO, choices, must_fit, with_tiers
from tokenworks.planning.tuning import TUNED, tuned
from tokenworks.simulation.run import Simulation
from tokenworks.specs.deployment import Role
from tokenworks.specs.tier_setup import NO_TIERS

ERROR = 0.2
"""How far a deployment may exceed its estimate [-]: a deployment whose estimate is further behind is not simulated."""

LEAST_GAIN = 0.01
"""Effective tokens that other KV tiers must add, as a share [-]."""

LEAST_LOSS = 0.01
"""Hits that HBM must lose, as a share of the input, before KV tiers are tried where requests form no sessions [-]."""

NEAR = 16
"""Steps up or down from its highest rate within which a listed deployment is confirmed [steps]."""

DEPTH = 5
"""Deployments that a search finds at least, listed or not: estimates may be wrong by more than `ERROR`. The same roles
with another engine count as one [count]."""


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
        row = judged_at(bench, candidate, _least(best, listed, candidate))
        if row is not None and (known is None or order(row) < order(known)):
            best[candidate.family] = row, candidate
    chosen = sorted(best.values(), key=lambda pair: order(pair[0]))
    if chosen and chosen[0][0].meets_slo:
        chosen = [(row, candidate) for row, candidate in chosen if row.meets_slo]
        if settled:
            chosen = tuned(bench, chosen, say)
            most = 1 if sessions_of(chosen[0][1]) else TUNED
            chosen[:most] = [_tiered(bench, candidate, row, tiers, say) for row, candidate in chosen[:most]]
            chosen = sorted(chosen, key=lambda pair: order(pair[0]))
    rows = _confirmed(bench, chosen[:depth], top, say)[:top]
    if rows and rows[0].meets_slo:
        rows = [row for row in rows if row.meets_slo]
    return tuple(dataclasses.replace(row, rank=rank) for rank, row in enumerate(rows, 1)), settled


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
    best: dict[tuple[Role, ...], float] = {}
    for row, _ in rows:
        if row.meets_slo:
            roles = row.deployment.roles
            best[roles] = max(row.effective_tok_s_per_device, best.get(roles, 0.0))
    values = sorted(best.values(), reverse=True)
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
        first = first_step(candidate, least) if least else 0
        bench.expect(candidate, candidate.estimated.requests_s * step_of(candidate) ** first)


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
        without = judged_at(bench, bare, row.offered_s)
        if without is not None and without.meets_slo and not _gains(row, without):
            best = without, bare
    elif not _short_of_cache(row, candidate):
        return best
    for other in _possible(bare, tiers):
        if other.deployment == candidate.deployment:
            continue
        better = judged_at(bench, other, best[0].offered_s * step_of(candidate))
        if better is not None and better.meets_slo and _gains(better, best[0]):
            best = better, other
    return best


def _gains(row: Ranked, other: Ranked) -> bool:
    """Whether a deployment has clearly more effective tokens than the same one with other KV tiers."""
    return row.effective_tok_s_per_device > (1 + LEAST_GAIN) * other.effective_tok_s_per_device


def _short_of_cache(row: Ranked, candidate: Candidate) -> bool:
    """Whether HBM serves fewer hits than an endless cache, so that tiers below it may serve some."""
    return row.hit_share < candidate.costing.setting.workload.hit_share - LEAST_LOSS


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
        if len(rows) >= sure and sorted(map(order, rows))[sure - 1] < order(left[0][0]):
            break
        together, left = left[: max(sure - len(rows), 1)], left[max(sure - len(rows), 1) :]
        if say:
            names = ", ".join(str(row.deployment) for row, _ in together)
            say(f"simulating {names} again, with other requests")
        rows += bench.each([one for _, one in together], _again_of(bench, together))
    return sorted([*rows, *(row for row, _ in left)], key=order)


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


def _tokens(rows: Iterable[Judged], candidate: Candidate) -> float:
    """Effective output tokens of a request that is sent, where the SLO is met: less than osl if some are refused."""
    seen = [
        row.effective_tok_s_per_device * other.charged / row.offered_s
        for row, other in rows
        if row.meets_slo and candidate.costing.load is None
    ]
    return max(seen, default=candidate.costing.demand.request.osl)
