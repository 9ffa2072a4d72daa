"""The accuracy page: figures become the same text each time, and the command says what it needs."""

import contextlib
import copy
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.accuracy import __main__ as command
from benchmarks.accuracy import collect, kept
from benchmarks.accuracy.history import changes, compared_with, targets
from benchmarks.accuracy.reasons import REASONS, reasons
from benchmarks.accuracy.render import page

from tokenworks.cli import run

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "measured"


def errors(n: int, median: float, inside: float = 0.8) -> dict[str, Any]:
    return {"n": n, "median_ape": median, "mape": 1.3 * median, "bias": -median / 2, "p90_ape": 3 * median,
            "inside_interval": inside}  # fmt: skip


def group(n: int, median: float, *, ttft: float | None = None, energy: float | None = None) -> dict[str, Any]:
    return {
        "tpot": errors(n, median),
        "tok_s_per_device": errors(n, median + 0.01),
        "ttft": errors(n, ttft) if ttft else None,
        "energy": errors(n, energy) if energy else None,
    }


def dev(median: float = 0.07) -> dict[str, Any]:
    ratio = {"n": 40, "median_ape": 0.2, "p90_ape": 0.6, "bias": 0.01, "in_order": 0.95, "clear": 30,
             "clear_in_order": 0.97}  # fmt: skip
    kinds = {"agg none": group(300, median), "agg mtp": group(120, 0.1), "disagg none": group(150, 0.11),
             "disagg mtp": group(110, 0.13), "agg none burst": group(40, 0.3, ttft=0.4, energy=0.2)}  # fmt: skip
    return {
        "points": 800,
        "covered": 720,
        "skipped": [{"reason": "the split is not known", "count": 80, "examples": ["8 devices, and tp is empty"]}],
        "assumed": [],
        **group(720, median, ttft=0.3, energy=0.2),
        "energy_left_out": [],
        "by": {"kind": kinds, "system": {"alpha": group(400, median), "beta": group(320, 0.12)},
               "engine": {"vllm": group(720, median)}, "model": {"toy fp8": group(720, median)}},
        "baseline": {"tok_s_per_device_from_measured_tpot": {"agg": errors(400, 0.04)}},
        "ranking": {"tpot": {"pairs": 90, "predicted": 0.8, "by_devices": 0.7}},
        "frontier": {
            "tok_s_user": [15.0, 20.0], "machines": 4, "unreached": 2, "tok_s_per_device": errors(60, 0.17),
            "by": {"system": {"alpha": errors(30, 0.15), "beta": errors(30, 0.2)}},
            "ratio": {"all": ratio, "clear_ratio": 1.2, "by_pair": {"alpha / beta": ratio}},
        },
        "wide_disaggregated": {"tpot": errors(60, 0.19), "ttft": None, "tok_s_per_device": errors(60, 0.2)},
        "by_device": {},
    }  # fmt: skip


def section(result: Any, source: str = "new") -> dict[str, Any]:
    return {"commit": "1a2b3c4", "date": "2026-01-02", "source": source, "result": result}


