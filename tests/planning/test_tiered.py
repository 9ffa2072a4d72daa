"""KV tiers in the search of a plan: which set-ups are tried and refused, and that tiers stay only if they gain."""

from __future__ import annotations

import dataclasses
import functools

import pytest

from tests.planning.settings import DENSE, PLAIN, costing
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.planning.bench import Bench
from tokenworks.planning.decide import decide
from tokenworks.planning.ranking import Candidate, candidates
from tokenworks.planning.search import search
from tokenworks.planning.tiered import AUTO, check_tiers, choices, must_fit, with_tiers
from tokenworks.specs.deployment import EngineName
from tokenworks.specs.edits import edited
from tokenworks.specs.given import from_options
from tokenworks.specs.tier import Tier
from tokenworks.specs.tier_setup import load_setup
from tokenworks.specs.workload import Workload

ON, SMALL = "hgx-h100:1", "Qwen/Qwen3-8B"
AGENTS = Workload(name="agents", isl=20_000, osl=100, hit_share=0.9, reused_context=18_000, think_time=5)


@functools.cache
def candidate(engine: EngineName = "vllm", workload: Workload = AGENTS, model: str = SMALL, on: str = ON) -> Candidate:
    case = costing(model, on, "ttft=5s,tpot=50ms", engine=engine, workload=workload)
    return next(candidates([search(case, 3, margin=0.2)]))


def test_the_set_ups_of_the_engine_are_tried() -> None:
    assert choices(candidate(), AUTO) == ("mooncake", "vllm-offload")
    assert choices(candidate("sglang"), AUTO) == ("hicache", "hicache-mooncake")
    assert choices(candidate(), "mooncake") == ("mooncake",)
    assert choices(candidate(), "none") == ()


def test_nothing_is_tried_where_no_request_shares_a_prefix() -> None:
    assert choices(candidate(workload=PLAIN, model=DENSE, on="hgx-h100"), AUTO) == ()
    one = candidate()
    bare = dataclasses.replace(one, deployment=one.deployment.model_copy(update={"prefix_caching": False}))
    assert choices(bare, AUTO) == ()


def test_a_set_up_takes_the_engines_that_have_it() -> None:
    both = (costing(SMALL, ON, engine="vllm", workload=AGENTS), costing(SMALL, ON, engine="sglang", workload=AGENTS))
    assert check_tiers(AUTO, both) == both
    assert check_tiers("none", both) == both
    assert check_tiers("hicache", both) == both[1:]
    assert check_tiers("pooled", both) == both


def test_unknown_set_ups_and_those_of_another_engine_are_refused() -> None:
    case = (costing(SMALL, ON, engine="vllm", workload=AGENTS),)
    with pytest.raises(SpecError, match="unknown set-up of KV tiers 'nonsense'") as error:
        check_tiers("nonsense", case)
    assert str(error.value).startswith("--tiers: ")
    assert "auto or none" in str(error.value)
    with pytest.raises(SpecError, match="hicache is a set-up of sglang, not of vllm"):
        check_tiers("hicache", case)


def test_tiers_are_added_and_removed() -> None:
    tiered = with_tiers(candidate(), "vllm-offload")
    assert [tier.name for tier in tiered.deployment.tiers] == ["host", "ssd"]
    assert with_tiers(tiered, "none").deployment == candidate().deployment


def test_tiers_that_are_larger_than_the_machine_do_not_fit() -> None:
    tiered = with_tiers(candidate(), "vllm-offload")
    must_fit(tiered)
    large = edited(tiered.deployment, from_options(["tiers.0.capacity=1 PB"]))
    with pytest.raises(DoesNotFit, match=r"1,000 TB of host\.dram"):
        must_fit(dataclasses.replace(tiered, deployment=large))


@pytest.mark.usefixtures("kernel")
def test_tiers_stay_only_if_they_hold_a_higher_rate() -> None:
    """Sessions of 20,000 tokens on one H100: host memory keeps sessions that HBM evicts."""
    (chosen,), _ = decide(Bench(), [candidate()], 1)
    (bare,), _ = decide(Bench(), [candidate()], 1, tiers="none")
    assert chosen.deployment.tiers
    assert not bare.deployment.tiers
    assert chosen.effective_tok_s_per_device > 1.1 * bare.effective_tok_s_per_device


@pytest.mark.usefixtures("kernel")
def test_tiers_that_lose_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tier that reads a megabyte a second is slower than computing."""
    slow = load_setup("vllm-offload").model_copy(update={"tiers": (Tier.model_validate(
        {"medium": "host", "capacity": "500 GB", "read": "1 MB/s", "write": "1 GB/s"}
    ),)})  # fmt: skip
    monkeypatch.setattr("tokenworks.specs.tier_setup.load_setup", lambda _: slow)
    assert len(with_tiers(candidate(), "vllm-offload").deployment.tiers) == 1
    (chosen,), _ = decide(Bench(), [candidate()], 1, tiers="vllm-offload")
    assert not chosen.deployment.tiers
