"""Block ids as runs, and whether they are chained."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.ingest.test_readers import GOOD, write
from tokenworks.ingest import load_trace, mooncake
from tokenworks.ingest.table import unchained


def test_runs_of_ids() -> None:
    assert mooncake.runs_of([0, 14, 15, 16, 3]) == [(0, 1), (14, 3), (3, 1)]


@given(st.lists(st.lists(st.integers(0, 8), max_size=6, unique=True), min_size=1, max_size=6).filter(any))
def test_ids_with_different_ids_before_them_are_counted(prompts: list[list[int]]) -> None:
    before = defaultdict(set)
    for ids in prompts:
        for one, following in pairwise([-1, *ids]):
            before[following].add(one)
    runs = [mooncake.runs_of(ids) for ids in prompts]
    start, length = (np.array([run[k] for each in runs for run in each]) for k in (0, 1))
    offsets = np.append(0, np.cumsum([len(each) for each in runs]))
    assert unchained(start, length.astype(np.int32), offsets) == sum(len(ones) > 1 for ones in before.values())


def test_a_trace_says_that_its_hashes_are_not_chained(tmp_path: Path) -> None:
    other = {**GOOD, "hash_ids": [9, 8, 101]}
    assert load_trace(write(tmp_path / "good.jsonl", GOOD, GOOD)).notes == ()
    (note,) = load_trace(write(tmp_path / "bad.jsonl", GOOD, other)).notes
    assert note.startswith("1 block ids that stand after different blocks: they are no chained hashes")
