"""The command frame: words on stderr, the right exit code, no traceback."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tokenworks import cli
from tokenworks.cli import heap
from tokenworks.cli.output import console, emit, notes
from tokenworks.cli.page import BARS, Page, escaped, open_stdout
from tokenworks.cli.progress import MENDED, compile_once
from tokenworks.cli.tables import print_table
from tokenworks.errors import DoesNotFit, SloMissed, SpecError, TokenworksError, UnknownName


@pytest.mark.parametrize("arguments", [["nonsense"], ["systems", "--nonsense"], ["plan"], ["systems", "-o", "xml"]])
def test_a_wrong_command_line_is_bad_input(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tokenworks: ")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SpecError("x"), 2),
        (UnknownName("model", "x", []), 2),
        (DoesNotFit("x"), 3),
        (SloMissed("x"), 4),
        (TokenworksError("x"), 1),
        (ZeroDivisionError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_has_its_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert cli.run(["anything"]) == code
    assert capsys.readouterr().err.startswith("tokenworks: ")


def test_a_spec_error_says_what_where_and_the_way_out() -> None:
    error = SpecError("'448 GB' is a size, not a rate", where="my-box.yaml: bandwidth", hint='write "448 GB/s"')
    assert str(error) == "my-box.yaml: bandwidth: '448 GB' is a size, not a rate; write \"448 GB/s\""


def test_an_unknown_name_suggests_near_ones() -> None:
    assert "did you mean scalex40" in str(UnknownName("system", "scalex4", ["scalex40", "gb200-nvl72"]))
    assert str(UnknownName("network", "zzz", ["ndr", "xdr"])).endswith("known: ndr, xdr")
    many = [f"box-{number}" for number in range(20)]
    assert str(UnknownName("system", "zzz", many)).endswith("box-7 and 12 more (`tokenworks systems`)")


def test_no_error_prints_hundreds_of_digits() -> None:
    error = SpecError(f"isl + osl = {1e300:,.0f} tokens, 131,072 at most", where="plan", hint=f"not {10**300}")
    assert str(error) == (
        "plan: isl + osl = 1,000,000,00... (301 digits) tokens, 131,072 at most; not 100000000000... (301 digits)"
    )
    assert "9" * 13 not in str(DoesNotFit("9" * 400))


@pytest.mark.parametrize("isl", ["1e308", "1e200"])
def test_absurd_lengths_are_refused_in_few_words(isl: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["estimate", "deepseek-ai/DeepSeek-R1", "--on", "scalex40", "--isl", isl, "--osl", "10"]) == 2
    assert len(capsys.readouterr().err) < 300


@pytest.mark.parametrize("arguments", [["systems"], ["systems", "-o", "json"], ["--help"]])
def test_a_reader_that_has_seen_enough_is_no_error(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert cli.run(arguments) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["systems"], ["systems", "-o", "json"], ["--help"]])
def test_a_full_disk_is_told(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.run(arguments) == 2
    assert capsys.readouterr().err == (
        "tokenworks: stdout: cannot be written: No space left on device; write the output to a disk with free space\n"
    )


def test_a_closed_stdout_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.run(["systems"]) == 2
    assert capsys.readouterr().err.startswith("tokenworks: stdout: is closed; leave it open")


def test_nobody_hears_of_an_error_where_stderr_is_closed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.run(["nonsense"]) == 2
    assert capsys.readouterr().out == ""


def test_an_ascii_terminal_gets_other_bars_and_json_stays_json(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    open_stdout()
    Page().print(f"{BARS[1:]} ü")
    assert raw.getvalue() == b"_.:-=+*# ?\n"
    raw.truncate(0)
    raw.seek(0)
    emit({"name": "Kö😀"}, "json")
    assert json.loads(raw.getvalue().decode("ascii")) == {"name": "Kö😀"}
    raw.truncate(0)
    raw.seek(0)
    emit({"name": "Kö"}, "yaml")
    assert raw.getvalue() == b'name: "K\\xF6"\n'


def test_help_on_an_ascii_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    assert cli.run(["--help"]) == 0
    assert b"simulate" in raw.getvalue()


def test_control_characters_of_others_are_shown_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    bad, shown = "a\x1b]0;b\x07\r\x9b\u202e\udc9b\u2028", r"a\x1b]0;b\x07\x0d\x9b\u202e\x9b\u2028"
    assert escaped(bad) == shown
    assert escaped("öde\tand\nlines █") == "öde\tand\nlines █"
    page = console(200)
    page.print(f"name {bad}")
    print_table(page, {f"head {bad}": "left"}, [[f"cell {bad} {'-' * 20}"]], title=f"title {bad}")
    notes().print(f"note {bad}")
    assert cli.run(["models", bad]) == 2
    out, err = capsys.readouterr()
    for word in ("name", "title", "head", "cell"):
        assert f"{word} {shown}" in out
    assert f"note {shown}" in err
    assert "\x1b" not in out + err


def test_words_of_others_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console().print("[bold]x[/bold] :smile:")
    assert capsys.readouterr().out == "[bold]x[/bold] :smile:\n"


def test_a_command_seeks_cycles_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr("tokenworks.cli.heap.gc.set_threshold", calls.append)
    assert cli.run(["--version"]) == 0
    assert calls == [heap.BETWEEN]


def test_freed_memory_is_kept_where_the_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another C library than glibc has no `mallopt`, and another system no such library: both change nothing."""
    calls: list[tuple[int, int]] = []
    glibc = SimpleNamespace(mallopt=lambda option, value: calls.append((option, value)))
    monkeypatch.setattr("tokenworks.cli.heap.sys.platform", "linux")
    monkeypatch.setattr("tokenworks.cli.heap.ctypes.CDLL", lambda _: glibc)
    heap.keep_freed_memory()
    assert calls == [(heap.TRIM, heap.KEPT), (heap.MAP, heap.MAPPED)]
    monkeypatch.setattr("tokenworks.cli.heap.ctypes.CDLL", lambda _: object())
    heap.keep_freed_memory()
    monkeypatch.setattr("tokenworks.cli.heap.sys.platform", "win32")
    monkeypatch.setattr("tokenworks.cli.heap.ctypes.CDLL", lambda _: glibc)
    heap.keep_freed_memory()
    assert len(calls) == 2


