"""What clients ask for: the request bodies of OpenAI's API, checked, in one form for the rest of the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from tokenworks.serving.http import HttpError
from tokenworks.serving.tokens import Tokenizer, Tokens, chat_tokens

Tiny = Annotated[int, Meta(ge=0, le=20)]
Count = Annotated[int, Meta(ge=0, le=1 << 30)]
Positive = Annotated[int, Meta(ge=1, le=1 << 30)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Choices = Annotated[int, Meta(ge=1, le=128)]
TokenId = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
MOST_PROMPTS = 1024
MOST_STOPS = 16

B = TypeVar("B")


class StreamOptions(msgspec.Struct):
    """`stream_options` of OpenAI, with vLLM's `continuous_usage_stats`."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Sampling(msgspec.Struct, kw_only=True):
    """What requests of OpenAI's API have in common. Other fields are ignored, as the text is filler."""

    model: str | None = None
    max_tokens: Positive | None = None
    min_tokens: Count | None = None
    n: Choices | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    seed: int | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    priority: Annotated[int, Meta(ge=-(1 << 31), lt=1 << 31)] | None = None
    user: str | None = None


class CompletionBody(Sampling, kw_only=True):
    """Body of POST /v1/completions."""

    prompt: str | list[str | TokenId | list[TokenId]]
    logprobs: Tiny | None = None
    echo: bool | None = None


class ContentPart(msgspec.Struct):
    """A part of the content of a message."""

    type: str
    text: str | None = None


class FunctionCall(msgspec.Struct):
    """A function that the model has called, or that a tool offers."""

    name: str
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A tool call in a message."""

    function: FunctionCall
    id: str | None = None
    type: str | None = None


class ChatMessage(msgspec.Struct):
    """A message of a chat."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Tool(msgspec.Struct):
    """A tool that the model may call."""

    type: str
    function: dict[str, Any]


class NamedFunction(msgspec.Struct):
    """The name of a function."""

    name: str


class NamedTool(msgspec.Struct):
    """A tool that the model must call."""

    type: str
    function: NamedFunction


class ChatBody(Sampling, kw_only=True):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Tiny | None = None
    tools: list[Tool] | None = None
    tool_choice: str | NamedTool | None = None


