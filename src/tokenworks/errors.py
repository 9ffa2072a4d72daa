"""Every error that a user can meet, as one tree; the command line turns each into words and an exit code.

TokenworksError            1  something went wrong inside
├── SpecError              2  bad input: what is wrong, where, and what would be right
│   └── UnknownName        2  a name that no catalog holds, with the nearest ones
├── DoesNotFit             3  physically impossible: what does not fit, by how much, what would
└── SloMissed              4  nothing meets the SLO: the nearest point and what binds it
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_SHOWN = 8
_LONG = re.compile(r"[0-9][0-9,]{39,}")  # a number that nobody reads to its end


def _in_short(text: str) -> str:
    return _LONG.sub(lambda found: f"{found[0][:12]}... ({len(found[0].replace(',', ''))} digits)", text)


class TokenworksError(Exception):
    """Root of the tree; `exit_code` is what the command line returns."""

    exit_code = 1

    def __str__(self) -> str:
        return _in_short(super().__str__())


class SpecError(TokenworksError):
    """Bad input. `where` names the file and path of the value; `hint` says what would be right."""

    exit_code = 2

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        self.message, self.where, self.hint = message, where, hint
        super().__init__(f"{where}: {message}" if where else message)

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}; {_in_short(self.hint)}" if self.hint else text


class UnknownName(SpecError):
    """A name that is in no catalog."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        names = list(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        close = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names[:_SHOWN])}"
        if not near and len(names) > _SHOWN:
            close += f" and {len(names) - _SHOWN} more (`tokenworks {kind}s`)"
        super().__init__(f"unknown {kind} {name!r}", hint="; ".join(x for x in (hint, close) if x))


class DoesNotFit(TokenworksError):
    """A model that a machine cannot hold. The message says by how much and what would hold it."""

    exit_code = 3


class SloMissed(TokenworksError):
    """No deployment meets the SLO. The message names the nearest point and what binds it."""

    exit_code = 4
