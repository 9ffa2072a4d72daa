"""Independent questions in local processes, with the answers in the order of the questions."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.managers import SyncManager
from typing import Any, TypeVar

from tokenworks.errors import TokenworksError
from tokenworks.processes import follow_parent, processes

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Say = Callable[[str], None]

_messages: Any = None
"""In a worker: the queue of progress messages; None: nobody listens."""


def each(
    answer: Callable[[Asked, Say | None], Answer],
    asked: Sequence[Asked],
    *,
    names: Sequence[str],
    workers: int,
    weights: Sequence[float] = (),
    say: Say | None = None,
) -> list[Answer]:
    """Answer each question; the number of workers changes no answer.

    Parameters
    ----------
    answer : a function of a module: question, and who is told what happens
    asked : the questions
    names : name of each question, for messages
    workers : processes [count]; 1: this process
    weights : about how long each question takes; the longest one starts first [-]
    say : told in words what happens

    Raises
    ------
    Exception : the first error, by the order of the questions, that `answer` raises
    TokenworksError : a process was ended from outside
    """
    workers = min(workers, len(asked))
    if workers <= 1:
        return [answer(one, _named(say, name)) for one, name in zip(asked, names, strict=True)]
    order = sorted(range(len(asked)), key=lambda i: (-(weights[i] if weights else 0.0), i))
    manager = SyncManager(ctx=multiprocessing.get_context("spawn"))
    manager.start(follow_parent)
    with manager, _Listener(manager, say) as messages:
        try:
            with processes(workers, _listen, messages) as pool:
                futures = {i: pool.submit(_answered, answer, asked[i], names[i]) for i in order}
                return [futures[i].result() for i in range(len(asked))]
        except BrokenProcessPool:
            words = "a process was ended from outside, perhaps because memory ran out; use fewer processes (--workers)"
            raise TokenworksError(words) from None


def _named(say: Say | None, name: str) -> Say | None:
    return None if say is None else lambda words: say(f"{name}: {words}")


def _listen(messages: Any) -> None:
    global _messages  # noqa: PLW0603 - a process has one queue
    follow_parent()
    _messages = messages


def _answered(answer: Callable[[Any, Say | None], Any], asked: Any, name: str) -> Any:
    messages = _messages
    return answer(asked, None if messages is None else lambda words: messages.put(f"{name}: {words}"))


class _Listener:
    """A queue whose messages a thread passes on; without a listener there is no queue."""

    def __init__(self, manager: SyncManager, say: Say | None) -> None:
        self.say, self.queue = say, manager.Queue() if say else None

    def __enter__(self) -> Any:
        if self.queue is not None:
            self.thread = threading.Thread(target=self._pass_on, daemon=True)
            self.thread.start()
        return self.queue

    def __exit__(self, *_: object) -> None:
        if self.queue is not None:
            self.queue.put(None)
            self.thread.join()

    def _pass_on(self) -> None:
        assert self.queue is not None
        assert self.say is not None
        while (words := self.queue.get()) is not None:
            self.say(words)
