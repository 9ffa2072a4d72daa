"""Recipes become launch commands: YAML whose keys are flags, alone or for each role, and rows of a table of recipes."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenworks.errors import SpecError, UnknownName
from tokenworks.launch.command import Command
from tokenworks.launch.dialect import Dialect, DialectEngine, dialects
from tokenworks.launch.read.programs import IMAGES
from tokenworks.launch.read.shell import shown_environment
from tokenworks.launch.read.yaml_text import line_of, walked

ROLE_KEYS = {"prefill": "prefill", "decode": "decode", "aggregated": "aggregated", "agg": "aggregated"}
"""Keys that hold the flags of a role -> the role."""

COLUMNS = ("recipe_id", "model", "engine", "engine_version", "fork", "role", "nodes", "flag", "value")
"""Columns that a table of recipes needs."""

MOST_INSTANCES = 4096
"""Instances of a role, at most [count]."""

_WORKERS = ("num-worker", "num-workers", "workers", "replicas", "instances")
_ENVIRONMENTS = ("env", "envs", "environment")
_NO_FLAGS = (*_WORKERS, *_ENVIRONMENTS, "additional-settings")
_ENGINE_KEYS = ("framework", "engine", "backend", "type", "runtime")
_SHORT = {"tp": "tensor-parallel-size", "pp": "pipeline-parallel-size", "dp": "data-parallel-size"}
_MODEL_FLAGS = {"model", "model-path"}
_NUMBERS = re.compile(r"[0-9]+( [0-9]+)+")


@dataclass(frozen=True, slots=True)
class RecipeRead:
    """What reading a recipe gives.

    Parameters
    ----------
    commands : launch commands, one for each node of each instance
    notes : sentences for the user
    dialect : name of the dialect that the recipe names; empty: it names none
    title : the recipe in words
    """

    commands: tuple[Command, ...]
    notes: tuple[str, ...] = ()
    dialect: str = ""
    title: str = ""


# ── YAML ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_flags(document: Any, where: str, engine: DialectEngine | None = None) -> RecipeRead:
    """The launch commands of a YAML document whose keys are flags, or that has such keys for each role.

    Parameters
    ----------
    document : as `yaml_text.documents` reads it
    where : path of the file, for messages
    engine : engine whose flags the keys are; None: the document says it, or the engine that has most of the flags

    Returns
    -------
    The commands; none if the keys are no flags.
    """
    if not isinstance(document, dict):
        return RecipeRead(())
    roles = [
        (path, ROLE_KEYS[path[-1]], mapping)
        for path, mapping in walked(document, where)
        if path and path[-1] in ROLE_KEYS and _known(mapping)
    ]
    if not roles:
        if not _known(document):
            return RecipeRead(())
        roles = [((), "", document)]
    commands: list[Command] = []
    notes: list[str] = []
    seen: set[str] = set()
    for path, role, mapping in roles:
        if role in seen:
            raise SpecError(
                f"holds the flags of the role {role} twice", where=f"{where}:{line_of(mapping)}",
                hint="give a file with one deployment",
            )  # fmt: skip
        seen.add(role)
        named = engine or _named_engine(document, path)
        best = named or _likely_engine(_names(mapping))
        if named is None:
            notes.append(f"{where}: the keys are read as flags of {best}; another engine: --dialect")
        commands += _role(document, path, mapping, best, where)
    return RecipeRead(tuple(commands), tuple(dict.fromkeys(notes)))


def _names(mapping: Mapping[str, Any]) -> list[str]:
    return [str(key).lstrip("-").replace("_", "-") for key in mapping]


def _known(mapping: Mapping[str, Any]) -> bool:
    """Whether at least half of the keys of a mapping are flags of one engine, and one of them sizes something."""
    names = [name for name in _names(mapping) if name not in (*_WORKERS, *_ENVIRONMENTS)]
    if not names:
        return False
    return 2 * max(_hits(names, one) for one in dialects()) >= len(names)


def _hits(names: Iterable[str], dialect: Dialect) -> int:
    """Names that are flags of a dialect, or short names of widths [count]."""
    return sum(name in _SHORT or name in ("ep", "dp-attn") or dialect.has(f"--{name}") for name in names)


def _likely_engine(names: Sequence[str]) -> DialectEngine:
    """The engine whose dialects have most of the flags; vLLM if both have the same number."""
    best = max(dialects(), key=lambda one: (_hits(names, one), one.engine == "vllm"))
    return best.engine


def _named_engine(document: Mapping[str, Any], path: tuple[str, ...]) -> DialectEngine | None:
    """The engine that the path to the flags, or a key such as `framework`, names."""
    texts = [*path]
    for outer, mapping in walked(document, ""):
        if outer == path[: len(outer)]:
            texts += [str(mapping[key]) for key in _ENGINE_KEYS if isinstance(mapping.get(key), str)]
    for text in reversed(texts):
        for engine in ("vllm", "sglang"):
            if engine in text.lower():
                return engine
    return None


def _role(
    document: Mapping[str, Any], path: tuple[str, ...], mapping: Mapping[str, Any], engine: DialectEngine, where: str
) -> Iterator[Command]:  # fmt: skip
    """The commands of one role: one for each node of each instance."""
    role = ROLE_KEYS[path[-1]] if path else ""
    line = line_of(mapping)
    place = f"{where}:{line}"
    resources = document.get("resources")
    resources = resources if isinstance(resources, dict) else {}
    short = "agg" if role == "aggregated" else role
    workers = next((mapping[key] for key in _WORKERS if key in mapping), resources.get(f"{short}_workers"))
    instances = _count(workers, f"{where}: workers of {role or 'the engine'}")
    nodes = max(_count(resources.get(f"{short}_nodes"), f"{where}: nodes of {role}") // max(instances, 1), 1)
    environment = dict[str, str]()
    for outer, inner in walked(document, where):
        if outer and outer[-1] == f"{role}_environment" and outer[:-1] == path[: len(outer) - 1]:
            environment |= {str(name): str(value) for name, value in inner.items()}
    for key in _ENVIRONMENTS:
        if isinstance(mapping.get(key), dict):
            environment |= {str(name): str(value) for name, value in mapping[key].items()}
    arguments = list(_arguments(mapping, engine))
    model = document.get("model")
    model = model.get("path") if isinstance(model, dict) else model
    if not _MODEL_FLAGS & set(_names(mapping)) and isinstance(model, str):
        arguments = ["--model" if engine == "vllm" else "--model-path", str(model), *arguments]
    for instance in range(instances):
        for node in range(nodes):
            yield Command(
                program=IMAGES[engine], arguments=tuple(arguments), environment=shown_environment(environment),
                role=role, instance=instance, node=node, where=place,
            )  # fmt: skip


def _count(value: Any, where: str) -> int:
    if value is None:
        return 1
    if not re.fullmatch(r"[0-9]{1,4}", str(value)) or not 1 <= int(str(value)) <= MOST_INSTANCES:
        raise SpecError(f"{str(value)[:40]!r} is no number from 1 to {MOST_INSTANCES}", where=where)
    return int(str(value))


def _arguments(mapping: Mapping[str, Any], engine: DialectEngine) -> Iterator[str]:
    """The flags of a mapping as words of a command."""
    for key, value in mapping.items():
        name = str(key).lstrip("-")
        plain = name.replace("_", "-")
        text = value.lower() if isinstance(value, str) else ""
        if plain in _NO_FLAGS or value is None or text == "null":
            continue
        if plain == "dp-attn":
            yield from ("--enable-dp-attention", "--dp-size", str(mapping.get("tp", 1))) if text == "true" else ()
        elif plain == "ep" and engine == "vllm":
            yield from ("--enable-expert-parallel",) if text not in ("1", "") else ()
        else:
            yield from _words(f"--{_SHORT.get(plain, plain if engine == 'vllm' else name)}", value, engine)


def _words(flag: str, value: Any, engine: DialectEngine) -> list[str]:
    """The words of one flag: a switch, a value, several values, or JSON."""
    text = value.lower() if isinstance(value, str) else ""
    if text in ("true", "false") and not _takes_value(flag, engine):
        if text == "true":
            return [flag]
        return [f"--no-{flag.removeprefix('--')}"] if _is_pair(flag, engine) else []
    if isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
        return [flag, json.dumps(_plain(value))]
    return [flag, *map(str, value if isinstance(value, list) else [value])]


def _flag_of(flag: str, engine: DialectEngine) -> Any:
    for one in dialects():
        if one.engine == engine and one.has(flag):
            spelled = one.look_up(flag)
            assert spelled is not None
            return one.flags[spelled.name]
    return None


def _takes_value(flag: str, engine: DialectEngine) -> bool:
    known = _flag_of(flag, engine)
    return known is not None and known.takes_value


def _is_pair(flag: str, engine: DialectEngine) -> bool:
    known = _flag_of(flag, engine)
    return known is not None and known.kind == "pair"


def _plain(value: Any) -> Any:
    """Texts of a JSON value as the numbers and words that they stand for."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, str):
        if value in ("true", "false"):
            return value == "true"
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
        return str(value)
    return value


