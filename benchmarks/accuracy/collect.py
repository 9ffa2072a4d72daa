"""Run the commands whose results are on the accuracy page, and gather their figures in one dict.

Every figure comes from a command that a user can run, too: `validate`, `calibrate`, `plan`. Errors of groups that no
command prints come from the rows of `validate --out`.
"""

from __future__ import annotations

import csv
import hashlib
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from benchmarks.accuracy.kept import CATALOG, ROOT, CannotRun, Figures, NotKept, command, kept, rows_of, source_hash
from benchmarks.accuracy.limits import limits

if TYPE_CHECKING:
    from benchmarks.peer import Comparison

PRODUCTION = Path(__file__).parent / "production.csv"

FITTED, FAR, PEER = "serving_dev.csv", "serving_new.csv", "peer_aiconfigurator.csv"
"""Files of the data folder: points of the fit, points of hardware that no fit has seen, predictions of a peer."""

MACHINES = ("scalex40", "5xhgx-h20", "5xhgx-h100", "cloudmatrix384", "gb200-nvl72")
MODEL = "deepseek-ai/DeepSeek-R1"
WORKLOADS = {"chat": ("--workload", "chat"), "4,000 / 1,000": ("--isl", "4000", "--osl", "1000")}

GROUPINGS = ("kind", "system", "engine", "model")
"""Groups of points on the page."""

