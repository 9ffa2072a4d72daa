"""A system one can buy (a supernode, an 8-GPU server) and the scale-out network that joins several."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

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

Count = Annotated[int, Field(gt=0, le=1_000_000, strict=True)]


class Fabric(Spec):
    """How the devices of one scale-up domain, or the ports of one network, reach each other.

    A path costs `endpoint + hops x hop`, with 2 x layers - 1 switch hops from leaf to leaf and none in a mesh;
    a message pays `overhead` more for its software, which a load/store fabric does not.
    """

    topology: Literal["switched", "mesh", "none"]
    layers: int = Field(ge=0, le=3, strict=True)
    semantics: Literal["load-store", "message"]
    in_switch_reduce: bool = False
    hop: Seconds
    endpoint: Seconds
    overhead: Seconds

    @model_validator(mode="after")
    def _switches_have_layers(self) -> Fabric:
        if (self.topology == "switched") != (self.layers > 0):
            raise ValueError(f"topology {self.topology} with {self.layers} switch layers: a switched one has 1 to 3")
        return self


class Host(Spec):
    """One host node: CPU memory and the link from it to each of its devices."""

    devices: Count
    cpu: str = ""
    dram: Bytes = not_published("byte")
    dram_bandwidth: ByteRate = not_published("byte/s")
    link: ByteRate = not_published("byte/s")
    ssd: Bytes = not_published("byte")
    ssd_bandwidth: ByteRate = not_published("byte/s")


class System(Spec):
    """One catalog/systems/*.yaml: `devices` x `device` in scale-up domains of `domain` devices.

    `network` joins domains and systems unless another is asked for; None = it has no port to leave by.
    """

    name: str
    title: str
    vendor: str
    device: str
    devices: Count
    domain: Count
    scale_up: Fabric
    network: str | None = None
    host: Host
    price: Dollars = not_published("USD")
    power: Watts = not_published("W")
    weight: Kilograms = not_published("kg")
    rack_units: Number = not_published("")
    availability: Number = not_published("")
    facts: dict[str, Fact] = Field(default_factory=dict)
    note: str = ""

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


class Network(Spec):
    """One catalog/networks/*.yaml: a scale-out network; each device has a port of `port` [byte/s per direction].

    `radix` is the ports of one switch; how many layers of them there are follows from the number of endpoints.
    Latencies are as in a Fabric of messages.
    """

    name: str
    title: str
    port: ByteRate
    radix: Number
    in_switch_reduce: bool = False
    hop: Seconds
    endpoint: Seconds
    overhead: Seconds
    note: str = ""
