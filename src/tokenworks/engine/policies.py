"""Scheduling policies by name, each a combination of traits; the only place to which a new combination is added.

The oracle (`reference_rank`) and the kernel (`kernel.schedule`) look at the traits and never at the name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """What one rank does in a step.

    mixes : decodes and chunks of prefill share a step, decodes first; else what can be prefilled has a step of its own
    finds_scheduled : the full blocks of a chunk can be found as soon as the chunk is scheduled, so that the next
        request of the same step shares them; else once the chunk is computed
    preempts_fewest : the sequence with the fewest generated tokens is preempted first, then the longest input, then the
        youngest; else the last of the last class
    requeues_first : a preempted request waits before all others of its class; else behind them
    """

    mixes: bool
    finds_scheduled: bool
    preempts_fewest: bool
    requeues_first: bool


POLICIES = {
    # vLLM 0.19, v1/core/sched/scheduler.py
    "vllm": Policy(mixes=True, finds_scheduled=True, preempts_fewest=False, requeues_first=True),
    # SGLang 0.5, srt/managers/schedule_policy.py and schedule_batch.py (retract_decode)
    "sglang": Policy(mixes=False, finds_scheduled=False, preempts_fewest=True, requeues_first=False),
}
