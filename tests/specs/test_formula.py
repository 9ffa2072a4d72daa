"""Formulas of the table of architectures: what they can say, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from tokenworks.errors import SpecError
from tokenworks.specs.hf.config import Fields
from tokenworks.specs.hf.formula import compiled, names_in
from tokenworks.specs.hf.scope import Scope

CONFIG = {"a": 3, "b": 4, "none": None, "list": [1, 2, 3], "inner": {"c": 5}, "on": True, "word": "x"}


def scope(**names: Any) -> Scope:
    return Scope(Fields(CONFIG, "config.json", {"d": 9}), names)


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("a + 2 * b", 11), ("inner.c", 5), ("list[1]", 2), ("a | b", 3), ("none | b", 4), ("absent | b", 4),
        ("absent | 7", 7), ("d | 1", 9), ("d | b", 4), ("absent | none | 2", 2), ("7 if on else 8", 7),
        ("7 if absent else 8", 8), ("not absent", True), ("a == 3 and b > 3", True), ("word in ('x', 'y')", True),
        ("none == nothing", True), ("ceil(a / 2)", 2), ("ceil(a, 2)", 4), ("max(a, b)", 4), ("len(list)", 3),
        ("{'x': 1, 'y': 2}[word]", 1), ("count(list, 2)", 1), ("-a", -3), ("a ** 2 // 2", 4), ("first(list)", 1),
    ],
)  # fmt: skip
def test_values(formula: str, value: Any) -> None:
    assert scope().value(formula) == value


@pytest.mark.parametrize(
    "formula",
    [
        "__import__('os')",
        "lambda: 1",
        "[x for x in list]",
        "a.__class__()",
        "a if",
        "print(a)",
        "f'{a}'",
        "a @ b",
        "~a",
    ],
)
def test_what_is_no_formula(formula: str) -> None:
    with pytest.raises(SpecError, match="is not a formula"):
        compiled(formula)


def test_a_name_of_the_table_may_be_the_name_of_a_field() -> None:
    assert scope(a="a + 1").value("a") == 4
    assert scope(e="a * f", f="b - 1").value("e") == 9
    assert names_in("a + inner.c") == {"a", "inner"}


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        ("absent", ["absent", "missing"]),
        ("absent | gone", ["absent or gone", "missing"]),
        ("a + absent", ["absent", "missing"]),
        ("a + word", ["word", "want a number", "'x'"]),
        ("a + on", ["on", "want a number", "True"]),
        ("inner.gone + 1", ["inner.gone", "missing"]),
        ("a // (b - 4)", ["cannot be used"]),
        ("{'y': 1}[word]", ["word", "'x' is not known", "known: y"]),
        ("a - 5", ["-2 is not between 1 and"]),
    ],
)
def test_errors_name_the_field(formula: str, words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        scope().whole(formula)
    assert all(word in str(caught.value) for word in ("config.json", *words)), str(caught.value)


def test_a_list_for_the_layers_has_one_entry_a_layer() -> None:
    named = scope()
    named.lengths = 4, 4
    named.set("i", 0)
    with pytest.raises(SpecError, match=r"list: want a list of 4 entries, one a layer, got 3 entries"):
        named.value("list[i]")
