"""Reads a `quantization_config`: the storage format of each weight, and the modules that are not quantised."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.specs.hf.config import Fields
from tokenworks.specs.hf.formats import FP8, FP32, MXFP4, MXFP8, NVFP4, Formats, fp8_block, integers, nothing_kept
from tokenworks.specs.model import BF16, Format

_DTYPES = {"bfloat16": BF16, "float16": Format("fp16", 2.0, "bf16"), "float32": FP32}
_NAMED = re.compile(
    r"(?<![a-z0-9])(nvfp4|mxfp4|mxfp8|fp4|fp8|awq|gptq|int4|int8|w4a16|w8a8|w4a8|bnb)(?![a-z0-9])", re.I
)

# Keys of a quantiser about its run, its data and its kernels. They do not change a format.
_INERT_WORDS = """
act_bits act_data_type act_dynamic act_group_size act_sym activation_scale_ub activation_scheme algo_config amp
autoround_version backend batch_size block_name_to_quantize bnb_4bit_compute_dtype bnb_4bit_quant_storage
cache_block_outputs checkpoint_format damp_auto_increment damp_percent data_type dataset dequantize desc_act
enable_minmax_tuning enable_quanted_input exllama_config export fmt format global_compression_ratio
gradient_accumulate_steps has_zero_point include_input_output_embeddings iters layer_type_quant_config
llm_int8_enable_fp32_cpu_offload llm_int8_has_fp16_weight llm_int8_threshold low_gpu_mem_usage lr max_input_length
meta minmax_lr mode model_file_base_name model_name_or_path model_seqlen module_name_preceding_first_block
modules_in_block_to_quantize mse nsamples offload_to_disk pack_dtype packing_format pre_quant_scale producer
quant_mode quantization_status quantizer scale_dtype scale_fmt seqlen softmax_quant_spec sparsity_config static_groups
super_bits super_group_size sym to_quant_block_names tokenizer transform_config true_sequential untie_word_embeddings
use_cuda_fp16 use_exllama version
"""
_INERT = frozenset(_INERT_WORDS.split())


def read_formats(fields: Fields, quantisation: Fields | None, name: str) -> Formats:
    """The formats of a checkpoint, from its `dtype` and its `quantization_config`.

    Parameters
    ----------
    fields : the config
    quantisation : its `quantization_config`; None = there is none
    name : name of the model

    Raises
    ------
    SpecError : the name says that the checkpoint is quantised, but the config has no `quantization_config`
    """
    plain = _plain(fields)
    if quantisation is None:
        named = _NAMED.search(name.rsplit("/", 1)[-1])
        if named:
            raise SpecError(
                f"the name {name!r} says {named[0].upper()}, but there is no quantization_config",
                where=fields.where,
                hint="add quantization_config, or put hf_quant_config.json beside config.json; rename a model that is "
                "not quantised",
            )
        return Formats(plain, plain, plain, kept_as=plain)
    if quantisation.has("quant_method"):
        method = quantisation.word("quant_method", METHODS)
    else:
        method = "mlx" if quantisation.has("bits") and quantisation.has("group_size") else "modelopt"
    quantisation.ignore("quant_method", *_INERT)
    return METHODS[method](quantisation, plain)


def _plain(fields: Fields) -> Format:
    key = "dtype" if fields.has("dtype") else "torch_dtype"
    return _DTYPES[fields.word(key, _DTYPES)] if fields.has(key) else BF16


# ── patterns ──────────────────────────────────────────────────────────────────────────────────────────────────────


Matcher = Callable[[str], bool]


def _matcher(patterns: Iterable[str], to_regex: Callable[[str], str]) -> Matcher:
    sources = [to_regex(pattern) for pattern in patterns]
    if not sources:
        return nothing_kept
    compiled = re.compile("|".join(f"(?:{source})" for source in sources))
    return lambda module: compiled.match(module) is not None


def _glob(pattern: str) -> str:
    """A shell pattern for the whole path of a module, or of a module that contains it (exclude_modules of modelopt)."""
    return fnmatch.translate(pattern).removesuffix(r"\Z").removesuffix(r"\z") + r"(?:\..*)?\Z"


def _ignored(pattern: str) -> str:
    """A pattern of compressed-tensors: `re:` and a regular expression, or the name of a module or its container."""
    return pattern[3:] if pattern.startswith("re:") else rf"(?:.*\.)?{re.escape(pattern)}(?:\..*)?\Z"


def _part(pattern: str) -> str:
    """A pattern of `modules_to_not_convert` (transformers): one or more whole components of a path."""
    return rf"(?:.*\.)?{re.escape(pattern)}(?:\..*)?\Z"


def _names(fields: Fields, *keys: str) -> list[str]:
    for key in keys:
        if fields.has(key):
            value = fields.raw(key)
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise fields.error(key, f"want a list of module names, got {value!r}")
            return value
    return []


# ── methods ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _fp8(fields: Fields, plain: Format) -> Formats:
    fields.must("fmt", "e4m3", "float8_e4m3fn")
    form = _block(fields) if fields.has("weight_block_size") else FP8
    kept = _matcher(_names(fields, "modules_to_not_convert", "ignored_layers", "llm_int8_skip_modules"), _part)
    return Formats(plain, form, form, kept, plain, native_kv=_kv(fields))


def _block(fields: Fields, key: str = "weight_block_size") -> Format:
    """The format of FP8 blocks. A block of 1 x 32 is MXFP8, whose scales have one byte."""
    size = fields.raw(key)
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
        raise fields.error(key, f"want two block sizes such as [128, 128], got {size!r}")
    return MXFP8 if size == [1, 32] else fp8_block(*size)


def _mxfp8(fields: Fields, plain: Format) -> Formats:
    """MXFP8: FP8 with an E8M0 scale for each 32 elements (OCP Microscaling Formats v1.0)."""
    if fields.has("weight_block_size") and _block(fields) != MXFP8:
        raise fields.error("weight_block_size", "MXFP8 has blocks of [1, 32]", hint="fp8 is the method of other blocks")
    return replace(_fp8(fields, plain), linear=MXFP8, experts=MXFP8)


def _nvfp4(fields: Fields, plain: Format) -> Formats:
    """NVFP4 of transformers: every linear layer, except the named ones."""
    kept = _matcher(_names(fields, "modules_to_not_convert"), _part)
    return Formats(plain, NVFP4, NVFP4, kept, plain, native_kv=_kv(fields))


def _mxfp4(fields: Fields, plain: Format) -> Formats:
    """gpt-oss: the routed experts are MXFP4, all other weights are plain (model card, openai/gpt-oss-120b)."""
    _names(fields, "modules_to_not_convert")
    return Formats(plain, plain, MXFP4, kept_as=plain, native_kv=_kv(fields))


def _integer_groups(fields: Fields, plain: Format) -> Formats:
    """AWQ, GPTQ and auto-round. Zero points are stored, unless `zero_point` is false (GPTQ stores them even if
    symmetric). `dynamic` of GPTQModel and `extra_config` of auto-round name modules with other bits.
    """
    form = _group_format(fields)
    kept = _names(fields, "modules_to_not_convert")
    matchers = [_matcher(kept, _part)] if kept else []
    overrides: list[tuple[Matcher, Format]] = []
    for key, to_regex in (("dynamic", _searched), ("extra_config", _part)):
        table = fields.table(key) if fields.has(key) else None
        for pattern in table.names() if table else ():
            rule = table.table(pattern) if table else fields
            bits = rule.get("bits")
            if pattern.startswith("-:") or (isinstance(bits, int) and bits >= 16):
                matchers.append(_matcher([pattern], to_regex))
            elif bits is not None or rule.has("group_size"):
                overrides.append((_matcher([pattern], to_regex), _group_format(rule, fields)))
            rule.ignore(*rule.names())
    outer = form if fields.flag("lm_head") else None
    return Formats(plain, form, form, _any(matchers), plain, tuple(overrides), outer=outer, native_kv=_kv(fields))


def _group_format(fields: Fields, base: Fields | None = None) -> Format:
    """Integers in groups; what an exception does not say is that of the `base`."""
    bits_of = fields if base is None or fields.has("bits") else base
    group_of = fields if base is None or fields.has("group_size") else base
    bits, group = bits_of.whole("bits", least=2, most=8), group_of.raw("group_size")
    if type(group) is not int or not (group == -1 or group > 0):
        raise fields.error("group_size", f"want a whole number, or -1 for one group per row, got {group!r}")
    top = base or fields
    zeros = top.flag("zero_point") if top.has("zero_point") else True
    return integers(bits, None if group == -1 else group, zeros=zeros, activations=None)


def _searched(pattern: str) -> str:
    """A pattern of GPTQModel: `-:` or `+:`, and a regular expression that may match anywhere in the path."""
    return f"(?:.*){pattern.removeprefix('-:').removeprefix('+:')}"


def _any(matchers: list[Matcher]) -> Matcher:
    return (lambda module: any(matches(module) for matches in matchers)) if matchers else nothing_kept


def _fbgemm(fields: Fields, plain: Format) -> Formats:
    """FBGEMM: FP8 with one scale per output channel (transformers FbgemmFp8Config)."""
    kept = _matcher(_names(fields, "modules_to_not_convert"), _part)
    return Formats(plain, FP8, FP8, kept, plain)


def _bitsandbytes(fields: Fields, plain: Format) -> Formats:
    """bitsandbytes: 4 bits with an FP32 scale for each 64 weights, or 8 bits with one for each row.

    Double quantisation stores the scales in 8 bits, with an FP32 scale for each 256 of them (QLoRA, arXiv:2305.14314,
    section 3).
    """
    fields.ignore("_load_in_4bit", "_load_in_8bit", "bnb_4bit_quant_type", "load_in_8bit", "load_in_4bit")
    double = fields.flag("bnb_4bit_use_double_quant")
    scales = 1 / 64 + 4 / (64 * 256) if double else 4 / 64
    eight = fields.flag("load_in_8bit") and not fields.flag("load_in_4bit")
    form = Format("int8", 1.0, "int8") if eight else Format("nf4", 0.5 + scales, "bf16")
    kept = _matcher(_names(fields, "llm_int8_skip_modules"), _part)
    return Formats(plain, form, form, kept, plain)


_TORCHAO: dict[str, Callable[[int], Format]] = {
    "int4weightonly": lambda group: Format("int4", 0.5 + 4 / group, "bf16"),  # scale and zero point in 16 bits
    "int8weightonly": lambda _: Format("int8", 1.0, "bf16"),
    "int8dynamicactivationint8weight": lambda _: Format("int8", 1.0, "int8"),
    "int8dynamicactivationint4weight": lambda group: Format("int4", 0.5 + 2 / group, "bf16"),
    "float8weightonly": lambda _: Format("fp8", 1.0, "bf16"),
    "float8dynamicactivationfloat8weight": lambda _: FP8,
    "float8dynamicactivationint4weight": lambda group: Format("int4", 0.5 + 2 / group, "bf16"),
}


def _torchao(fields: Fields, plain: Format) -> Formats:
    """torchao: a name such as `int4_weight_only`, or a config object such as `Int4WeightOnlyConfig`."""
    kind, group = fields.raw("quant_type"), 128
    if isinstance(kind, dict):
        inner = kind.get("default", kind)
        data = inner.get("_data") if isinstance(inner, dict) else None
        kind = inner.get("_type") if isinstance(inner, dict) else None
        group = data.get("group_size", 128) if isinstance(data, dict) else 128
        fields.ignore("quant_type_kwargs")
    elif fields.has("quant_type_kwargs"):
        group = fields.table("quant_type_kwargs").get("group_size") or 128
    name = str(kind).lower().removesuffix("config").replace("_", "")
    if name not in _TORCHAO or type(group) is not int or group < 1:
        raise fields.error("quant_type", f"{kind!r} is not known", hint=f"known: {', '.join(_TORCHAO)}")
    form = _TORCHAO[name](group)
    kept = _matcher(_names(fields, "modules_to_not_convert"), _part)
    outer = form if fields.flag("include_input_output_embeddings") else None
    return Formats(plain, form, form, kept, plain, outer=outer)


def _quark(fields: Fields, plain: Format) -> Formats:
    """AMD Quark: one format for all linear layers, others for the patterns of `layer_quant_config`."""
    form = _quark_format(fields.table("global_quant_config"), plain)
    kept = (
        _expressions(fields, "exclude")
        if any("re:" in name for name in _names(fields, "exclude"))
        else _matcher(_names(fields, "exclude"), _glob)
    )
    overrides: list[tuple[Matcher, Format]] = []
    if fields.has("layer_quant_config"):
        layers = fields.table("layer_quant_config")
        overrides = [
            (_unless(kept, _matcher([pattern], _glob)), _quark_format(layers.table(pattern), plain))
            for pattern in layers.names()
        ]
    cached = fields.has("kv_cache_quant_config") and bool(fields.raw("kv_cache_quant_config"))
    if fields.has("export"):
        export = fields.table("export")
        cached = cached or bool(export.get("kv_cache_group"))
        export.ignore(*export.names())
    return Formats(plain, form, form, kept, plain, tuple(overrides), native_kv="fp8" if cached else "bf16")


def _quark_format(group: Fields, plain: Format) -> Format:
    group.ignore(*group.names())
    if not group.has("weight"):
        return plain
    raw = group.raw("weight")
    weight = group.table("weight") if isinstance(raw, dict) else group
    weight.ignore(*weight.names())
    dtype = str(weight.get("dtype"))
    size = weight.get("group_size")
    activations = group.has("input_tensors")
    if dtype.startswith("fp8"):
        return MXFP8 if size == 32 else FP8 if activations else Format("fp8", 1.0, "bf16")
    if dtype in ("fp4", "mxfp4", "mx"):
        return MXFP4
    if match := re.fullmatch(r"u?int(2|3|4|8)", dtype):
        bits = int(match[1])
        group_size = size if isinstance(size, int) and size > 0 else None
        return integers(bits, group_size, zeros=dtype.startswith("u"), activations=8 if activations else None)
    raise weight.error("dtype", f"{dtype!r} is not known", hint="known: fp8_e4m3, fp4, int4, uint4, int8")


def _mlx(fields: Fields, plain: Format) -> Formats:
    """MLX: every linear layer and the embedding, with a 16-bit scale and bias for each group (mlx.core.quantize)."""
    mode = fields.get("mode") or "affine"
    known = {"mxfp4": MXFP4, "mxfp8": MXFP8, "nvfp4": NVFP4}
    overrides: list[tuple[Matcher, Format]] = []
    kept: list[str] = []

    def form_of(rule: Fields) -> Format:
        bits, group = rule.whole("bits", least=2, most=8), rule.whole("group_size")
        return Format(f"int{bits}", bits / 8 + 4 / group, "bf16")

    form = known[mode] if mode in known else form_of(fields)
    for name in fields.names():
        value = fields.raw(name) if fields.has(name) else None
        if isinstance(value, dict):
            rule = fields.table(name)
            rule.ignore(*rule.names())
            overrides.append((_matcher([name], _part), form_of(rule)))
        elif value is False:
            kept.append(name)
    return Formats(plain, form, form, _matcher(kept, _part), plain, tuple(overrides), outer=form)


def _compressed(fields: Fields, plain: Format) -> Formats:
    kept = _expressions(fields, "ignore")
    chosen: list[tuple[Matcher, Format]] = []
    rest = plain
    for group in _groups(fields):
        form = _scheme(group, fields)
        targets = _names(group, "targets")
        if not targets or "Linear" in targets:
            rest = form
        else:
            chosen.append((_unless(kept, _expressions(group, "targets")), form))
    return Formats(plain, rest, rest, kept, plain, tuple(chosen), native_kv=_kv(fields))


def _expressions(fields: Fields, key: str) -> Matcher:
    try:
        return _matcher(_names(fields, key), _ignored)
    except re.error as error:
        raise fields.error(key, f"not a regular expression: {error}") from error


def _unless(kept: Matcher, matches: Matcher) -> Matcher:
    return lambda module: matches(module) and not kept(module)


def _groups(fields: Fields) -> list[Fields]:
    groups = fields.table("config_groups")
    return [groups.table(name) for name in groups.names()]


def _scheme(group: Fields, fields: Fields) -> Format:
    """The format of one group of compressed-tensors or modelopt, from bits, type and group size."""
    group.ignore("format", "output_activations", "targets")
    weights = group.table("weights")
    weights.ignore(
        "dynamic", "observer", "observer_kwargs", "actorder", "block_structure", "scale_dtype", "zp_dtype", "strategy",
        "symmetric",
    )  # fmt: skip
    bits = weights.whole("num_bits", least=4, most=8)
    kind = weights.word("type", ("int", "float"))
    size = weights.whole("group_size", least=-1) if weights.has("group_size") else None
    size = None if size == -1 else size
    activations = _activation_bits(group)
    if kind == "int":
        zeros = weights.has("symmetric") and not weights.flag("symmetric")
        return integers(bits, size, zeros=zeros, activations=activations)
    if bits == 8:
        return _block(weights, "block_structure") if weights.has("block_structure") else MXFP8 if size == 32 else FP8
    if (bits, size) == (4, 16):
        return NVFP4 if activations == 4 else Format("nvfp4-w4a16", NVFP4.bytes, "bf16")
    if (bits, size) == (4, 32):
        return MXFP4
    raise fields.error("config_groups", f"{bits}-bit floats in groups of {size} are not a known format")


def _activation_bits(group: Fields) -> int | None:
    """Bits of the activations of a group; None if they are not quantised."""
    if not group.has("input_activations"):
        return None
    inputs = group.table("input_activations")
    inputs.ignore(*inputs.names())
    return inputs.whole("num_bits")


_MODELOPT = {
    "FP8": FP8, "NVFP4": NVFP4, "MXFP8": MXFP8, "NVFP4_AWQ": NVFP4, "W4A8_MXFP4_FP8": MXFP4,
    "FP8_PER_CHANNEL_PER_TOKEN": FP8, "FP8_PB_WO": fp8_block(128, 128),
    "W4A16_NVFP4": Format("nvfp4-w4a16", NVFP4.bytes, "bf16"), "INT8_SQ": Format("int8", 1.0, "int8"),
    "W4A16_AWQ": integers(4, 128, zeros=False, activations=None),
    "W4A8_AWQ": integers(4, 128, zeros=False, activations=None),
}  # fmt: skip
"""`quant_algo` of modelopt -> format."""


def _modelopt(fields: Fields, plain: Format) -> Formats:
    fields.ignore("group_size", "config_groups")
    algorithm = fields.word("quant_algo", (*_MODELOPT, "MIXED_PRECISION"))
    names = _names(fields, "exclude_modules", "ignore")
    kept = _matcher(names, _glob)
    # Modules that modelopt did not quantise keep the FP8 blocks of the base checkpoint (DeepSeek-V4).
    kept_as = _block(fields) if fields.has("weight_block_size") else plain
    native_kv = _kv(fields)
    notes = () if names else ("the config excludes no module, so every linear layer counts as quantised",)
    if algorithm != "MIXED_PRECISION":
        form = _MODELOPT[algorithm]
        return Formats(plain, form, form, kept, kept_as, native_kv=native_kv, notes=notes)
    return _mixed(fields, plain, kept, kept_as, native_kv)


def _mixed(fields: Fields, plain: Format, kept: Callable[[str], bool], kept_as: Format, native_kv: str) -> Formats:
    """MIXED_PRECISION: the table `quantized_layers` has the format of each layer.

    Without this table, routed experts (in a dense model: FFN weights) get the 4-bit format, and other linear layers get
    FP8, as in the recipes of modelopt. A note says so.
    """
    if fields.has("quantized_layers"):
        table = fields.table("quantized_layers")
        algorithms = {layer: table.table(layer).word("quant_algo", _MODELOPT) for layer in table.names()}
        overrides = tuple((_matcher([layer], _part), _MODELOPT[algorithm]) for layer, algorithm in algorithms.items())
        return Formats(plain, plain, plain, kept, plain, overrides, native_kv=native_kv)
    forms = [_scheme(group, fields) for group in _groups(fields)] if fields.has("config_groups") else [NVFP4, FP8]
    narrow = min(forms, key=lambda form: form.bytes)
    wide = max(forms, key=lambda form: form.bytes)
    note = f"assumed: MIXED_PRECISION without quantized_layers: experts {narrow.name}, other linear layers {wide.name}"
    return Formats(plain, wide, narrow, kept, kept_as, native_kv=native_kv, notes=(note,))


def _kv(fields: Fields) -> str:
    """KV dtype of the checkpoint: FP8 if it has scales for the KV cache, else BF16."""
    for key in ("kv_cache_quant_algo", "kv_cache_scheme"):
        if not fields.has(key):
            continue
        value: Any = fields.raw(key)
        bits = value.get("num_bits") if isinstance(value, dict) else 8 if value == "FP8" else None
        if bits != 8:
            raise fields.error(key, f"{value!r} is not supported", hint="known: FP8, or null")
        fields.ignore("kv_cache_scheme")
        return "fp8"
    return "bf16"


METHODS: dict[str, Callable[[Fields, Format], Formats]] = {
    "auto-round": _integer_groups,
    "awq": _integer_groups,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed,
    "fbgemm_fp8": _fbgemm,
    "fp8": _fp8,
    "gptq": _integer_groups,
    "gptqmodel": _integer_groups,
    "intel/auto-round": _integer_groups,
    "mlx": _mlx,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "modelopt_mixed": _modelopt,
    "mxfp4": _mxfp4,
    "mxfp8": _mxfp8,
    "nvfp4": _nvfp4,
    "quark": _quark,
    "torchao": _torchao,
}
