"""80 % intervals of TPOT and of throughput at a given speed per user, by how near the measured points are to a device.

Both laws (`IntervalLaw`) come from predictions by fits without nearer points (`unseen`). Each device has the same
weight, however many points it has. A vendor with measured devices has factors half way to its own. The score of a
prediction is its error without the growth of the interval:

    score = |ln(predicted / measured)| - ln growth

The logarithm of the factor of a distance is the score that contains 80 % of the predictions at this distance, each
device with the same weight: split conformal prediction, with the distribution of each group of points pooled. The
points of a software stack have their error in common, so the stacks count in its level and not the points: 0.8 (n + 1)
/ n with n stacks. (Frontiers do not tell stacks: their models count.)

References
----------
[1] Lei et al., Distribution-free predictive inference for regression, JASA 113, 2018, algorithm 2.
[2] Dunn, Wasserman, Ramdas, Distribution-free prediction sets for two-layer hierarchical models, JASA 118, 2023,
    section 3.1 (pooling the distributions of groups).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from typing_extensions import TypedDict

from tokenworks.arrays import Floats
from tokenworks.calibrate.correlation import throughput_correlation
from tokenworks.calibrate.fit import LEAST_POINTS
from tokenworks.calibrate.frontier import AtSpeed
from tokenworks.calibrate.growth import growth_of
from tokenworks.calibrate.leave_out import LEAST_SPREAD, conformal, conformal_score
from tokenworks.calibrate.quantities import spread
from tokenworks.calibrate.unseen import Known, throughputs, unseen
from tokenworks.specs.calibration import Calibration, number
from tokenworks.specs.interval import DISTANCES, Distance, IntervalLaw, Nearness, SpreadGrowth, VendorSpread, vendor_of
from tokenworks.specs.provenance import Quantity
from tokenworks.specs.result import Plain

NEARER: tuple[Distance, ...] = ("device", "family", "vendor")
"""Distances at which the points of a vendor say how wide the intervals of its devices are."""

POINTS, THROUGHPUTS = "points", "throughputs at equal speed per user"


class Sample(NamedTuple):
    """Errors of one device at one distance.

    Parameters
    ----------
    device, vendor : name of the device, and of the vendor of its family
    near : how near the devices are that the fit has seen
    plain, drafted : |ln(predicted / measured)| without and with draft tokens [-]
    stacks : software stacks of TPOT, or models of throughput, among the errors that a law describes [count]
    reached : the throughputs at equal speed per user, if these are their errors
    """

    device: str
    vendor: str
    near: Nearness
    plain: Floats
    drafted: Floats
    stacks: int
    reached: tuple[AtSpeed, ...] = ()

    @property
    def shown(self) -> Floats:
        """Errors that a law describes: those without draft tokens, if there are any [-]."""
        return self.plain if len(self.plain) else self.drafted


class Samples(NamedTuple):
    """Errors of TPOT, and of throughput at equal speed per user, by fits without nearer points."""

    tpot: list[Sample]
    throughput: list[Sample]


@dataclass(frozen=True, slots=True)
class Covered:
    """Coverage of the interval of a left-out device, by the law of the other devices.

    Parameters
    ----------
    n : number of points, or of throughputs at equal speed per user
    spread : half of the 80 % interval as a factor, without draft tokens [-]
    needed : spread that would contain 80 % without draft tokens [-]
    covered : share inside the interval, with and without draft tokens [-]
    """

    n: int
    spread: float
    needed: float
    covered: float


@dataclass(frozen=True, slots=True)
class LeftOutDevice:
    """Coverage of the intervals of a device whose points were left out.

    Parameters
    ----------
    system : name of the device
    distance : how near the points of the fit are
    tpot, throughput : coverage of TPOT, and of throughput at equal speed per user; None without any
    """

    system: str
    distance: Distance
    tpot: Covered | None
    throughput: Covered | None


class IntervalFields(TypedDict):
    """Fields of a `Calibration` for the intervals of TPOT, of throughput at a given speed per user, and of ratios."""

    draft_widening: Quantity
    tpot_spread: dict[Distance, Quantity]
    throughput_spread: dict[Distance, Quantity]
    vendor_spread: dict[str, VendorSpread]
    spread_growth: SpreadGrowth
    throughput_correlation: Quantity


class GrowthPlain(TypedDict):
    """The plain form of a `SpreadGrowth`."""

    slope: float
    dtype: float
    reach: float


class VendorPlain(TypedDict):
    """The plain form of a `VendorSpread`."""

    tpot: dict[Distance, float]
    throughput: dict[Distance, float]


class IntervalsPlain(TypedDict):
    """The plain form of `DeviceIntervals`."""

    draft_widening: float
    tpot_spread: dict[Distance, float]
    throughput_spread: dict[Distance, float]
    vendor_spread: dict[str, VendorPlain]
    spread_growth: GrowthPlain
    throughput_correlation: float | None
    left_out_intervals: list[Plain]


class DeviceIntervals(NamedTuple):
    """The intervals of a calibration, and the coverage on left-out devices."""

    fields: IntervalFields
    left_out: list[LeftOutDevice]


def device_intervals(known: Known, before: Calibration) -> DeviceIntervals:
    """The interval laws, the widening by draft tokens, and the correlation of the errors of two devices.

    Parameters
    ----------
    known : the points and their fits
    before : calibration with the numbers that stay where there are too few points
    """
    samples, growth = samples_of(known), growth_of(known, before.spread_growth)
    left_out = []
    for own in alone(samples.tpot):
        others = Samples(*([one for one in part if one.device != own.device] for part in samples))
        fields = interval_fields(others, growth, before)
        laws, drafts = before.model_copy(update={**fields}), number(fields["draft_widening"])
        tpot = covered(own, laws.tpot_law(own.vendor), drafts)
        reached = [one for one in alone(samples.throughput) if one.device == own.device]
        throughput = [covered(one, laws.throughput_law(one.vendor), drafts) for one in reached]
        left_out.append(LeftOutDevice(own.device, own.near.distance, tpot, throughput[0] if throughput else None))
    return DeviceIntervals(interval_fields(samples, growth, before), left_out)


def interval_fields(samples: Samples, growth: SpreadGrowth, before: Calibration) -> IntervalFields:
    """The interval laws, the widening by draft tokens, and the correlation of two devices, from errors of devices.

    Parameters
    ----------
    samples : errors of devices at distances
    growth : growth of the intervals
    before : calibration with the numbers that stay where there are too few points
    """
    tpot = spreads_of(samples.tpot, growth, before.tpot_spread, POINTS)
    throughput = spreads_of(samples.throughput, growth, before.throughput_spread, THROUGHPUTS)
    vendors = dict(before.vendor_spread)
    for vendor in sorted({one.vendor for one in samples.tpot}):
        times, speeds = (
            [one for one in part if one.vendor == vendor and one.near.distance in NEARER] for part in samples
        )
        vendors[vendor] = VendorSpread(
            tpot=halfway(spreads_of(times, growth, {}, POINTS), tpot),
            throughput=halfway(spreads_of(speeds, growth, {}, THROUGHPUTS), throughput),
        )
    update = {"tpot_spread": tpot, "throughput_spread": throughput, "vendor_spread": vendors, "spread_growth": growth}
    laws = before.model_copy(update=update)
    wider = widening([(one, laws.tpot_law(one.vendor)) for one in alone(samples.tpot)], before.draft_widening)
    wide = [
        reached._replace(
            spread=laws.throughput_law(one.vendor).at(one.near)
            ** (number(wider) if reached.workload.mtp == "mtp" else 1)
        )
        for one in alone(samples.throughput)
        for reached in one.reached
    ]
    return {
        "draft_widening": wider,
        "tpot_spread": tpot,
        "throughput_spread": throughput,
        "vendor_spread": vendors,
        "spread_growth": growth,
        "throughput_correlation": throughput_correlation(wide, before),
    }


def samples_of(known: Known) -> Samples:
    """The errors of TPOT, and of throughput at equal speed per user, of each device at each distance.

    Parameters
    ----------
    known : the points and their fits
    """
    samples = Samples([], [])
    points = known.problem.points
    stacks = np.array([f"{point.engine} {point.model} {point.weights}" for point in points])
    for prediction in unseen(known):
        errors = np.abs(np.log(prediction.seconds / known.problem.measured))
        reached = throughputs(known.problem, prediction.seconds)
        for device, near in prediction.near.items():
            own = (known.devices == device) & np.isfinite(errors)
            vendor = vendor_of(known.silicon[device].family)
            cells = tuple(one for one in reached if one.device == device)
            with_drafts = np.array([one.workload.mtp == "mtp" for one in cells], bool)
            off = np.array([abs(one.error) for one in cells])
            if own.any():
                plain, drafted = own & ~known.drafted, own & known.drafted
                count = len(set(stacks[plain if plain.any() else drafted]))
                samples.tpot.append(Sample(device, vendor, near, errors[plain], errors[drafted], count))
            if cells:
                shown = with_drafts if with_drafts.all() else ~with_drafts
                count = len({cell.workload.model for cell, one in zip(cells, shown, strict=True) if one})
                samples.throughput.append(
                    Sample(device, vendor, near, off[~with_drafts], off[with_drafts], count, cells)
                )
    return samples


def alone(samples: Sequence[Sample]) -> list[Sample]:
    """The sample of each device whose points were left out: at the nearest distance beyond `device`.

    Parameters
    ----------
    samples : samples of all distances, nearest first
    """
    nearest: dict[str, Sample] = {}
    for one in samples:
        if one.near.distance in ("family", "vendor"):
            nearest.setdefault(one.device, one)
    return list(nearest.values())


def spreads_of(
    samples: Sequence[Sample], growth: SpreadGrowth, before: Mapping[Distance, Quantity], what: str
) -> dict[Distance, Quantity]:
    """The interval factor of each distance. Each device has the same weight.

    The factors come from errors without draft tokens, if there are any: with MTP, `draft_widening` makes an interval
    wider. A larger distance never has a smaller factor than a nearer one.

    Parameters
    ----------
    samples : errors of devices at distances
    growth : growth of the interval
    before : factors of distances for which there are too few points
    what : what the errors are errors of, in the source of the factors
    """
    factors: dict[Distance, Quantity] = {}
    widest = LEAST_SPREAD
    for distance in DISTANCES:
        own = [one for one in samples if one.near.distance == distance]
        count = sum(len(one.shown) for one in own)
        if count < LEAST_POINTS:
            if distance in before:
                factors[distance] = before[distance]
                widest = max(widest, number(factors[distance]))
            continue
        scores = np.concatenate([one.shown - math.log(growth.at(one.near)) for one in own])
        units = sum(one.stacks for one in own)
        widest = max(widest, round(math.exp(conformal_score(scores, _weights(own), units)), 2))
        devices = len({one.device for one in own})
        factors[distance] = spread(widest, f"{HOW[distance]}: {count} {what} of {devices} devices with equal weights")
    return factors


def halfway(own: Mapping[Distance, Quantity], everyone: Mapping[Distance, Quantity]) -> dict[Distance, Quantity]:
    """Factors half way between those of the devices of a vendor and those of all devices: the geometric means.

    Two to four devices of a vendor say little about the next one. All devices together say little about a vendor whose
    software differs. Neither alone covers the left-out systems.

    Parameters
    ----------
    own : factors from the devices of the vendor
    everyone : factors from all devices
    """
    factors: dict[Distance, Quantity] = {}
    for distance, factor in own.items():
        value = round(math.sqrt(number(factor) * number(everyone[distance])), 2)
        source = f"half way between {factor.written} ({factor.source}) and {everyone[distance].written} of all devices"
        factors[distance] = Quantity(value=value, status="derived", source=source, written=f"{value:g}")
    return factors


HOW: dict[Distance, str] = {
    "device": "models left out of the fit",
    "family": "devices left out of the fit",
    "vendor": "families left out of the fit",
    "other-vendor": "vendors left out of the fit, with numbers of another vendor",
    "datasheet": "no point fitted, with numbers of another vendor",
}
"""Source of the factor of each distance."""


def _weights(samples: Sequence[Sample]) -> Floats:
    """Weight of each error: all errors of a device together have the weight 1."""
    sizes: Counter[str] = Counter()
    for one in samples:
        sizes[one.device] += len(one.shown)
    return np.concatenate([np.full(len(one.shown), 1 / sizes[one.device]) for one in samples if len(one.shown)])


def widening(samples: Sequence[tuple[Sample, IntervalLaw]], before: Quantity) -> Quantity:
    """The interval with draft tokens / the interval without, both as logarithms; at least 1.

    Parameters
    ----------
    samples : errors of left-out devices, each with the law of its interval without draft tokens
    before : number that stays if there are too few points
    """
    drafted = [(one, law) for one, law in samples if len(one.drafted)]
    count = sum(len(one.drafted) for one, _ in drafted)
    if count < LEAST_POINTS:
        return before
    ratios = np.concatenate([one.drafted / math.log(law.at(one.near)) for one, law in drafted])
    ratio = round(max(1.0, conformal_score(ratios, np.ones(count), count)), 2)
    return spread(ratio, f"devices left out of the fit: {count} points with drafts of {len(drafted)} devices")


def covered(sample: Sample, law: IntervalLaw, drafts: float) -> Covered:
    """Coverage of the errors of a device by a law.

    Parameters
    ----------
    sample : errors of the device
    law : law of the interval without draft tokens
    drafts : the interval with draft tokens / the interval without, both as logarithms [-]
    """
    width = math.log(law.at(sample.near))
    inside = [sample.plain <= width, sample.drafted <= width * drafts]
    return Covered(
        n=len(sample.plain) + len(sample.drafted), spread=math.exp(width), needed=conformal(sample.shown),
        covered=float(np.mean(np.concatenate(inside))),
    )  # fmt: skip


def intervals_plain(intervals: DeviceIntervals) -> IntervalsPlain:
    """Plain data of the intervals.

    Parameters
    ----------
    intervals : the intervals, and their coverage on left-out devices
    """
    fields = intervals.fields
    growth = fields["spread_growth"]
    return {
        "draft_widening": number(fields["draft_widening"]),
        "tpot_spread": {distance: number(factor) for distance, factor in fields["tpot_spread"].items()},
        "throughput_spread": {distance: number(factor) for distance, factor in fields["throughput_spread"].items()},
        "vendor_spread": {
            vendor: {
                "tpot": {distance: number(factor) for distance, factor in one.tpot.items()},
                "throughput": {distance: number(factor) for distance, factor in one.throughput.items()},
            }
            for vendor, one in fields["vendor_spread"].items()
        },
        "spread_growth": {"slope": number(growth.slope), "dtype": number(growth.dtype), "reach": growth.reach},
        "throughput_correlation": fields["throughput_correlation"].value,
        "left_out_intervals": [asdict(one) for one in intervals.left_out],
    }
