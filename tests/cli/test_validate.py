"""`tokenworks validate` as a user meets it."""

import csv
from pathlib import Path

import pytest

from tests.calibrate.cases import DISAGG, table
from tests.cli.envelope import result
from tests.ingest import format_cases
from tests.ingest.benchmark_cases import written
from tokenworks.cli import run

MEASURED = Path(__file__).parents[2] / "../shared/measured/serving_dev.csv"
pytestmark = pytest.mark.usefixtures("kernel")


def test_json_has_every_error_and_every_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = table(tmp_path, {}, {"concurrency": "16"}, {"model": "no/such"}, DISAGG)
    out = tmp_path / "predictions.csv"
    assert run(["validate", "--data", str(file), "--out", str(out), "-o", "json"]) == 0
    found = result(capsys.readouterr().out)
    assert (found["points"], found["covered"]) == (4, 3)
    assert found["skipped"] == [{"reason": "not in the catalog", "count": 1, "examples": ["model no/such"]}]
    for metric in ("tpot", "ttft", "tok_s_per_device"):
        assert set(found[metric]) == {"n", "mape", "median_ape", "bias", "p90_ape", "inside_interval"}
        assert found[metric]["n"] == 3
    assert set(found["by"]) >= {"system", "model", "engine", "mode", "mtp", "batch"}
    assert found["by"]["kind"]["disagg starved"]["tpot"]["n"] == 1
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert len(rows) == 4
    assert rows[2]["skipped"]
    assert float(rows[0]["tpot_ms_low"]) < float(rows[0]["tpot_ms_predicted"]) < float(rows[0]["tpot_ms_high"])


def test_the_table_says_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "--data", str(table(tmp_path, {}, {"device": "abacus"}))]) == 0
    text = capsys.readouterr().out
    assert "1 of 2 points predicted" in text
    assert "left out 1, not in the catalog: no system has the device abacus" in text


def test_frontiers_of_two_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two devices with one workload: throughput at equal speed, and their ratio, as JSON and as a table."""
    rows = [
        {"device": device, "concurrency": str(users), "tpot_ms_median": f"{tpot:g}", "total_tok_s_per_gpu": f"{rate:g}"}
        for device, faster in (("h100", 1.0), ("h200", 1.4))
        for users, tpot, rate in ((1, 6 / faster, 1500 * faster), (256, 30 / faster, 40000 * faster))
    ]
    file = str(table(tmp_path, *rows))
    assert run(["validate", "--data", file, "-o", "json"]) == 0
    frontier = result(capsys.readouterr().out)["frontier"]
    assert frontier["machines"] == 2
    assert set(frontier["by"]["system"]) == {"h100", "h200"}
    assert frontier["by"]["engine"]["vllm"]["n"] == frontier["tok_s_per_device"]["n"]
    ratio = frontier["ratio"]["by_pair"]["h100 / h200"]
    assert ratio == frontier["ratio"]["all"]
    assert ratio["in_order"] == 1
    assert run(["validate", "--data", file]) == 0
    text = capsys.readouterr().out
    assert "Error of the highest tok/s/device at equal speed: 15 to 150 tok/s per user" in text
    assert "h100 / h200" in text
    assert "vllm alone" in text


def test_a_result_of_inferencex_describes_its_own_deployment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Measured are 18 ms, 400 ms and 90 token/s per GPU, as the file says; nothing else must be given."""
    path = written(tmp_path, format_cases.INFERENCEX)
    assert run(["validate", "--data", str(path)]) == 0
    text = capsys.readouterr().out
    assert "1 of 1 points predicted" in text
    assert "run.json h200 sglang 16" in text
    assert "18.0 /" in text
    assert "400 /" in text
    assert "90.0 /" in text


def test_runs_that_are_left_out_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = (format_cases.sglang(request_rate="trace"), format_cases.sglang(), format_cases.sglang())
    path, deployment = tmp_path / "s.jsonl", tmp_path / "d.yaml"
    path.write_bytes(format_cases.lines(*runs))
    deployment.write_text(
        "model: meta-llama/Llama-3.1-8B\nsystem: hgx-h100\n"
        "roles: [{name: aggregated, parallel: {tp: 1}, max_sequences: 8, chunk_tokens: 2048}]\n"
    )
    ask = ["validate", "--deployment", str(deployment), "--data", str(path)]
    assert run(ask) == 0
    out, err = capsys.readouterr()
    assert "2 of 2 points predicted" in out
    assert "left out:" in err
    assert "'trace' is no load of its own" in err
    assert run([*ask, "--benchmark", "3"]) == 0
    out, err = capsys.readouterr()
    assert "1 of 1 points predicted" in out
    assert "s.jsonl run 3 concurrency 2" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "none.csv"], "no such file"),
        (["--data", "DATA", "--limit", "0"], "must be at least 1"),
        (["--data", "DATA", "--calibration", "mystery"], "unknown calibration 'mystery'"),
        (["--data", "DATA", "--out", "no/where.csv"], "cannot be written"),
        (["--data", "DATA", "--benchmark", "1"], "--benchmark: chooses from benchmark results, and --data has none"),
        (["--data", "DATA", "--load", "rate=2"], "--load: every file of --data records its load"),
        (["--data", "DATA", "--load", "fast"], "--load: cannot read 'fast'; write concurrency=16"),
        (["--data", "TRACE"], "is a trace of the format azure; give measured points; this file can be played with"),
        (["--data", "RESULT"], "is a benchmark result without a deployment; give --deployment FILE"),
    ],
)
def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    files = {"DATA": str(table(tmp_path, {})), "TRACE": str(tmp_path / "a.csv"), "RESULT": str(tmp_path / "s.jsonl")}
    Path(files["TRACE"]).write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,4808,10\n")
    Path(files["RESULT"]).write_bytes(format_cases.lines(format_cases.sglang()))
    assert run(["validate", *(files.get(word, word) for word in arguments)]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.shared
def test_measured_points_are_covered(capsys: pytest.CaptureFixture[str]) -> None:
    if not MEASURED.is_file():
        pytest.skip("no measured points beside the checkout")
    assert run(["validate", "--data", str(MEASURED), "--limit", "150", "-o", "json"]) == 0
    found = result(capsys.readouterr().out)
    assert found["covered"] >= 0.98 * found["points"]
    assert found["tpot"]["median_ape"] < 0.2
