"""Results of benchmark clients: what was measured is what is read, and what is wrong is said."""

from __future__ import annotations

import gzip
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ingest.benchmark_cases import FORMS, KNOWN, aiperf, guidellm, vllm, written
from tokenworks.errors import SpecError
from tokenworks.ingest import load_benchmarks
from tokenworks.ingest.benchmark import Arrivals, Benchmark, Lengths, Time

LENGTHS = st.integers(20, 5000).flatmap(
    lambda mean: st.integers(0, mean // 2).map(lambda off: Lengths(float(mean), off / mean))
)
TIMES = st.floats(1e-4, 100).map(Time)


@st.composite
def benchmarks(draw: st.DrawFn) -> Benchmark:
    arrivals: Arrivals = draw(st.sampled_from(get_args(Arrivals)))
    return Benchmark(
        name="run.json",
        arrivals=arrivals,
        rate=0.0 if arrivals == "at once" else draw(st.floats(0.01, 500)),
        concurrency=draw(st.none() | st.integers(1, 64)),
        requests=2 * draw(st.integers(1, 200)),
        isl=draw(LENGTHS),
        osl=draw(LENGTHS),
        ttft=draw(st.none() | TIMES),
        tpot=draw(st.none() | TIMES),
        tokens_per_s=draw(st.floats(1, 1e6)),
    )


def same(read: Benchmark, truth: Benchmark) -> None:
    assert read.name.startswith(truth.name)
    assert (read.arrivals, read.concurrency, read.requests) == (truth.arrivals, truth.concurrency, truth.requests)
    for ours, theirs in ((read.isl, truth.isl), (read.osl, truth.osl)):
        assert (ours.mean, ours.variation) == pytest.approx((theirs.mean, theirs.variation), rel=1e-6)
    assert (read.rate, read.tokens_per_s) == pytest.approx((truth.rate, truth.tokens_per_s))
    for mine, other in ((read.ttft, truth.ttft), (read.tpot, truth.tpot)):
        assert (mine is None) == (other is None)
        if mine and other:
            assert mine.seconds == pytest.approx(other.seconds)
            assert mine.mean == other.mean


@given(benchmarks(), st.sampled_from(sorted(FORMS)))
def test_what_was_measured_is_what_is_read(truth: Benchmark, form: str) -> None:
    if form == "vllm" and truth.arrivals == "constant":
        return  # it has no such arrivals
    with tempfile.TemporaryDirectory() as folder:
        (benchmark,) = load_benchmarks(written(Path(folder), FORMS[form](truth)))
    same(benchmark, truth)


def test_a_report_of_several_loads_is_as_many_benchmarks(tmp_path: Path) -> None:
    several = [replace(KNOWN, concurrency=n, tpot=Time(0.004 * n)) for n in (1, 8, 64)]
    benchmarks = load_benchmarks(written(tmp_path, guidellm(*several)))
    assert [one.name for one in benchmarks] == [f"run.json concurrent {n}" for n in (1, 8, 64)]
    for one, truth in zip(benchmarks, several, strict=True):
        same(one, truth)


def test_a_mean_stands_in_for_a_median_and_says_so(tmp_path: Path) -> None:
    truth = replace(KNOWN, tpot=Time(0.008, mean=True))
    for form in (vllm, aiperf):
        (benchmark,) = load_benchmarks(written(tmp_path, form(truth)))
        same(benchmark, truth)


def test_throughput_with_fewer_requests_than_may_fly_is_a_burst(tmp_path: Path) -> None:
    truth = replace(KNOWN, concurrency=None)
    (benchmark,) = load_benchmarks(written(tmp_path, guidellm(truth)))
    assert benchmark.concurrency is None


def test_lengths_that_nobody_recorded_vary_unknown(tmp_path: Path) -> None:
    content = {key: value for key, value in vllm(KNOWN).items() if key not in ("input_lens", "output_lens")}
    (benchmark,) = load_benchmarks(written(tmp_path, content))
    assert benchmark.isl == Lengths(450.0, None)


def test_packed_files_are_read(tmp_path: Path) -> None:
    file = tmp_path / "run.json.gz"
    file.write_bytes(gzip.compress(json.dumps(aiperf(KNOWN)).encode()))
    (benchmark,) = load_benchmarks(file)
    same(benchmark, KNOWN)


def changed(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The content with one value replaced, or taken out (Ellipsis), by its dotted path."""
    *way, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    inner: Any = content
    for part in way:
        inner = inner[part]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return content


@pytest.mark.parametrize(
    ("form", "path", "value", "says"),
    [
        ("vllm", "total_input_tokens", ..., "missing required field `total_input_tokens`"),
        ("vllm", "median_tpot_ms", "8", "run.json: median_tpot_ms: expected `float | null`, got `str`"),
        ("vllm", "median_tpot_ms", -8, "run.json: median_tpot_ms: -8 must be above zero"),
        ("vllm", "completed", 0, "no request completed"),
        ("vllm", "request_rate", -2, "run.json: request_rate: -2 must be above zero"),
        ("vllm", "total_token_throughput", 0, "run.json: total_token_throughput: 0 must be above zero"),
        ("aiperf", "input_sequence_length", ..., "missing required field `input_sequence_length`"),
        ("aiperf", "input_sequence_length.unit", "words", "input_sequence_length: unit 'words'; want 'tokens'"),
        ("aiperf", "benchmark_duration.avg", 0, "benchmark_duration: 0 must be above zero"),
        ("aiperf", "request_count", {"unit": "requests", "avg": 0}, "no request completed"),
        ("aiperf", "was_cancelled", True, "the run was cancelled"),
        (
            "aiperf",
            "input_config.phases.1.type",
            "fixed_schedule",
            "phases: type: 'fixed_schedule' cannot be simulated; these can",
        ),
        ("aiperf", "input_config.phases", [], "input_config.phases: 0 profiled phases"),
        ("guidellm", "benchmarks", [], "run.json: benchmarks: the report has no benchmark"),
        ("guidellm", "benchmarks.0.metrics.request_totals", ..., "run.json: benchmarks[0].metrics: object missing"),
        ("guidellm", "benchmarks.0.metrics.request_totals.successful", 0, "benchmarks[0]: no request completed"),
        (
            "guidellm",
            "benchmarks.0.metrics.prompt_token_count.successful",
            None,
            "benchmarks[0].metrics.prompt_token_count: no lengths of successful requests",
        ),
        (
            "guidellm",
            "benchmarks.0.config.strategy.type_",
            "trace",
            "config.strategy.type_: 'trace' cannot be simulated; these can",
        ),
        ("guidellm", "benchmarks.0.duration", 0, "benchmarks[0]: duration: 0 must be above zero"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, form: str, path: str, value: Any, says: str) -> None:
    file = written(tmp_path, changed(FORMS[form](KNOWN), path, value))
    with pytest.raises(SpecError) as error:
        load_benchmarks(file)
    assert says in str(error.value)
    assert str(file) in str(error.value)


def test_other_arrivals_of_vllm_are_refused(tmp_path: Path) -> None:
    content = changed(vllm(replace(KNOWN, arrivals="poisson", rate=4.0)), "burstiness", 0.5)
    with pytest.raises(SpecError, match=r"burstiness: 0.5 cannot be simulated; only Poisson"):
        load_benchmarks(written(tmp_path, content))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no JSON object"),
        ("{", "is no JSON object"),
        ("[]", "has no benchmark; the list in the file is empty"),
        ("[1]", "is no JSON object"),
        ("{}", "no benchmark result of a known client (it has no keys)"),
        ('{"metadata": 1, "metrics": 2}', "(it has metadata, metrics); known are: result of vllm bench serve"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "is no JSON object"),
    ],
)
def test_files_of_nobody(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(SpecError) as error:
        load_benchmarks(file)
    assert says in str(error.value)
