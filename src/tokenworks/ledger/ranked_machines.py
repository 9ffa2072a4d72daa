"""What the results of both comparisons share: the machines, best first, and the winner."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

from tokenworks.ledger.compare_machines import Equal, Ratio, four_digits, unit_of
from tokenworks.ledger.terms import Terms
from tokenworks.specs.reliability import Reliability
from tokenworks.specs.result import Inputs
from tokenworks.specs.shown import Shown


class NamedMachine(Protocol):
    """A machine of a comparison."""

    @property
    def system(self) -> str:
        """Name of the machine."""


M = TypeVar("M", bound=NamedMachine)


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class RankedMachines(Shown, Generic[M]):
    """Machines side by side on the same work.

    Parameters
    ----------
    equal : what the machines have equal amounts of
    rates : failure rates and times
    systems : the machines, best first; machines without a value come last
    ratios : the winner against each other machine with a value
    why : why the winner wins, in words
    terms : the conditions of all costs
    asked : the inputs, as plain data
    notes : what a reader must know beside the numbers
    elapsed_s : time of the comparison [s]
    """

    RANKED_BY: ClassVar[str]
    """What the machines are ranked by, in words."""

    equal: Equal
    rates: Reliability
    systems: tuple[M, ...]
    ratios: tuple[Ratio, ...]
    why: tuple[str, ...]
    terms: Terms
    asked: Inputs
    notes: tuple[str, ...]
    elapsed_s: float

    @staticmethod
    @abstractmethod
    def value_of(one: M) -> float | None:
        """What a machine is ranked by, per unit of what the machines have equal amounts of; None: no value."""

    @property
    def winner(self) -> M | None:
        """The best machine; None if none has a value."""
        first = self.systems[0]
        return first if self.value_of(first) is not None else None

    @property
    def unit(self) -> str:
        """The unit of what the machines have equal amounts of."""
        return unit_of(self.equal, self.terms)

    @property
    def headline(self) -> str:
        """The winner in one line."""
        if self.winner is None:
            return f"none of {len(self.systems)} machines has a value"
        value = self.value_of(self.winner) or 0.0
        return f"{self.winner.system} wins: {four_digits(value)} {self.RANKED_BY} per {self.unit}"
