"""A user's own benchmark results as points of a deployment, and their simulation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.calibrate.cases import table
from tests.ingest.benchmark_cases import FORMS, KNOWN, guidellm, vllm, written
from tokenworks.calibrate.case import case
from tokenworks.calibrate.own_results import measured_table, point_of
from tokenworks.calibrate.validate import predict_all
from tokenworks.errors import SpecError
from tokenworks.ingest.benchmark import Lengths, Time
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.deployment import Deployment, Parallel, Role

PRIOR = load_calibration("datasheet")
DEPLOYMENT = Deployment(
    model="meta-llama/Llama-3.1-8B", system="hgx-h100",
    roles=(Role(name="aggregated", parallel=Parallel(), max_sequences=4, chunk_tokens=512),),
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("kernel")


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_result_of_every_client_is_the_same_point(tmp_path: Path, form: str) -> None:
    (point,) = measured_table([written(tmp_path, FORMS[form](KNOWN))], DEPLOYMENT).points
    assert (point.load, point.concurrency, point.isl, point.osl) == ("closed", 4, 450, 45)
    assert (point.measured.tpot, point.measured.ttft, point.measured.rate) == pytest.approx((0.008, 0.03, 4000))
    assert point.variation == (0, 0)


def test_a_point_says_what_was_measured() -> None:
    two = DEPLOYMENT.model_copy(update={"roles": (DEPLOYMENT.roles[0].model_copy(update={"replicas": 2}),)})
    point = point_of(replace(KNOWN, tpot=Time(0.01, mean=True), ttft=None), two)
    assert (point.devices, point.measured.rate) == (2, 2000)
    assert point.measured.tpot_mean
    assert point.measured.ttft is None


def test_files_of_both_kinds_are_one_table(tmp_path: Path) -> None:
    report = written(tmp_path, guidellm(KNOWN, replace(KNOWN, concurrency=8)))
    both = [table(tmp_path, {}), report]
    assert [p.id for p in measured_table(both, DEPLOYMENT).points] == [
        "p0", "run.json concurrent 4", "run.json concurrent 8",
    ]  # fmt: skip
    assert len(measured_table(both, DEPLOYMENT, limit=2).points) == 2
    with pytest.raises(SpecError, match="give --deployment FILE"):
        measured_table(both, None)


def test_the_deployment_runs_as_it_is() -> None:
    """A row of a table gets slots for all requests in flight; a user's point keeps the slots of its deployment."""
    ready = case(point_of(replace(KNOWN, concurrency=64), DEPLOYMENT), PRIOR)
    assert ready.deployment == DEPLOYMENT
    assert ready.concurrency == 64


def test_loads_are_played_as_they_came() -> None:
    poisson = replace(KNOWN, arrivals="poisson", rate=5.0, requests=400, concurrency=None)
    even, burst = replace(poisson, arrivals="constant"), replace(KNOWN, concurrency=None)
    gaps = [np.diff(case(point_of(one, DEPLOYMENT), PRIOR).requests.arrival_s) for one in (poisson, even, burst)]
    assert gaps[0].mean() == pytest.approx(0.2, rel=0.15)
    assert gaps[0].std() == pytest.approx(0.2, rel=0.3)
    assert gaps[1] == pytest.approx(0.2)
    assert gaps[2].max() == 0.0
    assert case(point_of(poisson, DEPLOYMENT), PRIOR).concurrency == 0


def test_recorded_sending_times_are_played(tmp_path: Path) -> None:
    """A file with single requests says when the client sent each of them. In a closed loop the ends decide."""
    sent = [100.0, 103.0, 101.5, *(104.0 + i for i in range(KNOWN.requests - 3))]
    at_a_rate = vllm(replace(KNOWN, arrivals="poisson", rate=1.0, concurrency=None)) | {"start_times": sent}
    (point,) = measured_table([written(tmp_path, at_a_rate)], DEPLOYMENT).points
    assert case(point, PRIOR).requests.arrival_s[:4].tolist() == [0.0, 1.5, 3.0, 4.0]
    (point,) = measured_table([written(tmp_path, vllm(KNOWN) | {"start_times": sent})], DEPLOYMENT).points
    assert case(point, PRIOR).requests.arrival_s.max() == 0.0


@pytest.mark.parametrize("times", ["soon", [1.0, "x"], [1e300]])
def test_broken_sending_times(tmp_path: Path, times: object) -> None:
    with pytest.raises(SpecError, match="start_times"):
        measured_table([written(tmp_path, vllm(KNOWN) | {"start_times": times})], DEPLOYMENT)


def test_a_limit_on_what_flies_holds_back_what_comes_by_a_rate() -> None:
    """At 1,000 requests per second all would wait in the engine. With 2 in flight they wait at the client."""
    flood = replace(KNOWN, arrivals="constant", rate=1000.0, requests=200, concurrency=None)
    free, held = predict_all([point_of(replace(flood, concurrency=n), DEPLOYMENT) for n in (None, 2)], PRIOR)
    assert free.ttft is not None
    assert held.ttft is not None
    assert held.ttft < free.ttft / 10


def test_lengths_vary_as_they_did() -> None:
    varied = replace(KNOWN, requests=2000, isl=Lengths(500.0, 0.5), osl=Lengths(80.0, 0.0))
    requests = case(point_of(varied, DEPLOYMENT), PRIOR).requests
    assert requests.input_tokens.mean() == pytest.approx(500, rel=0.01)
    assert requests.input_tokens.std() == pytest.approx(250, rel=0.15)
    assert (requests.output_tokens == 80).all()


def test_lengths_that_are_not_known_are_equal(tmp_path: Path) -> None:
    content = {key: value for key, value in vllm(KNOWN).items() if key not in ("input_lens", "output_lens")}
    (point,) = measured_table([written(tmp_path, content | {"total_input_tokens": 4507})], DEPLOYMENT).points
    assert point.variation is None
    assert (case(point, PRIOR).requests.input_tokens == 451).all()


@pytest.mark.parametrize(
    ("text", "says"), [("{", "is no JSON object"), ("{}", "no benchmark result"), (None, "no such file")]
)
def test_a_broken_result(tmp_path: Path, text: str | None, says: str) -> None:
    file = tmp_path / "run.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SpecError, match=says):
        measured_table([file], DEPLOYMENT)
