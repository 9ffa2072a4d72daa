"""Measured training runs: the CSV files that `validate` and `calibrate` read.

Two forms are read. The first line tells them apart:

- the long form: several rows for one run, each with one `metric` and its `value` (see `NEEDED`),
- the form of vTrain [1]: one iteration of a GPT model on A100 per row (see `VTRAIN`).

A file of another form, or a cell that is not a number, is an error. A run without data that a prediction needs lists
what is missing in `lacks`, so that all other runs can still be used.

References
----------
[1] VIA-Research/vTrain @f8dda84 (MIT): the settings of its runs are in config/validation/single, src/config.py and
    src/model/gpt_modeling.py.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenworks.calibrate.measured import EMPTY, MOST_DEVICES, csv_text
from tokenworks.errors import SpecError
from tokenworks.specs import load
from tokenworks.specs.files import opened
from tokenworks.specs.trace import MAX_TOKENS

NEEDED = ("point_id", "model", "hardware", "n_devices", "parallelism", "isl", "concurrency_or_batch", "metric", "value")
"""Required columns of the long form."""

OPTIONAL = ("weights_dtype", "engine", "engine_version", "source_group", "source", "note", "model_params_note")
"""Columns of the long form that may be missing."""

SAME = ("model", "hardware", "n_devices", "parallelism", "isl", "concurrency_or_batch", "weights_dtype", "engine")
"""Columns that must be equal in all rows of one run."""

VTRAIN = (
    "GPUs", "global batch", "micro batch", "hidden size", "attention heads", "# layers", "sequence length",
    "tensor parallelism", "data parallelism", "pipeline parallelism", "iteration time (ms)",
)  # fmt: skip
"""Columns of the form of vTrain, without the `#` in front of the first one."""

METRICS = {
    "train_tok_s_per_gpu": "tok_s_per_device", "train_step_ms": "step_s", "train_model_tflops_per_gpu": "tflops",
    "mfu_pct_bf16": "mfu",
}  # fmt: skip
"""Metric of the long form -> field of `TrainingMeasured`."""

SCALES = {"tok_s_per_device": 1.0, "step_s": 1e-3, "tflops": 1e12, "mfu": 1e-2}
"""Field of `TrainingMeasured` -> SI units of one unit in the file."""

MOST_VALUE = 1e9
WIDTHS = {"vp": "vpp"}
"""Word of the column `parallelism` -> key of a training deployment, where they differ."""

GIB = 2**20
"""Tokens of `M` in "16M tokens/batch": 16 M tokens are 2,048 sequences of 8,192 tokens in table 4 of arXiv:2407.21783
[token]."""

UNSTATED = "the parallelism is not stated"
"""Why a run is predicted on the choice of the planner only."""

VOCABULARY = 50_257
"""Vocabulary of vTrain's GPT models, the default of src/config.py [1] [token]."""


@dataclass(frozen=True, slots=True)
class TrainingMeasured:
    """Measured results of a training run; None for a result that is not recorded.

    Parameters
    ----------
    tok_s_per_device : throughput [token/s per device]
    step_s : time of an optimiser step [s]
    tflops : model FLOP rate as the source counts it [FLOP/s per device]
    mfu : model FLOP rate / 16-bit peak, as the source counts it [-]
    """

    tok_s_per_device: float | None = None
    step_s: float | None = None
    tflops: float | None = None
    mfu: float | None = None


@dataclass(frozen=True)
class TrainingPoint:
    """One measured training run.

    Parameters
    ----------
    line : line of its first row in the file
    id, group : name of the run, and of the group that it belongs to
    model : name of the model as the file writes it
    config : what a config.json of the model would hold; empty: `model` names it
    hardware, devices : hardware as the file writes it, number of devices [count]
    framework, version : training framework and its version
    precision : dtype as the file writes it
    settings : settings of the run by key of a training deployment, such as tp, pp, vpp, fsdp
    batch, micro_batch : sequences of an optimiser step, and of one forward pass of a rank; 0: not stated [count]
    sequence : tokens of a sequence; 0: not stated [token]
    method : pretrain, sft or lora
    note : note of the file
    measured : measured results
    lacks : data that a prediction needs and the file does not have
    assumed : what the file does not state, and the values used instead
    """

    line: int
    id: str
    group: str
    model: str
    hardware: str
    devices: int
    framework: str
    version: str = ""
    precision: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 0
    micro_batch: int = 0
    sequence: int = 0
    method: str = "pretrain"
    note: str = ""
    measured: TrainingMeasured = TrainingMeasured()
    lacks: str = ""
    assumed: tuple[str, ...] = ()

    @property
    def device(self) -> str:
        """Catalog name of the device; the words of the file if the catalog has none."""
        known = load.find_device(self.hardware)
        if known:
            return known
        words = re.findall(r"[A-Za-z]+[0-9]+[A-Za-z]*", self.hardware)
        return next((device for word in reversed(words) if (device := load.find_device(word))), self.hardware)

    @property
    def planned(self) -> bool:
        """Whether the parallelism is not stated, so that only a planner can choose it."""
        return not self.settings


