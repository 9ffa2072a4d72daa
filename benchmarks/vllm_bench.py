"""`vllm bench serve` of `make wire` as the client of the endpoint, beside `simulate` with the times at which it sent.

Three clocks see each request: `simulate`, the server at its socket (from the first byte of the request to the write of
a token), and the client. So the error of the server and the time of the client are told apart. `--constant` lets the
same client ask a server without an engine, which answers after a constant time: what its socket and the client see
differs by the time of the client alone. The last lines leave out requests that met a slow spell of a core (`watch`).

    python -m benchmarks.vllm_bench --rate 20 --requests 200 --replicas 2
    python -m benchmarks.vllm_bench --rate 20 --requests 200 --constant
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tests.wire.environments import FOLDER, HERE

import tokenworks
from benchmarks.serve import CLIENT, SERVER, deployment, served
from benchmarks.watch import Spells, Writes, slow, written
from tokenworks.arrays import Floats

OUTPUT = 128
TTFT_S, TPOT_S = 0.06, 0.009
"""Times of the constant server, like those of the deployment [s]."""
Times = dict[str, Floats]
"""TTFT and TPOT of each request [s]."""


class Constant(asyncio.Protocol):
    """A connection of the constant server: each request gets `OUTPUT` tokens."""

    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    event = json.dumps({
        "id": "cmpl-0123456789abcdef0123456789abcdef", "object": "text_completion", "created": 1700000000,
        "model": "tiny", "choices": [{"index": 0, "text": " word", "logprobs": None, "finish_reason": None}],
    })  # fmt: skip

    def __init__(self, streams: list[list[float]]) -> None:
        self.streams, self.data = streams, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        if not self.data:
            self.row = [time.monotonic(), 0.0, np.nan]
        self.data += data
        if data.startswith(b"GET"):
            self.data = b""
            self.transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        elif self.data.endswith(b"}"):
            self.data, loop = b"", asyncio.get_running_loop()
            body = f"data: {self.event}\n\n".encode()
            chunk = b"%x\r\n%b\r\n" % (len(body), body)
            due = loop.time() + TTFT_S - (time.monotonic() - self.row[0])
            for k in range(OUTPUT):
                loop.call_at(due + k * TPOT_S, self.write, k, self.row, chunk)

    def write(self, k: int, row: list[float], chunk: bytes) -> None:
        last = k == OUTPUT - 1
        self.transport.write(
            (b"" if k else self.head) + chunk + (b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n" if last else b"")
        )
        if k == 0:
            row[1] = time.monotonic()
        if last:
            row[2] = time.monotonic()
            self.streams.append(row)


async def constant(file: str) -> None:
    """Run the constant server until its input ends, and write down what it wrote."""
    streams, loop = list[list[float]](), asyncio.get_running_loop()
    os.sched_setaffinity(0, {SERVER})
    server = await loop.create_server(lambda: Constant(streams), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    written(file, streams, [])


@contextmanager
def constant_server(file: Path) -> Iterator[int]:
    """A constant server in a process of its own; its port."""
    command = [sys.executable, "-m", "benchmarks.vllm_bench", "--constant-server", str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())


def bench(folder: str, port: int, rate: float, requests: int) -> dict[str, Any]:
    """Let the client play; what it found, in the order in which it sent."""
    tokenizer, python = Path(folder, "tokenizer"), FOLDER / "vllm" / "bin" / "python"
    subprocess.run([python, HERE / "make_tokenizer.py", tokenizer], check=True)
    command: list[str | Path] = [
        "taskset", "-c", str(CLIENT), python.parent / "vllm", "bench", "serve", "--backend", "vllm", "--base-url",
        f"http://127.0.0.1:{port}", "--model", "tiny", "--tokenizer", tokenizer, "--dataset-name", "random",
        "--random-input-len", "1024", "--random-output-len", str(OUTPUT), "--num-prompts", str(requests),
        "--request-rate", str(rate), "--ignore-eos", "--save-result", "--save-detailed", "--result-dir", folder,
        "--result-filename", "bench.json", "--disable-tqdm",
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **offline}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(Path(folder, "bench.json").read_text())
    order = np.argsort(result["start_times"], kind="stable")
    for name in ("start_times", "input_lens", "output_lens", "ttfts", "itls"):
        result[name] = [result[name][place] for place in order.tolist()]
    return result


def simulated(folder: str, plan: dict[str, Any], result: dict[str, Any], speed: float) -> Times:
    """The times of the requests that the client sent, if `simulate` plays them."""
    began, rows, block = np.array(result["start_times"]), list[str](), 0
    for when, isl, osl in zip(began, result["input_lens"], result["output_lens"], strict=True):
        ids = list(range(block, block := block + -(-isl // 512)))
        rows.append(json.dumps({
            "timestamp": 1e3 * speed * (when - began[0]), "hash_ids": ids, "input_length": isl, "output_length": osl,
        }))  # fmt: skip
    trace = Path(folder, "trace.jsonl")
    trace.write_text("\n".join(rows))
    outcome = tokenworks.simulate(plan, trace=trace, workload=None).outcome
    decode = outcome.end_s - outcome.first_token_s
    return {
        "TTFT": outcome.first_token_s - outcome.arrival_s, "TPOT": decode / np.maximum(outcome.output_tokens - 1, 1),
    }  # fmt: skip


def told(times: dict[str, Times], chosen: np.ndarray[Any, np.dtype[np.bool_]], part: str) -> None:
    """Print mean and p99 of each side [ms], and how far each is from the side before."""
    for name in ("TTFT", "TPOT"):
        for statistic, value in (("mean", np.mean), ("p99", lambda x: np.percentile(x, 99))):
            values = {side: 1e3 * float(value(own[name][chosen])) for side, own in times.items()}
            first = next(iter(values.values()))
            cells = [f"{side} {one:7.2f} ms ({100 * (one / first - 1):+5.1f} %)" for side, one in values.items()]
            print(f"{part}: {name} {statistic:4}  {'  '.join(cells)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second of the deployment's time")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--constant", action="store_true", help="ask a server without an engine")
    parser.add_argument("--constant-server", metavar="FILE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.constant_server:
        asyncio.run(constant(given.constant_server))
        return
    with tempfile.TemporaryDirectory() as folder:
        noted, plan, speed = Path(folder, "writes.npz"), deployment(given.replicas, 256), given.speed
        with Spells().watched() as spells:
            options = ("--served-model-name", "tiny", "--speed", str(speed))
            server = constant_server(noted) if given.constant else served(folder, plan, *options, noted=noted)
            with server as port:
                result = bench(folder, port, given.rate * speed, given.requests)
        writes, times = Writes(noted), dict[str, Times]()
        came, began, ended = (side[-given.requests :] for side in (writes.came, writes.began, writes.ended))
        if not given.constant:
            times["simulate"] = simulated(folder, plan, result, speed)
        times["server"] = {"TTFT": speed * (began - came), "TPOT": speed * (ended - began) / (OUTPUT - 1)}
        gaps = [sum(one) / max(len(one), 1) for one in result["itls"]]
        times["client"] = {"TTFT": speed * np.array(result["ttfts"]), "TPOT": speed * np.array(gaps)}
        calm = ~slow(came - 0.005, began, *spells.of.values(), writes.waits)
        for core in spells.of:
            print(spells.told(core))
        told(times, np.ones(len(came), bool), f"all {len(came)} requests")
        told(times, calm, f"{calm.sum()} requests without a slow spell before their first token")
        rest = 1e3 * (times["client"]["TTFT"] - times["server"]["TTFT"]) / speed
        print("time of the client until a first token: {:.1f}, {:.1f}, {:.1f} ms (p10, p50, p90)".format(
            *np.percentile(rest, (10, 50, 90))))  # fmt: skip
        rate = OUTPUT * given.requests / (ended.max() - came.min())
        print(f"{rate:.0f} tokens/s of the computer, {result['completed']} requests")


if __name__ == "__main__":
    main()
