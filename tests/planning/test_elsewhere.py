"""Work in another process gives what the same work here gives."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tokenworks.engine.types import StepCost
from tokenworks.errors import SpecError
from tokenworks.planning import elsewhere
from tokenworks.planning.elsewhere import _Process, _Shared


@pytest.fixture(scope="module")
def process() -> Iterator[_Process]:
    process = _Process()
    yield process
    process.end()


def fail(kind: str) -> None:
    if kind == "bad":
        raise SpecError("is bad", where="place", hint="way out")
    raise ZeroDivisionError


def doubled(costs: list[StepCost]) -> list[StepCost]:
    return [*costs, *costs]


def die_unless(pid: int) -> str:
    if os.getpid() != pid:
        os._exit(1)
    return "here"


def test_another_process_works(process: _Process) -> None:
    assert process.do(math.sqrt, 4.0) == 2.0
    assert process.do(os.getpid) != os.getpid()
    assert process.do(os.getpid) == process.do(os.getpid)


def test_an_error_is_raised_here_as_it_was_there(process: _Process) -> None:
    with pytest.raises(SpecError, match="place: is bad; way out"):
        process.do(fail, "bad")
    with pytest.raises(ZeroDivisionError):
        process.do(fail, "other")
    assert process.do(math.sqrt, 9.0) == 3.0


def test_shared_objects_come_back_as_themselves(process: _Process) -> None:
    cost = StepCost(np.arange(1.0, 9.0))
    assert all(one is cost for _ in range(2) for one in process.do(doubled, [cost]))


def test_shared_objects_are_sent_once_in_both_directions() -> None:
    here, there, cost = _Shared(1), _Shared(-1), StepCost(np.arange(1000.0))
    first, again = here.written(cost), here.written(cost)
    assert (len(first[0]), len(again[0])) == (1, 0)
    assert len(again[1]) < 100
    copy = there.read(first)
    assert there.read(again) is copy
    assert np.array_equal(copy.by_tokens, cost.by_tokens)
    assert here.read(there.written(copy)) is cost
    made = StepCost(np.ones(5))
    back = here.read(there.written(made))
    assert there.read(here.written(back)) is made


def test_many_shared_objects_are_forgotten(process: _Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "MOST_SHARED", 3)
    for size in range(2, 10):
        cost = StepCost(np.ones(size))
        assert process.do(doubled, [cost])[1] is cost
        assert len(process._shared._objects) <= 4


def test_the_work_of_a_process_that_ends_is_done_here() -> None:
    process = _Process()
    assert process.do(die_unless, os.getpid()) == "here"
    assert process.do(os.getpid) == os.getpid()


def test_without_another_process_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert _Process().do(os.getpid) == os.getpid()
    assert elsewhere.elsewhere(os.getpid) == os.getpid()


def test_a_program_that_ends_does_not_wait_for_its_processes() -> None:
    process = _Process()
    with ThreadPoolExecutor(1) as thread:
        waits = thread.submit(process.do, time.sleep, 600)
        while not waits.running():
            time.sleep(0.01)
        process.leave()
        with pytest.raises(KeyboardInterrupt):
            waits.result(timeout=60)
    assert process._process is None
