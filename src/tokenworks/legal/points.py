"""Deployments of one role as arrays, and the setting that they are judged in. No object per candidate."""

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
        """The routed experts of the model; of the layer with most, where layers differ."""
        routed = [block.experts for block in self.model.blocks if block.experts]
        return max(routed, key=lambda experts: experts.count) if routed else None

    @property
    def memory_fraction(self) -> float:
        """Share of device memory that the engine takes by default [-]."""
        assert self.engine.memory_fraction.value is not None
        return self.engine.memory_fraction.value


@dataclass(frozen=True, slots=True)
class Points:
    """Instances of one role: n of each, or anything that broadcasts.

    kv : index into `KV_DTYPES`; overlap : index into `OVERLAPS`
    max_sequences, chunk_tokens : per instance
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
        """The points that a mask, slice or index array chooses."""
        return Points(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    @property
    def devices(self) -> Ints:
        """Devices of one instance."""
        return self.tp * self.pp * self.dp

    @property
    def lanes(self) -> Ints:
        """Batches that an instance works on side by side: dp ranks, each with a microbatch in every pipeline stage.

        A request is in one of them, and has that share of the instance.
        """
        return self.dp * self.pp

    def columns(self, axes: int) -> Points:
        """The same with `axes` axes of length 1 behind, to broadcast against ladders."""
        shape = (-1,) + (1,) * axes
        return Points(*(getattr(self, field.name).reshape(shape) for field in dataclasses.fields(self)))

    def split(self) -> Split:
        """As the cost functions take it."""
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
        """One of them as a `Role`; `changes` replace what the search has settled (batch, chunk, replicas)."""
        settled = {"max_sequences": int(self.max_sequences[index]), "chunk_tokens": int(self.chunk_tokens[index])}
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
            **(settled | changes),
        )

    @classmethod
    def of(cls, role: Role) -> Points:
        """The one point that a role is."""
        parallel = role.parallel
        values = (
            parallel.tp, parallel.pp, parallel.dp, parallel.ep, parallel.expert_tp, role.redundant_experts,
            KV_DTYPES.index(role.kv_dtype), role.draft_tokens, OVERLAPS.index(role.overlap),
            role.max_sequences, role.chunk_tokens,
        )  # fmt: skip
        return cls(*(np.array([value]) for value in values))
