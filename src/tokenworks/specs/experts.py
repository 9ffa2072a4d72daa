"""Popularity of the routed experts over time: a power law that drifts, or recorded counts of tokens."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator

from tokenworks import units
from tokenworks.arrays import Floats
from tokenworks.errors import SpecError
from tokenworks.specs import files
from tokenworks.specs.load import read_yaml, validate
from tokenworks.specs.provenance import Spec

COLUMNS = ("time", "layer", "expert", "count")
"""Columns of a file of counts, in any order."""
MOST_BYTES = 256_000_000
"""Largest file of counts [byte]."""
MOST_ALPHA = 4.0
"""Largest exponent: above it, the first `topk` experts get nearly all tokens [-]."""
LEAST_HALF_LIFE = 1.0
"""Shortest half-life of the order: a step of an engine is not much shorter [s]."""


class ExpertLoad(Spec):
    """How popular the experts are, by a law.

    Parameters
    ----------
    alpha : exponent of the power law: the i-th most popular expert of a layer has the weight i^-alpha; 0 = all experts
        are equally popular [-]
    half_life : time in which the correlation of the order with itself halves, see `costs.popularity.aged`; None: the
        order does not change [s]
    seed : seed of the order of each layer and of its drift
    groups : groups of experts that the router chooses first (`n_group` of a config.json), which EPLB keeps on one host
        where the number of hosts divides them [count]
    """

    alpha: Annotated[float, Field(ge=0, le=MOST_ALPHA, allow_inf_nan=False)]
    half_life: Annotated[float, Field(ge=LEAST_HALF_LIFE, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    groups: Annotated[int, Field(ge=1, le=10**4)] = 1

    @field_validator("half_life", mode="before")
    @classmethod
    def _in_seconds(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                return units.parse(value, "s", example="2 h")
            except SpecError as error:
                raise ValueError(str(error)) from None
        return value

    def __str__(self) -> str:
        drift = "no drift" if self.half_life is None else f"half-life {self.half_life:g} s"
        return f"alpha {self.alpha:g}, {drift}, seed {self.seed}"


@dataclass(frozen=True, slots=True, eq=False)
class ExpertCounts:
    """Recorded counts of tokens. The counts of a time hold until the next time.

    Parameters
    ----------
    time_s : times, rising; the first request of a run is at 0 [s]
    counts : tokens of each expert, by time, layer and expert [count]
    name : name of the record, such as its path
    """

    time_s: Floats
    counts: Floats
    name: str

    def __str__(self) -> str:
        return self.name


ExpertsLike = str | Path | Mapping[str, Any] | ExpertLoad | ExpertCounts
"""Every form of expert popularity: a YAML file, a CSV file of counts, the content of a YAML file, or an object."""


def load_experts(experts: ExpertsLike) -> ExpertLoad | ExpertCounts:
    """The popularity of experts from any of its forms.

    Parameters
    ----------
    experts : path of a YAML file with the fields of `ExpertLoad`, or of a CSV file with the columns time [s], layer,
        expert and count; a dict with these fields; or an object, which is returned unchanged

    Raises
    ------
    SpecError : the file cannot be read, or its content is wrong
    """
    if isinstance(experts, ExpertLoad | ExpertCounts):
        return experts
    if isinstance(experts, Mapping):
        return validate(ExpertLoad, dict(experts), "experts")
    if str(experts).lower().endswith(".csv"):
        return _read_counts(str(experts))
    return validate(ExpertLoad, read_yaml(experts), str(experts))


def _read_counts(path: str) -> ExpertCounts:
    """The counts of a CSV file."""
    lines = csv.reader(io.StringIO(files.text(path, most=MOST_BYTES, hint="record fewer times")))
    header = [cell.strip() for cell in next(lines, [])]
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise SpecError(
            f"has no column {missing[0]}", where=path, hint=f"the first line names the columns {','.join(COLUMNS)}"
        )
    places = [header.index(name) for name in COLUMNS]
    rows: list[list[float]] = []
    for number, cells in enumerate(lines, start=2):
        if not cells:
            continue
        try:
            values = [float(cells[place]) for place in places]
        except (IndexError, ValueError):
            raise SpecError("is not four numbers", where=f"{path}, line {number}", hint="write numbers only") from None
        whole = all(value >= 0 and value % 1 == 0 for value in values[1:3])
        if not (np.isfinite(values).all() and values[0] >= 0 and values[3] >= 0 and whole):
            hint = "layer and expert are whole numbers; nothing is below zero"
            raise SpecError(f"has {', '.join(cells)}", where=f"{path}, line {number}", hint=hint)
        rows.append(values)
    if not rows:
        raise SpecError("has no rows", where=path, hint="write a row for each time, layer and expert")
    return _table(np.array(rows), path)


def _table(rows: Floats, path: str) -> ExpertCounts:
    """The counts of rows of time, layer, expert and count."""
    times, at = np.unique(rows[:, 0], return_inverse=True)
    layers, layer = np.unique(rows[:, 1], return_inverse=True)
    expert = rows[:, 2].astype(np.int64)
    shape = (len(times), len(layers), int(expert.max()) + 1)
    if np.prod(shape, dtype=float) > 4 * len(rows) + 10**6:
        hint = "number the experts of a layer from 0, and write every layer at every time"
        raise SpecError(f"has {len(rows)} rows for {shape[0]} times x {shape[1]} layers x {shape[2]} experts",
                        where=path, hint=hint)  # fmt: skip
    cell = (at * shape[1] + layer) * shape[2] + expert
    if len(np.unique(cell)) < len(cell):
        order = np.argsort(cell, kind="stable")
        twice = order[1:][np.diff(cell[order]) == 0][0]
        time, which, number = rows[twice, :3]
        raise SpecError(f"has layer {which:g}, expert {number:g} at {time:g} s twice", where=path, hint="keep one row")
    counts = np.zeros(shape)
    counts[at, layer, expert] = rows[:, 3]
    empty = np.argwhere(counts.sum(axis=2) <= 0)
    if len(empty):
        time, which = times[empty[0, 0]], layers[empty[0, 1]]
        hint = "write the counts of every layer at every time"
        raise SpecError(f"layer {which:g} has no tokens at {time:g} s", where=path, hint=hint)
    return ExpertCounts(times, counts, path)
