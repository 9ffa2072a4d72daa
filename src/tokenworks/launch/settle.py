"""A deployment as an engine can run it: open fields are filled, and every change has a note."""

from __future__ import annotations

from tokenworks.errors import SpecError
from tokenworks.launch import sglang, vllm
from tokenworks.launch.dialect import Dialect
from tokenworks.launch.sglang import BALANCE, SHORTEST
from tokenworks.launch.target import LaunchTarget
from tokenworks.launch.tiers import settled_tiers
from tokenworks.specs.deployment import Deployment, EngineName, Eplb, Role, RouterName
from tokenworks.specs.scheduling import NO_AGE, Scheduling

PAGE = 64
"""The chunk of a rank of SGLang is a multiple of this, so that it is a multiple of any page size up to it [token]."""


def settled(
    deployment: Deployment, target: LaunchTarget, dialect: Dialect, *, shares_prefixes: bool = False
) -> tuple[Deployment, list[str]]:
    """A deployment as the dialect can run it.

    Parameters
    ----------
    deployment : the deployment
    target : model, machine and engine
    dialect : version of the engine
    shares_prefixes : whether requests share prefixes; it decides the router of a deployment without one

    Returns
    -------
    The deployment, and one note for each change that a prediction may depend on.

    Raises
    ------
    SpecError : the engine of the dialect is not the engine of the deployment, or cannot express it
    DoesNotFit : KV tiers are larger than the machine
    """
    must_be_of(dialect, deployment.engine)
    notes: list[str] = []
    roles = tuple(_divided(role, deployment, dialect, notes) for role in deployment.roles)
    router = _router(deployment, notes, shares_prefixes=shares_prefixes)
    per_host = deployment.devices_per_host or target.machine.host.devices
    scheduling = _scheduling(deployment.scheduling, dialect, notes)
    changed = deployment.model_copy(
        update={"roles": roles, "router": router, "devices_per_host": per_host, "scheduling": scheduling}
    )
    if len(roles) == 2 and roles[0].kv_dtype != roles[1].kv_dtype:
        hint = "set the same kv_dtype for both roles"
        raise SpecError(
            f"prefill stores {roles[0].kv_dtype}, decode {roles[1].kv_dtype}", where="roles: kv_dtype", hint=hint
        )
    return settled_tiers(_resilient(changed, dialect, notes), target, dialect, notes), notes


def _resilient(deployment: Deployment, dialect: Dialect, notes: list[str]) -> Deployment:
    """What the deployment does after a failure, as the dialect can run it: what no flag says is left out, with a note.

    Parameters
    ----------
    deployment : the deployment
    dialect : version of the engine
    notes : gets the notes
    """
    changes: dict[str, object] = {}
    if deployment.on_loss != "fail":
        notes.append(
            f"on_loss: no flag of {dialect.title} sends the requests of a failed rank again, so they fail; a front end "
            "that does it is NVIDIA Dynamo (--migration-limit)"
        )
        changes |= {"on_loss": "fail", "retries": None}
    if deployment.elastic_ep and not any(dialect.has(flag) for flag in ELASTIC_FLAGS):
        notes.append(f"elastic_ep: {dialect.title} has no flag for it; an instance stops with each of its ranks")
        changes["elastic_ep"] = False
    elif deployment.elastic_ep:
        steps = (vllm if dialect.engine == "vllm" else sglang).EPLB_STEPS
        bare = [role for role in deployment.roles if role.can_shrink and not (role.eplb or role.redundant_experts)]
        changes["roles"] = tuple(
            role.model_copy(update={"eplb": Eplb(every_steps=steps)}) if role in bare else role
            for role in deployment.roles
        )
        notes += [
            f"{role.name}: elastic_ep needs EPLB: started with a rebalance every {steps:,} steps" for role in bare
        ]
    return deployment.model_copy(update=changes)


ELASTIC_FLAGS = ("--enable-elastic-ep", "--elastic-ep-backend")


