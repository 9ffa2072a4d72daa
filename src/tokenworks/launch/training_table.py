"""One table of the flags of training frameworks: what each says in the short form of a training deployment.

A flag has the same meaning on a command line (`--tensor-model-parallel-size 8`), in YAML (`model:
tensor_model_parallel_size: 8`), in TOML and in JSON. So the table has the last name of a flag, with hyphens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tokenworks.errors import SpecError
from tokenworks.launch.reasons import UnreadKind
from tokenworks.specs.training import RECOMPUTE_MODULES

TrainingFramework = Literal["megatron", "torchtitan", "deepspeed"]

TITLES: Mapping[TrainingFramework, str] = {
    "megatron": "Megatron-LM or Megatron-Bridge", "torchtitan": "torchtitan", "deepspeed": "DeepSpeed",
}  # fmt: skip

Reads = Callable[[str], Any]

YES, NO = ("true", "1", "yes", "on", ""), ("false", "0", "no", "off", "none", "null")

MOST_COUNT = 10**9


def whole(text: str) -> int:
    """A whole number; -1, as torchtitan writes it, is also one."""
    if not re.fullmatch(r"-1|\+?[0-9][0-9_]{0,9}", text) or int(text) > MOST_COUNT:
        raise ValueError("want a whole number")
    return int(text)


def share(text: str) -> float:
    """A number that is at least 0."""
    value = float(text)
    if not 0 <= value <= MOST_COUNT:
        raise ValueError("want a number that is at least 0")
    return value


def switch(text: str) -> bool:
    """True or false; a flag without a value is true."""
    word = text.strip().lower()
    if word not in (*YES, *NO):
        raise ValueError("want true or false")
    return word in YES


def words(known: Mapping[str, Any]) -> Reads:
    """A reader of words, each with its value in a deployment.

    Parameters
    ----------
    known : word in lower case -> value
    """

    def read(text: str) -> Any:
        word = text.strip().lower()
        if word not in known:
            raise ValueError(f"want one of {', '.join(known)}")
        return known[word]

    return read


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """What a flag says.

    Parameters
    ----------
    key : key of the short form of a training deployment, or a name of `training_meaning`
    thing : what the flag says, in words
    read : makes the value from its text
    """

    key: str
    thing: str
    read: Reads = whole


MODULES = {name: name for name in RECOMPUTE_MODULES}
"""Module of selective recompute in Megatron -> module of a training deployment, which has Megatron's names."""

OPTIMISERS = words({"adam": "adam", "adamw": "adam", "sgd": "sgd", "muon": "muon", "dist_muon": "muon",
                    "adafactor": "adafactor", "adam8bit": "adam-8bit", "onebitadam": "adam", "fusedadam": "adam",
                    "cpu_adam": "adam"})  # fmt: skip
DTYPES = words({"fp32": "fp32", "float32": "fp32", "torch.float32": "fp32", "bf16": "bf16", "bfloat16": "bf16",
                "torch.bfloat16": "bf16", "fp16": "fp16", "float16": "fp16", "torch.float16": "fp16",
                "fp8": "fp8"})  # fmt: skip
RECOMPUTE = words({"none": "none", "": "none", "null": "none", "full": "full", "selective": "selective",
                   "memory_budget": "selective"})  # fmt: skip
SCHEDULES = words({
    "1f1b": "1f1b", "gpipe": "gpipe", "interleaved1f1b": "interleaved", "zbvzerobubble": "zero-bubble",
    "interleavedzerobubble": "zero-bubble", "dualpipev": "dualpipe",
})  # fmt: skip


def modules(text: str) -> tuple[str, ...]:
    """Modules of selective recompute."""
    names = re.findall(r"\w+", text)
    if unknown := [name for name in names if name not in MODULES]:
        raise ValueError(f"{unknown[0]}: want some of {', '.join(MODULES)}")
    return tuple(dict.fromkeys(MODULES[name] for name in names))


TP, PP, CP = (
    TrainingRow("tp", "tensor parallel"),
    TrainingRow("pp", "pipeline stages"),
    TrainingRow("cp", "context parallel"),
)
EP, ETP = TrainingRow("ep", "expert parallel"), TrainingRow("etp", "tensor parallel of experts")
GBS, MBS, SEQ = (
    TrainingRow("gbs", "global batch"),
    TrainingRow("mbs", "micro-batch"),
    TrainingRow("seq", "sequence length"),
)
FSDP = TrainingRow("fsdp", "FSDP", switch)
GRAPHS = TrainingRow("graphs", "CUDA graphs", words({
    **dict.fromkeys(("none", "false", "null", "off"), "none"), "full_iteration": "full",
    **dict.fromkeys(("transformer_engine", "local", "true", ""), "partial"),
}))  # fmt: skip

