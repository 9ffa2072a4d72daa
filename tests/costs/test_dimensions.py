"""Called with pint quantities, every formula gives the right unit: seconds, bytes, byte/s.

Tokens, elements and FLOP are counts, without a dimension, so a rate of FLOP is 1/s; what can be mixed up is time, bytes
and bandwidth.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.costs.test_attention import GQA, MLA, SPARSE, WINDOW
from tokenworks.costs import attention, collectives, moe, roofline
from tokenworks.costs.collectives import LinkRates
from tokenworks.specs.model import Scan, State
from tokenworks.units import registry

U = registry()
TIME: Any = U.Quantity("2 us")
BYTE: Any = U.Quantity("2 byte")
RATE: Any = U.Quantity(1e15, "1/s")
HBM: Any = U.Quantity("3 TB/s")
TOKENS = np.array([1.0, 300.0])
UP: Any = U.Quantity("450 GB/s")
OUT: Any = U.Quantity("50 GB/s")
INNER = LinkRates(UP, UP, TIME, TIME, TIME, direct=True, in_switch=True)
OUTER = LinkRates(OUT, OUT, TIME, TIME, TIME, direct=False, in_switch=False)
GROUPS = np.array([2.0, 8.0, 64.0])
SIZE = np.array([1.0, 1e3, 1e9]) * BYTE


def is_in(value: Any, unit: str) -> bool:
    """True where the value has the dimension of the unit."""
    return bool(U.Quantity(value).check(U.Quantity(1, unit).dimensionality))


def test_roofline() -> None:
    assert is_in(roofline.gemm_flop(TOKENS, 10, 10), "")
    assert is_in(roofline.gemm_bytes(TOKENS, 10, 10, weight=BYTE, activation=BYTE), "byte")
    compute = roofline.gemm_flop(TOKENS, 10, 10) / RATE
    walk = roofline.walk_time(10, TIME, wide=1)
    assert is_in(walk, "s")
    read = roofline.gemm_bytes(TOKENS, 10, 10, weight=BYTE, activation=BYTE) / HBM
    assert is_in(roofline.kernel_time(compute, read, TIME, walk), "s")


@pytest.mark.parametrize("scan", [GQA, MLA, WINDOW, SPARSE])
def test_attention(scan: Scan) -> None:
    assert is_in(attention.decode_entries(scan, 2, TOKENS), "")
    assert is_in(attention.prefill_entries(scan, 2, TOKENS), "")
    assert is_in(attention.entry_bytes(scan, 2, BYTE), "byte")
    for flop, traffic in (
        attention.decode_work(scan, 2, TOKENS, queries=2, tp=4, kv_bytes=BYTE),
        attention.prefill_work(scan, TOKENS, TOKENS, tp=4, kv_bytes=BYTE),
    ):
        assert is_in(flop, "")
        assert is_in(traffic, "byte")
        assert is_in(roofline.kernel_time(flop / RATE, traffic / HBM, TIME, 0.0 * TIME), "s")


def test_linear_attention() -> None:
    state = State("mamba2", U.Quantity("1 MB"), 1e6, 8)  # type: ignore[arg-type]
    flop, traffic = attention.state_work(state, 4, TOKENS, tp=2)
    assert is_in(flop, "")
    assert is_in(traffic, "byte")


def test_experts() -> None:
    where: dict[str, Any] = {"experts": 256, "ep": 8}
    count: Any = U.Quantity(TOKENS, "")
    assert is_in(moe.normal_max(count), "")
    assert is_in(moe.normal_tail(0.1 / count), "")
    assert is_in(moe.local_experts(count, 8, 8), "")
    assert is_in(moe.touched_experts(count, experts=256, topk=8, local=32, skew=0.5), "")
    assert is_in(moe.hottest_touched(count, topk=8, local=32, skew=0.5, **where), "")
    assert is_in(moe.hottest_load(count, redundant=8, skew=0.5, **where), "")
    assert is_in(moe.crossing_share(count, 8), "")
    assert is_in(moe.distinct_ranks(8, count), "")
    for copies in (moe.direct_copies, moe.forwarded_copies):
        for count_of in copies(8, ep=count, expert_tp=1, domain=8):
            assert is_in(count_of * BYTE, "byte")


@pytest.mark.parametrize("kind", [collectives.all_reduce, collectives.all_gather])
def test_collectives(kind: Callable[..., Any]) -> None:
    assert is_in(kind(SIZE, GROUPS, domain=8, inner=INNER, outer=OUTER), "s")
    assert is_in(kind(SIZE, GROUPS, domain=64, inner=INNER, outer=None), "s")


def test_exchange_and_p2p() -> None:
    assert is_in(collectives.exchange_rate(8, INNER), "byte/s")
    assert is_in(collectives.exchange(SIZE, SIZE, GROUPS, domain=8, inner=INNER, outer=OUTER), "s")
    assert is_in(collectives.p2p(SIZE, GROUPS, span=2 * GROUPS, domain=8, inner=INNER, outer=OUTER), "s")


def test_the_check_finds_a_wrong_formula() -> None:
    assert not is_in(SIZE * HBM, "s")
    with pytest.raises(Exception, match=r"Cannot convert|dimension"):
        roofline.kernel_time(BYTE / RATE, BYTE / HBM, TIME, 0.0 * TIME)
