"""Clients that break the rules, over HTTP, against a server in a process of its own: what it answers, counts and keeps.

All rows but the last go to one server, one after the other. After each row, requests in flight and KV blocks in use
must be 0. The last row ends this server by kill -9 and starts another one at the same port.

    python -m benchmarks.abuse
"""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.serving.client import leave

from benchmarks.serve import Started, completion, deployment, started

BODY = 1 << 20
"""`--max-body` of the server [byte]."""
PATIENCE_S = 30.0
"""Longest wait for the server to be at rest [s]."""
GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
EVENTS, ANSWERS = "tokenworks_connection_events_total", "http_requests_total"


def start(file: Path, port: int = 0) -> Started:
    """Start a server, and wait until it listens.

    Parameters
    ----------
    file : its deployment
    port : its port; 0 = any
    """
    command = [sys.executable, "-m", "tokenworks", "serve", str(file), "--port", str(port), "--max-body", str(BODY)]
    return started([*command, "--max-connections", "3000"])


def opened(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def post(body: bytes, size: int | None = None) -> bytes:
    """A request for a completion; `size`: the length that its header tells instead of the real one [byte]."""
    length = len(body) if size is None else size
    return b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (length, body)


def answer(port: int, request: bytes) -> str:
    """The status of the answer to a request on a connection of its own; "closed" without an answer."""
    with opened(port) as sock:
        try:
            sock.sendall(request)
            return sock.recv(12)[9:].decode() or "closed"
        except OSError:
            return "closed"


def values(port: int) -> Counter[str]:
    """The metrics of the server: by name, and by name and value of each label."""
    with opened(port) as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        text = b"".join(iter(lambda: sock.recv(1 << 16), b"")).decode()
    found: Counter[str] = Counter()
    for name, labels, value in re.findall(r"^([\w:]+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
        for key in (name, *(f"{name} {label}" for label in re.findall(r'="([^"]*)"', labels))):
            found[key] += float(value)  # type: ignore[assignment]
    return found


def at_rest(port: int) -> Counter[str]:
    """The metrics once nothing is in flight and no KV block is in use."""
    until = time.monotonic() + PATIENCE_S
    while any((now := values(port))[name] for name in GAUGES):
        assert time.monotonic() < until, {name: now[name] for name in GAUGES}
        time.sleep(0.2)
    return now


# ---- what clients do; each returns the statuses of its answers


def vanish(port: int) -> list[str]:
    socks = [opened(port) for _ in range(1000)]
    for sock in socks:
        sock.sendall(completion("x", 8000))
    for sock in socks:
        assert sock.recv(15) == b"HTTP/1.1 200 OK"
    leave(socks)
    return []


def wrong_bodies(port: int) -> list[str]:
    malformed = [b"{", b"nul", b'{"prompt": "x"} trailing', b'{"prompt": "x", "a": ' + b"[" * 5000 + b"}"] * 50
    not_text = [b"\xff\xfe{}", b'{"prompt": "\xff"}', b'{"prompt": "\\ud800', b'{"prompt": "x"\0}'] * 50
    types = [b"[]", b"{}", b'{"prompt": 5}', b'{"prompt": [-1]}', b'{"prompt": [1, "a"]}', b'{"prompt": {"a": 1}}',
             b'{"prompt": "x", "max_tokens": "3"}', b'{"prompt": "x", "max_tokens": 0}', b'{"prompt": "x", "n": 129}',
             b'{"prompt": "x", "stream": "yes"}', b'{"prompt": "x", "stop": [1]}', b'{"prompt": "x", "seed": 1.5}',
             b'{"prompt": "x", "stream_options": {}}'] * 20  # fmt: skip
    return [answer(port, post(body)) for body in (*malformed, *not_text, *types)]


def giant_bodies(port: int) -> list[str]:
    told = [answer(port, post(b"", 16_000_000_000)) for _ in range(100)]
    return told + [answer(port, post(b" " * (2 * BODY))) for _ in range(10)]


def no_http(port: int) -> list[str]:
    lines = [b"\0" * 64, b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00" + b"a" * 99]
    return [answer(port, line) for line in lines * 25]


def half_requests(port: int) -> list[str]:
    """A third of a request, then the end of the connection."""
    for _ in range(200):
        with opened(port) as sock:
            sock.sendall(completion("x", 100)[:60])
    return []


def slow_reader(port: int) -> list[str]:
    """One client reads nothing for 8 s and then 3 kB at a time; it gets the same text as one that reads at once."""
    texts = []
    for wait_s, piece in ((0.0, 1 << 16), (8.0, 3000)):
        with opened(port) as sock:
            body = {"prompt": "slow", "max_tokens": 1500, "stream": True, "ignore_eos": True, "seed": 1}
            sock.sendall(post(json.dumps(body).encode()))
            time.sleep(wait_s)
            data = b""
            while not data.endswith(b"0\r\n\r\n"):
                more = sock.recv(piece)
                assert more, "the stream ended early"
                data += more
        texts.append("".join(re.findall(r'"text":"(.*?)"', data.decode())))
    assert texts[0] == texts[1], "the texts differ"
    return ["the same text"]


ROWS: Sequence[tuple[str, Callable[[int], list[str]], Sequence[str]]] = (
    ("1,000 clients that vanish in mid-stream", vanish, (f"{EVENTS} client_left",)),
    ("200 clients that leave in mid-request", half_requests, ()),
    (
        "200 malformed bodies, 100 not in UTF-8, 100 with a lone surrogate or a NUL, 260 with wrong types",
        wrong_bodies,
        (f"{ANSWERS} 4xx",),
    ),
    ("100 bodies that announce 16 GB, 10 of 2 MiB where 1 MiB is allowed", giant_bodies, (f"{EVENTS} too_large",)),
    ("100 requests that are no HTTP", no_http, (f"{EVENTS} bad_request",)),
    ("a slow reader, beside a quick one", slow_reader, ()),
)


def killed(server: Started, file: Path) -> Started:
    """Kill a server with 100 streams, and start another one at its port."""
    socks = [opened(server.port) for _ in range(100)]
    for sock in socks:
        sock.sendall(completion("x", 8000))
    for sock in socks:
        assert sock.recv(15) == b"HTTP/1.1 200 OK"
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    done = 0
    for sock in socks:
        data = b""
        try:
            while more := sock.recv(1 << 16):
                data = data[-99:] + more
        except ConnectionError:
            pass
        done += b"[DONE]" in data
        sock.close()
    again = start(file, server.port)
    status = answer(again.port, completion("x", 4))
    print(f"kill -9 with 100 streams: {done} ended with [DONE]; the next server at port {again.port} answers {status}")
    return again


def main() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "deployment.yaml")
        file.write_text(json.dumps(deployment(2, 600)), encoding="utf-8")
        server = start(file)
        try:
            answer(server.port, completion("warm", 4))
            before = at_rest(server.port)
            print(f"at the start: {before['process_resident_memory_bytes'] / 1e6:.1f} MB")
            for name, clients, counted in ROWS:
                told = Counter(clients(server.port))
                after = at_rest(server.port)
                more = ", ".join(f"{one.split()[1]} {after[one] - before[one]:.0f}" for one in counted)
                answers = ", ".join(f"{status} x {count}" for status, count in told.items()) or "none"
                print(f"{name}: answers {answers}; counted {more or 'nothing'}; "
                      f"{after['process_resident_memory_bytes'] / 1e6:.1f} MB; "
                      f"internal errors {after[f'{EVENTS} internal_error']:.0f}", flush=True)  # fmt: skip
                before = after
            server = killed(server, file)
        finally:
            server.process.terminate()
            server.process.wait(60)


if __name__ == "__main__":
    main()
