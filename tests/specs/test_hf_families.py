"""Architectures: parameter counts of random shapes against closed forms, and what is particular to each family."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.specs.hf_cases import DEEPSEEK, LLAMA, QWEN3_MOE, Config, read, shipped
from tokenworks.errors import SpecError
from tokenworks.specs.hf import load_model
from tokenworks.specs.model import (
    Model,
    active_parameters,
    attention_kinds,
    draft_parameters,
    kv_bytes_per_token,
    parameters,
)

small = st.integers(1, 6)


@st.composite
def llamas(draw: st.DrawFn) -> Config:
    kv_heads, group, dim = draw(small), draw(small), draw(st.sampled_from([8, 16, 64]))
    return LLAMA | {
        "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * group,
        "head_dim": dim,
        "hidden_size": draw(st.integers(1, 300)),
        "intermediate_size": draw(st.integers(1, 300)),
        "num_hidden_layers": draw(st.integers(1, 9)),
        "vocab_size": draw(st.integers(1, 500)),
        "tie_word_embeddings": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
    }


@given(llamas())
def test_a_dense_model_is_its_closed_form(c: Config) -> None:
    """V h (1 + untied) + L (h d (2 q + 2 k) + 3 h i + 2 h) + h, and d (q + 2 k) + h more with biases."""
    h, i, d = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    q, k = c["num_attention_heads"], c["num_key_value_heads"]
    layer = h * d * (2 * q + 2 * k) + 3 * h * i + 2 * h + c["attention_bias"] * (d * (q + 2 * k) + h)
    expected = c["vocab_size"] * h * (1 + (not c["tie_word_embeddings"])) + c["num_hidden_layers"] * layer + h
    model = read(c)
    assert parameters(model) == expected
    assert active_parameters(model) == expected - c["vocab_size"] * h * (not c["tie_word_embeddings"])
    assert kv_bytes_per_token(model, 2) == c["num_hidden_layers"] * 4 * k * d
    assert model.layers == c["num_hidden_layers"]


@given(llamas(), st.integers(1, 9), st.integers(1, 9), st.integers(1, 200))
def test_a_mixture_is_its_closed_form(c: Config, topk: int, more: int, inner: int) -> None:
    """Qwen3-MoE: per layer h d (2 q + 2 k) + 2 d + h E + 3 h i E + 2 h; a token visits k of E experts."""
    count = topk + more
    config = QWEN3_MOE | c | {
        "model_type": "qwen3_moe", "attention_bias": False, "num_experts": count, "num_experts_per_tok": topk,
        "moe_intermediate_size": inner,
    }  # fmt: skip
    h, d, q, k = c["hidden_size"], c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"]
    around = h * d * (2 * q + 2 * k) + 2 * d + h * count + 2 * h
    outer = c["vocab_size"] * h
    layers = c["num_hidden_layers"]
    model = read(config)
    total = outer * (1 + (not c["tie_word_embeddings"])) + layers * (around + 3 * h * inner * count) + h
    assert parameters(model) == total
    assert active_parameters(model) == outer + layers * (around + 3 * h * inner * topk) + h


@given(st.integers(0, 3), st.integers(0, 40), st.integers(0, 2), st.integers(0, 2))
def test_a_latent_mixture_is_its_closed_form(dense: int, rank: int, shared: int, drafts: int) -> None:
    """DeepSeek-V3's shapes: MLA, `dense` layers first, shared experts, a correction an expert, MTP layers apart."""
    c = DEEPSEEK | {
        "first_k_dense_replace": dense, "q_lora_rank": rank or None, "n_shared_experts": shared,
        "num_nextn_predict_layers": drafts,
    }  # fmt: skip
    h, heads, r, nope, rope, v = 64, 4, 16, 8, 4, 8
    query = h * rank + rank + rank * heads * (nope + rope) if rank else h * heads * (nope + rope)
    attention = query + h * (r + rope) + r + r * heads * (nope + v) + heads * v * h + 2 * h
    moe = h * 8 + 8 + 3 * h * 48 * (8 + shared)
    layers = 3 * attention + dense * 3 * h * 96 + (3 - dense) * moe
    model = read(c)
    assert parameters(model) == 2 * 100 * h + layers + h
    draft = attention + (moe if dense < 4 else 3 * h * 96) + 2 * h * h + 3 * h
    assert draft_parameters(model) == drafts * draft
    assert kv_bytes_per_token(model, 2) == 3 * 2 * (r + rope)


