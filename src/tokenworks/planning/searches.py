"""One search for each engine that a plan compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from tokenworks.errors import DoesNotFit
from tokenworks.planning.costing import Costing
from tokenworks.planning.elsewhere import PROCESSES, elsewhere, threads
from tokenworks.planning.search import Progress, SearchResult, search


def searched(
    costings: Sequence[Costing], top: int, *, margin: float, progress: Progress | None = None
) -> tuple[SearchResult, ...]:
    """A search for each engine; other processes search for the other engines while this one works.

    Raises
    ------
    SpecError, DoesNotFit : as `search`, where it finds nothing for any engine
    """
    first: Callable[[], SearchResult] = partial(search, costings[0], top, margin=margin, progress=progress)
    others: list[Callable[[], SearchResult]] = [
        partial(elsewhere, _search, costing, top, margin) for costing in costings[1:]
    ]
    if PROCESSES > 1:
        others = [threads().submit(one).result for one in others]
    results: list[SearchResult] = []
    errors: list[DoesNotFit] = []
    for one in (first, *others):
        try:
            results.append(one())
        except DoesNotFit as error:
            errors.append(error)
    if not results:
        raise errors[0]
    return tuple(results)


def _search(costing: Costing, top: int, margin: float) -> SearchResult:
    """What another process does."""
    return search(costing, top, margin=margin)
