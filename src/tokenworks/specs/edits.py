"""Changes of a spec by dotted path: `roles.0.max_sequences=64` sets one value. Checks are as strict as for a file."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal

import yaml
from pydantic import BaseModel

from tokenworks import units
from tokenworks.errors import SpecError
from tokenworks.specs.given import Assume, Given, given, of
from tokenworks.specs.load import SpecT, WorkloadLike, load_workload, validate
from tokenworks.specs.provenance import Quantity, Spec, Unit, file_form, not_published
from tokenworks.specs.tier import ByOneValue
from tokenworks.specs.workload import Workload

SHOWN = 12


def edited(
    spec: SpecT,
    changes: Sequence[Given],
    *,
    prefix: str = "",
    but: Collection[str] = (),
    also: Collection[str] = (),
    where: str = "",
) -> SpecT:
    """The spec with all changes.

    Parameters
    ----------
    spec : the spec to change
    changes : values by path; a number with a source gets the status assumed, and the origin of the change as source
    prefix : text in front of the paths of this spec, such as "engine."
    but : fields that cannot be changed
    also : paths of other specs, which an error message may suggest
    where : file of the spec, for messages

    Raises
    ------
    SpecError : a path is unknown or has more than one value, a value cannot be read, or the changed spec is not valid
    """
    if not changes:
        return spec
    whole = [change for change in changes if change.path.removeprefix(prefix) in _by_one_value(spec)]
    rest = [change for change in changes if change not in whole]
    if whole and rest:  # first the fields that change as a whole: other paths may lie inside them
        spec = edited(spec, whole, prefix=prefix, but=but, also=also, where=where)
        return edited(spec, rest, prefix=prefix, but=but, also=also, where=where)
    known = {f"{prefix}{path}": leaf for path, leaf in leaves(spec) if path.partition(".")[0] not in but}
    data = file_form(spec)
    for change in changes:
        if change.path not in known:
            raise _unknown(change, list(dict.fromkeys([*known, *also])))
        _put(data, change.path.removeprefix(prefix).split("."), _value(change, known[change.path]))
    listed = ", ".join(f"{change.path}={change.value}" for change in changes)
    return validate(type(spec), data, " with ".join(filter(None, [where, f"{changes[0].why} {listed}"])))


def workload_with(workload: WorkloadLike, assume: Assume) -> Workload:
    """A workload with the numbers that the user set.

    Parameters
    ----------
    workload : as `load_workload` takes it
    assume : values by path, such as `workload.isl_cv: 0.5`; paths of other areas have no effect here
    """
    numbers = of("workload", given(assume))
    return edited(load_workload(workload), numbers, prefix="workload.", but=("name", "assumed"))


def leaves(spec: BaseModel) -> Iterator[tuple[str, Any]]:
    """Dotted path and value of every field that can be set to one value; a `Quantity` is one value."""
    for name, field in type(spec).model_fields.items():
        value, keys, unit = getattr(spec, name), _literals(field.annotation), _unit(field.annotation)
        if one := next((item for item in field.metadata if isinstance(item, ByOneValue)), None):
            yield name, value if one.unit is None else not_published(one.unit)
            if not value:
                continue
        absent = None if unit is None else not_published(unit)
        if isinstance(value, dict) and keys:  # also the keys that the file leaves out
            value = dict.fromkeys(keys, absent) | value
        elif value is None:
            value = absent
        yield from _below(name, value)


def _by_one_value(spec: BaseModel) -> set[str]:
    """Paths of the fields on the first level of a spec that one value can replace."""
    fields = type(spec).model_fields
    return {name for name, field in fields.items() if any(isinstance(item, ByOneValue) for item in field.metadata)}


def _below(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Spec) and not isinstance(value, Quantity):
        for inner, leaf in leaves(value):
            yield f"{path}.{inner}", leaf
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _below(f"{path}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _below(f"{path}.{index}", item)
    else:
        yield path, value


def _literals(annotation: Any) -> tuple[str, ...]:
    """The keys that a dict of a spec may have, if its type lists them; else nothing."""
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict and typing.get_origin(inner[0]) is Literal:
        return typing.get_args(inner[0])
    return ()


def _unit(annotation: Any) -> str | None:
    """The unit of the numbers in a field; None if the field holds no number with a unit."""
    inner = typing.get_args(annotation)
    units_ = [item.name for item in inner if isinstance(item, Unit)]
    return units_[0] if units_ else next((unit for item in inner if (unit := _unit(item)) is not None), None)


def _unknown(change: Given, known: list[str]) -> SpecError:
    below = [path for path in known if path.startswith(f"{change.path}.")]
    if below:
        return SpecError("has more than one value", where=change.where, hint=f"set one of {_listed(below)}")
    above = next((path for path in known if change.path.startswith(f"{path}.")), "")
    if above:
        return SpecError("no such path", where=change.where, hint=f"{above} is a single value")
    near = difflib.get_close_matches(change.path, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {_listed(known)}"
    return SpecError("no such path", where=change.where, hint=hint)


def _listed(paths: list[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return f"{', '.join(paths[:SHOWN])}{more}"


def _value(change: Given, leaf: Any) -> Any:
    """The value in the form that a file of the spec has."""
    if isinstance(leaf, Quantity):
        units.parse(change.value, leaf.unit, where=change.where)
        return {"value": change.value, "status": "assumed", "source": change.why}
    try:
        value = yaml.safe_load(change.value)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = ()
    if isinstance(value, (dict, list, tuple)):
        hint = "give a number or a word"
        raise SpecError(f"cannot read {change.value!r}", where=change.where, hint=hint)
    return value


def _put(data: Any, way: list[str], value: Any) -> None:
    *above, last = way
    for part in above:
        data = data[int(part)] if isinstance(data, list) else data.setdefault(part, {})
    if isinstance(data, list):
        data[int(last)] = value
    else:
        data[last] = value
