"""Why targets of the accuracy page are missed. The page shows a reason only while its target is missed."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.accuracy.history import Target

REASONS = {
    "TTFT, bursts: median": (
        "One lab. Long prompts of models with experts have 17 %. Dense Qwen3 on its H100 has 0.6 of the predicted "
        "throughput with all three engines (TTFT 50 %). For short prompts (54 %), TTFT is how fast a fresh server "
        "takes 1,000 requests at once; only a fixed time for each request is modelled."
    ),
    "Left-out systems, TPOT: worst median": (
        "MI300X. Without its points, its constants come from MI355X and are 14 % too fast, and most of the factors of "
        "software stacks that MI355X lends make it faster still. Rules of lending with at most 16 % put another "
        "target out of its range."
    ),
    "Left-out systems, frontier: throughputs inside the 80 % interval": (
        "MI300X has 42 throughputs of six software stacks; with so few stacks, chance gives 49 to 84 %. MI355X is wide "
        "because its interval, without its own points, comes from MI300X. B200 is outside by two throughputs of 101. "
        "No rule for the width brings all devices into the range."
    ),
    "Large groups that got worse by more than half a point": (
        "Half of the TTFT points of vLLM are an unfinished experiment, where something in front of the engine limits "
        "the server; the other half is mostly bursts. The median lies in the gap between both. MiniMax-M2.5 in FP4: "
        "the table mixes versions of vLLM that differ by 15 %, and the fit moved towards the other models."
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
