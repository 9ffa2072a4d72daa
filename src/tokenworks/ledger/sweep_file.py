"""The file of a sweep: one question, and the values that are swept. This module checks the form, and runs nothing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from tokenworks.errors import SpecError
from tokenworks.ledger.terms import Pay
from tokenworks.planning.setting import EngineChoice
from tokenworks.specs.deployment import EngineName, RouterName
from tokenworks.specs.load import nearest, read_yaml, validate
from tokenworks.specs.price import Currency, Region
from tokenworks.specs.provenance import Spec

Value = bool | int | float | str
"""One value of a path, as the user wrote it: a number, a word, or text with a unit."""

Scale = Literal["linear", "log"]
Do = Literal["simulate", "plan", "estimate"]

MOST_POINTS = 1_000_000
"""Most points of a sweep [count]."""

_FILE_ENDS = (".yaml", ".yml", ".json")
_COUNTED = re.compile(r"([0-9]+x)?(.*)", re.DOTALL)


class ListAxis(Spec):
    """Values of a path that are written out.

    Parameters
    ----------
    values : values of the path
    scale : scale of the axis in charts, and for the knee
    """

    values: tuple[Value, ...] = Field(min_length=1)
    scale: Scale = "linear"


class RangeAxis(Spec):
    """Values of a path between two bounds.

    Parameters
    ----------
    from : lowest value
    to : highest value
    steps : number of values, with equal distance or equal ratio. None: the Latin hypercube chooses the values [count]
    scale : linear has equal distances, log has equal ratios
    """

    from_: Annotated[int | float | str, Field(alias="from")]
    to: int | float | str
    steps: Annotated[int, Field(ge=2, le=MOST_POINTS)] | None = None
    scale: Scale = "linear"


class TogetherAxis(Spec):
    """Values of several paths that change at the same time.

    Parameters
    ----------
    together : path -> values; all lists have the same length
    scale : scale of the axis in charts, and for the knee
    """

    together: dict[str, tuple[Value, ...]] = Field(min_length=1)
    scale: Scale = "linear"


def _form(value: Any) -> str:
    """The form of an axis: "list", "values", "range" or "together"."""
    forms = ((ListAxis, "values"), (RangeAxis, "range"), (TogetherAxis, "together"))
    if (known := next((form for kind, form in forms if isinstance(value, kind)), None)) is not None:
        return known
    if not isinstance(value, Mapping):
        return "list"
    return next((name for name in ("values", "together") if name in value), "range")


AxisForm = Annotated[
    Annotated[tuple[Value, ...], Field(min_length=1), Tag("list")]
    | Annotated[ListAxis, Tag("values")]
    | Annotated[RangeAxis, Tag("range")]
    | Annotated[TogetherAxis, Tag("together")],
    Discriminator(_form),
]


class LatinHypercube(Spec):
    """A random sample that covers the range of each path evenly.

    Parameters
    ----------
    points : size of the sample [count]
    seed : seed of the random numbers
    """

    points: Annotated[int, Field(ge=2, le=MOST_POINTS)]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class ShownColumns(Spec):
    """What the charts show.

    Parameters
    ----------
    x : axis of the curves; None: the first axis with numbers
    y : result column of the curves; None: effective tokens per device, output tokens per device without an SLO, or the
        time of a decode step
    """

    x: str | None = None
    y: str | None = None


class SweepFile(Spec):
    """A file that describes a sweep. The subclasses add the arguments of the question.

    Parameters
    ----------
    do : the question that each point answers
    title : title for people
    over : path or argument -> its values. The sweep has all combinations of the values
    latin : sample of the ranges without `steps`
    show : what the charts show
    """

    do: Do
    title: str = ""
    over: dict[str, AxisForm] = Field(min_length=1)
    latin: LatinHypercube | None = None
    show: ShownColumns = ShownColumns()

    unswept: ClassVar[tuple[str, ...]] = ("assume", "classes")
    """Arguments that have more than one value, and cannot be swept."""

    needs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Arguments without which there is no question; of each group, the file gives or sweeps one."""

    @classmethod
    def argument_names(cls) -> tuple[str, ...]:
        """Names of the arguments of the question."""
        return tuple(name for name in cls.model_fields if name not in SweepFile.model_fields)

    def arguments(self) -> dict[str, Any]:
        """The arguments of the question that the file gives."""
        values = {name: getattr(self, name) for name in self.argument_names()}
        return {name: value for name, value in values.items() if value is not None}

    def paths(self) -> Iterator[str]:
        """All paths that are swept."""
        for name, axis in self.over.items():
            yield from axis.together if isinstance(axis, TogetherAxis) else (name,)


class _Numbers(SweepFile):
    assume: str | dict[str, Value] | None = None
    calibration: str | None = None
    max_model_len: int | None = None


class SimulateSweep(_Numbers):
    """A sweep of `simulate`. The arguments have the names and the meaning of `tokenworks.simulate`."""

    needs = (("deployment",), ("workload", "trace"))

    do: Literal["simulate"]
    deployment: str | dict[str, Any] | None = None
    pick: int | None = None
    trace: str | None = None
    workload: str | dict[str, Any] | None = None
    requests: int | None = None
    limit: int | None = None
    rate: float | None = None
    scale: float | None = None
    concurrency: int | None = None
    slo: str | dict[str, str] | None = None
    classes: dict[str, str] | None = None
    router: RouterName | None = None
    max_queue: int | None = None
    seed: int | None = None


