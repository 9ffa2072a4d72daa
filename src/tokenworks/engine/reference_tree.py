"""The reference engine of one rank with SGLang's rules: a radix tree as prefix cache, and room kept for output.

The rules are those of SGLang 0.5.23 with overlap scheduling off: srt/managers/schedule_policy.py (`PrefillAdder`),
scheduler.py, schedule_batch.py (`retract_decode`), srt/mem_cache/unified_cache/unified_tree_core.py, allocation.py.
tests/against/test_sglang_scheduler.py compares both schedulers.
"""

from __future__ import annotations

from collections import OrderedDict

from tokenworks.engine.policies import (
    MOST_RESERVED,
    MOST_TOUCHED,
    RETRACT_TOKENS,
    TOUCH_PASSES,
    Reserve,
    after_preemption,
)
from tokenworks.engine.reference_rank import Rank, Scheduled, Sequence, add_prefill, admit_waiting
from tokenworks.engine.reference_tiers import ReferenceTiers
from tokenworks.engine.types import Pool


class TreeRank(Rank):
    """A rank whose prefix cache is a radix tree.

    The free queue has first the empty blocks, and then the cached blocks that no sequence uses, least recently used
    first. The blocks of a node stand together, the end of the chain first.

    empty : number of empty blocks
    ends : last blocks of the nodes of the tree
    share, share_ticks : share of the output that admission keeps free, and decode steps so far when it was set
    passes : number of admissions with waiting requests
    """

    def __init__(
        self, pool: Pool, number: int, emit: list[tuple[float, int, int, bool]], tiers: ReferenceTiers
    ) -> None:
        super().__init__(pool, number, emit, tiers)
        self.role = pool.role
        self.empty = pool.limits.kv_blocks
        self.ends: set[int] = set()
        self.reserve = Reserve(pool.limits.output_reserve)
        self.share, self.share_ticks, self.passes = self.reserve.first, 0, 0

    def rest(self) -> None:
        """The instance is idle: the share starts again."""
        self.share, self.share_ticks = self.reserve.first, self.ticks

    def clear(self) -> None:
        """Empty the KV cache of a lost rank, which no request uses any more."""
        super().clear()
        self.empty, self.ends = self.limits.kv_blocks, set()

    def plan(self, now: float) -> Scheduled:
        """Plan the next step."""
        return _plan_prefill_first(self, now)

    # ---- radix tree

    def put_empty(self, block: int) -> None:
        """Add an empty block to the free queue."""
        self.free[block] = None
        self.free.move_to_end(block, last=False)
        self.empty += 1

    def evict(self, want: int, now: float) -> None:
        """Evict whole nodes, least recently used first, until `want` blocks are empty."""
        while self.empty < want and self.empty < len(self.free):
            cached = list(self.free)[self.empty :]
            size = next((i for i in range(1, len(cached)) if cached[i] in self.ends), len(cached))
            for block in cached[:size]:
                self.ends.discard(block)
                self.forget(block, now)
                self.put_empty(block)

    def allocate(self, q: Sequence, count: int, now: float) -> None:
        """Take `count` empty blocks for `q`."""
        self.evict(count, now)
        for _ in range(count):
            q.anonymous.append(self.free.popitem(last=False)[0])
            self.empty -= 1

    def end_node(self, last: int) -> None:
        """Let a node end with the block `last`; later blocks of it become a node that counts as used now."""
        if last in self.ends:
            return
        self.ends.add(last)
        if self.users[last]:
            return
        queue = list(self.free)
        at = start = queue.index(last)
        while start == at or queue[start] not in self.ends:
            start -= 1
        for block in queue[start:at]:
            self.free.move_to_end(block)

    def find(self, q: Sequence, tokens: int) -> list[int]:
        """Blocks of the longest cached prefix of the first `tokens` of `q`; a node is split where the prefix ends."""
        blocks = super().find(q, tokens)
        if blocks:
            self.end_node(blocks[-1])
        return blocks

    def touch(self, blocks: list[int]) -> None:
        """Let cached blocks count as used now."""
        for block in reversed(blocks):
            if not self.users[block]:
                self.free.move_to_end(block)

    def store(self, q: Sequence, now: float) -> None:
        """Put the full blocks that `q` has computed into the tree; a block that the tree has already is freed."""
        tokens = min(q.computed, q.input + q.output - 1)
        full = min(tokens // self.limits.block_tokens, len(q.ids)) if self.limits.prefix_caching else 0
        names = q.ids[q.chained : full]
        known = next((i for i, name in enumerate(names) if name not in self.where), len(names))
        if known:
            self.end_node(self.where[names[known - 1]])
        for name in names[:known]:
            block = self.where[name]
            if not self.users[block]:
                del self.free[block]
            self.users[block] += 1
            q.cached.append(block)
            self.put_empty(q.anonymous.pop())
        for name in names[known:]:
            self.keep(q, name, now)
        self.tiers.stored(self.number, {q.ids[i]: i for i in range(q.chained + known, full)}, now)
        if names:
            self.end_node(q.cached[-1])
        q.chained = max(q.chained, full)

    def release(self, q: Sequence, now: float) -> None:
        """Free all blocks of `q`. Full blocks without a hash are one node, used just before the chain of `q`."""
        if not self.limits.prefix_caching:
            for block in q.anonymous:
                self.put_empty(block)
            q.anonymous = []
            return
        self.store(q, now)
        full = min(q.computed, q.input + q.output - 1) // self.limits.block_tokens - len(q.cached)
        for i, block in enumerate(q.anonymous):
            if i >= full:
                self.put_empty(block)
            else:
                self.free[block] = None
        self.ends.update(q.anonymous[: min(full, 1)])
        self.unuse(q)

    def abandon(self, q: Sequence, now: float) -> None:
        """Free all blocks of a preempted `q`: the tree keeps what it has, and evicts it first."""
        if not self.limits.prefix_caching:
            self.release(q, now)
            return
        for block in q.anonymous:
            self.put_empty(block)
        for block in q.cached:
            self.users[block] -= 1
            if not self.users[block]:
                queue = list(self.free)
                queue.insert(self.empty, block)
                self.free = OrderedDict.fromkeys(queue)
        q.anonymous, q.cached, q.chained = [], [], 0

    # ---- room for output

    def own_output(self, q: Sequence, done: int) -> int:
        """Output tokens that admission expects of `q` after `done` tokens."""
        return 1 if self.role == "prefill" else min(q.output - done, MOST_RESERVED)

    def charge(self, tokens: int) -> int:
        """Room that admission keeps for the prefill of `tokens`: whole blocks and one more block [token]."""
        return (self.blocks_for(tokens) + 1) * self.limits.block_tokens

    def touch_waiting(self) -> None:
        """Let the cached prefixes of the first waiting requests count as used, the first request last."""
        waiting = [q for queue in self.waiting for q in queue]
        for q in reversed(waiting[:MOST_TOUCHED]):
            self.touch(self.find(q, q.goal))

    def kept(self) -> float:
        """Tokens that admission keeps free for the output of decoding sequences, and for the watermark."""
        output = sum(min(q.output - q.generated, MOST_RESERVED) for q in self.running if q.decoding)
        margin = self.limits.watermark_blocks * self.limits.block_tokens if self.running or self.loading else 0
        return self.reserve.after(self.share, self.ticks - self.share_ticks) * output + margin


def _plan_prefill_first(rank: TreeRank, now: float) -> Scheduled:
    """Plan a step as SGLang: only prefill, up to the token budget, if any request can be prefilled; else all decodes.

    Running sequences are preempted until the blocks suffice for the decodes of this step. Difference from SGLang: a
    decode role admits a request as soon as its prompt fits.
    """
    batch = Scheduled()
    if rank.role == "decode":
        budget = rank.limits.token_budget
        if rank.running and not rank.running[-1].decoding:
            q = rank.running[-1]
            tokens = min(q.goal - q.computed, budget)
            rank.allocate(q, rank.short(q, q.computed + tokens), now)
            add_prefill(rank, batch, q, tokens, now)
            budget -= tokens
        admit_waiting(rank, batch, budget, now)
    else:
        _Admission(rank, batch, now).play()
    if batch.prefills:
        return batch
    if _growth(rank) > len(rank.free):
        _retract(rank, batch, now)
    if rank.limits.prefix_caching and rank.running:
        rank.evict(len(rank.running), now)
    for q in rank.running:
        rank.allocate(q, rank.short(q, q.computed + rank.gain), now)
        batch.decodes.append(q)
    return batch


def _growth(rank: TreeRank) -> int:
    """Blocks that the running sequences need for the next decode step."""
    return sum(rank.short(q, q.computed + rank.gain) for q in rank.running)


def _retract(rank: TreeRank, batch: Scheduled, now: float) -> None:
    """Preempt running sequences until the free blocks suffice for all others to decode."""
    if rank.limits.prefix_caching:
        rank.evict(len(rank.free), now)
    while _growth(rank) > len(rank.free):
        rank.preempt(rank.victim(), now)
        batch.preempted = True
        if rank.limits.prefix_caching:
            rank.evict(-(-len(rank.running) * RETRACT_TOKENS // rank.limits.block_tokens), now)
    generated, output = sum(q.generated for q in rank.running), sum(q.output for q in rank.running)
    rank.share = after_preemption(generated, output, len(rank.running))
    rank.share_ticks = rank.ticks + 1


class _Admission:
    """One admission: continue an unfinished prefill, and admit waiting requests while they fit.

    A request fits if the free blocks hold its prompt and its own output beside `kept`. Blocks are allocated for all
    admitted requests together, at the end.

    budget : tokens of the step that are left
    kept, soon : room for output and for admitted requests, and the part of it that this step needs [token]
    taken : admitted sequences, and the blocks that each of them needs
    unfinished : the prefill that went on does not end in this step
    """

    def __init__(self, rank: TreeRank, batch: Scheduled, now: float) -> None:
        self.rank, self.batch, self.now = rank, batch, now
        self.size, self.budget, self.soon = rank.limits.block_tokens, rank.limits.token_budget, 0
        self.kept = rank.kept()
        self.decodes = any(q.decoding for q in rank.running)
        self.taken: list[tuple[Sequence, int]] = []
        self.unfinished = False

    def play(self) -> None:
        """Admit, and allocate the blocks."""
        rank = self.rank
        if rank.running and not rank.running[-1].decoding:
            self.go_on(rank.running[-1])
        while rank.loaded and self.budget > 0 and not self.unfinished:
            q = rank.loaded[0]
            tokens = self.part(q.goal - q.computed)
            if not tokens:
                break
            rank.running.append(rank.loaded.popleft())
            self.add(q, tokens)
        if not self.decodes:
            rank.full = False
        if rank.queued() and (self.taken or not rank.full):
            if not self.taken and not self.slots():
                rank.full = self.decodes
            elif rank.limits.prefix_caching:
                if rank.passes % TOUCH_PASSES == 0:
                    rank.touch_waiting()
                rank.passes += 1
        while not rank.full and self.budget > 0 and self.admit():
            pass
        if self.taken and rank.limits.prefix_caching:
            extra = 0 if self.size == 1 else len(self.taken) * self.size
            rank.evict(-(-(sum(tokens for _, tokens in self.batch.prefills) + extra) // self.size), self.now)
        for q, blocks in self.taken:
            rank.allocate(q, blocks, self.now)

    def slots(self) -> bool:
        """Whether one more sequence may run."""
        return len(self.rank.running) + self.rank.loading < self.rank.limits.max_sequences

    def add(self, q: Sequence, tokens: int) -> None:
        """Add `tokens` of `q` to the step, and count what they need."""
        rank, last = self.rank, q.computed + tokens == q.goal
        self.taken.append((q, rank.short(q, q.computed + tokens)))
        add_prefill(rank, self.batch, q, tokens, self.now)
        self.soon += rank.charge(tokens)
        self.kept += rank.charge(tokens) + (rank.own_output(q, 0) if last else 0)
        self.budget -= -(-tokens // self.size) * self.size

    def go_on(self, q: Sequence) -> None:
        """Continue the unfinished prefill of `q`."""
        room = int(len(self.rank.free) * self.size - self.kept)
        tokens = min(q.goal - q.computed, self.budget)
        tokens = min(tokens, room) if room > 0 else tokens
        self.unfinished = q.computed + tokens < q.goal
        self.add(q, tokens)

    def part(self, want: int) -> int:
        """Tokens of `want` that the budget allows: whole blocks, or anything if nothing else is in the step."""
        if -(-want // self.size) * self.size <= self.budget:
            return want
        whole = self.budget // self.size * self.size
        return min(want, whole if whole or self.taken else self.budget)

    def admit(self) -> bool:
        """Admit the next waiting request. Returns whether the admission may go on."""
        rank = self.rank
        q = rank.next_waiting()
        if q is None:
            return False
        if not self.slots():
            rank.full = self.decodes
            return False
        rank.tiers.cut(rank.number, q, self.now)
        prefix = rank.find(q, q.goal - 1)
        free = len(rank.free) - sum(not rank.users[block] for block in prefix)
        want = q.goal - len(prefix) * self.size
        need = want + rank.own_output(q, q.generated) + self.size + rank.limits.draft_tokens
        fits = need < free * self.size - self.kept
        if not fits and not rank.running and not rank.loading and not rank.ready:
            fits = rank.blocks_for(q.goal) - len(prefix) <= free
        if not fits or not self.part(want):
            rank.touch(prefix)
            if not fits:
                rank.full = self.decodes
            return False
        rank.hold(q, prefix, self.now)
        rank.allocate(q, rank.short(q, q.goal) if q.loading else q.load.blocks, self.now)
        rank.begin(q, self.now)
        if q.loading:
            rank.loading += 1
            self.batch.loads.append(q)
        else:
            self.batch.loaded_s = max(self.batch.loaded_s, q.load.end_s)
            rank.running.append(q)
            self.add(q, self.part(q.goal - q.computed))
        if len(rank.free) * self.size <= max(self.soon, self.kept):
            rank.full = self.decodes
            return False
        return True
