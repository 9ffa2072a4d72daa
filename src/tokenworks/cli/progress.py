"""Messages on stderr while a command works: compilation, progress, and broken rows of a trace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING

from rich.text import Text

from tokenworks.cli.output import notes
from tokenworks.cli.page import escaped

if TYPE_CHECKING:
    from rich.status import Status

    from tokenworks.specs.trace import Trace


DAMAGED = "the compiled simulator on disk was damaged; it was compiled again"
MENDED = 3
"""Exit code of the process that compiles, if compiled code on disk was damaged."""


def compile_once() -> None:
    """Compile the simulator if this computer has no compiled code yet, and print a note."""
    from tokenworks.engine.simulator import compiled, kept, warm_up

    ready = compiled()
    if not ready:
        how = "once for this computer" if kept() else "for this run only: no folder for compiled code can be written"
        notes().paragraph(f"compiling the simulator, {how}; up to a minute")
        if not kept():
            notes().paragraph("set NUMBA_CACHE_DIR to a folder that can be written, and the next run starts at once")
    with nullcontext() if ready else progress("compiling the simulator"):
        mended = not ready and kept() and _compiled_apart()
        damaged = warm_up() or mended
    if damaged:
        notes().paragraph(DAMAGED)


def _compiled_apart() -> bool:
    """Compile in a process of its own, and return whether compiled code on disk was damaged.

    A process that compiles keeps numba (600 MB) in memory until it ends, and a server runs for long. If this process
    cannot be started, or fails, the caller compiles what is missing.
    """
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from tokenworks.engine.simulator import warm_up; "
        f"sys.exit({MENDED} if warm_up() else 0)"
    )
    nothing = subprocess.DEVNULL
    with suppress(OSError, ValueError):
        done = subprocess.run([sys.executable, "-c", code], stdin=nothing, stdout=nothing, stderr=nothing, check=False)
        return done.returncode == MENDED
    return False


def progress(words: str) -> AbstractContextManager[Callable[[str], None] | None]:
    """A context that gives a function for progress messages on a terminal, and None elsewhere."""
    return _Progress(words) if notes().is_terminal else nullcontext()


class _Progress(AbstractContextManager[Callable[[str], None]]):
    def __init__(self, words: str) -> None:
        self.status: Status = notes().status(Text(words))

    def __enter__(self) -> Callable[[str], None]:
        self.status.start()
        return lambda words: self.status.update(Text(escaped(words)))

    def __exit__(self, *_: object) -> None:
        self.status.stop()


def note_mended(read: Trace) -> None:
    """Print on stderr which rows of a trace were left out or sorted."""
    for dropped in read.dropped:
        notes().paragraph(
            f"left out {dropped.count:,} {_rows(dropped.count)}: {dropped.reason} (first at {dropped.where})"
        )
    if read.reordered:
        verb = "was" if read.reordered == 1 else "were"
        notes().paragraph(f"sorted {read.reordered:,} {_rows(read.reordered)} that {verb} not in the order of time")


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"
