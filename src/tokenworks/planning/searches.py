"""One search for each engine that a plan compares."""

from __future__ import annotations

from collections.abc import Sequence

from tokenworks.errors import DoesNotFit
from tokenworks.planning.cells import NO_RIVALS
from tokenworks.planning.costing import Costing
from tokenworks.planning.elsewhere import PROCESSES, elsewhere, threads
from tokenworks.planning.search import Prepared, Progress, SearchResult, search
from tokenworks.planning.space import Ladders


def searched(
    costings: Sequence[Costing], top: int, *, margin: float, progress: Progress | None = None
) -> tuple[SearchResult, ...]:
    """A search for each engine; a later one skips what an earlier one beats.

    Raises
    ------
    SpecError, DoesNotFit : as `search`, where it finds nothing for any engine
    """
    ladders = Ladders.default()
    # Other processes prepare the searches of the other engines while this one works.
    ahead = {
        place: threads().submit(elsewhere, Prepared.of, costing, ladders).result
        for place, costing in enumerate(costings)
        if place and PROCESSES > 1
    }
    results: list[SearchResult] = []
    errors: list[DoesNotFit] = []
    floor, rivals = 0.0, NO_RIVALS
    for place, costing in enumerate(costings):
        try:
            result = search(
                costing, top, ladders, ahead=ahead.pop(place, None), margin=margin, floor=floor, rivals=rivals,
                progress=progress,
            )  # fmt: skip
        except DoesNotFit as error:
            errors.append(error)
            continue
        results.append(result)
        floor, rivals = max(floor, result.shortlist.threshold), result.shortlist.edge
    if not results:
        raise errors[0]
    return tuple(results)
