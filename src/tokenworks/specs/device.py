"""A device (GPU, NPU, card) as its datasheet gives it. Numbers are per device, dense, one direction."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tokenworks.specs.provenance import ByteRate, Bytes, Dollars, FlopRate, Spec, Watts, not_published

ComputeDtype = Literal["fp4", "fp8", "int8", "bf16", "tf32", "fp32"]


class Hbm(Spec):
    """Device memory: capacity as the software sees it and as it is sold [byte], and peak bandwidth [byte/s]."""

    capacity: Bytes
    sold: Bytes = not_published("byte")
    bandwidth: ByteRate


class DeviceLink(Spec):
    """Scale-up port of one device [byte/s per direction]; `pair` is the most that one peer can take of it."""

    bandwidth: ByteRate
    pair: ByteRate | None = None


class Device(Spec):
    """One catalog/devices/*.yaml. `family` picks the utilisation priors (see calibration).

    `peak` leaves out a dtype that the device cannot compute in; a null is one that may be there, not published.
    `nic` is the scale-out port that belongs to each device. `aliases` are other names that it goes by.
    """

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    vendor: str
    family: str
    peak: dict[ComputeDtype, FlopRate] = Field(default_factory=dict)
    hbm: Hbm
    scale_up: DeviceLink
    nic: ByteRate = not_published("byte/s")
    tdp: Watts = not_published("W")
    price: Dollars = not_published("USD")
    note: str = ""
