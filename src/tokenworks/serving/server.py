"""The server: routes, keys, start and end. It turns requests into jobs of the driver."""

from __future__ import annotations

import asyncio
import functools
import gc
import hashlib
import math
import signal
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from tokenworks.engine.simulator import warm_up
from tokenworks.errors import SpecError
from tokenworks.serving.admin import change, has_key, key_digest, spec_error
from tokenworks.serving.answers import Answer, Desk, StreamAnswer, WholeAnswer
from tokenworks.serving.anthropic import anthropic_error
from tokenworks.serving.asks import Ask
from tokenworks.serving.build import ServedDeployment
from tokenworks.serving.cards import Cards
from tokenworks.serving.chaos import FaultTerms, LiveFaults
from tokenworks.serving.driver import Driver, Job
from tokenworks.serving.http import Connection, HttpError, HttpLimits, HttpRequest
from tokenworks.serving.kv_events import OPTION, KvEventsConfig, KvPublisher, KvWatch, TierLabel
from tokenworks.serving.lengths import OutputLengths
from tokenworks.serving.lines import Lines
from tokenworks.serving.live import LiveView
from tokenworks.serving.metrics import ApiName, ServerMetrics, ServiceTerms
from tokenworks.serving.ports import OPTION as PORTS
from tokenworks.serving.ports import RANK_HEADER, Door, PortsName, doors
from tokenworks.serving.routes import routes
from tokenworks.serving.styles import Style, openai_error
from tokenworks.serving.tokens import block_names, load_tokenizer, seed_of
from tokenworks.serving.words import Vocabulary, Words
from tokenworks.specs.slo import Slo

TextName = Literal["filler", "echo"]
SWEEP_S = 1.0
"""Time between two looks for clients that take too long [s]."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the endpoint behaves.

    Parameters
    ----------
    host, port : address to listen on; port 0: any free port
    ports : what has a port of its own, from `port` on; None: there is one port for all
    api : routes and names of metrics: "openai" (as vLLM) or "sglang"
    keys : API keys, one of which a client must send; () = no key
    admin_keys : keys of /admin; () = only this computer may use /admin
    faults : faults from the start on
    kv_events : where changes of the prefix caches are published
    version : version of tokenworks
    name : name of the model in the API; empty: the model of the deployment
    speed : seconds of the deployment's time in a real second [-]
    text : "filler": words; "echo": the prompt once more
    tokenizer : tokenizer.json; None: `tokens.BYTES` bytes count as one token
    seed : seed of texts and lengths
    slo : bounds of requests, for the metrics of effective tokens
    usd_per_device_hour : price of a device, for the metric of the cost; None: no such metric [USD/h]
    startup_s : time until the server is ready, as if weights were loaded [s]
    drain_s : most time that requests in flight get when the server stops [s]
    max_requests : requests in flight; the next one is refused with 429 [count]
    limits : bounds of what clients may do
    """

    host: str = "127.0.0.1"
    port: int = 8000
    ports: PortsName | None = None
    api: ApiName = "openai"
    keys: tuple[str, ...] = ()
    admin_keys: tuple[str, ...] = ()
    faults: FaultTerms = field(default_factory=FaultTerms)
    kv_events: KvEventsConfig = field(default_factory=KvEventsConfig)
    version: str = ""
    name: str = ""
    speed: float = 1.0
    text: TextName = "filler"
    tokenizer: Path | None = None
    seed: int = 0
    slo: Slo = field(default_factory=Slo)
    usd_per_device_hour: float | None = None
    startup_s: float = 0.0
    drain_s: float = 30.0
    max_requests: int = 16384
    limits: HttpLimits = field(default_factory=HttpLimits)


