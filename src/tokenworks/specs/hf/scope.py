"""The values of the formulas of one config: fields of the file, names of the table, and the number of the layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.specs.hf.config import MOST_CONTEXT, MOST_LAYERS, MOST_WIDTH, Fields, NotTold
from tokenworks.specs.hf.formula import Missing, Value, absent, compiled, names_in
from tokenworks.specs.load import short


class Scope:
    """Evaluates formulas over one object of a config.

    A name is, in this order: a constant of `known` (the layer `i` among them), a name of the table, a field. Inside its
    own formula, a name of the table is the field of the same name.

    Parameters
    ----------
    fields : the object
    names : names of the table, and their formulas
    known : constants
    """

    def __init__(self, fields: Fields, names: Mapping[str, Any], known: Mapping[str, Value] | None = None) -> None:
        self.fields = fields
        self._names = {key: str(formula) for key, formula in names.items()}
        self._known = dict(known or {})
        self._values: dict[str, tuple[Value, tuple[Fields, str]]] = {}
        self._constant: dict[str, tuple[Value, tuple[Fields, str]]] = {}
        self._open: set[str] = set()
        self._varying: dict[str, bool] = {}
        self._last = fields, ""
        self._defaults = True
        overlay = fields.get("per_layer_config")
        self._overlay: dict[int, Fields] = {}
        if isinstance(overlay, dict):
            table = fields.table("per_layer_config")
            self._overlay = {int(key): table.table(key) for key in table.names() if key.isdigit()}
        self._overlaid = frozenset(key for each in self._overlay.values() for key in each.names())
        self.lengths: tuple[int, int] | None = None
        """Least and largest length of a list with one entry for each layer; None = not known yet."""

    def set(self, name: str, value: Value) -> None:
        """Set a constant, such as the layer `i`."""
        self._known[name] = value
        if name != "i":
            self._constant.clear()

    def is_field(self, name: str) -> bool:
        """True if a name is a field of the config."""
        return name not in self._known and (name not in self._names or name in self._open)

    @contextmanager
    def without_defaults(self) -> Iterator[None]:
        """A context in which missing fields have no class default."""
        before, self._defaults = self._defaults, False
        try:
            yield
        finally:
            self._defaults = before

    def name(self, name: str) -> Value:
        """The value of a name."""
        if name in self._known:
            return self._known[name]
        if name == "nothing":
            return None
        if name in self._names and name not in self._open:
            if name not in self._values:
                self._open.add(name)
                value = compiled(self._names[name])(self)
                self._open.discard(name)
                if self.varies(self._names[name]) or not self._defaults:
                    return value
                self._values[name] = value, self._last
            value, self._last = self._values[name]
            return value
        return self._field(self.fields, name)

    def varies(self, text: str) -> bool:
        """True if the value of a formula depends on the layer `i`."""
        if text not in self._varying:
            self._varying[text] = self._varies(text, frozenset())
        return self._varying[text]

    def _varies(self, text: str, inside: frozenset[str]) -> bool:
        names = names_in(text)
        if "i" in names or self._overlaid & names:
            return True
        others = names & self._names.keys() - inside
        return any(self._varies(self._names[name], inside | {name}) for name in others)

    def _field(self, fields: Fields, key: str) -> Value:
        if fields is self.fields and key in self._overlaid:
            layer = self._overlay.get(self._known.get("i", -1))
            fields = layer if layer is not None and layer.has(key) else fields
        self._last = fields, key
        value = fields.get(key) if self._defaults or fields.has(key) else None
        if value is None:
            return Missing(fields.path(key))
        if isinstance(value, dict):
            return fields.table(key)
        if isinstance(value, int) and abs(value) > MOST_CONTEXT:
            raise fields.error(key, f"{short(str(value))} is not between 1 and {MOST_CONTEXT:,}")
        return value

    def inside(self, holder: Value, key: str) -> Value:
        """The value of a nested field."""
        if isinstance(holder, Missing):
            return Missing(f"{holder.path}.{key}")
        if not isinstance(holder, Fields):
            raise self.error(f"want an object with {key}, got {short(repr(holder))}")
        return self._field(holder, key)

    def entry(self, items: Value, index: Value, source: str, *, per_layer: bool) -> Value:
        """One entry of a list or of a word; a list with an entry for each layer must have the right length."""
        if absent(items):
            return items
        if isinstance(items, Fields):
            return self._field(items, str(index))
        if isinstance(items, dict):
            if not isinstance(index, str | int) or index not in items:
                value = "nothing" if absent(index) else short(repr(index))
                raise self.error(f"{value} is not known", hint=f"known: {', '.join(map(str, items))}")
            return items[index]
        if not isinstance(items, list | str):
            raise self.error(f"want a list, got {short(repr(items))}")
        if per_layer and self.lengths is not None:
            least, most = self.lengths
            if not least <= len(items) <= most or (isinstance(items, str) and len(items) == 1 < least):
                size = f"{len(items)} entries" if isinstance(items, list) else short(repr(items))
                raise self.error(f"want a list of {least} entries, one a layer, got {size}")
        if not isinstance(index, int) or not -len(items) <= index < len(items):
            return Missing(f"{source}[{index}]")
        fields, key = self._last
        if key and "[" not in key:
            self._last = fields, f"{key}[{index}]"
        value = items[index]
        if isinstance(value, dict):
            return Fields(value, fields.where, path=f"{fields.path(key)}[{index}].")
        return value

    def number(self, value: Value) -> int | float:
        """A value that must be a number."""
        self.present(value)
        if type(value) not in (int, float):
            raise self.error(f"want a number, got {short(repr(value))}")
        return value  # type: ignore[no-any-return]

    def present(self, value: Value) -> Value:
        """A value that must not be missing."""
        if absent(value):
            raise self._missing(value)
        return value

    def error(self, message: str, *, hint: str = "") -> SpecError:
        """An error about the field that was read last."""
        fields, key = self._last
        return fields.error(key, message, hint=hint)

    def _missing(self, value: Value) -> NotTold:
        if not isinstance(value, Missing):
            fields, key = self._last
            return fields.missing(key)
        hint = "this architecture cannot be computed without it"
        return NotTold(f"{value.path}: the field is missing", where=self.fields.where, hint=hint)

    # ── values of a formula ───────────────────────────────────────────────────────────────────────────────────────

    def value(self, formula: Any) -> Value:
        """The value of a formula, or `Missing`. A number or a truth value of the table is its own value."""
        if not isinstance(formula, str):
            return formula
        if formula in self._constant:
            value, self._last = self._constant[formula]
            return value
        try:
            value = compiled(formula)(self)
            if not self.varies(formula):
                self._constant[formula] = value, self._last
            return value
        except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
            raise self.error(f"cannot be used in {formula!r}: {short(str(error))}") from error

    def whole(self, formula: Any, *, least: int = 1, most: int = MOST_WIDTH) -> int:
        """The value of a formula as a whole number between `least` and `most`."""
        if type(formula) is int:
            return formula
        value = self.present(self.value(formula))
        fields, key = self._last
        return fields.checked(key, value, least=least, most=most)

    def layers(self, formula: Any, *, least: int = 1) -> int:
        """The value of a formula as a number of layers."""
        return self.whole(formula, least=least, most=MOST_LAYERS)

    def flag(self, formula: Any) -> bool:
        """The value of a formula as true or false; a missing field is false."""
        value = self.value(formula)
        if absent(value):
            return False
        if type(value) is not bool:
            raise self.error(f"want true or false, got {short(repr(value))}")
        return value

    def word(self, formula: Any) -> str:
        """The value of a formula as a word; a missing field is an error."""
        value = self.present(self.value(formula))
        if not isinstance(value, str):
            raise self.error(f"want a word, got {short(repr(value))}")
        return value
