"""The file of a sweep: what is wrong is named with its place and the way out, before anything is written."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ledger.sweep_cases import DEPLOYMENT, ESTIMATE, PLAN, SIMULATE
from tokenworks.errors import SpecError
from tokenworks.ledger.sweep_axes import design_of
from tokenworks.ledger.sweep_file import identity, load_sweep
from tokenworks.ledger.sweep_paths import swept_paths
from tokenworks.ledger.sweep_point import must_repeat


def paths(case: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one.path, one.place) for one in swept_paths(*load_sweep(case)).values()]


def test_paths_of_every_kind() -> None:
    over = {"rate": [1], "slo.ttft.p50": ["1 s"], "roles.0.max_sequences": [8], "scale_up.hop": ["1 us"]}
    over |= {"workload.isl": [500], "engine.host_step": ["1 ms"], "calibration.skew": [0.3]}
    assert paths({**SIMULATE, "over": over}) == [
        ("rate", "argument"),
        ("slo.ttft.p50", "slo"),
        ("roles.0.max_sequences", "deployment"),
        ("scale_up.hop", "number"),
        ("workload.isl", "number"),
        ("engine.host_step", "number"),
        ("calibration.skew", "number"),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"do": "simulat"}, "sweep: do: 'simulat' is not a question; did you mean \"simulate\"?"),
        ({"do": None}, "do: None is not a question"),
        ({"over": {}}, "over"),
        ({"over": {"batch": []}}, "over.batch"),
        ({"over": {"scale_up.bandwith": ["1 GB/s"]}}, "did you mean device.scale_up.bandwidth"),
        ({"over": {"bach": [1]}}, "over.bach: no such path; did you mean batch"),
        ({"over": {"machine.device.hbm": ["1 GB/s"]}}, "sweep one of machine.device.hbm.capacity"),
        ({"over": {"batch": [1], "x": {"together": {"batch": [2]}}}}, "over.x.together.batch: is swept twice"),
        ({"over": {"assume": ["a.yaml"]}}, "over.assume: cannot be swept"),
        ({"batch": 3}, "sweep: batch: is given, and swept too"),
        ({"model": "Qwen/Qwen3-30B-A3"}, "unknown model"),
        ({"on": "hgx-h10"}, "unknown system"),
        ({"model": None}, "model or deployment: is missing"),
        ({"bach": 3}, 'unknown key; did you mean "batch"?'),
        ({"over": {"batch": {"from": 1, "to": 9, "step": 3}}}, "over.batch.step: unknown key"),
        ({"over": {"batch": {"from": 1}}}, "over.batch.to: is missing"),
        ({"over": {"batch": 3}}, "over.batch"),
        ({"over": {"engine": ["vllm", "sgland"]}}, "'sgland' is not a value of engine; did you mean"),
        ({"latin": {"points": 1}}, "latin.points"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], words: str) -> None:
    def read() -> None:
        file, where = load_sweep({**ESTIMATE, **changes})
        design_of(file, swept_paths(file, where), where)

    with pytest.raises(SpecError) as error:
        read()
    assert words in str(error.value)


@pytest.mark.parametrize("content", ["[]", "3", "do: [plan]", "a: &x 1\nb: *x", "do: plan\ndo: plan"])
def test_a_file_that_is_no_sweep(content: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(content)
    with pytest.raises(SpecError, match=r"s\.yaml"):
        load_sweep(tmp_path / "s.yaml")


def test_yaml_reads_on_as_a_word(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("do: plan\nmodel: Qwen/Qwen3-30B-A3B\nworkload: chat\nover:\n  on: [hgx-h100:2]\n")
    assert list(load_sweep(tmp_path / "s.yaml")[0].paths()) == ["on"]


def test_files_are_relative_to_the_sweep_and_count_in_its_identity(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(DEPLOYMENT))
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**SIMULATE, "deployment": "plan.yaml"}))
    file, _ = load_sweep(tmp_path / "s.yaml")
    assert file.arguments()["deployment"] == str(tmp_path / "plan.yaml")
    before = identity(file)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**DEPLOYMENT, "engine": "sglang"}))
    assert identity(file) != before


def test_titles_and_charts_do_not_count_in_the_identity() -> None:
    same: list[dict[str, Any]] = [{}, {"title": "t"}, {"show": {"x": "rate"}}]
    other: list[dict[str, Any]] = [{"seed": 1}, {"over": {"rate": [2, 8]}}]
    assert len({identity(load_sweep({**SIMULATE, **changes})[0]) for changes in same}) == 1
    assert len({identity(load_sweep({**SIMULATE, **changes})[0]) for changes in [{}, *other]}) == 3


def test_a_budget_of_time_is_refused() -> None:
    with pytest.raises(SpecError, match="10s is a time, and results would depend on it"):
        must_repeat(load_sweep({**PLAN, "budget": "10s"})[0], "s.yaml")
