"""A system that one can buy (a supernode, an 8-GPU server), and the scale-out network that connects systems."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from tokenworks.specs.device import Device
from tokenworks.specs.provenance import (
    ByteRate,
    Bytes,
    Dollars,
    Fact,
    Kilograms,
    Number,
    Seconds,
    Spec,
    Watts,
    not_published,
)

CoolingKind = Literal["air", "liquid", "immersion"]

Count = Annotated[int, Field(gt=0, le=1_000_000, strict=True)]


class Fabric(Spec):
    """How the devices of one scale-up domain reach each other.

    The latency of a path is `endpoint + hops x hop`. A path has 2 x layers - 1 switch hops, or none in a mesh. For a
    message, software adds `overhead`; loads and stores need no software.

    Parameters
    ----------
    topology : "switched"; "mesh", with a link between each two devices; "torus", which is listed and not computed;
        "none" for a domain of one device
    layers : layers of switches, 0 in a mesh and in a torus
    semantics : "load-store" or "message"
    in_switch_reduce : whether the switches add up the parts of an all-reduce
    switches : switches of the topmost layer of one domain. Each carries an equal share of the bandwidth. Only
        availability and faults read it [count]
    optical : whether the cables of the domain are optical, with a transceiver at each end. Only availability and faults
        read it
    hop : latency of one switch [s]
    endpoint : latency of both ends of a path [s]
    overhead : time that the software of a message takes [s]
    """

    topology: Literal["switched", "mesh", "torus", "none"]
    layers: int = Field(ge=0, le=3, strict=True)
    semantics: Literal["load-store", "message"] = "load-store"
    in_switch_reduce: bool = False
    switches: Number = not_published("")
    optical: bool = False
    hop: Seconds = not_published("s")
    endpoint: Seconds = not_published("s")
    overhead: Seconds = not_published("s")

    @model_validator(mode="after")
    def _switches_have_layers(self) -> Fabric:
        if (self.topology == "switched") != (self.layers > 0):
            raise ValueError(f"topology {self.topology} with {self.layers} switch layers: a switched one has 1 to 3")
        return self


class Host(Spec):
    """One host node.

    Parameters
    ----------
    devices : devices of the node [count]
    cpu : processors of the node
    dram, dram_bandwidth : memory of the node [byte], and its bandwidth over all sockets [byte/s]
    link : bandwidth between the node and one device, per direction [byte/s]
    fabric : bandwidth between memory of the node and the scale-up fabric, per direction; null: the fabric does not
        reach this memory, or nobody published it [byte/s]
    ssd, ssd_bandwidth : flash storage of the node [byte], and the bandwidth of all its drives [byte/s]
    """

    devices: Count
    cpu: str = ""
    dram: Bytes = not_published("byte")
    dram_bandwidth: ByteRate = not_published("byte/s")
    link: ByteRate = not_published("byte/s")
    fabric: ByteRate = not_published("byte/s")
    ssd: Bytes = not_published("byte")
    ssd_bandwidth: ByteRate = not_published("byte/s")


class Network(Spec):
    """A scale-out network: one file of catalog/networks, or a part of the file of a machine.

    The number of devices determines the number of switch layers.

    Parameters
    ----------
    port : bandwidth of the port that each device has, per direction [byte/s]
    radix : ports of one switch [count]
    in_switch_reduce : whether engines let the switches add up the parts of an all-reduce
    hop, endpoint, overhead : latencies of a message, as in `Fabric` [s]
    """

    name: str
    title: str = ""
    port: ByteRate
    radix: Number
    in_switch_reduce: bool = False
    hop: Seconds
    endpoint: Seconds
    overhead: Seconds
    note: str = ""


class Cooling(Fact):
    """How a system is cooled: "liquid" for cold plates, also with some air; "immersion"; "air"."""

    value: CoolingKind


def _kind(value: Any) -> str:
    """Whether a part of a system is a name ("name"), or is written in the file of the system ("inside")."""
    return "name" if isinstance(value, str) else "inside"


class System(Spec):
    """A machine that one can buy: one file of catalog/systems, or a file of a user.

    Parameters
    ----------
    name : name in the catalog
    title : title for people
    vendor : company that sells the machine
    device : name of a device of the catalog, path of the YAML file of a device (relative to this file), or the device
        itself
    devices : devices of the whole machine [count]
    domain : devices of one scale-up domain; default: all devices [count]
    scale_up : the fabric in a domain
    network : network between domains and between machines: a name, a path, or the network itself; None: no network
    host : one host node; default: one node per domain
    price, power, weight : price, power and weight of the whole machine [USD, W, kg]
    rack_units : height of the machine [count]
    cooling : how the machine is cooled; None: not published
    cables : cables and optical links inside the scale-up domains of the machine [count]
    availability : share of time in which the machine can be used [-]
    facts : information of the vendor that no prediction reads
    note : remark about the numbers
    """

    name: str
    title: str = ""
    vendor: str = ""
    device: Annotated[Annotated[Device, Tag("inside")] | Annotated[str, Tag("name")], Discriminator(_kind)]
    devices: Count
    domain: Count
    scale_up: Fabric = Fabric(topology="none", layers=0)
    network: Annotated[Annotated[Network, Tag("inside")] | Annotated[str, Tag("name")], Discriminator(_kind)] | None = (
        None
    )
    host: Host
    price: Dollars = not_published("USD")
    power: Watts = not_published("W")
    weight: Kilograms = not_published("kg")
    rack_units: Number = not_published("")
    availability: Number = not_published("")
    cooling: Cooling | None = None
    cables: Number = not_published("")
    facts: dict[str, Fact] = Field(default_factory=dict)
    note: str = ""

    @model_validator(mode="before")
    @classmethod
    def _one_domain_and_host_unless_told(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "devices" not in data:
            return data
        domain = data.get("domain", data["devices"])
        return {"domain": domain, "host": {"devices": domain}, **data}

    @model_validator(mode="after")
    def _domains_have_a_fabric(self) -> System:
        if self.domain > 1 and self.scale_up.topology == "none":
            raise ValueError(
                f"scale_up: is missing: {self.domain} devices of a domain reach each other over it; "
                "write its topology (switched or mesh), layers, hop, endpoint and overhead"
            )
        return self

    @model_validator(mode="after")
    def _divides(self) -> System:
        for name, part in (("domain", self.domain), ("host.devices", self.host.devices)):
            if self.devices % part:
                raise ValueError(f"{self.devices} devices are not a multiple of {name} = {part}")
        return self

    @model_validator(mode="after")
    def _is_there_a_share_of_time(self) -> System:
        share = self.availability.value
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"availability {share:g} is a share of time: write one above 0, at most 1, such as 0.995")
        return self
