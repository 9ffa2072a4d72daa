"""The points of a sweep: every combination once and in order, and one sample in each stratum."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import PCG64, Generator

from tests.ledger.sweep_cases import ESTIMATE, SIMULATE
from tokenworks.errors import SpecError
from tokenworks.ledger.sweep_axes import SweepAxis, SweepDesign, design_of, strata
from tokenworks.ledger.sweep_file import load_sweep
from tokenworks.ledger.sweep_paths import SweptPath, swept_paths


def design(case: dict[str, object], **changes: object) -> SweepDesign:
    file, where = load_sweep({**case, **changes})
    return design_of(file, swept_paths(file, where), where)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_grid_has_each_combination_once_and_in_order(sizes: list[int]) -> None:
    axes = [
        SweepAxis(f"a{i}", (SweptPath(f"a{i}", "number"),), tuple((v,) for v in range(n))) for i, n in enumerate(sizes)
    ]
    grid = SweepDesign(tuple(axes))
    points = [tuple(grid.at(number).values()) for number in range(len(grid))]
    assert points == list(itertools.product(*(range(n) for n in sizes)))


@given(st.integers(2, 200), st.integers(0, 2**32))
def test_a_latin_hypercube_has_one_sample_in_each_stratum(points: int, seed: int) -> None:
    shares = strata(Generator(PCG64(seed)), points)
    assert sorted(np.floor(shares * points).astype(int)) == list(range(points))


@given(
    st.floats(1e-3, 1e3),
    st.floats(1.01, 1e3),
    st.integers(2, 50),
    st.sampled_from(["linear", "log"]),
)
@settings(deadline=None, max_examples=25)
def test_a_range_starts_and_ends_at_its_bounds(low: float, ratio: float, steps: int, scale: str) -> None:
    form = {"from": low, "to": low * ratio, "steps": steps, "scale": scale}
    values = [level[0] for level in design(SIMULATE, over={"rate": form}).axes[0].levels]
    assert values[0] == pytest.approx(low)
    assert values[-1] == pytest.approx(low * ratio)
    assert values == sorted(values)
    steps_between = np.diff(np.log(values) if scale == "log" else values)
    assert steps_between == pytest.approx(steps_between.mean(), rel=1e-4)


def test_whole_numbers_stay_whole_and_differ() -> None:
    levels = design(ESTIMATE, over={"batch": {"from": 1, "to": 8, "steps": 20, "scale": "log"}}).axes[0].levels
    assert [level[0] for level in levels] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_ranges_without_steps_are_sampled_beside_the_other_axes() -> None:
    over = {
        "batch": {"from": 1, "to": 1024, "scale": "log"},
        "machine.device.hbm.bandwidth": {"from": "2 TB/s", "to": "4 TB/s"},
        "chunk": [1024, 8192],
    }
    sampled = design(ESTIMATE, over=over, latin={"points": 8, "seed": 3})
    assert (len(sampled), sampled.sampled) == (16, True)
    points = [sampled.at(number) for number in range(16)]
    logs = sorted({math.log2(float(point["batch"])) for point in points})
    assert all(abs(value - 10 * (k + 0.5) / 8) < 10 / 8 for k, value in enumerate(logs))
    assert {point["chunk"] for point in points} == {1024, 8192}
    again = design(ESTIMATE, over=over, latin={"points": 8, "seed": 3})
    assert [again.at(number) for number in range(16)] == points
    other = design(ESTIMATE, over=over, latin={"points": 8, "seed": 4})
    assert [other.at(number) for number in range(16)] != points


def test_paths_that_change_together() -> None:
    both = {"machine.domain": [1, 2], "machine.devices": [4, 8]}
    axis = design(ESTIMATE, over={"size": {"together": both}}).axes[0]
    assert (axis.name, axis.levels) == ("size", ((1, 4), (2, 8)))


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"batch": {"from": 1, "to": 8}}, "over.batch: has neither steps nor a sample"),
        ({"batch": {"from": 8, "to": 1, "steps": 3}}, "write the lower value first"),
        ({"batch": {"from": 0, "to": 8, "steps": 3, "scale": "log"}}, "a log scale cannot start at 0"),
        ({"batch": [1, 2, 1]}, "1 stands there twice"),
        ({"batch": [1.5]}, "1.5 is not a whole number"),
        ({"batch": ["many"]}, "'many' is not a number"),
        ({"engine": {"from": "sglang", "to": "vllm", "steps": 2}}, "'sglang' is a word"),
        ({"machine.device.hbm.bandwidth": [2e12]}, '"2000000000000.0" is a plain number, not a rate'),
        ({"machine.device.hbm.bandwidth": ["2 TB"]}, '"2 TB" is a size, not a rate'),
        ({"size": {"together": {"batch": [1], "chunk": [1, 2]}}}, "batch has 1, chunk has 2"),
        ({"size": {"together": {"batch": [], "chunk": []}}}, "has no values"),
        ({"batch": {"from": 1, "to": 1e9, "steps": 1000}, "chunk": {"from": 1, "to": 1e9, "steps": 2000}},
         "2,000,000 points"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(over: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError) as error:
        design(ESTIMATE, over=over)
    assert words in str(error.value)


def test_a_sample_needs_a_range() -> None:
    with pytest.raises(SpecError, match="there is no range to sample"):
        design(ESTIMATE, latin={"points": 4})
