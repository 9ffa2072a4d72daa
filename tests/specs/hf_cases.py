"""Small configs that a test may break: one a family, as plain dicts, and how to read one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from tokenworks.specs.hf.architectures import build
from tokenworks.specs.hf.load import CATALOG
from tokenworks.specs.model import Model

Config = dict[str, Any]

LLAMA: Config = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QWEN3_MOE: Config = LLAMA | {
    "model_type": "qwen3_moe",
    "head_dim": 16,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
}
DEEPSEEK: Config = LLAMA | {
    "model_type": "deepseek_v3",
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 1,
}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}

# One shipped config of each family: what is needed there is what a mutation takes away.
SHIPPED = [
    "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen3-8B", "Qwen/Qwen3-235B-A22B", "Qwen/Qwen3-VL-4B-Instruct",
    "Qwen/Qwen3-VL-30B-A3B-Instruct", "Qwen/Qwen3.5-27B", "Qwen/Qwen3.5-35B-A3B", "XiaomiMiMo/MiMo-7B-Base",
    "XiaomiMiMo/MiMo-V2-Flash", "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3.2",
    "deepseek-ai/DeepSeek-V4-Flash", "google/gemma-4-26B-A4B", "meta-llama/Meta-Llama-3.1-8B",
    "meta-llama/Llama-4-Scout-17B-16E-Instruct", "mistralai/Mixtral-8x7B-v0.1", "moonshotai/Kimi-K2-Instruct",
    "moonshotai/Kimi-K2.5", "moonshotai/Kimi-K3", "zai-org/GLM-5.2", "zai-org/GLM-4.6", "MiniMaxAI/MiniMax-M2.5",
    "MiniMaxAI/MiniMax-M3", "nvidia/MiniMax-M3-NVFP4", "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8",
    "nvidia/Nemotron-H-56B-Base-8K", "openai/gpt-oss-20b", "sgl-project/DeepSeek-V4-Flash-FP8",
    "stepfun-ai/Step-3.7-Flash",
]  # fmt: skip


def read(config: Config, name: str = "test") -> Model:
    return build(config, name, "config.json")


def shipped(name: str) -> Config:
    loaded: Config = json.loads((CATALOG / f"{name.replace('/', '--', 1)}.json").read_text())
    return copy.deepcopy(loaded)


def write(path: Path, config: Config) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    return path


def decoder(config: Config) -> Config:
    """The object that describes the decoder: the text config where there is one."""
    text: Config = config.get("text_config", config)
    return text
