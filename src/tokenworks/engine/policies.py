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
    tree : the prefix cache is a radix tree. A node of the tree holds the blocks that were stored together, or that one
        lookup found together, and is evicted as a whole. A computed block that the tree has already is freed at once.
        A preempted sequence leaves only its prefill in the tree. If False, blocks are cached and evicted one by one
    reserves : admission keeps room for the output of running and of new sequences (`Reserve`), and after a refusal it
        waits until a sequence has left. If False, admission needs room for the prompt only
    """

    mixes: bool
    finds_scheduled: bool
    preempts_fewest: bool
    requeues_first: bool
    tree: bool
    reserves: bool


POLICIES = {
    # vLLM 0.19, v1/core/sched/scheduler.py
    "vllm": Policy(
        mixes=True, finds_scheduled=True, preempts_fewest=False, requeues_first=True, tree=False, reserves=False
    ),
    # SGLang 0.5, srt/managers/schedule_policy.py and schedule_batch.py (retract_decode)
    "sglang": Policy(
        mixes=False, finds_scheduled=False, preempts_fewest=True, requeues_first=False, tree=True, reserves=True
    ),
}

MOST_RESERVED = 4096
"""Output tokens that admission expects of a sequence at most (SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION) [token]."""
RETRACT_TOKENS = 20
"""Tokens per remaining sequence for which a preemption makes room (SGLANG_RETRACT_DECODE_STEPS) [token]."""
TOUCH_PASSES, MOST_TOUCHED = 32, 128
"""In one of so many admissions, the cached prefixes of so many waiting requests count as used (schedule_policy.py)."""


@dataclass(frozen=True)
class Reserve:
    """Share of the output to come that admission keeps free (SGLang: new_token_ratio_tracker.py).

    The share starts at `first`. Each decode step without preemption lowers it by `decay`, down to `least`. After a
    preemption it becomes the share of the output that the remaining sequences have generated (`after_preemption`). An
    idle instance starts again at `first`.

    Parameters
    ----------
    first : share at the start [-]
    """

    first: float

    @property
    def least(self) -> float:
        """Lowest share (SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR 0.14) [-]."""
        return self.first * 0.14

    @property
    def decay(self) -> float:
        """Decrease of the share in a decode step (SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS 600) [-]."""
        return (self.first - self.least) / 600

    def after(self, share: float, steps: int) -> float:
        """Share after `steps` decode steps without preemption."""
        return share if steps <= 0 else max(share - steps * self.decay, self.least)


def after_preemption(generated: int, output: int, sequences: int) -> float:
    """Share that admission keeps free after a preemption.

    Parameters
    ----------
    generated, output : tokens that the remaining sequences have generated, and will have generated at their ends [token]
    sequences : number of remaining sequences
    """
    return min(1.0, (generated + RETRACT_TOKENS * sequences) / (output + 1))
