"""Rope scaling in a config.json: the context that it allows beyond `max_position_embeddings`."""

from __future__ import annotations

import math

from tokenworks.specs.hf.config import MOST_CONTEXT, Fields, Json
from tokenworks.specs.load import short
from tokenworks.specs.model import ExtendedContext

METHODS = ("yarn", "linear", "dynamic")
"""Kinds of rope scaling whose factor lengthens the context. With the others `max_position_embeddings` is the limit."""


def extended_context(fields: Fields, own: int) -> ExtendedContext | None:
    """The longer context that the rope scaling of a config allows; None where it allows no more than `own` tokens.

    The length is `original_max_position_embeddings` (or `own`) x `factor`, as vLLM computes it.

    Parameters
    ----------
    own : `max_position_embeddings` [token]

    References
    ----------
    [1] Peng et al., YaRN, arXiv:2309.00071.
    [2] vLLM, vllm/config/model.py, `_get_and_verify_max_len`.
    """
    key = next((key for key in ("rope_scaling", "rope_parameters") if fields.has(key)), "")
    rope = fields.raw(key) if key else None
    if isinstance(rope, dict) and isinstance(rope.get("full_attention"), dict):
        key, rope = f"{key}.full_attention", rope["full_attention"]
    if not isinstance(rope, dict):
        return None
    method = rope.get("rope_type", rope.get("type"))
    if method not in METHODS or rope.get("factor") is None:
        return None
    factor = _number(fields, key, "factor", rope["factor"])
    before = own
    if method == "yarn" and rope.get("original_max_position_embeddings") is not None:
        name = "original_max_position_embeddings"
        before = int(_number(fields, key, name, rope[name]))
    tokens = int(before * factor)
    return ExtendedContext(tokens, method, factor, f"{fields.where}: {key}") if tokens > own else None


def _number(fields: Fields, key: str, name: str, value: Json) -> float:
    """A factor or a length of the rope scaling."""
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 < value <= MOST_CONTEXT:
        hint = f"write a number above 0, at most {MOST_CONTEXT:,}"
        raise fields.error(f"{key}.{name}", f"{short(repr(value))} is no such number", hint=hint)
    return float(value)
