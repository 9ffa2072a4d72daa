"""All training plans that a search tries, as arrays: widths, micro-batches, sharding, schedules and recompute."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Bools, Ints
from tokenworks.legal.splits import divisors
from tokenworks.legal.training import PRECISIONS, RECOMPUTES, SCHEDULES, TrainPoints, TrainSetting
from tokenworks.specs.training import Training

MICRO_BATCHES = (1, 2, 4, 8, 16, 32)
"""Sequences of a micro-batch that the search tries [count]."""

CHUNKS = (2, 3, 4, 5, 6, 8, 10, 12, 16)
"""Virtual stages that the search tries for the interleaved schedule [count]."""

WIDEST_CP = 64
"""Most context-parallel ranks that the search tries [count]."""

LEAST_USED = 0.5
"""Least share of the devices that a plan of the search uses [-]."""

FREE = {
    "tp": "tp", "pp": "pp", "dp": "dp", "cp": "cp", "ep": "ep", "etp": "expert_tp", "zero": "zero",
    "mbs": "micro_batch", "schedule": "schedule", "vpp": "virtual", "recompute": "recompute", "precision": "precision",
}  # fmt: skip
"""Key of the short form -> field of `TrainPoints`. The search decides each of these that the user leaves open."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """What a user fixes of a training plan.

    Parameters
    ----------
    values : field of `TrainPoints` -> values that the search may take
    """

    values: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def of(self, name: str, tried: Iterable[int]) -> tuple[int, ...]:
        """Values of one field: those of the user, else those that the search tries.

        Parameters
        ----------
        name : field of `TrainPoints`
        tried : values that the search tries
        """
        return self.values.get(name) or tuple(tried)

    @classmethod
    def by(cls, training: Training) -> Fixed:
        """Every value of a finished plan.

        Parameters
        ----------
        training : the plan
        """
        point = TrainPoints.of(training)
        return cls({name: (int(getattr(point, name)[0]),) for name in FREE.values()})


def used_devices(setting: TrainSetting) -> list[int]:
    """Numbers of devices that a run may use, most first.

    These are all devices, and the largest multiples of 2, 4, 8 ... below: the widths of a run are mostly powers of two.

    Parameters
    ----------
    setting : setting with the machine
    """
    machine = setting.machine
    powers = (1 << bit for bit in range(machine.devices.bit_length()))
    counts = {machine.devices // power * power for power in powers}
    kept = (count for count in counts if count >= LEAST_USED * machine.devices)
    return sorted((count for count in kept if count <= machine.domain or count % machine.domain == 0), reverse=True)


@dataclass(frozen=True, slots=True)
class TrainSpace:
    """All training plans: each choice of widths with each choice of settings.

    Parameters
    ----------
    widths : rows of tp, pp, dp, cp, ep and etp
    choices : rows of zero, micro-batch, schedule, virtual stages, recompute and precision
    fixed : what the user fixes
    """

    widths: Ints
    choices: Ints
    fixed: Fixed

    @classmethod
    def of(cls, setting: TrainSetting, fixed: Fixed) -> TrainSpace:
        """The space of a setting.

        Parameters
        ----------
        setting : model, machine, batch and sequence
        fixed : what the user fixes
        """
        rows = list(dict.fromkeys(_widths(setting, fixed)))
        return cls(np.array(rows, dtype=np.int64).reshape(-1, 6), _choices(setting, fixed), fixed)

    def __len__(self) -> int:
        return len(self.widths) * len(self.choices)

    @property
    def corners(self) -> TrainPoints:
        """One plan for each choice of widths, with the first choice of settings."""
        return _points(self.widths, np.repeat(self.choices[:1], len(self.widths), axis=0))

    def points(self, kept: Bools | None = None) -> TrainPoints:
        """The plans as arrays, without plans that equal another one.

        Parameters
        ----------
        kept : choices of widths to take; None: all
        """
        widths = self.widths if kept is None else self.widths[kept]
        every = _points(np.repeat(widths, len(self.choices), axis=0), np.tile(self.choices, (len(widths), 1)))
        return every[_worth_trying(every, self.fixed)]


def _points(widths: Ints, choices: Ints) -> TrainPoints:
    tp, pp, dp, cp, ep, etp = widths.T
    return TrainPoints(tp, pp, dp, cp, ep, etp, *choices.T)


def _widths(setting: TrainSetting, fixed: Fixed) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Widths tp, pp, dp, cp, ep and etp of all runs."""
    counts = used_devices(setting)
    groups = list(_groups(setting, fixed, counts, filled=True)) or list(_groups(setting, fixed, counts, filled=False))
    for tp, pp, cp, dp in groups:
        stage = tp * cp * dp
        for ep in fixed.of("ep", _shared(stage, setting.experts.count) if setting.experts else (1,)):
            for etp in fixed.of("expert_tp", sorted({1, tp}) if setting.experts else (1,)):
                if "ep" in fixed.values or stage % (ep * etp) == 0:
                    yield tp, pp, dp, cp, ep, etp


