"""Failures in the reference engine: instances stop and pause, ranks are lost and come back. `faults` has the rules."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

from tokenworks.engine.faults import FaultCounts
from tokenworks.engine.reference_instance import NEVER, ReferenceInstance
from tokenworks.engine.reference_rank import Rank, Scheduled, Sequence
from tokenworks.engine.types import Status

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
            instances[index].change_cost(int(value))
        elif kind == "lose":
            self.lose(self.ranks[index])
        else:
            self.ranks[index].lost = False

    @property
    def ranks(self) -> list[Rank]:
        """All ranks, pool after pool."""
        return [rank for pool in self.engine.pools for rank in pool]

    def lose(self, rank: Rank) -> None:
        """The cluster notices the loss of a rank (rules 5 and 7)."""
        engine, instance, now = self.engine, self.engine.home[id(rank)], self.engine.now
        if rank.lost:
            return
        rank.lost = True
        if not instance.stopped:
            instance.lose_step(now)
        if instance.batches:
            instance.batches[instance.ranks.index(rank)] = Scheduled()
        for q in engine.sequences:
            if q.status in {Status.QUEUED, Status.RUNNING} and (q.at is rank or (q.left and q.left[0] is rank)):
                self.leave(q, rank)
        rank.clear()
        if rank.tiers is engine.tiers:
            engine.tiers.clear(rank.number)
            engine.router.forget(rank)
        if instance.batches and not instance.stopped:
            instance.begin_again(now)
        elif not instance.busy:
            instance.batches = []

    def leave(self, q: Sequence, lost: Rank) -> None:
        """A request leaves the lost rank, or the decode rank that waits for its KV from the lost rank."""
        engine, at = self.engine, q.at
        assert at is not None
        unseen = engine.home[id(at)].unseen
        if q in unseen:
            unseen.remove(q)
            at.unseen -= 1
        elif q.status is Status.QUEUED:
            (at.prefetching if q in at.prefetching else at.waiting[q.priority]).remove(q)
        elif held := [place for place in (at.running, at.ready, at.loaded) if q in place]:
            held[0].remove(q)
        else:
            at.loading -= 1
            engine.loads = [load for load in engine.loads if load[2] is not q]
            heapq.heapify(engine.loads)
        at.load -= 1
        q.prefetches.clear()
        engine.prefetches = [end for end in engine.prefetches if end[1] != q.index]
        heapq.heapify(engine.prefetches)
        if at is not lost:
            at.release(q, engine.now)
            engine.wake(at)
            q.left = None
        engine.let_go(q)
        lost.lost_requests += 1
        lost.lost_kv_tokens += q.goal if q.remote else q.computed
        self.part(q, lost)

    def part(self, q: Sequence, lost: Rank) -> None:
        """A request that has left a lost rank arrives at the router at the same time."""
        engine = self.engine
        engine.pay(q)
        q.anonymous, q.cached, q.chained, q.computed = [], [], 0, 0
        q.at, q.status, q.lost = lost, Status.PENDING, True
        q.decoding = q.remote = q.loading = False
        heapq.heappush(engine.arrivals, (engine.now, q.index))

    def send_again(self, q: Sequence) -> bool:
        """Whether the router sends a lost request again; if not, the request ends (rule 6)."""
        cluster, rank, q.lost = self.engine.cluster, q.at, False
        assert rank is not None
        front = self.engine.pools[0][0]
        if q.cancelled or q.status is Status.CANCELLED:
            self.engine.end(q, Status.CANCELLED)
            return False
        if not q.load.failed and cluster.on_loss != "fail" and q.retries < cluster.retries:
            if cluster.on_loss == "restart":
                rank.lost_output_tokens += q.generated
                q.generated, q.first_s, q.lag_s = 0, math.nan, 0.0
            q.goal = q.input + q.generated
            if front.blocks_for(q.goal) <= front.limits.kv_blocks:
                q.retries += 1
                rank.retries += 1
                return True
        rank.lost_output_tokens += q.generated
        self.engine.end(q, Status.FAILED)
        return False


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
    ranks = [rank for instance in own for rank in instance.ranks]
    return FaultCounts(
        lost_steps=sum(i.lost_steps for i in own), lost_requests=sum(r.lost_requests for r in ranks),
        retries=sum(r.retries for r in ranks), lost_output_tokens=sum(r.lost_output_tokens for r in ranks),
        lost_kv_tokens=sum(r.lost_kv_tokens for r in ranks), down_s=down_s,
    )  # fmt: skip
