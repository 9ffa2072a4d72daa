"""Failures of instances and ranks: times and counters by hand, rule by rule of `engine.faults`, and wrong input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import cases
from tokenworks.engine import reference, simulator
from tokenworks.engine.outcome import Outcome
from tokenworks.engine.tiers import Lane, Store, Tiers
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, Router, Status, StepCost, Transfer
from tokenworks.errors import SpecError

STEP = 0.01
COST = StepCost(np.full(101, STEP))
LIMITS = Limits(4, 100, 50, block_tokens=4)
POOL = Pool(COST, LIMITS)
SPLIT = (replace(POOL, role="prefill"), replace(POOL, role="decode"))

Event = tuple[float, str, int] | tuple[float, str, int, float]
ENGINES = pytest.mark.parametrize("kind", [reference.Reference, simulator.Simulator], ids=["reference", "kernel"])
Kind = Callable[[Cluster], reference.Reference | simulator.Simulator]


def run(kind: Kind, cluster: Cluster, requests: Requests, *events: Event) -> Outcome:
    """Outcome of a cluster with events from outside."""
    engine = kind(cluster)
    engine.submit(requests)
    for time_s, name, index, *value in events:
        engine.at(float(time_s), name, index, *value)
    engine.advance()
    return engine.outcome()


def several(pool: Pool = POOL, count: int = 2, **settings: Any) -> Cluster:
    return Cluster((replace(pool, instances=count),), **settings)


ONE = Requests.of([0.0], [8], [10])


# ---- rules 1 to 4: stop, start, pause, cost


@ENGINES
def test_a_stop_loses_the_step_in_flight_and_a_start_begins_it_again(kind: Kind) -> None:
    """The third step, from 20 ms on, is lost at 25 ms and takes its 10 ms from 100 ms on."""
    outcome = run(kind, Cluster((POOL,)), ONE, (0.025, "stop", 0), (0.1, "start", 0))
    assert outcome.end_s[0] == pytest.approx(0.1 + 8 * STEP)
    (pool,), (faults,) = outcome.pools, outcome.faults
    assert (pool.steps, pool.output_tokens, pool.prefill_tokens) == (10, 10, 8)
    assert (faults.lost_steps, faults.lost_requests) == (1, 0)
    assert faults.down_s == pytest.approx(0.075)
    assert pool.busy_s == pytest.approx(10 * STEP + 0.005)


@ENGINES
def test_an_instance_that_stays_stopped_keeps_its_requests(kind: Kind) -> None:
    """The gap to the next token has the whole stop in it; a second stop and a second start change nothing."""
    engine = kind(Cluster((POOL,)))
    engine.submit(Requests.of([0.0, 0.03], [8, 8], [10, 1]))
    for time_s, name in ((0.025, "stop"), (0.03, "stop"), (0.2, "start"), (0.203, "start")):
        engine.at(time_s, name, 0)
    engine.advance(0.1)
    assert engine.outcome().status.tolist() == [Status.RUNNING, Status.QUEUED]
    assert engine.outcome().faults[0].down_s == pytest.approx(0.075)
    engine.advance()
    assert engine.outcome().first_token_s[1] == pytest.approx(0.2 + 2 * STEP)
    assert engine.outcome().faults[0].down_s == pytest.approx(0.175)


@ENGINES
def test_a_pause_follows_the_step_and_pauses_add_up(kind: Kind) -> None:
    outcome = run(kind, Cluster((POOL,)), ONE, (0.025, "pause", 0, 0.1), (0.027, "pause", 0, 0.2))
    assert outcome.end_s[0] == pytest.approx(10 * STEP + 0.3)
    assert outcome.faults[0].lost_steps == 0


@ENGINES
def test_an_idle_instance_pauses_at_once_and_a_stopped_one_ignores_it(kind: Kind) -> None:
    late = replace(ONE, arrival_s=np.array([0.15]))
    assert run(kind, Cluster((POOL,)), late, (0.1, "pause", 0, 0.2)).first_token_s[0] == pytest.approx(0.3 + STEP)
    events = ((0.1, "stop", 0), (0.1, "pause", 0, 0.5), (0.2, "start", 0))
    assert run(kind, Cluster((POOL,)), late, *events).first_token_s[0] == pytest.approx(0.2 + STEP)


@ENGINES
def test_a_cost_holds_from_the_next_step_on_and_for_one_instance_only(kind: Kind) -> None:
    slow = replace(POOL, variants=(StepCost(np.full(101, 3 * STEP)),))
    both = Requests.of([0.0, 0.0], [8, 8], [10, 10])
    outcome = run(kind, several(slow), both, (0.025, "cost", 1, 1), (0.1, "cost", 1, 0))
    assert outcome.end_s.tolist() == pytest.approx([10 * STEP, 3 * STEP + 3 * 3 * STEP + 4 * STEP])


@ENGINES
def test_a_step_that_begins_again_has_the_present_cost(kind: Kind) -> None:
    slow = replace(POOL, variants=(StepCost(np.full(101, 3 * STEP)),))
    events = ((0.025, "stop", 0), (0.05, "cost", 0, 1), (0.1, "start", 0))
    assert run(kind, Cluster((slow,)), ONE, *events).end_s[0] == pytest.approx(0.1 + 8 * 3 * STEP)


# ---- rules 5 and 6: loss


@ENGINES
@pytest.mark.parametrize(
    ("on_loss", "status", "tokens", "lost", "first_s", "end_s"),
    [
        ("fail", Status.FAILED, 2, 2, STEP, 0.025),
        ("restart", Status.COMPLETED, 12, 2, 0.025 + STEP, 0.025 + 10 * STEP),
        ("migrate", Status.COMPLETED, 10, 0, STEP, 0.025 + 8 * STEP),
    ],
)
def test_requests_of_a_lost_rank_fail_begin_anew_or_go_on_elsewhere(
    kind: Kind, on_loss: str, *, status: Status, tokens: int, lost: int, first_s: float, end_s: float
) -> None:
    """Two tokens are out at the loss, and a step is in flight. The other rank computes 8 or 10 tokens first."""
    outcome = run(kind, several(on_loss=on_loss), ONE, (0.025, "lose", 0))
    assert outcome.status.tolist() == [status]
    assert outcome.rank.tolist() == [on_loss != "fail"]
    assert (outcome.first_token_s[0], outcome.end_s[0]) == pytest.approx((first_s, end_s))
    (faults,) = outcome.faults
    assert sum(pool.output_tokens for pool in outcome.pools) == tokens
    assert (faults.lost_steps, faults.lost_requests, faults.lost_output_tokens) == (1, 1, lost)
    assert faults.lost_kv_tokens == 9
    assert outcome.retries[0] == faults.retries == (on_loss != "fail")
    prefilled = {"fail": 8, "restart": 16, "migrate": 18}[on_loss]
    assert outcome.pools[0].prefill_tokens == prefilled


@ENGINES
def test_a_request_fails_after_its_last_retry(kind: Kind) -> None:
    events = ((0.025, "lose", 0), (0.026, "back", 0), (0.045, "lose", 1), (0.046, "back", 1), (0.065, "lose", 0))
    outcome = run(kind, several(on_loss="migrate", retries=2), ONE, *events)
    assert outcome.status[0] == Status.FAILED
    assert outcome.end_s[0] == pytest.approx(0.065)
    assert (outcome.faults[0].lost_requests, outcome.faults[0].retries, outcome.retries[0]) == (3, 2, 2)


@ENGINES
def test_other_ranks_of_the_instance_begin_their_step_again(kind: Kind) -> None:
    """Two ranks step together; one is lost in the third step. The request of the other goes on where it was."""
    cluster = Cluster((Pool(StepCost(np.full(201, STEP)), LIMITS, ranks=2),), on_loss="fail")
    outcome = run(kind, cluster, Requests.of([0.0, 0.0], [8, 8], [10, 10]), (0.025, "lose", 0))
    assert outcome.status.tolist() == [Status.FAILED, Status.COMPLETED]
    assert outcome.end_s.tolist() == pytest.approx([0.025, 0.025 + 8 * STEP])


@ENGINES
@pytest.mark.parametrize(("rank", "at_s", "end_s"), [(0, 0.012, 0.13), (1, 0.012, 0.122), (1, 0.045, 0.145)])
def test_either_side_of_a_kv_transfer_may_be_lost(kind: Kind, rank: int, at_s: float, end_s: float) -> None:
    """The transfer takes 20 ms from 10 ms on. The prompt is computed again on a prefill rank, then travels again.

    Lost are the prefill rank during the transfer, the decode rank during it, and the decode rank while it decodes. Then
    eight steps follow, or seven. In the first case this transfer waits for the first one, at 30 ms.
    """
    other = tuple(replace(pool, instances=2) for pool in SPLIT)
    lost = (0, 2)[rank]
    cluster = Cluster(other, on_loss="migrate", transfer=Transfer(0.02))
    outcome = run(kind, cluster, ONE, (at_s, "lose", lost))
    assert outcome.status[0] == Status.COMPLETED
    assert outcome.first_token_s[0] == pytest.approx(STEP)
    assert outcome.end_s[0] == pytest.approx(end_s)
    assert sum(pool.output_tokens for pool in outcome.pools) == 10
    assert all(pool.kv_used == 0 for pool in outcome.pools)
    assert [faults.lost_requests for faults in outcome.faults] == [rank == 0, rank == 1]


@ENGINES
def test_a_migrated_prompt_that_no_prefill_rank_holds_fails(kind: Kind) -> None:
    """The prefill cache has two blocks for the prompt of eight tokens, and none for the tokens so far."""
    small = replace(SPLIT[0], limits=replace(LIMITS, kv_blocks=2))
    cluster = Cluster((small, replace(SPLIT[1], instances=2)), on_loss="migrate")
    outcome = run(kind, cluster, ONE, (0.045, "lose", 1))
    assert outcome.status[0] == Status.FAILED
    assert outcome.faults[1].lost_output_tokens == 4


# ---- rule 7: caches


TEXT = Requests.of([0.0, 1.0], [9, 9], [1, 1], block_ids=[1, 2, 1, 2], block_offsets=[0, 2, 4])
CACHED = replace(POOL, limits=replace(LIMITS, prefix_caching=True))
LANE = (Lane((0, 0), 0.0),)


def store(*stores: int, survives: bool = False) -> Tiers:
    return Tiers((Store("dram", 100, stores, LANE, LANE, survives=survives),))


@ENGINES
@pytest.mark.parametrize("policy", ["vllm", "sglang"])
@pytest.mark.parametrize(
    ("tiers", "hits"),
    [(Tiers(), 0), (store(0, 1), 0), (store(0, 1, survives=True), 8), (store(0, 0), 8)],
    ids=["no tier", "own store", "own store that survives", "shared store"],
)
def test_what_a_lost_rank_has_cached(kind: Kind, policy: str, tiers: Tiers, hits: int) -> None:
    """Rank 0 serves the first request, is lost and comes back, and serves the same prompt again."""
    pool = replace(CACHED, limits=replace(CACHED.limits, policy=policy))
    cluster = several(pool, tiers=tiers)
    outcome = run(kind, cluster, TEXT, (0.5, "lose", 0), (0.6, "back", 0), (0.7, "lose", 1))
    assert outcome.rank.tolist() == [0, 0]
    assert outcome.cached_tokens.tolist() == [0, hits]
    assert outcome.pools[0].evictions == 0


@ENGINES
@pytest.mark.parametrize(("second", "hits"), [(None, 8), (1, 0)])
def test_a_store_of_an_instance_dies_with_its_last_rank(kind: Kind, second: int | None, hits: int) -> None:
    pool = Pool(StepCost(np.full(201, STEP)), CACHED.limits, ranks=2)
    losses = [(0.5, "lose", rank) for rank in (0, second) if rank is not None]
    returns = [(0.6, "back", rank) for rank in (0, second) if rank is not None]
    outcome = run(kind, Cluster((pool,), tiers=store(0, 0)), TEXT, *losses, *returns)
    assert outcome.cached_tokens.tolist() == [0, hits]


@ENGINES
def test_the_router_forgets_what_a_lost_rank_had(kind: Kind) -> None:
    """Events of the first request are still on their way at the loss. The second goes to the other rank, not chosen."""
    aware = Router("prefix_aware", event_delay_s=0.8)
    assert run(kind, several(CACHED, router=aware), TEXT).rank.tolist() == [0, 0]
    outcome = run(kind, several(CACHED, router=aware), TEXT, (0.5, "lose", 0), (0.6, "back", 0))
    assert outcome.rank.tolist() == [0, 1]


# ---- rules 8 and 9: router, return


@ENGINES
@pytest.mark.parametrize("name", cases.ROUTERS)
def test_no_request_goes_to_a_lost_rank(kind: Kind, name: str) -> None:
    """Rank 1 of three is lost before the first request and comes back in the middle; all are lost at the end."""
    requests = Requests.of(np.arange(12) * 0.1, [8] * 12, [1] * 12)
    events = [(0.0, "lose", 1), (0.55, "back", 1), *((1.05, "lose", rank) for rank in range(3))]
    router = Router(name)  # type: ignore[arg-type]
    early = replace(requests, arrival_s=requests.arrival_s + 0.01)
    outcome = run(kind, several(count=3, router=router), early, *events)
    assert outcome.status.tolist() == [Status.COMPLETED] * 11 + [Status.REJECTED]
    assert set(outcome.rank[:6]) <= {0, 2}
    assert name in {"least_loaded", "power_of_two"} or 1 in outcome.rank[6:11]
    assert outcome.rank[11] == -1


@ENGINES
def test_the_other_group_serves_when_all_ranks_of_a_group_are_lost(kind: Kind) -> None:
    router = Router("prefix_aware", cold_ranks=1, cold_tokens=20)
    requests = Requests.of([0.01, 0.2, 0.4, 0.6], [40, 8, 40, 8], [1] * 4)
    events = [(0.1, "lose", 0), (0.3, "back", 0), (0.3, "lose", 1)]
    outcome = run(kind, several(router=router), requests, *events)
    assert outcome.rank.tolist() == [1, 1, 0, 0]


@ENGINES
def test_a_finished_prefill_without_a_decode_rank_is_rejected(kind: Kind) -> None:
    outcome = run(kind, Cluster(SPLIT), ONE, (0.005, "lose", 1))
    assert outcome.status[0] == Status.REJECTED
    assert outcome.faults[0].lost_output_tokens == 1
    assert outcome.pools[0].kv_used == 0


@ENGINES
def test_a_restart_of_a_process_is_stop_lose_back_and_start(kind: Kind) -> None:
    """Events at one time happen in their order, and then the requests of the rank are sent again."""
    events = [(0.025, name, 0) for name in ("stop", "lose", "back", "start")]
    outcome = run(kind, Cluster((POOL,), on_loss="restart"), ONE, *events)
    assert outcome.status[0] == Status.COMPLETED
    assert outcome.end_s[0] == pytest.approx(0.025 + 10 * STEP)


@ENGINES
def test_a_lost_request_that_is_cancelled_ends_as_cancelled(kind: Kind) -> None:
    outcome = run(kind, several(on_loss="restart"), ONE, (0.025, "lose", 0), (0.025, "cancel", 0))
    assert outcome.status[0] == Status.CANCELLED
    assert outcome.end_s[0] == pytest.approx(0.025)


# ---- wrong input


@pytest.mark.parametrize(
    ("kind", "index", "value", "words"),
    [
        ("stop", 2, 0.0, "no instance 2; the cluster has 2"),
        ("lose", -1, 0.0, "no rank -1; the cluster has 4"),
        ("back", 4, 0.0, "no rank 4; the cluster has 4"),
        ("pause", 0, -1.0, "Simulator.at: value -1 of 'pause' at instance 0; want a finite time"),
        ("pause", 0, math.inf, "Simulator.at: value inf of 'pause' at instance 0"),
        ("cost", 1, 1.0, "Simulator.at: value 1 of 'cost' at instance 1; want 0, or a number of Pool.variants"),
        ("cost", 1, 0.5, "Simulator.at: value 0.5 of 'cost'"),
        ("stop", 1, 1.0, "Simulator.at: value 1 of 'stop' at instance 1; want no value"),
        ("burn", 0, 0.0, "Simulator.at: unknown event 'burn'; one of cancel, stop, start, pause, cost, lose, back"),
    ],
)
def test_wrong_events(kind: str, index: int, value: float, words: str) -> None:
    run = simulator.Simulator(several(Pool(StepCost(np.full(201, STEP)), LIMITS, ranks=2)))
    with pytest.raises((SpecError, IndexError), match=words):
        run.at(1.0, kind, index, value)


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("Cluster.on_loss: unknown policy 'cry'; fail or restart or migrate", lambda: several(on_loss="cry")),
        ("Cluster.retries: -1 must not be negative", lambda: several(retries=-1)),
        ("Cluster.retries: 40000 is too many", lambda: several(retries=40000)),
        ("StepCost.by_tokens: ends at 2 tokens; a step may hold 100",
         lambda: replace(POOL, variants=(COST, StepCost(np.ones(3))))),
    ],
)  # fmt: skip
def test_wrong_clusters(words: str, make: Callable[[], object]) -> None:
    with pytest.raises(SpecError, match=words):
        make()


# ---- both engines


def check(seed: int) -> Outcome:
    """Both engines agree at each look, in a random cluster with random failures and cancels."""
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        cluster, requests = cases.reuse(rng)
    else:
        cluster, requests = cases.cluster(rng), cases.requests(rng, int(rng.integers(1, 40)))
    cluster = cases.with_faults(rng, cluster)
    slow, fast = reference.Reference(cluster), simulator.Simulator(cluster)
    times = cases.busy_times(rng, requests, 12)
    events = cases.faults(rng, cluster, times)
    events += [(float(rng.choice(times)), "cancel", int(rng.integers(len(requests))), 0.0) for _ in range(3)]
    for one in (slow, fast):
        one.submit(requests)
        for event in events:
            one.at(*event)
    for now in [*np.sort(cases.moments(rng, 2)).tolist(), math.inf]:
        for one in (slow, fast):
            one.advance(now)
        cases.assert_same(slow.outcome(), fast.outcome())
    cases.assert_same_ended(slow.take(), fast.take())
    return slow.outcome()


def test_kernel_equals_reference_in_fixed_cases() -> None:
    seen = np.zeros(6, dtype=int)
    for seed in range(60):
        outcome = check(seed)
        counters = [
            [f.lost_steps, f.lost_requests, f.retries, f.lost_output_tokens, f.lost_kv_tokens] for f in outcome.faults
        ]
        seen += [*np.sum(counters, axis=0), outcome.count(Status.FAILED)]
    assert (seen > 10).all(), seen


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 40))
def test_kernel_equals_reference(seed: int) -> None:
    check(seed)
