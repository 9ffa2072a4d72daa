# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Instances stop, go on, pause, and change the cost of their steps (rules 1 to 4 in `engine.faults`)."""

from __future__ import annotations

import math

import numpy as np

from tokenworks.engine.kernel.base import NEVER, apart
from tokenworks.engine.kernel.steps import anchor, cut_plan, time_after, wait_for_tiers, write_to_tiers


@apart
def stop(s, i, now):
    """An instance stops: its step in flight is lost (rule 1)."""
    instance, halt = s.instance[i], s.halt[i]
    if halt.stopped:
        return
    cut_plan(s, i, now)
    halt.stopped, halt.stopped_s = 1, now
    instance.hold_s = instance.end_s = NEVER
    if instance.planned:
        lose_step(s, i, now)


@apart
def lose_step(s, i, now):
    """Count the step in flight of an instance as lost."""
    instance = s.instance[i]
    s.halt[i].lost_steps += 1
    instance.busy_s += now - instance.start_s


@apart
def start(s, i, now):
    """An instance that had stopped goes on (rule 2)."""
    halt = s.halt[i]
    if not halt.stopped:
        return
    halt.stopped, s.instance[i].hold_s = 0, now
    halt.down_s += now - halt.stopped_s
    begin_again(s, i, now)


@apart
def begin_again(s, i, now):
    """Begin the lost step of an instance again, or plan a new step if no request of the lost step is left."""
    instance = s.instance[i]
    pool = s.pool[instance.pool]
    instance.cost, instance.start_s = instance.next_cost, now
    cost = s.cost[instance.cost]
    if not instance.planned or not has_work(s, i):
        plan_at(s, i, now)
        return
    tokens = prefill = square = np.int64(0)
    hottest = 0.0
    for number in range(pool.ranks):
        rank = s.rank[instance.first_rank + number * pool.instances]
        prefill += rank.tokens
        square += rank.square
        tokens += rank.batch * (1 + pool.draft) + rank.tokens
        context = rank.context if rank.batch else np.int64(0)
        hot = cost.sequence_s * rank.batch + cost.context_s * context
        hottest = max(hottest, hot + cost.prefill_s * rank.square + cost.token_s * rank.tokens)
    instance.anchored = 0
    step_s = s.by_tokens[cost.by_tokens + tokens] + cost.together_s * square + pool.ranks * hottest
    anchor(s, i, tokens, prefill, step_s, now)
    instance.end_s = time_after(s, i, 1)
    instance.written_s = -math.inf
    if s.world[0].tiers and instance.pool == 0:
        wait_for_tiers(s, i, now)


@apart
def has_work(s, i):
    """Whether the step of an instance still computes any token."""
    pool = s.pool[s.instance[i].pool]
    for number in range(pool.ranks):
        rank = s.rank[s.instance[i].first_rank + number * pool.instances]
        if rank.batch + rank.tokens:
            return True
    return False


@apart
def plan_at(s, i, time):
    """Let an instance without a step plan one at `time`; its scheduler then looks for new requests."""
    instance = s.instance[i]
    instance.planned, instance.anchored, instance.prefilled, instance.end_s = 0, 0, 1, time


@apart
def begin_pause(s, i, now):
    """The step of an instance has ended, and its pause begins (rule 3)."""
    instance = s.instance[i]
    if s.world[0].due_writes:
        write_to_tiers(s, i, now)
    instance.hold_s = now + instance.pause_s
    instance.pause_s = 0.0
    plan_at(s, i, instance.hold_s)


@apart
def pause(s, i, seconds, now):
    """An instance pauses after its step, or now if it is idle (rule 3)."""
    instance = s.instance[i]
    if s.halt[i].stopped:
        return
    if instance.planned:
        cut_plan(s, i, now)
        instance.pause_s += seconds
        return
    instance.hold_s = max(instance.hold_s, now) + seconds
    if instance.end_s < NEVER:
        instance.end_s = instance.hold_s


@apart
def change_cost(s, i, variant, now):
    """Later steps of an instance have another cost (rule 4)."""
    instance = s.instance[i]
    cost = s.pool[instance.pool].cost + variant
    if cost != instance.next_cost:
        cut_plan(s, i, now)
        instance.next_cost, instance.anchored = cost, 0
