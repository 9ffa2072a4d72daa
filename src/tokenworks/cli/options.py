"""Options that several verbs share: groups of them as dataclasses, which cyclopts flattens, and single ones.

A verb that words an option of a group in its own way overrides that field. What the options name is read here; what it
means is for the rooms below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

from cyclopts import Parameter

from tokenworks.cli.output import notes
from tokenworks.cli.progress import note_mended
from tokenworks.errors import SpecError
from tokenworks.specs.deployment import Deployment, RouterName
from tokenworks.specs.deployment_file import load_assumed, load_calibration_of, pick_deployment
from tokenworks.specs.edits import edited
from tokenworks.specs.load import load_workload
from tokenworks.specs.slo import RequestClass

if TYPE_CHECKING:
    from tokenworks.calibrate.measured import PointTable
    from tokenworks.simulation.source import Source
    from tokenworks.specs.trace import Trace

MOST_SEED = 2**64 - 1
MOST_CONTEXT = 10**9

OutputFormat = Literal["table", "json", "yaml"]

Output = Annotated[OutputFormat, Parameter(name=["-o", "--output"], help="table, json or yaml.")]
"""The option that every verb has."""

Switch = Annotated[bool, Parameter(negative=())]
"""An option that is on or not there; it has no `--no-` twin."""

MODEL = Parameter(help="Catalog id, path of a config.json, or id in the local Hugging Face cache.")
ON = Parameter(help="Machine, such as scalex40, 5xhgx-h100, 4xscalex40@xdr or my-box.yaml.")
MAX_MODEL_LEN = Parameter(
    help="Longest input + output of a request, where it is not the model's own limit: shorter, or longer as far as the "
    "publisher documents rope scaling (YaRN)."
)
ASSUME = Parameter(help="YAML file of numbers to use instead, `path: value` a line.")
CALIBRATION = Parameter(help="Calibration of the catalog, or a YAML file such as `calibrate` writes.")
FILE_CALIBRATION = Parameter(
    help="Calibration of the catalog, or a YAML file such as `calibrate` writes; serving, or the file's own."
)
DEPLOYMENTS = Parameter(help="YAML file of deployments, as `plan -o yaml` writes it.")


class Numbers(TypedDict):
    """What step times rest on: numbers of the machine that were assumed, and a calibration by name or path."""

    assume: Path | Mapping[str, str]
    calibration: str


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Deployed:
    """Which deployment of a file is simulated, and on which numbers.

    Parameters
    ----------
    router
        By default prefix_aware where requests share prefixes, else least_loaded.
    set_
        Edit the deployment, such as roles.0.max_sequences=64; may be repeated.
    pick
        Which deployment of the file, 1 is the best.
    assume
        YAML file of machine numbers to use instead, `path: value` a line.
    """

    router: RouterName | None = None
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative=())] = ()
    pick: int = 1
    max_model_len: Annotated[int | None, MAX_MODEL_LEN] = None
    assume: Path | None = None
    calibration: Annotated[str | None, FILE_CALIBRATION] = None

    def read(self, path: Path) -> Deployment:
        """The deployment that was picked, edited; as strict as the file itself."""
        deployment = edited(pick_deployment(path, self.pick), self.set_, str(path))
        if self.max_model_len is None:
            return deployment
        within(self.max_model_len, "--max-model-len", 2, MOST_CONTEXT)
        return deployment.model_copy(update={"max_model_len": self.max_model_len})

    def numbers(self, path: Path) -> Numbers:
        """As told, else what the file was planned with."""
        return {
            "assume": self.assume or load_assumed(path),
            "calibration": self.calibration or load_calibration_of(path),
        }


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PlayedOptions:
    """What is played: a trace of requests, or a workload of which requests are made.

    Parameters
    ----------
    trace
        File of requests: Mooncake, Azure, BurstGPT, ShareGPT, agent sessions, vllm bench serve ... (see `trace`).
    workload
        Workload of the catalog, or a YAML file, to make requests of.
    requests
        How many to make of a workload; by default 5000, or 20 for each that is in flight.
    limit
        Only the first so many requests of a trace.
    slo
        Such as ttft=2s,tpot=50ms or ttft.p50=1s; by default the workload's own.
    class_
        Priority (0 first, 7 last) and own SLO of a class, such as batch:priority=1,ttft=60s; may be repeated.
    seed
        Of made requests, and of a router that draws.
    strict
        Stop at the first broken or misplaced row of a trace.
    """

    trace: Path | None = None
    workload: str | None = None
    requests: int | None = None
    limit: int | None = None
    slo: str | None = None
    class_: Annotated[tuple[str, ...], Parameter(name="--class", negative=())] = ()
    seed: int = 0
    strict: Switch = False

    def source(self) -> Source:
        """The trace or the workload, read; what was wrong in a trace goes to stderr."""
        from tokenworks.simulation.source import Source

        self._check()
        told = tuple(map(RequestClass.parse, self.class_))
        if self.workload is not None:
            return Source(load_workload(self.workload), self.requests, self.seed, told)
        return Source(self._recorded(), self.limit, self.seed, told, str(self.trace))

    def _check(self) -> None:
        if (self.trace is None) == (self.workload is None):
            raise SpecError("give --trace FILE or --workload NAME, one of them")
        for name, misplaced in (("requests", self.trace), ("limit", self.workload)):
            if misplaced is not None and getattr(self, name) is not None:
                other = "limit" if name == "requests" else "requests"
                raise SpecError(f"has no --{name}", where=str(misplaced), hint=f"say --{other}")
        for name in ("requests", "limit"):
            at_least_one(getattr(self, name), f"--{name}")
        within(self.seed, "--seed", 0, MOST_SEED)

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

    data: Annotated[tuple[Path, ...], Parameter(negative=())]
    deployment: Path | None = None

    def table(self, limit: int | None = None) -> PointTable:
        """The points, the first `limit` of them; what had to be assumed of them goes to stderr."""
        from tokenworks.calibrate.own_results import measured_table

        found = measured_table(self.data, pick_deployment(self.deployment) if self.deployment else None, limit)
        if vague := found.of_one_length:
            notes().print(f"assumed: requests of one length, as no single ones are recorded: {', '.join(vague)}")
        return found


def at_least_one(value: int | None, where: str) -> None:
    """An option that counts something counts at least one."""
    if value is not None:
        within(value, where, 1, value)


def within(value: int, where: str, least: int, most: int) -> None:
    """An option lies between two bounds."""
    if not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most:,}"
        raise SpecError(f"{value} must be {bound}", where=where)
