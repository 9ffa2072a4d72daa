"""Files of expert popularity: a law in YAML, counts in CSV, and what is wrong with bad ones."""

from pathlib import Path
from typing import Any

import pytest

from tokenworks.errors import SpecError
from tokenworks.specs.deployment import Eplb, Parallel, Role
from tokenworks.specs.experts import ExpertCounts, ExpertLoad, load_experts

HEADER = "time,layer,expert,count\n"


def test_law(tmp_path: Path) -> None:
    file = tmp_path / "experts.yaml"
    file.write_text("alpha: 0.8\nhalf_life: 2 h\nseed: 3\n")
    load = load_experts(file)
    assert load == ExpertLoad(alpha=0.8, half_life=7200.0, seed=3) == load_experts(load)
    assert str(load) == "alpha 0.8, half-life 7200 s, seed 3"
    assert str(load_experts({"alpha": 0})) == "alpha 0, no drift, seed 0"


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"alpha": -0.1}, "alpha: -0.1"),
        ({"alpha": 9}, "alpha: 9"),
        ({"alpha": float("nan")}, "alpha"),
        ({}, "alpha"),
        ({"alpha": 0.5, "half_life": 0}, "half_life: 0"),
        ({"alpha": 0.5, "half_life": "2 GB"}, "not a time"),
        ({"alpha": 0.5, "drift": 1}, "drift"),
        ({"alpha": 0.5, "groups": 0}, "groups: 0"),
        ({"alpha": 0.5, "seed": -1}, "seed: -1"),
    ],
)
def test_bad_laws(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(SpecError, match=word):
        load_experts(fields)


def test_counts(tmp_path: Path) -> None:
    file = tmp_path / "counts.csv"
    rows = ["0,3,0,5", "0,3,1,1", "0,4,1,7", "60,3,1,2", "60,4,0,1", "", "60,4,2,8"]
    file.write_text(HEADER + "\n".join(rows) + "\n")
    load = load_experts(str(file))
    assert isinstance(load, ExpertCounts)
    assert load.time_s.tolist() == [0, 60]
    assert load.counts.tolist() == [[[5, 1, 0], [0, 7, 0]], [[0, 2, 0], [1, 0, 8]]]
    assert str(load) == str(file)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no column time"),
        ("time,layer,expert\n0,0,0\n", "no column count"),
        (HEADER, "no rows"),
        (HEADER + "0,0,0,x\n", "line 2.*not four numbers"),
        (HEADER + "0,0,0\n", "line 2.*not four numbers"),
        (HEADER + "0,0,0,1\n0,0,0.5,1\n", "line 3"),
        (HEADER + "0,0,0,-1\n", "line 2"),
        (HEADER + "-1,0,0,1\n", "line 2"),
        (HEADER + "0,0,0,nan\n", "line 2"),
        (HEADER + "0,0,0,1\n0,0,0,2\n", "layer 0, expert 0 at 0 s twice"),
        (HEADER + "0,0,0,1\n0,1,0,1\n9,0,0,1\n", "layer 1 has no tokens at 9 s"),
        (HEADER + "0,0,900000000,1\n", "number the experts of a layer from 0"),
    ],
)
def test_bad_counts(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "counts.csv"
    file.write_text(text)
    with pytest.raises(SpecError, match=word):
        load_experts(file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("none.csv", "none.yaml"):
        with pytest.raises(SpecError, match="no such file"):
            load_experts(tmp_path / name)
    (tmp_path / "binary.csv").write_bytes(b"time,layer,expert,count\n\xff\xfe")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_experts(tmp_path / "binary.csv")


def test_eplb_is_a_field_of_a_role() -> None:
    role = Role(parallel=Parallel(dp=8, ep=8), eplb=Eplb(every_steps=500))
    assert role.model_dump(mode="json")["eplb"] == {"every_steps": 500, "min_utilization": 1.0}
    assert "eplb" not in Role(parallel=Parallel(dp=8, ep=8)).model_dump(mode="json")
    assert Role.model_validate(role.model_dump(mode="json")) == role


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"eplb": {"every_steps": 0}, "parallel": {"dp": 8, "ep": 8}}, "every_steps: 0"),
        ({"eplb": {"window_steps": 0}, "parallel": {"dp": 8, "ep": 8}}, "window_steps: 0"),
        ({"eplb": {"min_utilization": 0}, "parallel": {"dp": 8, "ep": 8}}, "min_utilization: 0"),
        ({"eplb": {"interval": 9}, "parallel": {"dp": 8, "ep": 8}}, "interval"),
        ({"eplb": {}, "parallel": {"tp": 8}}, "eplb: .*ep is 1"),
    ],
)
def test_bad_eplb(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(SpecError, match=word):
        Role(**fields)
