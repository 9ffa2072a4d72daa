"""Small random clusters and requests from a seed. They use all features of the engine and are often short of memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from tokenworks.engine.outcome import Counts, Ended, Outcome, PerRequest
from tokenworks.engine.policies import POLICIES
from tokenworks.engine.tiers import Lane, Store, Tiers
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, Router, StepCost, Transfer

ROUTERS = ("round_robin", "least_loaded", "power_of_two", "prefix_aware")
BEAT = 257 / 16384  # exact in binary, so arrivals coincide with ends of steps; in the middle of a bin of gaps [s]


def limits(rng: np.random.Generator, *, prefix: bool) -> Limits:
    draft = int(rng.choice([0, 0, 0, 1, 3]))
    sequences = int(rng.integers(1, 9))
    return Limits(
        max_sequences=sequences,
        token_budget=int(sequences * (1 + draft) + rng.choice([0, 3, 40, 400])),
        kv_blocks=int(rng.integers(4, 60)),
        block_tokens=int(rng.choice([1, 4, 5, 16])),
        max_model_len=int(rng.choice([40, 1000])),
        max_queue=int(rng.choice([0, 0, 0, 3])),
        watermark_blocks=int(rng.choice([0, 0, 2])),
        output_reserve=float(rng.choice([0, 0.7])),
        draft_tokens=draft,
        tokens_per_step=float(rng.uniform(1, 1 + draft)),
        prefix_caching=prefix,
        policy=str(rng.choice(["vllm", "sglang"])),
        receive_interval=int(rng.spawn(1)[0].choice([1, 1, 2, 7])),  # spawned: other numbers stay as they were
    )


def scheduled(own: Limits, rng: np.random.Generator) -> Limits:
    """The limits with a random order of the queue, and a random limit of one prompt where the policy has one."""
    own = replace(own, ageing_s=float(rng.choice([0, 0, 0, BEAT / 64, BEAT])))
    if POLICIES[own.policy].mixes:
        own = replace(own, long_prefill_tokens=int(rng.choice([0, 0, 1, 7, 30])))
    return own


def cost(rng: np.random.Generator, tokens: int) -> StepCost:
    table = np.cumsum(rng.uniform(1e-5, 1e-4, tokens + 1)) + 1e-3
    if rng.random() < 0.3:
        table[:] = BEAT
        return StepCost(table)
    return StepCost(table, *rng.uniform(0, 1e-4, 5))


def pool(rng: np.random.Generator, role: str, *, block: int | None = None) -> Pool:
    own = limits(rng, prefix=role != "decode" and rng.random() < 0.6)
    ranks = int(rng.choice([1, 1, 1, 2, 3]))
    prices = cost(rng, ranks * own.token_budget)
    return Pool(prices, own, instances=int(rng.choice([1, 1, 2, 3])), ranks=ranks, role=role,  # type: ignore[arg-type]
                stages=int(rng.choice([1, 1, 1, 3])))  # fmt: skip


def cluster(rng: np.random.Generator) -> Cluster:
    split = rng.random() < 0.3
    pools = tuple(pool(rng, role) for role in (("prefill", "decode") if split else ("aggregated",)))
    router = Router(str(rng.choice(ROUTERS)), imbalance=float(rng.choice([0, 0.5])), slack=int(rng.integers(0, 4)),  # type: ignore[arg-type]
                    load_tokens=int(rng.choice([0, 3, 100])),
                    event_delay_s=float(rng.choice([0, 0.05])), seed=int(rng.integers(0, 1 << 30)))  # fmt: skip
    transfer = Transfer(float(rng.choice([0, 0.003])), float(rng.choice([0, 1e-4])), float(rng.choice([0, 0.5])))
    closed, window, request = rng.choice([0, 0, 1, 5]), rng.choice([0, 0.0625, 0.5]), rng.choice([0, 0, 0.013])
    accept = rng.spawn(1)[0].choice([0, 0, 0.004, BEAT])
    below = tiers(rng.spawn(1)[0], pools[0])
    extra = rng.spawn(1)[0]  # the last one of the cluster: other numbers stay as they were
    pools = tuple(replace(one, limits=scheduled(one.limits, extra)) for one in pools)
    router = with_cold_ranks(router, pools[0].instances * pools[0].ranks, extra)
    return Cluster(pools, router, transfer, int(closed), float(window), float(request), float(accept), below)


def tiers(rng: np.random.Generator, front: Pool) -> Tiers:
    """KV tiers of a pool with a prefix cache, in two of three cases: tiny stores, gateways, shared links."""
    if not front.limits.prefix_caching or rng.random() < 1 / 3:
        return Tiers()
    ranks, stores = front.instances * front.ranks, list[Store]()
    fail = float(rng.choice([0, 0, 0.4]))
    for i in range(int(rng.integers(1, 4))):
        gateway = int(rng.integers(-1, i)) if rng.random() < 0.5 else -1
        stores.append(
            Store(
                f"tier {i}", int(rng.choice([0, 1, 3, 8, 20, 60])), shares(rng, ranks),
                read=lanes(rng, ranks), write=lanes(rng, ranks), latency_s=float(rng.choice([0, 0.001, BEAT])),
                gateway=gateway, written=str(rng.choice(["through", "back"])),  # type: ignore[arg-type]
                uses=int(rng.choice([1, 1, 2, 3])), eviction=str(rng.choice(["lru", "arc", "cost"])),  # type: ignore[arg-type]
                prefetch="none" if gateway < 0 else str(rng.choice(["none", "best_effort", "wait", "timeout"])),  # type: ignore[arg-type]
                timeout_s=float(rng.choice([0, 0.002, BEAT])), failures=fail,
            )
        )  # fmt: skip
    return Tiers(
        tuple(stores), load=str(rng.choice(["layerwise", "async"])), layers=int(rng.choice([1, 10])),  # type: ignore[arg-type]
        on_failure=str(rng.choice(["recompute", "fail"])), seed=int(rng.integers(0, 1 << 30)),  # type: ignore[arg-type]
        block_s=float(rng.choice([0, 0.001])), position_s=float(rng.choice([0, 1e-4])),
    )  # fmt: skip


def shares(rng: np.random.Generator, ranks: int) -> tuple[int, ...]:
    """Number of the store or the link of each rank: alone, shared by all, or shared by some."""
    kind = rng.random()
    if kind < 0.4:
        return tuple(range(ranks))
    return (0,) * ranks if kind < 0.8 else tuple(rng.integers(0, ranks, ranks).tolist())


def lanes(rng: np.random.Generator, ranks: int) -> tuple[Lane, ...]:
    """One or two lanes over links with random numbers, which other lanes may use as well."""
    first = [int(n) for n in rng.integers(0, 6, int(rng.integers(1, 3)))]
    block_s = [float(s) for s in rng.choice([0, 1e-4, 0.002, BEAT / 4], len(first))]
    return tuple(Lane(tuple(n + own for own in shares(rng, ranks)), s) for n, s in zip(first, block_s, strict=True))


def with_cold_ranks(router: Router, ranks: int, rng: np.random.Generator) -> Router:
    """The router with a random number of cold ranks, if it can have any."""
    if router.name != "prefix_aware" or ranks == 1:
        return router
    return replace(router, cold_ranks=int(rng.integers(0, ranks)), cold_tokens=int(rng.choice([0, 10, 60])))


def requests(rng: np.random.Generator, count: int) -> Requests:
    inputs = rng.integers(1, int(rng.choice([4, 60, 200])), count)
    outputs = rng.integers(1, int(rng.choice([2, 30, 120])), count)
    arrival = np.cumsum(rng.exponential(float(rng.choice([1e-3, 0.03, 0.3])), count))
    if rng.random() < 0.4:
        arrival = np.floor(arrival / BEAT) * BEAT
    after = np.where(rng.random(count) < rng.choice([0, 0.5]), rng.integers(-1, np.maximum(np.arange(count), 1)), -1)
    after = np.minimum(after, np.arange(count) - 1)
    groups = int(rng.choice([1, 1, 3]))
    later = after >= 0
    arrival[later] = rng.choice([0, BEAT, 0.1], later.sum())
    names = [chain(rng, int(n)) for n in rng.integers(0, 30, count)]
    return Requests.of(
        arrival, inputs, outputs,
        priority=rng.integers(0, 3, count) if rng.random() < 0.3 else None,
        group=rng.integers(0, groups, count), after=after,
        block_ids=np.concatenate([*names, np.zeros(0, np.int64)]).astype(np.int64),
        block_offsets=np.concatenate([[0], np.cumsum([len(name) for name in names])]),
    )  # fmt: skip


def reuse(rng: np.random.Generator) -> tuple[Cluster, Requests]:
    """Users with long prompts take turns at a cluster with KV tiers and too small an HBM, so tiers serve blocks."""
    own = cluster(rng)
    size, count, users = int(rng.choice([1, 4])), int(rng.integers(5, 40)), int(rng.integers(1, 5))
    tight = replace(own.pools[0].limits, kv_blocks=int(rng.integers(12, 30)), block_tokens=size, prefix_caching=True)
    front = replace(own.pools[0], limits=replace(tight, max_queue=0, max_model_len=1000))
    later = [
        replace(p, limits=replace(p.limits, block_tokens=size, kv_blocks=60, max_model_len=1000)) for p in own.pools[1:]
    ]
    below = tiers(rng, front)
    while not below.stores:
        below = tiers(rng, front)
    texts = [1000 * np.arange(1, 13) + int(rng.integers(0, 2)) * user for user in range(users)]
    names = [texts[int(rng.integers(0, users))][: int(rng.integers(1, 12))] for _ in range(count)]
    lengths = np.array([len(name) for name in names])
    arrival = np.cumsum(rng.exponential(float(rng.choice([1e-3, 0.03, 0.3])), count))
    if rng.random() < 0.4:
        arrival = np.floor(arrival / BEAT) * BEAT
    requests = Requests.of(
        arrival, lengths * size + rng.integers(1 - size, 2, count), rng.integers(1, 8, count) * size,
        priority=rng.integers(0, 3, count) if rng.random() < 0.3 else None,
        block_ids=np.concatenate(names), block_offsets=np.concatenate([[0], np.cumsum(lengths)]),
    )  # fmt: skip
    return replace(own, pools=(front, *later), tiers=below), requests


def branching(rng: np.random.Generator) -> tuple[Cluster, Requests]:
    """As `reuse`, but prompts branch off anywhere in earlier prompts, so blocks of KV tiers form many short runs."""
    own, _ = reuse(rng)
    limits = replace(own.pools[0].limits, kv_blocks=int(rng.integers(32, 60)))
    own = replace(own, pools=(replace(own.pools[0], limits=limits), *own.pools[1:]))
    size, count = limits.block_tokens, int(rng.integers(10, 60))
    names: list[np.ndarray] = [np.zeros(0, np.int64)]
    for i in range(count):
        old = names[int(rng.integers(0, i + 1))]
        kept = old[: int(rng.integers(0, len(old) + 1))]
        new = 100 * (i + 1) + np.arange(int(rng.integers(0, 12)))
        names.append(np.concatenate([kept, new])[:28])
    lengths = np.array([len(name) for name in names[1:]])
    requests = Requests.of(
        np.cumsum(rng.exponential(float(rng.choice([1e-3, 0.03, 0.3])), count)), lengths * size + 1,
        rng.integers(1, 8, count), block_ids=np.concatenate(names),
        block_offsets=np.concatenate([[0], np.cumsum(lengths)]),
    )  # fmt: skip
    return own, requests


def moments(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random times; often they coincide with other events or with each other [s]."""
    times = rng.exponential(float(rng.choice([0.02, 0.3])), count)
    times = np.floor(times / BEAT) * BEAT if rng.random() < 0.5 else times
    return times[rng.integers(0, count, count)] if rng.random() < 0.3 else times


