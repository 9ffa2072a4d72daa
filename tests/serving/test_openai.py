"""The routes of OpenAI's API: bodies and streams as raw bytes, and with OpenAI's own SDK."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import ANY

import pytest

from tests.serving.client import ask, connected, get, idle, post, read
from tests.serving.conftest import Endpoint

HELLO = [{"role": "user", "content": "hello world"}]
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def test_a_stream_of_a_chat(endpoint: Endpoint) -> None:
    body = {"messages": HELLO, "max_tokens": 7, "stream": True, "stream_options": {"include_usage": True}}
    response = ask(endpoint, post(CHAT, body))
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    first, *middle, last, usage = response.events
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [event["choices"][0]["finish_reason"] for event in (*middle, last)] == [None] * len(middle) + ["length"]
    assert {event["id"] for event in response.events} == {first["id"]}
    text = "".join(event["choices"][0]["delta"]["content"] for event in (*middle, last))
    assert len(text) == 28
    assert usage["choices"] == []
    # four tokens around the message, three before the answer
    assert usage["usage"] == {
        "prompt_tokens": 4 + 3 + 3, "completion_tokens": 7, "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 0},
    }  # fmt: skip


def test_the_text_is_the_same_in_every_form(endpoint: Endpoint) -> None:
    body = {"messages": HELLO, "max_tokens": 12}
    whole = ask(endpoint, post(CHAT, body)).json["choices"][0]
    events = ask(endpoint, post(CHAT, {**body, "stream": True})).events
    streamed = "".join(event["choices"][0]["delta"]["content"] for event in events)
    assert whole["message"]["content"] == streamed
    slow = ask(endpoint, post(CHAT, {**body, "stream": True, "logprobs": True, "top_logprobs": 2})).events
    assert "".join(event["choices"][0]["delta"]["content"] for event in slow) == streamed
    assert ask(endpoint, post(CHAT, {**body, "seed": 5})).json["choices"][0]["message"]["content"] != streamed


def test_choices_and_prompts(endpoint: Endpoint) -> None:
    body = {"prompt": ["one prompt", "another prompt"], "n": 2, "max_tokens": 3}
    whole = ask(endpoint, post(COMPLETION, body)).json
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert whole["usage"] == {
        "prompt_tokens": 3 + 4, "total_tokens": 7 + 12, "completion_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 0},
    }  # fmt: skip
    texts: dict[int, str] = {}
    for event in ask(endpoint, post(COMPLETION, {**body, "stream": True})).events:
        choice = event["choices"][0]
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == {choice["index"]: choice["text"] for choice in whole["choices"]}
    assert len(set(texts.values())) == 4


def test_tokens_stop_echo_and_usage_of_completions(endpoint: Endpoint) -> None:
    body: dict[str, Any] = {"prompt": [5, 6, 7, 8, 9], "max_tokens": 40, "ignore_eos": True}
    whole = ask(endpoint, post(COMPLETION, body)).json
    assert whole["usage"]["prompt_tokens"] == 5
    text = whole["choices"][0]["text"]
    word = text.split()[9]
    stopped = ask(endpoint, post(COMPLETION, {**body, "stop": [word]})).json["choices"][0]
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == text[: text.find(word)]
    events = ask(endpoint, post(COMPLETION, {**body, "stop": word, "stream": True})).events
    assert "".join(event["choices"][0]["text"] for event in events) == stopped["text"]
    echoed = ask(endpoint, post(COMPLETION, {"prompt": "say this: ", "echo": True, "max_tokens": 2})).json
    assert echoed["choices"][0]["text"].startswith("say this: ")
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = ask(endpoint, post(COMPLETION, {**body, "stream": True, "stream_options": options})).events
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[-1] == 40
    logged = ask(endpoint, post(COMPLETION, {"prompt": "x", "max_tokens": 3, "logprobs": 2})).json["choices"][0]
    assert len(logged["logprobs"]["tokens"]) == len(logged["logprobs"]["token_logprobs"]) == 3
    assert "".join(logged["logprobs"]["tokens"]) == logged["text"]


def test_tool_calls(endpoint: Endpoint) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    body = {"messages": HELLO, "max_tokens": 9, "tools": [tool], "tool_choice": "required"}
    choice = ask(endpoint, post(CHAT, body)).json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    call = choice["message"]["tool_calls"][0]
    assert call["function"]["name"] == "look_up"
    assert isinstance(json.loads(call["function"]["arguments"]), dict)
    events = ask(endpoint, post(CHAT, {**body, "stream": True})).events
    deltas = [event["choices"][0]["delta"]["tool_calls"][0] for event in events]
    assert deltas[0]["function"]["name"] == "look_up"
    assert "".join(delta["function"]["arguments"] for delta in deltas) == call["function"]["arguments"]
    named = {"type": "function", "function": {"name": "look_up"}}
    assert ask(endpoint, post(CHAT, {**body, "tool_choice": named})).json["choices"][0] == choice | {
        "message": choice["message"] | {"tool_calls": [call | {"id": ANY}]}
    }
    named["function"] = {"name": "other"}
    assert ask(endpoint, post(CHAT, {**body, "tool_choice": named})).status == 400
    auto = ask(endpoint, post(CHAT, {**body, "tool_choice": "auto"})).json["choices"][0]
    assert auto["message"]["content"]


def test_the_prefix_cache_serves_a_prompt_that_comes_again(endpoint: Endpoint) -> None:
    prompt = "a long prompt that only this test sends, again and again. " * 40
    first = ask(endpoint, post(COMPLETION, {"prompt": prompt, "max_tokens": 4})).json["usage"]
    again = ask(endpoint, post(COMPLETION, {"prompt": prompt, "max_tokens": 4})).json["usage"]
    longer = ask(endpoint, post(COMPLETION, {"prompt": prompt + "and more", "max_tokens": 4})).json["usage"]
    other = ask(endpoint, post(COMPLETION, {"prompt": "X" + prompt, "max_tokens": 4})).json["usage"]
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in (first, again, longer, other)]
    block = endpoint.server.served.block_tokens
    full = (first["prompt_tokens"] - 1) // block * block
    assert cached == [0, full, pytest.approx(full, abs=block), 0]


def test_small_routes(endpoint: Endpoint) -> None:
    assert ask(endpoint, get("/v1/models")).json["data"][0]["max_model_len"] == 8192
    for path in ("/health", "/ping", "/version", "/load", "/is_sleeping"):
        assert ask(endpoint, get(path)).status == 200, path
    counted = ask(endpoint, post("/tokenize", {"prompt": "hello world", "return_token_strs": True})).json
    assert counted["count"] == 3
    assert counted["token_strs"] == ["hell", "o wo", "rld"]
    assert ask(endpoint, post("/detokenize", {"tokens": counted["tokens"]})).json == {"prompt": "hello world"}
    chat = ask(endpoint, post("/tokenize", {"messages": HELLO})).json
    assert chat["count"] == 10
    with connected(endpoint) as sock:
        sock.sendall(get("/health", method="HEAD"))
        assert read(sock, bare=True).body == b""
        sock.sendall(get("/version"))  # the connection is still good
        assert read(sock).status == 200


def test_sleep_and_wake(endpoint: Endpoint) -> None:
    assert ask(endpoint, post("/sleep", b"")).status == 200
    try:
        assert ask(endpoint, get("/is_sleeping")).json == {"is_sleeping": True}
        refused = ask(endpoint, post(COMPLETION, {"prompt": "x"}))
        assert refused.status == 503
        assert "retry-after" in refused.headers
        assert ask(endpoint, get("/health")).status == 503
    finally:
        assert ask(endpoint, post("/wake_up", b"")).status == 200
    assert ask(endpoint, get("/health")).status == 200


WRONG: list[tuple[str, Any, int, str]] = [
    (CHAT, b"{", 400, "JSON"),
    (CHAT, b"", 400, "JSON"),
    (CHAT, b'{"messages": "\xff\xfe"}', 400, ""),
    (CHAT, b"[" * 100_000, 400, ""),
    (CHAT, {"messages": []}, 400, "messages"),
    (CHAT, {"messages": HELLO, "max_tokens": 0}, 400, "max_tokens"),
    (CHAT, {"messages": HELLO, "max_tokens": "7"}, 400, "max_tokens"),
    (CHAT, {"messages": HELLO, "n": 1000}, 400, "n"),
    (CHAT, {"messages": HELLO, "max_tokens": 9000}, 400, "8192"),
    (CHAT, {"messages": HELLO, "stream_options": {"include_usage": True}}, 400, "stream"),
    (CHAT, {"messages": HELLO, "top_logprobs": 3}, 400, "logprobs"),
    (CHAT, {"messages": HELLO, "tool_choice": "required"}, 400, "tools"),
    (CHAT, {"messages": HELLO, "min_tokens": 9, "max_tokens": 3}, 400, "min_tokens"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "image_url"),
    (CHAT, {"messages": HELLO, "model": "another"}, 404, "another"),
    (CHAT, {"messages": HELLO, "stop": [""]}, 400, "stop"),
    (COMPLETION, {"prompt": []}, 400, "prompt"),
    (COMPLETION, {"prompt": [1, "a"]}, 400, "prompt"),
    (COMPLETION, {"prompt": [[]]}, 400, "prompt"),
    (COMPLETION, {"prompt": [-1]}, 400, "prompt"),
    (COMPLETION, {"prompt": "x" * 40_000}, 400, "8192"),
    ("/nowhere", {}, 404, "/nowhere"),
    ("/health", {}, 405, "POST"),
    ("/tokenize", {}, 400, "prompt"),
    ("/detokenize", {"tokens": [1 << 40]}, 400, "tokens"),
]


def test_wrong_requests(endpoint: Endpoint) -> None:
    """Each one gets an error in OpenAI's form, on a connection that goes on."""
    with connected(endpoint) as sock:
        for path, body, status, words in WRONG:
            sock.sendall(post(path, body))
            response = read(sock)
            assert response.status == status, (path, body, response.body)
            error = response.json["error"]
            assert error["code"] == status
            assert set(error) == {"message", "type", "param", "code"}
            assert words in error["message"] or words == error["param"], error
    assert idle(endpoint)


