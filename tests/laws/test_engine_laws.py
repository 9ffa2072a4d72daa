"""Laws of the serving engine: conservation, order in time, determinism, and queues with a known answer."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import cases
from tokenworks.engine import reference, simulator
from tokenworks.engine.live import LiveSimulator
from tokenworks.engine.metrics import metrics
from tokenworks.engine.outcome import Outcome
from tokenworks.engine.simulator import Simulator
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, Router, Status, StepCost, Transfer

SEEDS = st.integers(0, 1 << 40)


def drawn(seed: int) -> tuple[Cluster, Requests]:
    rng = np.random.default_rng(seed)
    return cases.cluster(rng), cases.requests(rng, int(rng.integers(1, 60)))


# ---- conservation


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.lists(st.floats(0.001, 1.0), max_size=5))
def test_injected_is_completed_queued_running_or_dropped(seed: int, pauses: list[float]) -> None:
    """At every moment; and at the end nothing is left that could go on, and all blocks are free."""
    cluster, requests = drawn(seed)
    run = simulator.Simulator(cluster)
    run.submit(requests)
    for now in [*np.cumsum(pauses), math.inf]:
        run.advance(float(now))
        outcome = run.outcome()
        injected = np.count_nonzero(outcome.status != Status.PENDING)
        assert injected == sum(outcome.count(status) for status in Status if status is not Status.PENDING)
        assert not math.isfinite(now) or outcome.now_s == now
        states_follow_from_times(outcome)
        for pool in outcome.pools:
            assert 0 <= pool.kv_used <= pool.kv_total
    assert outcome.count(Status.QUEUED) == outcome.count(Status.RUNNING) == 0
    assert all(pool.kv_used == 0 for pool in outcome.pools)
    produced = sum(pool.output_tokens for pool in outcome.pools)
    assert produced == outcome.output_tokens[outcome.status == Status.COMPLETED].sum()


def states_follow_from_times(outcome: Outcome) -> None:
    running = outcome.status == Status.RUNNING
    assert not np.isnan(outcome.scheduled_s[running]).any()
    assert np.isnan(outcome.end_s[outcome.status < Status.COMPLETED]).all()
    assert not np.isnan(outcome.end_s[outcome.status == Status.COMPLETED]).any()


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_blocks_allocated_and_free_are_all_blocks_at_every_event(seed: int) -> None:
    """In the reference, block by block: each is free once, or held, and shared only under its own name."""
    cluster, requests = drawn(seed)
    run = reference.Reference(cluster)
    run.submit(requests)
    times = sorted({0.0, *np.random.default_rng(seed).uniform(0, 2, 40)})
    for now in times:
        run.advance(now)
        holders = [q for q in run.sequences if q.at] + [q.left[1] for q in run.sequences if q.left]
        for rank in (rank for pool in run.pools for rank in pool):
            mine = [q for q in holders if (q.at is rank and not q.left) or any(q is s.left[1] and s.left[0] is rank
                    for s in run.sequences if s.left)]  # fmt: skip
            private = [block for q in mine for block in q.anonymous]
            shared = {block for q in mine for block in q.cached}
            held = set(private) | shared
            assert len(private) == len(set(private))
            assert not shared & set(private)
            assert not held & set(rank.free)
            loading = [q for q in run.sequences if q.left and q.at is rank and q.status is Status.RUNNING]
            fetched = {block for q in loading for block in q.anonymous}
            assert len(held | fetched) + len(rank.free) == rank.limits.kv_blocks
            assert all(rank.users[block] == sum(block in q.cached for q in mine) for block in shared)


# ---- time


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_a_request_lives_forwards(seed: int) -> None:
    """Arrival <= scheduled <= first token <= end, and no gap, queue or token counts are negative."""
    cluster, requests = drawn(seed)
    outcome = simulator.run(cluster, requests)
    done = outcome.status == Status.COMPLETED
    times = [outcome.arrival_s, outcome.scheduled_s, outcome.first_token_s, outcome.end_s]
    for early, late in pairwise(times):
        assert (early[done] <= late[done]).all()
    assert (outcome.series >= 0).all()
    assert (outcome.itl_counts >= 0).all()
    assert outcome.now_s >= np.nanmax(outcome.end_s, initial=0.0) or any(pool.stages > 1 for pool in cluster.pools)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_clocks_never_go_back(seed: int) -> None:
    """Looking between events does not change what happens, and what has happened does not change."""
    cluster, requests = drawn(seed)
    whole = simulator.run(cluster, requests)
    run = simulator.Simulator(cluster)
    run.submit(requests)
    for now in np.sort(np.random.default_rng(seed).uniform(0, 3, 20)):
        run.advance(now)
        outcome = run.outcome()
        past = outcome.status == Status.COMPLETED
        assert (outcome.end_s[past] <= now).all() or any(pool.stages > 1 for pool in cluster.pools)
        np.testing.assert_array_equal(outcome.end_s[past], whole.end_s[past])
    run.advance()
    later = run.outcome()
    cases.assert_same(whole, replace(later, now_s=whole.now_s, series=later.series[: len(whole.series)]))


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_same_seed_same_bytes(seed: int) -> None:
    one, two = simulator.run(*drawn(seed)), simulator.run(*drawn(seed))
    for name, value in vars(one).items():
        if isinstance(value, np.ndarray):
            assert value.tobytes() == getattr(two, name).tobytes(), name
    assert one.pools == two.pools


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(cases.ROUTERS))
def test_routing_never_reads_the_output_length(seed: int, name: str) -> None:
    """All sent at once: what differs is only how long the answers are, so every request finds the same rank."""
    rng = np.random.default_rng(seed)
    prices, limits = cases.cost(rng, 400), Limits(4, 100, 1000, 4, prefix_caching=True)
    cluster = Cluster((Pool(prices, limits, instances=4),), Router(name))  # type: ignore[arg-type]
    count = 30
    names = np.concatenate([cases.chain(rng, 20) for _ in range(count)])
    inputs, arrival = rng.integers(1, 80, count), np.zeros(count)
    one, two = (
        simulator.run(
            cluster,
            Requests.of(arrival, inputs, outputs, block_ids=names, block_offsets=20 * np.arange(count + 1)),
        ).rank
        for outputs in (rng.integers(1, 50, count), rng.integers(1, 50, count))
    )
    np.testing.assert_array_equal(one, two)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_decode_never_before_its_kv_arrives(seed: int) -> None:
    """The second token comes after the first by at least the transfer and one step of the decode side."""
    rng = np.random.default_rng(seed)
    transfer = Transfer(0.01, 1e-3, 0.25)
    fast = StepCost(np.full(401, 0.001))
    cluster = Cluster(
        (
            Pool(fast, Limits(8, 400, 200), instances=2, role="prefill"),
            Pool(fast, Limits(8, 400, 200), instances=2, role="decode"),
        ),
        transfer=transfer,
    )
    requests = cases.requests(rng, 40)
    outcome = simulator.run(cluster, requests)
    done = (outcome.status == Status.COMPLETED) & (outcome.output_tokens > 1)
    needed = 0.01 + outcome.input_tokens * 0.75e-3 + 0.001 * (outcome.output_tokens - 1)
    assert (outcome.end_s - outcome.first_token_s - needed)[done].min(initial=0.0) > -1e-9


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_a_link_has_one_flow_at_a_time(seed: int) -> None:
    """Both sides book what is carried, each request once; no link is busy for longer than the run."""
    rng = np.random.default_rng(seed)
    transfer = Transfer(0.01, 1e-3)
    pools = tuple(
        Pool(StepCost(np.full(401, 0.001)), Limits(8, 400, 200), instances=int(rng.integers(1, 4)), role=role)
        for role in ("prefill", "decode")
    )
    outcome = simulator.run(Cluster(pools, transfer=transfer), cases.requests(rng, 40))
    carried = (outcome.status == Status.COMPLETED) & (outcome.output_tokens > 1)
    needed = 0.01 + outcome.input_tokens[carried] * 1e-3
    for pool, counts in zip(pools, outcome.pools, strict=True):
        assert counts.link_flows == carried.sum()
        assert counts.link_busy_s == pytest.approx(needed.sum())
        assert counts.link_busy_s <= pool.instances * outcome.now_s + 1e-9


# ---- runs without an end


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.lists(st.floats(0.001, 1.0), max_size=5))
def test_taking_now_and_then_is_taking_at_the_end(seed: int, pauses: list[float]) -> None:
    """Each request is taken once, when it has ended, as the whole run has it."""
    cluster, requests = drawn(seed)
    whole, run = simulator.run(cluster, requests), simulator.Simulator(cluster)
    run.submit(requests)
    parts = []
    for now in [*np.cumsum(pauses), math.inf]:
        run.advance(float(now))
        before = run.ended
        parts.append(run.take())
        assert len(parts[-1].number) + sum(len(part.number) for part in parts[:-1]) == before
        assert not len(run.take().number)
        assert len(run.outcome().status) == len(requests) - before
    taken = cases.joined(parts)
    assert taken.number.tolist() == list(range(len(requests)))
    for name in set(vars(taken)) - {"number", "arrival_s"}:
        np.testing.assert_array_equal(getattr(taken, name), getattr(whole, name), err_msg=name)


@pytest.mark.parametrize(("prefix", "engine"), [(False, Simulator), (True, Simulator), (True, LiveSimulator)])
def test_a_run_without_an_end_needs_memory_for_what_is_in_flight_only(prefix: bool, engine: type[Simulator]) -> None:
    """A hundred times more requests than slots, and the same times as in one whole run."""
    rng, count, step = np.random.default_rng(8), 40_000, 200
    sizes = rng.integers(0, 20, count)
    requests = Requests.of(
        np.cumsum(rng.exponential(0.02, count)), 4 * sizes + 1, rng.integers(1, 20, count),
        block_ids=np.concatenate([cases.chain(rng, int(size)) for size in sizes]),
        block_offsets=np.concatenate([[0], np.cumsum(sizes)]),
    )  # fmt: skip
    limits = Limits(16, 200, 100, 4, prefix_caching=prefix)
    cluster = Cluster((Pool(StepCost(np.linspace(0.001, 0.02, 201)), limits, instances=2),), Router("prefix_aware"))
    whole, run = simulator.run(cluster, requests), engine(cluster)
    parts, held = [], []
    for part in cases.slices(requests, list(range(0, count, step))):
        run.submit(part)
        run.advance(float(part.arrival_s[-1]))
        parts.append(run.take())
        held.append([len(array) for array in run._state])
    run.advance()
    taken = cases.joined([*parts, run.take()])
    assert run.slots < count / 100
    assert len(run._state.request) <= 2 * run.slots
    assert (np.max(held, axis=0) <= 1.5 * np.max(held[:100], axis=0)).all()
    for name in set(vars(taken)) - {"number"}:
        np.testing.assert_array_equal(getattr(taken, name), getattr(whole, name), err_msg=name)


# ---- queues with a known answer


def queue(servers: int, service_s: np.ndarray, rate: float, rng: np.random.Generator) -> Outcome:
    """One token in, n out, one at a time in each instance: service time is n steps of 1 ms."""
    count = len(service_s)
    pool = Pool(StepCost(np.full(3, 0.001)), Limits(1, 2, 100000), instances=servers)
    outputs = np.maximum(np.round(service_s * 1000), 1).astype(int)
    arrival = np.cumsum(rng.exponential(1 / rate, count))
    return simulator.run(Cluster((pool,), Router("least_loaded")), Requests.of(arrival, np.ones(count, int), outputs))


def waiting(outcome: Outcome) -> float:
    return float((outcome.scheduled_s - outcome.arrival_s).mean())


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_m_d_1(load: float) -> None:
    """Wait in an M/D/1 queue: rho / (2 mu (1 - rho)) (Pollaczek-Khinchine)."""
    rng = np.random.default_rng(1)
    outcome = queue(1, np.full(200_000, 0.2), load / 0.2, rng)
    assert waiting(outcome) == pytest.approx(load * 0.2 / (2 * (1 - load)), rel=0.03)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_m_m_1(load: float) -> None:
    """Wait in an M/M/1 queue: rho / (mu (1 - rho))."""
    rng = np.random.default_rng(2)
    outcome = queue(1, rng.exponential(1.0, 400_000), load, rng)
    assert waiting(outcome) == pytest.approx(load / (1 - load), rel=0.04)


@pytest.mark.parametrize("servers", [2, 8])
def test_m_m_k(servers: int) -> None:
    """Wait in an M/M/k queue at 70 % (Erlang C): k servers are k sequences of one instance with steps of 0.1 ms."""
    rng, load = np.random.default_rng(3), 0.7
    count = 600_000
    outputs = np.maximum(np.round(rng.exponential(10_000, count)), 1).astype(int)
    arrival = np.cumsum(rng.exponential(1 / (load * servers), count))
    pool = Pool(StepCost(np.full(servers + 2, 1e-4)), Limits(servers, servers + 1, 10**7))
    outcome = simulator.run(Cluster((pool,)), Requests.of(arrival, np.ones(count, int), outputs))
    offered = load * servers
    last = offered**servers / math.factorial(servers) / (1 - load)
    chance = last / (sum(offered**k / math.factorial(k) for k in range(servers)) + last)
    assert waiting(outcome) == pytest.approx(chance / (servers * (1 - load)), rel=0.04)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_little(seed: int) -> None:
    """Requests in the system, on average, = their rate x their mean time in it; the series sees the same."""
    rng = np.random.default_rng(seed)
    count = 2000
    requests = Requests.of(np.cumsum(rng.exponential(0.05, count)), rng.integers(1, 300, count),
                           rng.integers(1, 60, count))  # fmt: skip
    cost = StepCost(np.linspace(0.004, 0.024, 1001), 1e-5, 1e-7)
    cluster = Cluster((Pool(cost, Limits(8, 1000, 400), instances=2),), Router("least_loaded"), window_s=0.01)
    outcome = simulator.run(cluster, requests)
    m = metrics(outcome)
    inside = m.request_throughput * m.mean_e2el_ms * 1e-3
    seen = outcome.series[:-1, :2].sum() * 0.01 / m.duration
    assert seen == pytest.approx(inside, rel=0.02)


def test_an_impossible_rate_shows_its_backlog() -> None:
    """Beyond capacity the queue grows in every window while requests come."""
    count = 2000
    requests = Requests.of(np.arange(count) * 0.005, [1] * count, [10] * count)
    cluster = Cluster((Pool(StepCost(np.full(3, 0.001)), Limits(1, 2, 10)),), window_s=1.0)
    run = simulator.Simulator(cluster)
    run.submit(requests)
    run.advance(10.0)
    backlog = run.outcome().series[:9, 1]
    assert (np.diff(backlog) > 50).all()


# ---- traps that others fell into


def chain_requests(*, output: int = 30) -> Requests:
    """Two users with one prompt of ten blocks of 4."""
    ids = np.tile(np.arange(1, 11), 2)
    return Requests.of([0.0, 0.001], [41, 41], [output, output], block_ids=ids, block_offsets=[0, 10, 20])


def test_a_chunk_that_ends_within_a_block_does_not_shift_the_names() -> None:
    """A prompt of 41 in chunks of 7 still gives its second reader all ten blocks."""
    pool = Pool(StepCost(np.full(10, 0.001)), Limits(2, 8, 100, 4, prefix_caching=True))
    requests = chain_requests()
    requests.arrival_s[1] = 1.0
    assert simulator.run(Cluster((pool,)), requests).cached_tokens.tolist() == [0, 40]


def test_a_preempted_request_finds_its_own_blocks_but_they_are_no_hits() -> None:
    """Hits are those of first admissions: what a preempted request finds of itself is not counted again."""
    pool = Pool(StepCost(np.full(101, 0.001)), Limits(2, 100, 24, 4, prefix_caching=True))
    ids = np.arange(1, 21)
    requests = Requests.of([0.0, 0.0], [41, 41], [50, 50], block_ids=ids, block_offsets=[0, 10, 20])
    outcome = simulator.run(Cluster((pool,)), requests)
    (counts,) = outcome.pools
    assert counts.preemptions > 0
    assert counts.hit_tokens == 0
    assert counts.query_tokens == 82
    assert counts.prefill_tokens < 82 + 41 + 50  # it did find some


def test_the_router_hears_of_a_cache_late() -> None:
    """A router that saw caches as they are would send the second user to where the first one's prompt is."""
    pool = Pool(StepCost(np.full(101, 0.001)), Limits(8, 100, 100, 4, prefix_caching=True), instances=2)
    requests = chain_requests(output=200)
    requests.arrival_s[1] = 0.1
    for delay, ranks in ((0.0, [0, 0]), (0.09, [0, 0]), (0.2, [0, 1])):
        router = Router("prefix_aware", event_delay_s=delay, load_tokens=0)
        assert simulator.run(Cluster((pool,), router), requests).rank.tolist() == ranks


