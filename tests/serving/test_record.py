"""`tokenworks record`: what passes through it is unchanged, and its trace has the lengths, blocks and times."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tokenworks
from tests.serving.client import Response, ask, connected, get, idle, post
from tests.serving.conftest import DEPLOYMENT, Endpoint, built, running
from tokenworks import ingest
from tokenworks.cli import run
from tokenworks.errors import SpecError
from tokenworks.serving.exchange import SeenExchange
from tokenworks.serving.record import Recorder
from tokenworks.serving.record_settings import RecorderSettings
from tokenworks.serving.tokens import ByteTokenizer

COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"


class Recording(Endpoint):
    """A recorder that runs before an endpoint, and its file."""

    def __init__(self, recorder: Recorder, port: int) -> None:
        self.recorder, self.port = recorder, port

    def rows(self, count: int) -> list[dict[str, Any]]:
        """The rows, when there are so many."""
        until = time.monotonic() + 20
        while True:
            lines = self.recorder.settings.out.read_text(encoding="utf-8").splitlines()
            if len(lines) >= count and not self.recorder.busy:
                return [json.loads(line) for line in lines]
            assert time.monotonic() < until, (len(lines), self.recorder.busy, self.recorder.counts)
            time.sleep(0.02)


def recording(to: str, out: Path, **settings: Any) -> Iterator[Recording]:
    """Run a recorder in a thread until the caller goes on."""
    started, made = threading.Event(), list[Recording]()

    async def main() -> None:
        recorder = Recorder(RecorderSettings(to=to, out=out, port=0, **settings))
        _, port = await recorder.start()
        made.append(Recording(recorder, port))
        loops.append(asyncio.get_running_loop())
        started.set()
        await recorder.stopping.wait()
        await recorder.stop()

    loops = list[asyncio.AbstractEventLoop]()
    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert started.wait(20)
    try:
        yield made[0]
    finally:
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            loops[0].call_soon_threadsafe(made[0].recorder.stopping.set)
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def recorded(endpoint: Endpoint, tmp_path: Path) -> Iterator[Recording]:
    yield from recording(endpoint.url, tmp_path / "trace.jsonl")


def plain(response: Response) -> tuple[int, Any]:
    """A response without what differs between two equal requests."""
    text = response.body.decode()
    for pattern in (r'"id":"[^"]*"', r'"created":\d+', r'"created_at":\d+', r'"item_id":"[^"]*"'):
        text = re.sub(pattern, "", text)
    return response.status, text


@pytest.mark.parametrize("stream", [False, True])
def test_answers_pass_through(endpoint: Endpoint, recorded: Recording, stream: bool) -> None:
    """Bodies, errors and other routes are those of the server; every API is recorded."""
    message = [{"role": "user", "content": "hello there"}]
    requests = [
        post(CHAT, {"messages": message, "max_tokens": 5, "stream": stream}),
        post(COMPLETION, {"prompt": "abcdefgh", "max_tokens": 5, "stream": stream}),
        post("/v1/responses", {"input": "hello", "max_output_tokens": 5, "stream": stream}),
        post("/v1/messages", {"messages": message, "max_tokens": 5, "stream": stream}),
        post(COMPLETION, {"prompt": 5}), post(COMPLETION, b"{"), get("/v1/models"), get("/nothing"), get("/health"),
    ]  # fmt: skip
    for number, request in enumerate(requests):
        ours, theirs = ask(recorded, request), ask(endpoint, request)
        assert ours.status == theirs.status
        assert ours.headers["content-type"] == theirs.headers["content-type"]
        if number >= 4 or not stream:  # streams differ by the tokens that come together
            assert plain(ours) == plain(theirs)
    rows = recorded.rows(4)
    assert [row["input_tokens"] for row in rows] == [3 + 4 + 3, 2, 2 + 4 + 3, 3 + 4 + 3]
    assert all((row["ttft_s"] is not None) == stream for row in rows)
    assert all(0 <= (row["ttft_s"] or 0) <= row["e2el_s"] for row in rows)
    counts = recorded.recorder.counts
    assert (counts.requests, counts.failed, counts.passed, counts.left) == (4, 2, 3, 0)
    assert counts.counted == (2 if stream else 0)  # chats and completions without include_usage
    for place, row in enumerate(rows):
        assert row["output_tokens"] == 5 or (stream and place < 2 and 1 <= row["output_tokens"] < 5)
    assert "hello" not in recorded.recorder.settings.out.read_text(encoding="utf-8")
    assert not {"request", "answer"} & set(rows[0])


def test_bytes_pass_unchanged(tmp_path: Path) -> None:
    """Of the request and of the answer, also if a stream is cut in odd places, and headers that matter."""
    events = 'data: {"choices":[{"text":"é"}]}\r\n\r\n: comment\n\ndata: [DONE]\n\n'.encode()
    seen = list[bytes]()

    def upstream(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock:
            while b"\x00end" not in b"".join(seen):
                seen.append(sock.recv(65536))
            head = (
                b"HTTP/1.1 200 Fine\r\ncontent-type: text/event-stream\r\nx-a: b\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            sock.sendall(head)
            for one in events:
                sock.sendall(b"1\r\n%c\r\n" % one)
            sock.sendall(b"0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=upstream, args=(listener,))
        thread.start()
        for recorded in recording(f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path / "trace.jsonl"):
            body = b'{"prompt": "\xc3\xa9", "odd":   1}\x00end'
            headers = "authorization: Bearer k\r\nx-request-id: 7\r\naccept-encoding: gzip\r\nte: trailers\r\n"
            response = ask(recorded, post(f"{COMPLETION}?a=%2F", body, headers=headers))
            assert response.body == events
            assert response.headers["x-a"] == "b"
            (row,) = recorded.rows(1) if recorded.recorder.counts.requests else [None]
        thread.join(10)
    sent = b"".join(seen)
    assert sent.endswith(body)
    assert sent.startswith(b"POST /v1/completions?a=%2F HTTP/1.1\r\n")
    lower = sent.lower()
    assert b"authorization: bearer k" in lower
    assert b"x-request-id: 7" in lower
    assert b"accept-encoding: identity" in lower
    assert b"\r\nte:" not in lower
    assert row is None  # the request is no JSON, so its prompt cannot be counted


def test_a_stream_is_not_held_back(endpoint: Endpoint, recorded: Recording) -> None:
    """Each token comes when the server sends it: the first one long before the last one."""
    with connected(recorded) as sock:
        sock.sendall(post(COMPLETION, {"prompt": "x", "max_tokens": 2000, "stream": True}))
        data = sock.recv(65536)
        while b"data:" not in data:
            data += sock.recv(65536)
        assert endpoint.server.driver.in_flight == 1
        assert data.count(b"data:") < 1000


def test_choices_prompts_and_text(endpoint: Endpoint, tmp_path: Path) -> None:
    for recorded in recording(endpoint.url, tmp_path / "trace.jsonl", text=True, block_tokens=4):
        body = {"prompt": ["a prompt of some blocks, yes", "another"], "n": 2, "max_tokens": 7, "stream": True}
        response = ask(recorded, post(COMPLETION, {**body, "stream_options": {"include_usage": True}}))
        rows = recorded.rows(4)
        assert [(row["input_tokens"], row["output_tokens"]) for row in rows] == [(7, 7), (7, 7), (2, 7), (2, 7)]
        assert [len(row["blocks"]) for row in rows] == [1, 1, 0, 0]
        assert rows[0]["blocks"] == rows[1]["blocks"]
        assert json.loads(rows[0]["request"])["n"] == 2
        assert len(rows[0]["answer"]) == 4 * 28
        assert response.events
        ask(recorded, post("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}))
        assert json.loads(recorded.rows(5)[4]["answer"])["role"] == "assistant"
        assert oct(recorded.recorder.settings.out.stat().st_mode & 0o777) == "0o600"


def test_clients_that_leave(endpoint: Endpoint, recorded: Recording) -> None:
    """The server hears of it, and the trace has what came before."""
    socks = [connected(recorded) for _ in range(20)]
    for number, sock in enumerate(socks):
        sock.sendall(post(COMPLETION, {"prompt": "x", "max_tokens": 8000, "stream": number % 4 > 0}))
    for number, sock in enumerate(socks):
        if number % 4:
            while b"data:" not in sock.recv(65536):
                pass
        sock.close()
    assert idle(endpoint)
    rows = recorded.rows(15)
    assert all(1 <= row["output_tokens"] < 8000 and row["e2el_s"] is None for row in rows)
    counts = recorded.recorder.counts
    assert (counts.left, counts.failed) == (15, 5)


def test_a_full_disk_and_a_tokenizer_that_fails(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that cannot be counted is left out. Without its file the recorder ends."""
    for recorded in recording(endpoint.url, tmp_path / "trace.jsonl"):
        recorder, request = recorded.recorder, post(COMPLETION, {"prompt": "x", "max_tokens": 2})
        errors = iter([ValueError("x"), OSError(28, "no space left")])

        def fail(exchange: SeenExchange, errors: Iterator[Exception] = errors) -> None:
            raise next(errors)

        monkeypatch.setattr(recorder, "_add", fail)
        assert ask(recorded, request).status == 200
        recorded.rows(0)
        assert (recorder.counts.failed, recorder.stopping.is_set()) == (1, False)
        assert ask(recorded, request).status == 200
        until = time.monotonic() + 10
        while not recorder.stopping.is_set():
            assert time.monotonic() < until
            time.sleep(0.02)
        assert recorder.error is not None


