"""Threads of a plan: the compiled engine and numpy run without the lock of Python, so several of them save time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

MOST_THREADS = 4
"""Threads at the same time, at most: each simulation needs memory, and the lock of Python stops more [count]."""

THREADS = min(MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
"""Threads at the same time on this machine [count]."""


@cache
def threads() -> ThreadPoolExecutor:
    """The threads of all plans of this process."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="plan")
