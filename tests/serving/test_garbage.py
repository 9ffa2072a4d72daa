"""No request leaves objects in a cycle: a server seldom looks at all objects, and would keep them for hours."""

from __future__ import annotations

import gc

import pytest

from tests.serving.client import ask, connected, get, idle, post, read
from tests.serving.conftest import Endpoint

STREAM = {"prompt": "hello", "max_tokens": 20, "stream": True}
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
REQUESTS = {
    "completion": post("/v1/completions", {"prompt": "hello", "max_tokens": 5}),
    "stream": post("/v1/completions", STREAM),
    "chat": post("/v1/chat/completions", {**CHAT, "n": 2, "stop": ["the"], "stream": True}),
    "message": post("/v1/messages", {**CHAT, "model": "meta-llama/Meta-Llama-3.1-8B", "stream": True}),
    "response": post("/v1/responses", {"input": "hello", "max_output_tokens": 16, "stream": True}),
    "tokens": post("/tokenize", {"prompt": "hello"}),
    "metrics": get("/metrics"),
    "faults": get("/admin/faults", host="localhost"),
    "fault": post("/admin/faults", {"part": "device 3", "at": "1000 s", "for": "1 s"}, host="localhost"),
    "no JSON": post("/v1/completions", b"{"),
    "wrong type": post("/v1/completions", {"prompt": 3}),
    "no route": get("/nothing"),
    "no HTTP": b"hello\r\n\r\n",
    "two lengths": get("/health", headers="content-length: 1\r\ncontent-length: 1\r\n"),
}


@pytest.mark.parametrize("leaves", [False, True], ids=["reads", "leaves"])
@pytest.mark.parametrize("name", REQUESTS)
def test_nothing_of_a_request_waits_for_the_garbage_collector(endpoint: Endpoint, name: str, leaves: bool) -> None:
    """Neither of one whose client reads the answer, nor of one whose client has left."""

    def send() -> None:
        with connected(endpoint) as sock:
            sock.sendall(REQUESTS[name])
            if not leaves:
                read(sock)

    send()  # what the first request loads stays
    assert idle(endpoint)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            send()
        ask(endpoint, get("/health"))  # the server has taken the connections before this one
        assert idle(endpoint)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        names = [f"{getattr(one, '__module__', '')}.{type(one).__qualname__}" for one in gc.garbage]
        assert not [one for one in names if one.startswith("tokenworks")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
