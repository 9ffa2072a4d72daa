"""The table of architectures: for each `model_type`, its builder and the defaults of its config class."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenworks.specs.hf import deepseek, dense, hybrid, moe, vision, windowed
from tokenworks.specs.hf.config import MOST_CONTEXT, Fields
from tokenworks.specs.hf.formats import read_formats
from tokenworks.specs.hf.parts import Place, Stack, merged
from tokenworks.specs.hf.rope import extended_context
from tokenworks.specs.model import Model, Part

TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
# Llama4TextConfig: every fourth layer has no rotary embedding and sees the whole context.
LLAMA4 = {**UNTIED, "no_rope_layer_interval": 4}
# Qwen3_5Config: the recurrent state is FP32, and attention always has its output gate.
QWEN3_5 = {**UNTIED, "mamba_ssm_dtype": "float32", "attn_output_gate": True}
# NemotronHConfig: the recurrent state is FP32, and the convolution has a bias.
NEMOTRON_H = {**UNTIED, "mamba_ssm_cache_dtype": "float32", "use_conv_bias": True}
# MiMoV2FlashConfig: windowed layers have one sink per head, full layers have none.
MIMO_V2 = {**UNTIED, "add_swa_attention_sink_bias": True}


@dataclass(frozen=True)
class Architecture:
    """How to read the config of one `model_type`.

    Parameters
    ----------
    build : function that builds the stack of layers
    defaults : defaults of the transformers config class for absent keys; a note names each default that was used
    prefix : module path of the decoder in the checkpoint
    narrow : see `parts.Place`
    text : key of the nested text config; empty = there is none
    outer : keys beside the text config that change neither weights nor cache
    tower : function that counts the vision tower
    """

    build: Callable[[Fields, Place], Stack]
    defaults: Mapping[str, Any] = field(default_factory=lambda: UNTIED)
    prefix: str = "model"
    narrow: Part = "experts"
    text: str = ""
    outer: tuple[str, ...] = ()
    tower: vision.Count | None = None


def _dense(build: Callable[[Fields, Place], Stack], **more: Any) -> Architecture:
    return Architecture(build, narrow="dense", **more)


def _nested(
    build: Callable[[Fields, Place], Stack], root: str, *, tower: vision.Count | None, **more: Any
) -> Architecture:
    """A vision-language model, with the module path `root` of its decoder."""
    return Architecture(build, prefix=root, text="text_config", tower=tower, **more)


_INSIDE, _WHOLE = "model.language_model", "language_model.model"
_V4 = Architecture(deepseek.deepseek_v4, prefix="")

ARCHITECTURES: dict[str, Architecture] = {
    "deepseek_ref": _V4,
    "deepseek_v2": Architecture(deepseek.deepseek_v3),
    "deepseek_v3": Architecture(deepseek.deepseek_v3),
    "deepseek_v32": Architecture(deepseek.deepseek_v32),
    "deepseek_v4": _V4,
    "gemma4": _nested(
        windowed.gemma4, _INSIDE, tower=vision.gemma, defaults=TIED,
        outer=("boa_token_id", "boi_token_id", "vision_soft_tokens_per_image"),
    ),
    "glm4_moe": Architecture(moe.glm4_moe),
    "glm_moe_dsa": Architecture(deepseek.glm_moe_dsa),
    "gpt_oss": Architecture(windowed.gpt_oss),
    "kimi_k2": Architecture(deepseek.deepseek_v3),
    "kimi_k25": _nested(deepseek.deepseek_v3, _WHOLE, tower=vision.moonvit, outer=("use_unified_vision_chunk",)),
    "kimi_k3": _nested(hybrid.kimi_linear, _WHOLE, tower=vision.moonvit, outer=("use_unified_vision_chunk",)),
    "kimi_linear": Architecture(hybrid.kimi_linear),
    "llama": _dense(dense.llama),
    "llama4": _nested(windowed.llama4, _WHOLE, tower=vision.llama4, defaults=LLAMA4),
    "mimo": _dense(dense.mimo),
    "mimo_v2_flash": Architecture(windowed.mimo_v2, MIMO_V2),
    "minimax_m2": Architecture(moe.minimax_m2),
    "minimax_m3": Architecture(moe.minimax_m3),
    "minimax_m3_vl": _nested(
        moe.minimax_m3, _WHOLE, tower=None,
        outer=(
            "image_grid_pinpoints", "image_seq_length", "multimodal_projector_bias", "num_reward_heads",
            "process_image_mode", "projector_hidden_act", "projector_hidden_size", "vision_feature_layer",
            "vision_feature_select_strategy",
        ),
    ),
    "mistral": _dense(dense.mistral),
    "mixtral": Architecture(moe.mixtral),
    "nemotron-nas": _dense(dense.decilm),
    "nemotron_h": Architecture(hybrid.nemotron_h, NEMOTRON_H, "backbone"),
    "qwen2": _dense(dense.qwen2),
    "qwen3": _dense(dense.qwen3),
    "qwen3_5": _nested(
        hybrid.qwen3_5, _INSIDE, tower=vision.qwen, defaults=QWEN3_5, narrow="dense", outer=("language_model_only",)
    ),
    "qwen3_5_moe": _nested(hybrid.qwen3_5_moe, _INSIDE, tower=vision.qwen, defaults=QWEN3_5),
    "qwen3_moe": Architecture(moe.qwen3_moe),
    "qwen3_vl": _nested(dense.qwen3, _INSIDE, tower=vision.qwen, narrow="dense"),
    "qwen3_vl_moe": _nested(moe.qwen3_moe, _INSIDE, tower=vision.qwen),
    "step3p7": Architecture(windowed.step3),
}  # fmt: skip


def build(config: Mapping[str, Any], name: str, where: str) -> Model:
    """Build a model from a parsed config.json. Every key must be known, and every needed key must be present.

    Parameters
    ----------
    config : the parsed config
    name : name of the model
    where : file, for messages

    Raises
    ------
    SpecError : an unknown architecture or key, a missing key, or a wrong value
    """
    outer = Fields(config, where)
    kind = outer.raw("model_type")
    arch = ARCHITECTURES.get(kind) if isinstance(kind, str) else None
    if arch is None:
        near = difflib.get_close_matches(str(kind), ARCHITECTURES, n=3, cutoff=0.3) or sorted(ARCHITECTURES)
        hint = f"similar known ones: {', '.join(near)}"
        raise outer.error("model_type", f"the architecture {kind!r} is not known", hint=hint)
    fields = outer.table(arch.text, arch.defaults) if arch.text else Fields(config, where, arch.defaults)
    holder = next((each for each in (outer, fields) if each.has("quantization_config")), None)
    formats = read_formats(fields, holder.table("quantization_config") if holder else None, name)
    root = Place(formats, narrow=arch.narrow)
    stack = arch.build(fields, root.at(arch.prefix))
    vocab = fields.whole("vocab_size")
    context = fields.whole("max_position_embeddings", most=MOST_CONTEXT)
    tied = (outer if arch.text and outer.has("tie_word_embeddings") else fields).flag("tie_word_embeddings")
    notes = [*stack.notes, *formats.notes]
    used = ", ".join(f"{key}={value}" for key, value in fields.used_defaults.items())
    if used:
        notes.append(f"not in the config, class default: {used}")
    if isinstance(config.get("_note"), str):
        notes.append(config["_note"])
    towers: int | None = 0
    if arch.text:
        towers = vision.count(outer, arch.tower, stack.hidden)
        if towers is None:
            notes.append("the vision tower is not counted: its config does not give its size")
        outer.ignore("vision_config", "tie_word_embeddings", "quantization_config", *arch.outer)
        outer.must("audio_config")
        outer.done()
    fields.ignore("tie_word_embeddings", "quantization_config")
    fields.done()
    return Model(
        name,
        kind,
        stack.hidden,
        vocab,
        stack.heads,
        stack.kv_heads,
        context,
        root.matrix("embed_tokens", stack.hidden, vocab, "embedding", "out"),
        None if tied else root.matrix("lm_head", stack.hidden, vocab, "head", "out"),
        merged(stack.layers),
        merged(stack.draft),
        vectors=stack.outside,
        native_kv=stack.kv or formats.native_kv,
        vision_parameters=towers,
        notes=tuple(notes),
        extended_context=extended_context(fields, context),
    )
