"""Histogram of the gaps between output tokens (ITL). A list of all gaps would need more memory than the simulation."""

from __future__ import annotations

import struct

import numpy as np

from tokenworks.arrays import Floats

# Each octave [2^e, 2^(e+1)) has 128 bins of equal width, which is 0.4 % to 0.8 % of the gap. The first octave starts
# at 2^-30 s (1 ns), the last ends at 2^34 s. The number of a bin is the top bits of the double, so it is cheap to find.
ITL_BITS, ITL_OCTAVES, ITL_FIRST = 7, 64, -30
ITL_BINS = ITL_OCTAVES << ITL_BITS
ITL_SHIFT = 52 - ITL_BITS
ITL_BASE = (1023 + ITL_FIRST) << ITL_BITS


def itl_bin(gap_s: float) -> int:
    """Number of the bin that counts a gap of `gap_s` between two output tokens [s]."""
    bits: int = struct.unpack("<q", struct.pack("<d", gap_s))[0]
    return min(max((bits >> ITL_SHIFT) - ITL_BASE, 0), ITL_BINS - 1)


def itl_middle() -> Floats:
    """Gap in the middle of each bin [s]."""
    index = np.arange(ITL_BINS)
    octave = np.exp2((index >> ITL_BITS) + float(ITL_FIRST))
    middle: Floats = octave * (1.0 + ((index & ((1 << ITL_BITS) - 1)) + 0.5) / (1 << ITL_BITS))
    return middle
