"""Why targets of the accuracy page are missed. The page shows a reason only while its target is missed."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.accuracy.history import Target

FEW = (
    "MI300X has points of six software stacks. Two of them (vLLM with DeepSeek-V4-Pro, SGLang with DeepSeek-R1; 44 of "
    "200 points) are outside nearly as a whole. With so few stacks, chance gives 49 to 84 %. No rule for the width "
    "brings all devices into the range."
)

REASONS = {
    "TTFT, bursts: median": (
        "One lab. Long prompts of models with experts have 17 %. Dense Qwen3 on its H100 has 0.6 of the predicted "
        "throughput with all three engines (TTFT 50 %). For short prompts (54 %), TTFT is how fast a fresh server "
        "takes 1,000 requests at once; only a fixed time for each request is modelled."
    ),
    "Left-out systems, TPOT: median of the medians": (
        "GB200 has +10 %; most likely its servers ran newer versions of TensorRT-LLM than those of other devices."
    ),
    "Left-out systems, TPOT: points inside the 80 % interval": FEW,
    "Left-out systems, frontier: throughputs inside the 80 % interval": (
        "As for TPOT. MI355X is wide because its interval, without its own points, comes from MI300X."
    ),
    "Large groups that got worse by more than half a point": (
        "The groups share constants: what made others better moved these."
    ),
}
"""Title of a target -> why it is missed, as far as known on 2026-11-29."""


def reasons(missed: Iterable[Target]) -> str:
    """A list of the reasons of missed targets; "" without any.

    Parameters
    ----------
    missed : the missed targets
    """
    told = [f"- {one.what}. {REASONS[one.what]}" for one in missed if one.what in REASONS]
    if not told:
        return ""
    return "\nWhy targets are missed:\n\n" + "\n".join(told) + "\n"
