"""Machines, rates and models that the cost tests share, and random splits and loads for the laws."""

from __future__ import annotations

import dataclasses
import functools

from hypothesis import strategies as st

from tokenworks.costs.collectives import LinkRates
from tokenworks.costs.rates import Rates, rates
from tokenworks.costs.split import Split
from tokenworks.costs.step import Batch
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.hf import load_model
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model

R1, LLAMA, QWEN = "deepseek-ai/DeepSeek-R1", "meta-llama/Meta-Llama-3.1-70B", "Qwen/Qwen3-30B-A3B"
MODELS = (R1, LLAMA, QWEN, "openai/gpt-oss-120b", "Qwen/Qwen3.5-35B-A3B", "deepseek-ai/DeepSeek-V3.2")
MACHINES = ("scalex40", "5xhgx-h100", "5xhgx-mi300x", "gb200-nvl72", "cloudmatrix384")


@functools.cache
def on(name: str) -> Machine:
    """A catalog machine."""
    return machine(name)


@functools.cache
def achieved(name: str) -> Rates:
    """Rates of a catalog machine, by kernel tables and priors alone."""
    return rates(on(name), load_calibration("datasheet"))


@functools.cache
def model(name: str) -> Model:
    """A catalog model."""
    return load_model(name)


def perfect(hardware: Machine) -> Rates:
    """Every utilisation 1 and every latency 0: the bare datasheet."""
    device_rates = rates(hardware, load_calibration("datasheet"))
    wide = hardware.peak["bf16"]

    def bare(link: LinkRates | None, bandwidth: float, pair: float) -> LinkRates | None:
        return link and dataclasses.replace(link, bandwidth=bandwidth, pair=pair, alpha=0.0, start=0.0, ring=0.0)

    up, out = hardware.scale_up, hardware.scale_out
    inner = bare(device_rates.inner, up.bandwidth, up.pair)
    assert inner is not None
    outer = bare(device_rates.outer, out.bandwidth, out.pair) if out else None
    return dataclasses.replace(
        device_rates,
        gemm=hardware.peak,
        grouped=hardware.peak,
        query=0.0,
        sequence=0.0,
        elementwise=hardware.hbm_bandwidth,
        blockwise={},
        walk=0.0,
        context_walk=0.0,
        expert=0.0,
        hbm=hardware.hbm_bandwidth,
        experts_hbm=hardware.hbm_bandwidth,
        attention_hbm=hardware.hbm_bandwidth,
        prefill_flop=wide,
        decode_flop=wide,
        kernel=0.0,
        attention_start=0.0,
        experts_start=0.0,
        inner=inner,
        outer=outer,
        inner_moe=inner,
        outer_moe=outer,
    )


@st.composite
def splits(draw: st.DrawFn, checkpoint: Model) -> Split:
    """Splits of an instance of up to 40 devices that cover the experts."""
    tp, dp = draw(st.sampled_from([(1, 1), (2, 1), (8, 1), (1, 8), (4, 10), (8, 5), (1, 40), (2, 16)]))
    routed = any(block.experts for block in checkpoint.blocks)
    if not routed:
        dp = 1
    ep = draw(st.sampled_from([d for d in (1, 2, 4, 8, 40) if tp * dp % d == 0])) if routed else 1
    return Split(
        tp=tp,
        pp=draw(st.sampled_from([1, 2])),
        dp=dp,
        ep=ep,
        expert_tp=tp * dp // ep if routed else 1,
        redundant=draw(st.sampled_from([0, 8, 24])) if routed else 0,
        kv_bytes=draw(st.sampled_from([1.0, 2.0])),
        draft_tokens=draw(st.sampled_from([0, 0, 2])) if checkpoint.draft else 0,
    )


loads = st.builds(
    lambda decode, context, prefill, prompt: Batch(decode, decode * context, prefill, prefill * prompt / 2),
    decode=st.sampled_from([0.0, 1.0, 7.0, 64.0, 1000.0]),
    context=st.sampled_from([1.0, 500.0, 4000.0, 120000.0]),
    prefill=st.sampled_from([0.0, 1.0, 100.0, 8192.0]),
    prompt=st.sampled_from([16.0, 4000.0, 100000.0]),
).filter(lambda load: load.decode + load.prefill > 0)
