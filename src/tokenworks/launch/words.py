"""The words of a command, with the flags of a dialect. What a flag means is not known here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.launch.command import Command
from tokenworks.launch.dialect import Dialect, Spelled


@dataclass(frozen=True, slots=True)
class Term:
    """One flag of a command with its value.

    Parameters
    ----------
    flag : name of the flag in the dialect; for a key inside a JSON value with the key after a dot
    word : the flag as the command spells it
    value : the value; several words of a list with spaces between them; empty: the flag is a switch
    negated : the flag is the twin of a switch that begins with --no-
    """

    flag: str
    word: str
    value: str = ""
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Parsed:
    """The words of a command.

    Parameters
    ----------
    terms : flags that the dialect has, by name; keys of JSON values are in `keys`
    keys : JSON values: flag -> content
    positional : words before the first flag
    unknown : flags that the dialect does not have, with their values
    refused : flags whose values the dialect does not accept -> why
    """

    terms: Mapping[str, Term]
    keys: Mapping[str, dict[str, Any]]
    positional: tuple[str, ...]
    unknown: tuple[Term, ...]
    refused: Mapping[str, str]


def parse(command: Command, dialect: Dialect) -> Parsed:
    """The words of a command as terms.

    Parameters
    ----------
    command : the command
    dialect : the flags that its program accepts

    Raises
    ------
    SpecError : a flag has no value, or two values that contradict each other
    """
    terms: dict[str, Term] = {}
    keys: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    positional, unknown = [], []
    for words in _groups(command.arguments):
        if not words[0].startswith("-"):
            positional += words
            continue
        spelled, key, value, rest = _one(words, dialect, command.where)
        if spelled is None:
            unknown.append(Term(words[0].partition("=")[0], words[0].partition("=")[0], " ".join(value)))
            continue
        positional += rest
        term = Term(spelled.name, spelled.word, " ".join(value), spelled.negated)
        if dialect.flags[spelled.name].kind == "json" and (key or term.value[:1] == "{"):
            for path, content in _content(term, key, command.where):
                _put(keys.setdefault(spelled.name, {}), path, content, term, command.where)
            continue
        for word in value:
            try:
                dialect.check(spelled.name, word)
            except SpecError as error:
                refused[spelled.name] = str(error)
        earlier = terms.get(spelled.name)
        if earlier and (earlier.value, earlier.negated) != (term.value, term.negated):
            raise SpecError(
                f"{_shown(earlier)} and {_shown(term)} contradict each other", where=command.where,
                hint="keep one of them",
            )  # fmt: skip
        terms[spelled.name] = term
    return Parsed(terms, keys, tuple(positional), tuple(unknown), refused)


def _shown(term: Term) -> str:
    return f"{term.word} {term.value}".strip()


def _groups(arguments: Sequence[str]) -> Iterator[list[str]]:
    """Each flag with the words up to the next flag; the words before the first flag come first."""
    group: list[str] = []
    for word in arguments:
        if is_flag(word):
            if group:
                yield group
            group = []
        group.append(word)
    if group:
        yield group


def is_flag(word: str) -> bool:
    """Whether a word of a command is a flag; -1 is a number."""
    return word.startswith("-") and len(word) > 1 and not word[1:].replace(".", "", 1).isdigit()


def _one(
    words: Sequence[str], dialect: Dialect, where: str
) -> tuple[Spelled | None, str, Sequence[str], Sequence[str]]:
    """The flag of a group, the key inside its JSON value, its value, and the words after the value."""
    word, equals, own = words[0].partition("=")
    base, dot, key = word.partition(".")
    dotted = bool(dot) and word.startswith("--")
    spelled = dialect.look_up(base if dotted else word)
    if spelled is not None and dotted and dialect.flags[spelled.name].kind != "json":
        spelled = None
    following = [own] if equals else list(words[1:])
    if spelled is None:
        return None, "", following, ()
    flag = dialect.flags[spelled.name]
    if not flag.takes_value:
        if equals:
            raise SpecError(f"takes no value, and has {own!r}", where=f"{where}: {word}", hint="leave the value out")
        return spelled, "", (), following
    if not following:
        raise SpecError("has no value", where=f"{where}: {word}", hint=f"write a value after {word}")
    if flag.kind == "list" or dialect.engine == "sglang":  # a command of SGLang has no words without a flag
        return spelled, key, following, ()
    return spelled, key, following[:1], [*words[2:]] if not equals else [*words[1:]]


def _content(term: Term, key: str, where: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Paths and values of a JSON value, or of one key of it."""
    try:
        value = json.loads(term.value)
    except ValueError:
        if not key:
            hint = "check quotes and brackets"
            raise SpecError(f"{term.value!r} is not JSON", where=f"{where}: {term.word}", hint=hint) from None
        value = term.value
    if key:
        yield tuple(key.replace("-", "_").split(".")), value
    elif isinstance(value, dict):
        yield from (((name,), content) for name, content in value.items())


def _put(data: dict[str, Any], path: tuple[str, ...], value: Any, term: Term, where: str) -> None:
    """Put a value into a JSON object."""
    for name in path[:-1]:
        inner = data.setdefault(name, {})
        if not isinstance(inner, dict):
            raise SpecError(f"{name} has a value and keys", where=f"{where}: {term.word}", hint="keep one of them")
        data = inner
    if path[-1] in data and data[path[-1]] != value:
        both = f"{path[-1]} is {data[path[-1]]!r} and {value!r}"
        raise SpecError(both, where=f"{where}: {term.word}", hint="keep one of them")
    data[path[-1]] = value


class Writer:
    """Arguments of a command, flag by flag; each flag and value is checked with the dialect.

    Parameters
    ----------
    dialect : the flags that the program accepts
    """

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.arguments: list[str] = []

    def add(self, name: str, *values: object) -> None:
        """Add a flag.

        Parameters
        ----------
        name : a spelling of the flag
        values : words of the value; none for a switch; a dict becomes JSON

        Raises
        ------
        SpecError : the dialect does not have the flag, or does not accept the value
        """
        spelled = self.dialect.look_up(name)
        if spelled is None:
            raise SpecError(f"has no flag {name}", where=self.dialect.title, hint="take another dialect: --dialect")
        words = [json.dumps(value) if isinstance(value, dict) else str(value) for value in values]
        for word in words:
            self.dialect.check(spelled.name, word)
        self.arguments += [name, *words]
