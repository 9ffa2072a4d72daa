"""The routes of the server: method and path -> what answers, and whether it needs no API key."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tokenworks.serving import asks
from tokenworks.serving.admin import add_faults, is_from_here, repair_faults, show_faults
from tokenworks.serving.anthropic import CountBody, MessagesBody, MessagesStyle, message_tokens, messages
from tokenworks.serving.asks import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody, decoded
from tokenworks.serving.fault_metrics import fault_lines
from tokenworks.serving.http import Connection, HttpError, HttpRequest
from tokenworks.serving.live import HTML, page
from tokenworks.serving.metrics import ApiName
from tokenworks.serving.openapi import document
from tokenworks.serving.responses import ResponsesBody, ResponsesStyle, responses
from tokenworks.serving.sglang import GenerateBody, GenerateStyle, generate
from tokenworks.serving.styles import ChatStyle, CompletionStyle
from tokenworks.serving.tokens import Tokens, chat_tokens

if TYPE_CHECKING:
    from tokenworks.serving.server import Server

CHAT, COMPLETION, RESPONSES, MESSAGES = ChatStyle(), CompletionStyle(), ResponsesStyle(), MessagesStyle()
PIECE_S = 0.0005
"""Time for which lines of /metrics are written before the driver gets a turn [s]."""
Route = Callable[["Server", Connection, HttpRequest], None]
B = TypeVar("B")
BodyRoute = Callable[["Server", Connection, HttpRequest, B], None]
Table = dict[tuple[str, str], tuple[Route, bool]]
"""Method and path -> what answers, and whether it needs no key."""


BODIES: dict[Route, type[Any]] = {}
"""The body that a route takes. The same type checks requests and describes them in /openapi.json."""


def takes(kind: type[B], *, wrong: int = 400, ready: bool = True) -> Callable[[BodyRoute[B]], Route]:
    """Let a route take a body: check the body and the model that it names.

    Parameters
    ----------
    kind : what the body must be
    wrong : status if the body is JSON of another kind
    ready : whether the server must be ready
    """

    def wrap(answer: BodyRoute[B]) -> Route:
        @wraps(answer)
        def route(server: Server, connection: Connection, request: HttpRequest) -> None:
            if ready:
                server.must_be_ready()
            body = decoded(request.body, kind, wrong=wrong)
            server.must_be_model(getattr(body, "model", None))
            answer(server, connection, request, body)

        BODIES[route] = kind
        return route

    return wrap


@takes(ChatBody)
def chat(server: Server, connection: Connection, request: HttpRequest, body: ChatBody) -> None:
    """POST /v1/chat/completions: OpenAI's API of chats."""
    server.answer(connection, request, asks.chat(body, server.tokenizer), CHAT, "chatcmpl-")


@takes(CompletionBody)
def completion(server: Server, connection: Connection, request: HttpRequest, body: CompletionBody) -> None:
    """POST /v1/completions: OpenAI's API of completions."""
    server.answer(connection, request, asks.completion(body, server.tokenizer), COMPLETION, "cmpl-")


@takes(ResponsesBody)
def response(server: Server, connection: Connection, request: HttpRequest, body: ResponsesBody) -> None:
    """POST /v1/responses: OpenAI's API of responses."""
    server.answer(connection, request, responses(body, server.tokenizer), RESPONSES, "resp_")


@takes(MessagesBody)
def message(server: Server, connection: Connection, request: HttpRequest, body: MessagesBody) -> None:
    """POST /v1/messages: Anthropic's API of messages."""
    server.answer(connection, request, messages(body, server.tokenizer), MESSAGES, "msg_")


@takes(CountBody, ready=False)
def count_tokens(server: Server, connection: Connection, request: HttpRequest, body: CountBody) -> None:
    """POST /v1/messages/count_tokens: tokens of a prompt in Anthropic's API."""
    server.send(connection, request, {"input_tokens": len(message_tokens(body, server.tokenizer)[0])})


@takes(GenerateBody, wrong=422)
def generate_text(server: Server, connection: Connection, request: HttpRequest, body: GenerateBody) -> None:
    """POST /generate: SGLang's own API."""
    ask, listed = generate(body, server.tokenizer)
    server.answer(connection, request, ask, GenerateStyle(listed=listed), "")


def model_info(server: Server, connection: Connection, request: HttpRequest) -> None:
    """GET /get_model_info: the model, as SGLang says it."""
    path = server.served.deployment.model
    server.send(connection, request, {"model_path": path, "tokenizer_path": path, "is_generation": True})


