"""`tokenworks calibrate` as a user meets it."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.calibrate.cases import table
from tests.calibrate.kernel_cases import tables
from tests.cli.envelope import result
from tests.ingest.benchmark_cases import FORMS, KNOWN, guidellm, vllm, written
from tokenworks.cli import run
from tokenworks.ingest.benchmark import Time
from tokenworks.specs.calibration import load_calibration

LOADS = [
    {"concurrency": str(c), "tpot_ms_median": f"{tpot:g}", "total_tok_s_per_gpu": f"{rate:g}"}
    for c, tpot, rate in ((1, 6, 1800), (4, 7, 6000), (16, 9, 19000), (64, 14, 45000), (256, 35, 70000))
]
ROWS = [{"concurrency": str(c), "device": d} for c in (1, 8, 32) for d in ("h100", "h200")]
pytestmark = pytest.mark.usefixtures("kernel")


def test_fit_write_and_validate_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = str(table(tmp_path, *ROWS)), tmp_path / "mine.yaml"
    assert run(["calibrate", "--data", data, "--out", str(out), "-o", "json"]) == 0
    found = result(capsys.readouterr().out)
    assert found["constants"] == len(found["factors"])
    assert found["tpot_in_sample"]["median_ape"] <= found["tpot_before"]["median_ape"]
    assert run(["validate", "--data", data, "--calibration", str(out), "-o", "json"]) == 0
    validated = result(capsys.readouterr().out)
    assert validated["inputs"]["grade"] == "end-to-end-calibrated"


def test_a_fit_says_that_an_experiment_does_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All rows are of one device. Two of them are of a group that calls itself an experiment."""
    odd = [row | {"source_group": "lab-experimental", "tpot_ms_median": "90"} for row in LOADS[:2]]
    assert run(["calibrate", "--data", str(table(tmp_path, *LOADS, *odd)), "-o", "json"]) == 0
    told = capsys.readouterr()
    assert result(told.out)["tpot_in_sample"]["n"] == len(LOADS)
    assert "2 points of lab-experimental are an experiment by its name: they are not fitted" in told.err


