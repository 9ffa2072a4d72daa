"""The types of arrays that all rooms share, and the one helper that all cost functions need."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# Arrays of floats, of whole numbers of any width, and of truth values.
Floats: TypeAlias = NDArray[np.floating]
Ints: TypeAlias = NDArray[np.integer]
Bools: TypeAlias = NDArray[np.bool_]

# A number or an array, whole numbers among them: what a formula takes and gives, since all formulas broadcast.
FloatArray: TypeAlias = float | Floats | Ints


def ceil_div(count: FloatArray, over: FloatArray) -> FloatArray:
    """How many are in the fullest of `over` equal bins."""
    fullest: FloatArray = np.ceil(count / over)
    return fullest