def server_info(server: Server, connection: Connection, request: HttpRequest) -> None:
    """GET /get_server_info: sizes of the deployment, as SGLang says them."""
    served, limits = server.served, server.served.cluster.pools[0].limits
    body = {
        "model_path": served.deployment.model, "served_model_name": server.model, "version": server.settings.version,
        "context_length": served.max_context, "max_total_num_tokens": limits.kv_blocks * limits.block_tokens,
        "max_running_requests": limits.max_sequences, "dp_size": served.cluster.pools[0].ranks,
    }  # fmt: skip
    server.send(connection, request, body)


def flush_cache(server: Server, connection: Connection, request: HttpRequest) -> None:
    """POST /flush_cache: empty the prefix cache if no request is in flight."""
    if not server.driver.flush():
        raise HttpError(400, f"{server.driver.in_flight} requests are in flight, or an instance does not run; "
                        "flush the cache when neither is so")  # fmt: skip
    server.send(connection, request, b"Cache flushed.\n", kind="text/plain")


def models(server: Server, connection: Connection, request: HttpRequest) -> None:
    """GET /v1/models: the model of this server."""
    model = {
        "id": server.model, "object": "model", "created": int(server.metrics.started), "owned_by": "tokenworks",
        "root": server.served.deployment.model, "parent": None, "max_model_len": server.served.max_context,
    }  # fmt: skip
    server.send(connection, request, {"object": "list", "data": [model]})


@takes(TokenizeBody, ready=False)
def tokenize(server: Server, connection: Connection, request: HttpRequest, body: TokenizeBody) -> None:
    """POST /tokenize: tokens of a text or of a chat."""
    if (body.prompt is None) == (body.messages is None):
        raise HttpError(400, "give prompt or messages, one of them", param="prompt")
    tokens: Tokens
    if body.messages is not None:
        tokens = chat_tokens(server.tokenizer, asks.chat_messages(body.messages))
    else:
        assert body.prompt is not None
        tokens = server.tokenizer.encode(body.prompt)
    answer: dict[str, Any] = {
        "count": len(tokens), "max_model_len": server.served.max_context, "tokens": tokens.tolist(), "token_strs": None,
    }  # fmt: skip
    if body.return_token_strs:
        answer["token_strs"] = [server.tokenizer.decode(tokens[k : k + 1]) for k in range(len(tokens))]
    server.send(connection, request, answer)


@takes(DetokenizeBody, ready=False)
def detokenize(server: Server, connection: Connection, request: HttpRequest, body: DetokenizeBody) -> None:
    """POST /detokenize: text of tokens."""
    server.send(connection, request, {"prompt": server.tokenizer.decode(np.array(body.tokens, np.uint32))})


def health(server: Server, connection: Connection, request: HttpRequest) -> None:
    """GET /health and /ping: 200 when the server is ready."""
    server.must_be_ready()
    if role := server.faults.out_of(server.doors[connection.door].instances):
        raise HttpError(503, f"no instance of the role {role} runs", headers={"retry-after": "5"})
    server.send(connection, request, b"", kind="text/plain")


def version(server: Server, connection: Connection, request: HttpRequest) -> None:
    """GET /version: the version of this server."""
    server.send(connection, request, {"version": f"tokenworks-{server.settings.version}"})


def load(server: Server, connection: Connection, request: HttpRequest) -> None:
    """GET /load: requests in flight."""
    server.send(connection, request, {"server_load": server.load(server.doors[connection.door])})


def metrics(server: Server, connection: Connection, request: HttpRequest) -> None:
    """GET /metrics: all metrics, in the text format of Prometheus.

    The text is written in pieces between turns of the driver, as 40 ranks have 12,000 lines.
    """
    door = server.doors[connection.door]
    lines = server.metrics.lines(server.driver.levels(), door.shown)
    if door.number == 0:  # once, not at each port
        own = server.metrics.own_lines(server.driver.now())
        lines = itertools.chain(lines, own, _machine_lines(server))
    _write_lines(server, connection, request, lines, [])


