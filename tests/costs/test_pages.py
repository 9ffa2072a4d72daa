"""The blocks of hybrid KV caches: counts by hand, and laws over all splits."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.costs.cases import LLAMA, R1, model
from tokenworks.costs.memory import cache_bytes, engine_tokens, request_bytes
from tokenworks.costs.pages import plain, unified
from tokenworks.costs.split import Split
from tokenworks.specs.engine import load_engine

VLLM, SGLANG = load_engine("vllm"), load_engine("sglang")
GEMMA, FLASH, GPT = "google/gemma-4-26B-A4B", "deepseek-ai/DeepSeek-V4-Flash", "openai/gpt-oss-20b"
HYBRID = (GEMMA, FLASH, GPT, "Qwen/Qwen3.5-35B-A3B", "XiaomiMiMo/MiMo-V2-Flash", "moonshotai/Kimi-K3")


def test_layers_that_keep_all_need_no_groups() -> None:
    for name in (LLAMA, R1):
        assert unified(model(name), Split(), VLLM) is None
        assert cache_bytes(model(name), Split(), VLLM) == plain(model(name), Split())


def test_gemma_by_hand() -> None:
    """5 layers keep all tokens (2 x 2 x 512 elements), 25 keep 1,024 (2 x 8 x 256): groups of 5 layers, 1 + 5 of them.

    A page of a window is 16 x 8,192 byte, so a page of a full layer has 32 tokens; a block is 5 pages. A request of
    4,096 tokens in chunks of 2,048 takes 4096 / 32 blocks, and ceil((1023 + 2048) / 16) + 1 in each group of windows.
    """
    cache = unified(model(GEMMA), Split(), VLLM)
    assert cache is not None
    assert float(cache.block) == 5 * 16 * 8192
    assert [(part.kind, float(part.groups), float(part.tokens)) for part in cache.pages] == [
        ("grows", 1, 32), ("window", 5, 16)
    ]  # fmt: skip
    assert float(cache.per_token) == 5 * 4096
    needed = request_bytes(model(GEMMA), Split(), VLLM, length=4096, chunk_tokens=2048)
    assert float(needed) == 5 * 16 * 8192 * (4096 / 32 + 5 * (192 + 1))


def test_the_five_groups_of_compressed_attention_by_hand() -> None:
    """DeepSeek-V4-Flash: one group of all compressed caches, two of windows, one of each stride's states.

    The block is the group of compressed caches: 21 x (64 x 584 + 64 x 132) + 20 x 2 x 584 byte. vllm-project/vllm issue
    51041: 121,344 tokens in chunks of 2 x 8,192 tokens need 6.2 GiB, by its log (7.71 GiB / 1.244).
    """
    cache = unified(model(FLASH), Split(kv_bytes=1.0), VLLM)
    assert cache is not None
    assert float(cache.block) == 21 * 64 * (584 + 132) + 20 * 2 * 584
    assert [(float(part.groups), float(part.tokens), part.keeps) for part in cache.pages[1:]] == [
        (2, 64, 128), (1, 4, 8), (1, 8, 128)
    ]  # fmt: skip
    needed = request_bytes(model(FLASH), Split(kv_bytes=1.0), load_engine("vllm", assume={"engine.version": "0.26"}),
                           length=121_344, chunk_tokens=8192)  # fmt: skip
    assert float(needed) == pytest.approx(6.2 * 2**30, rel=0.08)


@pytest.mark.parametrize("name", HYBRID)
def test_blocks_hold_at_least_what_layers_keep(name: str) -> None:
    split = Split(tp=np.array([1, 2, 4, 8]), kv_bytes=2.0)
    for own, bare in zip(cache_bytes(model(name), split, VLLM), plain(model(name), split), strict=True):
        assert np.all(own >= bare * (1 - 1e-9))


@pytest.mark.parametrize("name", HYBRID)
@given(length=st.integers(2, 10**6), chunk=st.sampled_from([1, 2048, 8192]), tp=st.sampled_from([1, 2, 8]))
def test_longer_requests_and_larger_chunks_never_need_less(name: str, length: int, chunk: int, tp: int) -> None:
    def needed(length: int, chunk: int) -> float:
        return float(request_bytes(model(name), Split(tp=tp), VLLM, length=length, chunk_tokens=chunk))

    assert needed(length, chunk) <= needed(length + 1000, chunk)
    assert needed(length, chunk) <= needed(length, 2 * chunk)


def test_only_windows_hold_a_finite_number_of_tokens() -> None:
    """gpt-oss with all layers sliding: a request needs its window and its chunk, at any length."""
    checkpoint = model(GPT)
    sliding = dataclasses.replace(
        checkpoint, blocks=tuple(b for b in checkpoint.blocks if b.scans[0].keeps is not None)
    )
    for engine in (VLLM, SGLANG):
        tokens = engine_tokens(sliding, Split(), engine, free=1e10, length=4096.0, chunk_tokens=2048)
        assert 0 < float(tokens) < np.inf


def test_the_pools_of_sglang_by_hand() -> None:
    """gpt-oss-20b: 12 layers of 2,048 byte keep all tokens, 12 keep windows in a pool of 0.8 as many tokens."""
    tokens = engine_tokens(model(GPT), Split(), SGLANG, free=1e9, length=1000.0, chunk_tokens=8192)
    assert float(tokens) == pytest.approx(1e9 / (12 * 2048 * (1 + 0.8)))