def test_sliding_windows_as_qwen_switches_them() -> None:
    base = shipped("Qwen/Qwen2.5-7B-Instruct") | {"sliding_window": 4096}
    assert attention_kinds(read(base | {"use_sliding_window": False})) == {"GQA": 28}
    upper = read(base | {"use_sliding_window": True, "max_window_layers": 20})
    assert attention_kinds(upper) == {"GQA": 20, "sliding GQA": 8}
    named = ["full_attention"] * 27 + ["sliding_attention"]
    assert attention_kinds(read(base | {"use_sliding_window": True, "layer_types": named})) == {
        "GQA": 27, "sliding GQA": 1,
    }  # fmt: skip
    mistral = read(LLAMA | {"model_type": "mistral", "sliding_window": 4096})
    assert attention_kinds(mistral) == {"sliding GQA": 3}
    assert attention_kinds(read(LLAMA | {"model_type": "mistral", "sliding_window": None})) == {"GQA": 3}


def test_mistral_7b() -> None:
    """7.24 B (arXiv:2310.06825, table 1, and the checkpoint's safetensors)."""
    config = LLAMA | {
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "sliding_window": 4096,
    }  # fmt: skip
    assert parameters(read(config)) / 1e9 == pytest.approx(7.24, rel=0.002)


def test_deepseek_v2() -> None:
    """236 B, 21 B active (arXiv:2405.04434, section 1); V2-Lite: 15.7 B, 2.4 B active (appendix B)."""
    v2 = DEEPSEEK | {
        "model_type": "deepseek_v2", "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
        "num_hidden_layers": 60, "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536,
        "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "n_routed_experts": 160, "n_shared_experts": 2, "num_experts_per_tok": 6, "vocab_size": 102400,
        "num_nextn_predict_layers": 0,
    }  # fmt: skip
    assert parameters(read(v2)) / 1e9 == pytest.approx(236, rel=0.01)
    assert active_parameters(read(v2)) / 1e9 == pytest.approx(21, rel=0.02)
    lite = v2 | {
        "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 27,
        "num_attention_heads": 16, "q_lora_rank": None, "n_routed_experts": 64,
    }  # fmt: skip
    assert parameters(read(lite)) / 1e9 == pytest.approx(15.7, rel=0.01)


def test_kimi_linear_48b() -> None:
    """49.1 B, 3 B active (Hugging Face, moonshotai/Kimi-Linear-48B-A3B-Instruct; arXiv:2510.26692): low-rank output
    gates, no latent experts.
    """
    kda = [layer for layer in range(1, 28) if layer % 4 and layer != 27]
    config = {
        "model_type": "kimi_linear", "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 27,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 72, "vocab_size": 163840,
        "max_position_embeddings": 1048576, "kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "mla_use_nope": True, "first_k_dense_replace": 1,
        "moe_layer_freq": 1, "num_experts": 256, "num_experts_per_token": 8, "num_shared_experts": 1,
        "moe_intermediate_size": 1024, "moe_renormalize": True, "num_nextn_predict_layers": 0,
        "tie_word_embeddings": False,
        "linear_attn_config": {
            "full_attn_layers": [4, 8, 12, 16, 20, 24, 27], "kda_layers": kda, "head_dim": 128, "num_heads": 32,
            "short_conv_kernel_size": 4,
        },
    }  # fmt: skip
    model = read(config)
    assert parameters(model) / 1e9 == pytest.approx(49.1, rel=0.01)
    assert attention_kinds(model) == {"KDA": 20, "MLA": 7}


def searched(blocks: list[dict[str, Any]]) -> Config:
    config = LLAMA | {"model_type": "nemotron-nas", "block_configs": blocks, "num_key_value_heads": None}
    return config | {"num_hidden_layers": len(blocks), "intermediate_size": None}


