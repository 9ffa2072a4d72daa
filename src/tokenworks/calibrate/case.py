"""Turn a measured point into a case that can be simulated: the machine, the roles, and the requests of the client."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from tokenworks.calibrate.case_machine import LINK, Skipped, assumed_links, machine_of
from tokenworks.calibrate.checkpoints import checkpoint, drafted
from tokenworks.calibrate.client import MOST_REQUESTS, requests_of
from tokenworks.calibrate.measured import Point, Worker
from tokenworks.costs.rates import rates, with_engine
from tokenworks.costs.requests import mean_of_requests
from tokenworks.engine.types import Requests
from tokenworks.errors import SpecError, UnknownName
from tokenworks.simulation.steps import Site
from tokenworks.specs.calibration import Calibration, number
from tokenworks.specs.context import with_max_model_len
from tokenworks.specs.deployment import Deployment, EngineName, Parallel, Role
from tokenworks.specs.engine import Engine, Recipe, find_engine
from tokenworks.specs.model import Model

EAGER, EAGER_LAYER = ("transformers", "huggingface"), 0.6e-3
"""Engines without CUDA graphs, and their host time per layer [s]. Assumed: about 50 launches and 15 Python modules,
7 to 10 us each."""

FEW_SEQUENCES = 64
"""Sequences that a server for a burst, a rate or a queue has at least; chosen [count]."""

LEAST_CHUNK = 256
"""Smallest token budget of a rank, when the settings of a point are reduced until it fits; assumed [token]."""

LIMITED = ("closed", "poisson", "constant")
"""Loads in which the client keeps at most `concurrency` requests in flight, if the point states this number."""

FP8_BLOCK = 128
"""Rows and columns of a block with one scale in DeepSeek's FP8 (arXiv:2412.19437, section 3.3) [count]."""


@dataclass(frozen=True, slots=True)
class Case:
    """One measured point, ready for a simulation.

    Parameters
    ----------
    point : the measured point
    site : model, machine, engine and mean request
    deployment : the roles and their settings
    requests : the requests that the client sends
    concurrency : requests in flight at most, 0 = no limit [count]
    copies : instances of the point that one simulated instance stands for [count]
    steady : whether throughput is measured only while the queue is full
    assumed : what the point does not state, and the values used instead
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

    @property
    def frontier_spread(self) -> float:
        """Half of the 80 % interval of throughput at a given speed per user, as a factor [-]."""
        return self.site.rates.throughput_spread(max(role.draft_tokens for role in self.deployment.roles))

    def smaller(self) -> Case | None:
        """The case with smaller memory needs; None if nothing can be reduced further.

        First, sequences are halved that a closed loop never has in flight, and sequences of other loads down to
        `FEW_SEQUENCES`: the profile of an engine needs memory for each. Then all device memory is allowed. Last,
        sequences and chunk are halved. So a server that barely starts has a small cache.
        """
        flying = self.point.concurrency if self.point.load == "closed" else FEW_SEQUENCES
        changed = tuple(_smaller(role, flying / role.replicas) for role in self.deployment.roles)
        if changed == self.deployment.roles:
            return None
        return replace(self, deployment=self.deployment.model_copy(update={"roles": changed}))


def _smaller(role: Role, flying: float) -> Role:
    ranks = role.parallel.dp
    sequences = max(ranks, role.max_sequences // 2)
    if flying <= sequences < role.max_sequences:
        return role.model_copy(update={"max_sequences": sequences})
    if role.memory_fraction < 1:
        return role.model_copy(update={"memory_fraction": 1.0})
    least = ranks * max(LEAST_CHUNK, math.ceil(sequences / ranks) * (1 + role.draft_tokens))
    chunk = max(least, role.chunk_tokens // 2)
    return role.model_copy(update={"max_sequences": sequences, "chunk_tokens": min(chunk, role.chunk_tokens)})


def case(point: Point, calibration: Calibration) -> Case:
    """The case of a measured point.

    Parameters
    ----------
    point : the measured point
    calibration : calibration of the simulation

    Raises
    ------
    Skipped : the model, the device or the load cannot be simulated
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
    on = machine_of(point.device, point.workers)
    engine = engine_of(point.engine, on.family)
    recipe = recipe_of(point, engine)
    if recipe:
        point = replace(point, variation=point.variation or recipe.variation)
        own = {"receive_interval": recipe.receive_interval, "max_sequences": recipe.max_sequences}
        engine = engine.model_copy(update={name: value for name, value in own.items() if value is not None})
    assumed += [f"{path} of {on.device}: {LINK[path]}" for path in assumed_links(on.name)]
    if engine.name != point.engine:
        eager = f", {1e3 * EAGER_LAYER:g} ms of host time per layer" if number(engine.host_layer) == EAGER_LAYER else ""
        assumed.append(f"engine {point.engine} as {engine.name}{eager}")
    workers, copies = point.workers, 1
    if point.load == "offline" and len(workers) == 1:  # instances that share nothing behave equally: simulate one
        workers, copies = (replace(workers[0], count=1),), workers[0].count
    requests = requests_of(point, engine, workers, copies)
    site = Site(
        model, on, engine, with_engine(rates(on, calibration), engine, model),
        mean_of_requests(requests.input_tokens, requests.output_tokens),
    )  # fmt: skip
    deployment = point.deployment
    if deployment is None:
        roles = tuple(_role(point, worker, site, len(requests), recipe) for worker in workers)
        name: EngineName = engine.name  # type: ignore[assignment]
        deployment = Deployment(model=model.name, system=on.name, engine=name, roles=roles)
    in_flight = max(int(point.load == "closed"), round(point.concurrency)) if point.load in LIMITED else 0
    return Case(
        point, site, deployment, requests, in_flight,
        copies, point.load == "offline" and not 0 < point.requests <= copies * MOST_REQUESTS, tuple(assumed),
    )  # fmt: skip


