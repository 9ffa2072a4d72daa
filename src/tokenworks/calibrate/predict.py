"""Predict a measured point: simulate its load, and compute what its client would have measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenworks.arrays import Floats
from tokenworks.calibrate.case import Case, case
from tokenworks.calibrate.case_machine import Skipped
from tokenworks.calibrate.measured import Counted, Point
from tokenworks.costs import step
from tokenworks.costs.power import roof_use
from tokenworks.costs.requests import accepted_tokens, batch, mean_of_requests
from tokenworks.costs.split import Split
from tokenworks.engine.outcome import Outcome
from tokenworks.engine.simulator import run
from tokenworks.engine.types import Router, Status
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.simulation.cluster import cluster, room
from tokenworks.simulation.energy import Used, used
from tokenworks.specs.calibration import Calibration, number
from tokenworks.specs.interval import combined_spread

FEW = 0.02
"""Share of requests that may be refused because their random length is too long; assumed [-]."""

CROWDED = 0.5
"""Share of the contexts of all running sequences that must fit into memory beside their states; assumed [-]."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """Prediction of one point.

    Parameters
    ----------
    tpot, ttft : time per output token, time to first token [s]
    rate : throughput of the tokens that the point counts [token/s per device]
    energy : energy per output token; None if the TDP is not published, or no token is generated [J]
    used, tdp : roof use and TDP, from which energy is computed [-, W]
    ttft_spread, energy_spread : the spread of TTFT, and of energy [-]
    frontier_spread : the spread of throughput at a given speed per user [-]
    batch : mean decoding sequences in a step of an instance of the last role [count]
    spread : half of the 80 % interval as a factor: the interval is x / spread to x spread [-]
    why : reason why there is no prediction; "" with a prediction
    assumed : what the point does not state, and the values used instead
    """

    tpot: float | None = None
    ttft: float | None = None
    rate: float | None = None
    energy: float | None = None
    used: Used | None = None
    tdp: float | None = None
    ttft_spread: float = 1.0
    energy_spread: float = 1.0
    frontier_spread: float = 1.0
    batch: float = 0.0
    spread: float = 1.0
    why: str = ""
    assumed: tuple[str, ...] = ()

    def spread_of(self, metric: str) -> float:
        """Half of the 80 % interval of a metric, as a factor [-].

        Parameters
        ----------
        metric : `tpot`, `ttft`, `tok_s_per_device` and `energy` of this point; `frontier` is throughput at a given
            speed per user
        """
        own = {"ttft": self.ttft_spread, "energy": self.energy_spread, "frontier": self.frontier_spread}
        return own.get(metric, self.spread)


def predict(point: Point, calibration: Calibration) -> Predicted:
    """Predict a point by simulation of its load; by a single step if it measures only prefill or only decode.

    Parameters
    ----------
    point : the measured point
    calibration : calibration of the simulation
    """
    if point.lacks:
        return Predicted(why=f"the row is not complete: {point.lacks}")
    try:
        ready = case(point, calibration)
        return replace(_fitted(ready), assumed=ready.assumed)
    except Skipped as reason:
        return Predicted(why=str(reason))
    except DoesNotFit as reason:
        return Predicted(why=f"does not fit: {reason}")
    except SpecError as reason:
        return Predicted(why=f"cannot be run: {reason}")


def _fitted(current: Case) -> Predicted:
    """Predict a case. The point did run, so if it does not fit with default settings, its memory needs are reduced."""
    point = current.point
    alone = point.load in ("batch_per_device", "tokens_per_device")
    alone |= point.mode == "decode_only" and point.load == "closed"
    play = _one_step if alone else _simulated
    while True:
        try:
            return play(current)
        except DoesNotFit:
            less = current.smaller()
            if less is None:
                raise
            current = less


def _simulated(ready: Case) -> Predicted:
    built = cluster(
        ready.deployment, ready.site, router=Router("least_loaded"), block_tokens=ready.site.engine.kv_block,
        prefix_caching=False, concurrency=ready.concurrency,
    )  # fmt: skip
    never = built.never_fits(ready.requests.input_tokens, ready.requests.output_tokens)
    total, most = ready.requests.input_tokens + ready.requests.output_tokens, ready.site.model.max_context
    if np.mean(total > most) > FEW:
        raise Skipped(f"cannot be run: {total.max()} tokens are beyond the {most} that the model reads")
    if never.mean() > FEW:
        raise DoesNotFit("a request is larger than the KV cache of a rank")
    for role in ready.deployment.roles:
        memory, sequences = room(role, ready.site), role.max_sequences
        need = CROWDED * sequences * ready.site.request.context
        if sequences > role.parallel.dp and np.min(memory.state_bytes_per_sequence) and np.min(memory.kv_tokens) < need:
            raise DoesNotFit(f"the states of {sequences} sequences leave no room for their KV cache")
    return _read(run(built, ready.requests), ready)


def _read(outcome: Outcome, ready: Case) -> Predicted:
    """Metrics as `vllm bench serve` computes them: per request, over the whole run."""
    point, done = ready.point, outcome.status == Status.COMPLETED
    first, end, outputs = outcome.first_token_s[done], outcome.end_s[done], outcome.output_tokens[done]
    ttft = first - outcome.arrival_s[done]
    several = outputs > 1
    tpot = (end - first)[several] / (outputs[several] - 1)
    taken, seconds = np.arange(len(end)), float(end.max() - outcome.arrival_s[done].min())
    if ready.steady:
        taken, seconds = _steady(outcome.scheduled_s[done], end)
    inputs = float(outcome.input_tokens[done][taken].sum())
    tokens = _counted(point.measured.counted, inputs, float(outputs[taken].sum()))
    middle = np.mean if point.measured.tpot_mean else np.median
    return Predicted(
        **_energy(
            used(ready.deployment.roles, outcome.pools, ready.site, float(end.max())),
            ready,
            float(outputs[taken].sum()) * ready.copies / seconds / point.devices,
        ),
        tpot=float(middle(tpot)) if len(tpot) else None,
        ttft=float(np.mean(ttft) if point.measured.ttft_mean else np.median(ttft)),
        rate=tokens * ready.copies / seconds / point.devices,
        batch=outcome.pools[-1].mean_batch,
        spread=ready.spread,
        frontier_spread=ready.frontier_spread,
        ttft_spread=ready.site.rates.ttft_spread,
    )


def _energy(roof_shares: Used, ready: Case, output_rate: float) -> dict[str, Any]:
    """Energy: power of a device / its output tokens per second. The errors of both count as independent."""
    watts, rates = roof_shares.watts(ready.site), ready.site.rates
    return {
        "used": roof_shares,
        "tdp": ready.site.machine.tdp,
        "energy": watts / output_rate if watts and output_rate else None,
        "energy_spread": combined_spread(ready.spread, number(rates.power.spread)),
    }


def _steady(scheduled: Floats, end: Floats) -> tuple[NDArray[np.intp], float]:
    """Requests that end while the queue is full, and the length of this time [s].

    The time starts at the first end, so that the start-up is left out. It has whole waves, each as large as the number
    of running requests. The last wave is left out, because the engine is no longer full.
    """
    order = np.argsort(end, kind="stable")
    running = int(np.count_nonzero(scheduled < end[order[0]]))
    waves = max(len(end) // running - 1, 0)
    if waves == 0:
        return order, float(end.max() - scheduled.min())
    taken = order[1 : waves * running + 1]
    return taken, float(end[taken[-1]] - end[order[0]])


def _counted(what: Counted, inputs: float, outputs: float) -> float:
    return {"total": inputs + outputs, "output": outputs, "input": inputs}[what]


def _one_step(ready: Case) -> Predicted:
    """Predict a point by one step: prefill of a number of tokens per device, or decode of a number of sequences."""
    point, role, site = ready.point, ready.deployment.roles[0], ready.site
    each = point.concurrency / (point.devices if point.load == "closed" else 1)
    amount = each * role.parallel.devices
    request = mean_of_requests([point.isl], [point.osl])
    if point.load == "tokens_per_device":
        load = batch(request, decode=0.0, prefill=amount, lanes=role.parallel.dp * role.parallel.pp)
    else:
        load = batch(request, decode=amount, prefill=0.0, lanes=role.parallel.dp * role.parallel.pp)
        if load.context > float(np.min(room(role, site).kv_tokens)):
            raise DoesNotFit(f"{each:g} sequences per device are larger than the KV cache")
    steps = [
        step.step(site.model, site.rates, Split.of(role), load, engine=site.engine, overlap=overlap)
        for overlap in (("none", "two-batch") if role.parallel.ep > 1 else ("none",))  # engines use the faster one
    ]
    fastest = min(steps, key=lambda one: float(one.seconds))
    seconds, (compute, hbm) = float(fastest.seconds), roof_use(fastest)
    gained = float(accepted_tokens(role.draft_tokens, site.rates.acceptance, site.rates.later_acceptance))
    if point.load == "tokens_per_device":
        return Predicted(rate=each / seconds, spread=ready.spread)
    rate = each * gained / seconds
    return Predicted(
        tpot=seconds / gained, rate=rate, spread=ready.spread, frontier_spread=ready.frontier_spread,
        **_energy(Used(float(compute), float(hbm)), ready, rate),
    )  # fmt: skip
