"""The rules of legality. A rule is a function that judges arrays of points, and explains itself for a single point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from tokenworks.arrays import Bools, Ints
from tokenworks.costs.memory import Memory, memory
from tokenworks.legal.points import KV_DTYPES, OVERLAPS, Points, Setting
from tokenworks.specs.context import way_out
from tokenworks.specs.deployment import Role

# Elements that share one scale, along the width that expert_tp cuts. A cut inside a block would need a new scale.
# Engines refuse to cut FP8 blocks (vLLM, Fp8MoEMethod). They pad slices of MXFP4 experts to whole blocks (gpt-oss at tp
# 4 and 8), so MXFP4 is not in this table.
BLOCK = {"fp8-block": 128, "nvfp4": 16}


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that a point breaks.

    Parameters
    ----------
    rule : name of the rule
    law : the rule in words
    message : why this point breaks the rule, and the way out
    """

    rule: str
    law: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one rule.

    Parameters
    ----------
    kept : True for each point that keeps the rule
    why : function that says why a single point breaks the rule
    """

    kept: Bools
    why: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Proposal:
    """Points that rules judge.

    Parameters
    ----------
    points : the points
    setting : model, machine, engine and workload
    memory : memory of the points; only the rules of `MEMORY` need it
    """

    points: Points
    setting: Setting
    memory: Memory | None = None

    @property
    def room(self) -> Memory:
        """Memory of the points; only for the rules of `MEMORY`."""
        assert self.memory is not None
        return self.memory


class Judged(Protocol):
    """Anything that rules judge: it has a number of points."""

    @property
    def points(self) -> Sized:
        """The points."""
        ...


JudgedT = TypeVar("JudgedT", bound=Judged)

Rule = Callable[[Proposal], Verdict]

SHAPE: dict[str, Rule] = {}
"""Rules on widths and settings, by name."""

MEMORY: dict[str, Rule] = {}
"""Rules on the memory of points that keep all rules of `SHAPE`, by name."""


def rule(
    kind: dict[str, Callable[[JudgedT], Verdict]],
) -> Callable[[Callable[[JudgedT], Verdict]], Callable[[JudgedT], Verdict]]:
    """A decorator that adds a function to the rules of a kind, under the name of the function."""

    def enter(function: Callable[[JudgedT], Verdict]) -> Callable[[JudgedT], Verdict]:
        kind[function.__name__] = function
        return function

    return enter


def judge(proposal: JudgedT, rules: Mapping[str, Callable[[JudgedT], Verdict]]) -> tuple[Bools, dict[str, int]]:
    """Judge points by several rules.

    Parameters
    ----------
    proposal : the points
    rules : the rules, by name, in the order in which they judge

    Returns
    -------
    True for each point that keeps all rules; and for each rule, the number of points for which it is the first broken
    rule [count].
    """
    kept = np.ones(len(proposal.points), dtype=bool)
    broken: dict[str, int] = {}
    for name, check in rules.items():
        now = kept & check(proposal).kept
        if lost := int(kept.sum() - now.sum()):
            broken[name] = lost
        kept = now
    return kept, broken


def with_memory(points: Points, setting: Setting) -> Proposal:
    """A proposal with the memory of its points.

    Parameters
    ----------
    points : points that keep all rules of `SHAPE`
    setting : model, machine, engine and workload
    """
    room = memory(
        setting.model,
        setting.machine,
        points.split(),
        engine=setting.engine,
        max_sequences=points.max_sequences,
        chunk_tokens=points.chunk_tokens,
        memory_fraction=setting.memory_fraction,
    )
    return Proposal(points, setting, room)


def explain(role: Role, setting: Setting) -> list[Broken]:
    """Every rule that a role breaks, in words. The rules of `MEMORY` count only if all rules of `SHAPE` are kept."""
    points = Points.of(role)
    broken = list(broken_rules(Proposal(points, setting), SHAPE))
    return broken or list(broken_rules(with_memory(points, setting), MEMORY))


def broken_rules(proposal: JudgedT, rules: Mapping[str, Callable[[JudgedT], Verdict]]) -> Iterable[Broken]:
    """The rules that a single point breaks, in words.

    Parameters
    ----------
    proposal : one point
    rules : the rules, by name
    """
    for name, check in rules.items():
        verdict = check(proposal)
        if not np.all(verdict.kept):
            yield Broken(name, (check.__doc__ or "").strip(), verdict.why())


def divisors_text(number: int, most: int = 1 << 62) -> str:
    """The divisors of a number up to `most`, as text for a message."""
    return ", ".join(str(width) for width in range(1, min(number, most) + 1) if number % width == 0)


# ── widths ────────────────────────────────────────────────────────────────────────────────────────────────────────


def fills_domains(devices: Ints, domain: int) -> Verdict:
    """Whether devices lie inside one scale-up domain, or fill whole domains.

    Parameters
    ----------
    devices : devices of each point [count]
    domain : devices of a domain [count]
    """
    return Verdict(
        (devices <= domain) | (devices % domain == 0),
        lambda: (
            f"{devices[0]} devices fill no whole domains of {domain}: take at most {domain}, or a multiple such as "
            f"{-(-devices[0] // domain) * domain}"
        ),
    )


def aligned_groups(devices: Ints, tp: Ints, domain: int) -> Verdict:
    """Whether no group of tp devices crosses the border of a domain, for points over several domains.

    Parameters
    ----------
    devices : devices of each point [count]
    tp : tensor-parallel width of each point
    domain : devices of a domain [count]
    """
    return Verdict(
        (devices <= domain) | (domain % tp == 0) | (tp % domain == 0),
        lambda: f"groups of tp={tp[0]} cross the border of a domain of {domain}: take tp of {divisors_text(domain)}",
    )


@rule(SHAPE)
def instance_fits_machine(proposal: Proposal) -> Verdict:
    """An instance needs tp x pp x dp devices: at most those of the machine."""
    p, machine = proposal.points, proposal.setting.machine
    return Verdict(
        p.devices <= machine.devices,
        lambda: f"tp x pp x dp = {p.devices[0]} devices, {machine.name} has {machine.devices}: reduce tp, pp or dp",
    )


@rule(SHAPE)
def instance_fills_domains(proposal: Proposal) -> Verdict:
    """An instance lies inside one scale-up domain, or fills whole domains."""
    return fills_domains(proposal.points.devices, proposal.setting.machine.domain)


@rule(SHAPE)
def tp_stays_aligned(proposal: Proposal) -> Verdict:
    """In an instance over several domains, tp divides the size of a domain, or is a multiple of it."""
    return aligned_groups(proposal.points.devices, proposal.points.tp, proposal.setting.machine.domain)


@rule(SHAPE)
def tp_divides_heads(proposal: Proposal) -> Verdict:
    """A rank has whole query heads: tp divides their number."""
    p, heads = proposal.points, proposal.setting.model.heads
    return Verdict(
        heads % p.tp == 0,
        lambda: (
            f"{heads} query heads over tp={p.tp[0]}: take tp of "
            f"{divisors_text(heads, proposal.setting.machine.devices)}"
        ),
    )


@rule(SHAPE)
def kv_heads_divide(proposal: Proposal) -> Verdict:
    """KV heads stay whole, with equal numbers of copies: tp divides the number of KV heads, or is a multiple of it."""
    p, heads = proposal.points, proposal.setting.model.kv_heads
    return Verdict(
        (heads % p.tp == 0) | (p.tp % heads == 0),
        lambda: f"{heads} KV heads over tp={p.tp[0]}: take tp of {divisors_text(heads)}, or a multiple of {heads}",
    )


@rule(SHAPE)
def stages_have_layers(proposal: Proposal) -> Verdict:
    """A pipeline stage has at least one layer."""
    p, layers = proposal.points, proposal.setting.model.layers
    return Verdict(p.pp <= layers, lambda: f"{layers} layers over pp={p.pp[0]} stages: take at most {layers}")


@rule(SHAPE)
def dense_has_no_expert_widths(proposal: Proposal) -> Verdict:
    """A model without routed experts has ep = expert_tp = 1 and no redundant experts."""
    p = proposal.points
    plain = (p.ep == 1) & (p.expert_tp == 1) & (p.redundant == 0)
    return Verdict(
        plain | bool(proposal.setting.experts),
        lambda: (
            f"ep={p.ep[0]}, expert_tp={p.expert_tp[0]}, redundant={p.redundant[0]}, but "
            f"{proposal.setting.model.name} has no routed experts: leave these settings out"
        ),
    )


@rule(SHAPE)
def dense_has_no_attention_dp(proposal: Proposal) -> Verdict:
    """A model without routed experts has dp = 1: its dp ranks would share nothing, so they are separate instances."""
    p = proposal.points
    return Verdict(
        (p.dp == 1) | bool(proposal.setting.experts),
        lambda: (
            f"dp={p.dp[0]}, but {proposal.setting.model.name} has no routed experts that the ranks could share: "
            f"take dp=1 and {p.dp[0]} replicas"
        ),
    )


@rule(SHAPE)
def experts_cover_instance(proposal: Proposal) -> Verdict:
    """The experts of a layer lie on all devices of a pipeline stage: ep x expert_tp = tp x dp."""
    p = proposal.points
    return Verdict(
        (p.ep * p.expert_tp == p.tp * p.dp) | (proposal.setting.experts is None),
        lambda: (
            f"ep x expert_tp = {p.ep[0] * p.expert_tp[0]}, tp x dp = {p.tp[0] * p.dp[0]}: with ep={p.ep[0]} take "
            + (f"expert_tp={p.tp[0] * p.dp[0] // p.ep[0]}" if p.tp[0] * p.dp[0] % p.ep[0] == 0 else "another ep")
            + f", or ep of {divisors_text(int(p.tp[0] * p.dp[0]))}"
        ),
    )


@rule(SHAPE)
def engine_lays_experts_out(proposal: Proposal) -> Verdict:
    """The engine can lay out the experts in this way. Some engines allow only one of two widths above 1."""
    p, engine = proposal.points, proposal.setting.engine
    layout = engine.expert_layout
    if layout is None or proposal.setting.experts is None:
        return Verdict(np.ones_like(p.tp, dtype=bool), lambda: "")
    return Verdict(
        np.sum([getattr(p, width) > 1 for width in layout.one_of], axis=0) <= 1,
        lambda: (
            f"{engine.name} cannot run tp={p.tp[0]}, dp={p.dp[0]}, ep={p.ep[0]}, expert_tp={p.expert_tp[0]}: "
            f"{layout.why}; take widths that it can run, or --engine {layout.instead}"
        ),
    )


@rule(SHAPE)
def experts_divide(proposal: Proposal) -> Verdict:
    """Every rank has the same number of experts: ep divides the experts and their redundant copies together."""
    p, experts = proposal.points, proposal.setting.experts
    placed = (experts.count if experts else 0) + p.redundant
    return Verdict(
        placed % p.ep == 0,
        lambda: (
            f"{placed[0]} experts over ep={p.ep[0]}: add {-placed[0] % p.ep[0]} redundant experts, which makes "
            f"{-(-placed[0] // p.ep[0])} a rank"
        ),
    )


@rule(SHAPE)
def copies_are_placed(proposal: Proposal) -> Verdict:
    """Redundant experts need ep above 1, and their number is at most the number of the model's experts."""
    p, experts = proposal.points, proposal.setting.experts
    most = experts.count if experts else 0
    return Verdict(
        (p.redundant == 0) | ((p.ep > 1) & (p.redundant <= most)),
        lambda: f"{p.redundant[0]} redundant experts at ep={p.ep[0]}: take ep above 1 and at most {most}",
    )


