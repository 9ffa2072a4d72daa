"""The expert-parallel ranks of a role, and when its engine moves experts (EPLB)."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.simulation.popularity import routed
from tokenworks.simulation.steps import Site
from tokenworks.specs.deployment import Deployment, EngineName, Eplb, Role

WINDOWS: dict[str, int] = {"vllm": 1000}
"""Engine -> steps whose counts decide, if the deployment does not say it (vLLM 0.33.0: window_size); other engines use
all steps since the last rebalance [count]."""
STEPS: dict[str, int] = {"vllm": 3000}
"""Engine -> steps between two rebalances, if the deployment does not say it (vLLM 0.33.0: step_interval) [count]."""
OTHER_STEPS = 1000
"""The same number of other engines (SGLang 0.5.23: --eplb-rebalance-num-iterations) [count]."""
BACKGROUND: tuple[EngineName, ...] = ("vllm",)
"""Engines whose steps run while copies are moved, if the deployment does not say it (vLLM 0.33.0: use_async)."""


@dataclass(frozen=True, slots=True)
class Group:
    """The expert-parallel ranks of the instances of one role.

    Parameters
    ----------
    name : name of the role
    pool : number of its pool
    instances : numbers of its instances in the engine
    ep, redundant : expert-parallel ranks, and redundant copies [count]
    domain, hosts : ranks in a scale-up domain, and hosts of an instance [count]
    size : weights of one expert in one layer on one device [byte]
    slices : devices that share one expert [count]
    eplb : when it moves experts, with the numbers of the engine filled in; None: never
    """

    name: str
    pool: int
    instances: range
    ep: int
    redundant: int
    domain: int
    hosts: int
    size: float
    slices: int
    eplb: Eplb | None


def group_of(role: Role, pool: int, first: int, site: Site, engine: EngineName) -> Group | None:
    """The expert-parallel ranks of a role; None if each rank has all experts.

    Parameters
    ----------
    role : the role
    pool : number of its pool
    first : number of its first instance in the engine
    site : model and machine
    engine : the serving engine
    """
    wide = role.parallel
    if wide.ep == 1:
        return None
    experts, _ = routed(site.model)
    matrices = next(block.matrices for block in site.model.blocks if block.experts)
    size = sum(one.stored / experts.count for one in matrices if one.part == "experts") / wide.expert_tp
    hosts = max(1, -(-wide.ep * wide.expert_tp // site.machine.host.devices))
    domain = max(1, site.machine.domain // wide.expert_tp)
    return Group(role.name, pool, range(first, first + role.replicas), wide.ep, role.redundant_experts, domain, hosts,
                 size, wide.expert_tp, settled(role, engine))  # fmt: skip


def settled(role: Role, engine: EngineName) -> Eplb | None:
    """When a role moves its experts, with the defaults of the engine. Redundant experts alone turn EPLB on.

    Parameters
    ----------
    role : the role
    engine : the serving engine
    """
    eplb = role.eplb
    if eplb is None:
        if not role.redundant_experts:
            return None
        eplb = Eplb(every_steps=STEPS.get(engine, OTHER_STEPS))
    window = eplb.window_steps or WINDOWS.get(engine, eplb.every_steps)
    hidden = engine in BACKGROUND if eplb.in_background is None else eplb.in_background
    return eplb.model_copy(update={"window_steps": min(window, eplb.every_steps), "in_background": hidden})


def expert_notes(deployment: Deployment) -> tuple[str, ...]:
    """Sentences on the experts of a deployment for the reader of a result.

    Parameters
    ----------
    deployment : the deployment
    """
    notes = []
    for role in deployment.roles:
        if role.parallel.ep == 1:
            continue
        eplb = settled(role, deployment.engine)
        if eplb is None:
            notes.append(f"{role.name}: experts stay in their first places; eplb moves them")
            continue
        if role.eplb is None:
            notes.append(
                f"{role.name}: redundant experts turn EPLB on; it acts every {eplb.every_steps:,} steps, which is the "
                f"default of the engine"
            )
        if not role.redundant_experts:
            notes.append(f"{role.name}: EPLB without redundant experts moves experts, and copies none")
    return tuple(notes)
