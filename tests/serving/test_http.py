"""HTTP as clients send it: good, broken, too large, too slow, and clients that leave."""

from __future__ import annotations

import json
import math
import re
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from tests.serving.client import ask, connected, get, idle, post, read
from tests.serving.conftest import Endpoint
from tokenworks.serving import metrics as metrics_module
from tokenworks.serving.driver import HandedOver
from tokenworks.serving.metrics import HISTOGRAMS, ServerMetrics, ServiceTerms
from tokenworks.specs.slo import Slo

SCRAPED = Path(__file__).parents[3] / "shared/localhost-vllm/tiny-llama-25m-iter/metrics_after_sweep.txt"
COMPLETION = "/v1/completions"
LONG = {"prompt": "x", "max_tokens": 8000, "stream": True}


def test_many_requests_on_one_connection(endpoint: Endpoint) -> None:
    """Also if they come at once, and in pieces."""
    body = {"prompt": "hi", "max_tokens": 2, "stream": True}
    request = post(COMPLETION, body) + get("/version") + post(COMPLETION, {**body, "stream": False})
    with connected(endpoint) as sock:
        sock.sendall(request)
        data = b""
        while data.count(b"HTTP/1.1 200") < 3 or not data.endswith(b"}"):
            data += sock.recv(65536)
        assert data.index(b"[DONE]") < data.index(b'"version"') < data.rindex(b'"text_completion"')
        for at in range(0, len(request), 50):
            sock.sendall(request[at : at + 50])
            time.sleep(0.001)
        data = b""
        while data.count(b"HTTP/1.1 200") < 3 or not data.endswith(b"}"):
            data += sock.recv(65536)


def test_chunked_bodies_and_100_continue(endpoint: Endpoint) -> None:
    body = b'{"prompt": "hi", "max_tokens": 2}'
    parts = b"".join(b"%x\r\n%b\r\n" % (len(body[at : at + 7]), body[at : at + 7]) for at in range(0, len(body), 7))
    head = f"POST {COMPLETION} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    assert ask(endpoint, head + parts + b"0\r\n\r\n").status == 200
    with connected(endpoint) as sock:
        request = post(COMPLETION, body, headers="expect: 100-continue\r\n")
        sock.sendall(request[: -len(body)])
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert read(sock).status == 200