@rule(SHAPE)
def experts_slice_in_blocks(proposal: Proposal) -> Verdict:
    """expert_tp cuts the width of an expert into equal slices, and no cut is inside a block that shares one scale."""
    p, experts = proposal.points, proposal.setting.experts
    width = experts.intermediate if experts else 0
    block = _expert_block(proposal.setting)
    return Verdict(
        width % (p.expert_tp * block) == 0,
        lambda: (
            f"experts {width} wide in blocks of {block} over expert_tp={p.expert_tp[0]}: take expert_tp of "
            f"{divisors_text(width // block)}"
        ),
    )


def _expert_block(setting: Setting) -> int:
    """Elements of an expert's width that share one scale; 1 for formats without such blocks."""
    forms = {m.format.name for block in setting.model.blocks for m in block.matrices if m.part == "experts"}
    return max((BLOCK.get(form, 1) for form in forms), default=1)


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────


@rule(SHAPE)
def drafts_exist(proposal: Proposal) -> Verdict:
    """Multi-token prediction needs draft layers in the checkpoint."""
    p, model = proposal.points, proposal.setting.model
    return Verdict(
        (p.draft == 0) | bool(model.draft),
        lambda: f"draft_tokens={p.draft[0]}, but {model.name} has no draft layers: take draft_tokens=0",
    )


