"""Sizes of the best deployments of a plan, tuned by simulation: the closed form chooses them only roughly."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.planning.bench import Bench, Say, sessions_of
from tokenworks.planning.judge import STEP, Judged, judged_at, order
from tokenworks.planning.ranking import Candidate
from tokenworks.planning.result import Ranked
from tokenworks.specs.deployment import Role

TUNED = 3
"""Deployments whose sizes are tuned by simulation, best first; none where requests form sessions. The same roles with
another engine count as one: engines that differ little give equal results [count]."""

SIZES = (
    ("max_sequences", 1.5),
    ("max_sequences", 8.0),
    ("chunk_tokens", 2.0),
    ("chunk_tokens", 0.5),
    ("chunk_tokens", 0.125),
)
"""Sizes of a role that are changed to tune a deployment, and by which factor [-]."""


def tuned(bench: Bench, judged: Sequence[Judged], say: Say | None) -> list[Judged]:
    """The first `TUNED` deployments with the sizes with which each holds the highest rate; the others as they are."""
    if any(one.costing.load is not None or sessions_of(one) for _, one in judged):
        return list(judged)
    if say:
        say("simulating the best deployments with other sizes")
    alike: dict[tuple[Role, ...], list[int]] = {}
    for place, (_, candidate) in enumerate(judged):
        alike.setdefault(candidate.deployment.roles, []).append(place)
    groups = list(alike.values())[:TUNED]
    better = bench.each([judged[places[0]][1] for places in groups],
                       lambda number: _tuned_alike(bench, [judged[place] for place in groups[number]]))  # fmt: skip
    result = list(judged)
    for places, pairs in zip(groups, better, strict=True):
        for place, pair in zip(places, pairs, strict=True):
            result[place] = pair
    return result


def _tuned_alike(bench: Bench, judged: Sequence[Judged]) -> list[Judged]:
    """Deployments with the same roles and different engines, with the sizes that are best for the first one."""
    first = _best_sizes(bench, *judged[0])
    roles = first[1].deployment.roles
    return [first, *(_better(bench, pair, _with_roles(pair[1], roles)) for pair in judged[1:])]


def _best_sizes(bench: Bench, row: Ranked, candidate: Candidate) -> Judged:
    """A deployment with the sizes with which it holds the highest rate: the closed form chooses them only roughly.

    Sizes depend on each other, so all are tried again after one has changed.
    """
    last = None
    while last != candidate.deployment:
        last = candidate.deployment
        for number in range(len(last.roles)):
            for size, factor in SIZES:
                row, candidate = _better(bench, (row, candidate), _resized(candidate, number, size, factor))
    return row, candidate


def _better(bench: Bench, known: Judged, other: Candidate) -> Judged:
    """A deployment with other sizes, if it holds a higher rate; else the known one."""
    row, candidate = known
    if other.deployment == candidate.deployment:
        return known
    try:
        better = judged_at(bench, other, row.offered_s * STEP)
    except (SpecError, DoesNotFit):  # the memory or a rule forbids the size
        return known
    return (better, other) if better is not None and better.meets_slo and order(better) < order(row) else known


def _resized(candidate: Candidate, number: int, size: str, factor: float) -> Candidate:
    """A deployment with another size of one role; the token budget holds all sequences of a step."""
    roles = list(candidate.deployment.roles)
    role = roles[number]
    role = role.model_copy(update={size: max(1, round(getattr(role, size) * factor))})
    least = role.max_sequences * (1 + role.draft_tokens) if role.name != "prefill" else 1
    roles[number] = role.model_copy(update={"chunk_tokens": max(role.chunk_tokens, least)})
    return _with_roles(candidate, tuple(roles))


def _with_roles(candidate: Candidate, roles: tuple[Role, ...]) -> Candidate:
    """A deployment with other sizes of its roles."""
    return dataclasses.replace(candidate, deployment=candidate.deployment.model_copy(update={"roles": roles}))
