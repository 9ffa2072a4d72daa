"""Loads a model by a catalog id or alias, by a path, or by an id in the local Hugging Face cache."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.files import is_there, opened, unreadable
from tokenworks.specs.hf.architectures import build
from tokenworks.specs.hf.config import read_json
from tokenworks.specs.model import ExtendedContext, Model

CATALOG = Path(__file__).parents[2] / "catalog" / "models"
NAME_BYTES = 256
"""Largest size of the file that names a snapshot, a commit in hexadecimal [byte]."""


@functools.cache
def model_names() -> list[str]:
    """Ids of the models in the catalog, in the form org/name, without aliases."""
    return sorted(path.stem.replace("--", "/", 1) for path in CATALOG.glob("*.json"))


@functools.cache
def _index() -> dict[str, str]:
    """Id, alias or unique short name in lower case -> catalog id."""
    import yaml

    names = model_names()
    index: dict[str, str] = {}
    short: dict[str, list[str]] = {}
    for name in names:
        short.setdefault(name.split("/", 1)[1].lower(), []).append(name)
    index |= {key: ids[0] for key, ids in short.items() if len(ids) == 1}
    aliases = yaml.safe_load((CATALOG / "aliases.yaml").read_text())
    index |= {alias.lower(): name for alias, name in aliases.items()}
    return index | {name.lower(): name for name in names}


ModelLike = str | Path | Mapping[str, Any] | Model
"""What names a model: an id, a path, what a config.json holds, or a model."""


def load_model(model: ModelLike) -> Model:
    """A model by name, path or configuration.

    Parameters
    ----------
    model : catalog id ("deepseek-ai/DeepSeek-R1", case ignored) or unique short name; path of a config.json or of its
        folder; id in the local Hugging Face cache; what a config.json holds, as a dict, with a `name` if it should have
        one; or a model, which is returned as it is

    Raises
    ------
    UnknownName : there is no such id and no such path
    SpecError : a config that cannot be read, an unknown architecture, or a missing field
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, Mapping):
        config = dict(model)
        name = str(config.pop("name", "") or config.get("_name_or_path") or "model")
        return build(config, name, name)
    name_or_path = str(model)
    known = _index().get(name_or_path.lower())
    if known:
        return _from_catalog(known)
    path = os.path.expanduser(name_or_path)
    if is_there(path):
        return _from_path(Path(path))
    cached = _in_cache(name_or_path)
    if cached:
        return build(_config(cached), name_or_path, str(cached))
    hint = f"it is no id of the catalog or of the local Hugging Face cache ({_cache()}), and there is no such path"
    raise UnknownName("model", name_or_path, model_names(), hint=hint)


@functools.cache
def _from_catalog(name: str) -> Model:
    path = CATALOG / f"{name.replace('/', '--', 1)}.json"
    model = build(read_json(path), name, f"models/{path.name}")
    return replace(model, extended_context=_extended().get(name, model.extended_context))


@functools.cache
def _extended() -> dict[str, ExtendedContext]:
    """Catalog id -> the longer context that the model card documents."""
    import yaml

    entries = yaml.safe_load((CATALOG / "extended_context.yaml").read_text())
    return {name: ExtendedContext(**entry) for name, entry in entries.items()}


def _from_path(path: Path) -> Model:
    file = path / "config.json" if os.path.isdir(path) else path
    if file != path and not is_there(file):
        raise SpecError("no config.json in this directory", where=str(path))
    config = _config(file)
    name = file.resolve().parent.name if file.name == "config.json" else file.stem.replace("--", "/", 1)
    return build(config, name, str(file))


def _config(file: Path) -> dict[str, Any]:
    """The config.json, with the quantisation of hf_quant_config.json, which modelopt writes beside it."""
    config = read_json(file)
    beside = file.with_name("hf_quant_config.json")
    if "quantization_config" not in config and is_there(beside):
        config["quantization_config"] = read_json(beside).get("quantization")
    return config


def _cache() -> Path:
    """The cache folder of huggingface_hub, by its documented environment variables."""
    if hub := os.environ.get("HF_HUB_CACHE"):
        return Path(hub)
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(home) / "hub"


def _in_cache(name: str) -> Path | None:
    """Path of the config.json in the snapshot that refs/main names, else in the newest snapshot; None if not cached."""
    root = _cache() / f"models--{name.replace('/', '--')}"
    if not is_there(root):
        return None
    main, snapshots = root / "refs" / "main", root / "snapshots"
    if is_there(main):
        with opened(main) as file:
            name = file.read(NAME_BYTES).decode(errors="replace").strip()
        if _leads_to_file(named := snapshots / name / "config.json"):
            return named
    try:
        names = os.listdir(snapshots) if is_there(snapshots) else []
        configs = [config for name in names if _leads_to_file(config := snapshots / name / "config.json")]
        return max(configs, key=lambda config: config.stat().st_mtime, default=None)
    except OSError as error:
        raise unreadable(error, snapshots) from None


def _leads_to_file(path: Path) -> bool:
    """False for a broken link, which an interrupted download can leave."""
    return is_there(path) and os.path.isfile(path)
