"""Traces from traces: what each transform keeps, and what it changes."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ingest.trace_cases import traces
from tokenworks.errors import SpecError
from tokenworks.ingest.table import dense
from tokenworks.specs.trace import Trace, ranges
from tokenworks.traffic import limit, reblock, replicate, scale, statistics, stream
from tokenworks.traffic.transform import roots


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
    copied = replicate(trace, copies, every_s=every_s)
    one, all_ = statistics(trace).reuse, statistics(copied).reuse
    assert one is not None
    assert all_ is not None
    assert len(copied) == copies * len(trace)
    assert all_.share == pytest.approx(one.share)
    assert all_.unique_blocks == copies * one.unique_blocks
    known = len({*trace.session.tolist()} - {-1})
    assert len({*copied.session.tolist()} - {-1}) == copies * known
    if every_s is None:
        assert all_.cache_tokens == one.cache_tokens
        if trace.arrival_s[-1] > 0:
            assert statistics(copied).rate == pytest.approx(statistics(trace).rate, rel=1 / (len(trace)))


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


def conversations(count: int, random: np.random.Generator) -> Trace:
    """Conversations of 1 to 20 turns, half a minute apart, that all begin at 0; each with blocks of its own."""
    turns = random.integers(1, 21, count)
    first = np.repeat(np.cumsum(turns) - turns, turns)
    turn = np.arange(turns.sum()) - first
    parent = np.where(turn > 0, np.arange(len(turn)) - 1, -1)
    return Trace.of(
        30.0 * turn, 64 * (turn + 1), np.full(len(turn), 5), session=np.repeat(np.arange(count), turns),
        parent=parent, class_of=first % 2, classes=("odd", "even"), think_s=30.0 * (turn > 0), run_start=20 * first,
        run_length=turn + 1, run_offsets=np.arange(len(turn) + 1), hash_block_tokens=64,
    )  # fmt: skip


@pytest.mark.parametrize("rate", [0.5, 3.0, 40.0])
def test_a_stream_of_conversations_has_its_rate_from_beginning_to_end(rate: float) -> None:
    trace = conversations(400, np.random.default_rng(1))
    streamed = stream(trace, rate, np.random.default_rng(2))
    assert len(streamed) / streamed.arrival_s[-1] == pytest.approx(rate, rel=0.1)
    quarters = np.histogram(streamed.arrival_s, 4)[0]
    assert quarters == pytest.approx(np.full(4, quarters.mean()), rel=0.15)
    roots_s = streamed.arrival_s[streamed.parent < 0]
    assert np.histogram(roots_s[roots_s > 1], 4)[0].std() < 0.3 * len(roots_s)  # Poisson, not all at once


@given(st.integers(0, 1 << 30), st.floats(0.02, 50.0))
@settings(max_examples=50, deadline=None)
def test_a_stream_keeps_what_happens_in_a_conversation(seed: int, rate: float) -> None:
    """Think times, turns in order, their blocks and class; no two conversations share a block, copies neither."""
    random = np.random.default_rng(seed)
    trace = conversations(12, random)
    try:
        streamed = stream(trace, rate, random)
    except SpecError:  # a window in which nothing happens
        return
    later = streamed.parent >= 0
    assert (streamed.think_s == 30.0 * later).all()
    assert (streamed.session[later] == streamed.session[streamed.parent[later]]).all()
    assert (streamed.class_of[later] == streamed.class_of[streamed.parent[later]]).all()
    assert streamed.input_tokens[later] == pytest.approx(streamed.input_tokens[streamed.parent[later]] + 64)
    np.testing.assert_allclose(streamed.arrival_s[later], streamed.arrival_s[streamed.parent[later]] + 30)
    assert (streamed.run_length * 64 == streamed.input_tokens).all()
    owners = {int(start): int(who) for start, who in zip(streamed.run_start, streamed.session, strict=True)}
    assert len(set(owners.values())) == len(owners) == len(set(streamed.session.tolist()))


def test_independent_requests_that_come_at_once_are_spread() -> None:
    streamed = stream(Trace.of([0.0] * 300, [10] * 300, [5] * 300), 10.0, np.random.default_rng(1))
    assert len(streamed) == 300
    assert streamed.arrival_s[-1] == pytest.approx(30, rel=0.05)


def test_what_cannot_be() -> None:
    trace = Trace.of([0], [1], [1])
    wrongs: list[Callable[[], Trace]] = [
        lambda: limit(trace, 0),
        lambda: replicate(trace, 0),
        lambda: scale(trace, 0.0),
        lambda: stream(trace, 0.0, np.random.default_rng(0)),
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
        ({"parent": [-1, 1, 0]}, "a parent must stand before"),
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
