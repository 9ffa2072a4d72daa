"""Faults while the endpoint runs: the same as in `simulate`, asked for over HTTP, seen by clients and metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.serving.client import ask, connected, get, idle, post, read
from tests.serving.conftest import DEPLOYMENT, Endpoint, built, running
from tests.serving.test_driver import Loop, Taker
from tests.simulation import test_faults as batch
from tests.simulation.test_cluster import R1
from tokenworks.engine.types import Status
from tokenworks.errors import SpecError
from tokenworks.serving.build import served
from tokenworks.serving.chaos import DAY, FaultTerms, LiveFaults
from tokenworks.serving.driver import Driver, Job
from tokenworks.simulation.source import Source
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.faults import load_faults
from tokenworks.specs.trace import Trace

pytestmark = pytest.mark.usefixtures("kernel")

HERE = "localhost:8000"
FAULTS = [
    batch.CARD,
    {"at": "100 s", "part": "switch 1", "for": "20 s", "crash": False},
    {"at": "130.5 s", "part": "software 3"},
]


def played(faults: LiveFaults, driver: Driver, trace: Trace) -> list[Job]:
    """Jobs of a driver to which the requests of a trace come at their arrival times."""
    loop, jobs = Loop(), list[Job]()
    driver.faults = faults
    faults.begin(driver.simulator)
    driver.start(loop, loop.time)  # type: ignore[arg-type]

    def submit(i: int, at: float) -> None:
        sizes = int(trace.input_tokens[i]), int(trace.output_tokens[i])
        jobs.append(Job(Taker(driver), *sizes, None, at))
        driver.submit(jobs[-1])

    for i, at in enumerate(trace.arrival_s.tolist()):
        loop.call_at(5.0 + at, lambda i=i, at=at: submit(i, at))  # type: ignore[misc]
    loop.run(1000.0)
    return jobs


@pytest.mark.parametrize(("elastic", "on_loss"), [(False, "fail"), (True, "restart"), (True, "migrate")])
def test_a_schedule_does_what_it_does_in_simulate(elastic: bool, on_loss: Any) -> None:
    """On a clock without delays: who fails, and when first and last tokens come, is equal."""
    deployment, trace = batch.deployed(elastic_ep=elastic, on_loss=on_loss), batch.trace(300)
    schedule = {"faults": FAULTS, "times": batch.QUICK}
    whole = batch.run(deployment, schedule, trace=trace, router="least_loaded")
    behind = served(Deployed(deployment), Source.read(trace, None), router="least_loaded")
    faults = LiveFaults(behind, FaultTerms(load_faults(schedule)))
    driver = Driver(behind.cluster)
    jobs = played(faults, driver, trace)
    outcome = whole.outcome
    assert [job.receiver.status for job in jobs] == [Status(one) for one in outcome.status]  # type: ignore[attr-defined]
    done = outcome.status == Status.COMPLETED
    assert done.any()
    ends = np.array([job.last_s for job in jobs])
    np.testing.assert_allclose(ends[done], outcome.end_s[done], rtol=0, atol=2e-6)
    first = np.array([job.first_s for job in jobs])
    np.testing.assert_allclose(first[done], outcome.first_token_s[done], rtol=0, atol=2e-6)
    assert whole.faults is not None
    for effect, other in zip(faults.effects, whole.faults.plan.effects, strict=True):
        assert (effect.ranks, effect.noticed_s, effect.whole_s) == (other.ranks, other.noticed_s, other.whole_s)
    counts = driver.simulator.counts().faults[0]
    assert (counts.lost_requests, counts.retries) == (whole.faults.end.faults[0].lost_requests, outcome.retries.sum())
    faults.account(driver.simulator.now)
    up = driver.simulator.now - counts.down_s
    assert faults.serving_s == (
        pytest.approx(up - 4.0) if elastic else pytest.approx(up)
    )  # a pause when the card joins
    assert faults.word(0) == "over"
    assert faults.is_whole()


def live(terms: FaultTerms) -> LiveFaults:
    return LiveFaults(served(Deployed(batch.deployed()), Source.read(None, "chat", seed=0)), terms)


def test_random_faults_are_those_of_simulate_day_by_day() -> None:
    from tokenworks.simulation.fault_plan import drawn

    one, other = (live(FaultTerms(seed=3, hazard=2000.0)) for _ in range(2))
    for faults in (one, other):
        for _ in range(2):
            faults.chaos()(faults.recovering)
    parts = [(effect.fault.fault.part, effect.fault.fault.at) for effect in one.effects]
    assert parts == [(effect.fault.fault.part, effect.fault.fault.at) for effect in other.effects]
    first = drawn(one._site.machine, one.terms.reliability, DAY, seed=3, hazard=2000.0)
    assert first is not None
    today = [part for part in parts if part[1] < DAY]
    assert today == [(fault.part, fault.at) for fault in first.sorted_faults()]
    assert len(parts) > len(today)


def test_bad_input_of_the_command() -> None:
    with pytest.raises(SpecError, match="--faults, --chaos"):
        FaultTerms.read([batch.CARD], 1, None, None)
    with pytest.raises(SpecError, match="give --chaos SEED"):
        FaultTerms.read(None, None, 2.0, None)
    with pytest.raises(SpecError, match="no seed"):
        FaultTerms.read(None, -1, None, None)
    with pytest.raises(SpecError, match="no such part"):
        built(faults=FaultTerms.read([{"at": "1 s", "part": "device 99"}], None, None, None))


# ── over HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def failing() -> Iterator[Endpoint]:
    yield from running(built({**DEPLOYMENT, "on_loss": "fail"}, speed=20.0, drain_s=0.5))


@pytest.fixture(scope="module")
def keyed() -> Iterator[Endpoint]:
    yield from running(built(speed=20.0, drain_s=0.5, keys=("client",), admin_keys=("admin",)))


def post_here(endpoint: Endpoint, body: Any) -> Any:
    return ask(endpoint, post("/admin/faults", body, host=HERE))


def shown(endpoint: Endpoint) -> Any:
    return ask(endpoint, get("/admin/faults", host=HERE)).json


def metric(endpoint: Endpoint, name: str) -> float:
    lines = ask(endpoint, get("/metrics")).body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))


def until(endpoint: Endpoint, word: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while all(one["state"] != word for one in shown(endpoint)["instances"]):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_lost_card_is_felt_and_repaired(failing: Endpoint) -> None:
    """Streams of the lost instance end with an error, the other instance serves on, and a repair brings all back."""
    times = {"detect": "4 s", "start": "10 s"}
    body = {"prompt": "hello", "max_tokens": 4000, "stream": True, "ignore_eos": True}
    sockets = [connected(failing) for _ in range(4)]
    for sock in sockets:
        sock.sendall(post("/v1/completions", body))
    time.sleep(0.3)
    added = post_here(failing, {"faults": [{"part": "device 1", "for": "1 h"}], "times": times})
    assert (added.status, added.json["changed"]) == (200, [0])
    assert added.json["faults"][0]["state"] == "down"
    texts = [read(sock).body for sock in sockets]
    for sock in sockets:
        sock.close()
    lost = [text for text in texts if b"an instance failed" in text]
    assert 0 < len(lost) < 4
    assert all(text.endswith(b"data: [DONE]\n\n") for text in texts)
    until(failing, "lost")
    assert ask(failing, get("/health")).status == 200
    assert metric(failing, "tokenworks_fault_requests_total") >= len(lost)
    repaired = ask(failing, get("/admin/faults?id=0", method="DELETE", host=HERE))
    assert repaired.json["changed"] == [0]
    until(failing, "starting")
    end = time.monotonic() + 20
    while shown(failing)["faults"][0]["state"] != "over":
        assert time.monotonic() < end
        time.sleep(0.02)
    assert {one["state"] for one in shown(failing)["instances"]} == {"running"}
    assert metric(failing, "tokenworks_availability") == 1.0
    assert 0.3 < metric(failing, "tokenworks_device_availability") < 1.0
    assert idle(failing)


def test_without_any_instance_the_server_is_not_healthy(failing: Endpoint) -> None:
    added = post_here(failing, {"faults": [{"part": "host 0", "for": "1 h"}], "times": {"detect": "1 s"}})
    assert added.status == 200
    until(failing, "lost")
    health = ask(failing, get("/health"))
    assert (health.status, "retry-after" in health.headers) == (503, True)
    refused = ask(failing, post("/v1/completions", {"prompt": "hello", "max_tokens": 3}))
    assert refused.status == 503
    assert "no instance" in refused.json["error"]["message"]
    assert ask(failing, get("/admin/faults", method="DELETE", host=HERE)).status == 200
    end = time.monotonic() + 20
    while ask(failing, get("/health")).status != 200:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"part": "device 99"}, "no such part"),
        ({"part": "gpu 1"}, "not a kind and a number"),
        ({"part": "device 1", "fore": "1 s"}, "fore"),
        ({"part": "device 1", "for": "1"}, "for"),
        ({"faults": []}, "empty"),
        ({"faults": 3}, "write one fault"),
        ([1], "write one fault"),
        (b"{", "no valid JSON"),
        (b"\xff", "no valid JSON"),
        ({"faults": [{"part": "device 1"}, {"part": "device 1"}]}, "still down"),
    ],
)
def test_bad_faults_are_refused_and_change_nothing(failing: Endpoint, body: Any, message: str) -> None:
    before = len(shown(failing)["faults"])
    answer = post_here(failing, body)
    assert (answer.status, message in answer.json["error"]["message"]) == (400, True), answer.body
    assert len(shown(failing)["faults"]) == before


def test_a_part_fails_once_at_a_time(failing: Endpoint) -> None:
    coming = {"at": "2 h", "part": "device 0", "for": "1 h"}
    assert post_here(failing, coming).status == 200
    assert "repair it first" in post_here(failing, {**coming, "at": "2.5 h"}).json["error"]["message"]
    number = len(shown(failing)["faults"]) - 1
    assert shown(failing)["faults"][number]["state"] == "coming"
    assert ask(failing, get(f"/admin/faults?id={number}", method="DELETE", host=HERE)).json["changed"] == [number]
    assert shown(failing)["faults"][number]["state"] == "over"
    for query in ("id=999", "id=x", "is=0"):
        assert ask(failing, get(f"/admin/faults?{query}", method="DELETE", host=HERE)).status == 404


@pytest.mark.parametrize("headers", ["origin: http://localhost:8000\r\n", "x-forwarded-for: 10.0.0.1\r\n"])
def test_other_sites_and_proxies_may_not_change_faults(failing: Endpoint, headers: str) -> None:
    assert ask(failing, post("/admin/faults", {"part": "device 0"}, headers=headers, host=HERE)).status == 403
    assert ask(failing, get("/admin/faults", host="example.com")).status == 403
    assert ask(failing, get("/admin/faults", host="127.0.0.1")).status == 200
    assert ask(failing, get("/admin/faults", host="[::1]:80")).status == 200


def test_the_admin_key_is_not_the_key_of_clients(keyed: Endpoint) -> None:
    def status(key: str) -> int:
        return ask(keyed, get("/admin/faults", headers=f"authorization: Bearer {key}\r\n" if key else "")).status

    assert [status(key) for key in ("", "client", "admin")] == [401, 401, 200]


def test_step_times_of_a_slower_machine_are_computed_while_requests_go_on() -> None:
    """A switch of four is lost: the instance goes on with less bandwidth, and gets its step times back."""
    roles = [{"name": "aggregated", "parallel": {"dp": 40, "ep": 40}, "max_sequences": 640, "chunk_tokens": 40960,
              "redundant_experts": 24}]  # fmt: skip
    given = {"model": R1, "system": "scalex40", "roles": roles}
    for endpoint in running(built(given, speed=20.0, drain_s=0.2)):
        added = post_here(endpoint, {"part": "switch 1", "for": "20 s", "crash": False})
        assert added.json["instances"][0]["state"] == "degraded"
        assert added.json["instances"][0]["scale_up_share"] == 0.75
        assert ask(endpoint, post("/v1/completions", {"prompt": "hello", "max_tokens": 20})).status == 200
        until(endpoint, "running")