def _groups(
    setting: TrainSetting, fixed: Fixed, counts: list[int], *, filled: bool
) -> Iterator[tuple[int, int, int, int]]:
    """Widths tp, pp, cp and dp that fill one of the counts; with `filled` False, those that fill the first one least.

    The widths that fill no count are for messages: a rule explains what is wrong with them.
    """
    given = fixed.values.get("dp")
    for tp in fixed.of("tp", _up_to(counts, setting.model.heads)):
        for pp in fixed.of("pp", _up_to(counts, setting.model.layers)):
            for cp in fixed.of("cp", _up_to(counts, WIDEST_CP)):
                group = tp * pp * cp
                least = [] if filled else [max(counts[0] // group, 1)]
                for dp in given or sorted({count // group for count in counts if count % group == 0}) or least:
                    yield tp, pp, cp, dp


def _up_to(counts: Iterable[int], most: int) -> list[int]:
    """Divisors of any of the counts, up to `most`."""
    return sorted({width for count in counts for width in divisors(count) if width <= most})


def _shared(stage: int, experts: int) -> list[int]:
    """Divisors of the experts that also divide the devices of a stage."""
    return [width for width in divisors(experts) if stage % width == 0]


def _choices(setting: TrainSetting, fixed: Fixed) -> Ints:
    """Rows of zero, micro-batch, schedule, virtual stages, recompute and precision."""
    batch = setting.base.global_batch
    interleaved = SCHEDULES.index("interleaved")
    pipelines = [(SCHEDULES.index(name), 1) for name in ("1f1b", "zero-bubble")]
    pipelines += [(interleaved, chunks) for chunks in fixed.of("virtual", CHUNKS) if chunks > 1]
    if setting.experts:
        pipelines.append((SCHEDULES.index("dualpipe"), 1))
    if schedule := fixed.values.get("schedule"):
        chunks = fixed.of("virtual", CHUNKS if schedule[0] == interleaved else (1,))
        pipelines = [(schedule[0], count) for count in chunks]
    rows = [
        (zero, micro, schedule, virtual, recompute, precision)
        for zero in fixed.of("zero", (1, 2, 3))
        for micro in fixed.of("micro_batch", (size for size in MICRO_BATCHES if size <= batch))
        for schedule, virtual in pipelines
        for recompute in fixed.of("recompute", range(len(RECOMPUTES)))
        for precision in fixed.of("precision", (PRECISIONS.index(setting.base.precision.recipe),))
    ]
    return np.array(rows, dtype=np.int64)


def _worth_trying(points: TrainPoints, fixed: Fixed) -> Bools:
    """False for plans that equal another one.

    These are schedules without a pipeline, sharding without ranks, and ZeRO 2 in a pipeline, which keeps whole
    gradients as ZeRO 1 does.
    """
    kept: Bools = np.ones(len(points), dtype=bool)
    if "schedule" not in fixed.values and "virtual" not in fixed.values:
        kept &= (points.pp > 1) | (points.schedule == SCHEDULES.index("1f1b"))
    if "zero" not in fixed.values:
        kept &= (points.zero == 1) | (points.dp * points.cp > 1) & ((points.zero != 2) | (points.pp == 1))
    return kept
