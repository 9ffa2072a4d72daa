"""What is cached is the same trace, and no state of the cache stops a reading."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tokenworks.errors import SpecError
from tokenworks.ingest import cache, load_trace
from tokenworks.specs.trace import Trace


def same(a: Trace, b: Trace) -> bool:
    fields = [f.name for f in dataclasses.fields(Trace)]
    pairs = [(getattr(a, name), getattr(b, name)) for name in fields]
    return all(np.array_equal(x, y) and getattr(x, "dtype", 0) == getattr(y, "dtype", 0) for x, y in pairs)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [{"timestamp": 10 * k, "input_length": 600, "output_length": k, "hash_ids": [0, k]} for k in (5, 0, 9, 3)]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    hits: list[int] = []
    read = cache.load

    def spy(kept: Path, path: Path) -> Trace | None:
        trace = read(kept, path)
        hits.append(trace is not None)
        return trace

    monkeypatch.setattr(cache, "load", spy)
    return hits


def test_a_second_reading_is_the_same_without_parsing(
    file: Path, readings: list[int], cache_folder: Path, tmp_path: Path
) -> None:
    first = load_trace(file)
    assert len(first.dropped) == first.reordered == 1
    assert same(load_trace(file), first)
    moved = Path(shutil.copy(file, tmp_path / "other.jsonl"))
    assert load_trace(moved).dropped[0].where == f"{moved}:2"
    assert load_trace(moved).name == "other"
    assert readings == [False, True, True, True]
    assert len(list(cache_folder.rglob("*.npz"))) == 1
    file.write_text(file.read_text().replace("600", "601"))
    assert load_trace(file).input_tokens[0] == 601
    assert readings[-1] is False


def test_strict_is_strict_from_the_cache_too(file: Path) -> None:
    load_trace(file)
    with pytest.raises(SpecError, match=r"t\.jsonl:2"):
        load_trace(file, strict=True)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half a zip", "cut", "pickle", "wrong"])
def test_a_damaged_cache_is_read_anew(file: Path, readings: list[int], cache_folder: Path, damage: bytes | str) -> None:
    first = load_trace(file)
    (kept,) = cache_folder.rglob("*.npz")
    if damage == "cut":
        kept.write_bytes(kept.read_bytes()[:-300])
    elif damage == "pickle":
        np.savez(kept, about=np.array([{}], dtype=object))
    elif damage == "wrong":
        with np.load(kept) as data:
            arrays = dict(data)
        np.savez(kept, **{**arrays, "arrival_s": arrays["arrival_s"][::-1]})
    else:
        assert isinstance(damage, bytes)
        kept.write_bytes(damage)
    assert same(load_trace(file), first)
    assert same(load_trace(file), first)
    assert readings == [False, False, True]


def test_a_cache_that_cannot_be_written_is_done_without(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    monkeypatch.setenv("TOKENWORKS_CACHE", str(tmp_path / "taken"))
    assert same(load_trace(file), load_trace(file))


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENWORKS_CACHE", "/a")
    assert cache.folder() == Path("/a")
    monkeypatch.delenv("TOKENWORKS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache.folder() == Path("/b/tokenworks")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == Path.home() / ".cache/tokenworks"


def test_every_array_is_cached() -> None:
    trace = Trace.of([0.0], [1], [1])
    arrays = {f.name for f in dataclasses.fields(Trace) if isinstance(getattr(trace, f.name), np.ndarray)}
    assert arrays == set(cache.ARRAYS)
