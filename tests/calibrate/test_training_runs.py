"""Validation and fit of training runs, on runs that the model of a training step itself predicts."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from tests.calibrate.training_cases import iterations, runs
from tests.cli.envelope import result
from tokenworks.calibrate.least_squares import least_squares
from tokenworks.calibrate.training_fit import LOSS, calibrate_training, conformal, decided
from tokenworks.calibrate.training_freedom import KINDS, choose_freedom, publication, try_freedoms
from tokenworks.calibrate.training_points import read_training
from tokenworks.calibrate.training_predict import predict_training
from tokenworks.calibrate.training_problem import (
    FREEDOM,
    NUMBERS,
    TOUCHES,
    TrainingProblem,
    touches_all,
    turned_training,
)
from tokenworks.calibrate.training_validate import plan_ranking, validate_training
from tokenworks.cli import run
from tokenworks.specs.calibration import load_calibration, number
from tokenworks.specs.training_text import load_training

SERVING = load_calibration("serving")
ROWS = [
    {"point_id": "fsdp", "parallelism": "tp=1;pp=1;fsdp=8"},
    {"point_id": "tp2", "parallelism": "tp=2;pp=1"},
    {"point_id": "tp4", "parallelism": "tp=4;pp=1", "engine": "other"},
    {"point_id": "pp2", "parallelism": "tp=1;pp=2;vp=4", "weights_dtype": "BF16"},
    {"point_id": "b200", "parallelism": "tp=2;pp=1", "hardware": "B200"},
    {"point_id": "b200pp", "parallelism": "tp=1;pp=4", "hardware": "B200"},
    {"point_id": "b200bf16", "parallelism": "tp=1;pp=1;fsdp=8", "hardware": "B200", "weights_dtype": "BF16"},
]
ITERATIONS = [
    "8,32,4,1024,16,24,1024,2,2,2,219.7", "8,32,1,1024,16,24,1024,2,2,2,700", "8,32,4,1024,16,24,1024,8,1,1,300",
    "8,32,2,1024,16,24,1024,1,4,2,250",
]  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs whose throughput is predicted with other numbers of training than those of the catalog."""
    folder = tmp_path_factory.mktemp("runs")
    names = ("gemm", "tp_exposed", "pp_exposed")
    truth = turned_training(SERVING, names, np.log([0.9, 1.2, 1.1]))
    predictions = predict_training(read_training([runs(folder, *ROWS)]).points, truth)
    rows = [{**row, "value": f"{one.tok_s_per_device:.8g}"} for row, one in zip(ROWS, predictions, strict=True)]
    return runs(folder, *rows)


def test_a_prediction_with_the_numbers_of_the_runs_has_no_error(measured: Path) -> None:
    truth = turned_training(SERVING, ("gemm", "tp_exposed", "pp_exposed"), np.log([0.9, 1.2, 1.1]))
    plain = validate_training(read_training([measured]), truth).plain()
    assert (plain["points"], plain["covered"], plain["coverage"]) == (7, 7, 1.0)
    assert plain["tok_s_per_device"]["mape"] == pytest.approx(0, abs=1e-6)
    assert plain["step_s"]["mape"] == pytest.approx(0, abs=1e-6)
    assert plain["ranking"]["equal_devices"]["kendall"] is None or plain["ranking"]["equal_devices"]["kendall"] == 1
    assert set(plain["by"]["system"]) == {"h100", "b200"}


def test_a_fit_comes_nearer_to_the_runs_and_writes_its_source(measured: Path) -> None:
    fit = calibrate_training(read_training([measured]), SERVING, name="fitted")
    plain = fit.plain()
    assert plain["in_sample"]["mape"] < 0.6 * plain["before"]["mape"]
    assert plain["factors"]["gemm"] < 1
    assert [one["group"] for one in plain["left_out_systems"]] == ["b200", "h100"]
    assert plain["left_out_models"] == plain["left_out_models"]
    section = fit.calibration.training
    assert section is not None
    assert section.gemm.status == "derived"
    assert "fit on 7 training runs of runs.csv" in section.gemm.source
    assert number(section.spread) == pytest.approx(fit.spread, abs=0.01)
    assert fit.comments()[0].startswith("# ")
    assert {one["group"] for one in plain["one_run"]} == {"b200", "h100"}


def test_slopes_only_leave_out_runs_that_a_number_cannot_change(measured: Path) -> None:
    """The numbers of `TOUCHES` change no other run."""
    problem = TrainingProblem.of(read_training([measured]).points, SERVING)
    theta = np.zeros(len(problem.names))
    at = problem.errors(theta)
    for position, name in enumerate(problem.names):
        moved = theta.copy()
        moved[position] = 0.3
        change = problem.errors(moved) - at
        for case, delta in zip(problem.cases, change, strict=True):
            assert delta == pytest.approx(0, abs=1e-12) or TOUCHES.get(name, touches_all)(case), name
    assert set(TOUCHES) <= set(NUMBERS)


def test_numbers_stay_inside_their_limits(measured: Path) -> None:
    """Runs ten times as fast as predicted: no number of the fit leaves its physical limits."""
    problem = TrainingProblem.of(read_training([measured]).points, SERVING)
    low, high = problem.limits
    fast = least_squares(
        lambda theta: problem.errors(np.zeros(len(theta))) - 2.0 - theta.sum(), lambda *_: -np.ones((7, len(low))),
        problem.freedom, LOSS, turns=5, enough=1e-6, limits=(low, high),
    )  # fmt: skip
    assert np.all(fast >= low - 1e-12)
    assert np.all(fast <= high + 1e-12)
    assert np.any(np.isclose(fast, low))
    for name, one in NUMBERS.items():
        prior = number(getattr(load_calibration("datasheet").training, name))
        assert one.low <= prior <= one.high, name
        assert one.low <= number(getattr(SERVING.training, name)) <= one.high, name


