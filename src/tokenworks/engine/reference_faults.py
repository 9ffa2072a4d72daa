"""Failures in the reference engine: instances stop, go on, pause, and change their cost. `faults` has the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenworks.engine.faults import FaultCounts
from tokenworks.engine.reference_instance import NEVER, ReferenceInstance

if TYPE_CHECKING:
    from tokenworks.engine.reference import Reference


class ReferenceFaults:
    """The events of instances and ranks in a reference engine.

    engine : the engine that the events change
    """

    def __init__(self, engine: Reference) -> None:
        self.engine = engine

    def play(self, kind: str, index: int, value: float) -> None:
        """Play an event of a kind in `outside.KINDS`, but "cancel"."""
        instances, now = self.engine.instances, self.engine.now
        if kind == "stop":
            instances[index].stop(now)
        elif kind == "start":
            instances[index].go_on(now)
        elif kind == "pause":
            pause(instances[index], value, now)
        elif kind == "cost":
            instances[index].next_cost = instances[index].pool.cost_of(int(value))
            instances[index].anchored = []


def pause(instance: ReferenceInstance, seconds: float, now: float) -> None:
    """An instance pauses after its step, or now if it is idle (rule 3)."""
    if instance.stopped:
        return
    if instance.batches:
        instance.pause_s += seconds
        return
    instance.hold_s = max(instance.hold_s, now) + seconds
    if instance.end_s < NEVER:
        instance.end_s = instance.hold_s


def fault_counts(own: list[ReferenceInstance], now: float) -> FaultCounts:
    """Counters of a pool up to now: the sums over its instances `own`."""
    down_s = sum(i.down_s + (now - i.stopped_s if i.stopped else 0.0) for i in own)
    return FaultCounts(lost_steps=sum(i.lost_steps for i in own), down_s=down_s)
