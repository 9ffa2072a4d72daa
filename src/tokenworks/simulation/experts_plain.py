"""The experts of a simulation as plain data: balance over time, touched experts, and what EPLB moved."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tokenworks.simulation.experts import HOST_S, Track, link_bytes
from tokenworks.simulation.run import Simulation
from tokenworks.simulation.shape import ExpertSeriesPlain, PopularityPlain, RoleExpertsPlain
from tokenworks.specs.experts import ExpertLoad
from tokenworks.specs.machine import Assumption

MOST_TIMES = 300
"""Most times of a series [count]."""


def experts_plain(run: Simulation) -> PopularityPlain:
    """The experts of each role with expert parallelism.

    Parameters
    ----------
    run : a simulation with known popularity of the experts
    """
    return {"load": str(run.experts), "roles": [_role(run, track) for track in run.tracks]}


def experts_assumed(run: Simulation) -> Iterator[Assumption]:
    """Assumed numbers behind the balance of the experts: the drift, and the CPU time of a rebalance.

    Parameters
    ----------
    run : a simulation
    """
    if isinstance(run.experts, ExpertLoad) and run.experts.half_life is not None:
        yield Assumption("experts.half_life", f"{run.experts.half_life:g} s", "no law of drift is published")
    if any(track.moved for track in run.tracks):
        why = "CPU time of a rebalance: SGLang issue 7879 says about 1 s"
        yield Assumption("eplb.host_s", f"{HOST_S:g} s", why)


def _role(run: Simulation, track: Track) -> RoleExpertsPlain:
    group, end = track.group, run.outcome.now_s
    role = run.deployment.roles[group.pool]
    counts = run.outcome.pools[group.pool]
    sequences = counts.decode_sequences * (1 + role.draft_tokens) + counts.prefill_tokens
    routed = max(sequences / max(counts.steps, 1) / role.parallel.pp, 1.0)
    inside, between = link_bytes(track)
    return {
        "role": group.name,
        "ep": group.ep,
        "redundant_experts": group.redundant,
        "eplb": None if group.eplb is None else group.eplb.model_dump(mode="json"),
        "balance": track.mean(track.limit, end),
        "worst_balance": max(track.worst),
        "plain_balance": track.mean(track.still, end),
        "touched": track.touched(routed, end),
        "routed_tokens": routed,
        "rebalances": len(track.moved),
        "moved_copies": sum(one.inside + one.outside for one in track.moved) * len(group.instances),
        "moved_inside_bytes": inside,
        "moved_between_bytes": between,
        "pause_s": track.pause_s,
        "levels": [one.limit for one in track.levels],
        "series": _series(track),
    }


def _series(track: Track) -> ExpertSeriesPlain:
    """The values over time; of a long series, the first and the last value and evenly chosen ones between."""
    count = len(track.at_s)
    numbers = np.unique(np.linspace(0, count - 1, min(count, MOST_TIMES)).round().astype(int)).tolist()
    return {
        "at_s": [track.at_s[i] for i in numbers],
        "balance": [track.limit[i] for i in numbers],
        "worst_balance": [track.worst[i] for i in numbers],
        "plain_balance": [track.still[i] for i in numbers],
    }
