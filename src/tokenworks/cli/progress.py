"""What verbs say on stderr while they work: compiling, progress, and what was wrong in a trace."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from rich.text import Text

from tokenworks.cli.output import notes
from tokenworks.cli.page import escaped

if TYPE_CHECKING:
    from rich.status import Status

    from tokenworks.specs.trace import Trace


def compile_once() -> None:
    """Compile the engine, with a word, where that has not been done on this machine."""
    from tokenworks.engine.simulator import compiled, kept, warm_up

    if not compiled():
        how = "once for this machine" if kept() else "for this run alone, as no folder for compiled code can be written"
        notes().print(f"compiling the simulator, {how}: up to half a minute")
        if not kept():
            notes().print("set NUMBA_CACHE_DIR to a folder that can be written, and the next run starts at once")
    with progress("compiling the simulator") if not compiled() else nullcontext():
        damaged = warm_up()
    if damaged:
        notes().print("the compiled simulator on disk was damaged, and was compiled anew")


def progress(words: str) -> AbstractContextManager[Callable[[str], None] | None]:
    """What shows progress on a terminal; elsewhere nothing does."""
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
    """Rows of a trace that were left out or sorted go to stderr."""
    for dropped in read.dropped:
        notes().print(f"left out {dropped.count}: {dropped.reason} (first at {dropped.where})")
    if read.reordered:
        notes().print(f"sorted {read.reordered} rows that stood before an earlier one")