MEGATRON: Mapping[str, TrainingRow] = {
    "tensor-model-parallel-size": TP, "pipeline-model-parallel-size": PP, "context-parallel-size": CP,
    "expert-model-parallel-size": EP, "expert-tensor-parallel-size": ETP,
    "virtual-pipeline-model-parallel-size": TrainingRow("vpp", "virtual stages"),
    "num-virtual-stages-per-pipeline-rank": TrainingRow("vpp", "virtual stages"),
    "num-layers-per-virtual-pipeline-stage": TrainingRow("layers_per_chunk", "layers of a virtual stage"),
    "micro-batch-size": MBS, "global-batch-size": GBS, "seq-length": SEQ, "encoder-seq-length": SEQ,
    "sequence-parallel": TrainingRow("sp", "sequence parallel", switch),
    "use-distributed-optimizer": TrainingRow("distributed", "distributed optimiser (ZeRO 1)", switch),
    "use-megatron-fsdp": FSDP, "use-custom-fsdp": FSDP, "use-torch-fsdp2": FSDP,
    "data-parallel-sharding-strategy": TrainingRow("strategy", "what data-parallel ranks divide", words(
        {"no_shard": 0, "optim": 1, "optim_grads": 2, "optim_grads_params": 3})),
    "num-distributed-optimizer-instances": TrainingRow("instances", "groups that hold a copy of the divided states"),
    "recompute-granularity": TrainingRow("recompute", "recompute", RECOMPUTE),
    "recompute-activations": TrainingRow(
        "recompute", "recompute", lambda text: "selective" if switch(text) else "none"),
    "recompute-num-layers": TrainingRow("recompute_layers", "layers with full recompute"),
    "recompute-modules": TrainingRow("modules", "modules of selective recompute", modules),
    "bf16": TrainingRow("bf16", "precision", switch), "fp16": TrainingRow("fp16", "precision", switch),
    "fp8": TrainingRow("fp8", "precision", lambda text: text.strip().lower() not in NO),
    "fp8-format": TrainingRow("fp8", "precision", lambda text: text.strip().lower() not in NO),
    "fp8-recipe": TrainingRow("fp8_recipe", "FP8 recipe", words(
        {"tensorwise": "fp8", "delayed": "fp8-delayed", "blockwise": "fp8-block", "mxfp8": "mxfp8"})),
    "fp4": TrainingRow("fp4", "precision", lambda text: text.strip().lower() not in NO),
    "fp4-format": TrainingRow("fp4", "precision", lambda text: text.strip().lower() not in NO),
    "mixed-precision": TrainingRow("precision", "precision", words({
        "bf16_mixed": "bf16", "fp16_mixed": "fp16", "bf16_with_fp8_delayed_scaling_mixed": "fp8-delayed",
        "bf16_with_fp8_current_scaling_mixed": "fp8", "bf16_with_fp8_subchannel_scaling_mixed": "fp8-block",
        "bf16_with_mxfp8_mixed": "mxfp8", "bf16_with_nvfp4_mixed": "nvfp4"})),
    "fp8-param-gather": TrainingRow("gather8", "weights are gathered in FP8", switch),
    "overlap-grad-reduce": TrainingRow("dp_overlap", "overlap of gradients", switch),
    "tp-comm-overlap": TrainingRow("tp_overlap", "overlap of tensor-parallel communication", switch),
    "overlap-moe-expert-parallel-comm": TrainingRow("ep_overlap", "overlap of dispatch and combine", switch),
    "moe-token-dispatcher-type": TrainingRow("dispatcher", "dispatch of tokens", words(
        {"alltoall": "alltoall", "allgather": "alltoall", "flex": "deepep"})),
    "moe-enable-deepep": TrainingRow("deepep", "dispatch of tokens", switch),
    "cutedsl-fused-grouped-mlp": TrainingRow("fused", "fused grouped GEMMs of experts", switch),
    "moe-expert-capacity-factor": TrainingRow("capacity", "capacity of an expert", share),
    "moe-router-force-load-balancing": TrainingRow("balanced", "forced balance of experts", switch),
    "cuda-graph-impl": GRAPHS, "enable-cuda-graph": GRAPHS, "external-cuda-graph": GRAPHS,
    "fp8-dot-product-attention": TrainingRow(
        "attention", "dtype of attention", lambda text: "fp8" if switch(text) else "bf16"),
    "attention-backend": TrainingRow(
        "attention_kernel", "kernel of attention", lambda text: "unfused" if text in ("unfused", "local") else "flash"),
    "cpu-offloading-num-layers": TrainingRow("offload_layers", "layers whose activations wait on the host"),
    "optimizer": TrainingRow("optimiser", "optimiser", OPTIMISERS),
    "exp-avg-dtype": TrainingRow("states", "dtype of the optimiser states", DTYPES),
    "main-params-dtype": TrainingRow("master", "dtype of the copy of the weights", DTYPES),
    "main-grads-dtype": TrainingRow("gradients", "dtype of added-up gradients", DTYPES),
    "accumulate-allreduce-grads-in-fp32": TrainingRow("reduce32", "dtype of reduced gradients", switch),
    "grad-reduce-in-fp32": TrainingRow("reduce32", "dtype of reduced gradients", switch),
    "grad-reduce-in-bf16": TrainingRow("reduce16", "dtype of reduced gradients", switch),
    "optimizer-cpu-offload": TrainingRow("offload_all", "optimiser states on the host", switch),
    "optimizer-offload-fraction": TrainingRow("offload", "share of optimiser states on the host", share),
    "cp-comm-type": TrainingRow("exchange", "exchange of context parallelism", words(
        {"p2p": "ring", "a2a": "a2a", "allgather": "all-gather", "all_gather": "all-gather", "a2a+p2p": "ring"})),
    "mtp-num-layers": TrainingRow("mtp", "multi-token-prediction layers"),
    "num-layers": TrainingRow("num_layers", "layers of the model"),
    "hidden-size": TrainingRow("hidden_size", "hidden size of the model"),
    "num-attention-heads": TrainingRow("heads", "query heads of the model"),
    "num-experts": TrainingRow("num_experts", "experts of the model"),
    "num-moe-experts": TrainingRow("num_experts", "experts of the model"),
    "nnodes": TrainingRow("nodes", "nodes"), "nproc-per-node": TrainingRow("each", "devices of a node"),
    "num-gpus": TrainingRow("world", "devices"), "world-size": TrainingRow("world", "devices"),
    "peft-scheme": TrainingRow("method", "method", words({"lora": "lora", "none": "sft", "dora": "lora"})),
}  # fmt: skip
"""Last name of a flag of Megatron-LM or Megatron-Bridge, with hyphens -> what it says."""

