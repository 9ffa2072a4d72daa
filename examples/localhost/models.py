"""Write two small models without weights, and a deployment file for each. Run with vLLM's python.

    models.py FOLDER DTYPE

A model is a config.json and a tokenizer with invented words in FOLDER/models. FOLDER/NAME.yaml is its deployment on the
machine that machine.py has measured.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from measure import FLAGS
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = 4096
"""Size of the vocabulary. One token is one word, so tokens become text and the text becomes the same tokens."""

COMMON = {
    "vocab_size": WORDS, "hidden_act": "silu", "max_position_embeddings": 16384, "tie_word_embeddings": False,
    "attention_bias": False, "bos_token_id": 0, "eos_token_id": 0, "head_dim": 64, "rms_norm_eps": 1e-6,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama-64m": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_theta": 500000.0, "mlp_bias": False,
        "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 20, "num_attention_heads": 8,
        "num_key_value_heads": 2,
    },
    "qwen3-moe-163m": {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "rope_theta": 1000000.0,
        "hidden_size": 512, "intermediate_size": 1536, "moe_intermediate_size": 256, "num_experts": 32,
        "num_experts_per_tok": 4, "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 2,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True, "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
    },
}  # fmt: skip
"""Configs by model name. The weights are larger than the caches of a CPU, so that they are read from memory."""


def tokenizer() -> Tokenizer:
    """A tokenizer that makes one token of each word."""
    words = {"<end>": 0} | {f"w{i}": i for i in range(1, WORDS)}
    words_only = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    words_only.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return words_only


def write(folder: Path, config: dict[str, Any], dtype: str) -> None:
    """Write a model folder that `vllm serve --load-format dummy` and tokenworks can read.

    Parameters
    ----------
    folder : folder of the model
    config : content of the config.json beside `COMMON`
    dtype : dtype of the weights, as a config.json names it
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save(str(folder / "tokenizer.json"))
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<end>", "eos_token": "<end>", "pad_token": "<end>",
        "model_max_length": 16384, "clean_up_tokenization_spaces": False,
        "chat_template": "{% for message in messages %}{{ message['content'] }} {% endfor %}",
    }  # fmt: skip
    files = {
        "config": COMMON | config | {"torch_dtype": dtype},
        "tokenizer_config": words,
        "generation_config": {"eos_token_id": 0},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def deployment(model: Path, system: Path) -> dict[str, Any]:
    """Content of a deployment file, with the token budget and the number of sequences that `measure.py` sets."""
    role = {
        "name": "aggregated", "parallel": {"tp": 1}, "max_sequences": int(FLAGS["max-num-seqs"]),
        "chunk_tokens": int(FLAGS["max-num-batched-tokens"]), "memory_fraction": 0.5,
    }  # fmt: skip
    runs = {"model": str(model), "system": str(system), "engine": "vllm", "roles": [role]}
    return {"schema": "tokenworks.deployment/1", "deployments": [{"rank": 1, "deployment": runs}]}


if __name__ == "__main__":
    results = Path(sys.argv[1]).resolve()
    for name, config in CONFIGS.items():
        write(results / "models" / name, config, sys.argv[2])
        content = deployment(results / "models" / name, results / "system.yaml")
        (results / f"{name}.yaml").write_text(json.dumps(content, indent=1) + "\n")  # JSON is YAML
