"""The tree of all errors that a user can see. The command line prints the message and returns the exit code.

TokenworksError            1  internal error
├── SpecError              2  bad input: what is wrong, where, and how to correct it
│   ├── UnknownName        2  a name that is not in the catalog, with the nearest names
│   └── NoPrediction       2  a machine that no prediction is possible for
│       └── NotPublished   2  a number that a prediction needs is not published: the user has to give one
├── DoesNotFit             3  not enough memory: what does not fit, by how much, and what fits
└── SloMissed              4  nothing meets the SLO: the nearest deployment, and its limit
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

_SHOWN = 8  # names in a message [count]
_LISTS = {
    "system": "systems",
    "model": "models",
    "workload": "catalog workloads",
    "calibration": "catalog calibrations",
    "engine": "catalog engines",
    "network": "catalog networks",
    "device": "catalog devices",
    "failure rates": "catalog reliability",
    "price list": "catalog prices",
    "API price": "catalog prices api",
}
"""Kind of a name -> command that lists all names of this kind."""

_LONG = re.compile(r"[0-9][0-9,]{39,}")  # numbers that are shortened in messages


def _in_short(text: str) -> str:
    """The text with long numbers shortened."""
    return _LONG.sub(lambda match: f"{match[0][:12]}... ({len(match[0].replace(',', ''))} digits)", text)


class TokenworksError(Exception):
    """Root of the tree. The command line returns `exit_code`."""

    exit_code = 1

    def __str__(self) -> str:
        return _in_short(super().__str__())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error as it is: a class below may have other arguments than `args`."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[TokenworksError], args: tuple[Any, ...], state: dict[str, Any]) -> TokenworksError:
    """An error from another process."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class SpecError(TokenworksError):
    """Bad input.

    Parameters
    ----------
    message : what is wrong
    where : file and path of the value, or the option
    hint : how to correct it
    """

    exit_code = 2

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        self.message, self.where, self.hint = message, where, hint
        super().__init__(f"{where}: {message}" if where else message)

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}; {_in_short(self.hint)}" if self.hint else text


class UnknownName(SpecError):
    """A name that is not in the catalog. The message names the nearest known names.

    Parameters
    ----------
    kind : kind of the name, such as device
    name : the unknown name
    known : all known names
    hint : how to correct it
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        names = list(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        shown = _SHOWN if kind in _LISTS else len(names)
        close = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names[:shown])}"
        if not near and len(names) > shown:
            close += f" and {len(names) - shown} more (`tokenworks {_LISTS[kind]}`)"
        super().__init__(f"unknown {kind} {name!r}", hint="; ".join(x for x in (hint, close) if x))


class NoPrediction(SpecError):
    """A machine that no prediction is possible for. A comparison lists it without a value."""


class NotPublished(NoPrediction):
    """A number that a prediction needs is not published, and the user gave none."""


class DoesNotFit(TokenworksError):
    """A model does not fit a machine, or a machine does not fit a room. The message says by how much, and what fits."""

    exit_code = 3


class SloMissed(TokenworksError):
    """No deployment meets the SLO. The message names the nearest deployment, and what limits it."""

    exit_code = 4
