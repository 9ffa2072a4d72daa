"""The clients whose benchmark results can be read, their detection, and `load_benchmarks`."""

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
    """A benchmark client.

    Parameters
    ----------
    read : reader: (bytes of the file, its path for messages, name of the point) -> benchmarks
    marks : keys that every result of this client has, and no result of another client
    form : name of the format for messages
    """

    read: Callable[[bytes, str, str], tuple[Benchmark, ...]]
    marks: tuple[str, ...]
    form: str


CLIENTS: dict[str, Client] = {
    "vllm": Client(vllm_summary.read, ("backend", "total_token_throughput"), vllm_summary.FORM),
    "aiperf": Client(aiperf.read, ("aiperf_version", "input_config"), aiperf.FORM),
    "guidellm": Client(guidellm.read, ("metadata", "benchmarks"), guidellm.FORM),
}


def load_benchmarks(path: Path) -> tuple[Benchmark, ...]:
    """Read the benchmarks in a result file of any known client, plain, .gz or .xz.

    Parameters
    ----------
    path : the file

    Raises
    ------
    SpecError : a file that cannot be read, of an unknown client, or incomplete; or a run with failed requests
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
    raise SpecError(f"is no benchmark result of a known client (it has {_first(list(keys))})", where=where, hint=hint)


def _known() -> str:
    return "; ".join(client.form for client in CLIENTS.values())


def _first(keys: list[str]) -> str:
    """The first five keys, for a message."""
    return ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "") if keys else "no keys"
