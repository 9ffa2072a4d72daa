# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Events from outside: what happens to a request because somebody wants it."""

from __future__ import annotations

from tokenworks.engine.kernel.base import CANCEL, CANCELLED, PENDING, QUEUED, RUNNING, inline, jit
from tokenworks.engine.kernel.leave import end
from tokenworks.engine.kernel.lists import unwait
from tokenworks.engine.kernel.steps import interrupt
from tokenworks.engine.kernel.transfer import let_go


@inline
def cancel(s, q, now):
    """Withdraw a request: a waiting one leaves at once, a running one at the end of its step."""
    me = s.request[q]
    if me.status == RUNNING and not me.cancelled:
        me.cancelled = 1
        s.rank[me.at].cancels += 1
        interrupt(s, s.rank[me.at].instance, now)
    elif me.status == QUEUED:
        r = me.at
        unwait(s, r, q)
        s.rank[r].load -= 1
        if me.remote:
            let_go(s, q, now)
        end(s, q, CANCELLED, now)
        interrupt(s, s.rank[r].instance, now)
    elif me.status == PENDING and me.doomed < 2:
        me.status = CANCELLED  # it ends when its turn comes: until then a list has it


@jit
def happen(s, kind, q, now):
    """An event of a kind in `engine.outside.KINDS`."""
    if kind == CANCEL:
        cancel(s, q, now)


@inline
def play_outside(s, now):
    """All events from outside of this moment, in the order in which they were given; not on those that were taken."""
    world = s.world[0]
    while world.outside < len(s.outside) and s.outside[world.outside].time == now:
        event = s.outside[world.outside]
        world.outside += 1
        if s.request[event.slot].number == event.number:
            happen(s, event.kind, event.slot, now)
