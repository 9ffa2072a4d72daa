"""What a measured training run becomes: a model, a machine and a training deployment."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tokenworks.calibrate.case_machine import Skipped, machine_of
from tokenworks.calibrate.measured import Worker
from tokenworks.calibrate.training_points import UNSTATED, TrainingPoint
from tokenworks.calibrate.training_recipes import recipe_settings
from tokenworks.costs.train import model_flop
from tokenworks.costs.train_plan import TrainPlans
from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.hf import load_model
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model
from tokenworks.specs.training import Training
from tokenworks.specs.training_text import KEYS, load_training

MODELS = {
    "deepseekv3": "deepseek-ai/DeepSeek-V3", "deepseekv4 flash": "deepseek-ai/DeepSeek-V4-Flash",
    "gpt oss 120b": "openai/gpt-oss-120b", "qwen3_30b_a3b": "Qwen/Qwen3-30B-A3B",
    "qwen3_235b_a22b": "Qwen/Qwen3-235B-A22B", "llama3_8b": "meta-llama/Meta-Llama-3.1-8B",
    "llama3_70b": "meta-llama/Meta-Llama-3.1-70B", "llama3.1_405b": "meta-llama/Meta-Llama-3.1-405B",
    "llama-3.1-8b": "meta-llama/Meta-Llama-3.1-8B", "llama-3.1-405b": "meta-llama/Meta-Llama-3.1-405B",
    "llama-2-70b": "meta-llama/Llama-2-70b-hf", "nemotron_3_nano": "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "nemotron_3_super": "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8",
    "nemotron_3_ultra": "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16",
    "nemotron_3_5_lightning": "nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-NVFP4",
}  # fmt: skip
"""Name of a model in published tables -> id in the catalog. Llama 3 and 3.1 have equal shapes."""

GPT3 = {
    "model_type": "gpt2", "n_embd": 12288, "n_head": 96, "n_layer": 96, "n_positions": 4096, "vocab_size": 51200,
    "name": "GPT-3-175B",
}  # fmt: skip
"""GPT-3 175B (arXiv:2005.14165, table 2.1); Megatron-LM pads its vocabulary to 51,200."""

PRECISIONS = {
    "mxfp8": "mxfp8", "fp8-mx": "mxfp8", "fp8": "fp8", "fp8-cs": "fp8", "fp8-cs (fp8-mx)": "fp8", "fp8-sc": "fp8-block",
    "nvfp4": "nvfp4", "bf16": "bf16", "fp16": "fp16", "fp32": "fp32",
}  # fmt: skip
"""Precision in published tables -> recipe of a training deployment. CS: current scaling, one scale per tensor."""

EIGHT_BITS = ("fp8", "fp8-block", "mxfp8")
"""Recipes whose weights can be gathered in FP8."""

UNTOLD = "fp8"
"""Precision of rows that state none. Megatron-Bridge 25.09: numbers outside of parentheses are FP8 with one scale per
tensor (docs/performance-summary-archive.md). MLPerf v5.0 and v5.1: the submissions of NVIDIA's software use FP8."""

FRAMEWORKS: Mapping[str, Mapping[str, Any]] = {
    "vtrain": {
        "zero": 0, "sp": False, "recompute": "full", "recompute_last": False, "dp_overlap": False, "reduce": "bf16",
        "pp_overlap": False, "attention_kernel": "unfused",
    },
    "meta-internal": {"zero": 2, "vpp": 8},
}  # fmt: skip
"""Settings of a framework that its tables do not state. vtrain: src/config.py and src/predictor.py of
VIA-Research/vTrain @f8dda84. meta-internal: arXiv:2407.21783, section 3.3.2: FSDP divides optimiser states and
gradients, and the schedule is interleaved; one layer in each of 8 virtual stages is assumed, because with 32 and 16
micro-batches the bubbles then explain the stated MFU of 43 and 41 %."""


class Choose(Protocol):
    """Chooses the deployment of a run whose parallelism is not stated, as a planner does."""

    def __call__(
        self, model: Model, machine: Machine, batch: int, sequence: int, *, base: Training
    ) -> Training | None:  # fmt: skip
        """The deployment for a model on a machine; None: no deployment fits.

        Parameters
        ----------
        model : the model
        machine : the machine
        batch : sequences of an optimiser step [count]
        sequence : tokens of a sequence [token]
        base : settings that the choice keeps: precision, method and policies
        """


@dataclass(frozen=True)
class TrainingCase:
    """What a run is predicted on.

    Parameters
    ----------
    model : the model
    machine : the machine
    training : the deployment
    assumed : what the source does not state, and the values used instead
    """

    model: Model
    machine: Machine
    training: Training
    assumed: tuple[str, ...]


