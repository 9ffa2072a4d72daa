"""Measured serving points: the CSV that `validate` and `calibrate` read, one point per row.

A file of another form, or a cell that is not a number, is an error. A row without data that a prediction needs becomes
a point that lists the missing data, so that all other rows can still be used.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from tokenworks.errors import SpecError
from tokenworks.specs import load
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.engine import find_engine
from tokenworks.specs.files import opened, unreadable
from tokenworks.specs.trace import MAX_TOKENS

Mode = Literal["agg", "disagg", "prefill_only", "decode_only"]
LoadKind = Literal["closed", "burst", "poisson", "constant", "offline", "batch_per_device", "tokens_per_device"]
Counted = Literal["total", "output", "input"]

NEEDED = ("point_id", "model", "weights", "device", "engine", "mode", "load", "n_devices", "isl_mean", "osl_mean")
"""Required columns."""

WIDTHS = ("devices", "tp", "dp", "pp", "ep")
PREFIXES: dict[str, str] = {"aggregated": "", "prefill": "prefill_", "decode": "decode_"}
MEASURED = (
    "tpot_ms_median", "tpot_ms_mean", "itl_ms_mean", "interactivity_tok_s_user", "ttft_ms_median", "ttft_ms_mean",
    "total_tok_s_per_gpu", "output_tok_s_per_gpu", "input_tok_s_per_gpu", "joules_per_output_token",
    "speed_total_tok_s",
)  # fmt: skip
OPTIONAL = ("source_group", "spec_decode", "concurrency", "request_rate", "n_requests", "isl", "osl", "note")
COUNTS = ("n_devices", *WIDTHS, *(f"{role}_{name}" for role in ("prefill", "decode") for name in (*WIDTHS, "workers")))
"""Columns with numbers of devices, or of groups of devices [count]."""
KNOWN = {*NEEDED, *OPTIONAL, *MEASURED, *COUNTS}

MOST_DEVICES = 100_000
MOST: dict[str, float] = {
    **dict.fromkeys(MEASURED, 1e12), **dict.fromkeys(COUNTS, MOST_DEVICES),
    **dict.fromkeys(("isl_mean", "osl_mean", "isl", "osl"), MAX_TOKENS),
    "concurrency": 1_000_000, "request_rate": 1_000_000, "n_requests": 1_000_000_000,
}  # fmt: skip
"""Largest allowed number of each column. Larger numbers are typing errors: no machine or benchmark comes near them."""

MAX_BYTES = 256_000_000
"""Largest size of a file: more than a million rows [byte]."""

DIES = 2
"""Dies of a device that some sources count as devices: Ascend 910C and TPU v7x have two [count]."""

UNKNOWN_SPLIT = "the split is not known"
"""Why a row without parallel widths is not predicted. A guessed split would measure the guess."""

EMPTY = ("", "nan", "none", "null", "na", "n/a", "-")
"""Texts that stand for a missing number."""


@dataclass(frozen=True, slots=True)
class Worker:
    """Equal instances of one role.

    Parameters
    ----------
    role : what the instances do
    devices : devices of one instance [count]
    tp, dp, pp, ep : parallel widths of one instance
    count : number of instances
    stated : whether the row states the split; without a split, the point lacks data and is not predicted
    """

    role: Literal["aggregated", "prefill", "decode"]
    devices: int
    tp: int
    dp: int
    pp: int
    ep: int
    count: int = 1
    stated: bool = True


@dataclass(frozen=True, slots=True)
class Measured:
    """Measured results of a point; None for a result that was not recorded.

    Parameters
    ----------
    tpot, ttft : time per output token, time to first token [s]
    rate : throughput of the `counted` tokens [token/s per device]
    counted : tokens in `rate`: input and output (`total`), output, or input
    energy : energy per output token [J]
    tpot_mean, ttft_mean : whether the value is a mean over requests instead of a median
    """

    tpot: float | None = None
    ttft: float | None = None
    rate: float | None = None
    counted: Counted = "total"
    energy: float | None = None
    tpot_mean: bool = False
    ttft_mean: bool = False


STARVED = 0.5
"""Disaggregated points with a measured throughput / Little's law below this number are starved: their devices wait for
something that is not modelled [-]."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measured point: model, device, engine, load, and measured results.

    Parameters
    ----------
    line : line of the row in its file
    id, group : name of the point, and of the group that it belongs to
    model, weights : name of the model, dtype of its weights
    device, devices : name of the device, number of devices [count]
    engine : name of the serving engine
    mode : aggregated, disaggregated, or only one of the two phases
    drafts : draft tokens per step, 0 = no MTP [token]
    workers : the instances and their split
    load : kind of the load
    concurrency : requests in flight; or per device: sequences, or tokens, if `load` says so [count]
    rate : request rate [1/s]
    requests : number of requests, 0 if not stated [count]
    isl, osl : mean input and output length as sent [token]
    nominal_isl : input length as the benchmark names it [token]
    measured : measured results
    variation : std / mean of input and of output lengths; None if unknown [-]
    sent_s : times at which the client sent the requests; empty: only the kind of the load is known [s]
    deployment : the complete deployment, if it is known; else only `workers`
    little_ratio : measured throughput / Little's law without TTFT, if the row has it [-]
    lacks : data that a prediction needs and the row does not have
    assumed : what the row does not state, and the values used instead
    """

    line: int
    id: str
    group: str
    model: str
    weights: str
    device: str
    devices: int
    engine: str
    mode: Mode
    drafts: int
    workers: tuple[Worker, ...]
    load: LoadKind
    concurrency: float
    rate: float
    requests: int
    isl: float
    osl: float
    nominal_isl: float
    measured: Measured
    variation: tuple[float, float] | None = None
    sent_s: tuple[float, ...] = ()
    deployment: Deployment | None = None
    little_ratio: float | None = None
    lacks: str = ""
    assumed: tuple[str, ...] = ()

    @property
    def mtp(self) -> str:
        """`mtp` with draft tokens, else `none`."""
        return "mtp" if self.drafts else "none"

    @property
    def starved(self) -> bool:
        """Whether the devices waited for something that is not modelled, see `STARVED`."""
        return self.little_ratio is not None and self.little_ratio < STARVED

    @property
    def experiment(self) -> bool:
        """Whether the authors of its group call the point an experiment. Such a point is predicted, and not fitted."""
        return "experimental" in self.group

    @property
    def steady(self) -> bool:
        """Whether constants are fitted on the point: a closed loop that is not starved, and no experiment."""
        return self.load == "closed" and not self.starved and not self.experiment

    @property
    def split(self) -> tuple[tuple[str, int, int, int, int, int], ...]:
        """Role, number, devices, tp, dp and ep of the instances: points of one split differ by load alone."""
        return tuple((one.role, one.count, one.devices, one.tp, one.dp, one.ep) for one in self.workers)


@dataclass(frozen=True, slots=True)
class PointTable:
    """Points of one or several files.

    Parameters
    ----------
    paths : the files
    points : their points
    ignored : columns that are not read
    notes : what users must know about benchmark results: failed requests, and runs that were left out
    of_results : True if all points are results of benchmark clients, and none is a row of a CSV
    """

    paths: tuple[str, ...]
    points: tuple[Point, ...]
    ignored: tuple[str, ...]
    notes: tuple[str, ...] = ()
    of_results: bool = False

    @property
    def of_one_length(self) -> list[str]:
        """Names of a user's points whose requests count as equally long, because their file has no single requests."""
        own = (point for point in self.points if point.deployment and not point.variation)
        return [point.id for point in own if point.nominal_isl <= point.isl]


