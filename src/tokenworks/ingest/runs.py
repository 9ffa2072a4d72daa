"""The runs of a result file: a JSON object, a JSON list of objects, or one JSON object per line."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from tokenworks.errors import SpecError
from tokenworks.ingest.rows import UNDECODABLE

Keys = dict[str, msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Run:
    """One JSON object of a file.

    Parameters
    ----------
    place : the file; in a file of several objects also the line, or the position in the list
    data : the object as JSON text
    keys : keys of the object, with their values as JSON text
    """

    place: str
    data: bytes
    keys: Keys


def runs_of(data: bytes, where: str) -> list[Run]:
    """The JSON objects of a file, in their order. Lines that are no JSON object are left out, if another line is one.

    Parameters
    ----------
    data : content of the file
    where : path of the file, for messages

    Raises
    ------
    SpecError : the file has no JSON object
    """
    try:
        if data.lstrip()[:1] == b"[":
            items = msgspec.json.decode(data, type=list[msgspec.Raw])
            return [_run(bytes(item), f"{where}[{i}]") for i, item in enumerate(items)]
        return [_run(data, where)]
    except UNDECODABLE as error:
        lines = _lines(data, where)
        if not lines:
            text = str(error) if data.strip() else "it is empty"
            raise SpecError(f"is no JSON object: {text}", where=where, hint="is the file complete?") from None
        return lines


def broken_lines(data: bytes, where: str, runs: list[Run]) -> tuple[str, ...]:
    """A note with the number of lines that are no JSON object, and the first of them; empty if there are none.

    Parameters
    ----------
    data, where : content and path of the file
    runs : the objects of the file
    """
    if not runs or not runs[0].place.startswith(f"{where}:"):  # the file is one object or one list, without lines
        return ()
    read = {run.place for run in runs}
    places = (f"{where}:{number}" for number, line in enumerate(data.split(b"\n"), 1) if line.strip())
    broken = [place for place in places if place not in read]
    return (
        (f"left out {len(broken)} of {len(broken) + len(runs)} lines: no JSON object at {broken[0]}",) if broken else ()
    )


def _lines(data: bytes, where: str) -> list[Run]:
    """The lines that are a JSON object."""
    runs = []
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            runs.append(_run(line, f"{where}:{number}"))
        except UNDECODABLE:
            continue
    return runs


def _run(data: bytes, place: str) -> Run:
    """One JSON object and its keys."""
    return Run(place, data, msgspec.json.decode(data, type=Keys))
