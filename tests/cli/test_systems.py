"""`tokenworks systems`: one object on stdout, a table that fits, and words for what does not exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.envelope import result as body
from tokenworks import cli
from tokenworks.cli import run as main
from tokenworks.specs import load
from tokenworks.specs.compose import machine

Output = pytest.CaptureFixture[str]


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
    assert all(len(line) <= 120 for line in lines[:-1])  # the last one is a note, which stays whole in a pipe
    rows = lines[lines.index("") - len(load.catalog_names("system")) : lines.index("")]
    assert [line.split()[0] for line in rows] == load.catalog_names("system")


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
    assert (shown["devices"], shown["network"]["name"]) == (160, "xdr")
    assert "give them with --assume FILE or --set: device.peak.bf16" in run(capsys, "helios")


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


PLAN = ["plan", "meta-llama/Llama-3.1-8B", "--workload", "chat", "--top", "2", "--no-simulate"]


@pytest.mark.parametrize("on", ["scalex40", "5xhgx-h100", "4xscalex40@xdr", "hgx-h200:2", "cloudmatrix384"])
def test_a_machine_goes_through_its_file_unchanged(capsys: Output, tmp_path: Path, on: str) -> None:
    file = tmp_path / "box.yaml"
    file.write_text(run(capsys, on, "-o", "yaml"))
    assert machine(str(file)).to_records()[0] | {"name": on} == machine(on).to_records()[0]
    assert machine(str(file)).assumed == machine(on).assumed
    assert machine(str(file)).peak == machine(on).peak
    assert (machine(str(file)).scale_up, machine(str(file)).scale_out) == (machine(on).scale_up, machine(on).scale_out)


def test_a_plan_on_the_file_of_a_machine_differs_in_its_name_alone(capsys: Output, tmp_path: Path) -> None:
    file = tmp_path / "box.yaml"
    file.write_text(run(capsys, "scalex40", "-o", "yaml"))
    pages = []
    for on in ("scalex40", str(file)):
        assert main([*PLAN, "--on", on]) == 0
        pages.append(capsys.readouterr().out.replace(f"{on}:", "MACHINE:"))
    assert pages[0] == pages[1]


def test_a_template_becomes_a_machine_of_another_chip(capsys: Output, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert main(["systems", "--new", "mine", "--like", "hgx-h200", "--out", str(file)]) == 0
    text = file.read_text()
    for old, new in (
        ("bf16: 989 TFLOP/s", "bf16: 400 TFLOP/s"),
        ("nvidia-hopper", "other-npu"),
        ("devices: 8  # devices of the whole", "devices: 64  # devices of the whole"),
        ("domain: 8", "domain: 64"),
    ):
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    capsys.readouterr()
    assert main([*PLAN, "--on", str(file), "-o", "json"]) == 0
    plan = body(capsys.readouterr().out)
    named = {item["path"]: (item["value"], item["why"]) for item in plan["assumed"]}
    assert named["device.peak.bf16"] == ("400 TFLOP/s", "given by the user")
    assert "calibration.other-npu" in named
    assert main(["systems", "--new", "mine", "--like", "hgx-h200", "--out", str(file)]) == 2
    assert "exists already" in capsys.readouterr().err
    file.write_text(text.replace("bandwidth: 4.8 TB/s", "bandwidth: 4.8"))
    assert main([*PLAN, "--on", str(file)]) == 2
    assert f'{file}: device.hbm.bandwidth: "4.8" is a plain number, not a rate' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--new", "x"], "--like: is missing; write the command like"),
        (["--new", "x", "--like", "hgx-h200"], "--out: is missing"),
        (["--new", "x", "--like", "hgx-h200", "--out", "x.txt"], "end the name in .yaml"),
        (["--new", "x", "--like", "hgx-h2", "--out", "x.yaml"], "did you mean"),
        (["scalex40", "--new", "x", "--like", "hgx-h200", "--out", "x.yaml"], "give one of the two"),
        (["--like", "hgx-h200"], "--new: is missing"),
        (["--devices", "2"], "need one machine"),
        (["h200"], "is a device, not a machine; machines of this device: hgx-h200"),
        (["hgx-h200", "--devices", "0"], "0 of 8 devices; write 1 to 8"),
        (["hgx-h200", "--devices", "9"], "9 of 8 devices; write 1 to 8"),
        (["hgx-h200:2", "--devices", "2"], "names its devices already"),
        (
            ["5xhgx-h200", "--devices", "12"],
            "not a multiple of a domain of 8; write at most 8, or a multiple of 8, such as 8",
        ),
        (["hgx-h200", "--set", "machine.scale_up.hopp=1us"], "did you mean scale_up.hop"),
        (["hgx-h200", "--set", "machine.scale_up.hop=1GB"], "is a size, not a time"),
        (["hgx-h200", "--set", "machine.scale_up=1"], "set one of scale_up.topology"),
        (["hgx-h200", "--set", "scale_up.hop=1us"], "as in machine.scale_up.hop"),
        (["hgx-h200", "--set", "engine.host_step=1us"], "this command reads no numbers of engine"),
        (["hgx-h200", "--set", "machine.scale_up.hop"], "is not PATH=VALUE"),
    ],
)
def test_bad_input_for_a_machine_of_ones_own(capsys: Output, arguments: list[str], words: str) -> None:
    assert main(["systems", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_part_of_a_machine_is_that_much_of_it() -> None:
    whole, part = machine("hgx-h200"), machine("hgx-h200", devices=2)
    assert (part.devices, part.domain, part.name) == (2, 2, "hgx-h200:2")
    assert (part.scale_up, part.hbm_bytes) == (whole.scale_up, whole.hbm_bytes)
    assert machine("5xhgx-h200", devices=16).scale_out == machine("2xhgx-h200").scale_out
