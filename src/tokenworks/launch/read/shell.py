"""Shell scripts and command lines become launch commands: variables are followed, nothing is executed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tokenworks.errors import SpecError
from tokenworks.launch.command import Command
from tokenworks.launch.read.grammar import Node, ScriptBlock, Simple, parsed
from tokenworks.launch.read.programs import Start, code_in, set_by, start_of, start_of_container
from tokenworks.launch.read.tokens import Word, is_name, tokens
from tokenworks.launch.read.variables import GIVE, MissingValue, ScriptScope, assignment

Starts = Callable[[Sequence[str], str], Start | None]
"""Finds what the words of a command start: words, file and line for messages."""

MOST_COMMANDS = 4096
"""Launch commands of a script, at most; loops count each time [count]."""

MOST_STEPS = 100_000
"""Simple commands that are followed, at most; loops count each time [count]."""

MOST_NESTED = 8
"""Scripts inside `bash -c`, and calls of functions, at most inside each other [count]."""

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
_DECLARES = ("export", "declare", "typeset", "local", "readonly")
_TESTS = ("[", "[[", "test")


@dataclass(frozen=True, slots=True)
class ShellRead:
    """What reading a script gives.

    Parameters
    ----------
    commands : launch commands of engines and routers, in their order
    notes : sentences for the user: what was not read
    """

    commands: tuple[Command, ...]
    notes: tuple[str, ...] = ()


def read_shell(
    text: str, where: str = "command", *, given: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None, first: int = 1, starts: Starts | None = None,
) -> ShellRead:  # fmt: skip
    """The launch commands of a script or of a command line.

    Parameters
    ----------
    text : the script
    where : file of the script, for messages
    given : values of variables that the user gave
    environment : variables that are set before the script begins, such as those of a container
    first : line of the file on which the text begins, from 1
    starts : finds the program that the words of a command start, such as a training script; None: engines and routers

    Raises
    ------
    SpecError : the script is truncated, uses a here-document, or needs a value that it does not have
    """
    reader = _Reader(ScriptScope(where, given or {}), where, starts=starts or start_of)
    for name, value in (environment or {}).items():
        reader.scope.values[name] = value
        reader.scope.exported[name] = None
    reader.scope.values.setdefault("@", [])
    reader.scope.values.setdefault("*", [])
    reader.script(text, first)
    return ShellRead(tuple(reader.commands), tuple(dict.fromkeys(reader.notes)))


def shown_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables without the values of secrets, which no result may print."""
    return {name: "(not shown)" if _SECRET.search(name) else value for name, value in environment.items()}