def test_keys_and_limits(guarded: Endpoint) -> None:
    body = {"prompt": "hello", "max_tokens": 2}
    for header in ("", "authorization: Bearer wrong\r\n", "authorization: secret\r\n", "x-api-key: secre\r\n"):
        refused = ask(guarded, post(COMPLETION, body, headers=header))
        assert refused.status == 401
        assert refused.json["error"]["type"] == "AuthenticationError"
    for header in ("authorization: Bearer secret\r\n", "authorization: bearer other\r\n", "x-api-key: secret\r\n"):
        assert ask(guarded, post(COMPLETION, body, headers=header)).status == 200
    assert ask(guarded, get("/health")).status == 200
    key = "x-api-key: secret\r\n"
    many = ask(guarded, post(COMPLETION, {**body, "prompt": ["x"] * 601}, headers=key))
    assert many.status == 429
    assert many.headers["retry-after"] == "1"
    full = ask(guarded, post(COMPLETION, {**body, "prompt": ["x"] * 600, "max_tokens": 900}, headers=key))
    assert full.status == 503
    assert "queue" in full.json["error"]["message"]
    assert idle(guarded)
    assert ask(guarded, post(COMPLETION, {**body, "model": "my-model"}, headers=key)).status == 200


def test_the_sdk_of_openai(endpoint: Endpoint) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0) as client:
        model = client.models.list().data[0].id
        chat = client.chat.completions.create(model=model, messages=HELLO, max_completion_tokens=5)
        assert chat.usage.completion_tokens == 5
        stream = client.chat.completions.create(
            model=model, messages=HELLO, max_tokens=5, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == chat.choices[0].message.content
        assert chunks[-1].usage.total_tokens == chat.usage.total_tokens
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            client.completions.create(model=model, prompt="x", max_tokens=100_000)
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="other", prompt="x")


