"""The endpoint on this computer: streams and tokens a second until tokens come late, and its times beside `simulate`.

The server runs in a process of its own. The client of this file only reads. Lateness is the time between the simulated
end of a step and the moment when the server writes the token; the server counts it
(`tokenworks_token_lateness_seconds`). Steps take about 20 ms, and the replicas are out of step, because the streams
begin one after the other. With `--replicas 1`, the tokens of all streams leave at the same time.

A virtual machine may be slow for a moment without saying so. So a watcher on each core notes when this happens
(`watch`), and each row has the p99 of all tokens, the p99 of tokens that were due outside of slow spells of the
server's core (and of turns in which other programs had this core), and the share of these tokens. A line below the row
has the longest stretch of time in which no core was slow, and the p99 of all tokens that were due and written in it.
Server and client have a core each.

    python -m benchmarks.serve --streams 300,600,900,1200 --seconds 10
    python -m benchmarks.serve --memory --streams 300,600,900,1200,1500
    python -m benchmarks.serve --fidelity 4 --requests 200
    python -m benchmarks.serve --soak 30
    python -m benchmarks.serve --recorder 50
    python -m benchmarks.serve --fidelity 4 --requests 200 --faults examples/faults.yaml --on-loss migrate

With `--faults`, both play the schedule as well. Then the figures are of the requests that completed, and of those that
came within a minute after the first fault.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tokenworks
from benchmarks.watch import Spells, Writes, quiet, slow
from tokenworks.engine.types import Status
from tokenworks.specs.faults import load_faults

STEP_MS = 26
"""Host time of a step, which most of the step is: 150 sequences in a replica get a token every 20 ms [ms]."""
OPEN_S = 0.0015
"""Time between two streams that open [s]."""
LONG = 2000
"""Tokens of the streams whose memory is measured, which take 40 s [token]."""
SERVER, CLIENT = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
"""Cores of the server and of the client."""
MODEL = "meta-llama/Meta-Llama-3.1-8B"


def deployment(replicas: int, sequences: int) -> dict[str, Any]:
    roles = [{"name": "aggregated", "replicas": replicas, "max_sequences": sequences}]
    return {"model": MODEL, "system": f"hgx-h100:{replicas}", "roles": roles}


class Started(NamedTuple):
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    port: int


def started(command: Sequence[str]) -> Started:
    """Start `tokenworks serve`, and wait until it listens.

    Parameters
    ----------
    command : the command
    """
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = ""
    while "http://" not in line:
        line = process.stderr.readline()
        assert line, "the server did not start"
    match = re.search(r":(\d+),", line)
    assert match
    return Started(process, int(match[1]))


@contextmanager
def served(folder: str, plan: dict[str, Any], *options: str, noted: Path | None = None) -> Iterator[int]:
    """A server in a process of its own; its port.

    Parameters
    ----------
    folder : folder for the file of the deployment
    plan : the deployment
    options : options of `tokenworks serve`
    noted : file for `watch.Writes`; the server then has a core of its own
    """
    file = Path(folder, "deployment.yaml")
    file.write_text(json.dumps(plan))
    start = ["tokenworks"] if noted is None else ["benchmarks.watch", str(noted), str(SERVER)]
    command = [sys.executable, "-m", *start, "serve", str(file), "--port", "0", "--drain", "0", *options]
    server = started(command)
    try:
        yield server.port
    finally:
        server.process.terminate()
        server.process.wait(60)


class Reader(asyncio.Protocol):
    """A client that sends one request and reads its stream."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.sent = self.first = self.last = 0.0
        self.failed = False
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.sent = time.perf_counter()
        transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.first and b"data: {" in data:
            self.first = now
        if b'"text"' in data:
            self.last = now
        self.failed |= b'"error"' in data
        if data.endswith(b"0\r\n\r\n") or data.startswith(b"HTTP/1.1 5"):
            self.done.set_result(None)


def completion(prompt: Any, tokens: int) -> bytes:
    body = {"prompt": prompt, "max_tokens": tokens, "stream": True, "ignore_eos": True}
    data = json.dumps(body).encode()
    return b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)


