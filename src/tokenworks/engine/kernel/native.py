"""Machine code of the entry points: kept on disk, loaded and called without numba.

Numba takes more than a second to import and to prepare, as much as a whole simulation. So numba is only used to
compile. What it compiles is kept as an object file, which llvmlite links in some milliseconds.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenworks.errors import SpecError

NUMBERS: dict[str, Any] = {"address": ctypes.c_int64, "int": ctypes.c_int64, "float": ctypes.c_double}
"""Numbers that an entry point may take."""

ARRAYS = {f"{name}[]": np.dtype(name) for name in ("i1", "i4", "i8", "f8")}
"""Arrays that an entry point may take: of one dimension, without gaps."""

_GIVES: dict[str, Any] = {"int": ctypes.c_int64, "float": ctypes.c_double, "none": ctypes.c_void_p}
_ARRAY = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 5]
"""How numba hands over an array: two owners, items, bytes of an item, address, items, bytes between items."""

_OK = (0, -2)  # numba's codes for "returned" and "returned None"

_COMPILED_IN = ("gaps.py", "outside.py", "policies.py", "state.py", "tier_state.py", "tiers.py", "types.py")
_DIGEST = hashlib.sha256().digest_size
_SUFFIX = ".tokenworks.o"

Native = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Code:
    """Machine code of an entry point.

    Parameters
    ----------
    symbol : name of the function in the object file
    takes : what the function takes, names in `NUMBERS` or `ARRAYS`
    gives : what it returns: int, float or none
    machine : the object file
    """

    symbol: str
    takes: tuple[str, ...]
    gives: str
    machine: bytes

    def plain(self) -> bytes:
        """The code as a file: a digest of the rest, a line that describes the function, the object file."""
        rest = json.dumps([self.symbol, self.takes, self.gives]).encode() + b"\n" + self.machine
        return hashlib.sha256(rest).digest() + rest

    @classmethod
    def of(cls, plain: bytes) -> Code | None:
        """The code of a file; None if the file is damaged."""
        rest = plain[_DIGEST:]
        if hashlib.sha256(rest).digest() != plain[:_DIGEST]:
            return None
        line, _, machine = rest.partition(b"\n")
        symbol, takes, gives = json.loads(line)
        return cls(symbol, tuple(takes), gives, machine)


# ── on disk ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def _sources() -> str:
    """What machine code is made of: our sources, and the versions of numba and llvmlite."""
    room = Path(__file__).parent
    digest = hashlib.sha256(f"{version('numba')} {version('llvmlite')}".encode())
    for source in (*sorted(room.glob("*.py")), *(room.parent / name for name in _COMPILED_IN)):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _processor() -> str:
    """What machine code runs on."""
    import llvmlite.binding as llvm  # type: ignore[import-untyped]

    words = llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:16]


def folders() -> list[Path]:
    """Folders for machine code, best first: the one that the user names, the one beside the sources, the user's own."""
    room = Path(__file__).parent
    own = f"tokenworks_{hashlib.sha256(str(room).encode()).hexdigest()[:16]}"
    if named := os.environ.get("NUMBA_CACHE_DIR"):
        return [Path(named) / own]
    if sys.platform == "win32":
        user = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local"))
    elif sys.platform == "darwin":
        user = Path("~/Library/Caches")
    else:
        user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    found = [room / "__pycache__"]
    with suppress(RuntimeError):  # there is no home
        found.append(user.expanduser() / "tokenworks" / own)
    return found


def _name(entry: str) -> str:
    return f"{entry}.{_sources()}.{_processor()}{_SUFFIX}"


def _files(entry: str) -> Iterator[Path]:
    """Files with the current machine code of an entry point."""
    return (path for folder in folders() if os.access(path := folder / _name(entry), os.R_OK))


def _room() -> Path | None:
    """The first folder that can be written; None if there is none."""
    for folder in folders():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
    return None


def kept() -> bool:
    """Whether machine code is kept on disk for the next process."""
    return _room() is not None


def stored(entry: str) -> bool:
    """Whether there is a file with the current machine code of an entry point."""
    return any(_files(entry))


def read(entry: str) -> tuple[Code | None, bool]:
    """The current machine code of an entry point, if it is on disk, and whether damaged code was found and deleted.

    Raises
    ------
    SpecError : damaged code cannot be deleted
    """
    damaged = False
    for path in _files(entry):
        with suppress(OSError):  # another process may delete it just now
            code = Code.of(path.read_bytes())
            if code is not None:
                return code, damaged
            _delete(path)
            damaged = True
    return None, damaged


def write(entry: str, code: Code) -> None:
    """Keep machine code on disk, if a folder can be written. Code of other sources in the folder is deleted."""
    folder = _room()
    if folder is None:
        return
    draft = folder / f"{_name(entry)}.{os.getpid()}"  # another process may read at the same time
    draft.write_bytes(code.plain())
    draft.replace(folder / _name(entry))
    for path in folder.glob(f"*{_SUFFIX}"):
        if f".{_sources()}." not in path.name:
            with suppress(OSError):
                path.unlink()


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        hint = "delete the file, or set NUMBA_CACHE_DIR to a folder that can be written"
        raise SpecError("damaged compiled code cannot be deleted", where=str(path), hint=hint) from None


# ── in memory ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_linked: list[Any] = []
"""Everything that was linked, so that it stays."""


def link(code: Code) -> Native:
    """A Python function that runs machine code. Other threads of Python run meanwhile."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.machine))
    engine.finalize_object()
    _linked.append(engine)
    words = [word for name in code.takes for word in ([NUMBERS[name]] if name in NUMBERS else _ARRAY)]
    kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *words)
    return _called(kind(engine.get_function_address(code.symbol)), code)


def _called(function: Callable[..., int], code: Code) -> Native:
    """A function with numba's convention of calls as a function of Python."""
    takes, gives, symbol = [ARRAYS.get(name) for name in code.takes], _GIVES[code.gives], code.symbol

    def call(*values: Any) -> Any:
        words: list[Any] = []
        for value, item in zip(values, takes, strict=True):
            if item is None:
                words.append(value)
            else:
                words += _words(value, item)
        result, error = gives(), ctypes.c_void_p()
        status = function(ctypes.addressof(result), ctypes.addressof(error), *words)
        if status not in _OK:
            raise RuntimeError(f"{symbol} ended with code {status}")
        return result.value

    return call


class ArrayTable:
    """Arrays that many calls take, behind one address: the address and the length of each (`tables`).

    Parameters
    ----------
    items : dtypes of the arrays that compiled code expects, such as "i8 f8"
    arrays : the arrays; they stay as long as this object

    Raises
    ------
    TypeError : an array is of another type, or has gaps
    """

    __slots__ = ("_arrays", "_words", "address")

    def __init__(self, items: str, *arrays: NDArray[Any]) -> None:
        for item, array in zip(items.split(), arrays, strict=True):
            _words(array, np.dtype(item))
        self._arrays = arrays
        self._words = np.array([(array.ctypes.data, len(array)) for array in arrays], np.int64)
        self.address: int = self._words.ctypes.data


def _words(array: NDArray[Any], item: np.dtype[Any]) -> tuple[Any, ...]:
    """An array as numba takes it.

    Raises
    ------
    TypeError : the array is of another type, or has gaps; compiled code would read the wrong bytes
    """
    if array.dtype != item or array.ndim != 1 or not array.flags.c_contiguous:
        raise TypeError(f"want a contiguous array of {item}, not {array.ndim} dimensions of {array.dtype}")
    return None, None, len(array), item.itemsize, array.ctypes.data, len(array), item.itemsize