def with_faults(rng: np.random.Generator, own: Cluster) -> Cluster:
    """The cluster with two other costs of a step, a random rule for lost requests, and stores that may survive."""
    pools = tuple(
        replace(p, variants=tuple(cost(rng, p.ranks * p.limits.token_budget) for _ in range(2))) for p in own.pools
    )
    stores = tuple(replace(store, survives=bool(rng.random() < 0.3)) for store in own.tiers.stores)
    return replace(own, pools=pools, on_loss=str(rng.choice(["fail", "restart", "migrate", "migrate"])),  # type: ignore[arg-type]
                   retries=int(rng.choice([0, 1, 5, 5])), tiers=replace(own.tiers, stores=stores))  # fmt: skip


def busy_times(rng: np.random.Generator, requests: Requests, count: int) -> np.ndarray:
    """Random times soon after arrivals, when requests are in flight; often they coincide with other events [s]."""
    arrivals = requests.arrival_s[requests.after < 0]
    if not len(arrivals):
        return moments(rng, count)
    times = rng.choice(arrivals, count) + rng.choice([0, BEAT, 0.004, 0.03], count) * rng.integers(0, 5, count)
    return np.floor(times / BEAT) * BEAT if rng.random() < 0.3 else times


def faults(rng: np.random.Generator, own: Cluster, times: np.ndarray) -> list[tuple[float, str, int, float]]:
    """Events of instances and ranks at some of the times. Each stop has its start, each loss its return."""
    ranks = np.cumsum([0, *(p.instances * p.ranks for p in own.pools)])
    instances, events = sum(p.instances for p in own.pools), list[tuple[float, str, int, float]]()
    for _ in range(int(rng.integers(0, 10))):
        kind, time = str(rng.choice(["stop", "pause", "cost", "lose", "lose", "die"])), float(rng.choice(times))
        i, rank, later = int(rng.integers(instances)), int(rng.integers(ranks[-1])), float(rng.choice(_DOWN))
        if kind == "pause":
            events.append((time, kind, i, float(rng.choice([0, BEAT, 0.01]))))
        elif kind == "cost":
            events.append((time, kind, i, float(rng.integers(0, 3))))
        elif kind == "stop":
            events += [(time, kind, i, 0.0), (time + later, "start", i, 0.0)]
        elif kind == "lose":
            events += [(time, kind, rank, 0.0), (time + later, "back", rank, 0.0)]
        else:  # a whole instance, as without elastic EP
            front = i < own.pools[0].instances
            first, stride = (0, own.pools[0].instances) if front else (int(ranks[1]), own.pools[-1].instances)
            mine = range(first + (i if front else i - own.pools[0].instances), int(ranks[1 if front else 2]), stride)
            events += [(time, "stop", i, 0.0), *((time + BEAT, "lose", r, 0.0) for r in mine)]
            events += [*((time + BEAT + later, "back", r, 0.0) for r in mine), (time + BEAT + later, "start", i, 0.0)]
    return events


