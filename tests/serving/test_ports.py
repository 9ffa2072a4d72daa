"""A port for each replica or each data-parallel rank: requests, metrics and health stay apart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.serving.client import ask, get, idle, post
from tests.serving.conftest import DEPLOYMENT, Endpoint, built, running
from tests.serving.test_faults import HERE, until
from tests.serving.test_kv_events import free_ports
from tokenworks.errors import SpecError

pytestmark = pytest.mark.usefixtures("kernel")

MODEL = "Qwen/Qwen3-30B-A3B"
DATA_PARALLEL = {
    "model": MODEL, "system": "hgx-h100:4", "max_model_len": 8192,
    "roles": [{"name": "aggregated", "replicas": 2, "parallel": {"dp": 2, "ep": 2}, "max_sequences": 64}],
}  # fmt: skip


def doors(endpoint: Endpoint) -> list[Endpoint]:
    """The endpoint of each port."""
    return [Endpoint(endpoint.server, port) for port in endpoint.server.ports]


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[Endpoint]]:
    for endpoint in running(built(DATA_PARALLEL, ports="replicas", drain_s=0.5)):
        yield doors(endpoint)


@pytest.fixture(scope="module")
def ranks() -> Iterator[list[Endpoint]]:
    for endpoint in running(built(DATA_PARALLEL, ports="ranks", drain_s=0.5)):
        yield doors(endpoint)


def send(endpoint: Endpoint, times: int, *, headers: str = "") -> None:
    body = {"prompt": "hello", "max_tokens": 3, "ignore_eos": True}
    for _ in range(times):
        assert ask(endpoint, post("/v1/completions", body, headers=headers)).status == 200


def counted(endpoint: Endpoint, name: str = "vllm:generation_tokens_total") -> dict[str, float]:
    """Values of a metric by the label engine."""
    lines = [line for line in ask(endpoint, get("/metrics")).body.decode().splitlines() if line.startswith(name + "{")]
    return {line.split('engine="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_each_replica_has_its_port(replicas: list[Endpoint]) -> None:
    one, other = replicas
    before = [counted(door) for door in replicas]
    assert [set(own) for own in before] == [{"0", "1"}, {"0", "1"}]
    send(one, 4)
    assert idle(one)
    assert sum(counted(one).values()) == sum(before[0].values()) + 12
    assert counted(other) == before[1]
    send(other, 3, headers="X-data-parallel-rank: 1\r\n")
    assert idle(other)
    assert counted(other)["1"] == before[1]["1"] + 9
    assert counted(other)["0"] == before[1]["0"]
    totals = counted(other, "vllm:iteration_tokens_total_count")
    assert totals["1"] > 0
    assert b"tokenworks_ready" in ask(one, get("/metrics")).body
    assert b"tokenworks_ready" not in ask(other, get("/metrics")).body
    assert ask(one, get("/load")).json == {"server_load": 0}


@pytest.mark.parametrize("value", ["2", "-1", "x", "1.5", "9" * 50])
def test_a_rank_that_is_not_there_is_refused(replicas: list[Endpoint], value: str) -> None:
    body = {"prompt": "hello", "max_tokens": 3}
    answer = ask(replicas[0], post("/v1/completions", body, headers=f"x-data-parallel-rank: {value}\r\n"))
    assert answer.status == 400
    assert "it has 0 to 1" in answer.json["error"]["message"]


def test_each_rank_has_its_port(ranks: list[Endpoint]) -> None:
    assert len(ranks) == 4
    for number, door in enumerate(ranks):
        send(door, number + 1)
        assert idle(door)
    assert [counted(door) for door in ranks] == [{"0": 3.0 * (number + 1)} for number in range(4)]
    places = ranks[0].server.served.places()
    made = ranks[0].server.metrics.generated()
    assert [int(made[rank]) for rank in sorted(range(4), key=lambda rank: places[rank][0])] == [3, 6, 9, 12]


def test_a_lost_replica_is_felt_at_its_port_only(replicas: list[Endpoint]) -> None:
    one, other = replicas
    device = one.server.served.places()
    assert len(device) == 4
    fault = {"faults": [{"part": "device 2", "for": "1 h"}], "times": {"detect": "1 s", "start": "2 s"}}
    assert ask(one, post("/admin/faults", fault, host=HERE)).status == 200
    until(one, "lost")
    assert [ask(door, get("/health")).status for door in replicas] == [200, 503]
    send(one, 2)
    refused = ask(other, post("/v1/completions", {"prompt": "hello", "max_tokens": 3}))
    assert refused.status == 503
    assert "no instance" in refused.json["error"]["message"]
    rejected = f'vllm:admission_rejections_total{{model_name="{MODEL}",reason="max_num_queued_reqs"}}'
    assert f"{rejected} 1.0" in ask(other, get("/metrics")).body.decode()
    assert f"{rejected} 0.0" in ask(one, get("/metrics")).body.decode()
    assert ask(one, get("/admin/faults", method="DELETE", host=HERE)).status == 200
    end = time.monotonic() + 20
    while ask(other, get("/health")).status != 200:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_ports_follow_each_other_and_the_header_works_without_them() -> None:
    first = free_ports(2)
    for endpoint in running(built(port=first, ports="replicas", drain_s=0.2)):
        assert endpoint.server.ports == [first, first + 1]
        with pytest.raises(SpecError, match="cannot listen"):
            asyncio.run(built(port=first + 1).start())
    for endpoint in running(built(drain_s=0.2)):
        send(endpoint, 2, headers="x-data-parallel-rank: 1\r\n")
        assert counted(endpoint) == {"0": 0.0, "1": 6.0}


def test_bad_ports_are_refused() -> None:
    with pytest.raises(SpecError, match="2 ports from 65535 on"):
        built(port=65535, ports="replicas")
    apart = {**DEPLOYMENT, "system": "hgx-h100:4", "roles": [
        {"name": "prefill", "replicas": 2, "max_sequences": 16}, {"name": "decode", "replicas": 2, "max_sequences": 64},
    ]}  # fmt: skip
    with pytest.raises(SpecError, match="prefill and decode stand apart"):
        built(apart, ports="ranks")
