"""The table of architectures: each decoder against a count of transformers, and laws that hold for all of them.

`architectures.json` has a small config of each decoder with invented widths, and the number of parameters of the class
that transformers 5.24 instantiates from it.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.specs.hf_cases import Config, read
from tokenworks.errors import SpecError
from tokenworks.specs.hf import stack
from tokenworks.specs.hf.formula import compiled
from tokenworks.specs.hf.table import entry, entry_names
from tokenworks.specs.model import (
    Model,
    active_parameters,
    kv_bytes_per_token,
    parameters,
    state_bytes_per_sequence,
    weight_bytes,
    window_bytes_per_sequence,
)

COUNTED: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("architectures.json").read_text())
DECODERS = [name for name in entry_names() if "parts" in (entry(name) or {})]


def small(name: str) -> Config:
    return copy.deepcopy(COUNTED[name]["config"])


def bare(model: Model) -> Model:
    return replace(model, notes=())


@pytest.mark.parametrize("name", COUNTED)
def test_the_parameters_are_those_of_transformers(name: str) -> None:
    """A difference is the correction bias of a router, which transformers does not count as a parameter."""
    model = read(small(name))
    corrections = sum(block.count * block.experts.count for block in model.blocks if block.experts)
    assert abs(parameters(model) - COUNTED[name]["parameters"]) <= 2 * corrections + 200
    assert parameters(model) == pytest.approx(COUNTED[name]["parameters"], rel=1e-4)


@pytest.mark.parametrize("name", COUNTED)
def test_what_holds_for_every_decoder(name: str) -> None:
    model = read(small(name))
    assert 0 < active_parameters(model) <= parameters(model)
    extra = sum(block.count * 2 * matrix.parameters for block in model.blocks for matrix in block.matrices
                if matrix.format.name == "fp32")  # fmt: skip
    assert weight_bytes(model) == 2 * parameters(model) + extra
    cached = kv_bytes_per_token(model, 2) + window_bytes_per_sequence(model, 2) + state_bytes_per_sequence(model)
    assert cached > 0
    if any(scan.bytes is None and scan.elements for block in model.blocks for scan in block.scans):
        assert kv_bytes_per_token(model, 1) + window_bytes_per_sequence(model, 1) < kv_bytes_per_token(
            model, 2
        ) + window_bytes_per_sequence(model, 2)
    for block in model.blocks:
        for matrix in block.matrices:
            assert min(matrix.inputs, matrix.outputs, matrix.copies) > 0


def refusal(config: Config) -> str:
    """The message of the error; empty if the config is read. Any other exception fails the test."""
    try:
        read(config)
    except SpecError as error:
        return str(error)
    return ""


@given(st.sampled_from(sorted(COUNTED)), st.data())
def test_without_a_field_there_is_a_model_or_an_error_in_words(name: str, data: st.DataObject) -> None:
    config = small(name)
    del config[data.draw(st.sampled_from(sorted(set(config) - {"model_type"})))]
    assert "config.json" in (refusal(config) or "config.json")


WRONG: list[Any] = [None, -1, 0, 3, 2**70, 0.5, "x", True, [], [1], {}, {"a": 1}, [[]], [None]]


@given(st.sampled_from(sorted(COUNTED)), st.data())
def test_with_a_wrong_value_there_is_a_model_or_an_error_in_words(name: str, data: st.DataObject) -> None:
    config = small(name)
    key = data.draw(st.sampled_from(sorted(set(config) - {"model_type"})))
    words = refusal(config | {key: data.draw(st.sampled_from(WRONG))})
    assert "config.json" in (words or "config.json")
    assert len(words) < 1000


@given(st.sampled_from(sorted(COUNTED)), st.sampled_from([7, "x", True, [1], {"a": 1}]))
def test_a_key_without_effect_changes_nothing_and_is_named(name: str, value: Any) -> None:
    plain, more = read(small(name)), read(small(name) | {"brand_new_key": value})
    assert bare(plain) == bare(more)
    assert any("brand_new_key" in note for note in more.notes)


@given(st.sampled_from(sorted(COUNTED)), st.integers(50, 5000))
def test_the_vocabulary_is_embedding_and_output_layer(name: str, vocab: int) -> None:
    """A longer vocabulary adds one row of the embedding, and one of the output layer if it is not tied."""
    config = small(name) | {"tie_word_embeddings": False, "unpadded_vocab_size": None}
    one, two = read(config | {"vocab_size": vocab}), read(config | {"vocab_size": vocab + 1})
    rows = two.embedding.inputs + (two.head.inputs + two.head.bias if two.head else 0)
    assert parameters(two) - parameters(one) in (rows, rows + 1)  # one more: a bias of the output layer


# ── the table itself ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", DECODERS)
def test_each_entry_has_known_parts_and_formulas(name: str) -> None:
    architecture = entry(name) or {}
    for part in filter(None, architecture["parts"].values()):
        shape, _ = stack.KINDS[part["kind"]]
        fields = {field: str(note) for field, note in shape.__annotations__.items()}
        assert set(part) - {"kind"} <= set(fields)
        for key, value in part.items():
            if key != "kind" and isinstance(value, str) and fields[key] != "str":
                compiled(value)
    for value in architecture["names"].values():
        compiled(str(value))
    for key in ("mixer", "ffn", "norms", "vectors", "outside", "lookups", "count", "drafts"):
        compiled(str(architecture.get(key, 0)))
    for check in architecture.get("checks", ()):
        compiled(check["that"])


def test_every_registered_decoder_is_in_the_table() -> None:
    """Types of vLLM and SGLang that transformers has are decoders of the table, or refused with a reason."""
    assert len(DECODERS) >= 170
    assert {"llama", "qwen3_next", "granitemoehybrid", "gemma3n_text", "longcat_flash", "mllama_text_model"} <= set(
        DECODERS
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "bert"}, ["bert", "encoder", "no tokens"]),
        ({"model_type": "whisper"}, ["whisper", "speech"]),
        ({"model_type": "t5"}, ["encoder with a decoder"]),
        ({"_class_name": "FluxPipeline"}, ["diffusers", "FluxPipeline", "no tokens"]),
        ({"model_type": "never_heard_of"}, ["never_heard_of", "is not known", "docs/models.md"]),
        ({"model_type": "_decoder"}, ["_decoder", "is not known"]),
        ({"model_type": "llava", "text_config": {"model_type": "never"}}, ["text_config.model_type", "never"]),
    ],
)
def test_another_kind_of_model_is_refused_with_the_reason(config: Config, words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        read(config)
    assert all(word in str(caught.value) for word in words), str(caught.value)


# ── what transformers writes in its own way ──────────────────────────────────────────────────────────────────────


def test_zero_experts_of_longcat_have_no_weights() -> None:
    """transformers allocates gate and up projections for them, too; the published checkpoint and the engines do not."""
    config = {
        "model_type": "longcat_flash", "hidden_size": 64, "num_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
        "ffn_hidden_size": 96, "expert_ffn_hidden_size": 32, "n_routed_experts": 6, "zero_expert_num": 2, "moe_topk": 3,
        "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
        "max_position_embeddings": 512,
    }  # fmt: skip
    mla = 64 * 24 + 24 + 24 * 4 * 12 + 64 * 20 + 16 + 16 * 4 * 16 + 32 * 64
    experts = 6 * 3 * 64 * 32 + 8 * 64 + 8
    expected = 2 * (2 * mla + 2 * 3 * 64 * 96 + experts + 4 * 64) + 2 * 100 * 64 + 64
    model = read(config)
    assert parameters(model) == expected
    assert kv_bytes_per_token(model, 2) == 2 * 2 * 20 * 2


def test_values_of_single_layers_come_before_those_of_all() -> None:
    """transformers 5 writes what differs between layers into `per_layer_config`."""
    base = small("gemma4_text")
    wide = base | {"per_layer_config": {"0": {"head_dim": 128}}}
    assert parameters(read(wide)) != parameters(read(base | {"per_layer_config": None, "global_head_dim": 512}))


def test_another_spelling_comes_before_a_class_default() -> None:
    """`num_shared_experts` of Kimi is read although `n_shared_experts` has a default in transformers."""
    config = small("kimi_linear") | {"num_shared_experts": 2}
    config.pop("n_shared_experts", None)
    once = config | {"num_shared_experts": 1}
    hidden, inner = config["hidden_size"], config["moe_intermediate_size"]
    moe = sum(block.count for block in read(config).blocks if block.experts)
    assert parameters(read(config)) - parameters(read(once)) == moe * 3 * hidden * inner
