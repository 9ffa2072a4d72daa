"""Builds the layers of a model from its config and its entry of the table of architectures."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.specs.hf import attention, compressed, ffn, linear
from tokenworks.specs.hf.formats import FP32, MXFP4, Formats
from tokenworks.specs.hf.formula import absent
from tokenworks.specs.hf.parts import Half, Place, Stack, layer, mtp
from tokenworks.specs.hf.scope import Scope
from tokenworks.specs.hf.table import Entry
from tokenworks.specs.model import Block, Matrix, Part

Shape = Any
KINDS: dict[str, tuple[type[Shape], Callable[[Place, int, Shape], Half]]] = {
    "gqa": (attention.Grouped, attention.grouped),
    "cache": (attention.Cache, attention.cache),
    "mla": (attention.Latent, attention.latent),
    "compressed": (compressed.Compressed, compressed.compressed),
    "gdn": (linear.Delta, linear.gated_delta),
    "kda": (linear.Delta, linear.kimi_delta),
    "mamba1": (linear.Mamba, linear.mamba1),
    "mamba2": (linear.Mamba, linear.mamba2),
    "short_conv": (linear.Short, linear.short_conv),
    "recurrent": (linear.Recurrent, linear.recurrent),
    "mlp": (ffn.Mlp, ffn.mlp),
    "moe": (ffn.Routed, ffn.routed),
}
"""Kind of a part -> its shape, whose fields are what the table may say, and the function that builds its weights."""

Known = tuple[Mapping[str, Any], type[Shape], Callable[[Place, int, Shape], Half], bool]
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


class Layers:
    """The layers of one model.

    Parameters
    ----------
    scope : values of the config
    entry : its architecture
    root : top of the checkpoint
    path : module path of the decoder in the checkpoint
    """

    def __init__(self, scope: Scope, entry: Entry, root: Place, path: str) -> None:
        self._scope, self._entry, self._root, self._path = scope, entry, root, path
        self._parts: dict[str, Known] = {}
        self._shapes: dict[tuple[str, int], Shape] = {}
        self._blocks: dict[tuple[Any, ...], Block] = {}
        self._chosen: list[tuple[list[str], list[str]]] = []
        self.hidden = scope.whole("hidden")
        self.heads, self.kv_heads = scope.whole("heads"), 0
        if entry["names"]["kv_heads"] != 0:  # 0: the fewest of all layers
            self.kv_heads = scope.whole("kv_heads")
        self.count = scope.layers(entry["count"])
        self._streams = scope.whole(entry.get("streams", 1))
        self._mixes = scope.whole(entry.get("stream_outputs", (2 + self._streams) * self._streams))
        self._drafts = scope.layers(entry.get("drafts", 0), least=0)
        scope.lengths = self.count, self.count + self._drafts
        scope.set("count", self.count)
        self._kinds = {str(key): str(word) for key, word in entry.get("kinds", {}).items()}

    def stack(self) -> Stack:
        """All layers, draft layers, and what stands beside them."""
        scope, entry = self._scope, self._entry
        self._choose()
        for check in entry.get("checks", ()):
            self._check(check)
        main, base = self._formats()
        layers = [self._layer(replace(self._root, formats=main), number) for number in range(self.count)]
        draft = self._draft(replace(self._root, formats=base)) if self._drafts else []
        notes = [self.note(note) for note in entry.get("notes", ()) if self._applies(note)]
        scope.set("i", None)
        outside = scope.whole(entry.get("outside", "hidden"), least=0, most=10**12)
        kv_heads = self.kv_heads or min((scan.heads for block in layers for scan in block.scans), default=0)
        if not kv_heads:
            raise scope.fields.error("num_key_value_heads", "no layer has attention")
        return Stack(self.hidden, self.heads, kv_heads, layers, draft, outside, entry.get("kv", ""), tuple(notes))

    def _check(self, check: Mapping[str, Any]) -> None:
        """Refuse a config whose fields contradict each other, or that has what this package cannot count."""
        scope = self._scope
        for number in range(self.count) if scope.varies(check["that"]) else (0,):
            scope.set("i", number)
            if not absent(value := scope.value(check["that"])) and not value:
                field = check["field"].replace("[i]", f"[{number}]")
                raise scope.fields.error(field, self.note(check["words"]), hint=check.get("hint", ""))

    def _choose(self) -> None:
        """Choose the parts of each layer. A mixed recipe stores experts, or else the FFN, in its narrow format."""
        for number in range(self.count):
            self._scope.set("i", number)
            self._chosen.append((self._words(self._entry["mixer"]), self._words(self._entry["ffn"])))
        used = {name for chosen in self._chosen for names in chosen for name in names}
        experts = any(self._entry["parts"][name]["kind"] == "moe" for name in used)
        self._root = replace(self._root, narrow="experts" if experts else "dense")

    def _applies(self, note: str | Mapping[str, str]) -> bool:
        value = True if isinstance(note, str) else self._scope.value(note["when"])
        return not absent(value) and bool(value)

    def note(self, note: str | Mapping[str, str]) -> str:
        """A text of the table, with the values of the formulas in its braces."""
        text = note if isinstance(note, str) else note["text"]

        def value(match: re.Match[str]) -> str:
            number = self._scope.value(match[1])
            return f"{number:.4g}" if isinstance(number, float) else str(number)

        return _PLACEHOLDER.sub(value, text)

    def _formats(self) -> tuple[Formats, Formats]:
        """Formats of the layers, and of the draft layers. Some architectures have MXFP4 experts by themselves.

        Checkpoints with NVFP4 experts come from a quantiser. It left the draft layer and the excluded modules in the
        format of the publisher's own checkpoint (DeepSeek-V4).
        """
        formats = self._root.formats
        if "native_experts" not in self._entry:
            return formats, formats
        native = self._scope.value(self._entry["native_experts"]) is True
        if formats.experts.name == "nvfp4":
            linear_format = formats.kept_as
            return formats, Formats(formats.plain, linear_format, MXFP4 if native else linear_format)
        base = replace(formats, experts=MXFP4) if native else formats
        return base, base

    # ── one layer ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _words(self, formula: Any) -> list[str]:
        """Names of the parts that a formula chooses for the layer; "a+b" are two parts side by side."""
        value = self._scope.value(formula)
        parts, kinds = self._entry["parts"], self._kinds
        if absent(value) or type(value) not in (str, int, bool):
            if absent(value):
                self._scope.present(value)
            raise self._scope.error(f"{value!r} is not known", hint=f"known: {self._known()}")
        names = [kinds.get(word, word) for word in str(value).split("+") if word]
        for name in names:
            if name and (name not in parts or not parts[name]):
                raise self._scope.error(f"{value!r} is not known", hint=f"known: {self._known()}")
        return [name for name in names if name]

    def _known(self) -> str:
        parts = [name for name, part in self._entry["parts"].items() if part and name not in self._kinds.values()]
        return ", ".join([*self._kinds, *parts])

    def _part(self, name: str) -> Known:
        """A part of the table, its type of shape, its builder, and True if its shape depends on the layer."""
        if name in self._parts:
            return self._parts[name]
        part = self._entry["parts"][name]
        if part["kind"] == "gqa":
            part = {**self._entry["attention"], **part}
        shape_type, build = KINDS[part["kind"]]
        types = {each.name: str(each.type) for each in dataclasses.fields(shape_type)}
        formulas = [_formula(part[key], types.get(key, "str")) for key in part]
        self._parts[name] = part, shape_type, build, any(self._scope.varies(formula) for formula in formulas)
        return self._parts[name]

    def _shape(self, name: str, number: int) -> tuple[Shape, Callable[[Place, int, Shape], Half]]:
        """Shape of a part in the layer, and the function that builds it."""
        part, shape_type, build, varies = self._part(name)
        key = name, number if varies else -1
        if key not in self._shapes:
            self._shapes[key] = self._read(name, part, shape_type)
        return self._shapes[key], build

    def _read(self, name: str, part: Mapping[str, Any], shape_type: type[Shape]) -> Shape:
        fields = {each.name: each for each in dataclasses.fields(shape_type)}
        unknown = set(part) - set(fields) - {"kind"}
        if unknown:
            raise SpecError(f"{name}: a {part['kind']} has no {', '.join(unknown)}", where="catalog/architectures")
        values: dict[str, Any] = {}
        for key, each in fields.items():
            if key in part:
                has_default = each.default is not dataclasses.MISSING
                values[key] = self._value(part[key], str(each.type), has_default)
        shape = shape_type(**values)
        heads, kv_heads = getattr(shape, "heads", 1), getattr(shape, "kv_heads", 1)
        if part["kind"] == "gqa" and heads % kv_heads:
            raise self._scope.fields.error("num_key_value_heads", f"{kv_heads} does not divide {heads} query heads")
        if part["kind"] == "moe" and shape.topk > shape.count:
            self._scope.whole(part["topk"])
            raise self._scope.error(f"{shape.topk} is more than the {shape.count} experts")
        if getattr(shape, "topk", 0) and "index_dim" in part and not shape.index_dim:
            self._scope.whole(part["index_dim"])
        return shape

    def _value(self, formula: Any, wanted: str, has_default: bool) -> Any:
        """The value of a field of a shape, by the type of the field."""
        scope = self._scope
        if wanted == "str":
            return scope.word(formula[1:]) if formula.startswith("=") else formula
        if wanted == "bool":
            return scope.flag(formula)
        if wanted.startswith("dict"):
            return {key: scope.whole(value) for key, value in formula.items()}
        if wanted == "int | None":
            value = scope.value(formula)
            return None if value is None else scope.whole(formula)
        return scope.whole(formula, least=0 if has_default else 1, most=10**12 if has_default else 10**7)

    def _halves(self, site: Place, number: int, chosen: Sequence[Sequence[str]]) -> list[Half]:
        """The halves of a layer, one for each group of parts side by side."""
        halves: list[Half] = []
        for names in chosen:
            parts = [build(site, self.hidden, shape) for shape, build in (self._shape(n, number) for n in names)]
            if parts:
                halves.append(functools.reduce(_beside, parts))
        return halves

    def _layer(self, root: Place, number: int) -> Block:
        scope, entry = self._scope, self._entry
        scope.set("i", number)
        chosen = self._chosen[number]
        every = [name for names in chosen for name in names]
        norms = scope.whole(entry.get("norms", 2), least=0)
        vectors = scope.whole(entry.get("vectors", 0), least=0, most=10**12)
        extra = tuple(self._extra(root, number))
        varied = number if any(self._part(name)[3] for name in every) else -1
        key = (*map(tuple, chosen), norms, vectors, extra, varied)
        if root.formats.uniform and key in self._blocks:
            return self._blocks[key]
        path = entry.get("layers_path", "layers.{i}").format(i=number)
        halves = self._halves(root.at(self._path).at(path), number, chosen)
        name = f"{every[0]} layer" if len(every) == 1 else ""
        block = layer(halves, self.hidden, norms=norms, vectors=vectors, extra=extra, name=name)
        self._blocks[key] = replace(block, streams=self._streams) if self._streams > 1 else block
        return self._blocks[key]

    def _extra(self, root: Place, number: int) -> list[Matrix]:
        """Matrices of a layer beside attention and FFN: mixers of residual streams, and those that the table names."""
        scope = self._scope
        extra: list[Matrix] = []
        if "extra" not in self._entry and self._streams == 1:
            return extra
        if self._streams > 1:
            extra += _hyper(self.hidden, self._streams, self._mixes)
        at = root.at(self._path).at(f"layers.{number}")
        for name, sizes in self._entry.get("extra", {}).items():
            if "when" in sizes and not scope.flag(sizes["when"]):
                continue
            inputs, outputs = scope.whole(sizes["inputs"]), scope.whole(sizes["outputs"])
            copies = scope.whole(sizes.get("copies", 1))
            part: Part = "experts" if sizes.get("part") == "experts" else "dense"
            extra.append(at.matrix(name, inputs, outputs, part, "none", copies=copies))
        return extra

    def _draft(self, root: Place) -> list[Block]:
        """The draft layers (MTP). They are built like the layers that would come after the last layer."""
        scope, draft = self._scope, self._entry.get("draft", {})
        path = draft.get("path", "{path}layers.{i}")
        prefix = f"{self._path}." if self._path else ""
        blocks: list[Block] = []
        for number in range(self._drafts):
            scope.set("i", self.count + number)
            places = {"path": prefix, "i": self.count + number, "n": number}
            joined = root.at(draft.get("joined", path).format(**places))
            if "parts" in draft:
                words = scope.present(scope.value(draft["parts"]))
                if not isinstance(words, list | str):
                    raise scope.error(f"want a list, got {words!r}")
                halves = []
                for index, word in enumerate(words):
                    at = root.at(path.format(**places | {"n": index}))
                    name = self._kinds.get(word, word)
                    if name not in self._entry["parts"]:
                        raise scope.error(f"{word!r} is not known", hint=f"known: {self._known()}")
                    shape, build = self._shape(name, self.count)
                    halves.append(build(at, self.hidden, shape))
            else:
                formulas = draft.get("mixer", self._entry["mixer"]), draft.get("ffn", self._entry["ffn"])
                chosen = [self._words(formula) for formula in formulas]
                halves = self._halves(root.at(path.format(**places)), self.count + number, chosen)
            extra = _hyper(self.hidden, self._streams, self._mixes) if self._streams > 1 else ()
            block = mtp(joined, self.hidden, halves)
            blocks.append(replace(block, matrices=block.matrices + extra, streams=self._streams))
        return blocks


def _formula(value: Any, wanted: str) -> str:
    """The formula of a field of a part; "0" if it is a literal word, a number or a truth value."""
    if wanted == "str":
        return value[1:] if str(value).startswith("=") else "0"
    if isinstance(value, dict):
        return ", ".join(map(str, value.values()))
    return str(value)


def _beside(first: Half, second: Half) -> Half:
    """Two parts of one layer with the same input, whose outputs are added."""
    return Half(
        first.matrices + second.matrices,
        first.scans + second.scans,
        first.state or second.state,
        first.experts or second.experts,
        first.vectors + second.vectors,
    )


def _hyper(hidden: int, streams: int, outputs: int) -> tuple[Matrix, ...]:
    """Manifold-constrained hyper-connections, in FP32: matrices before attention and before the FFN.

    They map all residual streams to the weights that mix these streams (DeepSeek-V4 report, section 2.2).
    """
    parts: tuple[tuple[Part, str], ...] = ("attention", "hc_attn_fn"), ("router", "hc_ffn_fn")
    return tuple(Matrix(name, streams * hidden, outputs, part, "none", FP32) for part, name in parts)
