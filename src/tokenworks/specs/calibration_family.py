"""The factors of a device family in a calibration: utilisations, latencies, power and spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from tokenworks.errors import SpecError
from tokenworks.specs.device import ComputeDtype
from tokenworks.specs.interval import Spread
from tokenworks.specs.provenance import FlopRate, Number, Quantity, Seconds, Spec


def _above_zero(quantity: Quantity) -> Quantity:
    if not quantity.value:
        raise ValueError("must be above zero and not null: cost functions need this number")
    return quantity


def _share(quantity: Quantity) -> Quantity:
    if quantity.value is None or not 0 < quantity.value <= 1:
        raise ValueError("a utilisation is above 0 and at most 1")
    return quantity


Util = Annotated[Number, AfterValidator(_share)]
Ratio = Annotated[Number, AfterValidator(_above_zero)]
Latency = Annotated[Seconds, AfterValidator(_above_zero)]


def number(quantity: Quantity) -> float:
    """The value of a quantity that is never null, because validation refuses null for it."""
    assert quantity.value is not None
    return quantity.value


class Power(Spec):
    """Power of a device, as shares of its TDP.

    Parameters
    ----------
    idle : power of an idle device / TDP [-]
    compute : additional power at the full compute roof / TDP [-]
    hbm : additional power at the full HBM roof / TDP [-]
    spread : 80 % of measured mean powers lie in [p / spread, p x spread] around a predicted power p [-]
    """

    idle: Util
    compute: Util
    hbm: Util
    spread: Spread


class Family(Spec):
    """The factors of one device family.

    Parameters
    ----------
    peak : dtype -> peak rate of the devices on which the utilisations of the compute peak were measured, see
        `utilised`. A dtype that is not listed keeps its utilisation at every peak [FLOP/s]
    gemm : dtype -> utilisation of the compute peak by GEMMs with many rows [-]
    grouped : dtype -> rate of grouped GEMMs (experts) / rate of GEMMs [-]
    hbm : utilisation of the memory bandwidth by GEMMs that are bound by their weights [-]
    experts_hbm : utilisation of the memory bandwidth by grouped GEMMs that are bound by their weights [-]
    packed_experts : rate of grouped GEMMs whose weights are 4-bit integers / rate with 16-bit weights, for compute and
        for bandwidth: 1 if a kernel unpacks them on the way, as Marlin does [-]
    attention_prefill, attention_decode : utilisation of the 16-bit compute peak by attention [-]
    attention_hbm : utilisation of the memory bandwidth by attention that reads the KV cache [-]
    latent_decode : utilisation of the 16-bit compute peak by decode attention on latents (MLA), whose kernels reach
        more, because all query heads share an entry of the cache [-]
    latent_fp8 : compute rate of decode attention on FP8 latents / on 16-bit latents: nearly 2 if the kernels multiply
        in FP8, 1 if they unpack the latents first [-]
    scale_up, scale_out : utilisation of the link bandwidth by collectives of large messages [-]
    dispatch_up, dispatch_out : utilisation of the link bandwidth by dispatch and combine of experts [-]
    kernel : latency of a kernel inside a captured step [s]
    walk : time of a GEMM tile per 8-bit element of k: no GEMM is faster than k x walk [s]
    attention_start : latency of attention, which is several kernels [s]
    experts_start : latency of a layer of routed experts: sort, quantise, two GEMMs, sum [s]
    expert : additional latency per touched expert [s]
    blockwise : engine -> kernel latencies of a model with FP8 in blocks / those of other models; 1 for engines that are
        not listed. Such a model quantises each input in groups, and not every engine has fast kernels for this [-]
    collective_start, dispatch_start : time before the first byte: kernel launch, and waiting for the other devices [s]
    spread : least interval factor of a device of the family that has no measured points of its own: 80 % of measured
        times lie in [t / spread, t x spread] around a predicted time t. `tpot_spread` may widen it [-]
    power : power of a device of the family, as shares of its TDP; None: the shares of the calibration
    request : time that client, HTTP and tokeniser add to TTFT, once per role; None: the number of the engine. A fit on
        a user's own points sets it, because that computer and its client are part of the measurement [s]
    """

    peak: dict[ComputeDtype, FlopRate] = Field(default_factory=dict)
    gemm: dict[ComputeDtype, Util]
    grouped: dict[ComputeDtype, Util]
    hbm: Util
    experts_hbm: Util
    packed_experts: Util
    attention_prefill: Util
    attention_decode: Util
    attention_hbm: Util
    latent_decode: Util
    latent_fp8: Ratio
    scale_up: Util
    scale_out: Util
    dispatch_up: Util
    dispatch_out: Util
    kernel: Latency
    walk: Latency
    attention_start: Latency
    experts_start: Latency
    expert: Latency
    blockwise: dict[str, Number] = Field(default_factory=dict)
    collective_start: Latency
    dispatch_start: Latency
    spread: Spread
    power: Power | None = None
    request: Latency | None = None

    def utilised(self, share: float, dtype: str, peak: float) -> float:
        """The rate of a kernel on a device of the family whose peak differs from the measured devices.

        What a kernel does beside its multiplications (address arithmetic, loads, epilogues) takes a time c per FLOP
        that does not depend on the peak. So a device with a lower peak reaches a larger share of it:

            rate = 1 / (1 / P + c),   c = (1 / u - 1) / P0,   so rate = P / (1 + (1 / u - 1) P / P0)

        with the share u that was measured at the peak P0. In the kernel tables, the share of dense GEMMs falls as the
        peak of a dtype rises: H100 0.83 in BF16 and 0.66 in FP8, B200 0.74, 0.61 and 0.45 in BF16, FP8 and FP4. Of
        devices without a part in the fit, B300 has 1.5 times the FP4 rate of B200 and a share of 0.32 instead of 0.45
        (this formula: 0.35).

        Parameters
        ----------
        share : u, utilisation at the peak of the measured devices [-]
        dtype : dtype of the multiplication
        peak : P, peak rate of the device in this dtype [FLOP/s]

        Returns
        -------
        Achieved rate [FLOP/s].
        """
        measured = next((number(known) for name, known in self.peak.items() if name == dtype), peak)
        return peak / (1 + (1 / share - 1) * peak / measured)

    def util(self, dtype: str) -> float:
        """Utilisation of GEMMs with many rows, at the peak of the measured devices.

        Parameters
        ----------
        dtype : dtype of the multiplication

        Raises
        ------
        SpecError : the family has no number for this dtype; no other dtype is used instead
        """
        return _of(self.gemm, "gemm", dtype)

    def grouped_util(self, dtype: str) -> float:
        """Utilisation of grouped GEMMs (experts) with many rows, see `util`."""
        return self.util(dtype) * _of(self.grouped, "grouped", dtype)


def _of(utils: Mapping[ComputeDtype, Quantity], field: str, dtype: str) -> float:
    for name, util in utils.items():
        if name == dtype:
            return number(util)
    hint = f"the family has {', '.join(utils)}"
    raise SpecError(f"no utilisation for {dtype}", where=f"calibration: {field}", hint=hint)


class Like(Spec):
    """A device family without measurements. It borrows the numbers of another family.

    Parameters
    ----------
    like : family whose numbers are used
    why : reason for this choice
    spread : interval factor of the borrowing family, see `Family` [-]
    """

    like: str
    why: str
    spread: Spread
