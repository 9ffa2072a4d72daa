"""Single kernels that a serving step and a training step share: matrix products and causal attention."""

from __future__ import annotations

from tokenworks.arrays import FloatArray
from tokenworks.costs import attention, roofline
from tokenworks.costs.breakdown import COMPUTE, HBM, LATENCY, Kernel
from tokenworks.costs.rates import Rates
from tokenworks.specs.model import Scan

ACTIVATION = 2.0  # bf16 [byte/element]
NARROW = ("fp4", "fp8", "int8")  # a GEMM of these dtypes needs quantised activations


def product(
    rates: Rates, dtype: str, rows: FloatArray, shape: tuple[FloatArray, FloatArray], *, weight: float, quantised: int
) -> Kernel:
    """Cost of a matrix product with a weight: rows x inputs times inputs x outputs.

    Parameters
    ----------
    rates : achieved rates of the machine
    dtype : dtype of the multiplication
    rows : m, rows of the product [count]
    shape : n and k of the product, outputs and inputs [count, count]
    weight : size of an element of the weight [byte/element]
    quantised : 1 if the input is quantised first, by one more kernel, else 0

    Returns
    -------
    Cost on one device, see `roofline.kernel_time`.
    """
    outputs, inputs = shape
    traffic = roofline.gemm_bytes(rows, outputs, inputs, weight=weight, activation=ACTIVATION)
    traffic = traffic + quantised * rows * inputs * ACTIVATION
    flop = roofline.gemm_flop(rows, outputs, inputs)
    walk = roofline.walk_time(inputs, rates.walk, wide=1 - quantised)
    return roof(flop, traffic, flop / rates.gemm[dtype], traffic / rates.hbm, (1 + quantised) * rates.kernel, walk=walk)


def grouped_product(
    achieved: tuple[float, float], rows: FloatArray, touched: FloatArray, shape: tuple[FloatArray, FloatArray], *,
    weight: float, quantised: int,
) -> Kernel:  # fmt: skip
    """Cost of a grouped matrix product: the rows of each expert times its own weight, without latency.

    Parameters
    ----------
    achieved : rates of grouped products and of memory [FLOP/s, byte/s]
    rows : rows of all experts together [count]
    touched : experts with at least one row, whose weights are read [count]
    shape : outputs and inputs of one expert [count, count]
    weight : size of an element of a weight [byte/element]
    quantised : 1 if the input is quantised first, else 0

    Returns
    -------
    Cost on one device, see `roofline.kernel_time`.
    """
    (flop_rate, hbm), (outputs, inputs) = achieved, shape
    traffic = touched * outputs * inputs * weight
    traffic = traffic + rows * (outputs + inputs * (1 + quantised)) * ACTIVATION
    flop = roofline.gemm_flop(rows, outputs, inputs)
    return roof(flop, traffic, flop / flop_rate, traffic / hbm, 0.0)


def causal_part(
    scan: Scan, rates: Rates, tokens: FloatArray, token_context: FloatArray, *, tp: FloatArray, kv_bytes: FloatArray,
    latency: FloatArray, flop_rate: FloatArray, times_work: float = 1.0,
) -> Kernel:  # fmt: skip
    """Cost of causal attention of many queries, one layer. A query costs as much as `rates.query` additional entries.

    Parameters
    ----------
    scan : the pass over the keys and values
    rates : achieved rates of the machine
    tokens : queries on the device [token]
    token_context : sum over the queries of the context that each one sees [token^2]
    tp : tensor-parallel width [count]
    kv_bytes : size of an element of keys and values [byte/element]
    latency : latency of the kernels [s]
    flop_rate : rate of the products [FLOP/s]
    times_work : work and traffic / those of a forward pass [-]

    Returns
    -------
    Cost on one device.
    """
    flop, traffic = attention.prefill_work(scan, tokens, token_context, tp=tp, kv_bytes=kv_bytes)
    edges = tokens * rates.query * attention.entry_flop(scan, tp)
    work, moved = (flop + edges) * times_work, traffic * times_work
    return roof(flop * times_work, moved, work / flop_rate, moved / rates.attention_hbm, latency)


def roof(
    flop: FloatArray, traffic: FloatArray, compute: FloatArray, read: FloatArray, latency: FloatArray, *,
    walk: FloatArray = 0.0,
) -> Kernel:  # fmt: skip
    """One kernel from its work and the times of its roofs.

    Parameters
    ----------
    flop : work [FLOP]
    traffic : bytes of device memory [byte]
    compute, read : time of the work, and of the traffic [s, s]
    latency, walk : latency of the kernel, and time of a tile, see `roofline.kernel_time` [s, s]
    """
    seconds = roofline.kernel_time(compute, read, latency, walk)
    return Kernel(seconds, flop, traffic, {COMPUTE: compute, HBM: read, LATENCY: latency + walk})
