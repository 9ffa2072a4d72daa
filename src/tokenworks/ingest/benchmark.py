"""A benchmark of a client as plain data: one load on a server, and the measured result."""

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
    """Lengths of prompts, or of answers.

    Parameters
    ----------
    mean : mean length [token]
    variation : standard deviation / mean; None if the file does not have it [-]
    """

    mean: float
    variation: float | None


@dataclass(frozen=True, slots=True)
class Time:
    """A time over all requests.

    Parameters
    ----------
    seconds : the median, or the mean if there is no median [s]
    mean : True if `seconds` is the mean
    """

    seconds: float
    mean: bool = False


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One load and its result.

    Parameters
    ----------
    name : name of the point: its file, and the load if a file has several
    arrivals : arrival process of the requests
    rate : rate of Poisson or constant arrivals; else 0 [1/s]
    concurrency : most requests in flight; None = no limit [count]
    requests : completed requests [count]
    isl, osl : lengths of prompts and answers
    ttft : time to first token
    tpot : time per output token after the first, mean of each request
    tokens_per_s : input and output tokens of completed requests / duration [token/s]
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
    """The fields of `kind` from a JSON document. An error names the path and the wrong value."""
    try:
        return msgspec.json.decode(data, type=kind)
    except UNDECODABLE as error:
        text, _, path = str(error).partition(" - at `$")
        place = f"{where}: {path.strip('`').lstrip('.')}" if path else where
        raise SpecError(f"{text[:1].lower()}{text[1:]}", where=place, hint=f"this is no complete {form}") from None


def above_zero(value: float, path: str, where: str) -> float:
    """The value, if a measurement can have it; else an error."""
    if not LEAST <= value <= MOST:
        raise SpecError(f"{value:g} must be above zero, and at most {MOST:g}", where=f"{where}: {path}")
    return value


def none_failed(failed: int, completed: int, where: str) -> None:
    """Refuse a run with failed requests: the server had less load than the file says."""
    if failed:
        hint = "measure again without errors: a failed request is no load for the server"
        raise SpecError(f"{failed} of {failed + completed} requests failed", where=where, hint=hint)
    if completed < 1:
        raise SpecError("no request completed", where=where)


def time_of(median_ms: float | None, mean_ms: float | None, path: str, where: str) -> Time | None:
    """A time from milliseconds: the median, else the mean. Clients write zero if there was nothing to measure."""
    value = mean_ms if median_ms is None else median_ms
    return None if not value else Time(1e-3 * above_zero(value, path, where), mean=median_ms is None)
