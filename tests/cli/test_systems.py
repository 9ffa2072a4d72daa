"""`tokenworks systems`: one object on stdout, a table that fits, and words for what does not exist."""

from __future__ import annotations

import json

import pytest
import yaml

from tokenworks import cli
from tokenworks.specs import load


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(["systems", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_the_list_has_every_system_and_says_which_can_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "-o", "json"))["systems"]
    assert [row["name"] for row in rows] == load.catalog_names("system")
    by_name = {row["name"]: row for row in rows}
    assert by_name["scalex40"]["plannable"]
    assert by_name["scalex40"]["peak"]["fp8"] == 700e12
    assert "device.peak.bf16" in by_name["scalex40"]["assumed"]
    assert not by_name["metax-s600"]["plannable"]
    assert by_name["metax-s600"]["hbm_bytes"] is None
    assert "device.hbm.capacity" in by_name["metax-s600"]["missing"]


def test_the_table_keeps_one_line_a_system(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys).splitlines()
    assert all(len(line) <= 120 for line in lines)
    assert [line.split()[0] for line in lines[2:-2]] == load.catalog_names("system")


def test_one_system_shows_every_number_with_its_status_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(run(capsys, "scalex40", "-o", "json"))
    number = shown["numbers"]["device.hbm.bandwidth"]
    assert (number["value"], number["written"], number["unit"], number["status"]) == (
        2e12, "2.0 TB/s", "byte/s", "derived",
    )  # fmt: skip
    assert shown["numbers"]["price"]["value"] is None
    assert shown["facts"]["fp8_total"]["value"] == "28 PFLOPS"
    page = run(capsys, "scalex40")
    for path in shown["numbers"]:
        assert path in page


def test_anything_that_on_takes(capsys: pytest.CaptureFixture[str]) -> None:
    shown = yaml.safe_load(run(capsys, "4xscalex40@xdr", "-o", "yaml"))
    assert (shown["devices"], shown["network"]) == (160, "xdr")
    assert "to be supplied with --assume FILE: device.peak.bf16" in run(capsys, "helios")


@pytest.mark.parametrize("name", ["scalex4", "0xscalex40", "none.yaml", "scalex40@nrd"])
def test_what_there_is_not(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["systems", name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tokenworks: ")


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_a_narrow_page_keeps_names_whole(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    page = run(capsys)
    assert all(len(line) <= columns for line in page.splitlines())
    names = [line.split()[0] for line in page.splitlines() if line.strip()]
    assert set(load.catalog_names("system")) <= set(names)
    assert f"Left out, for {columns} columns: assumed" in page
    assert "scale_up.endpoint" in run(capsys, "scalex40")
