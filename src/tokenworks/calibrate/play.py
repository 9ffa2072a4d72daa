"""Predict a measured point: its own load through the simulator, and what a client would have read off it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.calibrate.points import Counted, Point
from tokenworks.calibrate.setup import Case, Skipped, case
from tokenworks.costs import step
from tokenworks.costs.split import Split
from tokenworks.engine.engine import run
from tokenworks.engine.types import Outcome, Router, Status
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.plan.cluster import cluster
from tokenworks.plan.steady import accepted_tokens
from tokenworks.specs.calibration import Calibration

ALL = 1.0
"""Share of device memory that is given to a point which does not fit in the engine's usual share [-]."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was predicted of one point: tpot, ttft [s], rate [token/s per device] of the tokens that the point counts.

    batch : decoding sequences of an instance in a step, on average; of the last role
    spread : the 80 % interval is [x / spread, x spread]; why : the reason where nothing was predicted
    """

    tpot: float | None = None
    ttft: float | None = None
    rate: float | None = None
    batch: float = 0.0
    spread: float = 1.0
    why: str = ""


def predict(point: Point, calibration: Calibration) -> Predicted:
    """A point by the simulator in its own load; by one step where it measured prefill or decode alone."""
    try:
        made = case(point, calibration)
        if point.load in ("batch_per_device", "tokens_per_device"):
            return _one_step(made)
        try:
            return _simulated(made)
        except DoesNotFit:  # it ran: then the engine was given what it takes
            return _simulated(made.with_memory(ALL))
    except Skipped as reason:
        return Predicted(why=str(reason))
    except DoesNotFit as reason:
        return Predicted(why=f"does not fit: {reason}")
    except SpecError as reason:
        return Predicted(why=str(reason))


def _simulated(made: Case) -> Predicted:
    built = cluster(
        made.deployment, made.site, router=Router("least_loaded"), block_tokens=made.site.engine.kv_block,
        prefix_caching=False, concurrency=made.concurrency,
    )  # fmt: skip
    never = built.never_fits(made.requests.input_tokens, made.requests.output_tokens)
    if never.any():
        raise Skipped("a request is larger than the KV cache of a rank")
    return _read(run(built, made.requests), made)


def _read(outcome: Outcome, made: Case) -> Predicted:
    """As `vllm bench serve` reads it: per request, over the whole run."""
    point, done = made.point, outcome.status == Status.COMPLETED
    first, end, outputs = outcome.first_token_s[done], outcome.end_s[done], outcome.output_tokens[done]
    sent = 0.0 if point.load == "burst" else outcome.arrival_s[done]
    ttft = first - sent
    several = outputs > 1
    tpot = (end - first)[several] / (outputs[several] - 1)
    seconds = float(end.max() - outcome.arrival_s[done].min())
    tokens = _counted(point.measured.counted, float(outcome.input_tokens[done].sum()), float(outputs.sum()))
    middle = np.mean if point.measured.tpot_mean else np.median
    return Predicted(
        tpot=float(middle(tpot)) if len(tpot) else None,
        ttft=float(np.mean(ttft) if point.measured.ttft_mean else np.median(ttft)),
        rate=tokens / seconds / point.devices,
        batch=outcome.pools[-1].mean_batch,
        spread=made.site.rates.spread,
    )


def _counted(what: Counted, inputs: float, outputs: float) -> float:
    return {"total": inputs + outputs, "output": outputs, "input": inputs}[what]


def _one_step(made: Case) -> Predicted:
    """Prefill of so many tokens a device, or decode of so many sequences a device, in one step of all devices."""
    point, role, site = made.point, made.deployment.roles[0], made.site
    amount = point.concurrency * role.parallel.devices
    if point.load == "tokens_per_device":
        load = step.Load(prefill=amount, prefill_context=amount * point.isl / 2)
    else:
        load = step.Load(decode=amount, context=amount * (point.isl + point.osl / 2))
    found = step.step(site.model, site.rates, Split.of(role), load, engine=site.engine, overlap="two-batch")
    seconds, gained = float(found.seconds), float(accepted_tokens(role.draft_tokens, site.rates.acceptance))
    if point.load == "tokens_per_device":
        return Predicted(rate=point.concurrency / seconds, spread=site.rates.spread)
    return Predicted(tpot=seconds / gained, rate=point.concurrency * gained / seconds, spread=site.rates.spread)
