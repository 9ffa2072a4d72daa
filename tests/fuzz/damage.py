"""Good files, and ways to damage them."""

from __future__ import annotations

import copy
import json
import math
import os
import re
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

CASES = int(os.environ.get("FUZZ_CASES", "0"))
"""Damaged files or commands that each test tries; 0 for the short, always equal run of `make test`."""


def tries(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`count` cases in `make test`, always the same ones; FUZZ_CASES new ones where that is set."""
    return settings(
        max_examples=CASES or count, derandomize=not CASES, database=None, deadline=None,
        suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip


VALUES: list[Any] = [
    0, 1, -1, 2, 7, 64, 1_000_000, 2**31, 2**63, 2**64, 10**30, -(10**30), 10**400, 0.5, -0.5, 1e-12, 1e-300, 1e12,
    1e300, math.nan, math.inf, -math.inf, True, False, None, "", " ", "x", "0", "1e9", "nan", "-1 GB/s", "80 GB",
    "80 GB/s", "1e400 GB", "5 parsec", "h100", "hgx-h100", "../x", "a\x00b", "\x1b[31mred", "\u202egnirts", "[bold]x",
    "[/]", "é" * 40, "x" * 3000, [], [[]], [0], ["x"], [None], [1, 2, 3], {}, {"value": None},
    {"value": 1, "status": "assumed"},
    {"value": "1 GB/s", "status": "measured", "source": "x"}, {"x": {"x": {"x": []}}}, "2024-01-01", "yes", "~", "<<",
]  # fmt: skip
LINES = [
    "&a [*a]", "*a", "<<: {a: 1}", "!!python/object:os.system {}", "- ", "? x", "{", "]", "'", '"', "\t", "%YAML 9.9",
    "---", "...", "x: " + "[" * 400, "0x", "1_0", "!!binary x", "!!timestamp 9999-99-99", "\x85", "\ufeff", "1: 2",
]  # fmt: skip


def _places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values inside `data`."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    inside = [place for key, value in items for place in _places(value, (*path, key))]
    return [path, *inside] if path else inside


def _value_at(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


def _scaled(value: Any, factor: float) -> Any:
    """A number, or the number that a text such as `3.35 TB/s` begins with, times `factor`."""
    if isinstance(value, (int, float)):
        return value * factor if abs(value) < 1e200 else factor
    number = re.match(r"[0-9.]+(?= )", value) if isinstance(value, str) else None
    return f"{float(number[0]) * factor:g}{value[number.end() :]}" if number else value


@st.composite
def damaged(draw: st.DrawFn, good: Any) -> Any:
    """`good` with up to five values replaced, removed, moved or added; what is left need not be of any use."""
    data = copy.deepcopy(good)
    for _ in range(draw(st.sampled_from([1, 1, 1, 1, 2, 2, 3, 5]))):
        places = _places(data)
        if not places:
            break
        *head, key = draw(st.sampled_from(places))
        holder = _value_at(data, tuple(head))
        how = draw(st.sampled_from(["scale", "scale", "scale", "replace", "replace", "remove", "add", "wrap", "copy"]))
        if how == "replace":
            holder[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif how == "remove":
            del holder[key]
        elif how == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["x", "", "name", "value", 1, None, True, "parallel", "peak"]))] = 1
        elif how == "scale":
            holder[key] = _scaled(
                holder[key], draw(st.sampled_from([-1, 0, 1.01, 2, 3, 7, 0.5, 64, 1e9, 1e-9, 10**25]))
            )
        elif how == "wrap":
            holder[key] = draw(st.sampled_from([[holder[key]], {"value": holder[key]}, str(holder[key])]))
        elif how == "copy":
            holder[key] = copy.deepcopy(_value_at(data, draw(st.sampled_from(places))))
    return data


@st.composite
def damaged_text(draw: st.DrawFn, text: str) -> str:
    """`text` with up to three pieces cut out, doubled or put in."""
    for _ in range(draw(st.integers(0, 3))):
        low, high = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        how = draw(st.sampled_from(["cut", "end", "put", "put", "double"]))
        if how == "cut":
            text = text[:low] + text[min(high, low + 60) :]
        elif how == "end":
            text = text[:high]
        elif how == "put":
            text = text[:low] + draw(st.sampled_from(LINES)) + text[low:]
        else:
            text = text[:high] + text[low : low + 60] + text[high:]
    return text


@st.composite
def _mostly(draw: st.DrawFn, by_value: st.SearchStrategy[str], text: str) -> str:
    """One case in eight is damaged in its text: most of these are refused before a value is looked at."""
    return draw(damaged_text(text) if draw(st.integers(0, 7)) == 0 else by_value)


def damaged_yaml(text: str) -> st.SearchStrategy[str]:
    """Damaged YAML: by its values mostly, else by its text."""
    values = damaged(yaml.safe_load(text)).map(lambda data: yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    return _mostly(values, text)


def damaged_json(text: str) -> st.SearchStrategy[str]:
    """Damaged JSON: by its values mostly, else by its text."""
    return _mostly(damaged(json.loads(text)).map(json.dumps), text)


@st.composite
def damaged_csv(draw: st.DrawFn, text: str) -> str:
    """Damaged CSV: cells, columns, then its text."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(draw(st.integers(0, 4))):
        row = draw(st.sampled_from(rows))
        column = draw(st.integers(0, len(row) - 1))
        value = draw(st.sampled_from(VALUES))
        row[column] = str(value) if not isinstance(value, int) or abs(value) < 2**1000 else "9" * 400
    text = "\n".join(",".join(row) for row in rows) + "\n"
    return draw(damaged_text(text)) if draw(st.integers(0, 3)) == 0 else text
