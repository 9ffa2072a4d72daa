"""Why targets of the accuracy page are missed. The page shows a reason only while its target is missed."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.accuracy.history import Target

REASONS = {
    "TTFT, bursts: median": (
        "One lab. Long prompts of models with experts have 16 %. Dense Qwen3 on its H100 has 0.6 of the predicted "
        "throughput with all three engines (TTFT 50 %). For short prompts (50 %), TTFT is how fast a fresh server "
        "takes 1,000 requests at once; only a fixed time for each request is modelled."
    ),
    "Left-out systems, frontier: throughputs inside the 80 % interval": (
        "An interval counts the models of the other devices and not their throughputs, as the errors of a model are "
        "shared. With five to seven models it is wide: too wide for B200 (91 of 100 inside), H200 and MI355X (98 %). "
        "With throughputs counted, three devices were outside the range, two of them below it."
    ),
}
"""Title of a target -> why it is missed, as far as known on 2026-11-30."""


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
