"""Settings that a search tries for each legal split: token budgets and running sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Floats, Ints
from tokenworks.legal.splits import LEAST_CHUNK

CHUNKS = (LEAST_CHUNK, 2048, 4096, 8192, 16384)  # token budget of one lane (a microbatch of a dp rank) [token]
SEQUENCES = (
    1,
    2,
    4,
    6,
    8,
    12,
    16,
    24,
    32,
    48,
    64,
    96,
    128,
    192,
    256,
    384,
    512,
    768,
    1024,
)  # running sequences of one lane [count]


@dataclass(frozen=True, slots=True)
class Ladders:
    """Settings to try for each split.

    The search also tries one sequence for the whole instance, which gives the fastest user speed.

    Parameters
    ----------
    chunks : token budgets of one lane [token]
    sequences : running sequences of one lane [count]
    """

    chunks: Floats | Ints
    sequences: Ints

    @classmethod
    def default(cls) -> Ladders:
        """The settings that `plan` tries."""
        return cls(np.array(CHUNKS), np.array(SEQUENCES))

    def batches(self, lanes: Ints) -> Floats:
        """Running sequences per instance: float[len(lanes), 1 + len(sequences)]."""
        per_lane = lanes[:, None] * self.sequences[None, :]
        return np.concatenate([np.ones((len(lanes), 1)), per_lane], axis=1)
