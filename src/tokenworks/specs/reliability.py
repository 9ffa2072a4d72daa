"""How often parts fail, and how long training and serving then stand, with the source of each number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs import load
from tokenworks.specs.interval import vendor_of
from tokenworks.specs.machine import Assumption, Machine
from tokenworks.specs.parts import PartKind, spans_hosts
from tokenworks.specs.provenance import ByteRate, Number, Quantity, Seconds, Spec, not_published

FOLDER = load.CATALOG / "reliability"
PUBLISHED = "published"
"""Name of the failure rates that commands use if the user gives none."""


def _known(quantity: Quantity) -> Quantity:
    if quantity.value is None:
        raise ValueError("must not be null: the goodput of a run needs this number")
    return quantity


def _above_zero(quantity: Quantity) -> Quantity:
    if not quantity.value:
        raise ValueError("must be above zero and not null: the goodput of a run needs this number")
    return quantity


def _share(quantity: Quantity) -> Quantity:
    if quantity.value is None or quantity.value > 1:
        raise ValueError("a share is at least 0 and at most 1")
    return quantity


def _time(quantity: Quantity) -> Quantity:
    if not quantity.value:
        raise ValueError("must be above zero and not null: nothing is detected, started or repaired in no time")
    return quantity


def _optional_time(quantity: Quantity) -> Quantity:
    return quantity if quantity.value is None else _time(quantity)


Rate = Annotated[Number, AfterValidator(_known)]
Share = Annotated[Number, AfterValidator(_share)]
Time = Annotated[Seconds, AfterValidator(_time)]
Range = Annotated[float, Field(ge=1, le=1000)]
"""Factor f: the true number is between value / f and value x f."""


def _share_or_nothing(quantity: Quantity) -> Quantity:
    return quantity if quantity.value is None else _share(quantity)


class PartRate(Spec):
    """How often a part of one kind fails, and how long it is down.

    Parameters
    ----------
    failures : failures of one part [1/h]
    permanent : share of the failures after which the part must be replaced; the others end with a reset [-]
    reset : time of a reset of the part [s]
    repair : time until a replaced part is back; null: as `repair` of the file [s]
    range : factor by which the failures may be higher or lower [-]
    """

    failures: Rate
    permanent: Share
    reset: Annotated[Seconds, AfterValidator(_known)]
    repair: Annotated[Seconds, AfterValidator(_optional_time)] = not_published("s")
    range: Range = 1.0


class Recovery(Spec):
    """Times between a failure and the next step of the serving engine.

    Parameters
    ----------
    detect : time until the failure is noticed [s]
    process : start of the processes of an engine [s]
    weights : least time for reading the weights [s]
    graphs : capture of graphs, and other preparations of an engine with weights [s]
    shrink : time from a failure until an engine with elastic expert parallelism goes on without the failed ranks,
        detection included; and its pause when it takes ranks back [s]
    crash : share of failures of links, NICs, transceivers and switches after which the engine must start again [-]
    ranges : name of a time, or `repair` or `reset` -> factor by which it may be higher or lower [-]
    """

    detect: Time
    process: Time
    weights: Time
    graphs: Time
    shrink: Time
    crash: Share
    ranges: dict[str, Range] = Field(default_factory=dict)


class Reliability(Spec):
    """Failure rates of the parts of a machine, and the times after a failure.

    Parameters
    ----------
    name, title : name in the catalog, and a title for people
    device_failures : failures of one device that stop the run [1/h]
    host_failures : failures of one host node that stop the run, with its network and its software [1/h]
    lost : share of failures that take the part out of service until it is repaired [-]
    restart : time from a failure to the next step: detection, start, reading of the checkpoint [s]
    repair : time until a lost part is back [s]
    storage : bandwidth at which one host node writes a checkpoint [byte/s]
    parts : failures of each kind of part; a kind that is left out never fails. Serving reads these, training does not
    recovery : times between a failure and the next step of a serving engine; None: not in the file
    bad_hosts : share of hosts that fail more often than the others [-]
    bad_share : share of all failures that happen on these hosts [-]
    """

    name: str = "reliability"
    title: str = ""
    device_failures: Annotated[Number, AfterValidator(_known)]
    host_failures: Annotated[Number, AfterValidator(_known)]
    lost: Annotated[Number, AfterValidator(_share)]
    restart: Annotated[Seconds, AfterValidator(_known)]
    repair: Annotated[Seconds, AfterValidator(_known)]
    storage: Annotated[ByteRate, AfterValidator(_above_zero)]
    parts: dict[PartKind, PartRate] = Field(default_factory=dict)
    recovery: Recovery | None = None
    bad_hosts: Annotated[Number, AfterValidator(_share_or_nothing)] = not_published("")
    bad_share: Annotated[Number, AfterValidator(_share_or_nothing)] = not_published("")

    def quantities(self) -> Iterator[tuple[str, Quantity]]:
        """Every number that training reads, with its name."""
        for name, value in self:
            if isinstance(value, Quantity) and name not in ("bad_hosts", "bad_share"):
                yield name, value

    def serving_quantities(self) -> Iterator[tuple[str, Quantity]]:
        """Every number that availability and faults read, with its path."""
        for kind, part in self.parts.items():
            yield from ((f"parts.{kind}.{name}", value) for name, value in part if isinstance(value, Quantity))
        for name, value in self.recovery or ():
            if isinstance(value, Quantity):
                yield f"recovery.{name}", value
        yield from (("repair", self.repair), ("bad_hosts", self.bad_hosts), ("bad_share", self.bad_share))

    def must_serve(self) -> Recovery:
        """The times of recovery of a file that has all numbers of serving.

        Raises
        ------
        SpecError : the file has no rates of parts or no times of recovery, or the repair takes no time
        """
        hint = "tokenworks catalog reliability published -o yaml shows a file with these numbers"
        if not self.parts or self.recovery is None:
            name = "recovery" if self.parts else "parts"
            raise SpecError(
                "is missing: availability needs it", where=f"failure rates {self.name!r}: {name}", hint=hint
            )
        if not self.repair.value:
            raise SpecError(
                "is 0: no part is replaced in no time", where=f"failure rates {self.name!r}: repair", hint="write 12 h"
            )
        share, most = self.bad_hosts.value, self.bad_share.value
        if share is not None and most is not None and (not 0 < share < 1 or most < share):
            raise SpecError(
                f"bad_hosts {share:g} with bad_share {most:g}", where=f"failure rates {self.name!r}",
                hint="bad_hosts is above 0 and below 1, and bad_share is at least bad_hosts",
            )  # fmt: skip
        return self.recovery

    def assumed(self, vendor: str) -> Iterator[Assumption]:
        """Numbers that are assumed, and rates that were measured on devices of another vendor.

        Parameters
        ----------
        vendor : vendor of the devices, such as `hygon`
        """
        for name, quantity in self.quantities():
            carried = self.name == PUBLISHED and vendor != "nvidia" and name in ("device_failures", "host_failures")
            if quantity.assumed or carried:
                why = "no failure rate of this vendor is published; " if carried else ""
                yield Assumption(f"reliability.{name}", quantity.written, f"{why}{quantity.source}")

    def assumed_for(self, machine: Machine, kinds: Iterable[PartKind]) -> Iterator[Assumption]:
        """Numbers that availability assumes for a machine: assumed ones, and rates of other machines.

        Parameters
        ----------
        machine : the machine
        kinds : kinds of parts that the machine has
        """
        why = ""
        if vendor_of(machine.family) != "nvidia":
            why = "no failure rate of this vendor is published; "
        elif spans_hosts(machine):
            why = "no failure rate of this machine is published; "
        have = set(kinds)
        for path, quantity in self.serving_quantities():
            words = path.split(".")
            if quantity.value is None or (words[0] == "parts" and words[1] not in have):
                continue
            carried = why if self.name == PUBLISHED and words[-1] == "failures" else ""
            if quantity.assumed or carried:
                yield Assumption(f"reliability.{path}", quantity.written, f"{carried}{quantity.source}")


ReliabilityLike = str | Path | Mapping[str, Any] | Reliability
"""Every form of failure rates: a name of the catalog, a YAML file, the content of such a file, or a `Reliability`."""


def load_reliability(reliability: ReliabilityLike = PUBLISHED) -> Reliability:
    """Read failure rates.

    Parameters
    ----------
    reliability : a name of the catalog, a YAML file, the content of such a file, or a `Reliability`, which is returned
        unchanged

    Raises
    ------
    SpecError : no such name or file, or the file is wrong
    """
    if isinstance(reliability, Reliability):
        return reliability
    if isinstance(reliability, Mapping):
        return load.validate(Reliability, dict(reliability), "reliability")
    if load.is_path(reliability):
        return load.load(Reliability, Path(reliability))
    if reliability not in (names := reliability_names()):
        raise UnknownName("failure rates", str(reliability), names, hint="a file of your own ends in .yaml")
    return load.load(Reliability, FOLDER / f"{reliability}.yaml")


def reliability_names() -> list[str]:
    """Names of the failure rates that the catalog ships."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))
