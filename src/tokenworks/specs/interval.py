"""How near the measured devices of a calibration are to a device, and how wide its 80 % intervals are because of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from tokenworks.specs.device import ComputeDtype
from tokenworks.specs.machine import Machine
from tokenworks.specs.provenance import Number, Quantity, Spec

Distance = Literal["device", "family", "vendor", "other-vendor", "datasheet"]
"""How near the measured points of a calibration are to a device, nearest first. `device`: points of the device itself;
`family`: points of another device of its family; `vendor`: points of another family of its vendor; `other-vendor`: the
device has only points of other vendors, and measured kernels of its own or the numbers of a measured family;
`datasheet`: none of these."""

DISTANCES: tuple[Distance, ...] = get_args(Distance)

PRECISIONS: tuple[ComputeDtype, ...] = ("fp4", "fp8", "int8", "bf16")
"""Dtypes in which models multiply. Each of them is a path of its own through a device and its kernels."""

PATHS: tuple[ComputeDtype, ...] = ("fp4", "fp8")
"""Dtypes that a device may have without a measured device of its family, or of its vendor, having them."""

NEAR = 1.5
"""Devices of one family are near each other up to this ratio of their FLOP per byte [-]. H100 and H200 differ by 1.43,
and one set of numbers describes the kernels of both; chosen."""


def _factor(quantity: Quantity) -> Quantity:
    if quantity.value is None or quantity.value < 1:
        raise ValueError("a spread is a factor of at least 1")
    return quantity


def _growth(quantity: Quantity) -> Quantity:
    if quantity.value is None:
        raise ValueError("must not be null: 0 is no growth")
    return quantity


Spread = Annotated[Number, AfterValidator(_factor)]
Growth = Annotated[Number, AfterValidator(_growth)]


def vendor_of(family: str) -> str:
    """Vendor of a device family: the first word of its name.

    Parameters
    ----------
    family : name of the family, such as `nvidia-hopper`
    """
    return family.split("-", maxsplit=1)[0]


def combined_spread(*spreads: float) -> float:
    """The interval factor of a product of independent errors.

    The logarithm of a product is a sum. Independent widths add up as variances do:

        f = exp(sqrt(sum (ln f_i)^2))

    Parameters
    ----------
    spreads : interval factor of each error, at least 1 [-]

    References
    ----------
    [1] JCGM 100:2008 (GUM), equation 10: uncertainty of a function of independent inputs.
    """
    return math.exp(math.hypot(*(math.log(spread) for spread in spreads)))


class Silicon(Spec):
    """A device on which a calibration was measured: what decides how far its numbers carry to another device.

    Parameters
    ----------
    family : device family
    flop_per_byte : 16-bit peak / memory bandwidth [FLOP/byte]
    dtypes : dtypes that the device multiplies in
    """

    family: str
    flop_per_byte: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    dtypes: tuple[ComputeDtype, ...]

    @classmethod
    def of(cls, machine: Machine) -> Silicon:
        """The device of a machine.

        Parameters
        ----------
        machine : peaks and memory bandwidth of the device
        """
        flop = machine.peak["bf16"] if "bf16" in machine.peak else machine.peak["fp32"]
        dtypes = tuple(dtype for dtype in PRECISIONS if dtype in machine.peak)
        return cls(family=machine.family, flop_per_byte=float(f"{flop / machine.hbm_bandwidth:.4g}"), dtypes=dtypes)

    def log_ratio(self, other: Silicon) -> float:
        """|ln| of the ratio of the FLOP per byte of two devices [-].

        Parameters
        ----------
        other : the other device
        """
        return abs(math.log(self.flop_per_byte / other.flop_per_byte))

    def near(self, other: Silicon) -> bool:
        """Whether kernels of one device describe another: same family and dtypes, FLOP per byte within `NEAR`.

        Parameters
        ----------
        other : the other device
        """
        alike = self.family == other.family and set(self.dtypes) == set(other.dtypes)
        return alike and self.log_ratio(other) <= math.log(NEAR)


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near the measured devices of a calibration are to a device.

    Parameters
    ----------
    distance : class of the distance
    nearest : measured device with the nearest FLOP per byte, of those whose numbers the device uses; "" without any
    log_ratio : |ln| of the ratio of the FLOP per byte of both devices [-]
    dtypes : FP4 and FP8 paths of the device that none of these measured devices has
    """

    distance: Distance
    nearest: str = ""
    log_ratio: float = 0.0
    dtypes: tuple[ComputeDtype, ...] = ()

    @classmethod
    def of(cls, distance: Distance, silicon: Silicon, measured: Mapping[str, Silicon]) -> Nearness:
        """How near measured devices are to a device.

        Parameters
        ----------
        distance : class of the distance
        silicon : the device
        measured : the measured devices whose numbers the device uses, by name
        """
        if not measured:
            return cls(distance)
        nearest = min(measured, key=lambda name: (silicon.log_ratio(measured[name]), name))
        known = {dtype for one in measured.values() for dtype in one.dtypes}
        new = tuple(dtype for dtype in silicon.dtypes if dtype in PATHS and dtype not in known)
        return cls(distance, nearest, silicon.log_ratio(measured[nearest]), new)


