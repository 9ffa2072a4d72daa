"""Parameter counts from the weight shapes, beside what publishers print. A miss is looked for in the shapes."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from tokenworks.specs.hf import load_model
from tokenworks.specs.hf.architectures import build
from tokenworks.specs.model import active_parameters, draft_parameters, parameters


class Published(NamedTuple):
    """`digits` as printed, in units of 1e9. `adds` is what the publisher's figure holds beside the decoder."""

    model: str
    total: str
    active: str
    adds: str
    source: str


# adds: "embedding" = the active figure counts the embedding lookup; "no head" = it leaves the output layer out too;
#       "vision" = the total holds the vision tower; "draft" = the total holds the MTP layers
TABLE = [
    Published("meta-llama/Meta-Llama-3.1-8B", "8.03", "", "", "Hugging Face, meta-llama/Llama-3.1-8B, safetensors"),
    Published("meta-llama/Meta-Llama-3.1-70B", "70.6", "", "", "Hugging Face, meta-llama/Llama-3.1-70B, safetensors"),
    Published("meta-llama/Meta-Llama-3.1-405B", "405.9", "", "", "arXiv:2407.21783, table 3 (405B)"),
    Published("meta-llama/Llama-2-70b-hf", "69.0", "", "", "Hugging Face, meta-llama/Llama-2-70b-hf, safetensors"),
    Published("deepseek-ai/DeepSeek-V3", "671", "36.7", "", "DeepSeek-V3 README_WEIGHTS.md; arXiv:2412.19437"),
    Published("Qwen/Qwen3-235B-A22B", "235", "22", "embedding", "arXiv:2505.09388, section 2; model card"),
    Published("Qwen/Qwen3-30B-A3B", "30.5", "3.3", "embedding", "model card, Qwen/Qwen3-30B-A3B"),
    Published("Qwen/Qwen3-32B", "32.8", "", "", "model card, Qwen/Qwen3-32B"),
    Published("Qwen/Qwen3-14B", "14.8", "", "", "model card, Qwen/Qwen3-14B"),
    Published("Qwen/Qwen3-8B", "8.2", "", "", "model card, Qwen/Qwen3-8B"),
    Published("Qwen/Qwen3-4B", "4.0", "", "", "model card, Qwen/Qwen3-4B"),
    Published("Qwen/Qwen3-1.7B", "1.7", "", "", "model card, Qwen/Qwen3-1.7B"),
    Published("Qwen/Qwen3-0.6B", "0.6", "", "", "model card, Qwen/Qwen3-0.6B"),
    Published("Qwen/Qwen3-Coder-480B-A35B-Instruct", "480", "35", "embedding", "model card"),
    Published("Qwen/Qwen2.5-7B-Instruct", "7.61", "", "", "model card, Qwen/Qwen2.5-7B-Instruct"),
    Published("openai/gpt-oss-120b", "116.83", "5.13", "", "arXiv:2508.10925, table 1"),
    Published("openai/gpt-oss-20b", "20.91", "3.61", "", "arXiv:2508.10925, table 1"),
    Published("mistralai/Mixtral-8x7B-v0.1", "46.7", "12.9", "embedding", "mistral.ai, Mixtral of experts"),
    Published("mistralai/Mixtral-8x22B-v0.1", "141", "39", "embedding", "mistral.ai, Mixtral 8x22B"),
    Published("moonshotai/Kimi-K2-Instruct", "1026", "32", "", "Hugging Face, safetensors index"),
    Published("moonshotai/Kimi-K3", "2780", "104.2", "", "arXiv:2607.24653, table 1"),
    Published("meta-llama/Llama-4-Scout-17B-16E-Instruct", "109", "17", "embedding vision", "model card"),
    Published("meta-llama/Llama-4-Maverick-17B-128E-Instruct", "402", "17", "embedding vision", "Hugging Face"),
    Published("zai-org/GLM-4.5-Air", "106", "12", "no head", "arXiv:2508.06471, table 1"),
    Published("zai-org/GLM-4.6", "357", "32", "no head draft", "Hugging Face, zai-org/GLM-4.6, safetensors"),
    Published("zai-org/GLM-5", "744", "40", "", "model card, zai-org/GLM-5"),
    Published("MiniMaxAI/MiniMax-M2.5", "229", "10", "", "Hugging Face, MiniMaxAI/MiniMax-M2.5, safetensors"),
    Published("MiniMaxAI/MiniMax-M3", "428", "23", "no head", "model card, MiniMaxAI/MiniMax-M3 (with the tower)"),
    Published("XiaomiMiMo/MiMo-V2-Flash", "309", "15", "", "arXiv:2601.02780, abstract"),
    Published("XiaomiMiMo/MiMo-7B-Base", "7.83", "", "draft", "Hugging Face, XiaomiMiMo/MiMo-7B-Base, safetensors"),
    Published("stepfun-ai/Step-3.7-Flash", "196.8", "11", "", "model card, Step-3.5-Flash: the same decoder"),
    Published("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "31.6", "3.2", "", "Nemotron 3 Nano report, abstract"),
    Published("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8", "120.6", "12.7", "embedding", "NVIDIA, Nemotron 3 Super"),
    Published("nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", "550", "55", "", "the name, and NVIDIA's model page"),
    Published("Qwen/Qwen3.5-397B-A17B", "397", "17", "embedding vision", "model card, Qwen/Qwen3.5-397B-A17B"),
    Published("Qwen/Qwen3.5-122B-A10B", "122", "10", "embedding", "model card, Qwen/Qwen3.5-122B-A10B"),
    Published("google/gemma-4-26B-A4B", "25.2", "3.8", "", "model card, google/gemma-4-26B-A4B"),
    Published("nvidia/Gemma-4-31B-IT-NVFP4", "30.7", "", "", "model card, google/gemma-4-31B"),
    Published("deepseek-ai/DeepSeek-V4-Flash", "284", "13", "", "DeepSeek-V4 report, abstract"),
    Published("deepseek-ai/DeepSeek-V4-Pro", "1600", "49", "", "DeepSeek-V4 report, abstract (1.6 T: two digits)"),
]  # fmt: skip
TWO_DIGITS = {"1600"}  # printed as 1.6 T


def agrees(value: float, printed: str) -> bool:
    """Three printed digits: within 1 %. Fewer: within one unit of the last digit, as publishers round or cut."""
    figure = float(printed)
    if printed in TWO_DIGITS:
        return abs(value - figure) <= 100
    if len(printed.replace(".", "").lstrip("0")) >= 3:
        return abs(value / figure - 1) <= 0.01
    unit = 0.1 if "." in printed else 1.0
    return abs(value - figure) < unit


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.model)
def test_published_total(row: Published) -> None:
    model = load_model(row.model)
    total = parameters(model)
    if "vision" in row.adds:
        assert model.vision_parameters
        total += model.vision_parameters
    if "draft" in row.adds:
        total += draft_parameters(model)
    assert agrees(total / 1e9, row.total), f"{total / 1e9:.2f} against {row.total} ({row.source})"


