"""A device (GPU, NPU, card) with the numbers of its datasheet: per device, dense, one direction."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tokenworks.specs.provenance import ByteRate, Bytes, Dollars, Fact, FlopRate, Spec, Watts, not_published

ComputeDtype = Literal["fp4", "fp8", "int8", "bf16", "tf32", "fp32"]


class Hbm(Spec):
    """Device memory.

    Parameters
    ----------
    capacity : memory that software can use [byte]
    sold : memory that the vendor prints [byte]
    bandwidth : peak read bandwidth [byte/s]
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


class Checkpoint(Fact):
    """The dtype of the checkpoints that a device serves instead of published ones. Today only INT8 for FP8."""

    value: Literal["int8"]


class Device(Spec):
    """One file of catalog/devices, or a part of the file of a machine.

    Parameters
    ----------
    name : name in the catalog
    title : title for people
    aliases : other names of the device
    vendor : company that sells the device
    family : device family in the calibration whose utilisations the device uses
    peak : dense rate by dtype [FLOP/s]. A dtype without support is left out; null: the rate is not published
    hbm : memory of the device
    scale_up : port to the other devices of the domain
    checkpoints : storage dtype of published weights -> dtype of the converted checkpoints that the device serves
    nic : scale-out port of the device, per direction [byte/s]
    tdp : largest power of the device [W]
    price : price of one device [USD]
    note : remark about the numbers
    """

    name: str
    title: str = ""
    aliases: tuple[str, ...] = ()
    vendor: str = ""
    family: str
    peak: dict[ComputeDtype, FlopRate] = Field(default_factory=dict)
    hbm: Hbm
    scale_up: DeviceLink = DeviceLink()
    checkpoints: dict[Literal["fp8"], Checkpoint] = Field(default_factory=dict)
    nic: ByteRate = not_published("byte/s")
    tdp: Watts = not_published("W")
    price: Dollars = not_published("USD")
    note: str = ""
