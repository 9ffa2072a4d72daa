"""Benchmark results by what stands in them, and `load_benchmarks`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tokenworks.errors import SpecError
from tokenworks.ingest import aiperf, guidellm, vllm_summary
from tokenworks.ingest.benchmark import Benchmark
from tokenworks.ingest.rows import UNDECODABLE, Rows


@dataclass(frozen=True, slots=True)
class Client:
    """A reader, of bytes, their place and the name of the point; and keys that its files and no other's have."""

    read: Callable[[bytes, str, str], tuple[Benchmark, ...]]
    marks: tuple[str, ...]
    form: str


CLIENTS: dict[str, Client] = {
    "vllm": Client(vllm_summary.read, ("backend", "total_token_throughput"), vllm_summary.FORM),
    "aiperf": Client(aiperf.read, ("aiperf_version", "input_config"), aiperf.FORM),
    "guidellm": Client(guidellm.read, ("metadata", "benchmarks"), guidellm.FORM),
}


def load_benchmarks(path: Path) -> tuple[Benchmark, ...]:
    """The benchmarks of a result file of any known client, plain, .gz or .xz.

    Raises
    ------
    SpecError : unreadable, of no known client, incomplete, or of a run that says nothing: requests failed
    """
    where, data = str(path), Rows(path).document()
    try:
        keys = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except UNDECODABLE as error:
        raise SpecError(f"is no JSON object: {error}", where=where, hint=f"known are: {_known()}") from None
    for client in CLIENTS.values():
        if all(mark in keys for mark in client.marks):
            return client.read(data, where, path.name)
    hint = f"known are: {_known()}"
    raise SpecError(f"is no benchmark result of a known client (it has {_some(list(keys))})", where=where, hint=hint)


def _known() -> str:
    return "; ".join(client.form for client in CLIENTS.values())


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "") if keys else "no keys"
