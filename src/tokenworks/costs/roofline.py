"""One kernel on one device: the roofline of a GEMM, with the two curves that real kernels add to it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tokenworks.costs.arrays import FloatArray
from tokenworks.errors import SpecError
from tokenworks.specs.model import Format

FALLBACKS = ("bf16", "fp32")  # what weights are dequantised to, best first


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


def gemm_compute_time(
    m: FloatArray, n: FloatArray, k: FloatArray, *, rate: FloatArray, half: FloatArray, groups: FloatArray = 1
) -> FloatArray:
    """Time on the arithmetic roof, with a utilisation that grows with the rows [s].

        t = 2 m n k / (F u(m)),   u(m) = m / (m + h)      =>      t = 2 n k (m + h) / F

    h is the number of rows at which half of the large-m rate is reached, see `half_rate_rows`. The closed form is what
    makes it cheap and monotone. A grouped GEMM of `groups` matrices pays h for each.

    Parameters
    ----------
    m : rows over all groups; n, k : outputs and inputs of one matrix
    rate : achieved at large m, that is peak x large-m utilisation [FLOP/s]
    half : rows at half of it

    References
    ----------
    [1] Hockney, Jesshope, Parallel Computers 2, 1988, section 1.3: r_inf and n_1/2.
    """
    return gemm_flop(m + groups * half, n, k) / rate


def half_rate_rows(rate: FloatArray, hbm: FloatArray, *, weight: FloatArray, unhidden: FloatArray) -> FloatArray:
    """Rows h at which a GEMM reaches half of its large-m rate [row].

        h = c m*,   m* = F w / (2 B)

    m* is the ridge: with that many rows, multiplying takes as long as reading the weights. A kernel does not hide all
    of the reading behind the multiplication: a share c of it shows, as pipeline fill and as tiles that are not full.
    Kernels choose their tiles to the shape, which is why h follows the ridge and is not a number of rows by itself.

    Parameters
    ----------
    rate : achieved at large m [FLOP/s]; hbm : achieved bandwidth [byte/s]; weight : a stored weight [byte]
    unhidden : c [-]
    """
    return unhidden * rate * weight / (2 * hbm)


def kernel_time(compute: FloatArray, read: FloatArray, latency: FloatArray) -> FloatArray:
    """Time of a kernel [s]: the larger of its two roofs, and its latency: t = max(t_compute, bytes / B) + t_kernel.

    References
    ----------
    [1] Williams et al., Roofline, CACM 52(4), 2009, eq. 1.
    """
    return np.maximum(compute, read) + latency