def training_case(point: TrainingPoint, choose: Choose | None = None) -> TrainingCase:
    """The case of a measured run.

    Parameters
    ----------
    point : the run
    choose : chooses the deployment of runs whose parallelism is not stated; None: such runs are skipped

    Raises
    ------
    Skipped : the run cannot be predicted; the text is a kind of reason, a colon, and the reason
    """
    if point.lacks:
        raise Skipped(f"lacks data: {point.id}: {point.lacks}")
    model = _model(point)
    precision = PRECISIONS.get(point.precision.lower(), UNTOLD)
    machine = machine_of(point.device, (Worker("aggregated", point.devices, 1, point.devices, 1, 1),))
    assumed = list(point.assumed)
    if point.precision.lower() not in PRECISIONS:
        assumed.append(f"precision {UNTOLD} for {point.precision or 'none stated'}")
    if point.planned:
        if choose is None:
            raise Skipped(f"{UNSTATED}: {point.framework} {point.model}")
        return TrainingCase(model, *_chosen(point, model, machine, precision, choose), tuple(assumed))
    settings, source = recipe_settings(
        point.framework, model=model.name, device=point.device, precision=precision, method=point.method,
        version=point.version,
    )  # fmt: skip
    if source:
        assumed.append(source)
    whole = {**FRAMEWORKS.get(point.framework, {}), **settings, **point.settings}
    if precision not in EIGHT_BITS:
        whole.pop("gather", None)
    try:
        training = _training(point, precision, whole)
        if model.draft and _counts_drafts(point, model, training):
            training = training.model_copy(update={"draft_layers": True})
        return TrainingCase(model, machine, training, tuple(assumed))
    except SpecError as error:
        raise Skipped(f"the deployment is not valid: {point.id}: {error}") from None


def _whole_domain(domain: int, devices: int) -> int:
    """Devices of each domain that a run uses: all, or the largest power of two, such as 64 of the 72 of an NVL72."""
    if devices <= domain or devices % domain == 0:
        return domain
    return 1 << domain.bit_length() - 1


def _chosen(
    point: TrainingPoint, model: Model, machine: Machine, precision: str, choose: Choose
) -> tuple[Machine, Training]:
    """The machine with exactly the devices of a run, and the deployment that a planner chooses on it."""
    exact = replace(machine, devices=point.devices, domain=_whole_domain(machine.domain, point.devices))
    keys = {"method": point.method, "tp_overlap": True, "reduce": "bf16", "gradients": "bf16"}
    base = load_training(_nested({"precision": precision, **keys}, point))
    training = choose(model, exact, point.batch, point.sequence, base=base)
    if training is None:
        raise Skipped(f"no plan fits: {point.framework} {point.model} on {point.devices} x {point.device}")
    return exact, training


def _counts_drafts(point: TrainingPoint, model: Model, training: Training) -> bool:
    """Whether the FLOP of a token that a source counts are nearer to those with multi-token-prediction layers."""
    rate, flop = point.measured.tok_s_per_device, point.measured.tflops
    if rate is None or flop is None:
        return "w/ MTP" in point.model
    without, with_drafts = (
        float(model_flop(model, TrainPlans.of(training.model_copy(update={"draft_layers": drafts})))) / training.tokens
        for drafts in (False, True)
    )
    return abs(flop / rate - with_drafts) < abs(flop / rate - without)


def _model(point: TrainingPoint) -> Model:
    if point.config:
        return _gpt(tuple(sorted(point.config.items())))
    name = re.sub(r"\s*\([^()]*\)$", "", point.model).lower()
    if name == "gpt-3-175b":
        return _gpt(tuple(sorted(GPT3.items())))
    try:
        return load_model(MODELS.get(name, point.model))
    except UnknownName:
        raise Skipped(f"the model is not known: {point.model}") from None


@functools.cache
def _gpt(config: tuple[tuple[str, Any], ...]) -> Model:
    return load_model(dict(config))


def _training(point: TrainingPoint, precision: str, settings: Mapping[str, Any]) -> Training:
    """The deployment of a run. Keys of `settings` are those of the short form."""
    values = {"precision": precision, **settings, "mbs": point.micro_batch, "gbs": point.batch, "seq": point.sequence}
    if "tokendrop" in point.model:  # Megatron drops tokens only with its all-to-all dispatcher (core/transformer/moe)
        values |= {"capacity": values.get("capacity", 1.0), "dispatcher": "alltoall"}
    if point.method != "pretrain":
        values.setdefault("method", point.method)
    if int(values.get("vpp", 1)) > 1:
        values.setdefault("schedule", "interleaved")
    return load_training(_nested(values, point), devices=point.devices, where=f"line {point.line}")


def _nested(values: Mapping[str, Any], point: TrainingPoint) -> dict[str, Any]:
    """The fields of `Training` from keys of the short form."""
    data: dict[str, Any] = {}
    for key, value in values.items():
        if key not in KEYS:
            raise SpecError(f"unknown key {key!r}", where=f"line {point.line}: parallelism",
                            hint=f"known: {', '.join(KEYS)}")  # fmt: skip
        place = data
        for name in KEYS[key][:-1]:
            place = place.setdefault(name, {})
        place[KEYS[key][-1]] = value
    return data
