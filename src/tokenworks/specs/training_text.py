"""The short form and the file of a training deployment: `tp=8,pp=16,gbs=2048` becomes a `Training`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tokenworks.errors import SpecError
from tokenworks.specs.load import is_path, nearest, read_yaml, validate
from tokenworks.specs.training import TRAINING_SCHEMA, Training, TrainingDeployment

KEYS: dict[str, tuple[str, ...]] = {
    "tp": ("parallel", "tp"),
    "pp": ("parallel", "pp"),
    "dp": ("parallel", "dp"),
    "cp": ("parallel", "cp"),
    "ep": ("parallel", "ep"),
    "etp": ("parallel", "expert_tp"),
    "sp": ("parallel", "sequence"),
    "zero": ("parallel", "zero"),
    "shard": ("parallel", "shard"),
    "mbs": ("micro_batch",),
    "gbs": ("global_batch",),
    "seq": ("seq_len",),
    "schedule": ("schedule", "name"),
    "vpp": ("schedule", "virtual_stages"),
    "layout": ("schedule", "layout"),
    "recompute": ("recompute", "name"),
    "modules": ("recompute", "modules"),
    "recompute_layers": ("recompute", "layers"),
    "recompute_last": ("recompute", "last_stage"),
    "offload_layers": ("recompute", "offload_layers"),
    "precision": ("precision", "recipe"),
    "attention": ("precision", "attention"),
    "kept": ("precision", "kept"),
    "gradients": ("precision", "gradients"),
    "reduce": ("precision", "reduce"),
    "gather": ("precision", "gather"),
    "dispatch": ("precision", "dispatch"),
    "optimiser": ("optimiser", "name"),
    "states": ("optimiser", "states"),
    "master": ("optimiser", "master"),
    "offload": ("optimiser", "offload"),
    "dp_overlap": ("overlap", "dp"),
    "tp_overlap": ("overlap", "tp"),
    "ep_overlap": ("overlap", "ep"),
    "pp_overlap": ("overlap", "pp"),
    "cp_overlap": ("overlap", "cp"),
    "capacity": ("experts", "capacity"),
    "skew": ("experts", "skew"),
    "dispatcher": ("experts", "dispatcher"),
    "fused": ("experts", "fused"),
    "activation": ("experts", "activation"),
    "method": ("method", "name"),
    "rank": ("method", "rank"),
    "reference": ("method", "reference"),
    "filled": ("method", "filled"),
    "exchange": ("exchange",),
    "draft_layers": ("draft_layers",),
    "attention_kernel": ("attention_kernel",),
    "graphs": ("graphs",),
    "document": ("document",),
}
"""Key of the short form -> path of the field in `Training`."""

TrainingLike = str | Path | Mapping[str, Any] | Training
"""Every form of a training deployment: short form, YAML file, content of such a file, or a `Training`."""


def load_training(
    training: TrainingLike, *, devices: int | None = None, where: str = "--deploy", **defaults: Any
) -> Training:
    """Read a training deployment.

    Parameters
    ----------
    training : the short form, such as "tp=8,pp=16,mbs=1,gbs=2048,seq=8192"; a YAML file with the fields of `Training`
        or of `TrainingDeployment`; the content of such a file; or a `Training`, which is returned unchanged
    devices : devices of the machine: they give dp where the text has none; None: dp is 1 then [count]
    where : option or file, for messages
    defaults : values by key of the short form, which hold where `training` gives none, such as gbs and seq

    Raises
    ------
    SpecError : the text or the file cannot be read, or its values do not go together
    """
    if isinstance(training, Training):
        return training
    if isinstance(training, str) and not is_path(training):
        data = _parsed(training, where)
    else:
        where = where if isinstance(training, Mapping) else str(training)
        data = dict(training) if isinstance(training, Mapping) else read_yaml(training)
        data = _fields(data, where)
    for key, value in defaults.items():
        _put(data, KEYS[key], value, keep=True)
    return validate(Training, _with_dp(data, devices, where), where)


def load_training_deployment(source: str | Path | Mapping[str, Any]) -> TrainingDeployment:
    """Read the file of a training deployment, with its model and its machine.

    Parameters
    ----------
    source : YAML file, or its content

    Raises
    ------
    SpecError : the file cannot be read, or is not a training deployment
    """
    where = "training deployment" if isinstance(source, Mapping) else str(source)
    data = dict(source) if isinstance(source, Mapping) else read_yaml(source)
    if not isinstance(data, dict):
        raise SpecError("is not a mapping of keys to values", where=where, hint="write model, system and training")
    _must_be_training(data, where)
    return validate(TrainingDeployment, {key: value for key, value in data.items() if key != "schema"}, where)


def training_document(deployment: TrainingDeployment) -> dict[str, Any]:
    """The content of the file of a training deployment, as plain data."""
    return {"schema": TRAINING_SCHEMA, **deployment.model_dump(mode="json")}


def training_text(training: Training) -> str:
    """The short form of a training deployment, without the values that are defaults.

    Parameters
    ----------
    training : the deployment
    """
    pairs = []
    usual = Training()
    for key, path in KEYS.items():
        value, default = _get(training, path), _get(usual, path)
        if value != default:
            text = "+".join(value) if isinstance(value, tuple) else str(value)
            pairs.append(f"{key}={text.lower() if isinstance(value, bool | None) else text}")
    return ",".join(pairs)


def _parsed(text: str, where: str) -> dict[str, Any]:
    """The fields that a short form names."""
    data: dict[str, Any] = {}
    seen = set()
    for pair in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, written = (part.strip() for part in pair.partition("="))
        if not equals or not written:
            raise SpecError(f"{pair!r} is not KEY=VALUE", where=where, hint="write it like tp=8,pp=4,mbs=1")
        if key not in KEYS:
            hint = nearest(key, list(KEYS)) or f"known: {', '.join(KEYS)}"
            raise SpecError(f"unknown key {key!r}", where=where, hint=hint)
        if key in seen:
            raise SpecError(f"{key} is given twice", where=where, hint="leave one of the two out")
        seen.add(key)
        _put(data, KEYS[key], _value(written, KEYS[key]))
    vpp = data.get("schedule", {}).get("virtual_stages", 1)
    if isinstance(vpp, int) and vpp > 1 and "name" not in data["schedule"]:
        data["schedule"]["name"] = "interleaved"
    return data


def _value(written: str, path: tuple[str, ...]) -> Any:
    """The value of a text, by its field: a word stays a word, a+b is a list, `none` is null where that is allowed."""
    default = _get(Training(), path)
    if isinstance(default, tuple):
        return tuple(part.strip() for part in written.split("+"))
    if isinstance(default, str):
        return None if written == "none" and path == ("optimiser", "master") else written
    if default is None and written == "none":
        return None
    try:
        return yaml.safe_load(written)
    except yaml.YAMLError:
        return written


def _get(training: Training, path: tuple[str, ...]) -> Any:
    value: Any = training
    for name in path:
        value = getattr(value, name)
    return value


def _put(data: dict[str, Any], path: tuple[str, ...], value: Any, *, keep: bool = False) -> None:
    """Put a value at a path of plain data; `keep`: only if the path has no value yet."""
    for name in path[:-1]:
        below: Any = data.setdefault(name, {})
        if not isinstance(below, dict):  # validation reports it
            return
        data = below
    if not keep or path[-1] not in data:
        data[path[-1]] = value


def _fields(data: Any, where: str) -> dict[str, Any]:
    """The fields of `Training` in the content of a file."""
    if not isinstance(data, dict):
        raise SpecError("is not a mapping of keys to values", where=where, hint="write the fields of a training run")
    _must_be_training(data, where)
    inner = data["training"] if "training" in data else {key: value for key, value in data.items() if key != "schema"}
    if not isinstance(inner, dict):
        raise SpecError("is not a mapping of keys to values", where=f"{where}: training", hint="write parallel, ...")
    return {key: dict(value) if isinstance(value, dict) else value for key, value in inner.items()}


def _must_be_training(data: Mapping[str, Any], where: str) -> None:
    schema = data.get("schema", TRAINING_SCHEMA)
    if schema != TRAINING_SCHEMA:
        raise SpecError(f"unknown schema {schema!r}", where=f"{where}: schema", hint=f"write {TRAINING_SCHEMA}")


def _with_dp(data: dict[str, Any], devices: int | None, where: str) -> dict[str, Any]:
    """The fields with dp = devices / (tp pp cp), if they have no dp."""
    parallel = data.get("parallel", {})
    if devices is None or not isinstance(parallel, dict) or "dp" in parallel:
        return data
    widths = [parallel.get(name, 1) for name in ("tp", "pp", "cp")]
    if not all(isinstance(width, int) and not isinstance(width, bool) and width > 0 for width in widths):
        return data  # validation reports it
    tp, pp, cp = widths
    if devices % (tp * pp * cp):
        raise SpecError(
            f"tp={tp} x pp={pp} x cp={cp} does not divide the {devices} devices",
            where=where,
            hint="change a width, or give dp for a part of the devices",
        )
    return {**data, "parallel": {**parallel, "dp": devices // (tp * pp * cp)}}
