"""Results in Python: a short `repr`, a table for notebooks, and records for pandas and polars."""

from __future__ import annotations

import html
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

SHOWN_ROWS = 20
"""Most rows of a table in a notebook [count]."""

Record = dict[str, Any]


class Shown(ABC):
    """Base class of results: one line of text, and the numbers as records."""

    __slots__ = ()

    @property
    @abstractmethod
    def headline(self) -> str:
        """The result in one line."""

    @abstractmethod
    def to_records(self) -> list[Record]:
        """The numbers as flat dicts, one per row: `pandas.DataFrame(result.to_records())`."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.headline}>"

    def _repr_html_(self) -> str:
        records = self.to_records()
        rows = [list(records[0])] if records else []
        rows += [[_cell(value) for value in record.values()] for record in records[:SHOWN_ROWS]]
        more = f"<p>and {len(records) - SHOWN_ROWS:,} more</p>" if len(records) > SHOWN_ROWS else ""
        table = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
        return f"<p>{html.escape(self.headline)}</p><table>{table}</table>{more}"


def flat(data: Mapping[str, Any], **first: Any) -> Record:
    """Plain data as one record. A pair of numbers becomes two keys with `_low` and `_high`; other lists are dropped.

    Parameters
    ----------
    data : plain data
    first : keys and values in front of the others
    """
    record: Record = dict(first)
    for key, value in data.items():
        if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(x, (int, float)) for x in value):
            record[f"{key}_low"], record[f"{key}_high"] = value
        elif isinstance(value, Mapping):
            if value and all(isinstance(item, (list, tuple)) for item in value.values()):
                record |= flat(value)
        elif not isinstance(value, (list, tuple)):
            record[key] = value
    return record


def _cell(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return "" if value is None else str(value)
