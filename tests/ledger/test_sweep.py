"""A sweep as a whole: the same bytes in every way to run it, and points that fail are rows."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import tokenworks
from tests.ledger.comparisons import H20, H100, SMALL, row
from tests.ledger.sweep_cases import DEPLOYMENT, ESTIMATE, PLAN, SIMULATE
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.ledger.compare import compare
from tokenworks.ledger.sweep_axes import design_of
from tokenworks.ledger.sweep_file import identity, load_sweep
from tokenworks.ledger.sweep_journal import SweepJournal, SweepStamp
from tokenworks.ledger.sweep_paths import swept_paths
from tokenworks.ledger.sweep_point import SweepJob, SweepRunner
from tokenworks.ledger.sweep_run import chunks_of
from tokenworks.specs.result import rounded


def no_trace(path: str) -> Any:
    raise AssertionError(path)


def job(case: dict[str, Any]) -> SweepJob:
    file, where = load_sweep(case)
    return SweepJob(file, design_of(file, swept_paths(file, where), where), where, no_trace)


def stamp(one: SweepJob) -> SweepStamp:
    return SweepStamp(tokenworks.__version__, identity(one.file))


def test_each_point_is_a_row_and_failures_are_rows(tmp_path: Path) -> None:
    result = tokenworks.sweep(ESTIMATE, parquet=tmp_path / "e.parquet", workers=1)
    rows = pq.read_table(tmp_path / "e.parquet").to_pylist()
    assert rows == result.to_records()
    assert [(row["batch"], row["machine.device.hbm.bandwidth"]) for row in rows[:3]] == [
        (1, 2e12),
        (1, 3.35e12),
        (16, 2e12),
    ]
    assert {row["batch"] for row in rows if row["exit_code"] == 3} == {4096}
    assert all(("need" in row["error"]) if row["exit_code"] else row["error"] is None for row in rows)
    assert (result.count(0), result.count(3)) == (6, 2)
    assert "4,096 sequences" in result.failures()[0][0]
    schema = pq.read_schema(tmp_path / "e.parquet")
    assert schema.field("machine.device.hbm.bandwidth").metadata == {b"unit": b"byte/s"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.parquet"]


def test_a_point_is_the_answer_of_the_function() -> None:
    row = tokenworks.sweep(ESTIMATE, workers=1).to_records()[3]
    single = tokenworks.estimate(
        "Qwen/Qwen3-30B-A3B", "hgx-h100:2", deploy="tp=2", batch=16, assume={"device.hbm.bandwidth": "3.35 TB/s"}
    )
    assert row["decode_step_s"] == rounded(single.steps[1].seconds)


@pytest.mark.usefixtures("kernel")
def test_step_times_that_are_kept_change_nothing() -> None:
    """A runner that has seen other rates gives the bytes of a runner that is new."""
    whole = job(
        {**SIMULATE, "over": {"rate": [2, 8, 32], "roles.0.max_sequences": [16, 256], "workload.isl": [800, 900]}}
    )
    used = SweepRunner(whole)
    kept = [used.run(number) for number in range(len(whole.design))]
    assert used.built
    assert json.dumps(kept) == json.dumps([SweepRunner(whole).run(number) for number in range(len(whole.design))])


@pytest.mark.usefixtures("kernel")
def test_a_simulated_point_is_the_answer_of_the_function() -> None:
    result = tokenworks.sweep({**SIMULATE, "over": {"slo.tpot": ["10 ms", "50 ms"], "rate": [2, 8]}}, workers=1)
    run = tokenworks.simulate(DEPLOYMENT, workload="chat", requests=300, rate=8, slo="ttft=2s,tpot=10ms")
    row = result.to_records()[1]
    assert (row["slo.tpot"], row["rate"]) == (0.01, 8)
    assert row["effective_tok_s_per_device"] == run.plain()["effective_tok_s_per_device"]
    assert row["meets_slo"] == run.meets_slo


@pytest.mark.usefixtures("kernel")
def test_a_trace_is_swept_by_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENWORKS_CACHE", str(tmp_path / "cache"))
    lines = [{"timestamp": 100 * k, "input_length": 500, "output_length": 20, "hash_ids": [k]} for k in range(100)]
    (tmp_path / "talk.jsonl").write_text("\n".join(map(json.dumps, lines)))
    case = {"do": "simulate", "deployment": DEPLOYMENT, "trace": "talk.jsonl", "over": {"scale": [1, 2]}}
    (tmp_path / "s.yaml").write_text(json.dumps(case))
    rows = tokenworks.sweep(tmp_path / "s.yaml", workers=1).to_records()
    run = tokenworks.simulate(DEPLOYMENT, trace=tmp_path / "talk.jsonl", scale=2)
    assert rows[1]["mean_ttft_ms"] == run.plain()["mean_ttft_ms"]


def test_plans_are_swept_by_system_and_by_number_of_boxes() -> None:
    over = {"on": ["hgx-h100", "hgx-h200"], "boxes": [1, 2]}
    case = {**{key: PLAN[key] for key in ("do", "model", "workload", "simulate")}, "engine": "vllm", "over": over}
    rows = tokenworks.sweep(case, workers=1).to_records()
    assert [(row["on"], row["boxes"], row["system_devices"]) for row in rows] == [
        ("hgx-h100", 1, 8), ("hgx-h100", 2, 16), ("hgx-h200", 1, 8), ("hgx-h200", 2, 16)
    ]  # fmt: skip
    plan = tokenworks.plan("Qwen/Qwen3-30B-A3B", "2xhgx-h200", workload="chat", simulate=False, engine="vllm")
    assert rows[3]["effective_tok_s_per_device"] == rounded(plan.best.effective_tok_s_per_device)


@pytest.mark.usefixtures("kernel")
def test_bytes_do_not_depend_on_processes(tmp_path: Path) -> None:
    for workers in (1, 2):
        tokenworks.sweep(SIMULATE, parquet=tmp_path / f"{workers}.parquet", workers=workers)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_chunks_have_each_missing_point_once() -> None:
    one = job(ESTIMATE)
    missing = [0, 1, 3, 6, 7]
    chunks = chunks_of(one, missing, 2)
    assert sorted(number for chunk in chunks for number in chunk) == missing


def partly(tmp_path: Path, points: int) -> tuple[Path, Path]:
    """A finished file, and the journal that its sweep has after some points."""
    whole, part = tmp_path / "whole.parquet", tmp_path / "part.parquet"
    tokenworks.sweep(ESTIMATE, parquet=whole, workers=1)
    one = job(ESTIMATE)
    runner = SweepRunner(one)
    with SweepJournal(part, stamp(one)) as journal:
        journal.add([(number, runner.run(number)) for number in range(points)])
    return whole, part


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_an_interrupted_sweep_goes_on(cut: int, tmp_path: Path) -> None:
    """A crash can cut off the last line of the journal."""
    whole, part = partly(tmp_path, 3)
    journal = tmp_path / "part.parquet.journal"
    data = journal.read_bytes()
    journal.write_bytes(data[: len(data) - cut])
    result = tokenworks.sweep(ESTIMATE, parquet=part, workers=1)
    assert result.computed == (5 if cut == 0 else 6)
    assert part.read_bytes() == whole.read_bytes()
    assert not journal.exists()


def test_a_finished_sweep_is_read_and_not_computed(tmp_path: Path) -> None:
    first = tokenworks.sweep(ESTIMATE, parquet=tmp_path / "e.parquet", workers=1)
    again = tokenworks.sweep(ESTIMATE, parquet=tmp_path / "e.parquet", workers=1)
    assert again.computed == 0
    plain = [one.plain() for one in (first, again)]
    assert all(one.pop("wall") for one in plain)
    assert json.dumps(plain[0]) == json.dumps(plain[1])


@pytest.mark.parametrize("kind", ["parquet", "journal"])
def test_files_of_another_sweep_or_version_are_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "parquet":
        tokenworks.sweep(ESTIMATE, parquet=tmp_path / "part.parquet", workers=1)
    else:
        partly(tmp_path, 2)
    other = {**ESTIMATE, "over": {"batch": [1, 16]}}
    with pytest.raises(SpecError, match="has the points of another sweep"):
        tokenworks.sweep(other, parquet=tmp_path / "part.parquet", workers=1)
    monkeypatch.setattr(tokenworks, "__version__", "9.9")
    with pytest.raises(SpecError, match=r"was written by tokenworks 0\.1\.0, and this is 9\.9"):
        tokenworks.sweep(ESTIMATE, parquet=tmp_path / "part.parquet", workers=1)


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    _, part = partly(tmp_path, 3)
    journal = tmp_path / "part.parquet.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], lines[1].replace(b"1", b"2"), *lines[2:]]))
    with pytest.raises(SpecError, match=r"journal: line 2: is damaged; name another file, or delete this one"):
        tokenworks.sweep(ESTIMATE, parquet=part, workers=1)


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"x" * 1000])
def test_a_file_that_is_no_parquet_stays(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "e.parquet").write_bytes(content)
    with pytest.raises(SpecError, match="cannot be read as Parquet"):
        tokenworks.sweep(ESTIMATE, parquet=tmp_path / "e.parquet", workers=1)
    assert (tmp_path / "e.parquet").read_bytes() == content


def test_two_sweeps_cannot_write_one_file(tmp_path: Path) -> None:
    one = job(ESTIMATE)
    with (
        SweepJournal(tmp_path / "e.parquet", stamp(one)),
        pytest.raises(SpecError, match="another sweep writes this file"),
    ):
        tokenworks.sweep(ESTIMATE, parquet=tmp_path / "e.parquet", workers=1)


def test_no_file_is_left_if_no_point_has_a_result(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match="none of 2 points has a result"):
        tokenworks.sweep({**ESTIMATE, "over": {"batch": [5000, 6000]}}, parquet=tmp_path / "e.parquet", workers=1)
    with pytest.raises(SpecError, match="none of 2 points has a result"):
        tokenworks.sweep({**ESTIMATE, "over": {"batch": [0, -1]}}, parquet=tmp_path / "e.parquet", workers=1)
    assert list(tmp_path.iterdir()) == []


def test_an_internal_error_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**arguments: Any) -> None:
        raise ZeroDivisionError("x")

    monkeypatch.setattr("tokenworks.ledger.sweep_point.estimate", fails)
    row = SweepRunner(job(ESTIMATE)).run(0)
    assert (row["exit_code"], row["error"]) == (1, "internal error: ZeroDivisionError: x")


def test_without_pyarrow_or_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"tokenworks\[sweep\]"):
        tokenworks.sweep(ESTIMATE, parquet=tmp_path / "e.parquet")
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(SpecError, match=r"tokenworks\[ray\]"):
        tokenworks.sweep(ESTIMATE, ray="auto")
    assert list(tmp_path.iterdir()) == []


def test_a_latin_hypercube_ranks_its_inputs() -> None:
    over = {
        "batch": {"from": 1, "to": 128, "scale": "log"},
        "machine.device.hbm.bandwidth": {"from": "2 TB/s", "to": "4 TB/s"},
        "machine.scale_up.hop": {"from": "0.1 us", "to": "0.11 us"},
    }
    result = tokenworks.sweep({**ESTIMATE, "over": over, "latin": {"points": 60}}, workers=1)
    assert [effect.path for effect in result.effects[:2]] == ["batch", "machine.device.hbm.bandwidth"]
    assert [effect.direction for effect in result.effects[:2]] == ["rises", "falls"]
    assert result.curves == ()
    assert result.explained > 0.9


@pytest.mark.usefixtures("kernel")
def test_the_cost_of_a_planned_point_is_the_cost_of_a_comparison() -> None:
    question = {"model": SMALL, "workload": "chat", "engine": "vllm", "budget": "2000 requests"}
    points = tokenworks.sweep(
        {"do": "plan", **question, "utilisation": 0.3, "currency": "CNY", "over": {"on": [H20, H100]}}, workers=1
    ).to_records()
    result = compare(
        SMALL, [H20, H100], workload="chat", engine="vllm", budget="2000 requests", utilisation=0.3, currency="CNY",
        workers=1,
    )  # fmt: skip
    for point in points:
        whole = row(result, str(point["on"])).costs.cost
        assert whole is not None
        assert whole.per_million_effective is not None
        assert whole.capex is not None
        assert whole.capex.total is not None
        assert point["currency"] == "CNY"
        assert point["cost_per_million_effective"] == pytest.approx(whole.per_million_effective.mid, rel=1e-8)
        assert point["purchase_per_device"] == pytest.approx(whole.capex.total.mid, rel=1e-8)
        assert point["cost_needs"] is None


@pytest.mark.usefixtures("kernel")
def test_a_plan_without_a_price_names_the_price() -> None:
    """With rent there is no purchase; a machine without a price says what a user can give."""
    swept = {**PLAN, "model": SMALL, "on": "scalex40", "devices": 1, "over": {"pay": ["buy", "rent"]}}
    bought, rented = tokenworks.sweep(swept, workers=1).to_records()
    assert bought["cost_per_million_effective"] is rented["cost_per_million_effective"] is None
    assert "systems.scalex40" in str(bought["cost_needs"])
    assert "rental.scalex40-card" in str(rented["cost_needs"])
    dear = tokenworks.sweep({**swept, "assume": {"price": "1 MUSD"}}, workers=1).to_records()[0]
    assert dear["cost_needs"] is None
    assert float(dear["purchase_per_device"] or 0) > 1e6 / 40


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"utilisation": 1.5}, "utilisation"),
        ({"prices": "no-such-list.yaml"}, "no-such-list.yaml"),
        ({"pay": "steal"}, "pay"),
        ({"prices": {"sistems": {}}}, "sistems"),
    ],
)
def test_wrong_costs_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        tokenworks.sweep({**PLAN, **more}, workers=1)
