"""Answers under way: a stream of events, or one body at the end. `styles` says what events and bodies look like."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from os import write
from typing import Any

import msgspec

from tokenworks.engine.types import Status
from tokenworks.serving.asks import Ask
from tokenworks.serving.driver import Driver, Job
from tokenworks.serving.http import Connection, HttpError, HttpRequest, head
from tokenworks.serving.lines import Form
from tokenworks.serving.styles import Event, Style
from tokenworks.serving.words import Words

_JSON = msgspec.json.Encoder().encode
_MARK = "\x01"
_MARKED = b"\\u0001"

FULL = HttpError(
    503, "the queue of the engine is full; send the request again later", kind="ServiceUnavailableError",
    headers={"retry-after": "1"},
)  # fmt: skip
DOWN = HttpError(
    503, "no instance of the deployment runs; send the request again later", kind="ServiceUnavailableError",
    headers={"retry-after": "5"},
)  # fmt: skip
FAILED = HttpError(
    500, "the engine lost the request: an instance failed, or its KV blocks could not be read",
    kind="InternalServerError",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Desk:
    """What all answers need of the server.

    Parameters
    ----------
    model : name of the model in answers
    driver : the engine on a real clock
    fail : sends an error response with this body
    """

    model: str
    driver: Driver
    fail: Callable[[Connection, HttpError, bytes], None]

    def error(self, status: Status, pin: int) -> HttpError:
        """The error for a job that the engine has refused or lost.

        Parameters
        ----------
        status : how the job has ended
        pin : ranks that the job could go to (`ports.Door`)
        """
        if status != Status.REJECTED:
            return FAILED
        faults, count = self.driver.faults, self.driver.cluster.pools[0].instances
        instances = None if not pin else [(pin - 1) % count if pin > 0 else -1 - pin]
        return DOWN if faults is not None and faults.out_of(instances) else FULL


class Answer(ABC):
    """An answer to one request, with one or more choices.

    Parameters
    ----------
    desk, connection, request, ask, style : where it comes from, and what it looks like
    ident : id of the answer
    """

    __slots__ = (
        "ask",
        "connection",
        "created",
        "desk",
        "ident",
        "jobs",
        "left",
        "paused",
        "sequence",
        "style",
        "wants",
    )

    def __init__(
        self, desk: Desk, connection: Connection, request: HttpRequest, *, ask: Ask, style: Style, ident: str
    ) -> None:
        self.desk, self.connection, self.ask, self.style, self.ident = desk, connection, ask, style, ident
        self.created, self.jobs, self.left, self.paused = int(time.time()), list[Job](), 0, False
        self.wants = request.chunked
        self.sequence = 0

    def begin(self, jobs: list[Job]) -> None:
        """Send the jobs to the engine."""
        self.jobs, self.left = jobs, len(jobs)
        self.ask.prompts.clear()  # the tokens are not needed any more
        if not self.ask.echo:
            self.ask.texts.clear()
        self.connection.answer = self
        for job in jobs:
            self.desk.driver.submit(job)

    def words(self, job: Job) -> Words:
        """Text of a choice."""
        words: Words = job.more
        return words

    def text(self, job: Job) -> str:
        """Whole text of a choice."""
        prompt = self.ask.texts[job.index // self.ask.n] if self.ask.echo else None
        return (prompt or "") + self.words(job).text(0, job.output_tokens)

    @abstractmethod
    def produced(self, job: Job, tokens: int) -> None:
        """A choice has new tokens."""

    @abstractmethod
    def ended(self, job: Job, status: Status) -> None:
        """A choice has ended."""

    def gone(self) -> None:
        """The client has left: the engine frees what its jobs hold."""
        for job in self.jobs:
            self.desk.driver.cancel(job)
        self.jobs = []

    def resume(self) -> None:  # noqa: B027 - an answer that is no stream does not wait for its client
        """The client reads again."""

    def _close(self) -> None:
        self.jobs = []
        self.connection.done()

    def _refuse(self, status: Status) -> None:
        """Answer with an error, as the engine has refused or lost a job."""
        self.connection.answer = None
        error = self.desk.error(status, self.jobs[0].pin)
        self.gone()
        self.desk.fail(self.connection, error, self.style.error(error))


class WholeAnswer(Answer):
    """An answer in one body, sent when all choices are complete."""

    __slots__ = ()

    def produced(self, job: Job, tokens: int) -> None:
        """Nothing is sent before the end."""

    def ended(self, job: Job, status: Status) -> None:  # noqa: ARG002 - the interface of `driver.Receiver`
        """A choice is complete, or refused."""
        if status != Status.COMPLETED:
            self._refuse(status)
            return
        self.left -= 1
        if not self.left:
            body, self.jobs = _JSON(self.style.whole(self)), []
            self.connection.respond(200, body)


class StreamAnswer(Answer):
    """An answer as server-sent events, one for each step of the engine.

    forms : of each choice, if its events differ in the text alone
    """

    __slots__ = ("ends", "forms", "ready", "started")

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.started = False
        self.forms: list[Form] = []
        self.ready: dict[int, int] = {}
        self.ends: list[tuple[Job, Status]] = []

    def produced(self, job: Job, tokens: int) -> None:
        """Send the new tokens of a choice; keep their number while the client reads slowly."""
        self._leave(job)
        if self.paused:
            self.ready[job.index] = tokens
            return
        if not self.started:
            self._start()
        if tokens > job.sent:
            data, job.sent = self._event(job, job.sent, tokens), tokens
            self._send(job, data)

    def _leave(self, job: Job) -> None:
        """Let nothing but this object write to the stream. An event that the socket took in part is completed."""
        lines = self.desk.driver.lines
        partial = 0 if lines is None else lines.leave(job)
        if partial:
            data, job.sent = self._event(job, job.sent, job.sent + 1), job.sent + 1
            self.connection.transport.write(data[partial:])

    def _event(self, job: Job, first: int, tokens: int) -> bytes:
        """The event of some tokens of a choice, as it is sent."""
        if self.forms:
            begin, end = self.forms[job.index]
            return self._chunk(begin + self.words(job).escaped(first, tokens) + end)
        text = self.words(job).text(first, tokens)
        return self._chunk(self._bytes(self.style.event(self, job, text, first, tokens, None)))

    def _send(self, job: Job, data: bytes) -> None:
        """Write to the socket itself, which takes less time than the queue of the event loop.

        What the socket does not take goes into this queue, and so does everything while something is in it. A transport
        that closes drops what it is given, the headers of a stream too: then nothing may go to the socket.
        """
        connection = self.connection
        transport = connection.transport
        if connection.fd < 0 or transport.get_write_buffer_size() or transport.is_closing():
            transport.write(data)
            return
        try:
            rest = data[write(connection.fd, data) :]
        except OSError:  # the socket is full, or closed: the event loop finds out
            rest = data
        if rest:
            transport.write(rest)
        elif self.forms:
            self._enter(job)

    def _enter(self, job: Job) -> None:
        """Let compiled code write the next events. Choices of one stream would not wait for each other."""
        lines, words = self.desk.driver.lines, self.words(job)
        if lines is None or len(self.jobs) > 1 or words.pieces is not None:
            return
        begin, end = self.forms[job.index]
        if self.wants:
            length = len(begin) + words.vocabulary.size + len(end)
            begin, end = b"%x\r\n%b" % (length, begin), end + b"\r\n"
        lines.enter(job, Form(begin, end), self.connection.fd)

    def _start(self) -> None:
        """Send the headers and the events before the first token."""
        self.started = True
        headers = {"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"}
        if self.wants:
            headers["transfer-encoding"] = "chunked"
        else:
            self.connection.closing = True
        if self.connection.closing:
            headers["connection"] = "close"
        if self.style.constant(self):
            for job in self.jobs:
                begin, _, end = self._bytes(self.style.event(self, job, _MARK, 0, 1, None)).partition(_MARKED)
                self.forms.append(Form(begin, end))
        self.connection.transport.write(head(200, headers))
        opening = b"".join(self._bytes(event) for event in self.style.opening(self))
        if opening:
            self._write(opening)

    def _bytes(self, event: Event) -> bytes:
        name, data = event
        body = b"data: " + _JSON(data) + b"\n\n"
        return b"event: " + name.encode() + b"\n" + body if name else body

    def _chunk(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self.wants else data

    def _write(self, data: bytes) -> None:
        self.connection.transport.write(self._chunk(data))

    def ended(self, job: Job, status: Status) -> None:
        """Send the last tokens of a choice, and after the last choice the end of the stream."""
        self._leave(job)
        if self.paused:
            self.ends.append((job, status))
            return
        if status != Status.COMPLETED and not self.started:
            self._refuse(status)
            return
        if not self.started:
            self._start()
        if status != Status.COMPLETED:
            self._write(b"data: " + self.style.error(self.desk.error(status, job.pin)) + b"\n\n")
        else:
            first, last, job.sent = job.sent, job.output_tokens, job.output_tokens
            text = self.words(job).text(first, last)
            self._write(self._bytes(self.style.event(self, job, text, first, last, self.style.reason(self, job))))
        self.left -= 1
        if not self.left:
            data = b"".join(self._bytes(event) for event in self.style.closing(self)) + self.style.last
            if data:
                self._write(data)
            if self.wants:
                self.connection.transport.write(b"0\r\n\r\n")
            self._close()

    def resume(self) -> None:
        """The client reads again: send what is missing."""
        ready, self.ready = self.ready, {}
        ends, self.ends = self.ends, []
        for job in self.jobs:
            if job.index in ready and ready[job.index] > job.sent and not self.paused:
                self.produced(job, ready[job.index])
            elif job.index in ready:
                self.ready[job.index] = ready[job.index]
        for job, status in ends:
            self.ended(job, status)
