"""No request leaves objects in a cycle: a server seldom looks at all objects, and would keep them for hours."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import pytest

from tests.serving.client import ask, connected, get, idle, post, read
from tests.serving.conftest import Endpoint, built, running

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
LATER = {"part": "device 1", "at": "1000000 s", "for": "1 us"}
REQUESTS = {
    "completion": (200, post("/v1/completions", {"prompt": "hello", "max_tokens": 5})),
    "stream": (200, post("/v1/completions", {"prompt": "hello", "max_tokens": 20, "stream": True})),
    "chat": (200, post("/v1/chat/completions", {**CHAT, "n": 2, "stop": ["the"], "stream": True})),
    "message": (200, post("/v1/messages", {**CHAT, "model": "meta-llama/Meta-Llama-3.1-8B", "stream": True})),
    "response": (200, post("/v1/responses", {"input": "hello", "max_output_tokens": 16, "stream": True})),
    "tokens": (200, post("/tokenize", {"prompt": "hello"})),
    "metrics": (200, get("/metrics")),
    "faults": (200, get("/admin/faults", host="localhost")),
    "fault": (200, post("/admin/faults", LATER, host="localhost")),
    "no JSON": (400, post("/v1/completions", b"{")),
    "wrong type": (400, post("/v1/completions", {"prompt": 3})),
    "no route": (404, get("/nothing")),
    "no HTTP": (400, b"hello\r\n\r\n"),
    "two lengths": (400, get("/health", headers="content-length: 1\r\ncontent-length: 1\r\n")),
}
"""Status of the answer, and the request."""
TIMES = 3


@pytest.fixture(scope="module")
def own(kernel: None) -> Iterator[Endpoint]:
    """An endpoint that no other test uses."""
    yield from running(built(drain_s=0.5))


def answered(endpoint: Endpoint) -> int:
    """Requests that were answered, also those that could not be read."""
    metrics = endpoint.server.metrics
    return sum(metrics.responses.values()) + metrics.events.get("bad_request", 0)


@pytest.mark.parametrize("leaves", [False, True], ids=["reads", "leaves"])
@pytest.mark.parametrize("name", REQUESTS)
def test_nothing_of_a_request_waits_for_the_garbage_collector(own: Endpoint, name: str, leaves: bool) -> None:
    """Neither of one whose client reads the answer, nor of one whose client has left."""
    status, request = REQUESTS[name]
    assert ask(own, request).status == status  # what the first request loads stays
    assert idle(own)
    gc.collect()
    gc.disable()
    try:
        before = answered(own)
        for _ in range(TIMES):
            with connected(own) as sock:
                sock.sendall(request)
                assert leaves or read(sock).status == status
        until = time.monotonic() + 10
        while answered(own) < before + TIMES or own.server.connections:
            assert time.monotonic() < until
            time.sleep(0.002)
        assert idle(own)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        ours = [one for one in gc.garbage if str(getattr(one, "__module__", "")).startswith("tokenworks")]
        assert not [type(one).__qualname__ for one in ours if getattr(one, "host", own.server) is own.server]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
