"""What a recorder learns from one request and its answer: lengths, times and blocks. No I/O."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np

from tokenworks.serving import asks
from tokenworks.serving.anthropic import MessagesBody, messages
from tokenworks.serving.asks import Ask, ChatBody, CompletionBody, decoded
from tokenworks.serving.http import HttpError
from tokenworks.serving.responses import ResponsesBody, responses
from tokenworks.serving.tokens import Tokenizer, block_names

MOST_ANSWER = 64 << 20
"""Longest answer in one body, and longest event of a stream, that a recorder reads [byte]."""
KEY = secrets.token_bytes(16)
"""Key of the names of blocks. It is drawn once in a process and never written, so the names do not tell the text."""

ROUTES: dict[str, Callable[[bytes, Tokenizer], Ask]] = {
    "/v1/chat/completions": lambda body, tokenizer: asks.chat(decoded(body, ChatBody), tokenizer),
    "/v1/completions": lambda body, tokenizer: asks.completion(decoded(body, CompletionBody), tokenizer),
    "/v1/responses": lambda body, tokenizer: responses(decoded(body, ResponsesBody), tokenizer),
    "/v1/messages": lambda body, tokenizer: messages(decoded(body, MessagesBody), tokenizer),
}
"""Routes that are recorded, and how the body of a request is read."""


class CachedDetails(msgspec.Struct):
    """The part of a usage that tells the hits of the prefix cache."""

    cached_tokens: int | None = None


class SeenUsage(msgspec.Struct):
    """The usage of an answer, with the names of OpenAI's and of Anthropic's API."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: CachedDetails | None = None
    input_tokens_details: CachedDetails | None = None
    cache_read_input_tokens: int | None = None