def test_a_searched_llama_has_its_own_blocks() -> None:
    """Layer by layer: KV heads = heads / n_heads_in_group, FFN = 2 x mult x h / 3 up to a multiple of 256, or none."""
    full = {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 6.0}}
    no_attention = {"attention": {"no_op": True, "n_heads_in_group": None}, "ffn": {"ffn_mult": 1.0}}
    no_ffn = {"attention": {"n_heads_in_group": 4}, "ffn": {"no_op": True, "ffn_mult": None}}
    model = read(searched([full, no_attention, no_ffn]))
    h, d = 64, 16
    layers = [h * d * (8 + 4) + 3 * h * 256 + 2 * h, 3 * h * 256 + h, h * d * (8 + 2) + h]
    assert parameters(model) == 2 * 100 * h + sum(layers) + h
    assert kv_bytes_per_token(model, 2) == 4 * (2 + 1) * d
    assert [block.all_reduces for block in model.blocks] == [2, 1, 1]


def test_a_searched_llama_without_its_blocks_cannot_be_computed() -> None:
    with pytest.raises(SpecError, match="block_configs: the field is missing"):
        load_model("nvidia/Llama-3_3-Nemotron-Super-49B-v1")
    linear = {"attention": {"replace_with_linear": True}, "ffn": {"ffn_mult": 1.0}}
    for blocks, word in (([linear], "replace_with_linear"), ([{"ffn": {}}], "block_configs[0].attention")):
        with pytest.raises(SpecError) as caught:
            read(searched(blocks))
        assert word in str(caught.value)
    with pytest.raises(SpecError, match="want a list of 3 entries"):
        read(searched([linear]) | {"num_hidden_layers": 3})
    nothing = {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.0}}
    with pytest.raises(SpecError, match="no layer has attention"):
        read(searched([nothing]))


def block(model: Model, name: str) -> Any:
    return next(each for each in model.blocks if each.name == name)


def test_equal_layers_are_one_block() -> None:
    assert [(each.name, each.count) for each in load_model("deepseek-ai/DeepSeek-R1").blocks] == [
        ("dense layer", 3), ("moe layer", 58),
    ]  # fmt: skip
    assert len(load_model("openai/gpt-oss-120b").blocks) == 2
    nano = load_model("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
    assert {each.name: each.count for each in nano.blocks} == {
        "mamba layer": 23, "moe layer": 23, "attention layer": 6,
    }  # fmt: skip
    assert {each.all_reduces for each in nano.blocks} == {1}


def test_latent_experts_travel_narrow() -> None:
    moe = block(load_model("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8"), "moe layer")
    assert (moe.experts.hidden, moe.experts.count, moe.experts.topk) == (1024, 512, 22)
    assert block(load_model("deepseek-ai/DeepSeek-R1"), "moe layer").experts.hidden == 7168


def test_tied_models_have_no_head_of_their_own() -> None:
    model = load_model("Qwen/Qwen3-0.6B")
    assert model.head is None
    assert active_parameters(model) == parameters(model)


def test_what_tensor_parallelism_may_divide() -> None:
    """A latent is whole on every rank; KV heads are kept whole; experts are copies of one shape."""
    moe = block(load_model("deepseek-ai/DeepSeek-R1"), "moe layer")
    splits = {matrix.name: matrix.split for matrix in moe.matrices}
    assert (splits["kv_a_proj_with_mqa"], splits["q_b_proj"], splits["o_proj"]) == ("none", "out", "in")
    assert {matrix.copies for matrix in moe.matrices if matrix.part == "experts"} == {256}
    layer = block(load_model("meta-llama/Meta-Llama-3.1-70B"), "dense layer")
    assert {matrix.split for matrix in layer.matrices if matrix.name in ("k_proj", "v_proj")} == {"kv"}
    model = load_model("meta-llama/Meta-Llama-3.1-70B")
    assert (model.heads, model.kv_heads) == (64, 8)
    assert load_model("deepseek-ai/DeepSeek-R1").kv_heads == 1
