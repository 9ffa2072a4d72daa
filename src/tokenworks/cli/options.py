"""Options that several commands share: groups of options as dataclasses, and single options.

cyclopts makes one option from each field of a dataclass. A command that needs another help text for an option overrides
the field. This module reads the options; the packages below `cli` use their values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

import tokenworks
from tokenworks.cli.command import command
from tokenworks.cli.output import notes
from tokenworks.cli.progress import note_mended
from tokenworks.errors import SpecError
from tokenworks.specs.deployment import RouterName
from tokenworks.specs.deployment_file import Deployed, pick_deployment
from tokenworks.specs.edits import edited
from tokenworks.specs.given import AREAS, SET, Area, Given, from_options, given, split
from tokenworks.specs.save import must_be_writable
from tokenworks.specs.slo import RequestClass

if TYPE_CHECKING:
    from tokenworks.calibrate.measured import PointTable
    from tokenworks.simulation.source import Source
    from tokenworks.specs.machine import Machine
    from tokenworks.specs.result import Plain
    from tokenworks.specs.trace import Trace

MOST_CONTEXT = 10**9

REQUESTS = Group("Requests", sort_key=1)
MACHINE = Group("Model and machine", sort_key=0)
POINTS = Group("Measurements", sort_key=1)
NUMBERS = Group("Calibration and other numbers", sort_key=2)
RESULT = Group("Result", sort_key=3)

OutputFormat = Literal["table", "json", "yaml"]

PageFormat = Literal["table", "json", "yaml", "html", "svg", "png"]
"""Formats of commands that also write a page."""

PAGE_FORMS = ("html", "svg", "png")
"""Formats that are written to the file of --out."""

PAGE_HELP = (
    "Format of the result. html is one page for a browser, svg and png are its main chart; they need --out, and the "
    "extra tokenworks[report]."
)

Output = Annotated[OutputFormat, Parameter(name=["-o", "--output"], help="Format of the result.", group=RESULT)]
"""The option that every command has."""

Switch = Annotated[bool, Parameter(negative=(), show_default=False)]
"""An option without a value: given or not given. It has no `--no-` form."""

MODEL = Parameter(
    help="Model: catalog id, path of a config.json, or id in the local Hugging Face cache.", group=MACHINE
)
ON = Parameter(help="Machine, such as scalex40, 5xhgx-h100, 4xscalex40@xdr, hgx-h200:2 or my-box.yaml.", group=MACHINE)
MAX_MODEL_LEN = Parameter(
    help="Longest input + output of a request [token]; by default the limit of the model. A higher value is allowed if "
    "the publisher documents rope scaling (YaRN) for it.",
    group=MACHINE,
)
MEMORY_FRACTION = Parameter(
    help="Share of the device memory that the engine takes, above 0 and at most 1: --gpu-memory-utilization of vLLM, "
    "--mem-fraction-static of SGLang; by default what the engine takes.",
    group=MACHINE,
)
CALIBRATION = Parameter(
    help="Utilisation of the devices: a calibration of the catalog (serving, datasheet), or a YAML file that "
    "`calibrate` wrote.",
    group=NUMBERS,
)
FILE_CALIBRATION = Parameter(
    help="Utilisation of the devices: a calibration of the catalog (serving, datasheet), or a YAML file that "
    "`calibrate` wrote; by default the calibration that the file was planned with, else serving.",
    group=NUMBERS,
)
DEVICES = Parameter(help="Use only N devices of the machine.", group=MACHINE)
DEPLOYMENTS = Parameter(help="YAML file of deployments, as `plan -o yaml` writes it.", group=MACHINE)


@Parameter(name="*", group=NUMBERS)
@dataclass(frozen=True, kw_only=True)
class NumberOptions:
    """Numbers that replace numbers of the catalog for one run. Results list them as assumed.

    Parameters
    ----------
    assume
        YAML file of numbers that replace numbers of the catalog, one `path: value` per line. A path without machine.,
        engine., calibration. or workload. in front is a number of the machine, such as scale_up.hop.
    set_
        Replace one number, such as machine.scale_up.hop=0.3us, engine.host_step=1ms, calibration.skew=0.3 or
        workload.isl=5000. May be repeated.
    """

    assume: Path | None = None
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)] = ()

    def given(self, *areas: Area) -> tuple[Given, ...] | None:
        """The numbers of --assume and --set; None if there are none.

        Parameters
        ----------
        areas : areas that the command reads numbers of; all areas if none is named

        Raises
        ------
        SpecError : a path belongs to a deployment, or to an area that the command does not read
        """
        bare, numbers = split(from_options(self.set_))
        known = areas or AREAS
        if bare:
            first, names = bare[0], " or ".join(f"{area}." for area in known)
            hint = f"this command reads no deployment: begin the path with {names}, as in {known[0]}.{first.path}"
            raise SpecError("no such path", where=first.where, hint=hint)
        every = (*given(self.assume), *numbers)
        _must_be_of(every, known)
        return every or None


@Parameter(name="*", group=NUMBERS)
@dataclass(frozen=True, kw_only=True)
class ChangeOptions(NumberOptions):
    """Changes of a deployment, and numbers that replace numbers of the catalog for one run.

    Parameters
    ----------
    set_
        Change one value of the deployment, such as roles.0.max_sequences=64 or tiers=hicache. With machine., engine.,
        calibration. or workload. in front, the path is a number of that area, such as machine.scale_up.hop=0.3us. May
        be repeated.
    """

    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)] = ()

    def given(self, *areas: Area) -> tuple[Given, ...] | None:
        """The numbers of --assume and --set, without the changes of the deployment; None if there are none."""
        _, numbers = split(from_options(self.set_))
        every = (*given(self.assume), *numbers)
        _must_be_of(every, areas or AREAS)
        return every or None

    def changed(self, deployed: Deployed) -> Deployed:
        """The deployment with the changes of --set."""
        changes, _ = split(from_options(self.set_))
        return dataclasses.replace(deployed, deployment=edited(deployed.deployment, changes))


@Parameter(name="*", group=NUMBERS)
@dataclass(frozen=True, kw_only=True)
class CalibrationNumbers(NumberOptions):
    """Numbers that replace numbers of the calibration for one run.

    Parameters
    ----------
    assume
        YAML file of numbers that replace numbers of the calibration, one `calibration.path: value` per line.
    set_
        Replace one number of the calibration, such as calibration.skew=0.3. May be repeated.
    """

    assume: Path | None = None
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)] = ()


def _must_be_of(numbers: tuple[Given, ...], areas: tuple[Area, ...]) -> None:
    for item in numbers:
        if item.area not in areas:
            hint = f"it reads numbers of {', '.join(areas)}"
            raise SpecError(f"this command reads no numbers of {item.area}", where=item.where, hint=hint)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DeployedOptions(NumberOptions):
    """The deployment that is simulated, and the numbers of the simulation.

    Parameters
    ----------
    router
        How requests find their instance and rank; by default the router of the file, else prefix_aware if requests
        share prefixes, else least_loaded.
    pick
        Number of the deployment in the file; 1 is the first one.
    set_
        Change one value of the deployment, such as roles.0.max_sequences=64. With machine., engine., calibration. or
        workload. in front, the path is a number of that area, such as machine.scale_up.hop=0.3us. May be repeated.
    """

    router: Annotated[RouterName | None, Parameter(group=MACHINE)] = None
    pick: Annotated[int, Parameter(group=MACHINE)] = 1
    max_model_len: Annotated[int | None, MAX_MODEL_LEN] = None
    calibration: Annotated[str | None, FILE_CALIBRATION] = None
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False, group=NUMBERS)] = ()

    def read(self, path: Path) -> Deployed:
        """The deployment that --pick names, with the changes and numbers of the user.

        Numbers of --assume replace the numbers that the file was planned with. Numbers of --set are added to both.
        """
        deployed = pick_deployment(path, self.pick)
        changes, numbers = split(from_options(self.set_))
        if self.max_model_len is not None:
            within(self.max_model_len, "--max-model-len", 2, MOST_CONTEXT)
            changes = (*changes, Given(path="max_model_len", value=str(self.max_model_len), why=SET))
        base = deployed.given if self.assume is None else given(self.assume)
        return dataclasses.replace(
            deployed,
            deployment=edited(deployed.deployment, changes, where=str(path)),
            given=(*base, *numbers),
            calibration=self.calibration or deployed.calibration,
        )


@Parameter(name="*", group=REQUESTS)
@dataclass(frozen=True, kw_only=True)
class PlayedOptions:
    """Requests of a simulation: read from a trace, or generated from a workload.

    Parameters
    ----------
    trace
        File of requests in any format that `tokenworks trace` shows: a trace, a benchmark result with single requests,
        or a file of --per-request.
    benchmark
        Number of the benchmark to play, in a trace file with several (GuideLLM, SGLang, vllm bench serve).
    workload
        Generate requests with the statistics of a workload of the catalog (agent, chat, code, reason, summarise), or of
        a YAML file; without --trace and --workload, of the workload that the plan was made for.
    requests
        Number of requests to generate; by default 5000, or 20 per user.
    limit
        Use only the first LIMIT requests of a trace.
    slo
        Bounds, such as ttft=2s,tpot=50ms (99th percentiles) or ttft.p50=1s; by default the SLO of the workload.
    class_
        Priority (0 is served first, 7 last) and SLO of one class, such as batch:priority=1,ttft=60s. May be repeated.
    seed
        Random seed of generated requests, of requests drawn from a ServeGen file, and of the router power_of_two.
    strict
        Stop at the first row of a trace that is broken or out of order.
    """

    trace: Path | None = None
    benchmark: int | None = None
    workload: str | None = None
    requests: int | None = None
    limit: int | None = None
    slo: str | None = None
    class_: Annotated[tuple[str, ...], Parameter(name="--class", negative=(), show_default=False)] = ()
    seed: int = 0
    strict: Switch = False

    def source(self, deployed: Deployed) -> Source:
        """The trace or the workload; without both, the workload of the plan that the deployment comes from.

        Notes about broken rows of a trace, and assumptions of its reader, go to stderr.

        Parameters
        ----------
        deployed : the deployment; the method uses its workload, and numbers of the user about the workload
        """
        from tokenworks.simulation.source import Source

        if self.benchmark is not None and self.trace is None:
            raise SpecError("chooses from a trace file", where="--benchmark", hint="give --trace FILE")
        trace = self._recorded() if self.trace is not None else None
        of_plan = deployed.workload if trace is None else None
        return Source.read(
            trace, of_plan if self.workload is None else self.workload, requests=self.requests, limit=self.limit,
            seed=self.seed, classes=tuple(map(RequestClass.parse, self.class_)),
            file=str(self.trace) if trace else None, assume=deployed.given,
        )  # fmt: skip

    def _recorded(self) -> Trace:
        from tokenworks import ingest

        assert self.trace is not None
        read = ingest.load_trace(self.trace, strict=self.strict, benchmark=self.benchmark, seed=self.seed)
        note_mended(read)
        for note in read.notes:
            notes().paragraph(f"trace: {note}")
        return read


@Parameter(name="*", group=POINTS)
@dataclass(frozen=True, kw_only=True)
class PointOptions:
    """Measured points: CSV tables, or benchmark results of the user.

    Parameters
    ----------
    data
        CSV of measured points, one per row; a result of InferenceX; or, together with --deployment, a result of vllm
        bench serve, SGLang bench_serving, AIPerf (profile_export_aiperf.json or profile_export.jsonl) or GuideLLM. May
        be repeated.
    deployment
        YAML file of the deployment that was measured; needed for results of all clients except InferenceX.
    benchmark
        Read only the benchmark with this number, from 1 on, of result files with several.
    load
        Load of results that do not record it: concurrency=16, rate=2.5 (Poisson, requests per second) or burst.
    """

    data: Annotated[tuple[Path, ...], Parameter(negative=(), show_default=False)]
    deployment: Path | None = None
    benchmark: int | None = None
    load: str | None = None

    def table(self, limit: int | None = None) -> PointTable:
        """The first `limit` points, or all points. Notes about assumptions go to stderr."""
        from tokenworks.calibrate.own_results import measured_table

        deployment = pick_deployment(self.deployment).deployment if self.deployment else None
        points = measured_table(self.data, deployment, limit, benchmark=self.benchmark, load=self.load)
        for note in points.notes:
            notes().paragraph(note)
        if points.of_one_length:
            names = ", ".join(points.of_one_length)
            notes().paragraph(
                f"assumed: all requests have the mean length, because these files record no requests: {names}"
            )
        return points


@Parameter(name="*", group=RESULT)
@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """The file of a page.

    Parameters
    ----------
    out
        File that -o html, svg or png writes.
    lang
        Language of the page: English or Chinese.
    """

    out: Path | None = None
    lang: Literal["en", "zh"] = "en"

    def check(self, output: PageFormat) -> None:
        """Check the file before a long computation.

        Parameters
        ----------
        output : format of the result

        Raises
        ------
        SpecError : the format needs a file and there is none; the format needs no file; the file cannot be written; or
            a library is missing
        """
        if output not in PAGE_FORMS:
            if self.out is not None:
                hint = f"write -o html --out {self.out}, or send -o {output} to a file with > {self.out}"
                raise SpecError(f"is a file for -o {', '.join(PAGE_FORMS)}", where="--out", hint=hint)
            return
        if self.out is None:
            hint = f"name a file, such as --out page.{output}"
            raise SpecError("needs --out", where=f"-o {output}", hint=hint)
        from tokenworks.report.scripts import must_be_installed

        must_be_installed(f"-o {output}")
        must_be_writable(self.out)

    def write(self, output: Literal["html", "svg", "png"], plain: Plain, machines: Iterable[Machine]) -> None:
        """Write the page of a result, after `check`.

        Parameters
        ----------
        output : format of the result
        plain : the result as plain data
        machines : the machines of the result
        """
        from tokenworks.report.page import write

        assert self.out is not None, "check() was not called"
        write(
            self.out, output, plain, machines={machine.name: machine for machine in machines}, command=command(),
            lang=self.lang, version=tokenworks.__version__,
        )  # fmt: skip
        notes().paragraph(f"wrote {self.out}, {self.out.stat().st_size / 1e3:,.0f} kB")


def at_least_one(value: int | None, where: str) -> None:
    """Refuse a number below 1."""
    if value is not None:
        within(value, where, 1, value)


def within(value: int, where: str, least: int, most: int) -> None:
    """Refuse a number outside its bounds."""
    if not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most:,}"
        raise SpecError(f"{value} must be {bound}", where=where)
