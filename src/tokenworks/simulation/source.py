"""What is played through a deployment: a recorded trace, or requests that are made of a workload, at a load."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.errors import SpecError, UnknownName
from tokenworks.simulation.run import Traffic
from tokenworks.specs.slo import RequestClass, Slo
from tokenworks.specs.trace import Trace
from tokenworks.specs.workload import Workload
from tokenworks.traffic.source import generated, played, rate_of

CLASS_HINT = "a workload lists `classes`, a trace names the `class` of a row"


@dataclass(frozen=True, slots=True)
class Source:
    """Requests at any load.

    of : the recorded trace, or the workload
    requests : how many; None: all of a trace, of a workload as many as `traffic.source.generated` takes
    seed : of all random streams
    told : what classes of requests are promised, where that differs from what the workload says
    file : path of the trace as it was given; None of a workload
    """

    of: Trace | Workload
    requests: int | None = None
    seed: int = 0
    told: tuple[RequestClass, ...] = ()
    file: str | None = None

    @property
    def workload(self) -> Workload | None:
        """The workload; None where a trace is played."""
        return self.of if isinstance(self.of, Workload) else None

    @property
    def rate(self) -> float:
        """Requests a second of a recorded trace [1/s]; 0 where it has no rate of its own, and of a workload."""
        return 0.0 if isinstance(self.of, Workload) else rate_of(self.of)

    def slo(self, text: str | None) -> Slo:
        """As told, else the workload's own, else none."""
        return Slo.parse(text if text is not None else self.workload.slo if self.workload else "")

    @property
    def binds_a_class(self) -> bool:
        """Whether a class of requests has an SLO of its own."""
        return any(one.slo for one in (*self.told, *(self.workload.promised if self.workload else ())))

    def must_be_bound(self, slo: Slo, words: str) -> None:
        """Refuse an SLO that binds nothing; words : what wants one."""
        if slo.ttft is None and slo.tpot is None and not self.binds_a_class:
            raise SpecError("is missing", where="--slo", hint=f'{words}, such as "ttft=2s,tpot=50ms"')

    def traffic(
        self, *, rate: float | None = None, scale: float | None = None, concurrency: float | None = None
    ) -> Traffic:
        """The requests at a load; without one, a trace as it was recorded, a workload as it says itself.

        Parameters
        ----------
        rate : requests a second [1/s]; scale : of a trace, times its own rate [-]
        concurrency : users of a workload; of a trace, requests in flight at most [count]

        Raises
        ------
        SpecError : two loads at once, a load that the source cannot have, or a class that it does not know
        """
        if isinstance(self.of, Workload):
            return self._made(self.of, rate, scale, concurrency)
        if rate is not None and scale is not None:
            raise SpecError("--rate and --scale", hint="give one of them")
        trace = played(self.of, rate=rate, factor=scale, requests=self.requests, seed=self.seed)
        endless = rate is not None or scale is not None
        return Traffic(trace, endless, int(concurrency or 0), self._promised(trace), file=self.file)

    def _made(self, workload: Workload, rate: float | None, scale: float | None, users: float | None) -> Traffic:
        if scale is not None:
            raise SpecError("a workload has no --scale", where=workload.name, hint="give --rate")
        if rate is not None and users is not None:
            raise SpecError("--rate and --concurrency", hint="an open loop has a rate, a closed one a concurrency")
        trace = generated(workload, rate, users, requests=self.requests, seed=self.seed)
        if rate is not None or users is not None:
            workload = workload.model_copy(update={"rate": rate, "concurrency": users})
        return Traffic(trace, endless=True, classes=self._promised(trace), workload=workload)

    def _promised(self, trace: Trace) -> tuple[RequestClass, ...]:
        """What the classes of the trace, or of the workload, are promised; as told where it was told."""
        listed = self.workload.promised if self.workload else map(RequestClass, trace.classes)
        known = {one.name: one for one in listed}
        for one in self.told:
            if not known:
                raise SpecError(f"{trace.name} has no classes", where=f"--class {one.name}", hint=CLASS_HINT)
            if one.name not in known:
                raise UnknownName("class", one.name, known)
        if len({one.name for one in self.told}) < len(self.told):
            raise SpecError(
                "a class is told twice", where="--class", hint="say all of it in one: name:priority=1,ttft=2s"
            )
        return tuple({**known, **{one.name: one for one in self.told}}.values())
