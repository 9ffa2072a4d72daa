"""The source of the requests of a simulation: a recorded trace, or a workload that requests are generated from."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.errors import SpecError, UnknownName
from tokenworks.simulation.run import Traffic
from tokenworks.specs.edits import workload_with
from tokenworks.specs.given import Assume
from tokenworks.specs.load import WorkloadLike
from tokenworks.specs.slo import RequestClass, Slo, SloLike
from tokenworks.specs.trace import Trace
from tokenworks.specs.workload import Workload
from tokenworks.traffic import source as traffic_source
from tokenworks.traffic.generate import BLOCK

MOST_SEED = 2**64 - 1
CLASS_HINT = "a workload lists `classes`, a trace names the `class` of a row"


@dataclass(frozen=True, slots=True)
class Source:
    """A source of requests at any load.

    Parameters
    ----------
    of : the recorded trace, or the workload
    requests : number of requests; None for all requests of a trace, and for the default number of a workload [count]
    seed : seed of all random streams
    told : priorities and SLOs of classes from the command line; they override the values of the workload
    file : path of the trace as the user gave it; None for a workload
    block_tokens : size of the blocks that requests of a workload share [token]
    ongoing : sessions of a workload that began before the first request, as `traffic.generate.from_workload` takes it
        [count]
    """

    of: Trace | Workload
    requests: int | None = None
    seed: int = 0
    told: tuple[RequestClass, ...] = ()
    file: str | None = None
    block_tokens: int = BLOCK
    ongoing: int = 0

    @classmethod
    def read(
        cls, trace: Trace | None, workload: WorkloadLike | None, *, requests: int | None = None,
        limit: int | None = None, classes: tuple[RequestClass, ...] = (), seed: int = 0, file: str | None = None,
        assume: Assume = None,
    ) -> Source:  # fmt: skip
        """A trace, or a workload.

        Parameters
        ----------
        trace, workload : one of the two
        requests : requests to make of a workload [count]
        limit : first requests of a trace to play [count]
        classes : priority and SLO of classes, where they differ from the workload's
        file : path of the trace
        assume : values by path such as `workload.isl`; other areas are left alone

        Raises
        ------
        SpecError : none of the two or both, a count below 1, or a count that the other one has
        """
        if (trace is None) == (workload is None):
            raise SpecError(
                "give --trace FILE or --workload NAME, one of them; a file of `plan -o yaml` has its workload"
            )
        for name, count, other in (("limit", limit, "requests"), ("requests", requests, "limit")):
            if count is not None and count < 1:
                raise SpecError(f"{count} must be at least 1", where=f"--{name}")
            if count is not None and (trace is None) == (name == "limit"):
                what = str(workload) if trace is None else file or trace.name
                raise SpecError(f"has no --{name}", where=what, hint=f"say --{other}")
        if not 0 <= seed <= MOST_SEED:
            bound = "at least 0" if seed < 0 else f"at most {MOST_SEED:,}"
            raise SpecError(f"{seed} must be {bound}", where="--seed")
        if trace is not None:
            return cls(trace, limit, seed, classes, file)
        assert workload is not None
        return cls(workload_with(workload, assume), requests, seed, classes)

    @property
    def workload(self) -> Workload | None:
        """The workload; None if the source is a trace."""
        return self.of if isinstance(self.of, Workload) else None

    @property
    def rate(self) -> float:
        """Request rate of a recorded trace [1/s]; 0 for a trace without times, and for a workload."""
        return 0.0 if isinstance(self.of, Workload) else traffic_source.rate_of(self.of)

    def slo(self, slo: SloLike | None) -> Slo:
        """The SLO as it was given; None: the SLO of the workload; for a trace an SLO without bounds."""
        return Slo.of(slo if slo is not None else self.workload.slo if self.workload else "")

    @property
    def binds_a_class(self) -> bool:
        """Whether a class of requests has an SLO of its own."""
        return any(one.slo for one in (*self.told, *(self.workload.promised if self.workload else ())))

    def must_be_bound(self, slo: Slo, words: str) -> None:
        """Refuse an SLO without bounds.

        Parameters
        ----------
        slo : the SLO of the requests without a class SLO
        words : what needs the SLO, for the message
        """
        if slo.ttft is None and slo.tpot is None and not self.binds_a_class:
            raise SpecError("is missing", where="--slo", hint=f'{words}, such as "ttft=2s,tpot=50ms"')

    def traffic(
        self, *, rate: float | None = None, scale: float | None = None, concurrency: float | None = None
    ) -> Traffic:
        """The requests at a load. Without a load: a trace as recorded, a workload at its own rate or concurrency.

        Parameters
        ----------
        rate : request rate [1/s]
        scale : factor on the rate of a trace [-]
        concurrency : users of a workload, or requests of a trace in flight at most [count]

        Raises
        ------
        SpecError : two loads at once, a load that the source cannot have, or an unknown class
        """
        if isinstance(self.of, Workload):
            return self._made(self.of, rate, scale, concurrency)
        if rate is not None and scale is not None:
            raise SpecError("--rate and --scale", hint="give one of them")
        trace = traffic_source.played(self.of, rate=rate, factor=scale, requests=self.requests, seed=self.seed)
        endless = rate is not None or scale is not None
        return Traffic(trace, endless, int(concurrency or 0), self._promised(trace), file=self.file)

    def _made(self, workload: Workload, rate: float | None, scale: float | None, users: float | None) -> Traffic:
        if scale is not None:
            raise SpecError("a workload has no --scale", where=workload.name, hint="give --rate")
        if rate is not None and users is not None:
            raise SpecError("--rate and --concurrency", hint="an open loop has a rate, a closed one a concurrency")
        trace = traffic_source.generated(
            workload, rate, users, requests=self.requests, seed=self.seed, block_tokens=self.block_tokens,
            ongoing=self.ongoing,
        )  # fmt: skip
        if rate is not None or users is not None:
            workload = workload.model_copy(update={"rate": rate, "concurrency": users})
        return Traffic(trace, endless=True, classes=self._promised(trace), workload=workload)

    def _promised(self, trace: Trace) -> tuple[RequestClass, ...]:
        """Priority and SLO of each class of the trace or the workload. Values from the command line take precedence."""
        listed = self.workload.promised if self.workload else map(RequestClass, trace.classes)
        known = {one.name: one for one in listed}
        for one in self.told:
            if not known:
                raise SpecError(f"{trace.name} has no classes", where=f"--class {one.name}", hint=CLASS_HINT)
            if one.name not in known:
                raise UnknownName("class", one.name, known)
        if len({one.name for one in self.told}) < len(self.told):
            raise SpecError(
                "names a class twice", where="--class", hint="write one --class for it, such as name:priority=1,ttft=2s"
            )
        return tuple({**known, **{one.name: one for one in self.told}}.values())
