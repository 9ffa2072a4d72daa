"""Parallel widths of one instance, as numbers or arrays: the vectorised form of `specs.deployment.Parallel`."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.arrays import FloatArray
from tokenworks.specs.deployment import Role

KV_BYTES = {"bf16": 2.0, "fp8": 1.0}  # [byte/element]


@dataclass(frozen=True, slots=True)
class Split:
    """Parallel widths of an instance. The fields are numbers or arrays that broadcast together.

    An instance has tp x pp x dp devices, and ep x expert_tp = tp x dp for a model with experts.

    Parameters
    ----------
    tp : tensor-parallel width [count]
    pp : pipeline stages [count]
    dp : attention data-parallel ranks [count]
    ep : expert-parallel ranks [count]
    expert_tp : devices that share one expert [count]
    redundant : redundant copies of experts; if there are any, experts are placed by load (EPLB) [count]
    kv_bytes : size of one cached element [byte/element]
    draft_tokens : tokens that each sequence speculates in a step; 0 = no speculation [token]
    """

    tp: FloatArray = 1
    pp: FloatArray = 1
    dp: FloatArray = 1
    ep: FloatArray = 1
    expert_tp: FloatArray = 1
    redundant: FloatArray = 0
    kv_bytes: FloatArray = 2.0
    draft_tokens: FloatArray = 0

    @classmethod
    def of(cls, role: Role) -> Split:
        """The parallel widths of one instance of a role."""
        parallel = role.parallel
        return cls(
            tp=parallel.tp,
            pp=parallel.pp,
            dp=parallel.dp,
            ep=parallel.ep,
            expert_tp=parallel.expert_tp,
            redundant=role.redundant_experts,
            kv_bytes=KV_BYTES[role.kv_dtype],
            draft_tokens=role.draft_tokens,
        )

    @property
    def devices(self) -> FloatArray:
        """Devices of one instance."""
        return self.tp * self.pp * self.dp