def test_responses(endpoint: Endpoint) -> None:
    body = {"input": "hello world", "instructions": "be kind", "max_output_tokens": 6}
    whole = ask(endpoint, post("/v1/responses", body)).json
    assert (whole["object"], whole["status"]) == ("response", "incomplete")
    assert whole["usage"]["output_tokens"] == 6
    text = whole["output"][0]["content"][0]["text"]
    raw = ask(endpoint, post("/v1/responses", {**body, "stream": True})).body.decode()
    events: list[Any] = [json.loads(part.partition("\ndata: ")[2]) for part in raw.split("\n\n")[:-1]]
    names = [part.partition("\n")[0].removeprefix("event: ") for part in raw.split("\n\n")[:-1]]
    assert names == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert names[:2] == ["response.created", "response.in_progress"]
    assert names[-1] == "response.incomplete"
    assert "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta") == text
    assert ask(endpoint, post("/v1/responses", {"input": []})).status == 400
    assert ask(endpoint, post("/v1/responses", {"input": "x", "previous_response_id": "y"})).status == 400
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0) as client:
        model = client.models.list().data[0].id
        assert client.responses.create(model=model, input="hi", max_output_tokens=3).output_text
        events = list(client.responses.create(model=model, input="hi", max_output_tokens=3, stream=True))
        assert events[-1].response.usage.output_tokens == 3