def failure_notes(deployment: Deployment, dialect: Dialect) -> list[str]:
    """What a reader must know of a settled deployment that goes on after failures.

    Parameters
    ----------
    deployment : the settled deployment
    dialect : version of the engine
    """
    notes = []
    if deployment.spares:
        notes.append(
            f"spares: {deployment.spares} devices stay free, and nothing starts on them by itself: the manager of the "
            "hosts must start the scripts of a failed device there"
        )
    if not deployment.elastic_ep:
        return notes
    notes += [
        f"{role.name}: elastic_ep has no effect on [{role.parallel}]: the instance stops with each of its devices"
        for role in deployment.roles
        if not role.can_shrink
    ]
    if dialect.engine == "vllm":
        notes.append(
            "elastic_ep: vLLM waits for its orchestrator after a failure, for 120 s by default "
            "(--fault-tolerance-config): a call of its API leaves the failed ranks out"
        )
    else:
        notes.append(
            "elastic_ep: SGLang needs the Mooncake library on all hosts, and its network devices in "
            "--mooncake-ib-device"
        )
    return notes


def must_be_of(dialect: Dialect, engine: EngineName) -> None:
    """Refuse a dialect of another engine than the one that the deployment was planned for."""
    if engine != dialect.engine:
        raise SpecError(
            f"{dialect.title} is a dialect of {dialect.engine}, and the deployment is for {engine}", where="--dialect",
            hint=f"plan with --engine {dialect.engine}: predictions hold for one engine",
        )  # fmt: skip


def _divided(role: Role, deployment: Deployment, dialect: Dialect, notes: list[str]) -> Role:
    """The role with sequences and tokens that divide by its ranks, as the flags of the engine need it."""
    ranks = role.parallel.dp
    named = f"{role.name}: " if len(deployment.roles) > 1 else ""
    sequences, chunk = role.max_sequences, role.chunk_tokens
    if dialect.engine == "vllm":
        sequences, chunk = max(sequences // ranks, 1) * ranks, max(chunk // ranks, 1) * ranks
    elif role.name != "decode":
        multiple = PAGE * ranks
        chunk = -(-chunk // multiple) * multiple
    if sequences != role.max_sequences:
        notes.append(
            f"{named}max_sequences {role.max_sequences:,} is no multiple of dp {ranks}: each rank runs "
            f"{sequences // ranks:,}, all ranks {sequences:,}"
        )
    if chunk != role.chunk_tokens:
        notes.append(
            f"{named}chunk_tokens {role.chunk_tokens:,} becomes {chunk:,}: each rank needs a whole number"
            + (f" of pages, a multiple of {PAGE}" if dialect.engine == "sglang" else "")
        )
    return role.model_copy(update={"max_sequences": sequences, "chunk_tokens": chunk})


def needs_router(deployment: Deployment) -> bool:
    """Whether requests reach the instances through a router process: several instances, or separate prefill."""
    return sum(role.replicas for role in deployment.roles) > 1


def ranks_of(deployment: Deployment) -> int:
    """Data-parallel ranks of one instance that takes requests first [count]."""
    return deployment.roles[0].parallel.dp


def _router(deployment: Deployment, notes: list[str], *, shares_prefixes: bool) -> RouterName | None:
    """The router as the engine can run it; None: there is nothing to choose."""
    asked: RouterName = deployment.router or (
        "prefix_aware" if shares_prefixes and deployment.prefix_caching else "least_loaded"
    )
    if needs_router(deployment):
        if asked == "least_loaded":
            notes.append(
                "router: no router of the engines has least_loaded; power_of_two takes the less loaded of two random "
                "instances, which is the same with two instances"
            )
            return "power_of_two"
        return asked
    return None if ranks_of(deployment) == 1 else asked


def _scheduling(asked: Scheduling, dialect: Dialect, notes: list[str]) -> Scheduling:
    """The scheduling policy as the dialect can run it: what no flag says is left out, with a note."""
    possible = Scheduling()
    if dialect.engine == "vllm" and asked.long_prefill_tokens and dialect.has("--long-prefill-token-threshold"):
        possible = Scheduling(name="interleaved", long_prefill_tokens=asked.long_prefill_tokens)
    orders = dialect.flags["--schedule-policy"].choices if dialect.has("--schedule-policy") else ()
    if dialect.engine == "sglang" and asked.name == "shortest_prefill" and SHORTEST in orders:
        possible = Scheduling(name="shortest_prefill", ageing_s=NO_AGE)
    if possible != asked:
        notes.append(
            f"scheduling: no flag of {dialect.title} says {asked}; started with {possible}, and predictions for "
            f"{asked.name} do not hold"
        )
    return possible


def inside_engine(deployment: Deployment, dialect: Dialect) -> bool:
    """Whether the engine itself can choose the rank as the router of a settled deployment says."""
    if deployment.router is None:
        return True
    return deployment.router == "least_loaded" if dialect.engine == "vllm" else deployment.router in BALANCE
