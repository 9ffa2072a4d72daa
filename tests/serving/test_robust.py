"""Clients that break the rules: each one is counted, none ends the server, and none leaves anything behind."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.client import RESET, Response, ask, connected, get, idle, leave, post, read, unchunked
from tests.serving.conftest import DEPLOYMENT, Endpoint, built, running
from tokenworks.serving.answers import StreamAnswer
from tokenworks.serving.http import HttpLimits

TRIES = int(os.environ.get("FUZZ_CASES", "40"))
COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
SO_ATTACH_FILTER = 26


@pytest.fixture(scope="module")
def wide(kernel: None) -> Iterator[Endpoint]:
    """An endpoint whose two ranks run a thousand requests at once, and that waits for no client for long."""
    roles = [{"name": "aggregated", "replicas": 2, "max_sequences": 600}]
    limits = HttpLimits(body=1 << 20, bodies=3 << 20, request_s=1.0, idle_s=2.0, write_s=1.5)
    yield from running(built({**DEPLOYMENT, "roles": roles}, limits=limits, drain_s=0.5, speed=1.0))


def counted(endpoint: Endpoint, event: str) -> int:
    """How often an event of a connection was counted."""
    return endpoint.server.metrics.events.get(event, 0)


def refused(endpoint: Endpoint, path: str) -> int:
    """Requests of a route that were refused."""
    return endpoint.server.metrics.responses.get((path, "POST", "4xx"), 0)


def at_rest(endpoint: Endpoint) -> None:
    """Nothing is in flight, no KV block is in use, no body is held, and no error was internal."""
    assert idle(endpoint, 30)
    assert not endpoint.server.driver.levels().kv_used.any()
    until = time.monotonic() + 10
    while endpoint.server.held and time.monotonic() < until:
        time.sleep(0.02)
    assert endpoint.server.held == 0
    assert not counted(endpoint, "internal_error")
    assert ask(endpoint, get("/health")).status == 200


def waits_for(endpoint: Endpoint, event: str, count: int) -> None:
    """Wait until an event was counted so often."""
    until = time.monotonic() + 20
    while counted(endpoint, event) < count:
        assert time.monotonic() < until, endpoint.server.metrics.events
        time.sleep(0.02)


def test_a_thousand_clients_that_vanish(wide: Endpoint) -> None:
    """In the middle of a stream or before it, by a reset, an end or a half-closed connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    left, body = counted(wide, "client_left"), {"prompt": "x", "max_tokens": 8000, "stream": True}
    socks = [connected(wide) for _ in range(1000)]
    for sock in socks:
        sock.sendall(post(COMPLETION, body))
    for sock in socks[:900]:
        assert sock.recv(15) == b"HTTP/1.1 200 OK"
    assert wide.server.driver.levels().running.sum() > 900
    leave(socks)
    at_rest(wide)
    assert counted(wide, "client_left") == left + 1000
    assert not wide.server.driver.jobs


def test_requests_that_drip(wide: Endpoint) -> None:
    """Slowloris: headers or bodies that come byte by byte end after the time limit, and others are served meanwhile."""
    slow, idle_closed = counted(wide, "slow_request"), counted(wide, "idle_closed")
    heads = [connected(wide) for _ in range(60)]
    bodies = [connected(wide) for _ in range(60)]
    silent = [connected(wide) for _ in range(60)]
    for sock in heads:
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n")
    for sock in bodies:
        sock.sendall(post(COMPLETION, b"{" + b" " * 5000)[:-4900])
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        for sock in heads + bodies:
            try:
                sock.sendall(b"a")
            except OSError:
                assert time.monotonic() > until - 1.0
        assert ask(wide, post(COMPLETION, {"prompt": "hi", "max_tokens": 1})).status == 200
        time.sleep(0.05)
    waits_for(wide, "slow_request", slow + 120)
    waits_for(wide, "idle_closed", idle_closed + 60)
    for sock in heads + bodies + silent:
        sock.close()
    at_rest(wide)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs socket filters of Linux")
