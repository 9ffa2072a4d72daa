"""Gaps between output tokens, counted in bins as they happen: a list of them would be longer than all else."""

from __future__ import annotations

import struct

import numpy as np

from tokenworks.arrays import Floats

# A bin of the ITL histogram is one of 128 equal parts of an octave [2^e, 2^(e+1)), 0.4 % to 0.8 % wide; the first
# octave starts at 2^-30 s (1 ns), the last ends at 2^34 s. The top bits of a double say it, so it costs nothing.
ITL_BITS, ITL_OCTAVES, ITL_FIRST = 7, 64, -30
ITL_BINS = ITL_OCTAVES << ITL_BITS
ITL_SHIFT = 52 - ITL_BITS
ITL_BASE = (1023 + ITL_FIRST) << ITL_BITS


def itl_bin(gap_s: float) -> int:
    """Bin of a gap between two output tokens [s]."""
    bits: int = struct.unpack("<q", struct.pack("<d", gap_s))[0]
    return min(max((bits >> ITL_SHIFT) - ITL_BASE, 0), ITL_BINS - 1)


def itl_middle() -> Floats:
    """Middle of each bin [s]."""
    index = np.arange(ITL_BINS)
    octave = np.exp2((index >> ITL_BITS) + float(ITL_FIRST))
    middle: Floats = octave * (1.0 + ((index & ((1 << ITL_BITS) - 1)) + 0.5) / (1 << ITL_BITS))
    return middle