def test_messages_of_anthropic(endpoint: Endpoint) -> None:
    body: dict[str, Any] = {"messages": HELLO, "system": "be kind", "max_tokens": 30}
    whole = ask(endpoint, post("/v1/messages", body)).json
    assert (whole["type"], whole["stop_reason"]) == ("message", "max_tokens")
    text = whole["content"][0]["text"]
    counted = ask(endpoint, post("/v1/messages/count_tokens", {"messages": HELLO, "system": "be kind"})).json
    usage = whole["usage"]
    assert counted["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]
    word = text.split()[7]
    stopped = ask(endpoint, post("/v1/messages", {**body, "stop_sequences": [word]})).json
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", word)
    raw = ask(endpoint, post("/v1/messages", {**body, "stream": True})).body.decode()
    events = [json.loads(part.partition("\ndata: ")[2]) for part in raw.split("\n\n")[:-1]]
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta") == text
    tool = {"name": "look_up", "input_schema": {"type": "object"}}
    called = ask(endpoint, post("/v1/messages", {**body, "tools": [tool], "tool_choice": {"type": "any"}})).json
    assert called["stop_reason"] == "tool_use"
    assert isinstance(called["content"][0]["input"], dict)
    for wrong in ({"messages": HELLO}, {**body, "messages": []}, {**body, "tool_choice": {"type": "any"}}):
        refused = ask(endpoint, post("/v1/messages", wrong))
        assert refused.status == 400
        assert refused.json["error"]["type"] == "invalid_request_error"


def test_routes_of_sglang(guarded: Endpoint, endpoint: Endpoint) -> None:
    key = "x-api-key: secret\r\n"
    body = {"text": "hello world", "sampling_params": {"max_new_tokens": 5, "ignore_eos": True}}
    whole = ask(guarded, post("/generate", body, headers=key)).json
    assert whole["meta_info"]["completion_tokens"] == 5
    assert whole["meta_info"]["finish_reason"] == {"type": "length", "length": 5}
    events = ask(guarded, post("/generate", {**body, "stream": True}, headers=key)).events
    assert events[-1]["text"] == whole["text"]
    assert all(whole["text"].startswith(event["text"]) for event in events)
    many = ask(guarded, post("/generate", {"input_ids": [[1, 2], [3]]}, headers=key)).json
    assert [one["meta_info"]["prompt_tokens"] for one in many] == [2, 1]
    for wrong, status in (({}, 400), ({"text": 5}, 422), ({"text": "x", "sampling_params": {"n": 0}}, 422)):
        assert ask(guarded, post("/generate", wrong, headers=key)).status == status
    assert ask(guarded, get("/get_model_info", headers=key)).json["is_generation"]
    assert ask(guarded, get("/get_server_info", headers=key)).json["served_model_name"] == "my-model"
    prompt = {"text": "a prompt for the cache " * 30, "sampling_params": {"max_new_tokens": 1}}
    cached = []
    for _ in range(2):
        cached += [ask(guarded, post("/generate", prompt, headers=key)).json["meta_info"] for _ in range(2)]
        assert ask(guarded, post("/flush_cache", b"", headers=key)).status == 200
    assert [one["cached_tokens"] > 0 for one in cached] == [False, True, False, True]
    assert ask(endpoint, post("/generate", body)).status == 404