def test_bounded_imbalance() -> None:
    """However warm its cache, a rank takes no more than (1 + imbalance) x least + slack."""
    pool = Pool(StepCost(np.full(1001, 0.001)), Limits(100, 1000, 10000, 4, prefix_caching=True), instances=2)
    names, offsets = np.tile(np.arange(10), 5), 10 * np.arange(6)
    requests = Requests.of(0.01 * np.arange(5), [41] * 5, [500] * 5, block_ids=names, block_offsets=offsets)
    outcome = simulator.run(Cluster((pool,), Router("prefix_aware", imbalance=0.2, slack=2, load_tokens=0)), requests)
    assert outcome.rank[:4].tolist() == [0, 0, 0, 1]


def test_a_router_weighs_tokens_still_to_prefill() -> None:
    """Three short prompts wait less together than behind one long one, until its first token; then it is free again."""
    pool = Pool(StepCost(np.linspace(0.0, 0.1, 101)), Limits(8, 100, 1000, 4), instances=2)
    lengths = [1000, 10, 10, 10, 400, 10]
    requests = Requests.of([0, 0.01, 0.02, 0.03, 5, 5.01], lengths, [50] * 6)
    outcome = simulator.run(Cluster((pool,), Router("prefix_aware", load_tokens=20)), requests)
    assert outcome.rank.tolist() == [0, 1, 1, 1, 0, 1]


