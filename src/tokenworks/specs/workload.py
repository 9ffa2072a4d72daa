"""What users send: lengths, reuse and arrival, as statistics. Requests one by one are a `Trace`."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tokenworks.errors import SpecError
from tokenworks.specs.provenance import Spec
from tokenworks.specs.slo import CLASS_NAME, CLASSES, PRIORITIES, RequestClass, Slo

Share = Annotated[float, Field(ge=0, le=1)]
LEAST_RATE, MOST_RATE = 1e-9, 1e12  # one request in 30 years; more than all machines serve [1/s]
MOST_IN_FLIGHT = 1e8  # the largest supernodes hold some ten thousand
# These bounds are far beyond anything real; they keep squares and exponentials of the numbers finite.
Length = Annotated[float, Field(ge=1, le=1e9, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Variation = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=LEAST_RATE, le=MOST_RATE, allow_inf_nan=False)]
ROUNDING = 1e-6  # that shares may be off 1
InFlight = Annotated[float, Field(ge=1, le=MOST_IN_FLIGHT, allow_inf_nan=False)]


class WorkloadClass(Spec):
    """A share of the requests (of the sessions, where there are any) with a priority and an SLO of its own.

    priority : 0 is served first, 7 last; slo : empty = that of the workload
    """

    name: Annotated[str, Field(pattern=f"^{CLASS_NAME}$")]
    share: Annotated[float, Field(gt=0, le=1)]
    priority: Annotated[int, Field(ge=0, lt=PRIORITIES)] = 0
    slo: str = ""


class Poisson(Spec):
    """Independent users."""

    kind: Literal["poisson"] = "poisson"


class Gamma(Spec):
    """Gamma gaps; cv : their variation, 1 is Poisson, above it requests come in clumps, below it evenly."""

    kind: Literal["gamma"]
    cv: Annotated[float, Field(ge=0.01, le=100)]


class Burst(Spec):
    """`size` at once, and then nothing until it is time for the next as many."""

    kind: Literal["burst"]
    size: Annotated[int, Field(ge=1, le=10**9)]


class Diurnal(Spec):
    """Poisson with a rate that follows a sine; peak : its highest over its mean; period : of the sine [s]."""

    kind: Literal["diurnal"]
    peak: Annotated[float, Field(ge=1, le=2)] = 2.0
    period: Annotated[float, Field(gt=0, le=1e9)] = 86400.0


Arrivals = Annotated[Poisson | Gamma | Burst | Diurnal, Field(discriminator="kind")]


class Workload(Spec):
    """One catalog/workloads/*.yaml, or `--isl --osl` from the command line.

    isl, osl : mean input and output length [token]
    isl_cv, osl_cv : coefficient of variation of the lengths
    hit_share : share of input tokens that a prefix cache serves, cold turns included, if the cache holds them
    uncached_cv : coefficient of variation of the tokens that it does not serve; None = isl_cv. Cold turns make it large
    reused_context : tokens a session keeps warm between turns [token]; 0 = nothing to keep
    think_time : mean time between an answer and the next turn of its session [s]; 0 = independent requests
    rate : requests per second, or None; concurrency : requests in flight, or None (then `plan` finds the best)
    arrivals : how independent requests, or sessions, come at the rate; `plan` takes them as Poisson
    slo : what `plan` holds it to unless told otherwise
    classes : who of its requests is served first, and promised what; for `simulate` and `capacity`
    assumed : what in it nobody published, and why it stands there; whoever prints a result names it
    """

    name: str
    title: str = ""
    isl: Length
    osl: Length
    isl_cv: Variation = 0.0
    osl_cv: Variation = 0.0
    hit_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    uncached_cv: Variation | None = None
    reused_context: NotNegative = 0.0
    think_time: NotNegative = 0.0
    rate: Rate | None = None
    concurrency: InFlight | None = None
    arrivals: Arrivals = Poisson()
    slo: str = ""
    classes: Annotated[tuple[WorkloadClass, ...], Field(max_length=CLASSES)] = ()
    assumed: tuple[str, ...] = ()
    source: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Workload:
        if self.rate is not None and self.concurrency is not None:
            raise ValueError("give rate or concurrency, not both")
        if self.hit_share > 0 and self.reused_context <= 0:
            raise ValueError("hit_share needs reused_context: what a session must keep warm for its next turn to hit")
        most = self.isl * (1 + self.isl_cv**2)  # of E[u^2] / E[u]: no request computes more than its input
        if self.uncached_cv is not None and self.uncached * (1 + self.uncached_cv**2) > most * (1 + ROUNDING):
            largest = math.sqrt(max(most / self.uncached - 1, 0.0))
            raise ValueError(f"uncached_cv {self.uncached_cv:g}: inputs vary so that it is {largest:.3g} at most")
        names = [one.name for one in self.classes]
        if len(set(names)) < len(names):
            raise ValueError("two classes have one name")
        if self.classes and abs(sum(one.share for one in self.classes) - 1) > ROUNDING:
            raise ValueError(f"shares of classes add up to {sum(one.share for one in self.classes):g}, not 1")
        try:
            for where, text in (("slo", self.slo), *((f"classes {one.name} slo", one.slo) for one in self.classes)):
                Slo.parse(text, where=where)
        except SpecError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def promised(self) -> tuple[RequestClass, ...]:
        """Its classes, without their shares."""
        return tuple(
            RequestClass(one.name, one.priority, Slo.parse(one.slo) if one.slo else None) for one in self.classes
        )

    @property
    def uncached(self) -> float:
        """Mean input tokens of a request that must be computed, where the cache holds all that it should [token]."""
        return self.isl * (1 - self.hit_share)
