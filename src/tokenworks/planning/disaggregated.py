"""Disaggregated deployments: every prefill role with every decode role and every way to share the machine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tokenworks.arrays import FloatArray, Floats, Ints
from tokenworks.legal.points import KV_DTYPES
from tokenworks.legal.splits import Candidates
from tokenworks.planning.aggregated import STEADY, finish
from tokenworks.planning.cells import CELL, Cells, SearchCounts, Shortlist
from tokenworks.planning.costing import Costing
from tokenworks.planning.placement import Shares, shares
from tokenworks.planning.queueing import prefill_limit, prefilling
from tokenworks.planning.roles import (
    BISECTIONS,
    Roles,
    best_decode,
    best_prefill,
    cache_of_request,
    decode_roles,
    exposed,
    in_time,
    may_matter,
    prefill_of,
    prefill_roles,
    wire_bandwidth,
)
from tokenworks.planning.space import Ladders
from tokenworks.specs.machine import Machine

MOST_FAMILIES = 1 << 20
"""Larger than the number of families of decode splits [count]."""

HASH = np.random.default_rng(0).integers(1 << 63, size=7, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
POINT = ["index", "chunk", "tpot", "prefill", "prefill_chunk", "replicas", "prefill_replicas"]
"""Columns that identify a deployment. A deployment may have several cells, at different rates."""


def search(
    costing: Costing, candidates: Candidates, ladders: Ladders, decode_s: Floats, shortlist: Shortlist
) -> SearchCounts:
    """Offer the shortlist every disaggregated deployment that no bound rules out.

    Parameters
    ----------
    costing : the cost model in its setting
    candidates : legal splits
    ladders : batches and token budgets to try for each split
    decode_s : time of a decode step at each batch of the ladder, as `grid.decode_times` [s]
    shortlist : takes in the deployments
    """
    machine, offered = costing.setting.machine, shortlist.offered
    decode = decode_roles(costing, candidates, ladders, decode_s)
    prefill = prefill_roles(costing, candidates, ladders)
    counted = [combinations(machine, prefill, decode)]
    decode = may_matter(costing, candidates, decode, shortlist)
    prefill = in_time(costing, prefill) if shortlist.met else prefill
    counted.append(combinations(machine, prefill, decode))
    decode, prefill = best_decode(costing, decode), best_prefill(costing, prefill)
    counted.append(combinations(machine, prefill, decode))
    looked_at = 0
    for left, right, ways in _pairs(costing, prefill, decode):
        alive = right[~shortlist.hopeless(1 / right["tpot"], _reach(costing, left, right, ways))]
        if len(alive):
            cells = _combine(costing, left, alive, ways, shortlist)
            looked_at += _different(cells)
            shortlist.offer(cells)
    estimated = shortlist.offered - offered
    pruned = {
        "prefill alone is late, or decode alone is beaten": counted[0] - counted[1],
        "another prefill or decode is as good in all": counted[1] - counted[2],
        "the slower of prefill and decode is beaten": max(counted[2] - looked_at, 0),
    }
    return SearchCounts(counted[0], estimated, pruned)


def _different(cells: Cells) -> int:
    """Number of different deployments in a table. A random hash of each row is faster than a sort of the rows."""
    key = np.zeros(len(cells), np.uint64)
    for name, factor in zip(POINT, HASH, strict=True):
        key += np.ascontiguousarray(cells[name]).view(np.uint64) * factor
    return len(np.unique(key))


def combinations(machine: Machine, prefill: Roles, decode: Roles) -> int:
    """Number of deployments that two lists of roles give: pairs with equal KV dtype x ways to share the machine."""
    total = 0
    for kv in range(len(KV_DTYPES)):
        left = np.unique(prefill["devices"][prefill["kv"] == kv], return_counts=True)
        right = np.unique(decode["devices"][decode["kv"] == kv], return_counts=True)
        for p, prefills in zip(*left, strict=True):
            for d, decodes in zip(*right, strict=True):
                total += int(prefills) * int(decodes) * len(shares(machine, int(p), int(d)).tried().prefill)
    return total


def _pairs(costing: Costing, prefill: Roles, decode: Roles) -> list[tuple[Roles, Roles, Shares]]:
    """Groups of prefill roles with groups of decode roles that fit the machine together, highest upper bound first.

    The roles of a group have equal size and KV dtype.
    """
    machine, rights = costing.setting.machine, list(_alike(decode))
    fitting = [
        (left, right, ways)
        for left in _alike(prefill)
        for right in rights
        if left["kv"][0] == right["kv"][0]
        and len((ways := shares(machine, int(left["devices"][0]), int(right["devices"][0]))).prefill)
    ]
    return sorted(fitting, key=lambda pair: -float(_reach(costing, *pair).max()))


def _alike(roles: Roles) -> Iterator[Roles]:
    """Groups of roles with equal devices and equal KV dtype."""
    for devices, kv in sorted(set(zip(roles["devices"].tolist(), roles["kv"].tolist(), strict=True))):
        yield roles[(roles["devices"] == devices) & (roles["kv"] == kv)]


def _reach(costing: Costing, left: Roles, right: Roles, ways: Shares) -> Floats:
    """Upper bound of the output per device of each decode role with the best prefill role of `left`: float[right]."""
    machine, osl = costing.setting.machine, costing.demand.request.osl
    one = np.max(prefill_limit(costing.demand, prefill_of(left[:, None], 1), right["tpot"][None, :]), axis=0)
    if costing.load:  # the bound allows fractions of instances, so that both roles match exactly
        prefill, decode = one / left["devices"][0], right["rate"] / right["devices"][0]
        matched: Floats = prefill * decode / (prefill + decode) * osl
        return matched
    tried = ways.tried()
    both = np.minimum(tried.prefill[:, None] * one, tried.decode[:, None] * right["rate"])
    shared: Floats = both.max(axis=0) * osl / machine.devices
    return shared


def _combine(costing: Costing, left: Roles, right: Roles, ways: Shares, shortlist: Shortlist) -> Cells:
    """Cells of prefill roles (axis 0) with decode roles (axis 1), for ways to share the machine (axis 2)."""
    p, d = left[:, None, None], right[None, :, None]
    wire = wire_bandwidth(costing) * p["dp"] * p["links"] / cache_of_request(costing, int(left["kv"][0]))
    one = np.minimum(prefill_limit(costing.demand, prefill_of(p, 1), d["tpot"]), wire)
    if costing.load is None:
        tried = ways.tried()
        x, y = tried.prefill[None, None, :], tried.decode[None, None, :]
        soon = np.minimum(x * one, _timely(costing, p, right, x))
        # Two rates: the highest one, and the highest one with TTFT within the SLO. Often they are equal.
        best = [_crossing(x, y, limit, d["rate"]) for limit in (x * one, soon)]
        x, y, limit = (np.concatenate(parts, axis=2) for parts in zip(*best, strict=True))
        rate = np.minimum(limit, y * d["rate"])
        return _cells(costing, left, right, shortlist, rate=rate, x=x, y=y, capacity=limit)
    asked = np.full(one.shape, costing.load.value)
    if costing.load.kind == "concurrency":  # requests in flight / time of a request that does not wait
        own = prefilling(costing.demand, prefill_of(p, 1), 1e-9 * one, d["tpot"]).ttft
        asked = costing.load.value / (own + costing.demand.request.osl * d["tpot"])
    fewest = np.ceil(asked / one)
    x, y = np.concatenate([fewest, fewest + 1], axis=2), np.ceil(asked / d["rate"])
    rate, capacity = np.where(ways.fit(x, y), asked, 0.0), np.minimum(x * one, y * d["rate"])
    return _cells(costing, left, right, shortlist, rate=rate, x=x, y=y, capacity=capacity)


def _crossing(x: Ints, y: Ints, limit: Floats, decoded: Floats) -> tuple[Ints, Ints, Floats]:
    """The two neighbouring shares of the machine between which the limits of prefill and decode cross, for each pair.

    The prefill limit rises with x, and the decode limit y x `decoded` falls. So the largest minimum of both limits is
    at one of these two shares.

    Parameters
    ----------
    x, y : prefill and decode instances of each share, x rises [count]
    limit : highest rate of x prefill instances [1/s]; axes: prefill roles, decode roles, shares
    decoded : highest rate of one decode instance [1/s]
    """
    limit = np.broadcast_to(limit, np.broadcast_shapes(limit.shape, (y * decoded).shape))
    after = (limit <= y * decoded).sum(axis=2, keepdims=True)
    near = np.clip(np.concatenate([after - 1, after], axis=2), 0, limit.shape[2] - 1)
    return x[0, 0][near], y[0, 0][near], np.take_along_axis(limit, near, axis=2)


def _timely(costing: Costing, p: Roles, right: Roles, x: Ints) -> Floats:
    """Highest rate at which x instances of each prefill role keep the TTFT bound with all of the decode roles [1/s].

    The function bisects with the worst case of the decode roles: the longest TPOT and the largest cache to receive.
    The axes are those of `p` and `x`.
    """
    high = np.asarray(prefill_limit(costing.demand, prefill_of(p, x), right["tpot"].min()))
    if costing.slo.ttft is None:
        return high
    low: Floats = np.zeros(high.shape)
    slowest, token_bytes = right["tpot"].max(), right["token_bytes"].max()
    role, varies = prefill_of(p, x), costing.demand.request.hit_share > 0
    late = exposed(costing, p, token_bytes, 0.0)
    for _ in range(BISECTIONS):
        rate = (low + high) / 2
        served = prefilling(costing.demand, role, rate, slowest)
        if varies:
            late = exposed(costing, p, token_bytes, served.hit_share)
        kept = served.ttft_tail + late <= costing.slo.ttft.value
        low, high = np.where(kept, rate, low), np.where(kept, high, rate)
    return low


def _cells(
    costing: Costing,
    left: Roles,
    right: Roles,
    shortlist: Shortlist,
    *,
    rate: Floats,
    x: FloatArray,
    y: FloatArray,
    capacity: FloatArray,
) -> Cells:
    """Cells of the combinations that the bounds of the shortlist do not rule out.

    Parameters
    ----------
    left, right : prefill roles (axis 0) and decode roles (axis 1)
    rate : rate of the whole deployment; 0: the deployment does not fit the machine [1/s]
    x, y : prefill and decode instances [count]
    capacity : highest rate of the whole deployment [1/s]
    """
    demand, setting = costing.demand, costing.setting
    devices = x * left["devices"][0] + y * right["devices"][0]
    charged = devices if costing.load else setting.machine.devices
    speed = np.broadcast_to(1 / right["tpot"][None, :, None], rate.shape)
    hopeless = shortlist.hopeless(speed.ravel(), (rate * demand.request.osl / charged).ravel()).reshape(rate.shape)
    chosen = (rate > 0) & ~hopeless
    which_p, which_d, _ = np.nonzero(chosen)
    p, d = left[which_p], right[which_d]

    def of(values: FloatArray) -> Floats:
        chosen_values: Floats = np.broadcast_to(values, rate.shape)[chosen]
        return chosen_values

    served = prefilling(demand, prefill_of(p, of(x)), of(rate), d["tpot"])
    late = exposed(costing, p, d["token_bytes"], served.hit_share)
    cells = np.zeros(len(p), CELL)
    # A family is one size of the prefill instance, so that the list shows alternatives that really differ.
    cells["family"], cells["index"], cells["prefill"] = -p["devices"], d["index"], p["index"]
    cells["entry"] = -1 - p["devices"] * MOST_FAMILIES - d["family"]
    # Prefill may bring fewer requests than decode can take. Then the batch is smaller, and `tpot` is a little too high.
    busy = np.minimum(np.ceil(of(rate) * demand.request.osl * d["tpot"] / of(y)), d["batch"])
    cells["batch"], cells["chunk"], cells["prefill_chunk"] = busy, d["chunk"], p["chunk"]
    cells["replicas"], cells["prefill_replicas"] = of(y), of(x)
    cells["devices"], cells["charged"] = of(devices), of(np.asarray(charged))
    cells["rate"], cells["capacity"] = of(rate), of(capacity)
    cells["tpot"], cells["tpot_tail"] = d["tpot"], d["tail"]
    cells["ttft"], cells["ttft_tail"] = served.ttft + late, served.ttft_tail + late
    cells["hit"], cells["busy"], cells["full"] = served.hit_share, served.busy, d["full"] & (busy == d["batch"])
    if costing.load and costing.load.kind == "concurrency":
        cells["rate"] = costing.load.value / (cells["ttft"] + demand.request.osl * cells["tpot"])
    finish(costing, cells, np.zeros(len(cells)))
    return cells[cells["busy"] < STEADY]
