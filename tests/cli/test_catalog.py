"""`tokenworks catalog`: what the catalog has beside machines and models, and files that other commands take back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import yaml

from tests.cli.envelope import result
from tokenworks import cli
from tokenworks.planning.listing import SECTIONS, CatalogEntry, Section
from tokenworks.specs.load import CATALOG

Output = pytest.CaptureFixture[str]


def run(capsys: Output, *arguments: str) -> str:
    assert cli.run(["catalog", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_the_list_has_every_file_of_the_catalog(capsys: Output) -> None:
    rows = result(run(capsys, "-o", "json"))["entries"]
    folders = {"calibrations": "calibration"}
    for section in get_args(Section):
        files = sorted(path.stem for path in (CATALOG / folders.get(section, section)).glob("*.yaml"))
        assert [row["name"] for row in rows if row["section"] == section] == files
        assert result(run(capsys, section, "-o", "json"))["entries"] == [
            row for row in rows if row["section"] == section
        ]
    assert all(row["title"] for row in rows)


def test_pages_name_every_entry_and_the_other_commands(capsys: Output) -> None:
    page = run(capsys)
    for words in (
        "serving",
        "rtx-4090",
        "summarise",
        "--on SYSTEM@NAME",
        "`tokenworks systems`",
        "`tokenworks models`",
    ):
        assert words in page
    assert "chat       Short conversations, each request by itself" in run(capsys, "workloads")


def test_an_entry_shows_every_number_with_its_source(capsys: Output) -> None:
    shown = json.loads(run(capsys, "networks", "xdr", "-o", "json"))
    numbers = {value["path"]: value for value in shown["values"]}
    assert (numbers["port"]["value"], numbers["port"]["status"]) == ("800 Gb/s", "published")
    assert numbers["hop"]["source"] == "not published; as NDR"
    page = run(capsys, "networks", "xdr")
    assert all(path in page for path in numbers)
    assert "h100: NVIDIA H100 SXM 80GB" in run(capsys, "devices", "NVIDIA H100-SXM")


@pytest.mark.parametrize("section", [section for section in SECTIONS if section != "engines"])
def test_yaml_is_a_file_of_the_same_entry(section: Section, capsys: Output, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for name in SECTIONS[section][0]():
        spec = CatalogEntry.read(section, name).spec
        text = run(capsys, section, name, "-o", "yaml")
        assert type(spec).model_validate(yaml.safe_load(text)) == spec
    file.write_text(text)
    if section in ("workloads", "calibrations"):
        assert CatalogEntry.read(section, str(file)).spec == spec


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["systems"], 'Invalid value "systems" for SECTION'),
        (["workloads", "chatt"], "unknown workload 'chatt'; a file of your own ends in .yaml; did you mean chat?"),
        (["calibrations", "fast"], "unknown calibration 'fast'; a file of your own ends in .yaml; known: datasheet"),
        (["engines", "vlm"], "unknown engine 'vlm'; did you mean vllm?"),
        (["devices", "xyz"], "and 44 more (`tokenworks catalog devices`)"),
        (["networks", "none.yaml"], "none.yaml: no such file"),
        (["workloads", "chat", "more"], "Unused Tokens"),
    ],
)
def test_bad_input(arguments: list[str], words: str, capsys: Output) -> None:
    assert cli.run(["catalog", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
