"""Traces from traces: what each transform keeps, and what it changes."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ingest.trace_cases import traces
from tokenworks.errors import SpecError
from tokenworks.ingest import limit, reblock, replicate, scale, starts, statistics
from tokenworks.ingest.table import dense
from tokenworks.ingest.transform import roots
from tokenworks.specs.trace import Trace, ranges


@given(traces())
def test_any_order_makes_the_same_trace(trace: Trace) -> None:
    times = (
        trace.arrival_s + np.arange(len(trace)) / 1000
    )  # no two at once: such would keep the order they are given in
    order = np.arange(len(trace))[::-1]
    place = np.append(order, -1)
    again = Trace.of(
        times[order] + 7,
        trace.input_tokens[order],
        trace.output_tokens[order],
        session=trace.session[order],
        parent=np.where(trace.parent[order] < 0, -1, place[trace.parent[order]]),
    )
    np.testing.assert_allclose(again.arrival_s, times - times[0], atol=1e-9)
    assert again.input_tokens.tolist() == trace.input_tokens.tolist()
    assert again.parent.tolist() == trace.parent.tolist()


@given(traces(), st.integers(1, 4), st.sampled_from([None, 0.0, 1.0]))
def test_copies_hit_as_one_does_and_never_each_other(trace: Trace, copies: int, every_s: float | None) -> None:
    many = replicate(trace, copies, every_s=every_s)
    one, all_ = statistics(trace).reuse, statistics(many).reuse
    assert one is not None
    assert all_ is not None
    assert len(many) == copies * len(trace)
    assert all_.share == pytest.approx(one.share)
    assert all_.unique_blocks == copies * one.unique_blocks
    known = len({*trace.session.tolist()} - {-1})
    assert len({*many.session.tolist()} - {-1}) == copies * known
    if every_s is None:
        assert all_.cache_tokens == one.cache_tokens
        if trace.arrival_s[-1] > 0:
            assert statistics(many).rate == pytest.approx(statistics(trace).rate, rel=1 / (len(trace)))


@given(traces(), st.sampled_from([0.5, 2.0, 10.0]))
def test_scale_moves_conversations_and_keeps_what_happens_in_them(trace: Trace, factor: float) -> None:
    root = roots(trace.parent)
    fast = scale(trace, factor)
    span = trace.arrival_s[root].max() / factor
    assert fast.arrival_s[fast.parent < 0].max() == pytest.approx(span)
    assert sorted(fast.think_s) == sorted(trace.think_s)
    inside = trace.arrival_s - trace.arrival_s[root]
    now = fast.arrival_s - fast.arrival_s[roots(fast.parent)]
    np.testing.assert_allclose(sorted(now), sorted(inside), atol=1e-9)


@given(traces(), st.integers(1, 12))
def test_limit_is_a_beginning(trace: Trace, n: int) -> None:
    short = limit(trace, n)
    assert len(short) == min(n, len(trace))
    assert short.hash_ids.tolist() == trace.hash_ids[: trace.hash_offsets[len(short)]].tolist()


@given(traces(block=32), st.sampled_from([8, 16, 32]))
def test_smaller_blocks_share_the_same_tokens(trace: Trace, block: int) -> None:
    small = reblock(trace, block)
    assert (
        np.diff(small.hash_offsets).tolist()
        == np.minimum(trace.input_tokens // block, np.diff(trace.hash_offsets) * 32 // block).tolist()
    )
    old, new = statistics(trace).reuse, statistics(small).reuse
    assert old is not None
    assert new is not None
    assert new.share == pytest.approx(old.share)
    assert new.unique_blocks == old.unique_blocks * 32 // block


def test_partly_filled_blocks_are_cut_off() -> None:
    trace = Trace.of([0, 1], [513, 100], [1, 1], run_start=[0, 0], run_length=[2, 1], run_offsets=[0, 1, 2],
                     hash_block_tokens=512)  # fmt: skip
    small = reblock(trace, 64)
    assert small.hash_ids.tolist() == [*range(8), 0]
    assert small.hash_offsets.tolist() == [0, 8, 9]
    assert reblock(trace, 512).hash_offsets.tolist() == [0, 1, 1]
    assert reblock(limit(trace, 1), 512).hash_ids.tolist() == [0]


def test_starts() -> None:
    trace = Trace.of([0, 0, 4], [1, 2, 3], [1, 1, 1], parent=[-1, -1, 0], think_s=[0, 0, 4])
    moved = starts(trace, np.array([10.0, 2.0]))
    assert moved.arrival_s.tolist() == [0, 8, 12]
    assert moved.input_tokens.tolist() == [2, 1, 3]
    assert moved.parent.tolist() == [-1, -1, 1]


def test_what_cannot_be() -> None:
    trace = Trace.of([0], [1], [1])
    wrongs: list[Callable[[], Trace]] = [
        lambda: limit(trace, 0),
        lambda: replicate(trace, 0),
        lambda: scale(trace, 0.0),
    ]
    for wrong in wrongs:
        with pytest.raises(SpecError, match="give"):
            wrong()
    with pytest.raises(SpecError, match="the trace has none"):
        reblock(trace, 16)
    with pytest.raises(SpecError, match="divisor of 64"):
        reblock(Trace.of([0], [64], [1], run_start=[0], run_length=[1], run_offsets=[0, 1], hash_block_tokens=64), 24)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"arrival_s": []}, "no request"),
        ({"output_tokens": [1, 1]}, "must have 3 rows"),
        ({"arrival_s": [0, 1, np.nan]}, "finite"),
        ({"think_s": [0, 0, -1]}, "not negative"),
        ({"input_tokens": [1, 0, 1]}, "lengths must be 1 to"),
        ({"output_tokens": [1, 1 << 25, 1]}, "lengths must be 1 to"),
        ({"parent": [-1, 1, 0]}, "a parent must come before"),
        ({"run_start": [5], "run_length": [1]}, "run_offsets must rise"),
        ({"run_start": [5], "run_length": [0], "run_offsets": [0, 0, 0, 1], "hash_block_tokens": 16}, "have a length"),
        ({"run_start": [-5], "run_length": [1], "run_offsets": [0, 0, 0, 1], "hash_block_tokens": 16}, "negative"),
        ({"run_start": [5], "run_length": [1], "run_offsets": [0, 0, 0, 1]}, "belong together"),
        ({"hash_block_tokens": 16}, "belong together"),
    ],
)
def test_a_trace_is_whole_or_is_not(columns: dict[str, object], words: str) -> None:
    arguments = {"arrival_s": [0, 1, 2], "input_tokens": [1, 2, 3], "output_tokens": [1, 1, 1], **columns}
    with pytest.raises(SpecError, match=words):
        Trace.of(**arguments)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=8))
def test_dense_ids_are_equal_where_they_were(runs: list[tuple[int, int]]) -> None:
    start = np.array([s for s, _ in runs], np.int64)
    length = np.array([k for _, k in runs], np.int32)
    old, new = ranges(start, length), ranges(dense(start, length), length)
    assert np.unique(new).tolist() == list(range(len(np.unique(old))))
    assert np.argsort(old, kind="stable").tolist() == np.argsort(new, kind="stable").tolist()
