"""What a training step runs with: widths of plans as arrays, their policies, and the rates of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tokenworks.arrays import Bools, FloatArray
from tokenworks.costs.collectives import LinkRates
from tokenworks.costs.rates import Rates
from tokenworks.costs.rates import rates as serving_rates
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import DEFAULT, Calibration, load_calibration, number
from tokenworks.specs.machine import Assumption, Machine
from tokenworks.specs.training import Training
from tokenworks.specs.training_factors import TrainingFactors

BOX, SUPERNODE, SCALE_OUT = "box", "supernode", "scale-out"
LEVELS = (BOX, SUPERNODE, SCALE_OUT)
"""Levels of the interconnect: devices of one host node, devices of one scale-up domain, the network between domains."""


@dataclass(frozen=True, slots=True)
class PrecisionRecipe:
    """How a precision recipe multiplies and stores.

    Parameters
    ----------
    compute : dtype of the GEMMs
    element : size of a weight and of an activation outside of GEMMs [byte/element]
    copies : quantised copies of a weight that stay in memory: by rows for the forward pass, by columns for the
        backward pass [byte/element]
    saved : size of an input of a GEMM that is kept for the gradients of weights [byte/element]
    """

    compute: str
    element: float = 2.0
    copies: float = 0.0
    saved: float = 2.0


RECIPES: dict[str, PrecisionRecipe] = {
    "bf16": PrecisionRecipe("bf16"),
    "fp16": PrecisionRecipe("bf16"),  # every device has one 16-bit peak
    "fp32": PrecisionRecipe("tf32", element=4.0, saved=4.0),
    "fp8": PrecisionRecipe("fp8", copies=2.0, saved=1.0),
    "fp8-delayed": PrecisionRecipe("fp8", copies=2.0, saved=1.0),
    "fp8-block": PrecisionRecipe("fp8", copies=2.0, saved=1.0),
    "mxfp8": PrecisionRecipe("fp8", copies=2 * (1 + 1 / 32), saved=1 + 1 / 32),
    "nvfp4": PrecisionRecipe("fp4", copies=2 * (1 / 2 + 1 / 16), saved=1 / 2 + 1 / 16),
}
"""Name of a recipe -> how it multiplies and stores (NVIDIA Transformer Engine: both copies of a weight are kept)."""

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0}
"""Size of a dtype [byte/element]."""


@dataclass(frozen=True, slots=True)
class TrainPlans:
    """One plan, or many plans that differ in numbers only. The fields are numbers or arrays that broadcast together.

    Parameters
    ----------
    tp, pp, dp, cp, ep, expert_tp : parallel widths, see `TrainingParallel` [count]
    zero : ZeRO stage, 0 to 3
    shard : ranks that divide optimiser states, gradients and weights [count]
    micro_batch, global_batch : sequences of a micro-batch of a rank, and of a step [count]
    chunks : virtual stages of each pipeline stage [count]
    policy : all other settings, which all plans share; its widths and batches are not read
    """

    tp: FloatArray
    pp: FloatArray
    dp: FloatArray
    cp: FloatArray
    ep: FloatArray
    expert_tp: FloatArray
    zero: FloatArray
    shard: FloatArray
    micro_batch: FloatArray
    global_batch: FloatArray
    chunks: FloatArray
    policy: Training

    @classmethod
    def of(cls, training: Training) -> TrainPlans:
        """The one plan of a training deployment."""
        p = training.parallel
        return cls(
            tp=p.tp, pp=p.pp, dp=p.dp, cp=p.cp, ep=p.ep, expert_tp=p.expert_tp, zero=p.zero,
            shard=p.shard or p.dp * p.cp, micro_batch=training.micro_batch, global_batch=training.global_batch,
            chunks=training.schedule.virtual_stages, policy=training,
        )  # fmt: skip

    @property
    def devices(self) -> FloatArray:
        """Devices of each plan [count]."""
        return self.tp * self.pp * self.dp * self.cp

    @property
    def micro_batches(self) -> FloatArray:
        """Micro-batches of each rank in a step [count]."""
        return self.global_batch / (self.micro_batch * self.dp)

    @property
    def rank_tokens(self) -> FloatArray:
        """Tokens of a micro-batch on one device before tensor parallelism divides them [token]."""
        return self.micro_batch * self.policy.seq_len / self.cp

    @property
    def sliced(self) -> FloatArray:
        """Ranks that divide norms and residuals by tokens: tp with sequence parallelism, else 1 [count]."""
        return self.tp if self.policy.parallel.sequence else self.tp * 0 + 1

    @property
    def recipe(self) -> PrecisionRecipe:
        """The precision recipe."""
        return RECIPES[self.policy.precision.recipe]


@dataclass(frozen=True, slots=True)
class TrainRates:
    """Rates and sizes of a machine that trains.

    Parameters
    ----------
    rates : achieved rates, with the GEMM rates of training
    fused_experts, attention_backward, attention_fp8, linear_attention, elementwise : see `TrainingFactors` [-]
    dp_exposed, tp_exposed, ep_exposed, pp_exposed : see `TrainingFactors` [-]
    host_op, host_expert, host_step : times of the host [s]
    device_spread : see `TrainingFactors` [-]
    compute_power : see `TrainingFactors` [-]
    skew : log-deviation of expert popularity [-]
    context, fragments : memory of the driver [byte], and share lost between tensors [-]
    spread : interval factor of the step time [-]
    box : devices of a host node [count]
    box_alpha : latency of one step of a collective inside a host node; None: as in the whole domain [s]
    peak : peak of 16-bit multiplications, for MFU [FLOP/s]
    hbm_bytes : memory of a device [byte]
    tdp : largest power of a device; None: not published [W]
    host_link : bandwidth between a device and its host; None: not published [byte/s]
    assumed : assumed numbers of machine and calibration
    """

    rates: Rates
    fused_experts: float
    attention_backward: float
    attention_fp8: float
    linear_attention: float
    elementwise: float
    dp_exposed: float
    tp_exposed: float
    ep_exposed: float
    pp_exposed: float
    host_op: float
    host_expert: float
    host_step: float
    device_spread: float
    compute_power: float
    skew: float
    context: float
    fragments: float
    spread: float
    box: int
    box_alpha: float | None
    peak: float
    hbm_bytes: float
    tdp: float | None
    host_link: float | None
    assumed: tuple[Assumption, ...]

    def inner(self, span: FloatArray) -> LinkRates:
        """The link of a group inside a domain: the curve of the box, or of the supernode.

        Parameters
        ----------
        span : devices from the first to the last member of the group [count]
        """
        return self._link(self.rates.inner, span)

    def inner_moe(self, span: FloatArray) -> LinkRates:
        """The link of dispatch and combine inside a domain, see `inner`.

        Parameters
        ----------
        span : devices from the first to the last member of the group [count]
        """
        return self._link(self.rates.inner_moe, span)

    def _link(self, link: LinkRates, span: FloatArray) -> LinkRates:
        if self.box_alpha is None:
            return link
        alpha: Any = np.where(span <= self.box, self.box_alpha, link.alpha)  # an array, if the plans differ
        return replace(link, alpha=alpha)

    def level(self, span: FloatArray) -> FloatArray:
        """Position in `LEVELS` of a group that needs `span` neighbouring devices [-].

        Parameters
        ----------
        span : devices from the first to the last member of the group [count]
        """
        return 1 * (span > self.box) + 1 * (span > self.rates.domain)


def train_rates(machine: Machine, calibration: Calibration) -> TrainRates:
    """Rates of a machine that trains: those of serving, with the factors of training.

    Parameters
    ----------
    machine : datasheet rates, links and memory
    calibration : utilisations of device families, with the section `training`
    """
    factors, assumed = training_factors(calibration)
    near = machine.scale_up.box_latency
    family = machine.family
    names = ("gemm", "grouped", "attention", "attention_backward", "linear_attention", "elementwise")
    own: Mapping[str, Any] = {name: number(factors.of(family, name)) for name in names}
    reached = serving_rates(machine, calibration)
    gemm = {dtype: rate * own["gemm"] for dtype, rate in reached.gemm.items()}
    if "tf32" not in gemm and "fp32" in gemm:
        gemm["tf32"] = gemm["fp32"]
    guessed = [name for name, item in factors if getattr(item, "assumed", False)]
    if guessed:
        why = "priors of training; the calibration file has a reason for each"
        assumed = (*assumed, Assumption("calibration.training", ", ".join(guessed), why))
    return TrainRates(
        rates=replace(
            reached,
            gemm=gemm,
            grouped={dtype: rate * own["grouped"] for dtype, rate in gemm.items()},
            prefill_flop=reached.prefill_flop * own["attention"],
        ),
        fused_experts=number(factors.fused_experts),
        attention_backward=own["attention_backward"],
        attention_fp8=number(factors.attention_fp8),
        linear_attention=own["linear_attention"],
        elementwise=own["elementwise"],
        dp_exposed=number(factors.dp_exposed),
        tp_exposed=number(factors.tp_exposed),
        ep_exposed=number(factors.ep_exposed),
        pp_exposed=number(factors.pp_exposed),
        host_op=number(factors.host_op),
        host_expert=number(factors.host_expert),
        host_step=number(factors.host_step),
        device_spread=number(factors.device_spread),
        compute_power=number(factors.compute_power),
        skew=number(factors.skew),
        context=number(factors.context),
        fragments=number(factors.fragments),
        spread=max(number(factors.spread), reached.spread),
        box=machine.host.devices,
        box_alpha=None if near is None else near + machine.scale_up.overhead,
        peak=machine.peak.get("bf16", machine.peak.get("fp32", float("nan"))),
        hbm_bytes=machine.hbm_bytes,
        tdp=machine.tdp,
        host_link=machine.host.link,
        assumed=(*reached.assumed, *assumed),
    )


def training_factors(calibration: Calibration) -> tuple[TrainingFactors, tuple[Assumption, ...]]:
    """The factors of training of a calibration, and the assumption behind them if its file has none.

    Parameters
    ----------
    calibration : a calibration; without the section `training`, the numbers of the default calibration are used
    """
    if calibration.training is not None:
        return calibration.training, ()
    shipped = load_calibration(DEFAULT).training
    assert shipped is not None
    why = f"calibration {calibration.name} has no section `training`"
    return shipped, (Assumption("calibration.training", f"as {DEFAULT}", why),)


def compute_dtype(plans: TrainPlans, rates: Rates) -> str:
    """The dtype in which the GEMMs of the layers multiply.

    Parameters
    ----------
    plans : plans with their precision recipe
    rates : rates of the device, with the dtypes that it has

    Raises
    ------
    SpecError : the device has no arithmetic for the recipe
    """
    dtype = plans.recipe.compute
    if dtype not in rates.gemm:
        known = ", ".join(name for name, recipe in RECIPES.items() if recipe.compute in rates.gemm)
        raise SpecError(
            f"the device has no {dtype} units, which recipe {plans.policy.precision.recipe} needs",
            where="precision.recipe",
            hint=f"write one of {known}",
        )
    return dtype


def exchanges_often(plans: TrainPlans) -> bool | Bools:
    """True if gradients are exchanged after each micro-batch, so that a device keeps only its part of them.

    ZeRO 2 and 3 do this without a pipeline. In a pipeline they keep whole gradients until the last micro-batch, because
    an exchange for each micro-batch would take longer than its backward pass: but see `exchanges_runs`. ZeRO 3 has no
    whole weights to add to, so it exchanges often in a pipeline, too.

    Parameters
    ----------
    plans : ZeRO stages and pipeline stages
    """
    often: bool | Bools = (plans.zero >= 3) | ((plans.zero >= 2) & (plans.pp <= 1))
    return often


def exchanges_runs(plans: TrainPlans) -> bool | Bools:
    """True if gradients of a chunk of layers are exchanged after each run of pp micro-batches through the chunk.

    The interleaved schedule runs pp micro-batches through one chunk, then pp through the next one [1]. ZeRO 2 exchanges
    the gradients of a chunk after its run, so that a device keeps whole gradients of two chunks: the one that runs, and
    the one whose exchange is under way.

    Parameters
    ----------
    plans : ZeRO stages, pipeline stages and virtual stages

    References
    ----------
    [1] Narayanan et al., arXiv:2104.04473, figure 4.
    """
    runs: bool | Bools = (plans.zero == 2) & (plans.pp > 1) & (plans.chunks > 1)
    return runs
