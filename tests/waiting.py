"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(there: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until something is there.

    Raises
    ------
    AssertionError : it is not there in time
    """
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)
