"""A machine: one or more systems composed over a network, every number resolved that a cost function may need."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tokenworks.specs.given import SET, Given
from tokenworks.specs.shown import Record, Shown, flat


@dataclass(frozen=True, slots=True)
class Assumption:
    """An assumed number that a prediction used.

    Parameters
    ----------
    path : where the number stands, such as `scale_up.hop`
    value : the number with its unit, as it was written
    why : the reason, or who gave it
    """

    path: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Link:
    """One level of the interconnect as one device sees it.

    Parameters
    ----------
    bandwidth : of all links of the device together, per direction [byte/s]
    pair : most that the device sends to one other device [byte/s]; equals `bandwidth` behind a switch
    latency : one way, end to end, of a load, a store or a message without content [s]
    overhead : time that the software of each message takes [s]; 0 for load/store
    layers : layers of switches between the farthest two devices
    semantics : "load-store" or "message"
    in_switch_reduce : whether the switches add up the parts of an all-reduce
    """

    bandwidth: float
    pair: float
    latency: float
    overhead: float
    layers: int
    semantics: str
    in_switch_reduce: bool


@dataclass(frozen=True, slots=True)
class HostNode:
    """One host node of a machine; None where a number is not published: no step of serving reads it.

    Parameters
    ----------
    devices : devices of the node [count]
    link : between a device and the node, per direction [byte/s]
    dram, dram_bandwidth : memory of the node [byte], and its bandwidth over all sockets [byte/s]
    ssd, ssd_bandwidth : flash storage of the node [byte], and the bandwidth of all its drives [byte/s]
    """

    devices: int
    link: float | None = None
    dram: float | None = None
    dram_bandwidth: float | None = None
    ssd: float | None = None
    ssd_bandwidth: float | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Machine(Shown):
    """What `--on NAME` means, in SI numbers.

    Parameters
    ----------
    name : as `--on` has it
    device : name of the device
    family : devices whose measured utilisations the device is taken to have
    devices : devices in use, of the whole machine [count]
    domain : devices of one scale-up domain [count]
    host : one host node
    peak : dense rate of each dtype that the device computes in [FLOP/s]
    hbm_bytes : device memory that software sees [byte]
    hbm_bandwidth : of device memory [byte/s]
    scale_up : the link inside a domain
    scale_out : the link between domains; None where the machine is one domain
    assumed : assumed numbers that predictions for this machine read
    hbm_sold : device memory as the vendor sells it [byte]; None where it is not published: no step reads it
    network : name of the network between domains; None where the machine has no port for one
    tdp : most power that one device draws [W]; None where it is not published
    price, power, weight : of all devices in use together [USD, W, kg]; None where they are not published
    given : numbers that a user put in place of those of the catalog
    """

    name: str
    device: str
    family: str
    devices: int
    domain: int
    host: HostNode
    peak: Mapping[str, float]
    hbm_bytes: float
    hbm_bandwidth: float
    scale_up: Link
    scale_out: Link | None
    assumed: tuple[Assumption, ...]
    hbm_sold: float | None = None
    network: str | None = None
    tdp: float | None = None
    price: float | None = None
    power: float | None = None
    weight: float | None = None
    given: tuple[Given, ...] = ()

    @property
    def headline(self) -> str:
        """Name, devices and memory."""
        return (
            f"{self.name}: {self.devices} x {self.device} in domains of {self.domain}, each with "
            f"{self.hbm_bytes / 1e9:,.0f} GB at {self.hbm_bandwidth / 1e12:.3g} TB/s"
        )

    def to_records(self) -> list[Record]:
        """The numbers of one device, in one record."""
        return [flat({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})]


def named(given: Iterable[Given], assumed: Iterable[Assumption]) -> Iterator[Assumption]:
    """Assumptions, and behind them each value of `--set` that is not among the assumptions.

    A number of the machine in a file or in a dict is named only where a prediction reads it; `--set` is always named.

    Parameters
    ----------
    given : numbers that a user put in place of those of the catalog
    """
    paths = set()
    for assumption in assumed:
        paths.add(assumption.path)
        yield assumption
    new = (item for item in given if item.path not in paths and (item.why == SET or item.area != "machine"))
    yield from (Assumption(item.path, item.value, item.why) for item in new)
