"""The paths that a sweep can change: arguments of the question, bounds of the SLO, and numbers that `--set` knows."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tokenworks import units
from tokenworks.errors import SpecError
from tokenworks.ledger.sweep_file import SweepFile, TogetherAxis, Value
from tokenworks.specs.calibration import DEFAULT, load_calibration
from tokenworks.specs.compose import parts, settable
from tokenworks.specs.deployment_file import load_deployments
from tokenworks.specs.edits import leaves
from tokenworks.specs.engine import load_engine
from tokenworks.specs.given import Given
from tokenworks.specs.hf import load_model
from tokenworks.specs.load import load_workload, nearest, short
from tokenworks.specs.provenance import Quantity
from tokenworks.specs.slo import Slo

Place = Literal["argument", "slo", "number", "deployment"]

_BOUND = re.compile(r"slo\.(ttft|tpot)(\.p[0-9.]+)?")
_NAMES = ("name", "sources", "title", "note", "source")
LARGE = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
SMALL = ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"))
"""Factors and prefixes of units in texts for people."""

MOST = 1e15
"""Largest plain number: whole numbers up to here are exact."""

SHOWN = 3
"""Near paths that a message shows [count]."""


@dataclass(frozen=True, slots=True)
class SweptPath:
    """A path that a sweep changes.

    Parameters
    ----------
    path : the path as the user wrote it
    place : what the path belongs to: an argument of the question, a bound of the SLO, a number of the catalog, or the
        deployment
    unit : SI unit of the values; "" for plain numbers; None for words, and for values of any kind
    whole : whether the values are whole numbers
    words : all words that the path takes; empty for any word
    """

    path: str
    place: Place
    unit: str | None = None
    whole: bool = False
    words: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """The path with its unit, as a heading."""
        return f"{self.path} [{self.unit}]" if self.unit else self.path

    def shown(self, value: Value) -> str:
        """A value of the path with its unit, for people."""
        if not isinstance(value, float) or not self.unit:
            return significant(value) if isinstance(value, float) else str(value)
        prefixes = SMALL if self.unit == "s" else LARGE
        factor, prefix = next((pair for pair in prefixes if abs(value) >= pair[0]), (1.0, ""))
        symbol = self.unit.replace("byte", "B") if prefix else self.unit
        return f"{significant(value / factor)} {prefix}{symbol}"

    def read(self, value: Value, where: str) -> Value:
        """A value of the file: numbers with a unit become SI numbers.

        Parameters
        ----------
        value : the value as the user wrote it
        where : place of the value, for messages

        Raises
        ------
        SpecError : the value has no unit or a wrong one, or is no number where the path needs one
        """
        if self.words and value not in self.words:
            known = nearest(str(value), list(self.words)) or f"known: {', '.join(self.words)}"
            raise SpecError(f"{value!r} is not a value of {self.path}", where=where, hint=known)
        if self.unit is None:
            return value
        if isinstance(value, bool):
            raise SpecError(f"{str(value).lower()} is not a number", where=where)
        number = units.parse(str(value), self.unit, where=where) if self.unit else _number(value, where)
        if not self.whole:
            return number
        if number != int(number):
            raise SpecError(f"{value} is not a whole number", where=where)
        return int(number)

    def given(self, value: Value, why: str) -> Given:
        """A value as a number that the user set.

        Parameters
        ----------
        value : value in SI units
        why : origin of the value: the file of the sweep
        """
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return Given(path=self.path.removeprefix("machine."), value=f"{text} {self.unit or ''}".strip(), why=why)


def significant(value: float) -> str:
    """A number with four digits, for tables and messages."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def _number(value: Value, where: str) -> float:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise SpecError(f"{short(repr(value))} is not a number", where=where) from None
    if not abs(number) <= MOST:  # also NaN
        raise SpecError(f"{number:g} is not a number between {-MOST:g} and {MOST:g}", where=where)
    return number