async def scraped(port: int) -> str:
    """The text of the metrics of the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    return text


async def scrape(port: int) -> dict[str, float]:
    """The metrics of the server, summed over labels."""
    values: dict[str, float] = {}
    for name, value in re.findall(r"^([\w:]+)(?:\{.*\})? (\S+)$", await scraped(port), re.MULTILINE):
        values[name] = values.get(name, 0.0) + float(value)
    return values


def p99(values: np.ndarray[Any, Any]) -> float:
    """The 99th percentile; NaN of nothing."""
    return float(np.percentile(values, 99)) if len(values) else math.nan


async def opened(port: int, streams: int, request: bytes) -> list[asyncio.Transport]:
    """Open streams, one after the other."""
    loop, transports = asyncio.get_running_loop(), list[asyncio.Transport]()
    for _ in range(streams):
        transport, _ = await loop.create_connection(lambda: Reader(request), "127.0.0.1", port)
        transports.append(transport)
        await asyncio.sleep(OPEN_S)
    return transports


async def load(port: int, streams: int, seconds: float, scrapes: int) -> tuple[str, float, float]:
    """Open the streams, read for `seconds`, close them. Returns the first half of a row, and begin and end [s]."""
    request = completion("hello", int(50 * (OPEN_S * streams + seconds + 30)))
    transports = await opened(port, streams, request)
    await asyncio.sleep(1.0)
    first, began = await scrape(port), time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0:
        await asyncio.sleep(min(left, 1 / scrapes if scrapes else left))
        if scrapes:
            await scraped(port)
    last, ended = await scrape(port), time.monotonic()
    clock = "tokenworks_simulated_seconds_total"  # the client may be late itself, so the clock is the server's
    passed = last[clock] - first[clock]
    tokens = last["vllm:generation_tokens_total"] - first["vllm:generation_tokens_total"]
    cpu = last["process_cpu_seconds_total"] - first["process_cpu_seconds_total"]
    for transport in transports:
        transport.abort()
    await asyncio.sleep(0.5)
    row = (
        f"{streams:6,} streams {tokens / passed:9,.0f} tokens/s  {1e6 * cpu / max(tokens, 1):5.1f} us of CPU a token  "
        f"{cpu / passed:4.2f} cores"
    )
    return row, began, ended


def loads(folder: str, given: argparse.Namespace) -> None:
    """A row for each number of streams."""
    counts = [int(one) for one in given.streams.split(",")]
    plan = deployment(given.replicas, max(16, -(-2 * max(counts) // given.replicas)))
    noted, rows = Path(folder, "writes.npz"), list[tuple[str, float, float]]()
    with Spells().watched() as spells:
        with served(folder, plan, "--set", f"engine.host_step={STEP_MS}ms", noted=noted) as port:
            os.sched_setaffinity(0, {CLIENT})
            for count in counts:
                rows.append(run(lambda count=count: load(port, count, given.seconds, given.scrapes)))  # type: ignore[misc]
        writes = Writes(noted)
    for core in spells.of:
        print(spells.told(core))
    due = writes.times - writes.lates
    for row, began, ended in rows:
        own = (writes.times >= began) & (writes.times < ended)
        lates = 1e3 * writes.lates[own]
        calm = ~slow(due[own], writes.times[own], spells.of[SERVER], writes.waits)
        late = lates > 10
        print(
            f"{row}  late p50 {np.median(lates):4.1f}, p99 {p99(lates):5.1f} ms; outside of slow spells "
            f"({100 * calm.mean():.1f} % of the tokens) p99 {p99(lates[calm]):4.1f} ms, "
            f"late by more than 10 ms {100 * late.mean():.2f} % of all, {100 * (late & calm).mean():.2f} % outside"
        )
        if spells.seen:
            print(f"       {quietest(writes, *quiet(began, ended, *spells.of.values(), writes.waits))}")


def quietest(writes: Writes, start: float, stop: float) -> str:
    """A sentence about the longest quiet stretch: all tokens that were due and written in it.

    Parameters
    ----------
    writes : what the server wrote
    start, stop : begin and end of the stretch [s]
    """
    lates = 1e3 * writes.lates[(writes.times - writes.lates >= start) & (writes.times < stop)]
    if not len(lates):
        return "no quiet stretch"
    return (
        f"longest quiet stretch {stop - start:.1f} s: {len(lates):,} tokens, {len(lates) / (stop - start):,.0f} "
        f"tokens/s, late p50 {np.median(lates):.1f}, p99 {p99(lates):.1f}, at most {lates.max():.1f} ms"
    )


async def memory(port: int, counts: list[int]) -> None:
    """Memory of each new stream of a fresh server, and of one whose streams have left.

    Parameters
    ----------
    port : port of a server that has answered nothing
    counts : streams that are open at the same time, one number after the other
    """
    transport, reader = await asyncio.get_running_loop().create_connection(
        lambda: Reader(completion("hello", 2)), "127.0.0.1", port
    )
    await reader.done  # code that the first request loads is no memory of a stream
    transport.abort()
    request = completion("hello", LONG)
    for name in ("fresh", "again"):
        transports, rows = list[asyncio.Transport](), list[str]()
        await asyncio.sleep(1.0)
        start = before = (await scrape(port))["process_resident_memory_bytes"]
        for count in counts:
            new = count - len(transports)
            transports += await opened(port, new, request)
            await asyncio.sleep(1.0)
            after = (await scrape(port))["process_resident_memory_bytes"]
            assert not any(one.get_protocol().done.done() for one in transports)  # type: ignore[attr-defined]
            rows.append(f"{(after - before) / new / 1e3:.1f}")
            before = after
        mean = (before - start) / counts[-1] / 1e3
        print(f"{name}: {start / 1e6:.1f} MB at the start, {', '.join(rows)} kB a new stream, mean {mean:.1f} kB")
        for one in transports:
            one.abort()


async def fail(port: int, schedule: dict[str, Any]) -> None:
    """Let the faults of a schedule come, counted from now."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(schedule).encode()
    head = b"POST /admin/faults HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % len(data) + data)
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200"), answer
    writer.close()


