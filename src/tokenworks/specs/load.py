"""From files to specs: safe and strict reading of YAML. Every error becomes a `SpecError` with file and path."""

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
from tokenworks.specs.files import content
from tokenworks.specs.system import Network, System
from tokenworks.specs.workload import Workload

Kind = Literal["device", "system", "network", "workload"]
SpecT = TypeVar("SpecT", bound=BaseModel)
WorkloadLike = str | Path | Mapping[str, Any] | Workload
"""Every form of a workload: a name of the catalog, a YAML file, the content of such a file, or a workload."""

CATALOG = Path(__file__).parent.parent / "catalog"
MAX_BYTES = 4_000_000
BRANDS = ("nvidia", "geforce", "amd", "instinct", "intel", "huawei", "ascend", "hygon", "dcu")
"""Brand words in front of the name of a device. Users may write them or leave them out."""

_SHOWN_ERRORS = 5
_QUOTE = "'"  # pydantic puts names into these quotes


def catalog_names(kind: Kind) -> list[str]:
    """Names of the files that the catalog ships, sorted."""
    return sorted(path.stem for path in (CATALOG / f"{kind}s").glob("*.yaml"))


def find_device(name: str) -> str | None:
    """The catalog name of a device, from any of its names; case, dashes and brands are ignored. None: unknown."""
    return _devices().get(_bare(name))


def family_of(name: str) -> str:
    """Family of a device, from any of its names. Empty: the catalog has no such device."""
    device = find_device(name)
    return load(Device, locate("device", device)).family if device else ""


@functools.cache
def _devices() -> dict[str, str]:
    index: dict[str, str] = {}
    for name in catalog_names("device"):
        for known in (name, *load(Device, locate("device", name)).aliases):
            if index.setdefault(_bare(known), name) != name:
                raise SpecError(f"alias {known!r} is {index[_bare(known)]}'s", where=f"catalog/devices/{name}.yaml")
    return index


def _bare(name: str) -> str:
    """Letters and digits of a name without brands: NVIDIA A100-SXM4-80GB becomes a100sxm480gb."""
    bare = re.sub(r"[^a-z0-9]", "", name.lower())
    while brand := next((brand for brand in BRANDS if bare.startswith(brand) and bare != brand), None):
        bare = bare.removeprefix(brand)
    return bare


def load_system(name_or_path: str | Path) -> System:
    """Load a system of the catalog, or of a YAML file."""
    return load(System, locate("system", name_or_path))


def load_network(name_or_path: str | Path) -> Network:
    """Load a network of the catalog, or of a YAML file."""
    return load(Network, locate("network", name_or_path))


def load_workload(workload: WorkloadLike) -> Workload:
    """Load a workload of the catalog, of a YAML file or of a dict; a `Workload` is returned unchanged."""
    if isinstance(workload, Workload):
        return workload
    if isinstance(workload, Mapping):
        return validate(Workload, {"name": "workload", **workload}, "workload")
    return load(Workload, locate("workload", workload))


def load(spec_type: type[SpecT], path: Path) -> SpecT:
    """Read and validate one file. Files of the catalog are read once."""
    return _shipped(spec_type, path) if path.is_relative_to(CATALOG) else _read(spec_type, path)


def _read(spec_type: type[SpecT], path: Path) -> SpecT:
    return validate(spec_type, read_yaml(path), str(path))


_shipped = functools.cache(_read)  # specs are frozen


def is_path(name: str | Path) -> bool:
    """Whether `name` is a path and not a catalog name: it has a slash, or ends in .yaml or .yml."""
    return isinstance(name, Path) or "/" in name or name.endswith((".yaml", ".yml"))


def locate(kind: Kind, name_or_path: str | Path) -> Path:
    """The file of a catalog name or of a path. The file of a path may be missing; `read_yaml` reports it."""
    if is_path(name_or_path):
        return Path(name_or_path)
    if name_or_path not in (names := catalog_names(kind)):
        raise UnknownName(kind, str(name_or_path), names, hint="a file of your own ends in .yaml")
    return CATALOG / f"{kind}s" / f"{name_or_path}.yaml"


class _StrictLoader(yaml.SafeLoader):
    """Reads plain data only: no tags, no aliases (they can grow without limit), no duplicate keys. Dates stay text."""

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


_Quick: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _CatalogLoader(_Quick):  # type: ignore[misc]
    """Reads files of the catalog, ten times as fast as `_StrictLoader`, with the same result.

    The parser in C crashes on text that is nested very deeply, so files of users are not read with it.
    """


for _loader in (_StrictLoader, _CatalogLoader):
    _loader.add_constructor("tag:yaml.org,2002:timestamp", _as_text)


def read_yaml(path: str | Path) -> Any:
    """Read one YAML file as plain data.

    Raises
    ------
    SpecError : the file is missing, a folder, unreadable, over 4 MB, not UTF-8, empty, or not plain YAML
    """
    where = str(path)
    raw = content(path, most=MAX_BYTES, hint="no spec is that large")
    try:
        loader = _CatalogLoader if CATALOG in Path(path).parents else _StrictLoader
        data = yaml.load(raw.decode(), Loader=loader)  # safe: both are safe loaders
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
    """Check plain data, and turn them into a spec.

    Parameters
    ----------
    spec_type : type of the spec
    data : plain data
    where : file or other origin of the data, for messages

    Raises
    ------
    SpecError : the data are not valid. The message lists the errors, with path, value and correction
    """
    try:
        return spec_type.model_validate(data)
    except ValidationError as error:
        raise explained(spec_type, error, where) from None


def explained(spec_type: Any, error: ValidationError, where: str) -> SpecError:
    """The errors of pydantic as one `SpecError`.

    Parameters
    ----------
    spec_type : type of the spec, or any type with named fields
    error : the errors of pydantic
    where : file or other origin of the data, for messages
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
            known = [field.alias or name for name, field in getattr(holder, "model_fields", {}).items()]
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
    """Message and hint for a word that is not one of the expected words.

    Parameters
    ----------
    value : the word
    expected : the expected words, each in quotes, as pydantic writes them
    """
    known = re.findall(r"'(.+?)'", expected)
    return f"{short(repr(value))} is not one of {expected}", nearest(str(value), known)


def _walk(spec_type: Any, location: list[Any]) -> tuple[list[Any], Any]:
    """A location without the tags of unions, and the type of the spec that has the last part of the location."""
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
    """The words that select a member of a union: its tag, or the value of its fields with a single allowed value."""
    if tags := {item.tag for item in typing.get_args(kind)[1:] if isinstance(item, Tag)}:
        return tags
    fields = getattr(kind, "model_fields", {}).values()
    words = (typing.get_args(field.annotation) for field in fields if typing.get_origin(field.annotation) is Literal)
    return {word for choice in words if len(choice) == 1 for word in choice}


def nearest(word: str, known: list[str]) -> str:
    """A question with the nearest known word: did you mean ...? Empty: no word is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else ""


def _a(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: f'the text "{short(str(value))}"', type(None): "nothing"}
    return names.get(type(value), f"just {short(str(value))}")


def short(text: str) -> str:
    """At most 40 characters of a text."""
    return text if len(text) <= 40 else f"{text[:37]}..."
