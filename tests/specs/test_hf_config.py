"""Strict reading: a config says all that is needed and nothing unknown, or the error names file and field."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.specs.hf_cases import DEEPSEEK, LLAMA, QWEN3_MOE, SHIPPED, Config, decoder, read, shipped
from tokenworks.errors import SpecError
from tokenworks.specs.hf import load_model
from tokenworks.specs.hf.config import INERT, read_json
from tokenworks.specs.model import Model


def refused(config: Config, *words: str, name: str = "test") -> str:
    with pytest.raises(SpecError) as caught:
        read(config, name)
    text = str(caught.value)
    assert caught.value.exit_code == 2
    for word in ("config.json", *words):
        assert word in text, text
    return text


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(LLAMA)[:-20],
        json.dumps(LLAMA).replace("2048", "NaN"),
        "",
        "[" * 20_000,
        "\ud800".encode("utf-16", "surrogatepass").decode("latin-1"),
    ],
    ids=["truncated", "nan", "empty", "deep", "bytes"],
)
def test_what_is_not_json(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(SpecError, match="not valid JSON") as caught:
        load_model(str(path))
    assert str(path) in str(caught.value)


def test_infinity_is_read_where_it_is_no_shape(tmp_path: Path) -> None:
    """Published Mamba-2 models have `time_step_limit` = [0.0, Infinity]."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA | {"time_step_limit": [0.0, float("inf")]}))
    assert load_model(str(path)).notes == ()
    path.write_text(json.dumps(LLAMA).replace("2048", "Infinity"))
    with pytest.raises(SpecError, match="max_position_embeddings: want a whole number, got inf"):
        load_model(str(path))


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("[1, 2]")
    with pytest.raises(SpecError, match="no JSON object"):
        read_json(path)
    with path.open("wb") as file:
        file.truncate(9 * 2**20)
    with pytest.raises(SpecError, match="is over 8 MB; no config"):
        read_json(path)
    with pytest.raises(SpecError, match="no such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(SpecError, match="is a folder"):
        read_json(tmp_path)


def test_a_key_that_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA)[:-1] + ', "hidden_size": 128}')
    with pytest.raises(SpecError, match=r"not valid JSON: duplicate key 'hidden_size'"):
        load_model(str(path))


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA), encoding="utf-8-sig")
    assert load_model(str(path)).layers == LLAMA["num_hidden_layers"]


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    loop = tmp_path / "config.json"
    loop.symlink_to(loop)
    for name in (loop, tmp_path):
        with pytest.raises(SpecError, match=r"config.json: cannot be read: Too many levels of symbolic links"):
            load_model(str(name))
    with pytest.raises(SpecError, match=r"/dev/null: is a device; give a file"):
        load_model("/dev/null")


@pytest.mark.parametrize("value", [10**400, -(10**400), "x" * 400, [1] * 400])
def test_a_value_is_shown_in_short(value: Any) -> None:
    text = refused(LLAMA | {"hidden_size": value, "tie_word_embeddings": value}, "hidden_size", "...")
    assert len(text) < 250


def test_a_number_of_more_digits_than_python_reads(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"hidden_size": ' + "9" * 5000 + ', "x": 1e999}')
    with pytest.raises(SpecError, match="not valid JSON") as caught:
        load_model(str(path))
    assert len(str(caught.value)) < 400
    path.write_text('{"x": 1e999}')
    with pytest.raises(SpecError, match="not valid JSON: 1e999 is too large"):
        load_model(str(path))


# ── fields ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [0, -1, -64, 10**12, 1e12, 64.0, "64", True, [64], {}, 2**70])
def test_a_width_is_a_positive_whole_number(value: Any) -> None:
    refused(LLAMA | {"hidden_size": value}, "hidden_size")


@pytest.mark.parametrize("value", [0, -3, 1001, 4096, "3", None, True])
def test_layers_are_at_least_one(value: Any) -> None:
    refused(LLAMA | {"num_hidden_layers": value}, "num_hidden_layers")


@pytest.mark.parametrize("key", ["head_dim", "hidden_size", "vocab_size", "num_key_value_heads"])
def test_a_width_beyond_any_model_is_refused_with_its_bound(key: str) -> None:
    refused(LLAMA | {key: 10**9}, key, "1000000000 is not between 1 and 10,000,000")


