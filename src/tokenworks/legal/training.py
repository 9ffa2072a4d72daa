"""Training plans as arrays, and the rules of legality for them. A rule explains itself for a single plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from tokenworks.arrays import Floats, Ints
from tokenworks.costs.train_plan import RECIPES
from tokenworks.legal.rules import Verdict, aligned_groups, divisors_text, fills_domains, rule
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Experts, Model
from tokenworks.specs.training import (
    PipelineSchedule,
    PrecisionName,
    RecomputeName,
    ScheduleName,
    Training,
    TrainingParallel,
    TrainingPrecision,
    ZeroStage,
)

SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)
RECOMPUTES: tuple[RecomputeName, ...] = get_args(RecomputeName)
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)


@dataclass(frozen=True, slots=True)
class TrainSetting:
    """What a training plan is made for.

    Parameters
    ----------
    model, machine : the model, and the devices that train it
    base : batch, sequence length, and every setting that the search does not change
    """

    model: Model
    machine: Machine
    base: Training

    @property
    def experts(self) -> Experts | None:
        """The routed experts of the layer that has most of them; None for a model without routed experts."""
        routed = [block.experts for block in self.model.blocks if block.experts]
        return max(routed, key=lambda experts: experts.count) if routed else None


@dataclass(frozen=True, slots=True)
class TrainPoints:
    """Candidate training plans. Each field is an array with one element per plan.

    Parameters
    ----------
    tp, pp, dp, cp, ep, expert_tp, zero : widths and sharding, see `TrainingParallel`
    micro_batch : sequences of one forward and backward pass [count]
    schedule : pipeline schedule, as index into `SCHEDULES`
    virtual : chunks of layers of a stage [count]
    recompute : recompute policy, as index into `RECOMPUTES`
    precision : precision, as index into `PRECISIONS`
    """

    tp: Ints
    pp: Ints
    dp: Ints
    cp: Ints
    ep: Ints
    expert_tp: Ints
    zero: Ints
    micro_batch: Ints
    schedule: Ints
    virtual: Ints
    recompute: Ints
    precision: Ints

    def __len__(self) -> int:
        return len(self.tp)

    def __getitem__(self, chosen: Any) -> TrainPoints:
        """The plans that a mask, a slice or an index array selects."""
        return TrainPoints(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    @property
    def devices(self) -> Ints:
        """Devices of each run."""
        return self.tp * self.pp * self.dp * self.cp

    def training(self, index: int, base: Training) -> Training:
        """One plan as a `Training`.

        Parameters
        ----------
        index : place of the plan in the arrays
        base : every setting that the arrays do not hold
        """
        number = {field.name: int(getattr(self, field.name)[index]) for field in dataclasses.fields(self)}
        zero: ZeroStage = number["zero"]  # type: ignore[assignment]
        parallel = TrainingParallel(
            tp=number["tp"], pp=number["pp"], dp=number["dp"], cp=number["cp"], ep=number["ep"],
            expert_tp=number["expert_tp"], zero=zero, sequence=base.parallel.sequence, shard=base.parallel.shard,
        )  # fmt: skip
        return self.policy(index, base).model_copy(update={"parallel": parallel, "micro_batch": number["micro_batch"]})

    def policy(self, index: int, base: Training) -> Training:
        """The settings of one plan that are words and not numbers; widths and micro-batch are those of `base`.

        Parameters
        ----------
        index : place of the plan in the arrays
        base : every setting that the arrays do not hold
        """
        name, recipe = RECOMPUTES[int(self.recompute[index])], PRECISIONS[int(self.precision[index])]
        again = base.recompute.model_copy(update={"name": name})
        precision = TrainingPrecision(**{**base.precision.model_dump(), "recipe": recipe})
        schedule = PipelineSchedule(
            name=SCHEDULES[int(self.schedule[index])], virtual_stages=int(self.virtual[index]),
            layout=base.schedule.layout,
        )  # fmt: skip
        changes: dict[str, Any] = {"schedule": schedule, "recompute": again, "precision": precision}
        if schedule.name == "dualpipe" != base.schedule.name:  # the schedule exists to hide dispatch and combine
            changes["overlap"] = base.overlap.model_copy(update={"ep": True})
        return base.model_copy(update=changes)

    @classmethod
    def of(cls, training: Training) -> TrainPoints:
        """A plan as arrays of length 1."""
        parallel = training.parallel
        numbers = (
            parallel.tp, parallel.pp, parallel.dp, parallel.cp, parallel.ep, parallel.expert_tp, parallel.zero,
            training.micro_batch, SCHEDULES.index(training.schedule.name), training.schedule.virtual_stages,
            RECOMPUTES.index(training.recompute.name), PRECISIONS.index(training.precision.recipe),
        )  # fmt: skip
        return cls(*(np.array([number]) for number in numbers))


@dataclass(frozen=True, slots=True)
class TrainProposal:
    """Training plans that rules judge.

    Parameters
    ----------
    points : the plans
    setting : model, machine, batch and sequence
    need : memory of the fullest device; only the rules of `TRAIN_MEMORY` read it [byte]
    parts : memory of the fullest device in words, for a message about a single plan
    """

    points: TrainPoints
    setting: TrainSetting
    need: Floats | None = None
    parts: str = ""


TrainRule = Callable[[TrainProposal], Verdict]

TRAIN_WIDTHS: dict[str, TrainRule] = {}
"""Rules on the widths of a training plan alone, by name."""

TRAIN_SETTINGS: dict[str, TrainRule] = {}
"""Rules on micro-batch, schedule and precision of a training plan, by name."""

TRAIN_MEMORY: dict[str, TrainRule] = {}
"""Rules on the memory of training plans that keep all rules of `TRAIN_WIDTHS` and `TRAIN_SETTINGS`, by name."""


# ── widths ────────────────────────────────────────────────────────────────────────────────────────────────────────


@rule(TRAIN_WIDTHS)
def run_fits_machine(proposal: TrainProposal) -> Verdict:
    """A run needs tp x pp x cp x dp devices: at most those of the machine."""
    p, machine = proposal.points, proposal.setting.machine
    return Verdict(
        p.devices <= machine.devices,
        lambda: (
            f"tp x pp x cp x dp = {p.devices[0]} devices, {machine.name} has {machine.devices}: reduce dp, or another "
            "width"
        ),
    )


@rule(TRAIN_WIDTHS)
def run_fills_domains(proposal: TrainProposal) -> Verdict:
    """A run lies inside one scale-up domain, or fills whole domains."""
    return fills_domains(proposal.points.devices, proposal.setting.machine.domain)


@rule(TRAIN_WIDTHS)
def tp_group_stays_aligned(proposal: TrainProposal) -> Verdict:
    """In a run over several domains, tp divides the size of a domain, or is a multiple of it."""
    return aligned_groups(proposal.points.devices, proposal.points.tp, proposal.setting.machine.domain)


@rule(TRAIN_WIDTHS)
def tp_shares_heads(proposal: TrainProposal) -> Verdict:
    """A rank has whole query heads, and whole KV heads or equal copies of one: tp divides both, or is a multiple."""
    p, model = proposal.points, proposal.setting.model
    heads, kv = model.heads, model.kv_heads
    return Verdict(
        (heads % p.tp == 0) & ((kv % p.tp == 0) | (p.tp % kv == 0)),
        lambda: f"{heads} query heads and {kv} KV heads over tp={p.tp[0]}: take tp of {divisors_text(heads)}",
    )


@rule(TRAIN_WIDTHS)
def sequence_is_shared(proposal: TrainProposal) -> Verdict:
    """Each rank gets an equal part of a sequence: the length divides by tp x cp, and by two parts of each cp rank."""
    p, length = proposal.points, proposal.setting.base.seq_len
    rows = np.where(p.cp > 1, 2 * p.cp, 1) * (p.tp if proposal.setting.base.parallel.sequence else 1)
    return Verdict(
        length % rows == 0,
        lambda: f"seq={length} does not divide by tp={p.tp[0]} x 2 x cp={p.cp[0]}: take a smaller cp or tp",
    )


@rule(TRAIN_WIDTHS)
def dense_run_has_no_experts(proposal: TrainProposal) -> Verdict:
    """A model without routed experts has ep = etp = 1."""
    p = proposal.points
    return Verdict(
        ((p.ep == 1) & (p.expert_tp == 1)) | bool(proposal.setting.experts),
        lambda: (
            f"ep={p.ep[0]}, etp={p.expert_tp[0]}, but {proposal.setting.model.name} has no routed experts: leave "
            "both out"
        ),
    )


@rule(TRAIN_WIDTHS)
def experts_lie_in_a_stage(proposal: TrainProposal) -> Verdict:
    """The experts of a layer lie on devices of one pipeline stage: ep x etp divides tp x cp x dp."""
    p = proposal.points
    stage = p.tp * p.cp * p.dp
    return Verdict(
        stage % (p.ep * p.expert_tp) == 0,
        lambda: (
            f"ep={p.ep[0]} x etp={p.expert_tp[0]} does not divide tp x cp x dp = {stage[0]}: take ep x etp of "
            f"{divisors_text(int(stage[0]))}"
        ),
    )


@rule(TRAIN_WIDTHS)
def experts_are_shared(proposal: TrainProposal) -> Verdict:
    """Ranks have equal numbers of experts, and equal slices of each: ep divides the experts, etp their width."""
    p, experts = proposal.points, proposal.setting.experts
    count, width = (experts.count, experts.intermediate) if experts else (1, 1)
    return Verdict(
        (count % p.ep == 0) & (width % p.expert_tp == 0) | (experts is None),
        lambda: (
            f"{count} experts of width {width} over ep={p.ep[0]}, etp={p.expert_tp[0]}: take ep of "
            f"{divisors_text(count)}"
        ),
    )


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────


@rule(TRAIN_SETTINGS)
def batch_is_shared(proposal: TrainProposal) -> Verdict:
    """Every data-parallel rank gets the same number of whole micro-batches: mbs x dp divides the batch."""
    p, batch = proposal.points, proposal.setting.base.global_batch
    return Verdict(
        batch % (p.micro_batch * p.dp) == 0,
        lambda: (
            f"a batch of {batch} sequences over mbs={p.micro_batch[0]} x dp={p.dp[0]}: take mbs x dp that divides "
            f"it, or a batch of {_multiple(batch, int(p.micro_batch[0] * p.dp[0]))}"
        ),
    )


@rule(TRAIN_SETTINGS)
def chunks_have_layers(proposal: TrainProposal) -> Verdict:
    """Every stage has a layer, and every chunk a layer, the embedding or the head."""
    p, layers = proposal.points, proposal.setting.model.layers
    return Verdict(
        (p.pp <= layers) & (p.pp * p.virtual <= layers + 2),
        lambda: (
            f"{layers} layers over pp={p.pp[0]} x vpp={p.virtual[0]} chunks: take pp of at most {layers} "
            f"and pp x vpp of at most {layers + 2}"
        ),
    )


@rule(TRAIN_SETTINGS)
def schedule_has_a_pipeline(proposal: TrainProposal) -> Verdict:
    """Schedules other than 1f1b need a pipeline: pp above 1."""
    p = proposal.points
    return Verdict(
        (p.pp > 1) | (p.schedule == SCHEDULES.index("1f1b")),
        lambda: f"schedule={SCHEDULES[int(p.schedule[0])]} at pp={p.pp[0]}: take schedule=1f1b, or pp above 1",
    )


@rule(TRAIN_SETTINGS)
def interleaving_has_rounds(proposal: TrainProposal) -> Verdict:
    """Interleaved stages take micro-batches in rounds of pp: vpp is above 1, and pp divides the micro-batches."""
    p, batch = proposal.points, proposal.setting.base.global_batch
    micro = batch // (p.micro_batch * p.dp)
    interleaved = p.schedule == SCHEDULES.index("interleaved")
    return Verdict(
        ~interleaved | ((p.virtual > 1) & (micro % p.pp == 0)),
        lambda: (
            f"interleaved with vpp={p.virtual[0]} and {micro[0]} micro-batches over pp={p.pp[0]}: take vpp of 2 or "
            "more and micro-batches that divide by pp, or schedule=1f1b"
        ),
    )


@rule(TRAIN_SETTINGS)
def dualpipe_has_two_ends(proposal: TrainProposal) -> Verdict:
    """DualPipe feeds micro-batches from both ends: pp is even, and the micro-batches are even and at least 2 x pp."""
    p, batch = proposal.points, proposal.setting.base.global_batch
    micro = batch // (p.micro_batch * p.dp)
    dual = p.schedule == SCHEDULES.index("dualpipe")
    return Verdict(
        ~dual | ((p.pp % 2 == 0) & (micro % 2 == 0) & (micro >= 2 * p.pp)),
        lambda: (
            f"dualpipe with {micro[0]} micro-batches over pp={p.pp[0]}: take an even pp, and an even number of at "
            f"least {2 * p.pp[0]} micro-batches"
        ),
    )


@rule(TRAIN_SETTINGS)
def precision_is_there(proposal: TrainProposal) -> Verdict:
    """The device multiplies in the dtype of the precision."""
    p, machine = proposal.points, proposal.setting.machine
    there = np.array([_has(machine, name) for name in PRECISIONS])
    return Verdict(
        there[p.precision],
        lambda: (
            f"{machine.device} has no {RECIPES[PRECISIONS[int(p.precision[0])]].compute}, which "
            f"{PRECISIONS[int(p.precision[0])]} needs: take precision="
            f"{' or '.join(name for name in PRECISIONS if _has(machine, name))}"
        ),
    )


def _has(machine: Machine, precision: PrecisionName) -> bool:
    """Whether the device multiplies in the dtype of a precision. A device with FP32 can run TF32 at that rate."""
    dtype = RECIPES[precision].compute
    return dtype in machine.peak or (dtype == "tf32" and "fp32" in machine.peak)


TRAIN_SHAPE: dict[str, TrainRule] = {**TRAIN_WIDTHS, **TRAIN_SETTINGS}
"""All rules but those of memory, by name."""


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────


@rule(TRAIN_MEMORY)
def state_fits(proposal: TrainProposal) -> Verdict:
    """Weights, gradients, optimiser states, activations and buffers of the fullest stage fit into a device."""
    assert proposal.need is not None
    need, capacity = proposal.need, proposal.setting.machine.hbm_bytes
    return Verdict(
        need <= capacity,
        lambda: (
            f"{need[0] / 1e9:,.1f} GB of {capacity / 1e9:,.1f} GB a device{proposal.parts}: take "
            f"{_smaller(proposal.points)}"
        ),
    )


def _smaller(points: TrainPoints) -> str:
    """Settings that would make a single plan smaller."""
    ways = []
    if points.recompute[0] != RECOMPUTES.index("full"):
        ways.append("recompute=full")
    if points.micro_batch[0] > 1:
        ways.append("mbs=1")
    if points.zero[0] < 3 and points.dp[0] * points.cp[0] > 1:
        ways.append("zero=3")
    return " or ".join([*ways, "more devices with larger tp, pp, cp or ep"])


def _multiple(batch: int, lane: int) -> int:
    """The multiple of `lane` that is nearest to a batch, and not zero."""
    return max(round(batch / lane), 1) * lane
