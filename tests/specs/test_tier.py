"""KV tiers in deployment files: curves, named set-ups, changes by path, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.errors import SpecError
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.deployment_file import Entry, document, load_deployments
from tokenworks.specs.edits import edited
from tokenworks.specs.given import from_options
from tokenworks.specs.tier import RateCurve, ShareCurve, Tier
from tokenworks.specs.tier_setup import load_setup, medium_defaults, setup_names

HOST, SSD = {"medium": "host"}, {"medium": "ssd", "gateway": "host"}
ENGINES = {"hicache": "sglang", "hicache-mooncake": "sglang", "mooncake": "vllm", "pooled": "trtllm",
           "vllm-offload": "vllm"}  # fmt: skip


def deployed(**fields: Any) -> Deployment:
    return Deployment(**{"model": "m", "system": "s", "roles": [{}], **fields})


def test_the_catalog_has_the_set_ups_of_this_file() -> None:
    assert setup_names() == sorted(ENGINES)
    assert setup_names("atom") == ["pooled"]


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_a_name_takes_the_set_up_and_survives_a_file(name: str) -> None:
    one = deployed(tiers=name, engine=ENGINES[name])
    assert one.tiers == load_setup(name).tiers
    written = json.loads(json.dumps(document([Entry(deployment=one)], {})))
    assert load_deployments(written)[0].deployment == one
    assert one == Deployment.model_validate(one.model_dump())
    assert deployed(tiers="none", engine=ENGINES[name]).tiers == ()


def test_a_deployment_without_tiers_is_written_as_before() -> None:
    assert not {"tiers", "kv_load", "kv_load_failure"} & deployed().model_dump(mode="json").keys()


def test_two_sizes_of_a_transfer_differ_by_a_factor_of_five() -> None:
    """vLLM: 32 KiB blocks against 2 MiB, about 50 of 64 GB/s."""
    curve = medium_defaults("host").efficiency
    assert curve.at(2**21) / curve.at(2**15) == pytest.approx(5)
    assert curve.at(2**21) * 64e9 == pytest.approx(50e9, rel=0.01)


@given(
    first=st.floats(1, 1e6), factor=st.floats(1.001, 1e6), low=st.floats(1, 1e12), high=st.floats(1, 1e12),
    part=st.floats(0, 1),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_a_curve_lies_between_its_points(first: float, factor: float, low: float, high: float, part: float) -> None:
    curve = RateCurve(points=[{"size": f"{first} B", "rate": f"{low} B/s"},
                              {"size": f"{first * factor} B", "rate": f"{high} B/s"}])  # fmt: skip
    value = curve.at(first * factor**part)
    assert min(low, high) * (1 - 1e-9) <= value <= max(low, high) * (1 + 1e-9)
    assert value == pytest.approx(low * (high / low) ** part, rel=1e-6)
    assert (curve.at(first / 2), curve.at(first * factor * 2)) == (low, high)
    assert math.isclose(curve.most, high)


def test_one_number_is_a_flat_curve() -> None:
    tier = Tier(medium="host", read="50 GB/s", write={"value": "40 GB/s", "status": "measured", "source": "own"})
    assert tier.read is not None
    assert tier.write is not None
    assert (tier.read.at(1), tier.read.at(1e9), tier.write.at(7)) == (50e9, 50e9, 40e9)
    assert tier.write.numbers()[0].source == "own"
    assert ShareCurve(points=[{"share": 0.5}]).at(3) == 0.5


def test_changes_by_path() -> None:
    one = deployed(tiers="vllm-offload")
    texts = ["tiers.0.capacity=1 TB", "tiers.1.latency=1 ms", "tiers.0.eviction=arc", "tiers.0.efficiency=0.5",
             "tiers.0.efficiency.points.0.share=0.6", "kv_load_failure=fail"]  # fmt: skip
    with pytest.raises(SpecError, match="no such path"):  # points exist only after the whole curve was set
        edited(one, from_options(["tiers.0.efficiency.points.0.share=0.6"]))
    changed = edited(edited(one, from_options(texts[:4])), from_options(texts[4:]))
    first, second = changed.tiers
    assert (first.capacity.value, first.capacity.source, first.capacity.assumed) == (1e12, "--set", True)
    assert (second.latency.value, first.eviction, changed.kv_load_failure) == (1e-3, "arc", "fail")
    assert first.efficiency is not None
    assert first.efficiency.at(1) == 0.6


def test_a_set_up_by_path_comes_before_the_paths_inside_it() -> None:
    changed = edited(deployed(), from_options(["tiers.0.capacity=1 TB", "tiers=vllm-offload"]))
    assert (changed.tiers[0].capacity.value, len(changed.tiers)) == (1e12, 2)
    assert edited(changed, from_options(["tiers=none"])) == deployed()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tiers": "vllm-ofload"}, "unknown set-up of KV tiers 'vllm-ofload'; did you mean \"vllm-offload\"?"),
    ({"tiers": "hicache"}, "hicache is a set-up of sglang, not of vllm: take mooncake, pooled, vllm-offload"),
    ({"tiers": [{**HOST, "capacity": "0 GB"}]}, "tiers.0.capacity: 0 GB is zero"),
    ({"tiers": [{**HOST, "total": "0 GB/s"}]}, "tiers.0.total: 0 GB/s is zero"),
    ({"tiers": [{**HOST, "read": "0 GB/s", "write": "1 GB/s"}]}, "tiers.0.read: rate 0 GB/s: write a number above"),
    ({"tiers": [{**HOST, "read": "1 GB/s"}]}, "read and write belong together"),
    ({"tiers": [{**HOST, "read": "1 GB/s", "write": "1 GB/s", "efficiency": 0.5}]}, "leave read and write out"),
    ({"tiers": [{**HOST, "efficiency": 1.2}]}, "at most 1"),
    ({"tiers": [{**HOST, "efficiency": [{"size": "2 MB", "share": 1}, {"size": "1 MB", "share": 1}]}]},
     "write them from small to large"),
    ({"tiers": [{**HOST, "efficiency": [{"share": 1}, {"size": "1 MB", "share": 1}]}]}, "a point has no size"),
    ({"tiers": [{**HOST, "duplex": 0.2}]}, "duplex 0.2: write a number from 0.5 to 1"),
    ({"tiers": [{**HOST, "failures": 2}]}, "is a share of reads"),
    ({"tiers": [{**HOST, "capacity": "5 GHz"}]}, "cannot read|unknown unit"),
    ({"tiers": [{"medium": "tape"}]}, "'tape' is not one of"),
    ({"tiers": [{**HOST, "size": 3}]}, "tiers.0.size: unknown key"),
    ({"tiers": [SSD]}, "tiers.0.gateway: host is not there; it is the first tier, so it cannot have one"),
    ({"tiers": [HOST, {**SSD, "gateway": "dram"}]}, "tiers.1.gateway: dram is not there; earlier tiers: host"),
    ({"tiers": [HOST, HOST]}, "two tiers have the name host"),
    ({"tiers": [HOST, {"medium": "ssd"}]}, "vllm exchanges blocks of ssd with host memory only; write gateway: host"),
    ({"tiers": [{**HOST, "eviction": "cost"}]}, "vllm does not offer cost; vllm offers lru, arc"),
    ({"engine": "sglang", "tiers": [{**HOST, "eviction": "arc"}]}, "sglang does not offer arc; sglang offers lru"),
    ({"tiers": [{**HOST, "written": "back"}]}, "vllm does not offer back; vllm offers through, selective"),
    ({"tiers": [HOST, {**SSD, "prefetch": "wait"}]}, "vllm does not offer wait; vllm offers none"),
    ({"engine": "sglang", "tiers": [HOST, SSD]}, "sglang does not offer none; sglang offers best_effort"),
    ({"tiers": [{**HOST, "prefetch": "wait"}]}, "the tier has none"),
    ({"tiers": [HOST, {**SSD, "timeout": "1 s"}]}, "timeout is the longest wait of prefetch: timeout"),
    ({"tiers": [{**HOST, "uses": 3}]}, "uses 3 is for written: selective"),
    ({"tiers": [{**SSD, "semantics": "load-store"}]}, "devices read memory of hosts directly"),
    ({"tiers": [HOST], "kv_load": "layerwise"}, "vllm does not offer layerwise; vllm offers async"),
    ({"engine": "sglang", "tiers": [HOST], "kv_load_failure": "fail"}, "sglang does not offer fail"),
    ({"engine": "trtllm", "tiers": [HOST]}, "knows no KV tiers of trtllm"),
    ({"tiers": [HOST], "prefix_caching": False}, "prefix_caching is false, so no block is ever looked up"),
    ({"kv_load": "async"}, "there are no tiers"),
    ({"roles": [{"name": "prefill"}, {"name": "decode", "tiers": [HOST]}]}, "A decode role has no prefix cache"),
    ({"roles": [{"name": "attention"}, {"name": "ffn"}]}, "role attention: attention and FFN .* are not modelled"),
    ({"roles": [{"name": "encoder"}, {}]}, "role encoder: a pool of encoders is not modelled: what is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "words"), BAD)
def test_bad_tiers_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        deployed(**fields)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tiers.0.capacity=0 GB", "is zero"),
        ("tiers.0.capacity=much", "cannot read"),
        ("tiers.2.capacity=1 GB", "no such path"),
        ("tiers=hicashe", "unknown set-up"),
        ("tiers.0.eviction=cost", "vllm offers lru, arc"),
    ],
)
def test_bad_changes_are_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        edited(deployed(tiers="vllm-offload"), from_options([text]))
