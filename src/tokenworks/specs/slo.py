"""The promise to a user: bounds on TTFT and mean TPOT at a percentile of requests."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenworks import units
from tokenworks.errors import SpecError

_TERM = re.compile(r"(?P<name>ttft|tpot)(?:\.p(?P<percentile>\d{1,2}(?:\.\d+)?))?=(?P<value>.+)")


@dataclass(frozen=True, slots=True)
class Bound:
    """`value` [s] holds for `percentile` percent of requests."""

    value: float
    percentile: float = 99.0


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds that both must hold for a token to be effective; None = unbounded."""

    ttft: Bound | None = None
    tpot: Bound | None = None

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Read `ttft=2s,tpot=50ms` or `ttft.p50=1s`."""
        bounds: dict[str, Bound] = {}
        for term in filter(None, (part.strip() for part in text.split(","))):
            match = _TERM.fullmatch(term)
            if match is None:
                raise SpecError(f"cannot read {term!r}", where="--slo", hint='write it like "ttft=2s,tpot=50ms"')
            if match["name"] in bounds:
                raise SpecError(f"{match['name']} is bound twice", where="--slo")
            value = units.parse(match["value"], "s", where=f"--slo {match['name']}")
            percentile = float(match["percentile"] or 99.0)
            if value <= 0:
                raise SpecError(f"{match['name']} must be above zero", where="--slo")
            bounds[match["name"]] = Bound(value, percentile)
        return cls(**bounds)
