"""What a command prints as JSON, held against the schema of its kind; tests that read JSON read it by this."""

import functools
import json
from typing import Any

from jsonschema import Draft202012Validator

from tokenworks.results import path_of


def result(text: str) -> Any:
    """The one object of an output, in its envelope and without a key that its schema does not name."""
    found = json.loads(text)
    first, second, third, *_, last = found
    assert (first, second, third, last) == ("schema", "kind", "inputs", "wall")
    errors = [f"{error.json_path}: {error.message[:200]}" for error in _validator(found["kind"]).iter_errors(found)]
    assert not errors, errors
    return found


@functools.cache
def _validator(kind: str) -> Draft202012Validator:
    schema = json.loads(path_of(kind).read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(_closed(schema))


def _closed(schema: Any) -> Any:
    """The schema without room for further keys: users are told that kinds may grow, tests that keys are documented."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _closed(item) for key, item in schema.items()}
    return {"additionalProperties": False} | made if isinstance(schema.get("properties"), dict) else made
