"""Options that several verbs share: groups of options as dataclasses, which cyclopts flattens, and single options.

A verb that words an option of a group in its own way overrides the field of that option. The options are read here; the
rooms below give them a meaning.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from tokenworks.cli.output import notes
from tokenworks.cli.progress import note_mended
from tokenworks.errors import SpecError
from tokenworks.specs.deployment import RouterName
from tokenworks.specs.deployment_file import Deployed, pick_deployment
from tokenworks.specs.edits import edited
from tokenworks.specs.given import AREAS, SET, Area, Given, from_options, given, split
from tokenworks.specs.slo import RequestClass

if TYPE_CHECKING:
    from tokenworks.calibrate.measured import PointTable
    from tokenworks.simulation.source import Source
    from tokenworks.specs.trace import Trace

MOST_CONTEXT = 10**9

REQUESTS = Group("Requests", sort_key=1)
MACHINE = Group("Model and machine", sort_key=0)
NUMBERS = Group("Numbers to rest on", sort_key=2)
RESULT = Group("Result", sort_key=3)

OutputFormat = Literal["table", "json", "yaml"]

Output = Annotated[OutputFormat, Parameter(name=["-o", "--output"], help="table, json or yaml.", group=RESULT)]
"""The option that every verb has."""

Switch = Annotated[bool, Parameter(negative=(), show_default=False)]
"""An option that is on or not there; it has no `--no-` twin."""

MODEL = Parameter(help="Catalog id, path of a config.json, or id in the local Hugging Face cache.", group=MACHINE)
ON = Parameter(help="Machine, such as scalex40, 5xhgx-h100, 4xscalex40@xdr, hgx-h200:2 or my-box.yaml.", group=MACHINE)
MAX_MODEL_LEN = Parameter(
    help="Longest input + output of a request, where it is not the model's own limit: shorter, or longer as far as the "
    "publisher documents rope scaling (YaRN).",
    group=MACHINE,
)
CALIBRATION = Parameter(
    help="What devices reach of their data sheet: a name of the catalog, or a YAML file such as `calibrate` writes.",
    group=NUMBERS,
)
FILE_CALIBRATION = Parameter(
    help="What devices reach of their data sheet: a name of the catalog, or a YAML file such as `calibrate` writes; by "
    "default the one that the file was planned with, or serving.",
    group=NUMBERS,
)
DEVICES = Parameter(help="Use only N devices of the machine.", group=MACHINE)
DEPLOYMENTS = Parameter(help="YAML file of deployments, as `plan -o yaml` writes it.")


@Parameter(name="*", group=NUMBERS)
@dataclass(frozen=True, kw_only=True)
class NumberOptions:
    """Numbers in place of those of the catalog, for one run; outputs name them as assumed.

    Parameters
    ----------
    assume
        YAML file of numbers of the machine to use instead, `path: value` a line.
    set_
        Change one number, such as machine.scale_up.hop=0.3us, engine.host_step=1ms, calibration.skew=0.3 or
        workload.isl=5000; may be repeated.
    """

    assume: Path | None = None
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)] = ()

    def given(self, *areas: Area) -> tuple[Given, ...] | None:
        """The numbers; None where there are none.

        Parameters
        ----------
        areas : what the command has numbers of; all where none is named

        Raises
        ------
        SpecError : a path of a deployment, or of another area
        """
        bare, numbers = split(from_options(self.set_))
        known = areas or AREAS
        if bare:
            first, names = bare[0], ", ".join(f"{area}." for area in known)
            hint = f"no deployment is read here; write one of {names} in front, as in {known[0]}.{first.path}"
            raise SpecError("no such value", where=first.where, hint=hint)
        every = (*given(self.assume), *numbers)
        _must_be_of(every, known)
        return every or None


def _must_be_of(numbers: tuple[Given, ...], areas: tuple[Area, ...]) -> None:
    for item in numbers:
        if item.area not in areas:
            hint = f"this command has numbers of {', '.join(areas)}"
            raise SpecError(f"this command reads no {item.area}", where=item.where, hint=hint)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DeployedOptions(NumberOptions):
    """Which deployment of a file is simulated, and on which numbers.

    Parameters
    ----------
    router
        How requests find their rank; by default prefix_aware where requests share prefixes, else least_loaded.
    pick
        Which deployment of the file; 1 is the best.
    set_
        Change one value of the deployment, such as roles.0.max_sequences=64, or a number behind machine., engine.,
        calibration. or workload.; may be repeated.
    """

    router: RouterName | None = None
    pick: int = 1
    max_model_len: Annotated[int | None, MAX_MODEL_LEN] = None
    calibration: Annotated[str | None, FILE_CALIBRATION] = None
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False, group=NUMBERS)] = ()

    def read(self, path: Path) -> Deployed:
        """The deployment that was picked, with the changes and numbers of the user.

        Numbers of --assume take the place of those that the file was planned with; numbers of --set come on top.
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
    """Requests that are played: those of a trace, or requests that are made with the statistics of a workload.

    Parameters
    ----------
    trace
        File of requests: Mooncake, Azure, BurstGPT, ShareGPT, agent sessions, vllm bench serve ... (see `trace`).
    workload
        Workload whose statistics made requests have: a name of the catalog (agent, chat, code, reason, summarise) or a
        YAML file.
    requests
        Requests to make of a workload; by default 5000, or 20 for each user.
    limit
        First requests of a trace to play.
    slo
        Bounds at the 99th percentile, such as ttft=2s,tpot=50ms, or at another one, such as ttft.p50=1s; by default the
        SLO of the workload.
    class_
        Priority (0 first, 7 last) and own SLO of a class, such as batch:priority=1,ttft=60s; may be repeated.
    seed
        Seed of made requests, and of the router power_of_two.
    strict
        Stop at the first broken or misplaced row of a trace.
    """

    trace: Path | None = None
    workload: str | None = None
    requests: int | None = None
    limit: int | None = None
    slo: str | None = None
    class_: Annotated[tuple[str, ...], Parameter(name="--class", negative=(), show_default=False)] = ()
    seed: int = 0
    strict: Switch = False

    def source(self, numbers: tuple[Given, ...] = ()) -> Source:
        """The trace or the workload; what was wrong in a trace goes to stderr.

        Parameters
        ----------
        numbers : of which those of the workload are put in place
        """
        from tokenworks.simulation.source import Source

        trace = self._recorded() if self.trace is not None else None
        return Source.read(
            trace, self.workload, requests=self.requests, limit=self.limit, seed=self.seed,
            classes=tuple(map(RequestClass.parse, self.class_)), file=str(self.trace) if trace else None,
            assume=numbers,
        )  # fmt: skip

    def _recorded(self) -> Trace:
        from tokenworks import ingest

        assert self.trace is not None
        read = ingest.load_trace(self.trace, strict=self.strict)
        note_mended(read)
        return read


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PointOptions:
    """Measured points: tables of them, or a user's own benchmark results.

    Parameters
    ----------
    data
        CSV of measured points, one a row; or with --deployment a JSON result of vllm bench serve, AIPerf or GuideLLM;
        may be repeated.
    deployment
        YAML file of the deployment that the JSON results were measured on.
    """

    data: Annotated[tuple[Path, ...], Parameter(negative=(), show_default=False)]
    deployment: Path | None = None

    def table(self, limit: int | None = None) -> PointTable:
        """The points, the first `limit` of them; what had to be assumed of them goes to stderr."""
        from tokenworks.calibrate.own_results import measured_table

        deployment = pick_deployment(self.deployment).deployment if self.deployment else None
        points = measured_table(self.data, deployment, limit)
        if vague := points.of_one_length:
            names = ", ".join(vague)
            notes().print(f"assumed: all requests have the mean length, since no single request is recorded: {names}")
        return points


def at_least_one(value: int | None, where: str) -> None:
    """An option that counts something counts at least one."""
    if value is not None:
        within(value, where, 1, value)


def within(value: int, where: str, least: int, most: int) -> None:
    """An option lies between two bounds."""
    if not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most:,}"
        raise SpecError(f"{value} must be {bound}", where=where)
