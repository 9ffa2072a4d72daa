"""`tokenworks claims`: one line a claim, details on demand, data with the schema, and errors in words."""

from pathlib import Path
from typing import Any

import pytest

from tests.cli.envelope import result
from tokenworks import cli

Output = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("kernel")


def run(arguments: list[str], capsys: Output) -> tuple[int, str, str]:
    code = cli.run(["claims", *arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, " ".join(out.split()), err


def run_json(arguments: list[str], capsys: Output) -> Any:
    code = cli.run(["claims", *arguments, "-o", "json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return result(out)


def test_details_of_a_claim(capsys: Output) -> None:
    code, out, _ = run(["C20"], capsys)
    assert code == 0
    for words in ("at least 10", "8.96 to 11.41", "holds if", "It depends on",
                  "Break-even: scalex40.device.scale_up.bandwidth at 500 GB/s, now 448 GB/s: below it holds if, "
                  "above it holds.",
                  "Nobody published:", "Command: tokenworks claims C20"):  # fmt: skip
        assert words in out


def test_data_of_a_claim(capsys: Output) -> None:
    data = run_json(["C06", "--set", "scalex40.device.peak.fp8=500 TFLOP/s"], capsys)
    (claim,) = data["claims"]
    assert (claim["computed"], claim["number"], claim["verdict"]) == (20.0, 28.0, "does not hold")
    assert claim["assumed"][0]["path"] == "scalex40.device.peak.fp8"
    assert claim["command"] == "tokenworks claims C06 --set 'scalex40.device.peak.fp8=500 TFLOP/s'"
    assert "700 TFLOP/s" in data["notes"][0]
    assert "500 TFLOP/s is assumed" in data["notes"][0]


def test_numbers_of_a_file_and_prices(tmp_path: Path, capsys: Output) -> None:
    mine, prices = tmp_path / "mine.yaml", tmp_path / "prices.yaml"
    mine.write_text("device.hbm.bandwidth: 4 TB/s\n")
    prices.write_text("systems: {scalex40: 5000000 CNY/system}\n")
    data = run_json(["C08", "C11", "--assume", f"scalex40={mine}", "--prices", str(prices)], capsys)
    bandwidth, cost = data["claims"]
    assert bandwidth["computed"] == 160.0
    assert cost["verdict"] == "holds if"
    assert cost["computed"] == pytest.approx(1.06, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["C99"], "unknown claim 'C99'"),
        (["C05", "C05"], "C05: is given twice"),
        (["C05", "-o", "svg"], "claims have no single chart"),
        (["C05", "-o", "html"], "needs --out"),
        (["C05", "--assume", "mine.yaml"], "names no system and file"),
        (["C05", "--assume", "scalex40=missing.yaml"], "missing.yaml"),
        (["C05", "--set", "scalex40.device.nic"], "is not PATH=VALUE"),
        (["C05", "--set", "device.nic=5 GB/s"], "begins with no system"),
        (["C05", "--set", "reliability.repair=0 h"], "no part is replaced in no time"),
        (["C05", "--mix", "missing.yaml"], "missing.yaml"),
        (["C05", "--reliability", "unknown"], "unknown failure rates"),
        (["C05", "--workers", "0"], "must be at least 1"),
    ],
)
def test_bad_input_is_refused_in_words(arguments: list[str], words: str, capsys: Output) -> None:
    code, out, err = run(arguments, capsys)
    assert code == 2
    assert out == ""
    assert words in " ".join(err.split())