class PlanSweep(_Numbers):
    """A sweep of `plan`. The arguments have the names and the meaning of `tokenworks.plan`; those of the cost,
    prices, pay, utilisation, currency and region, have those of `tokenworks.compare`.
    """

    needs = (("model",), ("on",))

    do: Literal["plan"]
    model: str | None = None
    on: str | None = None
    boxes: int | None = None
    workload: str | dict[str, Any] | None = None
    isl: float | None = None
    osl: float | None = None
    rate: float | None = None
    concurrency: float | None = None
    slo: str | dict[str, str] | None = None
    engine: EngineChoice | None = None
    devices: int | None = None
    simulate: bool | None = None
    budget: str | None = None
    prices: str | dict[str, Any] | None = None
    pay: Pay | None = None
    utilisation: float | None = None
    currency: Currency | None = None
    region: Region | None = None


class EstimateSweep(_Numbers):
    """A sweep of `estimate`. The arguments have the names and the meaning of `tokenworks.estimate`."""

    needs = (("model", "deployment"),)

    do: Literal["estimate"]
    model: str | None = None
    deployment: str | dict[str, Any] | None = None
    pick: int | None = None
    on: str | None = None
    boxes: int | None = None
    deploy: str | None = None
    workload: str | dict[str, Any] | None = None
    isl: float | None = None
    osl: float | None = None
    batch: int | None = None
    chunk: int | None = None
    engine: EngineName | None = None
    devices: int | None = None


KINDS: dict[Do, type[SweepFile]] = {"simulate": SimulateSweep, "plan": PlanSweep, "estimate": EstimateSweep}

SweepLike = str | Path | Mapping[str, Any] | SweepFile
"""Every form of a sweep: a YAML file, the content of such a file, or a loaded file."""


def load_sweep(sweep: SweepLike) -> tuple[SweepFile, str]:
    """Read a sweep, and check its form.

    Parameters
    ----------
    sweep : YAML file, its content as a dict, or a loaded sweep. Files that a YAML file names are relative to its folder

    Returns
    -------
    The sweep, and its place for error messages.

    Raises
    ------
    SpecError : the file cannot be read, or a key or a value is wrong
    """
    if isinstance(sweep, SweepFile):
        return sweep, "sweep"
    if isinstance(sweep, Mapping):
        return _checked(dict(sweep), "sweep", Path()), "sweep"
    return _checked(read_yaml(sweep), str(sweep), Path(sweep).parent), str(sweep)


def _checked(data: Any, where: str, folder: Path) -> SweepFile:
    if not isinstance(data, dict):
        hint = "write `do: simulate`, the arguments of the question, and `over:` with the values"
        raise SpecError("is not a mapping of keys to values", where=where, hint=hint)
    data = _with_text_keys(data)
    if isinstance(data.get("over"), dict):
        data["over"] = _with_text_keys(data["over"])
    do = data.get("do")
    if not isinstance(do, str) or do not in KINDS:
        words = "is missing" if "do" not in data else f"{do!r} is not a question"
        near = nearest(str(do), list(KINDS)) if "do" in data else ""
        raise SpecError(words, where=f"{where}: do", hint=near or f"write one of {', '.join(KINDS)}")
    file = validate(KINDS[do], data, where)
    both = [name for name in file.paths() if name in file.arguments()]
    if both:
        hint = f"leave {both[0]} out in one of the two places"
        raise SpecError("is given, and swept too", where=f"{where}: {both[0]}", hint=hint)
    given = {*file.paths(), *file.arguments()}
    for names in file.needs:
        if not given.intersection(names):
            hint = f"write `{names[0]}: ...`, or sweep it below `over:`"
            raise SpecError("is missing", where=f"{where}: {' or '.join(names)}", hint=hint)
    placed = {name: _placed(name, value, folder) for name, value in file.arguments().items()}
    over = {
        name: tuple(_placed(name, value, folder) for value in axis) if isinstance(axis, tuple) else axis
        for name, axis in file.over.items()
    }
    return file.model_copy(update={**placed, "over": over})


def _with_text_keys(data: Mapping[Any, Any]) -> dict[Any, Any]:
    """The data with `on` as a word: YAML reads a plain `on` as true."""
    return {"on" if key is True else key: value for key, value in data.items()}


def _placed(name: str, value: Any, folder: Path) -> Any:
    """An argument; if it names a file, with the path of the file from the current folder."""
    if not isinstance(value, str) or folder == Path():
        return value
    if name in ("deployment", "trace"):
        return str(folder / value)
    if name in ("workload", "calibration", "assume", "on", "model", "prices") and value.endswith(_FILE_ENDS):
        match = _COUNTED.fullmatch(value)
        assert match is not None
        return f"{match[1] or ''}{folder / match[2]}"
    return value


def identity(file: SweepFile) -> str:
    """A hash of what the points of a sweep depend on: the question, the values, and the files that the sweep names.

    Parameters
    ----------
    file : the sweep; its title and its charts do not count

    Returns
    -------
    SHA-256 in hexadecimal.
    """
    data = file.model_dump(mode="json", by_alias=True, exclude={"title", "show"})
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode())
    for name in _named_files(file):
        digest.update(f"\n{name} ".encode())
        with Path(name).open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _named_files(file: SweepFile) -> Iterator[str]:
    """Paths of all files that a sweep names, sorted."""
    values = [value for value in file.arguments().values() if isinstance(value, str)]
    values += [
        value for axis in file.over.values() if isinstance(axis, tuple) for value in axis if isinstance(value, str)
    ]
    names = {_COUNTED.sub(r"\2", value, count=1) for value in values} | set(values)
    yield from sorted(name for name in names if "\0" not in name and len(name) < 4096 and _is_file(name))


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:
        return False
