"""Serve a model with vLLM on this computer and measure it with the client of vLLM. Run with vLLM's python.

    measure.py MODEL_FOLDER RESULT_FOLDER CLOSED.1.64.64 RATE.4.256.64 ...

A point is CLOSED.concurrency.isl.osl or RATE.requests-per-second.isl.osl. Its result file has the name of the point.
RATE.auto.isl.osl sends as many requests per second as CLOSED.2.isl.osl has served, so that a slow computer is not
overloaded. CLOSED.2.isl.osl must stand before it.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PORT = 18200
THREADS = "1"
"""Threads of the engine: one core. The client, the front end of the server and other programs need the other cores."""

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
SERVER = OFFLINE | {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": THREADS, "VLLM_CPU_OMP_THREADS_BIND": "1"}
FLAGS = {  # machine.py writes the token budget and the number of sequences into the deployment file
    "load-format": "dummy", "host": "127.0.0.1", "port": str(PORT), "max-model-len": "4096",
    "max-num-batched-tokens": "2048", "max-num-seqs": "64",
}  # fmt: skip
READY_S = 900
PRIORITY = -10
"""Priority of the server and of the client, if the user may raise it (root): other work then disturbs them less."""

ROUNDS = 3
WAVES, LEAST, AT_A_RATE = 3, 6, 20
"""Requests of a point: WAVES x requests in flight, at least LEAST; AT_A_RATE with a rate [count]."""


@contextmanager
def server(model: Path, log: Path) -> Iterator[None]:
    """A running vLLM server: it answers when the block starts, and stops when the block ends."""
    command = [str(Path(sys.executable).with_name("vllm")), "serve", str(model), "--served-model-name", model.name]
    dtype = json.loads((model / "config.json").read_text())["torch_dtype"]  # vLLM would make BF16 of FP32 by itself
    command += [word for name, value in {**FLAGS, "dtype": dtype}.items() for word in (f"--{name}", value)]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--no-enable-prefix-caching"], env=os.environ | SERVER, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            _wait(process, log)
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(READY_S):
        if process.poll() is not None:
            sys.exit(f"vllm serve ended with {process.returncode}: see {log}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    sys.exit(f"vllm serve does not answer after {READY_S} s: see {log}")


def measure(model: Path, results: Path, points: list[str]) -> None:
    """Measure each point with `vllm bench serve` in this process: starting a client takes longer than most points."""
    from vllm.benchmarks.serve import add_cli_args, main
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    for round_ in range(ROUNDS):
        for point in points:
            file = results / f"{point}.{round_}.json"
            load = os.getloadavg()[0]
            main(parser.parse_args([*arguments(model, point, results), "--result-filename", str(file)]))
            with (results / "load.txt").open("a") as notes:
                print(f"{point} round {round_}: {latency(file):.0f} ms, 1-minute load {load:.2f} before", file=notes)
    for point in points:
        runs = [results / f"{point}.{round_}.json" for round_ in range(ROUNDS)]
        shutil.copyfile(min(runs, key=latency), results / f"{point}.json")


def latency(file: Path) -> float:
    """Mean time from request to last token [ms]."""
    return float(json.loads(file.read_text())["mean_e2el_ms"])


def arguments(model: Path, point: str, results: Path) -> list[str]:
    """Arguments of `vllm bench serve` for one point."""
    kind, amount, isl, osl = point.split(".")
    closed = kind == "CLOSED"
    if amount == "auto":  # of the first round, so that all rounds have the same rate
        served = json.loads((results / f"CLOSED.2.{isl}.{osl}.0.json").read_text())
        amount = f"{served['request_throughput']:.3g}"
    count = max(LEAST, WAVES * int(amount)) if closed else AT_A_RATE
    return [
        "--backend", "vllm", "--base-url", f"http://127.0.0.1:{PORT}", "--model", model.name, "--tokenizer", str(model),
        "--dataset-name", "random", "--random-input-len", isl, "--random-output-len", osl, "--ignore-eos",
        "--max-concurrency" if closed else "--request-rate", amount, "--num-prompts", str(count), "--num-warmups", "2",
        "--percentile-metrics", "ttft,tpot,itl,e2el", "--save-result", "--save-detailed", "--disable-tqdm",
    ]  # fmt: skip


def raise_priority() -> None:
    """Give this process and all processes that it starts a higher priority, or say that the user may not do this.

    Linux shares the CPU between sessions first, so the session gets the priority, too (sched(7), autogroup).
    """
    autogroup = Path("/proc/self/autogroup")
    try:
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
        if autogroup.exists():
            autogroup.write_text(str(PRIORITY))
            atexit.register(autogroup.write_text, "0")
    except OSError:
        print("measure.py: priority not raised (not root): other work on this computer disturbs the measurement")


if __name__ == "__main__":
    raise_priority()
    os.environ.update(OFFLINE)
    model, results = Path(sys.argv[1]), Path(sys.argv[2])
    results.mkdir(parents=True, exist_ok=True)
    with server(model, results / "server.log"):
        measure(model, results, sys.argv[3:])
