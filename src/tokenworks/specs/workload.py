"""Statistics of the requests that users send: lengths, reuse of prefixes, arrivals. Single requests are a `Trace`."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tokenworks.errors import SpecError
from tokenworks.specs.provenance import Spec
from tokenworks.specs.slo import CLASS_NAME, CLASSES, PRIORITIES, RequestClass, Slo

Share = Annotated[float, Field(ge=0, le=1)]
LEAST_RATE, MOST_RATE = 1e-9, 1e12  # one request in 30 years, and more than all machines can serve [1/s]
MOST_IN_FLIGHT = 1e8  # the largest supernodes hold about ten thousand requests [count]
# No real workload reaches these bounds. They keep squares and exponentials of the numbers finite.
Length = Annotated[float, Field(ge=1, le=1e9, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Variation = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=LEAST_RATE, le=MOST_RATE, allow_inf_nan=False)]
ROUNDING = 1e-6  # largest difference between 1 and the sum of all shares [-]
InFlight = Annotated[float, Field(ge=1, le=MOST_IN_FLIGHT, allow_inf_nan=False)]


class WorkloadClass(Spec):
    """A share of the requests, or of the sessions if there are sessions, with its own priority and SLO.

    Parameters
    ----------
    name : name of the class
    share : share of the requests or sessions [-]
    priority : 0 is served first, 7 last
    slo : SLO of the class; empty = the SLO of the workload
    """

    name: Annotated[str, Field(pattern=f"^{CLASS_NAME}$")]
    share: Annotated[float, Field(gt=0, le=1)]
    priority: Annotated[int, Field(ge=0, lt=PRIORITIES)] = 0
    slo: str = ""


class Poisson(Spec):
    """Arrivals of independent users."""

    kind: Literal["poisson"] = "poisson"


class Gamma(Spec):
    """Arrivals with gamma gaps.

    Parameters
    ----------
    cv : coefficient of variation of the gaps; 1 is Poisson, a larger one makes clusters, a smaller one even gaps [-]
    """

    kind: Literal["gamma"]
    cv: Annotated[float, Field(ge=0.01, le=100)]


class Burst(Spec):
    """Arrivals in groups of `size` requests at the same time, with equal times between the groups."""

    kind: Literal["burst"]
    size: Annotated[int, Field(ge=1, le=10**9)]


class Diurnal(Spec):
    """Poisson arrivals whose rate follows a sine.

    Parameters
    ----------
    peak : highest rate / mean rate [-]
    period : period of the sine [s]
    """

    kind: Literal["diurnal"]
    peak: Annotated[float, Field(ge=1, le=2)] = 2.0
    period: Annotated[float, Field(gt=0, le=1e9)] = 86400.0


Arrivals = Annotated[Poisson | Gamma | Burst | Diurnal, Field(discriminator="kind")]


class Workload(Spec):
    """One file of catalog/workloads, a user's own file, or `--isl --osl` from the command line.

    Parameters
    ----------
    name, title : name in the catalog, and a title for people
    isl, osl : mean input and output length [token]
    isl_cv, osl_cv : coefficients of variation of the lengths [-]
    hit_share : share of the input tokens that a large enough prefix cache serves; cold turns count, too [-]
    uncached_cv : coefficient of variation of the other input tokens; None = isl_cv. Cold turns make it large [-]
    reused_context : tokens of a session that must stay in the cache between turns; 0 = none [token]
    think_time : mean time between an answer and the next turn of its session; 0 = independent requests [s]
    rate : requests per second; None = no rate is given [1/s]
    concurrency : requests in flight; None = not given. Without rate and concurrency, `plan` finds the best load [count]
    arrivals : arrival process of independent requests, or of sessions; `plan` takes arrivals as Poisson
    slo : SLO that `plan` uses by default
    classes : classes of requests with their own priority and SLO, for `simulate` and `capacity`
    assumed : numbers that are not published, each with its reason; every printed result names them
    source : where the numbers come from
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
            raise ValueError("hit_share needs reused_context: tokens that must stay in the cache for the next turn")
        most = self.isl * (1 + self.isl_cv**2)  # bound of E[u^2] / E[u]: no request computes more than its input
        if self.uncached_cv is not None and self.uncached * (1 + self.uncached_cv**2) > most * (1 + ROUNDING):
            largest = math.sqrt(max(most / self.uncached - 1, 0.0))
            raise ValueError(f"uncached_cv {self.uncached_cv:g}: with this isl_cv it is at most {largest:.3g}")
        names = [one.name for one in self.classes]
        if len(set(names)) < len(names):
            raise ValueError("two classes have the same name")
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
        """The classes of the workload, without their shares."""
        return tuple(
            RequestClass(one.name, one.priority, Slo.parse(one.slo) if one.slo else None) for one in self.classes
        )

    @property
    def uncached(self) -> float:
        """Mean input tokens of a request that must be computed, with a large enough prefix cache [token]."""
        return self.isl * (1 - self.hit_share)
