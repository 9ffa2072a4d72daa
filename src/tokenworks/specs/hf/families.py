"""The table of architectures: which builder reads a `model_type`, and its class defaults."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenworks.specs.hf import deepseek, dense, moe
from tokenworks.specs.hf.config import Fields
from tokenworks.specs.hf.formats import read_formats
from tokenworks.specs.hf.parts import Site, Stack, merged
from tokenworks.specs.model import Model


@dataclass(frozen=True)
class Family:
    """How to read one `model_type`.

    defaults : of the transformers configuration class, used where the key is absent, and then named in a note
    prefix : module path of the decoder in the checkpoint; text : key of the nested text config, if there is one
    """

    build: Callable[[Fields, Site], Stack]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = "model"
    text: str = ""


UNTIED = {"tie_word_embeddings": False}

FAMILIES: dict[str, Family] = {
    # configuration_llama.py: tie_word_embeddings=False, attention_bias=False
    "llama": Family(dense.llama, UNTIED),
    "qwen2": Family(dense.qwen2, UNTIED),
    "qwen3": Family(dense.qwen3, UNTIED),
    "mixtral": Family(moe.mixtral, UNTIED),
    "qwen3_moe": Family(moe.qwen3_moe, UNTIED),
    "gpt_oss": Family(moe.gpt_oss, UNTIED),
    "deepseek_v3": Family(deepseek.deepseek_v3, UNTIED),
    "kimi_k2": Family(deepseek.deepseek_v3, UNTIED),
    "deepseek_v32": Family(deepseek.deepseek_v32, UNTIED),
}


def build(config: Mapping[str, Any], name: str, where: str) -> Model:
    """A model from the parsed config.json. Every key must be known, and every needed key be there."""
    outer = Fields(config, where)
    kind = outer.raw("model_type")
    if kind not in FAMILIES:
        near = difflib.get_close_matches(str(kind), FAMILIES, n=3, cutoff=0.3)
        raise outer.error("model_type", f"the architecture {kind!r} is not known", hint=f"near: {', '.join(near)}")
    family = FAMILIES[kind]
    fields = Fields(config, where, family.defaults)
    quantisation = fields.table("quantization_config") if fields.has("quantization_config") else None
    formats = read_formats(fields, quantisation, name)
    root = Site(formats)
    stack = family.build(fields, root.at(family.prefix))
    vocab = fields.whole("vocab_size")
    tied = fields.flag("tie_word_embeddings")
    context = fields.whole("max_position_embeddings")
    architecture = str(kind)
    fields.done()
    used = ", ".join(f"{key}={value}" for key, value in fields.used_defaults.items())
    return Model(
        name,
        architecture,
        stack.hidden,
        vocab,
        stack.heads,
        stack.kv_heads,
        context,
        root.matrix(stack.embedding, stack.hidden, vocab, "embedding", "out"),
        None if tied else root.matrix(stack.head, stack.hidden, vocab, "head", "out"),
        merged(stack.layers),
        merged(stack.draft),
        vectors=stack.outside,
        native_kv=formats.native_kv,
        notes=(*((f"not in the config, class default: {used}",) if used else ()), *formats.notes, *stack.notes),
    )
