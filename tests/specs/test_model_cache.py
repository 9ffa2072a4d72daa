"""KV cache, windows and recurrent state by hand, one model of each kind of attention."""

from __future__ import annotations

import pytest

from tokenworks.specs.hf import load_model
from tokenworks.specs.model import (
    Block,
    attention_kinds,
    kv_bytes_per_token,
    state_bytes_per_sequence,
    window_bytes_per_sequence,
)


def block_with(model: str, scan: str) -> Block:
    return next(block for block in load_model(model).blocks if any(each.name == scan for each in block.scans))


@pytest.mark.parametrize(
    ("model", "expected", "by_hand"),
    [
        ("meta-llama/Meta-Llama-3.1-70B", 327_680, "80 layers x 8 heads x 128 x 2 (K and V) x 2 bytes"),
        ("Qwen/Qwen3-235B-A22B", 192_512, "94 x 4 x 128 x 2 x 2"),
        ("openai/gpt-oss-120b", 36_864, "18 full layers x 8 x 64 x 2 x 2; the other 18 keep a window"),
        ("deepseek-ai/DeepSeek-V3", 70_272, "61 x (512 + 64) x 2: one latent for all heads"),
        ("deepseek-ai/DeepSeek-V3.2", 61 * (576 * 2 + 132), "and an FP8 index key of 128 with an FP32 scale"),
        ("zai-org/GLM-5.2", 78 * 1152 + 21 * 132, "78 latents, and index keys on the 21 full indexers"),
        ("MiniMaxAI/MiniMax-M3", 60 * 4 * 128 * 2 * 2 + 57 * 128 * 2, "and a 16-bit index key on 57 layers"),
        ("Qwen/Qwen3.5-397B-A17B", 15 * 2 * 256 * 2 * 2, "15 full layers of 60; the rest has a state"),
        ("nvidia/Nemotron-H-56B-Base-8K", 10 * 8 * 128 * 2 * 2, "10 attention layers of 118"),
        ("moonshotai/Kimi-K3", 24 * 576 * 2, "24 MLA layers of 93"),
        ("XiaomiMiMo/MiMo-V2-Flash", 9 * 4 * (192 + 128) * 2, "9 full layers, values narrower than keys"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 12 * 8 * 128 * 2 * 2, "12 full layers of 48"),
        ("google/gemma-4-26B-A4B", 5 * 2 * 512 * 2 * 2, "5 full layers; K and V are both kept"),
        ("stepfun-ai/Step-3.7-Flash", 12 * 8 * 128 * 2 * 2, "12 full layers of 45"),
    ],
)
def test_kv_bytes_of_a_token_in_bf16(model: str, expected: int, by_hand: str) -> None:
    assert kv_bytes_per_token(load_model(model), 2) == pytest.approx(expected), by_hand


def test_deepseek_v4_in_bf16_is_what_vllm_publishes() -> None:
    """9.62 GiB for a million tokens of V4-Pro in BF16 (vLLM blog, 24 April 2026): 30 layers keep an entry of 512 and an
    index key of 128 every 4 tokens, 31 an entry every 128.
    """
    model = load_model("deepseek-ai/DeepSeek-V4-Pro")
    elements = sum(
        block.count * scan.elements / scan.stride
        for block in model.blocks
        for scan in block.scans
        if scan.keeps is None
    )
    assert elements == 30 * (512 + 128) / 4 + 31 * 512 / 128
    assert elements * 2 * 2**20 / 2**30 == pytest.approx(9.62, abs=0.005)


def test_deepseek_v4_as_engines_store_it() -> None:
    """584 bytes an entry (448 FP8, 64 BF16, 8 of scales) and 132 an index key, whatever KV dtype is asked."""
    model = load_model("deepseek-ai/DeepSeek-V4-Pro")
    expected = 30 * (584 + 132) / 4 + 31 * 584 / 128
    assert kv_bytes_per_token(model, 1) == kv_bytes_per_token(model, 2) == pytest.approx(expected)
    assert window_bytes_per_sequence(model, 1) == pytest.approx(61 * 128 * 584)
    assert model.native_kv == "fp8"
    assert attention_kinds(model) == {"HCA": 31, "CSA": 30}


def test_windows_are_kept_beside_the_growing_cache() -> None:
    """gpt-oss-120b: 18 layers x 128 tokens x 8 x 64 x 2 x 2 bytes, once full."""
    model = load_model("openai/gpt-oss-120b")
    assert window_bytes_per_sequence(model, 2) == 18 * 128 * 2048
    assert attention_kinds(model) == {"sliding GQA": 18, "GQA": 18}
    assert window_bytes_per_sequence(load_model("deepseek-ai/DeepSeek-V3"), 2) == 0


@pytest.mark.parametrize(
    ("model", "expected", "by_hand"),
    [
        (
            "Qwen/Qwen3.5-397B-A17B",
            45 * (64 * 128 * 128 * 4 + (2 * 16 * 128 + 64 * 128) * 3 * 2),
            "64 heads of 128 x 128 in FP32, and 3 past inputs of the convolution",
        ),
        (
            "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
            23 * (64 * 64 * 128 * 4 + (64 * 64 + 2 * 8 * 128) * 3 * 2),
            "64 heads of 64 x 128 in FP32",
        ),
        ("moonshotai/Kimi-K3", 69 * (96 * 128 * 128 * 4 + 3 * 96 * 128 * 3 * 2), "96 heads of 128 x 128 in FP32"),
        ("deepseek-ai/DeepSeek-V3", 0, "none"),
    ],
)
def test_recurrent_state_of_a_sequence(model: str, expected: int, by_hand: str) -> None:
    assert state_bytes_per_sequence(load_model(model)) == expected, by_hand


def test_what_a_query_does_with_an_entry() -> None:
    """FLOP of a query and an entry: 2 a multiply-add, scores and values (DeepSeek-V2, section 2.1)."""
    grouped = block_with("Qwen/Qwen3-235B-A22B", "GQA").scans[0]
    assert grouped.decode_flop == grouped.prefill_flop == 2 * 64 * (128 + 128)
    mla = block_with("deepseek-ai/DeepSeek-V3", "MLA").scans[0]
    assert mla.decode_flop == 2 * 128 * (576 + 512)
    assert mla.prefill_flop == 2 * 128 * (192 + 128)
    assert (mla.heads, mla.query_heads) == (1, 128)
    dsa, index = block_with("deepseek-ai/DeepSeek-V3.2", "MLA top-k").scans
    assert (dsa.reads, index.reads) == (2048, None)
    assert dsa.prefill_flop == dsa.decode_flop == 2 * 128 * (576 + 512)
    assert index.decode_flop == 2 * 64 * 128
    window, chosen, key = block_with("deepseek-ai/DeepSeek-V4-Pro", "CSA").scans
    assert (window.reads, window.keeps, chosen.stride, chosen.reads, key.stride) == (128, 128, 4, 1024, 4)
    assert chosen.decode_flop == 2 * 128 * (512 + 512)
    assert block_with("deepseek-ai/DeepSeek-V4-Pro", "HCA").scans[1].stride == 128


def test_blocks_read_only_as_much_as_they_choose() -> None:
    chosen, index = block_with("MiniMaxAI/MiniMax-M3", "GQA top-k").scans
    assert chosen.reads == 16 * 128
    assert (index.query_heads, index.heads, index.decode_flop) == (4, 1, 2 * 4 * 128)