def invented() -> dict[str, Any]:
    """Figures that nobody measured."""
    left = {"group": "alpha", "n": 400, "median_ape": 0.11, "mape": 0.14, "bias": 0.02, "before_median_ape": 0.12,
            "spread": 1.3, "needed": 1.25, "covered": 0.83}  # fmt: skip
    far = dev() | {
        "by_device": {
            "gamma": {"rows": 3, "predicted": 2, "reasons": {"not in the catalog: no system has the device gamma": 1},
                      "tpot": errors(2, 0.5), "ttft": None, "tok_s_per_device": None}
        }
    }  # fmt: skip
    production = {
        "title": "Toy prefill", "device": "alpha", "n_devices": "16", "ep": "16", "concurrency": "4096",
        "load": "tokens_per_device", "isl": "4096", "weights": "fp8", "spec_decode": "none", "set": "",
        "source": "a paper", "note": "one rank a card", "skipped": "",
        "values": {"tok_s_per_device": [5000.0, 4000.0, 3000.0, 6000.0]},
    }  # fmt: skip
    machine = {"machine": "toy", "workload": "chat", "deployment": "1xaggregated[tp8]", "interval": [60.0, 240.0],
               "effective_tok_s_per_device": 120.0, "output_tok_s_per_device": 121.0, "grade": "datasheet"}  # fmt: skip
    fit = {
        "constants": 3, "tpot_before": errors(700, 0.12), "tpot_in_sample": errors(700, 0.08), "factors": {},
        "power": {"n": 20, "median_ape": 0.14,
                  "left_out_systems": [{"group": "alpha", "n": 20, "median_ape": 0.16, "bias": -0.1}]},
        "spreads": {}, "left_out_systems": [left],
        "ablation": [{"without": "skew", "median_ape": 0.1, "mape": 0.13, "mape_lost": 0.02},
                     {"without": "ring", "median_ape": 0.08, "mape": 0.11, "mape_lost": 0.0}],
    }  # fmt: skip
    peer = {"metric": "tpot", "group": "InferenceX", "both": 10, "ours": 0.1, "theirs": 0.2, "alone": 0,
            "ours_alone": None}  # fmt: skip
    calibration = {
        "name": "serving", "fitted_on": "serving_dev.csv", "data_sha256": "ab" * 32, "file_sha256": "cd" * 32,
        "devices": ["alpha"], "constants": 36, "spreads": {"a-family": 1.3},
        "throughput_spread": {"device": {"factor": 1.6, "source": "in sample"}}, "throughput_correlation": 0.03,
        "draft_widening": 1.3, "ttft_spread": None,
        "left_out": [{"group": "alpha", "n": 400, "median_ape": 0.11, "bias": 0.02, "before_median_ape": 0.12,
                      "spread": 1.3, "covered": 0.83, "throughput_covered": 0.8},
                     {"group": "beta", "n": 320, "median_ape": 0.17, "bias": 0.02, "before_median_ape": 0.12,
                      "spread": 1.3, "covered": 0.6, "throughput_covered": 0.9}],
    }  # fmt: skip
    return {
        "made": {"date": "2026-01-02", "commit": "1a2b3c4"},
        "data": {"serving_dev.csv": {"sha256": "ef" * 32, "rows": 800}},
        "calibration": calibration,
        "dev": section(dev()),
        "datasheet": section(dev(0.1)),
        "far": section(far),
        "production": section([production]),
        "peer": section([peer]),
        "machines": section([machine]),
        "fit": section(fit, "old"),
        "left_out_systems": section(
            {"kernels": True, "groups": [left, left | {"group": "beta", "covered": 0.6, "median_ape": 0.17}]}
        ),
        "left_out_models": section({"kernels": False, "groups": [left | {"group": "toy fp8"}]}),
        "limits": section(limits()),
        "before": None,
    }


def limits() -> dict[str, Any]:
    one = {"n": 60, "median_ape": 0.17, "bias": -0.02, "ratios": 40, "ratio_median_ape": 0.2}
    pairs = {"n": 30, "median": 0.012, "mean": 0.044}
    repeats = {"points": 30} | {f"{kind}{what}": one for kind in ("table", "days") for what in ("_frontier", "_ours")}
    return {
        "as_predicted": one, "by_other_splits": one, "without_factors": one, "true_tpot": one,
        "kinds": {"": [0.09, 0.08, 0.07], "agg none": [0.08, 0.07, 0.06]},
        "without": {"device": one, "software stack": one}, "only_software": one,
        "stacks": [{"stack": "alpha, vllm, toy fp8", "kind": "agg none", "n": 30, "bias": -0.2, "median_ape": 0.21}],
        "parts": {"without MTP": one, "without starved points": None},
        "invented": {"0.05": {"median_ape": 0.07, "ratio_median_ape": 0.11}},
        "at_measured_points": {"n": 90, "median_ape": 0.18},
        "choice": {"n": 50, "same_engine": 0.77, "same_split": 0.57, "lost_median": 0.0, "lost_mean": 0.1,
                   "lost_p90": 0.36},
        "repeats": repeats | {"table": pairs, "days": pairs, "versions": None},
    }  # fmt: skip


