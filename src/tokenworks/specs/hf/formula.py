"""Formulas of the table of architectures: short expressions over the fields of a config, such as `2 * head_dim`.

A formula is Python syntax with few operations: arithmetic, comparisons, `and`, `or`, `not`, `x if y else z`, entries of
lists (`layer_types[i]`), nested fields (`attn_config.kv_n_heads`), and the functions of `FUNCTIONS`. `a | b` means: a,
or b if the config has no a. A formula cannot do anything else, and it is compiled once.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from tokenworks.errors import SpecError

Value = Any


class Missing:
    """The value of a field that the config does not have. `path` : path of the field in the file."""

    def __init__(self, path: str) -> None:
        self.path = path


class Names(Protocol):
    """Resolves the names of a formula. `specs.hf.scope.Scope` is the only implementation."""

    def name(self, name: str) -> Value:
        """The value of a name."""

    def inside(self, holder: Value, key: str) -> Value:
        """The value of a nested field."""

    def entry(self, items: Value, index: Value, source: str, *, per_layer: bool) -> Value:
        """One entry of a list, which has one entry for each layer if `per_layer`."""

    def is_field(self, name: str) -> bool:
        """True if a name is a field of the config."""

    def without_defaults(self) -> AbstractContextManager[None]:
        """A context in which missing fields have no class default."""

    def number(self, value: Value) -> int | float:
        """A value that must be a number."""

    def present(self, value: Value) -> Value:
        """A value that must not be missing."""


Evaluate = Callable[[Names], Value]


def _ceil(value: float, multiple: int = 1) -> int:
    """The smallest multiple of a whole number that is not below a value."""
    return int(-(-value // multiple)) * multiple


def _layer_numbers(first: Value, second: Value, count: int) -> bool:
    """True if two lists together have each number from 1 to `count` exactly once."""
    if not isinstance(first, list) or not isinstance(second, list):
        return False
    every = [*first, *second]
    return all(type(number) is int for number in every) and sorted(every) == list(range(1, count + 1))


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "ceil": _ceil, "min": min, "max": max, "int": int, "len": len, "sum": sum, "abs": abs, "round": round,
    "layer_numbers": _layer_numbers,
    "join": lambda *words: "".join(words),
    "count": lambda items, value: sum(item == value for item in items),
    "first": lambda value: value[0] if isinstance(value, list) else value,
    "lower": lambda text: text.lower(),
    "default": lambda items, index, value: items[index] if index < len(items) else value,
    "dict": lambda value: isinstance(value, dict),
    "prefix": lambda items, length: items[:length],
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda one, items: one in items, ast.NotIn: lambda one, items: one not in items,
}  # fmt: skip
_ORDERED = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


@functools.cache
def compiled(text: str) -> Evaluate:
    """The function of a formula.

    Raises
    ------
    SpecError : the text is no formula
    """
    try:
        return _compile(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, KeyError, TypeError) as error:
        raise SpecError(f"{text!r} is not a formula: {error}", where="catalog/architectures") from error


@functools.cache
def names_in(text: str) -> frozenset[str]:
    """The names that a formula reads."""
    return frozenset(node.id for node in ast.walk(ast.parse(text.strip(), mode="eval")) if isinstance(node, ast.Name))


@functools.cache
def words_in(text: str) -> frozenset[str]:
    """All names and nested fields that a formula may read; none if the text is no formula."""
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except SyntaxError:
        return frozenset()
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return frozenset(names | {node.attr for node in nodes if isinstance(node, ast.Attribute)})


def _compile(node: ast.expr) -> Evaluate:
    """The function of one node of a formula."""
    if isinstance(node, ast.Constant):
        constant = node.value
        return lambda _: constant
    if isinstance(node, ast.Name):
        name = node.id
        return lambda names: names.name(name)
    return _COMPILERS[type(node)](node)


def _attribute(node: ast.Attribute) -> Evaluate:
    holder, key = _compile(node.value), node.attr
    return lambda names: names.inside(holder(names), key)


def _subscript(node: ast.Subscript) -> Evaluate:
    items, index, source = _compile(node.value), _compile(node.slice), ast.unparse(node.value)
    per_layer = isinstance(node.slice, ast.Name) and node.slice.id == "i"
    return lambda names: names.entry(items(names), index(names), source, per_layer=per_layer)


def _binary(node: ast.BinOp) -> Evaluate:
    left, right = _compile(node.left), _compile(node.right)
    if isinstance(node.op, ast.BitOr):
        return _otherwise(left, right, _root(node.right))
    apply = _ARITHMETIC[type(node.op)]
    return lambda names: apply(names.number(left(names)), names.number(right(names)))


def _root(node: ast.expr) -> str:
    """The first name of a field such as `attn_config.kv_n_heads`; empty if a formula is more than a field."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _otherwise(left: Evaluate, right: Evaluate, root: str) -> Evaluate:
    """`left | right`. Where the right side is another spelling of a field, it comes before the class default of the
    left side; where it is a number or is computed, it comes after.
    """

    def evaluate(names: Names) -> Value:
        if root and names.is_field(root):
            with names.without_defaults():
                value = left(names)
                if not absent(value) or not absent(value := right(names)):
                    return value
        value = left(names)
        return _either(value, right(names)) if absent(value) else value

    return evaluate


