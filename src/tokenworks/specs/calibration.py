"""Calibrations: utilisation (roofline time / measured time) of each device family, with source and spread."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from tokenworks.errors import UnknownName
from tokenworks.specs.calibration_family import Family, Latency, Like, Power, Util, number
from tokenworks.specs.edits import edited
from tokenworks.specs.given import Assume, given, of
from tokenworks.specs.interval import (
    Distance,
    IntervalLaw,
    Nearness,
    Silicon,
    Spread,
    SpreadGrowth,
    VendorSpread,
    vendor_of,
)
from tokenworks.specs.load import CATALOG, is_path, nearest, read_yaml, validate
from tokenworks.specs.machine import Assumption, Machine
from tokenworks.specs.provenance import Number, Quantity, Spec, with_sources
from tokenworks.specs.software import Software, SoftwareKey
from tokenworks.specs.training_factors import TrainingFactors

__all__ = [
    "DEFAULT", "KEY", "SHARED", "Calibration", "CalibrationLike", "Family", "Grade", "Like", "Power",
    "calibration_name", "calibration_names", "load_calibration", "not_correlated", "number",
]  # fmt: skip

Grade = Literal["datasheet", "kernel-calibrated", "end-to-end-calibrated"]


def _correlation(quantity: Quantity) -> Quantity:
    if quantity.value is not None and not 0 <= quantity.value < 1:
        raise ValueError("a correlation is at least 0 and below 1; null counts errors as independent")
    return quantity


Correlation = Annotated[Number, AfterValidator(_correlation)]


def not_correlated(why: str) -> Quantity:
    """A correlation that is not measured: the errors of two predictions count as independent.

    Parameters
    ----------
    why : reason why the correlation is not measured
    """
    return Quantity(value=None, status="not-published", source=f"{why}; errors count as independent")


SHARED = (
    "query",
    "sequence",
    "context_walk",
    "elementwise",
    "ring",
    "skew",
    "rank_skew",
    "acceptance",
    "later_acceptance",
)
"""Fields of a calibration that hold for all families, and that can be assumed."""


KEY = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+")
"""Form of a source's name in a calibration file: lower-case words and numbers, joined by hyphens."""


