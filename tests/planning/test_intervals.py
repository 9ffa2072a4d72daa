"""Intervals of ratios of two predicted throughputs: laws over random widths and correlations."""

import math
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.planning.intervals import RatioInterval, ratio_interval
from tokenworks.planning.result import Estimated, Ranked
from tokenworks.specs.deployment import Deployment, Parallel, Role

DEPLOYMENT = Deployment(model="m", system="s", roles=(Role(name="aggregated", parallel=Parallel()),))


def row(output: float, low: float, high: float) -> Ranked:
    """A deployment with this throughput and its interval."""
    return Ranked(
        rank=1, deployment=DEPLOYMENT, devices=8, idle_devices=0, output_tok_s_per_device=output,
        effective_tok_s_per_device=output, total_tok_s_per_device=output, output_tok_s_per_user=50.0, requests_s=1.0,
        offered_s=1.0, ttft_s=1.0, tpot_s=0.02, ttft_slo_s=1.0, tpot_slo_s=0.02, slo_pressure=1.0, load=None,
        bound_by="hbm", bound_role="aggregated", interval={"output_tok_s_per_device": (low, high)}, hit_share=0.0,
        batch=1.0, assumed=(), grade="datasheet", software=(), estimated=cast("Estimated", None),
    )  # fmt: skip


@st.composite
def rows(draw: st.DrawFn) -> Ranked:
    """A deployment whose interval may have different widths below and above the value; a width may be zero."""
    output = draw(st.floats(1.0, 1e5))
    down, up = draw(st.floats(1.0, 5.0)), draw(st.floats(1.0, 5.0))
    return row(output, output / down, output * up)


CORRELATIONS = st.floats(0.0, 0.99)


def logs(ratio: RatioInterval) -> tuple[float, float]:
    return math.log(ratio.value / ratio.low), math.log(ratio.high / ratio.value)


@given(rows(), rows(), CORRELATIONS)
def test_a_ratio_lies_inside_its_interval(a: Ranked, b: Ranked, correlation: float) -> None:
    low, value, high = ratio_interval(a, b, correlation)
    assert low <= value <= high
    assert value == a.output_tok_s_per_device / b.output_tok_s_per_device


@given(rows(), rows(), CORRELATIONS)
def test_the_interval_of_the_inverse_ratio_is_the_inverse(a: Ranked, b: Ranked, correlation: float) -> None:
    there, back = ratio_interval(a, b, correlation), ratio_interval(b, a, correlation)
    assert [1 / back.high, 1 / back.value, 1 / back.low] == pytest.approx(list(there), rel=1e-6)


@given(st.floats(1.0, 5.0), st.floats(1.0, 5.0))
def test_independent_errors_add_in_quadrature(first: float, second: float) -> None:
    ratio = ratio_interval(row(300, 300 / first, 300 * first), row(100, 100 / second, 100 * second), 0.0)
    wide = math.hypot(math.log(first), math.log(second))
    assert logs(ratio) == pytest.approx((wide, wide), abs=1e-9)


@given(st.floats(1.0, 5.0), CORRELATIONS)
def test_errors_in_common_cancel(factor: float, correlation: float) -> None:
    """With equal widths w, the width of the ratio is w sqrt(2 (1 - rho)): zero if all of the error is in common."""
    a, b = row(300, 300 / factor, 300 * factor), row(100, 100 / factor, 100 * factor)
    wide = math.log(factor) * math.sqrt(2 * (1 - correlation))
    assert logs(ratio_interval(a, b, correlation)) == pytest.approx((wide, wide), abs=1e-6)
    assert logs(ratio_interval(a, b, 1.0)) == pytest.approx((0, 0), abs=1e-6)


@given(rows(), rows(), CORRELATIONS, CORRELATIONS)
def test_a_larger_correlation_never_makes_an_interval_wider(a: Ranked, b: Ranked, one: float, other: float) -> None:
    wide, narrow = (logs(ratio_interval(a, b, rho)) for rho in sorted((one, other)))
    assert all(n <= w + 1e-6 for n, w in zip(narrow, wide, strict=True))


def test_a_known_ratio() -> None:
    """Factors 1.61 and 2.47, rho 0.5, by hand: sqrt(0.4762^2 + 0.9042^2 - 0.4762 x 0.9042) = 0.7831."""
    low, value, high = ratio_interval(row(300, 300 / 1.61, 300 * 1.61), row(100, 100 / 2.47, 247), 0.5)
    assert (low, value, high) == pytest.approx((3 / 2.188, 3.0, 3 * 2.188), rel=1e-3)