def with_before() -> dict[str, Any]:
    old, new = invented(), invented()
    old["dev"] = section(dev(0.06), "old") | {"commit": "0000000"}
    old["machines"]["result"][0]["effective_tok_s_per_device"] = 99.0
    new["before"] = compared_with(old, new)
    return new


def test_equal_figures_give_equal_text_in_any_order_of_keys() -> None:
    figures = with_before()
    turned = json.loads(json.dumps(figures))
    turned["data"] = dict(reversed(turned["data"].items()))
    assert page(figures) == page(turned)


def test_the_page_has_date_commit_hashes_and_figures() -> None:
    text = page(invented())
    assert "Written on 2026-01-02 with commit 1a2b3c4" in text
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))
    assert "`efefefefefefefef`" in text
    assert "| aggregated, no MTP | 300 | 7.0 % | 9.1 % | -4 % | 80 % | 8.0 % | 80 % |" in text
    assert "80 are not: the split is not known (8 devices, and tp is empty)." in text
    assert "gamma, 1 of 3 rows: not in the catalog: no system has the device gamma" in text
    assert "rate 5,000 tok/s/device | 4,000 | 3,000 to 6,000 | yes | -20 %" in text
    assert "| skew | 2.00 |" in text
    assert "older than the rest of this page" in text  # the fit
    assert "| without the median error of each software stack | 60 | 17.0 % | 20.0 % |" in text
    assert "| alpha, vllm, toy fp8 | aggregated, no MTP | 30 | 21.0 % | -20 % |" in text
    assert "| two runs on different days | 30 | 1.2 % | 4.4 % | 60 | 17.0 % | 20.0 % | 17.0 % | 20.0 % |" in text


def test_tables_have_as_many_cells_as_columns_and_no_word_of_code() -> None:
    text = page(with_before())
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    for block in blocks:
        assert len({line.count(" | ") for line in block.splitlines() if "---" not in line}) == 1, block
    assert not re.search(r"\bNone\b|\bnan\b|\{|\}", text)


def test_targets_are_met_or_missed() -> None:
    by_name = {one.what: one for one in targets(invented())}
    assert by_name["TPOT, aggregated, no MTP: median"].met is True
    assert by_name["Left-out systems, TPOT: worst median"].met is False
    inside = by_name["Left-out systems, TPOT: points inside the 80 % interval"]
    assert (inside.met, inside.missed) == (False, {"beta": 0.6})
    assert by_name["Large groups that got worse by more than half a point"].met is None  # no earlier figures
    text = page(invented())
    assert "outside: beta 60 %" in text
    assert "no earlier figures" in text


def test_both_tables_of_left_out_systems_have_the_interval_of_the_calibration_file() -> None:
    figures = invented()
    figures["calibration"]["left_out"][1] |= {"spread": 1.47, "covered": 0.59}
    rows = [line for line in page(figures).splitlines() if line.startswith("| beta ")]
    assert any("| 1.47 |" in line and line.endswith("| 59 % |") for line in rows)
    assert sum("59 %" in line for line in rows) == 2


def test_reasons_belong_to_targets_and_show_only_while_they_are_missed() -> None:
    every = targets(invented())
    assert set(REASONS) <= {one.what for one in every}
    text = page(invented())
    for one in every:
        if one.what in REASONS:
            assert (f"- {one.what}. {REASONS[one.what][:20]}" in " ".join(text.split())) == (one.met is False)
    assert not reasons([])


