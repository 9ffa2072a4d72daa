"""KV tiers below HBM: times and counters by hand, rule by rule of `engine.tiers`, and wrong input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tokenworks.engine import reference, simulator
from tokenworks.engine.outcome import Outcome
from tokenworks.engine.tiers import Lane, Store, Tiers
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, Router, Status, StepCost
from tokenworks.errors import SpecError

STEP = 0.01
BLOCK = 0.005
LATENCY = 0.002
LIMITS = Limits(4, 100, kv_blocks=8, block_tokens=4, prefix_caching=True)
POOL = Pool(StepCost(np.full(101, STEP)), LIMITS)
LANE = (Lane((0,), BLOCK),)
DRAM = Store("dram", 100, (0,), LANE, (Lane((1,), 0.0),), LATENCY)

Run = Callable[[Cluster, Requests], Outcome]
ENGINES = pytest.mark.parametrize("run", [reference.run, simulator.run], ids=["reference", "kernel"])
BOTH = pytest.mark.parametrize("policy", ["vllm", "sglang"])


def cluster(*stores: Store, policy: str = "vllm", kv_blocks: int = 8, pool: Pool = POOL, **settings: Any) -> Cluster:
    """One rank with an HBM of eight blocks, and tiers."""
    limits = replace(pool.limits, policy=policy, kv_blocks=kv_blocks)
    return Cluster((replace(pool, limits=limits),), tiers=Tiers(stores, **settings))


def prompts(*chains: tuple[float, list[int]]) -> Requests:
    """Requests with one output token each, and one token of prompt more than the blocks of a chain."""
    names = [name for _, chain in chains for name in chain]
    offsets = np.concatenate([[0], np.cumsum([len(chain) for _, chain in chains])])
    return Requests.of(
        [time for time, _ in chains], [4 * len(chain) + 1 for _, chain in chains], [1] * len(chains),
        block_ids=names, block_offsets=offsets,
    )  # fmt: skip


FOUR, OTHER = [1, 2, 3, 4], [11, 12, 13, 14, 15, 16, 17]
AGAIN = prompts((0.0, FOUR), (0.5, OTHER), (1.0, FOUR))
"""Four blocks; then seven others, which leave no room for the four in HBM; then the four again."""


# ---- rules 1 to 3: look-up, load, flow


@ENGINES
@BOTH
def test_layers_are_loaded_while_earlier_layers_are_computed(run: Run, policy: str) -> None:
    outcome = run(cluster(DRAM, policy=policy, layers=10), AGAIN)
    assert outcome.cached_tokens.tolist() == [0, 0, 16]
    assert outcome.first_token_s[2] == pytest.approx(1.0 + 4 * BLOCK + LATENCY + STEP / 10)
    (dram,) = outcome.tiers
    assert (dram.hit_blocks, dram.read_blocks, dram.written_blocks, dram.used) == (4, 4, 11, 11)
    assert dram.read_s == pytest.approx(4 * BLOCK)


@ENGINES
@BOTH
def test_a_load_that_is_quicker_than_the_step_costs_nothing(run: Run, policy: str) -> None:
    fast = replace(DRAM, read=(Lane((0,), 1e-4),), latency_s=0.0)
    assert run(cluster(fast, policy=policy, layers=10), AGAIN).first_token_s[2] == pytest.approx(1.0 + STEP)


@ENGINES
@BOTH
def test_an_asynchronous_load_comes_before_the_step(run: Run, policy: str) -> None:
    outcome = run(cluster(DRAM, policy=policy, load="async"), AGAIN)
    assert outcome.scheduled_s[2] == 1.0
    assert outcome.first_token_s[2] == pytest.approx(1.0 + 4 * BLOCK + LATENCY + STEP)
    assert outcome.cached_tokens.tolist() == [0, 0, 16]


@ENGINES
def test_others_run_while_a_request_loads(run: Run) -> None:
    """Another prompt arrives during the load, and has its first token before."""
    requests = prompts((0.0, FOUR), (0.5, OTHER), (1.0, FOUR), (1.001, []))
    outcome = run(cluster(DRAM, load="async"), requests)
    assert outcome.first_token_s[3] == pytest.approx(1.001 + STEP)
    assert outcome.first_token_s[2] == pytest.approx(1.0 + 4 * BLOCK + LATENCY + STEP)


@ENGINES
def test_the_slowest_lane_sets_the_time_and_flows_queue_at_a_link(run: Run) -> None:
    """Two ranks load four blocks each at the same time over one link; the second flow waits for the first."""
    pool = replace(POOL, instances=2)
    both = replace(DRAM, stores=(0, 0), read=(Lane((0, 1), 1e-4), Lane((2, 2), BLOCK)), write=(Lane((3, 3), 0.0),))
    requests = prompts((0.0, FOUR), (0.1, [5]), (0.5, OTHER), (0.5, OTHER), (1.0, FOUR), (1.0, FOUR))
    outcome = run(cluster(both, pool=pool, layers=10), requests)
    assert outcome.rank.tolist() == [0, 1, 0, 1, 0, 1]
    assert outcome.first_token_s[4:].tolist() == pytest.approx(
        [1.0 + n * 4 * BLOCK + LATENCY + STEP / 10 for n in (1, 2)]
    )


@ENGINES
def test_blocks_behind_a_gateway_pass_it_and_stay_there(run: Run) -> None:
    """DRAM has room for the seven other blocks only, so the four come from the SSD, and DRAM gives up four of seven."""
    dram, ssd = replace(DRAM, blocks=7), replace(DRAM, name="ssd", read=(Lane((5,), 0.02),), latency_s=0.0, gateway=0)
    outcome = run(cluster(dram, ssd, layers=10), AGAIN)
    assert outcome.first_token_s[2] == pytest.approx(1.0 + 4 * 0.02 + 4 * BLOCK + LATENCY + STEP / 10)
    assert [tier.hit_blocks for tier in outcome.tiers] == [0, 4]
    assert [tier.read_blocks for tier in outcome.tiers] == [4, 4]
    assert [tier.written_blocks for tier in outcome.tiers] == [11, 11]
    assert [tier.evictions for tier in outcome.tiers] == [8, 0]
    assert [tier.used for tier in outcome.tiers] == [7, 11]


# ---- rule 4: writes


@ENGINES
@BOTH
def test_blocks_are_written_after_some_uses(run: Run, policy: str) -> None:
    """With `uses` = 2, the second prompt with the same blocks writes them, not those that came only once."""
    selective = replace(DRAM, uses=2)
    requests = prompts((0.0, FOUR), (0.2, FOUR[:2]), (0.5, OTHER), (1.0, FOUR))
    outcome = run(cluster(selective, policy=policy), requests)
    assert outcome.cached_tokens.tolist() == [0, 8, 0, 8]
    assert outcome.tiers[0].written_blocks == 2


@ENGINES
@BOTH
def test_blocks_are_written_back_when_hbm_evicts_them(run: Run, policy: str) -> None:
    back = replace(DRAM, written="back")
    before = run(cluster(back, policy=policy), prompts((0.0, FOUR)))
    after = run(cluster(back, policy=policy), AGAIN)
    assert before.tiers[0].written_blocks == 0
    assert after.tiers[0].written_blocks >= 4
    assert after.cached_tokens.tolist() == [0, 0, 16]


@ENGINES
@BOTH
def test_a_step_waits_until_evicted_blocks_are_written(run: Run, policy: str) -> None:
    """Seven blocks and a started one replace four blocks and a free one: the step lasts as long as their writes."""
    slow = replace(DRAM, written="back", write=(Lane((1,), 0.1),))
    outcome = run(cluster(slow, policy=policy), prompts((0.0, FOUR), (0.5, OTHER)))
    written = outcome.tiers[0].written_blocks
    assert written >= 4
    assert outcome.first_token_s[1] == pytest.approx(0.5 + 0.1 * written)
    through = run(cluster(replace(slow, written="through"), policy=policy), prompts((0.0, FOUR), (0.5, OTHER)))
    assert through.first_token_s[1] == pytest.approx(0.5 + STEP)


@ENGINES
def test_a_lower_tier_gets_what_the_tier_above_evicts(run: Run) -> None:
    above, below = replace(DRAM, blocks=4), replace(DRAM, name="pool", written="back")
    outcome = run(cluster(above, below), AGAIN)
    assert [tier.evictions for tier in outcome.tiers] == [outcome.tiers[1].written_blocks, 0]
    assert outcome.cached_tokens[2] == 16
    assert sum(tier.hit_blocks for tier in outcome.tiers) == 4


# ---- rule 6: prefetch


def behind(prefetch: str, timeout_s: float = 0.0) -> tuple[Store, Store]:
    """DRAM of four blocks, and behind it an SSD that needs 20 ms for a block."""
    dram = replace(DRAM, blocks=4, read=(Lane((0,), 0.0),), latency_s=0.0)
    ssd = replace(DRAM, name="ssd", read=(Lane((5,), 0.02),), gateway=0, latency_s=0.0)
    return dram, replace(ssd, prefetch=prefetch, timeout_s=timeout_s)  # type: ignore[arg-type]


@ENGINES
@BOTH
@pytest.mark.parametrize(
    ("prefetch", "start", "tokens"),
    [(("wait",), 1.08, 16), (("best_effort",), 1.0, 0), (("timeout", 0.05), 1.05, 8), (("timeout", 0.2), 1.08, 16)],
)
def test_a_prefetch_may_hold_a_request_up(run: Run, policy: str, prefetch: Any, start: float, tokens: int) -> None:
    outcome = run(cluster(*behind(*prefetch), policy=policy), AGAIN)
    assert outcome.scheduled_s[2] == pytest.approx(start)
    assert outcome.cached_tokens[2] == tokens
    assert outcome.tiers[1].hit_blocks == tokens // 4
    assert outcome.tiers[1].late_blocks == 4 - tokens // 4
    assert outcome.tiers[1].read_blocks == 4


@ENGINES
@BOTH
def test_best_effort_takes_what_has_come_while_the_request_was_queued(run: Run, policy: str) -> None:
    """The step of another prompt ends 50 ms after the arrival: two of four blocks are there."""
    pool = replace(POOL, cost=StepCost(np.full(101, 0.06)))
    requests = prompts((0.0, FOUR), (0.5, OTHER), (0.99, [31]), (1.0, FOUR))
    outcome = run(cluster(*behind("best_effort"), policy=policy, pool=pool), requests)
    assert outcome.scheduled_s[3] == pytest.approx(1.05)
    assert outcome.cached_tokens[3] == 8


@ENGINES
def test_a_request_that_waited_stands_in_the_queue_by_its_number(run: Run) -> None:
    """One request runs at a time. The second waits 80 ms for a prefetch, and is still served before the third."""
    pool = replace(POOL, cost=StepCost(np.full(101, 0.1)), limits=replace(LIMITS, max_sequences=1))
    requests = prompts((0.0, FOUR), (0.5, OTHER), (0.99, []), (1.0, FOUR), (1.01, []))
    outcome = run(cluster(*behind("wait"), pool=pool), requests)
    assert outcome.scheduled_s[3:].tolist() == pytest.approx([1.09, 1.19])


@ENGINES
def test_cancelled_while_it_waits_for_a_prefetch(run: Run) -> None:
    engine = (reference.Reference if run is reference.run else simulator.Simulator)(cluster(*behind("wait")))
    engine.submit(AGAIN)
    engine.at(1.02, "cancel", 2)
    engine.advance()
    outcome = engine.outcome()
    assert outcome.status[2] == Status.CANCELLED
    assert outcome.end_s[2] == 1.02
    assert outcome.now_s == 1.02
    assert outcome.tiers[1].late_blocks == outcome.tiers[1].hit_blocks == 0


# ---- rule 7: failures


@ENGINES
@BOTH
@pytest.mark.parametrize("load", ["layerwise", "async"])
def test_a_failed_load_is_computed_again(run: Run, policy: str, load: str) -> None:
    outcome = run(cluster(replace(DRAM, failures=1.0), policy=policy, load=load, layers=10), AGAIN)
    assert outcome.cached_tokens.tolist() == [0, 0, 0]
    assert outcome.tiers[0].failed == 1
    assert outcome.pools[0].prefill_tokens == AGAIN.input_tokens.sum()
    late = STEP if load == "async" else STEP / 10
    assert outcome.first_token_s[2] == pytest.approx(1.0 + 4 * BLOCK + LATENCY + late)


@ENGINES
@BOTH
@pytest.mark.parametrize("load", ["layerwise", "async"])
def test_a_failed_load_ends_the_request(run: Run, policy: str, load: str) -> None:
    settings: dict[str, Any] = {"load": load, "on_failure": "fail", "layers": 10}
    outcome = run(cluster(replace(DRAM, failures=1.0), policy=policy, **settings), AGAIN)
    assert outcome.status.tolist() == [Status.COMPLETED, Status.COMPLETED, Status.FAILED]
    assert math.isnan(outcome.first_token_s[2])
    late = 0.0 if load == "async" else STEP / 10
    assert outcome.end_s[2] == pytest.approx(1.0 + 4 * BLOCK + LATENCY + late)
    assert outcome.pools[0].kv_used == 0


@ENGINES
def test_a_failed_prefetch_fails_no_request(run: Run) -> None:
    dram, ssd = behind("wait")
    outcome = run(cluster(dram, replace(ssd, failures=1.0), on_failure="fail"), AGAIN)
    assert (outcome.status == Status.COMPLETED).all()
    assert outcome.scheduled_s[2] == pytest.approx(1.08)
    assert outcome.cached_tokens[2] == 0


# ---- rule 8: the router


@ENGINES
@pytest.mark.parametrize(("stores", "rank"), [((0, 1), 0), ((0, 0), 1)])
def test_the_router_knows_the_stores_of_one_rank_alone(run: Run, stores: tuple[int, ...], rank: int) -> None:
    """The second use comes when HBM has lost the blocks. Only a private store ties them to the rank that had them."""
    pool, own = replace(POOL, instances=2), replace(DRAM, stores=stores)
    lanes: dict[str, Any] = {"read": (Lane((0, 1), BLOCK),), "write": (Lane((2, 3), 0.0),)}
    setup = cluster(replace(own, **lanes), pool=pool)
    setup = replace(setup, router=Router("prefix_aware", load_tokens=0))
    requests = prompts((0.0, FOUR), (0.1, [9]), (0.5, OTHER), (1.0, [*FOUR, 5]))
    outcome = run(setup, requests)
    assert outcome.rank.tolist() == [0, 1, 0, rank]
    assert outcome.cached_tokens[3] == 16


# ---- wrong input


@pytest.mark.parametrize(
    ("words", "make"),
    [
        (r"Lane.block_s: -1 must be finite and not negative", lambda: Lane((0,), -1)),
        (r"Lane.block_s: inf must be finite", lambda: Lane((0,), math.inf)),
        (r"Lane.links: want a link number for each rank", lambda: Lane((), 0.1)),
        (r"Store.blocks: -1 must not be negative", lambda: replace(DRAM, blocks=-1)),
        (r"Store.uses: 0 must be at least 1", lambda: replace(DRAM, uses=0)),
        (r"Store.failures: 2 is not a share", lambda: replace(DRAM, failures=2)),
        (r"Store.latency_s: nan must be finite", lambda: replace(DRAM, latency_s=math.nan)),
        (r"Store.eviction: unknown policy 'fifo'; lru, arc, cost", lambda: replace(DRAM, eviction="fifo")),  # type: ignore[arg-type]
        (r"Store.written: unknown policy 'around'; through, back", lambda: replace(DRAM, written="around")),  # type: ignore[arg-type]
        (r"Store.prefetch: a store without a gateway has nowhere", lambda: replace(DRAM, prefetch="wait")),
        (r"Store.read: want at least one lane", lambda: replace(DRAM, read=())),
        (r"Store.stores: want a store number for each rank", lambda: replace(DRAM, stores=())),
        (r"Tiers.load: unknown load 'lazy'; layerwise or async", lambda: Tiers(load="lazy")),  # type: ignore[arg-type]
        (r"Tiers.on_failure: unknown policy 'cry'", lambda: Tiers(on_failure="cry")),  # type: ignore[arg-type]
        (r"Tiers.layers: 0 must be at least 1", lambda: Tiers(layers=0)),
        (r"Tiers.position_s: -1 must be finite", lambda: Tiers(position_s=-1)),
        (r"Store.gateway: gateway 0 of 'dram' is not an earlier tier", lambda: cluster(replace(DRAM, gateway=0))),
        (
            r"Cluster.tiers: the first pool has no prefix cache.*set Limits.prefix_caching",
            lambda: Cluster((replace(POOL, limits=Limits(4, 100, 8)),), tiers=Tiers((DRAM,))),
        ),
        (
            r"Cluster.tiers: stores of 'dram' has 1 numbers for 2 ranks; give one number for each rank",
            lambda: cluster(DRAM, pool=replace(POOL, instances=2)),
        ),
        (
            r"Cluster.tiers: write\[0\].links of 'dram' has 2 numbers for 1 ranks",
            lambda: cluster(replace(DRAM, write=(Lane((0, 1), 0.0),))),
        ),
    ],
)  # fmt: skip
def test_wrong_tiers(words: str, make: Callable[[], object]) -> None:
    with pytest.raises(SpecError, match=words):
        make()


def test_names_of_blocks_without_room() -> None:
    """Chained ids always fit. If other ids do not, the kernel stops before it writes beyond its memory."""
    run = simulator.Simulator(cluster(DRAM))
    run.submit(AGAIN)
    run._state = run._state._replace(run_name=np.zeros(4, np.int64))
    with pytest.raises(SpecError, match=r"Requests.block_ids: equal block ids with different blocks .* chained hashes"):
        run.advance()


def test_eight_tiers_and_no_more() -> None:
    """The kernel has eight bits for the tiers that hold a block."""
    stores = tuple(replace(DRAM, name=f"tier {number}") for number in range(9))
    assert len(simulator.Simulator(cluster(*stores[:8])).counts().tiers) == 8
    with pytest.raises(SpecError, match=r"Cluster.tiers: 9 KV tiers, the engine takes 8; give fewer tiers"):
        simulator.Simulator(cluster(*stores))