TORCHTITAN: Mapping[str, TrainingRow] = {
    "parallelism.tensor-parallel-degree": TP, "training.tensor-parallel-degree": TP,
    "parallelism.pipeline-parallel-degree": PP, "experimental.pipeline-parallel-degree": PP,
    "parallelism.context-parallel-degree": CP, "experimental.context-parallel-degree": CP,
    "parallelism.expert-parallel-degree": EP, "parallelism.expert-tensor-parallel-degree": ETP,
    "parallelism.data-parallel-shard-degree": TrainingRow("dp_shard", "FSDP ranks"),
    "training.data-parallel-shard-degree": TrainingRow("dp_shard", "FSDP ranks"),
    "parallelism.data-parallel-replicate-degree": TrainingRow("dp_replicate", "copies of the FSDP groups"),
    "training.data-parallel-replicate-degree": TrainingRow("dp_replicate", "copies of the FSDP groups"),
    "parallelism.pipeline-parallel-schedule": TrainingRow("schedule", "pipeline schedule", SCHEDULES),
    "experimental.pipeline-parallel-schedule": TrainingRow("schedule", "pipeline schedule", SCHEDULES),
    "parallelism.pipeline-parallel-microbatch-size": MBS,
    "parallelism.pipeline-parallel-layers-per-stage": TrainingRow("layers_per_chunk", "layers of a virtual stage"),
    "parallelism.enable-async-tensor-parallel": TrainingRow(
        "tp_overlap", "overlap of tensor-parallel communication", switch),
    "parallelism.context-parallel-rotate-method": TrainingRow("exchange", "exchange of context parallelism", words(
        {"allgather": "all-gather", "alltoall": "ring"})),
    "training.local-batch-size": TrainingRow("local", "batch of a data-parallel rank"),
    "training.batch-size": TrainingRow("local", "batch of a data-parallel rank"),
    "training.global-batch-size": GBS, "training.seq-len": SEQ,
    "training.mixed-precision-param": TrainingRow("param", "precision", DTYPES),
    "training.mixed-precision-reduce": TrainingRow("reduce", "dtype of reduced gradients", DTYPES),
    "activation-checkpoint.mode": TrainingRow("recompute", "recompute", RECOMPUTE),
    "quantize.linear.float8.recipe-name": TrainingRow("float8", "FP8 recipe", words(
        {"tensorwise": "fp8", "rowwise": "fp8-block", "rowwise_with_gw_hp": "fp8-block", "": "fp8"})),
    "quantize.linear.mx.recipe-name": TrainingRow("float8", "FP8 recipe", lambda _: "mxfp8"),
    "float8.recipe-name": TrainingRow("float8", "FP8 recipe", words(
        {"tensorwise": "fp8", "rowwise": "fp8-block", "": "fp8"})),
    "optimizer.name": TrainingRow("optimiser", "optimiser", OPTIMISERS),
    "model.name": TrainingRow("family", "family of the model", str.strip),
    "model.flavor": TrainingRow("flavor", "size of the model", str.strip),
    "nnodes": TrainingRow("nodes", "nodes"), "nproc-per-node": TrainingRow("each", "devices of a node"),
    "ngpu": TrainingRow("world", "devices"),
}  # fmt: skip
"""Path of a setting of torchtitan, with hyphens -> what it says."""

