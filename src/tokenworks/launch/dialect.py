"""A dialect: the flags that one version of an engine accepts. Each dialect is one file in catalog/dialects."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.engine import version_key
from tokenworks.specs.load import CATALOG, read_yaml, validate
from tokenworks.specs.provenance import Spec

FOLDER = CATALOG / "dialects"

Kind = Literal["text", "int", "float", "json", "list", "switch", "pair"]
"""Kind of the value of a flag. "switch" has no value. "pair" has no value, and a twin that begins with --no-."""

DialectEngine = Literal["vllm", "sglang"]


class Flag(Spec):
    """One flag of a launch command.

    Parameters
    ----------
    aliases : other spellings of the flag
    kind : kind of the value
    choices : values that the engine accepts; empty: any value, or the list is not known
    default : default value as the source code has it; empty: not known
    deprecated : what to write instead; empty: the flag is not deprecated
    group : group of flags in the help of the engine
    """

    aliases: tuple[str, ...] = ()
    kind: Kind = "text"
    choices: tuple[str, ...] = ()
    default: str = ""
    deprecated: str = ""
    group: str = ""

    @property
    def takes_value(self) -> bool:
        """Whether a value follows the flag."""
        return self.kind not in ("switch", "pair")


class Dialect(Spec):
    """The flags of one version of an engine, or of a fork.

    Parameters
    ----------
    name : name in the catalog, such as sglang-0.5.23
    title : name for people
    engine : engine whose flags these are
    version : version of the engine
    fork : name of the fork; empty: the engine as its authors release it
    source : where the list comes from
    flags : flags by their name
    """

    name: str
    title: str
    engine: DialectEngine
    version: str
    fork: str = ""
    source: str
    flags: dict[str, Flag] = Field(min_length=1)

    @property
    def underscores(self) -> bool:
        """Whether `--max_num_seqs` is read as `--max-num-seqs`: the parser of vLLM does this."""
        return self.engine == "vllm"

    @functools.cached_property
    def _spellings(self) -> dict[str, str]:
        """Every spelling of every flag -> name of the flag. Twins such as --no-enable-dbo are not in this dict."""
        names = {name: name for name in self.flags}
        return names | {alias: name for name, flag in self.flags.items() for alias in flag.aliases}

    def has(self, spelling: str) -> bool:
        """Whether the dialect has a flag with exactly this spelling."""
        return spelling in self._spellings

    def look_up(self, word: str) -> Spelled | None:
        """The flag that a word of a command names; None: the dialect has no such flag.

        Parameters
        ----------
        word : a word such as --tp-size, -tp, --no-enable-dbo or --max-num-seq. Parsers accept the beginning of a long
            flag if only one flag begins so

        Raises
        ------
        SpecError : several flags begin with the word
        """
        word = word.replace("_", "-") if self.underscores and word.startswith("--") else word
        if word in self._spellings:
            return Spelled(self._spellings[word], word)
        if word.startswith("--no-"):
            twin = self._spellings.get("--" + word.removeprefix("--no-"))
            if twin is not None and self.flags[twin].kind == "pair":
                return Spelled(twin, word, negated=True)
        if not word.startswith("--"):
            return None
        begun = {name for spelling, name in self._spellings.items() if spelling.startswith(word)}
        if len(begun) > 1:
            names = ", ".join(sorted(begun)[:4])
            raise SpecError(f"can be {names}", where=f"{self.title}: {word}", hint="write the whole flag")
        return Spelled(begun.pop(), word) if begun else None

    def check(self, name: str, value: str) -> None:
        """Check the value of a flag.

        Parameters
        ----------
        name : name of the flag
        value : one word of the command

        Raises
        ------
        SpecError : the value has the wrong kind, or is not one of the choices
        """
        flag, where = self.flags[name], f"{self.title}: {name}"
        if flag.choices and value not in flag.choices:
            near = UnknownName("value", value, flag.choices).hint
            others = [other.title for other in others_with(self, name, value)]
            hint = f"{near}; {', '.join(others)} accepts it" if others else near
            raise SpecError(f"{value!r} is not one of the values that it accepts", where=where, hint=hint)
        try:
            if flag.kind == "int" and value.lower() != "auto":
                _whole(value)
            elif flag.kind == "float":
                float(value)
            elif flag.kind == "json" and value[:1] in "{[":
                json.loads(value)
        except ValueError:
            words = {"int": "a whole number", "float": "a number", "json": "JSON"}[flag.kind]
            raise SpecError(f"{value!r} is not {words}", where=where, hint="correct the value") from None


@dataclass(frozen=True, slots=True)
class Spelled:
    """A flag as a command spells it.

    Parameters
    ----------
    name : name of the flag in the dialect
    word : the word of the command
    negated : the word is the twin that begins with --no-
    """

    name: str
    word: str
    negated: bool = False


_SCALES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


def _whole(value: str) -> int:
    """A whole number; vLLM also reads 8k as 8,000 and 8K as 8,192."""
    if value[-1:] in _SCALES:
        return int(float(value[:-1]) * _SCALES[value[-1]])
    return int(value)


whole = _whole


def dialect_names() -> list[str]:
    """Names of the dialects in the catalog: by engine, forks last, newest version first."""
    return [dialect.name for dialect in dialects()]


@functools.cache
def dialects() -> tuple[Dialect, ...]:
    """All dialects of the catalog: by engine, forks last, newest version first."""
    every = [_shipped(path.stem) for path in sorted(FOLDER.glob("*.yaml"))]
    newest = sorted(every, key=lambda one: version_key(one.version), reverse=True)
    return tuple(sorted(newest, key=lambda one: (one.engine != "vllm", one.fork)))


def load_dialect(name: str) -> Dialect:
    """Load a dialect of the catalog.

    Parameters
    ----------
    name : name in the catalog, such as vllm-0.33.0; the name of an engine or of a line stands for its newest dialect:
        vllm, vllm-cpu, sglang, sglang-das

    Raises
    ------
    UnknownName : no such dialect
    """
    every = dialects()
    exact = [one for one in every if one.name == name]
    line = [one for one in every if one.name.rpartition("-")[0] == name]
    if not exact and not line:
        raise UnknownName("dialect", name, dialect_names())
    return (exact or line)[0]


def others_with(dialect: Dialect, word: str, value: str | None = None) -> list[Dialect]:
    """Other dialects that have a flag, newest first.

    Parameters
    ----------
    dialect : this dialect is left out
    word : spelling of the flag
    value : only dialects that accept this value; None: any value
    """
    return [other for other in dialects() if other.name != dialect.name and _accepts(other, word, value)]


def _accepts(dialect: Dialect, word: str, value: str | None) -> bool:
    try:
        spelled = dialect.look_up(word)
    except SpecError:
        return False
    if spelled is None:
        return False
    choices = dialect.flags[spelled.name].choices
    return value is None or not choices or value in choices


def titles(of: Iterable[Dialect]) -> str:
    """The titles of dialects for a message."""
    return ", ".join(one.title for one in of)


@functools.cache
def _shipped(name: str) -> Dialect:
    path = FOLDER / f"{name}.yaml"
    return validate(Dialect, read_yaml(path), str(path))