def test_equal_ranks_take_turns() -> None:
    """So that all caches are used, also where there is little to do."""
    pool = Pool(StepCost(np.full(101, 0.001)), Limits(8, 100, 1000, 4, prefix_caching=True), instances=3)
    outcome = simulator.run(Cluster((pool,), Router("prefix_aware")), Requests.of(np.arange(6.0), [10] * 6, [5] * 6))
    assert outcome.rank.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_lone_prompt_passes_the_stages_one_after_the_other() -> None:
    """Four stages, 100 tokens a step in microbatches of 25: 20 tokens take four stages of 20, 1 ms a token in each.

    A step of 20 spread evenly has 5 in each. 50 tokens are two microbatches, the second a stage behind the first; a
    prompt of 20 beside 80 others fills one, and waits for nothing more. Later tokens come at the pace of the steps.
    """

    def first(*lengths: int) -> list[float]:
        pool = Pool(StepCost(np.linspace(0.001, 0.101, 101)), Limits(8, 100, 1000, 4), stages=4)
        outcome = simulator.run(Cluster((pool,)), Requests.of([0.0] * len(lengths), lengths, [3] * len(lengths)))
        steps = outcome.end_s - outcome.first_token_s
        np.testing.assert_allclose(steps, 2 * pool.cost.by_tokens[len(lengths)])
        return [round(1000 * float(t)) for t in outcome.first_token_s]

    assert first(20) == [81]
    assert first(50) == [round(101 * 1.25)]
    assert first(20, 20, 20, 20, 20) == [101] * 5


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 640).map(lambda n: n / 64))
def test_what_a_request_takes_to_arrive_is_waited_for_by_all_alike(seed: int, request_s: float) -> None:
    """In an open loop all happens so much later, and TTFT and E2EL are longer by it; TPOT is the same."""
    cluster, requests = drawn(seed)
    cluster = replace(cluster, concurrency=0, request_s=0.0)
    requests = replace(requests, after=np.full(len(requests), -1, np.int32), arrival_s=np.sort(requests.arrival_s))
    now, later = simulator.run(cluster, requests), simulator.run(replace(cluster, request_s=request_s), requests)
    np.testing.assert_allclose(later.arrival_s, now.arrival_s, atol=1e-6)
    for name in ("first_token_s", "end_s"):
        np.testing.assert_allclose(getattr(later, name), getattr(now, name) + request_s, atol=1e-6)
