"""Files of other tools as traces: each figure is checked by hand, and each broken row is named."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ingest import format_cases as cases
from tokenworks.errors import SpecError
from tokenworks.ingest import FORMATS, load_trace, servegen
from tokenworks.specs.trace import Trace

DOCS = Path(__file__).parents[2] / "docs"


def save(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def blocks(trace: Trace) -> list[list[int]]:
    return [part.tolist() for part in np.split(trace.hash_ids, trace.hash_offsets[1:-1])]


def test_bailian(tmp_path: Path) -> None:
    """40 tokens are 2 blocks of 16 and a rest; the second turn comes 70.25 - 10 = 60.25 s after its parent."""
    trace = load_trace(save(tmp_path / "q.jsonl", cases.lines(*cases.BAILIAN)), strict=True)
    assert trace.arrival_s.tolist() == [0, 2.5, 60.25]
    assert trace.input_tokens.tolist() == [40, 33, 64]
    assert trace.parent.tolist() == [-1, -1, 0]
    assert trace.think_s.tolist() == [0, 0, 60.25]
    assert trace.session.tolist() == [0, 1, 0]
    assert blocks(trace) == [[0, 1, 4], [0, 2, 3], [0, 1, 5, 6]]
    assert (trace.hash_block_tokens, trace.classes) == (16, ("text", "search"))
    assert "no times of answers" in trace.notes[0]


def test_bailian_broken_rows_and_lost_parents(tmp_path: Path) -> None:
    first, other, turn = cases.BAILIAN
    rows = [{**first, "hash_ids": [4]}, other, {**turn, "timestamp": -1}, turn, {**first, "timestamp": "x"}]
    path = save(tmp_path / "q.jsonl", cases.lines(*rows))
    trace = load_trace(path)
    assert {(d.count, d.where) for d in trace.dropped} == {(1, f"{path}:1"), (1, f"{path}:3"), (1, f"{path}:5")}
    assert trace.parent.tolist() == [-1, -1]
    assert trace.notes == ("1 requests name a parent that is not before them in the file: they count as first turns",)
    with pytest.raises(SpecError, match=r"q\.jsonl:1: hash_ids: expected one hash for each 16 tokens"):
        load_trace(path, strict=True)


def test_parents_in_a_circle_are_first_turns(tmp_path: Path) -> None:
    first, _, turn = cases.BAILIAN
    trace = load_trace(save(tmp_path / "q.jsonl", cases.lines({**first, "parent_chat_id": 9}, turn)))
    assert trace.parent.tolist() == [-1, 0]


def test_aiperf_records(tmp_path: Path) -> None:
    """The second turn of conversation a starts at 0.16 s, 0.1 s after the end of the first one at 0.06 s."""
    path = save(tmp_path / "profile_export.jsonl", cases.lines(*cases.RECORDS))
    trace = load_trace(path)
    np.testing.assert_allclose(trace.arrival_s, [0, 0.05, 0.16])
    assert trace.input_tokens.tolist() == [100, 200, 300]
    assert trace.output_tokens.tolist() == [5, 5, 5]
    assert trace.parent.tolist() == [-1, -1, 0]
    np.testing.assert_allclose(trace.think_s, [0, 0, 0.1], atol=1e-9)
    assert trace.session.tolist() == [0, 1, 0]
    ((count, where),) = [(d.count, d.where) for d in trace.dropped]
    assert (count, where) == (1, f"{path}:3")
    with pytest.raises(SpecError, match=r"jsonl:3: error: expected null: the request failed"):
        load_trace(path, strict=True)


def test_aiperf_warm_up_and_missing_lengths(tmp_path: Path) -> None:
    bare = cases.record(0, 10, 5)
    del bare["metrics"]["input_sequence_length"]
    warm = cases.record(0, 10, 5, benchmark_phase="warmup")
    cancelled = cases.record(0, 10, 5, was_cancelled=True)
    trace = load_trace(save(tmp_path / "p.jsonl", cases.lines(warm, bare, cases.record(5, 95, 7), cancelled)))
    assert trace.input_tokens.tolist() == [7]
    assert trace.session.tolist() == [-1]
    assert trace.notes == ("1 requests of the warm-up are left out",)
    assert {d.reason.partition(":")[0] for d in trace.dropped} == {"metrics.input_sequence_length", "error"}


@pytest.mark.parametrize("version", [1, 2])
def test_guidellm_as_a_trace(tmp_path: Path, version: int) -> None:
    """With one stream, each request waits for the one before it: 1 - 0.09 = 0.91 s, then 2 - 1.13 = 0.87 s."""
    path = save(tmp_path / "report.json", json.dumps(cases.guidellm(version)))
    trace = load_trace(path, benchmark=1)
    assert trace.arrival_s.tolist() == [0, 1, 2]
    assert trace.output_tokens.tolist() == [5, 5, 41]
    assert trace.parent.tolist() == [-1, 0, 1]
    np.testing.assert_allclose(trace.think_s, [0, 0.91, 0.87])
    two = load_trace(path, benchmark=2)
    assert two.parent.tolist() == [-1, -1, 0]
    assert [(d.count, d.reason) for d in two.dropped] == [(1, "requests.errored[]: expected none: the request failed")]
    for chosen, words in ((None, "has 2 benchmarks; choose one with --benchmark 1 to 2"), (3, "and no benchmark 3")):
        with pytest.raises(SpecError, match=words):
            load_trace(path, benchmark=chosen)


def test_spans_of_vllm(tmp_path: Path) -> None:
    """Numbers may be texts; spans of other programs are no requests; the file of a collector has one object a line."""
    other = {**cases.span(0, 1, 1), "attributes": []}
    data = cases.otel(cases.span(500, 600, "300"), cases.span(0, 90, 200), other)
    for content in (json.dumps(data, indent=1).encode(), cases.lines(data)):
        trace = load_trace(save(tmp_path / "spans.json", content))
        np.testing.assert_allclose(trace.arrival_s, [0, 0.5])
        assert trace.input_tokens.tolist() == [200, 300]
        assert trace.output_tokens.tolist() == [8, 8]
        assert "1 spans are no requests" in trace.notes[0]
    two = save(tmp_path / "two.json", cases.lines(cases.otel(cases.span(0, 9, 1)), cases.otel(cases.span(70, 90, 2))))
    assert load_trace(two).input_tokens.tolist() == [1, 2]


def test_broken_spans(tmp_path: Path) -> None:
    spans = [cases.span(9, 5, 10), cases.span(0, 5, "x"), cases.span(0, 5, 0), cases.span(0, 5, 3),
             {**cases.span(0, 5, 3), "startTimeUnixNano": None}]  # fmt: skip
    path = save(tmp_path / "spans.json", json.dumps(cases.otel(*spans)))
    trace = load_trace(path)
    assert trace.input_tokens.tolist() == [3]
    assert {(d.count, d.where) for d in trace.dropped} == {(1, f"{path}:1"), (2, f"{path}:2"), (1, f"{path}:5")}
    with pytest.raises(SpecError, match="not spans in OTLP JSON: Expected `array`"):
        load_trace(save(path, '{"resourceSpans": 5}'))


def test_sglang_requests_in_a_closed_loop(tmp_path: Path) -> None:
    """Two in flight last 0.2 and 0.3 s: the third starts at 0.2 s and ends at 0.4 s, the fourth starts at 0.3 s."""
    runs = cases.lines(cases.sglang(**cases.DETAILS), cases.sglang(**cases.DETAILS, max_concurrency=None))
    path = save(tmp_path / "s.jsonl", runs)
    trace = load_trace(path, benchmark=1)
    np.testing.assert_allclose(trace.arrival_s, [0, 0, 0.2, 0.3])
    assert trace.parent.tolist() == [-1, -1, 0, 1]
    np.testing.assert_allclose(trace.think_s, 0, atol=1e-12)
    assert trace.notes == ("the file has no start times: they follow from a closed loop of 2 requests in flight",)
    burst = load_trace(path, benchmark=2)
    assert burst.arrival_s.tolist() == [0, 0, 0, 0]
    assert not burst.undated


def test_runs_without_start_times_at_a_rate_are_undated(tmp_path: Path) -> None:
    for name, run in (("v.json", cases.VLLM_2025), ("s.jsonl", cases.sglang(request_rate=2.0))):
        trace = load_trace(save(tmp_path / name, cases.lines({**run, **cases.DETAILS})))
        assert trace.undated
        assert trace.notes[0].endswith("play them with --rate 2, the rate of the run")
    traced = save(tmp_path / "t.jsonl", cases.lines(cases.sglang(**cases.DETAILS, request_rate="trace")))
    assert "play the trace that the client used" in load_trace(traced).notes[0]


def test_failed_requests_of_sglang(tmp_path: Path) -> None:
    details = {**cases.DETAILS, "errors": ["", "refused", "", ""], "output_lens": [3, 0, 3, 3]}
    path = save(tmp_path / "s.jsonl", cases.lines(cases.sglang(**details)))
    (dropped,) = load_trace(path).dropped
    assert (dropped.count, dropped.where) == (1, f"{path}:2")
    with pytest.raises(SpecError, match=r"the lists have different lengths; .*ttfts 1"):
        load_trace(save(path, cases.lines(cases.sglang(**{**cases.DETAILS, "ttfts": [0.1]}))))


def test_per_request_files_are_played_again(tmp_path: Path) -> None:
    """The refused request was sent, so it is played; the one that was never sent is not."""
    path = save(tmp_path / "out.csv", cases.PER_REQUEST)
    trace = load_trace(path)
    assert trace.arrival_s.tolist() == [0, 1.5]
    assert trace.input_tokens.tolist() == [512, 99999]
    assert trace.classes == ("chat", "batch")
    assert [(d.count, d.where) for d in trace.dropped] == [(1, f"{path}:4")]
    assert "no block hashes" in trace.notes[0]


def test_per_request_parquet_is_the_same_trace(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "out.parquet"
    columns = {"arrival_s": [0.0, 1.5, None, 2.0], "first_token_s": [0.05, None, None, None],
               "input_tokens": [512, 99999, 20, 0], "output_tokens": [6, 6, 6, 6],
               "class": ["chat", "batch", "chat", "chat"]}  # fmt: skip
    pq.write_table(pa.table(columns), path)
    trace = load_trace(path)
    assert (trace.arrival_s.tolist(), trace.input_tokens.tolist()) == ([0, 1.5], [512, 99999])
    assert trace.classes == ("chat", "batch")
    assert {d.where for d in trace.dropped} == {f"{path}:3", f"{path}:4"}
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(SpecError, match="no column arrival_s, input_tokens, output_tokens; it has x"):
        load_trace(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(SpecError, match="cannot be read"):
        load_trace(path)


@pytest.fixture
def client(tmp_path: Path) -> Path:
    (tmp_path / "chunk-0-dataset.json").write_text(json.dumps(cases.DATASET))
    return save(tmp_path / "chunk-0-trace.csv", cases.SERVEGEN)


def test_servegen_draws_the_rates_and_lengths_of_the_file(client: Path) -> None:
    """0.5/s x 600 s = 300 requests with gaps of variation 2, none for 600 s, then 2/s x 600 s = 1200."""
    traces = [load_trace(client, seed=seed) for seed in range(30)]
    first = np.mean([(trace.arrival_s < 600).sum() for trace in traces])
    last = np.mean([(trace.arrival_s > 1100).sum() for trace in traces])
    assert first == pytest.approx(300, rel=0.05)
    assert last == pytest.approx(1200, rel=0.05)
    trace = traces[0]
    assert set(trace.input_tokens.tolist()) == {100, 300}
    assert set(trace.output_tokens.tolist()) == {7}
    assert float(trace.input_tokens.mean()) == pytest.approx(200, rel=0.1)
    assert trace.notes[1] == "not used: reason_ratio"
    gaps = np.concatenate([np.diff(t.arrival_s[t.arrival_s < 590]) for t in traces])
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.15)


def test_a_folder_of_servegen_is_all_its_clients(client: Path) -> None:
    """Two clients with the same file draw other requests. Broken windows of both are counted together."""
    client.with_name("chunk-1-dataset.json").write_text(json.dumps(cases.DATASET))
    save(client.with_name("chunk-1-trace.csv"), "x\n" + cases.SERVEGEN)
    trace, one = load_trace(client.parent, seed=5), load_trace(client, seed=5)
    assert len(trace) == pytest.approx(2 * len(one), rel=0.2)
    assert len(np.unique(trace.arrival_s)) == len(trace)
    assert [d.where for d in trace.dropped] == [f"{client.with_name('chunk-1-trace.csv')}:1"]
    assert trace.notes[0] == "requests of 2 clients are drawn from their statistics, with the seed 5"


def test_servegen_scales_are_those_of_the_file() -> None:
    """Shape x scale = 1 / rate for Gamma; scale x Gamma(1 + 1 / shape) = 1 / rate for Weibull, as in the file."""
    draw = np.random.default_rng(1)
    assert servegen.gamma(draw, 0.25, 0.5, 400_000).mean() == pytest.approx(0.25 * 8.0, rel=0.02)
    assert servegen.weibull(draw, 0.5, 2.0, 400_000).mean() == pytest.approx(0.25 * 2, rel=0.02)


def test_servegen_seed(client: Path) -> None:
    one, again, other = (load_trace(client, seed=seed).arrival_s for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one[:50], other[:50])


@pytest.mark.parametrize(
    ("csv", "says"),
    [
        ("0,0.5,2.0,Poisson,0.25,8.0", "pattern: expected Gamma or Weibull"),
        ("0,0.5,2.0,Gamma,0,8.0", "shape: expected 0.05 to 10000"),
        ("0,-1,2.0,Gamma,1,8.0", "rate: expected 0, or 1e-09 to 100000 requests per second"),
        ("-5,1,2.0,Gamma,1,8.0", "start: expected 0 to"),
        ("0,1,2.0,Gamma,1", "expected start, rate, variation, Gamma or Weibull, shape, scale"),
        ("30000,1,2.0,Gamma,1,1", "dataset: expected lengths for 30000 s: the dataset has none"),
    ],
)
def test_broken_windows_of_servegen(client: Path, csv: str, says: str) -> None:
    client.write_text(f"0,0.5,2.0,Gamma,0.25,8.0\n{csv}\n")
    trace = load_trace(client)
    assert [(d.where, says in d.reason) for d in trace.dropped] == [(f"{client}:2", True)]
    with pytest.raises(SpecError, match=r"chunk-0-trace\.csv:2"):
        load_trace(client, strict=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("__import__('os').system('x')", "is no dict of numbers"),
        ("{1: [0.5]}", "is no dict of numbers"),
        ("{1: 2-1}", "is no dict of numbers"),
        ("{1, 2}", "is no dict of numbers"),
        ("{1: 0.5}", "probabilities add up to 0.5, not 1"),
        ("{1: -1, 2: 2}", "probabilities"),
        ("{99999999: 1}", "lengths must be 0 to 16777216 tokens"),
        ("{" + "1:1," * 300_000 + "}", "over 1,048,576 characters"),
    ],
)
def test_texts_of_servegen_are_never_run(client: Path, text: str, says: str) -> None:
    beside = client.with_name("chunk-0-dataset.json")
    beside.write_text(json.dumps({"0": {"input_tokens": text, "output_tokens": "{7: 1.0}"}}))
    with pytest.raises(SpecError) as error:
        load_trace(client)
    assert says in str(error.value)
    assert f"{beside}: 0.input_tokens" in str(error.value)


def test_servegen_needs_both_files(client: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"chunk-0-dataset\.json: is the dataset .*give the CSV beside it"):
        load_trace(client.with_name("chunk-0-dataset.json"))
    alone = save(tmp_path / "chunk-1-trace.csv", cases.SERVEGEN)
    with pytest.raises(SpecError, match=r"needs chunk-1-dataset\.json; put the lengths"):
        load_trace(alone)
    with pytest.raises(SpecError, match=r"the name does not end in -trace\.csv"):
        load_trace(save(tmp_path / "x.csv", cases.SERVEGEN))
    packed = save(tmp_path / "chunk-0-trace.csv.gz", gzip.compress(cases.SERVEGEN.encode()))
    assert len(load_trace(packed)) > 1000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (cases.INFERENCEX, "is a result of InferenceX, which has no single requests; compare it"),
        ({"aiperf_version": "0.13.0", "request_throughput": {}}, "give profile_export.jsonl of the same run"),
        (cases.VLLM_2025, "the result has no single requests; run `vllm bench serve` with"),
        (cases.sglang(), "SGLang's bench_serving with --output-details"),
        ({"alpha": 1, "beta": 2}, "not a trace of a known format (its keys are alpha, beta ...)"),
    ],
)
def test_files_that_are_no_trace_say_what_to_give(tmp_path: Path, content: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as error:
        load_trace(save(tmp_path / "f.json", cases.lines(content)))
    assert says in str(error.value)


def test_text_of_unknown_files_is_shown(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"not a trace of a known format \(it begins with 'time;tokens'\)"):
        load_trace(save(tmp_path / "f.csv", "time;tokens\n1;2\n"))
    with pytest.raises(SpecError, match=r"\(it is no text\)"):
        load_trace(save(tmp_path / "f.bin", b"\x00\x01\x02"))


def test_a_number_of_a_benchmark_needs_a_file_with_several(tmp_path: Path) -> None:
    path = save(tmp_path / "q.jsonl", cases.lines(*cases.BAILIAN))
    with pytest.raises(SpecError, match="has the format bailian, without benchmarks; leave --benchmark out"):
        load_trace(path, benchmark=1)


def test_every_format_is_in_the_docs_and_in_the_help() -> None:
    """docs/traces.md has a row for each format, and `trace --help` names it."""
    page = (DOCS / "traces.md").read_text()
    help_text = (Path(__file__).parents[1] / "cli/options/trace.txt").read_text()
    for name in FORMATS:
        assert re.search(rf"^\| (.*, )?{name}(,.*)? \|", page, re.MULTILINE), name
        assert re.search(rf"[ ,]{name}[ ,.]", help_text), name


def test_every_client_is_in_the_docs() -> None:
    """docs/files.md, docs/metrics.md and docs/calibrate.md name each client."""
    for page in ("files.md", "metrics.md", "calibrate.md"):
        text = (DOCS / page).read_text()
        for name in ("vllm bench serve", "SGLang", "AIPerf", "GuideLLM", "InferenceX"):
            assert name in text.replace("`", ""), (page, name)
