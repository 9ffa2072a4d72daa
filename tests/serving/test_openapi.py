"""/openapi.json describes what the server does: what the description forbids, the server refuses."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.serving.client import ask, get, post
from tests.serving.conftest import Endpoint
from tests.serving.test_fuzz import GOOD, VALUES
from tokenworks.serving.openapi import EVENTS
from tokenworks.serving.routes import BODIES, routes

TRIES = int(os.environ.get("FUZZ_CASES", "60"))


@pytest.fixture(scope="module")
def described(endpoint: Endpoint) -> Any:
    response = ask(endpoint, get("/openapi.json"))
    assert response.status == 200
    return response.json


def schema_of(described: Any, path: str) -> dict[str, Any]:
    """The schema of the body of a route, with all components."""
    own = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return {**own, "components": described["components"]}


def test_all_routes_are_described(described: Any, guarded: Endpoint) -> None:
    assert described["openapi"] == "3.1.0"
    other = ask(guarded, get("/openapi.json")).json
    for api, document in (("openai", described), ("sglang", other)):
        table = routes(api)  # type: ignore[arg-type]
        operations = {
            (method.upper(), path): one for path, own in document["paths"].items() for method, one in own.items()
        }
        assert set(operations) == set(table)
        assert len({one["operationId"] for one in operations.values()}) == len(operations)
        for key, (answer, is_open) in table.items():
            one = operations[key]
            assert one["summary"], key
            assert bool(one["security"]) != is_open
            assert ("requestBody" in one) == (answer in BODIES)
        for path, good in GOOD:
            Draft202012Validator(schema_of(described, path)).validate(good)
    Draft202012Validator.check_schema(described["components"]["schemas"]["ChatBody"])


def test_answers_have_the_types_that_are_described(described: Any, endpoint: Endpoint) -> None:
    for path, good in GOOD:
        for stream in (False, True):
            body = {**good, "stream": stream}
            kinds = described["paths"][path]["post"]["responses"]["200"]["content"]
            response = ask(endpoint, post(path, body))
            kind = response.headers["content-type"].partition(";")[0]
            assert kind in kinds
            assert (kind == EVENTS) == (stream and EVENTS in kinds)
        wrong = ask(endpoint, post(path, b"{"))
        error = described["paths"][path]["post"]["responses"][str(wrong.status)]["content"]["application/json"][
            "schema"
        ]
        Draft202012Validator({**error, "components": described["components"]}).validate(wrong.json)
    for path, own in described["paths"].items():
        if "get" in own and path not in {"/live/events", "/is_sleeping"}:
            response = ask(endpoint, get(path))
            assert response.headers["content-type"].partition(";")[0] in own["get"]["responses"]["200"]["content"], path


@settings(max_examples=TRIES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_is_forbidden_is_refused(described: Any, endpoint: Endpoint, data: st.DataObject) -> None:
    path, good = data.draw(st.sampled_from(GOOD))
    body = {**good, data.draw(st.sampled_from([*good, "stream", "model", "stream_options"])): data.draw(VALUES)}
    if Draft202012Validator(schema_of(described, path)).is_valid(body):
        return
    response = ask(endpoint, post(path, json.dumps(body).encode()))
    assert response.status in {400, 413}, (path, body)
