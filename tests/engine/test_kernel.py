"""Properties of the compiled kernel: its code on disk, its growing buffers, its memory, its speed in small steps."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.engine import cases
from tokenworks.engine import kernel, reference, simulator
from tokenworks.engine.kernel import base, inner, memory
from tokenworks.engine.state import allocate
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, Router, StepCost


def test_compiled_once() -> None:
    simulator.warm_up()
    assert simulator.compiled()


def test_inner_functions_are_not_optimised_by_themselves() -> None:
    """With another numba they might be: a first start would take twice as long, and nobody would know why."""
    assert inner.KNOWN


@pytest.mark.parametrize(
    "heap", [np.zeros(2, np.int64), np.zeros(4, np.int32)[::2]], ids=["another type", "not contiguous"]
)
def test_compiled_code_is_not_given_what_it_would_misread(heap: np.ndarray) -> None:
    state = allocate(Cluster((Pool(StepCost(np.ones(3)), Limits(1, 2, 1)),)))
    table = memory.Addresses()
    table.of(state)
    with pytest.raises(TypeError, match=r"EngineState\.heap: want a contiguous array of int32, not of"):
        table.of(state._replace(heap=heap))


def test_the_table_follows_arrays_that_are_replaced() -> None:
    state = allocate(Cluster((Pool(StepCost(np.ones(3)), Limits(1, 2, 1)),)))
    table, heap = memory.Addresses(), np.zeros(5, np.int32)
    before = table.of(state).copy()
    after = table.of(state._replace(heap=heap))
    changed = np.flatnonzero(before != after)
    assert list(after[changed]) == [heap.ctypes.data, 5]


def test_machine_code_older_than_a_source_is_deleted(tmp_path: Path) -> None:
    """Numba would use the old code: it compares with the file of the entry points only."""
    old, new = tmp_path / "drive.advance-1.py311.nbi", tmp_path / "drive.cancel-1.py311.nbi"
    for index in (old, new):
        index.touch()
    os.utime(old, (0, 0))
    assert kernel._fresh(tmp_path) == [new]
    assert not old.exists()


def test_outputs_longer_than_the_calendar() -> None:
    """The calendar has 4,096 buckets and is a ring; the block size of 7 does not divide it."""
    pool = Pool(StepCost(np.full(33, 0.001)), Limits(8, 32, 10_000, 7))
    requests = Requests.of([0.0, 0.0, 0.5, 0.9], [5, 6, 7, 8], [9000, 4097, 4096, 8192])
    cluster = Cluster((pool,))
    cases.assert_same(reference.run(cluster, requests), simulator.run(cluster, requests))


def test_buffers_grow() -> None:
    """A series with more windows, and a delay with more cache events, than their buffers hold at first."""
    rng = np.random.default_rng(5)
    pool = Pool(StepCost(np.full(65, 0.001)), Limits(4, 64, 64, 4, prefix_caching=True), instances=2)
    cluster = Cluster((pool,), Router("prefix_aware", event_delay_s=5.0), window_s=0.001)
    count = 400
    names = rng.integers(0, 1 << 40, 10 * count)
    requests = Requests.of(np.cumsum(rng.exponential(0.01, count)), np.full(count, 41), rng.integers(1, 9, count),
                           block_ids=names, block_offsets=10 * np.arange(count + 1))  # fmt: skip
    fast = simulator.run(cluster, requests)
    assert len(fast.series) > 1024
    cases.assert_same(reference.run(cluster, requests), fast)


def burst(count: int) -> Requests:
    """`count` requests that arrive within a second, with prompts of ten blocks that no other request shares."""
    return Requests.of(np.linspace(0.0, 1.0, count), np.full(count, 41), np.full(count, 3),
                       block_ids=np.arange(10 * count), block_offsets=10 * np.arange(count + 1))  # fmt: skip


def test_memory_of_cache_events_is_bounded_by_the_delay_of_the_router() -> None:
    """Caches store and evict blocks long after the last arrival, but the ring of events does not grow with that."""
    pool = Pool(StepCost(np.full(65, 0.001)), Limits(4, 64, 64, 4, prefix_caching=True), instances=2)
    cluster = Cluster((pool,), Router("prefix_aware", event_delay_s=0.02))
    kept = []
    for count in (100, 4000):
        run = simulator.Simulator(cluster)
        run.submit(burst(count))
        run.advance()
        events = run.outcome().pools[0].evictions + 10 * count
        kept.append(len(run._state.event))
    assert events > 30 * kept[1]
    assert kept[0] == kept[1]
    later = replace(burst(400), arrival_s=np.sort(np.repeat([0.0, 0.6], 200)))
    cases.assert_same(reference.run(cluster, later), simulator.run(cluster, later))


def test_routers_without_cache_events_keep_none() -> None:
    pool = Pool(StepCost(np.full(65, 0.001)), Limits(4, 64, 64, 4, prefix_caching=True), instances=2)
    for name in set(cases.ROUTERS) - {"prefix_aware"}:
        run = simulator.Simulator(Cluster((pool,), Router(name)))  # type: ignore[arg-type]
        run.submit(burst(400))
        run.advance()
        assert len(run._state.event) == 1


def test_a_live_request_costs_little() -> None:
    """To submit one request and to play 10 ms takes less than a millisecond of CPU time (0.3 ms when written)."""
    pool = Pool(StepCost(np.full(65, 0.001)), Limits(4, 64, 64, 4, prefix_caching=True))
    run = simulator.Simulator(Cluster((pool,)))
    start = time.process_time()
    for i in range(300):
        ids = np.arange(3) + 3 * i
        run.submit(Requests.of([run.now], [12], [3], block_ids=ids, block_offsets=[0, 3]))
        run.advance(run.now + 0.01)
    assert (time.process_time() - start) / 300 < 1e-3
    assert run.outcome().steps == 900


def test_damaged_code_on_disk_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def once() -> None:
        tries.append("run")
        if len(tries) == 1:
            raise EOFError("Ran out of input")

    monkeypatch.setattr(simulator, "_run_once", once)
    monkeypatch.setattr(kernel, "forget", lambda: True)
    assert simulator.warm_up()
    assert tries == ["run", "run"]
    monkeypatch.setattr(kernel, "forget", lambda: False)
    tries.clear()
    with pytest.raises(EOFError):
        simulator.warm_up()


def test_old_and_damaged_code_is_deleted_and_only_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_CACHE", tmp_path)
    assert not kernel.forget()
    for name in ("drive.advance-1.py311.nbi", "other.nbi"):
        (tmp_path / name).write_bytes(b"damaged")
    assert kernel.forget()
    assert [path.name for path in tmp_path.iterdir()] == ["other.nbi"]


def test_without_a_folder_that_can_be_written_code_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def compile_to(cache: bool = False, **_options: object) -> Callable[[object], object]:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(base, "njit", compile_to)
    assert base.entry(len) is len  # type: ignore[no-untyped-call]
    assert asked == [True, False]
    monkeypatch.setattr(kernel, "_CACHE", None)
    assert not kernel.kept()
    assert not kernel.forget()


def test_numba_is_imported_when_the_engine_is_used() -> None:
    """Numba takes half a second, which commands without a simulation save."""
    code = (
        "import sys, tokenworks.planning.plan as plan; from tokenworks.engine import kernel; assert 'numba' not in "
        "sys.modules; kernel.advance; assert 'numba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = kernel.nonsense