def test_streams_that_are_open_at_the_end(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder ends them, and what came is in the file."""
    monkeypatch.setattr("tokenworks.serving.record.END_S", 0.1)
    out = tmp_path / "trace.jsonl"
    for recorded in recording(endpoint.url, out):
        sock = connected(recorded)
        sock.sendall(post(COMPLETION, {"prompt": "x", "max_tokens": 8000, "stream": True}))
        while b"data:" not in sock.recv(65536):
            pass
    sock.close()
    (line,) = out.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["e2el_s"] is None
    assert idle(endpoint)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        for recorded in recording(f"http://127.0.0.1:{sock.getsockname()[1]}", tmp_path / "trace.jsonl"):
            response = ask(recorded, post(COMPLETION, {"prompt": "x"}))
            assert response.status == 502
            assert "does not answer" in response.json["error"]["message"]
            assert ask(recorded, post(COMPLETION, b"").replace(b"length: 0", b"length: 99999999")).status == 413


def test_the_trace_plays_as_it_was_recorded(kernel: None, tmp_path: Path) -> None:
    """Record, then simulate the trace: the same lengths, the same hits, and times, but for lateness."""
    rng = np.random.default_rng(5)
    shared = "a long system prompt that all requests share, word for word. " * 40
    out, sent = tmp_path / "trace.jsonl", list[tuple[int, int]]()
    plan = {**DEPLOYMENT, "system": "hgx-h100:1", "roles": [{"name": "aggregated", "max_sequences": 64}]}
    for endpoint in running(built(plan, speed=1.0, drain_s=0.1)):
        for recorded in recording(endpoint.url, out):
            threads = []
            for number in range(50):
                own = rng.integers(0, 1 << 30, int(rng.integers(20, 400))).tolist()
                text = (shared if number % 3 == 0 else "") + " ".join(map(str, own))
                body = {
                    "prompt": text, "max_tokens": int(rng.integers(4, 40)), "stream": True, "ignore_eos": True,
                    "stream_options": {"include_usage": True},
                }  # fmt: skip
                sent.append((-(-len(text) // 4), body["max_tokens"]))  # type: ignore[arg-type]
                threads.append(threading.Thread(target=ask, args=(recorded, post(COMPLETION, body))))
                threads[-1].start()
                if number == 0:
                    threads[0].join()
                time.sleep(float(rng.exponential(0.04)))
            for thread in threads:
                thread.join()
            rows = sorted(recorded.rows(50), key=lambda row: row["arrival_s"])
    trace = tokenworks.load_trace(out)
    assert not trace.notes
    assert sorted(zip(trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True)) == sorted(sent)
    outcome = tokenworks.simulate(plan, trace=out).outcome
    assert [row["cached_tokens"] for row in rows] == outcome.cached_tokens.tolist()
    assert sum(outcome.cached_tokens) == 16 * (len(shared) // 64 * 16)
    for live, simulated in (
        ([row["ttft_s"] for row in rows], outcome.first_token_s - outcome.arrival_s),
        ([row["e2el_s"] for row in rows], outcome.end_s - outcome.arrival_s),
    ):
        late = np.percentile(np.array(live) - simulated, 10)  # a busy computer is late at most requests
        assert abs(late) < 0.03


def test_a_recording_is_a_result_too(tmp_path: Path) -> None:
    """`validate` and `calibrate` read it: lengths, medians and the times at which the requests were sent."""
    out = tmp_path / "trace.jsonl"
    rows = [
        {"arrival_s": 2.0 + k, "input_tokens": 100, "output_tokens": 11, "block_tokens": 16, "ttft_s": 0.2,
         "e2el_s": 1.2 if k < 3 else None, "cached_tokens": 0, "blocks": [k]}
        for k in (1, 0, 2, 3)
    ]  # fmt: skip
    out.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + "{broken\n")
    (one,) = ingest.load_benchmarks(out)
    assert (one.requests, one.isl.mean, one.osl.mean, one.rate) == (3, 100, 11, 1.0)
    assert one.ttft is not None
    assert one.tpot is not None
    assert one.ttft.seconds == pytest.approx(0.2)
    assert one.tpot.seconds == pytest.approx(0.1)
    assert one.sent_s == (0.0, 1.0, 2.0)
    assert any("whose client left" in note for note in one.notes)
    trace = ingest.load_trace(out)
    assert trace.arrival_s.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert (trace.hash_block_tokens, trace.reordered, len(trace.dropped)) == (16, 0, 1)


def test_blocks_name_no_text() -> None:
    """Names of blocks are the same for equal blocks of one recording, and depend on a key that is drawn."""
    body = json.dumps({"prompt": "secret words " * 40}).encode()

    def names(text: bytes) -> list[int]:
        exchange = SeenExchange(COMPLETION, text, 0.0)
        exchange.begin(200, "application/json")
        exchange.feed(b'{"choices": [{"text": "a"}], "usage": {"prompt_tokens": 130, "completion_tokens": 1}}', 1.0)
        exchange.finish(1.0)
        (row,) = exchange.rows(ByteTokenizer(), 16)
        return list(row["blocks"])

    assert names(body) == names(body)
    assert names(body)[:6] == names(body.replace(b" words ", b" words ", 1))[:6]
    assert names(body)[0] != names(body.replace(b"secret", b"Secret", 1))[0]
    assert len(names(body)) == 8


ANSWERS: list[tuple[str, bytes, str]] = [
    (COMPLETION, b"data: {\n\n", "text/event-stream"),
    (COMPLETION, b"data: \xff\n\n", "text/event-stream"),
    (COMPLETION, b'data: {"choices": 5}\n\n', "text/event-stream"),
    (COMPLETION, b'data: {"error": {"message": "x"}}\n\ndata: {"choices": [{"text": "a"}]}\n\n', "text/event-stream"),
    (COMPLETION, b"[" * 10000, "application/json"),
    (COMPLETION, b"", "application/json"),
    (CHAT, b"<html>", "text/html"),
]


@pytest.mark.parametrize(("path", "answer", "kind"), ANSWERS)
def test_answers_that_cannot_be_read(path: str, answer: bytes, kind: str) -> None:
    exchange = SeenExchange(path, b"{}", 0.0)
    exchange.begin(200, kind)
    for at in range(0, len(answer), 7):
        exchange.feed(answer[at : at + 7], 1.0)
    exchange.finish(2.0)
    assert exchange.rows(ByteTokenizer(), 16) == []


WRONG = [
    (["--to", "localhost:8000"], "--to"),
    (["--to", "ftp://x"], "--to"),
    (["--to", "http://x?a=1"], "--to"),
    (["--port", "70000"], "--port"),
    (["--block-tokens", "0"], "--block-tokens"),
    (["--max-body", "0"], "--max-body"),
    (["--tokenizer", "no-such.json"], "--tokenizer|no-such"),
    (["--out", "."], "exists"),
    (["--out", "no-such-folder/x.jsonl", "--port", "0"], "no-such-folder"),
]


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_wrong_options(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"--to": "http://127.0.0.1:1", "--out": "x.jsonl"} | dict(zip(options[::2], options[1::2], strict=True))
    assert run(["record", *(word for pair in given.items() for word in pair)]) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "x.jsonl").exists()


def test_python_says_the_same(tmp_path: Path, endpoint: Endpoint) -> None:
    with pytest.raises(SpecError, match="cannot listen"):
        tokenworks.record(endpoint.url, tmp_path / "x.jsonl", port=endpoint.port)
    assert not (tmp_path / "x.jsonl").exists()
