"""Scheduling policies that a deployment may name, for requests that wait for prefill."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, cast, get_args

from pydantic import Field, field_validator, model_serializer, model_validator
from typing_extensions import TypedDict

from tokenworks.specs.provenance import Spec

SchedulingName = Literal["fcfs", "shortest_prefill", "interleaved", "cold_pool"]
SCHEDULINGS: tuple[SchedulingName, ...] = get_args(SchedulingName)

DEFAULTS: dict[SchedulingName, dict[str, float]] = {
    "fcfs": {},
    "shortest_prefill": {"ageing_s": 1e-4},
    "interleaved": {"long_prefill_tokens": 2048},
    "cold_pool": {"cold_tokens": 8192, "cold_ranks": 1},
}
"""Policy -> its parameters and their defaults, which are our choice: no engine publishes a default."""

OPTIONAL: dict[SchedulingName, tuple[str, ...]] = {"shortest_prefill": ("long_prefill_tokens",)}
"""Policy -> parameters of another policy that it may have beside its own."""

NO_AGE = 3600.0
"""Largest `ageing_s`: one uncached token counts as an hour, so the shortest prompt goes first, however late [s]."""

Tokens = Annotated[int, Field(ge=1, le=10**9)]


class SchedulingPlain(TypedDict):
    """A policy with its parameters as plain data; a policy without parameters is its name alone."""

    name: SchedulingName
    ageing_s: NotRequired[float]
    long_prefill_tokens: NotRequired[int]
    cold_tokens: NotRequired[int]
    cold_ranks: NotRequired[int]


class Scheduling(Spec):
    """How requests that wait for prefill share a deployment. The policy is for aggregated and prefill roles.

    fcfs : first come, first served, in each class of priority
    shortest_prefill : fewest uncached tokens first, with an age. Each uncached token of a prompt, when it reaches its
        rank, counts as `ageing_s` of later arrival; so no prompt waits for ever (SGLang: --schedule-policy
        shortest-prefill-first; with an age: SGLang pull request 30806, and PrefillOnly, SOSP 2025, arXiv:2505.07203)
    interleaved : one prompt takes at most `long_prefill_tokens` of a step of its rank, and shorter prompts take the
        rest (vLLM: --long-prefill-token-threshold). shortest_prefill may have `long_prefill_tokens` beside its age: its
        order alone does not help a short prompt that comes while a long one is computed
    cold_pool : prompts with more than `cold_tokens` uncached tokens go to `cold_ranks` ranks of their own, and all
        others to the other ranks (LAPS, MLSys 2026, arXiv:2601.11589: prefill instances for long prompts). It needs the
        router prefix_aware

    Parameters
    ----------
    name : the policy
    ageing_s : wait that one uncached token counts as [s]
    long_prefill_tokens : most tokens of one prompt in one step of a rank [token]
    cold_tokens : most uncached tokens of a warm prompt [token]
    cold_ranks : dp ranks of the first role for cold prompts, whole instances first [count]
    """

    name: SchedulingName = "fcfs"
    ageing_s: Annotated[float, Field(ge=0, le=NO_AGE, allow_inf_nan=False)] | None = None
    long_prefill_tokens: Tokens | None = None
    cold_tokens: Annotated[int, Field(ge=0, le=10**9)] | None = None
    cold_ranks: Tokens | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, raw: Any) -> Any:
        """A name alone is short for the policy with its defaults."""
        data = {"name": raw} if isinstance(raw, str) else raw
        if isinstance(data, dict) and data.get("name", "fcfs") in SCHEDULINGS:
            given = {key: value for key, value in data.items() if value is not None}
            return {**DEFAULTS[data.get("name", "fcfs")], **given}
        return data

    @field_validator("name", mode="before")
    @classmethod
    def _known(cls, name: Any) -> Any:
        if name not in SCHEDULINGS:
            raise ValueError(f"unknown policy {name!r}: write one of {', '.join(SCHEDULINGS)}")
        return name

    @model_validator(mode="after")
    def _own_parameters(self) -> Scheduling:
        own = [*DEFAULTS[self.name], *OPTIONAL.get(self.name, ())]
        for name in type(self).model_fields:
            if name != "name" and getattr(self, name) is not None and name not in own:
                owner = next(policy for policy, parameters in DEFAULTS.items() if name in parameters)
                has = f"has {' and '.join(own)}" if own else "has no parameters"
                raise ValueError(f"{name} belongs to {owner}; {self.name} {has}")
        return self

    @property
    def parameters(self) -> dict[str, float | int]:
        """The parameters that have a value."""
        names = (name for name in type(self).model_fields if name != "name")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @model_serializer(mode="plain")
    def _short(self) -> SchedulingName | SchedulingPlain:
        """The name alone if the policy has no parameters."""
        whole = cast(SchedulingPlain, {"name": self.name, **self.parameters})
        return whole if self.parameters else self.name

    def __str__(self) -> str:
        own = ", ".join(f"{name} {value:g}" for name, value in self.parameters.items())
        return f"{self.name} ({own})" if own else self.name


def what_if(scheduling: Scheduling, scheduler: str) -> str:
    """A sentence that says that an engine does not have the policy; empty if the engine has it.

    Parameters
    ----------
    scheduling : the policy
    scheduler : scheduler of the engine, "vllm" or "sglang"
    """
    begin = f"scheduling {scheduling.name} is a what-if:"
    if scheduling.name == "cold_pool":
        return f"{begin} no router of the engines has cold ranks"
    if scheduling.name == "shortest_prefill" and scheduler == "vllm":
        return f"{begin} vLLM serves first come, first served"
    if scheduling.name == "shortest_prefill" and scheduling.ageing_s != NO_AGE:
        return f"{begin} shortest-prefill-first of SGLang has no age; ageing_s {NO_AGE:g} comes close"
    return ""
