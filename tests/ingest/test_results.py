"""Results of SGLang, InferenceX, GuideLLM, AIPerf and old vLLM as benchmarks: each figure is checked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.ingest import format_cases as cases
from tests.ingest.benchmark_cases import KNOWN, aiperf, vllm, written
from tokenworks.errors import SpecError
from tokenworks.ingest import load_benchmarks, read_benchmarks
from tokenworks.ingest.benchmark import Lengths, Load, Time


def save(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_runs_of_sglang(tmp_path: Path) -> None:
    """(400 + 40) tokens / 0.5 s = 880 token/s. `Infinity` is a rate without limit, 2.5 a Poisson rate."""
    path = save(tmp_path / "s.jsonl", cases.lines(cases.sglang(), cases.sglang(request_rate=2.5, max_concurrency=None)))
    closed, poisson = load_benchmarks(path)
    assert (closed.name, poisson.name) == ("s.jsonl run 1 concurrency 2", "s.jsonl run 2 rate 2.5")
    assert (closed.arrivals, closed.rate, closed.concurrency, closed.requests) == ("at once", 0.0, 2, 4)
    assert (poisson.arrivals, poisson.rate, poisson.concurrency) == ("poisson", 2.5, None)
    assert (closed.isl, closed.osl) == (Lengths(100.0, None), Lengths(10.0, None))
    assert closed.tokens_per_s == pytest.approx(880)
    assert (closed.ttft, closed.tpot) == (Time(0.06), Time(0.01))
    assert load_benchmarks(path, benchmark=2) == (poisson,)
    detailed = {**cases.DETAILS, "input_lens": [50, 150, 50, 150]}
    (one,) = load_benchmarks(save(path, cases.lines(cases.sglang(**detailed))))
    assert one.isl == Lengths(100.0, 0.5)  # the standard deviation is 50


def test_lines_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    traced, good = cases.sglang(request_rate="trace"), cases.sglang()
    bad = {key: value for key, value in good.items() if key != "duration"}
    path = save(tmp_path / "s.jsonl", cases.lines(traced, good, bad) + b"{cut\n")
    file = read_benchmarks(path)
    assert [one.name for one in file.benchmarks] == ["s.jsonl run 2 concurrency 2"]
    words = "\n".join(file.notes)
    assert f"left out 1 of 4 lines: no JSON object at {path}:4" in words
    assert f"{path}:1: request_rate: 'trace' is no load of its own" in words
    assert f"{path}:3: object missing required field `duration`" in words
    with pytest.raises(SpecError, match=r"s\.jsonl:3: object missing required field"):
        load_benchmarks(path, benchmark=3)
    with pytest.raises(SpecError, match=r"has 3 benchmarks, and no benchmark 4; choose one with --benchmark 1 to 3"):
        load_benchmarks(path, benchmark=4)


def test_appended_results_of_vllm(tmp_path: Path) -> None:
    one, two = load_benchmarks(save(tmp_path / "v.json", cases.lines(vllm(KNOWN), vllm(KNOWN))))
    assert (one.name, two.name, one.tpot) == ("v.json run 1", "v.json run 2", KNOWN.tpot)


def test_vllm_of_2025_counts_failures_itself(tmp_path: Path) -> None:
    """5 prompts and 4 completed: one failed. (400 + 12) / 2 s = 206 token/s."""
    (one,) = load_benchmarks(written(tmp_path, cases.VLLM_2025))
    assert (one.requests, one.rate, one.tokens_per_s) == (4, 2.0, 206.0)
    assert (one.isl, one.osl) == (Lengths(100.0, None), Lengths(3.0, None))
    assert (one.ttft, one.tpot) == (Time(0.11), Time(0.05))
    assert one.notes[0].startswith("1 of 5 requests failed; times and throughput are those of the other requests")


@pytest.mark.parametrize("count", ["vllm", "aiperf"])
def test_failed_requests_are_a_note(tmp_path: Path, count: str) -> None:
    failed: dict[str, Any] = vllm(KNOWN) | {"failed": 3}
    if count == "aiperf":
        failed = aiperf(KNOWN) | {"error_request_count": {"unit": "requests", "avg": 3}}
    (one,) = load_benchmarks(written(tmp_path, failed))
    assert one.notes[0].startswith("3 of 13 requests failed")


def test_inferencex_on_one_node(tmp_path: Path) -> None:
    """90 token/s on each of 8 GPUs; lengths are 0.8 to 1.0 of the nominal ones; times are in seconds."""
    (one,) = load_benchmarks(written(tmp_path, cases.INFERENCEX))
    assert (one.arrivals, one.concurrency, one.requests) == ("at once", 16, 160)
    assert one.tokens_per_s == pytest.approx(720)
    assert (one.ttft, one.tpot) == (Time(0.4), Time(0.018))
    assert (one.isl.mean, one.osl.mean, one.isl.nominal) == (900, 1800, 1000)
    assert one.isl.variation == pytest.approx(0.2 / 12**0.5 / 0.9)
    assert {key: one.point[key] for key in ("mode", "n_devices", "tp", "dp", "ep", "device", "tpot_ms_median")} == {
        "mode": "agg", "n_devices": "8", "tp": "8", "dp": "1", "ep": "8", "device": "h200", "tpot_ms_median": "18.0",
    }  # fmt: skip
    assert len(one.notes) == 1


def test_inferencex_on_several_nodes_counts_gpus_by_role(tmp_path: Path) -> None:
    """100 token/s on each of 8 + 16 GPUs. With attention data parallelism, tp GPUs are tp ranks."""
    (one,) = load_benchmarks(written(tmp_path, cases.INFERENCEX_MULTI))
    assert one.tokens_per_s == pytest.approx(2400)
    assert len(one.notes) == 1  # (200 x 8 + 50 x 16) / 24 = 100, as stated
    assert {key: one.point[key] for key in ("prefill_dp", "prefill_tp", "prefill_workers", "decode_dp", "mode")} == {
        "prefill_dp": "4", "prefill_tp": "1", "prefill_workers": "2", "decode_dp": "16", "mode": "disagg",
    }  # fmt: skip
    (other,) = load_benchmarks(written(tmp_path, cases.INFERENCEX_MULTI | {"input_tput_per_gpu": 100.0}))
    assert other.notes[1] == "tput_per_gpu is 100, but input and output add up to 66.6667 token/s per GPU"


def test_energy_of_inferencex(tmp_path: Path) -> None:
    """Joules per output token, unless InferenceX marks its power as not valid."""
    for valid, energy in ((1, 12.5), (True, 12.5), (None, 12.5), (0, None)):
        content = cases.INFERENCEX | {"joules_per_output_token": 12.5, "power_valid": valid}
        (one,) = load_benchmarks(written(tmp_path, content))
        assert one.joules_per_output_token == energy
        assert one.point.get("joules_per_output_token") == (None if energy is None else "12.5")


def test_a_list_of_inferencex_results(tmp_path: Path) -> None:
    path = save(tmp_path / "agg.json", json.dumps([cases.INFERENCEX, cases.INFERENCEX_MULTI]))
    assert [one.name for one in load_benchmarks(path)] == [
        "agg.json run 1 h200 sglang 16", "agg.json run 2 gb200 dynamo-sglang 16",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tp": None}, "no decode_tp; a single-node result has tp"),
        ({"conc": 0}, "conc: expected `int` >= 1"),
        ({"pcp_size": 2}, "pcp_size: 2: context parallelism of the prefill is not simulated"),
        ({"tput_per_gpu": -1}, "tput_per_gpu: -1 must be above zero"),
        ({"isl": None}, "isl: expected `int`, got `null`"),
        ({"disagg": "true", "prefill_tp": 4, "decode_tp": 4, "num_decode_gpu": 7}, "7 GPUs, but 1 workers have 4 each"),
    ],
)
def test_broken_results_of_inferencex(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as error:
        load_benchmarks(written(tmp_path, cases.INFERENCEX | change))
    assert says in str(error.value)


@pytest.mark.parametrize("version", [1, 2])
def test_guidellm_takes_tpot_from_single_requests(tmp_path: Path, version: int) -> None:
    """The requests have 10, 20 and 30 ms: their median is 20. GuideLLM weights by tokens, and its median is 30."""
    one, two = load_benchmarks(written(tmp_path, cases.guidellm(version)))
    assert (one.concurrency, two.concurrency) == (1, 2)
    assert one.tpot == Time(0.02)
    assert one.ttft == Time(0.05)
    assert one.tokens_per_s == pytest.approx(3 * (100 + 17) / 3.0)
    assert one.notes == ()
    assert two.notes[0].startswith("1 of 4 requests failed")
    assert load_benchmarks(tmp_path / "run.json", benchmark=2) == (two,)


def test_guidellm_without_single_requests_says_that_tpot_is_weighted(tmp_path: Path) -> None:
    report = cases.guidellm()
    for one in report["benchmarks"]:
        one["requests"]["successful"] = one["requests"]["successful"][:1]
    one, _ = load_benchmarks(written(tmp_path, report))
    assert one.tpot == Time(0.03)
    assert one.notes[0].startswith("TPOT is GuideLLM's median over output tokens")


def test_guidellm_lengths_from_single_requests(tmp_path: Path) -> None:
    """Outputs of 5, 5 and 41 tokens: the mean is 17, the standard deviation 16.97."""
    report = cases.guidellm()
    del report["benchmarks"][0]["metrics"]["output_token_count"]
    one, _ = load_benchmarks(written(tmp_path, report))
    assert one.osl.mean == 17
    assert one.osl.variation == pytest.approx(16.97 / 17, rel=1e-3)


def test_a_synchronous_run_has_one_request_in_flight(tmp_path: Path) -> None:
    report = cases.guidellm()
    report["benchmarks"][0]["config"]["strategy"] = {"type_": "synchronous"}
    report["benchmarks"][1]["config"]["strategy"] = {"type_": "replay"}
    file = read_benchmarks(written(tmp_path, report))
    assert [one.concurrency for one in file.benchmarks] == [1]
    assert "benchmarks[1].config.strategy.type_: 'replay' cannot be simulated" in file.notes[0]


def test_records_of_aiperf_are_one_benchmark(tmp_path: Path) -> None:
    """Gaps of (60 - 20) / 4 = 10, 10 and 15 ms; (100 + 200 + 300 + 15) tokens in 0.24 s."""
    path = save(tmp_path / "profile_export.jsonl", cases.lines(*cases.RECORDS))
    (one,) = load_benchmarks(path, load=Load.parse("concurrency=2"))
    assert (one.arrivals, one.concurrency, one.requests) == ("at once", 2, 3)
    assert (one.ttft, one.tpot) == (Time(0.02), Time(0.01))
    assert one.isl.mean == 200
    assert one.tokens_per_s == pytest.approx(615 / 0.24)
    assert one.notes[0].startswith("1 of 4 requests failed")
    with pytest.raises(SpecError, match="does not say how the client sent its requests; say it: --load concurrency"):
        load_benchmarks(path)
    warm = [cases.record(0, 60, 100, benchmark_phase="warmup")]
    with pytest.raises(SpecError, match="no request completed"):
        load_benchmarks(save(path, cases.lines(*warm)), load=Load("at once"))


def test_an_export_of_aiperf_without_its_settings_needs_a_load(tmp_path: Path) -> None:
    content = aiperf(KNOWN)
    del content["input_config"]
    path = written(tmp_path, content)
    with pytest.raises(SpecError, match="does not say how the client sent"):
        load_benchmarks(path)
    (one,) = load_benchmarks(path, load=Load.parse("rate=3"))
    assert (one.arrivals, one.rate, one.concurrency, one.tpot) == ("poisson", 3.0, None, KNOWN.tpot)
    old = {"loadgen": {"concurrency": 8}, "endpoint": {}}
    (closed,) = load_benchmarks(written(tmp_path, content | {"input_config": old}))
    assert (closed.arrivals, closed.concurrency) == ("at once", 8)
    rated = {"loadgen": {"request_rate": 4.0, "request_rate_mode": "constant"}}
    (constant,) = load_benchmarks(written(tmp_path, content | {"input_config": rated}))
    assert (constant.arrivals, constant.rate) == ("constant", 4.0)


@pytest.mark.parametrize("text", ["", "16", "concurrency=0", "concurrency=x", "rate=-1", "rate=nan", "burst=1", "x=1"])
def test_loads_that_cannot_be_read(text: str) -> None:
    with pytest.raises(SpecError, match=r"--load: cannot read .*write concurrency=16, rate=2\.5 or burst"):
        Load.parse(text)


def test_loads() -> None:
    assert Load.parse("burst") == Load("at once")
    assert Load.parse(" rate=2.5") == Load("poisson", rate=2.5)
    assert Load.parse("concurrency=16") == Load("at once", concurrency=16)


@pytest.mark.parametrize("content", [cases.BAILIAN[0], cases.otel(cases.span(0, 5, 3))])
def test_traces_are_no_results(tmp_path: Path, content: dict[str, Any]) -> None:
    with pytest.raises(
        SpecError, match=r"is a trace of the format (bailian|otel); give a result of a benchmark client"
    ):
        load_benchmarks(written(tmp_path, content))


def test_a_dataset_of_servegen_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"is the dataset of a ServeGen client: .*; give the CSV beside it"):
        load_benchmarks(written(tmp_path, cases.DATASET))


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    """NaN of an empty list of gaps is no number: the metric is missing."""
    text = json.dumps(vllm(KNOWN) | {"median_tpot_ms": float("nan"), "mean_tpot_ms": float("nan")})
    (one,) = load_benchmarks(save(tmp_path / "v.json", text))
    assert (one.tpot, one.ttft) == (None, KNOWN.ttft)
