"""Causes of the frontier's error, repeated measurements, and kept results of the accuracy page."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.accuracy import collect, kept, limits, repeats, software
from hypothesis import given
from hypothesis import strategies as st

from tests.calibrate.cases import table
from tests.calibrate.test_frontier import machine, predicted
from tokenworks.calibrate.case import case
from tokenworks.calibrate.measured import read_points
from tokenworks.calibrate.predict import Predicted
from tokenworks.calibrate.score import Pair
from tokenworks.calibrate.software import PRIOR_SPLITS, PRIOR_WIDTHS, SPLIT_POINTS
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.software import Software, SoftwareKey

PRIOR = load_calibration("datasheet")

DEVICES = {"h100": 2.5, "h200": 1.8, "b200": 1.0}
"""Slowness of each device, see `machine` [-]."""


def off_by(factors: dict[str, float]) -> list[Pair]:
    """Points of three devices. TPOT is off by a factor for each device, and throughput by its inverse."""
    return [
        pair
        for device, slowness in DEVICES.items()
        for pair in predicted(machine(device, slowness), slower=factors[device], more=1 / factors[device])
    ]


@given(st.fixed_dictionaries(dict.fromkeys(DEVICES, st.floats(0.8, 1.25))))
def test_an_error_of_each_device_is_all_in_the_medians_of_devices(factors: dict[str, float]) -> None:
    pairs = off_by(factors)
    for names in (("device",), limits.SOFTWARE):
        right = limits.scored(limits._without(pairs, names))
        assert right
        assert right["median_ape"] == pytest.approx(0, abs=1e-9)
        same = [one for _, one in limits._only(pairs, names)]
        for (_, ours), theirs in zip(pairs, same, strict=True):
            assert theirs.tpot == pytest.approx(ours.tpot)
            assert theirs.rate == pytest.approx(ours.rate)


@given(st.fixed_dictionaries(dict.fromkeys(DEVICES, st.floats(0.8, 1.25))))
def test_with_the_measured_tpot_little_s_law_leaves_no_error(factors: dict[str, float]) -> None:
    right = limits.scored([limits._true_tpot(pair) for pair in off_by(factors)])
    assert right
    assert right["median_ape"] == pytest.approx(0, abs=1e-9)
    assert right["ratio_median_ape"] == pytest.approx(0, abs=1e-9)


def test_factors_are_taken_out_and_put_in_again_without_the_own_split(tmp_path: Path) -> None:
    """Three splits of a stack with factors of 1.3 to 1.69. Other numbers say 1 s; measured are 0.9, 1.0 and 1.2 s."""
    rows = [{"tp": tp, "devices": tp, "n_devices": tp, "concurrency": c} for tp in ("1", "2", "4") for c in ("1", "4")]
    points = read_points(table(tmp_path, *rows)).points
    slower = dict(zip((1, 2, 4), (0.9, 1.0, 1.2), strict=True))
    measured = [replace(one, measured=replace(one.measured, tpot=slower[one.workers[0].tp])) for one in points]
    own = case(points[0], PRIOR)
    key = SoftwareKey.of("h100", "vllm", own.site.model, drafts=False)
    stack = Software(**key._asdict(), model="llama", time={1: 1.3, 4: 1.69}, points=6, splits=3)
    calibration = PRIOR.model_copy(update={"software": (stack,)})
    had = {1: 1.3, 2: math.sqrt(1.3 * 1.69), 4: 1.69}  # a line in the logarithms
    pairs = [(point, Predicted(tpot=(x := had[point.workers[0].tp]), rate=13.0 / x)) for point in measured]
    plain = software.without_factors(pairs, calibration)
    for _, one in plain:
        assert one.tpot == pytest.approx(1.0)
        assert one.rate == pytest.approx(13.0)
    left = software.by_other_splits(plain, calibration)
    for point, one in left:
        others = {tp: math.log(value) for tp, value in slower.items() if tp != point.workers[0].tp}
        (first, low), (second, high) = others.items()
        weight, doublings = 2 / (2 + SPLIT_POINTS), math.log2(second / first)  # each split has two points
        level = weight * (low + high) / (weight * 2 + PRIOR_SPLITS)
        slope = weight * doublings / 2 * (high - low) / (weight * doublings**2 / 2 + PRIOR_WIDTHS)
        at = {1: -doublings / 2, 2: 0, 4: doublings / 2}[point.workers[0].tp]  # nearest measured width, or between
        factor = math.exp(level + slope * at)
        assert one.tpot == pytest.approx(factor)
        assert one.rate == pytest.approx(13.0 / factor)


def test_an_error_of_tpot_counts_twice_on_a_frontier_where_throughput_is_proportional_to_tpot() -> None:
    whole = limits.scored(off_by(dict.fromkeys(DEVICES, 1.1)))
    assert whole
    assert whole["median_ape"] == pytest.approx(1 - 1.1**-2, rel=1e-6)
    assert whole["ratio_median_ape"] == pytest.approx(0, abs=1e-9)  # all devices have the same error


def test_stacks_with_many_points_and_a_large_bias_come_first() -> None:
    pairs = off_by({"h100": 1.05, "h200": 0.8, "b200": 1.0})
    stacks = limits._stacks(pairs + pairs[: limits.FEW - 1])
    assert [one["stack"].split(",")[0] for one in stacks] == ["h200", "h100", "b200"]
    assert [one["n"] for one in stacks] == [6, 10, 6]
    assert [one["bias"] for one in stacks] == pytest.approx([-0.2, 0.05, 0.0])


def test_what_a_wrong_choice_loses() -> None:
    """vLLM measures 1.25 times the throughput of SGLang. The prediction makes SGLang the better one, or not."""
    better, worse = machine("h100", 1.0), machine("h100", 1.25, engine="sglang")
    right = limits._choice(predicted(better) + predicted(worse))
    wrong = limits._choice(predicted(better) + predicted(worse, more=1.5))
    assert (right["same_engine"], right["same_split"], right["lost_p90"]) == (1, 1, 0)
    assert (wrong["same_engine"], wrong["same_split"]) == (0, 0)
    assert wrong["lost_median"] == pytest.approx(0.2)


# ── repeats ───────────────────────────────────────────────────────────────────────────────────────────────────────────

ROW = {
    "point_id": "a", "source_group": "inferencex-dump", "model": "meta-llama/Llama-3.3-70B-Instruct", "weights": "fp8",
    "device": "h200", "engine": "vllm", "spec_decode": "none", "mode": "agg", "tp": "2", "dp": "1", "ep": "1",
    "isl": "1024.0", "osl": "1024.0", "concurrency": "16.0", "note": "framework=vllm; config_id=7; little_ratio=0.9",
}  # fmt: skip
RUN = {
    "id": "x_tp2_ep1_3", "silicon_data_source": "db-dump; config_id=7; silicon_concurrency=16; measured=2026-04-17T00",
    "backend": "vllm", "backend_version": "0.19.0", "model_path": "any/name", "system": "h200_sxm", "precision": "fp8",
    "mode": "agg", "isl": "1024", "osl": "1024", "silicon_tpot_ms": "12.5",
}  # fmt: skip
NAMED = {
    "silicon_data_source": "other.csv; silicon_concurrency=16; measured=2026-03-01T00",
    "model_path": "meta-llama/Llama-3.1-70B",
}


def written(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(RUN))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_runs_belong_to_points_by_number_or_by_all_that_names_them(tmp_path: Path) -> None:
    others = [
        RUN | {"silicon_data_source": "db-dump; config_id=8; silicon_concurrency=16; measured=2026-04-17T00"},
        RUN | {"silicon_data_source": "db-dump; config_id=7; silicon_concurrency=32; measured=2026-04-17T00"},
        RUN | {"silicon_data_source": "db-dump; config_id=7; silicon_concurrency=16"},  # without a day
        RUN | NAMED | {"precision": "fp4"},
        RUN | NAMED | {"id": "x_tp4_ep1_3"},
        RUN | NAMED | {"mode": "disagg"},
    ]
    path = written(tmp_path / "runs.csv", RUN, RUN | NAMED, *others)
    runs = repeats.runs_of([ROW], path)
    assert runs == {"a": [("2026-04-17", "0.19.0", 0.0125), ("2026-03-01", "0.19.0", 0.0125)]}
    assert repeats.differences(runs.values(), repeats.of_other_days) == [0.0]
    assert repeats.differences(runs.values(), repeats.of_other_versions) == []


def test_runs_without_a_number_need_a_model_that_never_has_draft_tokens(tmp_path: Path) -> None:
    path = written(tmp_path / "runs.csv", RUN | NAMED)
    drafting = ROW | {"point_id": "b", "spec_decode": "mtp", "note": ""}
    assert not repeats.runs_of([ROW, drafting], path)
    assert repeats.runs_of([ROW], path)


# ── kept results ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_result_is_computed_once_for_each_code_and_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT", tmp_path)
    computed = []
    for source, words in (("s", ("plan", "a")), ("s", ("plan", "a")), ("s", ("plan", "b")), ("t", ("plan", "a"))):

        def compute(words: tuple[str, str] = words) -> dict[str, str]:
            computed.append(words[1])
            return {"name": words[1]}

        assert kept.kept(source, words, compute) == {"name": words[1]}
    assert computed == ["a", "b", "a"]


def test_an_interrupted_command_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT", tmp_path)

    def stopped() -> None:
        raise kept.CannotRun("stopped")

    with pytest.raises(kept.CannotRun):
        kept.kept("s", ("plan",), stopped)
    assert kept.kept("s", ("plan",), lambda: 1) == 1


def test_fits_run_only_if_all_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without FULL=1, a fit comes from its kept result, or else from the last page."""
    monkeypatch.setattr(kept, "KEPT", tmp_path)
    commands: list[tuple[str, ...]] = []

    def command(*words: str) -> dict[str, list[int]]:
        commands.append(words)
        return {"groups": [1]}

    monkeypatch.setattr(collect, "command", command)
    old = {"left_out_models": {"date": "2026-01-02", "result": "old"}}

    def section(*, full: bool) -> dict[str, Any]:
        one = collect.Collector(tmp_path, old, full=full, kernels=False, say=lambda _: None)
        return one.section("left_out_models", one.left_out_models)

    assert section(full=False) == old["left_out_models"]
    assert section(full=True)["result"] == section(full=False)["result"] == {"kernels": False, "groups": [1]}
    assert len(commands) == 1


def test_the_hash_follows_the_data(tmp_path: Path) -> None:
    data = tmp_path / "points.csv"
    without = kept.source_hash([data])
    data.write_text("a\n", encoding="utf-8")
    first = kept.source_hash([data])
    data.write_text("b\n", encoding="utf-8")
    assert len({without, first, kept.source_hash([data])}) == 3