class Calibration(Spec):
    """One file of catalog/calibration, or a file that `calibrate` wrote.

    Parameters
    ----------
    name, title : name in the catalog, and a title for people
    grade : what the factors are based on: datasheet, kernel-calibrated or end-to-end-calibrated
    fitted_on : data on which a calibration of a higher grade was fitted
    data_sha256 : hash of these data
    devices : devices with measured serving points that the calibration was fitted on, by name
    kernels : devices whose dense GEMMs and experts were measured, by name; their families have these numbers
    sources : name -> text of a source. A number in the file may give the name; after loading it has the text
    query : cost of the edges of a tile in prefill attention, as additional cache entries per query [count]
    sequence : the same cost in decode attention, as additional cache entries per sequence [count]
    context_walk : latency of decode attention per token of context [s]
    elementwise : bandwidth of the small kernels between GEMMs / bandwidth of GEMMs, for small tensors [-]
    ring : latency of one step around a ring, as NCCL gathers [s]
    skew : log-deviation of expert popularity within a step: it decides how many experts get a token [-]
    rank_skew : log-deviation of expert popularity that the placement of experts leaves: it decides how much more than
        the mean the hottest rank has to do [-]
    acceptance : probability that the first draft token of a step is accepted [-]
    later_acceptance : probability that a later draft token is accepted, if the token before was [-]
    power : power of a device, as shares of its TDP
    draft_widening : on devices with measured points, the interval factor with draft tokens is
        spread ** draft_widening [-]
    ttft_spread : interval factor of TTFT for all families; it covers queues and servers, not devices [-]
    tpot_spread : distance -> interval factor of TPOT and step times, see `IntervalLaw` [-]
    throughput_spread : distance -> interval factor of throughput at a given speed per user [-]
    vendor_spread : vendor -> factors that replace those of both, for devices of this vendor
    spread_growth : growth of both factors on devices whose FLOP per byte or dtypes are not measured
    throughput_correlation : correlation of the log errors of two devices whose throughputs are predicted at the same
        speed per user. Null: it is not measured, and the errors count as independent [-]
    families : families with numbers of their own
    borrowed : families that use the numbers of another family
    lent : numbers that a family had before its own serving points were fitted. Unmeasured families borrow these:
        fitted numbers hold the software of that device, and transfer worse
    software : software stacks with measured points. No other constant has what belongs to one of them alone
    training : factors of a training step; None: the file has none, and those of the default calibration are used
    """

    name: str
    title: str
    grade: Grade
    fitted_on: str = ""
    data_sha256: str = ""
    devices: dict[str, Silicon] = Field(default_factory=dict)
    kernels: dict[str, Silicon] = Field(default_factory=dict)
    sources: dict[Annotated[str, Field(pattern=f"^{KEY.pattern}$")], str] = Field(default_factory=dict)
    query: Number
    sequence: Number
    context_walk: Latency
    elementwise: Util
    ring: Latency
    skew: Number
    rank_skew: Number
    acceptance: Util
    later_acceptance: Util
    power: Power
    draft_widening: Spread
    ttft_spread: Spread
    tpot_spread: dict[Distance, Spread] = Field(default_factory=dict)
    throughput_spread: dict[Distance, Spread] = Field(default_factory=dict)
    vendor_spread: dict[str, VendorSpread] = Field(default_factory=dict)
    spread_growth: SpreadGrowth = SpreadGrowth()
    throughput_correlation: Correlation = not_correlated("not in the calibration file")
    families: dict[str, Family] = Field(min_length=1)
    borrowed: dict[str, Like] = Field(default_factory=dict)
    lent: dict[str, Family] = Field(default_factory=dict)
    software: tuple[Software, ...] = ()
    training: TrainingFactors | None = None

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, data: Any) -> Any:
        table = data.get("sources") if isinstance(data, dict) else None
        if not isinstance(table, dict):
            return data

        def text(source: str) -> str:
            if source not in table and KEY.fullmatch(source):
                hint = nearest(source, list(table)) or f"the table has {', '.join(table)}"
                raise ValueError(f"the table `sources` has no source {source!r}; {hint}")
            return str(table.get(source, source))

        return with_sources(data, text)

    @model_validator(mode="after")
    def _borrowed_from_known(self) -> Calibration:
        for name, borrowed in self.borrowed.items():
            if name in self.families or borrowed.like not in self.families:
                raise ValueError(f"borrowed.{name}.like: {borrowed.like!r} is not one of `families`")
        for name in self.lent:
            if name not in self.families:
                raise ValueError(f"lent.{name}: {name!r} is not one of `families`")
        return self

    @model_validator(mode="after")
    def _each_software_once(self) -> Calibration:
        keys = [one.key for one in self.software]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"software: {', '.join(map(str, twice[0]))} is there twice")
        return self

    @property
    def without_software(self) -> Calibration:
        """The same calibration without the times of software stacks: what a fit of all other constants starts from."""
        return self.model_copy(update={"software": ()})

    def software_on(self, machine: Machine) -> tuple[Software, ...]:
        """The software stacks on the device of a machine: its own, and those that other devices of its vendor lend.

        Devices like it lend first: those that also multiply in the dtype of the weights, or also do not. FP4 weights
        have other kernels on H100 than on B200. If there are none, all others of the vendor lend.

        Parameters
        ----------
        machine : name of the device, its family and its peaks
        """
        own = {one.key: one for one in self.software if one.device == machine.device}
        others: dict[SoftwareKey, list[Software]] = {}
        for one in self.software:
            silicon, key = self.devices.get(one.device), one.key.on(machine.device)
            if key not in own and silicon and vendor_of(silicon.family) == vendor_of(machine.family):
                others.setdefault(key, []).append(one)

        def alike(one: Software) -> bool:
            return (one.weights in self.devices[one.device].dtypes) == (one.weights in machine.peak)

        lent = (Software.like(list(filter(alike, found)) or found, machine.device) for found in others.values())
        return (*own.values(), *lent)

    def grade_of(self, machine: Machine) -> Grade:
        """The grade of a prediction for the device of a machine.

        Only a device whose own serving points were fitted is end-to-end-calibrated. A device is kernel-calibrated if
        kernels were measured on it, or on a device of its family that is near it (`Silicon.near`).

        Parameters
        ----------
        machine : name of the device, its family, its peaks and its memory bandwidth
        """
        silicon = Silicon.of(machine)
        own = self.devices.get(machine.device)
        if self.grade == "end-to-end-calibrated" and own and silicon.near(own):
            return "end-to-end-calibrated"
        kernels = self.grade != "datasheet" and any(silicon.near(one) for one in self.kernels.values())
        return "kernel-calibrated" if kernels else "datasheet"

    def nearness(self, machine: Machine) -> Nearness:
        """How near the measured devices of the calibration are to the device of a machine.

        Parameters
        ----------
        machine : name of the device, its family, its peaks and its memory bandwidth
        """
        silicon, family = Silicon.of(machine), machine.family
        like = self.borrowed[family].like if family in self.borrowed else family
        measured = {one.family for one in self.devices.values()}
        distance: Distance = "datasheet"
        if machine.device in self.devices and self.devices[machine.device].family == family:
            distance = "device"
        elif family in measured:
            distance = "family"
        elif vendor_of(family) in map(vendor_of, measured):
            distance = "vendor"
        elif measured and (like in measured or self.grade_of(machine) == "kernel-calibrated"):
            distance = "other-vendor"
        everything = self.kernels | self.devices
        known = {name: one for name, one in everything.items() if one.family == like} or self.devices
        return Nearness.of(distance, silicon, known)

    def family_spread(self, name: str) -> float:
        """Interval factor of TPOT of a family, with or without measured points, near its measured devices [-].

        Parameters
        ----------
        name : name of the family
        """
        return max(number(self.families[name].spread), self.tpot_law(name).factor("device"))

    def tpot_law(self, family: str) -> IntervalLaw:
        """Interval law of TPOT and step times, for devices of a family.

        Parameters
        ----------
        family : device family; the factors of its vendor come first
        """
        own = self.vendor_spread.get(vendor_of(family), VendorSpread())
        return IntervalLaw(self.tpot_spread | own.tpot, self.spread_growth)

    def throughput_law(self, family: str) -> IntervalLaw:
        """Interval law of throughput at a given speed per user, see `tpot_law`.

        Parameters
        ----------
        family : device family
        """
        own = self.vendor_spread.get(vendor_of(family), VendorSpread())
        return IntervalLaw(self.throughput_spread | own.throughput, self.spread_growth)

    @property
    def correlation(self) -> float:
        """Correlation of the log errors of two predicted throughputs [-]; 0, independent errors, if not measured."""
        return self.throughput_correlation.value or 0.0

    def family(self, name: str) -> Family:
        """The factors of a device family, its own or borrowed ones.

        Parameters
        ----------
        name : name of the family

        Raises
        ------
        UnknownName : the calibration has no such family
        """
        if name in self.borrowed:
            borrowed = self.borrowed[name]
            lent = self.lent.get(borrowed.like, self.families[borrowed.like])
            return lent.model_copy(update={"spread": borrowed.spread, "peak": {}, "power": None})
        if name not in self.families:
            known = [*self.families, *self.borrowed]
            raise UnknownName(
                "device family", name, known, hint=f"device.family must be a family of calibration {self.name}"
            )
        return self.families[name]

    def standalone(self, names: Iterable[str]) -> Calibration:
        """The same calibration, prepared for a fit of these families.

        Each family gets numbers of its own: those that it has now. If other families borrow from it, they keep the
        numbers that they have now (`lent`).

        Parameters
        ----------
        names : families that will be fitted
        """
        own = {name: self.family(name) for name in names}
        borrowed = {name: like for name, like in self.borrowed.items() if name not in own}
        lent = {like.like: own[like.like] for like in borrowed.values() if like.like in own} | self.lent
        return self.model_copy(update={"families": self.families | own, "borrowed": borrowed, "lent": lent})

    def assumed(self, machine: Machine) -> Iterator[Assumption]:
        """The assumptions of a prediction: one entry for all assumed factors of the family, one for each constant.

        An interval that grows beyond the measured devices is an assumption, too.

        Parameters
        ----------
        machine : the device family, and the dtypes of the device; factors of other dtypes are not used
        """
        name = machine.family
        family = self.family(name)
        guessed = [path for path, quantity in _factors(family, machine.peak) if quantity.assumed]
        if name in self.borrowed:
            yield Assumption(f"calibration.{name}", f"as {self.borrowed[name].like}", self.borrowed[name].why)
        elif guessed:
            why = "priors by device class; the calibration file has a reason for each"
            yield Assumption(f"calibration.{name}", ", ".join(guessed), why)
        for path in SHARED:
            quantity = getattr(self, path)
            if quantity.assumed:
                yield Assumption(f"calibration.{path}", quantity.written, quantity.source)
        near = self.nearness(machine)
        if why := self.spread_growth.beyond(near):
            yield Assumption("calibration.spread_growth", f"intervals x {self.spread_growth.at(near):.3g}", why)

    def rests_on(self, name: str, factors: Iterable[str]) -> str:
        """Where factors of a family come from: "measured", "assumed" if one of them is assumed, or "as NAME".

        Parameters
        ----------
        name : name of the family
        factors : names of the factors, such as hbm or gemm.fp8
        """
        family = self.family(name)
        if name in self.borrowed:
            return f"as {self.borrowed[name].like}"
        statuses = {quantity.status for path, quantity in _factors(family, family.gemm) if path in factors}
        return "assumed" if statuses - {"measured", "derived"} else "measured"


