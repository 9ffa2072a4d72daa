"""Why a flag has no place in a deployment, in words for a user."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tokenworks.launch.dialect import Dialect, others_with, titles

UnreadKind = Literal["address", "service", "kernels", "not modelled", "no effect", "other version", "unknown", "value"]
"""Kind of a flag that is not read. "address": hosts, ports and names. "service": the API, its log and its metrics.
"kernels": which kernels run. "not modelled": it may change times or memory, and tokenworks does not model it. "no
effect": it changes nothing here. "other version": other dialects have it. "unknown": no dialect has it. "value": the
dialect refuses its value."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A flag of a command that has no place in a deployment.

    Parameters
    ----------
    flag : the flag as the command spells it; a key of a JSON value after a dot
    value : its value; empty: it has none
    reason : why it is not read
    kind : kind of the reason
    where : file and line of the command
    role : role of the command; empty: the text does not say it
    """

    flag: str
    value: str
    reason: str
    kind: UnreadKind
    where: str = ""
    role: str = ""


PATTERNS: tuple[tuple[str, UnreadKind, str], ...] = (
    (r"^--(host|port|.*-(addr|address|port|ip|url|urls|endpoint|rank|device-ids)|nnodes|dist-init-addr|headless"
     r"|data-parallel-(size-local|start-rank|backend|.*-lb)|disaggregation-ib-device|base-gpu-id|gpu-id-step|.*numa.*"
     r"|served-model-name|tokenizer|tokenizer-path|revision|download-dir|device)$",
     "address", "it says where the engine runs, not how: hosts, ports, devices and names"),
    (r"attention-backend|moe-backend|moe-runner|gemm|-backend$|all-reduce|allreduce|flashinfer|kernel|cuda-?graph"
     r"|graph|eager|compil|torch|nccl|deepep|all2all|mem-pool|symm-mem|optimization-level|performance-mode|dtype$",
     "kernels", "it chooses kernels and graphs: the calibration of the device stands for these"),
    (r"^--hicache-mem-layout$", "no effect", "--hicache-io-backend says how blocks are moved"),
    (r"offload|hicache|hierarchical-cache|lmcache|kv-transfer-config|flexkv|swap-space",
     "not modelled", "tokenworks reads KV tiers of OffloadingConnector and MooncakeStoreConnector (vLLM), and of "
     "HiCache (SGLang); this is no part of them"),
    (r"-cp-|context-parallel|prefill-cp|dcp|-cp$|cp-", "not modelled",
     "the model of tokenworks has no context parallelism"),
    (r"quantization|^--load-format|trust-remote-code|config-format|hf-",
     "no effect", "the config.json of the model says formats and architecture"),
    (r"lora", "not modelled", "the model of tokenworks has no LoRA adapters"),
    (r"mm-|multimodal|image|encoder|vision|language-only", "not modelled", "requests are text: encoders have no cost"),
    (r"eplb|expert-location|expert-distribution|ep-dispatch",
     "not modelled", "tokenworks reads how often experts are moved, and places copies as the default algorithm does"),
    (r"spec|draft", "not modelled", "the model of tokenworks drafts with MTP layers, and has an acceptance of its own"),
    (r"moe-dense-tp|dp-lm-head|tbo-|dbo-|dp-size|expert-parallel|chunked-prefill|prefill-max|schedule|scheduling|queue"
     r"|prefill|decode|stream-interval|batch|page-size|block-size|cache|mamba|recv-interval|delay",
     "not modelled", "it is not a part of the model of tokenworks"),
)  # fmt: skip

GROUPS = {
    "frontend": "the API server", "serving": "the API server", "observability": "log and metrics", "logging": "the log",
    "structured_outputs": "structured outputs", "mm": "images", "multimodal": "images", "lora": "LoRA adapters",
}  # fmt: skip
"""Groups of flags of the service around the engine."""


def reason_of(flag: str, dialect: Dialect) -> tuple[UnreadKind, str]:
    """Why a flag of a dialect has no place in a deployment.

    Parameters
    ----------
    flag : name of the flag
    dialect : the dialect
    """
    for pattern, kind, words in PATTERNS[:1]:
        if re.search(pattern, flag):
            return kind, words
    group = dialect.flags[flag].group
    if group in GROUPS:
        return "service", f"it belongs to {GROUPS[group]}, which has no part in a deployment"
    if re.search(r"log|metric|parser|chat|tool|api-key|watchdog|timeout|warmup|trace", flag):
        return "service", "it belongs to the service around the engine, which has no part in a deployment"
    for pattern, kind, words in PATTERNS[1:]:
        if re.search(pattern, flag):
            return kind, words
    return "not modelled", "it is not a part of the model of tokenworks"


def reason_of_unknown(flag: str, dialect: Dialect) -> tuple[UnreadKind, str]:
    """Why a flag that a dialect does not have is not read: which versions have it.

    Parameters
    ----------
    flag : the flag as the command spells it
    dialect : the dialect that the command is read with
    """
    holders = [other for other in others_with(dialect, flag) if other.engine == dialect.engine]
    if holders:
        return "other version", f"{dialect.title} has no such flag; {titles(holders)} has it"
    holders = others_with(dialect, flag)
    if holders:
        return "other version", f"{dialect.title} has no such flag; it is a flag of {titles(holders[:1])}"
    return "unknown", "no version that tokenworks knows has such a flag"