def test_hosts_that_are_gone(wide: Endpoint) -> None:
    """Half-open connections: no FIN and no reset comes, and nothing is confirmed any more. All three are found.

    A socket filter drops whatever the server sends before TCP of the client sees it.
    """
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0 bytes of each packet
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(drop_all))
    left = counted(wide, "client_left")
    long = {"prompt": "x", "max_tokens": 8000}
    streams, whole, idle_one = [connected(wide) for _ in range(20)], connected(wide), connected(wide)
    for sock in streams:
        sock.sendall(post(COMPLETION, {**long, "stream": True}))
    whole.sendall(post(COMPLETION, long))
    for sock in streams:
        assert sock.recv(15) == b"HTTP/1.1 200 OK"
    for sock in (*streams, whole, idle_one):
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    waits_for(wide, "client_left", left + 21)
    at_rest(wide)
    until = time.monotonic() + 10
    while wide.server.connections:
        assert time.monotonic() < until
        time.sleep(0.05)
    for sock in (*streams, whole, idle_one):
        sock.close()


SMUGGLED = [
    b"content-length: 4\r\ncontent-length: 4\r\n",
    b"content-length: 3, 4\r\n",
    b"content-length: +4\r\n",
    b"content-length: 0x4\r\n",
    b"content-length: 99999999999999999999999\r\n",
    b"content-length: 4\r\ntransfer-encoding: chunked\r\n",
    b"transfer-encoding: chunked\r\ncontent-length: 4\r\n",
    b"transfer-encoding: xchunked\r\n",
    b"transfer-encoding: chunked, identity\r\n",
    b"transfer-encoding: chunked, chunked\r\n",
    b"transfer-encoding\x0b: chunked\r\n",
    b"transfer-encoding: \x0bchunked\r\n",
    b" transfer-encoding: chunked\r\n",
    b"content-length: 4\r\n\x00: x\r\n",
    b"content-length\x00: 4\r\n",
    b"content-length: 4\n",
    b"x: a\rb\r\n",
]
CHUNKS = [
    b"-4\r\nabcd\r\n0\r\n\r\n",
    b"0x4\r\nabcd\r\n0\r\n\r\n",
    b"fffffffffffffffff\r\nabcd",
    b"4\nabcd\n0\n\n",
    b"4\r\nabcdX\r\n0\r\n\r\n",
    b" 4\r\nabcd\r\n0\r\n\r\n",
]
HIDDEN = b"GET /load HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize("headers", SMUGGLED)
def test_smuggled_requests(wide: Endpoint, headers: bytes) -> None:
    """A length that two programs may read in two ways: one answer, an error, and the hidden request is not served."""
    refuses(wide, b"POST /tokenize HTTP/1.1\r\nhost: x\r\n" + headers + b"\r\n" + HIDDEN)


