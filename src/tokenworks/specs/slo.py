"""The promise to a user: bounds on TTFT and mean TPOT at a percentile of requests."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenworks import units
from tokenworks.errors import SpecError

_TERM = re.compile(r"(?P<name>ttft|tpot)(?:\.p(?P<percentile>\d{1,2}(?:\.\d+)?))?=(?P<value>.+)")
PERCENTILE = 99.0


@dataclass(frozen=True, slots=True)
class Bound:
    """`value` [s] holds for `percentile` percent of requests."""

    value: float
    percentile: float = PERCENTILE


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds that both must hold for a token to be effective; None = unbounded."""

    ttft: Bound | None = None
    tpot: Bound | None = None

    @classmethod
    def parse(cls, text: str, *, where: str = "--slo") -> Slo:
        """Read `ttft=2s,tpot=50ms` or `ttft.p50=1s`; an empty text binds nothing."""
        bounds: dict[str, Bound] = {}
        for term in (part.strip() for part in text.split(",")) if text.strip() else ():
            match = _TERM.fullmatch(term)
            if match is None:
                raise SpecError(f"cannot read {term!r}", where=where, hint='write it like "ttft=2s,tpot=50ms"')
            if match["name"] in bounds:
                raise SpecError(f"{match['name']} is bound twice", where=where, hint="keep one")
            value = units.parse(match["value"], "s", where=f"{where} {match['name']}")
            percentile = float(match["percentile"] or PERCENTILE)
            if value <= 0 or percentile <= 0:
                raise SpecError(f"{term!r} must be above zero", where=where, hint='write it like "ttft.p50=2s"')
            bounds[match["name"]] = Bound(value, percentile)
        return cls(**bounds)

    def __str__(self) -> str:
        terms = [
            f"{name}{'' if bound.percentile == PERCENTILE else f'.p{bound.percentile:g}'}={_time(bound.value)}"
            for name, bound in (("ttft", self.ttft), ("tpot", self.tpot))
            if bound
        ]
        return ",".join(terms)


def _time(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1e3:g}ms"
