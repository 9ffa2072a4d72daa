"""Tokens of a shell script become commands, loops and branches. Nothing is expanded or executed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from tokenworks.errors import SpecError
from tokenworks.launch.read.tokens import Operator, Token, Word

MOST_DEPTH = 40
"""Blocks inside blocks, at most [count]."""

_JOINTS = ("\n", ";", "&", "&&", "||", "|", "|&")
_CLOSES = {"if": "fi", "for": "done", "while": "done", "until": "done", "case": "esac", "select": "done"}
_MIDDLE = ("then", "elif", "else", "do")


@dataclass(frozen=True, slots=True)
class Simple:
    r"""A simple command.

    Parameters
    ----------
    words : its words
    line : line of its first word
    after : operator in front of it, such as "&&"; "\n" for the first command of a line
    """

    words: tuple[Word, ...]
    line: int
    after: str


@dataclass(frozen=True, slots=True)
class ScriptBlock:
    """Commands that run as a group, in a loop, or only under a condition.

    Parameters
    ----------
    kind : "group" and "function" run as they stand; "for" runs once for each value; the others depend on a condition
    line : line on which the block begins
    body : its commands; of "if" those of all branches
    name : variable of a "for" loop, or name of a function
    values : values of a "for" loop
    """

    kind: Literal["group", "function", "for", "if", "while", "until", "case", "select"]
    line: int
    body: tuple[Node, ...]
    name: str = ""
    values: tuple[Word, ...] = ()


Node = Simple | ScriptBlock


def parsed(tokens: list[Token], where: str) -> tuple[Node, ...]:
    """The commands of a script.

    Parameters
    ----------
    tokens : as `tokens.tokens` reads them
    where : file of the script, for messages

    Raises
    ------
    SpecError : a block is not closed, or ends without a beginning
    """
    parser = _Parser(tokens, where)
    nodes = parser.nodes(())
    if (token := parser.peek()) is not None:
        word = token.text if isinstance(token, Operator) else token.plain
        raise parser.error(f"{word!r} closes nothing", "give the whole script", token.line)
    return nodes


class _Parser:
    """Reads tokens from the first to the last."""

    def __init__(self, tokens: list[Token], where: str) -> None:
        self.tokens, self.where, self.at, self.depth = tokens, where, 0, 0

    def error(self, message: str, hint: str, line: int) -> SpecError:
        return SpecError(message, where=f"{self.where}:{line}", hint=hint)

    def peek(self) -> Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self) -> Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def keyword(self) -> str:
        """The next word if it has no quotes and no expansions; else nothing."""
        token = self.peek()
        return (token.plain or "") if isinstance(token, Word) else ""

    def operator(self) -> str:
        """The next operator; nothing if a word is next, or at the end."""
        token = self.peek()
        return token.text if isinstance(token, Operator) else ""

    def nodes(self, ends: Collection[str]) -> tuple[Node, ...]:
        """Commands up to one of some keywords or closing operators, which is not taken."""
        read: list[Node] = []
        after = "\n"
        self.depth += 1
        while (token := self.peek()) is not None:
            if self.depth > MOST_DEPTH:
                raise self.error(f"more than {MOST_DEPTH} blocks stand inside each other", "", token.line)
            if isinstance(token, Operator) and token.text in _JOINTS:
                after = self.take().text  # type: ignore[union-attr]
                continue
            if self.operator() in (")", ";;", ";&", ";;&") or self.keyword() in ends:
                break
            if self.keyword() in ("fi", "done", "esac", "}", *_MIDDLE):
                break
            read.append(self._node(token, after))
            after = ";"
        self.depth -= 1
        return tuple(read)

    def _node(self, token: Token, after: str) -> Node:
        line, keyword = token.line, self.keyword()
        if (opening := self.operator() or keyword) in ("(", "{"):
            self.take()
            return self._group(line, {"(": ")", "{": "}"}[opening])
        if keyword in ("!", "time", "coproc"):
            self.take()
            return self.nodes_of_one(line, after)
        blocks = {"for": self._loop, "select": self._loop, "case": self._case}
        blocks |= dict.fromkeys(("if", "while", "until"), self._branches)
        return blocks[keyword](line) if keyword in blocks else self._simple(line, after)

    def nodes_of_one(self, line: int, after: str) -> Node:
        """The command after a word that changes nothing for a reader."""
        token = self.peek()
        if token is None or (isinstance(token, Operator) and token.text != "("):
            return Simple((), line, after)
        return self._node(token, after)

    def _group(self, line: int, closing: str) -> ScriptBlock:
        body = self.nodes(("}",) if closing == "}" else ())
        self._close(closing, line)
        return ScriptBlock("group", line, body)

    def _close(self, closing: str, line: int) -> None:
        """Take the word or operator that ends a block."""
        if (self.keyword() or self.operator()) != closing:
            raise self.error(f"{closing!r} of the block that begins here is missing", "give the whole script", line)
        self.take()

    def _branches(self, line: int) -> ScriptBlock:
        """if, while, until: the conditions, and all branches as one body."""
        kind: Literal["if", "while", "until"] = self.take().plain  # type: ignore[assignment, union-attr]
        closing, body = _CLOSES[kind], list[Node]()
        self.nodes((*_MIDDLE, closing))  # the condition
        while self.keyword() in _MIDDLE:
            branch = self.take().plain  # type: ignore[union-attr]
            nodes = self.nodes((*_MIDDLE, closing))
            body += nodes if branch != "elif" else ()
        self._close(closing, line)
        return ScriptBlock(kind, line, tuple(body))

    def _loop(self, line: int) -> ScriptBlock:
        kind: Literal["for", "select"] = self.take().plain  # type: ignore[assignment, union-attr]
        token = self.peek()
        name = self.keyword()
        if not isinstance(token, Word):
            raise self.error(f"the variable of {kind!r} is missing", "give the whole script", line)
        self.take()
        values: list[Word] = []
        if self.keyword() == "in":
            self.take()
            while isinstance(self.peek(), Word):
                values.append(self.take())  # type: ignore[arg-type]
        while self.operator() in ("\n", ";"):
            self.take()
        self._close("do", line)
        body = self.nodes(("done",))
        self._close("done", line)
        return ScriptBlock(kind, line, body, name, tuple(values))

    def _case(self, line: int) -> ScriptBlock:
        self.take()
        while self.peek() is not None and self.keyword() != "in":
            self.take()
        self._close("in", line)
        body: list[Node] = []
        while True:
            while self.operator() in ("\n", ";;", ";&", ";;&", ";"):
                self.take()
            if self.peek() is None or self.keyword() == "esac":
                break
            while self.peek() is not None and self.operator() != ")":  # the patterns
                self.take()
            self._close(")", line)
            body += self.nodes(("esac",))
            if self.operator() not in (";;", ";&", ";;&") and self.keyword() != "esac":
                break
        self._close("esac", line)
        return ScriptBlock("case", line, tuple(body))

    def _simple(self, line: int, after: str) -> Node:
        """A simple command, or a function."""
        words: list[Word] = []
        while isinstance(token := self.peek(), Word):
            words.append(token)
            self.take()
            if len(words) == 2 and words[0].plain == "function" and self.keyword() == "{":
                return self._function(words[1].plain or "", line)
            if self.operator() == "(":
                self.take()
                self._close(")", line)
                return self._function(words[-1].plain or "", line)
        if not words:
            token = self.take()
            raise self.error(f"{token.text!r} stands alone", "give the whole script", token.line)  # type: ignore[union-attr]
        return Simple(tuple(words), line, after)

    def _function(self, name: str, line: int) -> ScriptBlock:
        while self.operator() == "\n":
            self.take()
        token = self.peek()
        if token is None:
            raise self.error(f"the body of the function {name} is missing", "give the whole script", line)
        node = self._node(token, "\n")
        return ScriptBlock("function", line, (node,), name)
