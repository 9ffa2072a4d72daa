"""A few points of a user's own machine: the fit recovers hidden factors, and gives an interval."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tokenworks.calibrate.factors import ALL, SHARED, Factor, turned
from tokenworks.calibrate.file import write_own
from tokenworks.calibrate.measured import Measured, Point
from tokenworks.calibrate.own_machine import Played, calibrate_own, own_factors, prepared
from tokenworks.calibrate.own_results import point_of
from tokenworks.calibrate.validate import predict_each
from tokenworks.costs.rates import rates
from tokenworks.errors import SpecError
from tokenworks.ingest.benchmark import Benchmark, Lengths, Time
from tokenworks.specs.calibration import Calibration, load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.deployment import Deployment, Parallel, Role

PRIOR = load_calibration("datasheet")
DEPLOYMENT = Deployment(
    model="meta-llama/Meta-Llama-3.1-8B", system="hgx-h100",
    roles=(Role(name="aggregated", parallel=Parallel(), max_sequences=64, chunk_tokens=2048),),
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("kernel")


def asked(concurrency: int, isl: int, osl: int, rate: float = 0.0) -> Point:
    """A point with a load and without results."""
    return point_of(
        Benchmark(
            name=f"c{concurrency} i{isl} r{rate}", arrivals="poisson" if rate else "at once", rate=rate,
            concurrency=concurrency or None, requests=40, isl=Lengths(isl, 0.0), osl=Lengths(osl, 0.0),
            ttft=Time(1.0), tpot=Time(1.0), tokens_per_s=1.0,
        ),
        DEPLOYMENT,
    )  # fmt: skip


def measured_on(truth: Calibration, *points: Point) -> list[Point]:
    """The same points with results: the predictions with a given calibration."""
    predictions = predict_each(points, truth)
    return [
        replace(point, measured=Measured(tpot=one.tpot, ttft=one.ttft, rate=one.rate))
        for point, one in zip(points, predictions, strict=True)
    ]


THREE = (asked(1, 512, 64), asked(16, 128, 64), asked(4, 4096, 32))
OTHERS = (asked(2, 1024, 32), asked(32, 256, 64), asked(0, 512, 64, rate=3.0))
SLOW = turned(
    PRIOR, [Factor(("nvidia-hopper",), "gemm", 1.0), Factor(("nvidia-hopper",), "hbm", 1.0)], np.log([0.7, 0.8])
)  # fmt: skip


def test_three_points_of_a_slower_machine_predict_others(tmp_path: Path) -> None:
    """TPOT shows the slower memory, TTFT the slower arithmetic. Points that were not fitted are within 10 %."""
    own = calibrate_own(measured_on(SLOW, *THREE), PRIOR, name="mine", fitted_on="three", data_sha256="0" * 64)
    others = Played(measured_on(SLOW, *OTHERS), own.calibration).errors([], np.zeros(0))
    before = Played(measured_on(SLOW, *OTHERS), PRIOR).errors([], np.zeros(0))
    assert np.abs(others).max() < 0.1 < np.abs(before).max()
    plain = own.plain()
    assert plain["ttft_in_sample"]["mape"] < 0.5 * plain["ttft_before"]["mape"]
    assert plain["tpot_left_out"]["n"] == 3
    write_own(own, tmp_path / "mine.yaml")
    again = load_calibration(str(tmp_path / "mine.yaml"))
    assert again.grade_of(machine("hgx-h100")) == "end-to-end-calibrated"
    assert again.grade_of(machine("hgx-b200")) == "kernel-calibrated"
    assert again.grade_of(machine("hgx-h20")) == "datasheet"
    assert rates(machine("hgx-h100"), again).spread == own.calibration.tpot_law("nvidia-hopper").factor("device")
    assert rates(machine("hgx-h20"), again).spread >= 1.3  # other devices of the family keep the interval of the prior
    assert "each point left out" in (tmp_path / "mine.yaml").read_text()


def test_a_front_end_that_is_faster_than_the_catalog_says() -> None:
    """Client, HTTP and tokeniser take 8 ms in place of 30 ms. TTFT of a short prompt shows it, and others follow."""
    nimble = turned(prepared(THREE, PRIOR), [Factor(("nvidia-hopper",), "request", 1.0)], np.log([8 / 30]))
    own = calibrate_own(measured_on(nimble, *THREE), PRIOR, name="mine", fitted_on="three", data_sha256="")
    request = own.calibration.families["nvidia-hopper"].request
    assert request is not None
    assert request.value == pytest.approx(8e-3, rel=0.25)
    assert "prior 30 ms" in request.note
    others = Played(measured_on(nimble, *OTHERS), own.calibration).errors([], np.zeros(0))
    assert np.abs(others).max() < 0.1
    assert PRIOR.families["nvidia-hopper"].request is None


def test_a_machine_as_the_prior_says_leaves_the_prior() -> None:
    own = calibrate_own(measured_on(PRIOR, *THREE), PRIOR, name="mine", fitted_on="three", data_sha256="")
    assert own.fit.theta == pytest.approx(np.zeros(len(own.fit.theta)), abs=0.01)
    assert own.calibration.tpot_law("nvidia-hopper").factor("device") == pytest.approx(1.05)
    assert own.plain()["spreads"] == {"nvidia-hopper": pytest.approx(1.05)}


def test_one_device_feels_no_links() -> None:
    factors = Played(measured_on(PRIOR, *THREE), PRIOR).felt(own_factors(["nvidia-hopper"], PRIOR))
    felt = {factor.field for factor in factors}
    assert {"gemm", "hbm", "attention_hbm", "kernel"} <= felt
    assert not felt & {"scale_up", "dispatch_up", "collective_start", "skew", "acceptance", "grouped"}


def test_a_machine_is_as_free_as_its_family_is_wide() -> None:
    freed = {factor.name: factor.spread for factor in own_factors(["cpu", "nvidia-hopper"], PRIOR)}
    assert freed["cpu.hbm"] == pytest.approx(np.log(2.0) / 1.2816)
    assert freed["nvidia-hopper.hbm"] == pytest.approx(np.log(1.3) / 1.2816)
    assert freed["skew"] == SHARED["skew"]


def test_what_is_measured_on_a_family_that_borrows_stays_its_own() -> None:
    own = PRIOR.standalone(["amd-cdna5"])
    assert "amd-cdna5" not in own.borrowed
    assert own.families["amd-cdna5"].spread == PRIOR.borrowed["amd-cdna5"].spread
    other = turned(own, [Factor(("amd-cdna5",), "hbm", 1.0)], np.array([-0.5]))
    assert other.families["amd-cdna4"] == PRIOR.families["amd-cdna4"]


def test_who_borrows_has_what_was_there_before_the_lender_was_fitted() -> None:
    own = PRIOR.standalone(["amd-cdna4"])
    factors = [Factor(("amd-cdna4",), "hbm", 1.0, "amd-cdna4"), Factor(tuple(own.families), "kernel", 1.0, ALL)]
    fitted = turned(own, factors, np.array([-0.5, 0.5]))
    before, lender, borrower = PRIOR.family("amd-cdna5"), fitted.family("amd-cdna4"), fitted.family("amd-cdna5")
    assert lender.hbm.value == pytest.approx(np.exp(-0.5) * before.hbm.value)
    assert borrower.hbm == before.hbm
    assert borrower.kernel.value == lender.kernel.value == pytest.approx(np.exp(0.5) * before.kernel.value)
    assert fitted.standalone(["amd-cdna5"]).families["amd-cdna5"] == borrower


def test_too_few_points() -> None:
    with pytest.raises(SpecError, match="2 points have a TPOT"):
        calibrate_own(measured_on(PRIOR, *THREE[:2]), PRIOR, name="x", fitted_on="x", data_sha256="")


def test_points_that_cannot_be_predicted() -> None:
    lost = [replace(point, model="no/such") for point in measured_on(PRIOR, *THREE)]
    with pytest.raises(SpecError, match="none of the points"):
        calibrate_own(lost, PRIOR, name="x", fitted_on="x", data_sha256="")