DIGITS = 5
"""Significant digits of figures in the JSON file."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Collector:
    """Runs the sections of the page.

    Parameters
    ----------
    data : folder with the measured points
    old : figures of the last page; sections with fits that did not run are taken from here
    full : whether fits run
    kernels : whether a left-out system is also left out of the kernel tables, which must be installed
    say : receives progress messages
    """

    data: Path
    old: Figures
    full: bool
    kernels: bool
    say: Say

    def figures(self) -> Figures:
        """All figures of the page, without the figures that they are compared with."""
        sections: dict[str, Callable[[], Any]] = {
            "dev": lambda: self.validated(self.data / FITTED),
            "datasheet": lambda: self.validated(self.data / FITTED, "--calibration", "datasheet"),
            "far": lambda: self.validated(self.data / FAR),
            "production": self.production,
            "peer": self.peer,
            "machines": self.machines,
            "limits": self.limits,
            "fit": self.fit,
            "left_out_systems": self.left_out_systems,
            "left_out_models": self.left_out_models,
        }
        figures: Figures = {"made": made(), "data": self.hashes(), "calibration": calibration()}
        return figures | {name: self.section(name, compute) for name, compute in sections.items()}

    def section(self, name: str, compute: Callable[[], Any]) -> Figures:
        """One section, with the commit and the date of its figures. Results of commands are kept, see `kept`."""
        self.say(f"{name}: running")
        try:
            figures = compute()
        except NotKept:
            old: Figures = self.old.get(name) or {}
            self.say(f"{name}: " + (f"kept from {old['date']}" if old else "left out") + "; FULL=1 computes it")
            return old
        section: Figures = rounded({"commit": commit(), "date": today(), "source": self.source, "result": figures})
        return section

    @cached_property
    def source(self) -> str:
        """Hash of the code and the data: equal hashes have equal figures."""
        return source_hash(self.data / name for name in (FITTED, FAR, PEER))

    def run(self, *words: str) -> Figures:
        """The JSON result of a command, kept for the next run. Fits take many minutes, so they run only if `full`."""
        may = self.full or words[0] != "calibrate"
        result: Figures = kept(self.source, words, (lambda: command(*words)) if may else None)
        return result

    def validate(self, data: Path, *options: str) -> tuple[Figures, list[dict[str, str]]]:
        """What `validate` prints of a file of points, and its row for each point; kept for the next run."""

        def compute() -> Figures:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "rows.csv"
                summary = command("validate", "--data", str(data), "--out", str(out), *options)
                return {"summary": summary, "rows": rows_of(out)}

        name = hashlib.sha256(data.read_bytes()).hexdigest()
        both = kept(self.source, ("validate", name, *options), compute)
        return both["summary"], both["rows"]

    def hashes(self) -> dict[str, Figures]:
        """Hash and number of rows of each data file."""
        files = [self.data / name for name in (FITTED, FAR, PEER) if (self.data / name).exists()]
        return {
            path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "rows": len(rows_of(path))}
            for path in files
        }

    def validated(self, data: Path, *options: str) -> Figures:
        """What `validate` says of a file, with groups that only this page has."""
        summary, rows = self.validate(data, *options)
        points = list(zip(rows_of(data), rows, strict=True))
        wanted = ("points", "covered", "skipped", "assumed", "tpot", "ttft", "tok_s_per_device", "energy",
                  "energy_left_out", "baseline", "ranking", "frontier")  # fmt: skip
        wide = [pair for pair in points if pair[0]["mode"] == "disagg" and widest_ep(pair[0]) > 8]
        return {name: summary[name] for name in wanted} | {
            "by": {name: summary["by"][name] for name in GROUPINGS},
            "wide_disaggregated": errors(wide),
            "by_device": by_device(points),
        }

    def production(self) -> list[Figures]:
        """Production figures that operators published, predicted with their own split and batch."""
        rows = rows_of(PRODUCTION)
        predicted: dict[str, dict[str, str]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for given in sorted({row["set"] for row in rows}):
                data = Path(folder) / "points.csv"
                write_rows(data, [row for row in rows if row["set"] == given])
                numbers = [word for one in given.split() for word in ("--set", one)]
                try:
                    _, results = self.validate(data, *numbers)
                except CannotRun as problem:
                    failed = {"skipped": str(problem)}
                    predicted |= {row["point_id"]: failed for row in rows if row["set"] == given}
                else:
                    predicted |= {row["point_id"]: row for row in results}
        return [production_row(row, predicted[row["point_id"]]) for row in rows]

    def peer(self) -> list[Figures] | None:
        """Errors beside those of another predictor; None without its file."""
        from benchmarks.peer import compare

        path = self.data / PEER
        if not path.exists():
            return None
        rows: list[Figures] = kept(
            self.source, ("peer",), lambda: [comparison_row(one) for one in compare(path, "serving")[0]]
        )
        return rows

    def limits(self) -> Figures:
        """What the error of the frontier consists of, and how well repeated measurements predict each other."""
        return limits(self.data / FITTED, self.validate(self.data / FITTED)[1])

    def machines(self) -> list[Figures]:
        """The best deployment of DeepSeek-R1 on five machines, for two workloads."""
        table = []
        for machine in MACHINES:
            for workload, options in WORKLOADS.items():
                self.say(f"machines: {machine}, {workload}")
                plan = self.run("plan", MODEL, "--on", machine, *options)
                table.append({"machine": machine, "workload": workload, **best_of(plan)})
        return table

    def fit(self) -> Figures:
        """A fit as the one of the shipped calibration: constants, ablation, errors of left-out systems, power."""
        plain = self.run("calibrate", "--data", str(self.data / FITTED), "--ablation")
        wanted = ("constants", "tpot_before", "tpot_in_sample", "factors", "power", "spreads", "ablation",
                  "left_out_systems")  # fmt: skip
        return {name: plain.get(name) for name in wanted}

    def left_out_systems(self) -> Figures:
        """Errors of each left-out system: of the fits that make the intervals, or of fits without its kernels, too."""
        if not self.kernels:
            return {"kernels": False, "groups": self.fit()["left_out_systems"]}
        data = str(self.data / FITTED)
        plain = self.run("calibrate", "--data", data, "--leave-out", "system", "--kernels", "default")
        return {"kernels": True, "groups": plain["groups"]}

    def left_out_models(self) -> Figures:
        """Errors of each left-out model, by a fit without its points."""
        plain = self.run("calibrate", "--data", str(self.data / FITTED), "--leave-out", "model")
        return {"kernels": False, "groups": plain["groups"]}


# ── commands and files ────────────────────────────────────────────────────────────────────────────────────────────────


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def rounded(value: Any) -> Any:
    """Plain data with all floats rounded to `DIGITS` significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items() if key != "wall"}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value


def git(*words: str) -> str:
    """What a git command prints; "" outside a repository."""
    run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout.strip()


def commit() -> str:
    """The commit of the code, with a mark if files of the package differ from it."""
    changed = git("status", "--porcelain", "--", "src", "benchmarks")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def made() -> Figures:
    """When the figures were made, and with which code."""
    return {"date": today(), "commit": commit()}