@rule(SHAPE)
def overlap_has_traffic(proposal: Proposal) -> Verdict:
    """Two-batch overlap hides dispatch and combine of experts: it needs ep above 1."""
    p = proposal.points
    return Verdict(
        (p.overlap == OVERLAPS.index("none")) | (p.ep > 1),
        lambda: f"two-batch overlap at ep={p.ep[0]} has nothing to hide: take overlap=none",
    )


@rule(SHAPE)
def kv_dtype_is_there(proposal: Proposal) -> Verdict:
    """An FP8 KV cache needs a device that has FP8."""
    p, machine = proposal.points, proposal.setting.machine
    return Verdict(
        (p.kv != KV_DTYPES.index("fp8")) | ("fp8" in machine.peak),
        lambda: f"{machine.device} has no FP8: take kv_dtype=bf16",
    )


@rule(SHAPE)
def context_fits_model(proposal: Proposal) -> Verdict:
    """A request (isl + osl) is not longer than the context limit of the model."""
    workload, model, most = proposal.setting.workload, proposal.setting.model, proposal.setting.model.max_context
    need = workload.isl + workload.osl
    return Verdict(
        np.full(len(proposal.points), need <= most),
        lambda: f"isl + osl = {need:,.0f} tokens, {model.name} reads {most:,}: {way_out(model, need)}",
    )