_DOWN = (0, 3 * BEAT, 0.05, 0.3)  # time from a fault to its end [s]


def chain(rng: np.random.Generator, length: int) -> np.ndarray:
    """Chained block ids of one request. Each id has three possible successors, so requests share prefixes by chance."""
    turns = rng.integers(0, 3, length) * (rng.random(length) < 0.3)
    names, name = [], 7
    for turn in turns:
        name = (name * 1000003 + int(turn) + 1) % (1 << 61)
        names.append(name)
    return np.array(names, dtype=np.int64)


def assert_same_counts(slow: Counts | Outcome, fast: Counts | Outcome) -> None:
    """Check that all counters are equal; times to a relative 1e-9."""
    for one, two in zip(fast.pools, slow.pools, strict=True):
        assert {**vars(one), "busy_s": 0, "link_busy_s": 0} == {**vars(two), "busy_s": 0, "link_busy_s": 0}
        np.testing.assert_allclose([one.busy_s, one.link_busy_s], [two.busy_s, two.link_busy_s], rtol=1e-9)
    for mine, oracle in zip(fast.tiers, slow.tiers, strict=True):
        assert {**vars(mine), "read_s": 0, "write_s": 0} == {**vars(oracle), "read_s": 0, "write_s": 0}
        np.testing.assert_allclose([mine.read_s, mine.write_s], [oracle.read_s, oracle.write_s], rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(fast.faults, slow.faults, strict=True):
        assert {**vars(ours), "down_s": 0} == {**vars(theirs), "down_s": 0}
        np.testing.assert_allclose(ours.down_s, theirs.down_s, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(fast.itl_counts, slow.itl_counts)
    assert abs(fast.now_s - slow.now_s) < 1e-9


def slices(whole: Requests, at: list[int]) -> list[Requests]:
    """Parts of the requests that begin at the indices `at`, to be submitted one after the other."""
    parts = []
    for low, high in pairwise([*at, len(whole)]):
        first, last = whole.block_offsets[low], whole.block_offsets[high]
        columns = {name: getattr(whole, name)[low:high] for name in _COLUMNS}
        offsets = whole.block_offsets[low : high + 1] - first
        parts.append(Requests.of(**columns, block_ids=whole.block_ids[first:last], block_offsets=offsets, earlier=low))
    return parts


_COLUMNS = ("arrival_s", "input_tokens", "output_tokens", "priority", "group", "after")


def assert_same_requests(slow: PerRequest, fast: PerRequest) -> None:
    """Check that the results of all requests are equal; times to 1e-9 s."""
    for name in ("status", "rank", "cached_tokens", "preemptions", "retries"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name), err_msg=name)
    for name in ("arrival_s", "scheduled_s", "first_token_s", "end_s"):
        mine, oracle = getattr(fast, name), getattr(slow, name)
        seen = slow.status > 0 if name == "arrival_s" else slice(None)
        np.testing.assert_allclose(mine[seen], oracle[seen], rtol=0, atol=1e-9, err_msg=name)


def assert_same_ended(slow: Ended, fast: Ended) -> None:
    """Check that the same requests were taken in the same order, with equal results."""
    np.testing.assert_array_equal(fast.number, slow.number)
    assert_same_requests(slow, fast)


def joined(parts: list[Ended]) -> Ended:
    """Results of several calls of `take`, in the order of submission."""
    order = np.argsort(np.concatenate([part.number for part in parts]))
    columns = {name: np.concatenate([getattr(part, name) for part in parts])[order] for name in vars(parts[0])}
    return Ended(**columns)


def assert_same(slow: Outcome, fast: Outcome) -> None:
    """Check that two outcomes are equal in all results, the series and all counters; times to 1e-9 s."""
    assert_same_requests(slow, fast)
    np.testing.assert_array_equal(fast.series, slow.series)
    assert_same_counts(slow, fast)
