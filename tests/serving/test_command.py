"""`tokenworks serve` as a process: it starts, drains and stops; wrong options get a message."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import tokenworks
from tests.serving.client import ask, connected, get, idle, post, read
from tests.serving.conftest import DEPLOYMENT, Endpoint, built, running
from tests.serving.test_http import metrics_of
from tokenworks.cli import run
from tokenworks.errors import SpecError

PROMPT = "a very private prompt"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps(DEPLOYMENT))
    return file


@pytest.mark.usefixtures("kernel")
def test_start_drain_and_stop(plan: Path) -> None:
    """After SIGTERM the stream goes on to its end, new connections are refused, and no prompt is in the log."""
    command = [sys.executable, "-W", "error", "-m", "tokenworks", "serve", str(plan), "--port", "0", "--speed", "5"]
    environment = {**os.environ, "TOKENWORKS_API_KEY": "private-key"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert match, line
        endpoint = Endpoint(None, int(match[1]))  # type: ignore[arg-type]
        assert ask(endpoint, post("/v1/completions", {"prompt": "x"})).status == 401
        key = "authorization: Bearer private-key\r\n"
        with connected(endpoint) as sock:
            body = {"prompt": PROMPT, "max_tokens": 500, "stream": True}
            sock.sendall(post("/v1/completions", body, headers=key))
            assert sock.recv(10)
            server.send_signal(signal.SIGTERM)
            data = b""
            while more := sock.recv(65536):
                data += more
        assert data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert server.wait(20) == 0
        log = line + server.stderr.read()
    assert PROMPT not in log
    assert "private-key" not in log


@pytest.mark.usefixtures("kernel")
def test_kill_and_restart(plan: Path) -> None:
    """After SIGKILL the stream ends in the middle. A server that is started again on the port is not ready, then is."""
    command = [sys.executable, "-W", "error", "-m", "tokenworks", "serve", str(plan), "--startup", "1", "--port"]

    def started(port: int) -> tuple[subprocess.Popen[str], Endpoint]:
        server = subprocess.Popen([*command, str(port)], stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        line = server.stderr.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert match, line
        return server, Endpoint(None, int(match[1]))  # type: ignore[arg-type]

    def ready(endpoint: Endpoint) -> None:
        assert ask(endpoint, get("/health")).status == 503
        deadline = time.monotonic() + 20
        while ask(endpoint, get("/health")).status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    server, endpoint = started(0)
    with server, connected(endpoint) as sock:
        ready(endpoint)
        sock.sendall(post("/v1/completions", {"prompt": "x", "max_tokens": 8000, "stream": True, "ignore_eos": True}))
        assert sock.recv(10)
        server.kill()
        data = b""
        with suppress(ConnectionResetError):
            while more := sock.recv(65536):
                data += more
        assert b"[DONE]" not in data
        assert server.wait(20) == -signal.SIGKILL
    again, endpoint = started(endpoint.port)
    with again:
        ready(endpoint)
        assert ask(endpoint, post("/v1/completions", {"prompt": "x", "max_tokens": 2})).status == 200
        again.terminate()
        assert again.wait(20) == 0


@pytest.mark.usefixtures("kernel")
def test_a_server_that_loads_its_weights() -> None:
    for endpoint in running(built(startup_s=60.0, drain_s=0.1)):  # three seconds at the speed of these tests
        starting = ask(endpoint, get("/health"))
        assert starting.status == 503
        assert ask(endpoint, post("/v1/completions", {"prompt": "x"})).status == 503
        assert ask(endpoint, get("/metrics")).status == 200
        deadline = time.monotonic() + 20
        while ask(endpoint, get("/health")).status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert ask(endpoint, post("/v1/completions", {"prompt": "x", "max_tokens": 2})).status == 200


@pytest.mark.usefixtures("kernel")
def test_equal_seeds_give_equal_answers() -> None:
    """On two servers: the text, the length and the id of each answer."""
    body = {"prompt": "hello", "n": 2}
    answers = []
    for seed in (1, 1, 2):
        for endpoint in running(built(lengths="workload", seed=seed, text="filler", drain_s=0.1, speed=1000.0)):
            answer = ask(endpoint, post("/v1/completions", body)).json
            answers.append((answer["id"], answer["choices"]))
    assert answers[0] == answers[1] != answers[2]


def test_echo() -> None:
    for endpoint in running(built(text="echo", drain_s=0.1)):
        body = {"messages": [{"role": "user", "content": "abcdefgh"}], "max_tokens": 3}
        answer = ask(endpoint, post("/v1/chat/completions", body)).json
        assert answer["choices"][0]["message"]["content"] == "abcdefghabcd"


ROLES = [{"name": name, "max_sequences": 64} for name in ("prefill", "decode")]


@pytest.mark.parametrize("more", [{"engine": "sglang", "tiers": "hicache"}, {"roles": ROLES}], ids=["tiers", "roles"])
def test_tiers_and_roles(more: dict[str, Any]) -> None:
    """KV tiers, and separate instances for prefill and decode, are felt and counted."""
    for endpoint in running(built({**DEPLOYMENT, **more}, drain_s=0.1)):
        prompt = {"prompt": "a prompt that comes twice " * 60, "max_tokens": 9}
        usages = [ask(endpoint, post("/v1/completions", prompt)).json["usage"] for _ in range(2)]
        assert [one["prompt_tokens_details"]["cached_tokens"] > 0 for one in usages] == [False, True]
        events = ask(endpoint, post("/v1/completions", {**prompt, "stream": True})).events
        assert sum(len(event["choices"][0]["text"]) for event in events) == 9 * 4
        values = metrics_of(ask(endpoint, get("/metrics")).body.decode())
        assert ("tokenworks_kv_tier_written_bytes_total" in values) == ("tiers" in more)
        assert sum(values["vllm:generation_tokens_total"]) == 27
        assert len(values["hcu_power_usage"]) == 2
        assert idle(endpoint)


WRONG = [
    (["--port", "70000"], "--port"),
    (["--speed", "0"], "--speed"),
    (["--speed", "nan"], "--speed"),
    (["--startup", "-1"], "--startup"),
    (["--max-body", "0"], "--max-body"),
    (["--faults", "missing.yaml"], "missing.yaml"),
    (["--chaos", "-1"], "--chaos"),
    (["--hazard", "2"], "--hazard"),
    (["--chaos", "1", "--hazard", "1e12"], "--hazard"),
    (["--reliability", "nonsense"], "nonsense"),
    (["--admin-key", " "], "--admin-key"),
    (["--kv-events-config", "{"], "--kv-events-config"),
    (["--port", "65535", "--ports", "replicas"], "--ports"),
    (["--max-queue", "-1"], "--max-queue"),
    (["--api", "grpc"], "grpc"),
    (["--lengths", "trace"], "--trace"),
    (["--workload", "nothing"], "nothing"),
    (["--workload", "chat", "--trace", "x.csv"], "x.csv"),
    (["--tokenizer", "no-such.json"], "--tokenizer|no-such"),
    (["--api-key", " "], "--api-key"),
    (["--slo", "soon"], "soon"),
    (["--usd-per-device-hour", "-2"], "--usd-per-device-hour"),
]


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_wrong_options(plan: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", str(plan), *options]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_an_address_in_use(endpoint: Endpoint, plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", str(plan), "--port", str(endpoint.port)]) == 2
    message = capsys.readouterr().err
    assert f"127.0.0.1:{endpoint.port}: cannot listen" in message
    with pytest.raises(SpecError, match="speed"):
        tokenworks.serve(plan, speed=0.0)


@pytest.mark.long
@pytest.mark.usefixtures("kernel")
def test_soak() -> None:
    """30 seconds of clients, some of which leave: no request is lost, nothing stays, memory does not grow."""
    from tokenworks.serving.metrics import resident_bytes

    def client(endpoint: Endpoint, number: int, until: float, done: list[int]) -> None:
        turn = number
        while time.monotonic() < until:
            turn += 1
            with connected(endpoint) as sock:
                body = {"prompt": f"hello {turn}", "max_tokens": 50 + turn % 200, "stream": turn % 3 > 0}
                sock.sendall(post("/v1/completions", body))
                if turn % 5 == 0:
                    sock.recv(100)
                    continue
                assert read(sock).status == 200
                done.append(turn)

    for endpoint in running(built(drain_s=0.1)):
        sizes = []
        for seconds in (5, 25):
            done: list[int] = []
            until = time.monotonic() + seconds
            threads = [threading.Thread(target=client, args=(endpoint, k, until, done)) for k in range(40)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(done) > 20 * seconds
            assert idle(endpoint)
            sizes.append(resident_bytes())
        assert sizes[1] < sizes[0] + 20e6
        assert not endpoint.server.metrics.events.get("internal_error")


def test_without_httptools(plan: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenworks.serving.installed.find_spec", lambda _name: None)
    assert run(["serve", str(plan)]) == 2
    assert "tokenworks[serve]" in capsys.readouterr().err
