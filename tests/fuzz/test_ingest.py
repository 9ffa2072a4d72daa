"""Mutated files of every format: a trace, benchmarks or a SpecError comes out, soon, and nothing else."""

import contextlib
import gzip
import io
import json
import lzma
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.damage import tries
from tests.ingest import benchmark_cases, format_cases
from tests.ingest.conftest import cache_folder  # noqa: F401
from tests.ingest.test_readers import AZURE, GOOD, bench, call, lab, session
from tokenworks.errors import SpecError
from tokenworks.ingest import FORMATS, load_benchmarks, load_trace
from tokenworks.ingest.benchmark import Load

SOON_S = 5.0


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


SUB = {"type": "subagent", "t": 32.0, "duration_ms": 30000, "requests": [call(0, 64, [50, 1])]}
TALK = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "good day to you"}]
TRACES: dict[str, bytes] = {
    "sharegpt": json.dumps([{"id": "a", "conversations": TALK * 2}]).encode(),
    "agents": lines(session(call(0, 130, [1, 2]), SUB, call(50.0, 200, [1, 3], think=48.5, type="s"))),
    "recording": format_cases.lines(*format_cases.RECORDING),
    "mooncake": lines(GOOD, {**GOOD, "class": "chat"}, {**GOOD, "hash_ids": []}),
    "tracelab": lines(lab("a", 256, 128, "00.000", "02.000"), lab("a", 384, 192, "05.500", "06.000")),
    "vllm-bench": lines(bench(request_rate="inf", max_concurrency=2)),
    "llmservingsim": lines({"input_toks": 2361, "output_toks": 532, "arrival_time": 1777142984.5}),
    "azure": AZURE.encode(),
    "bailian": format_cases.lines(*format_cases.BAILIAN),
    "aiperf": format_cases.lines(format_cases.RECORDS[0], format_cases.RECORDS[1]),
    "guidellm": lines({**format_cases.guidellm(), "benchmarks": format_cases.guidellm()["benchmarks"][:1]}),
    "otel": lines(format_cases.otel(format_cases.span(0, 9, "5"), format_cases.span(7, 90, 8))),
    "sglang-bench": format_cases.lines(format_cases.sglang(**format_cases.DETAILS)),
    "per-request": format_cases.PER_REQUEST.rpartition(",,,,20")[0].encode(),
    "servegen": format_cases.SERVEGEN.encode(),
    "burstgpt": b"Timestamp,Model,Request tokens,Response tokens,class\n5,ChatGPT,472,18,\n45.5,GPT-4,1087,4,chat\n",
}
BENCHMARKS = {name: json.dumps(form(benchmark_cases.KNOWN)).encode() for name, form in benchmark_cases.FORMS.items()}
BENCHMARKS |= {
    "sglang": format_cases.lines(format_cases.sglang(), format_cases.sglang(**format_cases.DETAILS)),
    "inferencex": lines(format_cases.INFERENCEX),
    "inferencex-multi": lines([format_cases.INFERENCEX_MULTI, format_cases.INFERENCEX]),
    "guidellm-requests": lines(format_cases.guidellm(2)),
    "aiperf-records": lines(*format_cases.RECORDS),
    "vllm-2025": lines(format_cases.VLLM_2025),
}

with contextlib.suppress(ImportError):
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    columns = {"arrival_s": [0.0, 1.5], "input_tokens": [512, 7], "output_tokens": [6, 6], "class": ["a", "b"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    TRACES["per-request-parquet"] = buffer.getvalue()

NUMBERS = [
    "0",
    "-1",
    "1e999",
    "-0.0",
    "1e-300",
    "2147483648",
    "16777217",
    "9223372036854775808",
    "9" * 400,
    "0.5",
    "1e12",
]
VALUES = [
    *NUMBERS,
    "null",
    "true",
    '""',
    '"x"',
    "[]",
    "{}",
    "[0, 0]",
    "[[]]",
    "NaN",
    '"\\ud800"',
    '"\x1b[31m"',
    "[" * 3000,
]
BYTES = [b"\xff", b"\x00", b"\n", b"\r", b'"', b",", b"{", b"]", b"\xef\xbb\xbf", b"\x1b[2J", "é".encode(), b" " * 5000]
VALUE = re.compile(rb'(?<=[:,\[\n ])(-?[0-9][0-9.e+-]*|"[^"]*"|null|true|false)(?=[,\]}\n ])')
PACKED: list[Callable[[bytes], bytes]] = [
    bytes,
    bytes,
    gzip.compress,
    lzma.compress,
    lambda data: gzip.compress(data)[:-9],
]


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """A few values, bytes or stretches are not what they were."""
    data = whole
    for _ in range(draw(st.integers(1, 4))):
        values = list(VALUE.finditer(data))
        how = draw(st.sampled_from(["value", "value", "value", "bytes", "cut", "twice", "end"]))
        at, to = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        if how == "value" and values:
            found = draw(st.sampled_from(values))
            data = data[: found.start()] + draw(st.sampled_from(VALUES)).encode() + data[found.end() :]
        elif how == "bytes":
            data = data[:at] + draw(st.sampled_from(BYTES)) + data[at:]
        elif how == "cut":
            data = data[:at] + data[to:]
        elif how == "twice" and len(data) < 100_000:
            data = data[:to] + data[at:]
        elif how == "end":
            data = data[:to]
    return draw(st.sampled_from(PACKED))(data)


def only_words(read: Callable[[], object]) -> None:
    """Reading ends soon, by itself or with a SpecError that can be printed."""
    start = time.perf_counter()
    with contextlib.suppress(SpecError):
        read()
    assert time.perf_counter() - start < SOON_S


def trace_file(folder: Path) -> Path:
    """A file with the name of a ServeGen client, beside the lengths of that client."""
    (folder / "chunk-0-dataset.json").write_text(json.dumps(format_cases.DATASET))
    return folder / "chunk-0-trace.csv"


@pytest.mark.parametrize("form", [form for form in FORMATS if form in TRACES or form != "per-request-parquet"])
def test_mutated_traces(form: str, tmp_path: Path) -> None:
    path = trace_file(tmp_path)

    @tries(80)
    @given(mutated(TRACES[form]), st.booleans(), st.booleans())
    def law(data: bytes, named: bool, strict: bool) -> None:
        path.write_bytes(data)
        only_words(lambda: load_trace(path, form if named else None, strict=strict))

    law()


@pytest.mark.parametrize("form", BENCHMARKS)
def test_mutated_benchmarks(form: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"

    @tries(80)
    @given(mutated(BENCHMARKS[form]), st.none() | st.just(Load("at once")))
    def law(data: bytes, load: Load | None) -> None:
        path.write_bytes(data)
        only_words(lambda: load_benchmarks(path, load=load))

    law()


@pytest.mark.parametrize("form", [form for form in FORMATS if form in TRACES or form != "per-request-parquet"])
def test_what_is_mutated_is_a_trace(form: str, tmp_path: Path) -> None:
    path = trace_file(tmp_path)
    path.write_bytes(TRACES[form])
    assert load_trace(path).dropped == ()


def test_mutated_lengths_of_servegen(tmp_path: Path) -> None:
    path = trace_file(tmp_path)
    path.write_text(format_cases.SERVEGEN)

    @tries(80)
    @given(mutated(json.dumps(format_cases.DATASET).encode()), st.booleans())
    def law(data: bytes, strict: bool) -> None:
        path.with_name("chunk-0-dataset.json").write_bytes(data)
        only_words(lambda: load_trace(path, strict=strict))

    law()
