"""`-o html --out FILE`: one file, completely or not at all, and every mistake in words with exit code 2."""

import sys
from pathlib import Path

import pytest

from tests.report.html import PageReader
from tokenworks import cli
from tokenworks.cli.command import command, remember
from tokenworks.report import page

PLAN = [
    "plan", "Qwen/Qwen3-30B-A3B", "--on", "hgx-h100", "--isl", "2000", "--osl", "200", "--no-simulate", "--engine",
    "vllm", "--slo", "ttft=2s,tpot=50ms",
]  # fmt: skip

Output = pytest.CaptureFixture[str]


def test_plan_writes_a_page_with_its_command(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "a page.html"
    assert cli.run([*PLAN, "-o", "html", "--out", str(path), "--lang", "zh"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"wrote {path}, ")
    read = PageReader(path.read_text(encoding="utf-8"))
    assert f"tokenworks {' '.join(PLAN)}" in read.shown
    assert str(tmp_path) not in read.shown
    assert "结论" in read.shown
    assert [one.name for one in tmp_path.iterdir()] == ["a page.html"]


def test_simulate_writes_a_page(tmp_path: Path, capsys: Output) -> None:
    ranked = tmp_path / "ranked.yaml"
    assert cli.run([*PLAN, "-o", "yaml"]) == 0
    ranked.write_text(capsys.readouterr().out)
    path = tmp_path / "page.html"
    words = ["simulate", str(ranked), "--workload", "chat", "--rate", "2", "--requests", "300"]
    assert cli.run([*words, "-o", "html", f"--out={path}"]) == 0
    read = PageReader(path.read_text(encoding="utf-8"))
    assert f"tokenworks {' '.join(words)}" in read.shown
    assert set(read.data()["charts"]) == {"tokens", "queue", "cache"}


@pytest.mark.parametrize(("form", "start"), [("svg", b"<svg "), ("png", b"\x89PNG")])
def test_the_main_chart_alone(form: str, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"chart.{form}"
    assert cli.run([*PLAN, "-o", form, "--out", str(path)]) == 0
    whole = path.read_bytes()
    assert whole.startswith(start)
    assert b"var(--" not in whole
    assert b"currentColor" not in whole


def test_a_page_needs_a_file(capsys: Output) -> None:
    assert cli.run([*PLAN, "-o", "html"]) == 2
    assert "-o html: needs --out; name a file, such as --out page.html" in capsys.readouterr().err


def test_a_file_needs_a_page(tmp_path: Path, capsys: Output) -> None:
    assert cli.run([*PLAN, "-o", "json", "--out", str(tmp_path / "x")]) == 2
    assert "--out: is a file for -o html, svg, png" in capsys.readouterr().err


def test_a_folder_and_a_missing_folder(tmp_path: Path, capsys: Output) -> None:
    for path, words in ((tmp_path, "is a folder"), (tmp_path / "no" / "x.html", "there is no folder")):
        assert cli.run([*PLAN, "-o", "html", "--out", str(path)]) == 2
        assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")

    def broken(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "page", broken)
    assert cli.run([*PLAN, "-o", "html", "--out", str(path)]) != 0
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]
    assert "Traceback" not in capsys.readouterr().err


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert cli.run([*PLAN, "-o", "html", "--out", str(tmp_path / "x.html")]) == 2
    assert "pip install 'tokenworks[report]'" in capsys.readouterr().err


def test_why_has_no_page(tmp_path: Path, capsys: Output) -> None:
    assert cli.run([*PLAN, "--why", "tp=2", "-o", "html", "--out", str(tmp_path / "x.html")]) == 2
    assert "--why has no -o html" in capsys.readouterr().err


def test_a_plan_that_misses_the_slo_still_has_a_page(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "page.html"
    assert cli.run([*PLAN[:-1], "tpot=1us", "-o", "html", "--out", str(path)]) == 4
    assert "No deployment meets the SLO" in path.read_text(encoding="utf-8")


def test_the_command_is_quoted_and_has_no_place_of_the_file() -> None:
    words = ["plan", "a b", "--output=html", "--set", "x=1;rm", "--lang", "zh", "-o", "html", "--out", "p.html"]
    remember(words)
    assert command() == "tokenworks plan 'a b' --set 'x=1;rm'"