def test_intervals_of_a_calibration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only devices and the intervals change; the intervals are those of the fit."""
    rows = [row | {"device": device} for row in LOADS for device in ("h100", "h200")]
    data, out, again = str(table(tmp_path, *rows)), tmp_path / "mine.yaml", tmp_path / "again.yaml"
    assert run(["calibrate", "--data", data, "--out", str(out), "-o", "json"]) == 0
    fitted = result(capsys.readouterr().out)
    assert list(fitted["throughput_spread"]) == ["family", "datasheet"]
    assert list(fitted["tpot_spread"]) == ["family"]
    again.write_text(out.read_text())
    assert run(["calibrate", "--data", data, "--intervals-of", str(out), "--out", str(again), "-o", "json"]) == 0
    intervals = result(capsys.readouterr().out)
    for law in ("tpot_spread", "throughput_spread"):
        assert intervals[law] == pytest.approx(fitted[law], rel=0.05)
    assert [one["system"] for one in intervals["left_out_intervals"]] == ["h100", "h200"]
    assert all(0 <= one["tpot"]["covered"] <= 1 for one in intervals["left_out_intervals"])
    assert intervals["devices"] == ["h100", "h200"]
    assert 0 <= intervals["throughput_correlation"] < 1
    assert intervals["throughput_correlation"] == pytest.approx(fitted["throughput_correlation"], abs=0.05)
    before, after = load_calibration(str(out)), load_calibration(str(again))
    assert again.read_text().splitlines()[0] == out.read_text().splitlines()[0]
    kept = ("tpot_spread", "throughput_spread", "vendor_spread", "throughput_correlation")
    assert after.model_copy(update={name: getattr(before, name) for name in kept}) == before
    assert run(["calibrate", "--data", data, "--intervals-of", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "80 % interval as a factor, by distance of the measured points" in printed
    assert "intervals of left-out systems, from the errors of the other systems" in printed
    assert "errors of two devices at equal speed per user: correlation 0." in printed


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--intervals-of", "serving"], "calibration serving: was not fitted on these points"),
        (["--intervals-of", "mystery"], "unknown calibration 'mystery'"),
        (["--intervals-of", "serving", "--leave-out", "system"], "--leave-out: does not go with --intervals-of"),
        (["--intervals-of", "serving", "--kernels", "default"], "--kernels: does not go with --intervals-of"),
    ],
)
def test_intervals_that_cannot_be_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    assert run(["calibrate", "--data", str(table(tmp_path, *ROWS)), *more]) == 2
    assert says in capsys.readouterr().err


def test_systems_left_out_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["calibrate", "--data", str(table(tmp_path, *ROWS)), "--leave-out", "system"]) == 0
    text = capsys.readouterr().out
    assert "h100" in text
    assert "h200" in text


def test_a_family_that_borrows_is_fitted_and_left_out_as_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*ROWS, *({"concurrency": str(c), "device": "a100", "weights": "bf16"} for c in (1, 8, 32))]
    data, out = str(table(tmp_path, *rows)), tmp_path / "mine.yaml"
    tables_of = str(tables(tmp_path / "tables", "h100_sxm", "h200_sxm"))
    for more in ([], ["--kernels", "default", "--tables", tables_of]):
        assert run(["calibrate", "--data", data, "--leave-out", "system", "-o", "json", *more]) == 0
        assert [one["group"] for one in result(capsys.readouterr().out)["groups"]] == ["a100", "h100", "h200"]
    assert run(["calibrate", "--data", data, "--out", str(out), "-o", "json"]) == 0
    factors = result(capsys.readouterr().out)["factors"]
    assert {"nvidia-ampere.hbm", "nvidia-hopper.hbm"} <= factors.keys()
    made, prior = load_calibration(str(out)), load_calibration("datasheet")
    assert "nvidia-ampere" not in made.borrowed
    assert made.family("gaudi").hbm == prior.family("gaudi").hbm  # borrowed from Hopper, which was turned
    assert made.family("nvidia-hopper").hbm != prior.family("nvidia-hopper").hbm


def test_a_result_needs_its_deployment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, vllm(KNOWN))
    assert run(["calibrate", "--data", str(file)]) == 2
    assert "give --deployment FILE" in capsys.readouterr().err
    file.write_text("{}")
    assert run(["calibrate", "--data", str(file)]) == 2
    assert "is no benchmark result of a known client (it has no keys)" in capsys.readouterr().err


DEPLOYMENT = """
schema: tokenworks.deployment/1
deployments:
- rank: 1
  deployment:
    model: meta-llama/Meta-Llama-3.1-8B
    system: hgx-h100
    roles: [{name: aggregated, parallel: {tp: 1}, max_sequences: 64}]
"""


def test_three_measured_points_and_the_others_beside_their_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment, mine = tmp_path / "deployment.yaml", tmp_path / "mine.yaml"
    deployment.write_text(DEPLOYMENT)
    several = [replace(KNOWN, concurrency=n, tpot=Time(0.008 + 0.0001 * n)) for n in (1, 4, 16)]
    report = written(tmp_path, guidellm(*several), "report.json")
    told = ["--deployment", str(deployment)]
    assert run(["calibrate", "--data", str(report), *told, "--out", str(mine), "-o", "json"]) == 0
    found = result(capsys.readouterr().out)
    assert found["tpot_in_sample"]["n"] == 3
    assert found["fitted_on"] == "report.json"
    assert found["tpot_in_sample"]["mape"] < found["tpot_before"]["mape"]
    others = [
        word for name, form in FORMS.items()
        for word in ("--data", str(written(tmp_path, form(replace(KNOWN, concurrency=8)), f"{name}.json")))
    ]  # fmt: skip
    assert run(["validate", *others, *told, "--calibration", str(mine)]) == 0
    shown = capsys.readouterr().out
    assert "3 of 3 points predicted" in shown
    for name in ("vllm.json", "aiperf.json concurrency 8 450/45", "guidellm.json concurrent 8"):
        assert name in shown
    assert shown.count("8.00 / ") == 3
    assert run(["validate", *others, *told, "--calibration", str(mine), "-o", "json"]) == 0
    rows = result(capsys.readouterr().out)["rows"]
    assert [row["tpot_ms_measured"] for row in rows] == ["8"] * 3


@pytest.mark.parametrize("option", [["--ablation"], ["--only-assumed"], ["--without", "m"]])
def test_options_of_tables_are_refused_beside_a_deployment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    deployment = tmp_path / "deployment.yaml"
    deployment.write_text(DEPLOYMENT)
    report = written(tmp_path, guidellm(KNOWN))
    assert run(["calibrate", "--data", str(report), "--deployment", str(deployment), *option]) == 2
    assert f"{option[0]}: does not go with --deployment" in capsys.readouterr().err


def test_a_broken_result_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deployment = tmp_path / "deployment.yaml"
    deployment.write_text(DEPLOYMENT)
    file = written(tmp_path, {"backend": "vllm", "total_token_throughput": "fast"})
    for verb in ("calibrate", "validate"):
        assert run([verb, "--data", str(file), "--deployment", str(deployment)]) == 2
        assert "run.json" in capsys.readouterr().err


def test_kernels_alone_then_points_from_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `--out` writes is the prior of the next fit; a device that is left out is in neither."""
    directory, out = (
        str(tables(tmp_path / "tables", "h100_sxm", "h200_sxm", "b300_sxm")),
        str(tmp_path / "kernels.yaml"),
    )
    kernels = ["calibrate", "--kernels", "default", "--tables", directory]
    assert run([*kernels, "--without", "h200", "--out", out, "-o", "json"]) == 0
    found = result(capsys.readouterr().out)
    assert {device for one in found["operations"] for device in one["devices"]} == {"h100"}
    assert {used["path"].partition("/")[0] for used in found["tables"]} == {"h100_sxm", "h200_sxm"}
    assert run(["calibrate", "--data", str(table(tmp_path, *ROWS)), "--prior", out, "-o", "json"]) == 0
    assert result(capsys.readouterr().out)["prior"] == "mine"
    assert run(kernels) == 0
    assert "nvidia-hopper" in capsys.readouterr().out


