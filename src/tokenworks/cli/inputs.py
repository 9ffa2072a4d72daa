"""What commands are told alike: a deployment file with edits, a trace or workload to play, and measured points."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tokenworks.cli.output import notes
from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.deployment_file import pick_deployment
from tokenworks.specs.load import load_workload, validate
from tokenworks.specs.slo import RequestClass, Slo
from tokenworks.specs.trace import Trace
from tokenworks.specs.workload import Workload

if TYPE_CHECKING:
    from rich.status import Status

    from tokenworks.calibrate.measured import PointTable

CLASS_HINT = "a workload lists `classes`, a trace names the `class` of a row"


def deployment_of(path: Path, pick: int, edits: Sequence[str]) -> Deployment:
    """The deployment of a file, with `a.b=c` edits; strict as the file itself."""
    found = pick_deployment(path, pick)
    if not edits:
        return found
    data = found.model_dump(mode="json")
    for edit in edits:
        _edit(data, edit)
    return validate(Deployment, data, f"{path} with --set {' '.join(edits)}")


def _edit(data: Any, edit: str) -> None:
    where = f"--set {edit}"
    path, equals, text = edit.partition("=")
    if not equals or not text:
        raise SpecError("is no path=value", where=where, hint="write it like roles.0.max_sequences=64")
    *way, last = path.split(".")
    for part in way:
        data = data[_key(data, part, where)]
    key = _key(data, last, where)
    if isinstance(data[key], (dict, list)):
        raise SpecError(f"{last} holds more than one value", where=where, hint=f"set one of {_known(data[key])}")
    try:
        data[key] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise SpecError(f"cannot read {text!r}", where=where, hint="give a number or a word") from None


def _key(data: Any, part: str, where: str) -> Any:
    if isinstance(data, list) and part.isdecimal() and int(part) < len(data):
        return int(part)
    if isinstance(data, dict) and part in data:
        return part
    known = _known(data)
    if isinstance(data, dict):
        near = difflib.get_close_matches(part, data, n=1, cutoff=0.6)
        known = f'did you mean "{near[0]}"?' if near else f"known: {known}"
    else:
        known = f"known: {known}" if known else "it is a plain value"
    raise SpecError(f"unknown key {part!r}", where=where, hint=known)


def _known(data: Any) -> str:
    return ", ".join(map(str, data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()))


@dataclass(frozen=True, slots=True)
class Source:
    """What is played: `trace`, a file; or `workload`, of which `requests` are made. See `cli.simulate` for the rest."""

    trace: Path | None
    workload: str | None
    requests: int | None = None
    concurrency: int | None = None
    limit: int | None = None
    seed: int = 0
    strict: bool = False
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.trace is None) == (self.workload is None):
            raise SpecError("give --trace FILE or --workload NAME, one of them")
        for name, misplaced in (("requests", self.trace), ("limit", self.workload)):
            if misplaced is not None and getattr(self, name) is not None:
                other = "limit" if name == "requests" else "requests"
                raise SpecError(f"has no --{name}", where=str(misplaced), hint=f"say --{other}")
        for name in ("requests", "concurrency", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SpecError(f"{value} must be at least 1", where=f"--{name}")

    def described(self) -> Workload | None:
        """The workload, if it is one."""
        return load_workload(self.workload) if self.workload else None

    def slo(self, text: str | None) -> Slo:
        """As told, else the workload's own, else none."""
        described = self.described()
        return Slo.parse(text if text is not None else described.slo if described else "")

    def recorded(self) -> Trace:
        """The trace of the file, as it is; what was wrong in it goes to stderr."""
        from tokenworks import ingest

        assert self.trace is not None
        read = ingest.load_trace(self.trace, strict=self.strict)
        note_mended(read)
        return read

    def played(self, recorded: Trace, rate: float | None = None, factor: float | None = None) -> Trace:
        """A recorded trace at a rate [1/s], or `factor` times its own, else as it is; the first `limit` requests."""
        from tokenworks.traffic.source import played

        return played(recorded, rate=rate, factor=factor, requests=self.limit, seed=self.seed)

    @property
    def told(self) -> list[RequestClass]:
        """What `--class` says."""
        return [RequestClass.parse(text) for text in self.classes]

    def promised(self, trace: Trace) -> tuple[RequestClass, ...]:
        """What the classes of the trace, or of the workload, are promised; as told where it was told."""
        described = self.described()
        known = {one.name: one for one in (described.promised if described else map(RequestClass, trace.classes))}
        told = self.told
        for one in told:
            if not known:
                raise SpecError(f"{trace.name} has no classes", where=f"--class {one.name}", hint=CLASS_HINT)
            if one.name not in known:
                raise UnknownName("class", one.name, known)
        if len({one.name for one in told}) < len(told):
            raise SpecError(
                "a class is told twice", where="--class", hint="say all of it in one: name:priority=1,ttft=2s"
            )
        return tuple({**known, **{one.name: one for one in told}}.values())

    def made(self, rate: float | None, concurrency: float | None) -> Trace:
        """Requests of the workload at a rate, or with so many users; else as the workload itself says."""
        from tokenworks.traffic.source import made

        described = self.described()
        assert described is not None
        return made(described, rate, concurrency, requests=self.requests, seed=self.seed)


def measured(data: Sequence[Path], deployment: Path | None, limit: int | None = None) -> PointTable:
    """The points of CSV files and benchmark results; what had to be assumed of them goes to stderr."""
    from tokenworks.calibrate.own_results import measured_table

    found = measured_table(data, pick_deployment(deployment) if deployment else None, limit)
    vague = [point.id for point in found.points if point.deployment and not point.variation]
    if vague:
        notes().print(f"assumed: requests of one length, as no single ones are recorded: {', '.join(vague)}")
    return found


def compile_once() -> None:
    """Compile the engine, with a word, where that has not been done on this machine."""
    from tokenworks.engine.simulator import compiled, warm_up

    if not compiled():
        notes().print("compiling the simulator, once for this machine: about a minute")
        warm_up()


def progress(words: str) -> AbstractContextManager[Callable[[str], None] | None]:
    """What shows progress on a terminal; elsewhere nothing does."""
    return _Progress(words) if notes().is_terminal else nullcontext()


class _Progress(AbstractContextManager[Callable[[str], None]]):
    def __init__(self, words: str) -> None:
        self.status: Status = notes().status(words)

    def __enter__(self) -> Callable[[str], None]:
        self.status.start()
        return self.status.update

    def __exit__(self, *_: object) -> None:
        self.status.stop()


def note_mended(read: Trace) -> None:
    """Rows of a trace that were left out or sorted go to stderr."""
    for dropped in read.dropped:
        notes().print(f"left out {dropped.count}: {dropped.reason} (first at {dropped.where})")
    if read.reordered:
        notes().print(f"sorted {read.reordered} rows that stood before an earlier one")
