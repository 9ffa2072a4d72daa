"""Time of one kernel on one device: its roofs, and how they combine."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.errors import SpecError
from tokenworks.specs.model import Format

FALLBACKS = ("bf16", "fp32")  # dtypes to which kernels dequantise weights, best first
SPLIT_K = 3300
"""16-bit kernels split a longer k [count]. Fits of the GEMM tables ([2] of `kernel_time`) give 3,170 to 3,250."""


def compute_dtype(form: Format, peak: Mapping[str, float]) -> tuple[str, bool]:
    """The dtype in which a device multiplies weights of a format.

    A device uses the arithmetic of the format if it has it. 4-bit floats need FP4 units, even if the product runs at
    the FP8 rate (MXFP4 weights, FP8 activations). Otherwise the weights stay packed in memory, and the kernel unpacks
    them (W4A16 and W8A16 kernels, such as Marlin): bytes as stored, FLOP at the 16-bit rate.

    Parameters
    ----------
    form : format of the weights
    peak : dtype -> dense peak rate of the device [FLOP/s]

    Returns
    -------
    The dtype, and True if the kernel unpacks the weights first.

    Raises
    ------
    SpecError : the device has neither the dtype of the format nor one of `FALLBACKS`

    References
    ----------
    [1] Frantar et al., MARLIN, arXiv:2408.11743.
    """
    packed = form.bytes < 1 and form.compute in ("fp4", "fp8")
    if form.compute in peak and not (packed and "fp4" not in peak):
        return form.compute, False
    for dtype in FALLBACKS:
        if dtype in peak:
            return dtype, True
    raise SpecError(f"the device has no rate for {form.compute}, nor for {' or '.join(FALLBACKS)} instead")


def gemm_flop(m: FloatArray, n: FloatArray, k: FloatArray) -> FloatArray:
    """Work of an (m, k) x (k, n) matrix product: 2 m n k.

    Parameters
    ----------
    m : rows, tokens of the batch [count]
    n : output features [count]
    k : input features [count]

    Returns
    -------
    Work [FLOP].
    """
    return 2 * m * n * k


def gemm_bytes(
    m: FloatArray, n: FloatArray, k: FloatArray, *, weight: FloatArray, activation: FloatArray
) -> FloatArray:
    """Smallest memory traffic of an (m, k) x (k, n) matrix product: weights, input and output once each.

    Parameters
    ----------
    m : rows, tokens of the batch [count]
    n : output features [count]
    k : input features [count]
    weight : size of a stored weight [byte/element]
    activation : size of an activation [byte/element]

    Returns
    -------
    Traffic [byte].
    """
    return n * k * weight + m * (n + k) * activation


def walk_time(k: FloatArray, walk: FloatArray, *, wide: FloatArray) -> FloatArray:
    """Time that a tile of a GEMM needs to go through its k inputs. It is a third roof: m and n do not change it.

        t = k tau                   for inputs of 8 bits or fewer
        t = 2 min(k, K) tau         for inputs of 16 bits; K is `SPLIT_K`, because kernels split a longer k among tiles

    Parameters
    ----------
    k : input features [count]
    walk : tau, time of a tile per 8-bit element of k [s]
    wide : 1 for inputs of 16 bits, else 0 [-]

    Returns
    -------
    Time [s].

    References
    ----------
    [1] aiconfigurator-core 0.12.0, GEMM tables of B200, FP8, m = 16: 5.9, 7.6, 9.7 and 15.5 us at k of 1,024, 4,096,
        7,168 and 16,384, for every n; BF16: 3.0, 4.6, 5.1 and 5.8.
    """
    return walk * (k + wide * (2 * np.minimum(k, SPLIT_K) - k))


def kernel_time(compute: FloatArray, read: FloatArray, latency: FloatArray, walk: FloatArray = 0.0) -> FloatArray:
    """Time of a kernel: root of the sum of the squared roof times, plus the latency.

        t = sqrt(t_compute^2 + t_read^2 + t_walk^2) + t_kernel

    If one roof is much larger than the others, the time is that roof, as in the roofline model [1]. If two roofs are
    nearly equal, a kernel overlaps them only in part. The mean |log error| over 12,000 GEMMs of H100 and H200 is 0.095,
    against 0.138 with only the largest roof; on B200 and GB200 it is 0.100 against 0.151 [2].

    Parameters
    ----------
    compute : t_compute, FLOP / achieved rate [s]
    read : t_read, bytes / achieved bandwidth [s]
    latency : t_kernel, latency of the kernel [s]
    walk : t_walk, see `walk_time` [s]

    Returns
    -------
    Time [s].

    References
    ----------
    [1] Williams et al., Roofline, CACM 52(4), 2009, eq. 1.
    [2] aiconfigurator-core 0.12.0, GEMM tables, n, k >= 256, m of 1 to 32,768, best kernel.
    """
    return np.sqrt(compute * compute + read * read + walk * walk) + latency
