"""The oracle of one rank: its queues, its paged KV cache block by block, and what it schedules in a step.

Rules follow vLLM 0.19 (v1/core/sched/scheduler.py, v1/core/kv_cache_manager.py, block_pool.py), free blocks without a
hash those of May 2026 (pull request 42656: they are reused first, as in SGLang), and SGLang 0.5
(srt/managers/scheduler.py, schedule_policy.py, schedule_batch.py). Where this model departs, the docstring says so.
Departures that hold everywhere: scheduling is synchronous (no step is planned while another runs); a block whose
hash is already cached stays unfindable until its sequence leaves; output blocks become findable when it leaves.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from tokenworks.engine.policies import POLICIES
from tokenworks.engine.types import PRIORITIES, Pool, Status


@dataclass(eq=False)
class Sequence:
    """A request on its way. `computed` tokens are in the cache; prefill is done when they reach `goal`."""

    index: int
    sent_s: float
    input: int
    output: int
    priority: int
    group: int
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
    lag_s: float = 0.0
    hit: int = 0
    preemptions: int = 0
    at: Rank | None = None
    left: tuple[Rank, Sequence] | None = None
    doomed: bool = False
    forgotten: bool = False
    route: int = -1
    owed: int = 0


class Rank:
    """The scheduler and paged KV cache of one data-parallel rank."""

    def __init__(self, pool: Pool, number: int, emit: list[tuple[float, int, int, bool]]) -> None:
        self.limits, self.number, self.emit = pool.limits, number, emit
        self.policy = POLICIES[pool.limits.policy]
        self.waiting: list[deque[Sequence]] = [deque() for _ in range(PRIORITIES)]
        self.ready: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.loading = self.load = self.ticks = self.owed = self.chosen = 0
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

    # ---- blocks (vLLM block_pool.py: one queue of free blocks, those without a hash first, then oldest content)

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
        """Free what is not full to the head; to the tail other unfindable blocks, then the chain from its end.

        So its root lives longest. Full blocks of output have a hash, too, even if nobody will ever ask for it.
        """
        self.store(q, now)
        full = min(q.computed, q.input + q.output - 1) // self.limits.block_tokens - len(q.cached)
        for i, block in enumerate(q.anonymous):
            self.free[block] = None
            self.free.move_to_end(block, last=i < full)
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

    def victim(self) -> Sequence:
        """Who of the running is preempted next; see `policies.Policy`."""
        if self.policy.preempts_fewest:
            return min(enumerate(self.running), key=lambda x: (x[1].generated, -x[1].input, -x[0]))[1]
        return max(reversed(self.running), key=lambda q: q.priority)

    def preempt(self, q: Sequence, now: float) -> None:
        """Drop the KV of `q`; it will be computed again, its generated tokens as part of the prompt."""
        self.running.remove(q)
        self.release(q, now)
        q.status, q.decoding, q.computed, q.goal = Status.QUEUED, False, 0, q.input + q.generated
        q.preemptions += 1
        self.preemptions += 1
        if self.policy.requeues_first:
            self.waiting[q.priority].appendleft(q)
        else:
            self.waiting[q.priority].append(q)


@dataclass
class Scheduled:
    """What one rank computes in a step; `loads`: admitted sequences whose KV has to be fetched."""

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


def schedule(rank: Rank, now: float) -> Scheduled:
    """What a rank computes in its next step."""
    return _mixed(rank, now) if rank.policy.mixes else _prefill_first(rank, now)


def _mixed(rank: Rank, now: float) -> Scheduled:
    """As vLLM V1: what runs comes first and shares the token budget with at most one unfinished prefill, then waiting.

    Without a free block one of the running is preempted. Nothing is admitted in a step that preempted.
    Departure: when a sequence preempts itself, the rest of the batch still runs.
    """
    batch, budget, index = Scheduled(), rank.limits.token_budget, 0
    width = 1 + rank.limits.draft_tokens
    while index < len(rank.running):
        q = rank.running[index]
        tokens = width if q.decoding else min(q.goal - q.computed, budget)
        need = rank.short(q, q.computed + (rank.gain if q.decoding else tokens))
        while need > len(rank.free) and q.status is Status.RUNNING:
            victim = rank.victim()
            if rank.running.index(victim) < index:
                batch.decodes.remove(victim)
                budget, index = budget + width, index - 1
            rank.preempt(victim, now)
            batch.preempted = True
        if q.status is not Status.RUNNING:
            continue
        rank.allocate(q, need, now)
        budget, index = budget - tokens, index + 1
        if q.decoding:
            batch.decodes.append(q)
        else:
            _prefill(rank, batch, q, tokens, now)
    if not batch.preempted:
        _admit_waiting(rank, batch, budget, now)
    return batch


def _prefill_first(rank: Rank, now: float) -> Scheduled:
    """As SGLang: a prefill-only batch of at most one chunk budget if anything can be prefilled, else decode all.

    Without room to decode, running sequences are preempted until there is. Departure: room is made for this step only,
    not for the next twenty (retract_decode_steps).
    """
    batch, budget = Scheduled(), rank.limits.token_budget
    if rank.running and not rank.running[-1].decoding:
        q = rank.running[-1]
        tokens = min(q.goal - q.computed, budget)
        rank.allocate(q, rank.short(q, q.computed + tokens), now)
        _prefill(rank, batch, q, tokens, now)
        budget -= tokens
    _admit_waiting(rank, batch, budget, now)
    if batch.prefills:
        return batch
    while sum(rank.short(q, q.computed + rank.gain) for q in rank.running) > len(rank.free):
        rank.preempt(rank.victim(), now)
        batch.preempted = True
    for q in rank.running:
        rank.allocate(q, rank.short(q, q.computed + rank.gain), now)
        batch.decodes.append(q)
    return batch


def _admit_waiting(rank: Rank, batch: Scheduled, budget: int, now: float) -> None:
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
        _prefill(rank, batch, q, tokens, now)
        budget -= tokens


def _prefill(rank: Rank, batch: Scheduled, q: Sequence, tokens: int, now: float) -> None:
    """`tokens` of `q` are computed in this step."""
    batch.prefills.append((q, tokens))
    if rank.policy.finds_scheduled:
        q.computed += tokens
        rank.store(q, now)
        q.computed -= tokens