def csv_text(path: Path, hint: str) -> str:
    """The text of a CSV of measured rows.

    Parameters
    ----------
    path : the file
    hint : what the file should be, for the message

    Raises
    ------
    SpecError : the file cannot be read, is too large, or is not text
    """
    try:
        with opened(path) as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8-sig")
    except OSError as error:
        raise unreadable(error, path) from None
    except UnicodeDecodeError:
        raise SpecError("is not text in UTF-8", where=str(path), hint=hint) from None
    if len(text) > MAX_BYTES:
        raise SpecError(f"is over {MAX_BYTES / 1e6:.0f} MB", where=str(path), hint=hint)
    return text


def read_points(path: Path, limit: int | None = None) -> PointTable:
    """Read a CSV of measured points.

    Parameters
    ----------
    path : the file
    limit : read only this many rows; None for all

    Raises
    ------
    SpecError : the file cannot be read, is not a CSV, lacks a column, or has a cell that is not a number
    """
    rows = csv.reader(io.StringIO(csv_text(path, "give a CSV of measured points")), strict=True)
    points: list[Point] = []
    try:
        header = next(rows, None)
        _check_header(path, header)
        assert header is not None
        for cells in rows:
            if not cells:
                continue
            if limit is not None and len(points) >= limit:
                break
            points.append(_Row(path, rows.line_num, header, cells).point())
    except csv.Error as error:
        raise SpecError(f"is no CSV: {error}", where=f"{path}:{rows.line_num}") from None
    if not points:
        raise SpecError("has no rows", where=str(path), hint="give a CSV of measured points, one a row")
    return PointTable((str(path),), tuple(points), tuple(name for name in header if name not in KNOWN))


