"""Engines of the catalog: by which names they are known, and that their habits agree with each other."""

import pytest

from tokenworks.specs.engine import engine_names, find_engine, load_engine


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("sglang", "sglang"),
        ("dynamo-trt", "trtllm"),
        ("TensorRT-LLM", "trtllm"),
        ("atom-disagg", "atom"),
        ("deepseek-internal", "sglang"),
        ("vLLM nightly", "vllm"),
        ("nobody's", "vllm"),
    ],
)
def test_names_that_mean_an_engine(name: str, engine: str) -> None:
    assert find_engine(name).name == engine


def test_no_word_means_two_engines() -> None:
    words = [word for name in engine_names() for word in load_engine(name).aliases]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("name", engine_names())
def test_a_step_mixes_as_its_scheduler_does(name: str) -> None:
    """vLLM's policy puts prefill and decode in one step, SGLang's runs prefill by itself."""
    engine = load_engine(name)
    assert {"vllm": "mixed", "sglang": "prefill-first"}[engine.scheduler] == engine.mixing
    assert engine.expert_layout is None or load_engine(engine.expert_layout.instead).expert_layout is None
