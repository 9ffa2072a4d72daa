"""SGLang: a role as values of flags, and values of flags as a role. Both functions mirror each other."""

from __future__ import annotations

import numpy as np

from tokenworks.costs.memory import memory
from tokenworks.costs.split import Split
from tokenworks.errors import SpecError
from tokenworks.launch.dialect import Dialect
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
from tokenworks.launch.tiers import TiersMeaning, sglang_tiers, tiers_of_sglang
from tokenworks.specs.deployment import Deployment, Role, RoleName, RouterName
from tokenworks.specs.scheduling import NO_AGE, Scheduling

KV: dict[KvDtype, str] = {"bf16": "bf16", "fp8": "fp8_e4m3"}
BALANCE: dict[RouterName, str] = {"round_robin": "round_robin", "least_loaded": "total_requests"}
"""Router of a deployment -> value of --load-balance-method, for the ranks of one instance."""
BALANCED: dict[str, RouterName] = {name: router for router, name in BALANCE.items()} | {"total_tokens": "least_loaded"}
MODES: dict[str, RoleName] = {"prefill": "prefill", "decode": "decode"}
MTP = ("eagle", "nextn")
"""Methods that use the MTP layers of the checkpoint, if the command names no other model."""
SHORTEST = "shortest-prefill-first"
"""Value of --schedule-policy: the prompt with the fewest uncached tokens first."""
PREFILL_TOKENS = 16384
"""Default of --max-prefill-tokens [token]."""
ELASTIC_BACKEND = "mooncake"
"""Value of --elastic-ep-backend and of --moe-a2a-backend with elastic EP (LMSYS blog, 2026-03-25)."""
EPLB_STEPS = 1000
"""Steps between two rebalances of experts by default (sglang 0.5.23, --eplb-rebalance-num-iterations) [count]."""

DRAFTS = 3
"""Draft tokens that SGLang chooses for models with MTP layers if no flag says them (sglang 0.5.23,
arg_groups/speculative_hook.py) [token]."""


def values_of(role: Role, deployment: Deployment, target: LaunchTarget, dialect: Dialect, a2a: str) -> dict[str, Value]:
    """A role as values of flags. SGLang counts sequences and tokens for the whole instance.

    Parameters
    ----------
    role : the role
    deployment : the deployment that the role is part of
    target : model, machine and engine
    dialect : version of SGLang
    a2a : back end of dispatch and combine, "none" without one

    Raises
    ------
    SpecError : SGLang cannot run the role
    """
    parallel = role.parallel
    stage = parallel.tp * parallel.dp
    values: dict[str, Value] = {"tp": stage, **dict(set_widths(pp=parallel.pp, ep=parallel.ep))}
    if parallel.dp > 1:
        new = dialect.has("--attn-dp-size")
        values |= {"attention_dp": parallel.dp} if new else {"dp": parallel.dp, "dp_attention": True}
    if a2a != "none":
        values["a2a"] = a2a
    values |= _eplb(role)
    if deployment.elastic_ep and role.can_shrink:
        values |= {"balanced": True, "elastic": ELASTIC_BACKEND, "backup": True}
    values["kv_dtype"] = kv_word(role, target, KV)
    values["memory_fraction"] = role.memory_fraction
    values["chunk"], values["sequences"] = role.chunk_tokens, role.max_sequences
    if role.chunk_tokens // parallel.dp > PREFILL_TOKENS:
        values["prefill_tokens"] = role.chunk_tokens // parallel.dp
    if role.draft_tokens:
        steps = role.draft_tokens
        values |= {"draft_method": "EAGLE", "draft_steps": steps, "draft_topk": 1, "verified": steps + 1}
    if role.overlap == "two-batch":
        if a2a == "none" and parallel.dp == 1:
            raise SpecError(
                f"cannot overlap two batches of [{parallel}]: it needs a back end for dispatch, with ep = tp x dp, or "
                "dp above 1", where=dialect.title, hint="take overlap=none, or another split",
            )  # fmt: skip
        values["overlap"] = True
    if deployment.scheduling.name == "shortest_prefill" and role.name != "decode":
        values["order"] = SHORTEST
    if not deployment.prefix_caching:
        values["no_prefix_caching"] = True
    if deployment.max_model_len is not None:
        values["length"] = deployment.max_model_len
    if role.name != "decode":
        values |= sglang_tiers(deployment)
    if role.name != "aggregated":
        values["mode"] = role.name
    return values


