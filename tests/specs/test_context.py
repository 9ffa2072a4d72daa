"""The context limit: the model's own, a shorter one, a longer one as far as rope scaling is documented."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.specs.hf_cases import LLAMA, read
from tokenworks.errors import SpecError
from tokenworks.specs.context import context_note, way_out, with_max_model_len
from tokenworks.specs.hf import load_model, model_names
from tokenworks.specs.hf.load import CATALOG
from tokenworks.specs.model import Model

QWEN, LLAMA_2 = "Qwen/Qwen3-235B-A22B", "meta-llama/Llama-2-70b-hf"
LONG = [f"Qwen/Qwen3-{size}-{kind}-2507" for size in ("235B-A22B", "30B-A3B") for kind in ("Instruct", "Thinking")]


def scaled(rope: Any, key: str = "rope_scaling") -> Model:
    return read(LLAMA | {"max_position_embeddings": 4096, key: rope})


def test_without_a_limit_the_model_stays_as_it_is() -> None:
    model = load_model(QWEN)
    assert with_max_model_len(model, None) is model
    assert (model.max_context, context_note(model)) == (40960, "")


def test_the_card_of_qwen3_documents_131072_tokens() -> None:
    model = with_max_model_len(load_model(QWEN), 131072)
    assert (model.max_context, model.own_context) == (131072, 40960)
    assert "131,072 tokens, with YaRN, factor 4; without it Qwen/Qwen3-235B-A22B reads 40,960" in context_note(model)


@pytest.mark.parametrize("name", LONG)
def test_the_2507_variants_read_262144_tokens(name: str) -> None:
    assert load_model(name).max_context == 262144


def test_a_shorter_limit_needs_no_scaling() -> None:
    model = with_max_model_len(load_model(LLAMA_2), 2048)
    assert model.max_context == 2048
    assert "2,048 tokens, meta-llama/Llama-2-70b-hf itself reads 4,096" in context_note(model)


@pytest.mark.parametrize(
    ("name", "tokens", "words"),
    [
        (QWEN, 0, "0 is not a context limit; .* write 2 or more"),
        (QWEN, -5, "-5 is not a context limit"),
        (QWEN, 131073, "reads 40,960, or 131,072 with YaRN, factor 4; write 131,072 or less"),
        (LLAMA_2, 8192, "reads 4,096, and neither its config.json nor the catalog has a rope scaling for more"),
    ],
)
def test_a_limit_that_nobody_documents_is_refused(name: str, tokens: int, words: str) -> None:
    with pytest.raises(SpecError, match=words) as error:
        with_max_model_len(load_model(name), tokens)
    assert error.value.where == "--max-model-len"


def test_the_way_out_names_the_flag_only_where_it_helps() -> None:
    model = load_model(QWEN)
    assert way_out(model, 100_000) == "set --max-model-len to 131,072 (with YaRN, factor 4), or shorten the requests"
    assert way_out(model, 200_000) == way_out(load_model(LLAMA_2), 5000) == "shorten the requests"
    lowered = with_max_model_len(load_model(LLAMA_2), 100)
    assert way_out(lowered, 200) == "set --max-model-len to 4,096, or shorten the requests"


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("rope", "tokens"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        ({"type": "yarn", "factor": 4.0}, 16384),
        ({"rope_type": "linear", "factor": 2}, 8192),
        ({"rope_type": "dynamic", "factor": 3.0}, 12288),
        ({"full_attention": {"rope_type": "yarn", "factor": 2.0}, "sliding_attention": {"rope_type": "default"}}, 8192),
    ],
)
def test_rope_scaling_of_the_config_allows_more(rope: Any, tokens: int, key: str) -> None:
    longer = scaled(rope, key).extended_context
    assert longer is not None
    assert longer.tokens == tokens
    assert longer.source == f"config.json: {key}{'.full_attention' if 'full_attention' in rope else ''}"


@pytest.mark.parametrize(
    "rope",
    [
        None,
        "yarn",
        {"rope_type": "default"},
        {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048},  # in max_position_embeddings
        {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0},
        {"rope_type": "yarn", "factor": None},
        {"rope_type": ["yarn"], "factor": 4},
    ],
)
def test_other_rope_allows_no_more(rope: Any) -> None:
    assert scaled(rope).extended_context is None


@pytest.mark.parametrize("factor", ["four", 0, -1, True, 1e300, [4]])
def test_a_factor_that_is_no_number_is_named(factor: Any) -> None:
    with pytest.raises(SpecError, match=r"rope_scaling\.factor: .* is no such number"):
        scaled({"rope_type": "yarn", "factor": factor})


@given(st.integers(2, 131072))
def test_only_the_limit_changes(tokens: int) -> None:
    model = load_model(QWEN)
    limited = with_max_model_len(model, tokens)
    assert limited.max_context == tokens
    assert limited.blocks == model.blocks
    assert context_note(limited)


def test_longer_contexts_of_the_catalog_are_longer_and_of_models_that_are_there() -> None:
    entries = yaml.safe_load((CATALOG / "extended_context.yaml").read_text())
    assert set(entries) <= set(model_names())
    for name in entries:
        model = load_model(name)
        assert model.extended_context is not None
        assert model.extended_context.tokens > model.max_context
        assert model.extended_context.source
