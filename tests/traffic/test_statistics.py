"""Statistics against brute force, and against what was counted from real traces by other means."""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ingest.trace_cases import traces
from tokenworks.ingest import load_trace
from tokenworks.specs.trace import Trace
from tokenworks.traffic import statistics
from tokenworks.traffic.distance import quadrant, reuses

SHARED = Path(__file__).parents[2] / "../shared/traces"


def mattson(trace: Trace) -> tuple[list[int], list[int]]:
    """LRU stack distance of each reused leading block, block by block, and the leading blocks of each request."""
    stack: list[int] = []  # the least recently used first
    distances, leading = [], []
    for ids in np.split(trace.hash_ids, trace.hash_offsets[1:-1]):
        hits = 0
        for place, block in enumerate(ids.tolist()):
            if block in stack:
                depth = len(stack) - stack.index(block)
                stack.remove(block)
                if hits == place:
                    hits += 1
                    distances.append(depth)
            stack.append(block)
        leading.append(hits)
    return sorted(distances), leading


def lru_hits(trace: Trace, capacity: int) -> int:
    """Blocks that an LRU cache of so many blocks serves."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for ids in np.split(trace.hash_ids, trace.hash_offsets[1:-1]):
        for block in ids.tolist():
            hits += block in cache
            cache[block] = None
            cache.move_to_end(block)
            if len(cache) > capacity:
                cache.popitem(last=False)
    return hits


@settings(max_examples=100)
@given(traces())
def test_distances_are_those_of_the_stack(trace: Trace) -> None:
    hits = reuses(trace)
    distances, leading = mattson(trace)
    assert hits.leading.tolist() == leading
    assert sorted(np.repeat(hits.distance, hits.blocks).tolist()) == distances
    assert hits.unique_blocks == len(np.unique(trace.hash_ids))


@given(traces())
def test_the_cache_it_names_is_just_large_enough(trace: Trace) -> None:
    reuse = statistics(trace).reuse
    assert reuse is not None
    possible = lru_hits(trace, 1 << 30)
    for share, tokens in reuse.cache_tokens.items():
        blocks = tokens // reuse.block_tokens
        assert lru_hits(trace, blocks) >= float(share) * possible
        assert lru_hits(trace, blocks - 1) < float(share) * possible


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 5)), min_size=1, max_size=40))
def test_quadrant_sums(points: list[tuple[int, int, int]]) -> None:
    points.sort()
    j, i, weight = (np.array(column) for column in zip(*points, strict=True))
    expected = [sum(w for p, q, w in points if p >= a and q < b) for a, b, _ in points]
    assert quadrant(j, i, weight, 21).tolist() == expected


def test_known_trace() -> None:
    """A(2 blocks) B(3) A: 5 different blocks until A's come again; 64 of its 70 tokens are hit, of 70 + 96 + 70."""
    trace = Trace.of([0, 1, 4], [70, 96, 70], [1, 2, 3], run_start=[0, 2, 0], run_length=[2, 3, 2],
                     run_offsets=[0, 1, 2, 3], hash_block_tokens=32, session=[4, -1, 4], parent=[-1, -1, 0],
                     think_s=[0, 0, 2.5], agent=[0, 0, 1])  # fmt: skip
    stats = statistics(trace)
    assert stats.reuse is not None
    assert stats.reuse.share == pytest.approx(64 / 236)
    assert stats.reuse.block_share == pytest.approx(2 / 7)
    assert stats.reuse.cache_tokens == {"0.5": 160, "0.9": 160, "0.99": 160, "1": 160}
    assert (stats.rate, stats.span_s, stats.sessions, stats.sub_agent_requests) == (0.75, 4, 1, 1)
    assert stats.interarrival_cv == pytest.approx(0.5)
    assert stats.turns is not None
    assert stats.turns.mean == 2
    assert stats.think_s is not None
    assert stats.think_s.max == 2.5


def test_requests_at_once_have_no_rate_and_none_may_reuse() -> None:
    trace = Trace.of([0, 0], [5, 5], [1, 1], run_start=[0, 9], run_length=[1, 1], run_offsets=[0, 1, 2],
                     hash_block_tokens=4)  # fmt: skip
    stats = statistics(trace)
    assert (stats.rate, stats.interarrival_cv, stats.turns, stats.think_s) == (None, None, None, None)
    assert stats.reuse is not None
    assert stats.reuse.cache_tokens == {}
    assert statistics(Trace.of([0], [5], [1])).reuse is None


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} does not stand beside the checkout")
    return path


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("mooncake_conversation_trace.jsonl.xz", "mooncake_conversation_trace.jsonl.xz"),
        ("mooncake_synthetic_trace.jsonl.xz", "mooncake_synthetic_trace.jsonl.xz"),
        ("azure2023_code.csv.xz", "azure2023_code"),
        ("azure2023_conv.csv.xz", "azure2023_conv"),
    ],
)
def test_real_traces(file: str, key: str) -> None:
    known = json.loads(shared("stats.json").read_text())[key]
    stats = statistics(load_trace(shared(file), strict=True))
    for spread, numbers in ((stats.input_tokens, known["isl"]), (stats.output_tokens, known["osl"])):
        for name in ("p50", "p90", "p99", "max"):
            assert getattr(spread, name) == pytest.approx(numbers[name])
        assert spread.mean == pytest.approx(numbers["mean"], abs=0.05)
    assert stats.requests == known["isl"]["n"]
    assert stats.span_s == pytest.approx(known["span_s"])
    assert stats.rate == pytest.approx(known["rate"])
    assert stats.interarrival_cv == pytest.approx(known["ia_cv"])
    if "reuse_tokens" in known:
        assert stats.reuse is not None
        assert stats.reuse.share == pytest.approx(known["reuse_tokens"])
        assert stats.reuse.block_share == pytest.approx(known["reuse_blocks"])
        assert stats.reuse.unique_blocks == known["uniq_blocks"]


@pytest.mark.shared
def test_real_agents() -> None:
    """46,218 requests of 692 sessions, 27 of them without an output, which are left out here."""
    known = json.loads(shared("stats.json").read_text())["weka"]
    trace = load_trace(shared("weka_claude_code.jsonl.xz"))
    stats = statistics(trace)
    assert stats.requests + sum(d.count for d in trace.dropped) == known["isl"]["n"]
    assert stats.sessions == known["traces"]
    assert stats.input_tokens.mean == pytest.approx(known["isl"]["mean"], rel=2e-3)
    assert stats.output_tokens.mean == pytest.approx(known["osl"]["mean"], rel=2e-3)
    assert stats.reuse is not None
    assert stats.reuse.share == pytest.approx(known["reuse_tokens"], abs=1e-3)
    assert stats.think_s is not None
    assert stats.think_s.p50 == known["think"]["p50"]
