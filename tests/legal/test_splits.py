"""Widths that real machines use, copies that make experts divide, and how instances share a machine."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planning.settings import DENSE, R1, setting
from tokenworks.legal.splits import candidates, divisors, replicas, splits, widths
from tokenworks.planning.disaggregated import _crossing
from tokenworks.planning.placement import shares
from tokenworks.specs.compose import machine
from tokenworks.specs.machine import Machine


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        ("scalex40", {4, 8, 10, 16, 20, 32, 36, 40}),
        ("gb200-nvl72", {8, 16, 36, 72}),
        ("cloudmatrix384", {32, 144, 320, 384}),
        ("5xhgx-h100", {1, 2, 4, 8, 16, 24, 32, 40}),
    ],
)
def test_widths_are_those_of_real_machines(on: str, expected: set[int]) -> None:
    assert expected <= set(widths(setting(R1, on)))


def test_expert_parallel_40_has_24_copies_and_320_has_64() -> None:
    """256 experts over 40 ranks: 280 = 7 each; over 320 ranks one each."""
    points = splits(setting(R1, "cloudmatrix384"))
    for ep, copies in ((320, 64), (32, 0), (144, 32)):
        assert copies in set(points.redundant[points.ep == ep].tolist())
    points = splits(setting(R1, "scalex40"))
    assert set(points.redundant[points.ep == 40].tolist()) == {24, 64}
    assert set(points.redundant[points.ep == 36].tolist()) == {32, 68}


def test_all_legal_widths_multiply_out() -> None:
    points = candidates(setting(R1, "scalex40", "sglang"), splits(setting(R1, "scalex40", "sglang"))).points
    assert (points.ep * points.expert_tp == points.tp * points.dp).all()
    assert ((256 + points.redundant) % points.ep == 0).all()
    assert (128 % points.tp == 0).all()
    assert (points.devices <= 40).all()


def test_a_dense_model_has_no_experts_to_place() -> None:
    points = splits(setting(DENSE, "hgx-h100"))
    assert (points.ep == 1).all()
    assert (points.expert_tp == 1).all()


@given(st.integers(1, 5000))
def test_divisors_are_exact(number: int) -> None:
    assert divisors(number) == [width for width in range(1, number + 1) if number % width == 0]


def test_replicas_stay_in_their_domain() -> None:
    case = setting(R1, "5xhgx-h100")
    assert replicas(np.array([1, 3, 5, 8, 16, 40]), case).tolist() == [40, 10, 5, 5, 2, 1]


def _machine(domain: int, domains: int) -> Machine:
    hardware = machine("2xhgx-h100")
    return Machine(**{
        **{name: getattr(hardware, name) for name in Machine.__dataclass_fields__},
        "domain": domain, "devices": domain * domains,
    })  # fmt: skip


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 8), st.integers(1, 8))
def test_shares_are_all_that_fit(domain: int, domains: int, prefill: int, decode: int) -> None:
    """Against every way to fill each domain, for instances that stay in one."""
    if prefill > domain or decode > domain:
        return
    in_one = {(x, (domain - x * prefill) // decode) for x in range(domain // prefill + 1)}
    totals = {(sum(x for x, _ in each), sum(y for _, y in each)) for each in itertools.product(in_one, repeat=domains)}
    ratios = shares(_machine(domain, domains), prefill, decode)
    for x in range(1, max(x for x, _ in totals) + 1):
        most = max(b for a, b in totals if a >= x)
        assert ratios.fit(np.array([x, x]), np.array([most, most + 1])).tolist() == [True, False] or most == 0
    assert (np.diff(ratios.prefill) > 0).all()
    assert (np.diff(ratios.decode) < 0).all()
    ways = set(zip(ratios.prefill.tolist(), ratios.decode.tolist(), strict=True))
    assert not any(a >= c and b >= d for a, b in ways for c, d in ways - {(a, b)})


def test_wide_instances_take_whole_domains() -> None:
    ratios = shares(machine("5xhgx-h100"), 16, 8)
    assert sorted(zip(ratios.prefill.tolist(), ratios.decode.tolist(), strict=True)) == [(1, 3), (2, 1)]
    ratios = shares(machine("scalex40"), 8, 32)
    assert ratios.prefill.tolist() == [1]
    assert not shares(machine("scalex40"), 40, 8).fit(np.array([1]), np.array([1]))[0]


@settings(deadline=None)
@given(st.data())
def test_two_shares_hold_the_best(data: st.DataObject) -> None:
    """Prefill's limit rises with x, what decode takes falls: the best of all shares is one of the two between."""
    ways = data.draw(st.integers(1, 12))
    x = np.cumsum(data.draw(st.lists(st.integers(1, 3), min_size=ways, max_size=ways)))
    y = np.cumsum(data.draw(st.lists(st.integers(1, 3), min_size=ways, max_size=ways)))[::-1]
    limit = np.cumsum(data.draw(st.lists(st.floats(0, 5), min_size=ways, max_size=ways)))
    decoded = data.draw(st.floats(0.1, 5))
    crossing = _crossing(x[None, None, :], y[None, None, :], limit[None, None, :], np.array([[[decoded]]]))
    near_x, near_y, near = (part[0, 0] for part in crossing)
    assert set(zip(near_x.tolist(), near_y.tolist(), strict=True)) <= set(zip(x.tolist(), y.tolist(), strict=True))
    assert np.minimum(near, near_y * decoded).max() == np.minimum(limit, y * decoded).max()
