"""Memory as engines print it at their start: `../shared/cases/memory.csv`, with the settings that its sources name."""

import csv
import dataclasses
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tokenworks.errors import DoesNotFit
from tokenworks.planning.fit import fit
from tokenworks.planning.fit_search import Width
from tokenworks.specs.deployment import EngineName

LOGS = Path(__file__).parents[3] / "shared" / "cases" / "memory.csv"
GIB = 2**30
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "rope_theta": 1e4, "tie_word_embeddings": False, "num_attention_heads": 32, "vocab_size": 32000,
}  # fmt: skip
LLAMA_2_7B = LLAMA | {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
}  # fmt: skip
CODELLAMA_34B = LLAMA | {
    "hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 48, "num_attention_heads": 64,
    "num_key_value_heads": 8, "max_position_embeddings": 16384,
}  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """How a row was run; what is None or empty is the default of the engine."""

    model: str | dict[str, object]
    on: str
    deploy: str = "tp=1"
    engine: EngineName = "vllm"
    fraction: float | None = 0.9
    chunk: int | None = None
    sequences: int | None = None
    length: int | None = None
    kv_dtype: str = "native"
    numbers: dict[str, str] = field(default_factory=dict)

    def width(self) -> Width:
        """The memory as we compute it."""
        answer = fit(
            self.model, self.on, deploy=self.deploy, engine=self.engine, memory_fraction=self.fraction,
            chunk=self.chunk, max_sequences=self.sequences, max_model_len=self.length, assume=self.numbers or None,
            kv_dtype=self.kv_dtype,  # type: ignore[arg-type]
        )  # fmt: skip
        return answer.widths[0]


GEMMA, QWEN, BIG = "google/gemma-4-26B-A4B", "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-235B-A22B-FP8"
KNOWN = {
    "m02": Setup("Qwen/Qwen2.5-7B-Instruct", "hgx-h100", chunk=4096, sequences=128),  # the data set has 128 sequences
    "m03": Setup(LLAMA_2_7B, "hgx-h100", chunk=4096, sequences=128),
    "m04": Setup(CODELLAMA_34B, "hgx-h100", chunk=4096, sequences=128),
    "m06": Setup("meta-llama/Meta-Llama-3.1-8B", "pcie-rtx-3090", chunk=20000),
    "m10": Setup(QWEN, "hgx-mi355x", engine="sglang", fraction=0.911),
    "m11": Setup("openai/gpt-oss-20b", "hgx-a100", fraction=0.65, numbers={"engine.version": "0.19"}),
    "m12": Setup(GEMMA, "hgx-a100", numbers={"engine.version": "0.19"}),
    "m13": Setup(BIG, "hgx-h100", deploy="tp=4"),
    "m14": Setup(BIG, "hgx-h100", deploy="tp=4", engine="sglang", fraction=0.93),
    "m15": Setup("deepseek-ai/DeepSeek-V4-Flash", "hgx-h20", deploy="tp=2,draft_tokens=1", fraction=0.95,
                 length=121_344, numbers={"engine.version": "0.26"}),
}  # fmt: skip
"""Rows whose set-up the source names; m16 is the one that did not start."""

WEIGHTS_ONLY = {
    "m01": Setup("meta-llama/Meta-Llama-3.1-8B", "hgx-h100"),
    "m09": Setup(QWEN, "hgx-h100", deploy="tp=4"),
}

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def logs() -> dict[str, dict[str, str]]:
    if not LOGS.exists():
        pytest.skip(f"{LOGS} is not here")
    with LOGS.open(encoding="utf-8") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_weights_are_those_of_the_logs(logs: dict[str, dict[str, str]]) -> None:
    for case, setup in (KNOWN | WEIGHTS_ONLY).items():
        if printed := logs[case]["theirs_weights_gib_per_device"]:
            assert setup.width().weights / GIB == pytest.approx(float(printed), rel=0.01), case


@pytest.mark.parametrize("defaults", [False, True])
def test_the_cache_is_that_of_the_logs(defaults: bool, logs: dict[str, dict[str, str]]) -> None:
    """With the set-up of the source; and with the row alone, where nobody tells us sequences and version."""
    errors = {}
    for case, setup in KNOWN.items():
        bare = dataclasses.replace(setup, sequences=None, numbers={})
        used = bare if defaults and case != "m15" else setup
        printed = float(logs[case]["theirs_kv_gib_per_device"])
        errors[case] = abs(used.width().kv / GIB / printed - 1)
    assert max(errors.values()) < 0.15, errors
    assert statistics.median(errors.values()) < 0.05, errors


def test_the_tokens_are_those_of_the_logs(logs: dict[str, dict[str, str]]) -> None:
    for case, setup in KNOWN.items():
        if printed := logs[case]["theirs_kv_tokens"]:
            assert setup.width().rank_tokens == pytest.approx(float(printed), rel=0.15), case


def test_what_did_not_start_does_not_fit(logs: dict[str, dict[str, str]]) -> None:
    """DeepSeek-V4-Pro on 8 x H200 under SGLang with 0.88; SGLang named 0.9113 as the least share."""
    assert "no room" in logs["m16"]["theirs_kv_gib_per_device"]
    setup = Setup("deepseek-ai/DeepSeek-V4-Pro", "hgx-h200", deploy="tp=8", engine="sglang", fraction=0.88)
    with pytest.raises(DoesNotFit, match=r"--memory-fraction 0\.91 would do"):
        setup.width()
