"""Candidate instances of one role as arrays (no object per candidate), and the setting in which rules judge them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenworks.arrays import Ints
from tokenworks.costs.split import KV_BYTES, Split
from tokenworks.specs.deployment import Overlap, Parallel, Role, RoleName
from tokenworks.specs.engine import Engine
from tokenworks.specs.given import Given
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Experts, Model
from tokenworks.specs.workload import Workload

KV_DTYPES: tuple[str, ...] = tuple(KV_BYTES)
OVERLAPS: tuple[Overlap, ...] = ("none", "two-batch")


@dataclass(frozen=True, slots=True)
class Setting:
    """What a plan is made for.

    Parameters
    ----------
    given : numbers that a user put in place of those of the catalog, in the other four
    """

    model: Model
    machine: Machine
    engine: Engine
    workload: Workload
    given: tuple[Given, ...] = ()

    @property
    def experts(self) -> Experts | None:
        """The routed experts of the layer that has most of them; None for a model without routed experts."""
        routed = [block.experts for block in self.model.blocks if block.experts]
        return max(routed, key=lambda experts: experts.count) if routed else None

    @property
    def memory_fraction(self) -> float:
        """Share of device memory that the engine takes by default [-]."""
        assert self.engine.memory_fraction.value is not None
        return self.engine.memory_fraction.value


@dataclass(frozen=True, slots=True)
class Points:
    """Candidate instances of one role. Each field is an array with one element per candidate, or broadcasts to it.

    Parameters
    ----------
    tp, pp, dp : tensor, pipeline and attention-data parallel widths [count]
    ep, expert_tp : expert-parallel ranks, and devices that share one expert [count]
    redundant : redundant copies of experts [count]
    kv : dtype of the KV cache, as index into `KV_DTYPES`
    draft : draft tokens per step; 0 = no speculation [token]
    overlap : overlap policy, as index into `OVERLAPS`
    max_sequences : running sequences of the instance [count]
    chunk_tokens : token budget of one step of the instance [token]
    """

    tp: Ints
    pp: Ints
    dp: Ints
    ep: Ints
    expert_tp: Ints
    redundant: Ints
    kv: Ints
    draft: Ints
    overlap: Ints
    max_sequences: Ints
    chunk_tokens: Ints

    def __len__(self) -> int:
        return len(self.tp)

    def __getitem__(self, chosen: Any) -> Points:
        """The points that a mask, a slice or an index array selects."""
        return Points(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    @property
    def devices(self) -> Ints:
        """Devices of one instance."""
        return self.tp * self.pp * self.dp

    @property
    def lanes(self) -> Ints:
        """Batches that an instance runs at the same time: dp ranks x pipeline stages, because each stage of a rank has
        a microbatch. A request is in one lane, so it gets the share 1 / lanes of the instance.
        """
        return self.dp * self.pp

    def columns(self, axes: int) -> Points:
        """The same points with `axes` more axes of length 1 at the end, to broadcast against ladders."""
        shape = (-1,) + (1,) * axes
        return Points(*(getattr(self, field.name).reshape(shape) for field in dataclasses.fields(self)))

    def split(self) -> Split:
        """The parallel widths in the form of the cost functions."""
        return Split(
            tp=self.tp,
            pp=self.pp,
            dp=self.dp,
            ep=self.ep,
            expert_tp=self.expert_tp,
            redundant=self.redundant,
            kv_bytes=np.array([KV_BYTES[name] for name in KV_DTYPES])[self.kv],
            draft_tokens=self.draft,
        )

    def role(self, name: RoleName, index: int, setting: Setting, **changes: Any) -> Role:
        """One point as a `Role`.

        Parameters
        ----------
        name : name of the role
        index : place of the point in the arrays
        setting : setting with the memory fraction of the engine
        changes : fields of `Role` that the search has decided (batch, chunk, replicas), in place of those of the point
        """
        sizes = {"max_sequences": int(self.max_sequences[index]), "chunk_tokens": int(self.chunk_tokens[index])}
        return Role(
            name=name,
            parallel=Parallel(
                tp=int(self.tp[index]),
                pp=int(self.pp[index]),
                dp=int(self.dp[index]),
                ep=int(self.ep[index]),
                expert_tp=int(self.expert_tp[index]),
            ),
            kv_dtype=KV_DTYPES[int(self.kv[index])],
            redundant_experts=int(self.redundant[index]),
            draft_tokens=int(self.draft[index]),
            overlap=OVERLAPS[int(self.overlap[index])],
            memory_fraction=setting.memory_fraction,
            **(sizes | changes),
        )

    @classmethod
    def of(cls, role: Role) -> Points:
        """A role as arrays of length 1."""
        parallel = role.parallel
        values = (
            parallel.tp, parallel.pp, parallel.dp, parallel.ep, parallel.expert_tp, role.redundant_experts,
            KV_DTYPES.index(role.kv_dtype), role.draft_tokens, OVERLAPS.index(role.overlap),
            role.max_sequences, role.chunk_tokens,
        )  # fmt: skip
        return cls(*(np.array([value]) for value in values))
