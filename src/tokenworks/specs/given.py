"""Numbers that a user sets for one run. They replace numbers of machine, engine, calibration or workload.

The numbers come from `--assume FILE`, from `--set PATH=VALUE`, from a dict in Python, or from a file of deployments
that records them. Outputs list each of these numbers as assumed. `specs/edits.py` changes the specs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tokenworks.errors import SpecError
from tokenworks.specs.load import read_yaml
from tokenworks.specs.provenance import GIVEN, Spec

Area = Literal["machine", "engine", "calibration", "workload"]
AREAS: tuple[Area, ...] = ("machine", "engine", "calibration", "workload")

SET = "--set"


class Given(Spec):
    """One number that a user set.

    Parameters
    ----------
    path : dotted path of the number. Paths of the machine have no prefix (`scale_up.hop`). Other paths begin with their
        area (`engine.host_step`, `calibration.skew`, `workload.isl`)
    value : the number with its unit, as the user wrote it
    why : origin of the number, such as `--set`
    """

    path: str
    value: str
    why: str = GIVEN

    @property
    def where(self) -> str:
        """Origin and path, for error messages."""
        return f"{self.why} {self.path}" if self.why == SET else f"{self.why}: {self.path}"

    @property
    def area(self) -> Area:
        """The area of the number: machine, engine, calibration or workload."""
        head = self.path.partition(".")[0]
        return next((area for area in AREAS if area == head), "machine")


Assume = Path | str | Mapping[str, Any] | Sequence[Given] | None
"""Every form of the numbers that a user sets: a YAML file, a dict of values by path, or a sequence of `Given`."""


def given(assume: Assume) -> tuple[Given, ...]:
    """Read the numbers of a file or of a dict; a sequence of `Given` is returned as it is.

    Raises
    ------
    SpecError : the file or the dict does not have one value for each path
    """
    match assume:
        case None:
            return ()
        case Path() | str():
            return tuple(_items(read_yaml(assume), str(assume), f"--assume {assume}"))
        case Mapping():
            return tuple(_items(assume, "assume", GIVEN))
    return tuple(assume)


def from_options(texts: Iterable[str]) -> tuple[Given, ...]:
    """Read the numbers of `--set PATH=VALUE`.

    Raises
    ------
    SpecError : a text has no path or no value
    """
    items = []
    for text in texts:
        path, equals, value = text.partition("=")
        if not (path and equals and value):
            hint = "write it like roles.0.max_sequences=64 or machine.scale_up.hop=0.3us"
            raise SpecError("is not PATH=VALUE", where=f"{SET} {text}", hint=hint)
        items.append(Given(path=path, value=value, why=SET))
    return tuple(items)


def split(items: Iterable[Given]) -> tuple[tuple[Given, ...], tuple[Given, ...]]:
    """Divide the numbers of `--set` into changes of the deployment (bare paths), and numbers of an area."""
    bare: list[Given] = []
    areas: list[Given] = []
    for item in items:
        inside = item.path.partition(".")[0] in AREAS and "." in item.path
        (areas if inside else bare).append(item)
    return tuple(bare), tuple(_canonical(item) for item in areas)


def of(area: Area, items: Iterable[Given]) -> tuple[Given, ...]:
    """The numbers of one area."""
    return tuple(item for item in items if item.area == area)


def _items(lines: Any, where: str, why: str) -> Iterator[Given]:
    if not isinstance(lines, Mapping):
        raise SpecError("must have one `path: value` per line", where=where, hint='such as "scale_up.hop: 0.2 us"')
    for path, value in lines.items():
        if not isinstance(value, (str, int, float)):
            hint = 'such as "scale_up.hop: 0.2 us"'
            raise SpecError("must be a value with its unit", where=f"{where}: {path}", hint=hint)
        text = str(value).lower() if isinstance(value, bool) else str(value)
        yield _canonical(Given(path=str(path), value=text, why=why))


def _canonical(item: Given) -> Given:
    """Remove the prefix `machine.`: files of deployments write paths of the machine without it."""
    return item.model_copy(update={"path": item.path.removeprefix("machine.")})
