"""From a parsed config.json to a `Model`, by the table of architectures."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from tokenworks.specs.hf import towers
from tokenworks.specs.hf.config import MOST_CONTEXT, Fields, unused_note
from tokenworks.specs.hf.parts import Place, merged
from tokenworks.specs.hf.quantisation import read_formats
from tokenworks.specs.hf.rope import extended_context
from tokenworks.specs.hf.scope import Scope
from tokenworks.specs.hf.stack import Layers
from tokenworks.specs.hf.table import Entry, entry, entry_names, known_words
from tokenworks.specs.load import short
from tokenworks.specs.model import Matrix, Model

NO_CONTEXT = 2**20
"""Context of a model without positions, such as a recurrent one, whose config names no limit [token]."""


def build(config: Mapping[str, Any], name: str, where: str) -> Model:
    """Build a model from a parsed config.json. Every needed field must be present; keys that are not used are named.

    Parameters
    ----------
    config : the parsed config
    name : name of the model
    where : file, for messages

    Raises
    ------
    SpecError : an unknown architecture, a missing field, or a wrong or contradictory value
    """
    outer = Fields(config, where)
    if "model_type" not in config and "_class_name" in config:
        words = f"is a config of diffusers ({short(repr(config['_class_name']))}), which generates no tokens"
        raise outer.error("_class_name", words, hint="give the config.json of a language model")
    kind = outer.raw("model_type")
    arch = _entry(outer, kind)
    outer = Fields(config, where, arch.get("defaults", {}))
    outer.ignore("model_type", "tie_word_embeddings", "quantization_config")
    fields, decoder, decoder_name = _decoder(outer, arch, kind)
    fields.ignore("model_type", "tie_word_embeddings", "quantization_config")
    scope = Scope(fields, decoder["names"], {"outer": outer})
    holders = [(each, key) for key in ("quantization_config", "quantization") for each in (outer, fields)]
    quantisation = next((each.table(key) for each, key in holders if each.has(key)), None)
    formats = read_formats(fields if fields.has("dtype") or fields.has("torch_dtype") else outer, quantisation, name)
    root = Place(formats)
    path = arch.get("path", decoder.get("path", "model"))
    layers = Layers(scope, decoder, root, path)
    stack = layers.stack()
    vocab = scope.whole("vocab")
    context = scope.whole("context", most=MOST_CONTEXT)
    tied = _tied(outer, fields, scope, decoder)
    at = root.at(path)
    width = scope.whole(decoder.get("embedding", "hidden"))
    vision, tower_notes = towers.count(outer, arch, stack.hidden)
    notes = [*stack.notes, *formats.notes, *tower_notes]
    used = ", ".join(f"{key}={value}" for key, value in (fields.used_defaults() | outer.used_defaults()).items())
    if used:
        notes.append(f"not in the config, class default: {used}")
    if isinstance(config.get("_note"), str):
        notes.append(config["_note"])
    known = known_words(kind) | known_words(decoder_name)
    unused = [path for path in outer.unused() if path.rsplit(".", 1)[-1] not in known]
    notes += [note] if (note := unused_note(unused)) else []
    return Model(
        name,
        kind,
        stack.hidden,
        vocab,
        stack.heads,
        stack.kv_heads,
        context,
        at.matrix("embed_tokens", width, vocab, "embedding", "out"),
        _head(at, scope, decoder, width) if not tied and not decoder.get("no_head") else None,
        merged(stack.layers),
        merged(stack.draft),
        vectors=stack.outside + scope.whole(decoder.get("lookups", 0), least=0, most=10**13),
        native_kv=stack.kv or formats.native_kv,
        vision_parameters=vision,
        notes=tuple(notes),
        extended_context=extended_context(fields, context),
    )


def _head(at: Place, scope: Scope, decoder: Entry, width: int) -> Matrix:
    """The output layer."""
    outputs, bias = scope.whole(decoder.get("head_vocab", "vocab")), scope.flag(decoder.get("head_bias", False))
    return at.matrix("lm_head", width, outputs, "head", "out", bias=bias)


def _entry(fields: Fields, kind: object) -> Entry:
    """The entry of a `model_type`."""
    architecture = entry(kind) if isinstance(kind, str) and not kind.startswith("_") else None
    if architecture is None:
        names = entry_names()
        near = difflib.get_close_matches(str(kind), names, n=3, cutoff=0.3) or ["llama", "qwen3", "deepseek_v3"]
        hint = f"similar known ones: {', '.join(near)}; `docs/models.md` says how to add one"
        raise fields.error("model_type", f"the architecture {kind!r} is not known", hint=hint)
    if "refused" in architecture:
        raise fields.error("model_type", f"{kind!r} is no decoder that is served: {architecture['refused']}")
    return architecture


def _decoder(outer: Fields, arch: Entry, kind: str) -> tuple[Fields, Entry, str]:
    """The object that describes the decoder, its architecture, and the name of the architecture.

    A model with towers has the decoder nested, and names its `model_type` there; older files have it at the top.
    """
    fields = outer
    for key in arch["text"].split(".") if "text" in arch else ():
        if not fields.has(key):
            break
        fields = fields.table(key)
    inner = fields.get("model_type")
    nested = fields is not outer and isinstance(inner, str) and not arch.get("fixed_decoder")
    name = str(inner) if nested else arch.get("decoder", kind)
    decoder = arch if name == kind else entry(name) if not nested else _entry(fields, name)
    if decoder is None or "parts" not in decoder:
        raise fields.error("model_type", f"the architecture {name!r} is no decoder")
    if "outside" in arch:
        decoder = {**decoder, "outside": arch["outside"]}
    if fields is not outer:
        fields.with_defaults(decoder.get("defaults", {}))
    return fields, decoder, name


def _tied(outer: Fields, fields: Fields, scope: Scope, decoder: Entry) -> bool:
    """True if the embedding is also the output layer. The outer object decides, if it has the key."""
    if fields is not outer and outer.has("tie_word_embeddings"):
        return outer.flag("tie_word_embeddings")
    if "tied" in decoder:
        return scope.flag(decoder["tied"])
    return fields.flag("tie_word_embeddings")