# ── a table of recipes ────────────────────────────────────────────────────────────────────────────────────────────


def recipe_names(text: str, where: str) -> list[str]:
    """The recipes of a table, in their order."""
    return list(dict.fromkeys(row["recipe_id"] for row in _rows(text, where)))


def read_recipe(text: str, recipe: str, where: str) -> RecipeRead:
    """The launch commands of one recipe of a table: one row for each flag of each role.

    Parameters
    ----------
    text : the table, as CSV
    recipe : id of the recipe
    where : path of the table, for messages

    Raises
    ------
    SpecError : a column is missing, or a value cannot be read
    UnknownName : no such recipe
    """
    every = list(_rows(text, where))
    rows = [row for row in every if row["recipe_id"] == recipe]
    if not rows:
        raise UnknownName("recipe", recipe, list(dict.fromkeys(row["recipe_id"] for row in every)))
    place, first = f"{where}: {recipe}", rows[0]
    if first["engine"] not in IMAGES:
        raise SpecError(f"engine {first['engine']!r} is not read", where=place, hint="vLLM and SGLang are read")
    commands: list[Command] = []
    for role in dict.fromkeys(row["role"] for row in rows):
        own = [row for row in rows if row["role"] == role]
        nodes = _count(own[0]["nodes"] or None, f"{place}: nodes")
        pairs = [(row["flag"], row["value"]) for row in own]
        environment = {flag.removeprefix("env:"): value for flag, value in pairs if flag.startswith("env:")}
        arguments = [word for flag, value in pairs if not flag.startswith("env:") for word in _said(flag, value)]
        program: tuple[str, ...] = IMAGES[first["engine"]]
        if role == "router":
            program = ("python3", "-m", "sglang_router.launch_router") if first["engine"] == "sglang" else ("router",)
        elif not any(flag.lstrip("-") in _MODEL_FLAGS for flag, _ in pairs):
            arguments = [first["model"], *arguments] if first["engine"] == "vllm" else [
                "--model-path", first["model"], *arguments]  # fmt: skip
        shown = shown_environment(environment)
        commands += [
            Command(program, tuple(arguments), shown, role, 0, node, f"{place}: {role}") for node in range(nodes)
        ]
    version = first["engine_version"]
    title = f"{recipe}: {first['model']} on {first.get('hardware') or 'a machine'}, {first['engine']} {version}"
    return RecipeRead(tuple(commands), (), _dialect(first["engine"], version, first["fork"]), title)


def _dialect(engine: str, version: str, fork: str) -> str:
    """Name of the dialect of exactly this version; of a fork its newest one; empty: none."""
    own = [one for one in dialects() if one.engine == engine and bool(one.fork) == bool(fork)]
    exact = [one.name for one in own if one.version == version]
    return exact[0] if exact else ""


def _said(flag: str, value: str) -> list[str]:
    """The words of a flag with its value; several numbers are several words."""
    if not value:
        return [flag]
    return [flag, *value.split()] if _NUMBERS.fullmatch(value) else [flag, value]


def _rows(text: str, where: str) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise SpecError(f"has no column {', '.join(missing)}", where=where, hint="give a table of recipes")
    try:
        for row in reader:
            if None in row or None in row.values():
                raise SpecError("has too few or too many values", where=f"{where}:{reader.line_num}")
            yield row
    except csv.Error as error:
        raise SpecError(f"is no CSV: {error}", where=f"{where}:{reader.line_num}") from None
