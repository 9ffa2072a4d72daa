"""Files to specs: safe and strict reading of YAML, and every error as one SpecError that names file and path."""

from __future__ import annotations

import difflib
import functools
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.device import Device
from tokenworks.specs.files import opened, unreadable
from tokenworks.specs.system import Network, System
from tokenworks.specs.workload import Workload

Kind = Literal["device", "system", "network", "workload"]
SpecT = TypeVar("SpecT", bound=BaseModel)
WorkloadLike = str | Path | Mapping[str, Any] | Workload
"""What names a workload: a name of the catalog, a YAML file, what such a file holds, or a workload."""

CATALOG = Path(__file__).parent.parent / "catalog"
MAX_BYTES = 4_000_000
BRANDS = ("nvidia", "geforce", "amd", "instinct", "intel", "huawei", "ascend", "hygon", "dcu")
"""Words in front of a device's name that say who makes it; people leave them out or write them."""

_SHOWN_ERRORS = 5
_QUOTE = "'"  # around the names in pydantic's words


def catalog_names(kind: Kind) -> list[str]:
    """Names of the files that the catalog ships, sorted."""
    return sorted(path.stem for path in (CATALOG / f"{kind}s").glob("*.yaml"))


def find_device(name: str) -> str | None:
    """The catalog's name of a device by any name that it goes by: case, dashes and brands do not matter."""
    return _devices().get(_bare(name))


@functools.cache
def _devices() -> dict[str, str]:
    index: dict[str, str] = {}
    for name in catalog_names("device"):
        for known in (name, *load(Device, locate("device", name)).aliases):
            if index.setdefault(_bare(known), name) != name:
                raise SpecError(f"alias {known!r} is {index[_bare(known)]}'s", where=f"catalog/devices/{name}.yaml")
    return index


def _bare(name: str) -> str:
    """Letters and digits alone, without the brands in front: NVIDIA A100-SXM4-80GB is a100sxm480gb."""
    bare = re.sub(r"[^a-z0-9]", "", name.lower())
    while brand := next((brand for brand in BRANDS if bare.startswith(brand) and bare != brand), None):
        bare = bare.removeprefix(brand)
    return bare


def load_system(name_or_path: str | Path) -> System:
    """A catalog system, or a user's own YAML file."""
    return load(System, locate("system", name_or_path))


def load_network(name_or_path: str | Path) -> Network:
    """A catalog network, or a user's own YAML file."""
    return load(Network, locate("network", name_or_path))


def load_workload(workload: WorkloadLike) -> Workload:
    """A workload of the catalog, a YAML file, what such a file holds, or a workload, which is returned as it is."""
    if isinstance(workload, Workload):
        return workload
    if isinstance(workload, Mapping):
        return validate(Workload, {"name": "workload", **workload}, "workload")
    return load(Workload, locate("workload", workload))


def load(spec_type: type[SpecT], path: Path) -> SpecT:
    """Read and validate one file; one of the catalog once for all."""
    return _shipped(spec_type, path) if path.is_relative_to(CATALOG) else _read(spec_type, path)


def _read(spec_type: type[SpecT], path: Path) -> SpecT:
    return validate(spec_type, read_yaml(path), str(path))


_shipped = functools.cache(_read)  # specs are frozen


def is_path(name: str | Path) -> bool:
    """Whether `name` means a file rather than a catalog entry: it has a slash, or ends in .yaml or .yml."""
    return isinstance(name, Path) or "/" in name or name.endswith((".yaml", ".yml"))


def locate(kind: Kind, name_or_path: str | Path) -> Path:
    """The file that a name or path means; the file of a path may be missing, which `read_yaml` reports."""
    if is_path(name_or_path):
        return Path(name_or_path)
    if name_or_path not in (names := catalog_names(kind)):
        raise UnknownName(kind, str(name_or_path), names, hint="a file of your own ends in .yaml")
    return CATALOG / f"{kind}s" / f"{name_or_path}.yaml"