def test_a_number_without_a_run_stays_at_its_prior(measured: Path) -> None:
    """No run of the file has experts, so the numbers of experts are not decided, and say so."""
    fit = calibrate_training(read_training([measured]), SERVING)
    assert {"grouped", "fused_experts", "linear_attention", "host_expert", "ep_exposed"} <= set(fit.undecided)
    section, before = fit.calibration.training, SERVING.training
    assert section is not None
    assert before is not None
    assert section.grouped.value == before.grouped.value
    assert section.grouped.note == "at its prior: training runs of runs.csv do not decide it"
    assert fit.plain()["undecided"] == list(fit.undecided)
    assert any("grouped" in line for line in fit.comments())
    assert list(decided(np.array([[1.0, 0.0], [1.0, 0.0]]), np.zeros(2), np.array([0.2, 0.2]))) == [True, False]


def test_freedoms_are_chosen_on_the_fitted_runs_alone(measured: Path) -> None:
    problem = TrainingProblem.of(read_training([measured]).points, SERVING)
    tried = try_freedoms(problem, (0.05, 0.4))
    assert len(tried) == 4
    assert all(list(one.widths) == list(KINDS) for one in tried)
    assert all(list(one.widths.values()) == sorted(one.widths.values()) for one in tried)
    assert tried[0].excess == min(one.excess for one in tried) == 0
    chosen = choose_freedom(tried)
    assert chosen.excess <= chosen.deviation
    assert set(FREEDOM) == set(KINDS)
    assert {publication(point) for point in problem.points} == {"megatron-bridge 26.04", "other 26.04"}


def test_the_conformal_factor_covers_its_share() -> None:
    logs = np.log([1.01, 0.97, 1.1, 0.8, 1.3, 1.02, 0.9, 1.05, 0.95, 2.0])
    assert conformal(logs) == pytest.approx(1.3)  # the 9th of 10: ceil(11 x 0.8)
    assert conformal(np.array([])) == conformal(np.log([1.001]))
    rng = np.random.default_rng(1)
    inside = [abs(rng.normal(0, 0.2)) <= math.log(conformal(rng.normal(0, 0.2, 20))) for _ in range(400)]
    assert 0.74 < float(np.mean(inside)) < 0.9


def test_iterations_rank_plans_of_equal_batch(tmp_path: Path) -> None:
    table = read_training([iterations(tmp_path, *ITERATIONS)])
    validation = validate_training(table, SERVING)
    ranked = plan_ranking(validation.pairs, batch=True)
    assert (ranked["groups"], ranked["pairs"]) == (1, 6)
    assert ranked["kendall"] is not None
    assert ranked["kendall"] >= 0.6
    assert validation.plain()["assumed"][0]["count"] == 4


def test_a_planner_chooses_what_is_not_stated(tmp_path: Path) -> None:
    path = runs(tmp_path, {"parallelism": ""}, {"point_id": "stated"})
    table = read_training([path])
    without = validate_training(table, SERVING).plain()
    assert (without["covered"], without["planned"]["points"], without["planned"]["covered"]) == (1, 1, 0)
    assert without["skipped"][0]["reason"] == "the parallelism is not stated"
    chosen = load_training("tp=2,dp=4,gbs=128,seq=8192,precision=fp8")
    plain = validate_training(table, SERVING, choose=lambda *_, **__: chosen).plain()
    assert (plain["covered"], plain["coverage"], plain["planned"]["covered"]) == (2, 1.0, 1)


def test_validate_as_a_user_meets_it(measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.csv"
    assert run(["validate", "--data", str(measured), "--out", str(out), "-o", "json"]) == 0
    plain = result(capsys.readouterr().out)
    assert plain["kind"] == "validate-training"
    assert plain["tok_s_per_device"]["n"] == 7
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert float(rows[0]["tok_s_per_device_low"]) < float(rows[0]["tok_s_per_device_predicted"])
    assert run(["validate", "--data", str(measured), "--limit", "2"]) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 training runs predicted (100 % of those with parallelism)" in printed


def test_calibrate_as_a_user_meets_it(measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.yaml"
    command = ["calibrate", "--data", str(measured), "--prior", "serving", "--out", str(out)]
    assert run([*command, "-o", "json"]) == 0
    plain = result(capsys.readouterr().out)
    assert plain["kind"] == "calibrate-training"
    assert "grouped" in plain["undecided"]
    fitted = load_calibration(str(out)).training
    assert fitted is not None
    assert fitted.gemm.value == plain["values"]["gemm"]
    assert run(["validate", "--data", str(measured), "--calibration", str(out), "-o", "json"]) == 0
    after = result(capsys.readouterr().out)
    assert after["tok_s_per_device"]["mape"] == pytest.approx(plain["in_sample"]["mape"], abs=5e-3)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["validate", "--load", "burst"], "--load: does not go with training runs"),
        (["calibrate", "--ablation"], "--ablation: does not go with training runs"),
        (["calibrate", "--prior", "serving", "--without", "z9"], "unknown device or model 'z9'"),
    ],
)
def test_options_that_do_not_go_with_training_runs(
    measured: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    assert run([*more, "--data", str(measured)]) == 2
    assert says in capsys.readouterr().err