async def play(
    port: int, rows: list[dict[str, Any]], speed: float, schedule: dict[str, Any] | None
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Send the requests of a trace at their times; TTFT and TPOT of each, on the logical clock [s]. NaN: it failed."""
    loop, rng = asyncio.get_running_loop(), np.random.default_rng(1)
    requests = [
        completion(rng.integers(0, 1 << 31, row["input_length"]).tolist(), row["output_length"]) for row in rows
    ]
    if schedule is not None:
        await fail(port, schedule)
    began, readers = time.perf_counter(), list[Reader]()
    for row, request in zip(rows, requests, strict=True):
        await asyncio.sleep(max(0.0, began + row["timestamp"] / 1e3 / speed - time.perf_counter()))
        _, reader = await loop.create_connection(lambda request=request: Reader(request), "127.0.0.1", port)  # type: ignore[misc]
        readers.append(reader)
    await asyncio.gather(*(reader.done for reader in readers))
    return speed * np.array([
        (np.nan, np.nan) if one.failed else
        (one.first - one.sent, (one.last - one.first) / max(row["output_length"] - 1, 1))
        for one, row in zip(readers, rows, strict=True)
    ])  # fmt: skip


def beside(name: str, simulated: np.ndarray[Any, Any], seen: np.ndarray[Any, Any]) -> None:
    """Print the mean and the p99 of both [ms]."""
    for statistic, value in (("mean", np.mean), ("p99", lambda x: np.percentile(x, 99))):
        one, two = float(value(simulated)), float(value(seen))
        print(f"{name} {statistic:4}  simulate {one:8.2f} ms  serve {two:8.2f} ms  {100 * (two / one - 1):+6.2f} %")


def fidelity(folder: str, given: argparse.Namespace) -> None:
    """Play one trace through `simulate` and through the endpoint, and print both."""
    rate, count, speed = given.fidelity, given.requests, given.speed
    schedule = None if given.faults is None else load_faults(given.faults)
    rng = np.random.default_rng(0)
    times = 1e3 * np.cumsum(rng.exponential(1 / rate, count))
    inputs = np.clip(rng.lognormal(6.3, 0.8, count), 20, 6000).astype(int)
    outputs = np.clip(rng.lognormal(4.6, 0.6, count), 8, 600).astype(int)
    rows, block = [], 0
    for when, isl, osl in zip(times.tolist(), inputs.tolist(), outputs.tolist(), strict=True):
        ids = list(range(block, block := block + -(-isl // 512)))
        rows.append({"timestamp": when, "input_length": isl, "output_length": osl, "hash_ids": ids})
    trace, plan = Path(folder, "trace.jsonl"), deployment(2, 64) | {"on_loss": given.on_loss}
    trace.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    simulation = tokenworks.simulate(plan, trace=trace, faults=schedule)
    outcome = simulation.outcome
    ttft = outcome.first_token_s - outcome.arrival_s
    tpot = (outcome.end_s - outcome.first_token_s) / np.maximum(outcome.output_tokens - 1, 1)
    with served(folder, plan, "--trace", str(trace), "--speed", str(speed)) as port:
        live = run(lambda: play(port, rows, speed, None if schedule is None else schedule.written()))
    done, seconds = outcome.status == Status.COMPLETED, np.array(times) / 1e3
    if schedule is not None:
        print(f"failed  simulate {np.sum(~done)}  serve {np.isnan(live[:, 0]).sum()}  of {count}")
    parts = {"all": np.ones(count, bool)}
    if schedule is not None:
        first = schedule.sorted_faults()[0].at
        parts["minute after the fault"] = (seconds >= first) & (seconds < first + 60)
    for part, chosen in parts.items():
        for name, simulated, seen in (("TTFT", ttft, live[:, 0]), ("TPOT", tpot, live[:, 1])):
            own, other = simulated[chosen & done], seen[chosen & ~np.isnan(seen)]
            beside(f"{part}: {name}", 1e3 * own, 1e3 * other)


async def soak(port: int, minutes: float, clients: int) -> None:
    """Clients that ask, read and sometimes leave. Each minute a row: requests, lost ones, memory of the server."""
    began, done, lost, left = time.perf_counter(), 0, 0, 0
    rng = np.random.default_rng(2)

    async def client() -> None:
        nonlocal done, lost, left
        while time.perf_counter() < began + 60 * minutes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            leaves = rng.random() < 0.2
            writer.write(completion("hello " * int(rng.integers(1, 900)), int(rng.integers(20, 400))))
            data = b""
            while not data.endswith(b"0\r\n\r\n") and not (leaves and data):
                more = await reader.read(65536)
                data = data[-64:] + more
                if not more:
                    break
            done, left = done + 1, left + leaves
            lost += not leaves and not data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            writer.close()
            await asyncio.sleep(float(rng.exponential(0.5)))

    running = [asyncio.ensure_future(client()) for _ in range(clients)]
    for minute in range(1, int(minutes) + 1):
        await asyncio.sleep(max(0.0, began + 60 * minute - time.perf_counter()))
        memory = (await scrape(port))["process_resident_memory_bytes"] / 1e6
        print(
            f"{minute:4} min {done:8,} requests, {left:7,} left on purpose, {lost} lost, {memory:6.1f} MB", flush=True
        )
    await asyncio.gather(*running)
    await asyncio.sleep(1.0)
    after = await scrape(port)
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    print(f"at the end {done:,} requests, {lost} lost;", {name: after[name] for name in names})


async def delays(port: int, streams: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Time between the write of each event by `stamping` and its arrival here [s]."""
    request, late = completion("hello", 100), list[float]()

    async def client() -> None:
        await asyncio.sleep(np.random.default_rng().random() * 0.02)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        while (line := await reader.readline()) and b"DONE" not in line:
            if line.startswith(b"data: "):
                late.append(time.perf_counter() - json.loads(line[6:])["choices"][0]["text"])
        writer.close()

    await asyncio.gather(*(client() for _ in range(streams)))
    return np.array(late)


async def stamping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server whose events have the time at which they were written."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    for _ in range(100):
        await asyncio.sleep(0.02)
        writer.write(f'data: {{"choices": [{{"text": {time.perf_counter()}}}]}}\n\n'.encode())
    writer.write(b"data: [DONE]\n\n")
    writer.close()


async def recorder_delay(folder: str, streams: int) -> None:
    """What `tokenworks record` adds to the way of an event: one every 20 ms on each stream."""
    server = await asyncio.start_server(stamping, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    command = [sys.executable, "-m", "tokenworks", "record", "--to", f"http://127.0.0.1:{port}", "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, "--out", f"{folder}/trace.jsonl", stderr=subprocess.PIPE)
    assert process.stderr is not None
    match = re.search(rb"behind http://127.0.0.1:(\d+)", await process.stderr.readline())
    assert match
    for name, where in (("direct", port), ("recorded", int(match[1])), ("direct", port), ("recorded", int(match[1]))):
        late = 1e3 * await delays(where, streams)
        print(f"{name:9} {np.median(late):6.2f} ms median  {np.percentile(late, 99):6.2f} ms p99  {len(late):,} events")
    process.terminate()
    await process.wait()
    server.close()


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a client, on uvloop if it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work())
    return uvloop.run(work())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="100,300,600,900,1200")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--scrapes", type=int, default=4, help="scrapes of /metrics a second")
    parser.add_argument("--fidelity", type=float, metavar="RATE", help="requests a second of a trace to play")
    parser.add_argument("--requests", type=int, default=200, help="requests of this trace")
    parser.add_argument("--speed", type=float, default=1.0, help="speed of this deployment; below 1 on a busy computer")
    parser.add_argument("--memory", action="store_true", help="memory of each new stream")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="let clients come and leave")
    parser.add_argument("--clients", type=int, default=60, help="clients of --soak")
    parser.add_argument("--recorder", type=int, metavar="STREAMS", help="delay of events through `tokenworks record`")
    parser.add_argument("--faults", metavar="FILE", help="schedule of faults of this trace")
    parser.add_argument("--on-loss", default="fail", choices=["fail", "restart", "migrate"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.fidelity is not None:
            fidelity(folder, given)
            return
        if given.recorder is not None:
            run(lambda: recorder_delay(folder, given.recorder))
            return
        if given.soak is not None:
            with served(folder, deployment(2, 64)) as port:
                run(lambda: soak(port, given.soak, given.clients))
            return
        if given.memory:
            counts = [int(one) for one in given.streams.split(",")]
            plan = deployment(given.replicas, max(16, -(-2 * max(counts) // given.replicas)))
            with served(folder, plan, "--set", f"engine.host_step={STEP_MS}ms") as port:
                run(lambda: memory(port, counts))
            return
        loads(folder, given)


if __name__ == "__main__":
    main()
