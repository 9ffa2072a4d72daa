"""Each rule by name: a point that breaks it, and words that show the way out. And: arrays judge as one by one does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planning.settings import DENSE, R1, SMALL_MOE, role, setting
from tokenworks.legal.points import Points
from tokenworks.legal.rules import MEMORY, SHAPE, Proposal, explain, judge, with_memory
from tokenworks.legal.splits import splits
from tokenworks.specs.deployment import EngineName, Role
from tokenworks.specs.workload import Workload

LONG = Workload(name="long", isl=200_000, osl=10)
HUGE = Workload(name="huge", isl=40_000, osl=100)

# rule: (model, machine, engine, role, words of the message)
BROKEN = {
    "instance_fits_machine": (SMALL_MOE, "hgx-h100", "vllm", role(tp=8, pp=2, ep=1, expert_tp=8), "hgx-h100 has 8"),
    "instance_fills_domains": (
        SMALL_MOE, "2xhgx-h100", "vllm", role(tp=4, dp=3, ep=12, redundant_experts=4), "a multiple such as 16",
    ),
    "tp_stays_aligned": (
        R1, "3xhgx-h100", "sglang", role(tp=12, pp=2, ep=12, redundant_experts=8), "of tp=12 cross the border",
    ),
    "tp_divides_heads": (R1, "scalex40", "vllm", role(tp=3, dp=2, ep=6), "take tp of 1, 2, 4, 8, 16, 32"),
    "kv_heads_divide": (DENSE, "scalex40", "vllm", role(tp=5), "or a multiple of 8"),
    "stages_have_layers": (SMALL_MOE, "9xscalex40", "vllm", role(pp=60), "48 layers over pp=60"),
    "dense_has_no_expert_widths": (DENSE, "hgx-h100", "vllm", role(tp=2, ep=2), "leave these settings out"),
    "dense_has_no_attention_dp": (DENSE, "hgx-h100", "vllm", role(tp=1, dp=4), "take dp=1 and 4 replicas"),
    "experts_cover_instance": (SMALL_MOE, "hgx-h100", "vllm", role(tp=4, ep=2), "take expert_tp=2, or ep of 1, 2, 4"),
    "engine_lays_experts_out": (SMALL_MOE, "hgx-h100", "vllm", role(tp=4, ep=2, expert_tp=2), "--engine sglang"),
    "experts_divide": (R1, "scalex40", "vllm", role(tp=1, dp=40, ep=40), "add 24 redundant experts"),
    "copies_are_placed": (SMALL_MOE, "hgx-h100", "vllm", role(tp=4, expert_tp=4, redundant_experts=4), "ep above 1"),
    "experts_slice_in_blocks": (R1, "scalex40", "vllm", role(tp=32, expert_tp=32), "of 1, 2, 4, 8, 16"),
    "drafts_exist": (SMALL_MOE, "hgx-h100", "vllm", role(draft_tokens=1), "take draft_tokens=0"),
    "overlap_has_traffic": (SMALL_MOE, "hgx-h100", "vllm", role(overlap="two-batch"), "take overlap=none"),
    "kv_dtype_is_there": (SMALL_MOE, "hgx-a100", "vllm", role(kv_dtype="fp8"), "take kv_dtype=bf16"),
    "context_fits_model": (SMALL_MOE, "hgx-h100", "vllm", role(), "200,010 tokens"),
    "chunk_holds_batch": (SMALL_MOE, "hgx-h100", "vllm", role(9000), "take max_sequences of at most 8192"),
    "weights_fit": (R1, "hgx-h100", "vllm", role(tp=8, ep=8), "take more devices"),
    "cache_holds_a_request": (DENSE, "hgx-h100", "vllm", role(), "kv_dtype=fp8"),
}  # fmt: skip
WORKLOADS = {"context_fits_model": LONG, "cache_holds_a_request": HUGE}


def test_every_rule_has_a_case() -> None:
    assert BROKEN.keys() == SHAPE.keys() | MEMORY.keys()


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_rule_explains_itself(name: str) -> None:
    model, on, engine, broken, words = BROKEN[name]
    case = setting(model, on, engine, WORKLOADS[name]) if name in WORKLOADS else setting(model, on, engine)
    by_rule = {item.rule: item for item in explain(broken, case)}
    assert name in by_rule
    assert by_rule[name].law.endswith(".")
    assert words in by_rule[name].message


def test_a_legal_role_breaks_nothing() -> None:
    assert explain(role(tp=8, dp=5, ep=40, redundant_experts=24, chunk_tokens=8192 * 5), setting(R1, "scalex40")) == []


def test_weights_say_by_how_much_they_do_not_fit() -> None:
    (broken,) = explain(role(tp=8, ep=8), setting(R1, "hgx-h100"))
    # 671 GB over 8 devices is 84 GB, beside what a rank keeps whole; 0.9 of 85.9 GB is 77.3 GB.
    assert "short by 1" in broken.message
    assert "weights 8" in broken.message


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["vllm", "sglang", "trtllm"]))
def test_judging_arrays_is_explaining_each(seed: int, engine: EngineName) -> None:
    case = setting(R1, "2xhgx-h20", engine)
    points = splits(case)
    chosen = points[np.random.default_rng(seed).integers(0, len(points), 8)]
    shaped, _ = judge(Proposal(chosen, case), SHAPE)
    kept = shaped.copy()
    kept[shaped], _ = judge(with_memory(chosen[shaped], case), MEMORY)
    for index, legal in enumerate(kept):
        one = chosen.role("aggregated", index, case)
        assert isinstance(one, Role)
        assert (explain(one, case) == []) == legal


def test_points_and_roles_are_the_same_thing() -> None:
    case = setting(R1, "scalex40")
    first = splits(case)[1234:1235]
    again = Points.of(first.role("aggregated", 0, case))
    for name in ("tp", "pp", "dp", "ep", "expert_tp", "redundant", "kv", "draft", "overlap", "chunk_tokens"):
        assert getattr(again, name) == getattr(first, name)
