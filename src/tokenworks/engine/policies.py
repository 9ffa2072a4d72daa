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
    mixes : the scheduler and the prefix cache of vLLM. Decodes and prefill chunks share a step, decodes first.
        Admission needs room for the prompt only. Blocks are cached and evicted one by one, and a request finds the full
        blocks of a chunk as soon as the chunk is scheduled. If False, the scheduler and the prefix cache of SGLang.
        Prefill has steps of its own, before decodes. Admission also needs room for output (`Reserve`), and after a
        refusal it waits until a sequence has left. The cache is a radix tree. A node of the tree holds blocks that were
        stored or found together, and is evicted as a whole. The tree gets the full blocks of a chunk when the chunk is
        computed; blocks that the tree has already are freed then. A preempted sequence leaves only its prefill in the
        tree
    preempts_fewest : the sequence with the fewest generated tokens is preempted first; among equals the longest input,
        then the youngest. If False, the youngest of the last priority class
    requeues_first : a preempted request waits at the front of its class. If False, at the end
    """

    mixes: bool
    preempts_fewest: bool
    requeues_first: bool


POLICIES = {
    # vLLM 0.19, v1/core/sched/scheduler.py
    "vllm": Policy(mixes=True, preempts_fewest=False, requeues_first=True),
    # SGLang 0.5.23, srt/managers/schedule_policy.py and schedule_batch.py (retract_decode)
    "sglang": Policy(mixes=False, preempts_fewest=True, requeues_first=False),
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
    generated : tokens that the remaining sequences have generated so far [token]
    output : tokens that the remaining sequences will have generated at their ends [token]
    sequences : number of remaining sequences
    """
    return min(1.0, (generated + RETRACT_TOKENS * sequences) / (output + 1))
