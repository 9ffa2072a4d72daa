# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, allow-subclassing-any
# mypy: disable-error-code="override"
# ruff: noqa: ARG001, ARG002 numba calls these functions, with more than they need
"""How numba compiles uses of the arrays of `state.EngineState`: behind one pointer, whole numbers as int64.

With NumPy's own types each call would hand over 24 arrays of seven words each, and each function would be compiled for
every mixture of int32 and int64. That took six times as long to compile. An index must not be negative.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core.cgutils import create_struct_proxy
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer_getattr, infer_global, signature
from numba.extending import (
    intrinsic,
    lower_builtin,
    lower_getattr_generic,
    lower_setattr_generic,
    models,
    register_model,
)

from tokenworks.engine.kernel.addresses import ARRAYS, ITEMS, TWO_DIMENSIONS, WORDS

_BYTE = ir.IntType(8)
_WORD = ir.IntType(64)


class StateType(types.Type):
    """All arrays: a pointer to their table."""

    def __init__(self):
        super().__init__("state")


class RowsType(types.Type):
    """An array: where it is, how many rows it has, how many items are in a row."""

    def __init__(self, name, item):
        super().__init__(f"rows({name})")
        self.item, self.row = item, RowType(name, item) if item.fields else _number(item)


class RowType(types.Type):
    """A record: a pointer to it."""

    def __init__(self, name, item):
        super().__init__(f"row({name})")
        self.fields = item.fields


register_model(StateType)(models.OpaqueModel)
register_model(RowType)(models.OpaqueModel)


@register_model(RowsType)
class _RowsModel(models.StructModel):
    def __init__(self, manager, kind):
        members = [("data", types.voidptr), ("count", types.int64), ("width", types.int64)]
        super().__init__(manager, kind, members)


def _number(item):
    return {"i": types.int64, "u": types.uint64, "f": types.float64}[item.kind]


_STATE = StateType()
_KINDS = {name: RowsType(name, item) for name, item in ITEMS.items()}


def _stored(item):
    return ir.DoubleType() if item.kind == "f" else ir.IntType(8 * item.itemsize)


def _load(builder, address, item):
    value = builder.load(builder.bitcast(address, _stored(item).as_pointer()))
    return value if item.itemsize == 8 else builder.sext(value, _WORD)


def _store(builder, address, item, value):
    value = value if item.itemsize == 8 else builder.trunc(value, _stored(item))
    builder.store(value, builder.bitcast(address, _stored(item).as_pointer()))


def _state_at(typingctx, table):
    """The state whose table has this address."""

    def code(context, builder, sig, args):
        return builder.inttoptr(args[0], _BYTE.as_pointer())

    return _STATE(table), code


state_at: Any = intrinsic(_state_at)  # mypy would have it called with the first argument, too


@infer_getattr
class _StateFields(AttributeTemplate):
    key = StateType

    def generic_resolve(self, state, name):
        return _KINDS.get(name)


@lower_getattr_generic(StateType)
def _array_of(context, builder, kind, value, name):
    table = builder.bitcast(value, _WORD.as_pointer())
    rows = create_struct_proxy(_KINDS[name])(context, builder)
    for at, member in enumerate(("data", "count", "width")[: 2 + (name in TWO_DIMENSIONS)]):
        word = builder.load(builder.gep(table, [_WORD(WORDS * ARRAYS.index(name) + at)]))
        word.set_metadata("invariant.load", builder.module.add_metadata([]))  # arrays stay while an entry point runs
        setattr(rows, member, word if at else builder.inttoptr(word, _BYTE.as_pointer()))
    return rows._getvalue()


@infer_getattr
class _RowFields(AttributeTemplate):
    key = RowType

    def generic_resolve(self, row, name):
        if name not in row.fields:
            return None
        item = row.fields[name][0]
        return RowsType(f"{row.name}.{name}", item.base) if item.subdtype else _number(item)


@lower_getattr_generic(RowType)
def _field_of(context, builder, kind, value, name):
    item, offset = kind.fields[name][:2]
    address = builder.gep(value, [_WORD(offset)])
    if not item.subdtype:
        return _load(builder, address, item)
    rows = create_struct_proxy(RowsType(f"{kind.name}.{name}", item.base))(context, builder)
    rows.data, rows.count = address, _WORD(item.shape[0])
    return rows._getvalue()


@lower_setattr_generic(RowType)
def _set_field(context, builder, sig, args, name):
    item, offset = sig.args[0].fields[name][:2]
    _store(builder, builder.gep(args[0], [_WORD(offset)]), item, args[1])


@infer_global(operator.getitem)
class _GetItem(AbstractTemplate):
    def generic(self, args, kws):
        rows, index = args
        if isinstance(rows, RowsType):
            return signature(rows.row, rows, _index(index))
        return None


@infer_global(operator.setitem)
class _SetItem(AbstractTemplate):
    def generic(self, args, kws):
        rows, index, _value = args
        if isinstance(rows, RowsType):
            return signature(types.none, rows, _index(index), rows.row)
        return None


@infer_global(len)
class _Len(AbstractTemplate):
    def generic(self, args, kws):
        return signature(types.int64, *args) if isinstance(args[0], RowsType) else None


def _index(index):
    return types.UniTuple(types.int64, 2) if isinstance(index, types.BaseTuple) else types.int64


def _address(context, builder, sig, args):
    kind, rows, index = sig.args[0], create_struct_proxy(sig.args[0])(context, builder, args[0]), args[1]
    if isinstance(sig.args[1], types.BaseTuple):
        index = builder.add(builder.mul(builder.extract_value(index, 0), rows.width), builder.extract_value(index, 1))
    return builder.gep(rows.data, [builder.mul(index, _WORD(kind.item.itemsize))])


@lower_builtin(operator.getitem, RowsType, types.Any)
def _get(context, builder, sig, args):
    address, item = _address(context, builder, sig, args), sig.args[0].item
    return address if item.fields else _load(builder, address, item)


@lower_builtin(operator.setitem, RowsType, types.Any, types.Any)
def _set(context, builder, sig, args):
    _store(builder, _address(context, builder, sig, args), sig.args[0].item, args[2])


@lower_builtin(len, RowsType)
def _count(context, builder, sig, args):
    return create_struct_proxy(sig.args[0])(context, builder, args[0]).count


def _fetch(typingctx, rows, index):
    """Begin to read a record, so that it is in the processor's cache when it is needed."""

    def code(context, builder, sig, args):
        flags = [ir.IntType(32)] * 3
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), *flags])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [_BYTE.as_pointer()], kind)
        read, keep, data = (flag(value) for flag, value in zip(flags, (0, 3, 1), strict=True))
        builder.call(prefetch, [_address(context, builder, sig, args), read, keep, data])
        return context.get_dummy_value()

    return signature(types.none, rows, _index(index)), code


fetch: Any = intrinsic(_fetch)


@infer_getattr
class _RowsFields(AttributeTemplate):
    key = RowsType

    def resolve_width(self, rows):
        return types.int64


@lower_getattr_generic(RowsType)
def _width(context, builder, kind, value, name):
    return getattr(create_struct_proxy(kind)(context, builder, value), name)
