"""Finding a model by name: a catalog id or alias, a path, or an id in the local Hugging Face cache."""

from __future__ import annotations

import functools
import os
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
"""Room for the name of a snapshot, a commit in hexadecimal."""


@functools.cache
def model_names() -> list[str]:
    """Ids of the catalog, in the form org/name; aliases left out."""
    return sorted(path.stem.replace("--", "/", 1) for path in CATALOG.glob("*.json"))


@functools.cache
def _index() -> dict[str, str]:
    """Lower-case id, alias or unique short name -> catalog id."""
    import yaml

    names = model_names()
    index: dict[str, str] = {}
    short: dict[str, list[str]] = {}
    for name in names:
        short.setdefault(name.split("/", 1)[1].lower(), []).append(name)
    index |= {key: found[0] for key, found in short.items() if len(found) == 1}
    aliases = yaml.safe_load((CATALOG / "aliases.yaml").read_text())
    index |= {alias.lower(): name for alias, name in aliases.items()}
    return index | {name.lower(): name for name in names}


def load_model(name_or_path: str) -> Model:
    """A model by catalog id ("deepseek-ai/DeepSeek-R1", case ignored), unique short name, path, or HF cache id.

    A path is a config.json or a directory that holds one.

    Raises
    ------
    UnknownName : no such id and no such path
    SpecError : a config that cannot be read, or an architecture or a needed field that is not known
    """
    known = _index().get(name_or_path.lower())
    if known:
        return _from_catalog(known)
    path = os.path.expanduser(name_or_path)
    if is_there(path):
        return _from_path(Path(path))
    cached = _in_cache(name_or_path)
    if cached:
        return build(_config(cached), name_or_path, str(cached))
    hint = f"no id of the catalog or of the local Hugging Face cache ({_cache()}), and no such path"
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
    """config.json, with the quantisation that modelopt writes beside it in hf_quant_config.json."""
    config = read_json(file)
    beside = file.with_name("hf_quant_config.json")
    if "quantization_config" not in config and is_there(beside):
        config["quantization_config"] = read_json(beside).get("quantization")
    return config


def _cache() -> Path:
    """Where huggingface_hub keeps its cache (its documented environment variables)."""
    if hub := os.environ.get("HF_HUB_CACHE"):
        return Path(hub)
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(home) / "hub"


def _in_cache(name: str) -> Path | None:
    """config.json of the snapshot that refs/main names, else of the newest one."""
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
    """No link into nowhere, as an interrupted download leaves it."""
    return is_there(path) and os.path.isfile(path)