@pytest.mark.parametrize("chunks", CHUNKS)
def test_bad_chunks(wide: Endpoint, chunks: bytes) -> None:
    refuses(wide, b"POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + HIDDEN)


def refuses(endpoint: Endpoint, request: bytes) -> None:
    """The answer is an error, the connection ends with it, and it was counted."""
    events = ("bad_request", "too_large", "slow_request")
    before = sum(counted(endpoint, event) for event in events)
    with connected(endpoint) as sock:
        sock.sendall(request)
        data = b""
        try:
            while more := sock.recv(65536):
                data += more
        except ConnectionResetError:  # the server has closed with bytes unread
            pass
    assert data.count(b"server: tokenworks") == 1, data
    assert data.startswith(b"HTTP/1.1 4"), data
    assert b"server_load" not in data
    assert sum(counted(endpoint, event) for event in events) == before + 1


def test_trailers_are_not_headers(wide: Endpoint) -> None:
    """What stands after a body in chunks grants nothing, and does not end up among the headers."""
    body = b"8\r\n" + b'{"prompt' + b"\r\n6\r\n" + b'":"a"}' + b"\r\n0\r\n"
    trailers = b"authorization: Bearer x\r\nhost: y\r\n" + b"".join(b"h%d: x\r\n" % i for i in range(200))
    head = b"POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with connected(wide) as sock:
        sock.sendall(head + body + trailers + b"\r\n" + get("/version"))
        data = b""
        while data.count(b"HTTP/1.1 200") < 2 or not data.endswith(b"}"):
            more = sock.recv(65536)
            assert more, data
            data += more
    assert b'"count":1' in data


WRONG = [
    b"", b"{", b"nul", b"[]", b'"x"', b"1e999", b"{}", b"\xff\xfe{}", b'{"prompt": "\xff"}', b'{"prompt": "\\ud800',
    b'{"prompt": 5}', b'{"prompt": {"a": 1}}', b'{"prompt": []}', b'{"prompt": [[]]}', b'{"prompt": [-1]}',
    b'{"prompt": [4294967296]}', b'{"prompt": [1, "a"]}', b'{"prompt": ["a", [1]]}', b'{"prompt": [1.5]}',
    b'{"prompt": "x", "max_tokens": "3"}', b'{"prompt": "x", "max_tokens": 1e400}', b'{"prompt": "x", "max_tokens": 0}',
    b'{"prompt": "x", "max_tokens": ' + b"9" * 400 + b"}", b'{"prompt": "x", "n": 0}', b'{"prompt": "x", "n": 129}',
    b'{"prompt": "x", "stream": "yes"}', b'{"prompt": "x", "stop": [1]}', b'{"prompt": "x", "stop": ""}',
    b'{"prompt": "x", "stream_options": {}}', b'{"prompt": "x", "seed": 1.5}', b'{"prompt": "x"} trailing',
    b'{"prompt": "x", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"prompt": "x"' + b"\0" + b"}",
    json.dumps({"prompt": "x", "max_tokens": 8192}).encode(), json.dumps({"prompt": "x " * 20_000}).encode(),
    json.dumps({"prompt": "x", "model": "another"}).encode(),
]  # fmt: skip


def test_wrong_bodies_are_counted(wide: Endpoint) -> None:
    """Each one gets an error in OpenAI's form on a connection that stays open."""
    before = refused(wide, COMPLETION)
    with connected(wide) as sock:
        for body in WRONG:
            sock.sendall(post(COMPLETION, body))
            response = read(sock)
            assert response.status in {400, 404}, (body[:80], response.body)
            assert set(response.json["error"]) == {"message", "type", "param", "code"}
    assert refused(wide, COMPLETION) == before + len(WRONG)
    at_rest(wide)


def test_giant_bodies(wide: Endpoint) -> None:
    """One body has a limit, and so have all bodies that are under way together."""
    too_large, over = counted(wide, "too_large"), counted(wide, "refused")
    size = wide.server.limits.body
    with connected(wide) as sock:
        sock.sendall(post(COMPLETION, b"").replace(b"length: 0", b"length: %d" % (size + 1)))
        assert read(sock).status == 413
    waiting = [connected(wide) for _ in range(4)]
    try:
        for sock in waiting:
            sock.sendall(post(COMPLETION, b"").replace(b"length: 0", b"length: %d" % size) + b" " * (size - 100))
    except OSError:
        pass
    statuses = []
    for sock in waiting:
        try:
            statuses.append(read(sock).status)
        except ConnectionResetError:
            statuses.append(503)
        sock.close()
    assert 503 in statuses
    assert counted(wide, "too_large") == too_large + 1
    assert counted(wide, "refused") > over
    at_rest(wide)


def test_a_body_in_many_small_chunks(wide: Endpoint) -> None:
    body = json.dumps({"prompt": "word " * 5000}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % one for one in body)
    head = b"POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    assert ask(wide, head + chunks + b"0\r\n\r\n").json["count"] == 6250


# ---- a bounded fuzz of the paths of JSON and of streams

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "n": st.integers(1, 4), "stop": st.sampled_from(["t", "e a", [" the", "q"], "never"]), "echo": st.booleans(),
    "logprobs": st.integers(0, 3), "ignore_eos": st.booleans(), "min_tokens": st.integers(0, 5), "seed": st.integers(),
}  # fmt: skip
PROMPTS = st.one_of(
    st.text(min_size=1, max_size=40),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=9),
    st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=3),
)