def _factors(family: Family, dtypes: Iterable[str]) -> Iterator[tuple[str, Quantity]]:
    """Name and value of each factor of a family, for these dtypes."""
    for name, value in family:
        if isinstance(value, Quantity):
            yield name, value
    for field in ("gemm", "grouped"):
        for dtype, util in getattr(family, field).items():
            if dtype in dtypes:
                yield f"{field}.{dtype}", util


DEFAULT = "serving"
"""Name of the calibration that commands use by default."""


CalibrationLike = str | Path | Mapping[str, Any] | Calibration
"""Every form of a calibration: a catalog name, a YAML file, the content of such a file, or a calibration."""


def load_calibration(calibration: CalibrationLike = DEFAULT, *, assume: Assume = None) -> Calibration:
    """Load a calibration, with the numbers that the user set.

    Parameters
    ----------
    calibration : a name of the catalog; a YAML file such as `calibrate` writes, which is read at each call; the
        content of such a file, as a dict; or a loaded calibration
    assume : values by path, such as `calibration.skew: 0.3`, as a YAML file or a dict; paths of other areas do nothing

    Raises
    ------
    SpecError : no such calibration, or a file, a path or a value that is not valid
    """
    if isinstance(calibration, Calibration):
        loaded = calibration
    elif isinstance(calibration, Mapping):
        loaded = validate(Calibration, dict(calibration), "calibration")
    elif is_path(calibration):
        loaded = validate(Calibration, read_yaml(calibration), str(calibration))
    else:
        loaded = _shipped(str(calibration))
    return edited(loaded, of("calibration", given(assume)), prefix="calibration.", but=("name", "sources"))


def calibration_name(calibration: CalibrationLike) -> str:
    """Name of a calibration in results: its catalog name, or the path of its file."""
    return str(calibration) if isinstance(calibration, (str, Path)) else load_calibration(calibration).name


def calibration_names() -> list[str]:
    """Names of the calibrations in the catalog, sorted."""
    return sorted(path.stem for path in (CATALOG / "calibration").glob("*.yaml"))


@functools.cache
def _shipped(name: str) -> Calibration:
    if name not in calibration_names():
        raise UnknownName("calibration", name, calibration_names(), hint="a file of your own ends in .yaml")
    path = CATALOG / "calibration" / f"{name}.yaml"
    return validate(Calibration, read_yaml(path), str(path))
