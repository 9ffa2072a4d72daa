"""SGLang's own routes: /generate and what goes with it."""

# ruff: noqa: ARG002, PLR0917 all styles take the same arguments
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tokenworks.serving.asks import MOST_PROMPTS, Ask, Choices, Count, Positive, TokenId, stops_of
from tokenworks.serving.http import HttpError
from tokenworks.serving.styles import Event, Style
from tokenworks.serving.tokens import Tokenizer

if TYPE_CHECKING:
    from tokenworks.serving.answers import Answer
    from tokenworks.serving.driver import Job

DEFAULT = 128
"""max_new_tokens of a request that gives none [token]."""


class SamplingParams(msgspec.Struct, kw_only=True):
    """`sampling_params` of SGLang. Other fields are ignored, as the text is filler."""

    max_new_tokens: Positive | None = None
    min_new_tokens: Count | None = None
    n: Choices | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None


class GenerateBody(msgspec.Struct, kw_only=True):
    """Body of POST /generate."""

    text: str | list[str] | None = None
    input_ids: list[TokenId | list[TokenId]] | None = None
    sampling_params: SamplingParams | None = None
    stream: bool | None = None


def generate(body: GenerateBody, tokenizer: Tokenizer) -> tuple[Ask, bool]:
    """The ask of POST /generate, and whether the answer is a list."""
    if (body.text is None) == (body.input_ids is None):
        raise HttpError(400, "give text or input_ids, one of them", param="text")
    texts: list[str | None]
    if body.text is not None:
        many = isinstance(body.text, list)
        texts = list(body.text) if isinstance(body.text, list) else [body.text]
        prompts = [tokenizer.encode(one or "") for one in texts]
    else:
        ids = body.input_ids or []
        many = bool(ids) and all(isinstance(one, list) for one in ids)
        if not many and any(isinstance(one, list) for one in ids):
            raise HttpError(400, "input_ids: give tokens, or lists of tokens, not both", param="input_ids")
        prompts = [np.array(one, np.uint32) for one in (ids if many else [ids])]
        texts = [None] * len(prompts)
    if not prompts or not all(len(one) for one in prompts) or len(prompts) > MOST_PROMPTS:
        raise HttpError(400, f"give 1 to {MOST_PROMPTS} prompts, none of them empty", param="text")
    asked = body.sampling_params or SamplingParams()
    n = asked.n or 1
    ask = Ask(
        prompts, texts, n, asked.max_new_tokens or DEFAULT, asked.min_new_tokens or 0, bool(asked.ignore_eos),
        stops_of(asked.stop), bool(body.stream),
    )  # fmt: skip
    return ask, many or n > 1


class GenerateStyle(Style):
    """Answers of POST /generate. Each event has the whole text so far, as in SGLang.

    Parameters
    ----------
    listed : whether the answer is a list of the choices
    """

    def __init__(self, *, listed: bool) -> None:
        self.listed = listed

    def constant(self, answer: Answer) -> bool:
        """Each event has more text than the event before it."""
        return False

    def _one(self, answer: Answer, job: Job, tokens: int, finish: str | None) -> dict[str, Any]:
        end = None
        if finish == "length":
            end = {"type": "length", "length": job.output_tokens}
        elif finish is not None:
            end = {"type": "stop", "matched": answer.words(job).stopped_by}
        info: dict[str, Any] = {
            "id": answer.ident, "finish_reason": end, "prompt_tokens": job.input_tokens, "completion_tokens": tokens,
            "cached_tokens": job.cached_tokens,
        }  # fmt: skip
        if finish is not None:
            info["e2e_latency"] = (job.last_s - job.received_s) / answer.desk.driver.speed
        body: dict[str, Any] = {"text": answer.words(job).text(0, tokens), "meta_info": info}
        if self.listed:
            body["index"] = job.index
        return body

    def opening(self, answer: Answer) -> list[Event]:
        """Nothing."""
        return []

    def event(self, answer: Answer, job: Job, text: str, first: int, last: int, finish: str | None) -> Event:
        """The text so far."""
        return "", self._one(answer, job, last, finish)

    def closing(self, answer: Answer) -> list[Event]:
        """Nothing."""
        return []

    def whole(self, answer: Answer) -> Any:
        """The text of each choice."""
        bodies = [self._one(answer, job, job.output_tokens, self.reason(answer, job)) for job in answer.jobs]
        return bodies if self.listed else bodies[0]
