"""Reads the table of architectures, `catalog/architectures/*.yaml`: one entry for each `model_type`.

An entry inherits from the entry that `like` names; nested tables are joined key by key. The files are read as text and
only the wanted entries are parsed, so that a long table does not slow down the start of a command.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.specs.hf.formula import words_in

TABLE = Path(__file__).parents[2] / "catalog" / "architectures"
_ENTRY = re.compile(r"^([A-Za-z_][\w.-]*):", re.M)
Entry = Mapping[str, Any]

_KEYS = """
like source names defaults attention parts mixer ffn norms vectors outside lookups tied embedding head_bias no_head
head_vocab extra drafts draft path layers_path text towers inert checks notes streams stream_outputs count kv
native_experts decoder kinds refused fixed_decoder connector tower_names elements
"""
KEYS = frozenset(_KEYS.split())
"""What an entry may have. `docs/models.md` explains each."""


@functools.cache
def _texts() -> dict[str, tuple[str, str]]:
    """Name of an entry -> its YAML text, and its file."""
    texts: dict[str, tuple[str, str]] = {}
    for path in sorted(TABLE.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        starts = [*_ENTRY.finditer(text)]
        ends = [*(match.start() for match in starts[1:]), len(text)]
        for match, end in zip(starts, ends, strict=True):
            if match[1] in texts:
                raise SpecError(f"{match[1]!r} is in the table twice", where=f"catalog/architectures/{path.name}")
            texts[match[1]] = text[match.start() : end], path.name
    return texts


def entry_names() -> list[str]:
    """Names of all decoders of the table, sorted. Names that start with `_` are only inherited from."""
    return sorted(name for name in _texts() if not name.startswith("_"))


@functools.cache
def entry(name: str) -> Entry | None:
    """The entry of a `model_type`, with everything that it inherits; None: the table has no such entry."""
    chain = list(_chain(name))
    if not chain:
        return None
    whole: dict[str, Any] = {}
    for each in reversed(chain):
        whole = _joined(whole, each)
    whole["defaults"] = _joined(whole.get("defaults", {}), _parsed(f"_defaults_{name}"))
    return whole


def _chain(name: str) -> Iterator[dict[str, Any]]:
    """An entry, the entry that it is like, and so on."""
    seen: list[str] = []
    while name in _texts() and name not in seen:
        seen.append(name)
        where = f"catalog/architectures/{_texts()[name][1]}: {name}"
        data = _parsed(name)
        unknown = set(data) - KEYS
        if unknown:
            raise SpecError(f"an entry has no {', '.join(sorted(unknown))}", where=where)
        yield data
        name = data.get("like", "")
        if name and name not in _texts():
            raise SpecError(f"like: there is no entry {name!r}", where=where)


def _parsed(name: str) -> dict[str, Any]:
    """What the table says under a name; nothing if it has no such name."""
    import yaml

    if name not in _texts():
        return {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return dict(yaml.load(_texts()[name][0], loader)[name] or {})


def _joined(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Two tables joined: a nested table key by key, a list after the other, everything else from the second."""
    joined = dict(base)
    for key, value in more.items():
        before = joined.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            joined[key] = _joined(before, value)
        elif isinstance(value, list) and isinstance(before, list):
            joined[key] = [*before, *value]
        else:
            joined[key] = value
    return joined


@functools.cache
def known_words(name: str) -> frozenset[str]:
    """The keys of a config that an entry reads in any of its formulas, or declares to be without effect (`inert`)."""
    architecture = entry(name) or {}
    words = set(architecture.get("inert", ()))
    waiting: list[Any] = [value for key, value in architecture.items() if key not in ("inert", "source")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.values(), *value]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            words |= words_in(value.removeprefix("="))
            words.update(value.split(".") if re.fullmatch(r"[\w.]+", value) else ())
    return frozenset(words)
