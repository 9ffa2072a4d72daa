"""What both engines share when a role becomes values of flags, and values become a role."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ValidationError

from tokenworks.errors import SpecError
from tokenworks.launch.table import Value, Values
from tokenworks.launch.target import LaunchTarget
from tokenworks.specs.deployment import Eplb, Parallel, Role, RoleName, RouterName
from tokenworks.specs.scheduling import Scheduling
from tokenworks.specs.tier import KvLoadFailure, Tier

KvDtype = Literal["bf16", "fp8"]
KV_WORDS: dict[str, KvDtype] = {
    "bf16": "bf16", "bfloat16": "bf16", "float16": "bf16", "fp8": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8",
    "fp8_inc": "fp8", "fp8_ds_mla": "fp8", "fp8_per_token_head": "fp8",
}  # fmt: skip
"""Storage of the KV cache in the words of the engines -> in the words of a deployment."""

MOST_DRAFTS = 8
"""Most draft tokens of a role [token]."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the values of a command mean.

    Parameters
    ----------
    role : the role; its name is "aggregated" if the command does not say it
    says_role : whether the command says the name of the role
    copies : instances that the command starts [count]
    prefix_caching : whether the instances keep prefixes
    length : longest request; None: the limit of the model [token]
    router : how a rank of the instance is chosen; None: the command does not say it
    scheduling : how waiting requests share the instance
    unused : key -> why the value has no place in a deployment; after a dot, a name inside the value
    tiers : KV tiers; sizes are for one rank (vLLM) or one device (SGLang) [byte]
    kv_load_failure : what happens to a request whose read from a tier fails; None: the command does not say it
    elastic_ep : whether the instance can go on without some of its ranks
    """

    role: Role
    says_role: bool
    copies: int
    prefix_caching: bool
    length: int | None
    router: RouterName | None = None
    scheduling: Scheduling = field(default_factory=Scheduling)
    unused: dict[str, str] = field(default_factory=dict)
    tiers: tuple[Tier, ...] = ()
    kv_load_failure: KvLoadFailure | None = None
    elastic_ep: bool = False


def agreed_role(own: RoleName | None, around: RoleName | None, words: str, where: str) -> RoleName:
    """The role that the flags of a command and the text around the command agree on; "aggregated" if both say none.

    Parameters
    ----------
    own : role that the flags say; None: they say none
    around : role that the text around the command says; None: it says none
    words : what the flags say, for the error
    where : place of the command

    Raises
    ------
    SpecError : the flags and the text say different roles
    """
    if own and around not in (None, own, "aggregated"):
        raise SpecError(
            f"{words}, and the text around the command says {around}", where=where, hint="correct one of them"
        )
    return own or around or "aggregated"


def role_with(name: RoleName, parallel: dict[str, int], settings: dict[str, object], where: str) -> Role:
    """A role; a value out of its range becomes a `SpecError` with the place of the command."""
    try:
        return Role.model_validate({"name": name, "parallel": Parallel(**parallel), **settings})
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"{path}: {first['msg']}, not {first['input']!r}", where=where) from None


def kv_dtype_of(values: Values, target: LaunchTarget, unused: dict[str, str]) -> KvDtype:
    """Storage of the KV cache that a command asks for."""
    word = values.text("kv_dtype", "auto")
    if word in KV_WORDS:
        return KV_WORDS[word]
    native: KvDtype = "fp8" if target.model.native_kv == "fp8" else "bf16"
    if word != "auto":
        unused["kv_dtype"] = f"the model of tokenworks stores the KV cache in bf16 or fp8; taken as {native}"
    return native


def kv_word(role: Role, target: LaunchTarget, words: dict[KvDtype, str]) -> str:
    """The word of an engine for the storage of the KV cache: auto where the checkpoint asks for it already.

    Parameters
    ----------
    role : the role
    target : the model
    words : words of the engine
    """
    return "auto" if role.kv_dtype == target.model.native_kv else words[role.kv_dtype]


def expert_widths(
    values: Values, target: LaunchTarget, unused: dict[str, str], *, devices: int, ep: int
) -> dict[str, int]:
    """The widths of the experts; 1 for a model without routed experts.

    Parameters
    ----------
    values : values of the command
    target : the model
    unused : gets the flags that have no effect
    devices : tp x dp devices that share the experts [count]
    ep : groups of experts that the command says [count]
    """
    if not target.has_experts:
        for key in ("expert_parallel", "ep", "redundant", "balanced", *EPLB_KEYS):
            if values.has(key):
                unused[key] = f"{target.model.name} has no routed experts"
        return {"ep": 1, "expert_tp": 1}
    if devices % ep:
        hint = f"take a divisor of {devices}"
        raise SpecError(f"{ep} groups do not divide {devices} devices", where=values.place("ep"), hint=hint)
    return {"ep": ep, "expert_tp": devices // ep}


def redundant_of(values: Values, ep: int) -> int:
    """Redundant experts that a command asks for."""
    count = values.count("redundant", 0)
    if count and ep == 1:
        hint = "expert parallelism places redundant experts: turn it on"
        raise SpecError(
            f"{count} redundant experts without expert parallelism", where=values.place("redundant"), hint=hint
        )
    return max(count, 0)


EPLB_KEYS = ("eplb_steps", "eplb_window", "eplb_background", "eplb_utilization")
"""Values that say when experts are moved."""


def eplb_values(role: Role) -> dict[str, Value]:
    """The values of a role that turn EPLB on, and say when it moves experts.

    Parameters
    ----------
    role : the role
    """
    eplb = role.eplb
    if eplb is None and not role.redundant_experts:
        return {}
    values: dict[str, Value] = {"balanced": True}
    if role.redundant_experts:
        values["redundant"] = role.redundant_experts
    if eplb is not None:
        values["eplb_steps"] = eplb.every_steps
        if eplb.window_steps is not None:
            values["eplb_window"] = min(eplb.window_steps, eplb.every_steps)
    return values


def eplb_of(values: Values, ep: int, redundant: int, steps: int, unused: dict[str, str]) -> Eplb | None:
    """When a command moves experts; None: it does not, or redundant experts alone say it.

    Parameters
    ----------
    values : values of the command
    ep : groups of experts [count]
    redundant : redundant experts [count]
    steps : steps between two rebalances by default [count]
    unused : gets the values that have no effect
    """
    said = [key for key in EPLB_KEYS if values.has(key)]
    if not values.on("balanced") or ep == 1:
        why = "experts are moved only with --enable-eplb" if ep > 1 else "without expert parallelism no expert is moved"
        unused |= dict.fromkeys([*said, *(["balanced"] if values.on("balanced") else [])], why)
        return None
    if redundant and not said:
        return None
    window = values.width("eplb_window") if values.has("eplb_window") else None
    hidden = values.on("eplb_background") if values.has("eplb_background") else None
    return Eplb(every_steps=values.width("eplb_steps", steps), window_steps=window, in_background=hidden,
                min_utilization=values.share("eplb_utilization", 1.0))  # fmt: skip


def drafts_of(
    values: Values, target: LaunchTarget, methods: tuple[str, ...], count: int, unused: dict[str, str]
) -> int:
    """Draft tokens of the MTP layers; 0 with another method, which has no place in a deployment.

    Parameters
    ----------
    values : values of the command
    target : the model
    methods : methods that use the MTP layers of the checkpoint
    count : draft tokens that the command says [token]
    unused : gets the flags that have no place
    """
    method = values.text("draft_method").lower()
    if not values.has("draft_method") and not count:
        return 0
    reason = ""
    if method not in methods and not (method == "" and not values.has("draft_model")):
        reason = f"the model of tokenworks drafts with the MTP layers of the checkpoint, not with {method}"
    elif values.has("draft_model"):
        reason = "the model of tokenworks drafts with the MTP layers of the checkpoint, not with another model"
    elif not target.model.draft:
        reason = f"{target.model.name} has no MTP layers"
    if reason:
        for key in ("draft_method", "drafts", "draft_steps", "draft_topk", "verified", "draft_model"):
            if values.has(key):
                unused[key] = f"{reason}: no drafts in the deployment"
        return 0
    if count > MOST_DRAFTS:
        hint = f"take at most {MOST_DRAFTS}"
        raise SpecError(f"{count} draft tokens", where=values.place("drafts"), hint=hint)
    return count


def set_widths(**widths: int) -> Iterator[tuple[str, Value]]:
    """The widths above 1."""
    return ((key, width) for key, width in widths.items() if width > 1)


ELASTIC_KEYS = ("elastic", "tolerant", "backup")
"""Values of elastic expert parallelism: the switch of vLLM or the back end of SGLang, and what goes with it."""


def elastic_of(values: Values, role: Role, unused: dict[str, str], *, asked: bool) -> bool:
    """Whether an instance can go on without some of its ranks.

    Parameters
    ----------
    values : values of the command
    role : the role that the command starts
    unused : gets the values that have no effect
    asked : whether the command turns elastic expert parallelism on
    """
    given = [key for key in ELASTIC_KEYS if values.has(key)]
    if asked and role.can_shrink:
        return True
    why = "a role can lose ranks with dp and ep above 1, pp 1 and whole experts" if asked else (
        "without elastic expert parallelism, the instance stops with each of its ranks"
    )  # fmt: skip
    unused |= dict.fromkeys(given, why)
    return False
