"""How far each input moves the computed value of a claim: one input at a time, at both ends of its range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenworks.errors import DoesNotFit, SloMissed, SpecError
from tokenworks.ledger.claims.asks import Answers, ClaimAsk, answered
from tokenworks.ledger.claims.basis import Basis
from tokenworks.ledger.claims.check import Check, Gauge
from tokenworks.ledger.claims.finding import Finding
from tokenworks.ledger.claims.inputs import ClaimInput
from tokenworks.ledger.workers import Say
from tokenworks.specs.result import rounded

NO_VALUE = (DoesNotFit, SloMissed, SpecError)
"""Errors of a check whose input lies at an end of its range: then there is no value."""


@dataclass(frozen=True, slots=True)
class Dependence:
    """What one input does to the computed value of a claim.

    Parameters
    ----------
    path, value, unit, low, high, status : the input with its range
    computed_low, computed_high : the computed value with the input at the low and at the high end; None: no value
    exact : whether the check itself computed these values; else closed forms did, relative to the computed value
    """

    path: str
    value: float | None
    unit: str
    low: float | None
    high: float | None
    status: str
    computed_low: float | None
    computed_high: float | None
    exact: bool

    @property
    def swing(self) -> float:
        """Distance between the two computed values; an end without a value counts most."""
        if self.computed_low is None or self.computed_high is None:
            return float("inf")
        return abs(self.computed_high - self.computed_low)


@dataclass(frozen=True)
class Found:
    """A claim that has been judged.

    Parameters
    ----------
    id : number of the claim
    check, finding : its check, and what it found
    """

    id: str
    check: Check
    finding: Finding


@dataclass(frozen=True)
class _End:
    """One input at one end of its range.

    Parameters
    ----------
    basis : everything else as before
    asks : questions in closed form of the gauge; None: the check judges with the answers that are there
    """

    basis: Basis
    asks: tuple[ClaimAsk, ...] | None


@dataclass(frozen=True)
class _Job:
    """One input at both ends of its range; None: the value is not possible there."""

    item: ClaimInput
    low: _End | None
    high: _End | None

    @property
    def asks(self) -> tuple[ClaimAsk, ...]:
        """Questions in closed form."""
        return tuple(ask for end in (self.low, self.high) if end for ask in end.asks or ())

    @property
    def exact(self) -> bool:
        """Whether the check itself judges at both ends."""
        return not any(end and end.asks is not None for end in (self.low, self.high))


def effects(
    found: Sequence[Found], basis: Basis, answers: Answers, *, workers: int, say: Say | None
) -> dict[str, tuple[Dependence, ...]]:
    """The inputs that move the computed value of each claim, the largest effect first.

    Parameters
    ----------
    found : the claims
    basis, answers : what they were judged with
    workers, say : as `answered` takes them
    """
    jobs = {
        one.id: [_job(one, basis, item, answers) for item in _ranged(one, basis)]
        for one in found
        if one.finding.computed is not None
    }
    asked: list[ClaimAsk] = []
    for one in found:
        closed = [ask for job in jobs.get(one.id, ()) for ask in job.asks]
        if closed and one.check.gauge:
            asked += [*one.check.gauge.asks(basis, one.finding), *closed]
    known = {**answers, **answered((ask for ask in asked if ask not in answers), workers=workers, say=say)}
    moved: dict[str, tuple[Dependence, ...]] = {}
    for one in found:
        all_ = (_effect(one, basis, known, job) for job in jobs.get(one.id, ()))
        moved[one.id] = tuple(sorted(filter(None, all_), key=lambda effect: (-effect.swing, effect.path)))
    return moved


def _ranged(one: Found, basis: Basis) -> Iterator[ClaimInput]:
    """The inputs that a claim rests on and that have a range."""
    for path in dict.fromkeys(one.check.rests_on(basis)):
        item = basis.input(path)
        if item.value:
            yield item


def _job(one: Found, basis: Basis, item: ClaimInput, answers: Answers) -> _Job:
    return _Job(item, _end(one, basis, item.path, item.low, answers), _end(one, basis, item.path, item.high, answers))


def _end(one: Found, basis: Basis, path: str, value: float | None, answers: Answers) -> _End | None:
    if value is None:
        return None
    try:
        changed = basis.with_(path, value, why="range")
        if all(ask in answers for ask in one.check.asks(changed)):
            return _End(changed, None)
        return _End(changed, tuple(one.check.gauge.asks(changed, one.finding))) if one.check.gauge else None
    except NO_VALUE:
        return None


def _effect(one: Found, basis: Basis, known: Answers, job: _Job) -> Dependence | None:
    """The effect of one input; None: it moves nothing."""
    item, low, high = job.item, _value(one, basis, known, job.low), _value(one, basis, known, job.high)
    computed = rounded(one.finding.computed)
    if rounded(low) == computed and rounded(high) == computed:
        return None
    return Dependence(
        item.path, item.value, item.unit, item.low, item.high, item.status, low, high, job.exact
    )  # fmt: skip


def _value(one: Found, basis: Basis, known: Answers, end: _End | None) -> float | None:
    if end is None:
        return None
    try:
        if end.asks is None:
            return one.check.judge(end.basis, known).computed
        assert one.check.gauge is not None
        assert one.finding.computed is not None
        return _gauged(one.check.gauge, one.finding, known, basis, end.basis)
    except NO_VALUE:
        return None


def _gauged(gauge: Gauge, finding: Finding, known: Answers, middle: Basis, end: Basis) -> float | None:
    """The computed value x the ratio of the closed forms at the end and in the middle."""
    at, base = gauge.value(end, known, finding), gauge.value(middle, known, finding)
    assert finding.computed is not None
    return None if at is None or not base else finding.computed * at / base
