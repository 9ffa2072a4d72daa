"""An endpoint that runs in a thread, for all tests of a process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tokenworks.serving.http import HttpLimits
from tokenworks.serving.serve import prepare
from tokenworks.serving.server import Server, Settings
from tokenworks.simulation.source import Source
from tokenworks.specs.deployment_file import pick_deployment
from tokenworks.specs.slo import Slo

DEPLOYMENT: dict[str, Any] = {
    "model": "meta-llama/Meta-Llama-3.1-8B", "system": "hgx-h100:2", "max_model_len": 8192,
    "roles": [{"name": "aggregated", "replicas": 2, "max_sequences": 64}],
}  # fmt: skip
SPEED = 20.0


@dataclass
class Endpoint:
    """A server that runs."""

    server: Server
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def built(
    deployment: dict[str, Any] = DEPLOYMENT, *, lengths: str = "max", max_queue: int = 0, **settings: object
) -> Server:
    source = Source.read(None, "chat", seed=0)
    given = {"port": 0, "speed": SPEED, "slo": Slo.parse("ttft=10s,tpot=1s"), **settings}
    return prepare(pick_deployment(deployment), source, lengths, Settings(**given), max_queue=max_queue)  # type: ignore[arg-type]


def running(server: Server) -> Iterator[Endpoint]:
    """Run a server in a thread until the caller goes on."""
    started, endpoint = threading.Event(), Endpoint(server, 0)

    async def main() -> None:
        _, endpoint.port = await server.start()
        endpoint.stop = asyncio.Event()  # type: ignore[attr-defined]
        started.set()
        await endpoint.stop.wait()  # type: ignore[attr-defined]
        await server.stop()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert started.wait(120)
    try:
        yield endpoint
    finally:
        server.loop.call_soon_threadsafe(endpoint.stop.set)  # type: ignore[attr-defined]
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def endpoint(kernel: None) -> Iterator[Endpoint]:
    limits = HttpLimits(body=1 << 20, headers=8192, header_count=50, request_s=1.5, idle_s=30.0)
    yield from running(built(limits=limits, drain_s=1.0))


@pytest.fixture(scope="session")
def guarded(kernel: None) -> Iterator[Endpoint]:
    """An endpoint with keys, a short queue and few requests in flight, and SGLang's names."""
    yield from running(
        built(
            keys=("secret", "other"),
            max_queue=1,
            max_requests=600,
            api="sglang",
            name="my-model",
            drain_s=0.5,
            limits=HttpLimits(write_s=0.5, idle_s=1.0),
        )
    )
