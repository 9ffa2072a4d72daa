"""The array type of the cost functions, and the one helper that they all need."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

# A number or an array; the functions broadcast, and run on pint quantities as well (tests/costs/test_dimensions.py).
FloatArray: TypeAlias = Any
Floats: TypeAlias = NDArray[np.float64]


def ceil_div(count: FloatArray, over: FloatArray) -> FloatArray:
    """How many are in the fullest of `over` equal bins."""
    return np.ceil(count / over)
