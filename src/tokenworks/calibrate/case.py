"""A measured point as what is simulated: the machine that has such devices, the roles, and what the client sent."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokenworks.arrays import Floats
from tokenworks.calibrate.checkpoints import checkpoint, drafted
from tokenworks.calibrate.measured import Point, Worker
from tokenworks.costs.rates import Rates, rates
from tokenworks.costs.requests import mean_of_requests
from tokenworks.engine.types import Requests
from tokenworks.errors import SpecError, UnknownName
from tokenworks.simulation.steps import Site
from tokenworks.specs import load
from tokenworks.specs.calibration import Calibration, number
from tokenworks.specs.compose import machine, parts, resolve
from tokenworks.specs.deployment import Deployment, EngineName, Parallel, Role
from tokenworks.specs.engine import Engine, engine_names, load_engine
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model, weight_bytes

ENGINES = {"atom": "atom", "trt": "trtllm", "tensorrt": "trtllm", "sglang": "sglang", "internal": "sglang"}
"""Words in the name of an engine that the catalog does not hold, and the one whose habits it is taken to have; vLLM's
where there is none of them."""

EAGER, EAGER_LAYER = ("transformers", "huggingface"), 0.6e-3
"""Engines that capture no graph, and what the host takes for a layer then [s]: assumed, some 50 launches and 15 modules
in Python, of 7 to 10 us each."""

LINK = {
    "device.scale_up.bandwidth": "32 GB/s", "device.nic": "25 GB/s", "scale_up.hop": "0.25 us",
    "scale_up.endpoint": "1 us",
}  # fmt: skip
NETWORK = "roce400"
"""What is assumed of links that nobody published, so that what was measured on such cards can be told: PCIe 4.0 x16,
an adapter that fits it, and Ethernet."""

SMALL, SMALL_CHUNK, LEAST_CHUNK = 70 * 2**30, 2048, 256
"""Devices with less memory than this [byte] get smaller chunks [token] (vllm/engine/arg_utils.py; SGLang alike)."""

UNIFORM = (0.8, 1.0)
"""InferenceX draws lengths uniformly between these shares of the nominal ones."""

WAVES = 10
"""InferenceX sends so many prompts for each that is in flight."""

MOST_REQUESTS = 20_000
LEAST_WAVES = 4

_SYSTEM = re.compile(r"([0-9]+x)?(" + "|".join(map(re.escape, load.catalog_names("system"))) + ")(@.+)?")

SECONDS = 600.0
"""How long requests come where a point does not say how many; the least that MLPerf inference asks for [s]."""

OFFLINE_WAVES = 4
"""Requests queued at once for each that an instance has a place for, where a point does not say how many."""

WIDEST_TP, ROOM = 8, 0.7
"""Of a split that is not stated: devices that share a layer at most, and the share of memory that weights may take."""

LIMITED = ("closed", "poisson", "constant")
"""Loads in which the client keeps no more than `concurrency` requests in flight, where it says a number."""

FP8_BLOCK = 128

DATASET_CV = 1.0
"""Variation of the lengths of a data set such as ShareGPT; assumed."""

SEED = 7


class Skipped(Exception):
    """A point that cannot be predicted: the kind of reason, a colon, and the reason."""


@dataclass(frozen=True, slots=True)
class Case:
    """One point, ready to be simulated.

    copies : equal instances of the point for each one here; assumed : what the point left open, and was taken for it
    steady : throughput is that of a queue which never runs dry
    """

    point: Point
    site: Site
    deployment: Deployment
    requests: Requests
    concurrency: int
    copies: int = 1
    steady: bool = False
    assumed: tuple[str, ...] = ()

    @property
    def spread(self) -> float:
        """Half of the 80 % interval of TPOT and throughput, as a factor [-]."""
        return self.site.rates.spread_of(max(role.draft_tokens for role in self.deployment.roles))

    def smaller(self) -> Case | None:
        """The same with less to hold: all of device memory, then half the running sequences and half the chunk."""
        changed = tuple(map(_smaller, self.deployment.roles))
        if changed == self.deployment.roles:
            return None
        return replace(self, deployment=self.deployment.model_copy(update={"roles": changed}))


def _smaller(role: Role) -> Role:
    if role.memory_fraction < 1:
        return role.model_copy(update={"memory_fraction": 1.0})
    ranks = role.parallel.dp
    sequences = max(ranks, role.max_sequences // 2)
    least = ranks * max(LEAST_CHUNK, math.ceil(sequences / ranks) * (1 + role.draft_tokens))
    chunk = max(least, role.chunk_tokens // 2)
    return role.model_copy(update={"max_sequences": sequences, "chunk_tokens": min(chunk, role.chunk_tokens)})


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
            raise Skipped(f"lacks numbers: {device}: {error.message}") from None
    names = systems_of(device)
    if not names:
        raise Skipped(f"not in the catalog: no system has the device {device}")
    system = load.load_system(names[-1] if device.startswith("gb") else names[0])
    domain = system.domain
    if sum(w.devices * w.count for w in workers) <= domain:
        hosts = 1
    else:
        hosts = sum(w.count * math.ceil(w.devices / domain) for w in workers if w.devices >= domain)
        small = [w.devices for w in workers for _ in range(w.count) if w.devices < domain]
        hosts += _packed(small, domain)
    count = max(1, math.ceil(hosts * domain / system.devices))
    on = f"{count}x{system.name}" if count > 1 else system.name
    if count > 1 and not system.network:
        on = f"{on}@{NETWORK}"
    try:
        return machine(on, assume={path: LINK[path] for path in _not_published(on)})
    except SpecError as error:
        raise Skipped(f"lacks numbers: {system.name}: {error.message}") from None


@functools.cache
def _not_published(on: str) -> tuple[str, ...]:
    """Numbers of the links of a machine that nobody published, and that are assumed here."""
    return tuple(path for path in resolve(parts(on))[1] if path in LINK)


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
        raise Skipped(f"not in the catalog: model {point.model}") from None
    except SpecError as error:
        raise Skipped(f"lacks numbers: {point.model}: {error.message}") from None
    assumed = [*point.assumed, *(note.removeprefix("assumed: ") for note in model.notes if "assumed" in note)]
    if point.drafts and not model.draft:
        model = drafted(model)
        assumed.append(f"a draft for {model.name}: one more layer like its last")
    on, engine = machine_of(point.device, point.workers), engine_of(point.engine)
    assumed += [f"{path} of {on.device}: {LINK[path]}" for path in _not_published(on.name)]
    if engine.name != point.engine:
        eager = f", {1e3 * EAGER_LAYER:g} ms of host a layer" if number(engine.host_layer) == EAGER_LAYER else ""
        assumed.append(f"engine {point.engine} as {engine.name}{eager}")
    workers, copies = tuple(_split(worker, model, on, point) for worker in point.workers), 1
    for worker, given in zip(workers, point.workers, strict=True):
        if not given.stated:
            assumed.append(f"{given.role} on {given.devices} devices as {worker.count}x tp{worker.tp} dp{worker.dp}")
    if point.load == "offline" and len(workers) == 1:  # instances that share nothing are all alike
        workers, copies = (replace(workers[0], count=1),), workers[0].count
    requests = _requests(point, engine, workers, copies)
    site = Site(
        model, on, engine, _rates(on, calibration), mean_of_requests(requests.input_tokens, requests.output_tokens)
    )  # fmt: skip
    deployment = point.deployment
    if deployment is None:
        roles = tuple(_role(point, worker, model, site, len(requests)) for worker in workers)
        name: EngineName = engine.name  # type: ignore[assignment]
        deployment = Deployment(model=model.name, system=on.name, engine=name, roles=roles)
    in_flight = max(point.load == "closed", round(point.concurrency)) if point.load in LIMITED else 0
    return Case(
        point, site, deployment, requests, in_flight,
        copies, point.load == "offline" and not 0 < point.requests <= copies * MOST_REQUESTS, tuple(assumed),
    )  # fmt: skip


def _split(worker: Worker, model: Model, on: Machine, point: Point) -> Worker:
    """A split for a worker whose point does not state one.

    Where throughput alone counts, the fewest devices that leave room for a KV cache, as often as there are devices;
    else all devices that may share a layer. A model with experts that needs more than those, or is told to use more,
    spreads them over all.
    """
    if worker.stated:
        return worker
    widths = [tp for tp in range(1, WIDEST_TP + 1) if worker.devices % tp == 0 and model.heads % tp == 0]
    least = weight_bytes(model) / (ROOM * on.hbm_bytes)
    wide = widths[-1]
    tp = next((width for width in widths if width >= least), wide) if point.load == "offline" else wide
    if max(least, worker.ep) > tp and any(block.experts for block in model.blocks):
        return replace(worker, tp=1, dp=worker.devices, ep=worker.devices)
    return replace(worker, tp=tp, devices=tp, ep=1, count=worker.count * worker.devices // tp)


_RATES: dict[tuple[str, int], tuple[Calibration, Rates]] = {}


def _rates(on: Machine, calibration: Calibration) -> Rates:
    """Rates of a machine, made once."""
    key = (on.name, id(calibration))
    if key not in _RATES:
        _RATES[key] = calibration, rates(on, calibration)
    return _RATES[key][1]


def engine_of(name: str) -> Engine:
    """The catalog's engine of that name, or the one whose habits an engine is taken to have."""
    if name in engine_names():
        return load_engine(name)
    found = load_engine(next((engine for word, engine in ENGINES.items() if word in name.lower()), "vllm"))
    if not any(word in name.lower() for word in EAGER):
        return found
    layer = found.host_layer.model_copy(update={"value": EAGER_LAYER, "status": "assumed"})
    return found.model_copy(
        update={"graph_tokens": found.graph_tokens.model_copy(update={"value": 0.0}), "host_layer": layer}
    )


