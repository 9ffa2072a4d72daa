"""The folder that `emit` writes: completely or not at all, and never over files of somebody else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tokenworks.errors import SpecError

MARK = ".tokenworks-emit.json"
"""File that lists what `emit` wrote, with a hash of each file. A folder with this file may be written again."""

SCRIPT = 0o755


def must_be_free(folder: Path) -> None:
    """Check that a folder can be written: it does not exist, is empty, or holds only what `emit` wrote.

    Parameters
    ----------
    folder : the folder

    Raises
    ------
    SpecError : the folder holds other files, or a file that was changed; or it cannot be written
    """
    where = f"--out {folder}"
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise SpecError("is not a folder", where=where, hint="name a new folder")
    if not folder.parent.is_dir():
        raise SpecError(f"there is no folder {folder.parent}", where=where, hint="make it first")
    if not os.access(folder.parent, os.W_OK):
        raise SpecError(f"{folder.parent} cannot be written", where=where, hint="name another folder")
    if not folder.exists():
        return
    present = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    if not present and not any(folder.iterdir()):
        return
    written = _written(folder)
    if not written:
        hint = "name a new folder, or an empty one"
        raise SpecError("is not empty, and `emit` did not write it", where=where, hint=hint)
    others = [name for name in present if name not in written and name != MARK]
    if others or any(path.is_dir() for path in folder.iterdir()):
        shown = ", ".join(others[:3]) or "a folder"
        hint = "move them to another place, or name a new folder"
        raise SpecError(f"holds files that `emit` did not write: {shown}", where=where, hint=hint)
    changed = [name for name in present if name != MARK and _hash((folder / name).read_bytes()) != written[name]]
    if changed:
        hint = "name a new folder, or delete the changed files"
        raise SpecError(f"{', '.join(changed[:3])} was changed after `emit` wrote it", where=where, hint=hint)


def _written(folder: Path) -> dict[str, str]:
    """Files that `emit` wrote -> their hashes. Empty: the folder has no list, or not one of `emit`."""
    try:
        data = json.loads((folder / MARK).read_text(encoding="utf-8"))
        files = data["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if not isinstance(files, dict):
        return {}
    return {name: value for name, value in files.items() if isinstance(name, str) and isinstance(value, str)}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Write all files into a new folder, and put it in the place of the old one.

    Parameters
    ----------
    folder : the folder, after `must_be_free`
    files : name -> text; names that end in .sh become executable

    Raises
    ------
    SpecError : the folder cannot be written; then nothing of it has changed
    """
    try:
        whole = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for name, text in files.items():
                path = whole / name
                path.write_text(text, encoding="utf-8")
                if name.endswith(".sh"):
                    path.chmod(SCRIPT)
            marks = {name: _hash(text.encode()) for name, text in files.items()}
            (whole / MARK).write_text(json.dumps({"files": marks}, indent=1) + "\n", encoding="utf-8")
            whole.chmod(SCRIPT)
            _swap(whole, folder)
        finally:
            shutil.rmtree(whole, ignore_errors=True)
    except OSError as error:
        raise SpecError(f"cannot be written: {error.strerror or error}", where=f"--out {folder}") from None


def _swap(whole: Path, folder: Path) -> None:
    """Put a finished folder in the place of the old one, which is deleted then."""
    if not folder.exists():
        whole.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    try:
        folder.rename(old / "old")
        try:
            whole.rename(folder)
        except OSError:
            (old / "old").rename(folder)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def safe_name(text: str) -> str:
    """A text as part of the name of a file: letters, digits, dots and dashes, and no dot in front."""
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in ".-") else "-" for letter in text)
    return kept.strip(".-")[:80] or "model"