def _write_lines(
    server: Server, connection: Connection, request: HttpRequest, lines: Iterator[str], parts: list[str]
) -> None:
    """Write lines for `PIECE_S`, and the rest after the driver had a turn; then send all of them.

    A nested function that refers to itself is a reference cycle: it keeps the whole text until the garbage collector
    looks at all objects, which is seldom in a server.

    Parameters
    ----------
    server, connection, request : where the lines go
    lines : lines that are not written yet
    parts : lines so far
    """
    until = time.monotonic() + PIECE_S
    for piece in lines:
        parts.append(piece)
        if time.monotonic() > until:
            server.loop.call_later(0.001, _write_lines, server, connection, request, lines, parts)
            return
    body = ("\n".join(parts) + "\n").encode()
    server.send(connection, request, body, kind="text/plain; version=0.0.4; charset=utf-8")


def _machine_lines(server: Server) -> Iterator[str]:
    """The lines of the metrics of cards, KV tiers, faults and KV events, and whether the server is ready."""
    counts = server.driver.simulator.counts()
    yield from server.cards.lines(counts)
    yield from server.cards.tier_lines(counts.tiers)
    yield from fault_lines(server.driver, counts)
    if server.publisher is not None:
        yield from server.publisher.lines()
    yield "# TYPE tokenworks_ready gauge"
    yield f"tokenworks_ready {float(server.ready)!r}"


def live(server: Server, connection: Connection, request: HttpRequest) -> None:
    """GET /live: the page of the live view. It has no figures itself."""
    body, headers = page()
    server.send(connection, request, body, kind=HTML, headers=headers)


def live_events(server: Server, connection: Connection, request: HttpRequest) -> None:
    """GET /live/events: a stream with the state of the machine."""
    if not server.settings.keys and not is_from_here(connection, request):
        raise HttpError(403, "only this computer may look; --api-key lets others in")
    if request.method == "HEAD":
        raise HttpError(405, "/live/events has no method HEAD")
    server.metrics.answered(request.path, request.method, 200)
    server.live.watch(connection, request)


def openapi(server: Server, connection: Connection, request: HttpRequest) -> None:
    """GET /openapi.json: this description of all routes."""
    server.send(connection, request, document(server.routes, BODIES, server.settings.version))


def sleep(server: Server, connection: Connection, request: HttpRequest) -> None:
    """POST /sleep: refuse requests until /wake_up. Requests in flight go on."""
    server.asleep = True
    server.send(connection, request, b"", kind="text/plain")


def wake_up(server: Server, connection: Connection, request: HttpRequest) -> None:
    """POST /wake_up: take requests again."""
    server.asleep = False
    server.send(connection, request, b"", kind="text/plain")


def is_sleeping(server: Server, connection: Connection, request: HttpRequest) -> None:
    """GET /is_sleeping: whether the server sleeps."""
    server.send(connection, request, {"is_sleeping": server.asleep})


def routes(api: ApiName) -> Table:
    """All routes of an API.

    Parameters
    ----------
    api : "openai" has the routes of vLLM, "sglang" those of SGLang
    """
    table: Table = {
        ("POST", "/v1/chat/completions"): (chat, False),
        ("POST", "/v1/completions"): (completion, False),
        ("POST", "/v1/responses"): (response, False),
        ("POST", "/v1/messages"): (message, False),
        ("POST", "/v1/messages/count_tokens"): (count_tokens, False),
        ("GET", "/v1/models"): (models, False),
        ("POST", "/tokenize"): (tokenize, False),
        ("POST", "/detokenize"): (detokenize, False),
        ("GET", "/health"): (health, True),
        ("GET", "/ping"): (health, True),
        ("POST", "/ping"): (health, True),
        ("GET", "/version"): (version, True),
        ("GET", "/load"): (load, True),
        ("GET", "/metrics"): (metrics, True),
        ("GET", "/openapi.json"): (openapi, True),
        ("GET", "/live"): (live, True),
        ("GET", "/live/events"): (live_events, False),
        ("GET", "/admin/faults"): (show_faults, True),
        ("POST", "/admin/faults"): (add_faults, True),
        ("DELETE", "/admin/faults"): (repair_faults, True),
    }
    if api == "openai":
        table |= {
            ("POST", "/sleep"): (sleep, False),
            ("POST", "/wake_up"): (wake_up, False),
            ("GET", "/is_sleeping"): (is_sleeping, False),
        }
    if api == "sglang":
        table |= {
            ("POST", "/generate"): (generate_text, False),
            ("GET", "/health_generate"): (health, True),
            ("GET", "/get_model_info"): (model_info, False),
            ("GET", "/get_server_info"): (server_info, False),
            ("GET", "/flush_cache"): (flush_cache, False),
            ("POST", "/flush_cache"): (flush_cache, False),
        }
    return table
