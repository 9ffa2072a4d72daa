"""Fit: memory that adds up, the fewest devices, and words for what does not fit."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planning.settings import DENSE
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.legal.points import Setting
from tokenworks.planning.fit import READS, Fit, fit, fit_setting
from tokenworks.planning.fit_search import Width
from tokenworks.specs.compose import machine
from tokenworks.specs.deployment import EngineName
from tokenworks.specs.engine import load_engine
from tokenworks.specs.hf import load_model
from tokenworks.specs.load import locate, read_yaml
from tokenworks.specs.workload import Workload


def setting(model: str, on: str) -> Setting:
    return Setting(load_model(model), machine(on), load_engine("vllm"), Workload(name="fit", isl=1, osl=1))


def fitted(model: str, on: str, kv_dtype: str = "bf16") -> Fit:
    return fit_setting(setting(model, on), kv_dtype)


@pytest.mark.parametrize("on", ["scalex40", "5xhgx-h20", "gb200-nvl72"])
def test_memory_adds_up_on_every_width(on: str) -> None:
    for width in fitted("deepseek-ai/DeepSeek-R1", on).widths:
        parts = width.weights + width.activations + width.buffers + width.reserve + width.kv
        assert parts == pytest.approx(width.usable, rel=1e-12)
        assert width.kv > 0
        assert width.role.devices <= machine(on).devices


def test_one_copy_on_all_cards_leaves_more_cache_than_a_copy_a_host() -> None:
    """The weights of DeepSeek-R1 are 0.69 TB; kept once instead of five times they leave room (hardware facts, KV)."""
    by_devices = {width.devices: width for width in fitted("deepseek-ai/DeepSeek-R1", "scalex40").widths}
    assert by_devices[40].kv_tokens > 2.5 * by_devices[8].kv_tokens


def test_a_known_smallest_machine() -> None:
    """DeepSeek-R1 in FP8 (689 GB with scales and BF16 parts) fits 6 x H200 (907 GB), not 8 x H100 (687 GB)."""
    assert fitted("deepseek-ai/DeepSeek-R1", "hgx-h200").smallest.devices == 6
    with pytest.raises(DoesNotFit) as error:
        fitted("deepseek-ai/DeepSeek-R1", "hgx-h100")
    assert "16 of these devices would hold it (--on 2xhgx-h100)" in str(error.value)
    assert "GB more than the engine may take" in str(error.value)
    assert fitted("deepseek-ai/DeepSeek-R1", "2xhgx-h100").smallest.devices == 16


def test_the_fewest_devices_are_found_over_every_count() -> None:
    """689 GB over cards of which an engine takes 139 GB: five are too tight, six hold it."""
    six = [width for width in fitted("deepseek-ai/DeepSeek-R1", "scalex40").widths if width.devices <= 6]
    assert [(width.devices, width.role.parallel.pp > 1) for width in six] == [(6, False), (6, True)]


@pytest.mark.parametrize("times", [1, 3])
def test_the_machine_that_is_advised_holds_the_model(times: int) -> None:
    """A machine without a network is advised with one."""
    on = "hgx-h100" if times == 1 else "pcie-a10"
    model = "deepseek-ai/DeepSeek-R1" if times == 1 else "zai-org/GLM-4.5-Air"
    with pytest.raises(DoesNotFit) as error:
        fitted(model, on)
    match = re.search(r"(\d+) of these devices would hold it.*--on (\S+)\)", str(error.value))
    assert match is not None
    larger = machine(match[2], needs=READS)
    held = fit_setting(dataclasses.replace(setting(model, on), machine=larger), "bf16")
    assert held.smallest.devices == int(match[1])
    assert ("@" in match[2]) == (on == "pcie-a10")


def test_what_is_hopeless_says_so(tmp_path: Path) -> None:
    card = read_yaml(locate("system", "pcie-a10")) | {"devices": 1, "domain": 1, "host": {"devices": 1}}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(DoesNotFit, match=r"16 x \S+card.yaml would not hold it either"):
        fitted("moonshotai/Kimi-K2-Instruct", str(tmp_path / "card.yaml"))


def test_an_fp8_cache_holds_twice_the_tokens() -> None:
    bf16 = fitted("meta-llama/Llama-3.3-70B-Instruct", "hgx-h100", "bf16").best
    fp8 = fitted("meta-llama/Llama-3.3-70B-Instruct", "hgx-h100", "fp8").best
    assert fp8.kv_tokens == pytest.approx(2 * bf16.kv_tokens, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.floats(1.0, 4.0))
def test_more_memory_never_fits_less(factor: float) -> None:
    small = setting("Qwen/Qwen3-30B-A3B", "hgx-a100")
    more = dataclasses.replace(small.machine, hbm_bytes=factor * small.machine.hbm_bytes)
    large = dataclasses.replace(small, machine=more)
    before, after = fit_setting(small, "bf16"), fit_setting(large, "bf16")
    assert after.smallest.devices <= before.smallest.devices
    assert after.best.kv_tokens >= before.best.kv_tokens


def test_no_legal_split_at_all_says_by_which_rule() -> None:
    with pytest.raises(SpecError, match="a100 has no FP8: take kv_dtype=bf16"):
        fit_setting(setting(DENSE, "8xhgx-a100"), "fp8")
    tiny = dataclasses.replace(setting(DENSE, "hgx-h100").model, max_context=1)
    one = Workload(name="fit", isl=1, osl=1)
    with pytest.raises(SpecError, match="isl \\+ osl = 2 tokens, Qwen/Qwen3-32B reads 1"):
        fit_setting(dataclasses.replace(setting(DENSE, "hgx-h100"), model=tiny, workload=one), "bf16")


def cache(fraction: float = 0.9, chunk: int = 8192, tp: int = 1, model: str = "Qwen/Qwen3-8B", **more: Any) -> Width:
    return fit(model, "hgx-h100", deploy=f"tp={tp}", memory_fraction=fraction, chunk=chunk, **more).widths[0]


@settings(max_examples=25, deadline=None)
@given(
    fraction=st.floats(0.4, 0.95),
    chunk=st.integers(512, 20000),
    tp=st.sampled_from([1, 2, 4, 8]),
    engine=st.sampled_from(["vllm", "sglang", "trtllm"]),
    model=st.sampled_from(["Qwen/Qwen3-8B", "openai/gpt-oss-20b", "google/gemma-4-26B-A4B"]),
)
def test_laws_of_the_memory_of_an_engine(fraction: float, chunk: int, tp: int, engine: EngineName, model: str) -> None:
    """More chunk never leaves more cache, a larger share never leaves less, tp never holds more weights a device."""
    fraction = max(fraction, 0.75 if model.startswith("google") else 0.0)
    here = cache(fraction, chunk, tp, model, engine=engine)
    assert cache(fraction, chunk + 1000, tp, model, engine=engine).kv <= here.kv
    assert cache(min(fraction + 0.04, 1.0), chunk, tp, model, engine=engine).kv >= here.kv
    assert tp == 8 or cache(fraction, chunk, 2 * tp, model, engine=engine).weights <= here.weights
    assert here.rank_tokens < float("inf")
    assert here.concurrency * here.rank_tokens > 0


@pytest.mark.parametrize(
    ("model", "on", "asked"),
    [
        ("Qwen/Qwen3-32B", "hgx-h100", {"max_model_len": 40960}),
        ("meta-llama/Meta-Llama-3.1-8B", "pcie-rtx-3090", {"max_model_len": 131072}),
        ("google/gemma-4-26B-A4B", "hgx-a100", {"memory_fraction": 0.6}),
        ("Qwen/Qwen3-30B-A3B", "hgx-h100", {"memory_fraction": 0.5}),
    ],
)
def test_what_the_message_names_does_fit(model: str, on: str, asked: dict[str, Any]) -> None:
    """Each change that the message names is enough, and a little less of it is not."""
    with pytest.raises(DoesNotFit) as error:
        fit(model, on, deploy="tp=1", **asked)
    text = str(error.value)
    length = re.search(r"--max-model-len ([\d,]+)", text.partition("at most")[2])
    share = re.search(r"--memory-fraction (\d\.\d+)", text)
    assert length or share
    if length:
        tokens = int(length[1].replace(",", ""))
        assert fit(model, on, deploy="tp=1", **(asked | {"max_model_len": tokens})).best.concurrency >= 1
        with pytest.raises(DoesNotFit):
            fit(model, on, deploy="tp=1", **(asked | {"max_model_len": tokens + 32}))
    if share:
        assert fit(model, on, deploy="tp=1", **(asked | {"memory_fraction": float(share[1])}))
        with pytest.raises(DoesNotFit):
            fit(model, on, deploy="tp=1", **(asked | {"memory_fraction": float(share[1]) - 0.01}))
    if devices := re.search(r"; (\d+) of these devices would hold it", text):
        rest = {key: value for key, value in asked.items() if key != "memory_fraction"}
        assert fit(model, f"8x{on}@ndr", devices=int(devices[1]), **(rest | asked)).smallest.devices == int(devices[1])


def test_the_longest_request_of_the_model_is_a_note_where_nobody_asked_for_it() -> None:
    answer = fit("meta-llama/Meta-Llama-3.1-8B", "pcie-rtx-3090", deploy="tp=1")
    note = next(note for note in answer.notes if "refuses to start" in note)
    tokens = int(re.findall(r"of ([\d,]+) or less", note)[0].replace(",", ""))
    assert (
        fit("meta-llama/Meta-Llama-3.1-8B", "pcie-rtx-3090", deploy="tp=1", max_model_len=tokens).best.concurrency >= 1
    )


def test_logs_that_the_rules_have_not_seen() -> None:
    """vllm-project/vllm issues 23278 (65.97 GiB of weights, -2.14 GiB of cache, no start) and 27508 (1.71 GiB) with
    gpt-oss-120b on one H100; 33155 (64.38 GiB, Triton); a start-up log of 2026-10, Llama-3.1-8B (460,496 tokens)."""
    name = "openai/gpt-oss-120b"
    with pytest.raises(
        DoesNotFit, match=r"2\.[2-6] GB more than the engine may take; --memory-fraction 0\.93 would do"
    ):
        fit(name, "hgx-h100", deploy="tp=1")
    tight = fit(name, "hgx-h100", deploy="tp=1", memory_fraction=0.95, chunk=1024).best
    assert tight.weights / 2**30 == pytest.approx(65.97, rel=0.003)
    assert tight.kv / 2**30 == pytest.approx(1.71, abs=0.15)
    triton = fit(name, "hgx-h100", deploy="tp=1", memory_fraction=0.95, max_sequences=256,
                 assume={"engine.version": "0.14.1"})  # fmt: skip
    assert triton.best.weights / 2**30 == pytest.approx(64.38, rel=0.005)
    new = fit("meta-llama/Meta-Llama-3.1-8B", "hgx-h100", deploy="tp=1", assume={"engine.version": "0.33"}).best
    assert new.rank_tokens == pytest.approx(460_496, rel=0.01)


def test_settings_of_the_split_count_as_options_do() -> None:
    named = fit("Qwen/Qwen3-8B", "hgx-h100", deploy="tp=2,chunk_tokens=4096,max_sequences=64,memory_fraction=0.8")
    asked = fit("Qwen/Qwen3-8B", "hgx-h100", deploy="tp=2", chunk=4096, max_sequences=64, memory_fraction=0.8)
    assert named.best == asked.best
