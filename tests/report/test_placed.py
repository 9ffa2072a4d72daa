"""Placement of instances: every instance has its devices, small ones stay in a domain, and what a plan counts fits."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.planning.placement import shares
from tokenworks.report.placed import Need, placed
from tokenworks.specs.compose import machine


@given(st.integers(1, 12), st.integers(1, 6), st.data())
def test_what_the_plan_counts_can_be_placed(domain: int, domains: int, data: st.DataObject) -> None:
    one = machine("hgx-h100")
    whole = domain * domains
    prefill = data.draw(st.integers(1, whole))
    decode = data.draw(st.integers(1, whole))
    import dataclasses

    ways = shares(dataclasses.replace(one, domain=domain, devices=whole), prefill, decode)
    if not len(ways.prefill):
        return
    index = data.draw(st.integers(0, len(ways.prefill) - 1))
    needs = [Need(int(ways.prefill[index]), prefill), Need(int(ways.decode[index]), decode)]
    seats = placed(domain, whole, needs)
    assert seats is not None
    check(seats, domain, needs)


@given(st.integers(1, 16), st.integers(1, 8), st.integers(1, 40))
def test_one_role_is_placed_if_it_fits(domain: int, domains: int, size: int) -> None:
    whole = domain * domains
    most = whole // size if size > domain else domains * (domain // size)
    seats = placed(domain, whole, [Need(max(1, most), size)])
    if not most:
        assert seats is None
        return
    assert seats is not None
    check(seats, domain, [Need(most, size)])
    assert placed(domain, whole, [Need(most + 1, size)]) is None


def check(seats: list[list[tuple[int, int] | None]], domain: int, needs: list[Need]) -> None:
    owned = Counter(owner for owners in seats for owner in owners if owner is not None)
    assert owned == {
        (role, instance): need.devices for role, need in enumerate(needs) for instance in range(need.replicas)
    }
    assert all(len(owners) <= domain for owners in seats)
    for role, need in enumerate(needs):
        for instance in range(need.replicas):
            inside = [owners.count((role, instance)) for owners in seats]
            if need.devices <= domain:
                assert sorted(inside)[-1] == need.devices
            else:
                first = next(index for index, count in enumerate(inside) if count)
                assert sum(1 for count in inside if count) <= -(-need.devices // domain) + 1
                assert sum(inside[first : first + -(-need.devices // domain) + 1]) == need.devices


def test_a_machine_cut_within_a_domain() -> None:
    assert placed(8, 12, [Need(3, 4)]) == [[(0, 0)] * 4 + [(0, 1)] * 4, [(0, 2)] * 4]
    assert placed(8, 12, [Need(2, 8)]) is None


def test_first_fit_alone_would_fail_here() -> None:
    """Two domains of 12, four instances of 3 and three of 4: [3 3 3 3] with [4 4 4] or mixed, each domain is full."""
    seats = placed(12, 24, [Need(4, 3), Need(3, 4)])
    assert seats is not None
    check(seats, 12, [Need(4, 3), Need(3, 4)])


@pytest.mark.parametrize("replicas", [0, 1])
def test_idle_devices_have_no_owner(replicas: int) -> None:
    seats = placed(4, 8, [Need(replicas, 4)])
    assert seats is not None
    assert sum(owner is None for owners in seats for owner in owners) == 8 - 4 * replicas