def test_depth_and_context_have_bounds_of_their_own() -> None:
    refused(LLAMA | {"num_hidden_layers": 4096}, "num_hidden_layers", "4096 is not between 1 and 1,000")
    refused(DEEPSEEK | {"num_nextn_predict_layers": 4096}, "num_nextn_predict_layers", "between 0 and 1,000")
    refused(LLAMA | {"max_position_embeddings": 10**10}, "max_position_embeddings", "between 1 and 1,000,000,000")
    assert read(LLAMA | {"max_position_embeddings": 10_485_760}).max_context == 10_485_760


def test_values_that_do_not_go_together() -> None:
    refused(LLAMA | {"num_key_value_heads": 3}, "num_key_value_heads", "does not divide 4")
    refused(LLAMA | {"hidden_size": 66}, "head_dim", "missing")
    refused(QWEN3_MOE | {"num_experts_per_tok": 9}, "num_experts_per_tok", "more than the 8")
    refused(LLAMA | {"tie_word_embeddings": 1}, "tie_word_embeddings", "true or false")
    refused(LLAMA | {"torch_dtype": "float8"}, "torch_dtype", "bfloat16")
    refused(DEEPSEEK | {"moe_layer_freq": 2}, "moe_layer_freq")


def test_lists_a_layer() -> None:
    gpt = shipped("openai/gpt-oss-20b")
    refused(gpt | {"layer_types": gpt["layer_types"][:-1]}, "layer_types", "24 entries")
    refused(gpt | {"layer_types": "sliding"}, "layer_types", "24 entries")
    refused(gpt | {"layer_types": ["full_attention"] * 23 + ["linear"]}, "layer_types[23]", "linear")
    refused(gpt | {"layer_types": [True] * 24}, "layer_types[0]")
    four = shipped("deepseek-ai/DeepSeek-V4-Flash")
    refused(four | {"compress_ratios": [2, *four["compress_ratios"][1:]]}, "compress_ratios[0]", "2")
    mimo = shipped("XiaomiMiMo/MiMo-V2-Flash")
    refused(mimo | {"moe_layer_freq": [True] * 48}, "moe_layer_freq[0]")


def test_what_a_family_cannot_count_is_refused_by_name() -> None:
    glm = shipped("zai-org/GLM-5.2")
    refused(glm | {"first_k_dense_replace": 2}, "mlp_layer_types", "first_k_dense_replace=2")
    refused(glm | {"indexer_types": ["shared", *glm["indexer_types"][1:]]}, "indexer_types[0]")
    refused(glm | {"q_lora_rank": None}, "q_lora_rank", "missing")
    qwen = shipped("Qwen/Qwen3.5-27B")
    qwen["text_config"]["full_attention_interval"] = 3
    refused(qwen, "text_config.full_attention_interval", "layer_types")
    nano = shipped("nvidia/Nemotron-H-56B-Base-8K")
    refused(nano | {"num_hidden_layers": 117}, "num_hidden_layers", "118")
    refused(nano | {"hybrid_override_pattern": "M-X"}, "hybrid_override_pattern[2]", "known: ")
    kimi = shipped("moonshotai/Kimi-K3")
    kimi["text_config"]["linear_attn_config"]["kda_layers"].pop()
    refused(kimi, "text_config.linear_attn_config.kda_layers", "1 to 93")
    kimi["text_config"]["linear_attn_config"]["kda_layers"] = ["1"]
    refused(kimi, "kda_layers", "layer numbers")
    four = shipped("deepseek-ai/DeepSeek-V4-Flash")
    refused(four | {"o_groups": 7}, "o_groups", "64 heads")
    swa = shipped("Qwen/Qwen3-8B") | {"layer_types": ["sliding_attention"] * 36}
    refused(swa, "layer_types", "use_sliding_window")
    refused(shipped("Qwen/Qwen3-VL-4B-Instruct") | {"text_config": 3}, "text_config", "object")


def test_an_unknown_architecture_names_those_near() -> None:
    assert "similar known ones: qwen3" in refused(LLAMA | {"model_type": "qwen33"}, "model_type", "qwen33")
    refused(LLAMA | {"model_type": ["llama"]}, "model_type")
    refused({}, "model_type", "missing")
    refused(LLAMA | {"model_type": "\u00e9\u00e9\u00e9"}, "model_type", "llama")


