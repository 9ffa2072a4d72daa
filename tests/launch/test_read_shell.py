"""Shell scripts and command lines become launch commands, and nothing is executed."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.damage import tries
from tokenworks.errors import SpecError
from tokenworks.launch.command import Command
from tokenworks.launch.read.shell import read_shell

SGLANG = ("python3", "-m", "sglang.launch_server")


def only(text: str, **given: str) -> Command:
    """The only launch command of a script."""
    (command,) = read_shell(text, "run.sh", given=given).commands
    return command


SCRIPT = """#!/bin/bash
set -euo pipefail
# comment with 'an apostrophe
export NCCL_DEBUG=INFO  # and another
MODEL=${MODEL:-org/model}
TP=8; EP=$((TP * 2))
ARGS=(--trust-remote-code --kv-cache-dtype fp8_e4m3)
ARGS+=( --served-model-name "my model" )
if [ -z "$HOST" ]; then echo "no host: $HOST"; fi
for i in 0 1; do
  CUDA_VISIBLE_DEVICES=$i nohup python3 -m sglang.launch_server \\
    --model-path "$MODEL" --tp-size $TP --ep-size ${EP} \\
    --port $((30000 + i)) "${ARGS[@]}" > log_$i.txt 2>&1 &
done
wait
"""


def test_a_whole_script_is_followed() -> None:
    first, second = read_shell(SCRIPT, "run.sh").commands
    assert first.program == SGLANG
    assert first.arguments[:8] == ("--model-path", "org/model", "--tp-size", "8", "--ep-size", "16", "--port", "30000")
    assert first.arguments[8:] == (
        "--trust-remote-code", "--kv-cache-dtype", "fp8_e4m3", "--served-model-name", "my model",
    )  # fmt: skip
    assert dict(first.environment) == {"NCCL_DEBUG": "INFO", "CUDA_VISIBLE_DEVICES": "0"}
    assert second.arguments[7] == "30001"
    assert first.where == "run.sh:11"


def test_a_variable_of_the_user_replaces_that_of_the_script() -> None:
    assert only("TP=8\nvllm serve m -tp $TP", TP="4").arguments == ("m", "-tp", "4")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("vllm serve m -tp 8", ("m", "-tp", "8")),
        ("/opt/venv/bin/vllm serve m", ("m",)),
        ("env A=1 B=2 nohup vllm serve m | tee log", ("m",)),
        ("cd /x && exec vllm serve m; echo done", ("m",)),
        ("bash -c 'export A=3; vllm serve m -tp $A'", ("m", "-tp", "3")),
        ('A=3; bash -lc "vllm serve m -tp $A"', ("m", "-tp", "3")),
        ('CMD="vllm serve m"; CMD+=" -tp 2"; eval "$CMD"', ("m", "-tp", "2")),
        ('CMD="vllm serve m -tp 2"; $CMD --dtype auto', ("m", "-tp", "2", "--dtype", "auto")),
        ("start() { vllm serve $1 --port $2; }\nstart m 8000", ("m", "--port", "8000")),
        ("ssh node1 'vllm serve m --host $(hostname -i)'", ("m", "--host", "$(hostname -i)")),
        ("srun -N 2 python -m vllm.entrypoints.openai.api_server --model m", ("--model", "m")),
        ("vllm serve \"$M\" '--x=a b' -- \\\n  --y", ("org/m", "--x=a b", "--", "--y")),
        ("vllm serve ${M##*/} ${M%/*} ${M/org/new} ${#M} ${N:-d} ${N-d} ${M:+set}",
         ("m", "org", "new/m", "5", "d", "d", "set")),
        ("vllm serve ${A:=x} $A $((7 / 2)) $((-3 % 2)) $((1+2*3))", ("x", "x", "3", "1", "7")),
        ("vllm serve a\\ b \"c \\\" d\" $'e\\tf'", ("a b", 'c " d', "e\tf")),
        ("vllm serve m \"$@\"", ("m",)),
        ("for i in $(seq 1 1); do vllm serve m$i; done", ("m1",)),
        ("for i in {3..3}; do vllm serve m$i; done", ("m3",)),
        ("case $X in\n a) Y=1;;\n b|c) Y=2;;\nesac\nvllm serve m", ("m",)),
        ("while ! curl -s x; do sleep 1; done\nvllm serve m 2> log < in", ("m",)),
        ("vllm serve m\r\n", ("m",)),
        ("FOO=$UNSET\nvllm serve m", ("m",)),
    ],
)  # fmt: skip
def test_forms_of_a_command(text: str, arguments: tuple[str, ...]) -> None:
    assert only(f"M=org/m\n{text}").arguments == arguments


@pytest.mark.parametrize(
    ("text", "program", "arguments", "environment"),
    [
        ("docker run --rm -d --gpus all -e A=1 -v a:b vllm/vllm-openai:v0.11 --model m", ("vllm", "serve"),
         ("--model", "m"), {"A": "1"}),
        ("docker run --gpus all --shm-size 32g vllm/vllm-openai m -tp 8", ("vllm", "serve"), ("m", "-tp", "8"), {}),
        ("docker run -it --env=A=1 lmsysorg/sglang python3 -m sglang.launch_server --model m", SGLANG,
         ("--model", "m"), {"A": "1"}),
        ("docker run x/sglang bash -c 'B=2 python3 -m sglang.launch_server --model m'", SGLANG, ("--model", "m"),
         {"B": "2"}),
        ("podman run --entrypoint vllm x/y serve m", ("vllm", "serve"), ("m",), {}),
    ],
)  # fmt: skip
def test_containers(
    text: str, program: tuple[str, ...], arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    command = only(text)
    assert (command.program, command.arguments, dict(command.environment)) == (program, arguments, environment)


def test_only_exported_variables_are_environment_and_secrets_are_not_shown() -> None:
    command = only("A=1\nexport B=2 HF_TOKEN=abc\nset -a\nC=3\nvllm serve m")
    assert dict(command.environment) == {"B": "2", "HF_TOKEN": "(not shown)", "C": "3"}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("vllm serve m \\\n", 1, "a part of the command is missing"),
        ("\n\nvllm serve m --tp \\", 3, "a part of the command is missing"),
        ("vllm serve 'm --tp 8\n", 1, "the quote ' is not closed"),
        ('echo\nvllm serve "m', 2, 'the quote " is not closed'),
        ("vllm serve ${m", 1, "the bracket ${ is not closed"),
        ("A=(1 2\nvllm serve m", 1, "is not closed"),
        ("vllm serve $(cat x", 1, "is not closed"),
        ("vllm serve m -tp $TP", 1, "needs $TP, and it is not known: no line above sets it; give it with --env TP="),
        ("A=$B-x\nvllm serve m -tp $A", 2, "needs $B (line 1)"),
        ("read TP\nvllm serve m -tp $TP", 2, "the script reads it"),
        ("if [ $X = 1 ]; then TP=8; else TP=4; fi\nvllm serve m -tp $TP", 2, "it depends on `if` in line 1"),
        ("[ -n $X ] && TP=8\nvllm serve m -tp $TP", 2, "it depends on the test in line 1"),
        ("if [ $X = 1 ]; then vllm serve m; fi", 1, "the launch command depends on `if` in line 1"),
        ("while true; do vllm serve m; done", 1, "depends on `while`"),
        ("if true; then vllm serve m", 1, "'fi' of the block that begins here is missing"),
        ("for i in 1 2; do vllm serve m", 1, "'done' of the block that begins here is missing"),
        ("f() {\nvllm serve m", 1, "'}' of the block that begins here is missing"),
        ("fi", 1, "'fi' closes nothing"),
        ("vllm serve m <<EOF\nx\nEOF", 1, "a here-document (<<) is not read"),
        ("vllm serve m --a 1 \\\n # --b 2 \\\n --c 3", 3, "a command cannot begin with --c"),
        ("vllm serve m $((2 ** 9999999))", 1, "this form of arithmetic is not read"),
        ("trtllm-serve m", 1, "trtllm-serve is not read"),
        ("f() { f; }\nf", 1, "call each other"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(SpecError) as error:
        read_shell(text, "run.sh")
    assert f"run.sh:{line}: " in str(error.value)
    assert words in str(error.value)


def test_a_value_that_doubles_itself_is_bounded() -> None:
    with pytest.raises(SpecError, match="has more than 1,000,000 characters"):
        read_shell("A=aaaaaaaaaa\n" + "A=$A$A\n" * 60 + "vllm serve m")


def test_commands_that_start_no_engine_are_left_out() -> None:
    assert read_shell("pip install vllm\nvllm bench serve --model m\necho 'vllm serve m'\nmkdir x").commands == ()


def test_a_called_script_is_noted() -> None:
    read = read_shell("source env.sh\nvllm serve m", "run.sh")
    assert read.notes == ("run.sh:1: another script is called, and it was not read",)


PIECES = (
    "vllm serve m ", "-tp 8 ", "'", '"', "\\", "\n", "$A ", "${A:-", "}", "$((", "))", "$(", ")", "(", "A=", "A=(",
    "if x; then ", "fi\n", "for i in 1 2; do ", "done\n", "case x in ", "esac", ";;", ";", "&", "&&", "|", "<<", "> ",
    "{ ", "} ", "f() ", "export ", "#", "`", "\x00", "docker run ", "bash -c ", "eval ", "é", "{0..9}", "2>&1",
)  # fmt: skip


@tries(150)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=24))
def test_any_text_is_read_or_refused(pieces: list[str]) -> None:
    with contextlib.suppress(SpecError):
        read_shell("".join(pieces))
