"""Requests that no machine holds are refused before memory is asked for."""

from __future__ import annotations

import pytest

from tokenworks.errors import SpecError
from tokenworks.specs.trace import Trace
from tokenworks.specs.workload import Workload
from tokenworks.traffic import memory
from tokenworks.traffic.source import generated, played


@pytest.fixture(autouse=True)
def _four_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_machine_bytes", lambda: 4 * 2**30)


def test_what_the_machine_holds() -> None:
    """4 GiB over 500 bytes are 8,589,934 requests (by hand)."""
    memory.must_hold(8_589_934, where="x", hint="y")
    with pytest.raises(SpecError, match="x: 8,589,935 requests take about 4 GiB, 4 GiB is the most; y"):
        memory.must_hold(8_589_935, where="x", hint="y")
    with pytest.raises(SpecError, match="4 GiB is the most"):
        memory.must_hold(1, runs=1e8, where="x", hint="y")


def test_no_machine_is_asked_for_more_than_64_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_machine_bytes", lambda: 2**50)
    with pytest.raises(SpecError, match="64 GiB is the most"):
        memory.must_hold(2e8, where="x", hint="y")


@pytest.mark.parametrize(("requests", "users"), [(10**8, None), (10**30, None), (None, 1e7)])
def test_requests_of_a_workload(requests: int | None, users: float | None) -> None:
    with pytest.raises(SpecError, match=r"w: .* GiB is the most; give fewer --requests, or a lower --concurrency"):
        generated(Workload(name="w", isl=10, osl=10), None if users else 1.0, users, requests=requests)


def test_a_session_of_endless_turns() -> None:
    """1.5 / (1 - hit_share) turns, all of one session, for 5000 requests."""
    endless = Workload(name="w", isl=10, osl=10, hit_share=1 - 1e-12, reused_context=10, think_time=1)
    with pytest.raises(SpecError, match="GiB is the most"):
        generated(endless, 1.0, None)


def test_copies_of_conversations() -> None:
    undated = Trace.of([0, 0, 60], [10, 10, 10], [5, 5, 5], parent=[-1, -1, 0], think_s=[0, 0, 60], undated=True)
    with pytest.raises(
        SpecError, match=r"--rate 1e\+09: .* requests take about .* GiB is the most; give a lower --rate"
    ):
        played(undated, rate=1e9)
    assert len(played(undated, rate=0.01)) > 0


@pytest.mark.parametrize("users", [0.0, 1e9, float("nan")])
def test_users_beyond_anything_real(users: float) -> None:
    with pytest.raises(SpecError, match="give 1 to 100,000,000 users"):
        generated(Workload(name="w", isl=10, osl=10), None, users)
