"""Processes that work on a plan beside this one: Python runs one thread of a process at a time.

A process is started once and then kept. It is sent a function of a module with its arguments, and sends back the
result. Where no process can be started, or one has ended, the work is done here: no result depends on the processes.
"""

from __future__ import annotations

import atexit
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from threading import local
from typing import IO, Any, TypeVar

from tokenworks.engine.types import StepCost
from tokenworks.planning.costing import Costing
from tokenworks.processes import cores
from tokenworks.simulation.steps import Site

MOST_PROCESSES = 4
"""Processes at the same time, at most: each simulation needs memory [count]."""

PROCESSES = 1 if multiprocessing.parent_process() else min(MOST_PROCESSES, cores())
"""Processes that work on a plan on this machine, with this one; a process of a sweep works alone [count]."""

SHARED = (Costing, Site, StepCost)
"""Large objects that many tasks have in common: each is sent once, and then its number."""

MOST_SHARED = 256
"""Shared objects that both sides keep, at most [count]."""

_PROTOCOL = 5

Done = TypeVar("Done")
Message = tuple[dict[int, bytes], bytes]
"""Objects that the other side does not know yet, by number, and an object."""


class _Writer(pickle.Pickler):
    """Writes the numbers of objects that have one."""

    def __init__(self, file: IO[bytes], number_of: Callable[[Any], int | None]) -> None:
        super().__init__(file, _PROTOCOL)
        self._number_of = number_of

    def persistent_id(self, item: Any) -> int | None:
        """The number of an object, if it is written as one."""
        return self._number_of(item)


class _Reader(pickle.Unpickler):
    """Reads numbers as the objects that they stand for."""

    def __init__(self, file: IO[bytes], objects: Mapping[int, Any]) -> None:
        super().__init__(file)
        self._objects = objects

    def persistent_load(self, number: int) -> Any:
        """The object with a number."""
        return self._objects[number]


class _Shared:
    """Objects that both sides keep, by number.

    Parameters
    ----------
    step : 1 here and -1 in the other process: each side gives numbers of its own
    """

    def __init__(self, step: int) -> None:
        self._step, self._given = step, 0
        self._objects: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}

    def written(self, one: Any) -> Message:
        """An object in which shared objects are numbers, and the objects that the other side does not know yet."""
        fresh: dict[int, bytes] = {}

        def number_of(item: Any) -> int | None:
            if not isinstance(item, SHARED):
                return None
            if id(item) not in self._numbers:
                self._given += self._step
                self._keep(self._given, item)
                fresh[self._given] = pickle.dumps(item, _PROTOCOL)
            return self._numbers[id(item)]

        file = io.BytesIO()
        _Writer(file, number_of).dump(one)
        return fresh, file.getvalue()

    def read(self, message: Message) -> Any:
        """The object that the other side has written."""
        fresh, plain = message
        for number, content in fresh.items():
            self._keep(number, pickle.loads(content))
        return _Reader(io.BytesIO(plain), self._objects).load()

    def forget_many(self) -> bool:
        """Forget all objects if there are too many."""
        if len(self._objects) <= MOST_SHARED:
            return False
        self._objects.clear()
        self._numbers.clear()
        return True

    def _keep(self, number: int, one: Any) -> None:
        self._objects[number], self._numbers[id(one)] = one, number


class _Process:
    """A process that works for this one."""

    def __init__(self) -> None:
        self._shared, self._left = _Shared(1), False
        self._process: subprocess.Popen[bytes] | None = None
        self._pipes: tuple[IO[bytes], IO[bytes]] | None = None
        code = f"import sys; sys.path[:] = {sys.path!r}; from tokenworks.planning.elsewhere import work; work()"
        with suppress(OSError, ValueError):
            process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this process
            )  # fmt: skip
            assert process.stdin
            assert process.stdout
            self._pipes = process.stdin, process.stdout
            self._process = process
            atexit.register(self.end)

    def end(self) -> None:
        """End the process, also if it works."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._pipes = self._process = None

    def leave(self) -> None:
        """End what the process does, from another thread; the thread that waits for it gets no result."""
        self._left, process = True, self._process
        if process is not None:
            process.kill()

    def do(self, function: Callable[..., Done], *arguments: Any) -> Done:
        """Let the process work, and wait for its result; work here if there is no such process."""
        if self._pipes:
            questions, answers = self._pipes
            try:
                forgets = self._shared.forget_many()
                pickle.dump((forgets, self._shared.written((function, arguments))), questions, _PROTOCOL)
                questions.flush()
                well, answer = self._shared.read(pickle.load(answers))
            except (OSError, EOFError, pickle.UnpicklingError):  # the process has ended, such as for want of memory
                self.end()
                if self._left:
                    raise KeyboardInterrupt from None
            else:
                if well:
                    return answer  # type: ignore[no-any-return]
                raise answer
        return function(*arguments)


def work() -> None:
    """What a process does: it answers until the pipe is closed."""
    import tokenworks.planning.plan  # noqa: F401 what the first task needs
    from tokenworks.engine.simulator import compiled, warm_up

    questions, shared = sys.stdin.buffer, _Shared(-1)
    if compiled():
        warm_up()
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # nothing else may come between the answers
        while True:
            try:
                forgets, task = pickle.load(questions)
            except EOFError:
                return
            if forgets:
                shared = _Shared(-1)
            answer: tuple[bool, Any]
            try:
                function, arguments = shared.read(task)
                answer = True, function(*arguments)
            except Exception as error:
                answer = False, error
            try:
                pickle.dump(shared.written(answer), answers, _PROTOCOL)
                answers.flush()
            except BrokenPipeError:  # nobody waits any more
                return


_mine = local()


_started: list[_Process] = []
"""The processes of all threads."""


def _begin() -> None:
    """Start the process of a thread."""
    _mine.process = _Process()
    _started.append(_mine.process)


@cache
def threads() -> ThreadPoolExecutor:
    """Threads, each with a process of its own: what they leave to `elsewhere` runs at the same time as this process."""
    return ThreadPoolExecutor(max(PROCESSES - 1, 1), thread_name_prefix="plan", initializer=_begin)


def begin() -> None:
    """Start the processes now, so that they are there when they are needed."""
    for _ in range(PROCESSES - 1):
        threads().submit(int)


def leave() -> None:
    """End all processes with what they do, for a program that ends: a run may take a minute."""
    threads().shutdown(wait=False, cancel_futures=True)
    for one in _started:
        one.leave()


def here() -> bool:
    """Whether this thread has no other process that works for it."""
    return getattr(_mine, "process", None) is None


def elsewhere(function: Callable[..., Done], *arguments: Any) -> Done:
    """The result of a function, computed by the process of this thread; by this process in a thread without one.

    Parameters
    ----------
    function : a function of a module
    arguments : its arguments; they and the result can be pickled
    """
    process: _Process | None = getattr(_mine, "process", None)
    return process.do(function, *arguments) if process else function(*arguments)
