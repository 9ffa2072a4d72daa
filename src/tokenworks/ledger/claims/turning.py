"""Break-evens of verdicts: the value of one input at which the verdict changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scipy.optimize import bisect

from tokenworks.ledger.claims.asks import Answers
from tokenworks.ledger.claims.basis import Basis
from tokenworks.ledger.claims.check import Check
from tokenworks.ledger.claims.effects import NO_VALUE
from tokenworks.ledger.claims.finding import ClaimVerdict, Finding, TurningPoint

STEP, STEPS = 1.25, 31
"""An input is changed by this factor, up to `STEPS` times (a factor of about 1,000) [-]."""

CLOSE = 1e-7
"""Width of the last interval of the bisection / the input [-]."""


def turning_points(check: Check, basis: Basis, answers: Answers, finding: Finding) -> tuple[TurningPoint, ...]:
    """The nearest values of each input, below and above the present one, at which the verdict changes.

    An input grows or falls by a quarter until the verdict differs. Bisection then finds where it changes.

    Parameters
    ----------
    check : the check; its `turns` are the inputs
    basis, answers : what the claim was judged with
    finding : the finding, whose own turning points come first
    """
    points = list(finding.turning_points)
    for path in dict.fromkeys(check.turns(basis)):
        points += _of(path, check, basis, answers, finding.verdict)
    return tuple(points)


def _of(path: str, check: Check, basis: Basis, answers: Answers, now: ClaimVerdict) -> Iterator[TurningPoint]:
    item = basis.input(path)
    if not item.value:
        return
    start = item.value

    def verdict(factor: float) -> ClaimVerdict | None:
        try:
            return check.judge(basis.with_(path, start * factor, why="break-even"), answers).verdict
        except NO_VALUE:
            return None

    for step in (1 / STEP, STEP):
        factor, other = _crossed(verdict, step, now)
        if factor is not None and other is not None:
            below, above = (other, now) if step < 1 else (now, other)
            yield TurningPoint(path, start * factor, item.unit, start, below, above)


def _crossed(
    verdict: Callable[[float], ClaimVerdict | None], step: float, now: ClaimVerdict
) -> tuple[float | None, ClaimVerdict | None]:
    """The factor at which the verdict changes in one direction, and the verdict behind it; None: it does not."""
    inside = 1.0
    for power in range(1, STEPS + 1):
        factor = step**power
        other = verdict(factor)
        if other is None:
            break
        if other != now:
            low, high = sorted((inside, factor))
            return _between(lambda x: verdict(x) == now, low, high), other
        inside = factor
    return None, None


def _between(as_now: Callable[[float], bool], low: float, high: float) -> float:
    """Where a verdict changes between two factors."""
    at_low = as_now(low)
    return float(bisect(lambda x: -1.0 if as_now(x) == at_low else 1.0, low, high, xtol=CLOSE * low, rtol=CLOSE))