class TokenizeBody(msgspec.Struct, kw_only=True):
    """Body of POST /tokenize: a prompt or a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(msgspec.Struct, kw_only=True):
    """Body of POST /detokenize."""

    tokens: list[TokenId]
    model: str | None = None


@dataclass(slots=True)
class Ask:
    """A request for text.

    Parameters
    ----------
    prompts : tokens of each prompt
    texts : text of each prompt, for an echo; None: the prompt came as tokens
    n : choices for each prompt [count]
    max_tokens, min_tokens : bounds of the output; None: no bound [token]
    ignore_eos : whether the output has exactly `max_tokens` tokens
    stop : texts that end the answer
    stream : whether the answer is a stream of events
    usage, continuous_usage : whether the stream ends with the usage, and whether each event has it
    logprobs : alternatives for each token; None: no log probabilities [count]
    tool : name of the function that the answer calls; None: the answer is text
    echo : whether the answer begins with the prompt
    seed : seed of the request
    priority : 0 (served first) .. 7
    """

    prompts: list[Tokens]
    texts: list[str | None]
    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    stream: bool = False
    usage: bool = False
    continuous_usage: bool = False
    logprobs: int | None = None
    tool: str | None = None
    echo: bool = False
    seed: int = 0
    priority: int = 0


def decoded(body: bytes, kind: type[B], *, wrong: int = 400) -> B:
    """The body of a request.

    Parameters
    ----------
    body : JSON
    kind : what the body must be
    wrong : status if the JSON is valid, but the body is not of this kind

    Raises
    ------
    HttpError : no valid JSON, or not of this kind; the message has the path of the value
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        text = str(error)
        path = text.rpartition("`$")[2].rstrip("`").lstrip(".") if "`$" in text else ""
        raise HttpError(wrong, text, param=path or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(400, f"the body is no valid JSON: {error}") from None


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    """Texts that end an answer: one, several or none."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MOST_STOPS or "" in stops:
        raise HttpError(400, f"stop: give at most {MOST_STOPS} texts, none of them empty", param="stop")
    return stops


def _common(body: Sampling, prompts: list[Tokens], texts: list[str | None]) -> Ask:
    """The part of an ask that completions and chats share."""
    options = body.stream_options
    if options is not None and not body.stream:
        raise HttpError(400, "stream_options: set stream to true", param="stream_options")
    ask = Ask(
        prompts, texts, body.n or 1, body.max_tokens, body.min_tokens or 0, bool(body.ignore_eos), stops_of(body.stop),
        bool(body.stream), bool(options and options.include_usage), bool(options and options.continuous_usage_stats),
        seed=body.seed or 0, priority=min(max(body.priority or 0, 0), 7),
    )  # fmt: skip
    if ask.max_tokens is not None and ask.min_tokens > ask.max_tokens:
        raise HttpError(
            400, f"min_tokens: {ask.min_tokens} is more than max_tokens {ask.max_tokens}", param="min_tokens"
        )
    return ask


def completion(body: CompletionBody, tokenizer: Tokenizer) -> Ask:
    """The ask of POST /v1/completions: a text, tokens, or a list of texts or of lists of tokens."""
    given = body.prompt
    prompts: list[Tokens]
    texts: list[str | None]
    if isinstance(given, str):
        prompts, texts = [tokenizer.encode(given)], [given]
    elif given and all(isinstance(one, int) for one in given):
        prompts, texts = [np.array(given, np.uint32)], [None]
    elif all(isinstance(one, str) for one in given):
        texts = [str(one) for one in given]
        prompts = [tokenizer.encode(str(one)) for one in given]
    elif all(isinstance(one, list) for one in given):
        prompts, texts = [np.array(one, np.uint32) for one in given], [None] * len(given)
    else:
        raise HttpError(400, "prompt: give texts or tokens, not both", param="prompt")
    if not prompts or not all(len(one) for one in prompts):
        raise HttpError(400, "prompt: the prompt is empty", param="prompt")
    if len(prompts) > MOST_PROMPTS:
        raise HttpError(400, f"prompt: {len(prompts)} prompts; send at most {MOST_PROMPTS} at once", param="prompt")
    ask = _common(body, prompts, texts)
    ask.logprobs, ask.echo = body.logprobs, bool(body.echo)
    return ask


def text_of(content: str | list[ContentPart] | None, *, where: str) -> str:
    """Text of the content of a message.

    Parameters
    ----------
    content : a text, or parts of text
    where : path of the message in the body

    Raises
    ------
    HttpError : a part is no text
    """
    if isinstance(content, list):
        for part in content:
            if part.text is None:
                raise HttpError(400, f"{where}: {part.type} is no text; this model reads text only", param=where)
        return "".join(part.text or "" for part in content)
    return content or ""


def chat_messages(messages: Sequence[ChatMessage], tools: Sequence[Tool] | None = None) -> list[tuple[str, str]]:
    """Role and text of each message; tools come first, as in the chat templates of most models."""
    texts = []
    if tools:
        texts.append(("tools", msgspec.json.encode(tools).decode()))
    for place, message in enumerate(messages):
        text = text_of(message.content, where=f"messages[{place}]")
        for call in message.tool_calls or ():
            text += f"{call.function.name}{call.function.arguments or ''}"
        texts.append((message.role, text))
    return texts


def _tool(body: ChatBody) -> str | None:
    """Name of the function that the model must call; with `tool_choice` "auto" it answers with text."""
    choice = body.tool_choice
    if choice is None or (isinstance(choice, str) and choice in {"none", "auto"}):
        return None
    names = [str(one.function.get("name", "")) for one in body.tools or ()]
    if not names:
        raise HttpError(400, "tool_choice: give tools", param="tool_choice")
    if isinstance(choice, NamedTool):
        if choice.function.name not in names:
            raise HttpError(400, f"tool_choice: no tool has the name {choice.function.name!r}", param="tool_choice")
        return choice.function.name
    if choice != "required":
        raise HttpError(400, "tool_choice: want none, auto, required or a function", param="tool_choice")
    return names[0]


def chat(body: ChatBody, tokenizer: Tokenizer) -> Ask:
    """The ask of POST /v1/chat/completions."""
    if body.top_logprobs is not None and not body.logprobs:
        raise HttpError(400, "top_logprobs: set logprobs to true", param="top_logprobs")
    texts = chat_messages(body.messages, body.tools)
    ask = _common(body, [chat_tokens(tokenizer, texts)], [texts[-1][1]])
    if body.max_completion_tokens is not None:
        ask.max_tokens = body.max_completion_tokens
    ask.logprobs = (body.top_logprobs or 0) if body.logprobs else None
    ask.tool = _tool(body)
    return ask
