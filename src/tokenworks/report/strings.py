"""All texts of the pages, in English and in Chinese. `files/strings.yaml` is the table of the texts."""

from __future__ import annotations

import functools
from typing import Literal

import yaml

from tokenworks.report.scripts import file_text

Lang = Literal["en", "zh"]

SCRIPT = "js_"
"""Beginning of the names of texts that the script of the page fills in."""


@functools.cache
def strings(lang: Lang) -> dict[str, str]:
    """All texts of a language by name."""
    table: dict[str, dict[str, str]] = yaml.safe_load(file_text("strings.yaml"))
    return {name: texts[lang] for name, texts in table.items()}


def script_strings(lang: Lang) -> dict[str, str]:
    """Texts that the script of the page fills in, without the beginning of their names."""
    return {name.removeprefix(SCRIPT): text for name, text in strings(lang).items() if name.startswith(SCRIPT)}


def filled(text: str, **values: str) -> str:
    """A text with its fields filled. A brace in a value stays as it is."""
    return text.format(**values)