def _either(first: Value, second: Value) -> Value:
    """The second value; if both are missing, a missing value with both names."""
    if not isinstance(first, Missing) or not absent(second):
        return second
    known = first.path.split(" or ")
    more = second.path.split(" or ") if isinstance(second, Missing) else []
    return Missing(" or ".join([*known, *(path for path in more if path not in known)]))


def absent(value: Value) -> bool:
    """True for null and for a field that the config does not have."""
    return value is None or isinstance(value, Missing)


def _truth(value: Value) -> bool:
    return not absent(value) and bool(value)


def _unary(node: ast.UnaryOp) -> Evaluate:
    value = _compile(node.operand)
    if isinstance(node.op, ast.Not):
        return lambda names: not _truth(value(names))
    if isinstance(node.op, ast.USub):
        return lambda names: -names.number(value(names))
    raise TypeError(ast.unparse(node))


def _logic(node: ast.BoolOp) -> Evaluate:
    values, join = [_compile(value) for value in node.values], all if isinstance(node.op, ast.And) else any
    return lambda names: join(_truth(value(names)) for value in values)


def _compare(node: ast.Compare) -> Evaluate:
    (operation,), (second,) = node.ops, node.comparators
    left, right, apply = _compile(node.left), _compile(second), _COMPARISONS[type(operation)]
    if isinstance(operation, _ORDERED):
        return lambda names: apply(names.number(left(names)), names.number(right(names)))

    def evaluate(names: Names) -> bool:
        one, two = left(names), right(names)
        one, two = None if absent(one) else one, None if absent(two) else two
        if isinstance(operation, ast.In | ast.NotIn) and two is None:
            return isinstance(operation, ast.NotIn)
        return apply(one, two)

    return evaluate


def _choice(node: ast.IfExp) -> Evaluate:
    test, body, other = _compile(node.test), _compile(node.body), _compile(node.orelse)
    return lambda names: body(names) if _truth(test(names)) else other(names)


def _list(node: ast.Tuple | ast.List) -> Evaluate:
    values = [_compile(value) for value in node.elts]
    return lambda names: [value(names) for value in values]


def _dict(node: ast.Dict) -> Evaluate:
    pairs = {ast.literal_eval(key): _compile(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    return lambda names: {key: value(names) for key, value in pairs.items()}


def _call(node: ast.Call) -> Evaluate:
    if not isinstance(node.func, ast.Name) or node.keywords:
        raise TypeError(ast.unparse(node))
    function, values = FUNCTIONS[node.func.id], [_compile(value) for value in node.args]
    if node.func.id == "first":
        return lambda names: function(values[0](names))
    return lambda names: function(*[names.present(value(names)) for value in values])


_COMPILERS: dict[type[ast.expr], Callable[[Any], Evaluate]] = {
    ast.Attribute: _attribute, ast.Subscript: _subscript, ast.BinOp: _binary, ast.UnaryOp: _unary, ast.BoolOp: _logic,
    ast.Compare: _compare, ast.IfExp: _choice, ast.Tuple: _list, ast.List: _list, ast.Dict: _dict, ast.Call: _call,
}  # fmt: skip
