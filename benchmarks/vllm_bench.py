"""`vllm bench serve` of `make wire` as the client of the endpoint, beside `simulate` with the times at which it sent.

Three clocks see each request: `simulate`, the server at its socket (from the first byte of the request to the write of
a token), and the client. So the error of the server and the time of the client are told apart. `--constant` lets the
same client ask a server without an engine, which answers after a constant time: what its socket and the client see
differs by the time of the client alone. The last lines leave out requests whose first token met a slow spell of a core
(`watch`).

    python -m benchmarks.vllm_bench --rate 4 --requests 240
    python -m benchmarks.vllm_bench --rate 8 --requests 360 --constant 600 40
    python -m benchmarks.vllm_bench --rate 20 --requests 200 --deployment FILE --input 1024 --output 128
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
import yaml
from tests.wire.environments import FOLDER

import tokenworks
from benchmarks.serve import CLIENT, SERVER, run, scrape, served
from benchmarks.watch import Spells, Writes, slow, written
from tokenworks.arrays import Floats

DEPLOYMENT = Path(__file__).with_name("llama70b.yaml")
"""Llama 3.3 70B on one scaleX40, five replicas of eight cards."""
BUSY_S = 10.0
"""Time over which the highest rate is counted [s]."""
Times = dict[str, Floats]
"""TTFT and TPOT of each request [s]."""


class Constant(asyncio.Protocol):
    """A connection of the constant server.

    Parameters
    ----------
    streams : when each request came, and when its first and its last token were written [s]
    output : tokens of each answer [token]
    ttft_s, tpot_s : times of each answer [s]
    """

    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    event = json.dumps({
        "id": "cmpl-0123456789abcdef0123456789abcdef", "object": "text_completion", "created": 1700000000,
        "model": "tiny", "choices": [{"index": 0, "text": " word", "logprobs": None, "finish_reason": None}],
    })  # fmt: skip

    def __init__(self, streams: list[list[float]], output: int, ttft_s: float, tpot_s: float) -> None:
        self.streams, self.data = streams, b""
        self.output, self.ttft_s, self.tpot_s = output, ttft_s, tpot_s

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
            due = loop.time() + self.ttft_s - (time.monotonic() - self.row[0])
            loop.call_at(due, self.write, 0, due, self.row, chunk)

    def write(self, k: int, due: float, row: list[float], chunk: bytes) -> None:
        """Write token k, and look forward to the next one: `due` is the time of the first [s]."""
        last = k == self.output - 1
        self.transport.write(
            (b"" if k else self.head) + chunk + (b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n" if last else b"")
        )
        if k == 0:
            row[1] = time.monotonic()
        if last:
            row[2] = time.monotonic()
            self.streams.append(row)
        else:
            loop = asyncio.get_running_loop()
            loop.call_at(due + (k + 1) * self.tpot_s, self.write, k + 1, due, row, chunk)


async def constant(file: str, output: int, ttft_s: float, tpot_s: float) -> None:
    """Run the constant server until its input ends, and write down what it wrote."""
    streams, loop = list[list[float]](), asyncio.get_running_loop()
    os.sched_setaffinity(0, {SERVER})
    server = await loop.create_server(lambda: Constant(streams, output, ttft_s, tpot_s), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    written(file, streams, [])


@contextmanager
def constant_server(file: Path, output: int, times_ms: list[float]) -> Iterator[int]:
    """A constant server in a process of its own; its port."""
    command = [sys.executable, "-m", "benchmarks.vllm_bench", "--constant-server", str(file), "--output", str(output)]
    command += ["--constant", *map(str, times_ms)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())


def bench(folder: str, port: int, rate: float, given: argparse.Namespace) -> dict[str, Any]:
    """Let the client play; what it found, in the order in which it sent.

    Parameters
    ----------
    folder : for its files
    port : port of the server
    rate : requests a second of the real clock
    given : lengths, and number of requests
    """
    prompts = np.random.default_rng(0).integers(0, 100_000, (given.requests, given.input)).tolist()
    data = Path(folder, "prompts.jsonl")
    data.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in prompts))
    command: list[str | Path] = [
        "taskset", "-c", str(CLIENT), FOLDER / "vllm" / "bin" / "vllm", "bench", "serve", "--backend", "vllm",
        "--base-url", f"http://127.0.0.1:{port}", "--model", "tiny", "--skip-tokenizer-init",
        "--dataset-name", "custom", "--dataset-path", data, "--disable-shuffle", "--num-prompts", str(given.requests),
        "--extra-body", json.dumps({"max_tokens": given.output}), "--ignore-eos", "--request-rate", str(rate),
        "--save-result", "--save-detailed", "--result-dir", folder, "--result-filename", "bench.json", "--disable-tqdm",
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **offline}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(Path(folder, "bench.json").read_text())
    order = np.argsort(result["start_times"], kind="stable")
    for name in ("start_times", "input_lens", "output_lens", "ttfts", "itls"):
        result[name] = [result[name][place] for place in order.tolist()]
    return result


def trace(file: Path, times: Floats, inputs: list[int], outputs: list[int]) -> Path:
    """Write a trace of requests that share nothing.

    Parameters
    ----------
    file : the file
    times : when each request comes [s]
    inputs, outputs : its lengths [token]
    """
    rows, block = list[str](), 0
    for when, isl, osl in zip(times.tolist(), inputs, outputs, strict=True):
        ids = list(range(block, block := block + -(-isl // 512)))
        rows.append(json.dumps({"timestamp": 1e3 * when, "hash_ids": ids, "input_length": isl, "output_length": osl}))
    file.write_text("\n".join(rows))
    return file


def simulated(file: Path, plan: dict[str, Any], result: dict[str, Any], speed: float) -> Times:
    """The times of the requests that the client sent, if `simulate` plays them."""
    began = np.array(result["start_times"])
    sent = trace(file, speed * (began - began[0]), result["input_lens"], result["output_lens"])
    outcome = tokenworks.simulate(plan, trace=sent, workload=None).outcome
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


def busiest(result: dict[str, Any]) -> float:
    """Tokens that the client has read in its busiest `BUSY_S`, a second."""
    rows = zip(result["start_times"], result["ttfts"], result["itls"], strict=True)
    times = np.sort(np.concatenate([began + ttft + np.cumsum([0.0, *itls]) for began, ttft, itls in rows]))
    return float(np.max(np.searchsorted(times, times + BUSY_S) - np.arange(len(times)))) / BUSY_S


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second of the deployment's time")
    parser.add_argument("--requests", type=int, default=240)
    parser.add_argument("--deployment", type=Path, default=DEPLOYMENT, help="file that both programs load")
    parser.add_argument("--input", type=int, default=4000, help="tokens of each prompt")
    parser.add_argument("--output", type=int, default=1000, help="tokens of each answer")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument(
        "--constant", type=float, nargs=2, metavar=("TTFT", "TPOT"), help="ask a server without an engine [ms]"
    )
    parser.add_argument("--constant-server", metavar="FILE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.constant_server:
        ttft, tpot = given.constant
        run(lambda: constant(given.constant_server, given.output, ttft / 1e3, tpot / 1e3))
        return
    with tempfile.TemporaryDirectory() as folder:
        noted, plan, speed = Path(folder, "writes.npz"), yaml.safe_load(given.deployment.read_text()), given.speed
        with Spells().watched() as spells:
            if given.constant:
                server = constant_server(noted, given.output, given.constant)
            else:
                lengths = [given.input] * given.requests, [given.output] * given.requests
                planned = trace(Path(folder, "planned.jsonl"), np.arange(given.requests) / given.rate, *lengths)
                options = ("--trace", str(planned), "--served-model-name", "tiny", "--speed", str(speed))
                server = served(folder, plan, *options, noted=noted)
            with server as port:
                result = bench(folder, port, given.rate * speed, given)
                seen = {} if given.constant else run(lambda: scrape(port))
        writes, times = Writes(noted), dict[str, Times]()
        came, began, ended = (side[-given.requests :] for side in (writes.came, writes.began, writes.ended))
        if not given.constant:
            assert seen["vllm:prompt_tokens_total"] == sum(result["input_lens"]) == given.requests * given.input
            assert not seen["vllm:prefix_cache_hits_total"]
            times["simulate"] = simulated(Path(folder, "sent.jsonl"), plan, result, speed)
        times["server"] = {"TTFT": speed * (began - came), "TPOT": speed * (ended - began) / (given.output - 1)}
        gaps = [sum(one) / max(len(one), 1) for one in result["itls"]]
        times["client"] = {"TTFT": speed * np.array(result["ttfts"]), "TPOT": speed * np.array(gaps)}
        calm = ~slow(came - 0.005, began, *spells.of.values(), writes.waits)
        for core in spells.of:
            print(spells.told(core))
        told(times, np.ones(len(came), bool), f"all {len(came)} requests")
        if calm.any():
            told(times, calm, f"{calm.sum()} requests without a slow spell before their first token")
        rest = 1e3 * (times["client"]["TTFT"] - times["server"]["TTFT"]) / speed
        print("time of the client until a first token: {:.1f}, {:.1f}, {:.1f} ms (p10, p50, p90)".format(
            *np.percentile(rest, (10, 50, 90))))  # fmt: skip
        print(f"{busiest(result):.0f} tokens/s in the busiest {BUSY_S:.0f} s, {result['completed']} requests")


if __name__ == "__main__":
    main()
