"""A raw HTTP client for tests: bytes out, bytes in."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from typing import Any

from tests.serving.conftest import Endpoint

RESET = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER with no time: the end of the connection is a reset."""


def connected(endpoint: Endpoint) -> socket.socket:
    return socket.create_connection(("127.0.0.1", endpoint.port), timeout=20)


def post(path: str, body: Any, *, headers: str = "", method: str = "POST", host: str = "x") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(data)}\r\n{headers}\r\n".encode() + data


def get(path: str, *, headers: str = "", method: str = "GET", host: str = "x") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n".encode()


class Response:
    """A response as it came."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """Data of the events of a stream; the last one must be [DONE]."""
        parts = self.body.decode().split("\n\n")
        assert parts[-2:] == ["data: [DONE]", ""]
        return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def read(sock: socket.socket, *, bare: bool = False) -> Response:
    """Read one response."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        assert more, data
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    status = int(lines[0].split()[1])
    if status == 100:
        return read_on(sock, rest)
    if bare:
        return Response(status, headers, rest)
    if headers.get("transfer-encoding") == "chunked":
        while not rest.endswith(b"0\r\n\r\n"):
            more = sock.recv(65536)
            assert more, rest[-200:]
            rest += more
        return Response(status, headers, unchunked(rest))
    if "content-length" in headers:
        while len(rest) < int(headers["content-length"]):
            rest += sock.recv(65536)
        return Response(status, headers, rest)
    while more := sock.recv(65536):
        rest += more
    return Response(status, headers, rest)


def read_on(sock: socket.socket, rest: bytes) -> Response:
    """Read the response after 100 Continue."""
    assert not rest
    return read(sock)


def unchunked(data: bytes) -> bytes:
    parts: list[bytes] = []
    while True:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        if not count:
            return b"".join(parts)
        parts.append(data[:count])
        assert data[count : count + 2] == b"\r\n"
        data = data[count + 2 :]


def ask(endpoint: Endpoint, request: bytes) -> Response:
    """Send a request on a connection of its own."""
    with connected(endpoint) as sock:
        sock.sendall(request)
        return read(sock)


def idle(endpoint: Endpoint, seconds: float = 15.0) -> bool:
    """Whether the server comes to rest: nothing in flight, no rank holds a request."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        driver = endpoint.server.driver
        levels = driver.levels()
        if not driver.in_flight and not levels.running.any() and not levels.waiting.any():
            return True
        time.sleep(0.02)
    return False


def leave(socks: Sequence[socket.socket]) -> None:
    """Close connections: a third by a reset, a third that were half-closed before, and a third by an end."""
    for place, sock in enumerate(socks):
        if place % 3 == 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        elif place % 3 == 1:
            sock.shutdown(socket.SHUT_WR)
    for sock in socks:
        sock.close()
