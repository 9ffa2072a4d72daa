"""Weights as kernels hold them: sums by hand."""

import pytest

from tests.costs.cases import R1, model
from tokenworks.costs.split import Split
from tokenworks.costs.weights import weight_bytes
from tokenworks.specs.engine import load_engine

VLLM, SGLANG = load_engine("vllm"), load_engine("sglang")
GPT, PRO = "openai/gpt-oss-20b", "deepseek-ai/DeepSeek-V4-Pro"


def experts(name: str) -> float:
    return sum(b.count * m.stored for b in model(name).blocks for m in b.matrices if m.part == "experts")


def test_mxfp4_is_padded_to_the_tiles_of_marlin() -> None:
    """gpt-oss-20b: 2,880 inner becomes 2,944 (of 128), 2,880 hidden becomes 3,072 (of 256); vLLM prints 13.72 GiB."""
    stored = weight_bytes(model(GPT), Split())
    held = weight_bytes(model(GPT), Split(), engine=VLLM, family="nvidia-ampere")
    assert held - stored == pytest.approx(experts(GPT) * (2944 * 3072 / 2880**2 - 1))
    assert held / 2**30 == pytest.approx(13.72, rel=0.01)


def test_tensor_parallelism_pads_the_slice_of_each_device() -> None:
    """2,880 / 8 = 360 becomes 384."""
    split = Split(tp=8, expert_tp=8)
    held = weight_bytes(model(GPT), split, engine=VLLM, family="nvidia-hopper")
    assert held - weight_bytes(model(GPT), split) == pytest.approx(
        experts(GPT) / 8 * (384 * 3072 / (360 * 2880) - 1), rel=1e-6
    )


def test_the_loaders_scales_stay_beside_mixed_checkpoints_on_hopper() -> None:
    """DeepSeek-V4-Pro on 8 x H200: SGLang printed 125.65 GiB (InferenceX issue 2128); 0.5.16 frees the scales."""
    split = Split(tp=8, expert_tp=8)
    held = weight_bytes(model(PRO), split, engine=SGLANG, family="nvidia-hopper")
    assert held / 2**30 == pytest.approx(125.65, rel=0.01)
    later = load_engine("sglang", assume={"engine.version": "0.5.16"})
    freed = held - weight_bytes(model(PRO), split, engine=later, family="nvidia-hopper")
    assert freed == pytest.approx(experts(PRO) / 8 * 0.125 / 0.53125)
    assert weight_bytes(model(PRO), split, engine=SGLANG, family="nvidia-blackwell") == pytest.approx(
        weight_bytes(model(PRO), split), rel=1e-3
    )


def test_plain_checkpoints_are_held_as_they_are_stored() -> None:
    assert weight_bytes(model(R1), Split(tp=8, expert_tp=8), engine=VLLM, family="nvidia-hopper") == weight_bytes(
        model(R1), Split(tp=8, expert_tp=8)
    )


def test_vision_towers_are_loaded() -> None:
    name = "google/gemma-4-26B-A4B"
    tower = weight_bytes(model(name), Split(), engine=VLLM, family="nvidia-ampere") - weight_bytes(model(name), Split())
    assert tower == 2.0 * (model(name).vision_parameters or 0) > 1e9
