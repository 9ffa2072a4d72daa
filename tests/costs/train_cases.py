"""Machines and rates that the tests of training share, and the plan of a published run in one line."""

from __future__ import annotations

import dataclasses
import functools
import math

from tests.costs.cases import model, on, perfect
from tokenworks.costs.collectives import LinkRates
from tokenworks.costs.train import TrainStep, train_step
from tokenworks.costs.train_plan import TrainRates, train_rates
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.training_text import load_training

LLAMA_405B, LLAMA_70B = "meta-llama/Meta-Llama-3.1-405B", "meta-llama/Meta-Llama-3.1-70B"
LLAMA_8B = "meta-llama/Meta-Llama-3.1-8B"
DEEPSEEK, QWEN = "deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-30B-A3B"


@functools.cache
def trained(name: str) -> TrainRates:
    """Rates of a catalog machine that trains, by kernel tables and priors alone."""
    return train_rates(on(name), load_calibration("datasheet"))


@functools.cache
def bare(name: str) -> TrainRates:
    """Every utilisation 1, every latency 0, nothing of the host, even load, no reserve: the bare datasheet."""
    return dataclasses.replace(
        trained(name), rates=dataclasses.replace(perfect(on(name)), prefill_flop=on(name).peak["bf16"]),
        fused_experts=1.0, attention_backward=1.0, attention_fp8=1.0, linear_attention=1.0, elementwise=1.0,
        device_spread=0.0, dp_exposed=0.0, tp_exposed=0.0, ep_exposed=0.0, pp_exposed=0.0, host_op=0.0, host_expert=0.0,
        host_step=0.0, skew=0.0, context=0.0, fragments=0.0, box_alpha=None,
    )  # fmt: skip


def without_links(rates: TrainRates) -> TrainRates:
    """The same machine with links that take no time."""
    free = LinkRates(math.inf, math.inf, 0.0, 0.0, 0.0, direct=True, in_switch=False)
    inside = dataclasses.replace(rates.rates, inner=free, outer=free, inner_moe=free, outer_moe=free)
    return dataclasses.replace(rates, rates=inside)


def run(name: str, rates: TrainRates, text: str) -> TrainStep:
    """One step of a model by the short form of a deployment."""
    return train_step(model(name), rates, load_training(text))
