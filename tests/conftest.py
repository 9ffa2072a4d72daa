"""What all tests share: no page width from outside, and an engine that is compiled once in a run of tests."""

import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Compile the engine before the first test, where a collected test needs it.

    Each process of pytest-xdist comes here. The first one holds the lock and compiles (a minute of CPU time), and
    numba keeps the machine code on disk. The others wait for the lock, then read that code.
    """
    needed = "tokenworks.engine.kernel" in sys.modules or any(
        "kernel" in getattr(item, "fixturenames", ()) for item in session.items
    )
    if not needed or session.config.option.collectonly:
        return
    from tokenworks.engine.simulator import warm_up

    with Path(tempfile.gettempdir(), f"tokenworks-compiles-{os.getuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        warm_up()


@pytest.fixture(scope="session", autouse=True)
def _plain_page() -> Iterator[None]:
    """Pytest-xdist sets COLUMNS=80 for its processes, and commands would obey it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield


@pytest.fixture(scope="session")
def kernel() -> None:
    """The compiled engine: a test that asks for it measures or hears a command, and not the compiler."""
    from tokenworks.engine.simulator import warm_up

    warm_up()
