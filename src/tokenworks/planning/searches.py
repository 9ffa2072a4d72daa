"""One search for each engine that a plan compares."""

from __future__ import annotations

from collections.abc import Sequence

from tokenworks.errors import DoesNotFit
from tokenworks.planning.costing import Costing
from tokenworks.planning.search import Progress, SearchResult, search


def searched(
    costings: Sequence[Costing], top: int, *, margin: float, progress: Progress | None = None
) -> tuple[SearchResult, ...]:
    """A search for each engine; a later one skips what is further behind than an earlier one asks for.

    Raises
    ------
    SpecError, DoesNotFit : as `search`, where it finds nothing for any engine
    """
    results: list[SearchResult] = []
    errors: list[DoesNotFit] = []
    floor = 0.0
    for costing in costings:
        try:
            result = search(costing, top, margin=margin, floor=floor, progress=progress)
        except DoesNotFit as error:
            errors.append(error)
            continue
        results.append(result)
        floor = max(floor, result.shortlist.threshold)
    if not results:
        raise errors[0]
    return tuple(results)
