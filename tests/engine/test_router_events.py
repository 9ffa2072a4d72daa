"""The router hears the same of caches and private KV tiers from both engines, whatever it does with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import cases
from tokenworks.engine import reference, simulator
from tokenworks.engine.types import Cluster, Requests

Change = tuple[float, int, int, bool]
"""Time, rank, name of a block, and whether the rank holds it from now on."""


def changes(events: list[Change]) -> list[Change]:
    """What cache events tell: when a rank begins to hold a block or loses it. The last event of a time counts."""
    told: dict[tuple[int, int], dict[float, bool]] = {}
    for time, rank, name, stored in events:
        told.setdefault((rank, name), {})[round(float(time), 9)] = bool(stored)
    found = list[Change]()
    for (rank, name), states in told.items():
        held = False
        for time, stored in states.items():
            if stored != held:
                found.append((time, rank, name, stored))
            held = stored
    return sorted(found)


def assert_same_events(cluster: Cluster, requests: Requests) -> int:
    """Play a case with events that never reach the router, compare them, and return the number of changes."""
    cluster = replace(cluster, router=replace(cluster.router, name="prefix_aware", event_delay_s=1e9))
    slow, fast = reference.Reference(cluster), simulator.Simulator(cluster)
    for one in (slow, fast):
        one.submit(requests)
        one.advance()
    state = fast._state
    first, count = int(state.world["events_first"][0]), int(state.world["events"][0])
    heard = state.event[(first + np.arange(count)) & (len(state.event) - 1)]
    told = changes(slow.router.emitted)
    assert changes([(e["time"], int(e["rank"]), int(e["name"]), e["stored"]) for e in heard]) == told
    return len(told)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 40), st.booleans())
def test_both_engines_tell_the_router_the_same(seed: int, branches: bool) -> None:
    assert_same_events(*(cases.branching if branches else cases.reuse)(np.random.default_rng(seed)))


@pytest.mark.parametrize("seed", [10047, 10049, 10062, 10106, 10286])
def test_a_private_store_evicts_what_hbm_is_about_to_give_it(seed: int) -> None:
    """A store written back makes room with a block that HBM evicts next, and gets it again: the rank never lost it."""
    assert assert_same_events(*cases.reuse(np.random.default_rng(seed)))


def test_requests_go_to_the_same_ranks() -> None:
    """The case in 20,000 in which one missing event sent two requests to other ranks."""
    cluster, requests = cases.reuse(np.random.default_rng(19431))
    cases.assert_same(reference.run(cluster, requests), simulator.run(cluster, requests))
