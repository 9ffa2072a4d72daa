"""Edits of a spec from the command line: `roles.0.max_sequences=64` sets one value, as strictly as a file does."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import yaml

from tokenworks.errors import SpecError
from tokenworks.specs.load import SpecT, validate


def edited(spec: SpecT, edits: Sequence[str], where: str) -> SpecT:
    """The spec with each edit `path=value` made.

    Parameters
    ----------
    where : the file of the spec, which an error names

    Raises
    ------
    SpecError : an edit cannot be read or names no value, or the edited spec is not valid
    """
    if not edits:
        return spec
    data = spec.model_dump(mode="json")
    for edit in edits:
        _edit(data, edit)
    return validate(type(spec), data, f"{where} with --set {' '.join(edits)}")


def _edit(data: Any, edit: str) -> None:
    where = f"--set {edit}"
    path, equals, text = edit.partition("=")
    if not equals or not text:
        raise SpecError("is no path=value", where=where, hint="write it like roles.0.max_sequences=64")
    *way, last = path.split(".")
    for part in way:
        data = data[_key(data, part, where)]
    key = _key(data, last, where)
    if isinstance(data[key], (dict, list)):
        raise SpecError(f"{last} holds more than one value", where=where, hint=f"set one of {_known(data[key])}")
    try:
        data[key] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise SpecError(f"cannot read {text!r}", where=where, hint="give a number or a word") from None


def _key(data: Any, part: str, where: str) -> Any:
    if isinstance(data, list) and part.isdecimal() and int(part) < len(data):
        return int(part)
    if isinstance(data, dict) and part in data:
        return part
    known = _known(data)
    if isinstance(data, dict):
        near = difflib.get_close_matches(part, data, n=1, cutoff=0.6)
        known = f'did you mean "{near[0]}"?' if near else f"known: {known}"
    else:
        known = f"known: {known}" if known else "it is a plain value"
    raise SpecError(f"unknown key {part!r}", where=where, hint=known)


def _known(data: Any) -> str:
    return ", ".join(map(str, data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()))
