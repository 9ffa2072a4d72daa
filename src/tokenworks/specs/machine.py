"""A machine: one or more systems composed over a network, every number resolved that a cost function may need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Assumption:
    """An assumed number that a prediction used: where it stands, what it is, and why."""

    path: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Link:
    """One level of the interconnect as one device sees it.

    bandwidth : [byte/s] per direction
    pair : the most that goes to any one peer [byte/s]; equals `bandwidth` behind a switch
    latency : one way, end to end, of a load/store or a zero-byte message [s]
    overhead : software cost that each message adds [s]; 0 for load/store
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


@dataclass(frozen=True, slots=True)
class Machine:
    """What `--on NAME` means, in SI numbers.

    devices : in all; domain : devices of one scale-up domain; host : one host node
    peak : dense FLOP/s of each compute dtype that the device has
    hbm_bytes : memory that software sees [byte]; hbm_bandwidth : [byte/s]
    scale_out : None where the machine is one domain that cannot be left
    hbm_sold : memory as the vendor sells it [byte]; None where not published: no step reads it
    network : what joins its domains, and would join it to more of its kind; None where nothing does
    tdp : of a device [W]; price [USD], power [W], weight [kg] : of the whole machine; None where not published
    given : numbers that a user put in place of those of the catalog, value by path
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
    given: Mapping[str, str] = field(default_factory=dict)
