"""The kinds of results: shipped schemas are those of the code, and what cheap commands print keeps to them.

The tests of every verb hold all JSON that they read against its schema, too: `tests.cli.envelope`.
"""

import json

import pytest

from tests.cli.envelope import result
from tokenworks.cli import run
from tokenworks.planning.listing import Models, Systems
from tokenworks.results import KINDS, path_of, written
from tokenworks.specs.load import catalog_names
from tokenworks.specs.result import Inputs, envelope, inputs, rounded, schema_name

MOE = ("Qwen/Qwen3-30B-A3B", "--on", "hgx-h100:2")  # a small machine: its plans take a second
COMMANDS = {
    "systems": ("systems",),
    "system": ("systems", "scalex40"),
    "models": ("models",),
    "model": ("models", "deepseek-ai/DeepSeek-R1"),
    "catalog": ("catalog",),
    "catalog-entry": ("catalog", "workloads", "chat"),
    "fit": ("fit", *MOE),
    "estimate": ("estimate", *MOE, "--deploy", "tp=2,ep=2"),
    "plan": ("plan", *MOE, "--workload", "chat"),
    "plan-why": ("plan", *MOE, "--workload", "chat", "--why", "tp=2,ep=2"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_schema_is_what_the_code_writes(kind: str) -> None:
    assert path_of(kind).read_text(encoding="utf-8") == written(kind), "run `make schemas`"


def test_each_schema_has_its_kind() -> None:
    assert {path.stem for path in path_of("plan").parent.iterdir()} == set(KINDS)


@pytest.mark.parametrize("kind", COMMANDS)
def test_what_is_printed_keeps_to_its_schema(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMANDS[kind], "-o", "json"]) == 0
    found = result(capsys.readouterr().out)
    assert (found["schema"], found["kind"]) == (schema_name(kind), kind)
    assert found["inputs"].keys() >= Inputs.__annotations__.keys()


def test_every_system_keeps_to_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    for name in catalog_names("system"):
        assert run(["systems", name, "-o", "json"]) == 0
        assert result(capsys.readouterr().out)["inputs"]["machine"] == name


def test_every_model_keeps_to_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    for row in Models.read().rows:
        assert run(["models", row["name"], "-o", "json"]) == 0
        assert result(capsys.readouterr().out)["inputs"]["model"] == row["name"]


@pytest.mark.parametrize("osl", ["1", "300"])
def test_a_plan_under_any_load_keeps_to_its_schema(osl: str, capsys: pytest.CaptureFixture[str]) -> None:
    for load in (("--rate", "2"), ("--concurrency", "3"), ("--slo", "ttft=9s")):
        assert run(["plan", *MOE, "--engine", "vllm", "--isl", "2000", "--osl", osl, *load, "-o", "json"]) == 0
        assert result(capsys.readouterr().out)["inputs"]["workload"]["osl"] == int(osl)


def test_python_users_get_the_same_object(capsys: pytest.CaptureFixture[str]) -> None:
    for verb, made in (("systems", Systems.read()), ("models", Models.read())):
        assert run([verb, "-o", "json"]) == 0
        assert json.loads(capsys.readouterr().out) == made.plain()


def test_the_envelope_is_ready_for_json() -> None:
    found = envelope("plan", {"inputs": inputs(model="m"), "pair": (1 / 3, float("inf"))}, {"elapsed_s": 1.0})
    assert list(found) == ["schema", "kind", "inputs", "pair", "wall"]
    assert found["pair"] == [0.333333333, None]
    assert found["inputs"]["model"] == "m"
    assert all(found["inputs"][key] is None for key in Inputs.__annotations__ if key != "model")
    assert rounded({"x": True, "n": 12345678901}) == {"x": True, "n": 12345678901}
