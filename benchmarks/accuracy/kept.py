"""Results of commands, kept by hash of all that they depend on: an interrupted run continues where it stopped."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Figures = dict[str, Any]

ROOT = Path(__file__).parents[2]
CATALOG = ROOT / "src" / "tokenworks" / "catalog"
KEPT = ROOT / "build" / "accuracy"
"""Folder of the kept results: one folder for each hash of the code and the data."""


class CannotRun(Exception):
    """A command failed. The text is the message of the command."""


class NotKept(Exception):
    """A slow result is not kept, and may not be computed now."""


def kept(source: str, words: Sequence[str], compute: Callable[[], Any] | None) -> Any:
    """A result, from its file if it was computed before with the same code and data.

    Parameters
    ----------
    source : hash of the code and the data, see `source_hash`
    words : what is computed: the words of a command
    compute : computes the result; None: only a kept result is wanted

    Raises
    ------
    NotKept : the result is not kept, and `compute` is None
    """
    name = f"{words[0]}-{hashlib.sha256(chr(0).join(words).encode()).hexdigest()[:16]}.json"
    path = KEPT / source[:16] / name
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    if compute is None:
        raise NotKept
    result = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(result), encoding="utf-8")
    unfinished.replace(path)
    return result


def command(*words: str) -> Figures:
    """The JSON result of a `tokenworks` command.

    Raises
    ------
    CannotRun : the command ends with an error
    """
    run = subprocess.run(
        [sys.executable, "-m", "tokenworks", *words, "--output", "json"],
        cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    if not run.stdout.startswith("{"):
        raise CannotRun(f"tokenworks {' '.join(words)}: {run.stderr.strip() or f'exit {run.returncode}'}")
    result: Figures = json.loads(run.stdout)
    return result


def source_hash(data: Iterable[Path]) -> str:
    """Hash of the package with its catalog, of the comparison with a peer, and of the data that exists.

    Parameters
    ----------
    data : files with data
    """
    files = [path for path in (ROOT / "src" / "tokenworks").rglob("*") if path.suffix in (".py", ".yaml", ".json")]
    files += [ROOT / "benchmarks" / "peer.py", *(path for path in data if path.exists())]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))
