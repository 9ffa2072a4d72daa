"""A system one can buy (a supernode, an 8-GPU server) and the scale-out network that joins several."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tokenworks.specs.provenance import ByteRate, Bytes, Dollars, Kilograms, Number, Quantity, Seconds, Spec, Watts


class Fabric(Spec):
    """How the devices of one scale-up domain, or the ports of one network, reach each other.

    A path costs `endpoint + hops x hop`; a message pays `overhead` more for its software, which a
    load/store fabric does not.
    """

    topology: Literal["switched", "mesh", "torus", "none"]
    layers: int = Field(ge=0, le=3)
    semantics: Literal["load-store", "message"]
    in_switch_reduce: bool = False
    hop: Seconds
    endpoint: Seconds
    overhead: Seconds


class Host(Spec):
    """One host node: CPU memory and the link from it to each of its devices."""

    devices: int = Field(gt=0)
    cpu: str = ""
    dram: Bytes
    dram_bandwidth: ByteRate
    link: ByteRate
    ssd: Bytes
    ssd_bandwidth: ByteRate


class System(Spec):
    """One catalog/systems/*.yaml: `devices` x `device` in scale-up domains of `domain` devices."""

    name: str
    title: str
    vendor: str
    device: str
    devices: int = Field(gt=0)
    domain: int = Field(gt=0)
    scale_up: Fabric
    network: str
    host: Host
    price: Dollars
    power: Watts
    weight: Kilograms
    rack_units: Number
    availability: Number
    facts: dict[str, Quantity] = Field(default_factory=dict)
    note: str = ""


class Network(Spec):
    """One catalog/networks/*.yaml: a scale-out network; each device has a port of `port` [byte/s per direction]."""

    name: str
    title: str
    port: ByteRate
    radix: int = Field(gt=1)
    fabric: Fabric
    note: str = ""