@dataclass
class _Reader:
    """Follows the commands of a script.

    Parameters
    ----------
    scope : the variables
    where : file of the script, for messages
    commands, notes : as in `ShellRead`
    functions : bodies of functions by name
    condition : the block on whose condition the commands depend; None: they run in any case
    nested : scripts and functions that surround the command [count]
    steps : simple commands that were followed [count]
    all_exported : whether `set -a` exports all variables
    tested : whether the commands after && or || depend on a test
    starts : finds the program that the words of a command start
    """

    scope: ScriptScope
    where: str
    commands: list[Command] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    functions: dict[str, tuple[Node, ...]] = field(default_factory=dict)
    condition: ScriptBlock | None = None
    nested: int = 0
    steps: int = 0
    all_exported: bool = False
    tested: bool = False
    starts: Starts = start_of

    def at(self, line: int) -> str:
        return f"{self.where}:{line}"

    def script(self, text: str, first: int) -> None:
        """Follow a script, or the script inside `bash -c`."""
        if "\x00" in text:
            raise SpecError("holds a zero byte", where=self.where, hint="give a text file")
        self._enter(first)
        self.follow(parsed(tokens(text, self.where, first), self.where))
        self.nested -= 1

    def _enter(self, line: int) -> None:
        self.nested += 1
        if self.nested > MOST_NESTED:
            raise SpecError(f"more than {MOST_NESTED} scripts or functions call each other", where=self.at(line))

    def follow(self, nodes: Sequence[Node]) -> None:
        """Follow commands and blocks in their order."""
        for node in nodes:
            if isinstance(node, Simple):
                self.simple(node)
            elif node.kind == "function":
                self.functions[node.name] = node.body
            elif node.kind == "group":
                self.follow(node.body)
            else:
                self.block(node)

    def block(self, block: ScriptBlock) -> None:
        """Follow a loop over known values once for each value; mark what other blocks do as conditional."""
        if block.kind == "for" and self.condition is None:
            values = [value for word in block.values for value in self._braces(self.scope.fields(word))]
            if block.values and not any("\x00" in value for value in values):
                for value in values:
                    self.scope.assign(block.name, value)
                    self.follow(block.body)
                return
        outer, self.condition = self.condition, self.condition or block
        self.follow(block.body)
        self.condition = outer

    @staticmethod
    def _braces(values: list[str]) -> list[str]:
        """Values with {0..7} written out."""
        done: list[str] = []
        for value in values:
            match = re.fullmatch(r"\{([0-9]{1,5})\.\.([0-9]{1,5})\}", value)
            done += map(str, range(int(match[1]), int(match[2]) + 1)) if match else [value]
        return done

    def simple(self, node: Simple) -> None:
        """Follow one simple command: its assignments, then what it starts."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise SpecError(f"runs more than {MOST_STEPS:,} commands", where=self.at(node.line))
        if node.after not in ("&&", "||"):
            self.tested = False
        assigned = [pair for pair in map(assignment, itertools.takewhile(assignment, node.words)) if pair]
        words = node.words[len(assigned) :]
        if not words:
            for name, add, value in assigned:
                self._assign(name, value, add=add)
            return
        own = {name: self.scope.text(value) for name, _, value in assigned}
        name = words[0].plain or ""
        if name in _DECLARES:
            self._declare(name, words[1:])
        elif name in _TESTS or name.startswith("(("):
            self.tested = True
        elif name == "unset":
            for word in words[1:]:
                self.scope.values.pop(word.plain or "", None)
        elif name == "set":
            self._set([word.plain or "" for word in words[1:]])
        elif name in ("source", "."):
            self.notes.append(f"{self.at(node.line)}: another script is called, and it was not read")
        elif name == "read":
            self._unread(words[1:], node.line)
        else:
            self._command(words, own, node)

    # ── variables ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _assign(self, name: str, value: Word, *, add: bool) -> None:
        if self.condition is not None or self.tested:
            block = self.condition
            under = f"`{block.kind}` in line {block.line}" if block else f"the test in line {value.line}"
            why = f"it depends on {under}, and conditions are not evaluated"
            self.scope.assign(name, self.scope.unknown(MissingValue(f"${name}", why, name, value.line)))
        elif value.array is not None:
            items = [item for word in value.array for item in self.scope.fields(word)]
            self.scope.assign(name, items, add=add)
        else:
            self.scope.assign(name, self.scope.text(value), add=add)
        if self.all_exported:
            self.scope.exported[name] = None

    def _declare(self, kind: str, words: Sequence[Word]) -> None:
        """export, declare, local and the like."""
        options = "".join(word.plain or "" for word in words if (word.plain or "").startswith("-"))
        exports = (kind == "export" or "x" in options) and "n" not in options
        for word in words:
            if assigned := assignment(word):
                name, add, value = assigned
                self._assign(name, value, add=add)
            else:
                name = word.plain or ""
            if exports and is_name(name):
                self.scope.exported[name] = None

    def _set(self, words: list[str]) -> None:
        if "-a" in words or "allexport" in words:
            self.all_exported = "+o" not in words
        if "+a" in words:
            self.all_exported = False

    def _unread(self, words: Sequence[Word], line: int) -> None:
        """Variables of `read` are known only when the script runs."""
        for word in words:
            if (name := word.plain or "") and is_name(name):
                self.scope.assign(name, self.scope.unknown(MissingValue(f"${name}", "the script reads it", name, line)))

    # ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _command(self, words: Sequence[Word], own: dict[str, str], node: Simple) -> None:
        """A command that is no built-in of the shell: a function, a script in a word, or a program."""
        name = words[0].plain or ""
        if name in self.functions:
            self._call(name, words[1:], node.line)
            return
        fields = [value for word in words for value in self.scope.fields(word)]
        where = self.at(node.line)
        if not fields:
            return
        if fields[0].startswith("--"):
            raise SpecError(
                f"a command cannot begin with {self.scope.written(fields[0])}", where=where,
                hint="the line above must end with a backslash, without a comment or a space behind it",
            )  # fmt: skip
        start = self.starts(fields, where)
        if start is None and (code := self._code(fields)) is not None:
            self._inner(code, fields, own, node.line)
            return
        start = start or start_of_container(fields, where)
        if start is not None:
            self._start(start, own, node)

    def _code(self, fields: list[str]) -> str | None:
        """The script that a command runs: behind `eval`, `bash -c`, `ssh HOST` and the like."""
        if fields[0] == "eval":
            return " ".join(fields[1:])
        if PurePosixPath(fields[0]).name in ("echo", "printf", "cat", "grep", "sed", "tee"):
            return None
        return code_in(fields)

    def _inner(self, code: str, fields: list[str], own: dict[str, str], line: int) -> None:
        """Follow a script inside a word, with the variables that its wrappers set."""
        missing = self.scope.first_missing(code)
        if missing is not None:
            raise self._needs(missing, line)
        before = dict(self.scope.values), dict(self.scope.exported)
        for name, value in {**own, **set_by(fields)}.items():
            self.scope.assign(name, value)
            self.scope.exported[name] = None
        self.script(self.scope.written(code), line)
        self.scope.values, self.scope.exported = before

    def _call(self, name: str, words: Sequence[Word], line: int) -> None:
        """Follow the body of a function, with its arguments as $1, $2 and so on."""
        arguments = [value for word in words for value in self.scope.fields(word)]
        given = {str(number): value for number, value in enumerate(arguments, 1)} | {"#": str(len(arguments))}
        outer = {key: self.scope.values.get(key) for key in (*given, "@", "*")}
        self.scope.values.update(given)
        self.scope.values.update({"@": arguments, "*": arguments})
        self._enter(line)
        self.follow(self.functions[name])
        self.nested -= 1
        for key, value in outer.items():
            if value is None:
                self.scope.values.pop(key, None)
            else:
                self.scope.values[key] = value

    def _start(self, start: Start, own: dict[str, str], node: Simple) -> None:
        """Add the command that starts an engine or a router."""
        where = self.at(node.line)
        if self.condition is not None:
            raise SpecError(
                f"the launch command depends on `{self.condition.kind}` in line {self.condition.line}, and conditions "
                "are not evaluated", where=where, hint="give a script with the commands of one case alone",
            )  # fmt: skip
        for word in (*start.program, *start.arguments):
            if (missing := self.scope.first_missing(word)) is not None:
                raise self._needs(missing, node.line)
        exported = {name: self._text(self.scope.value(name)) for name in self.scope.exported}
        environment = {**exported, **set_by(start.before), **own}
        self.commands.append(
            Command(
                program=tuple(map(self.scope.written, start.program)),
                arguments=tuple(map(self.scope.written, start.arguments)),
                environment=shown_environment({name: self.scope.written(value) for name, value in environment.items()}),
                role="router" if start.engine == "router" else "",
                where=where,
            )
        )
        if len(self.commands) > MOST_COMMANDS:
            raise SpecError(f"starts more than {MOST_COMMANDS:,} engines", where=where)

    @staticmethod
    def _text(value: str | list[str] | None) -> str:
        return " ".join(value) if isinstance(value, list) else value or ""

    def _needs(self, missing: MissingValue, line: int) -> SpecError:
        """The error for a launch command that needs an unknown value."""
        behind = f" (line {missing.line})" if missing.line != line else ""
        hint = f"give it with {GIVE} {missing.name}=VALUE" if missing.name else "write the value itself"
        return SpecError(
            f"the launch command needs {missing.written}{behind}, and it is not known: {missing.why}",
            where=self.at(line), hint=hint,
        )  # fmt: skip
