# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Events from outside, such as the cancellation of a request."""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import (
    BACK,
    CANCEL,
    CANCELLED,
    COST,
    LOSE,
    PAUSE,
    PENDING,
    QUEUED,
    RUNNING,
    START,
    STOP,
    apart,
    inline,
)
from tokenworks.engine.kernel.faults import change_cost, pause, start, stop
from tokenworks.engine.kernel.leave import end
from tokenworks.engine.kernel.lists import unlink, unwait
from tokenworks.engine.kernel.losses import back, lose
from tokenworks.engine.kernel.prefetch import drop_flows
from tokenworks.engine.kernel.steps import cut_plan
from tokenworks.engine.kernel.transfer import let_go


@inline
def cancel(s, q, now):
    """Withdraw a request: a waiting request ends at once, a running request at the end of its step."""
    me = s.request[q]
    if me.status == RUNNING and not me.cancelled:
        me.cancelled = 1
        s.rank[me.at].cancels += 1
        cut_plan(s, s.rank[me.at].instance, now)
    elif me.status == QUEUED:
        r = me.at
        if me.flows:
            drop_flows(s, q)
        if me.unseen == 2:
            s.rank[r].unseen -= 1
        elif me.unseen:
            instance = s.instance[s.rank[r].instance]
            first, last = unlink(s.request, q, instance.unseen, instance.unseen_last)
            instance.unseen, instance.unseen_last = first, last
            s.rank[r].unseen -= 1
        else:
            unwait(s, r, q)
        s.rank[r].load -= 1
        if me.remote:
            let_go(s, q, now)
        end(s, q, CANCELLED, now)
        cut_plan(s, s.rank[r].instance, now)
    elif me.status == PENDING and me.doomed < 2:
        me.status = CANCELLED  # it ends when it arrives: until then it is in a list


@apart
def happen(s, kind, number, value, now):
    """Play an event of an instance or a rank, of a kind in `engine.outside.KINDS`."""
    if kind == STOP:
        stop(s, number, now)
    elif kind == START:
        start(s, number, now)
    elif kind == PAUSE:
        pause(s, number, value, now)
    elif kind == COST:
        change_cost(s, number, np.int64(value), now)
    elif kind == LOSE:
        lose(s, number, now)
    elif kind == BACK:
        back(s, number)


@inline
def play_outside(s, now):
    """Play all outside events at this time, in the order in which they were given. Taken requests are skipped."""
    world = s.world[0]
    while world.outside < len(s.outside) and s.outside[world.outside].time == now:
        event = s.outside[world.outside]
        world.outside += 1
        if event.kind != CANCEL:
            happen(s, event.kind, event.number, event.value, now)
        elif s.request[event.slot].number == event.number:
            cancel(s, event.slot, now)
