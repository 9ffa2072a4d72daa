"""KV events over ZMQ: a real subscriber rebuilds the prefix trees of all ranks; the option as vLLM takes it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from tests.serving.client import ask, connected, get, idle, post, read
from tests.serving.conftest import DEPLOYMENT, Endpoint, built, running
from tests.serving.test_faults import HERE, until
from tokenworks.errors import SpecError
from tokenworks.serving.kv_events import KvEventsConfig, KvPublisher
from tokenworks.serving.tokens import block_names

pytestmark = pytest.mark.usefixtures("kernel")

SMALL = {**DEPLOYMENT, "roles": [{"name": "aggregated", "replicas": 2, "max_sequences": 64, "memory_fraction": 0.26}]}


def free_ports(count: int) -> int:
    """The first of some ports, one after the other, that are free."""
    for first in range(21000, 60000, 97):
        taken = []
        try:
            for port in range(first, first + count):
                taken.append(socket.socket())
                taken[-1].bind(("127.0.0.1", port))
        except OSError:
            continue
        else:
            return first
        finally:
            for one in taken:
                one.close()
    raise AssertionError


class Tree:
    """What a router knows of the cache of one rank, and of the blocks that the rank has put into KV tiers."""

    def __init__(self) -> None:
        self.tiers: dict[str, set[int]] = {}
        self.left = 0
        self.blocks: dict[int, tuple[int | None, tuple[int, ...]]] = {}
        self.stored = self.removed = 0

    def take(self, batch: dict[str, Any]) -> None:
        for event in batch["events"]:
            hashes = event.get("block_hashes", [])
            if "ownership" in event:
                self.take_tier(event)
            elif event["type"] == "BlockStored":
                assert set(event) == {"type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id",
                                      "medium", "lora_name"}  # fmt: skip
                parent, size = event["parent_block_hash"], event["block_size"]
                assert len(event["token_ids"]) == size * len(hashes)
                for place, name in enumerate(hashes):
                    assert parent is None or parent in self.blocks
                    self.blocks[name] = (parent, tuple(event["token_ids"][place * size : (place + 1) * size]))
                    parent = name
                self.stored += len(hashes)
            elif event["type"] == "BlockRemoved":
                assert (set(event), event["medium"]) == ({"type", "block_hashes", "medium"}, "GPU")
                for name in hashes:
                    del self.blocks[name]
                self.removed += len(hashes)
            else:
                assert event == {"type": "AllBlocksCleared"}
                self.blocks.clear()

    def take_tier(self, event: dict[str, Any]) -> None:
        """An event of a KV tier, in the form of vLLM's offloading."""
        place = {"medium": event["medium"], "locality": event["locality"], "ownership": event["ownership"]}
        hashes, own = event["block_hashes"], self.tiers.setdefault(event["ownership"], set())
        if event["type"] == "BlockStored":
            assert event == {
                "type": "BlockStored", "block_hashes": hashes, "parent_block_hash": None, "token_ids": [],
                "block_size": 0, "lora_id": None, "lora_name": None, **place,
            }  # fmt: skip
            assert not own.intersection(hashes)
            own.update(hashes)
        else:
            assert event == {"type": "BlockRemoved", "block_hashes": hashes, **place}
            assert own.issuperset(hashes)
            own.difference_update(hashes)
            self.left += len(hashes)

    def prefix(self, tokens: list[int], size: int) -> int:
        """Tokens of a prompt that the cache holds."""
        by_parent = {(parent, block): name for name, (parent, block) in self.blocks.items()}
        parent, count = None, 0
        while (name := by_parent.get((parent, tuple(tokens[count : count + size])))) is not None:
            parent, count = name, count + size
        return count


