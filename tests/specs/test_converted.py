"""Weights converted for a device: DeepSeek-R1 in INT8 on the BW1000, which serves no FP8 checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

import tokenworks
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.specs.compose import machine
from tokenworks.specs.converted import converted_for
from tokenworks.specs.device import Checkpoint
from tokenworks.specs.hf import load_model
from tokenworks.specs.model import weight_bytes, weight_formats

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = ("bw1000-low.yaml", "bw1000.yaml", "bw1000-high.yaml")


def test_fp8_weights_become_int8_on_the_bw1000_and_stay_fp8_elsewhere() -> None:
    model = load_model("deepseek-ai/DeepSeek-R1")
    served = converted_for(model, machine("bw1000-8", assume=EXAMPLES / "bw1000.yaml"))
    assert set(weight_formats(model)) - {"bf16", "fp32"} == {"fp8-block"}
    assert set(weight_formats(served)) - {"bf16", "fp32"} == {"int8"}
    assert weight_bytes(served) == pytest.approx(weight_bytes(model), rel=0.001)
    assert "converted to INT8" in served.converted
    assert converted_for(model, machine("hgx-a100")) is model


def test_other_formats_stay_as_published() -> None:
    model = load_model("Qwen/Qwen3-8B")
    assert converted_for(model, machine("bw1000-8", assume=EXAMPLES / "bw1000.yaml")) is model


def test_one_server_does_not_hold_r1_and_the_message_names_int8_and_what_holds_it() -> None:
    words = r"DeepSeek-R1 with INT8 weights does not fit bw1000-8: .* \(--on 2xbw1000-8\)"
    with pytest.raises(DoesNotFit, match=words):
        tokenworks.fit("deepseek-ai/DeepSeek-R1", "bw1000-8", assume=EXAMPLES / "bw1000.yaml")


def test_low_middle_and_high_links_are_in_this_order_and_a_plan_says_int8() -> None:
    on = "5xbw1000-8@roce400"
    links = [machine(on, assume=EXAMPLES / name) for name in FILES]
    rates = [one.scale_up.bandwidth for one in links]
    assert rates == sorted(set(rates))
    ports = [one.scale_out.bandwidth for one in links if one.scale_out]
    assert len(ports) == 3
    assert ports == sorted(ports)
    plan = tokenworks.plan(
        "deepseek-ai/DeepSeek-R1", on, workload="chat", assume=EXAMPLES / FILES[1], simulate=False, top=1
    )
    assert any("converted to INT8" in note for note in plan.notes)


def test_only_int8_can_take_the_place_of_fp8() -> None:
    with pytest.raises(SpecError, match="is not one of 'int8'"):
        Checkpoint(value="int4", status="published", source="a page")
