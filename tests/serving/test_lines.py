"""Streams that compiled code writes: the bytes of `Words`, whatever the sockets take of them."""

from __future__ import annotations

import os
import resource
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.client import connected, post, read
from tests.serving.conftest import Endpoint, built, running
from tokenworks.engine.kernel.codes import DESCRIPTOR, NUMBER, PARTIAL, SENT, SIZE, WIDTH
from tokenworks.engine.progress import Progress
from tokenworks.serving.driver import Job
from tokenworks.serving.lines import Form, Lines
from tokenworks.serving.tokens import ByteTokenizer
from tokenworks.serving.words import Vocabulary, Words

VOCABULARY = Vocabulary(ByteTokenizer())
FORM = Form(b'41\r\ndata: {"text":"', b'"}\n\n\r\n')
COMPLETION, BODY = "/v1/completions", {"prompt": "x", "max_tokens": 40, "ignore_eos": True}


def job(number: int, slot: int, *, seed: int = 7, sent: int = 1, tokens: int = 100) -> Job:
    """A job whose first tokens were sent."""
    taker: Any = None
    return Job(taker, 1, tokens, None, 0.0, number=number, slot=slot, sent=sent, more=Words(VOCABULARY, seed))


def told(*requests: tuple[Job, int, float]) -> Progress:
    """Jobs with so many tokens, the last of them at a time."""
    progress = Progress()
    progress.table(len(requests))
    progress._count[0] = len(requests)
    for i, (one, tokens, when) in enumerate(requests):
        progress.numbers[i], progress.slots[i] = one.number, one.slot
        progress.tokens[i], progress.times[i] = tokens, when
    return progress


def write(lines: Lines, progress: Progress, now: float = 9.0) -> tuple[list[int], list[int]]:
    """Requests whose event was written, and the others."""
    order = progress.times.argsort(kind="stable")
    written = lines.write(progress, order, now)
    return order[:written].tolist(), order[written:].tolist()


@pytest.fixture
def pair(kernel: None) -> Iterator[tuple[socket.socket, socket.socket]]:
    own, other = socket.socketpair()
    own.setblocking(False)
    with own, other:
        yield own, other


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bytes_are_those_of_the_words(kernel: None, data: st.DataObject) -> None:
    """Jobs of any seed, in any slots, in any order of times: each file gets its own events, one after the other."""
    slots = data.draw(st.lists(st.integers(0, 300), min_size=1, max_size=8, unique=True))
    count, lines, want = len(slots), Lines(VOCABULARY.escaped), [b"" for _ in slots]
    jobs = [job(10 + i, slot, seed=data.draw(st.integers(0, 2**60)), sent=i) for i, slot in enumerate(slots)]
    forms = [Form(b"a" * data.draw(st.integers(0, 200)), b"b" * data.draw(st.integers(0, 200))) for _ in slots]
    turns = data.draw(st.lists(st.lists(st.floats(0, 9), min_size=count, max_size=count), min_size=1, max_size=5))
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in slots]
        for one, form, file in zip(jobs, forms, files, strict=True):
            lines.enter(one, form, file.fileno())
        for turn, times in enumerate(turns):
            made = [one.sent + turn + 1 for one in jobs]
            written, left = write(lines, told(*zip(jobs, made, times, strict=True)))
            assert written == sorted(range(count), key=times.__getitem__)
            assert not left
            for i, (one, form) in enumerate(zip(jobs, forms, strict=True)):
                want[i] += form.begin + one.more.escaped(made[i] - 1, made[i]) + form.end
        for one, file, expected in zip(jobs, files, want, strict=True):
            before = one.sent
            assert lines.leave(one) == 0
            assert one.sent == before + len(turns)
            file.seek(0)
            assert file.read() == expected


def test_what_is_left(pair: tuple[socket.socket, socket.socket]) -> None:
    """Several new tokens, the last token, a later token, a request of another number, and one without a row."""
    own, other = pair
    lines = Lines(VOCABULARY.escaped)
    jobs = [job(i, i, tokens=9) for i in range(7)]
    for one in jobs[:6]:
        lines.enter(one, FORM, own.fileno())
    lines.enter(late := job(99, 2), FORM, own.fileno())
    jobs[5].sent = 7
    requests = [(jobs[0], 3, 1.0), (jobs[1], 9, 1.0), (jobs[2], 2, 1.0), (jobs[3], 2, 9.5), (jobs[4], 2, 1.0)]
    written, left = write(lines, told(*requests, (jobs[6], 2, 1.0), (job(6, 5000), 2, 1.0)))
    assert written == [4]
    assert left == [0, 1, 2, 5, 6, 3]
    assert other.recv(65536) == FORM.begin + jobs[4].more.escaped(1, 2) + FORM.end
    assert lines.leave(jobs[2]) == 0
    assert write(lines, told((late, 2, 1.0))) == ([0], [])  # to leave does not touch the row of another job
    lines.leave(jobs[4])
    assert jobs[4].sent == 2
    assert write(lines, told((jobs[4], 3, 1.0))) == ([], [0])


def test_an_event_that_is_too_long_gets_no_row(pair: tuple[socket.socket, socket.socket]) -> None:
    lines, one = Lines(VOCABULARY.escaped), job(1, 0)
    room = WIDTH - VOCABULARY.size
    lines.enter(one, Form(b"a" * room, b"b"), pair[0].fileno())
    assert write(lines, told((one, 2, 1.0))) == ([], [0])
    lines.enter(one, Form(b"a" * room, b""), pair[0].fileno())
    assert write(lines, told((one, 2, 1.0))) == ([0], [])


