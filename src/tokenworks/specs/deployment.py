"""A deployment: a model on a machine, as roles. `plan` writes deployments, and other commands read them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from tokenworks.errors import SpecError
from tokenworks.specs.provenance import Spec
from tokenworks.specs.scheduling import Scheduling
from tokenworks.specs.tier import ByOneValue, KvLoad, KvLoadFailure, Tier, must_be_ordered

SCHEMA = "tokenworks.deployment/1"

RoleName = Literal["aggregated", "prefill", "decode"]
ROLES: tuple[RoleName, ...] = get_args(RoleName)
"""Names of roles, in the order in which a request passes them."""

_ATTENTION_FFN = (
    "attention and FFN on devices of their own are not modelled: what is missing is the exchange of activations in "
    "every layer of a step, and the pipeline of micro-batches that hides it; take aggregated, or prefill and decode, "
    "with ep = tp x dp"
)
NOT_MODELLED = {
    "attention": _ATTENTION_FFN,
    "ffn": _ATTENTION_FFN,
    "encoder": "a pool of encoders is not modelled: what is missing is the cost of vision and audio encoders, images "
    "in requests, and the transfer of embeddings; leave the role out: requests are text",
}
"""Roles of other systems -> why a deployment cannot have them."""

RouterName = Literal["round_robin", "least_loaded", "power_of_two", "prefix_aware"]
Overlap = Literal["none", "two-batch"]
EngineName = Literal["vllm", "sglang", "trtllm", "atom"]
LAUNCHED_ENGINES: tuple[EngineName, ...] = ("vllm", "sglang")
"""Engines whose launch commands `emit` writes."""
OnLoss = Literal["fail", "restart", "migrate"]
ELASTIC_ENGINES: tuple[EngineName, ...] = ("vllm", "sglang")
"""Engines that can go on with fewer expert-parallel ranks (vLLM: --enable-elastic-ep, SGLang: --elastic-ep-backend)."""
Count = Annotated[int, Field(ge=1, le=10**9)]
Width = Annotated[int, Field(ge=1, le=10**6)]  # no machine has more devices


def _is_none(value: object) -> bool:
    """Whether a field is left out of a file since it has no value."""
    return value is None


class Parallel(Spec):
    """How one instance is split over tp x pp x dp devices.

    Parameters
    ----------
    tp : tensor-parallel width of attention and dense FFN
    pp : pipeline stages
    dp : ranks of data-parallel attention
    ep : groups that the experts are divided over; with 1, each group of `expert_tp` devices holds all experts
    expert_tp : devices that share one expert; printed as etp. For a model with experts, ep x expert_tp = tp x dp
    """

    tp: Width = 1
    pp: Width = 1
    dp: Width = 1
    ep: Width = 1
    expert_tp: Width = 1

    @property
    def devices(self) -> int:
        """Devices of one instance."""
        return self.tp * self.pp * self.dp

    def __str__(self) -> str:
        named = {"tp": self.tp, "pp": self.pp, "dp": self.dp, "ep": self.ep, "etp": self.expert_tp}
        return " ".join(f"{k}{v}" for k, v in named.items() if v > 1) or "tp1"


class Eplb(Spec):
    """When an instance moves its experts (EPLB): the engine counts the tokens of each expert, and places copies anew.

    Parameters
    ----------
    every_steps : steps between two rebalances [count]
    window_steps : last steps whose counts decide; None: 1,000 for vLLM, all steps since the last rebalance for SGLang
        [count]
    in_background : whether steps run while copies are moved; None: as the engine does (vLLM: yes, SGLang: no)
    min_utilization : no copies are moved while mean load / load of the hottest rank is above this share [-]
    """

    every_steps: Count = 3000
    window_steps: Count | None = Field(default=None, exclude_if=_is_none)
    in_background: bool | None = Field(default=None, exclude_if=_is_none)
    min_utilization: Annotated[float, Field(gt=0, le=1)] = 1.0


class Role(Spec):
    """Equal instances that do one job.

    Parameters
    ----------
    name : the job: "aggregated" (prefill and decode), "prefill" or "decode"
    parallel : how one instance is split over its devices
    replicas : instances [count]
    max_sequences : most sequences that run in one instance [count]
    chunk_tokens : token budget of one step of one instance [token]
    kv_dtype : storage of the KV cache
    redundant_experts : additional copies of experts [count]
    eplb : when the instance moves its experts; None: with redundant experts, as the engine does it by default
    draft_tokens : tokens that MTP drafts for a sequence in one step, 0 = off [token]
    overlap : "two-batch" hides communication behind the other half of the batch
    memory_fraction : share of device memory that the engine may take [-]
    """

    name: RoleName = "aggregated"
    parallel: Parallel = Parallel()
    replicas: Width = 1
    max_sequences: Count = 256
    chunk_tokens: Count = 8192
    kv_dtype: Literal["bf16", "fp8"] = "bf16"
    redundant_experts: Annotated[int, Field(ge=0, le=10**6)] = 0
    eplb: Eplb | None = Field(default=None, exclude_if=_is_none)
    draft_tokens: Annotated[int, Field(ge=0, le=8)] = 0
    overlap: Overlap = "none"
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9

    @model_validator(mode="before")
    @classmethod
    def _has_no_tiers(cls, data: Any) -> Any:
        if isinstance(data, dict) and "tiers" in data:
            raise ValueError(
                "tiers: KV tiers belong to the deployment, beside roles: the role that computes prompts (aggregated or "
                "prefill) uses them. A decode role has no prefix cache"
            )
        return data

    @field_validator("name", mode="before")
    @classmethod
    def _is_modelled(cls, name: Any) -> Any:
        if isinstance(name, str) and name in NOT_MODELLED:
            raise ValueError(f"role {name}: {NOT_MODELLED[name]}")
        return name

    @model_validator(mode="after")
    def _eplb_has_ranks(self) -> Role:
        if self.eplb is not None and self.parallel.ep == 1:
            raise ValueError("eplb: experts are moved between ranks of expert parallelism, and ep is 1: set ep, or "
                             "leave eplb out")  # fmt: skip
        return self

    @property
    def devices(self) -> int:
        """Devices of all replicas."""
        return self.replicas * self.parallel.devices

    @property
    def can_shrink(self) -> bool:
        """Whether an instance has ranks that it could do without: dp ranks that hold whole experts, in one stage."""
        wide = self.parallel
        return wide.dp > 1 and wide.ep > 1 and wide.pp == 1 and wide.expert_tp == 1


def _is_unset(value: object) -> bool:
    """Whether a field that only few deployments have can be left out of a file."""
    return not value


def _is_fail(value: object) -> bool:
    """Whether `on_loss` has the value that a file leaves out."""
    return value == "fail"


RETRIES = 3
"""Most restarts or migrations of a request, for a deployment that names no number; assumed [count]."""


class Deployment(Spec):
    """A model on a machine, with one aggregated role, or with a prefill role and a decode role in this order.

    Parameters
    ----------
    model : catalog id, path of a config.json, or id in the local Hugging Face cache
    system : machine, as `--on` takes it
    engine : serving engine
    roles : one aggregated role, or prefill and decode
    router : how a request finds its instance and rank. None: prefix_aware if requests share prefixes, else least_loaded
    prefix_caching : whether instances keep the KV cache of finished requests for later requests with the same prefix
    max_model_len : longest input + output of a request that the engine accepts; None: the limit of the model [token]
    scheduling : order of the requests that wait for prefill; a name, or a name with its parameters
    devices_per_host : devices of one host node of the system; None: not in the file [count]
    tiers : levels of the KV cache below device memory, the fastest first; or the name of a set-up, such as "hicache".
        The role that computes prompts (aggregated or prefill) uses them
    kv_load : how a request waits for its blocks from a tier: "layerwise" joins the step while layers are loaded;
        "async" waits beside the queue. None: as the set-up or the engine does
    kv_load_failure : what happens to a request whose read fails: "recompute" or "fail". None: as the set-up or the
        engine does
    elastic_ep : whether an instance goes on without the ranks of a failed device: expert parallelism shrinks to the
        ranks that are left. False: the whole instance stops
    spares : devices that no role uses. A failed device is replaced by one of them at once [count]
    on_loss : what happens to the requests of a failed rank: "fail"; "restart" sends a request to another rank, and its
        tokens are thrown away; "migrate" sends a request with its tokens so far, which the new rank prefills
    retries : most restarts or migrations of one request; the request fails after these. None: `RETRIES` [count]
    """

    model: str
    system: str
    engine: EngineName = "vllm"
    roles: tuple[Role, ...]
    router: RouterName | None = None
    prefix_caching: bool = True
    max_model_len: Count | None = None
    scheduling: Scheduling = Scheduling()
    devices_per_host: Width | None = None
    tiers: Annotated[tuple[Tier, ...], ByOneValue()] = Field(default=(), exclude_if=_is_unset)
    kv_load: KvLoad | None = Field(default=None, exclude_if=_is_unset)
    kv_load_failure: KvLoadFailure | None = Field(default=None, exclude_if=_is_unset)
    elastic_ep: bool = Field(default=False, exclude_if=_is_unset)
    spares: Annotated[int, Field(ge=0, le=10**6)] = Field(default=0, exclude_if=_is_unset)
    on_loss: OnLoss = Field(default="fail", exclude_if=_is_fail)
    retries: Annotated[int, Field(ge=1, le=1000)] | None = Field(default=None, exclude_if=_is_unset)

    @model_validator(mode="before")
    @classmethod
    def _named_tiers(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("tiers"), str):
            from tokenworks.specs.tier_setup import with_setup

            return with_setup(data)
        return data

    @model_validator(mode="after")
    def _tiers_work(self) -> Deployment:
        from tokenworks.specs.tier_setup import must_be_offered_by

        if not self.tiers:
            unused = [name for name in ("kv_load", "kv_load_failure") if getattr(self, name) is not None]
            if unused:
                raise ValueError(f"{unused[0]}: there are no tiers: write tiers, or leave {unused[0]} out")
            return self
        if not self.prefix_caching:
            raise ValueError("tiers: prefix_caching is false, so no block is ever looked up: set prefix_caching: true")
        must_be_ordered(self.tiers)
        try:
            must_be_offered_by(self.engine, self.tiers, self.kv_load, self.kv_load_failure)
        except SpecError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _failures_work(self) -> Deployment:
        if self.retries is not None and self.on_loss == "fail":
            raise ValueError("retries: on_loss is fail, so no request is sent again: write on_loss: restart or migrate")
        if not self.elastic_ep:
            return self
        if self.engine not in ELASTIC_ENGINES:
            raise ValueError(
                f"elastic_ep: {self.engine} has no elastic expert parallelism: take engine "
                f"{' or '.join(ELASTIC_ENGINES)}, or leave elastic_ep out"
            )
        if not any(role.can_shrink for role in self.roles):
            raise ValueError(
                f"elastic_ep: no role of {self} can lose a rank: a role needs dp and ep above 1, pp 1 and expert_tp 1 "
                "(a model with experts). Take such a role, or leave elastic_ep out"
            )
        return self

    @field_validator("roles")
    @classmethod
    def _in_order(cls, roles: tuple[Role, ...]) -> tuple[Role, ...]:
        names = sorted(role.name for role in roles)
        if names not in (["aggregated"], ["decode", "prefill"]):
            raise ValueError(f"roles {names}: write one aggregated role, or one prefill and one decode role")
        return tuple(sorted(roles, key=lambda role: ROLES.index(role.name)))

    @property
    def devices(self) -> int:
        """Devices in use."""
        return sum(role.devices for role in self.roles)

    def __str__(self) -> str:
        return " + ".join(
            f"{role.replicas}x{role.name}[{role.parallel}]"
            if role.name != "aggregated"
            else f"{role.replicas}x[{role.parallel}]"
            for role in self.roles
        )