def calibration() -> Figures:
    """What the file of the default calibration says: points, constants, left-out systems, and factors by distance."""
    path = CATALOG / "calibration" / "serving.yaml"
    text = path.read_text(encoding="utf-8")
    spec = yaml.safe_load(text)
    constants = re.search(r"^#.* ([0-9]+) constants", text, re.MULTILINE)
    systems = re.findall(
        r"^# Left out (\S+): ([0-9]+) points, median error ([0-9.]+) % \(([0-9.]+) % before\), bias ([+-][0-9]+) %",
        text, re.MULTILINE,
    )  # fmt: skip
    inside = {
        device: {"spread": float(tpot), "covered": int(share) / 100, "throughput_covered": int(reached) / 100}
        for device, tpot, share, reached in re.findall(
            r"^# Intervals of left-out (\S+), by the other systems: TPOT x ([0-9.]+), ([0-9]+) % of [0-9]+ inside; "
            r"throughput at equal speed x [0-9.]+, ([0-9]+) % of",
            text, re.MULTILINE,
        )
    }  # fmt: skip
    told: Figures = rounded(
        {
            "name": spec["name"],
            "fitted_on": spec.get("fitted_on"),
            "data_sha256": spec.get("data_sha256"),
            "file_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "devices": spec.get("devices"),
            "constants": int(constants[1]) if constants else None,
            "spreads": {name: _value(family.get("spread")) for name, family in spec["families"].items()},
            "throughput_spread": {
                distance: {"factor": _value(one), "source": one.get("source", "") if isinstance(one, dict) else ""}
                for distance, one in (spec.get("throughput_spread") or {}).items()
            },
            "throughput_correlation": _value(spec.get("throughput_correlation")),
            "draft_widening": _value(spec.get("draft_widening")),
            "ttft_spread": _value(spec.get("ttft_spread")),
            "left_out": [
                {"group": name, "n": int(n), "median_ape": float(median) / 100, "before_median_ape": float(was) / 100,
                 "bias": float(bias) / 100, **inside.get(name, {})}
                for name, n, median, was, bias in systems
            ],
        }
    )  # fmt: skip
    return told


def _value(quantity: Any) -> float | None:
    """The value of a quantity in a calibration file."""
    value = quantity.get("value") if isinstance(quantity, dict) else quantity
    return None if value is None else float(str(value).split()[0])


# ── figures of rows ───────────────────────────────────────────────────────────────────────────────────────────────────

Pair = tuple[dict[str, str], dict[str, str]]


def widest_ep(row: dict[str, str]) -> float:
    """The largest number of expert parallel groups of a row."""
    return max(float(row[name] or 0) for name in ("ep", "prefill_ep", "decode_ep"))


def errors(points: Iterable[Pair]) -> dict[str, Figures | None]:
    """Errors of TPOT, TTFT and throughput of some points."""
    points = list(points)
    return {metric: _errors(points, column) for metric, column in COLUMNS.items()}


COLUMNS = {"tpot": "tpot_ms", "ttft": "ttft_ms", "tok_s_per_device": "tok_s_per_device"}


def _errors(points: Sequence[Pair], column: str) -> Figures | None:
    values = [
        [float(result[f"{column}_{kind}"]) for kind in ("measured", "predicted", "low", "high")]
        for _, result in points
        if result[f"{column}_measured"] and result[f"{column}_predicted"]
    ]
    if not values:
        return None
    measured, predicted, low, high = np.array(values).T
    ratio = predicted / measured
    return {
        "n": len(values),
        "median_ape": float(np.median(np.abs(ratio - 1))),
        "mape": float(np.mean(np.abs(ratio - 1))),
        "bias": float(np.median(ratio) - 1),
        "inside_interval": float(np.mean((low <= measured) & (measured <= high))),
    }


def by_device(points: Sequence[Pair]) -> dict[str, Figures]:
    """Rows, predicted rows, errors, and reasons for missing predictions, by device."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in points:
        groups[pair[0]["device"]].append(pair)
    return {
        device: errors(members)
        | {
            "rows": len(members),
            "predicted": sum(not result["skipped"] for _, result in members),
            "reasons": dict(Counter(result["skipped"] for _, result in members if result["skipped"])),
        }
        for device, members in sorted(groups.items())
    }


def production_row(row: dict[str, str], result: dict[str, str]) -> Figures:
    """One published figure: measured, predicted, interval."""
    values = {
        name: [float(result[f"{column}_{kind}"]) for kind in ("measured", "predicted", "low", "high")]
        for name, column in COLUMNS.items()
        if result.get(f"{column}_measured") and result.get(f"{column}_predicted")
    }
    told = ("title", "device", "n_devices", "ep", "concurrency", "load", "isl", "weights", "spec_decode", "set",
            "source", "note")  # fmt: skip
    return {name: row[name] for name in told} | {"skipped": result["skipped"], "values": values}


def best_of(plan: Figures) -> Figures:
    """The first deployment of a plan."""
    if not plan["deployments"]:
        return {"deployment": None}
    first = plan["deployments"][0]
    names = ("effective_tok_s_per_device", "output_tok_s_per_device", "output_tok_s_per_user", "grade", "bound_by",
             "meets_slo")  # fmt: skip
    return {
        "deployment": first["label"],
        "interval": first["interval"]["output_tok_s_per_device"],
        **{name: first.get(name) for name in names},
    }


def comparison_row(one: Comparison) -> Figures:
    """Median errors of one metric and one group, ours and those of the peer."""
    return {"metric": one.metric, "group": one.group, "both": one.both, "ours": one.ours, "theirs": one.theirs,
            "alone": one.alone, "ours_alone": one.ours_alone}  # fmt: skip