class SeenDelta(msgspec.Struct):
    """New text in an event of a chat."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Any] | None = None


class SeenChoice(msgspec.Struct):
    """A choice in an event, or in a whole answer."""

    text: str | None = None
    delta: SeenDelta | None = None
    message: SeenDelta | None = None


class UsageHolder(msgspec.Struct):
    """A part of an event that has the usage."""

    usage: SeenUsage | None = None


class SeenEvent(msgspec.Struct):
    """An event of a stream, or a whole answer. Only what a recorder needs is read."""

    type: str = ""
    choices: list[SeenChoice] = []
    delta: str | dict[str, Any] | None = None
    usage: SeenUsage | None = None
    response: UsageHolder | None = None
    message: UsageHolder | None = None
    error: Any = None


@dataclass
class SeenExchange:
    """One request and its answer.

    Parameters
    ----------
    path : path of the route
    body : body of the request
    arrival_s : time at which the request came [s]
    keep_text : whether the text of the answer is kept
    status : status of the answer; 0 before it comes
    first_s, last_s : times of the first and the last event with text; None: there was none [s]
    end_s : end of the answer; None: the client left before it [s]
    events : events with text [count]
    input_tokens, output_tokens, cached_tokens : as the usage says; None: the answer has no usage [token]
    failed : whether the answer is an error, or could not be read
    text : text of a stream, or an answer in one body as it came, if it is kept
    """

    path: str
    body: bytes
    arrival_s: float
    keep_text: bool = False
    status: int = 0
    first_s: float | None = None
    last_s: float | None = None
    end_s: float | None = None
    events: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    failed: bool = False
    text: list[str] = field(default_factory=list)
    stream: bool = False
    _rest: bytearray = field(default_factory=bytearray)

    def begin(self, status: int, kind: str) -> None:
        """The head of the answer has come.

        Parameters
        ----------
        status : status of the answer
        kind : its content type
        """
        self.status, self.stream = status, kind.startswith("text/event-stream")
        self.failed = status != 200

    def feed(self, data: bytes, now: float) -> None:
        """A part of the answer has come, at the time `now` [s]."""
        if self.failed:
            return
        self._rest += data
        if self.stream:
            *lines, rest = self._rest.split(b"\n")
            self._rest = rest
            for line in lines:
                if line.startswith(b"data:"):
                    self._event(line[5:].strip(), now)
        if len(self._rest) > MOST_ANSWER:
            self.failed, self._rest = True, bytearray()

    def finish(self, now: float) -> None:
        """The answer is complete, at the time `now` [s]."""
        self.end_s = now
        if not self.stream and not self.failed:
            self._event(bytes(self._rest), now)
            self.first_s = self.last_s = None
            if self.keep_text:
                self.text = [self._rest.decode("utf-8", "replace")]
        self._rest = bytearray()

    def _event(self, data: bytes | bytearray, now: float) -> None:
        if data == b"[DONE]":
            return
        try:
            event = _DECODE(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.failed = self.failed or not self.stream
            return
        if event.error is not None:
            self.failed = True
        text = _text(event)
        if text is not None:
            self.events += 1
            self.first_s = now if self.first_s is None else self.first_s
            self.last_s = now
            if self.keep_text:
                self.text.append(text)
        for holder in (event, event.response, event.message):
            if holder is not None and holder.usage is not None:
                self._count(holder.usage)

    def _count(self, usage: SeenUsage) -> None:
        read = usage.cache_read_input_tokens
        details = usage.prompt_tokens_details or usage.input_tokens_details
        given = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
        if given is not None:
            self.input_tokens = given + (read or 0)  # Anthropic's input_tokens are those that no cache served
        output = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
        self.output_tokens = self.output_tokens if output is None else output
        cached = details.cached_tokens if details is not None else read
        self.cached_tokens = self.cached_tokens if cached is None else cached

    # ---- rows of the trace

    def rows(self, tokenizer: Tokenizer, block_tokens: int) -> list[dict[str, Any]]:
        """The rows of the trace: one for each choice of each prompt; none if the request failed.

        Parameters
        ----------
        tokenizer : what counts tokens of prompts
        block_tokens : size of a block [token]
        """
        total = self.output_tokens if self.output_tokens is not None else self.events
        if self.failed or total < 1:
            return []
        try:
            ask = ROUTES[self.path](self.body, tokenizer)
            prompts, choices = ask.prompts, ask.n
        except HttpError:  # another server may take what this reader does not know: images, for example
            prompts, choices = [np.zeros(0, np.uint32)], 1
        count = len(prompts) * choices
        rows = []
        for place, prompt in enumerate(prompts):
            size = self.input_tokens if self.input_tokens is not None and len(prompts) == 1 else len(prompt)
            if size < 1:
                return []
            names = [secret(one) for one in block_names(prompt, block_tokens).tolist()][: size // block_tokens]
            for choice in range(choices):
                number = place * choices + choice
                output = max(1, total * (number + 1) // count - total * number // count)
                rows.append(self._row(size, output, place * choices + choice == 0) | {"blocks": names})
        for row in rows:
            row["block_tokens"] = block_tokens
        ordered = [{key: row[key] for key in ORDER if key in row} for row in rows]
        if self.keep_text:
            ordered[0] |= {"request": self.body.decode("utf-8", "replace"), "answer": "".join(self.text)}
        return ordered

    def _row(self, size: int, output: int, leads: bool) -> dict[str, Any]:
        """Lengths and times of a row. The hits of the cache are told by the first row alone."""
        row: dict[str, Any] = {
            "arrival_s": round(self.arrival_s, 6), "input_tokens": size, "output_tokens": output,
        }  # fmt: skip
        last = None if self.end_s is None else self.last_s or self.end_s
        for name, when in (("ttft_s", self.first_s), ("e2el_s", last)):
            row[name] = None if when is None else round(when - self.arrival_s, 6)
        row["cached_tokens"] = self.cached_tokens if leads else None
        return row


ORDER = (
    "arrival_s", "input_tokens", "output_tokens", "block_tokens", "ttft_s", "e2el_s", "cached_tokens", "blocks",
)  # fmt: skip
"""Fields of a row. The long ones are last, so that the beginning of a file shows its format."""
_DECODE = msgspec.json.Decoder(SeenEvent).decode


def secret(name: int) -> int:
    """The name of a block in a recording: the same for equal blocks, and no help to guess the text."""
    return int.from_bytes(blake2b(name.to_bytes(8, "little"), key=KEY, digest_size=8).digest(), "little") >> 2


def _text(event: SeenEvent) -> str | None:
    """Text of an event; None if it has none."""
    if event.type == "content_block_delta" or event.type.endswith(".delta"):
        delta = event.delta
        if isinstance(delta, str):
            return delta
        given = delta if isinstance(delta, dict) else {}
        return str(given.get("text") or given.get("partial_json") or "")
    texts = []
    for choice in event.choices:
        part = choice.delta or choice.message
        own = choice.text or (part and (part.content or part.reasoning_content or part.reasoning))
        if not own and part and part.tool_calls:
            own = msgspec.json.encode(part.tool_calls).decode()
        if own:
            texts.append(own)
    return "".join(texts) or None


def without_usage(exchange: SeenExchange) -> bool:
    """Whether lengths of a recorded request are counted, as its answer tells no usage."""
    return exchange.output_tokens is None or exchange.input_tokens is None
