"""What a check finds: the computed value with its range, the verdict, its reasons and conditions, and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenworks.specs.machine import Assumption

ClaimVerdict = Literal["holds", "holds if", "does not hold", "cannot be known"]
VERDICTS: tuple[ClaimVerdict, ...] = ("holds", "holds if", "does not hold", "cannot be known")

TableCell = str | float | int | None


@dataclass(frozen=True, slots=True)
class ClaimTable:
    """Rows that a reader of a verdict can look at.

    Parameters
    ----------
    title : what the rows are
    columns : headings, with units in brackets
    rows : one value for each column; None: there is none
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]


@dataclass(frozen=True, slots=True)
class MapCell:
    """One cell of a map.

    Parameters
    ----------
    row, column : labels of the row and of the column
    value, low, high : the value and its 80 % interval; None: no value, see `state`
    state : why there is no value, or what else a reader must know; empty: nothing
    """

    row: str
    column: str
    value: float | None
    low: float | None = None
    high: float | None = None
    state: str = ""


@dataclass(frozen=True, slots=True)
class ClaimMap:
    """Where a claim holds: one value for each pair of a row and a column. Pairs that were not computed are left out.

    Parameters
    ----------
    title : what the values are
    rows, columns : names of both axes
    unit : unit of the values; empty: a plain number
    number : number of the claim that the values are compared with; None: there is none
    cells : the cells, row by row
    """

    title: str
    rows: str
    columns: str
    unit: str
    number: float | None
    cells: tuple[MapCell, ...]


@dataclass(frozen=True, slots=True)
class TurningPoint:
    """The value of one input at which the verdict changes (break-even).

    Parameters
    ----------
    path : the input
    value : the value, in `unit`
    unit : unit of the value
    now : the value that the verdict was found with; None: not published
    verdict_below, verdict_above : verdicts with a smaller and with a larger value
    """

    path: str
    value: float
    unit: str
    now: float | None
    verdict_below: ClaimVerdict
    verdict_above: ClaimVerdict


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check finds.

    Parameters
    ----------
    verdict : the verdict
    because : reasons, each one a sentence
    computed, low, high : the computed value, and the ends of its range or of its 80 % interval, in `unit`; None: the
        check computes no number
    unit : unit of these values; empty: a plain number
    conditions : where the verdict is "holds if": the conditions, each one a sentence
    tables, maps : rows and maps that the verdict rests on
    notes : what a reader must know beside the verdict
    assumed : assumed numbers beside those of the inputs that the check rests on
    turning_points : values of inputs at which the verdict changes, that the check itself knows
    command : command that reproduces the computed value; empty: `tokenworks claims ID`
    """

    verdict: ClaimVerdict
    because: tuple[str, ...]
    computed: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    conditions: tuple[str, ...] = ()
    tables: tuple[ClaimTable, ...] = ()
    maps: tuple[ClaimMap, ...] = ()
    notes: tuple[str, ...] = ()
    assumed: tuple[Assumption, ...] = ()
    turning_points: tuple[TurningPoint, ...] = ()
    command: str = ""
