"""vLLM: a role as values of flags, and values of flags as a role. Both functions mirror each other."""

from __future__ import annotations

from tokenworks.errors import SpecError
from tokenworks.launch.meaning import (
    KvDtype,
    Meaning,
    agreed_role,
    drafts_of,
    elastic_of,
    eplb_of,
    eplb_values,
    expert_widths,
    kv_dtype_of,
    kv_word,
    redundant_of,
    role_with,
    set_widths,
)
from tokenworks.launch.table import Value, Values
from tokenworks.launch.target import LaunchTarget
from tokenworks.launch.tiers import TiersMeaning, beside_transfer, tiers_of_vllm, vllm_tiers
from tokenworks.specs.deployment import Deployment, Role, RoleName, RouterName
from tokenworks.specs.scheduling import Scheduling

KV: dict[KvDtype, str] = {"bf16": "bfloat16", "fp8": "fp8"}
ROLE_WORDS: dict[str, RoleName] = {"kv_producer": "prefill", "kv_consumer": "decode"}
CONNECTOR = "NixlConnector"
EPLB_STEPS = 3000
"""Steps between two rebalances of experts by default (vllm 0.33.0, config/parallel.py) [count]."""
MTP = ("mtp", "deepseek_mtp", "mimo_mtp", "glm4_moe_mtp", "ernie_mtp", "qwen3_next_mtp", "longcat_flash_mtp")
"""Methods of speculative decoding that use the MTP layers of the checkpoint."""


def values_of(role: Role, deployment: Deployment, target: LaunchTarget) -> dict[str, Value]:
    """A role as values of flags. vLLM counts sequences and tokens for each data-parallel rank.

    Parameters
    ----------
    role : the role; its sequences and tokens divide by dp
    deployment : the deployment that the role is part of
    target : model, machine and engine

    Raises
    ------
    SpecError : vLLM cannot lay the experts out in this way
    """
    parallel = role.parallel
    ranks = parallel.dp
    if parallel.ep > 1 and parallel.expert_tp > 1:
        raise SpecError(
            f"cannot run [{parallel}]: --enable-expert-parallel divides the experts over all tp x dp devices",
            where="vLLM", hint="take ep = tp x dp, ep = 1, or --engine sglang",
        )  # fmt: skip
    values: dict[str, Value] = {"tp": parallel.tp, **dict(set_widths(pp=parallel.pp, dp=ranks))}
    if parallel.ep > 1:
        values["expert_parallel"] = True
    values |= eplb_values(role)
    if deployment.elastic_ep and role.can_shrink:
        values |= {"balanced": True, "elastic": True, "tolerant": True}
    if role.eplb is not None:
        if role.eplb.min_utilization < 1:
            raise SpecError(
                f"min_utilization {role.eplb.min_utilization:g}: vLLM moves experts after every interval",
                where=f"{role.name}.eplb", hint="leave min_utilization out, or --engine sglang",
            )  # fmt: skip
        if role.eplb.in_background is not None:
            values["eplb_background"] = role.eplb.in_background
    values["kv_dtype"] = kv_word(role, target, KV)
    values["memory_fraction"] = role.memory_fraction
    values["chunk"], values["sequences"] = role.chunk_tokens // ranks, role.max_sequences // ranks
    if deployment.scheduling.long_prefill_tokens and role.name != "decode":
        values["long_prefill"] = deployment.scheduling.long_prefill_tokens
    if role.draft_tokens:
        values |= {"draft_method": "mtp", "drafts": role.draft_tokens}
    if role.overlap == "two-batch":
        values["overlap"] = True
    values["prefix_caching"] = deployment.prefix_caching and role.name != "decode"
    if deployment.max_model_len is not None:
        values["length"] = deployment.max_model_len
    tiers = vllm_tiers(deployment) if role.name != "decode" else {}
    if role.name != "aggregated":
        word = next(word for word, name in ROLE_WORDS.items() if name == role.name)
        tiers = beside_transfer(tiers, CONNECTOR, word) if tiers else {"connector": CONNECTOR, "kv_role": word}
    return values | tiers