class Server:
    """The endpoint of a deployment.

    Parameters
    ----------
    served : the deployment and its cluster
    lengths : chooses output lengths
    settings : how the endpoint behaves
    """

    def __init__(self, served: ServedDeployment, lengths: OutputLengths, settings: Settings) -> None:
        self.served, self.lengths, self.settings, self.limits = served, lengths, settings, settings.limits
        self.model = settings.name or served.deployment.model
        self.tokenizer = load_tokenizer(settings.tokenizer)
        self.vocabulary = Vocabulary(self.tokenizer)
        self.connections: set[Connection] = set()
        if settings.kv_events.publishes and not served.block_tokens:
            raise SpecError("the deployment has no prefix cache", where=OPTION, hint="leave it out")
        self.driver = Driver(served.cluster, settings.speed, watched=settings.kv_events.publishes)
        self.publisher: KvPublisher | None = None
        self.doors, self.ports = doors(served, settings.ports), list[int]()
        if settings.port and settings.port + len(self.doors) > 65536:
            raise SpecError(f"{len(self.doors)} ports from {settings.port} on", where=PORTS, hint="give a lower --port")
        terms = ServiceTerms(settings.slo, served.deployment.devices, settings.usd_per_device_hour)
        ranks = sum(pool.instances * pool.ranks for pool in served.cluster.pools)
        self.metrics = ServerMetrics(settings.api, self.model, ranks, terms, self.driver.request_s)
        self.driver.observe, self.driver.first = self.metrics.observe, self.metrics.first
        self.driver.over, self.driver.stepped = self.metrics.over, self.metrics.stepped
        self.faults = self.driver.faults = LiveFaults(served, settings.faults)
        self.faults.begin(self.driver.simulator)
        self.changing = asyncio.Lock()
        self.cards = Cards(served, self.driver)
        self.live = LiveView(self)
        self.desk = Desk(self.model, self.driver, self.fail)
        self.stopping, self.asleep, self.number, self.held = False, False, 0, 0
        self.ready_s = self.delivery_s = 0.0
        self._keys = [key_digest(key) for key in settings.keys]
        self.admin_keys = [key_digest(key) for key in settings.admin_keys]
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners = list[asyncio.Server]()
        self.routes = routes(settings.api)
        self._paths = {path for _, path in self.routes}

    # ---- requests

    def handle(self, connection: Connection, request: HttpRequest) -> None:
        """Answer a request, now or later."""
        method = "GET" if request.method == "HEAD" else request.method
        path = request.path.rstrip("/") or "/"
        entry = self.routes.get((method, path))
        try:
            if self.stopping:
                connection.closing = True
            if entry is None:
                if path in self._paths:
                    raise HttpError(405, f"{path} has no method {request.method}")
                raise HttpError(404, f"there is no route {request.method} {path[:200]}")
            route, is_open = entry
            if not is_open:
                self._must_be_allowed(request)
            route(self, connection, request)
        except Exception as error:
            self._failed(connection, request, error)

    def later(self, connection: Connection, request: HttpRequest, answering: Coroutine[Any, Any, None]) -> None:
        """Answer a request with a coroutine."""

        async def answer() -> None:
            try:
                await answering
            except Exception as error:
                self._failed(connection, request, error)

        self._keep(answer())

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the connections."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _failed(self, connection: Connection, request: HttpRequest, error: Exception) -> None:
        """Answer a request whose handling raised an error. A bug must not end the server."""
        if isinstance(error, SpecError):
            error = spec_error(error)
        if not isinstance(error, HttpError):
            self.metrics.count("internal_error")
            print(f"tokenworks: internal error: {_place(error)}", file=sys.stderr, flush=True)
            error = HttpError(500, f"internal error: {type(error).__name__}")
        self._refuse(connection, request, error)

    def _must_be_allowed(self, request: HttpRequest) -> None:
        """Refuse a request without one of the API keys."""
        if self._keys and not has_key(request, self._keys):
            raise HttpError(401, "the API key is missing or wrong", headers={"www-authenticate": "Bearer"})

    def fail(self, connection: Connection, error: HttpError, body: bytes) -> None:
        """Send an error response."""
        self.metrics.answered("refused", "POST", error.status)
        connection.respond(error.status, body, headers=error.headers)

    def _refuse(self, connection: Connection, request: HttpRequest, error: HttpError) -> None:
        """Send an error response in the form of the API of the route."""
        self.metrics.answered(request.path if request.path in self._paths else "none", request.method, error.status)
        form = anthropic_error if request.path.startswith("/v1/messages") else openai_error
        connection.respond(error.status, form(error), headers=error.headers, bare=request.method == "HEAD")

    def error_body(self, error: HttpError) -> bytes:
        """Body of an error in OpenAI's form."""
        return openai_error(error)

    def count(self, what: str) -> None:
        """Count an event of a connection."""
        self.metrics.count(what)

    def send(
        self, connection: Connection, request: HttpRequest, body: Any, *, kind: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Send a whole response with status 200.

        Parameters
        ----------
        connection, request : where it goes
        body : bytes, or plain data that becomes JSON
        kind : content type
        headers : more headers
        """
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        self.metrics.answered(request.path, request.method, 200)
        connection.respond(200, data, kind=kind, headers=headers, bare=request.method == "HEAD")

    # ---- asks

    @property
    def ready(self) -> bool:
        """Whether the weights are loaded, and the server is neither asleep nor stopping."""
        return self.loop.time() >= self.ready_s and not self.asleep and not self.stopping

    def must_be_ready(self) -> None:
        """Refuse a request while the server starts, sleeps or stops."""
        if not self.ready:
            wait = max(1, int(self.ready_s - self.loop.time()) + 1)
            state = "stops" if self.stopping else "sleeps" if self.asleep else "loads its weights"
            raise HttpError(503, f"the server {state}", headers={"retry-after": str(wait)})

    def must_be_model(self, name: str | None) -> None:
        """Refuse a request for another model."""
        if name is not None and name != self.model:
            raise HttpError(
                404, f"the model {name[:200]!r} does not exist; this server has {self.model}", param="model"
            )

    def load(self, door: Door) -> int:
        """Requests in flight that came through a port."""
        if door.alone:
            return self.driver.in_flight
        pins = {door.pin, *(1 + rank for rank in door.ranks)}
        return sum(job.pin in pins for job in self.driver.pending())

    def answer(self, connection: Connection, request: HttpRequest, ask: Ask, style: Style, prefix: str) -> None:
        """Send an ask to the engine.

        Parameters
        ----------
        connection, request : where it comes from
        ask : what the client wants
        style : form of the answer
        prefix : beginning of the id of the answer
        """
        count = ask.n * len(ask.prompts)
        if self.driver.in_flight + count > self.settings.max_requests:
            most = self.settings.max_requests
            raise HttpError(429, f"{most} requests are in flight, more are not taken", headers={"retry-after": "1"})
        self.number += 1
        ident = f"{prefix}{hashlib.blake2b(f'{self.settings.seed}/{self.number}'.encode(), digest_size=16).hexdigest()}"
        kind = StreamAnswer if ask.stream else WholeAnswer
        answer: Answer = kind(self.desk, connection, request, ask=ask, style=style, ident=ident)
        received_s = max(0.0, (request.received - self.delivery_s - self._started) * self.settings.speed)
        door, jobs = self.doors[connection.door], list[Job]()
        pin = door.pin_of(request.headers.get(RANK_HEADER))
        for place in range(len(ask.prompts)):
            jobs += [self._job(answer, ask, place, choice, received_s) for choice in range(ask.n)]
        for job in jobs:
            job.pin = pin
        self.metrics.asked(ask.n, ask.max_tokens, door.shown[0])
        self.metrics.answered(request.path, request.method, 200)
        answer.begin(jobs)

    def _job(self, answer: Answer, ask: Ask, place: int, choice: int, received_s: float) -> Job:
        """The job of a choice: its length, its text and the names of its blocks."""
        tokens = ask.prompts[place]
        room = self.served.max_context - len(tokens)
        if room < 1 or (ask.max_tokens or 1) > room:
            wanted = f"{len(tokens)} in the prompt and {ask.max_tokens or 1} for the answer"
            raise HttpError(
                400, f"max_tokens: the model takes {self.served.max_context} tokens, and the request has {wanted}: "
                "shorten one of them", param="max_tokens" if room > 0 else "prompt",
            )  # fmt: skip
        seed = seed_of(tokens, self.settings.seed + 7919 * ask.seed + choice)
        output, stopped = self.lengths.of(
            ask.max_tokens, room, seed, least=ask.min_tokens, whole=ask.ignore_eos and ask.max_tokens is not None
        )
        words = Words(self.vocabulary, seed)
        if ask.tool is not None:
            words.call(output)
        elif self.settings.text == "echo":
            text = ask.texts[place]
            words.repeat(self.tokenizer.decode(tokens) if text is None else text, output)
        if ask.stop:
            cut = words.stop(ask.stop, output, ask.min_tokens)
            if cut is not None:
                output, stopped = cut, True
        lengths = np.array([len(tokens)]), np.array([output])
        if self.served.cluster.never_fits(*lengths)[0]:
            raise HttpError(400, f"{len(tokens)} + {output} tokens do not fit the KV cache of a rank", param="prompt")
        names = whole = None
        if self.served.block_tokens:
            whole = np.concatenate([tokens, words.ids(output)])
            names = block_names(whole, self.served.block_tokens)
        return Job(
            answer, len(tokens), output, names, received_s, ask.priority, place * ask.n + choice, stopped=stopped,
            tokens=whole if self.driver.watched else None, more=words,
        )  # fmt: skip

    # ---- start and end

    async def start(self) -> tuple[str, int]:
        """Listen. Returns the address and the port."""
        warm_up()
        self.loop = asyncio.get_running_loop()
        if self.driver.watched:
            places = self.served.places()
            self.publisher = KvPublisher(self.settings.kv_events, len(places))
            tiers = [TierLabel.of(tier) for tier in self.served.deployment.tiers]
            self.driver.watch = KvWatch(self.publisher, places, self.served.block_tokens, self.settings.speed, tiers)
        if self.vocabulary.size and sys.platform != "win32":
            self.driver.lines = Lines(self.vocabulary.escaped)
        self.driver.start(self.loop, time.monotonic)
        self._started = time.monotonic()
        self.ready_s = self.loop.time() + self.settings.startup_s / self.settings.speed
        for door in self.doors:
            await self._listen(door.number)
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)
        self._keep(self._draw_faults())
        _fill_small_blocks()
        gc.collect()
        gc.freeze()
        return str(self._listeners[0].sockets[0].getsockname()[0]), self.ports[0]

    async def _listen(self, door: int) -> None:
        """Open the port with this number."""
        host, port = self.settings.host, self.settings.port and self.settings.port + door
        try:
            listener = await self.loop.create_server(
                lambda: Connection(self, door), host, port, backlog=4096, reuse_address=True
            )
        except OSError as error:
            for one in self._listeners:
                one.close()
            raise SpecError(f"cannot listen: {error}", where=f"{host}:{port}",
                            hint="choose another --port or --host") from None  # fmt: skip
        self._listeners.append(listener)
        self.ports.append(int(listener.sockets[0].getsockname()[1]))

    async def _draw_faults(self) -> None:
        """Draw the random faults of each day before it begins."""
        while self.faults.drawn_s < math.inf:
            await asyncio.sleep(0.9 * max(self.faults.drawn_s - self.driver.now(), 0.0) / self.settings.speed)
            await change(self, self.faults.chaos())

    def _sweep(self) -> None:
        """Close connections of clients that take too long, and look how late tokens are.

        The time of client and HTTP that `simulate` adds is waited for, less what this server takes. Before a request is
        read, that is counted from its first byte; on the way out, it is the mean lateness of the latest tokens.
        """
        late = self.metrics.lateness()
        if late is not None:
            self.delivery_s = min(late, self.driver.request_s / self.settings.speed)
        now = self.loop.time()
        for connection in list(self.connections):
            connection.sweep(now)
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)

    async def stop(self) -> None:
        """Take no more connections, let requests in flight end, then close all connections."""
        self.stopping = True
        for listener in self._listeners:
            listener.close()
        until = self.loop.time() + self.settings.drain_s
        for connection in list(self.connections):
            connection.closing = True
            if not connection.busy:
                connection.transport.close()
        while self.driver.in_flight and self.loop.time() < until:
            await asyncio.sleep(0.02)
        self._sweeper.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0.05)
        for connection in list(self.connections):
            connection.transport.abort()
        self.driver.stop()
        if self.publisher is not None:
            self.publisher.stop()


@functools.cache
def _fill_small_blocks() -> None:
    """Fill NumPy's store of freed blocks, once, so that the memory of a server that leaks nothing does not grow.

    NumPy keeps seven freed blocks of each size below 1,024 bytes, 3.7 MB together (NBUCKETS and NCACHE of its `alloc`).
    """
    for size in range(1024):
        _ = [np.empty(size, np.int8) for _ in range(7)]


def _place(error: BaseException) -> str:
    """Kind of an error, and the lines that led to it. Its message may have the text of a prompt, so it is left out."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {' > '.join(f'{Path(one.filename).name}:{one.lineno}' for one in frames)}"


async def serve_until_stopped(server: Server, say: Callable[[str, int], None]) -> None:
    """Serve until SIGINT or SIGTERM, then drain.

    Parameters
    ----------
    server : the server
    say : called with the address and the port when the server listens
    """
    host, port = await server.start()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        server.loop.add_signal_handler(number, stop.set)
    say(host, port)
    await stop.wait()
    await server.stop()


def run(server: Server, say: Callable[[str, int], None]) -> None:
    """Run the server in this thread, on uvloop if it is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve_until_stopped(server, say))
        return
    uvloop.run(serve_until_stopped(server, say))
