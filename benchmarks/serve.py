"""Speed of the endpoint on this computer: concurrent streams and tokens a second until tokens come late.

The server runs in a process of its own, on one core. The client of this file runs on the other core and only reads.
Lateness is the time between the simulated end of a step and the moment when the server writes the token; the server
counts it (`tokenworks_token_lateness_seconds`). The replicas of the deployment are out of step, as requests come spread
over time. `--together` sends all requests at once to one replica: all tokens of a step leave at the same time.

    python benchmarks/serve.py --streams 300,600,900,1200 --seconds 10
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TPOT_S = 0.020
"""Time between the tokens of a stream [s]."""
LATE_MS = 10.0


def deployment(replicas: int, streams: int) -> str:
    """A deployment whose steps take about `TPOT_S`: the number of sequences hardly changes them."""
    roles = [{"name": "aggregated", "replicas": replicas, "max_sequences": max(16, -(-2 * streams // replicas))}]
    return json.dumps({"model": "meta-llama/Meta-Llama-3.1-8B", "system": f"hgx-h100:{replicas}", "roles": roles})


class Reader(asyncio.Protocol):
    """A client that sends one request and reads its stream."""

    def __init__(self, request: bytes, done: asyncio.Future[int]) -> None:
        self.request, self.done, self.size = request, done, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.size += len(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it
        if not self.done.done():
            self.done.set_result(self.size)


async def load(port: int, streams: int, seconds: float, *, together: bool) -> None:
    """Open the streams, and close them after `seconds`."""
    loop = asyncio.get_running_loop()
    body = json.dumps({"prompt": "hello", "max_tokens": 100_000, "stream": True, "ignore_eos": True}).encode()
    request = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    before = (await scrape(port))["process_resident_memory_bytes"]
    transports = []
    for i in range(streams):
        transport, _ = await loop.create_connection(lambda: Reader(request, loop.create_future()), "127.0.0.1", port)
        transports.append(transport)
        if not together and i % 10 == 0:
            await asyncio.sleep(0.0137)
    await asyncio.sleep(1.0)
    marks = [await scrape(port), time.monotonic()]
    await asyncio.sleep(seconds)
    marks += [await scrape(port), time.monotonic()]
    report(marks, streams, before)
    for transport in transports:
        transport.abort()
    await asyncio.sleep(0.5)


async def scrape(port: int) -> dict[str, float]:
    """The metrics of the server that this benchmark reads."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    values: dict[str, float] = {}
    for name, labels, value in re.findall(r"^([\w:]+)(?:\{(.*)\})? (\S+)$", text, re.M):
        if name == "tokenworks_token_lateness_seconds_bucket":
            values[f"late {labels[4:-1]}"] = float(value)
        values[name] = values.get(name, 0.0) + float(value)
    return values


def report(marks: list[Any], streams: int, before: float) -> None:
    """Print one row.

    marks : metrics and times at the beginning and the end
    before : memory of the server without streams [byte]
    """
    first, then, last, now = marks
    tokens = last["vllm:generation_tokens_total"] - first["vllm:generation_tokens_total"]
    cpu = last["process_cpu_seconds_total"] - first["process_cpu_seconds_total"]
    buckets = {name: last[name] - first[name] for name in last if name.startswith("late ")}
    whole = buckets["late +Inf"]
    p99 = next((name[5:] for name, count in buckets.items() if count >= 0.99 * whole), "+Inf")
    memory = last["process_resident_memory_bytes"]
    print(
        f"{streams:7,} streams {tokens / (now - then):9,.0f} tokens/s  p99 late <= {1e3 * float(p99):5.1f} ms  "
        f"{1e6 * cpu / max(tokens, 1):5.1f} us of CPU a token  {cpu / (now - then):4.2f} cores  "
        f"{(memory - before) / streams / 1e3:4.1f} kB a stream"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="100,300,600,900,1200")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--together", action="store_true")
    given = parser.parse_args()
    counts = [int(one) for one in given.streams.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "deployment.yaml")
        file.write_text(deployment(given.replicas, max(counts)))
        command = [sys.executable, "-m", "tokenworks", "serve", str(file), "--port", "0", "--drain", "0"]
        server = subprocess.Popen([*command, "--set", f"engine.host_step={1e3 * TPOT_S:g}ms"], stderr=subprocess.PIPE)
        assert server.stderr is not None
        line = ""
        while "http://" not in line:
            line = server.stderr.readline().decode()
            assert line, "the server did not start"
        match = re.search(r":(\d+),", line)
        assert match
        try:
            for count in counts:
                run(load(int(match[1]), count, given.seconds, together=given.together))
        finally:
            server.terminate()
            server.wait(10)


def run(work) -> None:  # type: ignore[no-untyped-def]
    """Run a client, on uvloop if it is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


if __name__ == "__main__":
    main()
