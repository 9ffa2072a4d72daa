"""How one instance is split over its devices, as arrays: the vectorised form of `specs.deployment.Parallel`."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.arrays import FloatArray
from tokenworks.specs.deployment import Role

KV_BYTES = {"bf16": 2.0, "fp8": 1.0}  # [byte/element]


@dataclass(frozen=True, slots=True)
class Split:
    """Numbers or arrays that broadcast together; tp x pp x dp devices, ep x expert_tp = tp x dp for experts.

    redundant : expert copies beside the model's own; with any, they are placed by load (EPLB)
    kv_bytes : one cached element [byte]
    draft_tokens : tokens that each sequence speculates a step, 0 = off
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
        """The split of one instance of a role."""
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