def swept_paths(file: SweepFile, where: str) -> dict[str, SweptPath]:
    """All paths that a sweep changes, by their text.

    Parameters
    ----------
    file : the sweep
    where : file of the sweep, for messages

    Raises
    ------
    SpecError : a path that does not exist, a path that is swept twice, or a name that is not in the catalog
    """
    for model in _all(file, "model"):  # a wrong name is said before any point is computed
        load_model(model)
    for slo in _all(file, "slo"):
        Slo.of(slo)
    known: dict[str, SweptPath] = {}
    for one in _known(file):
        known.setdefault(one.path, one)
    found: dict[str, SweptPath] = {}
    for name, axis in file.over.items():
        for path in axis.together if isinstance(axis, TogetherAxis) else (name,):
            place = (
                f"{where}: over.{name}.together.{path}" if isinstance(axis, TogetherAxis) else f"{where}: over.{path}"
            )
            if path in found:
                raise SpecError("is swept twice", where=place, hint="sweep each path once")
            if path in file.unswept:
                raise SpecError("cannot be swept", where=place, hint="sweep single paths, such as machine.scale_up.hop")
            bound = SweptPath(path, "slo", "s") if _BOUND.fullmatch(path) and "slo" in file.argument_names() else None
            if path not in known and bound is None:
                raise SpecError("no such path", where=place, hint=_near(path, list(known)))
            found[path] = bound or known[path]
    return found


def _near(path: str, known: list[str]) -> str:
    """A hint with the paths that are most like a wrong one."""
    below = [one for one in known if one.startswith(f"{path}.")]
    if below:
        return f"it has more than one value: sweep one of {', '.join(below[:SHOWN])}"
    near = difflib.get_close_matches(path, known, n=SHOWN)
    return f"did you mean {', '.join(near)}?" if near else "`tokenworks systems NAME` lists the paths of a machine"


def _known(file: SweepFile) -> Iterator[SweptPath]:
    """Every path that the sweep can change. Of two paths with the same text, the first one counts."""
    for name in file.argument_names():
        if name not in file.unswept:
            yield _argument(name, type(file).model_fields[name].annotation)
    if "slo" in file.argument_names():
        yield from (SweptPath(f"slo.{name}", "slo", "s") for name in ("ttft", "tpot"))
    systems = list(_all(file, "on"))
    for source in _all(file, "deployment"):
        for deployed in load_deployments(source):
            systems.append(deployed.deployment.system)
            yield from (_leaf(path, "deployment", leaf) for path, leaf in leaves(deployed.deployment))
    for on in dict.fromkeys(systems):
        for path, leaf in settable(parts(on)):
            yield _leaf(path, "number", leaf)
            yield _leaf(f"machine.{path}", "number", leaf)
    workloads = [load_workload(name) for name in _all(file, "workload")] or [load_workload({"isl": 1, "osl": 1})]
    calibrations = [load_calibration(name) for name in _all(file, "calibration")] or [load_calibration(DEFAULT)]
    specs = {"engine": load_engine("vllm"), "workload": workloads[0], "calibration": calibrations[0]}
    for area, spec in specs.items():
        for path, leaf in leaves(spec):
            if path.partition(".")[0] not in _NAMES:
                yield _leaf(f"{area}.{path}", "number", leaf)


def _all(file: SweepFile, name: str) -> Iterator[Any]:
    """All values of an argument: the one that the file gives, or those that it sweeps."""
    if name not in file.argument_names():
        return
    axis = file.over.get(name)
    if axis is not None:
        yield from axis if isinstance(axis, tuple) else getattr(axis, "values", ())
    elif getattr(file, name) is not None:
        yield getattr(file, name)


def _argument(name: str, annotation: Any) -> SweptPath:
    """An argument of the question, with the kind of its values."""
    kinds = typing.get_args(annotation)
    number = "" if {int, float} & set(kinds) else None
    return SweptPath(name, "argument", number, whole=int in kinds, words=tuple(_literals(annotation)))


def _literals(annotation: Any) -> Iterator[str]:
    """All words that a type lists."""
    for inner in typing.get_args(annotation):
        if typing.get_origin(annotation) is Literal:
            yield inner
        else:
            yield from _literals(inner)


def _leaf(path: str, place: Place, leaf: Any) -> SweptPath:
    """A path of a spec, with the kind of its value."""
    if isinstance(leaf, Quantity):
        return SweptPath(path, place, leaf.unit)
    if isinstance(leaf, (int, float)) and not isinstance(leaf, bool):
        return SweptPath(path, place, "", whole=isinstance(leaf, int))
    return SweptPath(path, place)
