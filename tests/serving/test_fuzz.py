"""Damaged bodies: each one gets an answer, none is an internal error, and the server comes to rest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.client import connected, idle, post, read
from tests.serving.conftest import Endpoint
from tokenworks.serving.routes import routes

TRIES = int(os.environ.get("FUZZ_CASES", "60"))
TOOL = {"type": "function", "function": {"name": "f"}}
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {
        "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "n": 1, "stop": ["a"], "logprobs": True,
        "top_logprobs": 1, "tools": [TOOL], "tool_choice": "auto", "seed": 1, "priority": 0, "min_tokens": 1,
    }),
    ("/v1/completions", {"prompt": [1, 2], "max_tokens": 3, "echo": True, "logprobs": 1, "ignore_eos": True}),
    ("/v1/responses", {"input": [{"role": "user", "content": "hi"}], "max_output_tokens": 2, "instructions": "x"}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "stop_sequences": ["a"]}),
    ("/tokenize", {"prompt": "x", "return_token_strs": True}),
    ("/detokenize", {"tokens": [1, 2]}),
]  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 40), st.sampled_from([1 << 31, 1 << 63, 1 << 70, -1, 0.5, 1e308]),
    st.text("a\u0000\ud800é\"\\{", max_size=4), st.just([]), st.just({}), st.lists(st.integers(-1, 9), max_size=3),
    st.just([[1, 2], [3]]), st.just([{"role": "user", "content": None}]), st.just(TOOL),
    st.just([TOOL, {"type": "x", "function": 5}]),
)  # fmt: skip


@settings(max_examples=TRIES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_bodies(endpoint: Endpoint, data: st.DataObject) -> None:
    path, good = data.draw(st.sampled_from(GOOD))
    body = dict(good)
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.sampled_from([*good, "stream", "model", "stream_options"]))] = data.draw(VALUES)
    body = {key: value for key, value in body.items() if key != "max_tokens" or value is None or value != 1 << 31}
    text = json.dumps(body).encode()
    if data.draw(st.integers(0, 4)) == 0:
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.binary(max_size=3)) + text[at + 1 :]
    with connected(endpoint) as sock:
        sock.sendall(post(path, text))
        response = read(sock)
        assert response.status in {200, 400, 404, 413}, (path, text, response.body)


def test_nothing_is_left(endpoint: Endpoint) -> None:
    assert idle(endpoint)
    assert not endpoint.server.metrics.events.get("internal_error")


def test_all_routes_are_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    for api in ("openai", "sglang"):
        for _, path in routes(api):
            assert path in page, path
    assert pytest.importorskip("httptools")
