"""KV events: what enters and leaves the prefix cache of each rank, over ZMQ, in the form in which vLLM publishes it.

The messages are maps in msgpack, as vLLM sends them since its change 42892. A message has three frames: topic, sequence
number (8 bytes, big-endian), batch. The replay socket (ROUTER) takes a sequence number, sends all kept batches from
there on, and ends with the sequence number -1.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from tokenworks.arrays import Ints
from tokenworks.engine.live import CLEARED, ENTERED, LEFT, STORED, CacheChanges
from tokenworks.errors import SpecError
from tokenworks.serving.tokens import Tokens
from tokenworks.specs.tier import Tier

OPTION = "--kv-events-config"
MEDIUM = "GPU"
_END = (-1).to_bytes(8, "big", signed=True)
_POLL_S = 0.05
"""Longest time that a replay request waits [s]."""


class KvEventsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON of `--kv-events-config`, with the names and defaults of vLLM.

    Parameters
    ----------
    enable_kv_cache_events : whether events are published
    publisher : "zmq" publishes, "null" does not; None: "zmq" if events are enabled
    endpoint : address of the first rank; each later rank takes the next port. An address with * is bound, another one
        is connected to
    replay_endpoint : address of the replay socket of the first rank; None: no replay
    buffer_steps : batches of each rank that are kept for the replay [count]
    hwm : messages that ZMQ keeps for a slow subscriber; more are dropped [count]
    max_queue_size : batches that wait until they are sent; more are dropped, and counted [count]
    topic : first frame of each message
    """

    enable_kv_cache_events: bool = False
    publisher: Literal["zmq", "null"] | None = None
    endpoint: str = "tcp://*:5557"
    replay_endpoint: str | None = None
    buffer_steps: int = 10_000
    hwm: int = 100_000
    max_queue_size: int = 100_000
    topic: str = ""

    @property
    def publishes(self) -> bool:
        """Whether events are published."""
        return self.enable_kv_cache_events and self.publisher != "null"

    @classmethod
    def read(cls, text: str | None) -> KvEventsConfig:
        """The content of the option.

        Parameters
        ----------
        text : JSON; None: no events

        Raises
        ------
        SpecError : the text is no JSON object of these fields, or a number is out of range
        """
        if text is None:
            return cls()
        try:
            config = msgspec.json.decode(text.encode(), type=cls)
        except msgspec.ValidationError as error:
            raise SpecError(str(error), where=OPTION, hint=f"fields: {', '.join(cls.__struct_fields__)}") from None
        except msgspec.DecodeError as error:
            raise SpecError(f"is no valid JSON: {error}", where=OPTION,
                            hint="""write '{"enable_kv_cache_events": true}'""") from None  # fmt: skip
        for name in ("buffer_steps", "hwm", "max_queue_size"):
            if not 1 <= getattr(config, name) <= 10**7:
                raise SpecError(f"{getattr(config, name)} is out of range", where=f"{OPTION}: {name}",
                                hint="give 1 to 10000000")  # fmt: skip
        if config.publisher == "zmq" and not config.enable_kv_cache_events:
            raise SpecError("publishes nothing", where=f"{OPTION}: publisher zmq",
                            hint="set enable_kv_cache_events to true")  # fmt: skip
        return config


class BlockStored(msgspec.Struct, tag=True, omit_defaults=True):
    """Blocks of one prompt, one after the other, have entered the cache of a rank.

    Parameters
    ----------
    block_hashes : names of the blocks
    parent_block_hash : name of the block before the first one; None: the prompt begins with it
    token_ids : tokens of all these blocks
    block_size : tokens of a block [token]
    lora_id, medium, lora_name : no LoRA; the memory of the block
    locality, ownership : of a block in a KV tier: as in `TierLabel`
    """

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    locality: str | None = None
    ownership: str | None = None


class BlockRemoved(msgspec.Struct, tag=True, omit_defaults=True):
    """Blocks were evicted from the cache of a rank, or from a KV tier."""

    block_hashes: list[int]
    medium: str | None
    locality: str | None = None
    ownership: str | None = None


class AllBlocksCleared(msgspec.Struct, tag=True, omit_defaults=True):
    """The cache of a rank is empty: the rank was lost, or the cache was flushed."""


KvEvent = BlockStored | BlockRemoved | AllBlocksCleared


class KvEventBatch(msgspec.Struct, omit_defaults=True):
    """Events of one step of a rank.

    Parameters
    ----------
    ts : Unix time of the step [s]
    events : the events, in the order in which they happened
    data_parallel_rank : number of the rank in its instance
    """

    ts: float
    events: list[KvEvent]
    data_parallel_rank: int | None = None


