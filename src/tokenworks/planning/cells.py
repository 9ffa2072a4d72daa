"""Estimated deployments as rows (cells) of a table, and the shortlist of the best ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tokenworks.arrays import Bools, FloatArray, Floats, Ints
from tokenworks.pareto import beaten, front
from tokenworks.specs.slo import Slo

CELL = np.dtype(
    [
        (
            "family",
            "i8",
        ),  # number of the widths, or of the size of the prefill role: the list shows the best cell of each family
        ("entry", "i8"),  # number of a split, with or without the smallest chunks: each entry is simulated separately
        ("index", "i8"),  # index of the aggregated or decode split
        ("prefill", "i8"),  # index of the prefill split; -1: aggregated
        ("batch", "f8"),  # decoding sequences per instance
        ("chunk", "i8"),
        ("prefill_chunk", "i8"),
        ("replicas", "i8"),
        ("prefill_replicas", "i8"),
        ("devices", "i8"),  # devices in use
        ("charged", "i8"),  # devices that throughput is divided by: used ones, and those left over when no replica fits
        ("rate", "f8"),  # requests of the whole deployment [1/s]
        ("capacity", "f8"),  # highest rate of the deployment [1/s]
        ("tpot", "f8"),
        ("tpot_tail", "f8"),
        ("ttft", "f8"),
        ("ttft_tail", "f8"),
        ("hit", "f8"),
        ("busy", "f8"),
        ("full", "?"),  # the KV cache holds no larger batch
        ("slo_pressure", "f8"),  # largest value / bound of the SLO and of the load; above 1: missed
        ("output", "f8"),  # output tokens per charged device [token/s]
        ("effective", "f8"),  # `output` if the deployment is expected to meet the SLO, else 0
    ]
)
Cells: TypeAlias = NDArray[np.void]
"""A table of cells."""

Edge: TypeAlias = tuple[Floats, Floats]
"""Speeds and outputs per device of a Pareto front, fastest first."""

PER_FAMILY = 4
"""Number of entries that the shortlist keeps of each family [count]."""


SLOWEST = 4
"""Largest estimated TPOT of a point of the front / the TPOT bound of the SLO, where a deployment meets the SLO: nobody
chooses a slower point [-]."""


@dataclass(frozen=True, slots=True)
class SearchCounts:
    """How many points the search looked at.

    Parameters
    ----------
    legal : points that keep every rule [count]
    estimated : points with an estimate, on the ladders and at batches aimed at the SLO [count]
    pruned : points that a bound ruled out, by bound [count]
    """

    legal: int
    estimated: int
    pruned: dict[str, int]


def slo_pressure(slo: Slo, ttft: FloatArray, tpot: FloatArray, other: FloatArray) -> FloatArray:
    """The largest value / bound of a deployment [-].

    Parameters
    ----------
    slo : the bounds
    ttft, tpot : predicted TTFT and TPOT at the percentiles of the SLO [s]
    other : value / bound of another limit, such as the load [-]
    """
    worst = other
    for bound, value in ((slo.ttft, ttft), (slo.tpot, tpot)):
        if bound:
            worst = np.maximum(worst, value / bound.value)
    return worst


@dataclass
class Shortlist:
    """The best cell of each entry, and the exact Pareto front of all cells that were offered.

    Only cells that keep the TTFT bound are on the front: a fast user speed is worth nothing if the first token is late.

    Parameters
    ----------
    slo : the bounds
    keep : number of families to keep, each with `PER_FAMILY` entries [count]
    margin : an entry is also kept if its estimate is below the last kept family by at most this share [-]
    best : kept cells, best first
    front : cells of the Pareto front, fastest first
    offered : cells that were offered [count]
    edge : speeds and outputs of the front
    """

    slo: Slo
    keep: int
    margin: float = 0.0
    best: Cells = field(default_factory=lambda: np.zeros(0, CELL))
    front: Cells = field(default_factory=lambda: np.zeros(0, CELL))
    offered: int = 0
    edge: Edge = (np.zeros(0), np.zeros(0))

    def offer(self, cells: Cells) -> None:
        """Take in estimated cells, and update the best cells and the front."""
        self.offered += len(cells)
        if self.met:  # most cells are neither listed nor on the front; to sort them takes longer than to estimate them
            off_front = beaten(1 / cells["tpot"], cells["output"], *self.edge)
            cells = cells[(cells["effective"] >= self.threshold) | ~off_front]
        pool = _likely(np.concatenate([self.best, cells]))
        pool = pool[_order(pool)]
        _, first = np.unique(pool["entry"], return_index=True)
        pool = pool[np.sort(first)]
        self.best = pool[_nth(pool["family"]) < PER_FAMILY]
        soon = cells if self.slo.ttft is None else cells[cells["ttft_tail"] <= self.slo.ttft.value]
        pool = np.concatenate([self.front, soon])
        speed, output = 1 / pool["tpot"], pool["output"]
        kept = front(speed, output)
        self.front, self.edge = pool[kept], (speed[kept], output[kept])

    @property
    def threshold(self) -> float:
        """Effective tokens per device that a new entry must reach to be kept."""
        first = self.leaders
        if len(first) < self.keep:
            return -1.0
        return float(self.best["effective"][first[self.keep - 1]]) / (1 + self.margin)

    @property
    def leaders(self) -> Ints:
        """Indices in `best` of the best cell of each family, best first."""
        _, first = np.unique(self.best["family"], return_index=True)
        return np.sort(first)

    @property
    def met(self) -> bool:
        """Whether a deployment is expected to meet the SLO. If so, deployments that cannot meet it are dropped."""
        return bool(len(self.best)) and float(self.best["effective"][0]) > 0

    def hopeless(self, speed: Floats, output: Floats) -> Bools:
        """Whether points with these upper bounds can neither be listed nor be on the front.

        Parameters
        ----------
        speed : upper bound of the output tokens per second of a user [token/s]
        output : upper bound of the output tokens per second and charged device [token/s]
        """
        listed, wanted = output >= self.threshold, ~beaten(speed, output, *self.edge)
        if self.slo.tpot:
            listed = listed & (speed * self.slo.tpot.value >= 1)
            wanted = wanted & ((not self.met) | (speed * SLOWEST * self.slo.tpot.value >= 1))
        return ~(listed | wanted)


def _likely(cells: Cells) -> Cells:
    """Cells that may be the best of their entry: those with the most effective tokens of the entry.

    A full sort of all cells would take longer than their estimates.
    """
    order = np.lexsort((-cells["effective"], cells["entry"]))
    entry = cells["entry"][order]
    starts = np.flatnonzero(np.append(True, entry[1:] != entry[:-1])) if len(cells) else np.zeros(0, np.int64)
    most = np.repeat(cells["effective"][order][starts], np.diff(np.append(starts, len(cells))))
    kept: Cells = cells[np.sort(order[cells["effective"][order] >= most])]
    return kept


def _nth(groups: Ints) -> Ints:
    """Position of each row in its group: 0 for the first row of a group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    place = np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
    nth = np.empty(len(groups), dtype=np.int64)
    nth[order] = place
    return nth


def _order(cells: Cells) -> Ints:
    """Indices of cells, best first.

    The order is by effective tokens; without any, by distance to the SLO. Then come output, speed and TTFT. The
    settings break ties, so that the order is always the same.
    """
    ties = [cells[name] for name in ("batch", "prefill_chunk", "chunk", "prefill", "index", "family")]
    missed = np.where(cells["effective"] > 0, 0.0, cells["slo_pressure"])
    ties += [cells[name] for name in ("ttft_tail", "slo_pressure", "tpot")]
    return np.lexsort([*ties, -cells["output"], missed, -cells["effective"]])
