"""docs/own-machines.md against the code: its commands run on its file, and its messages are those that users see."""

import re
import shlex
from pathlib import Path

import pytest

from tokenworks.cli import run

PAGE = Path(__file__).parents[1] / "docs" / "own-machines.md"
TEXT = PAGE.read_text(encoding="utf-8")
MACHINE, WHAT_IF = re.findall(r"```yaml\n(.+?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"^\$ tokenworks (.+)$", TEXT, re.MULTILINE)
MESSAGES = re.findall(r"^\| `(.+?)` \| [A-Z`]", TEXT.partition("## Errors")[2], re.MULTILINE)
MISTAKES = [
    (MESSAGES[0], "bandwidth: 4.0 TB/s", "bandwidth: 4.0 TB"),
    (MESSAGES[1], "domain: 64", "domain: 48"),
    (MESSAGES[2], "hop: 0.25 us", "hopp: 0.25 us"),
    (MESSAGES[3], "network: roce400", "network: roce800"),
    (MESSAGES[4], "family: other-npu", "family: mychip"),
    (MESSAGES[6], "hop: 0.25 us", "hop: null"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "my-box.yaml").write_text(MACHINE)
    (tmp_path / "what-if.yaml").write_text(WHAT_IF)
    return tmp_path


def test_the_file_is_written_only_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "my-box.yaml").unlink()
    assert run(shlex.split(COMMANDS[0])) == 0
    assert "family: hygon-dcu" in (folder / "my-box.yaml").read_text()


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_a_command_of_the_page_runs(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shlex.split(command)) == 0
    printed = capsys.readouterr().out
    if command.startswith("plan"):
        shown = TEXT.partition(f"$ tokenworks {command}\n")[2].partition("```")[0].splitlines()
        assert [line for line in shown if not re.search(r"\d", line) and line not in printed] == []


@pytest.mark.parametrize(("message", "right", "wrong"), MISTAKES)
def test_a_mistake_in_the_file_is_explained(
    message: str, right: str, wrong: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "my-box.yaml").write_text(MACHINE.replace(right, wrong))
    assert run(["estimate", "openai/gpt-oss-120b", "--on", "my-box.yaml", "--deploy", "tp=2,ep=2"]) == 2
    assert message in capsys.readouterr().err


def test_a_name_without_its_ending_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", "openai/gpt-oss-120b", "--on", "my-box"]) == 2
    assert MESSAGES[5] in capsys.readouterr().err
    assert len(MESSAGES) == 7