def role_of(values: Values, name: RoleName | None, target: LaunchTarget) -> Meaning:
    """The role that values of flags mean.

    Parameters
    ----------
    values : values of one command
    name : role that the text around the command says; None: it says none
    target : model, machine and engine

    Raises
    ------
    SpecError : the values contradict each other, or are out of range
    """
    unused: dict[str, str] = {}
    tp, pp, dp = values.width("tp"), values.width("pp"), values.width("dp")
    copies = 1
    if not target.has_experts:  # ranks without common experts are separate instances
        copies, dp = dp, 1
    balanced, shared = values.on("balanced"), values.on("expert_parallel")
    experts = expert_widths(values, target, unused, devices=tp * dp, ep=tp * dp if shared else 1)
    redundant = redundant_of(values, experts["ep"]) if target.has_experts else 0
    if redundant and not balanced:
        hint = "add --enable-eplb, or leave the redundant experts out"
        raise SpecError(
            f"{redundant} redundant experts without --enable-eplb", where=values.place("redundant"), hint=hint
        )
    defaults = target.defaults
    sequences, chunk = values.width("sequences", defaults.sequences), values.width("chunk", defaults.chunk)
    count = values.count("drafts", 0)
    word = values.text("kv_role")
    own_role = ROLE_WORDS.get(word)
    agreed = agreed_role(own_role, name, f"kv_role {word} is {own_role}", values.where)
    length = values.count("length", -1) if values.text("length").lower() != "auto" else -1
    role = role_with(
        agreed,
        {"tp": tp, "pp": pp, "dp": dp, **experts},
        {
            "max_sequences": sequences * dp,
            "chunk_tokens": chunk * dp,
            "kv_dtype": kv_dtype_of(values, target, unused),
            "redundant_experts": redundant,
            "eplb": eplb_of(values, experts["ep"], redundant, EPLB_STEPS, unused),
            "draft_tokens": drafts_of(values, target, MTP, count, unused),
            "overlap": "two-batch" if values.on("overlap") else "none",
            "memory_fraction": values.share("memory_fraction", target.memory_fraction(tp * pp)),
        },
        values.where,
    )
    prefix_caching = values.on("prefix_caching", default=True)
    elastic = elastic_of(values, role, unused, asked=values.on("elastic"))
    asked = tiers_of_vllm(values)
    unused |= asked.unused
    keys = ("connector_config", "offload_size", "offload_backend", "load_failure")
    if asked.tiers and (agreed == "decode" or not prefix_caching):
        why = "a decode role has no prefix cache" if agreed == "decode" else "without a prefix cache there are no tiers"
        unused |= {key: why for key in keys if values.has(key)}
        asked = TiersMeaning()
    elif not asked.tiers:
        unused |= {key: "it says nothing of KV tiers that tokenworks reads" for key in keys
                   if values.has(key) and key not in unused}  # fmt: skip
        if values.has("connector") and own_role is None and name in (None, "aggregated"):
            unused["connector"] = (
                "tokenworks reads KV tiers of OffloadingConnector and MooncakeStoreConnector, not of "
                f"{values.text('connector')}"
            )
    return Meaning(
        role=role, says_role=own_role is not None, copies=copies, length=length if length > 0 else None,
        prefix_caching=prefix_caching, router=_router(values, dp), scheduling=_scheduling(values),
        unused=unused, tiers=asked.tiers,
        kv_load_failure=asked.on_failure if asked.tiers else None, elastic_ep=elastic,
    )  # fmt: skip


def _router(values: Values, dp: int) -> RouterName | None:
    """How vLLM chooses the rank of a request: its API server takes the least loaded one, if it knows all ranks."""
    return "least_loaded" if dp > 1 and not (values.has("rank") or values.has("first_rank")) else None


def _scheduling(values: Values) -> Scheduling:
    """How prompts share a step: first come, first served, or with a limit of the tokens of one prompt."""
    tokens = values.count("long_prefill", 0)
    return Scheduling(name="interleaved", long_prefill_tokens=tokens) if tokens > 0 else Scheduling()