def _eplb(role: Role) -> dict[str, Value]:
    """Values that say when a role moves experts."""
    values, eplb = eplb_values(role), role.eplb
    if eplb is not None and eplb.in_background:
        raise SpecError("in_background: SGLang runs no step while it moves experts", where=f"{role.name}.eplb",
                        hint="leave in_background out, or --engine vllm")  # fmt: skip
    if eplb is not None and eplb.min_utilization < 1:
        values["eplb_utilization"] = eplb.min_utilization
    return values


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
    stage, pp = values.width("tp"), values.width("pp")
    ranks, copies = _ranks(values)
    if stage % ranks:
        hint = f"take a divisor of {stage}"
        raise SpecError(f"{ranks} ranks do not divide {stage} devices", where=values.place("attention_dp"), hint=hint)
    if ranks > 1 and not target.has_experts:
        unused["attention_dp" if values.has("attention_dp") else "dp"] = (
            f"{target.model.name} has no routed experts: taken as tp {stage}"
        )
        ranks = 1
    grouped = stage if values.text("a2a", "none") != "none" and target.has_experts else values.width("ep")
    experts = expert_widths(values, target, unused, devices=stage, ep=grouped)
    own_role = MODES.get(values.text("mode"))
    agreed = agreed_role(own_role, name, f"mode {own_role}", values.where)
    defaults = target.defaults
    chunk = values.count("chunk", defaults.chunk * ranks)
    if chunk < 1:  # no chunks: a step takes whole prompts, up to this number of tokens
        chunk = values.width("prefill_tokens", PREFILL_TOKENS) * ranks
    length = values.count("length", -1)
    redundant = redundant_of(values, experts["ep"]) if target.has_experts else 0
    role = role_with(
        agreed,
        {"tp": stage // ranks, "pp": pp, "dp": ranks, **experts},
        {
            "max_sequences": values.width("sequences", defaults.sequences * ranks),
            "chunk_tokens": chunk,
            "kv_dtype": kv_dtype_of(values, target, unused),
            "redundant_experts": redundant,
            "eplb": eplb_of(values, experts["ep"], redundant, EPLB_STEPS, unused),
            "draft_tokens": _drafts(values, target, unused),
            "overlap": "two-batch" if values.on("overlap") else "none",
            "memory_fraction": values.share("memory_fraction", target.memory_fraction(stage * pp)),
        },
        values.where,
    )
    elastic = elastic_of(values, role, unused, asked=values.text("elastic", "none") != "none")
    prefix_caching = not values.on("no_prefix_caching")
    asked = tiers_of_sglang(values, _device_cache(role, target) if values.has("tier_ratio") else 0.0)
    unused |= asked.unused
    if asked.tiers and (agreed == "decode" or not prefix_caching):
        why = "a decode role has no prefix cache" if agreed == "decode" else "without a prefix cache there are no tiers"
        unused |= {key: why for key in values.given if key == "page" or key.startswith("tier")}
        asked = TiersMeaning()
    return Meaning(
        role=role, says_role=own_role is not None, copies=copies, length=length if length > 0 else None,
        prefix_caching=prefix_caching, router=_router(values, ranks, own_role),
        scheduling=_scheduling(values, unused), unused=unused, tiers=asked.tiers,
        elastic_ep=elastic,
    )  # fmt: skip


def _device_cache(role: Role, target: LaunchTarget) -> float:
    """KV cache of one device of a role, by the memory model [byte]."""
    device_memory = memory(
        target.model, target.machine, Split.of(role), engine=target.engine, max_sequences=role.max_sequences,
        chunk_tokens=role.chunk_tokens, memory_fraction=role.memory_fraction,
    )  # fmt: skip
    return max(float(np.min(device_memory.kv)), 0.0)


def _router(values: Values, ranks: int, mode: RoleName | None) -> RouterName | None:
    """How SGLang chooses the rank of a request; by default round_robin, without disaggregation."""
    if values.has("balance"):
        return BALANCED.get(values.text("balance"), "round_robin" if values.text("balance") == "auto" else None)
    return "round_robin" if ranks > 1 and mode is None else None


def _scheduling(values: Values, unused: dict[str, str]) -> Scheduling:
    """How SGLang orders waiting requests: first come, first served by default."""
    order = values.text("order", "fcfs")
    if order == SHORTEST:
        return Scheduling(name="shortest_prefill", ageing_s=NO_AGE)
    if order != "fcfs":
        unused["order"] = f"the model of tokenworks has no order {order}; taken as fcfs"
    return Scheduling()


def _ranks(values: Values) -> tuple[int, int]:
    """Data-parallel ranks of attention, and replicas that one command starts."""
    attention, replicas = values.width("attention_dp"), values.width("dp")
    if values.on("dp_attention"):
        if attention > 1 and replicas > 1 and attention != replicas:
            words = f"{values.spelled['attention_dp']} {attention} and {values.spelled['dp']} {replicas}"
            raise SpecError(f"{words} contradict each other", where=values.where, hint="keep --attn-dp-size")
        return max(attention, replicas), 1
    if attention > 1 and replicas > 1:
        words = f"SGLang has no replicas ({replicas}) with data parallel attention ({attention})"
        raise SpecError(words, where=values.where, hint="keep --attn-dp-size, and start further commands for replicas")
    return attention, replicas


def _drafts(values: Values, target: LaunchTarget, unused: dict[str, str]) -> int:
    if not values.has("draft_method"):
        for key in ("draft_steps", "draft_topk", "verified", "draft_model"):
            if values.has(key):
                unused[key] = "without --speculative-algorithm it has no effect"
        return 0
    steps = values.count("draft_steps", DRAFTS)
    verified, topk = values.count("verified", steps + 1), values.count("draft_topk", 1)
    if topk == 1 and verified != steps + 1:
        raise SpecError(
            f"{steps} steps with one branch draft {steps} tokens: a step verifies {steps + 1}, not {verified}",
            where=values.place("verified"), hint=f"write --speculative-num-draft-tokens {steps + 1}",
        )  # fmt: skip
    if topk > 1:
        unused["draft_topk"] = f"the model of tokenworks drafts one branch; taken as {steps} tokens of one branch"
    return drafts_of(values, target, MTP, steps, unused)
