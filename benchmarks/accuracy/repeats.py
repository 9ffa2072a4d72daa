"""Measured points that were measured again: single dated runs of the same configurations, from the kernel package."""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from tokenworks.calibrate.kernels.tables import find_tables
from tokenworks.errors import SpecError

NAMES = {"meta-llama/Llama-3.1-70B": "meta-llama/Llama-3.3-70B-Instruct"}
"""Names of models that InferenceX's own rows and the dated runs write differently."""

Row = dict[str, str]
Key = tuple[object, ...]


class Run(NamedTuple):
    """One run of a measured configuration.

    Parameters
    ----------
    day : date of the run
    version : version of the engine; "" if it is not stated
    tpot : mean time per output token [s]
    """

    day: str
    version: str
    tpot: float


def dated_runs() -> Path | None:
    """The file of dated runs in the kernel package; None without the package."""
    try:
        path = find_tables(None).parent / "silicon_sample.csv"
    except SpecError:
        return None
    return path if path.exists() else None


def runs_of(points: Sequence[Row], path: Path) -> dict[str, list[Run]]:
    """The dated runs of each measured point, by the name of the point.

    A run belongs to a point if both name the same configuration number of InferenceX; or, for models that InferenceX
    never measured with draft tokens, if model, weights, device, engine, lengths, concurrency, tp and ep are equal. The
    dated runs do not say whether draft tokens were on, so runs of other models without a number are left out.

    Parameters
    ----------
    points : rows of the measured points
    path : file of the dated runs
    """
    numbered: dict[Key, list[str]] = defaultdict(list)
    named: dict[Key, list[str]] = defaultdict(list)
    ours = [row for row in points if row["source_group"] == "inferencex-dump"]
    drafting = {row["model"] for row in ours if row["spec_decode"] != "none"}
    for row in ours:
        load = (float(row["isl"]), float(row["osl"]), float(row["concurrency"]))
        if number := re.search(r"config_id=(\d+)", row["note"]):
            numbered[number[1], *load].append(row["point_id"])
        if row["mode"] == "agg" and row["model"] not in drafting and row["dp"] == "1":
            named[(*(row[name] for name in ("model", "weights", "device", "engine", "tp", "ep")), *load)].append(
                row["point_id"]
            )
    runs: dict[str, list[Run]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            day = re.search(r"measured=(\d{4}-\d\d-\d\d)", row["silicon_data_source"])
            if day and row["silicon_tpot_ms"]:
                run = Run(day[1], row["backend_version"], 1e-3 * float(row["silicon_tpot_ms"]))
                for name in _points_of(row, numbered, named):
                    runs[name].append(run)
    return dict(runs)


def _points_of(row: Row, numbered: dict[Key, list[str]], named: dict[Key, list[str]]) -> Iterable[str]:
    """Names of the measured points that a dated run repeats."""
    many = re.search(r"silicon_concurrency=(\d+)", row["silicon_data_source"])
    if not many:
        return []
    load = (float(row["isl"]), float(row["osl"]), float(many[1]))
    if number := re.search(r"config_id=(\d+)", row["silicon_data_source"]):
        return numbered.get((number[1], *load), [])
    split = re.search(r"_tp(\d+)(?:_0)?_ep(\d+)", row["id"])
    if row["mode"] != "agg" or not split:
        return []
    model, device = NAMES.get(row["model_path"], row["model_path"]), row["system"].split("_")[0]
    return named.get((model, row["precision"], device, row["backend"], split[1], split[2], *load), [])


def differences(runs: Iterable[Sequence[Run]], differ: Callable[[Run, Run], bool]) -> list[float]:
    """|log ratio| of the TPOT of two runs of one configuration, of each pair that differs in something [-].

    Parameters
    ----------
    runs : the runs of each configuration
    differ : whether two runs count as a pair
    """
    return [abs(math.log(a.tpot / b.tpot)) for members in runs for a, b in combinations(members, 2) if differ(a, b)]


def of_other_days(a: Run, b: Run) -> bool:
    """Whether two runs were on different days."""
    return a.day != b.day


def of_other_versions(a: Run, b: Run) -> bool:
    """Whether two runs had different versions of the engine, both of them known."""
    return bool(a.version and b.version and a.version != b.version)
