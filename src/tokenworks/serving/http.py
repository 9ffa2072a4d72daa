"""HTTP/1.1 on one connection: requests with bounds, responses, and streams of server-sent events.

A stream has no task, and a buffer for one event. This is why the server has its own protocol, and no framework: a token
takes 8.5 to 12 us, where an ASGI server takes 20 us (docs/serve.md). The parser is llhttp (package httptools).
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Protocol

import httptools  # type: ignore[import-not-found, unused-ignore]

JSON = "application/json"
WATERMARK = 65536
"""A stream waits while more than this is not sent yet [byte]."""
SEND_BUFFER = 131072
"""Size of the send buffer of a connection in the kernel, which Linux doubles [byte]. Without it, a client that reads
nothing would hold megabytes."""
PIPELINE = 65536
"""Most bytes that a client may send while it waits for a response [byte]."""
_NO_HEADERS: dict[str, str] = {}
"""Headers of a connection between two requests. Nothing is added to them."""
EVENTS = {408: "slow_request", 413: "too_large", 414: "too_large", 431: "too_large", 503: "refused"}
"""Name of the event of a request that gets no route, by its status; other statuses count as "bad_request"."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of what clients may do.

    Parameters
    ----------
    connections : connections at the same time; the next one is refused with 503 [count]
    body : size of a request body [byte]
    bodies : size of all bodies that are not complete yet, over all connections; what comes next gets 503 [byte]
    headers : size of the request line and of all headers together [byte]
    header_count : headers of a request [count]
    request_s : time for a client to send a whole request, from its first byte on [s]
    idle_s : time that a connection may stay open without a request [s]
    write_s : time that a client may read nothing of a response that waits for it; its host may be silent for twice as
        long [s]
    """

    connections: int = 8192
    body: int = 32 << 20
    bodies: int = 1 << 30
    headers: int = 32768
    header_count: int = 100
    request_s: float = 60.0
    idle_s: float = 75.0
    write_s: float = 60.0


@dataclass(slots=True)
class HttpRequest:
    """One request.

    Parameters
    ----------
    method, path, query : of the request line
    headers : names in lower case
    body : the whole body
    received : time of the first byte on the monotonic clock [s]
    keep_alive : whether the connection stays open
    chunked : whether the client understands chunked responses (HTTP/1.1)
    """

    method: str = ""
    path: str = ""
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    received: float = 0.0
    keep_alive: bool = True
    chunked: bool = True


class HttpError(Exception):
    """A request that gets an error response.

    Parameters
    ----------
    status : HTTP status
    message : what is wrong, and the way out
    kind : type of the error in OpenAI's form; empty: the type that belongs to the status
    param : parameter that is wrong
    headers : headers of the response
    """

    def __init__(
        self, status: int, message: str, *, kind: str = "", param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.kind, self.param = status, message, kind, param
        self.headers = dict(headers or {})


class Leaver(Protocol):
    """What hears that a client has left, or reads slowly."""

    paused: bool

    def gone(self) -> None:
        """The client has left before the end of the response."""

    def resume(self) -> None:
        """The client reads again."""


class ConnectionHost(Protocol):
    """What owns connections: the server."""

    limits: HttpLimits
    loop: asyncio.AbstractEventLoop
    connections: set[Connection]
    held: int
    """Size of all bodies that are not complete yet [byte]."""

    def handle(self, connection: Connection, request: HttpRequest) -> None:
        """Answer a request, now or later."""

    def error_body(self, error: HttpError) -> bytes:
        """Body of an error response."""

    def count(self, what: str) -> None:
        """Count an event of a connection, such as "client_left"."""


@lru_cache(1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Status line and headers of a response, with the headers that every response has."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", f"date: {_date(int(time.time()))}", "server: tokenworks"]
    lines += ["x-content-type-options: nosniff", "cache-control: no-store"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _watch_peer(own: Any, write_s: float) -> None:
    """Let the kernel end a connection whose client no longer confirms anything: its host is gone, so no FIN comes.

    This takes twice `write_s`, so that a client which is there and reads nothing is counted as a slow reader before.

    Parameters
    ----------
    own : socket of the connection
    write_s : `HttpLimits.write_s` [s]
    """
    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": write_s, "TCP_KEEPINTVL": write_s / 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 2000 * write_s,
    }  # fmt: skip
    for name, value in options.items():
        if hasattr(socket, name):  # some systems lack some of them
            own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), max(1, round(value)))


class Connection(asyncio.Protocol):
    """One connection of a client.

    Parameters
    ----------
    host : what owns the connection
    door : number of the port of the server
    """

    __slots__ = (
        "_body", "_headers", "_parser", "_queue", "_request", "_size", "_unread", "_url", "answer", "busy", "closing",
        "deadline", "door", "fd", "host", "transport",
    )  # fmt: skip

    def __init__(self, host: ConnectionHost, door: int = 0) -> None:
        self.host, self.door = host, door
        self.transport: Any = None
        self.answer: Leaver | None = None
        self.busy = self.closing = False
        self.deadline = 0.0
        self.fd = -1
        """Descriptor of the socket, for `StreamAnswer`; -1: there is none, or the client has left."""
        self._parser: Any = None
        self._request: HttpRequest | None = None
        self._queue: tuple[HttpRequest, ...] = ()
        self._unread = b""
        self._url = b""
        self._headers = _NO_HEADERS
        self._body: bytes | bytearray = b""
        self._size = 0

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = transport
        self.transport.set_write_buffer_limits(high=WATERMARK)
        own = transport.get_extra_info("socket")
        if own is not None:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            _watch_peer(own, self.host.limits.write_s)
            self.fd = -1 if sys.platform == "win32" else own.fileno()
        self.deadline = self.host.loop.time() + self.host.limits.request_s
        if len(self.host.connections) >= self.host.limits.connections:
            self._fail(HttpError(503, "too many connections", headers={"retry-after": "1"}))
            return
        self.host.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it
        """The client has left, or the server has closed the connection."""
        self.fd = -1  # the transport closes it now, and the number may come back as another connection
        self.host.connections.discard(self)
        answer, self.answer = self.answer, None
        self.closing = True
        self._drop()
        if answer is not None:
            self.host.count("client_left")
            answer.gone()

    def eof_received(self) -> bool:
        """The client sends no more: it has left."""
        return False

    def pause_writing(self) -> None:
        """The client reads slowly: its stream waits."""
        self.deadline = self.host.loop.time() + self.host.limits.write_s
        if self.answer is not None:
            self.answer.paused = True

    def resume_writing(self) -> None:
        """The client has read."""
        self.deadline = 0.0
        if self.answer is not None:
            self.answer.paused = False
            self.answer.resume()

    def data_received(self, data: bytes) -> None:
        """Parse what the client sends. While a response is under way, keep it for later."""
        if self.closing:
            return
        if self.busy:
            self._unread += data
            if len(self._unread) > PIPELINE:
                self.host.count("too_much_pipelined")
                self.transport.abort()
            return
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
            self._begin()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._parser = None  # the request was answered, and the connection ends
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._fail(cause if isinstance(cause, HttpError) else HttpError(400, "the request cannot be read"))
        except httptools.HttpParserError as error:
            self._fail(HttpError(400, f"this is no valid HTTP/1.1 request: {error}"))
        else:
            if self._request is None:
                self._parser = None  # a stream keeps no parser

    # ---- parser

    def _begin(self) -> None:
        self._request = HttpRequest(received=time.monotonic())
        self._url, self._headers, self._size = b"", {}, 0
        self.deadline = self.host.loop.time() + self.host.limits.request_s

    def on_message_begin(self) -> None:
        """A request begins; the bytes of the next one may come with the end of the one before."""
        if self._request is None:
            self._begin()

    def on_url(self, url: bytes) -> None:
        """A part of the URL."""
        self._url += url
        self._grow(len(url), 414)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. Those after a body in chunks (trailers) are not read: no proxy has checked them."""
        assert self._request is not None
        if self._request.headers is self._headers:
            return
        self._grow(len(name) + len(value) + 4, 431)
        key = name.decode("latin-1").lower()
        if key in self._headers and key in {"authorization", "content-length", "host", "content-type"}:
            raise HttpError(400, f"two headers {key}")
        self._headers[key] = value.decode("latin-1")
        if len(self._headers) > self.host.limits.header_count:
            raise HttpError(431, f"more than {self.host.limits.header_count} headers")

    def _grow(self, size: int, status: int) -> None:
        self._size += size
        if self._size > self.host.limits.headers:
            raise HttpError(status, f"URL and headers are longer than {self.host.limits.headers} bytes")

    def on_headers_complete(self) -> None:
        """All headers are here."""
        assert self._request is not None
        self._size = 0
        request, headers = self._request, self._headers
        request.method, request.headers = self._parser.get_method().decode("latin-1"), headers
        request.chunked = self._parser.get_http_version() != "1.0"
        request.keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        if request.chunked and "host" not in headers:
            raise HttpError(400, "the header host is missing")
        try:
            url = httptools.parse_url(self._url)
        except httptools.HttpParserError:
            raise HttpError(400, "the URL cannot be read") from None
        request.path = (url.path or b"/").decode("latin-1")
        request.query = (url.query or b"").decode("latin-1")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.host.limits.body:
            raise self._too_large()
        if headers.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _too_large(self) -> HttpError:
        return HttpError(413, f"the body is longer than {self.host.limits.body} bytes")

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if len(self._body) + len(body) > self.host.limits.body:
            raise self._too_large()
        if self.host.held + len(body) > self.host.limits.bodies:
            raise HttpError(503, "the bodies of other requests take all room", headers={"retry-after": "1"})
        if not self._body:
            self._body = bytearray()
        self._body += body
        self.host.held += len(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        assert self._request is not None
        request, self._request = self._request, None
        request.body = bytes(self._body)
        self._free()
        self._url, self._headers, self._size = b"", _NO_HEADERS, 0  # a stream keeps nothing of its request
        if self.closing:
            return
        if self.busy:
            self._queue += (request,)
            if len(self._queue) > 64:
                raise HttpError(400, "more than 64 requests wait on this connection")
            return
        self._serve(request)

    def _free(self) -> None:
        """Forget the body."""
        self.host.held -= len(self._body)
        self._body = b""

    def _drop(self) -> None:
        """Forget the request that is not complete."""
        self._parser = None
        self._free()

    # ---- responses

    def _serve(self, request: HttpRequest) -> None:
        self.busy, self.deadline = True, 0.0
        if not request.keep_alive:
            self.closing = True
        self.host.handle(self, request)

    def _fail(self, error: HttpError) -> None:
        """Answer a request that cannot be read, and close the connection."""
        self.host.count(EVENTS.get(error.status, "bad_request"))
        self.closing = True
        self._drop()
        if self.busy:
            self.transport.abort()
            return
        self.busy = True
        self.respond(error.status, self.host.error_body(error), headers=error.headers)

    def respond(
        self,
        status: int,
        body: bytes,
        *,
        kind: str = JSON,
        headers: Mapping[str, str] | None = None,
        bare: bool = False,
    ) -> None:
        """Send a whole response.

        Parameters
        ----------
        status, body : status and body
        kind : content type
        headers : more headers
        bare : leave the body out, as HEAD wants it
        """
        if self.transport is None or self.transport.is_closing():
            return
        more = {"content-type": kind, "content-length": str(len(body)), **(headers or {})}
        if self.closing:
            more["connection"] = "close"
        self.transport.write(head(status, more) + (b"" if bare else body))
        self.done()

    def done(self) -> None:
        """The response is complete: close the connection, or take the next request."""
        self.answer, self.busy = None, False
        if self.closing:
            self.transport.close()
            return
        self.deadline = self.host.loop.time() + self.host.limits.idle_s
        if self._queue:
            self.host.loop.call_soon(self._next)
        elif self._unread:
            self.host.loop.call_soon(self._read_on)

    def _next(self) -> None:
        if not self.busy and self._queue:
            request, *rest = self._queue
            self._queue = tuple(rest)
            self._serve(request)

    def _read_on(self) -> None:
        if not self.busy and self._unread:
            data, self._unread = self._unread, b""
            self.data_received(data)

    def sweep(self, now: float) -> None:
        """Close the connection if the client takes too long."""
        if not self.deadline or now < self.deadline:
            return
        if self.busy:
            self.host.count("slow_reader")
            self.transport.abort()
        elif self._request is not None and self._parser is not None:
            self._fail(HttpError(408, f"the request took longer than {self.host.limits.request_s:g} s"))
        else:
            self.host.count("idle_closed")
            self.transport.close()
