"""Scheduling policies by name, each a combination of traits. A new combination is added here and nowhere else.

The reference (`reference_rank`) and the kernel (`kernel.schedule`) read the traits, never the name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """Traits of a scheduler.

    Parameters
    ----------
    mixes : decodes and prefill chunks share a step, decodes first. If False, prefill has its own steps, before decodes
    finds_scheduled : the prefix cache serves the full blocks of a chunk as soon as the chunk is scheduled, so requests
        of the same step share them. If False, it serves them after the chunk is computed
    preempts_fewest : the sequence with the fewest generated tokens is preempted first; among equals the longest input,
        then the youngest. If False, the youngest of the last priority class
    requeues_first : a preempted request waits at the front of its class. If False, at the end
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
