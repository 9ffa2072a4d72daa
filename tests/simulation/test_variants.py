"""Step costs of instances that are not whole: they agree with the cost model of the smaller or slower instance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.test_cluster import R1, WIDE, deployed, site
from tokenworks.costs import step
from tokenworks.costs.moe import Balance
from tokenworks.costs.split import Split
from tokenworks.engine.types import StepCost
from tokenworks.errors import SpecError
from tokenworks.simulation import variants as module
from tokenworks.simulation.variants import HEALTHY, Condition, least_ranks, shrunk, variant_cost, variants

SITE = site(R1, "scalex40")
HOSTS = site(R1, "5xhgx-h100")
LIMITS = deployed(R1, "scalex40", WIDE).pools[0].limits

BALANCE = Balance((1.0, 1024.0), (8.0, 1.2), (1.0, 8.0), 1.2)


def seconds(cost: StepCost, ranks: int, sequences: int) -> float:
    """Time of a step in which each of `ranks` ranks decodes some sequences of the mean length [s]."""
    own = sequences * (cost.decode_sequence_s + cost.decode_context_s * SITE.request.context)
    return float(cost.by_tokens[ranks * sequences]) + WIDE.parallel.dp * own


@pytest.mark.parametrize("live", [37, 39, 40])
def test_a_smaller_instance_takes_the_time_of_the_cost_model(live: int) -> None:
    cost = variant_cost(WIDE, SITE, LIMITS, Condition(live=live))
    full = live * LIMITS.max_sequences
    own = Split.of(shrunk(WIDE, SITE.model, live))
    batch = step.Batch(decode=float(full), context=full * SITE.request.context)
    want = step.step(SITE.model, SITE.rates, own, batch, engine=SITE.engine).seconds
    assert seconds(cost, live, LIMITS.max_sequences) == pytest.approx(float(want), rel=1e-6)


def test_the_normal_condition_has_the_bytes_of_the_normal_cost() -> None:
    normal, same = deployed(R1, "scalex40", WIDE).pools[0].cost, variant_cost(WIDE, SITE, LIMITS, HEALTHY)
    assert np.array_equal(same.by_tokens, normal.by_tokens)
    one, other = (vars(cost) | {"by_tokens": None} for cost in (same, normal))
    assert one == other


@settings(max_examples=10, deadline=None)
@given(st.floats(0.1, 1), st.floats(0.1, 1), st.integers(1, 64))
def test_less_bandwidth_is_never_faster(one: float, other: float, sequences: int) -> None:
    low, high = sorted([one, other])
    for where, inside in ((SITE, True), (HOSTS, False)):
        slow, fast = (
            variant_cost(WIDE, where, LIMITS, Condition(up_share=share) if inside else Condition(out_share=share))
            for share in (low, high)
        )
        assert seconds(slow, 40, sequences) >= seconds(fast, 40, sequences) * (1 - 1e-9)


def test_fewest_ranks_hold_each_expert_once() -> None:
    assert least_ranks(WIDE, SITE.model) == 37, "256 experts, 7 slots a rank"
    tight = WIDE.model_copy(update={"redundant_experts": 0})
    even = tight.model_copy(update={"parallel": WIDE.parallel.model_copy(update={"dp": 32, "ep": 32})})
    assert least_ranks(even, SITE.model) == 32
    with pytest.raises(SpecError, match="an instance runs with 37 to 40 ranks"):
        shrunk(WIDE, SITE.model, 36)


def test_conditions_that_hardly_differ_share_a_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    near = [Condition(up_share=0.75), Condition(up_share=0.751), HEALTHY, Condition(live=39, up_share=0.75)]
    priced = variants(WIDE, SITE, LIMITS, near)
    assert len(priced.costs) == 2
    assert priced.number(HEALTHY) == 0
    assert priced.number(near[0]) == priced.number(near[1]) == 1
    monkeypatch.setattr(module, "MOST_VARIANTS", 1)
    with pytest.raises(SpecError, match="2 different states"):
        variants(WIDE, SITE, LIMITS, near)


def test_two_conditions_at_once() -> None:
    both = Condition(live=39, up_share=0.75).beside(Condition(live=38, up_share=0.5, balance=BALANCE))
    assert both == Condition(live=38, up_share=0.375, balance=BALANCE)
