"""Compute what follows from the constants of a calibration again: its intervals, and factors of software stacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from tokenworks.calibrate.calibrate import problem_of
from tokenworks.calibrate.distances import (
    DeviceIntervals,
    GrowthPlain,
    LeftOutDevice,
    VendorPlain,
    device_intervals,
    intervals_plain,
)
from tokenworks.calibrate.factors import factors_of
from tokenworks.calibrate.fit import fit
from tokenworks.calibrate.leave_out import leave_out
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.software import SoftwareFit, SoftwarePlain, fit_software
from tokenworks.calibrate.unseen import Known
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import Calibration
from tokenworks.specs.interval import Distance
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs


class CalibrateIntervalsBody(SoftwarePlain):
    """The plain form of `calibrate --intervals-of`."""

    inputs: Inputs
    name: str
    prior: str
    devices: list[str]
    draft_widening: float
    tpot_spread: dict[Distance, float]
    throughput_spread: dict[Distance, float]
    vendor_spread: dict[str, VendorPlain]
    spread_growth: GrowthPlain
    throughput_correlation: float | None
    left_out_intervals: list[Annotated[Plain, FormOf(LeftOutDevice)]]


@dataclass(frozen=True)
class Intervals:
    """A calibration with new intervals of TPOT and of throughput at equal speed per user, and new software factors.

    Parameters
    ----------
    calibration : the calibration; only `devices`, `software` and the fields of `IntervalFields` are new
    intervals : the intervals, and their coverage on left-out devices
    software : the factors of software stacks, and the errors that they come from
    prior : name of the calibration that the fits without some of the points started from
    """

    calibration: Calibration
    intervals: DeviceIntervals
    software: SoftwareFit
    prior: str

    def plain(self) -> Plain:
        """The intervals as plain data."""
        body: CalibrateIntervalsBody = {
            "inputs": inputs(calibration=self.calibration.name),
            "name": self.calibration.name,
            "prior": self.prior,
            "devices": list(self.calibration.devices),
            **intervals_plain(self.intervals),
            **self.software.plain(),
        }
        return envelope("calibrate-intervals", body)


def intervals_of(
    calibration: Calibration, points: Sequence[Point], prior: Calibration, *, data_sha256: str,
    say: Callable[[str], None] | None = None,
) -> Intervals:  # fmt: skip
    """Fit without parts of the points, and compute the intervals by device, and the correlation of two devices.

    The factors of software stacks are computed again, too.

    Parameters
    ----------
    calibration : a calibration that was fitted on the points
    points : the measured points
    prior : calibration that the fits without parts of the points start from
    data_sha256 : hash of the data files
    say : receives progress messages; None for no messages

    Raises
    ------
    SpecError : the calibration was fitted on other data
    """
    if calibration.data_sha256 != data_sha256:
        raise SpecError(
            f"was not fitted on these points (sha256 {data_sha256[:12]}...)", where=f"calibration {calibration.name}",
            hint=f"give the data that it was fitted on: {calibration.fitted_on or 'no data'}",
        )  # fmt: skip
    problem = problem_of(points, prior, say=say, at=calibration)
    factors = factors_of(problem.families, problem.calibration)
    _, without_system = leave_out(problem, factors, "system", say)
    known = Known(problem, factors, fit(problem, factors).theta, without_system, say)
    intervals = device_intervals(known, calibration)
    software = fit_software(points, calibration, say=say)
    update = {"devices": known.silicon, "software": software.beside(calibration), **intervals.fields}
    return Intervals(calibration.model_copy(update=update), intervals, software, prior.name)
