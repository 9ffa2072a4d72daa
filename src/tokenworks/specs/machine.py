"""A machine: one or more systems over a network, with all numbers that cost functions need."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tokenworks.specs.given import SET, Given
from tokenworks.specs.shown import Record, Shown, flat


@dataclass(frozen=True, slots=True)
class Assumption:
    """An assumed number that a prediction used.

    Parameters
    ----------
    path : path of the number, such as `scale_up.hop`
    value : the number with its unit, as written in the file
    why : reason or origin
    """

    path: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Link:
    """One level of the interconnect, from the view of one device.

    Parameters
    ----------
    bandwidth : all links of the device together, per direction [byte/s]
    pair : bandwidth to one other device; equal to `bandwidth` behind a switch [byte/s]
    latency : one way, end to end, of a load, a store or a message without content [s]
    overhead : time that the software of each message takes [s]; 0 for load/store
    layers : layers of switches between the farthest two devices
    semantics : "load-store" or "message"
    in_switch_reduce : whether the switches add up the parts of an all-reduce
    box_latency : latency between devices of one host node, through one layer of switches; None: as `latency`. Only
        training reads it [s]
    """

    bandwidth: float
    pair: float
    latency: float
    overhead: float
    layers: int
    semantics: str
    in_switch_reduce: bool
    box_latency: float | None = None


@dataclass(frozen=True, slots=True)
class HostNode:
    """One host node of a machine; None: the number is not published. Only KV tiers read these numbers.

    Parameters
    ----------
    devices : devices of the node [count]
    link : bandwidth between a device and the node, per direction [byte/s]
    dram, dram_bandwidth : memory of the node [byte], and its bandwidth over all sockets [byte/s]
    ssd, ssd_bandwidth : flash storage of the node [byte], and the bandwidth of all its drives [byte/s]
    fabric : bandwidth between memory of the node and the scale-up fabric, per direction [byte/s]
    assumed : the assumed numbers among these
    """

    devices: int
    link: float | None = None
    dram: float | None = None
    dram_bandwidth: float | None = None
    ssd: float | None = None
    ssd_bandwidth: float | None = None
    fabric: float | None = None
    assumed: tuple[Assumption, ...] = ()


@dataclass(frozen=True, slots=True)
class Wiring:
    """The physical parts of the interconnect. Only availability and faults read them.

    Parameters
    ----------
    topology : topology of a scale-up domain: "switched", "mesh", "torus" or "none"
    switches : switches of the topmost layer of a scale-up domain; None: not published [count]
    cables : cables inside the scale-up domains of one system; 0: boards and backplanes carry the links; None: not
        published [count]
    optical : whether these cables are optical, with a transceiver at each end
    system_devices : devices of one system [count]
    radix : ports of one switch of the network between domains; None: the machine has no network [count]
    assumed : the assumed numbers among these
    """

    topology: str = "none"
    switches: int | None = None
    cables: int | None = None
    optical: bool = False
    system_devices: int = 1
    radix: int | None = None
    assumed: tuple[Assumption, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Machine(Shown):
    """The machine of `--on NAME`, in SI numbers.

    Parameters
    ----------
    name : the text of `--on`
    device : name of the device
    family : device family in the calibration whose utilisations the device uses
    devices : devices in use [count]
    domain : devices of one scale-up domain [count]
    host : one host node
    peak : dense rate of each dtype that the device supports [FLOP/s]
    hbm_bytes : memory of one device that software sees [byte]
    hbm_bandwidth : bandwidth of device memory [byte/s]
    scale_up : the link inside a domain
    scale_out : the link between domains; None: the machine is one domain
    assumed : assumed numbers that predictions for this machine read
    hbm_sold : memory of one device that the vendor prints; None: not published; no step reads it [byte]
    network : name of the network between domains; None: the machine has no network
    tdp : largest power of one device; None: not published [W]
    tdp_assumed : the assumption behind `tdp`, which results with power list; None: `tdp` is not assumed
    price, power, weight : all devices in use together; None: not published [USD, W, kg]
    given : numbers that the user set
    checkpoints : storage dtype of published weights -> dtype of the converted weights that the devices serve
    wiring : switches and cables of the interconnect
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
    tdp_assumed: Assumption | None = None
    price: float | None = None
    power: float | None = None
    weight: float | None = None
    given: tuple[Given, ...] = ()
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    wiring: Wiring = Wiring()

    @property
    def headline(self) -> str:
        """Name, devices and memory."""
        return (
            f"{self.name}: {self.devices} x {self.device} in domains of {self.domain}, each with "
            f"{self.hbm_bytes / 1e9:,.0f} GB at {self.hbm_bandwidth / 1e12:.3g} TB/s"
        )

    def to_records(self) -> list[Record]:
        """The numbers of one device, in one record."""
        return [
            flat({item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "wiring"})
        ]


def named(given: Iterable[Given], assumed: Iterable[Assumption]) -> Iterator[Assumption]:
    """All assumptions, and then the values that the user set and that are not among them.

    Values of `--set` are always listed. A number of the machine from a file or a dict is listed only if a prediction
    reads it.

    Parameters
    ----------
    given : numbers that the user set
    assumed : assumed numbers that the prediction depends on
    """
    paths = set()
    for assumption in assumed:
        paths.add(assumption.path)
        yield assumption
    new = (item for item in given if item.path not in paths and (item.why == SET or item.area != "machine"))
    yield from (Assumption(item.path, item.value, item.why) for item in new)