class TierLabel(NamedTuple):
    """How events name a KV tier.

    Parameters
    ----------
    medium : "CPU" or "STORAGE"
    locality : "LOCAL": in the host of the rank; "REMOTE": elsewhere
    ownership : name of the tier
    """

    medium: str
    locality: str
    ownership: str

    @classmethod
    def of(cls, tier: Tier) -> TierLabel:
        """The label of a tier of a deployment."""
        medium = "CPU" if tier.medium in {"host", "pool"} else "STORAGE"
        return cls(medium, "LOCAL" if tier.medium in {"host", "ssd"} else "REMOTE", tier.name)


class KvWatch:
    """Turns changes of the prefix caches into batches of events.

    Parameters
    ----------
    publisher : sends the batches
    places : of each rank of the engine: the number of its endpoint, and its number in its instance
    block_tokens : size of a block [token]
    speed : seconds of the logical clock in a second of the real clock [-]
    tiers : labels of the KV tiers
    """

    def __init__(
        self, publisher: KvPublisher, places: Sequence[tuple[int, int]], block_tokens: int, speed: float,
        tiers: Sequence[TierLabel] = (),
    ) -> None:  # fmt: skip
        self._tiers = list(tiers)
        self._publisher, self._places, self._size, self._speed = publisher, places, block_tokens, speed
        self._prompts: dict[int, tuple[Tokens, Ints]] = {}

    def submitted(self, number: int, tokens: Tokens, names: Ints) -> None:
        """Keep the tokens of a request while it is in flight.

        Parameters
        ----------
        number : number of the request in the engine
        tokens, names : tokens of prompt and answer, and names of their blocks
        """
        self._prompts[number] = (tokens, names)

    def ended(self, number: int) -> None:
        """A request has ended, and stores no more blocks."""
        self._prompts.pop(number, None)

    def changed(self, changes: CacheChanges, now: float) -> None:
        """Publish changes, one batch for each rank and step.

        Parameters
        ----------
        changes : what happened since the last call
        now : time of the logical clock [s]
        """
        batches: dict[tuple[int, float], list[KvEvent]] = {}
        columns = (changes.ranks, changes.times, changes.kinds, changes.names, changes.numbers, changes.blocks)
        last: tuple[int, float, int, int] | None = None  # rank, time, request and place of the last stored block
        for rank, when, kind, name, number, block in zip(*(column.tolist() for column in columns), strict=True):
            events = batches.setdefault((rank, when), [])
            before = events[-1] if events else None
            if kind == STORED:
                tokens, names = self._prompts[number]
                own = tokens[block * self._size : (block + 1) * self._size].tolist()
                if isinstance(before, BlockStored) and not before.ownership and last == (rank, when, number, block - 1):
                    before.block_hashes.append(name)
                    before.token_ids += own
                else:
                    parent = int(names[block - 1]) if block else None
                    events.append(BlockStored([name], parent, own, self._size, None, MEDIUM, None))
                last = (rank, when, number, block)
            elif kind == CLEARED:
                events.append(AllBlocksCleared())
            elif kind in {ENTERED, LEFT}:
                _add(events, self._tiers[number], name, stored=kind == ENTERED)
            elif isinstance(before, BlockRemoved) and before.ownership is None:
                before.block_hashes.append(name)
            else:
                events.append(BlockRemoved([name], MEDIUM))
        clock = time.time()
        for (rank, when), events in batches.items():
            endpoint, inside = self._places[rank]
            self._publisher.publish(endpoint, KvEventBatch(clock - (now - when) / self._speed, events, inside))

    def cleared(self) -> None:
        """All caches were emptied."""
        self._prompts.clear()
        for endpoint, inside in self._places:
            self._publisher.publish(endpoint, KvEventBatch(time.time(), [AllBlocksCleared()], inside))


def _add(events: list[KvEvent], tier: TierLabel, name: int, *, stored: bool) -> None:
    """Add a block that a tier got or lost, in the form of vLLM's offloading: without parent, tokens and size."""
    before = events[-1] if events else None
    if isinstance(before, BlockStored if stored else BlockRemoved) and before.ownership == tier.ownership:
        before.block_hashes.append(name)
    elif stored:
        events.append(BlockStored([name], None, [], 0, None, tier.medium, None, tier.locality, tier.ownership))
    else:
        events.append(BlockRemoved([name], *tier))


