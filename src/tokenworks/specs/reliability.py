"""How often devices and hosts fail, and how long a training run then stands, with the source of each number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from tokenworks.errors import UnknownName
from tokenworks.specs import load
from tokenworks.specs.machine import Assumption
from tokenworks.specs.provenance import ByteRate, Number, Quantity, Seconds, Spec

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
    """

    name: str = "reliability"
    title: str = ""
    device_failures: Annotated[Number, AfterValidator(_known)]
    host_failures: Annotated[Number, AfterValidator(_known)]
    lost: Annotated[Number, AfterValidator(_share)]
    restart: Annotated[Seconds, AfterValidator(_known)]
    repair: Annotated[Seconds, AfterValidator(_known)]
    storage: Annotated[ByteRate, AfterValidator(_above_zero)]

    def quantities(self) -> Iterator[tuple[str, Quantity]]:
        """Every number with its name."""
        for name, value in self:
            if isinstance(value, Quantity):
                yield name, value

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
