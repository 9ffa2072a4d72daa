"""What users send: lengths, reuse and arrival, as statistics. Traces live in `ingest`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from tokenworks.specs.provenance import Spec

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Workload(Spec):
    """One catalog/workloads/*.yaml, or `--isl --osl` from the command line.

    isl, osl : mean input and output length [token]
    isl_cv, osl_cv : coefficient of variation of the lengths
    hit_share : share of input tokens that a prefix cache serves, cold turns included, if the cache holds them
    reused_context : tokens a session keeps warm between turns [token]; 0 = nothing to keep
    think_time : mean time between an answer and the next turn of its session [s]; 0 = independent requests
    rate : requests per second, or None; concurrency : requests in flight, or None (then `plan` finds the best)
    """

    name: str
    title: str = ""
    isl: Positive
    osl: Positive
    isl_cv: Annotated[float, Field(ge=0)] = 0.0
    osl_cv: Annotated[float, Field(ge=0)] = 0.0
    hit_share: Share = 0.0
    reused_context: Annotated[float, Field(ge=0)] = 0.0
    think_time: Annotated[float, Field(ge=0)] = 0.0
    rate: Positive | None = None
    concurrency: Positive | None = None
    slo: str = ""
    source: str = ""

    @model_validator(mode="after")
    def _one_load(self) -> Workload:
        if self.rate is not None and self.concurrency is not None:
            raise ValueError("give rate or concurrency, not both")
        return self
