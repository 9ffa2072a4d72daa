"""Flags of a training launch become the keys of a training deployment, with the defaults of their framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.launch.training_table import TrainingFramework

DEFAULTS: Mapping[TrainingFramework, Mapping[str, Any]] = {
    "megatron": {
        "zero": 0, "sp": False, "dp_overlap": False, "precision": "fp32", "reduce": "fp32", "dispatcher": "alltoall",
    },
    "torchtitan": {"zero": 3, "sp": True, "precision": "bf16", "reduce": "fp32", "dispatcher": "alltoall"},
    "deepspeed": {"zero": 0, "sp": False, "precision": "fp32", "reduce": "fp32", "dispatcher": "alltoall"},
}  # fmt: skip
"""What a launch means that leaves a setting out: arguments.py of Megatron-LM core 0.19; job_config.py of torchtitan
0.2; docs/config-json of DeepSpeed 0.17."""

BRIDGE = {"zero": 1, "sp": True, "dp_overlap": True, "precision": "bf16"}
"""Defaults of Megatron-Bridge recipes, which write YAML: distributed optimiser, overlap, BF16 (recipes/utils)."""

ASSUMED_LENGTH = 4096
"""Sequence length if a launch states none [token]."""

HELPERS = (
    "layers_per_chunk", "distributed", "fsdp", "strategy", "instances", "bf16", "fp16", "fp8", "fp8_recipe", "fp4",
    "gather8", "deepep", "balanced", "reduce32", "reduce16", "offload_all", "mtp", "num_layers", "hidden_size", "heads",
    "num_experts", "nodes", "each", "world", "dp_shard", "dp_replicate", "local", "param", "float8", "family", "flavor",
    "accumulation", "ulysses", "model", "checkpointing",
)  # fmt: skip
"""Names of the table that are no keys of a deployment: this module turns them into keys."""


@dataclass(frozen=True, slots=True)
class TrainingMeaning:
    """What the flags of a launch mean.

    Parameters
    ----------
    settings : key of the short form of a deployment -> value; `modules` are the modules of recompute
    devices : devices that the launch states; None: it states none [count]
    shape : sizes of the model that the launch states: num_layers, hidden_size, heads, num_experts
    model : name of the model that the launch states; empty: none
    notes : sentences for the user
    """

    settings: Mapping[str, Any]
    devices: int | None
    shape: Mapping[str, int]
    model: str
    notes: tuple[str, ...]


def training_meaning(
    framework: TrainingFramework, said: Mapping[str, Any], devices: int | None, where: str, *, bridge: bool = False
) -> TrainingMeaning:
    """The settings that a launch states.

    Parameters
    ----------
    framework : the framework
    said : key of the table -> value, from all flags of the launch
    devices : devices of the machine, where the launch states none; None: they are not known [count]
    where : file of the launch, for messages
    bridge : whether the launch is YAML of Megatron-Bridge

    Raises
    ------
    SpecError : the values contradict each other
    """
    notes: list[str] = []
    settings = {**DEFAULTS[framework], **(BRIDGE if bridge else {})}
    settings |= {key: value for key, value in said.items() if key not in HELPERS}
    world = said.get("world") or (said.get("nodes", 1) * said["each"] if "each" in said else None)
    total = world or devices
    settings |= _precision(said)
    if framework == "megatron":
        settings |= _megatron(said, settings, total)
    elif framework == "torchtitan":
        settings |= _torchtitan(said, settings, total, where)
    else:
        settings |= _deepspeed(said, settings)
    if said.get("mtp"):
        settings["draft_layers"] = True
    if said.get("balanced"):
        settings["skew"] = 0.0
    if settings.get("zero", 0) > 0 and settings.get("shard") == 1:
        del settings["shard"]
    if settings.get("recompute") != "selective":
        settings.pop("modules", None)
    if settings.get("recompute") != "full":
        settings.pop("recompute_layers", None)
    if settings.get("master", "") not in ("", "fp32", "bf16"):
        settings["master"] = "bf16"
    if "seq" not in settings:
        settings["seq"] = ASSUMED_LENGTH
        notes.append(f"The launch states no sequence length: {ASSUMED_LENGTH:,} tokens are assumed (seq_len).")
    if "mbs" not in settings:
        settings["mbs"] = 1
        notes.append("The launch states no micro-batch: 1 sequence is assumed (micro_batch).")
    _with_batch(said, settings, total, notes, where)
    shape = {key: said[key] for key in ("num_layers", "hidden_size", "heads", "num_experts") if said.get(key)}
    model = said.get("model") or " ".join(filter(None, (said.get("family"), said.get("flavor"))))
    return TrainingMeaning(settings, world, shape, model, tuple(notes))


def _precision(said: Mapping[str, Any]) -> dict[str, Any]:
    """Precision: FP4 before FP8 before 16 bits."""
    settings: dict[str, Any] = {}
    for name in ("bf16", "fp16"):
        if said.get(name):
            settings["precision"] = name
    if said.get("param"):
        settings["precision"] = said["param"]
    if said.get("fp8"):
        settings["precision"] = said.get("fp8_recipe", "fp8-delayed")
    if said.get("float8"):
        settings["precision"] = said["float8"]
    if said.get("fp4"):
        settings["precision"] = "nvfp4"
    if said.get("gather8"):
        settings["gather"] = "fp8"
    if said.get("reduce16"):
        settings["reduce"] = "bf16"
    if "reduce32" in said:
        settings["reduce"] = "fp32" if said["reduce32"] else "bf16"
    return settings


def _megatron(said: Mapping[str, Any], known: Mapping[str, Any], devices: int | None) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    tp, pp = (int(known.get(name, 1)) for name in ("tp", "pp"))
    if "etp" not in known and tp > 1 and said.get("num_experts"):
        settings["etp"] = tp  # expert_tensor_parallel_size defaults to the tensor-parallel size
    if said.get("distributed"):
        settings["zero"] = 1
    if "strategy" in said:
        settings["zero"] = said["strategy"]
    elif said.get("fsdp"):
        settings["zero"] = 3
    if (copies := said.get("instances", 1)) > 1 and devices:
        settings["shard"] = max(1, devices // (tp * pp * copies))
    chunk = said.get("layers_per_chunk")
    if chunk and said.get("num_layers") and pp > 1:
        settings["vpp"] = max(1, said["num_layers"] // (pp * chunk))
    vpp = int(settings.get("vpp", known.get("vpp", 1)) or 1)
    settings |= {"vpp": vpp, "schedule": "interleaved"} if vpp > 1 and pp > 1 else {"vpp": 1}
    if said.get("deepep"):
        settings["dispatcher"] = "deepep"
    if said.get("offload_all") and "offload" not in known:
        settings["offload"] = 1.0
    if known.get("tp", 1) == 1:
        settings["sp"] = False
    return settings


def _torchtitan(said: Mapping[str, Any], known: Mapping[str, Any], devices: int | None, where: str) -> dict[str, Any]:
    """Torchtitan divides weights over dp_shard x cp ranks (FSDP), and holds dp_replicate copies (HSDP)."""
    settings: dict[str, Any] = {}
    tp, pp, cp = (int(known.get(name, 1)) for name in ("tp", "pp", "cp"))
    copies, shard = said.get("dp_replicate", 1), said.get("dp_shard", -1)
    if shard == -1 and devices is not None:
        if devices % (tp * pp * cp * copies):
            raise SpecError(
                f"tp={tp} x pp={pp} x cp={cp} x replicas={copies} does not divide {devices} devices", where=where,
                hint="give --on a machine with more devices, or change a degree",
            )  # fmt: skip
        shard = devices // (tp * pp * cp * copies)
    if shard != -1:
        settings["dp"] = shard * copies
        settings |= {"zero": 3, "shard": shard * cp} if shard * cp > 1 else {"zero": 0}
    if "mbs" not in known and "local" in said:
        settings["mbs"] = said["local"]
    if known.get("gbs") == -1:
        settings["gbs"] = None
    if known.get("schedule") == "interleaved":
        settings["vpp"] = 2  # torchtitan's default: two stages for each rank
    return settings


def _deepspeed(said: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if said.get("ulysses", 1) > 1:
        settings |= {"cp": said["ulysses"], "exchange": "a2a"}
    if said.get("checkpointing"):
        settings["recompute"] = "full"
    if known.get("shard", 0) in (-1, 0, 1):
        settings["shard"] = None
    if said.get("rank"):
        settings["method"] = "lora"
    return settings


def _with_batch(
    said: Mapping[str, Any], settings: dict[str, Any], devices: int | None, notes: list[str], where: str
) -> None:
    """The global batch, from micro-batches x accumulation x data-parallel ranks if the launch does not state it."""
    widths = [int(settings.get(name, 1) or 1) for name in ("tp", "pp", "cp")]
    lanes = settings.get("dp") or (devices // (widths[0] * widths[1] * widths[2]) if devices else None)
    if settings.get("gbs"):
        return
    settings.pop("gbs", None)
    if not lanes:
        raise SpecError("states no global batch and no number of devices", where=where,
                        hint="give --on MACHINE, or write the global batch")  # fmt: skip
    micro_batches = said.get("accumulation", 1)
    if "local" in said and settings["mbs"]:
        micro_batches = max(1, said["local"] // settings["mbs"])
    settings["gbs"] = settings["mbs"] * micro_batches * lanes
    notes.append(
        f"The launch states no global batch: {settings['mbs']} x {micro_batches} micro-batches x {lanes} ranks = "
        f"{settings['gbs']:,} sequences."
    )
