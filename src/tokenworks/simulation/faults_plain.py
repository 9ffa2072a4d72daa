"""The faults of a simulation as plain data: each fault, what it cost, and what the requests felt around it."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from typing import cast

from tokenworks.simulation.faults import FaultRun, total_faults
from tokenworks.simulation.felt import RequestTimes, effective_tokens, phases, series_edges
from tokenworks.simulation.run import Simulation
from tokenworks.simulation.shape import FaultPlain, FaultSeriesPlain, FaultsPlain, FaultTimesPlain, FeltPlain


def faults_plain(run: Simulation, faults: FaultRun) -> FaultsPlain:
    """The faults of a run.

    Parameters
    ----------
    run : the run, with the same run without faults, if it was not stopped
    faults : its faults
    """
    plan, asked = faults.plan, faults.plan.asked
    times, random = RequestTimes(run.outcome, run.promises), asked.schedule is None
    effective = effective_tokens(run.outcome, run.promises)
    healthy = None if run.healthy is None else effective_tokens(run.healthy.outcome, run.promises)
    totals = total_faults(faults.end)
    return {
        "seed": asked.seed if random else None,
        "hazard": asked.hazard if random else None,
        "expected": plan.expected,
        "reliability": asked.reliability.name,
        "schedule": None if plan.schedule is None else plan.schedule.written(),
        "times": _times(run, faults),
        "faults": [_fault(faults, times, number) for number in range(len(plan.effects))],
        "lost_steps": totals.lost_steps,
        "lost_requests": totals.lost_requests,
        "retries": totals.retries,
        "lost_output_tokens": totals.lost_output_tokens,
        "lost_kv_tokens": totals.lost_kv_tokens,
        "down_s": totals.down_s,
        "effective_tokens": effective,
        "healthy_effective_tokens": healthy,
        "lost_effective_share": None if not healthy else 1 - effective / healthy,
        "series": _series(run, times),
    }


def _times(run: Simulation, faults: FaultRun) -> FaultTimesPlain:
    times = faults.plan.times
    starts = zip(run.deployment.roles, times.start, strict=True)
    return {
        "detect_s": times.detect,
        "shrink_s": times.shrink,
        "start_s": {role.name: seconds for role, seconds in starts},
    }


def _fault(faults: FaultRun, times: RequestTimes, number: int) -> FaultPlain:
    """One fault: what it stopped, for how long, what requests lost, and what they felt."""
    effect, lost = faults.plan.effects[number], faults.lost_by(number)
    fault = effect.fault.fault
    windows = phases(fault.at, effect.whole_s, times.outcome.now_s)
    before, during, after = (cast(FeltPlain, asdict(times.felt(*window))) for window in windows)
    return {
        "part": fault.part,
        "at_s": fault.at,
        "lasts_s": effect.fault.lasts,
        "permanent": fault.permanent,
        "devices": effect.devices,
        "instances": sorted(effect.instances),
        "ranks": effect.ranks,
        "lost_bandwidth_share": effect.lost,
        "noticed_s": effect.noticed_s,
        "down_s": effect.down_s,
        "whole_s": effect.whole_s,
        "lost_requests": lost.lost_requests,
        "retries": lost.retries,
        "lost_output_tokens": lost.lost_output_tokens,
        "lost_kv_tokens": lost.lost_kv_tokens,
        "before": before,
        "during": during,
        "after": after,
    }


def _series(run: Simulation, times: RequestTimes) -> FaultSeriesPlain:
    """What requests felt over time, with the faults and without them."""
    edges = series_edges(float(run.traffic.trace.arrival_s[-1]), run.outcome.now_s)
    with_faults = [times.felt(*window) for window in itertools.pairwise(edges)]
    other = None if run.healthy is None else RequestTimes(run.healthy.outcome, run.promises)
    without = [other.felt(*window) for window in itertools.pairwise(edges)] if other else []
    return {
        "window_s": edges[1] - edges[0],
        "arrived": [one.arrived for one in with_faults],
        "failed": [one.failed for one in with_faults],
        "median_ttft_ms": [one.median_ttft_ms for one in with_faults],
        "p99_ttft_ms": [one.p99_ttft_ms for one in with_faults],
        "median_tpot_ms": [one.median_tpot_ms for one in with_faults],
        "p99_tpot_ms": [one.p99_tpot_ms for one in with_faults],
        "effective_tok_s": [one.effective_tok_s for one in with_faults],
        "healthy_p99_ttft_ms": [one.p99_ttft_ms for one in without],
        "healthy_effective_tok_s": [one.effective_tok_s for one in without],
    }
