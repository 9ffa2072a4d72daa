"""The readable oracle: one iteration at a time, block by block, in plain Python; slow, and what `kernel` must equal.

Rules follow vLLM 0.19 (v1/core/sched/scheduler.py, v1/core/kv_cache_manager.py, block_pool.py) and SGLang 0.5
(srt/managers/scheduler.py, schedule_policy.py, schedule_batch.py). Where this model departs, the docstring says so.
Departures that hold everywhere: scheduling is synchronous (no step is planned while another runs); a block whose
hash is already cached stays unfindable until its sequence leaves; output blocks become findable when it leaves.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenworks.engine.gaps import ITL_BINS, itl_bin
from tokenworks.engine.types import PRIORITIES, SERIES, Cluster, Outcome, Pool, PoolCounts, Requests, Status

NEVER = math.inf


@dataclass(eq=False)
class Sequence:
    """A request on its way. `computed` tokens are in the cache; prefill is done when they reach `goal`."""

    index: int
    sent_s: float
    input: int
    output: int
    priority: int
    ids: list[int]
    status: Status = Status.PENDING
    goal: int = 0
    computed: int = 0
    generated: int = 0
    decoding: bool = False
    remote: bool = False
    cancelled: bool = False
    gated: bool = True
    anonymous: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    chained: int = 0
    scheduled_s: float = math.nan
    first_s: float = math.nan
    last_s: float = math.nan
    end_s: float = math.nan
    hit: int = 0
    preemptions: int = 0
    at: Rank | None = None
    left: tuple[Rank, Sequence] | None = None
    doomed: bool = False
    route: int = -1


class Rank:
    """The scheduler and paged KV cache of one data-parallel rank."""

    def __init__(self, pool: Pool, number: int, emit: list[tuple[float, int, int, bool]]) -> None:
        self.limits, self.number, self.emit = pool.limits, number, emit
        self.waiting: list[deque[Sequence]] = [deque() for _ in range(PRIORITIES)]
        self.ready: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.loading = self.load = self.ticks = 0
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(pool.limits.kv_blocks))
        self.users = [0] * pool.limits.kv_blocks
        self.content: dict[int, int] = {}
        self.where: dict[int, int] = {}
        self.queries = self.hits = self.evictions = self.preemptions = 0

    # ---- the token clock: every decoding sequence gains the same tokens in a step, tokens_per_step on average

    def clock(self, ticks: int) -> int:
        """Tokens gained by a sequence that decoded all the first `ticks` decode steps."""
        return math.floor(ticks * self.limits.tokens_per_step)

    @property
    def gain(self) -> int:
        """Tokens that each sequence gains in the next decode step."""
        return self.clock(self.ticks + 1) - self.clock(self.ticks)

    # ---- blocks (vLLM block_pool.py: one queue of free blocks, oldest content first)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` and the slots of the drafts ahead."""
        return -(-(tokens + self.limits.draft_tokens) // self.limits.block_tokens)

    def short(self, q: Sequence, tokens: int) -> int:
        """Blocks that `q` lacks to hold `tokens`."""
        return self.blocks_for(tokens) - len(q.anonymous) - len(q.cached)

    def allocate(self, q: Sequence, count: int, now: float) -> None:
        """Take blocks from the head of the queue; what they held is forgotten."""
        for _ in range(count):
            block, _none = self.free.popitem(last=False)
            if block in self.content:
                self.emit.append((now, self.number, self.content[block], False))
                del self.where[self.content.pop(block)]
                self.evictions += 1
            q.anonymous.append(block)

    def store(self, q: Sequence, now: float) -> None:
        """Make the full blocks that `q` has computed findable by their chained hash."""
        tokens = min(q.computed, q.input + q.output - 1)
        full = min(tokens // self.limits.block_tokens, len(q.ids)) if self.limits.prefix_caching else 0
        for name in q.ids[q.chained : full]:
            if name not in self.where:
                block = q.anonymous.pop()
                self.where[name], self.content[block], self.users[block] = block, name, 1
                q.cached.append(block)
                self.emit.append((now, self.number, name, True))
        q.chained = max(q.chained, full)

    def find(self, q: Sequence) -> list[int]:
        """Longest cached prefix in full blocks; the last token is always computed (kv_cache_manager.py)."""
        if not self.limits.prefix_caching:
            return []
        found: list[int] = []
        for name in q.ids[: (q.goal - 1) // self.limits.block_tokens]:
            if name not in self.where:
                break
            found.append(self.where[name])
        return found

    def release(self, q: Sequence, now: float) -> None:
        """Free the blocks to the tail: unfindable ones first, then the chain from its end, so roots live longest."""
        self.store(q, now)
        for block in q.anonymous:
            self.free[block] = None
        for block in reversed(q.cached):
            self.users[block] -= 1
            if not self.users[block]:
                self.free[block] = None
        q.anonymous, q.cached, q.chained = [], [], 0

    # ---- admission

    def join(self) -> None:
        """Sequences whose KV has arrived decode from the next step on; an unfinished prefill stays last."""
        at = len(self.running) - bool(self.running and not self.running[-1].decoding)
        self.running[at:at] = self.ready
        self.ready.clear()

    def next_waiting(self) -> Sequence | None:
        """First of the first class that waits."""
        return next((queue[0] for queue in self.waiting if queue), None)

    def queued(self) -> int:
        """Requests that wait."""
        return sum(map(len, self.waiting))

    def admit(self, q: Sequence, budget: int, now: float) -> int:
        """Tokens to compute for a waiting `q` in this step, 0 if its whole sequence does not fit now.

        vLLM 0.19 admits only what fits as a whole (scheduler_reserve_full_isl); cached blocks in use by others need
        no room, cached blocks that nobody uses do, as they leave the free queue. Hits of preempted ones don't count.
        """
        limits, found = self.limits, self.find(q)
        shared = sum(self.users[block] > 0 for block in found)
        margin = limits.watermark_blocks if self.running or self.loading else 0
        margin += -(-limits.reserve_tokens * len(self.running) // limits.block_tokens)
        if self.blocks_for(q.goal) - shared + margin > len(self.free):
            return 0
        for block in found:
            if not self.users[block]:
                del self.free[block]
            self.users[block] += 1
        q.cached, q.chained = list(found), len(found)
        q.computed = len(found) * limits.block_tokens
        tokens = min(q.goal - q.computed, budget)
        self.allocate(q, self.short(q, q.goal if q.remote else q.computed + tokens), now)
        if not q.preemptions and not q.remote:
            self.queries += q.goal
            self.hits += q.computed
            q.hit = q.computed
        self.waiting[q.priority].popleft()
        q.status = Status.RUNNING
        q.scheduled_s = now if math.isnan(q.scheduled_s) else q.scheduled_s
        return tokens

    def preempt(self, q: Sequence, now: float, *, to_tail: bool) -> None:
        """Drop the KV of `q`; it will be computed again, its generated tokens as part of the prompt."""
        self.running.remove(q)
        self.release(q, now)
        q.status, q.decoding, q.computed, q.goal = Status.QUEUED, False, 0, q.input + q.generated
        q.preemptions += 1
        self.preemptions += 1
        if to_tail:
            self.waiting[q.priority].append(q)
        else:
            self.waiting[q.priority].appendleft(q)


@dataclass
class Batch:
    """What one rank computes in a step. `joined`: sequences whose KV has just arrived."""

    decodes: list[Sequence] = field(default_factory=list)
    prefills: list[tuple[Sequence, int]] = field(default_factory=list)
    loads: list[Sequence] = field(default_factory=list)
    preempted: bool = False

    def work(self, rank: Rank) -> tuple[int, int, int, int, int]:
        """(m, n, S, Q, p) of `types.StepCost`, before the step's tokens are counted as computed."""
        prefill = sum(tokens for _, tokens in self.prefills)
        m = len(self.decodes) * (1 + rank.limits.draft_tokens) + prefill
        context = sum(q.computed + 1 for q in self.decodes)
        square = sum(t * q.computed + t * (t + 1) // 2 for q, t in self.prefills)
        return m, len(self.decodes), context, square, prefill


def vllm(rank: Rank, now: float) -> Batch:
    """VLLM V1: what runs comes first and shares the token budget with at most one unfinished prefill, then waiting.

    Without a free block the worst of the running is preempted: the last of the last class. Nothing is admitted in a
    step that preempted. Departure: when a sequence preempts itself, the rest of the batch still runs.
    """
    batch, budget, index = Batch(), rank.limits.token_budget, 0
    width = 1 + rank.limits.draft_tokens
    while index < len(rank.running):
        q = rank.running[index]
        tokens = width if q.decoding else min(q.goal - q.computed, budget)
        need = rank.short(q, q.computed + (rank.gain if q.decoding else tokens))
        while need > len(rank.free) and q.status is Status.RUNNING:
            victim = max(reversed(rank.running), key=lambda r: r.priority)
            if rank.running.index(victim) < index:
                batch.decodes.remove(victim)
                budget, index = budget + width, index - 1
            rank.preempt(victim, now, to_tail=False)
            batch.preempted = True
        if q.status is not Status.RUNNING:
            continue
        rank.allocate(q, need, now)
        budget, index = budget - tokens, index + 1
        if q.decoding:
            batch.decodes.append(q)
        else:
            batch.prefills.append((q, tokens))
            _store_ahead(rank, q, tokens, now)
    if not batch.preempted:
        _admit_waiting(rank, batch, budget, now)
    return batch


def sglang(rank: Rank, now: float) -> Batch:
    """SGLang: a prefill-only batch of at most one chunk budget if anything can be prefilled, else decode all.

    Without room to decode, those with fewest generated tokens (then longest input, then youngest) are retracted to
    the tail of the queue. Departure: it frees for this step only, not for the next twenty (retract_decode_steps).
    """
    batch, budget = Batch(), rank.limits.token_budget
    if rank.running and not rank.running[-1].decoding:
        q = rank.running[-1]
        tokens = min(q.goal - q.computed, budget)
        rank.allocate(q, rank.short(q, q.computed + tokens), now)
        batch.prefills.append((q, tokens))
        budget -= tokens
    _admit_waiting(rank, batch, budget, now)
    if batch.prefills:
        return batch
    while sum(rank.short(q, q.computed + rank.gain) for q in rank.running) > len(rank.free):
        order = enumerate(rank.running)
        rank.preempt(min(order, key=lambda x: (x[1].generated, -x[1].input, -x[0]))[1], now, to_tail=True)
        batch.preempted = True
    for q in rank.running:
        rank.allocate(q, rank.short(q, q.computed + rank.gain), now)
        batch.decodes.append(q)
    return batch


def _admit_waiting(rank: Rank, batch: Batch, budget: int, now: float) -> None:
    """First come, first served within a class, until one does not fit."""
    while budget and len(rank.running) + rank.loading < rank.limits.max_sequences:
        q = rank.next_waiting()
        tokens = rank.admit(q, budget, now) if q else 0
        if not q or not tokens:
            return
        if q.remote:
            rank.loading += 1
            batch.loads.append(q)
            continue
        rank.running.append(q)
        batch.prefills.append((q, tokens))
        budget -= tokens
        if rank.limits.policy == "vllm":
            _store_ahead(rank, q, tokens, now)


def _store_ahead(rank: Rank, q: Sequence, tokens: int, now: float) -> None:
    """VLLM makes blocks findable when it schedules them, so that the next request of the same step shares them."""
    q.computed += tokens
    rank.store(q, now)
    q.computed -= tokens


POLICIES = {"vllm": vllm, "sglang": sglang}


class Instance:
    """Ranks that step together, and the step they are in."""

    def __init__(self, pool: Pool, number: int, ranks: list[Rank]) -> None:
        self.pool, self.number, self.ranks = pool, number, ranks
        self.start_s, self.end_s = 0.0, NEVER
        self.batches: list[Batch] = []
        self.anchor: tuple[float, float, float] = (0.0, 0.0, 0.0)
        self.anchor_steps = 0
        self.anchored: list[Sequence] = []
        self.link_free_s = 0.0
        self.steps = self.decode_sequences = self.output_tokens = self.prefill_tokens = 0
        self.busy_s = 0.0

    def start(self, now: float) -> list[Sequence]:
        """Plan a step at `now`, or go idle; a step that did nothing but preempt is planned again.

        Returns the sequences whose KV has to be fetched from now on.
        """
        self.start_s, loads = now, list[Sequence]()
        for rank in self.ranks:
            self.anchored = [] if rank.ready else self.anchored
            rank.join()
        while True:
            self.batches = [POLICIES[self.pool.limits.policy](rank, now) for rank in self.ranks]
            loads += [q for batch in self.batches for q in batch.loads]
            if self.busy or not any(batch.preempted for batch in self.batches):
                break
        if self.busy:
            self.end_s = self.end_of_step(now)
        else:
            self.end_s, self.anchored, self.batches = NEVER, [], []
        return loads

    @property
    def busy(self) -> bool:
        """Whether the planned step computes anything."""
        return any(batch.decodes or batch.prefills for batch in self.batches)

    def end_of_step(self, now: float) -> float:
        """When the planned step ends.

        While one rank decodes the same sequences, k steps are an arithmetic series from their first start, t0:
        t(k) = t0 + k (f(m) + a n + b S) + b n g k (k - 1) / 2, with g the mean tokens gained; so no error piles up.
        """
        cost, ranks = self.pool.cost, len(self.ranks)
        works = [batch.work(rank) for batch, rank in zip(self.batches, self.ranks, strict=True)]
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
            step = float(cost.by_tokens[sum(work[0] for work in works)]) + ranks * hottest
            growth = cost.decode_context_s * works[0][1] * self.pool.limits.tokens_per_step
            self.anchor, self.anchor_steps = (now, step, growth), 1
        self.anchored = list(self.batches[0].decodes) if pure else []
        start, step, growth = self.anchor
        k = float(self.anchor_steps)
        return start + (k * step + growth * (k * (k - 1.0) * 0.5))


class Reference:
    """A cluster that is driven in steps: `submit`, `cancel`, `advance`, `outcome`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.now = cluster, 0.0
        self.sequences: list[Sequence] = []
        self.children: dict[int, list[int]] = {}
        self.arrivals: list[tuple[float, int]] = []
        self.loads: list[tuple[float, int, Sequence]] = []
        self.gate: deque[Sequence] = deque()
        self.flying = self.turn = 0
        self.seed = cluster.router.seed
        self.emitted: list[tuple[float, int, int, bool]] = []
        self.known: dict[int, set[int]] = {}
        self.itl = np.zeros(ITL_BINS, dtype=np.int64)
        self.series: list[list[int]] = []
        self.tokens_seen = (0, 0)
        self.instances: list[Instance] = []
        self.pools: list[list[Rank]] = []
        self.home: dict[int, Instance] = {}
        for pool in cluster.pools:
            ranks = [Rank(pool, i, self.emitted) for i in range(pool.instances * pool.ranks)]
            self.pools.append(ranks)
            for i in range(pool.instances):
                instance = Instance(pool, len(self.instances), ranks[i :: pool.instances])
                self.instances.append(instance)
                self.home.update({id(rank): instance for rank in instance.ranks})

    # ---- driving

    def submit(self, requests: Requests) -> None:
        """Add requests; `after` counts from the first of this call. Arrivals must not lie before now."""
        base = len(self.sequences)
        doomed = self.cluster.never_fits(requests.input_tokens, requests.output_tokens)
        for i in range(len(requests)):
            low, high = requests.block_offsets[i : i + 2]
            q = Sequence(base + i, float(requests.arrival_s[i]), int(requests.input_tokens[i]),
                         int(requests.output_tokens[i]), int(requests.priority[i]),
                         requests.block_ids[low:high].tolist(), doomed=bool(doomed[i]))  # fmt: skip
            self.sequences.append(q)
            if requests.after[i] >= 0:
                self.children.setdefault(base + int(requests.after[i]), []).append(q.index)
            else:
                heapq.heappush(self.arrivals, (q.sent_s, q.index))

    def advance(self, until: float = NEVER) -> None:
        """Play all events up to and including `until`; at one time: arrivals, KV transfers, ends of steps."""
        while True:
            instance = min(self.instances, key=lambda i: (i.end_s, i.number))
            arrival = self.arrivals[0][0] if self.arrivals else NEVER
            load = self.loads[0][0] if self.loads else NEVER
            time = min(arrival, load, instance.end_s)
            self.sample(min(time, until))
            if time > until or time == NEVER:
                break
            self.now = time
            if arrival == time:
                self.arrive(self.sequences[heapq.heappop(self.arrivals)[1]])
            elif load == time:
                self.loaded(heapq.heappop(self.loads)[2])
            else:
                self.finish(instance)
                self.fetch(instance, instance.start(time))
        self.now = until if until < NEVER else self.now

    def cancel(self, index: int) -> None:
        """Withdraw a request now; what runs is dropped at the end of its step. Its later turns are never sent."""
        q = self.sequences[index]
        if q.status is Status.RUNNING:
            q.cancelled = True
        elif q.status is Status.QUEUED and q.at:
            q.at.waiting[q.priority].remove(q)
            self.let_go(q)
            self.drop(q, Status.CANCELLED)
        elif q.status is Status.PENDING:
            q.status = Status.CANCELLED

    # ---- events

    def arrive(self, q: Sequence) -> None:
        """A request reaches the client's gate, and past it a rank."""
        if self.cluster.concurrency and q.gated and q.status is Status.PENDING:
            if self.flying >= self.cluster.concurrency:
                self.gate.append(q)
                return
            self.flying += 1
            q.gated = False
        if q.status is not Status.PENDING:
            if not q.gated:
                self.open_gate()
            return
        q.sent_s, q.goal = self.now, q.input
        if q.doomed:
            self.end(q, Status.REJECTED)
            return
        q.route = self.route(q)
        rank = self.pools[0][q.route]
        if rank.limits.max_queue and rank.queued() >= rank.limits.max_queue:
            self.end(q, Status.REJECTED)
            return
        self.enqueue(q, rank)

    def enqueue(self, q: Sequence, rank: Rank) -> None:
        """Append to a rank's queue."""
        q.at, q.status = rank, Status.QUEUED
        rank.waiting[q.priority].append(q)
        rank.load += 1
        self.wake(rank)

    def wake(self, rank: Rank) -> None:
        """An idle instance plans a step now, after all arrivals of this moment."""
        instance = self.home[id(rank)]
        instance.end_s = min(instance.end_s, self.now) if not instance.batches else instance.end_s

    def finish(self, instance: Instance) -> None:
        """End of a step: tokens come out, sequences leave."""
        if not instance.busy:
            return
        instance.steps += 1
        instance.busy_s += self.now - instance.start_s
        for rank, batch in zip(instance.ranks, instance.batches, strict=True):
            gain = rank.gain
            rank.ticks += bool(batch.decodes)
            instance.decode_sequences += len(batch.decodes)
            for q in sorted(batch.decodes, key=lambda q: q.output - q.generated):  # those with fewest left leave first
                q.computed += gain
                self.produce(q, instance, min(gain, q.output - q.generated))
            for q, tokens in batch.prefills:
                q.computed += tokens
                instance.prefill_tokens += tokens
                if rank.limits.policy == "sglang":
                    rank.store(q, self.now)
                if q.computed == q.goal:
                    q.decoding = True
                    self.produce(q, instance, 1)
            for q in [q for q in rank.running if q.cancelled]:
                self.drop(q, Status.CANCELLED)

    def produce(self, q: Sequence, instance: Instance, tokens: int) -> None:
        """`tokens` of `q` come out at once."""
        q.generated += tokens
        instance.output_tokens += tokens
        if math.isnan(q.first_s):
            q.first_s = self.now
        else:
            self.itl[itl_bin(self.now - q.last_s)] += 1
        q.last_s = self.now
        if q.generated == q.output:
            self.drop(q, Status.COMPLETED)
        elif instance.pool.role == "prefill" and not q.cancelled:
            self.hand_over(q)

    def drop(self, q: Sequence, status: Status) -> None:
        """`q` leaves its rank for good."""
        rank = q.at
        assert rank is not None
        rank.load -= 1
        if q in rank.running:
            rank.running.remove(q)
        rank.release(q, self.now)
        self.end(q, status)

    def end(self, q: Sequence, status: Status) -> None:
        """The client hears of the end: it may send what waited for this one."""
        q.status, q.end_s = status, self.now
        if status is Status.COMPLETED:
            turns = (self.sequences[child] for child in self.children.get(q.index, []))
            for turn in turns:
                if turn.status is Status.PENDING:
                    turn.sent_s += self.now
                    heapq.heappush(self.arrivals, (turn.sent_s, turn.index))
        if self.cluster.concurrency:
            self.open_gate()

    def open_gate(self) -> None:
        """A slot of the client is free: the next request takes it, or nobody."""
        while self.gate:
            q = self.gate.popleft()
            if q.status is Status.PENDING:
                q.gated, q.sent_s = False, self.now
                heapq.heappush(self.arrivals, (self.now, q.index))
                return
        self.flying -= 1

    # ---- prefill to decode (vLLM's NIXL connector: the decode side reserves blocks, then pulls)

    def hand_over(self, q: Sequence) -> None:
        """A finished prefill waits at the least loaded decode rank; its KV stays here until it has been fetched."""
        rank = q.at
        assert rank is not None
        rank.running.remove(q)
        rank.load -= 1
        q.left = (rank, replace(q))
        q.anonymous, q.cached, q.chained = [], [], 0
        q.goal, q.computed, q.decoding, q.remote = q.input, 0, False, True
        self.enqueue(q, min(self.pools[1], key=lambda r: (r.load, r.number)))

    def fetch(self, instance: Instance, loads: list[Sequence]) -> None:
        """Transfers start when both links are free, in the order of admission."""
        transfer = self.cluster.transfer
        for q in loads:
            assert q.left is not None
            source = self.home[id(q.left[0])]
            begin = max(self.now, source.link_free_s, instance.link_free_s)
            done = begin + (transfer.latency_s + q.input * transfer.seconds_per_token * (1.0 - transfer.overlap))
            source.link_free_s = instance.link_free_s = done
            heapq.heappush(self.loads, (done, q.index, q))

    def loaded(self, q: Sequence) -> None:
        """The KV of `q` is here: its source is free again, and it decodes from the next step on."""
        rank = q.at
        assert rank is not None
        self.let_go(q)
        rank.loading -= 1
        q.remote, q.computed, q.decoding = False, q.input, True
        if q.cancelled:
            self.drop(q, Status.CANCELLED)
        else:
            rank.ready.append(q)
        self.wake(rank)

    def let_go(self, q: Sequence) -> None:
        """Free the KV that `q` left on the prefill side."""
        if q.left:
            rank, holding = q.left
            rank.release(holding, self.now)
            q.left = None
            self.wake(rank)

    # ---- routing

    def route(self, q: Sequence) -> int:
        """Number of the rank that takes `q`."""
        ranks, router = self.pools[0], self.cluster.router
        if router.name == "round_robin":
            self.turn += 1
            return (self.turn - 1) % len(ranks)
        if router.name == "power_of_two":
            one, two = self.draw() % len(ranks), self.draw() % len(ranks)
            return two if ranks[two].load < ranks[one].load else one
        if router.name == "least_loaded":
            return min(range(len(ranks)), key=lambda i: (ranks[i].load, i))
        length = self.known_prefixes(q)
        top = (1.0 + router.imbalance) * min(rank.load for rank in ranks) + router.slack
        allowed = [i for i in range(len(ranks)) if ranks[i].load <= top]
        return min(allowed, key=lambda i: (-length[i], ranks[i].load, i))

    def known_prefixes(self, q: Sequence) -> list[int]:
        """Blocks of the input that each rank holds, as far as cache events have reached the router."""
        count = 0
        for time, rank, name, stored in self.emitted:
            if time + self.cluster.router.event_delay_s > self.now:
                break
            count += 1
            holders = self.known.setdefault(name, set())
            (holders.add if stored else holders.discard)(rank)
        del self.emitted[:count]
        length = [0] * len(self.pools[0])
        alive = set(range(len(length)))
        for name in q.ids[: q.input // self.pools[0][0].limits.block_tokens]:
            alive &= self.known.get(name, set())
            for rank in alive:
                length[rank] += 1
        return length

    def draw(self) -> int:
        """Next number of the router's own stream (splitmix64, Steele et al., OOPSLA 2014)."""
        mask = (1 << 64) - 1
        self.seed = (self.seed + 0x9E3779B97F4A7C15) & mask
        z = self.seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    # ---- results

    def state(self) -> list[int]:
        """Columns of `types.SERIES`: three levels now, two counts since the last window closed."""
        ranks = [rank for pool in self.pools for rank in pool]
        output, prefill = self.tokens_out()
        return [sum(len(r.running) + r.loading + len(r.ready) for r in ranks), sum(r.queued() for r in ranks),
               sum(r.limits.kv_blocks - len(r.free) for r in ranks),
               output - self.tokens_seen[0], prefill - self.tokens_seen[1]]  # fmt: skip

    def tokens_out(self) -> tuple[int, int]:
        """Output and prefill tokens so far."""
        return sum(i.output_tokens for i in self.instances), sum(i.prefill_tokens for i in self.instances)

    def sample(self, limit: float) -> None:
        """Close the windows that end before `limit`."""
        width = self.cluster.window_s
        while width and limit < NEVER and (len(self.series) + 1) * width < limit:
            self.series.append(self.state())
            self.tokens_seen = self.tokens_out()

    def outcome(self) -> Outcome:
        """Everything so far; the last row of the series is the window that is still open."""
        series = [*self.series, self.state()] if self.cluster.window_s else []
        column = self._column
        return Outcome(
            now_s=self.now,
            arrival_s=column("sent_s", np.float64), scheduled_s=column("scheduled_s", np.float64),
            first_token_s=column("first_s", np.float64), end_s=column("end_s", np.float64),
            input_tokens=column("input", np.int32), output_tokens=column("output", np.int32),
            cached_tokens=column("hit", np.int32), preemptions=column("preemptions", np.int32),
            status=column("status", np.int8), rank=column("route", np.int32),
            pools=tuple(self._counts(i) for i in range(len(self.pools))),
            itl_counts=self.itl.copy(), window_s=self.cluster.window_s,
            series=np.array(series, dtype=np.int64).reshape(-1, len(SERIES)),
        )  # fmt: skip

    def _column(self, name: str, dtype: type[Any]) -> NDArray[Any]:
        return np.array([getattr(q, name) for q in self.sequences], dtype=dtype)

    def _counts(self, number: int) -> PoolCounts:
        ranks, pool = self.pools[number], self.cluster.pools[number]
        own = [i for i in self.instances if i.pool is pool]
        return PoolCounts(
            steps=sum(i.steps for i in own), decode_sequences=sum(i.decode_sequences for i in own),
            output_tokens=sum(i.output_tokens for i in own), prefill_tokens=sum(i.prefill_tokens for i in own),
            query_tokens=sum(r.queries for r in ranks), hit_tokens=sum(r.hits for r in ranks),
            preemptions=sum(r.preemptions for r in ranks), evictions=sum(r.evictions for r in ranks),
            busy_s=sum(i.busy_s for i in own), kv_total=sum(r.limits.kv_blocks for r in ranks),
            kv_used=sum(r.limits.kv_blocks - len(r.free) for r in ranks),
        )  # fmt: skip


def run(cluster: Cluster, requests: Requests) -> Outcome:
    """Play all requests to the end."""
    engine = Reference(cluster)
    engine.submit(requests)
    engine.advance()
    return engine.outcome()
