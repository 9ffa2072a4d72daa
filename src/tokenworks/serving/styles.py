"""What events and bodies of answers look like in OpenAI's API for completions and chats."""

# ruff: noqa: ARG002, PLR0917 all styles take the same arguments
from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import msgspec

from tokenworks.serving.http import HttpError

if TYPE_CHECKING:
    from tokenworks.serving.answers import Answer
    from tokenworks.serving.driver import Job

Event = tuple[str, dict[str, Any]]
"""Name of an event, and its data; the name is empty in OpenAI's API."""

LOGPROB = -0.25
"""Log probability of every token, as the text is filler."""

KINDS = {
    400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError",
    405: "MethodNotAllowedError", 408: "RequestTimeoutError", 413: "RequestEntityTooLargeError",
    422: "UnprocessableEntityError", 429: "RateLimitError", 500: "InternalServerError",
    503: "ServiceUnavailableError",
}  # fmt: skip


def openai_error(error: HttpError) -> bytes:
    """Body of an error in OpenAI's form, as vLLM sends it."""
    kind = error.kind or KINDS.get(error.status, "BadRequestError")
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.status}
    return msgspec.json.encode({"error": body})


class Style(ABC):
    """The form of answers of one route."""

    last = b"data: [DONE]\n\n"
    """Bytes at the end of a stream."""

    def constant(self, answer: Answer) -> bool:
        """Whether the events of a stream differ in the text alone, so that they need not be encoded one by one."""
        return answer.ask.logprobs is None and not answer.ask.continuous_usage

    def reason(self, answer: Answer, job: Job) -> str:
        """Finish reason of a choice."""
        return "stop" if job.stopped else "length"

    def error(self, error: HttpError) -> bytes:
        """Body of an error."""
        return openai_error(error)

    @abstractmethod
    def opening(self, answer: Answer) -> list[Event]:
        """Events before the first token."""

    @abstractmethod
    def event(self, answer: Answer, job: Job, text: str, first: int, last: int, finish: str | None) -> Event:
        """The event of new tokens.

        Parameters
        ----------
        answer, job : answer and choice
        text : text of the tokens
        first, last : the tokens are number `first` to `last` - 1
        finish : finish reason, if these are the last tokens of the choice
        """

    @abstractmethod
    def closing(self, answer: Answer) -> list[Event]:
        """Events after the last choice."""

    @abstractmethod
    def whole(self, answer: Answer) -> Any:
        """Body of an answer that is no stream."""


def usage_of(answer: Answer, *, sent: bool = False) -> dict[str, Any]:
    """Usage of an answer, all choices together. Each prompt counts once.

    Parameters
    ----------
    answer : the answer
    sent : count the tokens that were sent so far, and not all tokens of the answer
    """
    firsts = answer.jobs[:: answer.ask.n]
    prompt = sum(job.input_tokens for job in firsts)
    output = sum(job.sent if sent else job.output_tokens for job in answer.jobs)
    usage: dict[str, Any] = {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}
    if not sent:
        usage["prompt_tokens_details"] = {"cached_tokens": sum(job.cached_tokens for job in firsts)}
    return usage


def _alternatives(answer: Answer, job: Job, k: int, count: int) -> list[tuple[str, float]]:
    """Words beside token k, with their log probabilities."""
    words = answer.words(job).vocabulary.words
    return [(words[(k + i) % len(words)], LOGPROB - i) for i in range(count)]


