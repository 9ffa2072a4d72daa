# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: PLR0917 compiled functions have no keyword-only arguments
"""The steps of an instance: a plan of many steps, as one arithmetic series, which an event may cut."""

from __future__ import annotations

import math

import numpy as np

from tokenworks.engine.gaps import ITL_BASE, ITL_BINS, ITL_SHIFT
from tokenworks.engine.kernel.base import NEVER, apart, inline, jit
from tokenworks.engine.kernel.cache import take
from tokenworks.engine.kernel.queue import join_queue
from tokenworks.engine.kernel.schedule import join, schedule
from tokenworks.engine.kernel.tiers import book_writes
from tokenworks.engine.kernel.tokens import clock_at, growth_between, last_decode
from tokenworks.engine.state import BUCKETS


@inline
def time_after(s, i, steps):
    """End of step number `steps` since the anchor [s], see `reference_instance`."""
    instance = s.instance[i]
    k = float(steps)
    return instance.anchor_s + (k * instance.step_s + instance.growth_s * (k * (k - 1.0) * 0.5))


@inline
def longest_plan(s, r):
    """Number of steps to plan: until a sequence completes, or until free blocks may run out."""
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    target = max(rank.next_target, rank.clock + 1)
    while s.calendar[rank.calendar + 2 * (target & (BUCKETS - 1))] < 0:
        target += 1
    rank.next_target = target
    steps = np.int64(target - rank.clock)
    if pool.gain != 1.0:
        steps = max(np.int64((target - 1) / pool.gain) - rank.ticks, np.int64(1))
        while clock_at(pool, rank.ticks + steps) < target:
            steps += 1
    room = rank.nameless if pool.prefix else rank.free
    # With a radix tree, a step with fewer empty blocks than sequences evicts.
    spare = rank.decodes if pool.prefix and not pool.mixes and rank.lru_first >= 0 else np.int64(0)
    if (steps * (1 + pool.draft) // pool.block_tokens + 1) * rank.decodes + spare <= room:
        return steps
    return affordable(s, r, steps, room, spare)


@inline
def affordable(s, r, steps, room, spare):
    """Number of the next `steps` whose blocks fit into `room`, of which `spare` are free before each step.

    The blocks of the first step are allocated already.
    """
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    low = rank.clock + rank.gain
    at = np.int64(1)
    if pool.gain == 1.0:
        slot = low % pool.block_tokens
        while at < steps and room >= spare:
            room -= s.growth[rank.growth + slot]
            if room < 0:
                break
            slot = slot + 1 if slot + 1 < pool.block_tokens else np.int64(0)
            at += 1
        return at
    while at < steps and room >= spare:
        high = clock_at(pool, rank.ticks + at + 1)
        room -= growth_between(s, r, low, high)
        if room < 0:
            break
        low = high
        at += 1
    return at


@inline
def itl_bin(gap):
    """Number of the bin that counts a gap [s], see `gaps.itl_bin`."""
    return min(max((np.float64(gap).view(np.int64) >> ITL_SHIFT) - ITL_BASE, 0), ITL_BINS - 1)


@inline
def steps_to_look(s, i):
    """Number of steps until the scheduler looks for new requests, the current step included."""
    instance = s.instance[i]
    receive = np.int64(s.pool[instance.pool].receive)
    return receive - (instance.steps - instance.heard) % receive


@jit
def look(s, i, now):
    """Look for new requests if the instance was idle, has prefilled, or has decoded `receive_interval` times."""
    instance = s.instance[i]
    if not instance.prefilled and (instance.steps - instance.heard) % s.pool[instance.pool].receive:
        return
    instance.heard = instance.steps
    while instance.unseen >= 0:
        q = instance.unseen
        me = s.request[q]
        instance.unseen = me.next
        me.unseen = 0
        s.rank[me.at].unseen -= 1
        join_queue(s, me.at, q, now)
    instance.unseen_last = -1


@apart
def write_to_tiers(s, i, now):
    """Book the writes of all ranks of an instance in this event."""
    instance = s.instance[i]
    pool = s.pool[instance.pool]
    for number in range(pool.ranks):
        done = book_writes(s, instance.first_rank + number * pool.instances, now)
        instance.written_s = max(instance.written_s, done)


@inline
def rest(s, i):
    """Leave an instance idle."""
    instance = s.instance[i]
    pool = s.pool[instance.pool]
    instance.end_s, instance.planned, instance.anchored, instance.prefilled = NEVER, 0, 0, 1
    for number in range(pool.ranks):
        rank = s.rank[instance.first_rank + number * pool.instances]
        rank.ratio, rank.ratio_ticks = pool.ratio, rank.ticks


@inline
def anchor(s, i, tokens, prefill, step_s, now):
    """Begin a step, or go on with a series of equal steps: a single rank decodes the same sequences. Returns which."""
    instance = s.instance[i]
    pool = s.pool[instance.pool]
    instance.prefilled = prefill > 0
    pure = pool.ranks == 1 and prefill == 0
    if not (pure and instance.anchored):
        instance.anchor_s, instance.done = now, 0
        instance.tokens, instance.step_s = tokens, step_s
        instance.growth_s = s.cost[instance.cost].context_s * s.rank[instance.first_rank].batch * pool.gain
    instance.anchored = pure
    instance.planned = 1
    return pure


@inline
def plan(s, i, now):
    """Plan the next steps of an instance from `now` on, or leave it idle."""
    instance = s.instance[i]
    pool = s.pool[instance.pool]
    first, stride, ranks = instance.first_rank, pool.instances, pool.ranks
    instance.start_s = now
    instance.loaded_s = instance.written_s = -math.inf
    instance.cost = instance.next_cost
    cost = s.cost[instance.cost]
    if pool.receive > 1:
        look(s, i, now)
    for number in range(ranks):
        join(s, first + number * stride)
    while True:
        busy = preempted = 0
        tokens = prefill = np.int64(0)
        hottest = 0.0
        square = np.int64(0)
        for number in range(ranks):
            r = first + number * stride
            schedule(s, r, now)
            rank = s.rank[r]
            busy += rank.batch + rank.tokens
            preempted += rank.preempted
            prefill += rank.tokens
            square += rank.square
            tokens += rank.batch * (1 + pool.draft) + rank.tokens
            context = rank.context if rank.batch else np.int64(0)
            hot = cost.sequence_s * rank.batch + cost.context_s * context
            hot = hot + cost.prefill_s * rank.square + cost.token_s * rank.tokens
            hottest = max(hottest, hot)
        if busy:
            break
        if not preempted:
            if instance.unseen < 0:
                break
            instance.prefilled = 1  # an idle scheduler looks at once
            look(s, i, now)
    if s.world[0].due_writes:
        write_to_tiers(s, i, now)
    if not busy:
        rest(s, i)
        return
    step_s = s.by_tokens[cost.by_tokens + tokens] + cost.together_s * square + ranks * hottest
    pure = anchor(s, i, tokens, prefill, step_s, now)
    if pure and not preempted and not s.rank[first].fresh and last_decode(s, first) == now:
        instance.planned = longest_plan(s, first)
        if instance.unseen >= 0:
            instance.planned = min(instance.planned, steps_to_look(s, i))
    instance.end_s = time_after(s, i, instance.done + instance.planned)
    if s.world[0].tiers and instance.pool == 0:
        wait_for_tiers(s, i, now)


@apart
def wait_for_tiers(s, i, now):
    """A step does not end before the loads of its layers, and not before blocks that it evicts are written.

    A step that ends later than without tiers ends a series of equal steps.
    """
    instance = s.instance[i]
    end = time_after(s, i, instance.done + 1)
    late = max(instance.written_s, instance.loaded_s + (end - now) / s.world[0].layers)
    if late > end:
        instance.end_s, instance.planned, instance.anchored = late, 1, 0


@inline
def glide(s, i, steps):
    """Count `steps` planned steps as ended, and begin the step after them: sequences get tokens and blocks."""
    instance = s.instance[i]
    r = instance.first_rank
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    low = rank.clock + rank.gain
    rank.ticks += steps
    clock = clock_at(pool, rank.ticks)
    gained = clock - rank.clock
    rank.gain = clock_at(pool, rank.ticks + 1) - clock
    take(s, r, growth_between(s, r, low, clock + rank.gain), instance.start_s)
    rank.clock = clock
    rank.context += rank.batch * gained
    rank.output_tokens += rank.batch * gained
    rank.decode_sequences += rank.batch * steps
    count_gaps(s, i, steps)
    instance.steps += steps
    instance.done += steps
    instance.planned -= steps
    ended = time_after(s, i, instance.done)
    rank.last_s = ended
    instance.busy_s += ended - instance.start_s
    instance.start_s = ended


@inline
def count_gap(s, r, gap, times):
    """Count a gap `times` times for each decoding sequence of a rank."""
    where, groups = itl_bin(gap), s.world[0].groups
    if groups == 1:
        s.itl[0, where] += s.rank[r].batch * times
        return
    for g in range(groups):
        s.itl[g, where] += s.rank[r].grouped[g] * times


@inline
def count_gaps(s, i, steps):
    """Count the gaps of the next `steps` steps. They get longer from step to step, so often one bin counts them all."""
    r = s.instance[i].first_rank
    done = s.instance[i].done
    before = s.instance[i].start_s
    first = time_after(s, i, done + 1) - before
    last = first if steps == 1 else time_after(s, i, done + steps) - time_after(s, i, done + steps - 1)
    if itl_bin(first) == itl_bin(last):
        count_gap(s, r, first, steps)
        return
    for k in range(1, steps + 1):
        after = time_after(s, i, done + k)
        count_gap(s, r, after - before, 1)
        before = after


@inline
def settle(s, i, limit, inclusive):
    """Count the planned steps that end before `limit` (or at `limit`, if inclusive) as ended. The last step stays."""
    instance = s.instance[i]
    low, high = np.int64(0), instance.planned - 1
    while low < high:
        middle = (low + high + 1) >> 1
        ended = time_after(s, i, instance.done + middle)
        if ended < limit or (inclusive and ended == limit):
            low = middle
        else:
            high = middle - 1
    if low > 0:
        glide(s, i, low)


@inline
def turn_passed(s, i, now):
    """Whether the steps of instance i that end now were played already; instances play in order of number."""
    world = s.world[0]
    return world.stepped_s == now and i < world.stepped


@inline
def cut_plan(s, i, now):
    """Cut the plan of an instance to the current step, as an event changes its batch."""
    instance = s.instance[i]
    if instance.planned > 1:
        settle(s, i, now, turn_passed(s, i, now))
        instance.planned = 1
        instance.end_s = time_after(s, i, instance.done + 1)


@inline
def interrupt(s, i, now):
    """Cut the plan of an instance to the current step; an idle instance plans now, or when it may begin a step."""
    instance = s.instance[i]
    if instance.planned == 0:
        instance.end_s = min(instance.end_s, max(now, instance.hold_s))
    else:
        cut_plan(s, i, now)