def test_a_system_left_out_with_its_kernels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the rows of an H200 those of the H100 are all of its family, and the other way round."""
    directory = tables(tmp_path / "tables", "h100_sxm", "h200_sxm")
    command = ["calibrate", "--data", str(table(tmp_path, *ROWS)), "--leave-out", "system", "-o", "json"]
    assert run([*command, "--kernels", "default", "--tables", str(directory)]) == 0
    found = result(capsys.readouterr().out)
    assert [group["group"] for group in found["groups"]] == ["h100", "h200"]
    assert run([*command[:-2], "--kernels", "all", "--tables", str(directory)]) == 0
    assert "h200" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to fit on; give --data FILE, --kernels default, or both"),
        (["--tables", "."], "--tables needs --kernels"),
        (["--kernels", "default", "--tables", "."], "holds no kernel tables"),
        (
            ["--kernels", "default", "--tables", "TABLES", "--without", "abacus"],
            "unknown device of the kernel tables 'abacus'",
        ),
        (["--kernels", "default", "--tables", "TABLES", "--without", "h100"], "no kernel rows are left"),
        (["--kernels", "default", "--tables", "TABLES", "--leave-out", "system"], "needs measured points; give --data"),
        (["--kernels", "default", "--tables", "TABLES", "--only-assumed"], "--only-assumed: needs measured points"),
        (["--kernels", "default", "--tables", "TABLES", "--ablation"], "--ablation: needs measured points"),
    ],
)
def test_what_kernels_cannot_be_fitted_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    directory = str(tables(tmp_path, "h100_sxm"))
    assert run(["calibrate", *(directory if word == "TABLES" else word for word in arguments)]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--without", "abacus"], "unknown device or model 'abacus'"),
        (
            ["--set", "machine.scale_up.hop=1us"],
            "this command reads no numbers of machine; it reads numbers of calibration",
        ),
        (["--set", "calibration.skews=1"], "--set calibration.skews: no such path"),
        (["--without", "h100", "--without", "h200"], "0 points have a TPOT in a closed loop"),
        (["--leave-out", "system", "--ablation"], "--ablation: does not go with --leave-out"),
        (["--leave-out", "system", "--out", "mine.yaml"], "--out: does not go with --leave-out"),
        (["--out", "no/mine.yaml"], "cannot be written: there is no folder no"),
        (["--prior", "serving", "--only-assumed"], "calibration serving: has no assumed number for nvidia-hopper"),
    ],
)
def test_what_points_cannot_be_fitted_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert run(["calibrate", "--data", str(table(tmp_path, *ROWS)), *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_deployment_alone_is_nothing_to_fit_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "deployment.yaml").write_text(DEPLOYMENT)
    assert run(["calibrate", "--deployment", str(tmp_path / "deployment.yaml")]) == 2
    assert "nothing to fit on; give --data FILE" in capsys.readouterr().err
