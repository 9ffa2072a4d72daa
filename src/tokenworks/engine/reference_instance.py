"""The instances of the reference engine: ranks that step together, the time of a step, and looks for new requests."""

from __future__ import annotations

import math

from tokenworks.engine.outcome import PoolCounts
from tokenworks.engine.reference_link import ReferenceLink
from tokenworks.engine.reference_rank import Rank, Scheduled, Sequence
from tokenworks.engine.types import Pool

NEVER = math.inf


class ReferenceInstance:
    """Ranks that step together, and the current step.

    start_s, end_s : begin and end of the current step, the end of an idle instance is `NEVER` [s]
    batches : work of each rank in the current step
    anchor : begin, length and growth of the first step of a series of equal steps [s]
    anchor_steps, anchored : number of steps of that series so far, and the sequences that decode in it
    tokens : tokens of the current step
    unseen : requests that were sent to a rank, and that the scheduler has not looked at yet
    unheard : steps since the scheduler looked for new requests
    variant, next_variant : number of the cost of the current step, and of later steps (`types.Pool.cost_of`)
    stopped, stopped_s : whether the instance has stopped, and when [s]
    hold_s, pause_s : no step begins before hold_s; pause after the current step [s]
    loaded_s : end of the last load from KV tiers that the current step computes beside [s]
    lost_steps, down_s : as in `faults.FaultCounts`, without the present stop
    """

    def __init__(self, pool: Pool, number: int, ranks: list[Rank]) -> None:
        self.pool, self.number, self.ranks = pool, number, ranks
        self.start_s, self.end_s = 0.0, NEVER
        self.batches: list[Scheduled] = []
        self.anchor: tuple[float, float, float] = (0.0, 0.0, 0.0)
        self.anchor_steps = self.tokens = 0
        self.anchored: list[Sequence] = []
        self.link = ReferenceLink()
        self.steps = self.decode_sequences = self.output_tokens = self.prefill_tokens = self.unheard = 0
        self.busy_s = 0.0
        self.unseen: list[Sequence] = []
        self.variant = self.next_variant = 0
        self.stopped, self.stopped_s, self.hold_s, self.pause_s, self.loaded_s = False, 0.0, 0.0, 0.0, -math.inf
        self.lost_steps, self.down_s = 0, 0.0

    def start(self, now: float) -> list[Sequence]:
        """Plan a step that begins at `now`, or go idle. A step that only preempted sequences is planned again.

        Returns the admitted sequences whose KV must be transferred, or loaded from KV tiers, first.
        """
        self.start_s, loads = now, list[Sequence]()
        self.look(now)
        for rank in self.ranks:
            self.anchored = [] if rank.ready else self.anchored
            rank.join()
        while True:
            self.batches = [rank.plan(now) for rank in self.ranks]
            loads += [q for batch in self.batches for q in batch.loads]
            if self.busy:
                break
            if not any(batch.preempted for batch in self.batches):
                if not self.unseen:
                    break
                self.batches = []  # an idle scheduler looks at once
                self.look(now)
        written_s = self.ranks[0].tiers.flush(now)
        self.variant = self.next_variant
        self.loaded_s = max(batch.loaded_s for batch in self.batches)
        if self.busy:
            self.end_s = self.with_tiers(self.end_of_step(now), written_s, now)
        else:
            self.end_s, self.anchored, self.batches = NEVER, [], []
            for rank in self.ranks:
                rank.rest()
        return loads

    def with_tiers(self, end: float, written_s: float, now: float) -> float:
        """End of a step that would end at `end` without KV tiers (rules 2 and 4 of `tiers`) [s].

        A step that ends later than it would without tiers also ends a series of equal steps.
        """
        late = max(written_s, self.loaded_s + (end - now) / self.ranks[0].tiers.tiers.layers)
        if late <= end:
            return end
        self.anchored = []
        return late

    def look(self, now: float) -> None:
        """Look for new requests if the instance was idle, has prefilled, or has decoded `receive_interval` times.

        SGLang 0.5.23 counts a decode step as 1 and any other step as 1000, and looks when the count reaches
        --scheduler-recv-interval (srt/managers/scheduler_components/recv_skipper.py). An idle loop also counts as 1,
        but it takes no time.
        """
        self.unheard += 1
        prefilled = any(batch.prefills for batch in self.batches)
        if self.busy and not prefilled and self.unheard < self.pool.limits.receive_interval:
            return
        for q in self.unseen:
            assert q.at is not None
            q.at.unseen -= 1
            q.at.join_queue(q, now)
        self.unheard, self.unseen = 0, []

    # ---- failures (the rules stand in `faults`)

    def wake(self, now: float) -> None:
        """Plan a step now if the instance is idle, or as soon as a step may begin."""
        if not self.batches:
            self.end_s = min(self.end_s, max(now, self.hold_s))

    def stop(self, now: float) -> None:
        """The instance stops, and its step in flight is lost (rule 1)."""
        if self.stopped:
            return
        self.stopped, self.stopped_s, self.hold_s, self.end_s = True, now, NEVER, NEVER
        self.lose_step(now)

    def lose_step(self, now: float) -> None:
        """Count the step in flight as lost, if there is one."""
        if self.batches:
            self.lost_steps += 1
            self.busy_s += now - self.start_s

    def go_on(self, now: float) -> None:
        """The instance goes on after a stop (rule 2)."""
        if not self.stopped:
            return
        self.stopped, self.hold_s = False, now
        self.down_s += now - self.stopped_s
        self.begin_again(now)

    def begin_again(self, now: float) -> None:
        """Begin the lost step again, or plan a new step if no request of the lost step is left."""
        self.variant, self.start_s, self.anchored = self.next_variant, now, []
        if self.busy:
            self.end_s = self.with_tiers(self.end_of_step(now), -math.inf, now)
        else:
            self.batches, self.end_s = [], now

    def change_cost(self, variant: int) -> None:
        """Later steps have another cost (rule 4)."""
        if variant != self.next_variant:
            self.next_variant, self.anchored = variant, []

    def begin_pause(self, now: float) -> bool:
        """Begin the pause that is due after a step. Returns whether there is one (rule 3)."""
        if not self.pause_s:
            return False
        self.batches, self.hold_s, self.pause_s = [], now + self.pause_s, 0.0
        self.end_s, self.anchored = self.hold_s, []
        return True

    @property
    def busy(self) -> bool:
        """Whether the planned step computes any token."""
        return any(batch.decodes or batch.prefills for batch in self.batches)

    def end_of_step(self, now: float) -> float:
        """End of the planned step [s].

        As long as a single rank decodes the same sequences, step times form an arithmetic series. With t0 the begin of
        the first step, g the mean tokens gained and the symbols of `types.StepCost`, step k ends at

            t(k) = t0 + k (f(m) + a n + b S) + b n g k (k - 1) / 2

        The closed form has no error that grows with k, and the kernel uses it, too.
        """
        cost, ranks = self.pool.cost_of(self.variant), len(self.ranks)
        works = [batch.work(rank) for batch, rank in zip(self.batches, self.ranks, strict=True)]
        self.tokens = sum(work[0] for work in works)
        pure = ranks == 1 and not self.batches[0].prefills
        if pure and self.anchored == self.batches[0].decodes:
            self.anchor_steps += 1
        else:
            hottest = max(
                cost.decode_sequence_s * n
                + cost.decode_context_s * s
                + cost.prefill_context_s * q
                + cost.prefill_token_s * p
                for _, n, s, q, p in works
            )
            together = cost.together_context_s * sum(work[3] for work in works)
            step = float(cost.by_tokens[self.tokens]) + together + ranks * hottest
            growth = cost.decode_context_s * works[0][1] * self.pool.limits.tokens_per_step
            self.anchor, self.anchor_steps = (now, step, growth), 1
        self.anchored = list(self.batches[0].decodes) if pure else []
        start, step, growth = self.anchor
        k = float(self.anchor_steps)
        return start + (k * step + growth * (k * (k - 1.0) * 0.5))


def pool_counts(own: list[ReferenceInstance]) -> PoolCounts:
    """Counters of a pool: the sums over its instances `own`."""
    ranks = [rank for instance in own for rank in instance.ranks]
    return PoolCounts(
        steps=sum(i.steps for i in own), decode_sequences=sum(i.decode_sequences for i in own),
        output_tokens=sum(i.output_tokens for i in own), prefill_tokens=sum(i.prefill_tokens for i in own),
        query_tokens=sum(r.queries for r in ranks), hit_tokens=sum(r.hits for r in ranks),
        preemptions=sum(r.preemptions for r in ranks), evictions=sum(r.evictions for r in ranks),
        busy_s=sum(i.busy_s for i in own), link_busy_s=sum(i.link.busy_s for i in own),
        link_flows=sum(i.link.flows for i in own), kv_total=sum(r.limits.kv_blocks for r in ranks),
        kv_used=sum(r.limits.kv_blocks - len(r.free) for r in ranks),
    )  # fmt: skip