def test_damaged_code_of_the_engine_is_named(
    kernel: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tokenworks.engine.simulator.warm_up", lambda: True)
    compile_once()
    assert "was damaged; it was compiled again" in capsys.readouterr().err


@pytest.fixture
def loads(kernel: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A computer without compiled code; what happens there."""
    happened = list[str]()
    monkeypatch.setattr("tokenworks.engine.simulator.compiled", lambda: False)
    monkeypatch.setattr("tokenworks.engine.simulator.kept", lambda: True)
    monkeypatch.setattr("tokenworks.engine.simulator.warm_up", lambda: happened.append("here"))
    return happened


def test_the_engine_is_compiled_in_a_process_of_its_own(loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """So that this process does not keep what compiles. The process runs in earnest; it finds the code on disk."""
    run = subprocess.run

    def apart(*given: Any, **options: Any) -> Any:
        done = run(*given, **options)
        loads.append(f"apart {done.returncode}")
        return done

    monkeypatch.setattr(subprocess, "run", apart)
    compile_once()
    assert loads == ["apart 0", "here"]
    monkeypatch.setattr("tokenworks.engine.simulator.kept", lambda: False)
    compile_once()
    assert loads == ["apart 0", "here", "here"]


def test_what_the_other_process_says_counts(
    loads: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for code, said in ((1, False), (MENDED, True)):
        monkeypatch.setattr(subprocess, "run", lambda *_, code=code, **__: SimpleNamespace(returncode=code))
        compile_once()
        assert ("was damaged" in capsys.readouterr().err) == said
    assert loads == ["here", "here"]


def test_without_another_process_the_engine_is_compiled_here(loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    compile_once()
    assert loads == ["here"]
