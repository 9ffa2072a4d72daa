"""Predict a measured point: its own load through the simulator, and what a client would have read off it."""

from __future__ import annotations

import math
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
from tokenworks.engine.simulator import run
from tokenworks.engine.types import Outcome, Router, Status
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.simulation.cluster import cluster, room
from tokenworks.simulation.energy import Used, used
from tokenworks.specs.calibration import Calibration, number

FEW = 0.02
"""Share of requests that may be refused for their length, the longest of those that are drawn; assumed [-]."""

CROWDED = 0.5
"""Share of the contexts of all running sequences that must find room beside their states; assumed [-]."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was predicted of one point: tpot, ttft [s], rate [token/s per device] of the tokens that the point counts.

    energy : of an output token [J], None where the TDP of the device is not published, or nothing is put out
    used, tdp : what it follows from: shares of time on the roofs [-], and [W]
    ttft_spread, energy_spread : as spread, of TTFT and of the energy
    batch : decoding sequences of an instance in a step, on average; of the last role
    spread : the 80 % interval is [x / spread, x spread]; why : the reason where nothing was predicted
    assumed : what the point left open, and was taken for it
    """

    tpot: float | None = None
    ttft: float | None = None
    rate: float | None = None
    energy: float | None = None
    used: Used | None = None
    tdp: float | None = None
    ttft_spread: float = 1.0
    energy_spread: float = 1.0
    batch: float = 0.0
    spread: float = 1.0
    why: str = ""
    assumed: tuple[str, ...] = ()

    def spread_of(self, metric: str) -> float:
        """Half of the 80 % interval of a metric, as a factor [-]."""
        return {"ttft": self.ttft_spread, "energy": self.energy_spread}.get(metric, self.spread)


def predict(point: Point, calibration: Calibration) -> Predicted:
    """A point by the simulator in its own load; by one step where it measured prefill or decode alone."""
    if point.lacks:
        return Predicted(why=f"the row is not complete: {point.lacks}")
    try:
        made = case(point, calibration)
        return replace(_fitted(made), assumed=made.assumed)
    except Skipped as reason:
        return Predicted(why=str(reason))
    except DoesNotFit as reason:
        return Predicted(why=f"does not fit: {reason}")
    except SpecError as reason:
        return Predicted(why=f"cannot be run: {reason}")


def _fitted(made: Case) -> Predicted:
    """It ran: so where it does not fit as engines are set by default, it was given what it takes."""
    point = made.point
    alone = point.load in ("batch_per_device", "tokens_per_device")
    alone |= point.mode == "decode_only" and point.load == "closed"
    play = _one_step if alone else _simulated
    while True:
        try:
            return play(made)
        except DoesNotFit:
            less = made.smaller()
            if less is None:
                raise
            made = less


def _simulated(made: Case) -> Predicted:
    built = cluster(
        made.deployment, made.site, router=Router("least_loaded"), block_tokens=made.site.engine.kv_block,
        prefix_caching=False, concurrency=made.concurrency,
    )  # fmt: skip
    never = built.never_fits(made.requests.input_tokens, made.requests.output_tokens)
    total, most = made.requests.input_tokens + made.requests.output_tokens, made.site.model.max_context
    if np.mean(total > most) > FEW:
        raise Skipped(f"cannot be run: {total.max()} tokens are beyond the {most} that it reads")
    if never.mean() > FEW:
        raise DoesNotFit("a request is larger than the KV cache of a rank")
    for role in made.deployment.roles:
        found, sequences = room(role, made.site), role.max_sequences
        need = CROWDED * sequences * made.site.request.context
        if sequences > role.parallel.dp and np.min(found.state_bytes_per_sequence) and np.min(found.kv_tokens) < need:
            raise DoesNotFit(f"the states of {sequences} sequences leave no room for their KV cache")
    return _read(run(built, made.requests), made)


def _read(outcome: Outcome, made: Case) -> Predicted:
    """As `vllm bench serve` reads it: per request, over the whole run."""
    point, done = made.point, outcome.status == Status.COMPLETED
    first, end, outputs = outcome.first_token_s[done], outcome.end_s[done], outcome.output_tokens[done]
    sent = 0.0 if point.load == "burst" else outcome.arrival_s[done]
    ttft = first - sent
    several = outputs > 1
    tpot = (end - first)[several] / (outputs[several] - 1)
    taken, seconds = np.arange(len(end)), float(end.max() - outcome.arrival_s[done].min())
    if made.steady:
        taken, seconds = _steady(outcome.scheduled_s[done], end)
    inputs = float(outcome.input_tokens[done][taken].sum())
    tokens = _counted(point.measured.counted, inputs, float(outputs[taken].sum()))
    middle = np.mean if point.measured.tpot_mean else np.median
    return Predicted(
        **_energy(
            used(made.deployment.roles, outcome.pools, made.site, float(end.max())),
            made,
            float(outputs[taken].sum()) * made.copies / seconds / point.devices,
        ),
        tpot=float(middle(tpot)) if len(tpot) else None,
        ttft=float(np.mean(ttft) if point.measured.ttft_mean else np.median(ttft)),
        rate=tokens * made.copies / seconds / point.devices,
        batch=outcome.pools[-1].mean_batch,
        spread=made.spread,
        ttft_spread=made.site.rates.ttft_spread,
    )


def _energy(found: Used, made: Case, output_rate: float) -> dict[str, Any]:
    """Power of a device over its output tokens [token/s]; the intervals of both together, as if independent."""
    watts, rates = found.watts(made.site), made.site.rates
    return {
        "used": found,
        "tdp": made.site.machine.tdp,
        "energy": watts / output_rate if watts and output_rate else None,
        "energy_spread": math.exp(math.hypot(math.log(made.spread), math.log(number(rates.power.spread)))),
    }


def _steady(scheduled: Floats, end: Floats) -> tuple[NDArray[np.intp], float]:
    """Requests that end while a queue is full, and in how long [s]: whole waves of those that run at once.

    From the first end on, so that filling is left out; the last wave, in which the engine drains, is left out, too.
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


def _one_step(made: Case) -> Predicted:
    """Prefill of so many tokens a device, or decode of so many sequences a device (or in all), in one step."""
    point, role, site = made.point, made.deployment.roles[0], made.site
    each = point.concurrency / (point.devices if point.load == "closed" else 1)
    amount = each * role.parallel.devices
    request = mean_of_requests([point.isl], [point.osl])
    if point.load == "tokens_per_device":
        load = batch(request, decode=0.0, prefill=amount, lanes=role.parallel.dp * role.parallel.pp)
    else:
        load = batch(request, decode=amount, prefill=0.0, lanes=role.parallel.dp * role.parallel.pp)
        if load.context > float(np.min(room(role, site).kv_tokens)):
            raise DoesNotFit(f"{each:g} sequences a device are larger than the KV cache")
    steps = [
        step.step(site.model, site.rates, Split.of(role), load, engine=site.engine, overlap=overlap)
        for overlap in (("none", "two-batch") if role.parallel.ep > 1 else ("none",))  # turned on where it pays
    ]
    found = min(steps, key=lambda found: float(found.seconds))
    seconds, (compute, hbm) = float(found.seconds), roof_use(found)
    gained = float(accepted_tokens(role.draft_tokens, site.rates.acceptance))
    if point.load == "tokens_per_device":
        return Predicted(rate=each / seconds, spread=made.spread)
    rate = each * gained / seconds
    return Predicted(
        tpot=seconds / gained, rate=rate, spread=made.spread,
        **_energy(Used(float(compute), float(hbm)), made, rate),
    )  # fmt: skip