def test_a_full_socket_a_client_that_left_and_a_closed_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    """Nothing was sent, nothing is tried again, and what was sent before is whole."""
    own, other = pair
    lines, one, tokens = Lines(VOCABULARY.escaped), job(1, 0, tokens=10**6), 2
    lines.enter(one, FORM, own.fileno())
    while write(lines, told((one, tokens, 1.0)))[0]:
        tokens += 1
    came = other.recv(1 << 24)
    assert write(lines, told((one, tokens, 1.0))) == ([], [0])  # there is room now, but the row waits for its job
    assert lines.leave(one) == 0
    assert one.sent == tokens - 1
    whole = [FORM.begin + one.more.escaped(k, k + 1) + FORM.end for k in range(1, one.sent)]
    while len(came) < len(b"".join(whole)):
        came += other.recv(1 << 24)
    assert came == b"".join(whole)
    other.close()
    lines.enter(one, FORM, own.fileno())
    assert write(lines, told((one, tokens, 1.0))) == ([], [0])  # EPIPE
    lines.enter(one, FORM, descriptor := own.detach())
    os.close(descriptor)
    assert write(lines, told((one, tokens, 1.0))) == ([], [0])  # EBADF
    assert lines.leave(one) == 0


def test_a_part_of_an_event(kernel: None, tmp_path: Path) -> None:
    """The job is told how much of its next event is written. A limit of the size of files lets a write end early."""
    lines, one = Lines(VOCABULARY.escaped), job(1, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Path(tmp_path, "events").open("wb") as file:
        lines.enter(one, FORM, file.fileno())
        event = FORM.begin + one.more.escaped(1, 2) + FORM.end
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(event) + 10, limits[1]))
        try:
            assert write(lines, told((one, 2, 1.0))) == ([0], [])
            assert write(lines, told((one, 3, 1.0))) == ([], [0])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert write(lines, told((one, 3, 1.0))) == ([], [0])
    assert lines.leave(one) == 10
    assert one.sent == 2
    assert lines.leave(one) == 0


# ── in the endpoint, at the speed of the machine: one new token at a time ─────────────────────────────────────────────


@pytest.fixture(scope="module")
def unhurried(kernel: None) -> Iterator[Endpoint]:
    yield from running(built(speed=1.0))


class Counted(Lines):
    """Lines that note how many events they wrote, and may write a part of each event only."""

    events, part = 0, 0

    def write(self, progress: Progress, order: np.ndarray[Any, Any], now: float) -> int:
        sizes = self._rows[:, SIZE].copy()
        if self.part:
            self._rows[:, SIZE] = self.part
        written = super().write(progress, order, now)
        self.events += written
        self._rows[:, SIZE] = sizes
        if not self.part:
            return written
        for slot in progress.slots[order[:written]]:
            self._rows[slot, SENT] -= 1
            self._rows[slot, PARTIAL], self._rows[slot, DESCRIPTOR] = self.part, -1
        return 0

    @property
    def taken(self) -> int:
        return int((self._rows[:, NUMBER] >= 0).sum())


def text(response: Any) -> str:
    return "".join(choice["text"] for event in response.events for choice in event["choices"])


@pytest.mark.parametrize("part", [0, 1, 100])
@pytest.mark.parametrize("route", ["chunked", "HTTP/1.0"])
def test_a_stream_of_the_endpoint(unhurried: Endpoint, monkeypatch: pytest.MonkeyPatch, part: int, route: str) -> None:
    """Compiled code writes most tokens, or the beginning of most: the text is that of the whole answer."""
    lines = Counted(VOCABULARY.escaped)
    lines.part = part
    monkeypatch.setattr(unhurried.server.driver, "lines", lines)
    with connected(unhurried) as sock:
        sock.sendall(post(COMPLETION, BODY))
        whole = read(sock).json["choices"][0]["text"]
    with connected(unhurried) as sock:
        request = post(COMPLETION, {**BODY, "stream": True})
        sock.sendall(request if route == "chunked" else request.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert text(read(sock)) == whole
    assert lines.events > 10
    assert not lines.taken


def test_a_client_that_leaves_has_no_row(unhurried: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next connection gets the descriptor, and none of the tokens of the one before."""
    monkeypatch.setattr(unhurried.server.driver, "lines", lines := Counted(VOCABULARY.escaped))
    for _ in range(4):
        with connected(unhurried) as left:
            left.sendall(post(COMPLETION, {**BODY, "max_tokens": 2000, "stream": True}))
            while lines.taken < 1:
                assert left.recv(65536)
        with connected(unhurried) as sock:
            sock.sendall(post(COMPLETION, {**BODY, "stream": True}))
            assert read(sock).events[-1]["choices"][0]["finish_reason"] == "length"
    assert not lines.taken


@pytest.mark.parametrize("more", [{"n": 2}, {"echo": True}, {"logprobs": 1}])
def test_streams_that_python_writes(
    unhurried: Endpoint, monkeypatch: pytest.MonkeyPatch, more: dict[str, object]
) -> None:
    """Choices that share a connection, and events with more than a word. An echo of the prompt is one event."""
    monkeypatch.setattr(unhurried.server.driver, "lines", lines := Counted(VOCABULARY.escaped))
    with connected(unhurried) as sock:
        sock.sendall(post(COMPLETION, {**BODY, **more, "stream": True}))
        assert read(sock).events
    assert (lines.events > 0) == ("echo" in more)
