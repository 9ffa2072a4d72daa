"""Collectives: bounds that no algorithm beats, monotone in bytes and members, and measured all-reduces."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.costs.cases import achieved
from tokenworks.costs.collectives import IN_SWITCH, LinkRates, all_gather, all_reduce, exchange, p2p

NVLINK = LinkRates(bandwidth=450e9, pair=450e9, alpha=0.7e-6, start=3e-6, ring=1e-6, direct=True, in_switch=False)
NETWORK = LinkRates(bandwidth=50e9, pair=50e9, alpha=4e-6, start=3e-6, ring=1e-6, direct=False, in_switch=False)
MESH = dataclasses.replace(NVLINK, bandwidth=448e9, pair=64e9)
WHERE: dict[str, Any] = {"domain": 8, "inner": NVLINK, "outer": NETWORK}
KINDS = {"all_reduce": all_reduce, "all_gather": all_gather}
sizes, members = st.floats(0, 1e9), st.integers(1, 320)


@pytest.mark.parametrize(
    ("size", "measured_us"),
    [(16e3, 4.1), (64e3, 5.4), (256e3, 9.4), (1e6, 16.8), (4e6, 35.1), (16e6, 104.4), (64e6, 319.5)],
)
def test_all_reduce_of_eight_h200(size: float, measured_us: float) -> None:
    """Custom kernels, captured, on 8 H200: geometric mean of TensorRT-LLM 1.3.0rc20, SGLang 0.5.14 and vLLM 0.24.0

    (aiconfigurator-core 0.12.0), within 30 %.
    """
    seconds = all_reduce(size, 8, domain=8, inner=achieved("hgx-h200").inner, outer=None)
    assert seconds * 1e6 == pytest.approx(measured_us, rel=0.3)


def test_ring_on_messages_by_hand() -> None:
    """Four devices, one message level, 1 GB: 2 x 3 steps of 4 us, 2 x 3/4 x 1 GB at 50 GB/s = 30 ms."""
    seconds = all_reduce(1e9, 4, domain=4, inner=NETWORK, outer=None)
    assert seconds == pytest.approx(3e-6 + 6 * 4e-6 + 1.5e9 / 50e9)


def test_small_messages_take_the_tree() -> None:
    """64 ranks, 1 kB: 12 steps of the tree, not 126 of the ring."""
    seconds = all_reduce(1e3, 64, domain=64, inner=NETWORK, outer=None)
    assert seconds == pytest.approx(3e-6 + 12 * 4e-6, rel=0.01)


def test_small_load_store_all_reduce_is_one_shot() -> None:
    assert all_reduce(0.0, 8, domain=8, inner=NVLINK, outer=None) == pytest.approx(3.7e-6)


def test_the_switch_adds() -> None:
    adding = dataclasses.replace(NVLINK, in_switch=True)
    plain = all_reduce(1e9, 8, domain=8, inner=NVLINK, outer=None)
    seconds = all_reduce(1e9, 8, domain=8, inner=adding, outer=None)
    assert seconds == pytest.approx(plain * (9 / 8) / (14 / 8) / IN_SWITCH, rel=0.01)
    assert seconds < plain


def test_a_mesh_pair_is_a_seventh() -> None:
    """Two of eight meshed devices use one link of seven, so a pair is slower than the whole group (MI300X)."""
    pair = all_reduce(1e9, 2, domain=8, inner=MESH, outer=None)
    assert pair == pytest.approx(1e9 / 64e9, rel=0.01)
    assert all_reduce(1e9, 8, domain=8, inner=MESH, outer=None) < pair
    assert p2p(1e9, 1, span=8, domain=8, inner=MESH, outer=None) == pytest.approx(1e9 / 64e9, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
@given(size=sizes, more=sizes, n=members)
def test_more_bytes_take_longer(kind: str, size: float, more: float, n: int) -> None:
    assert KINDS[kind](size, n, **WHERE) <= KINDS[kind](size + more, n, **WHERE) * (1 + 1e-12)


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather"])
@given(size=sizes, domains=st.integers(0, 39), n=st.integers(1, 8))
def test_more_members_take_longer(kind: str, size: float, domains: int, n: int) -> None:
    """Behind a switch, for groups that fill their domains or lie in one; a mesh has more links the larger the group."""
    small = n if domains == 0 else 8 * domains
    large = n + 1 if domains == 0 and n < 8 else 8 * (domains + 1)
    assert KINDS[kind](size, small, **WHERE) <= KINDS[kind](size, large, **WHERE) * (1 + 1e-12)


@pytest.mark.parametrize("kind", KINDS)
@given(size=sizes, n=members)
def test_nothing_beats_the_bandwidth(kind: str, size: float, n: int) -> None:
    """What each device must receive at least, (n - 1) / n of the result, over both fabrics together."""
    must = size * (n - 1) / n / (NVLINK.bandwidth + NETWORK.bandwidth)
    assert KINDS[kind](size, n, **WHERE) >= must * (1 - 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_alone_costs_nothing(kind: str) -> None:
    assert KINDS[kind](1e9, 1, **WHERE) == 0


def test_a_border_costs_bandwidth() -> None:
    """16 devices, 1 GB: two domains over the network take longer than one domain, for every kind."""
    for kind in KINDS.values():
        assert kind(1e9, 16, **WHERE) > kind(1e9, 16, **(WHERE | {"domain": 16}))


def test_the_two_fabrics_carry_at_the_same_time() -> None:
    both = exchange(450e9, 50e9, 16, **WHERE)
    assert both == pytest.approx(1.0, rel=1e-4)


def test_p2p_crosses_where_the_stages_do_not_fit() -> None:
    near = p2p(50e9, 4, span=8, **WHERE)
    far = p2p(50e9, 4, span=16, **WHERE)
    assert near == pytest.approx(50 / 450, rel=1e-3)
    assert far == pytest.approx(1.0, rel=1e-3)
    assert p2p(50e9, 0, span=4, **WHERE) == 0