def point_of_cells(where: str, line: int, cells: dict[str, str]) -> Point:
    """A point from the columns of one row.

    Parameters
    ----------
    where : the file, for messages
    line : line in the file
    cells : text of each column

    Raises
    ------
    SpecError : a cell that is not a number
    """
    return _Row(Path(where), line, list(cells), list(cells.values())).point()


def _check_header(path: Path, header: list[str] | None) -> None:
    missing = [name for name in NEEDED if name not in (header or ())]
    if missing:
        raise SpecError(f"has no column {', '.join(missing)}", where=f"{path}:1", hint="its first line names columns")
    assert header is not None
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise SpecError(f"names column {', '.join(sorted(twice))} twice", where=f"{path}:1")


class _Row:
    """One row of the file: reads and checks its cells."""

    def __init__(self, path: Path, line: int, header: list[str], cells: list[str]) -> None:
        self.where = f"{path}:{line}"
        if len(cells) != len(header):
            raise SpecError(f"{len(cells)} cells, the header has {len(header)}", where=self.where)
        self.line, self.cells = line, dict(zip(header, map(str.strip, cells), strict=True))
        self.lacks: list[str] = []
        self.assumed: list[str] = []

    def error(self, column: str, right: str) -> SpecError:
        return SpecError(f"{column}: {self.cells.get(column, '')!r}", where=self.where, hint=right)

    def word(self, column: str, known: tuple[str, ...] = ()) -> str:
        """The word in a column; `known` lists the allowed words, () allows all."""
        text = self.cells[column]
        if not text:
            self.lacks.append(f"{column} is empty")
        elif known and text not in known:
            self.lacks.append(f"{column} {text!r}: want one of {', '.join(known)}")
        return text

    def number(self, column: str) -> float | None:
        """The number in a column; None if the cell is empty, missing or zero, because no column can be zero."""
        text = self.cells.get(column, "")
        if text.lower() in EMPTY:
            return None
        try:
            value = float(text)
        except ValueError:
            raise self.error(column, "want a number, or nothing") from None
        if not math.isfinite(value) or value < 0:
            raise self.error(column, "want a finite number above zero, or nothing")
        if value > MOST[column]:
            raise self.error(column, f"want a number of at most {MOST[column]:,.0f}")
        return value or None

    def need(self, *columns: str, why: str = "") -> float:
        """The number in the first of the columns that has one. Without any: 1, and the row lacks data."""
        for column in columns:
            if value := self.number(column):
                return value
        self.lacks.append(f"{columns[0]} is empty{why}")
        return 1.0

    def count(self, column: str) -> int | None:
        """The whole number in a column; None if the cell is empty, missing or zero."""
        value = self.number(column)
        if value is not None and value != round(value):
            raise self.error(column, "want a whole number")
        return None if value is None else int(value)

    def point(self) -> Point:
        mode, kind = self.word("mode", get_args(Mode)), self.word("load", get_args(LoadKind))
        devices = self.count("n_devices") or int(self.need("n_devices"))
        workers = self._workers(mode, devices)
        noted = re.search(r"little_ratio=([0-9]+\.?[0-9]*)", self.cells.get("note", ""))
        isl, device = self.need("isl_mean", "isl"), self.word("device")
        point = Point(
            line=self.line,
            id=self.word("point_id"),
            group=self.cells.get("source_group", ""),
            model=self.word("model"),
            weights=self.word("weights"),
            device=load.find_device(device) or device.lower().replace("_", "-"),
            devices=devices,
            engine=self.word("engine"),
            mode=mode,  # type: ignore[arg-type]
            drafts=self._drafts(workers[-1], device, disaggregated=mode == "disagg"),
            workers=workers,
            load=kind,  # type: ignore[arg-type]
            concurrency=self._loaded(kind, "concurrency", ("closed", "batch_per_device", "tokens_per_device")),
            rate=self._loaded(kind, "request_rate", ("poisson", "constant")),
            requests=int(self._loaded(kind, "n_requests", ("burst",))),
            isl=isl,
            osl=self.need("osl_mean", "osl"),
            nominal_isl=self.number("isl") or isl,
            measured=self._measured(kind, devices),
            little_ratio=float(noted[1]) if noted else None,
        )
        return replace(point, lacks="; ".join(self.lacks), assumed=tuple(self.assumed))

    def _loaded(self, kind: str, column: str, where: tuple[str, ...]) -> float:
        return self.need(column, why=f" where load is {kind}") if kind in where else self.number(column) or 0.0

    def _drafts(self, worker: Worker, device: str, *, disaggregated: bool) -> int:
        """Draft tokens from `spec_decode`: `none`, a method with or without a number, or flags with num-steps."""
        text = self.cells.get("spec_decode", "").lower()
        if text in ("", "none", "no", "off", "false"):
            return 0
        stated = re.fullmatch(r"mtp-?([1-8])", text) or re.search(r"num-steps[ =]([1-8])", text)
        if stated:
            return int(stated[1])
        family = load.family_of(device)
        engine, model = find_engine(self.cells["engine"]), self.cells["model"]
        sequences = (self.number("concurrency") or 1.0) / (worker.count * worker.dp)
        drafts = engine.recipe_drafts(model, family, sequences, dp=worker.dp > 1, disaggregated=disaggregated)
        self.assumed.append(f"draft tokens of {text}: {drafts}")
        return drafts

    def _workers(self, mode: str, devices: int) -> tuple[Worker, ...]:
        if mode == "disagg":
            return (self._worker("prefill", 0), self._worker("decode", 0))
        role: Literal["aggregated", "prefill", "decode"]
        role = "prefill" if mode == "prefill_only" else "decode" if mode == "decode_only" else "aggregated"
        return (self._worker(role, devices, ""),)

    def _worker(
        self, role: Literal["aggregated", "prefill", "decode"], total: int, prefix: str | None = None
    ) -> Worker:
        prefix = PREFIXES[role] if prefix is None else prefix
        devices, tp, dp, pp, ep = (self.count(f"{prefix}{name}") for name in WIDTHS)
        if not devices and tp:
            devices = tp * (dp or 1) * (pp or 1)
        devices = devices or total or int(self.need(f"{prefix}devices", why=" where mode is disagg"))
        count = self.count(f"{prefix}workers") or max(1, total // devices)
        split = (tp or dp or pp or 0) and (tp or 1) * (dp or 1) * (pp or 1)
        if split and split < devices and devices % split == 0:  # several instances
            devices, count = split, count * devices // split
        if devices * count > MOST_DEVICES:
            raise self.error(
                f"{prefix}workers" if prefix else "n_devices", f"want at most {MOST_DEVICES:,} devices in all"
            )
        widths = tp or 1, dp or 1, pp or 1
        if split == DIES * devices:
            widths = self._on_devices(prefix, devices, *widths)
        elif split != devices and devices > 1:
            self.lacks.append(f"{UNKNOWN_SPLIT}: {self._widths_of(prefix, devices, tp, dp, pp)}")
            return Worker(role, devices, devices, 1, 1, ep or 1, count, stated=False)
        return Worker(role, devices, *widths, ep or 1, count)

    def _widths_of(self, prefix: str, devices: int, *widths: int | None) -> str:
        """The widths of a row that do not make a split of its devices, for a message."""
        stated = [f"{prefix}{name} {width}" for name, width in zip(("tp", "dp", "pp"), widths, strict=True) if width]
        empty = f"{prefix}tp, {prefix}dp and {prefix}pp are empty"
        return f"{devices} devices, and {' x '.join(stated) or empty}"

    def _on_devices(self, prefix: str, devices: int, tp: int, dp: int, pp: int) -> tuple[int, int, int]:
        """The widths of a row that counts dies as devices, on whole devices: half of dp, or else half of tp."""
        widths = (tp, dp // DIES, pp) if dp % DIES == 0 else (tp // DIES, dp, pp)
        if math.prod(widths) == devices:
            self.assumed.append(
                f"{prefix}tp{tp} dp{dp} on {devices} devices of {DIES} dies as tp{widths[0]} dp{widths[1]}"
            )
            return widths
        self.lacks.append(f"{UNKNOWN_SPLIT}: {self._widths_of(prefix, devices, tp, dp, pp)}")
        return devices, 1, 1

    def _measured(self, kind: str, devices: int) -> Measured:
        tpot, tpot_mean = self.number("tpot_ms_median"), False
        if tpot is None:
            tpot, tpot_mean = self.number("tpot_ms_mean"), True
        if tpot is None and (user := self.number("interactivity_tok_s_user")):
            tpot = 1e3 / user
        ttft, ttft_mean = self.number("ttft_ms_median"), False
        if ttft is None:
            ttft, ttft_mean = self.number("ttft_ms_mean"), True
        rate, counted = self._rate(kind, devices)
        return Measured(
            tpot=None if tpot is None else 1e-3 * tpot,
            ttft=None if ttft is None else 1e-3 * ttft,
            rate=rate,
            counted=counted,
            energy=self.number("joules_per_output_token"),
            tpot_mean=tpot_mean,
            ttft_mean=ttft_mean,
        )

    def _rate(self, kind: str, devices: int) -> tuple[float | None, Counted]:
        """Throughput per device, and the tokens that it counts.

        `speed_total_tok_s` is the speed of a single request: its input and output tokens / its time, on all devices.
        """
        total, output, given = (self.number(f"{name}_tok_s_per_gpu") for name in ("total", "output", "input"))
        speed = self.number("speed_total_tok_s")
        if total is not None:
            return total, "total"
        if output is not None and given is not None:
            return output + given, "total"
        if speed is not None and output is None and given is None:
            if kind != "closed" or self.number("concurrency") != 1:
                self.lacks.append("speed_total_tok_s is a speed at batch 1: load must be closed, and concurrency 1")
            return speed / devices, "total"
        return (output, "output") if output is not None else (given, "input")
