"""`simulate --faults` and `--failures`: tables, JSON, and what is said about bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.envelope import result
from tokenworks.cli import run

pytestmark = pytest.mark.usefixtures("kernel")

DEPLOYMENT = """
model: deepseek-ai/DeepSeek-R1
system: scalex40
roles:
- {parallel: {dp: 40, ep: 40}, max_sequences: 640, chunk_tokens: 40960, redundant_experts: 24}
"""
LOAD = ("--workload", "chat", "--rate", "3", "--requests", "600")
EXAMPLE = Path(__file__).parents[2] / "examples" / "faults.yaml"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "r1.yaml"
    path.write_text(DEPLOYMENT)
    return str(path)


def schedule(tmp_path: Path, text: str) -> str:
    path = tmp_path / "faults.yaml"
    path.write_text(text)
    return str(path)


DENSE = tuple(word for field in ("roles.0.parallel.dp=1", "roles.0.parallel.ep=1", "elastic_ep=true")
              for word in ("--set", field))  # fmt: skip
CARD = "faults: [{at: 1 min, part: device 7, for: 20 s}]"


def test_tables_say_what_a_fault_did(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--faults", schedule(tmp_path, CARD), "--set", "elastic_ep=true", "--set", "on_loss=migrate")
    assert run(["simulate", file, *LOAD, *asked]) == 0
    out = capsys.readouterr().out
    for part in ("device 7", "what requests", "before device 7", "during device 7", "after device 7", "without faults",
                 "Effective tokens:", "reliability.recovery.detect"):  # fmt: skip
        assert part in out, part


def test_the_printed_schedule_gives_the_same_run(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", file, *LOAD, "--failures", "2", "--hazard", "200000", "-o", "json"]) == 0
    first = result(capsys.readouterr().out)["faults"]
    assert first["schedule"]["faults"]
    import yaml

    again = schedule(tmp_path, yaml.safe_dump(first["schedule"]))
    assert run(["simulate", file, *LOAD, "--faults", again, "-o", "json"]) == 0
    second = result(capsys.readouterr().out)["faults"]
    assert first["faults"] == second["faults"]
    assert first["series"] == second["series"]


def test_the_example_is_a_schedule_for_a_scalex40() -> None:
    from tokenworks.specs.compose import machine
    from tokenworks.specs.faults import load_faults, parts_that_fail

    assert len(parts_that_fail(load_faults(EXAMPLE), machine("scalex40"), 1)) == 5


def test_faults_after_the_end_are_a_note(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late = schedule(tmp_path, "faults: [{at: 2 h, part: device 7}]")
    assert run(["simulate", file, *LOAD, "--faults", late]) == 0
    assert "1 of 1 faults come after the end of the run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ("faults: [{at: 1 min, part: device 40}]", (), "write device 0 to device 39"),
        ("faults: [{at: 1 min, part: nic 0}]", (), "scalex40 has no such part"),
        ("faults: [{at: 1 min, part: device 1, for: 0 s}]", (), "greater than 0"),
        ("faults: [{at: -1 min, part: device 1}]", (), "must be finite and not negative"),
        ("faults: []", (), "the list is empty"),
        (CARD, ("--failures", "1"), "a schedule and random faults together"),
        (CARD, ("--hazard", "2"), "a schedule has no failure rates"),
        (CARD, ("--set", "spares=1"), "1 spare devices, but scalex40 has 40 devices"),
        (CARD, DENSE, "a role needs dp and ep above 1"),
    ],
)
def test_bad_input(
    text: str, more: tuple[str, ...], message: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", file, *LOAD, "--faults", schedule(Path(file).parent, text), *more]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_hazard_needs_random_faults(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", file, *LOAD, "--hazard", "2"]) == 2
    assert "give --failures SEED or --faults FILE" in capsys.readouterr().err