def test_what_got_worse_is_said() -> None:
    figures = with_before()
    worse, better = changes(figures)
    assert {"kind agg none: TPOT", "system alpha: TPOT"} <= {row["group"] for row in worse}
    assert not better
    assert all(row["n"] >= 100 for row in worse)
    text = page(figures)
    assert "Compared with the page of 2026-01-02 (commit 0000000)" in text
    assert "| kind agg none: TPOT | 300 | 6.0 % | 7.0 % |" in text
    assert "| toy | chat | 99 [60, 240] | 120 [60, 240] |" in text


def test_a_second_run_keeps_what_the_first_was_compared_with() -> None:
    first = with_before()
    assert compared_with(first, copy.deepcopy(first)) == first["before"]
    assert compared_with({}, first) is None


def test_a_page_without_slow_sections_says_how_to_get_them() -> None:
    figures = invented()
    for name in ("fit", "left_out_systems", "left_out_models"):
        figures[name] = {}
    text = page(figures)
    assert "FULL=1` repeats the fits" in text
    assert "not computed" in text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("", "DATA is not given. Give a folder with serving_dev.csv and serving_new.csv"),
        ("no/such/folder", "DATA=no/such/folder is not a folder"),
        (".", "DATA=. has no serving_dev.csv and no serving_new.csv"),
    ],
)
def test_without_data_the_command_says_what_it_needs(data: str, says: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.accuracy", "--data", data, "--before", ""],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr.startswith(f"make accuracy: {says}")
    assert run.stdout == ""


def test_a_commit_without_figures_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (collect.FITTED, collect.FAR):
        (tmp_path / name).write_text("point_id\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["accuracy", "--data", str(tmp_path), "--before", "no-such-commit"])
    assert command.main() == 2
    assert "BEFORE=no-such-commit: this commit has no docs/accuracy.json" in capsys.readouterr().err


def test_a_file_of_another_form_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (collect.FITTED, collect.FAR):
        (tmp_path / name).write_text("point_id\na\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["accuracy", "--data", str(tmp_path)])
    monkeypatch.setattr(kept, "KEPT", tmp_path)
    assert command.main() == 1
    assert re.search(r"make accuracy: tokenworks validate .*serving_dev.csv:1: has no column", capsys.readouterr().err)


def test_the_page_in_docs_is_the_text_of_its_figures() -> None:
    """Nobody edits docs/accuracy.md. After a change of the text: `python -m benchmarks.accuracy --render`."""
    figures = json.loads(command.FIGURES.read_text(encoding="utf-8"))
    assert command.PAGE.read_text(encoding="utf-8") == page(figures)


def test_production_figures_have_sources_and_are_no_points_of_a_fit() -> None:
    rows = kept.rows_of(collect.PRODUCTION)
    assert all(row["source"] and row["title"] for row in rows)
    assert len({row["point_id"] for row in rows}) == len(rows)


def in_this_process(*words: str) -> Any:
    """`collect.command` without a new process: the engine is loaded once."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run([*words, "--output", "json"]) == 0
    return json.loads(out.getvalue())


@pytest.mark.usefixtures("kernel")
def test_each_production_figure_is_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "command", in_this_process)
    monkeypatch.setattr(kept, "KEPT", tmp_path)
    rows = collect.Collector(Path(), {}, full=False, kernels=False, say=print).production()
    assert [row["skipped"] for row in rows] == [""] * len(rows)
    assert all(row["values"] for row in rows)


@pytest.mark.shared
@pytest.mark.long
@pytest.mark.skipif(not SHARED.is_dir(), reason="no measured data beside this checkout")
def test_measured_points_make_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "MACHINES", ("scalex40",))
    monkeypatch.setattr(kept, "KEPT", tmp_path)
    figures = collect.Collector(SHARED, {}, full=False, kernels=False, say=print).figures() | {"before": None}
    assert figures["dev"]["result"]["covered"] == figures["data"]["serving_dev.csv"]["rows"]
    assert page(figures) == page(json.loads(json.dumps(figures)))
