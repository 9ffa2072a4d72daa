"""The Pareto front of a plan: simulated, or as the closed form estimates it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokenworks.pareto import front as unbeaten
from tokenworks.planning.bench import Bench, Say, sessions_of
from tokenworks.planning.judge import shown
from tokenworks.planning.ranking import Candidate
from tokenworks.planning.result import FrontPoint

FRONT_POINTS, SESSION_POINTS = 16, 4
"""Points of the Pareto front that are simulated; the second where requests form sessions [count]."""


def simulated_front(bench: Bench, front: Sequence[Candidate], *, say: Say | None = None) -> tuple[FrontPoint, ...]:
    """Simulate the deployments of an estimated Pareto front, and keep those that no other one beats, fastest first.

    Each is simulated in a closed loop with as many users as its estimate has, by Little's law.

    Parameters
    ----------
    front : deployments with estimates; of more than `FRONT_POINTS` as many are taken, evenly spread
    say : told in words how many points are simulated
    """
    most = SESSION_POINTS if front and sessions_of(front[0]) else FRONT_POINTS
    if len(front) > most:
        front = [front[round(i * (len(front) - 1) / (most - 1))] for i in range(most)]
    if say:
        say(f"simulating the Pareto front ({len(front)})")

    def point(number: int) -> FrontPoint:
        candidate = front[number]
        estimate, request = candidate.estimated, candidate.costing.setting.workload
        request_s = estimate.ttft_s + request.osl * estimate.tpot_s + request.think_time
        row = shown(candidate, bench.at(candidate, users=max(1, round(estimate.requests_s * request_s))))
        return FrontPoint(row.deployment, row.output_tok_s_per_user, row.output_tok_s_per_device, row.ttft_slo_s)

    points = bench.each(front, point)
    speed = np.array([one.output_tok_s_per_user for one in points])
    output = np.array([one.output_tok_s_per_device for one in points])
    kept = unbeaten(speed, output) if points else ()
    return tuple(points[int(index)] for index in kept)


def estimated_front(front: Sequence[Candidate]) -> tuple[FrontPoint, ...]:
    """The points of an estimated Pareto front."""
    return tuple(
        FrontPoint(
            one.deployment, 1 / one.estimated.tpot_s, one.estimated.output_tok_s_per_device, one.estimated.ttft_slo_s
        )
        for one in front
    )
