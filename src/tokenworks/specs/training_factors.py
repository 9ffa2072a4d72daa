"""Numbers of training that serving does not pin down: the section `training` of a calibration file."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from tokenworks.specs.provenance import Bytes, Number, Quantity, Seconds, Spec


def _positive(quantity: Quantity) -> Quantity:
    if not quantity.value:
        raise ValueError("must be above zero and not null: cost functions need this number")
    return quantity


def _part(quantity: Quantity) -> Quantity:
    if quantity.value is None or not 0 <= quantity.value <= 1:
        raise ValueError("a share is 0 to 1")
    return quantity


def _known(quantity: Quantity) -> Quantity:
    if quantity.value is None:
        raise ValueError("must not be null: cost functions need this number")
    return quantity


Factor = Annotated[Number, AfterValidator(_positive)]
Share = Annotated[Number, AfterValidator(_part)]
Time = Annotated[Seconds, AfterValidator(_known)]
Size = Annotated[Bytes, AfterValidator(_known)]


class FamilyTraining(Spec):
    """Numbers of training that a device family has of its own. None: the number of all families.

    Parameters
    ----------
    gemm, grouped, attention, attention_backward, linear_attention, elementwise : as in `TrainingFactors`
    """

    gemm: Factor | None = None
    grouped: Factor | None = None
    attention: Factor | None = None
    attention_backward: Factor | None = None
    linear_attention: Factor | None = None
    elementwise: Factor | None = None


class TrainingFactors(Spec):
    """Factors of a training step, for all device families.

    Parameters
    ----------
    gemm : rate of GEMMs in a training step / rate in the kernel tables of serving: hours at the power limit [-]
    grouped : rate of the grouped GEMMs of experts / rate of dense GEMMs, in training [-]
    fused_experts : rate of grouped GEMMs with activation function and quantisation inside / rate of others [-]
    attention : FLOP rate of the forward pass of attention in training / rate of prefill attention in serving [-]
    attention_backward : FLOP rate of the backward pass of attention / FLOP rate of its forward pass [-]
    attention_fp8 : FLOP rate of attention in FP8 / FLOP rate in 16 bits [-]
    linear_attention : bandwidth that the kernels of linear attention reach / bandwidth of attention in serving [-]
    elementwise : bandwidth of norms, residuals and activation functions / bandwidth of GEMMs, for large tensors [-]
    dp_exposed : least share of the data-parallel communication that adds to the step although it overlaps [-]
    tp_exposed, ep_exposed, pp_exposed : the same share of overlapped tensor-parallel, expert and pipeline
        communication [-]
    host_op : time in which the host launches one operator of PyTorch, with autograd [s]
    host_expert : time of the host for each local expert of a layer, forward and backward: its GEMMs and quantisations
        are launched apart [s]
    host_step : time of a step outside the micro-batches: data loader, gradient norm, logging [s]
    device_spread : log-deviation of the speed of devices of one type: a step waits for the slowest device [-]
    compute_power : additional power at the full compute roof / TDP, while large GEMMs run [-]
    skew : log-deviation of expert popularity that the balancing of training leaves [-]
    context : memory of driver, libraries and communicators on a device [byte]
    fragments : memory lost between tensors / memory of weights, states and activations [-]
    spread : interval factor of the step time: 80 % of measured times lie in [t / spread, t x spread] [-]
    families : device family -> numbers of its own
    """

    gemm: Factor
    grouped: Factor
    fused_experts: Factor
    attention: Factor
    attention_backward: Factor
    attention_fp8: Factor
    linear_attention: Factor
    elementwise: Factor
    dp_exposed: Share
    tp_exposed: Share
    ep_exposed: Share
    pp_exposed: Share
    host_op: Time
    host_expert: Time
    host_step: Time
    device_spread: Share = Quantity(value=0.0, status="assumed", source="files without this number: devices are equal")
    compute_power: Factor
    skew: Annotated[Number, AfterValidator(_known)]
    context: Size
    fragments: Share
    spread: Factor
    families: dict[str, FamilyTraining] = Field(default_factory=dict)

    def of(self, family: str, name: str) -> Quantity:
        """A factor of a device family: its own number, or the number of all families.

        Parameters
        ----------
        family : device family
        name : field of `FamilyTraining` or of `TrainingFactors`
        """
        own: Quantity | None = getattr(self.families.get(family), name, None)
        shared: Quantity = getattr(self, name)
        return shared if own is None else own
