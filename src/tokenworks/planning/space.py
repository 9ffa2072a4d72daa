"""The settings that a search tries beside each legal split: token budgets and running sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Floats, Ints
from tokenworks.legal.splits import LEAST_CHUNK

CHUNKS = (LEAST_CHUNK, 2048, 4096, 8192, 16384)  # token budget of one lane: a dp rank's microbatch
SEQUENCES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # of one lane


@dataclass(frozen=True, slots=True)
class Ladders:
    """The settings that are tried of each split: token budget and running sequences of one lane.

    A first step of one sequence for the whole instance is added to `sequences`: the fastest that a user can have it.
    """

    chunks: Floats | Ints
    sequences: Ints

    @classmethod
    def default(cls) -> Ladders:
        """What `plan` tries."""
        return cls(np.array(CHUNKS), np.array(SEQUENCES))

    def batches(self, lanes: Ints) -> Floats:
        """Running sequences per instance: float[len(lanes), 1 + len(sequences)]."""
        per_lane = lanes[:, None] * self.sequences[None, :]
        return np.concatenate([np.ones((len(lanes), 1)), per_lane], axis=1)
