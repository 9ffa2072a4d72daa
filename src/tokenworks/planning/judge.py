"""One deployment at its highest rate within the SLO, or under the given load: the search for the rate, and its row."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tokenworks.planning.bench import Bench, sessions_of
from tokenworks.planning.ranking import ROOFS, Candidate, common
from tokenworks.planning.result import Binding, Ranked
from tokenworks.simulation.capacity import TOLERANCE
from tokenworks.simulation.play import lost
from tokenworks.simulation.run import Simulation
from tokenworks.simulation.summary import busiest, roof_of, series
from tokenworks.traffic.generate import session_turns

STEP, SESSION_STEP = 1 + TOLERANCE, 1.05
"""Ratio of two neighbouring rates that are tried, as in `capacity`; the second where requests form sessions [-]."""

FIRST_UP, FIRST_DOWN = 2, 4
"""First strides from a rate that holds upwards, and from one that does not downwards [steps]; each next one doubles."""

LOWEST = 1 / 64
"""Share of the estimated rate below which a deployment is given up [-]."""

Judged = tuple[Ranked, Candidate]
"""A deployment with simulated values, and with its estimates."""


def order(row: Ranked) -> tuple[float, float, int]:
    """Best first: effective tokens where the SLO is met, else how near it is; ties by the estimate."""
    missed = 0.0 if row.meets_slo else row.slo_pressure
    return (-row.effective_tok_s_per_device if row.meets_slo else 0.0, missed, row.estimated.rank)


def judged_at(bench: Bench, candidate: Candidate, least: float) -> Ranked | None:
    """A deployment with simulated values; None if it does not hold `least` requests per second [1/s]."""
    run = best_run(bench, candidate, least)
    return None if run is None else shown(candidate, run)


def step_of(candidate: Candidate) -> float:
    """Ratio of two neighbouring rates that are tried [-]."""
    return SESSION_STEP if sessions_of(candidate) else STEP


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
        low = first_step(candidate, least)
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


def first_step(candidate: Candidate, least: float) -> int:
    """The lowest step of a deployment at which it has `least` requests per second, from its estimated rate on [1/s]."""
    return math.ceil(math.log(least / candidate.estimated.requests_s) / math.log(step_of(candidate)))


def _middles(low: int, middle: int, high: int) -> list[int]:
    """The steps that a bisection may try after `middle`."""
    return [(start + end) // 2 for start, end in ((low, middle), (middle, high)) if end - start > 1]


@dataclass(frozen=True, slots=True)
class _Flow:
    """What a deployment serves: requests [1/s], output tokens, those within the SLO, and all tokens [token/s]."""

    requests: float
    output: float
    effective: float
    total: float

    @classmethod
    def of(cls, run: Simulation) -> _Flow:
        """What the window of a run saw."""
        seen = run.metrics
        return cls(seen.request_throughput, seen.output_throughput, seen.effective_throughput,
                   seen.total_token_throughput)  # fmt: skip

    @classmethod
    def endless(cls, run: Simulation, rate: float) -> _Flow:
        """What a run would serve without end: all that is sent, if it holds its SLO and its queue stays finite.

        Near the highest rate, the number of requests in flight still grows for many lives of a request, and long
        requests are the last to complete. So a window counts fewer requests than are sent, and fewer tokens of each.

        Parameters
        ----------
        run : a simulation of a workload that holds its rate
        rate : requests that are sent per second [1/s]
        """
        trace, workload, seen = run.traffic.trace, run.traffic.workload, run.metrics
        assert workload is not None
        kept = ~lost(trace.parent, run.cluster.never_fits(trace.input_tokens, trace.output_tokens))
        inputs, outputs = (float(of[kept].sum() / of.sum()) for of in (trace.input_tokens, trace.output_tokens))
        output = rate * workload.osl * outputs
        return cls(rate * float(kept.mean()), output, output * seen.effective_throughput / seen.output_throughput,
                   output + rate * workload.isl * inputs)  # fmt: skip


def _saw_sessions_end(run: Simulation) -> bool:
    """Whether a run lasts longer than a session: before, sessions begin but do not end, and fewer requests are sent."""
    workload = run.traffic.workload
    assert workload is not None
    turns, _ = session_turns(workload)
    return turns * (run.metrics.mean_e2el_ms / 1e3 + workload.think_time) < run.span.end_s


def shown(candidate: Candidate, run: Simulation) -> Ranked:
    """A row of the plan with the values of a simulation."""
    metrics, load, held = run.metrics, candidate.costing.load, run.meets_slo
    tpot = metrics.mean_tpot_ms / 1e3 or candidate.estimated.tpot_s
    pressure = max((bound.seen_s / bound.bound_s for bound in run.bounds.values()), default=0.0)
    rate = run.traffic.workload.rate if run.traffic.workload else None
    flow = _Flow.endless(run, rate) if held and rate is not None and _saw_sessions_end(run) else _Flow.of(run)
    if not held:
        sent = load.value if load and load.kind == "rate" else flow.requests
        pressure = max(pressure, sent / max(flow.requests, 1e-12), 1 + 1e-6)
    number = busiest(run.window.counts.pools)
    cache = run.window.counts.pools[0]
    return Ranked(
        **common(candidate, flow.output / candidate.charged, tpot),
        effective_tok_s_per_device=flow.effective / candidate.charged if held else 0.0,
        total_tok_s_per_device=flow.total / candidate.charged,
        requests_s=flow.requests,
        offered_s=flow.requests if rate is None else rate,
        ttft_s=metrics.mean_ttft_ms / 1e3,
        ttft_slo_s=_at(run, "ttft", metrics.p99_ttft_ms),
        tpot_slo_s=_at(run, "tpot", metrics.p99_tpot_ms),
        slo_pressure=pressure,
        bound_by=_binding(run, number),
        bound_role=run.deployment.roles[number].name,
        hit_share=cache.hit_tokens / max(cache.query_tokens, 1),
        batch=run.window.counts.pools[-1].mean_batch,
    )


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