class Subscriber:
    """A subscriber to the ranks of a server."""

    def __init__(self, port: int, ranks: int) -> None:
        self.context, self.trees, self.next = zmq.Context(), [Tree() for _ in range(ranks)], [0] * ranks
        self.sockets = []
        for rank in range(ranks):
            own = self.context.socket(zmq.SUB)
            own.connect(f"tcp://127.0.0.1:{port + rank}")
            own.setsockopt(zmq.SUBSCRIBE, b"kv")
            self.sockets.append(own)

    def read(self, wait_ms: int = 300) -> None:
        for rank, own in enumerate(self.sockets):
            while own.poll(wait_ms):
                topic, number, payload = own.recv_multipart()
                batch = msgspec.msgpack.decode(payload)
                assert (topic, int.from_bytes(number, "big")) == (b"kv", self.next[rank])
                assert batch["data_parallel_rank"] == 0  # each replica has one rank
                assert abs(batch["ts"] - time.time()) < 60
                self.next[rank] += 1
                self.trees[rank].take(batch)

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def published() -> Iterator[tuple[Endpoint, int]]:
    port = free_ports(4)
    given = {"enable_kv_cache_events": True, "endpoint": f"tcp://*:{port}", "replay_endpoint": f"tcp://*:{port + 2}",
             "topic": "kv"}  # fmt: skip
    server = built(SMALL, speed=50.0, drain_s=0.5, kv_events=KvEventsConfig.read(json.dumps(given)))
    for endpoint in running(server):
        yield endpoint, port


def test_a_subscriber_rebuilds_the_caches(published: tuple[Endpoint, int]) -> None:
    """After random traffic with shared prefixes, evictions, clients that leave and a lost replica."""
    endpoint, port = published
    subscriber, rng = Subscriber(port, 2), np.random.default_rng(0)
    time.sleep(0.3)  # ZMQ connects
    prefixes = [rng.integers(0, 1000, 1500).tolist() for _ in range(4)]
    prompts = [prefixes[int(rng.integers(4))] + rng.integers(0, 1000, 3000).tolist() for _ in range(40)]
    for at in range(0, len(prompts), 8):
        sockets = [connected(endpoint) for _ in range(8)]
        for sock, prompt in zip(sockets, prompts[at : at + 8], strict=True):
            sock.sendall(post("/v1/completions", {"prompt": prompt, "max_tokens": 40, "ignore_eos": True}))
        sockets.pop().close()
        for sock in sockets:
            assert read(sock).status == 200
            sock.close()
        subscriber.read(20)
    assert idle(endpoint)
    subscriber.read()
    driver, places = endpoint.server.driver, endpoint.server.served.places()
    assert sum(tree.removed for tree in subscriber.trees) > 100
    for rank, (number, _) in enumerate(places):
        assert set(driver.simulator.cached(rank).tolist()) == set(subscriber.trees[number].blocks)
    size, hits = endpoint.server.served.block_tokens, max(tree.prefix(prompts[-1], 16) for tree in subscriber.trees)
    assert size == 16
    again = ask(endpoint, post("/v1/completions", {"prompt": prompts[-1], "max_tokens": 2})).json
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == min(hits, (len(prompts[-1]) - 1) // 16 * 16)
    fault = {"faults": [{"part": "device 1", "for": "1 h"}], "times": {"detect": "1 s"}}
    assert ask(endpoint, post("/admin/faults", fault, host=HERE)).status == 200
    until(endpoint, "lost")
    subscriber.read()
    assert not subscriber.trees[1].blocks
    assert subscriber.trees[0].blocks
    metrics = ask(endpoint, get("/metrics")).body.decode()
    assert f'tokenworks_kv_event_batches_total{{what="published"}} {sum(subscriber.next)}.0' in metrics
    late = replayed(port + 2, 0)
    assert [number for number, _ in late] == list(range(subscriber.next[0]))
    tree = Tree()
    for _, payload in late:
        tree.take(msgspec.msgpack.decode(payload))
    assert tree.blocks == subscriber.trees[0].blocks
    assert [number for number, _ in replayed(port + 2, 3)] == list(range(3, subscriber.next[0]))
    subscriber.close()


@pytest.mark.parametrize(("engine", "written"), [("vllm", "through"), ("sglang", "back")])
def test_blocks_in_tiers(kernel: None, engine: str, written: str) -> None:
    """Each tier holds what its events say: a small memory of the host, and flash behind it."""
    more = {"prefetch": "wait"} if engine == "sglang" else {}
    tiers = [
        {"medium": "host", "capacity": "1.2 GB", "written": written},
        {"medium": "ssd", "capacity": "2 GB", "written": written, "gateway": "host", **more},
    ]  # fmt: skip
    port, rng = free_ports(1), np.random.default_rng(1)
    events = KvEventsConfig(enable_kv_cache_events=True, endpoint=f"tcp://*:{port}", topic="kv")
    roles = [{"name": "aggregated", "max_sequences": 64, "memory_fraction": 0.225}]
    plan = {**DEPLOYMENT, "system": "hgx-h100:1", "roles": roles, "tiers": tiers, "engine": engine}
    server = built(plan, speed=50.0, drain_s=0.5, kv_events=events)
    for endpoint in running(server):
        subscriber = Subscriber(port, 1)
        time.sleep(0.3)  # ZMQ connects
        prompts = [rng.integers(0, 1000, 3000).tolist() for _ in range(12)]
        for place in (*range(12), *reversed(range(12))):
            body = {"prompt": prompts[place], "max_tokens": 4, "ignore_eos": True}
            assert ask(endpoint, post("/v1/completions", body)).status == 200
        assert idle(endpoint)
        subscriber.read()
        (tree,), counts = subscriber.trees, server.driver.simulator.counts().tiers
        assert [one.used for one in counts] == [len(tree.tiers[name]) for name in ("host", "ssd")]
        assert set(server.driver.simulator.cached(0).tolist()) == set(tree.blocks)
        assert tree.left > 100
        assert sum(one.hit_blocks for one in counts)
        known = set(tree.blocks).union(*tree.tiers.values())
        names = block_names(np.array(prompts[0], np.uint32), server.served.block_tokens).tolist()
        assert known.issuperset(names[:-1])
        subscriber.close()


def replayed(port: int, first: int) -> list[tuple[int, bytes]]:
    """All batches that a replay socket sends."""
    context = zmq.Context()
    own, batches = context.socket(zmq.REQ), list[tuple[int, bytes]]()
    own.connect(f"tcp://127.0.0.1:{port}")
    own.send(first.to_bytes(8, "big"))
    own.close(linger=1000)
    own = context.socket(zmq.DEALER)  # as REQ, with more than one reply
    own.connect(f"tcp://127.0.0.1:{port}")
    own.send_multipart((b"", b"nonsense", b"more"))
    own.send_multipart((b"", first.to_bytes(8, "big")))
    while True:
        assert own.poll(5000)
        _, number, payload = own.recv_multipart()
        if number == (-1).to_bytes(8, "big", signed=True):
            break
        batches.append((int.from_bytes(number, "big"), payload))
    context.destroy(linger=0)
    return batches


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no valid JSON"),
        ("[]", "Expected `object`"),
        ('{"enable_kv_cache_event": true}', "enable_kv_cache_event"),
        ('{"enable_kv_cache_events": 1}', "Expected `bool`"),
        ('{"publisher": "nats"}', "nats"),
        ('{"publisher": "zmq"}', "publishes nothing"),
        ('{"enable_kv_cache_events": true, "buffer_steps": 0}', "buffer_steps"),
        ('{"enable_kv_cache_events": true, "hwm": 1.5}', "hwm"),
    ],
)
def test_bad_options_are_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match="--kv-events-config") as error:
        KvEventsConfig.read(text)
    assert message in str(error.value)


