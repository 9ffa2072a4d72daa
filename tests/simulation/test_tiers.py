"""KV tiers in the form of the engine: sizes, stores and links equal numbers by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tokenworks.costs.rates import rates
from tokenworks.costs.requests import mean_of_requests
from tokenworks.engine.tiers import Store, Tiers
from tokenworks.engine.types import Cluster, Router
from tokenworks.errors import DoesNotFit, NotPublished, SpecError
from tokenworks.simulation.cluster import cluster
from tokenworks.simulation.run import NO_PREFIXES, Traffic, simulate
from tokenworks.simulation.steps import Site
from tokenworks.simulation.tier_room import TierRoom
from tokenworks.simulation.tiers import BuiltTiers, tiers_of
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.edits import edited
from tokenworks.specs.engine import load_engine
from tokenworks.specs.given import from_options
from tokenworks.specs.hf import load_model
from tokenworks.specs.workload import Workload
from tokenworks.traffic import from_workload

R1, LLAMA = "deepseek-ai/DeepSeek-R1", "meta-llama/Meta-Llama-3.1-8B"
ONE = {"parallel": {"tp": 1}}
MLA = {"parallel": {"tp": 16, "expert_tp": 16}, "kv_dtype": "bf16"}
BLOCK = 16


def built(
    model: str = LLAMA, on: str = "hgx-h100", role: dict[str, Any] = ONE, engine: str = "vllm", tiers: Any = "",
    **more: Any,
) -> tuple[BuiltTiers, Cluster]:  # fmt: skip
    roles = more.pop("roles", [role])
    assume = more.pop("assume", None)
    deployment = Deployment(model=model, system=on, engine=engine, roles=roles, tiers=tiers, **more)
    on_machine = machine(on, assume=assume)
    site = Site(load_model(model), on_machine, load_engine(engine), rates(on_machine, load_calibration()),
                mean_of_requests([4000], [100]))  # fmt: skip
    whole = cluster(deployment, site, router=Router("least_loaded"), block_tokens=BLOCK, prefix_caching=True)
    return tiers_of(deployment, site, whole.pools[0]), whole


def times(store: Store) -> tuple[list[float], list[float]]:
    return [lane.block_s for lane in store.read], [lane.block_s for lane in store.write]


def test_a_block_of_llama_over_pcie() -> None:
    """16 tokens x 32 layers x 2 x 8 heads x 128 x 2 B = 2 MiB; 0.78 of 64 GB/s, both ways 0.834 of 2 x that."""
    tiers, whole = built(tiers=[{"medium": "host", "capacity": "1 TB"}], role={"replicas": 8})
    (store,) = tiers.engine.stores
    assert whole.tiers == tiers.engine
    assert tiers.bytes_per_block == (float(2**21),)
    assert store.blocks == int(1e12 / 8 // 2**21)
    assert store.stores == tuple(range(8))
    link = 2**21 / (0.78 * 64e9)
    assert times(store)[0] == pytest.approx([link, link / (2 * 0.834), 2**21 / 614e9])
    memory = store.read[2].links
    assert memory == store.write[2].links
    assert len(set(memory)) == 1  # eight ranks of one host
    assert set(store.read[0].links).isdisjoint(store.write[0].links)
    assert tiers.engine.load == "async"


def test_small_pieces_are_five_times_slower() -> None:
    """Layer by layer, keys and values apart: 32 KiB a transfer."""
    whole, pieces = (built(tiers=[{"medium": "host", "layout": layout}])[0].engine.stores[0]
                     for layout in ("block", "layer"))  # fmt: skip
    assert pieces.read[0].block_s / whole.read[0].block_s == pytest.approx(5)
    assert pieces.blocks == whole.blocks


def test_tensor_parallel_devices_store_an_mla_cache_each_in_the_host_and_once_below() -> None:
    """576 x 61 layers x 2 B x 16 tokens = 1.12 MB; 16 devices on two hosts of eight."""
    tiers, _ = built(R1, "2xhgx-h200", MLA, "sglang", "hicache")
    host, ssd = tiers.engine.stores
    one = 576 * 61 * 2 * BLOCK
    assert tiers.bytes_per_block == pytest.approx((16 * one, one))
    assert host.blocks == int(0.8 * 2e12 * 2 // (16 * one))
    assert ssd.blocks == int(0.9 * 30.72e12 * 2 // one)
    drives = 2 * 54.4e9  # every device reads its own copy, one copy is written
    assert times(ssd)[0] == pytest.approx([16 * one / drives])
    assert times(ssd)[1] == pytest.approx([one / drives])
    assert host.read[0].block_s == pytest.approx(one / (0.78 * 64e9))
    assert (ssd.gateway, ssd.prefetch, ssd.timeout_s) == (0, "timeout", 2.0)
    assert tiers.engine.load == "layerwise"
    assert tiers.engine.layers == 61


def test_ranks_of_a_host_share_its_memory_and_drives() -> None:
    tiers, _ = built(R1, "scalex40", {"parallel": {"dp": 40, "ep": 40}, "redundant_experts": 24}, "sglang", "hicache")
    host, ssd = tiers.engine.stores
    assert len(set(host.stores)) == 40
    assert [len(set(lane.links)) for lane in host.read] == [40, 40, 10]
    assert ssd.stores == tuple(rank // 4 for rank in range(40))
    assert len(set(ssd.read[0].links)) == 10


def test_a_pool_is_one_store_for_all_and_shares_the_link_of_a_device() -> None:
    wide = {"parallel": {"dp": 40, "ep": 40}, "redundant_experts": 24}
    for name in ("pooled", "mooncake"):
        tiers, _ = built(R1, "scalex40", wide, "vllm", name)
        pool, ssd = tiers.engine.stores
        assert set(pool.stores) == set(ssd.stores) == {0}
        assert [len(set(lane.links)) for lane in pool.read] == [40, 1]
        assert pool.read[1].block_s == pytest.approx(tiers.bytes_per_block[0] / (10 * 256e9))
        assert ssd.gateway == 0
    assert pool.read[0].block_s > built(R1, "scalex40", wide, "vllm", "pooled")[0].engine.stores[0].read[0].block_s


def test_tiers_of_one_link_share_it() -> None:
    both = [{"medium": "host", "capacity": "1 TB"}, {"medium": "ssd", "gateway": "", "scope": "private", "name": "gds"}]
    with pytest.raises(SpecError, match="exchanges blocks of gds with host memory only"):
        built(tiers=both)
    remote = [{"medium": "pool", "capacity": "1 TB", "total": "1 TB/s"}, {"medium": "remote", "capacity": "9 TB"}]
    near, far = built(LLAMA, "2xhgx-h100@ndr", {"replicas": 16}, tiers=remote)[0].engine.stores
    assert near.read[0].links == far.read[0].links
    assert far.latency_s > near.latency_s


def test_prefill_uses_the_tiers() -> None:
    roles = [{"name": "prefill", "replicas": 2}, {"name": "decode"}]
    tiers, whole = built(tiers="vllm-offload", roles=roles)
    assert [len(store.stores) for store in tiers.engine.stores] == [2, 2]
    assert len(whole.pools) == 2


def test_tiers_without_a_size_divide_what_the_machine_has() -> None:
    two = [{"medium": "host", "name": "own"}, {"medium": "pool", "gateway": "own"}]
    deployment = Deployment(model=LLAMA, system="2xhgx-h100@ndr", roles=[{"replicas": 8}], tiers=two)
    on = machine("2xhgx-h100@ndr")
    assert [TierRoom(deployment, on).capacity(at) for at in (0, 1)] == pytest.approx(
        [0.8 * 2e12, 0.8 * 2e12]
    )  # eight devices reach one host, the pool has the rest
    given = edited(deployment, from_options(["tiers.1.capacity=3 TB"]))
    assert [TierRoom(given, on).capacity(at) for at in (0, 1)] == pytest.approx([0.2e12, 3e12])


def test_assumed_numbers_are_listed() -> None:
    tiers, _ = built(R1, "scalex40", {"parallel": {"dp": 40, "ep": 40}, "redundant_experts": 24}, "vllm", "pooled")
    listed = {one.path: one.value for one in tiers.assumed}
    assert listed["host.fabric"] == "256 GB/s"
    assert listed["tiers.0.capacity"] == "0.8 of host.dram"
    assert listed["tiers.0.efficiency"] == "0.8"
    given = [{"medium": "host", "capacity": "1 TB", "latency": {"value": "9 us", "status": "measured", "source": "x"}}]
    assert {one.path for one in built(tiers=given)[0].assumed} == {"tiers.0.capacity"}


def test_policies_reach_the_engine() -> None:
    tier = {"medium": "host", "written": "selective", "uses": 3, "eviction": "arc", "failures": 0.1}
    tiers = built(tiers=[tier], kv_load_failure="fail")[0].engine
    (store,) = tiers.stores
    assert (store.written, store.uses, store.eviction, store.failures) == ("through", 3, "arc", 0.1)
    assert (tiers.on_failure, tiers.block_s > 0, tiers.position_s > 0) == ("fail", True, True)
    two = built(tiers=[{"medium": "host", "written": "selective"}])[0].engine.stores[0]
    assert two.uses == 2


def test_without_prefix_caching_or_tiers_there_are_none() -> None:
    assert built(tiers=[])[0] == BuiltTiers(Tiers(), (), ())


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"tiers": [{"medium": "host", "capacity": "3 TB"}]}, DoesNotFit, "3 TB of host.dram, but 1 x host of"),
        ({"tiers": [{"medium": "host", "capacity": "1 kB"}]}, DoesNotFit, "hold no block of 2.097 MB"),
        ({"tiers": [{"medium": "pool", "semantics": "load-store"}]}, NotPublished, "does not publish host.fabric"),
        ({"tiers": [{"medium": "remote"}]}, SpecError, "a remote store has no default size"),
        ({"tiers": [{"medium": "remote", "capacity": "1 TB"}]}, SpecError, "one domain without a network"),
        ({"tiers": [{"medium": "remote", "capacity": "1 TB", "link": "none"}]}, SpecError, "has no bandwidth"),
        ({"tiers": [{"medium": "pool", "link": "scale-up", "total": "1 TB/s"}], "on": "pcie-rtx-4090:1"}, SpecError,
         "no scale-up link"),
        ({"tiers": [{"medium": "host"}], "on": "tpu-v6e-8"}, NotPublished, "does not publish host.link"),
        ({"tiers": "vllm-offload", "on": "tpu-v6e-8"}, NotPublished, "host.link"),
    ],
)  # fmt: skip
def test_bad_tiers_are_refused(fields: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        built(**fields)


def test_more_than_the_machine_by_several_tiers() -> None:
    tiers = [{"medium": "host", "capacity": "1.5 TB"}, {"medium": "pool", "gateway": "host", "capacity": "0.6 TB"}]
    with pytest.raises(DoesNotFit, match=r"host 1.5 TB \+ pool 0.6 TB: 2.1 TB of host.dram") as error:
        built(tiers=tiers)
    assert error.value.exit_code == 3
    more = {"host.dram": "3 TB"}
    assert len(built(tiers=tiers, assume=more)[0].engine.stores) == 2


def test_a_cache_that_does_not_grow_has_nothing_for_a_tier() -> None:
    """A model whose layers all keep a window of fixed size."""
    model = load_model(LLAMA)
    block = model.blocks[0]
    kept = dataclasses.replace(block, scans=tuple(dataclasses.replace(scan, keeps=64) for scan in block.scans))
    _, whole = built(tiers=[])
    deployment = Deployment(model=LLAMA, system="hgx-h100", roles=[ONE], tiers=[{"medium": "host"}])
    on = machine("hgx-h100")
    site = Site(dataclasses.replace(model, blocks=(kept,)), on, load_engine("vllm"), rates(on, load_calibration()),
                mean_of_requests([4000], [100]))  # fmt: skip
    with pytest.raises(SpecError, match="add nothing to the KV cache"):
        tiers_of(deployment, site, whole.pools[0])


SHARED = Workload(name="turns", isl=2000, osl=20, rate=2, hit_share=0.6, reused_context=2000, think_time=2)
ALONE = Workload(name="alone", isl=2000, osl=20, rate=2)


@pytest.mark.usefixtures("kernel")
def test_a_result_lists_the_assumed_numbers_of_tiers() -> None:
    deployment = Deployment(model=LLAMA, system="hgx-h100", roles=[ONE], tiers="vllm-offload")
    result = simulate(deployment, Traffic(from_workload(SHARED, 60))).plain()
    paths = {one["path"] for one in result["assumed"]}
    assert paths >= {"tiers.0.latency", "tiers.1.capacity", "host.ssd_bandwidth"}
    assert result["inputs"]["deployment"]["tiers"][1]["gateway"] == "host"


@pytest.mark.usefixtures("kernel")
def test_tiers_without_shared_prefixes_have_nothing_to_do() -> None:
    deployment = Deployment(model=LLAMA, system="hgx-h100", roles=[ONE], tiers="vllm-offload")
    result = simulate(deployment, Traffic(from_workload(ALONE, 30)))
    assert result.cluster.tiers == Tiers()
    assert NO_PREFIXES in result.notes


@pytest.mark.usefixtures("kernel")
def test_a_deployment_has_eight_tiers_at_most() -> None:
    first = {"name": "level 0", "medium": "host", "capacity": "100 GB"}
    tiers = [first, *({**first, "name": f"level {number}", "gateway": "level 0"} for number in range(1, 9))]
    deployment = Deployment(model=LLAMA, system="hgx-h100", roles=[ONE], tiers=tiers)
    with pytest.raises(SpecError, match="9 KV tiers, the engine takes 8; give fewer tiers") as error:
        simulate(deployment, Traffic(from_workload(SHARED, 60)))
    assert error.value.exit_code == 2
