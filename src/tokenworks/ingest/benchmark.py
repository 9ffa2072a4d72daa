"""A benchmark of a client as plain data: one load on a server, and the measured result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

import msgspec

from tokenworks.errors import SpecError
from tokenworks.ingest.rows import UNDECODABLE, standard_json

Arrivals = Literal["at once", "poisson", "constant"]
Item = TypeVar("Item")

LEAST, MOST = 1e-9, 1e15
MOST_IN_FLIGHT = 10**6
Number = Annotated[float, msgspec.Meta(ge=-MOST, le=MOST)]
Deviation = Annotated[float, msgspec.Meta(ge=0, le=MOST)]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of prompts, or of answers.

    Parameters
    ----------
    mean : mean length [token]
    variation : standard deviation / mean; None if the file does not have it [-]
    nominal : length in the name of the benchmark, if the client sent shorter ones (InferenceX); 0 if it is the mean
        [token]
    """

    mean: float
    variation: float | None
    nominal: float = 0.0


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
    arrivals : arrival process of the requests; None if the file does not record it
    rate : rate of Poisson or constant arrivals; else 0 [1/s]
    concurrency : most requests in flight; None = no limit [count]
    requests : completed requests [count]
    isl, osl : lengths of prompts and answers
    ttft : time to first token
    tpot : time per output token after the first, mean of each request
    tokens_per_s : input and output tokens of completed requests / duration [token/s]
    sent_s : times at which the client sent the requests, from the first one on. Empty if the file does not have them,
        and for a closed loop, where the ends of other requests decide them [s]
    joules_per_output_token : energy of all devices per output token; None if it was not measured [J]
    notes : what the reader assumed, and what users must know about the run
    point : columns of a CSV of measured points, if the file also describes the deployment (InferenceX); else empty
    """

    name: str
    arrivals: Arrivals | None
    rate: float
    concurrency: int | None
    requests: int
    isl: Lengths
    osl: Lengths
    ttft: Time | None
    tpot: Time | None
    tokens_per_s: float
    sent_s: tuple[float, ...] = ()
    joules_per_output_token: float | None = None
    notes: tuple[str, ...] = ()
    point: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """How a client sent its requests.

    Parameters
    ----------
    arrivals : arrival process of the requests
    rate : rate of Poisson arrivals; else 0 [1/s]
    concurrency : most requests in flight; None = no limit [count]
    """

    arrivals: Arrivals
    rate: float = 0.0
    concurrency: int | None = None

    @classmethod
    def parse(cls, text: str, *, where: str = "--load") -> Load:
        """Read a load: `concurrency=16`, `rate=2.5` (Poisson arrivals, requests per second) or `burst` (all at once).

        Parameters
        ----------
        text : the load
        where : place of the text, for error messages

        Raises
        ------
        SpecError : a text that cannot be read, or a number out of range
        """
        kind, _, value = text.strip().partition("=")
        if kind == "burst" and not value:
            return cls("at once")
        try:
            if kind == "concurrency" and 1 <= int(value) <= MOST_IN_FLIGHT:
                return cls("at once", concurrency=int(value))
            if kind == "rate" and LEAST <= float(value) <= MOST_IN_FLIGHT:
                return cls("poisson", rate=float(value))
        except ValueError:
            pass
        hint = f"write concurrency=16, rate=2.5 or burst; numbers are above 0, and at most {MOST_IN_FLIGHT:,}"
        raise SpecError(f"cannot read {text!r}", where=where, hint=hint)


def decode(data: bytes, kind: type[Item], form: str, where: str) -> Item:
    """The fields of `kind` from a JSON document. An error names the path and the wrong value."""
    try:
        return msgspec.json.decode(standard_json(data), type=kind)
    except UNDECODABLE as error:
        text, _, path = str(error).partition(" - at `$")
        place = f"{where}: {path.strip('`').lstrip('.')}" if path else where
        raise SpecError(f"{text[:1].lower()}{text[1:]}", where=place, hint=f"this is no complete {form}") from None


def above_zero(value: float, path: str, where: str) -> float:
    """The value, if a measurement can have it; else an error."""
    if not LEAST <= value <= MOST:
        raise SpecError(f"{value:g} must be above zero, and at most {MOST:g}", where=f"{where}: {path}")
    return value


def failures(failed: int, completed: int, where: str) -> tuple[str, ...]:
    """A note about failed requests; empty if none failed.

    Parameters
    ----------
    failed, completed : requests that failed, and requests that completed [count]
    where : place of the run, for the error

    Raises
    ------
    SpecError : no request completed
    """
    if completed < 1:
        words = f"all {failed} requests failed" if failed else "no request completed"
        raise SpecError(words, where=where, hint="measure again: there is no result to compare with")
    if not failed:
        return ()
    words = f"{failed} of {failed + completed} requests failed; times and throughput are those of the other requests"
    return (f"{words}, and the server had less load than planned",)


def time_of(median_ms: float | None, mean_ms: float | None, path: str, where: str) -> Time | None:
    """A time from milliseconds: the median, else the mean. Clients write zero if there was nothing to measure."""
    value = mean_ms if median_ms is None else median_ms
    return None if not value else Time(1e-3 * above_zero(value, path, where), mean=median_ms is None)
