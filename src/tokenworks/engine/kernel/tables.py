# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""How compiled code finds the arrays of a `native.ArrayTable`: as pointers to their first items.

Without reference counts, a compiled function cannot return an array. An index must not be negative.
"""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from tokenworks.engine.kernel.base import inline


def _pointer_to(item):
    """A compiled function: an address as a pointer to items."""

    @intrinsic
    def pointer(_, address):
        pointed = types.CPointer(item)

        def code(context, builder, _signature, values):
            return builder.inttoptr(values[0], context.get_value_type(pointed))

        return pointed(address), code

    return pointer


_ints, _floats, _octets = (_pointer_to(item) for item in (types.int64, types.float64, types.int8))


@inline
def address_of(table, k):
    """Address of array k of a table."""
    return _ints(table)[2 * k]


@inline
def length_of(table, k):
    """Items of array k of a table."""
    return _ints(table)[2 * k + 1]


@inline
def ints(table, k):
    """Array k of a table, of int64."""
    return _ints(address_of(table, k))


@inline
def floats(table, k):
    """Array k of a table, of float64."""
    return _floats(address_of(table, k))


@inline
def octets(table, k):
    """Array k of a table, of int8."""
    return _octets(address_of(table, k))
