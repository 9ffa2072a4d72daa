"""Variables of a shell script and the expansion of words. A value that only a running script knows stays unknown."""

from __future__ import annotations

import ast
import fnmatch
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.launch.read.tokens import Word, WordPart, is_name, word_of

MOST_CHARACTERS = 1_000_000
"""A value with more characters is refused: a variable that doubles itself grows without limit [character]."""

MOST_DEPTH = 20
"""Expansions inside the default values of expansions, at most [count]."""

GIVE = "--env"
"""Option with which a user gives the value of a variable."""

_MARK = re.compile("\x00([0-9]+)\x01")
_EXPANSION = re.compile(
    r"(?P<length>#)?(?P<name>[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-])(?:\[(?P<index>[^\]]*)\])?(?P<rest>.*)", re.DOTALL
)
_OPERATION = re.compile(r"(?P<sign>:?[-=+?]|##?|%%?|//?|\^\^?|,,?)(?P<word>.*)", re.DOTALL)
_ARITHMETIC: Mapping[type[Any], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_MOST_NUMBER = 10**15
_MOST_CUT = 4096

Value = str | list[str]
"""Value of a variable: a text or an array. A text can hold marks of unknown values."""


@dataclass(frozen=True, slots=True)
class MissingValue:
    """A value that reading a script does not give.

    Parameters
    ----------
    written : how the script writes it, such as "$NODE_RANK" or "$(hostname)"
    why : why the value is unknown
    name : variable that a user can give; empty: none
    line : line of the file
    at_run_time : whether the platform or a program sets the value when the script runs. Such a value is kept as
        written; others are an error where a launch command needs them
    """

    written: str
    why: str
    name: str
    line: int
    at_run_time: bool = False


@dataclass
class ScriptScope:
    """The variables of a script while it is read.

    Parameters
    ----------
    where : file of the script, for messages
    given : values that the user gave; no assignment of the script changes them
    values : values by name
    exported : names that the commands of the script get as environment
    missing : unknown values; a mark in a text is an index into this list
    """

    where: str
    given: Mapping[str, str] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    exported: dict[str, None] = field(default_factory=dict)
    missing: list[MissingValue] = field(default_factory=list)

    def unknown(self, missing: MissingValue) -> str:
        """The mark of an unknown value."""
        self.missing.append(missing)
        return f"\x00{len(self.missing) - 1}\x01"

    def first_missing(self, text: str) -> MissingValue | None:
        """The first unknown value in a text that a user must give; None: the text is known."""
        marks = (self.missing[int(number)] for number in _MARK.findall(text))
        return next((mark for mark in marks if not mark.at_run_time), None)

    def written(self, text: str) -> str:
        """The text with unknown values as the script writes them."""
        return _MARK.sub(lambda match: self.missing[int(match[1])].written, text)

    def assign(self, name: str, value: Value, *, add: bool = False) -> None:
        """Set a variable, or with `add` append to it."""
        if name in self.given:
            return
        before = self.values.get(name, "")
        if add:
            if isinstance(value, list):
                value = [*(before if isinstance(before, list) else [before] if before else []), *value]
            else:
                value = (before[0] if isinstance(before, list) and before else str(before or "")) + value
        size = len(value) if isinstance(value, str) else sum(map(len, value))
        if size > MOST_CHARACTERS:
            raise SpecError(f"the value of {name} has more than {MOST_CHARACTERS:,} characters", where=self.where)
        self.values[name] = value

    def value(self, name: str) -> Value | None:
        """Value of a variable; None if neither the user nor the script sets it."""
        return self.given[name] if name in self.given else self.values.get(name)

    # ── words ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def fields(self, word: Word, depth: int = 0) -> list[str]:
        """The words that one word becomes: unquoted values are split at spaces."""
        done, current, any_part = list[str](), "", False
        for part in word.parts:
            values = self._part(part, word.line, depth)
            if part.kind == "text" or (part.quoted and len(values) == 1):
                current, any_part = current + values[0], True
                continue
            pieces = values if part.quoted else [piece for value in values for piece in value.split()]
            if not part.quoted and any_part and values and values[0][:1].isspace():
                done, current, any_part = [*done, current], "", False
            for number, piece in enumerate(pieces):
                if number:
                    done.append(current)
                    current = ""
                current, any_part = current + piece, True
        if sum(map(len, done)) + len(current) > MOST_CHARACTERS:
            raise SpecError(f"a word has more than {MOST_CHARACTERS:,} characters", where=f"{self.where}:{word.line}")
        return [*done, current] if any_part else done

    def text(self, word: Word, depth: int = 0) -> str:
        """The text that a word becomes in an assignment, where nothing is split."""
        return "".join(" ".join(self._part(part, word.line, depth)) for part in word.parts)

    def _part(self, part: WordPart, line: int, depth: int) -> list[str]:
        if part.kind == "text":
            return [part.text]
        if part.kind == "command":
            return [self._command(part.text, line)]
        if part.kind == "arithmetic":
            return [self._computed(part.text, line, depth)]
        return self._variable(part.text, line, depth)

    def _command(self, text: str, line: int) -> str:
        """The value of $(...): only the numbers of `seq` are known, since nothing is executed."""
        if match := re.fullmatch(r"\s*seq\s+(-?[0-9]{1,6})(?:\s+(-?[0-9]{1,6}))?(?:\s+(-?[0-9]{1,6}))?\s*", text):
            numbers = [int(number) for number in match.groups() if number is not None]
            first, step, last = {1: (1, 1, numbers[0]), 2: (numbers[0], 1, numbers[-1])}.get(
                len(numbers), tuple(numbers) if len(numbers) == 3 else (1, 1, 0)
            )
            if step and abs(last - first) // abs(step) <= 10_000:
                return " ".join(map(str, range(first, last + (1 if step > 0 else -1), step)))
        written = f"$({' '.join(text.split())})"
        return self.unknown(
            MissingValue(written, "its value comes from a program, and nothing is executed", "", line, True)
        )

    def _variable(self, text: str, line: int, depth: int) -> list[str]:
        """The values of a variable: several for an array, one else."""
        match = _EXPANSION.fullmatch(text)
        if match is None or depth > MOST_DEPTH:
            why = "this form of a variable is not read"
            return [self.unknown(MissingValue(f"${{{text}}}", why, "", line))]
        name, rest = match["name"], match["rest"]
        index = name if name in ("@", "*") else match["index"]
        values = self._values(name, index)
        if match["length"] and rest == "":
            known = values is not None and all(self.first_missing(value) is None for value in values)
            if not known or values is None:
                return [self._unset(name, line)]
            return [str(len(values) if index in ("@", "*") else len(values[0] if values else ""))]
        if rest:
            operation = _OPERATION.fullmatch(rest)
            if operation is None or match["length"]:
                return [self.unknown(MissingValue(f"${{{text}}}", "this form of a variable is not read", name, line))]
            return self._operated(name, values, operation, line, depth)
        return [self._unset(name, line)] if values is None else values

    def _values(self, name: str, index: str | None) -> list[str] | None:
        value = self.value(name)
        if value is None:
            return None
        if isinstance(value, str):
            return [value]
        if index in ("@", "*"):
            return value
        place = int(index) if index is not None and index.isdigit() else 0
        return [value[place]] if place < len(value) else None

    def _unset(self, name: str, line: int) -> str:
        return self.unknown(MissingValue(f"${name}", "no line above sets it", name, line))

    def _operated(
        self, name: str, values: list[str] | None, operation: re.Match[str], line: int, depth: int
    ) -> list[str]:  # fmt: skip
        """The values of ${NAME:-word} and the like."""
        sign, word = operation["sign"], operation["word"]

        def default() -> str:
            return self.text(word_of(word, self.where, line), depth + 1)

        if sign[-1] in "-=+?":
            is_set = values is not None and (sign[0] != ":" or any(values))
            return self._defaulted(name, values if is_set else None, sign[-1], default, line)
        if values is None:
            return [self._unset(name, line)]
        return [self._cut(value, sign, default()) for value in values]

    def _defaulted(
        self, name: str, values: list[str] | None, sign: str, default: Callable[[], str], line: int
    ) -> list[str]:  # fmt: skip
        """The values of a variable, or the default word; with + the word where there are values."""
        if sign == "+":
            return [] if values is None else [default()]
        if values is not None:
            return values
        if sign == "?":
            return [self._unset(name, line)]
        value = default()
        if sign == "=":
            self.assign(name, value)
        return [value]

    @staticmethod
    def _cut(value: str, sign: str, word: str) -> str:
        """The value after ${NAME#word}, ${NAME%word}, ${NAME/old/new}, ${NAME^^} or ${NAME,,}."""
        if sign[0] in "^,":
            cased = value if len(sign) == 2 else value[:1]
            return (cased.upper() if sign[0] == "^" else cased.lower()) + value[len(cased) :]
        if sign[0] == "/":
            old, _, new = word.partition("/")
            return value.replace(old, new, -1 if sign == "//" else 1) if old else value
        places = range(min(len(value), _MOST_CUT) + 1)
        for cut in places if sign in ("#", "%%") else reversed(places):
            part, rest = (value[:cut], value[cut:]) if sign[0] == "#" else (value[cut:], value[:cut])
            if fnmatch.fnmatchcase(part, word):
                return rest
        return value

    def _computed(self, text: str, line: int, depth: int) -> str:
        """The value of $((...)) with + - * / % of whole numbers; unknown where a variable is."""
        if depth > MOST_DEPTH:
            return self.unknown(MissingValue(f"$(({text}))", "it is nested too deeply", "", line))
        expanded = self.text(word_of(text, self.where, line), depth + 1)
        if self.first_missing(expanded) or _MARK.search(expanded):
            return expanded if _MARK.fullmatch(expanded.strip()) else self._first_mark(expanded)

        def named(match: re.Match[str]) -> str:
            value = self.value(match[0])
            return value if isinstance(value, str) else self._unset(match[0], line)

        expanded = re.sub(r"[A-Za-z_][A-Za-z0-9_]*", named, expanded)
        if _MARK.search(expanded):
            return self._first_mark(expanded)
        number = _calculated(expanded)
        if number is None:
            return self.unknown(MissingValue(f"$(({text}))", "this form of arithmetic is not read", "", line))
        return str(number)

    @staticmethod
    def _first_mark(text: str) -> str:
        match = _MARK.search(text)
        assert match is not None
        return match[0]


def _calculated(text: str) -> int | None:
    """A sum, difference, product, quotient or remainder of whole numbers; None: it is something else."""
    if len(text) > 200 or "//" in text or "**" in text:
        return None
    try:
        return _number(ast.parse(text.strip().replace("/", "//"), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError, ZeroDivisionError):
        return None


def _number(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        number = node.value
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = -_number(node.operand)
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        number = _ARITHMETIC[type(node.op)](_number(node.left), _number(node.right))
    else:
        raise ValueError(ast.dump(node))
    if abs(number) > _MOST_NUMBER:
        raise ValueError(number)
    return number


def assignment(word: Word) -> tuple[str, bool, Word] | None:
    """Name, whether the value is appended, and the value of a word NAME=value or NAME+=value; None for other words.

    The value of an array has its words in `array`.
    """
    if not word.parts or word.parts[0].kind != "text" or word.parts[0].quoted:
        return None
    head, *others = word.parts
    name, equals, value = head.text.partition("=")
    add = name.endswith("+")
    name = name.removesuffix("+")
    if not equals or not is_name(name):
        return None
    rest = (WordPart("text", value), *others) if value else tuple(others)
    return name, add, Word(rest, word.line, word.array)
