"""Broken files and rows: each is named with its line and field; skipped and counted, or stopped at."""

import json
import lzma
import os
from pathlib import Path

import pytest

from tokenworks.errors import SpecError, UnknownName
from tokenworks.ingest import load_trace, rows

GOOD = {"timestamp": 1000, "input_length": 512, "output_length": 10, "hash_ids": [7]}
LINE = json.dumps(GOOD)


def changed(**fields: object) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (changed(timestamp=-1), "timestamp: expected `float` >= 0.0"),
        (changed(timestamp=float("nan")), "JSON is malformed: invalid character"),
        (LINE.replace("1000", "1e999").encode(), "timestamp: number out of range"),
        (changed(timestamp="now"), "timestamp: expected `float`, got `str`"),
        (changed(input_length=0), "input_length: expected `int` >= 1"),
        (changed(output_length=0), "output_length: expected `int` >= 1"),
        (changed(output_length=10**10), "output_length: expected `int` <= 16777216"),
        (changed(input_length=10**30), "input_length: expected `int` <= 16777216"),
        (changed(output_length=1.5), "output_length: expected `int`, got `float`"),
        (changed(hash_ids=[-1]), "hash_ids[]: expected `int` >= 0"),
        (
            changed(hash_ids=[1, 2]),
            "hash_ids: expected one hash for each 512 tokens of input_length, and one for the rest",
        ),
        (b'{"timestamp": 5}', "object missing required field `input_length`"),
        (LINE[:-9].encode(), "input data was truncated"),
        (b"[1, 2]", "expected `object`, got `array`"),
        (b'{"x": ' + b"[" * 100_000, "maximum recursion depth exceeded while deserializing an object"),
        (b"\xff\xfe\x00", "JSON is malformed: invalid character"),
        (b'{"timestamp": "\xff"}', "timestamp: expected `float`, got `str`"),
    ],
)
def test_a_broken_row(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(LINE.encode() + b"\n\n" + line + b"\n" + LINE.encode() + b"\n" + line)
    trace = load_trace(path)
    assert len(trace) == 2
    (dropped,) = trace.dropped
    assert dropped.reason[0].lower() + dropped.reason[1:] == reason[0].lower() + reason[1:]
    assert (dropped.count, dropped.where) == (2, f"{path}:3")
    with pytest.raises(SpecError, match=r"t\.jsonl:3: .*without --strict"):
        load_trace(path, strict=True)


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    good = b'{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]}'
    (tmp_path / "s.json").write_bytes(b"[" + good + b"," + good.replace(b"hi", b"\xff") + b"]")
    trace = load_trace(tmp_path / "s.json")
    assert [(d.reason, d.where[-2:]) for d in trace.dropped] == [("not UTF-8 text", ":2")]


CSV = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,48,10\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"2023-11-16 18:17:03.97,x,10", "ContextTokens: expected `int`, got `str`"),
        (b"2023-11-16 18:17:03.97,,10", "ContextTokens: expected `int`, got `str`"),
        (b"2023-11-16 18:17:03.97,48", "object missing required field `GeneratedTokens`"),
        (b"yesterday,48,10", "TIMESTAMP: invalid RFC3339 encoded datetime"),
        (b"2023-11-16 18:17:03.97,4\xff8,10", "ContextTokens: expected `int`, got `str`"),
        (b"2023-11-16 18:17:03.97,48,0", "GeneratedTokens: expected `int` >= 1"),
    ],
)
def test_a_broken_csv_row(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(CSV.encode() + line + b"\n")
    assert [(d.reason, d.count, d.where) for d in load_trace(path).dropped] == [(reason, 1, f"{path}:3")]


@pytest.mark.parametrize("time", ["nan", "inf", "-5", "1e13"])
def test_csv_times_are_finite(tmp_path: Path, time: str) -> None:
    path = tmp_path / "b.csv"
    path.write_text(f"Timestamp,Request tokens,Response tokens\n1,2,3\n{time},2,3\n")
    assert [d.reason.partition(":")[0] for d in load_trace(path).dropped] == ["Timestamp"]


def test_csv_headings(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(CSV.replace("Generated", "Made"))
    with pytest.raises(SpecError, match=r"t\.csv:1: no column GeneratedTokens; the header has"):
        load_trace(path, "azure")
    path.write_text(CSV.replace("48", '"' + "4" * 200_000 + '"'))
    with pytest.raises(SpecError, match="not CSV: field larger"):
        load_trace(path)


def test_rows_out_of_order_are_sorted_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\n".join(changed(timestamp=t, output_length=t) for t in (2000, 3000, 1000, 2500)))
    trace = load_trace(path)
    assert trace.arrival_s.tolist() == [0, 1, 1.5, 2]
    assert trace.output_tokens.tolist() == [1000, 2000, 2500, 3000]
    assert trace.reordered == 2
    with pytest.raises(SpecError, match=r"t\.jsonl:3: the time is earlier than in the row before; sort"):
        load_trace(path, strict=True)


def test_lines_and_blank_runs_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes can unpack to gigabytes of nothing."""
    monkeypatch.setattr(rows, "MAX_LINE", 200_000)
    monkeypatch.setattr(rows, "MAX_BLANK", 200_000)
    end = b"\n" * 400_000
    path = tmp_path / "t.jsonl.xz"
    for bomb, words in (
        (LINE.encode() + b"\n{" + b"y" * 400_000, r"t\.jsonl\.xz:2: more than 200000 bytes in one line; each line"),
        (LINE.encode() + end, r"t\.jsonl\.xz:\d+: more than 200000 bytes of blank lines; each line"),
        (CSV.encode() + end, "more than 200000 bytes of blank lines"),
    ):
        path.write_bytes(lzma.compress(bomb))
        with pytest.raises(SpecError, match=words):
            load_trace(path)


def test_blank_lines_between_rows_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_BLANK", 1000)
    for name, line in (("t.jsonl", LINE), ("t.csv", CSV.strip())):
        (tmp_path / name).write_text((line + "\n" * 450) * 2)
        assert len(load_trace(tmp_path / name)) in (1, 2)
        (tmp_path / name).write_text((line + "\n" * 600) * 2)
        with pytest.raises(SpecError, match="more than 1000 bytes of blank lines"):
            load_trace(tmp_path / name)


def test_what_unpacks_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_BYTES", 100_000)
    monkeypatch.setattr(rows, "MAX_DOCUMENT", 100_000)
    path = tmp_path / "t.jsonl.xz"
    for bomb in (LINE + "\n" + "\n" * 200_000, LINE + " " * 200_000):
        path.write_bytes(lzma.compress(bomb.encode()))
        for form in ("mooncake", "sharegpt"):
            with pytest.raises(SpecError, match="more than 100000 bytes when unpacked; cut"):
                load_trace(path, form)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        load_trace(tmp_path / "none.jsonl")
    with pytest.raises(SpecError, match="is a folder"):
        load_trace(tmp_path)
    cut = tmp_path / "cut.jsonl.xz"
    cut.write_bytes(lzma.compress(LINE.encode() + os.urandom(100_000))[:-5000])
    for form in (None, "mooncake"):
        with pytest.raises(SpecError, match="is the file complete"):
            load_trace(cut, form)
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(b"\x1f\x8b\x08\x00garbage and more of it")
    with pytest.raises(SpecError, match="cannot be read"):
        load_trace(broken)


def test_empty_and_unknown_files(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(" \n")
    with pytest.raises(SpecError, match="the file is empty"):
        load_trace(path)
    with pytest.raises(SpecError, match="no request could be read; the file is empty"):
        load_trace(path, "mooncake")
    for blank in ("\r", "", "\n \n\t"):
        path.write_text(blank)
        with pytest.raises(SpecError, match="no request could be read; the file is empty"):
            load_trace(path, "azure")
    path.write_bytes(changed(output_length=0))
    with pytest.raises(SpecError, match=r"no request could be read; left out: 1 x output_length: .*t\.jsonl:1"):
        load_trace(path)
    path.write_text("hello")
    with pytest.raises(SpecError, match=r"force one of sharegpt, .* with --format"):
        load_trace(path)
    path.write_bytes(b"PK\x03\x04....")
    with pytest.raises(SpecError, match="unpack the archive first"):
        load_trace(path)
    with pytest.raises(UnknownName, match="did you mean mooncake"):
        load_trace(path, "moncake")
    path.write_text("{}")
    with pytest.raises(SpecError, match="not a JSON list"):
        load_trace(path, "sharegpt")
