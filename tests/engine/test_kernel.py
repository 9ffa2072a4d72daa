"""Properties of the compiled kernel: its code on disk, its growing buffers, its memory, its speed in small steps."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.engine import cases
from tokenworks.engine import kernel, reference, simulator
from tokenworks.engine.kernel import addresses, base, inner, native
from tokenworks.engine.state import allocate
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, Router, StepCost
from tokenworks.errors import SpecError


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
    table = addresses.Addresses()
    table.of(state)
    with pytest.raises(TypeError, match=r"EngineState\.heap: want a contiguous array of int32, not of"):
        table.of(state._replace(heap=heap))


def test_the_table_follows_arrays_that_are_replaced() -> None:
    state = allocate(Cluster((Pool(StepCost(np.ones(3)), Limits(1, 2, 1)),)))
    table, heap = addresses.Addresses(), np.zeros(5, np.int32)
    address = table.of(state)
    before = table.words.copy()
    assert table.of(state._replace(heap=heap)) == address == table.words.ctypes.data
    changed = np.flatnonzero(before != table.words)
    assert list(table.words[changed]) == [heap.ctypes.data, 5]


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


def test_memory_of_large_caches_follows_from_the_requests() -> None:
    """80 ranks of 260,000 blocks each took 3.2 GB for the table of the router, whatever was sent."""
    pool = Pool(StepCost(np.full(65, 0.001)), Limits(4, 64, 1 << 18, 4, prefix_caching=True), instances=4)
    cluster, requests = Cluster((pool,), Router("prefix_aware")), burst(400)
    small = simulator.Simulator(cluster, len(requests.block_ids))
    assert small._state.known.nbytes + small._state.table.nbytes < 1 << 20
    small.submit(requests)
    small.advance()
    cases.assert_same(simulator.run(cluster, requests), small.outcome())
    with pytest.raises(SpecError, match="the memory is for the requests that were submitted"):
        small.submit(replace(requests, arrival_s=requests.arrival_s + 1e6))


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


@base.entry("int", "i4[]", "float")  # type: ignore[no-untyped-call]
def _scaled(count, numbers, factor):  # type: ignore[no-untyped-def]
    """An entry point that is compiled in a moment."""
    total = 0.0
    for i in range(count):
        numbers[i] += 1
        total += numbers[i] * factor
    return total


CODE = native.Code("symbol", ("int", "f8[]"), "none", bytes(range(256)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for machine code."""
    monkeypatch.setattr(native, "folders", lambda: [tmp_path])
    return tmp_path


def test_code_is_called_without_numba() -> None:
    numbers = np.array([1, 2, 3], np.int32)
    call = native.link(_scaled.compiled())
    assert call(2, numbers, 0.5) == 0.5 * (2 + 3)
    assert list(numbers) == [2, 3, 3]


@pytest.mark.parametrize(
    "numbers",
    [np.zeros(3), np.zeros(6, np.int32)[::2], np.zeros((2, 2), np.int32)],
    ids=["another type", "not contiguous", "two dimensions"],
)
def test_code_is_not_given_an_array_that_it_would_misread(numbers: np.ndarray) -> None:
    with pytest.raises(TypeError, match="want a contiguous array of int32"):
        native.link(_scaled.compiled())(2, numbers, 0.5)


def test_code_is_read_as_it_was_written(folder: Path) -> None:
    assert native.read("one") == (None, False)
    assert not native.stored("one")
    native.write("one", CODE)
    assert native.stored("one")
    assert native.read("one") == (CODE, False)
    assert native.read("two") == (None, False)


@pytest.mark.parametrize("place", [0, 40, -1])
def test_damaged_code_is_deleted(folder: Path, place: int) -> None:
    """LLVM would end the process, or the code would compute anything."""
    native.write("one", CODE)
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert native.read("one") == (None, True)
    assert not native.stored("one")
    path.write_bytes(b"")
    assert native.read("one") == (None, True)


def test_code_of_other_sources_is_neither_read_nor_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "other.txt").touch()
    native.write("one", CODE)
    monkeypatch.setattr(native, "_sources", lambda: "changed")
    assert native.read("one") == (None, False)
    native.write("two", CODE)
    assert sorted(path.name.split(".")[0] for path in folder.iterdir()) == ["other", "two"]


def test_code_of_another_processor_is_not_read_but_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native.write("one", CODE)
    monkeypatch.setattr(native, "_processor", lambda: "another")
    assert native.read("one") == (None, False)
    native.write("one", CODE)
    assert len(list(folder.iterdir())) == 2


def test_damaged_code_of_the_engine_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.delitem(vars(kernel), "collect", raising=False)
    monkeypatch.setattr(native, "read", lambda _: (None, True))
    monkeypatch.setattr(native, "write", lambda name, _: written.append(name))
    assert simulator.warm_up()
    assert written == ["collect"]
    assert not simulator.warm_up()


def test_code_that_is_not_complete_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was killed while it compiled has left the first entry points on disk."""
    simulator.warm_up()
    monkeypatch.setattr(native, "stored", lambda name: name == "advance")
    assert simulator.compiled()
    monkeypatch.delitem(vars(kernel), "collect")
    assert not simulator.compiled()


def test_without_a_folder_that_can_be_written_code_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(native, "folders", lambda: [tmp_path / "file" / "folder"])
    assert not kernel.kept()
    native.write("one", CODE)
    assert not native.stored("one")


def test_the_user_names_the_folder_of_machine_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert [path.parent for path in native.folders()] == [tmp_path]
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assert native.folders()[0] == Path(native.__file__).parent / "__pycache__"


def test_numba_is_imported_to_compile_only() -> None:
    """Numba takes more than a second, with all that it imports."""
    simulator.warm_up()
    if not kernel.kept():
        pytest.skip("no folder for compiled code can be written")
    code = (
        "import sys, tokenworks.planning.plan as plan; from tokenworks.engine import kernel; assert 'llvmlite' not in "
        "sys.modules; kernel.load(); assert 'llvmlite' in sys.modules; assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = kernel.nonsense
