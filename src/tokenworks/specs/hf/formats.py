"""Reads a `quantization_config`: the storage format of each weight, and the modules that are not quantised."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenworks.errors import SpecError
from tokenworks.specs.hf.config import Fields
from tokenworks.specs.model import BF16, Format

FP32 = Format("fp32", 4.0, "fp32")
FP8 = Format("fp8", 1.0, "fp8")
NVFP4 = Format("nvfp4", 0.5 + 1 / 16, "fp4")
# Checkpoints with MXFP4 weights (gpt-oss, DeepSeek-V4) use 8-bit or 16-bit activations. The mixed FP4 x FP8 product of
# tensor cores runs at the FP8 rate.
MXFP4 = Format("mxfp4", 0.5 + 1 / 32, "fp8")

_DTYPES = {"bfloat16": BF16, "float16": Format("fp16", 2.0, "bf16"), "float32": FP32}
_NAMED = re.compile(r"(?<![a-z0-9])(nvfp4|mxfp4|fp4|fp8|awq|gptq|int4|int8|w4a16|w8a8|w4a8|bnb)(?![a-z0-9])", re.I)

Kind = Literal["linear", "experts", "fixed"]


def fp8_block(rows: int, columns: int) -> Format:
    """FP8 with one FP32 scale per block (DeepSeek-V3, arXiv:2412.19437, section 3.3.2)."""
    return Format("fp8-block", 1 + 4 / (rows * columns), "fp8")


def integers(bits: int, group: int | None, *, zeros: bool, activations: int | None) -> Format:
    """Integer weights with a 16-bit scale per group, and a zero point of `bits` if `zeros`. W4A16 multiplies in BF16.

    Parameters
    ----------
    bits : bits of a weight
    group : weights of a group; None = no groups [count]
    zeros : True if zero points are stored
    activations : bits of the activations; None = they are not quantised
    """
    scales = 0.0 if group is None else (16 + bits * zeros) / 8 / group
    return Format(f"int{bits}", bits / 8 + scales, "int8" if bits == 8 and activations == 8 else "bf16")


def _nothing(_: str) -> bool:
    return False


@dataclass(frozen=True)
class Formats:
    """The formats of the modules of a checkpoint.

    Parameters
    ----------
    plain : format of modules that are never quantised
    linear, experts : formats of quantised linear layers, and of routed experts
    kept : function that is True for the path of a module that is not quantised
    kept_as : format of these modules: plain, or FP8 if the base checkpoint was FP8
    overrides : pairs of a function on module paths and a format, which come before all other rules
    native_kv : KV dtype of the checkpoint
    notes : facts for the user, such as assumed formats
    """

    plain: Format = BF16
    linear: Format = BF16
    experts: Format = BF16
    kept: Callable[[str], bool] = _nothing
    kept_as: Format = BF16
    overrides: tuple[tuple[Callable[[str], bool], Format], ...] = ()
    native_kv: str = "bf16"
    notes: tuple[str, ...] = field(default=())

    @property
    def uniform(self) -> bool:
        """True if the format of a module depends only on its kind, not on its path."""
        return self.kept is _nothing and not self.overrides

    def of(self, module: str, kind: Kind) -> Format:
        """The format of a module, by its path in the checkpoint. Embeddings, heads and routers (`fixed`) are plain."""
        if kind == "fixed":
            return self.plain
        for matches, form in self.overrides:
            if matches(module):
                return form
        if self.kept(module):
            return self.kept_as
        return self.experts if kind == "experts" else self.linear


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
    method = quantisation.word("quant_method", METHODS) if quantisation.has("quant_method") else "modelopt"
    formats = METHODS[method](quantisation, plain)
    return formats


def _plain(fields: Fields) -> Format:
    key = "dtype" if fields.has("dtype") else "torch_dtype"
    return _DTYPES[fields.word(key, _DTYPES)] if fields.has(key) else BF16


# ── patterns ──────────────────────────────────────────────────────────────────────────────────────────────────────


Matcher = Callable[[str], bool]


def _matcher(patterns: Iterable[str], to_regex: Callable[[str], str]) -> Matcher:
    sources = [to_regex(pattern) for pattern in patterns]
    if not sources:
        return _nothing
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
    fields.ignore("activation_scheme", "scale_fmt", "quant_method")
    form = _block(fields) if fields.has("weight_block_size") else FP8
    kept = _matcher(_names(fields, "modules_to_not_convert", "ignored_layers"), _part)
    return Formats(plain, form, form, kept, plain, native_kv=_kv(fields))


def _block(fields: Fields) -> Format:
    size = fields.raw("weight_block_size")
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
        raise fields.error("weight_block_size", f"want two block sizes such as [128, 128], got {size!r}")
    return fp8_block(*size)


def _mxfp4(fields: Fields, plain: Format) -> Formats:
    """gpt-oss: the routed experts are MXFP4, all other weights are plain (model card, openai/gpt-oss-120b)."""
    _names(fields, "modules_to_not_convert")
    return Formats(plain, plain, MXFP4, kept_as=plain, native_kv=_kv(fields))


def _integer_groups(fields: Fields, plain: Format) -> Formats:
    """AWQ and GPTQ. Zero points are stored, unless `zero_point` is false (GPTQ stores them even if symmetric)."""
    fields.ignore(
        "version", "desc_act", "sym", "damp_percent", "static_groups", "true_sequential", "checkpoint_format",
        "quant_method", "meta", "model_file_base_name", "model_name_or_path", "backend",
    )  # fmt: skip
    fields.must("dynamic", {})
    fields.must("lm_head", False)
    bits = fields.whole("bits", least=2, most=8)
    group = fields.raw("group_size")
    if type(group) is not int or not (group == -1 or group > 0):
        raise fields.error("group_size", f"want a whole number, or -1 for one group per row, got {group!r}")
    zeros = fields.flag("zero_point") if fields.has("zero_point") else True
    form = integers(bits, None if group == -1 else group, zeros=zeros, activations=None)
    kept = _matcher(_names(fields, "modules_to_not_convert"), _part)
    return Formats(plain, form, form, kept, plain, native_kv=_kv(fields))


def _compressed(fields: Fields, plain: Format) -> Formats:
    fields.ignore(
        "format", "quantization_status", "global_compression_ratio", "version", "quant_method", "sparsity_config",
        "transform_config",
    )  # fmt: skip
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
        return _blocks_of(weights) if weights.has("block_structure") else FP8
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


def _blocks_of(weights: Fields) -> Format:
    size = weights.raw("block_structure")
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
        raise weights.error("block_structure", f"want two block sizes such as [128, 128], got {size!r}")
    return fp8_block(*size)


def _modelopt(fields: Fields, plain: Format) -> Formats:
    fields.ignore(
        "quant_method", "fmt", "activation_scheme", "group_size", "producer", "config_groups", "has_zero_point",
        "pre_quant_scale",
    )  # fmt: skip
    algorithm = fields.word("quant_algo", ("FP8", "NVFP4", "MIXED_PRECISION"))
    names = _names(fields, "exclude_modules", "ignore")
    kept = _matcher(names, _glob)
    # Modules that modelopt did not quantise keep the FP8 blocks of the base checkpoint (DeepSeek-V4).
    kept_as = _block(fields) if fields.has("weight_block_size") else plain
    native_kv = _kv(fields)
    notes = () if names else ("the config excludes no module, so every linear layer counts as quantised",)
    if algorithm != "MIXED_PRECISION":
        form = {"FP8": FP8, "NVFP4": NVFP4}[algorithm]
        return Formats(plain, form, form, kept, kept_as, native_kv=native_kv, notes=notes)
    return _mixed(fields, plain, kept, kept_as, native_kv)


def _mixed(fields: Fields, plain: Format, kept: Callable[[str], bool], kept_as: Format, native_kv: str) -> Formats:
    """MIXED_PRECISION: the table `quantized_layers` has the format of each layer.

    Without this table, routed experts (in a dense model: FFN weights) get the 4-bit format, and other linear layers get
    FP8, as in the recipes of modelopt. A note says so.
    """
    if fields.has("quantized_layers"):
        table = fields.table("quantized_layers")
        algorithms = {layer: table.table(layer).word("quant_algo", ("FP8", "NVFP4")) for layer in table.names()}
        overrides = tuple(
            (_matcher([layer], _part), {"FP8": FP8, "NVFP4": NVFP4}[algorithm])
            for layer, algorithm in algorithms.items()
        )
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
    "fp8": _fp8,
    "mxfp4": _mxfp4,
    "awq": _integer_groups,
    "gptq": _integer_groups,
    "compressed-tensors": _compressed,
    "modelopt": _modelopt,
}