class VendorSpread(Spec):
    """Interval factors of the devices of one vendor with measured points: they run the same software.

    Parameters
    ----------
    tpot, throughput : distance -> factor of TPOT, and of throughput at a given speed per user [-]
    """

    tpot: dict[Distance, Spread] = Field(default_factory=dict)
    throughput: dict[Distance, Spread] = Field(default_factory=dict)


class SpreadGrowth(Spec):
    """How 80 % intervals grow on a device whose FLOP per byte or dtypes are not measured:

        ln growth = slope |ln ratio| + n ln dtype

    with the ratio of the FLOP per byte of the device and of the nearest measured device, and n FP4 and FP8 paths that
    no measured device has.

    Parameters
    ----------
    slope : growth of ln f of an interval factor f / |ln| of the ratio of FLOP per byte [-]
    dtype : factor of a path that no measured device has [-]
    reach : largest |ln| of a ratio of FLOP per byte between the devices that the slope comes from [-]
    """

    slope: Growth = Quantity(value=0.0, status="assumed", source="not in the calibration file", written="0")
    dtype: Spread = Quantity(value=1.0, status="assumed", source="not in the calibration file", written="1")
    reach: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def at(self, near: Nearness) -> float:
        """Factor by which the interval factor of a device is larger than the factor of its distance [-].

        Parameters
        ----------
        near : how near the measured devices are
        """
        assert self.slope.value is not None
        assert self.dtype.value is not None
        return math.exp(self.slope.value * near.log_ratio) * self.dtype.value ** len(near.dtypes)

    def beyond(self, near: Nearness) -> str:
        """Why the growth of an interval is assumed, in words; "" within the ratios that the slope comes from.

        Parameters
        ----------
        near : how near the measured devices are
        """
        if near.log_ratio <= self.reach or not self.slope.value:
            return ""
        return (
            f"FLOP per byte of the device and of {near.nearest} differ by a factor of {math.exp(near.log_ratio):.2g}, "
            f"those of measured devices by at most {math.exp(self.reach):.2g}: beyond, the growth of the interval is "
            "assumed"
        )


@dataclass(frozen=True, slots=True)
class IntervalLaw:
    """The 80 % interval of a metric by device: the factor of its distance, and its growth.

        f = factors[distance] x growth

    Parameters
    ----------
    factors : distance -> factor of devices with the FLOP per byte and the dtypes of a measured device [-]
    growth : growth for FLOP per byte and dtypes that are not measured
    """

    factors: Mapping[Distance, Quantity]
    growth: SpreadGrowth

    def factor(self, distance: Distance) -> float:
        """The factor of a distance; never narrower than the factor of a nearer one.

        Parameters
        ----------
        distance : class of the distance

        Returns
        -------
        Factor [-]. A distance that is not listed has the factor of the next larger one; 1 if there is none.
        """
        at = DISTANCES.index(distance)
        larger = next((one for one in DISTANCES[at:] if one in self.factors), distance)
        listed = [self.factors[one].value for one in (*DISTANCES[:at], larger) if one in self.factors]
        return max((value for value in listed if value), default=1.0)

    def at(self, near: Nearness, *, least: float = 1.0) -> float:
        """The interval factor of a device: the interval of x is [x / factor, x * factor] [-].

        Parameters
        ----------
        near : how near the measured devices are
        least : smallest factor, before it grows, of a device without points of its own: the spread of its family [-]
        """
        factor = self.factor(near.distance)
        known = near.distance == "device" and "device" in self.factors
        return (factor if known else max(factor, least)) * self.growth.at(near)
