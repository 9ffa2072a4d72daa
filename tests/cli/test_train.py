"""`tokenworks train` as a user meets it."""

from pathlib import Path

import pytest

from tests.cli.envelope import result
from tokenworks.cli import run

MODEL = "Qwen/Qwen3-8B"
RUN = ["train", MODEL, "--on", "hgx-h100", "--batch", "64x4096", "--tokens", "20B"]


def test_the_table_answers_first_and_explains_below(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*RUN, "--top", "3"]) == 0
    out, err = capsys.readouterr()
    text = " ".join(out.split())
    assert out.startswith("Qwen/Qwen3-8B: 8.2 B parameters")
    assert "days (80 % interval" in text
    assert "One step of plan 1" in text
    assert "█" in text
    assert "Hidden beside compute: " in text
    assert "Memory of the fullest device" in text
    assert "Pareto points" in text
    assert "Goodput " in text
    assert "Assumed: " in text
    assert err == ""


def test_json_keeps_to_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*RUN, "-o", "json"]) == 0
    read = result(capsys.readouterr().out)
    best = read["plans"][0]
    assert read["kind"] == "train"
    assert read["batch_tokens"] == 64 * 4096
    assert sum(part["seconds"] for part in best["parts"]) == pytest.approx(best["step_s"])
    assert sum(best["memory"].values()) == pytest.approx(best["memory_bytes"])
    assert 0 < read["goodput"]["share"] <= 1
    assert best["interval"]["days"][0] < best["days"] < best["interval"]["days"][1]


def test_a_plan_that_was_written_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*RUN, "--deploy", "tp=2", "-o", "yaml"]) == 0
    file = tmp_path / "run.yaml"
    file.write_text(capsys.readouterr().out)
    assert "schema: tokenworks.training/1" in file.read_text()
    asked = ["train", MODEL, "--on", "hgx-h100", "--tokens", "20B", "--deploy", str(file)]
    assert run(asked) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "1 plans considered, 1 legal" in text
    assert "tp2" in text
    assert run([*asked, "--batch", "4M"]) == 2
    assert "the batch is given twice" in capsys.readouterr().err


def test_why_explains_a_legal_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*RUN, "--why", "tp=8"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "is legal: " in text
    assert "It would stand in place" in text
    assert "part of a step this best difference" in text
    assert run([*RUN, "--why", "tp=8", "-o", "json"]) == 0
    read = result(capsys.readouterr().out)
    assert read["kind"] == "train-why"
    assert read["legal"]
    assert read["place"] > 1


def test_why_explains_broken_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*RUN, "--why", "tp=3,pp=2"]) == 2
    out, err = capsys.readouterr()
    assert "tp_shares_heads: A rank has whole query heads" in out
    assert "take tp of 1, 2, 4, 8, 16, 32" in out
    assert "--why: " in err
    assert run([*RUN, "--why", "dp=8,zero=1,mbs=8,recompute=none"]) == 3
    out, err = capsys.readouterr()
    assert "state_fits" in out
    assert "activations" in out
    assert "does not fit" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no/such", "--on", "hgx-h100", "--batch", "4M"], 2, "unknown model 'no/such'"),
        ([MODEL, "--on", "hgx-h1000", "--batch", "4M"], 2, "did you mean hgx-h100"),
        ([MODEL, "--on", "hgx-h100"], 2, "--batch: no batch"),
        ([MODEL, "--on", "hgx-h100", "--batch", "4000000"], 2, "write 488x8192"),
        ([MODEL, "--on", "hgx-h100", "--batch", "4M", "--tokens", "0"], 2, "--tokens: 0 tokens"),
        ([MODEL, "--on", "hgx-h100", "--batch", "4M", "--seq", "500000"], 2, "--seq: sequences of 500,000 tokens"),
        ([MODEL, "--on", "hgx-h100", "--batch", "4M", "--method", "rlhf"], 2, "method"),
        ([MODEL, "--on", "hgx-h100", "--batch", "4M", "--precision", "fp5"], 2, "precision"),
        ([MODEL, "--on", "hgx-h100", "--batch", "4M", "--top", "0"], 2, "--top: 0 plans"),
        ([MODEL, "--on", "hgx-h100", "--batch", "4M", "--storage", "fast"], 2, "--storage"),
        ([MODEL, "--on", "hgx-h100", "--batch", "4M", "--set", "workload.isl=1"], 2, "reads no numbers of workload"),
        ([MODEL, "--on", "hgx-h100", "--batch", "4M", "--why", "tp=2", "--deploy", "pp=2"], 2, "leave out --deploy"),
        (["deepseek-ai/DeepSeek-V3", "--on", "scalex40", "--batch", "4M"], 3, "--on 3xscalex40) would do"),
    ],
)
def test_bad_input_is_said_in_words(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