def engine_of(name: str, family: str = "") -> Engine:
    """The engine for the name in a measured point.

    An engine without CUDA graphs launches the kernels of every step one by one. An engine that the catalog does not
    know is the vendor's own, written for the device: it has not the launch times of a port.

    Parameters
    ----------
    name : name of the engine in the point, such as `vllm` or `transformers`
    family : family of the devices
    """
    engine = find_engine(name)
    if any(word in name.lower() for word in engine.aliases):
        engine = engine.on(family)
    if not any(word in name.lower() for word in EAGER):
        return engine
    layer = engine.host_layer.model_copy(update={"value": EAGER_LAYER, "status": "assumed"})
    return engine.model_copy(
        update={"graph_tokens": engine.graph_tokens.model_copy(update={"value": 0.0}), "host_layer": layer}
    )


def recipe_of(point: Point, engine: Engine) -> Recipe | None:
    """What the files of the benchmark of a point say of it; None if they say nothing.

    Parameters
    ----------
    point : the measured point
    engine : the serving engine
    """
    first = point.workers[0]
    for recipe in engine.recipes:
        same = point.group == recipe.group and point.device in recipe.devices and point.model in recipe.models
        same &= point.weights in (recipe.weights or (point.weights,))
        same &= recipe.disaggregated == (point.mode == "disagg") and first.role != "decode"
        same &= recipe.drafts in (None, point.drafts > 0) and recipe.dp in (None, first.dp > 1)
        if same and point.nominal_isl >= recipe.isl and max(1.0, point.concurrency) >= recipe.concurrency:
            return recipe
    return None


def _role(point: Point, worker: Worker, site: Site, requests: int, recipe: Recipe | None) -> Role:
    """One role: sequence slots for all requests in flight, and a token budget for each dp rank.

    The settings of a recipe count where they matter: sequences where decoding, chunk where prefilling.
    """
    model, engine, stage = site.model, site.engine, worker.tp * worker.dp
    experts = max((block.experts.count for block in model.blocks if block.experts), default=0)
    ep = _expert_groups(model, min(worker.ep, stage), stage) if experts else 1
    dp, count = worker.dp, worker.count
    if not experts and dp > 1:  # dp ranks of a dense model share nothing: each rank is an instance
        dp, count = 1, worker.count * worker.dp
    ranks = dp * count
    flying = max(1.0, point.concurrency) if point.load == "closed" else min(requests, ranks * engine.max_sequences)
    width = 1 + point.drafts
    each = max(1, math.ceil(flying / ranks))
    small = site.machine.hbm_bytes < number(engine.small_device)
    chunk = min(engine.chunk_tokens, int(number(engine.small_chunk))) if small else engine.chunk_tokens
    most = recipe.max_sequences if recipe and worker.role != "prefill" else None
    stated = recipe.chunk_of(dp) if recipe and worker.role != "decode" else None
    each, chunk = min(each, most or each), stated or chunk
    if worker.role == "prefill":  # requests that wait for a step take no part of its budget
        each = min(each, max(1, chunk // width))
    budget = max(chunk, each * width)
    return Role(
        name=worker.role if point.mode == "disagg" else "aggregated",
        parallel=Parallel(tp=worker.tp, pp=worker.pp, dp=dp, ep=ep, expert_tp=stage // ep if experts else 1),
        replicas=count,
        max_sequences=each * dp,
        chunk_tokens=budget * dp,
        kv_dtype=(recipe and recipe.kv_dtype) or kv_dtype(point, model, site),
        redundant_experts=-experts % ep,
        draft_tokens=point.drafts,
        memory_fraction=number(engine.memory_fraction),
    )


def _expert_groups(model: Model, ep: int, stage: int) -> int:
    """Expert parallel groups of a stage: the number in the point, if it is possible; else one group per device.

    It is impossible if it does not divide the devices, or if a slice of an expert would cut FP8 blocks.
    """
    if stage % ep:
        return stage
    for block in model.blocks:
        if block.experts and any(m.part == "experts" and m.format.name == "fp8-block" for m in block.matrices):
            return ep if block.experts.intermediate % (FP8_BLOCK * (stage // ep)) == 0 else stage
    return ep


def kv_dtype(point: Point, model: Model, site: Site) -> Literal["bf16", "fp8"]:
    """The KV dtype that recipes of the engine or the checkpoint ask for; bf16 on a device without FP8.

    Parameters
    ----------
    point : the measured point, with the dtype of its weights
    model : the checkpoint
    site : machine and engine
    """
    if "fp8" not in site.machine.peak:
        return "bf16"
    if site.machine.family.startswith(site.engine.fp8_kv) and point.weights in ("fp8", "fp4"):
        return "fp8"
    return "fp8" if model.native_kv == "fp8" else "bf16"
