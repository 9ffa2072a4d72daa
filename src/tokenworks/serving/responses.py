"""POST /v1/responses: OpenAI's API of responses, as far as text goes. Nothing is stored."""

# ruff: noqa: ARG002, PLR0917 all styles take the same arguments
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from tokenworks.serving.asks import Ask, ContentPart, Positive, text_of
from tokenworks.serving.http import HttpError
from tokenworks.serving.styles import Event, Style
from tokenworks.serving.tokens import Tokenizer, chat_tokens

if TYPE_CHECKING:
    from tokenworks.serving.answers import Answer
    from tokenworks.serving.driver import Job


class InputItem(msgspec.Struct):
    """A message of the input."""

    role: str
    content: str | list[ContentPart]
    type: str | None = None


class ResponsesBody(msgspec.Struct, kw_only=True):
    """Body of POST /v1/responses."""

    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Positive | None = None
    stream: bool | None = None
    previous_response_id: str | None = None


def responses(body: ResponsesBody, tokenizer: Tokenizer) -> Ask:
    """The ask of POST /v1/responses."""
    if body.previous_response_id is not None:
        hint = "send the whole conversation in input"
        raise HttpError(400, f"previous_response_id: responses are not stored; {hint}", param="previous_response_id")
    messages = [] if body.instructions is None else [("system", body.instructions)]
    if isinstance(body.input, str):
        messages.append(("user", body.input))
    else:
        messages += [(one.role, text_of(one.content, where=f"input[{i}]")) for i, one in enumerate(body.input)]
    tokens = chat_tokens(tokenizer, messages)
    return Ask([tokens], [messages[-1][1]], max_tokens=body.max_output_tokens, stream=bool(body.stream))


class ResponsesStyle(Style):
    """Answers of POST /v1/responses: each event has a name and a number."""

    last = b""

    def constant(self, answer: Answer) -> bool:
        """Each event has its own number."""
        return False

    def _message(self, answer: Answer, text: str, status: str) -> dict[str, Any]:
        part = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
        content = part if text else []
        return {
            "id": answer.ident.replace("resp_", "msg_"), "type": "message", "role": "assistant", "status": status,
            "content": content,
        }  # fmt: skip

    def _response(self, answer: Answer, status: str) -> dict[str, Any]:
        done = status != "in_progress"
        job = answer.jobs[0]
        response: dict[str, Any] = {
            "id": answer.ident, "object": "response", "created_at": answer.created, "model": answer.desk.model,
            "status": status, "error": None, "incomplete_details": None, "instructions": None, "metadata": {},
            "output": [self._message(answer, answer.text(job), "completed")] if done else [],
            "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "temperature": 1.0, "top_p": 1.0,
            "usage": None,
        }  # fmt: skip
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        if done:
            response["usage"] = {
                "input_tokens": job.input_tokens, "input_tokens_details": {"cached_tokens": job.cached_tokens},
                "output_tokens": job.output_tokens, "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": job.input_tokens + job.output_tokens,
            }  # fmt: skip
        return response

    def _status(self, answer: Answer) -> str:
        return "completed" if answer.jobs[0].stopped else "incomplete"

    def _numbered(self, answer: Answer, name: str, **data: Any) -> Event:
        number, answer.sequence = answer.sequence, answer.sequence + 1
        return name, {"type": name, "sequence_number": number, **data}

    def _place(self, answer: Answer) -> dict[str, Any]:
        return {"item_id": answer.ident.replace("resp_", "msg_"), "output_index": 0, "content_index": 0}

    def opening(self, answer: Answer) -> list[Event]:
        """The response, its message and its part of text begin."""
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item = self._message(answer, "", "in_progress")
        return [
            self._numbered(answer, "response.created", response=self._response(answer, "in_progress")),
            self._numbered(answer, "response.in_progress", response=self._response(answer, "in_progress")),
            self._numbered(answer, "response.output_item.added", output_index=0, item=item),
            self._numbered(answer, "response.content_part.added", **self._place(answer), part=part),
        ]

    def event(self, answer: Answer, job: Job, text: str, first: int, last: int, finish: str | None) -> Event:
        """A piece of text."""
        return self._numbered(answer, "response.output_text.delta", **self._place(answer), delta=text, logprobs=[])

    def closing(self, answer: Answer) -> list[Event]:
        """The part of text, its message and the response end."""
        text, place, status = answer.text(answer.jobs[0]), self._place(answer), self._status(answer)
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        item = self._message(answer, text, "completed")
        return [
            self._numbered(answer, "response.output_text.done", **place, text=text, logprobs=[]),
            self._numbered(answer, "response.content_part.done", **place, part=part),
            self._numbered(answer, "response.output_item.done", output_index=0, item=item),
            self._numbered(answer, f"response.{status}", response=self._response(answer, status)),
        ]

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The response."""
        return self._response(answer, self._status(answer))