# ── laws ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", SHIPPED)
def test_without_any_one_needed_field_the_error_names_it(name: str) -> None:
    """Mutation: take each field away. It is an error that names the field, unless the class has a documented default
    (then a note names it) or absence says that the thing is not there.
    """
    whole = read(shipped(name), name)
    refusals = 0
    for key in decoder(shipped(name)):
        if key in INERT or key.startswith("_"):
            continue
        config = shipped(name)
        del decoder(config)[key]
        changed, why = tried(config, name)
        if changed is None:
            assert key in why or PARTNERS.get(key, key) in why, f"{key}: {why}"
            refusals += 1
        elif changed != whole and key not in OPTIONAL:
            assert any(key in note for note in changed.notes), f"without {key} the model changes in silence"
    assert refusals >= 5


def tried(config: Config, name: str) -> tuple[Model | None, str]:
    try:
        return read(config, name), ""
    except SpecError as error:
        return None, str(error)


# A key whose absence is noticed at another one.
PARTNERS = {
    "quantization_config": "says",  # the name says FP8
    "num_nextn_predict_layers": "compress_ratios",
    "attention_k_eq_v": "num_global_key_value_heads",
    "enable_moe_block": "moe_intermediate_size",
}
# Absent = the thing is not there, or its size follows from others: transformers reads them so, too.
OPTIONAL = {
    "head_dim", "num_nextn_predict_layers", "mtp_num_hidden_layers", "quantization_config", "attention_bias",
    "n_shared_experts", "q_lora_rank", "num_shared_experts", "expert_dtype", "indexer_types",
    "mla_use_output_gate", "latent_moe_use_norm", "routed_expert_hidden_size", "attn_res_block_size", "moe_latent_size",
    "use_head_wise_attn_gate", "num_mtp_modules", "num_key_value_heads", "attention_head_dim",
}  # fmt: skip


@given(
    st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=20), st.sampled_from([1, 0, "x", True, []])
)
def test_an_unknown_field_changes_nothing_but_is_named(tail: str, value: Any) -> None:
    key = f"new_{tail}x"
    model = read(LLAMA | {key: value})
    assert any(note.startswith("not used: ") and key in note for note in model.notes)
    assert replace(model, notes=()) == replace(read(LLAMA), notes=())


@pytest.mark.parametrize("name", SHIPPED)
def test_an_unknown_field_is_named_in_every_family(name: str) -> None:
    """All unknown keys are in one note. Those that look like shapes come first, with the advice to check the counts."""
    config = shipped(name)
    decoder(config)["sparse_block_topology"] = 3
    decoder(config)["num_new_things"] = 3
    whole, model = read(shipped(name), name), read(config, name)
    [note] = set(model.notes) - set(whole.notes)
    assert note.startswith("not used: these may be shapes, so check the counts: ")
    assert note.index("num_new_things") < note.index("sparse_block_topology")
    assert replace(model, notes=()) == replace(whole, notes=())
    if "text_config" in config:
        assert any("fusion_layers" in each for each in read(shipped(name) | {"fusion_layers": 3}, name).notes)


def test_null_says_absent_and_inert_keys_change_nothing() -> None:
    plain = read(LLAMA)
    assert read(LLAMA | {"some_new_thing": None, "_name_or_path": "x", "eos_token_id": [1, 2]}) == plain
    assert read(LLAMA | {"rope_scaling": {"factor": 8.0}, "attention_dropout": 0.1, "top_k": 50}) == plain


def test_a_class_default_is_named_in_a_note() -> None:
    config = {key: value for key, value in LLAMA.items() if key != "tie_word_embeddings"}
    assert any("class default: tie_word_embeddings=False" in note for note in read(config).notes)
    assert read(LLAMA).notes == ()
    scout = load_model("meta-llama/Llama-4-Scout-17B-16E-Instruct")
    assert any("no_rope_layer_interval=4" in note for note in scout.notes)


def test_a_vision_tower_of_the_wrong_type_is_refused() -> None:
    """A tower whose size is not told is not counted; a number where an object or a list belongs is an error."""
    config = shipped("Qwen/Qwen3.5-35B-A3B")
    refused(config | {"vision_config": 1}, "vision_config: want an object, got 1")
    levels = config["vision_config"] | {"deepstack_visual_indexes": 5}
    refused(config | {"vision_config": levels}, "vision_config.deepstack_visual_indexes", "len()")
    del levels["depth"]
    del levels["deepstack_visual_indexes"]
    assert read(config | {"vision_config": levels}).vision_parameters is None
