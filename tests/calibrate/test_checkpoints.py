"""The checkpoint of a measured point."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.calibrate.checkpoints import RECIPES, checkpoint
from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.hf import load_model
from tokenworks.specs.model import parameters, weight_bytes


@pytest.mark.parametrize(
    ("model", "weights", "name"),
    [
        ("deepseek-ai/DeepSeek-R1", "fp8", "deepseek-ai/DeepSeek-R1"),
        ("deepseek-ai/DeepSeek-R1", "fp4", "nvidia/DeepSeek-V3.1-NVFP4"),
        ("MiniMaxAI/MiniMax-M2.5", "fp4", "nvidia/MiniMax-M2.5-NVFP4"),
        ("Qwen/Qwen3-235B-A22B", "fp8", "Qwen/Qwen3-235B-A22B-FP8"),
        ("openai/gpt-oss-120b", "fp4", "openai/gpt-oss-120b"),
        ("deepseek-ai/DeepSeek-V4-Pro", "fp8", "deepseek-ai/DeepSeek-V4-Pro"),
        ("Qwen/Qwen3-32B", "native", "Qwen/Qwen3-32B"),
    ],
)
def test_published_checkpoints_are_found(model: str, weights: str, name: str) -> None:
    assert checkpoint(model, weights).name == name


@given(st.sampled_from(["Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B"]), st.sampled_from(sorted(RECIPES)))
def test_restating_keeps_the_shapes_and_shrinks_the_bytes(name: str, weights: str) -> None:
    own, stored = load_model(name), checkpoint(name, weights)
    assert parameters(stored) == parameters(own)
    assert weight_bytes(stored) <= weight_bytes(own)


def test_what_is_restated_is_assumed() -> None:
    assert any("assumed" in note for note in checkpoint("Qwen/Qwen3-8B", "int8").notes)


def test_what_is_not_known() -> None:
    with pytest.raises(SpecError, match="want one of bf16"):
        checkpoint("Qwen/Qwen3-8B", "fp2")
    with pytest.raises(UnknownName):
        checkpoint("no/such-model", "fp8")
