"""Single products of a training step, and the kernels that quantise their inputs."""

from __future__ import annotations

from tokenworks.arrays import FloatArray
from tokenworks.costs import roofline
from tokenworks.costs.breakdown import HBM, LATENCY, Kernel, PartTime
from tokenworks.costs.products import ACTIVATION, NARROW, roof
from tokenworks.costs.rates import Rates
from tokenworks.costs.train_plan import BYTES, TrainPlans, TrainRates

QUANTISE_READS = {"fp8": 2, "fp8-delayed": 1, "fp8-block": 1, "mxfp8": 1, "nvfp4": 2}
"""Recipe -> times that quantisation reads a tensor. A scale for the whole tensor needs its largest value first; the
scale of a block does not; a delayed scale comes from earlier steps (NVIDIA Transformer Engine, recipes) [count]."""


def element_bytes(dtype: str, plans: TrainPlans) -> float:
    """Size of an element that a product reads: a quantised one with its share of a scale, or a plain one [byte].

    Parameters
    ----------
    dtype : dtype of the product
    plans : plans with their precision recipe
    """
    return plans.recipe.saved if dtype in NARROW else plans.recipe.element


def layer_product(
    shape: tuple[FloatArray, FloatArray], rows: FloatArray, dtype: str, rates: Rates, plans: TrainPlans
) -> PartTime:
    """One product with a weight of outputs x inputs. It reads both factors in the dtype of the product.

    Parameters
    ----------
    shape : outputs and inputs of the weight [count, count]
    rows : rows of the product [token]
    dtype : dtype of the multiplication
    rates : achieved rates of the machine
    plans : plans with their precision recipe
    """
    outputs, inputs = shape
    flop = roofline.gemm_flop(rows, outputs, inputs)
    element = element_bytes(dtype, plans)
    traffic = element * (outputs * inputs + rows * inputs) + rows * outputs * plans.recipe.element
    walk = roofline.walk_time(inputs, rates.walk, wide=1 - 1 * (dtype in NARROW))
    return roof(flop, traffic, flop / rates.gemm[dtype], traffic / rates.hbm, rates.kernel, walk=walk)


def weight_product(
    shape: tuple[FloatArray, FloatArray], rows: FloatArray, dtype: str, rates: Rates, plans: TrainPlans
) -> PartTime:
    """The product dW = dy x: it reads both activations, and adds to the gradient in memory. Its k are the rows.

    Parameters
    ----------
    shape, rows, dtype, rates, plans : as in `layer_product`
    """
    outputs, inputs = shape
    flop = roofline.gemm_flop(rows, outputs, inputs)
    kept = BYTES[plans.policy.precision.gradients]
    traffic = rows * (outputs + inputs) * element_bytes(dtype, plans) + 2 * outputs * inputs * kept
    walk = roofline.walk_time(rows, rates.walk, wide=1 - 1 * (dtype in NARROW))
    return roof(flop, traffic, flop / rates.gemm[dtype], traffic / rates.hbm, rates.kernel, walk=walk)


def copies(rates: Rates, plans: TrainPlans) -> int:
    """Quantised copies of a tensor: one by rows, and one by columns for the gradients of weights [count].

    LoRA has no gradients of weights. Devices with FP4 units (NVIDIA Blackwell) multiply 8-bit matrices in any layout,
    so a tensor with one scale needs no second copy there (NVIDIA Transformer Engine: `non_tn_fp8_gemm_supported`).

    Parameters
    ----------
    rates : achieved rates of the machine
    plans : plans with their precision recipe
    """
    one_scale = plans.policy.precision.recipe in ("fp8", "fp8-delayed") and "fp4" in rates.gemm
    return 1 if one_scale or plans.policy.method.name == "lora" else 2


def quantised(elements: FloatArray, rates: TrainRates, plans: TrainPlans) -> Kernel:
    """Kernels that quantise a tensor: they read it, once more for its largest value where the recipe needs that, and
    write its copies.

    Parameters
    ----------
    elements : elements of the tensor on one device [count]
    rates : rates of the machine
    plans : plans with their precision recipe
    """
    reads = QUANTISE_READS[plans.policy.precision.recipe]
    traffic = elements * (ACTIVATION * reads + copies(rates.rates, plans) * plans.recipe.saved)
    moving, latency = traffic / (rates.rates.hbm * rates.elementwise), reads * rates.rates.kernel
    return Kernel(moving + latency, 0.0, traffic, {HBM: moving, LATENCY: latency})
