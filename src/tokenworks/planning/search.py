"""The whole search: legal splits, aggregated and disaggregated deployments, and counts of all points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.legal.points import KV_DTYPES, Points, Setting
from tokenworks.legal.rules import SHAPE, Proposal, with_memory
from tokenworks.legal.splits import Candidates, candidates, splits
from tokenworks.planning import aggregated, disaggregated
from tokenworks.planning.cells import SearchCounts, Shortlist
from tokenworks.planning.costing import Costing
from tokenworks.planning.fit_advice import does_not_fit
from tokenworks.planning.grid import decode_times
from tokenworks.planning.roles import ROLE
from tokenworks.planning.space import Ladders

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The result of a search.

    Parameters
    ----------
    costing : the cost model in its setting
    shortlist : the best deployments, as cells
    splits : the splits that the cells refer to
    considered : points before any rule [count]
    counts : points that were legal, estimated and ruled out
    """

    costing: Costing
    shortlist: Shortlist
    splits: Candidates
    considered: int
    counts: SearchCounts


def search(
    costing: Costing, keep: int, ladders: Ladders | None = None, *, margin: float = 0.0,
    progress: Progress | None = None,
) -> SearchResult:  # fmt: skip
    """Search all deployments of a setting for the best families and the exact Pareto front.

    Parameters
    ----------
    costing : the cost model in its setting
    keep : number of families to keep [count]
    ladders : batches and token budgets to try for each split
    margin : an estimate is also kept if it is below the last kept family by at most this share [-]
    progress : receives a line of text before each part of the search

    Raises
    ------
    SpecError : requests are longer than the context of the model
    DoesNotFit : no split holds the weights and one request, or keeps up with prefill and decode
    """
    ladders = ladders or Ladders.default()
    say = progress or (lambda _: None)
    setting = costing.setting
    everything = splits(setting)
    legal = candidates(setting, everything)
    say(f"{len(everything):,} splits")
    if not len(legal.points):
        raise impossible(setting, everything)
    decode_s, shortlist = decode_times(costing, legal.points, ladders), Shortlist(costing.slo, keep, margin)
    say(f"{len(legal.points):,} legal splits, aggregated")
    one = aggregated.search(costing, legal, ladders, decode_s, shortlist)
    say(f"{len(legal.points):,} legal splits, prefill and decode apart")
    two = disaggregated.search(costing, legal, ladders, decode_s, shortlist)
    if not len(shortlist.best):
        raise too_busy(costing, legal)
    counts = SearchCounts(one.legal + two.legal, one.estimated + two.estimated, one.pruned | two.pruned)
    return SearchResult(costing, shortlist, legal, _considered(setting, everything, ladders), counts)


def _considered(setting: Setting, everything: Points, ladders: Ladders) -> int:
    """Points before any rule: all splits on all ladders, and all pairs of a prefill and a decode split."""
    batches, chunks = 1 + len(ladders.sequences), len(ladders.chunks)
    both = np.zeros(len(everything), ROLE)
    both["devices"], both["kv"] = everything.devices, everything.kv
    pairs = disaggregated.combinations(setting.machine, both[everything.draft == 0], both)
    return len(everything) * batches * chunks + pairs * chunks * (batches + 1)


def too_busy(costing: Costing, legal: Candidates) -> DoesNotFit:
    """The error if no split can decode one request while it prefills the next request, or holds the long requests."""
    points, demand, setting = legal.points, costing.demand, costing.setting
    kv_tokens = costing.kv_tokens(points, points.max_sequences, points.chunk_tokens)
    need = points.lanes * demand.request.isl + points.dp * demand.request.context
    nearest = int(np.argmax(kv_tokens / need))
    if kv_tokens[nearest] < 0:
        held = with_memory(points, setting).room.kv_tokens / points.dp
        why = f"1 % of the requests have more than {costing.longest:,.0f} tokens, and a rank caches {held.max():,.0f}"
    elif kv_tokens[nearest] >= need[nearest]:
        why = f"prefill of {demand.request.isl:,.0f} tokens takes longer than decoding {demand.request.osl:,.0f}"
    else:
        why = (
            f"the best split caches {kv_tokens[nearest]:,.0f} tokens, but one request in decode per rank and one in "
            f"prefill per lane need {need[nearest]:,.0f}"
        )
    return DoesNotFit(
        f"{setting.model.name} fits {setting.machine.name}, but no split keeps up: {why}; take more devices or shorter "
        "requests"
    )


def impossible(setting: Setting, everything: Points) -> SpecError | DoesNotFit:
    """The error for a setting without a legal split. It says why."""
    context = SHAPE["context_fits_model"](Proposal(everything[:1], setting))
    if not context.kept.all():
        return SpecError(context.why(), where=setting.workload.name)
    shaped = everything[np.all([check(Proposal(everything, setting)).kept for check in SHAPE.values()], axis=0)]
    room = with_memory(shaped, setting).room
    free = np.asarray(room.kv) > 0
    holds = np.asarray(room.kv_tokens)[free] / shaped.dp[free]
    if not len(holds):
        return does_not_fit(setting, KV_DTYPES[int(shaped.kv.max())])
    need = setting.workload.isl + setting.workload.osl
    return DoesNotFit(
        f"{setting.model.name} fits {setting.machine.name}, but no split leaves a rank the KV cache of one request: "
        f"{need:,.0f} tokens, {holds.max():,.0f} at most; take more devices or shorter requests"
    )
