"""Operator profiles: which rows count, what bad files say, and that a fit finds the numbers that made its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.cli.envelope import result
from tokenworks.calibrate.kernels.profile import KernelProfile, fit_profile, read_profile
from tokenworks.cli import run
from tokenworks.costs.rates import rates
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import load_calibration

PRIOR = load_calibration("datasheet")
FAMILY = "hygon-dcu"


def gemm(part: str, out: int, tokens: int, inputs: int, ms: float, *, experts: int = 0) -> tuple[str, dict[str, Any]]:
    """A row of a profile whose rate agrees with its time."""
    key = f"part={part},m={out},n={tokens},k={inputs},dtype=bf16"
    key += f",grouped_gemm=True,num_gemms={experts}" if experts else ""
    flop = 6.0 * out * tokens * inputs * max(experts, 1)
    return key, {"status": "validated", "mean_ms": ms, "tflops": flop / ms / 1e9, "updated_at": "2026-01-01"}


def attention(heads: int, width: int, ms: float) -> tuple[str, dict[str, Any]]:
    key = f"batch=1,seq=4096,heads={heads},head_dim={width},value_head_dim={width},dtype=bf16,causal=true"
    return key, {"status": "validated", "mean_ms": ms, "tflops": 40.0}


def document(**operators: Any) -> dict[str, Any]:
    return {
        "profile": {"schema_version": 1, "name": "card_a", "dtype": "bf16", "updated_at": "2026-01-01"},
        "environment": {"hardware": {"accelerator": "bw1100"}},
        "operators": operators,
    }


def written(folder: Path, data: Any) -> Path:
    path = folder / "card_a.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def rows() -> dict[str, dict[str, Any]]:
    return {
        "gemm": dict(
            [
                gemm("linear_fc1", 24576, 4096, 4096, 11.0),
                gemm("linear_fc2", 4096, 4096, 12288, 5.5),
                gemm("moe_linear_fc1", 1536, 2048, 512, 3.0, experts=16),
                gemm("moe_linear_fc2", 2048, 768, 512, 2.0, experts=16),
            ]
        ),
        "flash_attention": dict([attention(32, 128, 6.6), attention(16, 128, 3.5)]),
        "non_gemm": {"part=rope,elements=4096,dtype=bf16": {"status": "validated", "mean_ms": 0.3, "tflops": None}},
    }


def read(folder: Path, data: Any) -> KernelProfile:
    return read_profile(written(folder, data))


def test_a_profile_becomes_rows_of_its_card(tmp_path: Path) -> None:
    profile = read(tmp_path, document(**rows()))
    assert profile.machine.device == "scalex40-card"
    assert {name: len(items) for name, items in profile.rows.items()} == {
        "gemm.bf16": 2, "grouped.bf16": 2, "attention_prefill": 2,
    }  # fmt: skip
    assert list(profile.left_out.values()) == [1]
    assert profile.title == "card_a of 2026-01-01"


def test_rows_that_say_nothing_about_a_step_are_left_out_and_counted(tmp_path: Path) -> None:
    more = rows()
    key, entry = gemm("lm_head", 8192, 4096, 4096, 4.0)
    more["gemm"][key] = entry | {"status": "candidate"}
    key, entry = gemm("attn_proj", 8192, 4096, 1024, 4.0)
    more["gemm"][key] = entry | {"tflops": 10.0}
    more["gemm"] |= dict([gemm("gate", 8, 4096, 4096, 0.3), gemm("small", 1024, 512, 1024, 0.5)])
    more["gemm"] |= dict([gemm("the_same_shape", 24576, 4096, 4096, 11.0)])
    more["gemm"]["part=x,m=4096,n=4096,k=4096,dtype=int3"] = entry
    profile = read(tmp_path, document(**more))
    assert sum(map(len, profile.rows.values())) == 6
    assert sorted(profile.left_out.values()) == [1, 1, 1, 1, 1, 2]
    assert len(profile.notes) == 6


def test_a_fit_finds_the_numbers_that_made_the_rows(tmp_path: Path) -> None:
    """Times that the calibration `datasheet` predicts, written as a profile: the fit returns its numbers."""
    profile = read(tmp_path, document(**rows()))
    for items in profile.rows.values():
        for at, item in enumerate(items):
            times = np.atleast_1d(item.predict(rates(item.machine, PRIOR)))
            items[at] = type(item)(item.name, item.machine, times, item.predict)
    fitted = fit_profile(profile, PRIOR, name="card")
    own, before = fitted.calibration.families[FAMILY], PRIOR.families[FAMILY]
    assert own.util("bf16") == pytest.approx(before.util("bf16"), rel=0.02)
    assert own.grouped_util("bf16") == pytest.approx(before.grouped_util("bf16"), rel=0.02)
    assert own.attention_prefill.value == pytest.approx(before.attention_prefill.value, rel=0.02)
    assert own.gemm["bf16"].status == "measured"
    assert "card_a of 2026-01-01" in own.gemm["bf16"].source
    assert "scalex40-card" in fitted.calibration.kernels


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("- 1\n", "is no operator profile"),
        ("operators: 3\n", "is no operator profile"),
        ({"operators": {}}, "environment.hardware: accelerator '' is not known; known are bw1100, bw1000"),
        (document(gemm={}), "has no row that a fit can use"),
        (document(gemm=[1]), "operators.gemm: must be a mapping of operators"),
        (document(gemm={"m=1": 3}), "operators.gemm: m=1: must be a mapping with status and mean_ms"),
        (document(gemm={"m=512,n=8,k=0,dtype=bf16": {"mean_ms": 1}}), "k in the key: '0' is not a number above zero"),
        (document(gemm={"m=512,n=8,dtype=bf16": {"mean_ms": 1}}), "k in the key: None is not a number above zero"),
        (document(gemm={"m=512": {"mean_ms": None}}), "mean_ms: None is not a number above zero"),
        (document(gemm={"m=512": {"mean_ms": -1}}), "mean_ms: -1 is not a number above zero"),
        (document(gemm={"m=512": {"mean_ms": True}}), "mean_ms: True is not a number above zero"),
        (document(flash_attention={"batch=1,dtype=bf16": {"mean_ms": 1.0}}), "head_dim in the key: None is not"),
    ],
)
def test_a_bad_profile_names_its_place(tmp_path: Path, data: Any, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, data)
    assert says in str(caught.value)
    assert "card_a.yaml" in str(caught.value)


def test_calibrate_writes_what_the_profile_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = written(tmp_path, document(**rows())), tmp_path / "mine.yaml"
    assert run(["calibrate", "--kernel-profile", str(path), "--out", str(out), "-o", "json"]) == 0
    printed = capsys.readouterr()
    fitted = result(printed.out)
    assert [one["operation"] for one in fitted["operations"]] == ["gemm.bf16", "grouped.bf16", "attention_prefill"]
    assert "1 rows are not fitted: operators without GEMM" in printed.err
    after = load_calibration(str(out))
    assert after.families[FAMILY].gemm["bf16"].value == fitted["operations"][0]["factors"]["gemm.bf16"]
    assert run(["calibrate", "--kernel-profile", str(path)]) == 0
    assert "gemm.bf16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--kernels", "all"], "--kernels: does not go with --kernel-profile"),
        (["--data", "a.csv"], "--data: does not go with --kernel-profile"),
        (["--on", "no-such-box"], "no-such-box"),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    path = written(tmp_path, document(**rows()))
    assert run(["calibrate", "--kernel-profile", str(path), *more]) == 2
    assert says in capsys.readouterr().err


def test_a_machine_without_a_profile_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["calibrate", "--on", "scalex40"]) == 2
    assert "--on: names the card of an operator profile; give --kernel-profile FILE, too" in capsys.readouterr().err