@pytest.mark.parametrize("row", [row for row in TABLE if row.active], ids=lambda row: row.model)
def test_published_active(row: Published) -> None:
    model = load_model(row.model)
    active = active_parameters(model)
    if "embedding" in row.adds:
        active += model.embedding.parameters
    if "no head" in row.adds:
        active -= model.embedding.parameters
    assert agrees(active / 1e9, row.active), f"{active / 1e9:.2f} against {row.active} ({row.source})"


def test_there_are_enough_with_three_digits() -> None:
    three = [row for row in TABLE if len(row.total.replace(".", "")) >= 3 and row.total not in TWO_DIGITS]
    assert len(three) >= 30


@pytest.mark.parametrize(
    ("model", "elements"),
    [
        ("meta-llama/Meta-Llama-3.1-8B", 8_030_261_248),
        ("meta-llama/Meta-Llama-3.1-70B", 70_553_706_496),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-235B-A22B", 235_093_634_560),
        ("moonshotai/Kimi-K2-Instruct", 1_026_408_232_448),
    ],
)
def test_exact_counts_of_safetensors_headers(model: str, elements: int) -> None:
    """To the element, norms and biases included (total of the checkpoint's safetensors index on Hugging Face)."""
    assert parameters(load_model(model)) == elements


def test_mtp_of_deepseek_v3_is_counted_apart() -> None:
    """11.5 B unique parameters beside the 671 B (DeepSeek-V3 README_WEIGHTS.md)."""
    assert draft_parameters(load_model("deepseek-ai/DeepSeek-V3")) / 1e9 == pytest.approx(11.5, rel=0.01)