@settings(max_examples=TRIES, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.fixed_dictionaries({"prompt": PROMPTS}, optional=FIELDS), pieces=st.lists(st.integers(1, 400)))
def test_a_stream_says_what_the_whole_answer_says(endpoint: Endpoint, body: dict[str, Any], pieces: list[int]) -> None:
    """For all fields together, and however the network cuts the request: text, finish reason and usage are equal."""
    body = {**body, "max_tokens": 12}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    whole = ask(endpoint, post(COMPLETION, body))
    request, at = post(COMPLETION, {**body, **options}), 0
    with connected(endpoint) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (*pieces, len(request)):
            sock.sendall(request[at : at + piece])
            at += piece
        streamed = read(sock)
    assert whole.status == streamed.status
    if whole.status != 200:
        assert whole.json["error"]["message"] == streamed.json["error"]["message"]
        return
    texts, reasons = dict[int, str](), dict[int, str]()
    for event in streamed.events:
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
            if choice["finish_reason"]:
                assert reasons.setdefault(choice["index"], choice["finish_reason"]) == choice["finish_reason"]
    choices = whole.json["choices"]
    assert texts == {choice["index"]: choice["text"] for choice in choices}
    assert reasons == {choice["index"]: choice["finish_reason"] for choice in choices}
    usages = [response["usage"] for response in (whole.json, streamed.events[-1])]
    assert usages[0]["completion_tokens"] == usages[1]["completion_tokens"]
    assert usages[0]["prompt_tokens"] == usages[1]["prompt_tokens"]


def test_nothing_is_sent_on_a_connection_that_closes(wide: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transport drops the headers of a stream that begins while it closes; its tokens may not be sent, either."""
    begun = StreamAnswer._start

    def closed_first(answer: StreamAnswer) -> None:
        answer.connection.transport.close()
        begun(answer)

    monkeypatch.setattr(StreamAnswer, "_start", closed_first)
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 9, "stream": True}).encode()
    with connected(wide) as sock:
        sock.sendall(post(CHAT, body))
        assert sock.recv(65536) == b""


@settings(max_examples=TRIES, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_damaged_requests(endpoint: Endpoint, seed: int) -> None:
    """Bytes of good requests that were changed, lost or doubled: the server answers in HTTP, or closes."""
    rng = np.random.default_rng(seed)
    body = json.dumps({"messages": [{"role": "user", "content": "é"}], "max_tokens": 2, "stream": True}).encode()
    chunked = b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" % CHAT.encode()
    good = [
        post(CHAT, body),
        chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        get("/metrics"),
        get("/v1/models"),
    ]
    data = bytearray(b"".join(good[int(rng.integers(len(good)))] for _ in range(2)))
    for _ in range(int(rng.integers(1, 6))):
        at, span = int(rng.integers(len(data))), int(rng.integers(1, 20))
        match int(rng.integers(3)):
            case 0:
                data[at] = int(rng.integers(256))
            case 1:
                del data[at : at + span]
            case _:
                data[at:at] = data[at : at + span]
    with connected(endpoint) as sock:
        sock.sendall(bytes(data))
        sock.shutdown(socket.SHUT_WR)
        came = b""
        try:
            while more := sock.recv(65536):
                came += more
        except ConnectionResetError:
            pass
    assert not came or came.startswith(b"HTTP/1.1 "), came[:100]


@settings(max_examples=TRIES, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.integers(1, 3000), max_size=6), reset=st.booleans(), n=st.integers(1, 3))
def test_streams_that_are_read_in_pieces_and_left(endpoint: Endpoint, steps: list[int], reset: bool, n: int) -> None:
    """What has come of a stream is the beginning of a good stream, wherever the client leaves it."""
    with connected(endpoint) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(
            post(CHAT, {"messages": [{"role": "user", "content": "x"}], "max_tokens": 200, "n": n, "stream": True})
        )
        came = b""
        for step in steps:
            came += sock.recv(step)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    head, _, rest = came.partition(b"\r\n\r\n")
    assert not came or head.startswith(b"HTTP/1.1 200"[: len(head)])
    for event in whole_chunks(rest).split(b"\n\n")[:-1]:
        if event != b"data: [DONE]":
            assert json.loads(event.removeprefix(b"data: "))["object"] == "chat.completion.chunk"


def whole_chunks(data: bytes) -> bytes:
    """The contents of the chunks that are complete."""
    at = 0
    while True:
        size, found, _ = data[at:].partition(b"\r\n")
        end = at + len(size) + 4 + (int(size, 16) if found and size else 0)
        if not found or end > len(data) or size == b"0":
            return unchunked(data[:at] + b"0\r\n\r\n")
        at = end


def test_nothing_is_left(endpoint: Endpoint, wide: Endpoint) -> None:
    at_rest(endpoint)
    at_rest(wide)
    assert isinstance(ask(wide, get("/metrics")), Response)
