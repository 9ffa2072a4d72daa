"""Whether KV tiers pay: reading against computing by hand, the verdict of a run, Belady's bound, plain data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tokenworks.engine.tiers import Lane, Store, Tiers
from tokenworks.engine.types import Limits, Pool, StepCost
from tokenworks.simulation.run import Simulation, Traffic, simulate
from tokenworks.simulation.tier_worth import TierWorth, _as_admitted, prefill_s, read_s, shortest_hit
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.trace import Trace
from tokenworks.traffic.distance import reuses

# ---- by hand

LANE = (Lane((0,), 0.004), Lane((1,), 0.001))
UPPER = Store("dram", 100, (0,), LANE, LANE, latency_s=0.010)
LOWER = Store("ssd", 100, (0,), (Lane((2,), 0.020),), (Lane((2,), 0.020),), latency_s=0.100, gateway=0)
TIERS = Tiers((UPPER, LOWER))
BUDGET = 400
POOL = Pool(StepCost(0.05 + 0.001 * np.arange(BUDGET + 1)), Limits(4, BUDGET, kv_blocks=1000, block_tokens=16))
"""A step takes 50 ms + 1 ms for each token, so a block of 16 tokens takes 16 ms in a full step."""


def test_a_read_passes_the_slowest_lane_and_then_the_gateway() -> None:
    assert read_s(TIERS, UPPER, 5) == pytest.approx(0.010 + 5 * 0.004)
    assert read_s(TIERS, LOWER, 5) == pytest.approx(0.100 + 5 * 0.020 + 0.010 + 5 * 0.004)


def test_a_prompt_is_computed_in_steps_of_the_token_budget() -> None:
    assert prefill_s(POOL, 100) == pytest.approx(0.05 + 0.1)
    assert prefill_s(POOL, 800) == pytest.approx(2 * (0.05 + 0.4))
    seen = replace(POOL, cost=replace(POOL.cost, prefill_context_s=1e-6))
    assert prefill_s(seen, 100) == pytest.approx(0.15 + 1e-6 * 50 * 100)
    assert prefill_s(seen, 100, 1000) == pytest.approx(0.15 + 1e-6 * 1000 * 100)


def test_the_shortest_prefix_that_a_tier_delivers_sooner() -> None:
    """A block of the upper tier takes 14 ms, and 66 ms to compute. The lower tier needs 110 ms + 24 ms for each block.
    It loses: in steps of 400 tokens a block takes 18 ms to compute."""
    assert shortest_hit(TIERS, UPPER, POOL, 4000) == 16
    assert shortest_hit(TIERS, LOWER, POOL, 4000) is None
    late = Tiers((replace(UPPER, latency_s=0.2),))
    blocks = next(n for n in range(1, 100) if 0.2 + 0.004 * n < prefill_s(POOL, 16 * n))
    assert shortest_hit(late, late.stores[0], POOL, 1600) == 16 * blocks
    assert shortest_hit(late, late.stores[0], POOL, 16 * (blocks - 1)) is None


# ---- runs


def twice(prompts: int = 40, tokens: int = 4096) -> Traffic:
    """Prompts that come twice in the same order, one after the other: more than HBM of `small` keeps."""
    order, blocks = np.tile(np.arange(prompts), 2), tokens // 64
    return Traffic(Trace.of(
        np.zeros(2 * prompts), np.full(2 * prompts, tokens + 30), np.full(2 * prompts, 2),
        parent=np.arange(2 * prompts) - 1, run_start=order * blocks, run_length=np.full(2 * prompts, blocks),
        run_offsets=np.arange(2 * prompts + 1), hash_block_tokens=64,
    ))  # fmt: skip


def small(tiers: Any = (), **more: Any) -> Deployment:
    """Llama-3.1-8B on one H100 with a KV cache of 70,000 tokens."""
    plain = {"model": "meta-llama/Meta-Llama-3.1-8B", "system": "hgx-h100:1", "engine": "vllm", **more}
    plain["roles"] = [{"max_sequences": 16, "memory_fraction": 0.35}]
    return Deployment.model_validate({**plain, "tiers": tiers} if tiers else plain)


def run(tiers: Any, **more: Any) -> Simulation:
    return simulate(small(tiers, **more), twice(), compare_tiers=True)


def worth(result: Simulation) -> TierWorth:
    assert result.worth is not None
    return result.worth


@pytest.fixture(scope="module")
def fast() -> Simulation:
    return run([{"medium": "host", "capacity": "100 GB"}])


@pytest.mark.usefixtures("kernel")
def test_a_fast_tier_pays(fast: Simulation) -> None:
    assert fast.without is not None
    assert worth(fast).pays
    assert fast.without.worth is None
    assert not fast.without.outcome.cached_tokens.any()
    assert worth(fast).hit_share > 0.45
    assert fast.metrics.mean_ttft_ms < fast.without.metrics.mean_ttft_ms


@pytest.mark.usefixtures("kernel")
def test_a_tier_that_is_slower_than_computing_loses() -> None:
    slow = run([{"medium": "host", "capacity": "100 GB", "read": "0.1 GB/s", "write": "50 GB/s"}])
    assert slow.without is not None
    assert worth(slow).hit_share > 0.45
    assert not worth(slow).pays
    assert slow.metrics.mean_ttft_ms > slow.without.metrics.mean_ttft_ms
    assert slow.plain()["tiers"][1]["pays_from_tokens"] is None


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("gigabytes", [1, 10, 30])
def test_no_eviction_has_more_hits_than_the_best_one(gigabytes: int) -> None:
    result = worth(run([{"medium": "host", "capacity": f"{gigabytes} GB"}]))
    assert result.hit_share <= result.belady_share + 1e-9
    assert result.belady_share <= result.endless_share + 1e-9


@pytest.mark.usefixtures("kernel")
def test_an_endless_cache_and_the_capacity_that_is_enough(fast: Simulation) -> None:
    """Half of the requests find all 64 of their blocks; 40 prompts of 64 blocks lie between two uses."""
    result = worth(fast)
    asked = 80 * (4096 + 30)
    assert result.endless_share == pytest.approx(40 * 4096 / asked)
    assert result.enough_bytes is not None
    assert 39 * 64 <= result.enough_bytes / fast.block_bytes <= 40 * 64


def test_capacity_is_asked_in_the_order_of_admission() -> None:
    """Four prompts a b a b, admitted as a a b; the last one is never admitted."""
    trace = Trace.of(
        [0, 1, 2, 3], [64] * 4, [1] * 4, run_start=[0, 10, 0, 10], run_length=[1, 2, 3, 4], run_offsets=range(5),
        hash_block_tokens=16,
    )  # fmt: skip
    admitted = _as_admitted(trace, np.array([5.0, 9.0, 7.0, np.nan]))
    assert admitted.run_start.tolist() == [0, 0, 10]
    assert admitted.run_length.tolist() == [1, 3, 2]
    assert admitted.hash_ids.tolist() == [0, 0, 1, 2, 10, 11]
    assert reuses(admitted).distance.tolist() == [1]


@pytest.mark.usefixtures("kernel")
def test_plain_data(fast: Simulation) -> None:
    plain = fast.plain()
    hbm, host = plain["tiers"]
    assert (hbm["name"], host["name"]) == ("hbm", "host")
    assert host["hit_share"] + hbm["hit_share"] == pytest.approx(plain["roles"][0]["hit_share"])
    assert host["pays_from_tokens"] % 64 == 0
    assert 0 < host["pays_from_share"] <= 1
    compared = plain["tier_worth"]
    assert compared["pays"] is True
    assert {"hit_share", "belady_share", "endless_share", "enough_bytes", "without_hit_share", "without"} < set(
        compared
    )
    assert compared["without"]["mean_ttft_ms"] > plain["mean_ttft_ms"]
    assert compared["without_hit_share"] < compared["hit_share"]


@pytest.mark.usefixtures("kernel")
def test_without_tiers_nothing_is_compared() -> None:
    plain = simulate(small(), twice(4), compare_tiers=True).plain()
    assert plain["tier_worth"] is None
    assert [tier["name"] for tier in plain["tiers"]] == ["hbm"]
    assert simulate(small("vllm-offload"), twice(4)).plain()["tier_worth"] is None
