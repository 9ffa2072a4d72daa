"""Counts the parameters of encoders (vision, audio) and of their connectors. They have no cost in the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenworks.specs.hf.config import Fields, NotTold
from tokenworks.specs.hf.scope import Scope
from tokenworks.specs.hf.table import Entry, entry

MOST = 10**13


def count(outer: Fields, arch: Entry, hidden: int) -> tuple[int | None, list[str]]:
    """Number of parameters of all encoders, with the connectors to the decoder.

    Parameters
    ----------
    outer : the whole config
    arch : its architecture; `towers` has the key of each encoder and its formula, or its kind
    hidden : width of the decoder [count]

    Returns
    -------
    Number of parameters, None if the config does not give the sizes [count]; and notes.
    """
    total, notes = 0, []
    counted: list[str] = []
    try:
        for key, tower in arch.get("towers", {}).items():
            if (elements := _tower(outer, key, tower, hidden)) is not None:
                total += elements
                counted.append(key.rsplit(".", 1)[-1].removesuffix("_config"))
        if "connector" in arch and (counted or not arch.get("towers")):
            total += _scope(outer, arch, hidden).whole(arch["connector"], least=0, most=MOST)
    except NotTold:  # the tower has no cost, so a config without its size is no error
        return None, ["the vision tower is not counted: its config does not give its size"]
    if [key for key in counted if key != "vision"]:
        notes.append(f"counted but not costed: {', '.join(counted)}")
    return total, notes


def _scope(fields: Fields, holder: Mapping[str, Any], hidden: int) -> Scope:
    return Scope(fields, holder.get("tower_names", {}), {"decoder_width": hidden})


def _tower(outer: Fields, key: str, tower: Any, hidden: int) -> int | None:
    """Parameters of one encoder; None: the config has none.

    The encoder names its kind as `model_type`. Without it, `tower` is the kind; a `tower` that starts with = is always
    the kind.
    """
    fields = outer
    for step in key.split("."):
        if not fields.has(step):
            return None
        fields = fields.table(step)
    kind = fields.get("model_type")
    own = isinstance(kind, str) and kind and not tower.startswith("=")
    name = "_" + (str(kind) if own else tower.removeprefix("="))
    encoder = entry(name)
    if encoder is None:
        raise NotTold(f"{key}.model_type: {kind!r} is not counted", where=outer.where)
    if "elements" not in encoder:
        raise NotTold(f"{key}: not counted", where=outer.where)
    fields.with_defaults(encoder.get("defaults", {}))
    fields.ignore(*fields.names())  # an encoder has no cost, so its other keys do not matter
    scope = Scope(fields, encoder.get("names", {}), {"decoder_width": hidden})
    for check in encoder.get("checks", ()):
        if not scope.value(check["that"]):
            raise NotTold(f"{key}: {check['words']}", where=outer.where)
    return scope.whole(encoder["elements"], least=0, most=MOST)