@dataclass(frozen=True, slots=True)
class TrainingTable:
    """Training runs of one or several files.

    Parameters
    ----------
    paths : the files
    points : their runs
    ignored : columns that are not read
    """

    paths: tuple[str, ...]
    points: tuple[TrainingPoint, ...]
    ignored: tuple[str, ...] = ()


def is_training(path: Path) -> bool:
    """Whether a file holds training runs. A file that cannot be read holds none: its reader gives the error.

    Parameters
    ----------
    path : the file
    """
    try:
        with opened(path) as file:
            first = file.readline(65536).decode("utf-8-sig")
    except (SpecError, OSError, UnicodeDecodeError):
        return False
    names = _header(next(csv.reader([first]), []))
    return names == VTRAIN or {"point_id", "metric", "value", "parallelism"} <= set(names)


def are_training(paths: Sequence[Path]) -> bool:
    """Whether files hold training runs.

    Parameters
    ----------
    paths : the files

    Raises
    ------
    SpecError : some files hold training runs, and others do not
    """
    kinds = [is_training(path) for path in paths]
    if any(kinds) and not all(kinds):
        other = paths[kinds.index(False)]
        raise SpecError("holds no training runs, as the other files do", where=str(other),
                        hint="give training runs and serving points in two commands")  # fmt: skip
    return any(kinds)


def read_training(paths: Sequence[Path], limit: int | None = None) -> TrainingTable:
    """Read CSV files of training runs.

    Parameters
    ----------
    paths : the files
    limit : read only this many runs of all files together; None for all

    Raises
    ------
    SpecError : a file cannot be read, has no form of training runs, or has a cell that is not valid
    """
    points: list[TrainingPoint] = []
    ignored: dict[str, None] = {}
    for path in paths:
        header, rows = _rows(path)
        if header == VTRAIN:
            points += [_iteration(row) for row in rows]
        else:
            known = {*NEEDED, *OPTIONAL, "id"}
            ignored |= dict.fromkeys(name for name in header if name not in known)
            points += _runs(list(rows))
    counts = Counter(one.id for one in points)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise SpecError(f"the run {twice[0]!r} is in two files", where=str(paths[-1]), hint="give each file once")
    return TrainingTable(tuple(map(str, paths)), tuple(points[:limit]), tuple(ignored))


def _header(names: Sequence[str]) -> tuple[str, ...]:
    stripped = [name.strip() for name in names]
    return (stripped[0].removeprefix("#").strip(), *stripped[1:]) if stripped else ()


def _rows(path: Path) -> tuple[tuple[str, ...], list[_Cells]]:
    """The names of the columns, and the rows of a file."""
    reader = csv.reader(io.StringIO(csv_text(path, "give a CSV of training runs")), strict=True)
    rows: list[_Cells] = []
    try:
        header = _header(next(reader, []))
        if header != VTRAIN:
            missing = [name for name in NEEDED if name not in header]
            if missing:
                hint = f"training runs need {', '.join(NEEDED)}"
                raise SpecError(f"has no column {', '.join(missing)}", where=f"{path}:1", hint=hint)
        for cells in reader:
            if cells:
                where = f"{path}:{reader.line_num}"
                if len(cells) != len(header):
                    raise SpecError(f"{len(cells)} cells, the header has {len(header)}", where=where)
                rows.append(_Cells(where, reader.line_num, dict(zip(header, map(str.strip, cells), strict=True))))
    except csv.Error as error:
        raise SpecError(f"is no CSV: {error}", where=f"{path}:{reader.line_num}") from None
    if not rows:
        raise SpecError("has no rows", where=str(path), hint="give a CSV of training runs")
    return header, rows