def test_non_embedding_counts_of_qwen3() -> None:
    """6.95 B of 8.2 B and 31.2 B of 32.8 B without embedding and head (model cards of Qwen3-8B and 32B)."""
    for name, figure in (("Qwen/Qwen3-8B", 6.95), ("Qwen/Qwen3-32B", 31.2), ("Qwen/Qwen3-30B-A3B", 29.9)):
        model = load_model(name)
        assert model.head is not None
        rest = parameters(model) - model.embedding.parameters - model.head.parameters
        assert rest / 1e9 == pytest.approx(figure, rel=0.005)


@pytest.mark.parametrize(
    ("model", "figure", "source"),
    [
        ("google/gemma-4-26B-A4B", 0.57, "model card: about 550 M"),
        ("moonshotai/Kimi-K2.5", 0.47, "MoonViT of 400 M (model card) and its projector"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 0.872, "safetensors total less the text shapes"),
    ],
)
def test_vision_towers_are_counted(model: str, figure: float, source: str) -> None:
    checkpoint = load_model(model).vision_parameters
    assert checkpoint is not None
    assert checkpoint / 1e9 == pytest.approx(figure, rel=0.01), source


def test_a_tower_of_unknown_size_is_said_to_be_so() -> None:
    model = load_model("moonshotai/Kimi-K3")
    assert model.vision_parameters is None
    assert any("vision tower" in note for note in model.notes)
    assert load_model("deepseek-ai/DeepSeek-V3").vision_parameters == 0


HUB: dict[str, tuple[float, dict[str, Any]]] = {
    "internlm2": (7.74, {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 92544, "bias": False}),
    "baichuan": (7.51, {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "vocab_size": 125696}),
    "qwen": (7.72, {"hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "kv_channels": 128,
        "num_attention_heads": 32, "vocab_size": 151936, "seq_length": 8192}),
    "chatglm": (6.24, {"hidden_size": 4096, "ffn_hidden_size": 13696, "num_layers": 28, "kv_channels": 128,
        "num_attention_heads": 32, "multi_query_attention": True, "multi_query_group_num": 2, "seq_length": 8192,
        "padded_vocab_size": 65024, "add_qkv_bias": True, "add_bias_linear": False}),
    "deepseek": (16.4, {"hidden_size": 2048, "intermediate_size": 10944, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 102400, "n_routed_experts": 64,
        "n_shared_experts": 2, "num_experts_per_tok": 6, "moe_intermediate_size": 1408, "first_k_dense_replace": 1,
        "moe_layer_freq": 1}),
    "minimax_text_01": (456, {"hidden_size": 6144, "intermediate_size": 9216, "num_hidden_layers": 80, "head_dim": 128,
        "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 200064, "num_local_experts": 32,
        "num_experts_per_tok": 2, "attn_type_list": ([0] * 7 + [1]) * 10}),
}  # fmt: skip
"""Decoders whose code is published with the model: billions of parameters on the model card, and the fields."""


@pytest.mark.parametrize("name", HUB)
def test_decoders_of_published_code(name: str) -> None:
    billions, fields = HUB[name]
    config = {"model_type": name, "max_position_embeddings": 4096, "tie_word_embeddings": False, **fields}
    assert parameters(build(config, name, "config.json")) / 1e9 == pytest.approx(billions, rel=0.01)
