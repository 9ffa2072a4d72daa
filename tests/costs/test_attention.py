"""Attention: FLOP and bytes by hand for each kind, and the laws of sums over a batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.costs.cases import LLAMA, R1, model
from tokenworks.costs.attention import (
    QUERY_TILE,
    decode_entries,
    decode_work,
    entry_bytes,
    prefill_work,
    state_work,
)
from tokenworks.specs.model import Scan, State

GQA = model(LLAMA).blocks[0].scans[0]
MLA = model(R1).blocks[0].scans[0]
WINDOW = Scan("sliding", 1, 128, 128, 1024, 8, 64, 100.0, 100.0)
SPARSE = Scan("top-k", 1, 2048, None, 576, 1, 128, 100.0, 100.0)
COMPRESSED = Scan("compressed", 4, None, None, 576, 1, 128, 100.0, 100.0)


def test_grouped_queries_by_hand() -> None:
    """Llama-3.1-70B: 8 KV heads x 128 x 2 x 2 = 4,096 bytes a token and layer; 64 heads x 128 x 4 FLOP."""
    flop, traffic = decode_work(GQA, 1, 1000, queries=1, tp=1, kv_bytes=2)
    assert traffic == 1000 * 4096
    assert flop == 1000 * 32768


def test_latent_by_hand() -> None:
    """DeepSeek-R1: 576 x 2 bytes a token and layer, on every tp rank; absorbed 2 x 128 x (576 + 512) FLOP."""
    flop, traffic = decode_work(MLA, 1, 1000, queries=1, tp=8, kv_bytes=2)
    assert traffic == 1000 * 1152
    assert flop == 1000 * 2 * 128 * (576 + 512) / 8


def test_kv_heads_are_divided_down_to_one() -> None:
    assert [entry_bytes(GQA, tp, 2) for tp in (1, 8, 16)] == [4096, 512, 512]


def test_drafted_tokens_share_one_read() -> None:
    one, three = (decode_work(MLA, 4, 4000, queries=q, tp=1, kv_bytes=2) for q in (1, 3))
    assert three[0] == 3 * one[0]
    assert three[1] == one[1]


def test_windows_top_k_and_compression_bound_the_reads() -> None:
    assert decode_entries(WINDOW, 4, 4 * 1000.0) == 4 * 128
    assert decode_entries(WINDOW, 4, 4 * 100.0) == 400
    assert decode_entries(SPARSE, 2, 2 * 100000.0) == 2 * 2048
    assert decode_entries(COMPRESSED, 2, 2 * 1000.0) == 500


def test_a_prompt_is_causal() -> None:
    """A prompt of n tokens sees n (n + 1) / 2 entries: half of the square (by hand, n = 4096)."""
    n = 4096
    flop, _ = prefill_work(GQA, n, n * (n + 1) / 2, tp=1, kv_bytes=2)
    assert flop == pytest.approx(32768 * n * n / 2, rel=1e-3)


def test_a_small_chunk_reads_its_context_once() -> None:
    """16 tokens that each see 100,000: one read of the context, not 16 / 128 of one."""
    _, traffic = prefill_work(GQA, 16, 16 * 100000.0, tp=1, kv_bytes=2)
    assert traffic == 100000 * 4096
    _, tiled = prefill_work(GQA, 8 * QUERY_TILE, 8 * QUERY_TILE * 100000.0, tp=1, kv_bytes=2)
    assert tiled == 8 * 100000 * 4096


def test_linear_attention_does_not_see_the_context() -> None:
    state = State("gated-delta-net", 1e6, 2e6, 32)
    flop, traffic = state_work(state, 10, 10, tp=8)
    assert (flop, traffic) == (10 * 2e6 / 8, 2 * 10 * 1e6 / 8)


@given(
    contexts=st.lists(st.integers(1, 5000), min_size=1, max_size=20),
    scan=st.sampled_from([GQA, MLA, WINDOW, SPARSE, COMPRESSED]),
)
def test_the_mean_context_is_never_below_the_truth(contexts: list[int], scan: Scan) -> None:
    """min is concave, so n min(mean, cap) is at least the sum of min; equal where contexts are equal."""
    exact = sum(float(decode_entries(scan, 1, context)) for context in contexts)
    assert decode_entries(scan, len(contexts), sum(contexts)) >= exact * (1 - 1e-12)
    equal = float(decode_entries(scan, len(contexts), len(contexts) * contexts[0]))
    assert equal == pytest.approx(len(contexts) * float(decode_entries(scan, 1, contexts[0])))


def test_arrays_and_numbers_agree() -> None:
    context = np.array([100.0, 5000.0])
    flop, traffic = decode_work(SPARSE, 2, context, queries=1, tp=np.array([1, 4]), kv_bytes=1)
    for index, tp in enumerate((1, 4)):
        alone = decode_work(SPARSE, 2, context[index], queries=1, tp=tp, kv_bytes=1)
        assert (np.asarray(flop)[index], np.asarray(traffic)[index]) == alone
