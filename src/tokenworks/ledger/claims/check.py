"""The form of a check: what it asks, how it judges, and which inputs it rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tokenworks.ledger.claims.asks import Answers, ClaimAsk
from tokenworks.ledger.claims.basis import Basis
from tokenworks.ledger.claims.finding import Finding


def _nothing(_basis: Basis) -> tuple[()]:
    return ()


@dataclass(frozen=True)
class Gauge:
    """The computed value of a check from closed forms, which are quick: it measures the effect of an input.

    Only the ratio of two of its values counts. The value with another input is the computed value x this ratio.

    Parameters
    ----------
    asks : questions in closed form about the cell that decides the finding: basis, finding -> questions
    value : the value from their answers, None if there is none: basis, answers, finding -> value
    """

    asks: Callable[[Basis, Finding], Iterable[ClaimAsk]]
    value: Callable[[Basis, Answers, Finding], float | None]


@dataclass(frozen=True)
class Check:
    """How one claim is checked.

    Parameters
    ----------
    judge : basis and answers -> finding. It is quick: what takes long is an ask
    asks : questions whose answers take long
    rests_on : paths of the inputs that the check rests on. The effect of each one is measured
    turns : paths of inputs for which the value is searched at which the verdict changes. The asks must not depend on
        them
    gauge : measures effects of inputs that the asks depend on; None: the asks depend on none of the paths
    """

    judge: Callable[[Basis, Answers], Finding]
    asks: Callable[[Basis], Iterable[ClaimAsk]] = _nothing
    rests_on: Callable[[Basis], Iterable[str]] = _nothing
    turns: Callable[[Basis], Iterable[str]] = _nothing
    gauge: Gauge | None = None