@dataclass(frozen=True, slots=True)
class _Cells:
    """One row of a file."""

    where: str
    line: int
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        """The text in a column; empty if the column is missing or says that it has no value."""
        text = self.cells.get(column, "")
        return "" if text.lower() in EMPTY else text

    def number(self, column: str, most: float) -> float | None:
        """The number above zero in a column; None if the cell is empty."""
        text = self.text(column)
        return None if not text else _number(text, f"{column}: {text!r}", self.where, most)

    def count(self, column: str, most: float) -> int:
        """The whole number in a column; 0 if the cell is empty."""
        value = self.number(column, most)
        if value is not None and value != round(value):
            raise SpecError(f"{column}: {self.text(column)!r}", where=self.where, hint="want a whole number")
        return int(value or 0)


def _number(text: str, what: str, where: str, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and 0 < value <= most):
        raise SpecError(what, where=where, hint=f"want a number above zero, at most {most:,.0f}")
    return value


# ── the long form ─────────────────────────────────────────────────────────────────────────────────────────────────


def _runs(rows: Sequence[_Cells]) -> Iterator[TrainingPoint]:
    groups: dict[str, list[_Cells]] = {}
    for row in rows:
        if not row.text("point_id"):
            raise SpecError("point_id is empty", where=row.where, hint="name the run")
        groups.setdefault(row.text("point_id"), []).append(row)
    for name, group in groups.items():
        first = group[0]
        for row in group[1:]:
            for column in SAME:
                if row.text(column) != first.text(column):
                    raise SpecError(
                        f"{column} is {row.text(column)!r}, and {first.text(column)!r} in line {first.line}",
                        where=row.where, hint=f"all rows of the run {name!r} need the same {column}",
                    )  # fmt: skip
        yield _run(name, group)


def _run(name: str, rows: Sequence[_Cells]) -> TrainingPoint:
    first, lacks, assumed = rows[0], [], []
    settings = _settings(first)
    sequence = first.count("isl", MAX_TOKENS)
    batch, micro, said = _batch(first, sequence)
    assumed += said
    devices = first.count("n_devices", MOST_DEVICES)
    for what, value in (("n_devices", devices), ("isl", sequence), ("concurrency_or_batch: GBS", batch)):
        if not value:
            lacks.append(f"{what} is empty")
    if settings and not micro:
        micro = 1
        assumed.append("micro-batch 1")
    note = " ".join(dict.fromkeys(row.text("note") for row in rows))
    about = f"{note} {first.text('model_params_note')}".lower()
    return TrainingPoint(
        line=first.line, id=name, group=first.text("source_group"), model=first.text("model"),
        hardware=first.text("hardware"), devices=devices, framework=_framework(first),
        version=first.text("engine_version"), precision=first.text("weights_dtype"), settings=settings, batch=batch,
        micro_batch=micro, sequence=sequence, note=note, measured=_measured(rows), lacks="; ".join(lacks),
        method="lora" if "lora" in about else "sft" if re.search(r"\bsft\b|fine-tun", about) else "pretrain",
        assumed=tuple(assumed),
    )  # fmt: skip


def _framework(row: _Cells) -> str:
    """The framework; MLPerf rows list the software of the submitter, which is NeMo with Megatron."""
    return "mlperf" if row.text("source_group").startswith("mlperf") else row.text("engine") or "unknown"


def _settings(row: _Cells) -> dict[str, Any]:
    """The settings of a run, such as `tp=1;pp=4;vp=n/a;fsdp=64`: FSDP over n ranks is ZeRO 3 with shard n.

    A second setting in parentheses, as in `tp=1 (2)`, belongs to a second number of the source and is left out.
    """
    settings: dict[str, Any] = {}
    for piece in filter(None, re.split(r"[;,]\s*", row.text("parallelism"))):
        key, equals, text = (part.strip() for part in piece.partition("="))
        text = re.sub(r"\s*\([^()]*\)$", "", text)
        if not equals or not key:
            raise SpecError(f"parallelism: {piece!r}", where=row.where, hint="write it like tp=4;pp=8;cp=1")
        if text.lower() in EMPTY:
            continue
        value: Any = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else text
        if key == "fsdp":
            if not isinstance(value, int):
                raise SpecError(f"parallelism: {piece!r}", where=row.where, hint="want the ranks of fsdp, 0 for none")
            settings |= {"zero": 3, "shard": value} if value else {}
        else:
            settings[WIDTHS.get(key, key)] = value
    return settings


