"""A number keeps its value, status and source, and refuses to be half of it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tokenworks.specs.provenance import ByteRate, Fact, Number, Quantity

RATE = TypeAdapter(ByteRate)


def test_reads_value_with_unit_and_keeps_it_as_written() -> None:
    rate = RATE.validate_python({"value": "2.0 TB/s", "status": "derived", "source": "80 TB/s / 40"})
    assert (rate.value, rate.written, rate.unit, rate.assumed) == (2.0e12, "2.0 TB/s", "byte/s", False)


def test_null_is_a_null_and_still_knows_its_unit() -> None:
    rate = RATE.validate_python({"value": None, "status": "not-published"})
    assert (rate.value, rate.written, rate.unit) == (None, "", "byte/s")


@pytest.mark.parametrize("status", ["assumed", "unverified"])
def test_outputs_must_name_what_is_assumed(status: Any) -> None:
    assert Quantity(value=1.0, status=status, source="a guess").assumed


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"value": None, "status": "published", "source": "x"}, "not-published, and only with it"),
        ({"value": "1 GB/s", "status": "not-published"}, "not-published, and only with it"),
        ({"value": "1 GB/s", "status": "published"}, "needs a source"),
        ({"value": "1 GB", "status": "published", "source": "x"}, "is a size, not a rate"),
        ({"value": True, "status": "published", "source": "x"}, "True is not a number"),
        ({"value": ["1 GB/s"], "status": "published", "source": "x"}, "is not a number"),
        ({"value": "1 GB/s", "status": "published", "source": "x", "written": "2 GB/s"}, "unknown key 'written'"),
        ({"status": "published", "source": "x"}, "Field required"),
        ({"value": "1 GB/s", "status": "publishd", "source": "x"}, "Input should be"),
        ("1 GB", "is a size, not a rate"),
        (["1 GB/s"], "valid dictionary"),
        (True, "valid dictionary"),
    ],
)
def test_half_a_number_is_refused(raw: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RATE.validate_python(raw)


def test_a_plain_text_is_an_assumed_number() -> None:
    rate = RATE.validate_python("2.0 TB/s")
    assert (rate.value, rate.status, rate.source, rate.written) == (2.0e12, "assumed", "given by the user", "2.0 TB/s")
    assert RATE.validate_python(None).status == "not-published"


def test_plain_number_needs_no_unit() -> None:
    assert TypeAdapter(Number).validate_python({"value": 0.9999, "status": "published", "source": "x"}).value == 0.9999


def test_fact_is_text() -> None:
    assert Fact.model_validate({"value": 4, "status": "published", "source": "x"}).value == "4"