def _role(point: Point, worker: Worker, model: Model, site: Site, requests: int) -> Role:
    """One role: places for all that may be in flight, a token budget for each dp rank."""
    engine, stage = site.engine, worker.tp * worker.dp
    experts = max((block.experts.count for block in model.blocks if block.experts), default=0)
    ep = _expert_groups(model, min(worker.ep, stage), stage) if experts else 1
    dp, count = worker.dp, worker.count
    if not experts and dp > 1:  # a dense model shares nothing between dp ranks: each is an instance
        dp, count = 1, worker.count * worker.dp
    ranks = dp * count
    flying = max(1.0, point.concurrency) if point.load == "closed" else min(requests, ranks * engine.max_sequences)
    width = 1 + point.drafts
    each = max(1, math.ceil(flying / ranks))
    small = site.machine.hbm_bytes < SMALL
    budget = max(min(engine.chunk_tokens, SMALL_CHUNK) if small else engine.chunk_tokens, each * width)
    return Role(
        name=worker.role if point.mode == "disagg" else "aggregated",
        parallel=Parallel(tp=worker.tp, pp=worker.pp, dp=dp, ep=ep, expert_tp=stage // ep if experts else 1),
        replicas=count,
        max_sequences=each * dp,
        chunk_tokens=budget * dp,
        kv_dtype=kv_dtype(point, model, site),
        redundant_experts=-experts % ep,
        draft_tokens=point.drafts,
        memory_fraction=number(engine.memory_fraction),
    )


def _expert_groups(model: Model, ep: int, stage: int) -> int:
    """As the point says; all devices where a slice of an expert would cut FP8 blocks, which no engine runs, or where
    those do not divide by it.
    """
    if stage % ep:
        return stage
    for block in model.blocks:
        if block.experts and any(m.part == "experts" and m.format.name == "fp8-block" for m in block.matrices):
            return ep if block.experts.intermediate % (FP8_BLOCK * (stage // ep)) == 0 else stage
    return ep


def kv_dtype(point: Point, model: Model, site: Site) -> Literal["bf16", "fp8"]:
    """What a checkpoint asks for; TensorRT-LLM keeps FP8 wherever weights are narrower than 16 bits.

    A device without FP8 keeps 16 bits.
    """
    if "fp8" not in site.machine.peak:
        return "bf16"
    if site.engine.name == "trtllm" and point.weights in ("fp8", "fp4"):
        return "fp8"
    return "fp8" if model.native_kv == "fp8" else "bf16"


# ── what the client sends ─────────────────────────────────────────────────────────────────────────────────────────


def _requests(point: Point, engine: Engine, workers: Sequence[Worker], copies: int) -> Requests:
    """As many as the benchmark sends, but enough for a steady state and few enough to be quick."""
    draw = np.random.default_rng(SEED)
    flying = max(1, round(point.concurrency))
    if point.load == "closed":
        waves = min(WAVES, max(LEAST_WAVES, MOST_REQUESTS // flying))
        count = max(2, point.requests or waves * flying)
        count = min(count, max(MOST_REQUESTS, LEAST_WAVES * flying))
    elif point.load == "offline":
        places = engine.max_sequences * sum(worker.dp * worker.count for worker in workers[-1:])
        count = max(2, point.requests // copies) if point.requests else OFFLINE_WAVES * places
        count = min(count, MOST_REQUESTS)
    else:
        count = min(point.requests or max(2, round(SECONDS * point.rate)), MOST_REQUESTS)
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
