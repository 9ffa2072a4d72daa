"""A measured point as what is simulated: the machine that has such devices, the roles, and what the client sent."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokenworks.calibrate.checkpoints import checkpoint
from tokenworks.calibrate.points import Point, Worker
from tokenworks.costs.arrays import Floats
from tokenworks.costs.rates import Rates, rates
from tokenworks.engine.types import Requests
from tokenworks.errors import SpecError, UnknownName
from tokenworks.plan.cluster import Around, Site
from tokenworks.specs import load
from tokenworks.specs.calibration import Calibration, number
from tokenworks.specs.compose import machine
from tokenworks.specs.deployment import Deployment, EngineName, Parallel, Role
from tokenworks.specs.engine import Engine, engine_names, load_engine
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model

ENGINES = {"atom": "vllm", "atom-disagg": "vllm", "deepseek-internal": "sglang"}
"""Engines that the catalog does not hold, and the one whose habits they are taken to have."""

UNIFORM = (0.8, 1.0)
"""InferenceX draws lengths uniformly between these shares of the nominal ones."""

WAVES = 10
"""InferenceX sends so many prompts for each that is in flight."""

MOST_REQUESTS = 20_000
LEAST_WAVES = 4

_SYSTEM = re.compile(r"([0-9]+x)?(" + "|".join(map(re.escape, load.catalog_names("system"))) + ")(@.+)?")

OFFLINE = 2_000
"""Requests that are queued at once where a point does not say how many."""

LIMITED = ("closed", "poisson", "constant")
"""Loads in which the client keeps no more than `concurrency` requests in flight, where it says a number."""

FP8_BLOCK = 128

DATASET_CV = 1.0
"""Variation of the lengths of a data set such as ShareGPT; assumed."""

SEED = 7


class Skipped(Exception):
    """A point that cannot be predicted, with the reason in words that group."""


@dataclass(frozen=True, slots=True)
class Case:
    """One point, ready to be simulated."""

    point: Point
    site: Site
    deployment: Deployment
    requests: Requests
    concurrency: int

    def with_memory(self, fraction: float) -> Case:
        """The same with another share of device memory."""
        roles = tuple(role.model_copy(update={"memory_fraction": fraction}) for role in self.deployment.roles)
        return replace(self, deployment=self.deployment.model_copy(update={"roles": roles}))


@functools.cache
def systems_of(device: str) -> tuple[str, ...]:
    """Catalog systems that hold a device, smallest first."""
    found = []
    for name in load.catalog_names("system"):
        system = load.load_system(name)
        if system.device == device:
            found.append((system.devices, name))
    return tuple(name for _, name in sorted(found))


@functools.cache
def machine_of(device: str, workers: tuple[Worker, ...]) -> Machine:
    """Enough hosts (or supernodes) of a device for all workers; or the machine itself, where a system is named.

    A worker of up to a host's size lies in one host.
    """
    if load.is_path(device) or (_SYSTEM.fullmatch(device) and device not in load.catalog_names("device")):
        try:
            return machine(device)
        except SpecError as error:
            raise Skipped(f"{device}: {error.message}") from None
    names = systems_of(device)
    if not names:
        raise Skipped(f"no system of the catalog has the device {device}")
    system = load.load_system(names[-1] if device.startswith("gb") else names[0])
    domain = system.domain
    if sum(w.devices * w.count for w in workers) <= domain:
        hosts = 1
    else:
        hosts = sum(w.count * math.ceil(w.devices / domain) for w in workers if w.devices >= domain)
        small = [w.devices for w in workers for _ in range(w.count) if w.devices < domain]
        hosts += _packed(small, domain)
    count = max(1, math.ceil(hosts * domain / system.devices))
    try:
        return machine(f"{count}x{system.name}" if count > 1 else system.name)
    except SpecError as error:
        raise Skipped(f"{system.name}: {error.message}") from None


def _packed(sizes: list[int], domain: int) -> int:
    """Hosts that hold instances which do not fill one, first fit [count]."""
    free: list[int] = []
    for size in sorted(sizes, reverse=True):
        for i, room in enumerate(free):
            if room >= size:
                free[i] -= size
                break
        else:
            free.append(domain - size)
    return len(free)


def case(point: Point, calibration: Calibration) -> Case:
    """The case of a point.

    Raises
    ------
    Skipped : a model, device or load that cannot be simulated
    """
    try:
        model = checkpoint(point.model, point.weights)
    except UnknownName:
        raise Skipped(f"model {point.model} is not in the catalog") from None
    except SpecError as error:
        raise Skipped(f"{point.model}: {error.message}") from None
    if point.drafts and not model.draft:
        raise Skipped(f"{model.name} brings no draft layers, and the point speculates")
    on, engine = machine_of(point.device, point.workers), engine_of(point.engine)
    requests = _requests(point, engine)
    in_flight = int(point.concurrency) if point.load in LIMITED else 0
    site = Site(
        model, on, engine, _rates(on, calibration), Around.of(requests.input_tokens, requests.output_tokens)
    )  # fmt: skip
    if point.deployment:
        return Case(point, site, point.deployment, requests, in_flight)
    roles = tuple(_role(point, worker, model, engine, len(requests)) for worker in point.workers)
    name: EngineName = engine.name  # type: ignore[assignment]
    deployment = Deployment(model=model.name, system=on.name, engine=name, roles=roles)
    return Case(point, site, deployment, requests, in_flight)


_RATES: dict[tuple[str, int], tuple[Calibration, Rates]] = {}


def _rates(on: Machine, calibration: Calibration) -> Rates:
    """Rates of a machine, made once."""
    key = (on.name, id(calibration))
    if key not in _RATES:
        _RATES[key] = calibration, rates(on, calibration)
    return _RATES[key][1]


def engine_of(name: str) -> Engine:
    """The catalog's engine of that name, or the one whose habits an engine is taken to have; else vLLM's."""
    known = engine_names()
    return load_engine(name if name in known else ENGINES.get(name, "vllm"))


def _role(point: Point, worker: Worker, model: Model, engine: Engine, requests: int) -> Role:
    """One role: places for all that may be in flight, a token budget for each dp rank."""
    stage = worker.tp * worker.dp
    experts = max((block.experts.count for block in model.blocks if block.experts), default=0)
    ep = _expert_groups(model, min(worker.ep, stage), stage) if experts else 1
    dp, count = worker.dp, worker.count
    if not experts and dp > 1:  # a dense model shares nothing between dp ranks: each is an instance
        dp, count = 1, worker.count * worker.dp
    ranks = dp * count
    flying = point.concurrency if point.load == "closed" else min(requests, ranks * engine.max_sequences)
    width = 1 + point.drafts
    each = max(1, math.ceil(flying / ranks))
    budget = max(engine.chunk_tokens, each * width)
    return Role(
        name=worker.role if point.mode == "disagg" else "aggregated",
        parallel=Parallel(tp=worker.tp, pp=worker.pp, dp=dp, ep=ep, expert_tp=stage // ep if experts else 1),
        replicas=count,
        max_sequences=each * dp,
        chunk_tokens=budget * dp,
        kv_dtype=kv_dtype(point, model),
        redundant_experts=-experts % ep,
        draft_tokens=point.drafts,
        memory_fraction=number(engine.memory_fraction),
    )


def _expert_groups(model: Model, ep: int, stage: int) -> int:
    """As the point says; all devices where a slice of an expert would cut FP8 blocks, which no engine runs."""
    for block in model.blocks:
        if block.experts and any(m.part == "experts" and m.format.name == "fp8-block" for m in block.matrices):
            return ep if block.experts.intermediate % (FP8_BLOCK * (stage // ep)) == 0 else stage
    return ep


def kv_dtype(point: Point, model: Model) -> Literal["bf16", "fp8"]:
    """What a checkpoint asks for; TensorRT-LLM keeps FP8 wherever weights are narrower than 16 bits."""
    if point.engine == "trtllm" and point.weights in ("fp8", "fp4"):
        return "fp8"
    return "fp8" if model.native_kv == "fp8" else "bf16"


# ── what the client sends ─────────────────────────────────────────────────────────────────────────────────────────


def _requests(point: Point, engine: Engine) -> Requests:
    """As many as the benchmark sends, but enough for a steady state and few enough to be quick."""
    draw = np.random.default_rng(SEED)
    if point.load == "closed":
        waves = min(WAVES, max(LEAST_WAVES, MOST_REQUESTS // int(point.concurrency)))
        count = max(2, point.requests or int(waves * point.concurrency))
        count = min(count, max(MOST_REQUESTS, int(LEAST_WAVES * point.concurrency)))
    else:
        count = min(point.requests or OFFLINE, MOST_REQUESTS)
    arrival = np.zeros(count)
    if point.load == "burst":  # sent at once, taken in one after the other
        arrival = np.linspace(0.0, (count - 1) * number(engine.admission), count)
    if point.load == "poisson":
        arrival = np.cumsum(draw.exponential(1 / point.rate, count))
    if point.load == "constant":
        arrival = np.arange(count) / point.rate
    known = point.variation or (None, None)
    inputs, outputs = (
        _lengths(point, mean, each, count, draw) for mean, each in zip((point.isl, point.osl), known, strict=True)
    )
    return Requests.of(arrival, inputs, outputs)


def _lengths(
    point: Point, mean: float, variation: float | None, count: int, draw: np.random.Generator
) -> NDArray[np.int32]:
    """As varied as is known; else uniform where the mean lies below the nominal length, varied as a data set's where it
    is no round number, or equal.
    """
    if variation is not None:
        drawn = _lognormal(mean, variation, count, draw)
    elif point.nominal_isl > 1.02 * point.isl:
        nominal = mean / (sum(UNIFORM) / 2)
        drawn = draw.uniform(UNIFORM[0] * nominal, UNIFORM[1] * nominal, count)
    elif point.isl != round(point.isl) and mean > 1:
        drawn = _lognormal(mean, DATASET_CV, count, draw)
    else:
        drawn = np.full(count, mean)
    return np.maximum(1, np.round(drawn)).astype(np.int32)


def _lognormal(mean: float, variation: float, count: int, draw: np.random.Generator) -> Floats:
    """Positive, and skewed as lengths are; exactly the mean over all."""
    spread = math.sqrt(math.log1p(variation**2))
    drawn = draw.lognormal(math.log(mean) - spread**2 / 2, spread, count)
    return np.asarray(drawn * (mean / drawn.mean()))
