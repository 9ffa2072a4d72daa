"""Service level objectives: bounds on TTFT and mean TPOT at a percentile of requests, for all requests or a class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tokenworks import units
from tokenworks.errors import SpecError

_TERM = re.compile(r"(?P<name>ttft|tpot)(?:\.p(?P<percentile>\d{1,2}(?:\.\d+)?))?=(?P<value>.+)")
PERCENTILE = 99.0
EXAMPLES = {"ttft": "ttft=2s", "tpot": "tpot=50ms"}
CLASSES = PRIORITIES = 8
CLASS_NAME = r"[A-Za-z0-9_-]{1,64}"


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound: `percentile` percent of the requests have at most `value` [s]."""

    value: float
    percentile: float = PERCENTILE


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds on TTFT and mean TPOT; None = no bound. Tokens of a request are effective if the request keeps both."""

    ttft: Bound | None = None
    tpot: Bound | None = None

    @classmethod
    def of(cls, slo: SloLike) -> Slo:
        """An SLO as text, as a dict of bounds such as {"ttft": "2s", "tpot.p50": "50ms"}, or as it is.

        Raises
        ------
        SpecError : a bound that cannot be read
        """
        if isinstance(slo, Slo):
            return slo
        if isinstance(slo, str):
            return cls.parse(slo)
        return cls.parse(",".join(f"{name}={value}" for name, value in slo.items()), where="slo")

    @classmethod
    def parse(cls, text: str, *, where: str = "--slo") -> Slo:
        """Read an SLO.

        Parameters
        ----------
        text : such as `ttft=2s,tpot=50ms` or `ttft.p50=1s`; an empty text has no bounds
        where : place of the text, for error messages

        Raises
        ------
        SpecError : a text that cannot be read
        """
        bounds: dict[str, Bound] = {}
        for term in (part.strip() for part in text.split(",")) if text.strip() else ():
            match = _TERM.fullmatch(term)
            if match is None:
                raise SpecError(f"cannot read {term!r}", where=where, hint='write it like "ttft=2s,tpot=50ms"')
            if match["name"] in bounds:
                raise SpecError(f"{match['name']} has two bounds", where=where, hint="keep one of them")
            name = match["name"]
            value = units.parse(match["value"], "s", where=f"{where} {name}", example=EXAMPLES[name])
            percentile = float(match["percentile"] or PERCENTILE)
            if value <= 0:
                raise SpecError(f"{term!r} must be above zero", where=where, hint='write it like "ttft.p50=2s"')
            if not 0 < percentile < 100:
                hint = 'a percentile is above 0 and below 100, as in "ttft.p99.9=2s"'
                raise SpecError(f"{term!r} has no valid percentile", where=where, hint=hint)
            bounds[match["name"]] = Bound(value, percentile)
        return cls(**bounds)

    def __str__(self) -> str:
        terms = [
            f"{name}{'' if bound.percentile == PERCENTILE else f'.p{bound.percentile:g}'}={_time(bound.value)}"
            for name, bound in (("ttft", self.ttft), ("tpot", self.tpot))
            if bound
        ]
        return ",".join(terms)


SloLike = str | Mapping[str, str] | Slo
"""What gives an SLO: text such as "ttft=2s,tpot=50ms", a dict of bounds, or an `Slo`."""


@dataclass(frozen=True, slots=True)
class RequestClass:
    """A class of requests with its own priority and SLO.

    Parameters
    ----------
    name : name of the class
    priority : 0 is served first, 7 last
    slo : SLO of the class; None = the SLO of all requests
    """

    name: str
    priority: int = 0
    slo: Slo | None = None

    @classmethod
    def parse(cls, text: str, *, where: str = "--class") -> RequestClass:
        """Read a class: a name, a priority (0 if it is not given) and bounds as in an SLO.

        Parameters
        ----------
        text : such as `batch:priority=1,ttft=60s`
        where : place of the text, for error messages

        Raises
        ------
        SpecError : a text that cannot be read
        """
        name, _, rest = text.partition(":")
        if not re.fullmatch(CLASS_NAME, name):
            raise SpecError(f"cannot read {text!r}", where=where, hint='write it like "batch:priority=1,ttft=60s"')
        terms = [term.strip() for term in rest.split(",") if term.strip()]
        priorities = [term.partition("=")[2] for term in terms if term.startswith("priority=")]
        if len(priorities) > 1 or not all(value.isdecimal() and int(value) < PRIORITIES for value in priorities):
            hint = f"give one priority, 0 (served first) to {PRIORITIES - 1}"
            raise SpecError("the priority cannot be read", where=f"{where} {name}", hint=hint)
        bounds = ",".join(term for term in terms if not term.startswith("priority="))
        slo = Slo.parse(bounds, where=f"{where} {name}") if bounds else None
        return cls(name, int(priorities[0]) if priorities else 0, slo)


def _time(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1e3:g}ms"
