"""Schedules of faults: what a file may say, and what it is told if it says something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.errors import SpecError
from tokenworks.specs.compose import machine
from tokenworks.specs.faults import FaultSchedule, load_faults, parts_that_fail, time_text

BOX, HOSTS = machine("scalex40"), machine("5xhgx-h100")
ONE = {"at": "10 min", "part": "device 7", "for": "3 min"}


def test_a_file_a_dict_and_a_list_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text("faults:\n- {at: 10 min, part: device 7, for: 3 min}\n")
    assert load_faults(path) == load_faults({"faults": [ONE]}) == load_faults([ONE])
    fault = load_faults(path).faults[0]
    assert (fault.at, fault.kind, fault.number, fault.lasts) == (600.0, "device", 7, 180.0)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 10**9), st.booleans()), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read_again(rows: list[tuple[int, int, bool]]) -> None:
    faults = [{"at": time_text(at / 1e3), "part": f"host {number}", "for": time_text(lasts / 1e3), "drained": drained}
              for number, (at, lasts, drained) in enumerate(rows)]  # fmt: skip
    schedule = load_faults({"faults": faults, "times": {"detect": "5 s"}})
    again = FaultSchedule.model_validate(schedule.written())
    assert again.written() == schedule.written()
    assert sorted(fault.at for fault in again.faults) == [fault.at for fault in again.faults]
    assert {fault.part: fault for fault in again.faults} == {fault.part: fault for fault in schedule.faults}


def test_parts_are_looked_up_in_the_machine() -> None:
    failing = parts_that_fail(load_faults([ONE, {"at": "1 s", "part": "instance 1"}]), BOX, 2)
    assert failing[0] is None
    assert failing[1] is not None
    assert failing[1].devices == (7,)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"part": "device 40"}, r"device 40 at 600 s: scalex40 has no such part: 40 x device.*device 0 to device 39"),
        ({"part": "link 0"}, "no such part.*name another part"),
        ({"part": "instance 1", "for": None}, "the deployment has no such instance; write instance 0"),
        ({"part": "disk 1"}, "not a kind and a number.*kinds are device, hbm, host"),
        ({"part": "device -1"}, "not a kind and a number"),
        ({"at": "-1 s"}, "must be finite and not negative"),
        ({"at": 10}, "not a time with a unit"),
        ({"at": "10 GB"}, "not a time"),
        ({"for": "0 s"}, "faults.0.for: '0 s': input should be greater than 0"),
        ({"fro": "1 s"}, "faults.0.fro: unknown key; .*for"),
        ({"part": "software 1"}, "software 1 starts again at once: leave for out"),
        ({"crash": True}, "device 7 is no part of a network: leave crash out"),
    ],
)
def test_bad_faults_are_refused(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parts_that_fail(load_faults([ONE | fault]), BOX, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the list is empty"),
        (5, "is not a list of faults"),
        ({"faults": [ONE], "times": {"reset": "0 s"}}, "times.reset: 0 s: a fault lasts longer than 0 s"),
        ({"faults": [ONE], "times": {"repair": "0 h"}}, "times.repair: 0 s|times.repair: 0 h"),
        ({"faults": [ONE], "times": {"detct": "1 s"}}, "'detct' is not one of"),
        ({"fault": [ONE]}, "faults: is missing"),
    ],
)
def test_bad_schedules_are_refused(data: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_faults(data)
