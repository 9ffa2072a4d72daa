"""One optimiser step of a training run: its time by part, its FLOP, and the memory of the fullest device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenworks.specs.machine import Assumption


@dataclass(frozen=True, slots=True)
class TrainMemory:
    """Memory of the fullest device, by part [byte].

    Parameters
    ----------
    stage : pipeline stage of the device, counted from 0
    weights, gradients, optimiser : weights, added-up gradients, and states with the copy of the weights
    activations : kept activations of all micro-batches in flight
    logits : logits and their gradient, on the last stage
    buffers : communication buffers
    reserve : context of the driver, and memory lost to fragments
    capacity : memory of the device
    """

    stage: int
    weights: float
    gradients: float
    optimiser: float
    activations: float
    logits: float
    buffers: float
    reserve: float
    capacity: float

    @property
    def total(self) -> float:
        """All parts together [byte]."""
        return (
            self.weights + self.gradients + self.optimiser + self.activations
            + self.logits + self.buffers + self.reserve
        )  # fmt: skip

    @property
    def fits(self) -> bool:
        """True if all parts fit into the device."""
        return self.total <= self.capacity


@dataclass(frozen=True, slots=True)
class TrainStep:
    """The cost of one optimiser step.

    Parameters
    ----------
    step_s : time of the step [s]
    compute_s : compute of the busiest stage by kind: name of a part -> time [s]
    exposed_s : communication that no compute hides: (kind, level) -> time; kinds tp, cp, pp, dp, ep [s]
    hidden_s : communication that runs beside compute: (kind, level) -> time [s]
    bubble_s : time that the busiest stage waits for other stages [s]
    optimiser_s : time of the optimiser [s]
    host_s : time in which the device waits for the host [s]
    model_flop : FLOP that the model needs for the tokens of the step, without recompute, all devices [FLOP]
    flop : FLOP that all devices do, with recompute [FLOP]
    mfu : model_flop / (step_s x devices x 16-bit peak) [-]
    tok_s_per_device : tokens / (step_s x devices) [token/s]
    memory : memory of the fullest device
    power : mean power of one device; None: the device has no published TDP [W]
    joules : energy of all devices; None: the device has no published TDP [J]
    assumed : assumed numbers behind the step
    """

    step_s: float
    compute_s: Mapping[str, float]
    exposed_s: Mapping[tuple[str, str], float]
    hidden_s: Mapping[tuple[str, str], float]
    bubble_s: float
    optimiser_s: float
    host_s: float
    model_flop: float
    flop: float
    mfu: float
    tok_s_per_device: float
    memory: TrainMemory
    power: float | None
    joules: float | None
    assumed: tuple[Assumption, ...] = ()