class KvPublisher:
    """Sends batches from a thread of its own, with a socket for each rank.

    Parameters
    ----------
    config : addresses and bounds
    ranks : number of ranks

    Raises
    ------
    SpecError : an address cannot be used, or pyzmq is not installed
    """

    def __init__(self, config: KvEventsConfig, ranks: int) -> None:
        self.dropped = self.published = 0
        self._topic = config.topic.encode()
        self._queue: queue.Queue[tuple[int, KvEventBatch] | None] = queue.Queue(config.max_queue_size)
        self._kept = [deque[tuple[int, bytes]](maxlen=config.buffer_steps) for _ in range(ranks)]
        self._numbers = [0] * ranks
        self._context, self._sockets, self._replays = _opened(config, ranks)
        self._thread = threading.Thread(target=self._run, name="kv-events", daemon=True)
        self._thread.start()

    def publish(self, endpoint: int, batch: KvEventBatch) -> None:
        """Send a batch. If too many wait, the batch is dropped and counted.

        Parameters
        ----------
        endpoint : number of the endpoint
        batch : the batch
        """
        try:
            self._queue.put_nowait((endpoint, batch))
        except queue.Full:
            self.dropped += 1

    def lines(self) -> list[str]:
        """Batches that were sent and dropped, in the text format of Prometheus."""
        name, counts = "tokenworks_kv_event_batches_total", {"published": self.published, "dropped": self.dropped}
        about = [f"# HELP {name} Batches of KV events.", f"# TYPE {name} counter"]
        return [*about, *(f'{name}{{what="{what}"}} {count}.0' for what, count in counts.items())]

    def _run(self) -> None:
        encode = msgspec.msgpack.Encoder().encode
        while True:
            for endpoint, replay in enumerate(self._replays):
                if replay.poll(0):
                    self._replay(endpoint, replay)
            try:
                one = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if one is None:
                break
            endpoint, batch = one
            number, payload = self._numbers[endpoint], encode(batch)
            self._sockets[endpoint].send_multipart((self._topic, number.to_bytes(8, "big"), payload))
            self._kept[endpoint].append((number, payload))
            self._numbers[endpoint] += 1
            self.published += 1
        for socket in (*self._sockets, *self._replays):
            socket.close(linger=0)
        self._context.term()

    def _replay(self, endpoint: int, replay: Any) -> None:
        """Answer a replay request; what is no request gets no answer."""
        frames = replay.recv_multipart()
        if len(frames) != 3 or len(frames[2]) != 8:
            return
        client, first = frames[0], int.from_bytes(frames[2], "big")
        for number, payload in self._kept[endpoint]:
            if number >= first:
                replay.send_multipart((client, b"", number.to_bytes(8, "big"), payload))
        replay.send_multipart((client, b"", _END, b""))

    def stop(self) -> None:
        """Send what waits, and close all sockets."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=1.0)
        self._thread.join(2.0)


def _opened(config: KvEventsConfig, ranks: int) -> tuple[Any, list[Any], list[Any]]:
    """Context, PUB sockets and replay sockets of all ranks."""
    try:
        import zmq
    except ImportError:
        raise SpecError("needs the package pyzmq", where=OPTION, hint='pip install "tokenworks[serve]"') from None

    addresses = [_at(config.endpoint, rank) for rank in range(ranks)]
    replayed = [] if config.replay_endpoint is None else [_at(config.replay_endpoint, rank) for rank in range(ranks)]
    context, sockets, replays, address = zmq.Context(), list[Any](), list[Any](), ""
    try:
        for address in addresses:
            sockets.append(context.socket(zmq.PUB))
            sockets[-1].set_hwm(config.hwm)
            bound = "*" in address or "::" in address or address.startswith(("ipc://", "inproc://"))
            (sockets[-1].bind if bound else sockets[-1].connect)(address)
        for address in replayed:
            replays.append(context.socket(zmq.ROUTER))
            replays[-1].set_hwm(config.hwm)
            replays[-1].bind(address)
    except zmq.ZMQError as error:
        for socket in (*sockets, *replays):
            socket.close(linger=0)
        context.term()
        raise SpecError(f"cannot be used: {error}", where=f"{OPTION}: {address}",
                        hint="write an address such as tcp://*:5557, with a free port") from None  # fmt: skip
    return context, sockets, replays


def _at(address: str, rank: int) -> str:
    """The address of a rank: the port of rank 0 plus its number.

    Raises
    ------
    SpecError : there are several ranks, and the address has no port
    """
    if rank == 0:
        return address
    base, _, port = address.rpartition(":")
    if not address.startswith("tcp://") or not port.isdecimal() or int(port) + rank > 65535:
        raise SpecError("has no port for each rank", where=f"{OPTION}: {address}",
                        hint="write an address such as tcp://*:5557")  # fmt: skip
    return f"{base}:{int(port) + rank}"