DEEPSPEED: Mapping[str, TrainingRow] = {
    "train-batch-size": GBS, "train-micro-batch-size-per-gpu": MBS,
    "gradient-accumulation-steps": TrainingRow("accumulation", "micro-batches of a step"),
    "zero-optimization.stage": TrainingRow("zero", "ZeRO stage"),
    "zero-optimization.zero-hpz-partition-size": TrainingRow("shard", "ranks that divide the weights"),
    "zero-optimization.mics-shard-size": TrainingRow("shard", "ranks that divide the states"),
    "zero-optimization.overlap-comm": TrainingRow("dp_overlap", "overlap of gradients", switch),
    "zero-optimization.offload-optimizer.device": TrainingRow("offload", "optimiser states on the host", words(
        {"cpu": 1.0, "nvme": 1.0, "none": 0.0})),
    "zero-optimization.offload-optimizer.ratio": TrainingRow("offload", "share of optimiser states on the host", share),
    "bf16.enabled": TrainingRow("bf16", "precision", switch),
    "bfloat16.enabled": TrainingRow("bf16", "precision", switch),
    "fp16.enabled": TrainingRow("fp16", "precision", switch),
    "communication-data-type": TrainingRow("reduce", "dtype of reduced gradients", DTYPES),
    "data-types.grad-accum-dtype": TrainingRow("gradients", "dtype of added-up gradients", DTYPES),
    "optimizer.type": TrainingRow("optimiser", "optimiser", OPTIMISERS),
    "tensor-parallel.autotp-size": TP, "sequence-parallel-size": TrainingRow("ulysses", "sequence parallel (Ulysses)"),
    "num-gpus": TrainingRow("each", "devices of a node"), "num-nodes": TrainingRow("nodes", "nodes"),
    "nnodes": TrainingRow("nodes", "nodes"), "nproc-per-node": TrainingRow("each", "devices of a node"),
    "per-device-train-batch-size": MBS, "max-seq-length": SEQ, "max-length": SEQ, "model-max-length": SEQ,
    "block-size": SEQ, "seq-length": SEQ, "cutoff-len": SEQ,
    "model-name-or-path": TrainingRow("model", "model", str.strip), "bf16": TrainingRow("bf16", "precision", switch),
    "fp16": TrainingRow("fp16", "precision", switch),
    "gradient-checkpointing": TrainingRow("checkpointing", "recompute", switch),
    "lora-rank": TrainingRow("rank", "rank of the adapters"), "lora-r": TrainingRow("rank", "rank of the adapters"),
}  # fmt: skip
"""Path of a key of a DeepSpeed file, or flag of the script that it starts, with hyphens -> what it says."""

TABLES: Mapping[TrainingFramework, Mapping[str, TrainingRow]] = {
    "megatron": MEGATRON, "torchtitan": TORCHTITAN, "deepspeed": DEEPSPEED,
}  # fmt: skip

