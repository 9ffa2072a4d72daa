"""What this computer can stream: a server without HTTP and without an engine, beside `benchmarks.serve`.

Groups of streams are out of step, as replicas are; each stream gets an event of 246 bytes every 20 ms. The server
writes it to the socket and does nothing else. An endpoint that writes each token by itself cannot be less late; one
that sends late tokens of a stream together can.

    python -m benchmarks.bare --streams 500,1200
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from multiprocessing import get_context
from typing import Any

import numpy as np

from benchmarks.serve import CLIENT, SERVER, p99, run

GROUPS, EVERY_S, EVENT = 8, 0.0204, b"f0\r\n" + b"x" * 238 + b"\r\n"
"""Groups of streams [count], time between two events of a stream [s], and an event."""

Lates = np.ndarray[Any, np.dtype[np.float64]]


class Stream(asyncio.Protocol):
    """A stream of the server."""

    def __init__(self, sockets: list[int]) -> None:
        self.sockets = sockets

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.sockets.append(transport.get_extra_info("socket").fileno())


async def stream(streams: int, seconds: float, answers: Any) -> tuple[Lates, float]:
    """Serve; how late each event was, and the CPU time of all [s]."""
    loop, sockets = asyncio.get_running_loop(), list[int]()
    server = await loop.create_server(lambda: Stream(sockets), "127.0.0.1", 0)
    answers.put(server.sockets[0].getsockname()[1])
    while len(sockets) < streams:
        await asyncio.sleep(0.05)
    lates, begin, ended = list[float](), loop.time() + 0.5, asyncio.Event()

    def turn(group: list[int], due: float) -> None:
        for socket in group:
            os.write(socket, EVENT)
            lates.append(loop.time() - due)
        if due + EVERY_S < begin + seconds:
            loop.call_at(due + EVERY_S, turn, group, due + EVERY_S)
        else:
            ended.set()

    for number in range(GROUPS):
        due = begin + number * EVERY_S / GROUPS
        loop.call_at(due, turn, sockets[number::GROUPS], due)
    cpu = time.process_time()
    await ended.wait()
    return np.array(lates), time.process_time() - cpu


def serve(streams: int, seconds: float, answers: Any) -> None:
    """The process of the server: its port, then its row."""
    os.sched_setaffinity(0, {SERVER})
    lates, cpu = run(lambda: stream(streams, seconds, answers))
    answers.put(
        f"{streams:6,} streams {len(lates) / seconds:9,.0f} events/s  {1e6 * cpu / len(lates):5.1f} us of CPU an event"
        f"  {cpu / seconds:4.2f} cores  late p50 {1e3 * np.median(lates):4.1f}, p99 {1e3 * p99(lates):5.1f} ms, "
        f"by more than 10 ms {100 * np.mean(lates > 0.01):.2f} %"
    )


async def read(port: int, streams: int, seconds: float) -> None:
    """The client: read all streams."""
    loop = asyncio.get_running_loop()
    for _ in range(streams):
        await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
    await asyncio.sleep(seconds + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="500,1200")
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    os.sched_setaffinity(0, {CLIENT})
    for streams in map(int, given.streams.split(",")):
        context = get_context("spawn")
        answers = context.Queue()
        server = context.Process(target=serve, args=(streams, given.seconds, answers))
        server.start()
        port = answers.get()
        run(lambda port=port, streams=streams: read(port, streams, given.seconds))  # type: ignore[misc]
        print(answers.get())
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