def _batch(row: _Cells, sequence: int) -> tuple[int, int, list[str]]:
    """Global batch, micro-batch and what was assumed, from `GBS=4096;MBS=1` or `16M tokens/batch`."""
    text = row.text("concurrency_or_batch")
    tokens = re.fullmatch(r"([0-9.]+)M tokens/batch", text)
    if tokens:
        batch = round(_number(tokens[1], f"concurrency_or_batch: {text!r}", row.where, 1e6) * GIB / max(sequence, 1))
        return batch, 0, [f"a batch of {batch:,} sequences for {text}"]
    sizes = {"GBS": 0, "MBS": 0}
    for piece in filter(None, text.split(";")):
        key, _, value = piece.strip().partition("=")
        if key not in sizes or not re.fullmatch(r"[1-9][0-9]{0,8}", value):
            raise SpecError(
                f"concurrency_or_batch: {text!r}",
                where=row.where,
                hint="write it like GBS=256;MBS=1 or 16M tokens/batch",
            )
        sizes[key] = int(value)
    return sizes["GBS"], sizes["MBS"], []


def _measured(rows: Sequence[_Cells]) -> TrainingMeasured:
    values: dict[str, float] = {}
    for row in rows:
        metric = row.text("metric")
        if metric not in METRICS:
            raise SpecError(f"metric: {metric!r}", where=row.where, hint=f"want one of {', '.join(METRICS)}")
        value = row.number("value", MOST_VALUE)
        if value is None:
            raise SpecError("value is empty", where=row.where, hint="want the measured number")
        if METRICS[metric] in values:
            raise SpecError(f"metric {metric} is given twice for one run", where=row.where, hint="leave one row out")
        values[METRICS[metric]] = value * SCALES[METRICS[metric]]
    return TrainingMeasured(**values)


# ── the form of vTrain ────────────────────────────────────────────────────────────────────────────────────────────


def _iteration(row: _Cells) -> TrainingPoint:
    """One iteration of a GPT model. The file states neither precision, vocabulary nor recompute: see `ASSUMED`."""
    sizes = {column: row.count(column, MAX_TOKENS) for column in VTRAIN[:-1]}
    if empty := [column for column, value in sizes.items() if not value]:
        raise SpecError(f"{empty[0]} is empty", where=row.where, hint="want a whole number above zero")
    devices, batch, micro, hidden, heads, layers, sequence, tp, dp, pp = sizes.values()
    if tp * dp * pp != devices:
        raise SpecError(
            f"tp {tp} x dp {dp} x pp {pp} is not {devices} GPUs", where=row.where, hint="correct one of these columns"
        )
    seconds = row.number(VTRAIN[-1], MOST_VALUE)
    if seconds is None:
        raise SpecError(f"{VTRAIN[-1]} is empty", where=row.where, hint="want the measured time")
    point = TrainingPoint(
        line=row.line, id=f"a100-{row.line}", group="vtrain", model=f"GPT {layers} x {hidden}", hardware="a100",
        devices=devices, framework="vtrain", precision="fp16", batch=batch, micro_batch=micro, sequence=sequence,
        config={
            "model_type": "gpt2", "n_embd": hidden, "n_head": heads, "n_layer": layers, "n_positions": sequence,
            "vocab_size": VOCABULARY, "name": f"GPT {layers} x {hidden}", "torch_dtype": "float16",
        },
        settings={"tp": tp, "dp": dp, "pp": pp}, assumed=ASSUMED,
        measured=TrainingMeasured(batch * sequence / devices / (1e-3 * seconds), 1e-3 * seconds),
    )  # fmt: skip
    return replace(
        point, lacks="" if batch % (micro * dp) == 0 else f"a batch of {batch} is no multiple of {micro * dp}"
    )


ASSUMED = (
    "FP16 mixed precision, NVLink between all GPUs",
    f"vocabulary {VOCABULARY:,}, full recompute, attention without FlashAttention, ZeRO 0, no sequence parallel: "
    "src/config.py and src/model of VIA-Research/vTrain @f8dda84",
)
"""What the file of vTrain does not state. The first line is an assumption; the second line is read in its code [1]."""