REASONS: tuple[tuple[str, UnreadKind, str], ...] = (
    (r"master-|node-rank|rdzv|hostfile|^host|port$|include|exclude|local-rank|^log-dir|distributed-backend|launcher",
     "address", "it says where the processes run, not how"),
    (r"data|tokenizer|vocab|split|dataset|mock|num-workers|seed|shuffle|eod|blend",
     "service", "it chooses and prepares the data: the batch counts, not the text"),
    (r"save|(?<!off)load|ckpt|checkpoint(?!ing)|exit|resume|async-save|finetune|pretrained|hf-assets",
     "service", "it writes or reads checkpoints, which are no part of a step"),
    (r"log|clock|tensorboard|wandb|timing|profil|print|eval|metrics|memory-history|job|dump|comm-debug|nvtx",
     "service", "it logs, evaluates or profiles"),
    (r"\blr\b|^lr|learning|warmup|decay|beta|eps|weight-|clip|loss-scale|init-method|train-iters|train-samples|steps"
     r"|epochs|momentum|scheduler|dropout|label|aux-loss|score|bias-update|z-loss|hysteresis|initial-scale",
     "no effect", "it changes what the model learns, and not the time of a step"),
    (r"attention-backend|flash-attn|fusion|kernel|transformer-impl|grouped-gemm|compile|cudnn|nccl|te-|jit|deterministic"
     r"|cross-entropy|masked-softmax|gradient-accumulation-fusion|permute|autotune|triton|precompute",
     "kernels", "it chooses kernels: the calibration of the device stands for these"),
    (r"ffn|kv-channels|head|norm|position|rotary|rope|swiglu|activation-func|untie|bias|qk-|mla|lora-rank|query-group"
     r"|latent|topk|moe-router|moe-layer|moe-shared|moe-ffn|max-position|normalization|mtp|attention-type|gated|squared"
     r"|group-query|share-embeddings|make-vocab|padded|window|softmax|v-head|kv-lora|first-k|multi-latent|model-type",
     "no effect", "the config.json of the model says its architecture"),
    (r"bucket|overlap-param|align-|defer-|delay-|num-sms|average-in|reduce-scatter|allgather|contiguous|prefetch|persist"
     r"|sub-group|stage3|buffer|threshold|period|ub|use-tp-pp-dp|param-gather|round-robin|pin-memory|max-live|nvme",
     "not modelled", "it tunes an overlap that counts as a policy, without the sizes of its buffers"),
    (r"offload|cpu-|activation-memory|empty-unused|fine-grained", "not modelled",
     "activations in the memory of the host are not modelled"),
    (r"pipeline|layout|standalone|decoder-first|decoder-last|account-for|uneven", "not modelled",
     "stages have equal numbers of layers"),
    (r"mode$|option|method|early-stop", "not modelled", "the policy of recompute is none, selective or full"),
)  # fmt: skip
"""Pattern of a flag that has no place -> kind and reason. The first pattern that matches counts."""

UNKNOWN_FLAG: tuple[UnreadKind, str] = ("unknown", "the table of training flags does not have it")


def training_reason(flag: str) -> tuple[UnreadKind, str]:
    """Kind and reason of a flag that has no place in a training deployment.

    Parameters
    ----------
    flag : the flag as the launch spells it
    """
    name = flag.lstrip("-").lower().replace("_", "-")
    for pattern, kind, reason in REASONS:
        if re.search(pattern, name):
            return kind, reason
    return UNKNOWN_FLAG


def look_up(flag: str, framework: TrainingFramework) -> TrainingRow | None:
    """What a flag says; None: it has no place.

    Parameters
    ----------
    flag : the flag, a path in a YAML file, or a path in a TOML or JSON file
    framework : the framework
    """
    table = TABLES[framework]
    name = flag.lstrip("-").lower().replace("_", "-").removeprefix("no-")
    return table.get(name) or (table.get(name.rpartition(".")[2]) if framework == "megatron" else None)


def value_of(row: TrainingRow, flag: str, text: str, where: str) -> Any:
    """The value of a flag.

    Parameters
    ----------
    row : what the flag says
    flag : the flag as the launch spells it
    text : its value as text
    where : file and line

    Raises
    ------
    SpecError : the value is not one of the flag
    """
    try:
        value = row.read(text)
    except ValueError as error:
        hint = str(error) if str(error).startswith("want") or ": want" in str(error) else "want a number"
        raise SpecError(f"{flag} {text[:60]!r}", where=where, hint=hint) from None
    negated = flag.lstrip("-").lower().startswith(("no-", "no_")) and isinstance(value, bool)
    return not value if negated else value
