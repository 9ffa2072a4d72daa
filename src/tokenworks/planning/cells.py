"""Estimated deployments as rows of one table, and the few of them that are worth keeping."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tokenworks.arrays import Bools, FloatArray, Floats, Ints
from tokenworks.planning.pareto import beaten, front
from tokenworks.specs.slo import Slo

CELL = np.dtype(
    [
        ("family", "i8"),  # widths, or size of the prefill role: the list shows the best of each
        ("entry", "i8"),  # what is simulated by itself: the split, and whether its chunks are the smallest
        ("index", "i8"),  # of the aggregated or decode split
        ("prefill", "i8"),  # of the prefill split, -1 where aggregated
        ("batch", "f8"),  # decoding sequences per instance
        ("chunk", "i8"),
        ("prefill_chunk", "i8"),
        ("replicas", "i8"),
        ("prefill_replicas", "i8"),
        ("devices", "i8"),  # in use
        ("charged", "i8"),  # in use, or idle since nothing more fits
        ("rate", "f8"),  # requests of the whole deployment [1/s]
        ("capacity", "f8"),  # most that it could take [1/s]
        ("tpot", "f8"),
        ("tpot_tail", "f8"),
        ("ttft", "f8"),
        ("ttft_tail", "f8"),
        ("hit", "f8"),
        ("busy", "f8"),
        ("full", "?"),  # the KV cache holds no larger batch
        ("slo_pressure", "f8"),  # the worst of what the SLO and the load ask, over their bound; above 1 it misses
        ("output", "f8"),  # output tokens per charged device [token/s]
        ("effective", "f8"),  # the same if it is expected to meet the SLO, else 0
    ]
)
Cells: TypeAlias = NDArray[np.void]
"""A table of cells."""

PER_FAMILY = 4
"""Entries of a family that are kept [count]."""


@dataclass(frozen=True, slots=True)
class SearchCounts:
    """What became of points: legal; estimated (aimed ones beside the ladders); ruled out by each bound."""

    legal: int
    estimated: int
    pruned: dict[str, int]


def slo_pressure(slo: Slo, ttft: FloatArray, tpot: FloatArray, other: FloatArray) -> FloatArray:
    """How hard a bound is pressed [-]: the largest of prediction over bound; `other` comes so already."""
    worst = other
    for bound, value in ((slo.ttft, ttft), (slo.tpot, tpot)):
        if bound:
            worst = np.maximum(worst, value / bound.value)
    return worst


@dataclass
class Shortlist:
    """The best cell of each entry, and the exact Pareto front of all cells that were offered.

    The front is over cells that keep the TTFT bound, as speed without a first token is worth nothing.

    Parameters
    ----------
    slo : the bounds
    keep : families of which entries are kept; of each family `PER_FAMILY` entries [count]
    margin : share by which an estimate may be below the last family that is kept, and its entry is kept still [-]
    floor : effective tokens per device that other shortlists ask of an entry already [token/s]
    best : kept cells, best first
    front : cells of the Pareto front, fastest first
    offered : cells that were offered [count]
    """

    slo: Slo
    keep: int
    margin: float = 0.0
    floor: float = 0.0
    best: Cells = field(default_factory=lambda: np.zeros(0, CELL))
    front: Cells = field(default_factory=lambda: np.zeros(0, CELL))
    offered: int = 0

    def offer(self, cells: Cells) -> None:
        """Take in estimated cells."""
        self.offered += len(cells)
        if self.met:  # most are behind in both; to sort them would take longer than to estimate them
            off_front = beaten(1 / cells["tpot"], cells["output"], 1 / self.front["tpot"], self.front["output"])
            cells = cells[(cells["effective"] >= self.threshold) | ~off_front]
        pool = _likely(np.concatenate([self.best, cells]))
        pool = pool[_order(pool)]
        _, first = np.unique(pool["entry"], return_index=True)
        pool = pool[np.sort(first)]
        self.best = pool[_nth(pool["family"]) < PER_FAMILY]
        soon = cells if self.slo.ttft is None else cells[cells["ttft_tail"] <= self.slo.ttft.value]
        pool = np.concatenate([self.front, soon])
        self.front = pool[front(1 / pool["tpot"], pool["output"])]

    @property
    def threshold(self) -> float:
        """Effective tokens per device that a new entry must reach to be kept."""
        first, floor = self.leaders, self.floor or -1.0
        if len(first) < self.keep:
            return floor
        return max(floor, float(self.best["effective"][first[self.keep - 1]]) / (1 + self.margin))

    @property
    def leaders(self) -> Ints:
        """Indices in `best` of the best cell of each family, best first."""
        _, first = np.unique(self.best["family"], return_index=True)
        return np.sort(first)

    @property
    def met(self) -> bool:
        """Whether some deployment is expected to meet the SLO; those that cannot are of no use then."""
        return self.floor > 0 or (bool(len(self.best)) and float(self.best["effective"][0]) > 0)

    def hopeless(self, speed: Floats, output: Floats) -> Bools:
        """Whether points below these upper bounds can neither be listed nor be on the front."""
        listed = output >= self.threshold
        if self.slo.tpot:
            listed = listed & (speed * self.slo.tpot.value >= 1)
        return ~listed & beaten(speed, output, 1 / self.front["tpot"], self.front["output"])


def _likely(cells: Cells) -> Cells:
    """Cells that may be the best of their entry: of entries that meet the SLO, those with most effective tokens.

    To order all cells by everything that decides would take longer than to estimate them.
    """
    order = np.lexsort((-cells["effective"], cells["entry"]))
    entry = cells["entry"][order]
    starts = np.flatnonzero(np.append(True, entry[1:] != entry[:-1])) if len(cells) else np.zeros(0, np.int64)
    most = np.repeat(cells["effective"][order][starts], np.diff(np.append(starts, len(cells))))
    kept: Cells = cells[np.sort(order[cells["effective"][order] >= most])]
    return kept


def _nth(groups: Ints) -> Ints:
    """How often the group of each row came before it: 0 for the first row of a group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    place = np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
    nth = np.empty(len(groups), dtype=np.int64)
    nth[order] = place
    return nth


def _order(cells: Cells) -> Ints:
    """Best first: effective tokens, or how near to the SLO; then output, speed and TTFT; ties by how they were made."""
    ties = [cells[name] for name in ("batch", "prefill_chunk", "chunk", "prefill", "index", "family")]
    missed = np.where(cells["effective"] > 0, 0.0, cells["slo_pressure"])
    ties += [cells[name] for name in ("ttft_tail", "slo_pressure", "tpot")]
    return np.lexsort([*ties, -cells["output"], missed, -cells["effective"]])