def test_http_1_0_and_connection_close(endpoint: Endpoint) -> None:
    body = {"prompt": "hi", "max_tokens": 3, "stream": True}
    old = ask(endpoint, post(COMPLETION, body).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert "transfer-encoding" not in old.headers
    assert sum(len(event["choices"][0]["text"]) for event in old.events) == 12
    with connected(endpoint) as sock:
        sock.sendall(post(COMPLETION, body, headers="connection: close\r\n"))
        response = read(sock)
        assert response.headers["connection"] == "close"
        assert sock.recv(10) == b""


BROKEN: list[tuple[bytes, int]] = [
    (b"GARBAGE\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # a TLS hello
    (b"GET / HTTP/1.1\r\n\r\n", 400),  # no host
    (b"GET / HTTP/9.9\r\nhost: x\r\n\r\n", 400),
    (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 20_000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"".join(b"h%d: x\r\n" % i for i in range(80)) + b"\r\n", 431),
    (post("/tokenize", b"", headers="").replace(b"length: 0", b"length: 9999999"), 413),
    (b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
    # request smuggling: two lengths, or a length beside chunks
    (b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd", 400),
    (b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
    (b"POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", 404),
]


@pytest.mark.parametrize(("request_bytes", "status"), BROKEN)
def test_broken_requests(endpoint: Endpoint, request_bytes: bytes, status: int) -> None:
    """The server answers, and closes the connection: it may not know where the next request begins."""
    with connected(endpoint) as sock:
        sock.sendall(request_bytes)
        response = read(sock)
        assert response.status == status, response.body
        assert response.headers["connection"] == "close"
        assert sock.recv(10) == b""
    assert ask(endpoint, get("/health")).status == 200


def test_a_body_in_chunks_that_is_too_long(endpoint: Endpoint) -> None:
    with connected(endpoint) as sock:
        sock.sendall(b"POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
        with pytest.raises(OSError):  # noqa: PT011 - a reset or a broken pipe
            sock.sendall(chunk * 1000)
    assert ask(endpoint, get("/health")).status == 200


def test_slow_and_silent_clients(endpoint: Endpoint) -> None:
    """A request that comes byte by byte gets 408, and others are served meanwhile."""
    with connected(endpoint) as slow, connected(endpoint) as silent:
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nhost:")
        for _ in range(5):
            assert ask(endpoint, post(COMPLETION, {"prompt": "hi", "max_tokens": 2})).status == 200
            slow.sendall(b"x")
        assert read(slow).status == 408
        assert silent.recv(10) == b""


def test_clients_that_leave(endpoint: Endpoint) -> None:
    """A client that leaves in the middle of a stream, or before its answer, frees its slot and its KV blocks."""
    before = endpoint.server.metrics.events.get("client_left", 0)
    socks = [connected(endpoint) for _ in range(200)]
    for i, sock in enumerate(socks):
        sock.sendall(post(COMPLETION, {**LONG, "stream": i % 3 > 0}))
    for i, sock in enumerate(socks):
        if i % 3 == 1:
            sock.recv(100)  # the stream has begun
        if i % 2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, and no end
        sock.close()
    assert idle(endpoint)
    assert endpoint.server.metrics.events["client_left"] == before + 200
    assert endpoint.server.driver.simulator.slots < 1000


def test_a_slow_reader_does_not_hold_others(endpoint: Endpoint) -> None:
    """The server keeps at most its buffer for a client that reads nothing, and sends the rest when it reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", endpoint.port))
    sock.sendall(post(COMPLETION, {**LONG, "n": 8}))
    began = time.monotonic()
    while not any(one.answer is not None and one.answer.paused for one in list(endpoint.server.connections)):
        assert time.monotonic() < began + 30
        time.sleep(0.02)
    assert ask(endpoint, post(COMPLETION, {"prompt": "hi", "max_tokens": 2})).status == 200
    sock.settimeout(30)
    response = read(sock)
    assert sum(len(event["choices"][0]["text"]) for event in response.events) == 8 * 8000 * 4
    sock.close()
    assert idle(endpoint)


def test_a_client_that_never_reads(guarded: Endpoint) -> None:
    """The connection ends after a while, and its request frees what it holds. So does a connection that is idle."""
    with socket.socket() as sock, connected(guarded) as idle_one:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", guarded.port))
        sock.sendall(post(COMPLETION, {**LONG, "logprobs": 20}, headers="x-api-key: secret\r\n"))
        idle_one.sendall(get("/version"))
        read(idle_one)
        began = time.monotonic()
        while not guarded.server.metrics.events.get("slow_reader"):
            assert time.monotonic() < began + 30
            time.sleep(0.05)
        assert idle(guarded)
        assert idle_one.recv(10) == b""


def test_metrics(endpoint: Endpoint) -> None:
    ask(endpoint, post(COMPLETION, {"prompt": "hello there", "max_tokens": 5}))
    response = ask(endpoint, get("/metrics"))
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = metrics_of(response.body.decode())
    for name in (
        "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
        "vllm:prefix_cache_queries_total", "vllm:generation_tokens_total", "vllm:time_to_first_token_seconds_bucket",
        "vllm:e2e_request_latency_seconds_sum", "vllm:request_success_total", "tokenworks_effective_tokens_total",
        "hcu_utilizationrate", "hcu_usedmemory_bytes", "hcu_power_usage", "http_requests_total",
    ):  # fmt: skip
        assert name in values, name
    completed = sum(values["vllm:e2e_request_latency_seconds_count"])
    assert completed == sum(values["vllm:request_generation_tokens_count"]) > 0
    assert sum(values["vllm:generation_tokens_total"]) >= sum(values["vllm:request_generation_tokens_sum"])
    used = values["hcu_usedmemory_bytes"]
    assert len(used) == 2
    assert all(16e9 < one < cap for one, cap in zip(used, values["hcu_memorycap_bytes"], strict=True))


def test_the_dashboard_shows_metrics_that_there_are(endpoint: Endpoint) -> None:
    folder = Path(__file__).parents[2] / "examples" / "grafana"
    dashboard = json.loads((folder / "dashboard.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = {name for query in queries for name in re.findall(r"(?:vllm:|tokenworks_|hcu_)\w+", query)}
    there = set(metrics_of(ask(endpoint, get("/metrics")).body.decode())) | {"tokenworks_cost_usd_total"}
    assert names <= there
    assert len(queries) > 12
    assert "127.0.0.1:8000" in (folder / "prometheus.yml").read_text(encoding="utf-8")


@pytest.mark.shared
def test_names_and_buckets_are_those_of_vllm() -> None:
    """Of each histogram that both have: the buckets. All our names with vllm: are names of vLLM."""
    if not SCRAPED.exists():
        pytest.skip(f"no metrics of vLLM beside this checkout ({SCRAPED})")
    text = SCRAPED.read_text(encoding="utf-8")
    theirs: dict[str, list[float]] = {}
    for name, end in re.findall(r'^(vllm:\w+)_bucket\{.*?le="(.*?)"', text, re.MULTILINE):
        theirs.setdefault(name, []).append(float(end))
    for name, bounds, _ in HISTOGRAMS["openai"].values():
        assert [*map(float, bounds), math.inf] == theirs[name], name
    known = set(re.findall(r"^# TYPE (vllm:\w+)", text, re.MULTILINE))
    source = Path(metrics_module.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r"vllm:\w+", source)) <= known


def test_metrics_of_sglang(guarded: Endpoint) -> None:
    values = metrics_of(ask(guarded, get("/metrics")).body.decode())
    assert {"sglang:num_running_reqs", "sglang:token_usage", "sglang:time_to_first_token_seconds_count"} <= set(values)
    assert not any(name.startswith("vllm:") for name in values)


def metrics_of(text: str) -> dict[str, list[float]]:
    """Values by name, read strictly: every line is a comment or a metric, and buckets rise."""
    values: dict[str, list[float]] = {}
    typed = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
            continue
        if line.startswith("# HELP "):
            continue
        match = re.fullmatch(r'([a-zA-Z_:][\w:]*)(\{(?:[a-z_]+="[^"\\]*"(?:,(?=[a-z])|(?=\})))*\})? (\S+)', line)
        assert match, line
        values.setdefault(match[1], []).append(float(match[3]))
        base = re.sub(r"_(bucket|sum|count)$", "", match[1])
        assert {match[1], base} & typed, line
    return values


def test_the_server_takes_its_own_lateness_off(endpoint: Endpoint) -> None:
    """It is the mean of the latest tokens, and never more than the time of client and HTTP."""
    metrics = ServerMetrics("openai", "m", 1, ServiceTerms(Slo(), 1), 0.03)
    ranks, gaps = np.zeros(60, np.int64), np.full(60, 0.01)
    for late, expected in ((0.001, None), (0.003, 0.002), (0.004, None), (0.006, 0.005)):
        metrics.observe(HandedOver(ranks, gaps, np.full(60, late), ranks + 1))
        assert metrics.lateness() == (None if expected is None else pytest.approx(expected))
    server = endpoint.server
    most, until = server.driver.request_s / server.settings.speed, time.monotonic() + 20
    server.delivery_s = 0.0
    while not server.delivery_s:
        assert time.monotonic() < until
        assert ask(endpoint, post(COMPLETION, {"prompt": "hello", "max_tokens": 200})).status == 200
    assert 0 < server.delivery_s <= most