class _StrictLoader(yaml.SafeLoader):
    """Plain data only: no tags, no aliases (which can expand without bound), no duplicate keys; dates stay text."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="holds an alias (*name)")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a plain word", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key.value!r}", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _as_text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_StrictLoader.add_constructor("tag:yaml.org,2002:timestamp", _as_text)


def read_yaml(path: str | Path) -> Any:
    """Read one YAML file as plain data.

    Raises
    ------
    SpecError : missing, a folder, unreadable, over 4 MB, not UTF-8, empty, no YAML, or more than plain data
    """
    where = str(path)
    try:
        with opened(path, pipe=MAX_BYTES) as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise unreadable(error, path) from None
    if len(raw) > MAX_BYTES:
        raise SpecError(f"is over {MAX_BYTES / 1e6:.0f} MB", where=where, hint="no spec is that large")
    try:
        data = yaml.load(raw.decode(), Loader=_StrictLoader)  # safe: a SafeLoader
    except UnicodeDecodeError as error:
        raise SpecError(f"is not UTF-8 text (byte {error.start})", where=where) from None
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        problem = " ".join(filter(None, [error.context, error.problem]))
        raise SpecError(f"{problem}{line}", where=where, hint="write plain YAML") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number no int or float can hold
        raise SpecError(f"is not YAML: {str(error).splitlines()[0]}", where=where) from None
    except RecursionError:
        raise SpecError("is nested too deeply", where=where) from None
    if data is None:
        raise SpecError("is empty", where=where)
    return data


def validate(spec_type: type[SpecT], data: Any, where: str) -> SpecT:
    """Plain data as a spec; all that is wrong with it in one SpecError of file, dotted path, value and way out."""
    try:
        return spec_type.model_validate(data)
    except ValidationError as error:
        raise explained(spec_type, error, where) from None


def explained(spec_type: Any, error: ValidationError, where: str) -> SpecError:
    """What pydantic found wrong with plain data, as one SpecError.

    Parameters
    ----------
    spec_type : the spec, or any type whose fields have names
    where : the file, or what else the data came from
    """
    first, *rest = (_explain(spec_type, detail) for detail in error.errors(include_url=False))
    path, message, hint = first
    also = [f"also {path}: {message}" for path, message, _ in rest[: _SHOWN_ERRORS - 1]]
    if len(rest) >= _SHOWN_ERRORS:
        also.append(f"and {len(rest) - _SHOWN_ERRORS + 1} more")
    return SpecError(message, where=f"{where}: {path}" if path else where, hint="; ".join(filter(None, [hint, *also])))


def _explain(spec_type: type[BaseModel], detail: ErrorDetails) -> tuple[str, str, str]:
    """One pydantic error as dotted path, message and hint."""
    location, holder = _walk(spec_type, [part for part in detail["loc"] if part != "[key]"])
    path, value, context = ".".join(map(str, location)), detail["input"], detail.get("ctx", {})
    shown = short(repr(value))
    message, hint = f"{shown}: {detail['msg'][0].lower()}{detail['msg'][1:]}", ""
    match detail["type"]:
        case "extra_forbidden":
            known = list(getattr(holder, "model_fields", ()))
            message, hint = "unknown key", nearest(str(location[-1]), known) or f"known: {', '.join(known)}"
        case "missing":
            message = "is missing"
        case "literal_error":
            message, hint = _one_of(value, context["expected"])
        case "union_tag_invalid":
            path = f"{path}.{context['discriminator'].strip(_QUOTE)}"
            message, hint = _one_of(context["tag"], context["expected_tags"])
        case "union_tag_not_found":
            path, message = f"{path}.{context['discriminator'].strip(_QUOTE)}", "is missing"
        case "value_error":
            message = str(context["error"])
        case "model_type" | "dict_type" | "model_attributes_type":
            message = f"is {_a(value)}, not a mapping of keys to values"
            hint = 'write {value: ..., status: ..., source: "..."}' if "Quantity" in str(context) else ""
    return path, message, hint


def _one_of(value: Any, expected: str) -> tuple[str, str]:
    """Message and hint for a word that is none of those expected, as pydantic quotes them."""
    known = re.findall(r"'(.+?)'", expected)
    return f"{short(repr(value))} is not one of {expected}", nearest(str(value), known)


def _walk(spec_type: Any, location: list[Any]) -> tuple[list[Any], Any]:
    """A location without the tags of the unions on its way, and the spec that holds its last part."""
    way: list[Any] = []
    holder = kind = spec_type
    for part in location:
        kind = _bare_type(kind)
        members = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else ()
        if tagged := [member for member in members if part in _tags(member)]:
            kind = tagged[0]
            continue
        kind = next((member for member in members if member is not type(None)), kind)
        holder = kind = _bare_type(kind)
        way.append(part)
        if typing.get_origin(kind) in (dict, tuple, list):
            kind = next(member for member in reversed(typing.get_args(kind)) if member is not Ellipsis)
        else:
            field = getattr(kind, "model_fields", {}).get(part)
            kind = field.annotation if field else Any
    return way, holder


def _bare_type(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


def _tags(kind: Any) -> set[str]:
    """The words by which a union tells a spec from its other members: its tag, or values of its one-word fields."""
    if tags := {item.tag for item in typing.get_args(kind)[1:] if isinstance(item, Tag)}:
        return tags
    fields = getattr(kind, "model_fields", {}).values()
    words = (typing.get_args(field.annotation) for field in fields if typing.get_origin(field.annotation) is Literal)
    return {word for choice in words if len(choice) == 1 for word in choice}


def nearest(word: str, known: list[str]) -> str:
    """The question whether the nearest known word was meant; empty where none is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else ""


def _a(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: f'the text "{short(str(value))}"', type(None): "nothing"}
    return names.get(type(value), f"just {short(str(value))}")


def short(text: str) -> str:
    """At most 40 characters of what a user wrote."""
    return text if len(text) <= 40 else f"{text[:37]}..."
