"""One kernel on one device: its roofs, and how they meet."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.errors import SpecError
from tokenworks.specs.model import Format

FALLBACKS = ("bf16", "fp32")  # what weights are dequantised to, best first
SPLIT_K = 3300  # inputs beyond which kernels of 16 bits split them: fits of [2] of `kernel_time` give 3,170 to 3,250


def compute_dtype(form: Format, peak: Mapping[str, float]) -> tuple[str, bool]:
    """In what a device multiplies weights of a format, and whether it dequantises them first.

    The format's own arithmetic where the device has it; a float of 4 bits needs FP4 units even where its product runs
    at the FP8 rate (MXFP4 weights, FP8 activations). Otherwise the weights stay packed in memory and are unpacked in
    the kernel (W4A16 and W8A16 kernels, such as Marlin's): bytes as stored, FLOP at the 16-bit rate.

    Parameters
    ----------
    peak : dense rate of each dtype that the device has [FLOP/s]
    """
    packed = form.bytes < 1 and form.compute in ("fp4", "fp8")
    if form.compute in peak and not (packed and "fp4" not in peak):
        return form.compute, False
    for dtype in FALLBACKS:
        if dtype in peak:
            return dtype, True
    raise SpecError(f"the device has no rate for {form.compute}, nor one of {', '.join(FALLBACKS)} to fall back to")


def gemm_flop(m: FloatArray, n: FloatArray, k: FloatArray) -> FloatArray:
    """Work of an (m, k) x (k, n) product: 2 m n k [FLOP]."""
    return 2 * m * n * k


def gemm_bytes(
    m: FloatArray, n: FloatArray, k: FloatArray, *, weight: FloatArray, activation: FloatArray
) -> FloatArray:
    """Least traffic of an (m, k) x (k, n) product: weights once, input once, output once [byte].

    Parameters
    ----------
    weight, activation : size of a stored weight and of an activation [byte/element]
    """
    return n * k * weight + m * (n + k) * activation


def walk_time(k: FloatArray, walk: FloatArray, *, wide: FloatArray) -> FloatArray:
    """Time in which a tile of a GEMM goes along its inputs [s]: a third roof, which neither rows nor outputs change.

        t = k tau                   where the input has 8 bits or fewer
        t = 2 min(k, K) tau         where it has 16, and kernels split a long k among tiles

    Parameters
    ----------
    k : inputs of the matrix; walk : tau [s]; wide : 1 where the input has 16 bits, else 0

    References
    ----------
    [1] aiconfigurator-core 0.12.0, GEMM tables of B200, FP8, m = 16: 5.9, 7.6, 9.7 and 15.5 us at k of 1,024, 4,096,
        7,168 and 16,384, whatever n; BF16: 3.0, 4.6, 5.1 and 5.8.
    """
    return walk * (k + wide * (2 * np.minimum(k, SPLIT_K) - k))


def kernel_time(compute: FloatArray, read: FloatArray, latency: FloatArray, walk: FloatArray = 0.0) -> FloatArray:
    """Time of a kernel [s]: the root of the sum of squares of its roofs, and its latency.

        t = sqrt(t_compute^2 + (bytes / B)^2 + t_walk^2) + t_kernel

    Where one roof is far above the others it is the time, as in the roofline [1]; where two meet, a kernel hides one
    behind the other only in part. The mean |log error| over 12,000 GEMMs of H100 and H200 is 0.095, with the largest
    roof alone 0.138; of B200 and GB200 0.100 and 0.151 [2].

    References
    ----------
    [1] Williams et al., Roofline, CACM 52(4), 2009, eq. 1.
    [2] aiconfigurator-core 0.12.0, GEMM tables, n, k >= 256, m of 1 to 32,768, best kernel.
    """
    return np.sqrt(compute * compute + read * read + walk * walk) + latency
