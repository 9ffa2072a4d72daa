"""Tables: no word is broken and no line is wider than the page, whatever the width."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.calibrate.cases import table
from tokenworks import cli
from tokenworks.cli.page import Page, wrapped
from tokenworks.cli.tables import Columns, print_table

WORDS = st.text(alphabet="abcdefgh0123456789/_.[]", min_size=1, max_size=12)
CELLS = st.lists(WORDS, max_size=6).map(" ".join)


def printed(width: int, columns: Columns, rows: list[list[str]], **how: Any) -> list[str]:
    page = Page(width=width)
    page.file = io.StringIO()
    print_table(page, columns, rows, **how)
    return page.file.getvalue().splitlines()


@given(st.data(), st.integers(30, 200))
def test_any_table_on_any_page_keeps_its_words(data: st.DataObject, width: int) -> None:
    headings = data.draw(st.lists(CELLS, min_size=1, max_size=7, unique=True))
    columns: Columns = {heading: data.draw(st.sampled_from(["left", "right"])) for heading in headings}
    side = {"left": CELLS, "right": WORDS}
    rows = data.draw(st.lists(st.tuples(*(side[columns[heading]] for heading in headings)).map(list), max_size=5))
    wraps = data.draw(st.lists(st.sampled_from(headings)))
    lines = printed(width, columns, rows, wraps=wraps)
    assert all(len(line) <= max(width, *map(len, headings)) for line in lines)
    words = [word for cells in rows for cell in cells for word in cell.split()]
    shown = [word for line in lines for word in line.split()]
    assert sorted(set(words) - set(shown)) == []
    assert set(shown) <= {*words, *(word for heading in headings for word in heading.split())}


def test_what_a_narrow_page_gives_up_and_in_which_order() -> None:
    columns: Columns = {"name": "left", "long heading": "right", "note": "left", "spare": "right"}
    rows = [["a", "1", "one two three", "77"], ["b", "2", "four", "8"]]
    assert printed(40, columns, rows)[0].split("  ")[1] == "long heading"
    how = {"wraps": ["note"], "spare": ["spare"]}
    assert printed(31, columns, rows, **how) == [
        "         long",
        "name  heading  note       spare",
        "a           1  one two       77",
        "               three",
        "b           2  four           8",
    ]
    assert printed(20, columns, rows, **how)[-1] == "Left out, for 20 columns: spare. `-o json` has all columns."
    blocks = ["name          a", "long heading  1", "note", "  one two three"]
    assert printed(15, columns, rows, **how)[:4] == blocks


def test_lines_wrap_between_words_and_keep_their_indent() -> None:
    assert wrapped("  one two three", 9) == ["  one two", "  three"]
    assert wrapped("a\nb c", 3) == ["a", "b c"]
    assert wrapped("x " + "y" * 12, 5) == ["x", "yyyyy", "yyyyy", "yy"]


def test_a_line_stays_whole_in_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Page(width=20).paragraph("one two three four five six")
    monkeypatch.setenv("COLUMNS", "20")
    Page(width=20).paragraph("one two three four five six")
    assert capsys.readouterr().out == "one two three four five six\none two three four\nfive six\n"


MOE = ["Qwen/Qwen3-30B-A3B", "--on", "hgx-h100"]
DEPLOYMENT = """
model: openai/gpt-oss-120b
system: hgx-h100
roles:
  - {name: prefill, parallel: {tp: 2, ep: 2}, replicas: 2}
  - {name: decode, parallel: {dp: 4, ep: 4}, max_sequences: 128}
"""
PAGE_WORDS = ("Left", "out,", "for", "columns:", "60", "80", "`-o", "json`", "has", "all", "columns.")
TIMED = ("█", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "0.", "1.", "2.", "3.", "4.")
"""Bars, which a narrow page makes shorter, and times of the command."""
COMMANDS = [
    ["systems"],
    ["systems", "scalex40"],
    ["systems", "helios"],
    ["models"],
    ["models", "deepseek-ai/DeepSeek-R1"],
    ["fit", "deepseek-ai/DeepSeek-R1", "--on", "scalex40"],
    ["estimate", *MOE, "--deploy", "tp=2,dp=2,ep=4"],
    ["plan", *MOE, "--workload", "chat", "--no-simulate"],  # many devices: long names of deployments
    ["plan", MOE[0], "--on", "hgx-h100:2", "--workload", "chat", "--top", "3"],
    ["trace", "talk.jsonl"],
    ["simulate", "plan.yaml", "--trace", "talk.jsonl", "--class", "batch:priority=1,ttft=60s"],
    ["capacity", "plan.yaml", "--trace", "talk.jsonl", "--slo", "ttft=9s,tpot=50ms"],
    ["validate", "--data", "points.csv"],
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(DEPLOYMENT)
    table(tmp_path, {}, {"concurrency": "16"}, {"model": "no/such"}).rename(tmp_path / "points.csv")
    rows = (
        {
            "timestamp": 40 * i,
            "input_length": 900 + i,
            "output_length": 60,
            "hash_ids": [i % 7, 100 + i],
            "class": "batch",
        }
        for i in range(200)
    )
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.usefixtures("kernel", "folder")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_no_command_breaks_a_word(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = {}
    for columns in (60, 80, 1000):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert cli.run(command) == 0
        pages[columns] = capsys.readouterr().out
    words = [*pages[1000].split(), *PAGE_WORDS]
    known = {part for word in words for part in (word, *re.findall(r"[^/]*/|[^/]+$", word))}
    known |= {f"{word}{end}" for word in known for end in ",."}
    for width in (60, 80):
        assert max(map(len, pages[width].splitlines())) <= width
        broken = {word for word in set(pages[width].split()) - known if not word.startswith(TIMED)}
        assert broken == set()
