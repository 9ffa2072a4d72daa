"""Arguments of public functions: a wrong name, or a value of a wrong type, is a `SpecError` that names the function."""

from __future__ import annotations

import functools
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec, TypeVar

from tokenworks.errors import SpecError
from tokenworks.specs.load import nearest, short

_ABSTRACT: dict[Any, Any] = {int: numbers.Integral, float: numbers.Real}
"""Classes that numpy numbers are instances of, too."""

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which now checks names and types of its arguments before it runs."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        name = f"tokenworks.{function.__name__}"
        if unknown := [key for key in named if key not in signature.parameters]:
            known = list(signature.parameters)
            hint = nearest(unknown[0], known) or f"known: {', '.join(known)}"
            raise SpecError(f"unknown argument {unknown[0]!r}", where=name, hint=hint)
        try:
            bound = signature.bind(*arguments, **named)
        except TypeError as error:
            raise SpecError(str(error), where=name, hint=f"call it as {function.__name__}{_short(signature)}") from None
        hints = _hints(function)
        for key, value in bound.arguments.items():
            if not _fits(value, hints[key]):
                words = f"{short(repr(value))} is of type {type(value).__name__}"
                if isinstance(value, str):
                    words = f"{short(repr(value))} is not a known value"
                raise SpecError(words, where=f"{name}: {key}", hint=f"give {_words(hints[key])}")
        return function(*arguments, **named)

    return call


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(function)


def _short(signature: inspect.Signature) -> str:
    """The required parameters of a function, as text."""
    needed = [name for name, parameter in signature.parameters.items() if parameter.default is parameter.empty]
    return f"({', '.join([*needed, '...'])})"


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has a type. The contents of a container are checked later."""
    inner, kind = typing.get_args(hint), typing.get_origin(hint) or hint
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in inner)
    if kind is Literal:
        return value in inner
    if isinstance(value, bool):
        return kind in (bool, Any)
    if kind is Sequence and isinstance(value, (str, bytes)):
        return False
    if kind is Callable:
        return callable(value)
    return kind is Any or isinstance(value, _ABSTRACT.get(kind, kind))


def _words(hint: Any) -> str:
    """A type in words, for a message."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        names = list(dict.fromkeys(_words(member) for member in inner))
        return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    if typing.get_origin(hint) is Literal:
        return ", ".join(repr(value) for value in inner)
    kind = typing.get_origin(hint) or hint
    name: str = kind.__name__
    return {"Mapping": "a dict", "Sequence": "a list", "Callable": "a function", "NoneType": "None"}.get(name, name)
