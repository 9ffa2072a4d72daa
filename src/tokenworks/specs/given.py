"""Numbers that a user puts in place of those of the catalog, for one run: of machine, engine, calibration, workload.

They come from `--assume FILE`, from `--set PATH=VALUE`, from a dict in Python, or from a file of deployments that was
made with them. Outputs name each of them as assumed. `specs/edits.py` puts them in place.
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
    """One number in place of one of the catalog.

    Parameters
    ----------
    path : dotted path of the number: of the machine as it is (`scale_up.hop`), else behind the name of its area
        (`engine.host_step`, `calibration.skew`, `workload.isl`)
    value : the number with its unit, as it was written
    why : what gave it, such as `--set`
    """

    path: str
    value: str
    why: str = GIVEN

    @property
    def where(self) -> str:
        """How an error names it."""
        return f"{self.why} {self.path}" if self.why == SET else f"{self.why}: {self.path}"

    @property
    def area(self) -> Area:
        """What it belongs to."""
        head = self.path.partition(".")[0]
        return next((area for area in AREAS if area == head), "machine")


Assume = Path | str | Mapping[str, Any] | Sequence[Given] | None
"""What a function takes for numbers of a user: a YAML file, a dict of values by path, or such numbers themselves."""


def given(assume: Assume) -> tuple[Given, ...]:
    """The numbers of a file, of a dict, or those that were read before.

    Raises
    ------
    SpecError : the file or the dict does not hold one value for each path
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
    """The numbers of `--set PATH=VALUE`.

    Raises
    ------
    SpecError : a text has no path or no value
    """
    items = []
    for text in texts:
        path, equals, value = text.partition("=")
        if not (path and equals and value):
            hint = "write it like roles.0.max_sequences=64 or machine.scale_up.hop=0.3us"
            raise SpecError("is no path=value", where=f"{SET} {text}", hint=hint)
        items.append(Given(path=path, value=value, why=SET))
    return tuple(items)


def split(items: Iterable[Given]) -> tuple[tuple[Given, ...], tuple[Given, ...]]:
    """Changes of a deployment, whose paths have no area in front, and numbers for `given`, whose paths have one."""
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
        raise SpecError("wants one `path: value` a line", where=where, hint='such as "scale_up.hop: 0.2 us"')
    for path, value in lines.items():
        if not isinstance(value, (str, int, float)):
            hint = 'such as "scale_up.hop: 0.2 us"'
            raise SpecError("wants a value with its unit", where=f"{where}: {path}", hint=hint)
        text = str(value).lower() if isinstance(value, bool) else str(value)
        yield _canonical(Given(path=str(path), value=text, why=why))


def _canonical(item: Given) -> Given:
    """Numbers of the machine go without the name of their area, as files of deployments have them."""
    return item.model_copy(update={"path": item.path.removeprefix("machine.")})
