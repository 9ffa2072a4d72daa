"""Tables of prefill roles and decode roles: the performance of each role alone, and the choice of roles to combine."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tokenworks.arrays import Bools, FloatArray, Floats, Ints
from tokenworks.costs.memory import cache_bytes
from tokenworks.costs.split import KV_BYTES
from tokenworks.costs.transfer import exposed_transfer, request_bytes, wire
from tokenworks.legal.points import KV_DTYPES, Points
from tokenworks.legal.splits import Candidates
from tokenworks.pareto import front
from tokenworks.planning.aggregated import STEADY
from tokenworks.planning.cells import Shortlist
from tokenworks.planning.costing import Costing
from tokenworks.planning.grid import crowded_ladder
from tokenworks.planning.queueing import Demand, Prefill, busiest_context, crowd, prefill_limit, prefilling, seen_cv
from tokenworks.planning.space import Ladders
from tokenworks.simulation.steps import own_share

BLOCK = 64
"""Rows that are compared with each other at once [count]."""

BISECTIONS = 20
ALIKE = 0.05
"""Prefix caches of two prefill roles count as equal within this share [-]."""

IDLE = 1e-9
"""Rate at which no request waits for another [1/s]."""

ROLE = np.dtype(
    [
        ("index", "i8"),  # index of the split
        ("family", "i8"),
        ("devices", "i8"),
        ("kv", "i8"),
        ("lanes", "i8"),
        ("dp", "i8"),
        ("links", "i8"),  # devices that send the KV cache of one request together
        ("token_bytes", "f8"),  # KV cache of one token on one device [byte]
        ("chunk", "i8"),
        ("batch", "f8"),  # decode: decoding sequences of an instance
        ("full", "?"),  # decode: its KV cache holds no larger batch
        ("rate", "f8"),  # decode: requests that an instance serves [1/s]
        ("tpot", "f8"),  # decode: mean TPOT [s]
        ("tail", "f8"),  # decode: TPOT at the percentile of the SLO [s]
        ("token_s", "f8"),  # prefill: time of one token in full chunks, over all ranks of an instance [s]
        ("pass_s", "f8"),  # prefill: time of a step with full chunks, with the attention of the busiest rank [s]
        ("lone_s", "f8"),  # prefill: time of a step with one chunk of one prompt, on one rank [s]
        ("kv_tokens", "f8"),  # prefill: tokens that the KV cache of an instance holds
    ]
)
Roles: TypeAlias = NDArray[np.void]
"""A table of roles."""


def decode_roles(costing: Costing, candidates: Candidates, ladders: Ladders, decode_s: Floats) -> Roles:
    """Every legal decode split at every batch of the ladder, and at the largest batch that keeps the TPOT bound.

    Parameters
    ----------
    costing : the cost model in its setting
    candidates : legal splits
    ladders : batches to try for each split
    decode_s : time of a decode step at each batch of the ladder, as `grid.decode_times` [s]
    """
    points = candidates.points
    wide, batch = points.columns(1), ladders.batches(points.lanes)
    tpot = decode_s / costing.gained(wide)
    tail = (decode_s + crowded_ladder(costing, batch, decode_s)) / costing.gained(wide)
    aimed = _aim(costing, batch, tail)
    aimed = np.maximum(np.minimum(aimed, costing.filled(_most(costing, wide, aimed))), 1.0)
    aimed_tpot, aimed_tail = (_tpot(costing, wide, at) for at in (aimed, crowd(aimed, costing.crowding)))
    batch = np.concatenate([batch, aimed], axis=1)
    tpot, tail = np.concatenate([tpot, aimed_tpot], axis=1), np.concatenate([tail, aimed_tail], axis=1)
    most = _most(costing, wide, batch)
    legal = costing.places(batch) <= most
    which = np.nonzero(legal)[0]
    roles, one = _table(costing, candidates, which), points[which]
    batch, most = batch[legal], most[legal]
    roles["batch"], roles["tpot"] = batch, tpot[legal]
    roles["tail"] = np.maximum(tail[legal], roles["tpot"])
    roles["rate"] = batch / (costing.demand.request.osl * roles["tpot"])
    roles["full"] = costing.places(batch + np.maximum(1, 0.02 * batch)) > most
    roles["chunk"] = costing.places(batch) * (1 + one.draft)
    return roles


def _tpot(costing: Costing, points: Points, batch: FloatArray) -> Floats:
    return costing.seconds(points, batch, 0.0) / costing.gained(points)


def _most(costing: Costing, points: Points, batch: Floats) -> Floats:
    """Sequences that the KV cache of a decode split holds beside the memory of a batch; 0: a rank holds none."""
    places = costing.places(batch)
    kv_tokens = costing.kv_tokens(points, places, places * (1 + points.draft))
    context = costing.demand.request.context
    return np.where(kv_tokens >= points.dp * context, np.floor(kv_tokens / context), 0.0)


def _aim(costing: Costing, batch: Floats, tpot: Floats) -> Floats:
    """The batch at which TPOT at its percentile reaches its bound, linear between rungs of the ladder: float[n, 1]."""
    if costing.slo.tpot is None:
        return batch[:, -1:]
    bound = costing.slo.tpot.value * STEADY
    last = np.maximum(np.cumprod(tpot <= bound, axis=1).sum(axis=1, keepdims=True) - 1, 0)
    after = np.minimum(last + 1, batch.shape[1] - 1)
    low, high = np.take_along_axis(tpot, last, axis=1), np.take_along_axis(tpot, after, axis=1)
    share = np.clip((bound - low) / np.maximum(high - low, 1e-12), 0, 1)
    small, large = np.take_along_axis(batch, last, axis=1), np.take_along_axis(batch, after, axis=1)
    aimed: Floats = np.maximum(np.floor(small + share * (large - small)), 1.0)
    return aimed


def prefill_roles(costing: Costing, candidates: Candidates, ladders: Ladders) -> Roles:
    """Every legal prefill split at every token budget. Prefill roles use no draft tokens."""
    rows = np.flatnonzero(candidates.points.draft == 0)
    points = candidates.points[rows]
    wide, chunk = points.columns(1), points.lanes[:, None] * ladders.chunks[None, :]
    kv_tokens = costing.kv_tokens(wide, sequences_of(costing, chunk, wide.lanes), chunk)
    legal = kv_tokens > 0
    which, _ = np.nonzero(legal)
    roles = _table(costing, candidates, rows[which])
    roles["chunk"], roles["kv_tokens"] = chunk[legal], kv_tokens[legal]
    roles["pass_s"], roles["lone_s"] = _prefill_steps(costing, wide, chunk, legal)
    roles["token_s"] = roles["pass_s"] / roles["chunk"]
    return roles


def _prefill_steps(costing: Costing, wide: Points, chunk: Floats | Ints, legal: Bools) -> tuple[Floats, Floats]:
    """Times of two steps of each legal role: with full chunks, and with one chunk of one prompt [s].

    In the first step, all ranks wait for the rank with the longest prompts. In the second step, R ranks wait for the
    only rank that has a prompt. This rank has R times the tokens of an even share: its time is R times as long,
    except the time of the experts.
    """
    request = costing.demand.request
    full = costing.times(wide, 0.0, chunk)
    ranks = wide.dp if costing.prefills_alone else np.ones_like(wide.dp)
    attention = full.attention * full.seconds / full.parts
    prompts = chunk / wide.dp / request.uncached
    longest = busiest_context(prompts, ranks, seen_cv(request.uncached_cv))
    longest = np.minimum(longest, max(costing.setting.model.max_context / request.seen, 1.0))
    hot = attention * (longest - 1)
    tokens = np.minimum(request.uncached, chunk / wide.lanes) * wide.pp
    lone = costing.times(wide, 0.0, tokens, wide.pp)
    more = own_share(full.experts - lone.experts, full.parts - lone.parts)
    own = np.maximum(full.seconds - lone.seconds, 0.0) * more / np.maximum(chunk - tokens, 1.0) * tokens
    pass_s = full.seconds + hot
    lone_s = np.minimum(lone.seconds + own * (ranks - 1), pass_s)
    return pass_s[legal], lone_s[legal]


def sequences_of(costing: Costing, chunk: FloatArray, lanes: Ints) -> Floats:
    """Requests that run on a prefill instance at the same time [count].

    Each lane has the requests that fit its token budget, and one request that the budget cuts in two.

    Parameters
    ----------
    costing : the cost model in its setting
    chunk : token budget of a step of an instance [token]
    lanes : lanes of an instance [count]
    """
    running: Floats = lanes * (np.ceil(chunk / lanes / costing.demand.request.uncached) + 1)
    return running


def prefill_of(roles: Roles, instances: FloatArray) -> Prefill:
    """Prefill roles in the form that the steady-state formulas need, with a number of instances each."""
    names = ("lanes", "token_s", "pass_s", "lone_s", "kv_tokens")
    return Prefill(instances, *(np.ascontiguousarray(roles[name]) for name in names))  # records are slow to compute on


def _table(costing: Costing, candidates: Candidates, rows: Ints) -> Roles:
    roles, points = np.zeros(len(rows), ROLE), candidates.points[rows]
    roles["index"], roles["family"], roles["devices"] = rows, candidates.family[rows], points.devices
    roles["kv"], roles["dp"], roles["links"] = points.kv, points.dp, points.tp * points.pp
    roles["lanes"] = points.lanes
    per_token, _ = cache_bytes(costing.setting.model, candidates.points.split())
    roles["token_bytes"] = np.broadcast_to(per_token, len(candidates.points))[rows]
    return roles


def exposed(costing: Costing, prefill: Roles, token_bytes: FloatArray, hit: FloatArray) -> FloatArray:
    """Time that the KV transfer of a request adds to its TTFT [s].

    The devices of one prefill rank send the KV cache to the devices of one decode rank.

    Parameters
    ----------
    costing : the cost model in its setting
    prefill : prefill roles
    token_bytes : KV cache of one token on one device of the decode role [byte]
    hit : hit share of the prefix cache [-]
    """
    demand, bandwidth = costing.demand, wire_bandwidth(costing)
    if not len(prefill):
        return np.zeros(0)
    size = cache_of_request(costing, int(prefill["kv"].flat[0]))
    transfer = np.maximum(size / (prefill["links"] * bandwidth), demand.request.isl * token_bytes / bandwidth)
    own = np.maximum(demand.request.isl * (1 - hit) * prefill["lanes"] * prefill["token_s"], prefill["pass_s"])
    return exposed_transfer(transfer, own, costing.setting.model.layers)


def wire_bandwidth(costing: Costing) -> float:
    """Bandwidth of the KV transfer between roles, per device: scale-up if the machine is one domain [byte/s]."""
    link = wire(costing.setting.machine, costing.rates, costing.setting.machine.devices) or costing.rates.inner
    return link.bandwidth


def cache_of_request(costing: Costing, kv: int) -> float:
    """Size of the KV cache of one request after its prefill, one copy [byte].

    Parameters
    ----------
    costing : the cost model in its setting
    kv : index of the KV dtype in `KV_DTYPES`
    """
    return float(request_bytes(costing.setting.model, costing.demand.request.isl, KV_BYTES[KV_DTYPES[kv]]))


# ── selection of roles ────────────────────────────────────────────────────────────────────────────────────────────────


def may_matter(costing: Costing, candidates: Candidates, roles: Roles, shortlist: Shortlist) -> Roles:
    """Decode roles that can still reach the shortlist.

    The bound gives the whole machine to the decode role, except for one prefill instance of the smallest size.
    """
    machine, least = costing.setting.machine, int(candidates.points.devices.min())
    instances = np.maximum((machine.devices - least) // roles["devices"], 0)
    output = roles["rate"] * costing.demand.request.osl
    output = output / (roles["devices"] + least) if costing.load else output * instances / machine.devices
    kept: Roles = roles[(instances > 0) & ~shortlist.hopeless(1 / roles["tpot"], output)]
    return kept


def in_time(costing: Costing, prefill: Roles) -> Roles:
    """Prefill roles that keep the TTFT bound at its percentile when requests do not wait."""
    if costing.slo.ttft is None:
        return prefill
    alone = prefilling(costing.demand, prefill_of(prefill, 1), np.full(len(prefill), IDLE), np.zeros(len(prefill)))
    kept: Roles = prefill[alone.ttft_tail <= costing.slo.ttft.value]
    return kept


def best_decode(costing: Costing, roles: Roles) -> Roles:
    """The Pareto front of TPOT and rate for each family and KV dtype. Other decode roles are worse in both numbers.

    Roles that keep the TPOT bound at its percentile, and roles that miss it, have separate fronts.
    """
    groups = roles["family"] * len(KV_DTYPES) + roles["kv"]
    if costing.slo.tpot:
        groups = 2 * groups + (roles["tail"] > costing.slo.tpot.value)
    kept = [rows[front(1 / roles["tpot"][rows], roles["rate"][rows])] for rows in _grouped(groups)]
    best: Roles = roles[np.sort(np.concatenate([np.zeros(0, dtype=int), *kept]))]
    return best


def best_prefill(costing: Costing, roles: Roles) -> Roles:
    """Prefill roles of each size and KV dtype that no other role equals or beats in all columns of `_wanted`.

    TTFT grows with the rate. Roles are compared without load, and at the rate at which TTFT reaches its bound.
    """
    groups = roles["devices"] * len(KV_DTYPES) + roles["kv"]
    kept = [rows[_unbeaten(_wanted(costing, roles[rows]))] for rows in _grouped(groups)]
    best: Roles = roles[np.concatenate([np.zeros(0, dtype=int), *kept])]
    return best


def _grouped(groups: Ints) -> list[Ints]:
    return [np.flatnonzero(groups == group) for group in np.unique(groups)]


def _wanted(costing: Costing, roles: Roles) -> Floats:
    """Columns in which a smaller number is better.

    They are the time of a token at full load, TTFT without load, and the highest rate within the TTFT bound (negative):
    of one instance, of as many as the machine holds, and of a number between both, since a request waits less where
    more lanes may be free.
    """
    demand, most = costing.demand, np.maximum(costing.setting.machine.devices // roles["devices"], 1)
    role = dataclasses.replace(prefill_of(roles, 1), kv_tokens=np.inf)
    alone, tpot = np.full(len(roles), IDLE), np.zeros(len(roles))
    late = exposed(costing, roles, 0.0, demand.request.hit_share)
    wanted = [roles["token_s"], prefilling(demand, role, alone, tpot).ttft_tail + late]
    if costing.slo.ttft:
        for instances in (1, np.ceil(np.sqrt(most)), most):
            several = dataclasses.replace(role, instances=instances)
            wanted.append(-in_time_rate(demand, several, costing.slo.ttft.value - late, tpot))
    if demand.request.hit_share > 0:  # a role with a larger KV cache can have more prefix hits
        wanted.append(-np.floor(np.log(roles["kv_tokens"]) / ALIKE))
    return np.stack(wanted, axis=1)


def in_time_rate(demand: Demand, role: Prefill, bound: FloatArray, tpot: Floats) -> Floats:
    """The highest rate at which a prefill role keeps the TTFT bound, by bisection [1/s].

    Parameters
    ----------
    demand : workload and SLO
    role : the prefill role
    bound : bound on TTFT at its percentile [s]
    tpot : TPOT of the decode role [s]
    """
    high = np.asarray(prefill_limit(demand, role, tpot))
    low = np.zeros(high.shape)
    for _ in range(BISECTIONS):
        rate = (low + high) / 2
        kept = prefilling(demand, role, rate, tpot).ttft_tail <= bound
        low, high = np.where(kept, rate, low), np.where(kept, high, rate)
    return low


def _unbeaten(costs: Floats) -> Ints:
    """Rows that no other row equals or undercuts in every column, in order; the first one of equal rows.

    In ascending order a row can only be beaten by an earlier one. So each block of rows is compared with the rows that
    are kept so far, and with itself.
    """
    ordered, first = np.unique(costs, axis=0, return_index=True)
    kept = np.zeros(0, dtype=int)
    for start in range(0, len(ordered), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(ordered)))
        block = block[~_beats(ordered[kept], ordered[block]).any(axis=0)]
        inside = _beats(ordered[block], ordered[block])
        np.fill_diagonal(inside, False)
        kept = np.concatenate([kept, block[~inside.any(axis=0)]])
    return np.sort(first[kept])


def _beats(rows: Floats, others: Floats) -> Bools:
    """Whether each row (axis 0) equals or undercuts each other row (axis 1) in every column."""
    beats: Bools = np.all(rows[:, None, :] <= others[None, :, :], axis=2)
    return beats