def test_bad_addresses_are_refused() -> None:
    for address, ranks, message in (("tcp://*:no", 1, "cannot be used"), ("udp://*:1", 1, "cannot be used"),
                                    ("ipc://x", 2, "no port for each rank"),
                                    ("tcp://*:65535", 2, "no port for each rank")):  # fmt: skip
        with pytest.raises(SpecError, match=message):
            KvPublisher(KvEventsConfig(enable_kv_cache_events=True, endpoint=address), ranks)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SpecError, match="in use"):
            KvPublisher(KvEventsConfig(enable_kv_cache_events=True, endpoint=f"tcp://*:{port}"), 1)


def test_events_need_a_prefix_cache_and_null_publishes_nothing() -> None:
    events = KvEventsConfig(enable_kv_cache_events=True)
    with pytest.raises(SpecError, match="no prefix cache"):
        built({**DEPLOYMENT, "prefix_caching": False}, kv_events=events)
    assert not KvEventsConfig.read('{"enable_kv_cache_events": true, "publisher": "null"}').publishes
    assert not built().driver.watched


def test_batches_that_nobody_sends_are_dropped_and_counted() -> None:
    port = free_ports(1)
    publisher = KvPublisher(
        KvEventsConfig(enable_kv_cache_events=True, endpoint=f"tcp://*:{port}", max_queue_size=1), 1
    )
    publisher.stop()
    from tokenworks.serving.kv_events import KvEventBatch

    for _ in range(3):
        publisher.publish(0, KvEventBatch(0.0, []))
    assert publisher.dropped == 2
