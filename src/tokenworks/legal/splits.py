"""The splits of an instance: widths that real machines use, and the settings that belong to a split, as arrays."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Bools, Ints
from tokenworks.legal.points import KV_DTYPES, OVERLAPS, Points, Setting
from tokenworks.legal.rules import MEMORY, SHAPE, Proposal, judge, with_memory

WIDEST = 1024  # devices of one instance; the widest that has been reported is EP 320 (CloudMatrix384)
PIPELINES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
DRAFTS = (0, 1, 3)  # MTP of one module, and the same module run thrice (DeepSeek-V3 on SGLang and TensorRT-LLM)
LEAST_CHUNK = 1024  # smallest token budget of one lane, a dp rank's microbatch, that is tried


@dataclass(frozen=True, slots=True)
class Candidates:
    """Legal splits; the family of each, that is its widths; and how many instances the machine holds.

    broken : splits that break each rule first
    """

    points: Points
    family: Ints
    replicas: Ints
    broken: Mapping[str, int]

    def kept(self, chosen: Bools | Ints) -> Candidates:
        """Some of them."""
        return Candidates(self.points[chosen], self.family[chosen], self.replicas[chosen], self.broken)


def candidates(setting: Setting, points: Points) -> Candidates:
    """Those points that keep all rules."""
    legal, broken = judge(Proposal(points, setting), SHAPE)
    points = points[legal]
    legal, no_room = judge(with_memory(points, setting), MEMORY)
    points = points[legal]
    widths_of = np.stack([points.tp, points.pp, points.dp, points.ep, points.expert_tp])
    _, family = np.unique(widths_of, axis=1, return_inverse=True)
    return Candidates(points, family.reshape(-1), replicas(points.devices, setting), broken | no_room)


def divisors(number: int) -> list[int]:
    """All divisors, rising."""
    small = [width for width in range(1, int(number**0.5) + 1) if number % width == 0]
    return sorted({*small, *(number // width for width in small)})


def widths(setting: Setting) -> list[int]:
    """Devices that an instance may have: divisors of the machine and of its domain, whole hosts, whole domains.

    Whole hosts in counts without a prime factor above 5 (1, 2, 3, 4, 5, 6, 8, 9, 10 ...), so that EP 32, 36, 40, 72 and
    320 are there on the machines that have them, and the list stays short on machines of hundreds of devices.
    """
    machine = setting.machine
    hosts = (machine.host.devices * count for count in _smooth(machine.domain // machine.host.devices))
    domains = (machine.domain * count for count in _smooth(machine.devices // machine.domain))
    found = {*divisors(machine.devices), *divisors(machine.domain), *hosts, *domains}
    return sorted(width for width in found if width <= min(machine.devices, WIDEST))


def _smooth(most: int) -> Iterator[int]:
    """Numbers up to `most` without a prime factor above 5."""
    for number in range(1, most + 1):
        rest = number
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            yield number


def splits(setting: Setting) -> Points:
    """Every way to split an instance: all widths with all settings that belong to a split. Legal or not.

    Each with the least that it can run: one sequence and the smallest chunk a rank.
    """
    experts, model = setting.experts, setting.model
    rows = [
        (tp, pp, stage // tp, ep, stage // ep if experts else 1, redundant)
        for pp, stage in ((pp, devices // pp) for devices in widths(setting) for pp in PIPELINES if devices % pp == 0)
        for tp in divisors(stage)
        for ep in (divisors(stage) if experts else (1,))
        for redundant in _copies(ep, experts.count if experts else 0)
    ]
    options = itertools.product(
        range(len(KV_DTYPES)), DRAFTS if model.draft else DRAFTS[:1], range(len(OVERLAPS) if experts else 1)
    )
    table = np.array([(*row, *option) for row, option in itertools.product(rows, list(options))], dtype=np.int64)
    tp, pp, dp, ep, expert_tp, redundant, kv, draft, overlap = table.T
    return Points(tp, pp, dp, ep, expert_tp, redundant, kv, draft, overlap, dp, dp * LEAST_CHUNK)


def _copies(ep: int, experts: int) -> tuple[int, ...]:
    """Redundant experts to try: as few as make experts divide by ep, and one a rank more (room to balance)."""
    if ep == 1:
        return (0,)
    least = -experts % ep
    return (least, least + ep)


def replicas(devices: Ints, setting: Setting) -> Ints:
    """Instances of one size that fit: as many as each domain holds, or one for each run of whole domains."""
    machine = setting.machine
    shared = machine.domain // devices * (machine.devices // machine.domain)
    count: Ints = np.where(devices <= machine.domain, shared, machine.devices // devices)
    return count
