"""How the process keeps its memory: set once when a command starts."""

from __future__ import annotations

import ctypes
import gc
import sys

TRIM, MAP = -1, -3
"""`M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD` of glibc's `mallopt`."""

KEPT, MAPPED = 1 << 30, 1 << 25
"""Freed memory that the process keeps, and size from which an array is mapped by itself [byte]."""


def keep_freed_memory() -> None:
    """Keep freed memory in the process, where the C library is glibc.

    By default glibc gives the memory of a freed array back to the system, and the next array of the same size takes it
    page by page again. In a search, which makes thousands of arrays of about 1 MB, this took two thirds of the time.
    """
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except (OSError, AttributeError):  # another C library, such as musl
            return
        mallopt(TRIM, KEPT)
        mallopt(MAP, MAPPED)


BETWEEN = 10_000
"""New objects between two searches for unused cycles [count]. Python's default is 700."""


def seek_cycles_rarely() -> None:
    """Let Python search for unused cycles of objects rarely.

    A command makes hundreds of thousands of objects that stay, first of all by its imports, and few cycles. By default
    the searches took a fifth of the time of the imports.
    """
    gc.set_threshold(BETWEEN)
