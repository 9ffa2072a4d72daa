"""The reference engine of one rank: its queues, its paged KV cache block by block, and the scheduler of vLLM.

The rules are those of vLLM 0.19 (v1/core/sched/scheduler.py, v1/core/kv_cache_manager.py, block_pool.py). Free blocks
without a hash are reused first, as in vLLM since May 2026 (pull request 42656). `reference_tree` has SGLang's rules.

Differences from these engines are named in docstrings. Three differences hold everywhere. A step is planned only after
the step before has ended. A block whose hash is already cached gets no hash until its sequence leaves. The prefix cache
serves output blocks only after their sequence has left.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from tokenworks.engine.policies import POLICIES
from tokenworks.engine.reference_tiers import Prefetch, ReferenceTiers, StoreLoad
from tokenworks.engine.types import PRIORITIES, Pool, Status


@dataclass(eq=False)
class Sequence:
    """State of a request.

    sent_s : time of the next arrival, at the client's gate or at a rank; from then on the time of sending [s]
    ids : hashes of the full blocks
    goal, computed : tokens to prefill, and tokens in the KV cache; prefill is done when they are equal
    generated : output tokens so far
    remote : the KV must still come from the prefill rank
    gated : the client has not sent the request yet
    accepted, late_s : the front end has taken the request, and how long it waited before that [s]
    anonymous, cached : blocks without a hash, and blocks with a hash
    chained : number of leading full blocks that were looked up or stored
    last_s : time of the last output token [s]
    lag_s : time from the end of a step to the client (`types.Pool.lag_s`) [s]
    place_s : place in the queue of its class, the smallest first (`types.Limits.ageing_s`) [s]
    at : rank where the request waits or runs
    left : prefill rank that still holds the KV, with the state of the request there
    doomed : the request fits no rank
    forgotten : the parent of the request did not complete
    route : number of the rank that the router chose
    owed : tokens that the router counts for the request until the first token
    load, loading : blocks that its last admission took from KV tiers; whether the request waits for them
    prefetches : flows to the gateways of KV tiers that have not ended
    lost : the rank `at` was lost, and the request is about to be sent again; retries : how often it was sent again
    """

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
    accepted: bool = False
    late_s: float = 0.0
    anonymous: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    chained: int = 0
    scheduled_s: float = math.nan
    first_s: float = math.nan
    last_s: float = math.nan
    end_s: float = math.nan
    lag_s: float = 0.0
    place_s: float = 0.0
    hit: int = 0
    preemptions: int = 0
    retries: int = 0
    at: Rank | None = None
    left: tuple[Rank, Sequence] | None = None
    doomed: bool = False
    forgotten: bool = False
    route: int = -1
    owed: int = 0
    load: StoreLoad = field(default_factory=StoreLoad)
    loading: bool = False
    prefetches: list[Prefetch] = field(default_factory=list)
    lost: bool = False


class Rank:
    """The queues and the paged KV cache of one dp rank.

    waiting : a queue for each priority; ready : sequences whose KV transfer has ended; running : in order of admission
    loading, load : KV transfers, and loads from KV tiers, on their way; requests in flight
    loaded : sequences whose load from KV tiers has ended, and whose prefill has not started
    prefetching : requests that wait for a prefetch from KV tiers, beside the queue
    tiers : KV tiers below HBM; a rank of a decode pool has none
    home : number of its instance in the pool
    ticks : decode steps so far
    owed, chosen : tokens that the router expects this rank to prefill; number of the router's last choice of this rank
    free : free blocks, the next one to reuse first; users : sequences that hold each block
    content, where : hash of each cached block; block of each hash
    full : admission waits until a sequence has left
    unseen : requests that were sent to the rank, and that the scheduler has not looked at yet
    lost : the cluster has noticed the loss of the rank
    lost_requests, retries, lost_output_tokens, lost_kv_tokens : as in `faults.FaultCounts`
    """

    def __init__(
        self, pool: Pool, number: int, emit: list[tuple[float, int, int, bool]], tiers: ReferenceTiers
    ) -> None:
        self.limits, self.number, self.emit, self.tiers = pool.limits, number, emit, tiers
        self.home = number % pool.instances
        tiers.join(self)
        self.policy = POLICIES[pool.limits.policy]
        self.waiting: list[deque[Sequence]] = [deque() for _ in range(PRIORITIES)]
        self.ready: deque[Sequence] = deque()
        self.loaded: deque[Sequence] = deque()
        self.prefetching: list[Sequence] = []
        self.running: list[Sequence] = []
        self.loading = self.load = self.ticks = self.owed = self.chosen = self.unseen = 0
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(pool.limits.kv_blocks))
        self.users = [0] * pool.limits.kv_blocks
        self.content: dict[int, int] = {}
        self.where: dict[int, int] = {}
        self.queries = self.hits = self.evictions = self.preemptions = 0
        self.full = self.lost = False
        self.lost_requests = self.retries = self.lost_output_tokens = self.lost_kv_tokens = 0

    def rest(self) -> None:
        """The instance is idle."""

    def clear(self) -> None:
        """Empty the KV cache of a lost rank, which no request uses any more."""
        self.free = OrderedDict.fromkeys(range(self.limits.kv_blocks))
        self.users = [0] * self.limits.kv_blocks
        self.content, self.where, self.full = {}, {}, False
        self.rest()

    def plan(self, now: float) -> Scheduled:
        """Plan the next step."""
        return _plan_mixed(self, now)

    # ---- the token clock: in a step all decoding sequences gain the same number of tokens, tokens_per_step on average

    def clock(self, ticks: int) -> int:
        """Tokens that a sequence gains in the first `ticks` decode steps of the rank."""
        return math.floor(ticks * self.limits.tokens_per_step)

    @property
    def gain(self) -> int:
        """Tokens that each sequence gains in the next decode step."""
        return self.clock(self.ticks + 1) - self.clock(self.ticks)

    # ---- blocks (vLLM block_pool.py: one queue of free blocks, first blocks without a hash, then the oldest content)

    def blocks_for(self, tokens: int) -> int:
        """Blocks for `tokens` and the draft tokens of a step."""
        return -(-(tokens + self.limits.draft_tokens) // self.limits.block_tokens)

    def short(self, q: Sequence, tokens: int) -> int:
        """Blocks that must be allocated before `q` can hold `tokens`."""
        return self.blocks_for(tokens) - len(q.anonymous) - len(q.cached)

    def allocate(self, q: Sequence, count: int, now: float) -> None:
        """Take `count` blocks from the head of the free queue for `q`, and evict their content."""
        for _ in range(count):
            block, _none = self.free.popitem(last=False)
            self.forget(block, now)
            q.anonymous.append(block)

    def forget(self, block: int, now: float) -> None:
        """Evict the content of a block, if it has any."""
        if block not in self.content:
            return
        name = self.content.pop(block)
        del self.where[name]
        self.evictions += 1
        if not self.tiers.evicted(self.number, name, now):
            self.emit.append((now, self.number, name, False))

    def store(self, q: Sequence, now: float) -> None:
        """Put the full blocks that `q` has computed into the prefix cache, by their chained hashes."""
        tokens = min(q.computed, q.input + q.output - 1)
        full = min(tokens // self.limits.block_tokens, len(q.ids)) if self.limits.prefix_caching else 0
        new: dict[int, int] = {}
        for position, name in enumerate(q.ids[q.chained : full], q.chained):
            if name not in self.where:
                self.keep(q, name, now)
                new[name] = position
        self.tiers.stored(self.number, new, now)
        q.chained = max(q.chained, full)

    def keep(self, q: Sequence, name: int, now: float) -> None:
        """Give a block of `q` its hash."""
        block = q.anonymous.pop()
        self.where[name], self.content[block], self.users[block] = block, name, 1
        q.cached.append(block)
        self.emit.append((now, self.number, name, True))

    def find(self, q: Sequence, tokens: int) -> list[int]:
        """Blocks of the longest cached prefix of the first `tokens` of `q`."""
        if not self.limits.prefix_caching:
            return []
        blocks: list[int] = []
        for name in q.ids[: tokens // self.limits.block_tokens]:
            if name not in self.where:
                break
            blocks.append(self.where[name])
        return blocks

    def release(self, q: Sequence, now: float) -> None:
        """Free all blocks of `q`.

        The partly filled block goes to the head of the free queue. Full blocks without a hash go to the tail, and after
        them the chain of cached blocks, its end first, so the begin of a prompt stays cached longest. (In the engines
        full blocks of output have a hash, too, so they go to the tail here as well.)
        """
        self.store(q, now)
        full = min(q.computed, q.input + q.output - 1) // self.limits.block_tokens - len(q.cached)
        for i, block in enumerate(q.anonymous):
            self.free[block] = None
            self.free.move_to_end(block, last=i < full)
        self.unuse(q)

    def unuse(self, q: Sequence) -> None:
        """End the use of cached blocks by `q`; blocks that nobody uses can be evicted, the last block first."""
        for block in reversed(q.cached):
            self.users[block] -= 1
            if not self.users[block]:
                self.free[block] = None
        q.anonymous, q.cached, q.chained = [], [], 0

    def abandon(self, q: Sequence, now: float) -> None:
        """Free all blocks of a preempted `q`."""
        self.release(q, now)

    # ---- admission

    def join(self) -> None:
        """Add sequences whose KV transfer has ended to the running ones, before an unfinished prefill."""
        at = self.first_prefill()
        self.running[at:at] = self.ready
        self.ready.clear()

    def first_prefill(self) -> int:
        """Place of the first unfinished prefill in the running list: all decoding sequences stand before it."""
        return next((i for i, q in enumerate(self.running) if not q.decoding), len(self.running))

    def to_decodes(self, q: Sequence) -> None:
        """The prompt of the running `q` is complete: `q` moves behind the decoding sequences."""
        self.running.remove(q)
        self.running.insert(self.first_prefill(), q)

    def cut(self, tokens: int) -> int:
        """The part of `tokens` of one prompt that one step may compute (`types.Limits.long_prefill_tokens`)."""
        return min(tokens, self.limits.long_prefill_tokens or tokens)

    # ---- queue

    def uncached(self, q: Sequence) -> int:
        """Tokens of `q` to prefill that neither the cache of the rank nor a KV tier has now."""
        if q.remote:
            return 0
        names = q.ids[: (q.goal - 1) // self.limits.block_tokens] if self.limits.prefix_caching else []
        known = next((i for i, name in enumerate(names) if name not in self.where), len(names))
        blocks = len(self.tiers.places(self.number, q, known, prefetch=True)) if names else 0
        return q.goal - blocks * self.limits.block_tokens

    def join_queue(self, q: Sequence, now: float) -> None:
        """Add `q` to the waiting requests of its class (`types.Limits.ageing_s`), after its equals."""
        self.take_place(q, now)
        queue = self.waiting[q.priority]
        at = len(queue)
        while self.limits.ageing_s and at and queue[at - 1].place_s > q.place_s:
            at -= 1
        queue.insert(at, q)

    def take_place(self, q: Sequence, now: float) -> None:
        """Note the place of `q` in the queue of its class, by what is cached now (`types.Limits.ageing_s`)."""
        q.place_s = now + self.limits.ageing_s * self.uncached(q) if self.limits.ageing_s else now

    def next_waiting(self) -> Sequence | None:
        """First waiting request of the first class that has any."""
        return next((queue[0] for queue in self.waiting if queue), None)

    def queued(self) -> int:
        """Number of waiting requests in the queues."""
        return sum(map(len, self.waiting))

    def outside(self) -> int:
        """Number of requests that have reached the rank, and are not in its queues yet."""
        return self.unseen + len(self.prefetching)

    def insert(self, q: Sequence) -> None:
        """Queue `q`, whose prefetch is over, behind the last request of its class that comes before it."""
        queue, aged = self.waiting[q.priority], self.limits.ageing_s > 0
        before = [i for i, other in enumerate(queue)
                  if (other.place_s <= q.place_s if aged else other.index < q.index)]  # fmt: skip
        queue.insert(before[-1] + 1 if before else 0, q)

    def admit(self, q: Sequence, budget: int, now: float) -> int:
        """Admit the waiting `q` if its whole prompt fits now.

        vLLM 0.19 admits only prompts that fit as a whole (scheduler_reserve_full_isl). Cached blocks that other
        sequences use need no free block; unused cached blocks do, as they leave the free queue. Hits of a request that
        was preempted are not counted. The last token of a prompt is always computed (kv_cache_manager.py). A request
        that waits for a load or a KV transfer reserves its whole prompt.

        Returns the tokens of `q` to compute in this step, 0 if it is not admitted.
        """
        self.tiers.cut(self.number, q, now)
        limits, prefix = self.limits, self.find(q, q.goal - 1)
        shared = sum(self.users[block] > 0 for block in prefix)
        margin = limits.watermark_blocks if self.running or self.loading else 0
        if self.blocks_for(q.goal) - shared + margin > len(self.free):
            return 0
        self.hold(q, prefix, now)
        tokens = min(self.cut(q.goal - q.computed), budget)
        self.allocate(q, self.short(q, q.goal if q.remote or q.loading else q.computed + tokens), now)
        self.begin(q, now)
        return tokens

    def hold(self, q: Sequence, prefix: list[int], now: float) -> None:
        """Let `q` use the cached blocks `prefix`, and take the blocks after them from KV tiers."""
        for block in prefix:
            if not self.users[block]:
                del self.free[block]
            self.users[block] += 1
        q.cached, q.chained = list(prefix), len(prefix)
        q.load = StoreLoad() if q.remote else self.tiers.load(self.number, q, len(prefix), now)
        q.loading = self.tiers.waits and q.load.end_s > -math.inf
        q.computed = (len(prefix) + q.load.blocks) * self.limits.block_tokens

    def begin(self, q: Sequence, now: float) -> None:
        """Take the admitted `q` out of the queue. Its hits count at its first admission."""
        if math.isnan(q.scheduled_s):
            self.queries += q.goal
            self.hits += q.computed
            q.hit = q.computed
        self.waiting[q.priority].popleft()
        q.status = Status.RUNNING
        q.scheduled_s = now if math.isnan(q.scheduled_s) else q.scheduled_s

    def victim(self) -> Sequence:
        """The running sequence to preempt next, by the traits of the policy (`policies.Policy`)."""
        if self.policy.preempts_fewest:
            return min(enumerate(self.running), key=lambda x: (x[1].generated, -x[1].input, -x[0]))[1]
        return max(reversed(self.running), key=lambda q: q.priority)

    def preempt(self, q: Sequence, now: float) -> None:
        """Free the blocks of `q` and queue it again. Its prompt and its output so far will be prefilled again."""
        self.running.remove(q)
        self.full = False
        self.abandon(q, now)
        q.status, q.decoding, q.computed, q.goal = Status.QUEUED, False, 0, q.input + q.generated
        q.preemptions += 1
        self.preemptions += 1
        if self.policy.requeues_first:
            q.place_s = -math.inf
            self.waiting[q.priority].appendleft(q)
        else:
            self.join_queue(q, now)


@dataclass
class Scheduled:
    """Work of one rank in a step.

    decodes, prefills : sequences that decode, and chunks of prefill as (sequence, tokens)
    loads : admitted sequences whose KV must be transferred, or loaded from KV tiers, first
    preempted : whether the step preempted a sequence
    loaded_s : end of the last load that the step computes beside, layer by layer, -inf = there is none [s]
    """

    decodes: list[Sequence] = field(default_factory=list)
    prefills: list[tuple[Sequence, int]] = field(default_factory=list)
    loads: list[Sequence] = field(default_factory=list)
    preempted: bool = False
    loaded_s: float = -math.inf

    def work(self, rank: Rank) -> tuple[int, int, int, int, int]:
        """(m, n, S, Q, p) of `types.StepCost`, at the begin of the step."""
        prefill = sum(tokens for _, tokens in self.prefills)
        m = len(self.decodes) * (1 + rank.limits.draft_tokens) + prefill
        context = sum(q.computed + 1 for q in self.decodes)
        square = sum(t * q.computed + t * (t + 1) // 2 for q, t in self.prefills)
        return m, len(self.decodes), context, square, prefill


def _plan_mixed(rank: Rank, now: float) -> Scheduled:
    """Plan a step as vLLM V1: decodes, then unfinished prefills, then waiting requests, in one token budget.

    A sequence that lacks free blocks preempts a running one. A step that preempts admits no request. Differences from
    vLLM: when a sequence preempts itself, the sequences after it still run. All decodes come before the prefills, also
    if a shorter prompt was admitted after a long one and is complete before it.
    """
    batch, budget, index = Scheduled(), rank.limits.token_budget, 0
    width = 1 + rank.limits.draft_tokens
    chunks: dict[int, tuple[Sequence, int]] = {}
    while index < len(rank.running):
        q = rank.running[index]
        tokens = width if q.decoding else min(rank.cut(q.goal - q.computed), budget)
        need = rank.short(q, q.computed + (rank.gain if q.decoding else tokens))
        while need > len(rank.free) and q.status is Status.RUNNING:
            victim = rank.victim()
            if rank.running.index(victim) < index:
                index -= 1
                if victim.index in chunks:
                    budget += chunks.pop(victim.index)[1]
                else:
                    batch.decodes.remove(victim)
                    budget += width
            rank.preempt(victim, now)
            batch.preempted = True
        if q.status is not Status.RUNNING:
            continue
        rank.allocate(q, need, now)
        budget, index = budget - tokens, index + 1
        if q.decoding:
            batch.decodes.append(q)
        elif tokens:
            chunks[q.index] = (q, tokens)
    for q, tokens in chunks.values():
        add_prefill(rank, batch, q, tokens, now)
    if not batch.preempted:
        admit_waiting(rank, batch, budget, now)
    return batch


def admit_waiting(rank: Rank, batch: Scheduled, budget: int, now: float) -> None:
    """Admit requests: those whose load has ended, then waiting ones by class and arrival, until one does not fit."""
    while budget and rank.loaded:
        q = rank.loaded.popleft()
        tokens = min(rank.cut(q.goal - q.computed), budget)
        rank.running.append(q)
        add_prefill(rank, batch, q, tokens, now)
        budget -= tokens
    while budget and len(rank.running) + rank.loading < rank.limits.max_sequences:
        waiting = rank.next_waiting()
        if not waiting or not (tokens := rank.admit(waiting, budget, now)):
            return
        q = waiting
        if q.remote or q.loading:
            rank.loading += 1
            batch.loads.append(q)
            continue
        batch.loaded_s = max(batch.loaded_s, q.load.end_s)
        rank.running.append(q)
        add_prefill(rank, batch, q, tokens, now)
        budget -= tokens


def add_prefill(rank: Rank, batch: Scheduled, q: Sequence, tokens: int, now: float) -> None:
    """Add `tokens` of the prompt of `q` to the step."""
    batch.prefills.append((q, tokens))
    if rank.policy.mixes:
        q.computed += tokens
        rank.store(q, now)
        q.computed -= tokens
