"""POST /v1/messages: Anthropic's API of messages, as far as text and tool calls go."""

# ruff: noqa: ARG002, PLR0917 all styles take the same arguments
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from tokenworks.serving.asks import Ask, Positive
from tokenworks.serving.http import HttpError
from tokenworks.serving.styles import Event, Style
from tokenworks.serving.tokens import Tokenizer, Tokens, chat_tokens

if TYPE_CHECKING:
    from tokenworks.serving.answers import Answer
    from tokenworks.serving.driver import Job

KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip


class MessageBlock(msgspec.Struct):
    """A block of content: text, a tool call, or the result of a tool."""

    type: str
    text: str | None = None
    input: dict[str, Any] | None = None
    content: str | list[dict[str, Any]] | None = None


class Turn(msgspec.Struct):
    """A message."""

    role: str
    content: str | list[MessageBlock]


class ToolChoice(msgspec.Struct):
    """How the model uses tools: auto, any, tool or none."""

    type: str
    name: str | None = None


class CountBody(msgspec.Struct, kw_only=True):
    """Body of POST /v1/messages/count_tokens."""

    messages: Annotated[list[Turn], Meta(min_length=1)]
    model: str | None = None
    system: str | list[MessageBlock] | None = None
    tools: list[dict[str, Any]] | None = None


class MessagesBody(CountBody, kw_only=True):
    """Body of POST /v1/messages."""

    max_tokens: Positive
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    tool_choice: ToolChoice | None = None


def anthropic_error(error: HttpError) -> bytes:
    """Body of an error in Anthropic's form."""
    kind = KINDS.get(error.status, "api_error")
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": error.message}})


def _text(content: str | list[MessageBlock], where: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for block in content:
        if block.type == "text" and block.text is not None:
            texts.append(block.text)
        elif block.type == "tool_use":
            texts.append(msgspec.json.encode(block.input).decode())
        elif block.type == "tool_result":
            texts.append(block.content if isinstance(block.content, str) else str(block.content or ""))
        else:
            raise HttpError(400, f"{where}: {block.type} is no text; this model reads text only")
    return "".join(texts)


def message_tokens(body: CountBody, tokenizer: Tokenizer) -> tuple[Tokens, str]:
    """Tokens of all messages, and the text of the last one."""
    messages = []
    if body.tools:
        messages.append(("tools", msgspec.json.encode(body.tools).decode()))
    if body.system is not None:
        messages.append(("system", _text(body.system, "system")))
    messages += [(one.role, _text(one.content, f"messages[{i}]")) for i, one in enumerate(body.messages)]
    return chat_tokens(tokenizer, messages), messages[-1][1]


def messages(body: MessagesBody, tokenizer: Tokenizer) -> Ask:
    """The ask of POST /v1/messages."""
    tokens, text = message_tokens(body, tokenizer)
    stops = tuple(body.stop_sequences or ())
    if "" in stops or len(stops) > 16:
        raise HttpError(400, "stop_sequences: give at most 16 texts, none of them empty")
    ask = Ask([tokens], [text], max_tokens=body.max_tokens, stop=stops, stream=bool(body.stream))
    choice = body.tool_choice
    if choice is not None and choice.type in {"any", "tool"}:
        names = [str(one.get("name", "")) for one in body.tools or ()]
        if not names or (choice.type == "tool" and choice.name not in names):
            raise HttpError(400, "tool_choice: no tool has this name")
        ask.tool = choice.name if choice.type == "tool" else names[0]
    return ask


class MessagesStyle(Style):
    """Answers of POST /v1/messages."""

    last = b""

    def reason(self, answer: Answer, job: Job) -> str:
        """Stop reason."""
        if answer.ask.tool:
            return "tool_use"
        if not job.stopped:
            return "max_tokens"
        return "stop_sequence" if answer.words(job).stopped_by is not None else "end_turn"

    def error(self, error: HttpError) -> bytes:
        """Body of an error."""
        return anthropic_error(error)

    def _usage(self, job: Job) -> dict[str, int]:
        return {
            "input_tokens": job.input_tokens - job.cached_tokens, "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": job.cached_tokens, "output_tokens": job.output_tokens,
        }  # fmt: skip

    def _block(self, answer: Answer, text: str) -> dict[str, Any]:
        if answer.ask.tool:
            ident = answer.ident.replace("msg_", "toolu_")
            return {
                "type": "tool_use", "id": ident, "name": answer.ask.tool,
                "input": msgspec.json.decode(text.encode()) if text else {},
            }  # fmt: skip
        return {"type": "text", "text": text}

    def _message(self, answer: Answer, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": answer.ident, "type": "message", "role": "assistant", "model": answer.desk.model, "content": content,
            "stop_reason": None, "stop_sequence": None,
        }  # fmt: skip

    def opening(self, answer: Answer) -> list[Event]:
        """The message and its block begin."""
        usage = {**self._usage(answer.jobs[0]), "output_tokens": 1}
        return [
            ("message_start", {"type": "message_start", "message": {**self._message(answer, []), "usage": usage}}),
            ("content_block_start", {
                "type": "content_block_start", "index": 0, "content_block": self._block(answer, ""),
            }),
        ]  # fmt: skip

    def event(self, answer: Answer, job: Job, text: str, first: int, last: int, finish: str | None) -> Event:
        """A piece of text, or of the input of a tool."""
        delta = {"type": "text_delta", "text": text}
        if answer.ask.tool:
            delta = {"type": "input_json_delta", "partial_json": text}
        return "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}

    def closing(self, answer: Answer) -> list[Event]:
        """The block and the message end."""
        job = answer.jobs[0]
        delta = {"stop_reason": self.reason(answer, job), "stop_sequence": answer.words(job).stopped_by}
        return [
            ("content_block_stop", {"type": "content_block_stop", "index": 0}),
            ("message_delta", {"type": "message_delta", "delta": delta, "usage": self._usage(job)}),
            ("message_stop", {"type": "message_stop"}),
        ]

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The message."""
        job = answer.jobs[0]
        message = self._message(answer, [self._block(answer, answer.text(job))])
        reason, stop = self.reason(answer, job), answer.words(job).stopped_by
        return message | {"stop_reason": reason, "stop_sequence": stop, "usage": self._usage(job)}
