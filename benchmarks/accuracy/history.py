"""What the figures are compared with: the figures of an earlier page, in short, and the targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Figures = dict[str, Any]

LARGE = 100
"""Groups with at least this number of points are compared [count]."""

WORSE = 0.005
"""A group is worse, or better, if its median error changes by more than this [-]."""

METRICS = {"tpot": "TPOT", "tok_s_per_device": "tok/s/device", "ttft": "TTFT", "energy": "energy"}


def result(figures: Figures, section: str) -> Any:
    """The result of a section; None if the section was not computed."""
    return (figures.get(section) or {}).get("result")


def medians(dev: Figures) -> dict[str, Figures]:
    """Median errors of all groups: number of points and median error, by the name of the group and the metric."""
    named: dict[str, Figures] = {}
    for label, group in _groups(dev):
        for metric, title in METRICS.items():
            if one := group.get(metric):
                named[f"{label}: {title}"] = {"n": one["n"], "median_ape": one["median_ape"]}
    frontier = dev["frontier"]
    for label, one in {"all": frontier["tok_s_per_device"], **frontier["by"].get("system", {})}.items():
        if one:
            named[f"frontier, {label}: tok/s/device"] = {"n": one["n"], "median_ape": one["median_ape"]}
    if ratio := frontier["ratio"]["all"]:
        named["frontier, ratio of two machines: tok/s/device"] = {"n": ratio["n"], "median_ape": ratio["median_ape"]}
    return named


def _groups(dev: Figures) -> Iterator[tuple[str, Figures]]:
    yield "all points", dev
    yield "disaggregated, EP > 8", dev["wide_disaggregated"]
    for grouping, groups in dev["by"].items():
        for name, group in groups.items():
            yield f"{grouping} {name}", group


def compared_with(old: Figures, new: Figures) -> Figures | None:
    """What the new page shows of the old figures; None without old figures.

    Figures of the same code and data are no older figures: then the page keeps what the old page was compared with.
    """
    if not result(old, "dev"):
        return None
    if old["dev"]["source"] == new["dev"]["source"]:
        kept: Figures | None = old.get("before")
        return kept
    return {
        "commit": old["dev"]["commit"],
        "date": old["dev"]["date"],
        "medians": medians(result(old, "dev")),
        "machines": result(old, "machines"),
        "production": {row["title"]: row["values"] for row in result(old, "production") or []},
    }


def changes(figures: Figures) -> tuple[list[Figures], list[Figures]]:
    """Large groups that got worse, and large groups that got better, largest change first."""
    before = (figures.get("before") or {}).get("medians") or {}
    now = medians(result(figures, "dev"))
    rows = [
        {"group": name, "n": one["n"], "before": before[name]["median_ape"], "now": one["median_ape"]}
        for name, one in now.items()
        if name in before and min(one["n"], before[name]["n"]) >= LARGE
    ]
    rows.sort(key=lambda row: -abs(row["now"] - row["before"]))
    worse = [row for row in rows if row["now"] - row["before"] > WORSE]
    better = [row for row in rows if row["before"] - row["now"] > WORSE]
    return worse, better


# ── targets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Target:
    """One target and its figure.

    Parameters
    ----------
    what : the figure in words
    least, most : bounds of the figure; None for no bound [-]
    values : the figure, or one figure of each device; None if it was not computed [-]
    """

    what: str
    least: float | None
    most: float | None
    values: dict[str, float] | None

    @property
    def met(self) -> bool | None:
        """Whether all figures are inside the bounds; None if they were not computed."""
        return None if not self.values else not self.missed

    @property
    def missed(self) -> dict[str, float]:
        """The figures outside the bounds."""
        low, high = self.least or 0.0, np.inf if self.most is None else self.most
        return {name: value for name, value in (self.values or {}).items() if not low <= value <= high}


def targets(figures: Figures) -> list[Target]:
    """All targets, with the figures of this page."""
    dev, left = result(figures, "dev"), left_out(figures)
    kind, frontier = dev["by"]["kind"], dev["frontier"]
    medians_left = [one["median_ape"] for one in left]
    shipped = [one for one in figures["calibration"]["left_out"] if "covered" in one]
    tpots, throughputs = ({one["group"]: one[name] for one in shipped} for name in ("covered", "throughput_covered"))
    models = [one["median_ape"] for one in (result(figures, "left_out_models") or {"groups": []})["groups"]]
    ratio, whole = frontier["ratio"]["all"], frontier["tok_s_per_device"]

    def of(group: str, metric: str = "tpot", what: str = "median_ape") -> dict[str, float] | None:
        one = (kind.get(group) or {}).get(metric)
        return {"": one[what]} if one else None

    worse, _ = changes(figures)
    large = {row["group"]: row["now"] - row["before"] for row in worse}
    return [
        Target("TPOT, aggregated, no MTP: median", None, 0.08, of("agg none")),
        Target("TPOT, aggregated, no MTP: mean", None, 0.12, of("agg none", what="mape")),
        Target("TPOT, aggregated, MTP: median", None, 0.12, of("agg mtp")),
        Target("TPOT, disaggregated, no MTP: median", None, 0.12, of("disagg none")),
        Target("TPOT, disaggregated, MTP: median", None, 0.12, of("disagg mtp")),
        Target("TPOT, disaggregated, EP > 8: median", None, 0.18, _median(dev["wide_disaggregated"]["tpot"])),
        Target("tok/s/device, disaggregated, no MTP: median", None, 0.15, of("disagg none", "tok_s_per_device")),
        Target("tok/s/device, disaggregated, MTP: median", None, 0.15, of("disagg mtp", "tok_s_per_device")),
        Target("TTFT, bursts: median", None, 0.2, of("agg none burst", "ttft")),
        Target("TTFT, other sources: median", None, 0.2, of("agg none other", "ttft")),
        Target("Left-out systems, TPOT: median of the medians", None, 0.12, _one(np.median, medians_left)),
        Target("Left-out systems, TPOT: worst median", None, 0.16, _one(np.max, medians_left)),
        Target("Left-out systems, TPOT: points inside the 80 % interval", 0.75, 0.9, tpots or None),
        Target("Left-out systems, frontier: throughputs inside the 80 % interval", 0.75, 0.9, throughputs or None),
        Target("Left-out models, TPOT: median of the medians", None, 0.15, _one(np.median, models)),
        Target("Frontier: median", None, 0.18, _median(whole)),
        Target("Frontier: throughputs inside the 80 % interval", 0.75, 0.9, _median(whole, "inside_interval")),
        Target("Frontier, ratio of two machines: median", None, 0.22, _median(ratio)),
        Target("Frontier, order of machines that differ by more than 1.2x", 0.96, None,
               _median(ratio, "clear_in_order")),
        Target("Large groups that got worse by more than half a point", None, 0.0,
               (large or {"": 0.0}) if figures.get("before") else None),
    ]  # fmt: skip


def _median(one: Figures | None, what: str = "median_ape") -> dict[str, float] | None:
    return {"": one[what]} if one and one.get(what) is not None else None


def _one(of: Any, values: list[float]) -> dict[str, float] | None:
    return {"": float(of(values))} if values else None


def left_out(figures: Figures) -> list[Figures]:
    """Errors of left-out systems: of the last full run, or else what the calibration file says."""
    section = result(figures, "left_out_systems")
    rows: list[Figures] = section["groups"] if section else figures["calibration"]["left_out"]
    return rows
