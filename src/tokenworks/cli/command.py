"""The command line that runs, for results that print the command behind them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextvars import ContextVar

_WORDS: ContextVar[tuple[str, ...]] = ContextVar("words", default=())
"""Words of the command line that runs."""

_OF_A_FILE = ("-o", "--output", "--out", "--lang")
"""Options that say where a result goes and how it looks. They do not change its numbers."""


def remember(words: Sequence[str]) -> None:
    """Keep the words of the command line, for results that print their own command."""
    _WORDS.set(tuple(words))


def command() -> str:
    """The command that runs, as a shell reads it, without the options that say where the result goes."""
    kept, words = ["tokenworks"], iter(_WORDS.get())
    for word in words:
        if word in _OF_A_FILE:
            next(words, None)
        elif not word.startswith(tuple(f"{name}=" for name in _OF_A_FILE)):
            kept.append(word)
    return shlex.join(kept)
