"""The description of the API at /openapi.json. It is made of the types that check the requests, and of the routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

JSON, TEXT, EVENTS = "application/json", "text/plain", "text/event-stream"
KINDS: dict[str, tuple[str, ...]] = {
    "/v1/chat/completions": (JSON, EVENTS), "/v1/completions": (JSON, EVENTS), "/v1/responses": (JSON, EVENTS),
    "/v1/messages": (JSON, EVENTS), "/generate": (JSON, EVENTS), "/live/events": (EVENTS,), "/live": ("text/html",),
    "/health": (TEXT,), "/ping": (TEXT,), "/health_generate": (TEXT,), "/metrics": (TEXT,), "/sleep": (TEXT,),
    "/wake_up": (TEXT,), "/flush_cache": (TEXT,),
}  # fmt: skip
"""Content types of answers; JSON for all other routes."""
REFUSED = {
    "400": "Wrong request", "401": "The API key is missing or wrong", "403": "Only for this computer",
    "404": "No such model", "413": "The body is too long", "422": "Wrong type in the body",
    "429": "Too many requests are in flight", "500": "The engine lost the request",
    "503": "The server is not ready, or a queue is full",
}  # fmt: skip
"""Statuses of errors, and when they come."""
REFERENCE = "#/components/schemas/{name}"


class OpenaiErrorDetail(msgspec.Struct):
    """What is wrong, in OpenAI's form."""

    message: str
    type: str
    param: str | None
    code: int


class OpenaiError(msgspec.Struct):
    """An error in OpenAI's form."""

    error: OpenaiErrorDetail


class AnthropicErrorDetail(msgspec.Struct):
    """What is wrong, in Anthropic's form."""

    type: str
    message: str


class AnthropicError(msgspec.Struct):
    """An error in Anthropic's form."""

    type: str
    error: AnthropicErrorDetail


def document(
    routes: Mapping[tuple[str, str], tuple[Callable[..., None], bool]],
    bodies: Mapping[Any, type[Any]],
    version: str,
) -> dict[str, Any]:
    """The description of all routes, in the form of OpenAPI 3.1.

    Parameters
    ----------
    routes : method and path -> what answers, and whether it needs no key
    bodies : what answers -> the body that it takes
    version : version of tokenworks
    """
    types = [OpenaiError, AnthropicError, *dict.fromkeys(bodies.values())]
    schemas, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    known = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), (answer, is_open) in routes.items():
        error = known[AnthropicError if path.startswith("/v1/messages") else OpenaiError]
        one: dict[str, Any] = {
            "summary": (answer.__doc__ or "").partition(": ")[2].partition(".")[0],
            "operationId": f"{answer.__name__}_{method.lower()}_{path.strip('/').replace('/', '_').replace('.', '_')}",
            "responses": {"200": _answer("The answer", {kind: {} for kind in KINDS.get(path, (JSON,))})}
            | {status: _answer(text, {JSON: {"schema": error}}) for status, text in REFUSED.items()},
            "security": [] if is_open else [{"bearer": []}, {"key": []}],
        }  # fmt: skip
        if answer in bodies:
            one["requestBody"] = {"required": True, "content": {JSON: {"schema": known[bodies[answer]]}}}
        paths.setdefault(path, {})[method.lower()] = one
    return {
        "openapi": "3.1.0",
        "info": {"title": "tokenworks serve", "version": version or "0", "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _answer(text: str, content: dict[str, Any]) -> dict[str, Any]:
    """An answer: what it is, and its content by type."""
    return {"description": text, "content": content}