class CompletionStyle(Style):
    """POST /v1/completions."""

    def _logprobs(self, answer: Answer, job: Job, first: int, last: int, offset: int) -> dict[str, Any] | None:
        count = answer.ask.logprobs
        if count is None:
            return None
        tokens = [answer.words(job).word(k) for k in range(first, last)]
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        tops = [
            {token: LOGPROB} | dict(_alternatives(answer, job, k, count))
            for k, token in zip(range(first, last), tokens, strict=True)
        ]
        return {
            "tokens": tokens, "token_logprobs": [LOGPROB] * len(tokens), "top_logprobs": tops, "text_offset": offsets,
        }  # fmt: skip

    def _body(self, answer: Answer, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": answer.ident, "object": "text_completion", "created": answer.created, "model": answer.desk.model,
            "choices": choices,
        }  # fmt: skip

    def opening(self, answer: Answer) -> list[Event]:
        """The prompts, if the client wants an echo."""
        return [
            ("", self._body(answer, [{"index": job.index, "text": prompt, "logprobs": None, "finish_reason": None}]))
            for job in answer.jobs
            if answer.ask.echo and (prompt := answer.ask.texts[job.index // answer.ask.n])
        ]

    def event(self, answer: Answer, job: Job, text: str, first: int, last: int, finish: str | None) -> Event:
        """A chunk with the text."""
        logprobs = self._logprobs(answer, job, first, last, 0) if answer.ask.logprobs is not None else None
        choice = {"index": job.index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        body = self._body(answer, [choice])
        if answer.ask.continuous_usage:
            body["usage"] = usage_of(answer, sent=True)
        return "", body

    def closing(self, answer: Answer) -> list[Event]:
        """The usage, if the client wants it."""
        return [("", self._body(answer, []) | {"usage": usage_of(answer)})] if answer.ask.usage else []

    def whole(self, answer: Answer) -> dict[str, Any]:
        """All choices with their text."""
        choices = [
            {
                "index": job.index, "text": answer.text(job),
                "logprobs": self._logprobs(answer, job, 0, job.output_tokens, 0),
                "finish_reason": self.reason(answer, job),
            }
            for job in answer.jobs
        ]  # fmt: skip
        return self._body(answer, choices) | {"usage": usage_of(answer)}


class ChatStyle(Style):
    """POST /v1/chat/completions."""

    def reason(self, answer: Answer, job: Job) -> str:
        """Finish reason; a tool call that is complete ends with "tool_calls"."""
        return "tool_calls" if answer.ask.tool else super().reason(answer, job)

    def _body(self, answer: Answer, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": answer.ident, "object": kind, "created": answer.created, "model": answer.desk.model,
            "choices": choices,
        }  # fmt: skip

    def _chunk(
        self, answer: Answer, index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None, finish: str | None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._body(answer, "chat.completion.chunk", [choice])

    def _logprobs(self, answer: Answer, job: Job, first: int, last: int) -> dict[str, Any] | None:
        count = answer.ask.logprobs
        if count is None:
            return None

        def entry(token: str, value: float) -> dict[str, Any]:
            return {"token": token, "logprob": value, "bytes": list(token.encode())}

        content = [
            entry(answer.words(job).word(k), LOGPROB)
            | {"top_logprobs": [entry(*other) for other in _alternatives(answer, job, k, count)]}
            for k in range(first, last)
        ]
        return {"content": content}

    def _call(self, answer: Answer, job: Job, arguments: str) -> dict[str, Any]:
        ident = f"call_{answer.ident.rpartition('-')[2][-24:]}{job.index}"
        return {"id": ident, "type": "function", "function": {"name": answer.ask.tool, "arguments": arguments}}

    def opening(self, answer: Answer) -> list[Event]:
        """The role of each choice; of a tool call also the name of the function."""
        events: list[Event] = []
        for job in answer.jobs:
            delta: dict[str, Any] = {"role": "assistant", "content": ""}
            if answer.ask.tool:
                delta |= {"content": None, "tool_calls": [{"index": 0, **self._call(answer, job, "")}]}
            events.append(("", self._chunk(answer, job.index, delta, None, None)))
        return events

    def event(self, answer: Answer, job: Job, text: str, first: int, last: int, finish: str | None) -> Event:
        """A chunk with the text, or with a part of the arguments."""
        delta: dict[str, Any] = {"content": text}
        if answer.ask.tool:
            delta = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        body = self._chunk(answer, job.index, delta, self._logprobs(answer, job, first, last), finish)
        if answer.ask.continuous_usage:
            body["usage"] = usage_of(answer, sent=True)
        return "", body

    def closing(self, answer: Answer) -> list[Event]:
        """The usage, if the client wants it."""
        if not answer.ask.usage:
            return []
        return [("", self._body(answer, "chat.completion.chunk", []) | {"usage": usage_of(answer)})]

    def whole(self, answer: Answer) -> dict[str, Any]:
        """All choices with their message."""
        choices = []
        for job in answer.jobs:
            message: dict[str, Any] = {"role": "assistant", "content": answer.text(job), "refusal": None}
            if answer.ask.tool:
                message |= {"content": None, "tool_calls": [self._call(answer, job, answer.text(job))]}
            choices.append({
                "index": job.index, "message": message, "logprobs": self._logprobs(answer, job, 0, job.output_tokens),
                "finish_reason": self.reason(answer, job),
            })  # fmt: skip
        return self._body(answer, "chat.completion", choices) | {"usage": usage_of(answer)}
