"""YAML with the line of every text: plain data only, sizes bounded. Aliases and merge keys (<<) are allowed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from tokenworks.errors import SpecError
from tokenworks.specs.load import MAX_BYTES

MOST_NODES = 100_000
"""Nodes of a file, with those that aliases repeat, at most [count]."""

MOST_DOCUMENTS = 1000
"""Documents of a file, at most [count]."""


class Text(str):
    """A text of a YAML file with its line, from 1."""

    __slots__ = ("line",)
    line: int

    @classmethod
    def at(cls, text: str, line: int) -> Text:
        """A text that stands on a line."""
        made = cls(text)
        made.line = line
        return made


class _Loader(yaml.SafeLoader):
    """Reads plain data. Every scalar stays a `Text`, because flags are texts: `0.90` is not 0.9, and `on` not True."""

    nodes = 0
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.nodes += 1
        self.depth += 1
        if self.nodes > MOST_NODES or self.depth > 100:
            raise yaml.MarkedYAMLError(problem="is too large or nested too deeply")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST_NODES:  # merge keys can repeat each other's pairs
            raise yaml.MarkedYAMLError(problem="repeats too many keys with <<", problem_mark=node.start_mark)

    def pairs(self, node: yaml.MappingNode) -> dict[Any, Any]:
        """The keys and values of a mapping."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a plain word", problem_mark=key.start_mark)
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key.value!r}", problem_mark=key.start_mark)
            seen.add(key.value)
        self.flatten_mapping(node)
        return {self.construct_object(key): self.construct_object(value, deep=True) for key, value in node.value}


def _text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Text | None:
    if node.tag == "tag:yaml.org,2002:null":
        return None
    return Text.at(str(loader.construct_scalar(node)), node.start_mark.line + 1)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.pairs(node)


for _kind in ("str", "int", "float", "bool", "null", "timestamp", "value"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _text)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def documents(text: str, where: str) -> list[Any]:
    """All documents of a YAML text: mappings, lists, `Text` and None.

    Parameters
    ----------
    text : the YAML text
    where : file of the text, for messages

    Raises
    ------
    SpecError : the text is too large, is not plain YAML, or is empty
    """
    if len(text) > MAX_BYTES:
        raise SpecError(f"is over {MAX_BYTES / 1e6:.0f} MB", where=where, hint="no launch file is that large")
    read: list[Any] = []
    try:
        for document in yaml.load_all(text, Loader=_Loader):  # safe: a safe loader
            if document is not None:
                read.append(document)
            if len(read) > MOST_DOCUMENTS:
                raise SpecError(f"holds more than {MOST_DOCUMENTS:,} documents", where=where, hint="give fewer")
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = " ".join(filter(None, [error.context, error.problem]))
        raise SpecError(problem, where=f"{where}{line}", hint="write plain YAML") from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"is not YAML: {str(error).splitlines()[0]}", where=where) from None
    except RecursionError:
        raise SpecError("is nested too deeply", where=where) from None
    if not read:
        raise SpecError("is empty", where=where)
    return read


def walked(data: Any, where: str) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every mapping of a document with its path, the outer ones first.

    Parameters
    ----------
    data : a document
    where : file of the document, for messages
    """
    seen = 0
    waiting: list[tuple[tuple[str, ...], Any]] = [((), data)]
    while waiting:
        path, value = waiting.pop()
        seen += 1
        if seen > MOST_NODES:
            raise SpecError("repeats too much with aliases (*name)", where=where, hint="write it out")
        if isinstance(value, dict):
            yield path, value
            waiting += [((*path, str(key)), inner) for key, inner in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [((*path, str(number)), inner) for number, inner in reversed(list(enumerate(value)))]


def line_of(value: Any) -> int:
    """The line of a text, or of the first text inside a list or mapping; 1 if there is none."""
    waiting = [value]
    for _ in range(1000):
        if not waiting:
            break
        first = waiting.pop(0)
        if isinstance(first, Text):
            return first.line
        if isinstance(first, dict):
            waiting = [*list(first)[:1], *waiting]
        elif isinstance(first, list):
            waiting = [*first[:20], *waiting]
    return 1
