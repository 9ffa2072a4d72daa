"""A measured point as what is simulated: the machine that has such devices, the roles, and what the client sent."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from tokenworks.calibrate.case_machine import LINK, Skipped, assumed_links, machine_of
from tokenworks.calibrate.checkpoints import checkpoint, drafted
from tokenworks.calibrate.client import MOST_REQUESTS, requests_of
from tokenworks.calibrate.measured import Point, Worker
from tokenworks.costs.rates import rates
from tokenworks.costs.requests import mean_of_requests
from tokenworks.engine.types import Requests
from tokenworks.errors import SpecError, UnknownName
from tokenworks.simulation.steps import Site
from tokenworks.specs.calibration import Calibration, number
from tokenworks.specs.context import with_max_model_len
from tokenworks.specs.deployment import Deployment, EngineName, Parallel, Role
from tokenworks.specs.engine import Engine, find_engine
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model, weight_bytes

EAGER, EAGER_LAYER = ("transformers", "huggingface"), 0.6e-3
"""Engines that capture no graph, and what the host takes for a layer then [s]: assumed, some 50 launches and 15 modules
in Python, of 7 to 10 us each."""

LEAST_CHUNK = 256
"""No rank is given a smaller chunk where a point does not fit as engines are set by default; assumed [token]."""

WIDEST_TP, ROOM = 8, 0.7
"""Of a split that is not stated, both assumed: devices that share a layer at most, as many as a host has [count], and
the share of memory that weights may take [-]."""

LIMITED = ("closed", "poisson", "constant")
"""Loads in which the client keeps no more than `concurrency` requests in flight, where it says a number."""

FP8_BLOCK = 128
"""Rows and columns of a block that shares a scale, in DeepSeek's FP8 (arXiv:2412.19437, section 3.3) [count]."""


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


def case(point: Point, calibration: Calibration) -> Case:
    """The case of a point.

    Raises
    ------
    Skipped : a model, device or load that cannot be simulated
    """
    try:
        model = checkpoint(point.model, point.weights)
        model = with_max_model_len(model, point.deployment.max_model_len if point.deployment else None)
    except UnknownName:
        raise Skipped(f"not in the catalog: model {point.model}") from None
    except SpecError as error:
        raise Skipped(f"lacks numbers: {point.model}: {error.message}") from None
    assumed = [*point.assumed, *(note.removeprefix("assumed: ") for note in model.notes if "assumed" in note)]
    if point.drafts and not model.draft:
        model = drafted(model)
        assumed.append(f"a draft for {model.name}: one more layer like its last")
    on, engine = machine_of(point.device, point.workers), engine_of(point.engine)
    assumed += [f"{path} of {on.device}: {LINK[path]}" for path in assumed_links(on.name)]
    if engine.name != point.engine:
        eager = f", {1e3 * EAGER_LAYER:g} ms of host a layer" if number(engine.host_layer) == EAGER_LAYER else ""
        assumed.append(f"engine {point.engine} as {engine.name}{eager}")
    workers, copies = tuple(_split(worker, model, on, point) for worker in point.workers), 1
    for worker, given in zip(workers, point.workers, strict=True):
        if not given.stated:
            assumed.append(f"{given.role} on {given.devices} devices as {worker.count}x tp{worker.tp} dp{worker.dp}")
    if point.load == "offline" and len(workers) == 1:  # instances that share nothing are all alike
        workers, copies = (replace(workers[0], count=1),), workers[0].count
    requests = requests_of(point, engine, workers, copies)
    site = Site(
        model, on, engine, rates(on, calibration), mean_of_requests(requests.input_tokens, requests.output_tokens)
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


def engine_of(name: str) -> Engine:
    """The engine that is meant by a name; one that captures no graphs launches every step kernel by kernel."""
    found = find_engine(name)
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
    small = site.machine.hbm_bytes < number(engine.small_device)
    chunk = min(engine.chunk_tokens, int(number(engine.small_chunk))) if small else engine.chunk_tokens
    budget = max(chunk, each * width)
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
    """What the checkpoint or the engine asks for; a device without FP8 keeps 16 bits."""
    if "fp8" not in site.machine.peak:
        return "bf16"
    if site.engine.kv_dtype == "float-weights" and point.weights in ("fp8", "fp4"):
        return "fp8"
    return "fp8" if model.native_kv == "fp8" else "bf16"
