"""The reference engine in plain Python: step by step and block by block. It is slow; `kernel` must give equal results.

This module has the client, the front end, and the KV transfer from prefill to decode. `reference_instance` has the
instances, `reference_rank` the scheduler and the prefix cache of one rank with the rules of vLLM, `reference_tree` with
the rules of SGLang, `reference_router` the choice of a rank, `reference_link` the links, `reference_tiers` the KV tiers
below HBM, `reference_faults` failures, `reference_results` the results.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import replace

from tokenworks.engine.gaps import itl_bin
from tokenworks.engine.outcome import Outcome
from tokenworks.engine.policies import POLICIES
from tokenworks.engine.reference_faults import ReferenceFaults
from tokenworks.engine.reference_instance import NEVER, ReferenceInstance
from tokenworks.engine.reference_link import book
from tokenworks.engine.reference_rank import Rank, Sequence
from tokenworks.engine.reference_results import ReferenceResults
from tokenworks.engine.reference_router import ReferenceRouter
from tokenworks.engine.reference_tiers import ReferenceTiers
from tokenworks.engine.reference_tree import TreeRank
from tokenworks.engine.tiers import Tiers
from tokenworks.engine.types import Cluster, Requests, Status


class Reference(ReferenceResults):
    """A simulation of a cluster with the methods of `simulator.Simulator`, where they are documented.

    arrivals : heap of (time, number) of requests on their way to the client's gate, or past it to a rank
    loads : heap of KV transfers, and of loads from KV tiers, by their ends
    prefetches : heap of ends of prefetches from KV tiers (time, request, tier), and of times at which requests that
        wait for them are queued (time, request, number of tiers)
    gate : requests that wait for a slot of the client; flying : slots in use
    freed : heap of the times at which slots become free after now
    door_s : time at which the front end is free for the next request [s]
    outside : heap of events from outside; given : number of them so far
    """

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.children: dict[int, list[int]] = {}
        self.arrivals: list[tuple[float, int]] = []
        self.loads: list[tuple[float, int, Sequence]] = []
        self.prefetches: list[tuple[float, int, int]] = []
        self.gate: deque[Sequence] = deque()
        self.freed: list[float] = []
        self.door_s = 0.0
        self.flying = self.given = 0
        self.outside: list[tuple[float, int, str, int, float]] = []
        self.faults = ReferenceFaults(self)
        emitted: list[tuple[float, int, int, bool]] = []
        self.home: dict[int, ReferenceInstance] = {}
        self.tiers = ReferenceTiers(cluster.tiers, emitted)
        for pool in cluster.pools:
            kind = Rank if POLICIES[pool.limits.policy].mixes else TreeRank
            tiers = ReferenceTiers(Tiers(), emitted) if pool.role == "decode" else self.tiers
            ranks: list[Rank] = [kind(pool, i, emitted, tiers) for i in range(pool.instances * pool.ranks)]
            self.pools.append(ranks)
            for i in range(pool.instances):
                instance = ReferenceInstance(pool, len(self.instances), ranks[i :: pool.instances])
                self.instances.append(instance)
                self.home.update({id(rank): instance for rank in instance.ranks})
        self.router = ReferenceRouter(cluster, self.pools[0], emitted)

    # ---- driving

    def submit(self, requests: Requests) -> None:
        """Add requests to the simulation."""
        base = len(self.sequences)
        doomed = self.cluster.never_fits(requests.input_tokens, requests.output_tokens)
        for i in range(len(requests)):
            low, high = requests.block_offsets[i : i + 2]
            first_event = float(requests.arrival_s[i]) + (0.0 if self.cluster.concurrency else self.cluster.request_s)
            q = Sequence(base + i, first_event, int(requests.input_tokens[i]),
                         int(requests.output_tokens[i]), int(requests.priority[i]), int(requests.group[i]),
                         requests.block_ids[low:high].tolist(), doomed=bool(doomed[i]))  # fmt: skip
            self.sequences.append(q)
            if requests.after[i] >= 0:
                self.children.setdefault(base - requests.earlier + int(requests.after[i]), []).append(q.index)
            else:
                heapq.heappush(self.arrivals, (q.sent_s, q.index))

    def advance(self, until: float = NEVER, *, sent: int | None = None) -> None:
        """Play all events up to and including `until`.

        Order at the same time: free slots of the client, arrivals, KV transfers and loads, prefetches, ends of steps,
        events of `at`.

        With `sent`, stop earlier, right after the `sent`-th request has reached a rank.
        """
        while sent is None or self.sent < sent:
            instance = min(self.instances, key=lambda i: (i.end_s, i.number))
            arrival = self.arrivals[0][0] if self.arrivals else NEVER
            load = self.loads[0][0] if self.loads else NEVER
            prefetch = self.next_prefetch()
            outside = self.outside[0][0] if self.outside else NEVER
            freed = self.freed[0] if self.freed else NEVER
            time = min(freed, arrival, load, prefetch, instance.end_s, outside)
            self.sample(min(time, until))
            if time > until or time == NEVER:
                self.now = until if until < NEVER else self.now
                return
            self.now = time
            if freed == time:
                heapq.heappop(self.freed)
                self.open_gate()
            elif arrival == time:
                self.arrive(self.sequences[heapq.heappop(self.arrivals)[1]])
            elif load == time:
                self.loaded(heapq.heappop(self.loads)[2])
            elif prefetch == time:
                _, index, tier = heapq.heappop(self.prefetches)
                self.prefetched(self.sequences[index], tier)
            elif instance.end_s == time:
                self.finish(instance)
                if not instance.begin_pause(time):
                    self.fetch(instance, instance.start(time))
            else:
                while self.outside and self.outside[0][0] == time:
                    self.happen(*heapq.heappop(self.outside)[2:])
            self.tiers.flush(self.now)

    def at(self, time_s: float, kind: str, index: int, value: float = 0.0) -> None:
        """Schedule an event from outside. Events at the same time happen in the order of the calls."""
        self.given += 1
        heapq.heappush(self.outside, (time_s, self.given, kind, index, value))

    def happen(self, kind: str, index: int, value: float) -> None:
        """Play an event from outside now."""
        if kind == "cancel":
            self.withdraw(self.sequences[index])
        else:
            self.faults.play(kind, index, value)

    def cancel(self, index: int) -> None:
        """Withdraw a request now: a running request leaves at the end of its step. Its later turns are never sent."""
        self.withdraw(self.sequences[index])
        self.tiers.flush(self.now)

    def withdraw(self, q: Sequence) -> None:
        """Handle the event "cancel"."""
        if q.status is Status.RUNNING:
            q.cancelled = True
        elif q.status is Status.QUEUED and q.at:
            unseen = self.home[id(q.at)].unseen
            if q in unseen:
                unseen.remove(q)
                q.at.unseen -= 1
            elif q in q.at.prefetching:
                q.at.prefetching.remove(q)
            else:
                q.at.waiting[q.priority].remove(q)
            self.let_go(q)
            self.drop(q, Status.CANCELLED)
        elif q.status is Status.PENDING and not q.forgotten:
            q.status = Status.CANCELLED

    # ---- events

    def arrive(self, q: Sequence) -> None:
        """A request reaches the client's gate, or a rank if the client has sent it."""
        if q.lost:
            if self.faults.send_again(q):
                self.route(q)
            return
        if q.status is not Status.PENDING:
            self.forget(q)
            if not q.gated:
                self.open_gate()
            return
        if self.cluster.concurrency and q.gated:
            if self.flying < self.cluster.concurrency:
                self.flying += 1
                self.send(q)
            else:
                self.gate.append(q)
            return
        if self.waits_at_door(q):
            return
        q.sent_s, q.goal = self.now - self.cluster.request_s - q.late_s, q.input
        self.sent += 1
        if q.doomed:
            self.end(q, Status.REJECTED)
            return
        self.route(q)

    def route(self, q: Sequence) -> None:
        """The router sends `q` to a rank."""
        number = self.router.choose(q, self.now)
        if number < 0:
            self.reject(q)
            return
        q.route, rank = number, self.pools[0][number]
        rank.owed += q.owed
        if rank.limits.max_queue and rank.queued() + rank.outside() >= rank.limits.max_queue:
            self.reject(q)
        elif not self.prefetch(q, rank):
            self.reach(q, rank)

    def reject(self, q: Sequence) -> None:
        """Refuse `q`. It may have output tokens from a rank that was lost."""
        if q.at:
            q.at.lost_output_tokens += q.generated
        self.end(q, Status.REJECTED)

    def reach(self, q: Sequence, rank: Rank) -> None:
        """Hand `q` to the scheduler of a rank, which may look for new requests only later."""
        instance = self.home[id(rank)]
        if not instance.batches or rank.limits.receive_interval == 1:
            self.enqueue(q, rank)
            return
        q.at, q.status = rank, Status.QUEUED
        instance.unseen.append(q)
        rank.unseen += 1
        rank.load += 1

    def waits_at_door(self, q: Sequence) -> bool:
        """Whether `q` must wait because the front end still accepts the requests before it."""
        if q.accepted or not self.cluster.accept_s:
            return False
        q.accepted = True
        begin = max(self.now, self.door_s)
        self.door_s = begin + self.cluster.accept_s
        if begin == self.now:
            return False
        q.late_s, q.sent_s = begin - self.now, begin
        heapq.heappush(self.arrivals, (begin, q.index))
        return True

    def send(self, q: Sequence) -> None:
        """The client has a slot for `q` and sends it now; `q` reaches a rank `request_s` later."""
        q.gated, q.sent_s = False, self.now + self.cluster.request_s
        heapq.heappush(self.arrivals, (q.sent_s, q.index))

    def enqueue(self, q: Sequence, rank: Rank) -> None:
        """Add `q` to a rank's queue."""
        q.at, q.status = rank, Status.QUEUED
        rank.join_queue(q, self.now)
        rank.load += 1
        self.wake(rank)

    def wake(self, rank: Rank) -> None:
        """Let an idle instance plan a step now, after all arrivals at this time."""
        self.home[id(rank)].wake(self.now)

    def finish(self, instance: ReferenceInstance) -> None:
        """End the step of an instance: sequences get their tokens, and complete or cancelled sequences leave."""
        if not instance.busy:
            return
        instance.steps += 1
        instance.busy_s += self.now - instance.start_s
        for rank, batch in zip(instance.ranks, instance.batches, strict=True):
            gain = rank.gain
            rank.ticks += bool(batch.decodes)
            instance.decode_sequences += len(batch.decodes)
            for q in sorted(batch.decodes, key=lambda q: q.output - q.generated):  # the fewest remaining tokens first
                q.computed += gain
                self.produce(q, instance, min(gain, q.output - q.generated))
            for q, tokens in batch.prefills:
                q.computed += tokens
                instance.prefill_tokens += tokens
                if not rank.policy.mixes:
                    rank.store(q, self.now)
                if q.computed == q.goal and not q.load.failed:
                    q.decoding = True
                    rank.to_decodes(q)
                    if math.isnan(q.first_s):
                        square = tokens * (q.computed - tokens) + tokens * (tokens + 1) // 2
                        q.lag_s = instance.pool.lag_s(instance.tokens, tokens, square, instance.variant)
                    self.produce(q, instance, 1)
                else:
                    rank.full = False
            for q in [q for q in rank.running if q.cancelled or q.load.failed]:
                self.drop(q, Status.CANCELLED if q.cancelled else Status.FAILED)

    def produce(self, q: Sequence, instance: ReferenceInstance, tokens: int) -> None:
        """Add `tokens` to the output of `q`, and count the gap since its last output."""
        q.generated += tokens
        instance.output_tokens += tokens
        if math.isnan(q.first_s):
            q.first_s = self.now + q.lag_s
            self.pay(q)
        else:
            self.pay(q)  # a migrated request
            self.itl[q.group, itl_bin(self.now - q.last_s)] += 1
        q.last_s = self.now
        if q.generated == q.output:
            self.drop(q, Status.COMPLETED)
        elif instance.pool.role == "prefill" and not q.cancelled:
            self.hand_over(q)

    def drop(self, q: Sequence, status: Status) -> None:
        """Remove `q` from its rank and end it."""
        rank = q.at
        assert rank is not None
        q.prefetches.clear()
        rank.load -= 1
        if q in rank.running:
            rank.running.remove(q)
            rank.full = False
        rank.release(q, self.now)
        self.end(q, status)

    def end(self, q: Sequence, status: Status) -> None:
        """End `q`: its later turns are scheduled, and its slot of the client becomes free."""
        q.status, q.end_s = status, self.now + q.lag_s
        self.pay(q)
        if status is Status.COMPLETED:
            self.ended.append(q)
            for turn in self.followers(q):
                if turn.status is Status.PENDING:
                    turn.sent_s += q.end_s
                    heapq.heappush(self.arrivals, (turn.sent_s, turn.index))
                else:
                    self.forget(turn)
        else:
            self.forget(q)
        if self.cluster.concurrency and q.lag_s:
            heapq.heappush(self.freed, q.end_s)  # the client sees the end only then
        elif self.cluster.concurrency:
            self.open_gate()

    def followers(self, q: Sequence) -> list[Sequence]:
        """Requests whose parent is `q`."""
        return [self.sequences[child] for child in self.children.get(q.index, [])]

    def forget(self, q: Sequence) -> None:
        """`q` has ended without completing, so its followers, and their followers, are never sent."""
        self.ended.append(q)
        todo = [q]
        while todo:
            turns = self.followers(todo.pop())
            self.ended += turns
            for turn in turns:
                turn.forgotten = True
            todo += turns

    def pay(self, q: Sequence) -> None:
        """The router no longer counts the prompt of `q`: its first token is out, or will never come."""
        if q.owed:
            self.pools[0][q.route].owed -= q.owed
            q.owed = 0

    def open_gate(self) -> None:
        """A slot of the client becomes free: the client sends the next request that waits at the gate, if any."""
        while self.gate:
            q = self.gate.popleft()
            if q.status is Status.PENDING:
                self.send(q)
                return
            self.forget(q)
        self.flying -= 1

    # ---- prefill to decode (vLLM's NIXL connector: the decode side reserves blocks, then pulls)

    def hand_over(self, q: Sequence) -> None:
        """Queue a finished prefill at the least loaded decode rank. The prefill rank keeps the KV until then."""
        rank = q.at
        assert rank is not None
        live = [rank for rank in self.pools[1] if not rank.lost]
        if not live:
            rank.lost_output_tokens += q.generated
            self.drop(q, Status.REJECTED)
            return
        rank.running.remove(q)
        rank.full = False
        rank.load -= 1
        q.left = (rank, replace(q))
        q.anonymous, q.cached, q.chained = [], [], 0
        q.computed, q.decoding, q.remote = 0, False, True
        self.enqueue(q, min(live, key=lambda r: (r.load, r.number)))

    def fetch(self, instance: ReferenceInstance, loads: list[Sequence]) -> None:
        """Start the KV transfers of admitted requests, in the order of admission; loads are booked already."""
        transfer = self.cluster.transfer
        for q in loads:
            if q.loading:
                heapq.heappush(self.loads, (q.load.end_s, q.index, q))
                continue
            assert q.left is not None
            seconds = transfer.latency_s + q.goal * transfer.seconds_per_token * (1.0 - transfer.overlap)
            done = book((self.home[id(q.left[0])].link, instance.link), seconds, self.now)
            heapq.heappush(self.loads, (done, q.index, q))

    def loaded(self, q: Sequence) -> None:
        """The KV transfer of `q` has ended: the prefill rank frees the KV, and `q` decodes from the next step on.

        Or the load of `q` from KV tiers has ended: its prefill starts in the next step.
        """
        rank = q.at
        assert rank is not None
        self.let_go(q)
        rank.loading -= 1
        if q.remote:
            q.remote, q.computed, q.decoding = False, q.goal, True
        if q.cancelled or q.load.failed:
            self.drop(q, Status.CANCELLED if q.cancelled else Status.FAILED)
        else:
            (rank.loaded if q.loading else rank.ready).append(q)
        q.loading = False
        self.wake(rank)

    def let_go(self, q: Sequence) -> None:
        """Free the KV of `q` at its prefill rank."""
        if q.left:
            rank, holding = q.left
            rank.release(holding, self.now)
            q.left = None
            self.wake(rank)

    # ---- prefetches from KV tiers

    def prefetch(self, q: Sequence, rank: Rank) -> bool:
        """Start the prefetches of `q`, which reaches `rank`. Returns whether `q` waits for them."""
        if not self.tiers.tiers.stores:
            return False
        due = self.tiers.prefetch(rank.number, q, len(Rank.find(rank, q, q.goal - 1)), self.now)
        for one in q.prefetches:
            heapq.heappush(self.prefetches, (one.end_s, q.index, one.tier))
        if due <= self.now:
            return False
        heapq.heappush(self.prefetches, (due, q.index, len(self.tiers.stores)))
        q.at, q.status = rank, Status.QUEUED
        rank.take_place(q, self.now)
        rank.prefetching.append(q)
        rank.load += 1
        return True

    def next_prefetch(self) -> float:
        """Time of the next event of a prefetch [s]. Events of prefetches that were cut or cancelled are dropped."""
        while self.prefetches:
            time, index, tier = self.prefetches[0]
            q = self.sequences[index]
            if tier in [one.tier for one in q.prefetches] or q in self.pools[0][q.route].prefetching:
                return time
            heapq.heappop(self.prefetches)
        return NEVER

    def prefetched(self, q: Sequence, tier: int) -> None:
        """A prefetch of `q` has ended, or `q` has waited long enough (`tier` = number of tiers) and is queued."""
        rank = self.pools[0][q.route]
        for one in [one for one in q.prefetches if one.tier == tier]:
            self.tiers.land(rank.number, one, self.now)
            q.prefetches.remove(one)
        if tier == len(self.tiers.stores) and q in rank.prefetching:
            rank.prefetching.remove(q)
            rank.insert(q)
            self.wake(rank)


def run(cluster: Cluster, requests: Requests) -> Outcome:
    """Outcome of a cluster that serves all requests to the end."""
    engine = Reference(cluster)
    engine.submit(requests)
    engine.advance()
    return engine.outcome()