@rule(SHAPE)
def chunk_holds_batch(proposal: Proposal) -> Verdict:
    """The token budget of a step is enough for one token and all drafts of each running sequence."""
    p = proposal.points
    need = p.max_sequences * (1 + p.draft)
    return Verdict(
        p.chunk_tokens >= need,
        lambda: (
            f"{p.max_sequences[0]} sequences of {1 + p.draft[0]} tokens a step, chunk_tokens={p.chunk_tokens[0]}: "
            f"take max_sequences of at most {p.chunk_tokens[0] // (1 + p.draft[0])}"
        ),
    )


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────


@rule(MEMORY)
def weights_fit(proposal: Proposal) -> Verdict:
    """Weights, activations, buffers and the engine's reserve leave device memory for the KV cache."""
    room = proposal.room

    def why() -> str:
        used = {
            "weights": room.weights,
            "activations": room.activations,
            "buffers": room.buffers,
            "reserve": room.reserve,
        }
        parts = ", ".join(f"{name} {np.max(part) / 1e9:.1f}" for name, part in used.items())
        short, usable = -np.max(room.kv) / 1e9, np.max(room.usable) / 1e9
        return f"short by {short:.1f} GB a device: {parts} GB; usable {usable:.1f} GB: take more devices, or ep above 1"

    return Verdict(np.asarray(room.kv > 0), why)


@rule(MEMORY)
def cache_holds_a_request(proposal: Proposal) -> Verdict:
    """The KV cache of each rank holds at least one whole request."""
    workload, per_rank = proposal.setting.workload, proposal.room.kv_tokens / proposal.points.dp
    need = workload.isl + workload.osl
    return Verdict(
        (per_rank >= need) | (proposal.room.kv <= 0),
        lambda: (
            f"{np.max(per_rank):,.0f} KV tokens a rank, a request needs {need:,.0f}: take more devices a rank "
            "(tp or pp), kv_dtype=fp8 or a smaller chunk_tokens"
        ),
    )
