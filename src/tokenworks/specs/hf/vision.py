"""Counts the parameters of a vision tower from its `vision_config`. The tower has no cost in the model."""

from __future__ import annotations

from collections.abc import Callable

from tokenworks.specs.hf.config import Fields, NotTold

Count = Callable[[Fields, int], int]


def count(outer: Fields, counter: Count | None, hidden: int) -> int | None:
    """Number of parameters of the vision tower, with its projector to the decoder.

    Parameters
    ----------
    outer : the whole config, with `vision_config`
    counter : counting function of the architecture; None = there is none
    hidden : width of the decoder [count]

    Returns
    -------
    Number of parameters; None if the config does not give the size of the tower [count].
    """
    if not outer.has("vision_config") or counter is None:
        return None
    try:
        return counter(outer.table("vision_config"), hidden)
    except NotTold:  # the tower has no cost, so a config without its size is no error
        return None


def _encoder_layer(hidden: int, inner: int) -> int:
    """Parameters of attention and a plain MLP with biases, and of two LayerNorms."""
    return 4 * (hidden * hidden + hidden) + 2 * hidden * inner + inner + hidden + 4 * hidden


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def qwen(fields: Fields, hidden: int) -> int:
    """Qwen3-VL and Qwen3.5: patches, positions, encoder, and a merger, with one more merger per deepstack level."""
    width, patch = fields.whole("hidden_size"), fields.whole("patch_size")
    pixels = fields.whole("in_channels") * fields.whole("temporal_patch_size") * patch * patch
    merged = width * fields.whole("spatial_merge_size") ** 2
    merger = _linear(merged, merged) + _linear(merged, hidden)
    deep = len(fields.items("deepstack_visual_indexes"))
    layers = fields.layers("depth") * _encoder_layer(width, fields.whole("intermediate_size"))
    positions = fields.whole("num_position_embeddings") * width
    return _linear(pixels, width) + positions + layers + merger + 2 * width + deep * (merger + 2 * merged)


def moonvit(fields: Fields, hidden: int) -> int:
    """MoonViT of Kimi-K2.5 with its patch merger (arXiv:2504.07491, section 2.1)."""
    if fields.word("mm_projector_type", ("patchmerger", "patchmergerv2")) != "patchmerger":
        raise NotTold("vision_config.mm_projector_type: not counted", where=fields.where)
    width, patch = fields.whole("vt_hidden_size"), fields.whole("patch_size")
    positions = fields.whole("init_pos_emb_height") * fields.whole("init_pos_emb_width") * width
    layers = fields.layers("vt_num_hidden_layers") * _encoder_layer(width, fields.whole("vt_intermediate_size"))
    merged = 4 * width
    return (
        _linear(3 * patch * patch, width)
        + positions
        + layers
        + 4 * width
        + _linear(merged, merged)
        + _linear(merged, hidden)
    )


def gemma(fields: Fields, hidden: int) -> int:
    """Gemma-4: a gated MLP without biases, four norms per layer, and two position tables, for rows and for columns."""
    width, patch, inner = fields.whole("hidden_size"), fields.whole("patch_size"), fields.whole("intermediate_size")
    heads, kv_heads, dim = (
        fields.whole("num_attention_heads"),
        fields.whole("num_key_value_heads"),
        fields.whole("head_dim"),
    )
    attention = 2 * width * (heads + kv_heads) * dim + 2 * dim
    layers = fields.layers() * (attention + 3 * width * inner + 4 * width)
    positions = 2 * fields.whole("position_embedding_size") * width
    return 3 * patch * patch * width + positions + layers + 2 * width + width * hidden


def llama4(fields: Fields, hidden: int) -> int:
    """Llama-4: a class token, learnt positions, a pixel-shuffle adapter and a projector without biases."""
    width, patch, inner = fields.whole("hidden_size"), fields.whole("patch_size"), fields.whole("intermediate_size")
    patches = (fields.whole("image_size") // patch) ** 2
    layers = fields.layers() * _encoder_layer(width, inner)
    middle, out = fields.whole("projector_input_dim"), fields.whole("projector_output_dim")
    adapter = inner * middle + out * out + fields.whole("vision_output_dim") * hidden
    return fields.whole("num_channels") * patch * patch * width + (patches + 2) * width + layers + 4 * width + adapter
