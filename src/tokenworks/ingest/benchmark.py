"""What a client's benchmark measured, as plain data: one load on a server, and what came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import msgspec

from tokenworks.errors import SpecError
from tokenworks.ingest.rows import UNDECODABLE

Arrivals = Literal["at once", "poisson", "constant"]
Item = TypeVar("Item")

LEAST, MOST = 1e-9, 1e15
Number = Annotated[float, msgspec.Meta(ge=-MOST, le=MOST)]
Deviation = Annotated[float, msgspec.Meta(ge=0, le=MOST)]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of the prompts, or of the answers: mean [token], and variation, std / mean [-]; None where it is not recorded."""

    mean: float
    variation: float | None


@dataclass(frozen=True, slots=True)
class Time:
    """Over requests [s]: the median, or the mean where there is no median."""

    seconds: float
    mean: bool = False


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One load and its outcome.

    name : of the point, in its file; arrivals : how requests came; rate : of Poisson or constant ones [1/s], else 0
    concurrency : most requests in flight, None = no limit; requests : that completed
    isl, osl : lengths; ttft : time to the first token; tpot : time per output token after it, mean of each request
    tokens_per_s : input and output tokens of completed requests over the duration [token/s]
    """

    name: str
    arrivals: Arrivals
    rate: float
    concurrency: int | None
    requests: int
    isl: Lengths
    osl: Lengths
    ttft: Time | None
    tpot: Time | None
    tokens_per_s: float


def decode(data: bytes, kind: type[Item], form: str, where: str) -> Item:
    """The fields of `kind` out of a JSON document; an error names the path and what is there."""
    try:
        return msgspec.json.decode(data, type=kind)
    except UNDECODABLE as error:
        text, _, path = str(error).partition(" - at `$")
        place = f"{where}: {path.strip('`').lstrip('.')}" if path else where
        raise SpecError(f"{text[:1].lower()}{text[1:]}", where=place, hint=f"this is no complete {form}") from None


def above_zero(value: float, path: str, where: str) -> float:
    """A number that must be there, of a size that something measured can have."""
    if not LEAST <= value <= MOST:
        raise SpecError(f"{value:g} must be above zero, and at most {MOST:g}", where=f"{where}: {path}")
    return value


def none_failed(failed: int, completed: int, where: str) -> None:
    """A run whose requests failed had another load than it says."""
    if failed:
        hint = "measure again without errors: what failed was no load"
        raise SpecError(f"{failed} of {failed + completed} requests failed", where=where, hint=hint)
    if completed < 1:
        raise SpecError("no request completed", where=where)


def time_of(median_ms: float | None, mean_ms: float | None, path: str, where: str) -> Time | None:
    """From milliseconds; the median if it is there. A zero is what clients write where there was nothing to measure."""
    value = mean_ms if median_ms is None else median_ms
    return None if not value else Time(1e-3 * above_zero(value, path, where), mean=median_ms is None)
