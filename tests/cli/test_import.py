"""`tokenworks import` and `tokenworks advise` as users meet them."""

from pathlib import Path

import pytest
import yaml

from tests.cli.envelope import result
from tokenworks import cli
from tokenworks.specs.deployment_file import pick_deployment

Output = pytest.CaptureFixture[str]
MOE = "Qwen/Qwen3-30B-A3B"
COMMAND = f"vllm serve {MOE} -tp 2 --enable-expert-parallel --max-num-seqs 32 --max-num-batched-tokens 2048 --port 80"
ON = ("--on", "hgx-h100:2")


def run(arguments: list[str], capsys: Output) -> tuple[int, str, str]:
    code = cli.run(arguments)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_the_table_lists_every_flag(capsys: Output) -> None:
    code, out, err = run(["import", f"A=1 {COMMAND}", *ON], capsys)
    assert (code, err) == (0, "")
    assert "1x[tp2 ep2], 2 devices" in out
    assert "32 sequences, 2,048 tokens a step" in out
    assert "Understood: 5" in out
    assert "Without a place in the deployment: 1" in out
    assert "--port" in out
    assert "Environment variables, which are not read: A" in out


def test_json_keeps_to_its_schema(capsys: Output) -> None:
    code, out, _ = run(["import", COMMAND, *ON, "-o", "json"], capsys)
    assert code == 0
    found = result(out)
    assert found["deployment"]["roles"][0]["max_sequences"] == 32
    assert [one["flag"] for one in found["unread"]] == ["--port"]


def test_yaml_is_a_file_that_other_commands_take(capsys: Output, tmp_path: Path) -> None:
    code, out, err = run(["import", COMMAND, *ON, "-o", "yaml"], capsys)
    assert code == 0
    assert "--port: it says where the engine runs" in err
    path = tmp_path / "deployment.yaml"
    path.write_text(out)
    assert pick_deployment(path).deployment.model == MOE
    assert yaml.safe_load(out)["inputs"]["unread"][0]["flag"] == "--port"
    assert run(["estimate", str(path), "--isl", "1000", "--osl", "100"], capsys)[0] == 0
    why = ["plan", MOE, *ON, "--isl", "1000", "--osl", "100", "--engine", "vllm", "--no-simulate", "--why", str(path)]
    assert run(why, capsys)[0] == 0
    workload = tmp_path / "short.yaml"
    workload.write_text("name: short\nisl: 500\nosl: 50\nrate: 2\n")
    simulated = ["simulate", str(path), "--workload", str(workload), "--requests", "200", "-o", "json"]
    assert run(simulated, capsys)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([COMMAND], "--on: a launch command does not name the machine"),
        (["vllm serve /data/x", *ON], "name the model: --model ID"),
        (["vllm serve 'x", *ON], "command:1: the quote ' is not closed"),
        (["vllm serve $M", *ON], "give it with --env M=VALUE"),
        ([COMMAND, *ON, "--env", "M"], "--env: cannot read 'M'; write NAME=VALUE"),
        ([COMMAND, *ON, "--dialect", "x"], "unknown dialect 'x'"),
        ([f"vllm serve {MOE} --tp-size 2 --mem-fraction-static 0.9", *ON, "--dialect", "sglang"], "commands"),
        (["missing.sh", *ON], "missing.sh: no such file"),
    ],
)
def test_bad_input(arguments: list[str], words: str, capsys: Output) -> None:
    code, out, err = run(["import", *arguments], capsys)
    assert (code, out) == (2, "")
    assert words in err


def test_a_flag_of_another_version_names_the_version(capsys: Output) -> None:
    code, out, _ = run(["import", f"vllm serve {MOE} --tp-size 2", *ON, "-o", "json"], capsys)
    assert code == 0
    (one,) = [one for one in result(out)["unread"] if one["flag"] == "--tp-size"]
    assert "it is a flag of SGLang" in one["reason"]


ADVISE = ("--isl", "1000", "--osl", "100", "--slo", "ttft=2s,tpot=50ms")


def test_advise_explains_a_command(kernel: None, capsys: Output) -> None:
    code, out, _ = run(["advise", COMMAND, *ON, *ADVISE], capsys)
    assert code == 0
    for words in ("It meets", "80 % interval", "It is bound by", "The best of", "as it is", "--set roles.0.", "Grade "):
        assert words in out


def test_advise_as_json(kernel: None, capsys: Output) -> None:
    code, out, _ = run(["advise", COMMAND, *ON, *ADVISE, "--top", "1", "-o", "json"], capsys)
    assert code == 0
    found = result(out)
    assert len(found["changes"]) == 1
    assert found["changes"][0]["gain"] > 0.02


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["vllm serve deepseek-ai/DeepSeek-R1 -tp 2"], 3, "does not fit: weights_fit"),
        ([f"vllm serve {MOE} -tp 2 --max-num-seqs 64 --max-num-batched-tokens 32"], 2, "breaks chunk_holds_batch"),
        ([COMMAND, "--top", "0"], 2, "--top: 0 changes"),
        ([COMMAND, "--pick", "2"], 2, "--pick: launch commands hold one deployment"),
    ],
)
def test_advise_on_what_cannot_run(arguments: list[str], code: int, words: str, capsys: Output) -> None:
    given = run(["advise", *arguments, *ON, *ADVISE], capsys)
    assert given[0] == code
    assert words in given[2]
