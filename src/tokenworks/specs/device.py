"""A device (GPU, NPU, card) as its datasheet gives it. Numbers are per device, dense, one direction."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tokenworks.specs.provenance import ByteRate, Bytes, Dollars, FlopRate, Spec, Watts, not_published

ComputeDtype = Literal["fp4", "fp8", "int8", "bf16", "tf32", "fp32"]


class Hbm(Spec):
    """Device memory.

    Parameters
    ----------
    capacity : what software can use [byte]
    sold : what the vendor prints [byte]
    bandwidth : peak rate of reading [byte/s]
    """

    capacity: Bytes
    sold: Bytes = not_published("byte")
    bandwidth: ByteRate


class DeviceLink(Spec):
    """Scale-up port of one device.

    Parameters
    ----------
    bandwidth : all links of the device together, per direction [byte/s]
    pair : the links to one other device of a mesh, per direction [byte/s]
    """

    bandwidth: ByteRate = not_published("byte/s")
    pair: ByteRate | None = None


class Device(Spec):
    """One catalog/devices/*.yaml, or a part of a machine's file.

    Parameters
    ----------
    name : how the device is called
    title : what a reader should know it as
    aliases : other names of the device
    vendor : who sells it
    family : devices whose measured utilisations this device is taken to have; a name in the calibration
    peak : dense rate by dtype [FLOP/s]. A dtype that the device cannot compute in is left out; a null is a dtype that
        the device may have, with a rate that is not published
    hbm : memory of the device
    scale_up : port to the other devices of the domain
    nic : scale-out port of the device, per direction [byte/s]
    tdp : most power that the device draws [W]
    price : of one device [USD]
    note : what a reader should know of the numbers
    """

    name: str
    title: str = ""
    aliases: tuple[str, ...] = ()
    vendor: str = ""
    family: str
    peak: dict[ComputeDtype, FlopRate] = Field(default_factory=dict)
    hbm: Hbm
    scale_up: DeviceLink = DeviceLink()
    nic: ByteRate = not_published("byte/s")
    tdp: Watts = not_published("W")
    price: Dollars = not_published("USD")
    note: str = ""
