"""Every way to get a file wrong, and the words that lead out of it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs import load
from tokenworks.specs.device import Device
from tokenworks.specs.system import System
from tokenworks.specs.workload import Workload


def raw(kind: Any, name: str) -> Any:
    return load.read_yaml(load.locate(kind, name))


def edited(data: Any, path: str, value: Any) -> Any:
    """The data with one dotted path set; `...` deletes it."""
    *parents, last = path.split(".")
    level = data
    for key in parents:
        level = level[key]
    if value is ...:
        del level[last]
    else:
        level[last] = value
    return data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"name: \xff\xfe", "is not UTF-8 text (byte 6)"),
        (b"name: [1, 2", "line 1"),
        (b"name: a\nname: b\n", "duplicate key 'name' (line 2)"),
        (b"hbm: {a: 1, a: 2}\n", "duplicate key 'a' (line 1)"),
        (b"name: !!python/object/apply:os.system ['true']\n", "could not determine a constructor for the tag"),
        (b"name: !mine x\n", "could not determine a constructor for the tag '!mine'"),
        (b"a: &x [1]\nb: *x\n", "holds an alias"),
        (b"? [a, b]\n: c\n", "a key must be a plain word"),
        (b"name: a\n---\nname: b\n", "expected a single document"),
        (b"name: a\x00b\n", "is not YAML"),
        (b"name: " + b"[" * 5000, "nested too deeply"),
        (b"#" * (load.MAX_BYTES + 1), "is over 4 MB"),
    ],
)
def test_a_file_that_is_no_plain_yaml(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "box.yaml"
    file.write_bytes(content)
    with pytest.raises(SpecError) as error:
        load.read_yaml(file)
    assert str(error.value).startswith(str(file))
    assert words in str(error.value)


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        load.read_yaml(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="is a folder"):
        load.read_yaml(tmp_path)
    with pytest.raises(SpecError, match="cannot be read"):
        load.read_yaml("a\x00b.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    file = tmp_path / "box.yaml"
    file.write_text("name: box\n")
    file.chmod(0)
    with pytest.raises(SpecError, match="not permitted"):
        load.read_yaml(file)


def test_a_file_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(SpecError, match=r"box.yaml: not permitted"):
        load.read_yaml(tmp_path / "box.yaml")


def test_dates_stay_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("launch: 2026-03-26\n")
    assert load.read_yaml(tmp_path / "a.yaml") == {"launch": "2026-03-26"}


@given(st.binary(max_size=200))
def test_any_bytes_are_data_or_a_spec_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    with contextlib.suppress(SpecError):
        load.read_yaml(file)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("scale_upp", {}, ["box.yaml: scale_upp: unknown key", 'did you mean "scale_up"?']),
        ("scale_up.hopp", {}, ["box.yaml: scale_up.hopp: unknown key", 'did you mean "hop"?']),
        ("host.zzz", 1, ["box.yaml: host.zzz: unknown key", "known: devices, cpu, dram"]),
        ("host.dram.sources", "x", ["box.yaml: host.dram.sources: unknown key", 'did you mean "source"?']),
        ("facts.cooling.statos", "x", ["facts.cooling.statos: unknown key", 'did you mean "status"?']),
        ("scale_up", ..., ["box.yaml: scale_up: is missing"]),
        ("host.dram.value", "2 TB/s", ['host.dram: "2 TB/s" is a rate, not a size', 'write it like "80 GB"']),
        ("host.link.value", "64 GB", ['host.link: "64 GB" is a size, not a rate', 'write "64 GB/s"']),
        ("host.link.value", "-64 GB/s", ["host.link", "must be finite and not negative"]),
        ("host.link.value", float("nan"), ['host.link: "nan" is a plain number, not a rate']),
        ("host.link.value", float("inf"), ['host.link: "inf" is a plain number, not a rate']),
        ("host.link", "64 GB", ['host.link: "64 GB" is a size, not a rate', 'write "64 GB/s"']),
        ("host.link", [64], ["host.link: is a list, not a mapping", "write {value: ..., status:"]),
        ("host.link.status", "publishd", ["host.link.status: 'publishd' is not one of", 'did you mean "published"?']),
        ("host.link.source", ..., ["host.link: a number needs a source"]),
        ("host", [], ["box.yaml: host: is a list, not a mapping"]),
        ("scale_up", None, ["box.yaml: scale_up: is nothing, not a mapping"]),
        ("facts", [1], ["box.yaml: facts: is a list, not a mapping"]),
        ("devices", 0, ["box.yaml: devices: 0: input should be greater than 0"]),
        ("devices", -8, ["box.yaml: devices: -8: input should be greater than 0"]),
        ("devices", float("nan"), ["box.yaml: devices: nan: input should be a valid integer"]),
        ("devices", 10**30, ["box.yaml: devices:", "input should be less than or equal to 1000000"]),
        ("devices", 8.5, ["box.yaml: devices: 8.5: input should be a valid integer"]),
        ("devices", True, ["box.yaml: devices: True: input should be a valid integer"]),
        (
            "availability",
            {"value": 1000, "status": "published", "source": "x"},
            ["box.yaml: availability 1000 is a share of time: write one above 0, at most 1, such as 0.995"],
        ),
        ("domain", 3, ["box.yaml: 8 devices are not a multiple of domain = 3"]),
        ("host.devices", 5, ["box.yaml: 8 devices are not a multiple of host.devices = 5"]),
        ("scale_up.layers", 0, ["box.yaml: scale_up: topology switched with 0 switch layers"]),
        (
            "scale_up.topology",
            "ring",
            ["box.yaml: scale_up.topology: 'ring' is not one of 'switched', 'mesh', 'torus' or"],
        ),
    ],
)
def test_a_wrong_system(path: str, value: Any, words: list[str]) -> None:
    with pytest.raises(SpecError) as error:
        load.validate(System, edited(raw("system", "hgx-h100"), path, value), "box.yaml")
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("peak.fp9", {}, ["card.yaml: peak.fp9: 'fp9' is not one of 'fp4', 'fp8'", 'did you mean "fp8"?']),
        ("peak.fp8.value", "1979 TFLOP", ["card.yaml: peak.fp8:", "not a compute rate", '"989 TFLOP/s"']),
        ("hbm.bandwidth.value", "3.35 TB", ['hbm.bandwidth: "3.35 TB" is a size, not a rate', '"3.35 TB/s"']),
        ("scale_up.pair", {"valu": 1}, ["scale_up.pair.valu"]),
    ],
)
def test_a_wrong_device(path: str, value: Any, words: list[str]) -> None:
    with pytest.raises(SpecError) as error:
        load.validate(Device, edited(raw("device", "h100"), path, value), "card.yaml")
    for word in words:
        assert word in str(error.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    data = edited(edited(raw("system", "hgx-h100"), "devices", 0), "netwerk", "ndr")
    with pytest.raises(SpecError) as error:
        load.validate(System, data, "box.yaml")
    assert "devices: 0" in str(error.value)
    assert "also netwerk: unknown key" in str(error.value)
    with pytest.raises(SpecError, match=r"and \d+ more"):
        load.validate(System, dict.fromkeys("abcdefgh"), "box.yaml")


@pytest.mark.parametrize("data", [[], "text", 3, None])
def test_a_file_that_is_no_mapping(data: Any) -> None:
    with pytest.raises(SpecError, match=r"^box.yaml: is .*, not a mapping of keys to values"):
        load.validate(System, data, "box.yaml")


def test_a_long_text_is_cut() -> None:
    with pytest.raises(SpecError) as error:
        load.validate(System, "root:x:0:0 " * 999, "box.yaml")
    assert len(str(error.value)) < 150


@pytest.mark.parametrize(
    ("kind", "name", "near"),
    [("device", "h10", "h100"), ("system", "scalex4", "scalex40"), ("network", "nrd", "ndr")],
)
def test_an_unknown_name_suggests_the_near_ones(kind: Any, name: str, near: str) -> None:
    with pytest.raises(UnknownName) as error:
        load.locate(kind, name)
    assert f"unknown {kind} '{name}'" in str(error.value)
    assert near in str(error.value)


def test_a_workload_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", "isl": 4000, "osl": 1000}))
    assert load.load_workload(str(file)) == Workload(name="mine", isl=4000, osl=1000)


@pytest.mark.parametrize(
    ("arrivals", "words"),
    [
        ("{kind: gamma, cv: 2, burst: 3}", "arrivals.burst: unknown key; known: kind, cv"),
        ("{kind: gama, cv: 2}", "arrivals.kind: 'gama' is not one of .*; did you mean \"gamma\""),
        ("{cv: 2}", "arrivals.kind: is missing"),
        ("{kind: 3}", "arrivals.kind: '3' is not one of"),
        ("gamma", 'arrivals: is the text "gamma", not a mapping'),
        ("{kind: burst}", "arrivals.size: is missing"),
        ("{kind: gamma, cv: much}", "arrivals.cv: 'much': input should be a valid number"),
    ],
)
def test_one_of_several_forms_is_refused_by_its_own_keys(tmp_path: Path, arrivals: str, words: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"name: mine\nisl: 1000\nosl: 200\narrivals: {arrivals}\n")
    with pytest.raises(SpecError, match=words):
        load.load_workload(file)


def test_the_quick_loader_of_the_catalog_reads_as_the_strict_one() -> None:
    for path in sorted(load.CATALOG.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        strict = yaml.load(text, Loader=load._StrictLoader)  # a safe loader
        assert strict == load.read_yaml(path), path
