"""A proxy before an OpenAI-compatible server that writes a trace. Requests and answers pass through unchanged."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from yarl import URL

from tokenworks.errors import SpecError
from tokenworks.serving.exchange import ROUTES, SeenExchange, without_usage
from tokenworks.serving.record_settings import RecordedCounts, RecorderSettings
from tokenworks.serving.tokens import Tokenizer, load_tokenizer

HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
}  # fmt: skip
"""Headers that concern one connection, so that a proxy does not hand them on (RFC 9110, section 7.6.1)."""
OWN = {"host", "content-length", "accept-encoding", "expect"}
"""Headers of a request that the recorder sets itself. An answer that is not compressed can be read."""
BODY_S, CONNECT_S, END_S = 60.0, 10.0, 2.0
"""Time for a client to send a body, for the server to take a connection, and for answers when the recorder ends [s]."""
BUSY = 8192
"""Requests in flight; the next one gets 503 [count]."""


class Recorder:
    """The proxy.

    Parameters
    ----------
    settings : what is recorded, and where
    """

    def __init__(self, settings: RecorderSettings) -> None:
        settings.check()
        self.settings, self.counts, self.busy = settings, RecordedCounts(), 0
        self.base = settings.to.rstrip("/")
        self.tokenizer: Tokenizer = load_tokenizer(settings.tokenizer)
        self.stopping = asyncio.Event()
        self.error: OSError | None = None
        self._began = 0.0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="record")

    # ---- a request

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on, pass its answer back, and note both."""
        if self.busy >= BUSY:
            return _error(503, f"{BUSY} requests are in flight", {"retry-after": "1"})
        self.busy += 1
        exchange: SeenExchange | None = None
        try:
            arrival, most = time.perf_counter() - self._began, self.settings.max_body
            if (request.content_length or 0) > most:
                return _error(413, f"the body is longer than {most} bytes")
            try:
                async with asyncio.timeout(BODY_S):
                    body = await request.read()
            except TimeoutError:
                return _error(408, f"the body took longer than {BODY_S:g} s")
            if request.method == "POST" and request.path in ROUTES:
                exchange = SeenExchange(request.path, body, arrival, keep_text=self.settings.text)
            else:
                self.counts.passed += 1
            return await self._pass(request, body, exchange)
        finally:
            if exchange is None:
                self.busy -= 1
            else:
                self._writer.submit(self._write, exchange)

    async def _pass(self, request: web.Request, body: bytes, exchange: SeenExchange | None) -> web.StreamResponse:
        given = {name: value for name, value in request.headers.items() if name.lower() not in HOP | OWN}
        given["Accept-Encoding"] = "identity"
        url = URL(self.base + request.raw_path, encoded=True)
        try:
            theirs = await self._session.request(
                request.method, url, headers=given, data=body or None, allow_redirects=False
            )
        except (ClientError, OSError, TimeoutError) as error:
            if exchange is not None:
                exchange.failed = True
            return _error(502, f"{self.settings.to} does not answer: {type(error).__name__}")
        async with theirs:
            if exchange is not None:
                exchange.begin(theirs.status, theirs.headers.get("content-type", ""))
            ours = web.StreamResponse(status=theirs.status, reason=theirs.reason)
            ours.headers.extend([(k, v) for k, v in theirs.headers.items() if k.lower() not in HOP])
            await ours.prepare(request)
            try:
                async for data in theirs.content.iter_any():
                    now = time.perf_counter() - self._began
                    try:
                        await ours.write(data)
                    except ConnectionResetError:  # the client has left
                        return ours
                    finally:
                        if exchange is not None:
                            exchange.feed(data, now)
            except ClientError:  # the server has ended in the middle: so must the answer
                if exchange is not None:
                    exchange.failed = True
                if request.transport is not None:
                    request.transport.abort()
                return ours
            if exchange is not None:
                exchange.finish(time.perf_counter() - self._began)
            await ours.write_eof()
            return ours

    def _write(self, exchange: SeenExchange) -> None:
        """Add a request to the file. A thread of its own does it, as a long prompt takes a while."""
        try:
            self._add(exchange)
        except OSError as error:  # the recorder does not go on without its file
            self.error = error
            self._loop.call_soon_threadsafe(self.stopping.set)
        except Exception:  # of a tokenizer, for example; its message may have the text of the prompt
            self.counts.failed += 1
        self._loop.call_soon_threadsafe(self._written)

    def _written(self) -> None:
        self.busy -= 1

    def _add(self, exchange: SeenExchange) -> None:
        """Add the rows of a request to the file, whole lines only."""
        counts, rows = self.counts, exchange.rows(self.tokenizer, self.settings.block_tokens)
        if not rows:
            counts.failed += 1
            return
        counts.requests += 1
        counts.rows += len(rows)
        counts.left += exchange.end_s is None
        counts.counted += without_usage(exchange)
        self._file.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        self._file.flush()

    # ---- start and end

    async def start(self) -> tuple[str, int]:
        """Create the file and listen. Returns the address and the port."""
        settings, self._began, self._loop = self.settings, time.perf_counter(), asyncio.get_running_loop()
        application = web.Application(client_max_size=settings.max_body)
        application.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(
            application, handler_cancellation=True, access_log=None, handle_signals=False, shutdown_timeout=END_S
        )
        self._runner = runner
        await runner.setup()
        site = web.TCPSite(runner, settings.host, settings.port, backlog=4096)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            where = f"{settings.host}:{settings.port}"
            raise SpecError(f"cannot listen: {error}", where=where, hint="choose another --port or --host") from None
        try:
            self._file: IO[bytes] = os.fdopen(os.open(settings.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        except OSError as error:
            await runner.cleanup()
            raise SpecError(f"cannot be written: {error.strerror}", where=str(settings.out)) from None
        self._session = ClientSession(
            connector=TCPConnector(limit=0, force_close=False), cookie_jar=DummyCookieJar(), auto_decompress=False,
            timeout=ClientTimeout(total=None, sock_connect=CONNECT_S),
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
        )  # fmt: skip
        address = runner.addresses[0]
        return str(address[0]), int(address[1])

    async def stop(self) -> None:
        """End requests in flight, and close the file."""
        await self._runner.cleanup()
        await self._session.close()
        self._writer.shutdown()
        self._file.close()


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error of the recorder itself, in OpenAI's form."""
    body: dict[str, Any] = {
        "error": {"message": f"tokenworks record: {message}", "type": "proxy_error", "code": status}
    }
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json", headers=headers)


async def _until_stopped(recorder: Recorder, say: Callable[[str, int], None]) -> None:
    host, port = await recorder.start()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, recorder.stopping.set)
    say(host, port)
    await recorder.stopping.wait()
    await recorder.stop()
    if recorder.error is not None:
        where, hint = str(recorder.settings.out), "what was recorded before is in the file"
        raise SpecError(f"cannot be written: {recorder.error}", where=where, hint=hint)


def record(settings: RecorderSettings, say: Callable[[str, int], None]) -> RecordedCounts:
    """Record until SIGINT or SIGTERM.

    Parameters
    ----------
    settings : what is recorded, and where
    say : called with the address and the port when the recorder listens
    """
    recorder = Recorder(settings)
    try:
        import uvloop
    except ImportError:
        asyncio.run(_until_stopped(recorder, say))
    else:
        uvloop.run(_until_stopped(recorder, say))
    return recorder.counts
