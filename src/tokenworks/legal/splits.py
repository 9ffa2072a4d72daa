"""All splits of an instance that a search tries, as arrays: parallel widths and the settings that go with them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Bools, Ints
from tokenworks.legal.points import KV_DTYPES, OVERLAPS, Points, Setting
from tokenworks.legal.rules import MEMORY, SHAPE, Proposal, judge, with_memory

WIDEST = 1024  # most devices of one instance; the largest reported instance is EP 320 (CloudMatrix384)
PIPELINES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
DRAFTS = (0, 1, 3)  # draft tokens: one MTP module run once, or three times (DeepSeek-V3 on SGLang and TensorRT-LLM)
LEAST_CHUNK = 1024  # smallest token budget of a lane (microbatch of a dp rank) that the search tries


@dataclass(frozen=True, slots=True)
class Candidates:
    """Legal splits.

    Parameters
    ----------
    points : the splits
    family : number of the family of each split; a family has the same parallel widths
    replicas : instances of each split that the machine holds [count]
    broken : rule -> number of illegal splits for which it is the first broken rule [count]
    """

    points: Points
    family: Ints
    replicas: Ints
    broken: Mapping[str, int]

    def kept(self, chosen: Bools | Ints) -> Candidates:
        """The candidates that a mask or an index array selects."""
        return Candidates(self.points[chosen], self.family[chosen], self.replicas[chosen], self.broken)


def candidates(setting: Setting, points: Points) -> Candidates:
    """The legal points.

    Parameters
    ----------
    setting : model, machine, engine and workload
    points : points to judge

    Returns
    -------
    Points that keep all rules of `SHAPE` and `MEMORY`.
    """
    legal, broken = judge(Proposal(points, setting), SHAPE)
    points = points[legal]
    legal, no_room = judge(with_memory(points, setting), MEMORY)
    points = points[legal]
    widths_of = np.stack([points.tp, points.pp, points.dp, points.ep, points.expert_tp])
    _, family = np.unique(widths_of, axis=1, return_inverse=True)
    return Candidates(points, family.reshape(-1), replicas(points.devices, setting), broken | no_room)


def divisors(number: int) -> list[int]:
    """All divisors of a number, in ascending order."""
    small = [width for width in range(1, int(number**0.5) + 1) if number % width == 0]
    return sorted({*small, *(number // width for width in small)})


def widths(setting: Setting) -> list[int]:
    """Numbers of devices that an instance may have.

    These are the divisors of the machine and of its domain, numbers of whole hosts, and numbers of whole domains. Hosts
    and domains are counted in numbers without a prime factor above 5 (1, 2, 3, 4, 5, 6, 8, 9, 10 ...). So EP 32, 36,
    40, 72 and 320 are in the list for machines that have them, and the list stays short for hundreds of devices.

    Parameters
    ----------
    setting : setting with the machine

    Returns
    -------
    Numbers of devices in ascending order [count].
    """
    machine = setting.machine
    hosts = (machine.host.devices * count for count in _smooth(machine.domain // machine.host.devices))
    domains = (machine.domain * count for count in _smooth(machine.devices // machine.domain))
    every = {*divisors(machine.devices), *divisors(machine.domain), *hosts, *domains}
    return sorted(width for width in every if width <= min(machine.devices, WIDEST))


def _smooth(most: int) -> Iterator[int]:
    """Numbers up to `most` without a prime factor above 5."""
    for number in range(1, most + 1):
        rest = number
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            yield number


Layout = tuple[int, int, int, int]
"""tp, pp, dp and ep of an instance."""


def layouts(setting: Setting) -> Iterator[Layout]:
    """All widths of an instance that the search tries, legal or not."""
    for pp, stage in ((pp, devices // pp) for devices in widths(setting) for pp in PIPELINES if devices % pp == 0):
        for tp in divisors(stage):
            for ep in divisors(stage) if setting.experts else (1,):
                yield tp, pp, stage // tp, ep


def splits(setting: Setting, of: Iterable[Layout] | None = None) -> Points:
    """All splits of an instance, legal or not: all widths with all settings that belong to a split.

    Each split has the smallest batch that it can run: one sequence and `LEAST_CHUNK` tokens a dp rank.

    Parameters
    ----------
    setting : model and machine
    of : widths of the instances; None: all of `layouts`

    Returns
    -------
    The splits as arrays.
    """
    experts, model = setting.experts, setting.model
    rows = [
        (tp, pp, dp, ep, max(tp * dp // ep, 1) if experts else 1, redundant)
        for tp, pp, dp, ep in (layouts(setting) if of is None else of)
        for redundant in copies(ep, experts.count if experts else 0)
    ]
    options = itertools.product(
        range(len(KV_DTYPES)), DRAFTS if model.draft else DRAFTS[:1], range(len(OVERLAPS) if experts else 1)
    )
    table = np.array([(*row, *option) for row, option in itertools.product(rows, list(options))], dtype=np.int64)
    tp, pp, dp, ep, expert_tp, redundant, kv, draft, overlap = table.T
    return Points(tp, pp, dp, ep, expert_tp, redundant, kv, draft, overlap, dp, dp * LEAST_CHUNK)


def copies(ep: int, experts: int) -> tuple[int, ...]:
    """Redundant experts to try: the smallest number with which ep divides the experts, and one more per rank."""
    if ep == 1:
        return (0,)
    least = -experts % ep
    return (least, least + ep)


def replicas(devices: Ints, setting: Setting) -> Ints:
    """Number of instances that the machine holds.

    An instance that is not larger than a domain lies inside one domain. A larger instance takes whole domains.

    Parameters
    ----------
    devices : devices of one instance [count]
    setting : setting with the machine

    Returns
    -------
    Number of instances [count].
    """
    machine = setting.machine
    shared = machine.domain // devices * (machine.devices // machine.domain)
    count: Ints = np.where(devices <= machine.domain, shared, machine.devices // devices)
    return count
