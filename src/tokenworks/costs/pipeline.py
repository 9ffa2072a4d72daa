"""Schedules of a training pipeline: the idle time of a stage, and the micro-batches that it holds in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray


@dataclass(frozen=True, slots=True)
class StagePass:
    """Times of one micro-batch on one pipeline stage.

    Parameters
    ----------
    forward : forward pass [s]
    backward : gradients of activations, with recompute [s]
    weights : gradients of weights [s]
    """

    forward: FloatArray
    backward: FloatArray
    weights: FloatArray

    @property
    def seconds(self) -> FloatArray:
        """Forward and backward pass together [s]."""
        return self.forward + self.backward + self.weights


@dataclass(frozen=True, slots=True)
class Schedule:
    """A pipeline schedule.

    Parameters
    ----------
    bubble : function from (stages, virtual stages, pass of a stage) to the idle time of a step [s]
    flying : function from (stages, virtual stages, micro-batches, stage) to the micro-batches whose activations a stage
        holds at most [count]
    paired : True if a device holds two stages, one from each end of the pipeline, and runs half of the micro-batches
        through each
    """

    bubble: Callable[[FloatArray, FloatArray, StagePass], FloatArray]
    flying: Callable[[FloatArray, FloatArray, FloatArray, FloatArray], FloatArray]
    paired: bool = False


def one_forward_one_backward(stages: FloatArray, chunks: FloatArray, passed: StagePass) -> FloatArray:
    """Idle time of 1F1B and of its interleaved form: (p - 1) (F + B + W) / v.

    Parameters
    ----------
    stages : p, pipeline stages [count]
    chunks : v, virtual stages of each stage [count]
    passed : F, B and W, pass of one micro-batch through a stage

    Returns
    -------
    Idle time of a step [s].

    References
    ----------
    [1] Narayanan et al., Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM,
        arXiv:2104.04473, section 2.2.
    """
    return (stages - 1) * passed.seconds / chunks


def zero_bubble(stages: FloatArray, chunks: FloatArray, passed: StagePass) -> FloatArray:  # noqa: ARG001 (one form)
    """Idle time of the zero-bubble schedule ZB-H1, with the memory of 1F1B: (p - 1) (F + B - W).

    Parameters
    ----------
    stages : p, pipeline stages [count]
    chunks : virtual stages, not used [count]
    passed : F, B and W, pass of one micro-batch through a stage

    Returns
    -------
    Idle time of a step, at least 0 [s].

    References
    ----------
    [1] Qi et al., Zero Bubble Pipeline Parallelism, arXiv:2401.10241, table 1.
    """
    return (stages - 1) * np.maximum(passed.forward + passed.backward - passed.weights, 0.0)


def dual_pipe(stages: FloatArray, chunks: FloatArray, passed: StagePass) -> FloatArray:  # noqa: ARG001 (one form)
    """Idle time of DualPipe, which feeds micro-batches from both ends: (p / 2 - 1) (F&B + B - 3 W).

    F&B is a forward and a backward pass that run together: F + B + W here, as their communication is hidden apart. B of
    the formula is the whole backward pass.

    Parameters
    ----------
    stages : p, pipeline stages [count]
    chunks : virtual stages, not used [count]
    passed : F, B and W, pass of one micro-batch through a stage

    Returns
    -------
    Idle time of a step, at least 0 [s].

    References
    ----------
    [1] DeepSeek-V3, arXiv:2412.19437, table 2.
    """
    whole = passed.backward + passed.weights
    return np.maximum(stages / 2 - 1, 0.0) * np.maximum(passed.seconds + whole - 3 * passed.weights, 0.0)


def early_flying(stages: FloatArray, chunks: FloatArray, batches: FloatArray, stage: FloatArray) -> FloatArray:
    """Micro-batches in flight of 1F1B and of its interleaved form, in units of all layers of a stage.

    Stage i of 1F1B holds p - i micro-batches. With v chunks, it holds 2 (p - i - 1) + (v - 1) p + 1 passes of a chunk.

    Parameters
    ----------
    stages : p, pipeline stages [count]
    chunks : v, virtual stages of each stage [count]
    batches : micro-batches of a step, an upper bound [count]
    stage : i, position of the stage, from 0 [count]

    Returns
    -------
    Micro-batches [count].

    References
    ----------
    [1] Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, arXiv:2205.05198,
        section 4.2.3: the first stage holds L (1 + (p - 1) / (p v)) layers.
    """
    interleaved = (2 * (stages - stage - 1) + (chunks - 1) * stages + 1) / chunks
    return np.minimum(np.where(chunks > 1, interleaved, stages - stage), batches)


def _all_flying(stages: FloatArray, chunks: FloatArray, batches: FloatArray, stage: FloatArray) -> FloatArray:  # noqa: ARG001 (a policy takes all)
    """GPipe holds all micro-batches (Huang et al., arXiv:1811.06965, section 2.3)."""
    return batches * 1.0


def _dual_flying(stages: FloatArray, chunks: FloatArray, batches: FloatArray, stage: FloatArray) -> FloatArray:  # noqa: ARG001 (a policy takes all)
    """DualPipe holds p + 1 micro-batches on each device, of both directions (arXiv:2412.19437, table 2)."""
    return np.minimum(stages + 1, batches) * 1.0


SCHEDULES: dict[str, Schedule] = {
    "1f1b": Schedule(one_forward_one_backward, early_flying),
    "interleaved": Schedule(one_forward_one_backward, early_flying),
    "zero-bubble": Schedule(zero_bubble, early_flying),
    "dualpipe": Schedule(dual_pipe, _dual_flying, paired=True),
    "gpipe": Schedule(one_forward_one_backward, _all_flying),
}
"""Name of a schedule -> its idle time and its memory."""
