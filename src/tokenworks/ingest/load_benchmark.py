"""The clients whose benchmark results can be read, their detection, and `load_benchmarks`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokenworks.errors import SpecError
from tokenworks.ingest import aiperf, aiperf_records, guidellm, inferencex, recording, sglang_summary, vllm_summary
from tokenworks.ingest.benchmark import Benchmark, Load
from tokenworks.ingest.load import format_of, other_kind
from tokenworks.ingest.rows import Rows, standard_json, wrong_benchmark
from tokenworks.ingest.runs import Run, broken_lines, runs_of


@dataclass(frozen=True, slots=True)
class Client:
    """A benchmark client.

    Parameters
    ----------
    read : reader: (JSON object of the file, its place for messages, name of the point) -> benchmarks, or errors of
        benchmarks that cannot be used
    marks : keys that every result of this client has, and no result of another client
    form : name of the format for messages
    """

    read: Callable[[bytes, str, str], Sequence[Benchmark | SpecError]]
    marks: tuple[str, ...]
    form: str


CLIENTS: dict[str, Client] = {
    "vllm": Client(vllm_summary.read, ("backend", "total_token_throughput"), vllm_summary.FORM),
    "sglang": Client(sglang_summary.read, ("backend", "total_output_tokens_retokenized"), sglang_summary.FORM),
    "aiperf": Client(aiperf.read, ("aiperf_version", "request_count"), aiperf.FORM),
    "guidellm": Client(guidellm.read, ("metadata", "benchmarks"), guidellm.FORM),
    "inferencex": Client(inferencex.read, ("hw", "conc", "tput_per_gpu"), inferencex.FORM),
}
RECORD = ("metadata", "metrics", "error")
"""Keys of a line of AIPerf's profile_export.jsonl. All lines of the file are one benchmark."""
UNSAID = "the file does not say how the client sent its requests"


@dataclass(frozen=True, slots=True)
class BenchmarkFile:
    """The benchmarks of a file.

    Parameters
    ----------
    benchmarks : the benchmarks
    notes : what the file has and the benchmarks do not: broken lines, and benchmarks that cannot be used
    records_load : False if the load of the user was needed, because the file does not record one
    """

    benchmarks: tuple[Benchmark, ...]
    notes: tuple[str, ...] = ()
    records_load: bool = True


def load_benchmarks(path: Path, *, benchmark: int | None = None, load: Load | None = None) -> tuple[Benchmark, ...]:
    """The benchmarks in a result file; see `read_benchmarks`."""
    return read_benchmarks(path, benchmark=benchmark, load=load).benchmarks


def read_benchmarks(path: Path, *, benchmark: int | None = None, load: Load | None = None) -> BenchmarkFile:
    """Read the benchmarks in a result file of any known client, plain, .gz or .xz.

    A benchmark that cannot be used is left out with a note, if the file has another one.

    Parameters
    ----------
    path : the file
    benchmark : read only the benchmark with this number, from 1 on; None: all
    load : load of benchmarks whose file does not record it; None: such a benchmark cannot be used

    Raises
    ------
    SpecError : a file that cannot be read, of an unknown client, or incomplete; or no benchmark can be used
    """
    where, rows = str(path), Rows(path)
    data = standard_json(rows.document())
    try:
        runs = runs_of(data, where)
    except SpecError as error:
        raise SpecError(error.message, where=where, hint=f"known are: {_known()}") from None
    notes = broken_lines(data, where, runs)
    outcomes = _outcomes(runs, rows, path.name)
    if benchmark is not None:
        if not 1 <= benchmark <= len(outcomes):
            raise wrong_benchmark(benchmark, len(outcomes), path)
        outcomes = [outcomes[benchmark - 1]]
    recorded = all(isinstance(outcome, SpecError) or outcome.arrivals is not None for outcome in outcomes)
    outcomes = [_loaded(outcome, load, where) for outcome in outcomes]
    good = tuple(outcome for outcome in outcomes if isinstance(outcome, Benchmark))
    errors = [outcome for outcome in outcomes if isinstance(outcome, SpecError)]
    if not good:
        raise errors[0]
    return BenchmarkFile(good, (*notes, *(f"left out: {error}" for error in errors)), recorded)


def _outcomes(runs: Sequence[Run], rows: Rows, name: str) -> list[Benchmark | SpecError]:
    """Each benchmark of the file, or the error of a benchmark that cannot be used, in the order of the file."""
    if not runs:
        raise SpecError("has no benchmark", where=str(rows.path), hint="the list in the file is empty")
    if all(mark in runs[0].keys for mark in RECORD):
        lines = [(run.place, run.data) for run in runs]
        return [aiperf_records.benchmark_of(lines, str(rows.path), name)]
    if all(mark in runs[0].keys for mark in recording.MARKS):
        return [recording.benchmark_of([(run.place, run.data) for run in runs], str(rows.path), name)]
    outcomes: list[Benchmark | SpecError] = []
    for number, run in enumerate(runs, 1):
        try:
            label = name if len(runs) == 1 else f"{name} run {number}"
            outcomes += _client(run, rows).read(run.data, run.place, label)
        except SpecError as error:
            outcomes.append(error)
    return outcomes


def _client(run: Run, rows: Rows) -> Client:
    """The client that wrote a run, recognised by the keys of the run; an error if no client fits."""
    for client in CLIENTS.values():
        if all(mark in run.keys for mark in client.marks):
            return client
    if form := format_of(rows):
        hint = f"give a result of a benchmark client; this file can be played with `simulate --trace {rows.path}`"
        raise SpecError(f"is a trace of the format {form}", where=run.place, hint=hint)
    if other := other_kind(rows.head):
        raise SpecError(other[0], where=run.place, hint=other[1])
    words = f"is no benchmark result of a known client (it has {_first(list(run.keys))})"
    raise SpecError(words, where=run.place, hint=f"known are: {_known()}")


def _loaded(outcome: Benchmark | SpecError, load: Load | None, where: str) -> Benchmark | SpecError:
    """The benchmark with the load of the user, if its file does not record a load."""
    if isinstance(outcome, SpecError) or outcome.arrivals is not None:
        return outcome
    if load is None:
        hint = "say it: --load concurrency=16, --load rate=2.5 (Poisson, requests per second) or --load burst"
        return SpecError(UNSAID, where=where, hint=hint)
    return replace(outcome, arrivals=load.arrivals, rate=load.rate, concurrency=load.concurrency)


def _known() -> str:
    """The names of all formats of results, for a message."""
    return "; ".join([*(client.form for client in CLIENTS.values()), aiperf_records.FORM, recording.FORM])


def _first(keys: list[str]) -> str:
    """The first five keys, for a message."""
    return ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "") if keys else "no keys"
