"""Shell text becomes tokens: words with their quotes and expansions, operators, line numbers. Nothing is expanded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tokenworks.errors import SpecError

WordPartKind = Literal["text", "variable", "command", "arithmetic"]

MOST_TOKENS = 200_000
"""A script with more tokens is refused [count]."""

_OPERATOR = re.compile(r"\n|;;&|;;|;&|;|&&|\|\||\|&|\||&(?!>)|\(|\)")
_REDIRECTION = re.compile(r"[0-9]*(?:&>>|&>|<<<|<<-?|<>|<&|>&|>>|>\||<(?!\()|>(?!\())")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-]")
_ARRAY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=\(")
_ENDS_WORD = " \t\r\n;&|()<>"
_ANSI = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


@dataclass(frozen=True, slots=True)
class WordPart:
    """A piece of a word.

    Parameters
    ----------
    kind : "text" stands for itself; "variable" is a name or what stands in ${...}; "command" is what stands in $(...);
        "arithmetic" is what stands in $((...))
    text : the content
    quoted : whether the piece stands in quotes, so that its value is not split into words
    """

    kind: WordPartKind
    text: str
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a command, before expansion.

    Parameters
    ----------
    parts : pieces that follow each other without a space
    line : line on which the word begins, from 1
    array : words of NAME=(...); None: the word is no array. `parts` then hold the text in front of the parenthesis
    """

    parts: tuple[WordPart, ...]
    line: int
    array: tuple[Word, ...] | None = None

    @property
    def plain(self) -> str | None:
        """The text of a word without quotes and expansions; None for other words. Only such words can be keywords."""
        if self.array is not None or any(part.kind != "text" or part.quoted for part in self.parts):
            return None
        return "".join(part.text for part in self.parts)


@dataclass(frozen=True, slots=True)
class Operator:
    r"""An operator between commands, such as "&&"; a new line is "\n"."""

    text: str
    line: int


Token = Word | Operator


def tokens(text: str, where: str, first: int = 1) -> list[Token]:
    """All tokens of a script. Comments and redirections are left out.

    Parameters
    ----------
    text : the script
    where : file of the script, for messages
    first : line of the file on which the text begins, from 1

    Raises
    ------
    SpecError : quotes or brackets are not closed, the text ends after a line continuation, or a here-document is used
    """
    return _Tokenizer(text, where, first).all()


def word_of(text: str, where: str, line: int) -> Word:
    """The word that a text inside ${NAME:-text} stands for: spaces and operators are characters like all others."""
    reader = _Tokenizer(text, where, line)
    return Word(tuple(reader.parts(ends="")), line)


class _Tokenizer:
    """Reads a text from its start to its end; `at` is the position, `line` the line."""

    def __init__(self, text: str, where: str, first: int) -> None:
        self.text, self.where, self.at, self.line = text, where, 0, first

    def error(self, message: str, hint: str, line: int | None = None) -> SpecError:
        return SpecError(message, where=f"{self.where}:{line or self.line}", hint=hint)

    def peek(self, count: int = 1) -> str:
        return self.text[self.at : self.at + count]

    def take(self, count: int) -> str:
        taken = self.text[self.at : self.at + count]
        self.line += taken.count("\n")
        self.at += count
        return taken

    def all(self) -> list[Token]:
        """All tokens up to the end of the text."""
        read: list[Token] = []
        skip_word = False  # the file name after a redirection
        while (token := self._next()) is not None:
            if isinstance(token, str):
                skip_word = True
                continue
            if skip_word and isinstance(token, Word):
                skip_word = False
                continue
            skip_word = False
            read.append(token)
            if len(read) > MOST_TOKENS:
                raise self.error(f"holds more than {MOST_TOKENS:,} words", "give the launch commands alone")
        return read

    def _next(self) -> Token | str | None:
        """The next token; the text of a redirection, whose file name follows; None at the end."""
        self._skip_blank()
        if self.at >= len(self.text):
            return None
        line = self.line
        if self.peek(2) == "((":
            return Word((WordPart("text", f"(({self._inside('((', '))')}))"),), line)
        if match := _REDIRECTION.match(self.text, self.at):
            return self._redirection(match[0])
        if match := _OPERATOR.match(self.text, self.at):
            self.take(len(match[0]))
            return Operator(match[0], line)
        if match := _ARRAY.match(self.text, self.at):
            return self._array(match[0])
        return Word(tuple(self.parts(_ENDS_WORD)), line)

    def _skip_blank(self) -> None:
        """Skip spaces, line continuations and comments."""
        while self.at < len(self.text):
            if self.peek() in " \t\r":
                self.take(1)
            elif self.peek(2) == "\\\n" or self.peek(3) == "\\\r\n":
                line = self.line
                self.take(2 if self.peek(2) == "\\\n" else 3)
                self._must_go_on(line)
            elif self.peek() == "#":
                end = self.text.find("\n", self.at)
                self.take((len(self.text) if end < 0 else end) - self.at)
            else:
                return

    def _must_go_on(self, line: int) -> None:
        """Refuse a text that ends after a line continuation: a part of the command is missing."""
        if not self.text[self.at :].strip():
            raise self.error(
                "the text ends after a line continuation (\\), so a part of the command is missing",
                "give the whole script, or remove the last backslash", line,
            )  # fmt: skip

    def _redirection(self, text: str) -> str:
        if text.lstrip("0123456789").startswith("<<") and not text.endswith("<<<"):
            raise self.error(
                "a here-document (<<) is not read", "write the launch command itself into a file, without <<"
            )
        self.take(len(text))
        return text

    def _array(self, start: str) -> Word:
        """The word NAME=(...)."""
        line = self.line
        self.take(len(start))
        items: list[Word] = []
        while True:
            token = self._next()
            if token is None:
                raise self.error(f"the parenthesis of {start} is not closed", "add the missing )", line)
            if isinstance(token, Word):
                items.append(token)
            elif isinstance(token, Operator) and token.text == ")":
                return Word((WordPart("text", start[:-1]),), line, tuple(items))

    def parts(self, ends: str) -> list[WordPart]:
        """The pieces of one word.

        Parameters
        ----------
        ends : characters that end the word; empty: the word ends with the text
        """
        read: list[WordPart] = []
        plain = ""
        while self.at < len(self.text) and (not ends or self.peek() not in ends or self._substitutes_process()):
            character = self.peek()
            if character == "\\":
                if plain:
                    read.append(WordPart("text", plain))
                    plain = ""
                if escaped := self._escaped():
                    read.append(WordPart("text", escaped, quoted=True))
                continue
            piece = self._quoted_or_expanded(character)
            if piece is None:
                plain += self.take(1)
                continue
            if plain:
                read.append(WordPart("text", plain))
                plain = ""
            read += piece
        if plain:
            read.append(WordPart("text", plain))
        return read

    def _substitutes_process(self) -> bool:
        return self.peek(2) in ("<(", ">(")

    def _escaped(self) -> str:
        """The character after a backslash; nothing for a line continuation inside a word."""
        line = self.line
        self.take(1)
        if self.at >= len(self.text):
            self._must_go_on(line)
        if self.peek() == "\n":
            self.take(1)
            self._must_go_on(line)
            return ""
        return self.take(1)

    def _quoted_or_expanded(self, character: str) -> list[WordPart] | None:
        """The pieces of quotes or of an expansion that begin here; None: a plain character begins here."""
        part: WordPart | None = None
        if character == '"' or self.peek(2) == '$"':
            self.take(character == "$")
            return self._double()
        if character == "'":
            part = WordPart("text", self._until_quote("'"), quoted=True)
        elif self.peek(2) == "$'":
            self.take(1)
            part = WordPart("text", self._ansi(), quoted=True)
        elif character == "`":
            part = WordPart("command", self._until_quote("`"))
        elif self._substitutes_process():
            part = WordPart("command", self._inside(self.peek(2), ")"))
        elif character == "$":
            part = self._expansion(quoted=False)
        return None if part is None else [part]

    def _until_quote(self, quote: str) -> str:
        line = self.line
        self.take(1)
        end = self.text.find(quote, self.at)
        if end < 0:
            raise self._unbalanced(quote, line)
        inner = self.take(end - self.at)
        self.take(1)
        return inner

    def _unbalanced(self, quote: str, line: int) -> SpecError:
        return self.error(
            f"the quote {quote} is not closed", f"add the missing {quote}, or give the whole script", line
        )

    def _ansi(self) -> str:
        """The text of $'...', with the most common escapes."""
        line, inner = self.line, ""
        self.take(1)
        while self.peek() != "'":
            if self.at >= len(self.text):
                raise self._unbalanced("'", line)
            if self.peek() == "\\":
                self.take(1)
                letter = self.take(1)
                inner += _ANSI.get(letter, f"\\{letter}")
            else:
                inner += self.take(1)
        self.take(1)
        return inner

    def _double(self) -> list[WordPart]:
        """The pieces of "..."."""
        line, read, plain = self.line, list[WordPart](), ""
        self.take(1)
        while self.peek() != '"':
            if self.at >= len(self.text):
                raise self._unbalanced('"', line)
            character = self.peek()
            if character == "\\" and self.peek(2)[1:] in ("$", "`", '"', "\\", "\n"):
                self.take(1)
                plain += self.take(1).replace("\n", "")
                continue
            part = None
            if character == "`":
                part = WordPart("command", self._until_quote("`"), quoted=True)
            elif character == "$":
                part = self._expansion(quoted=True)
            if part is None:
                plain += self.take(1)
                continue
            read += [*([WordPart("text", plain, quoted=True)] if plain else []), part]
            plain = ""
        self.take(1)
        return [*read, WordPart("text", plain, quoted=True)] if plain or not read else read

    def _expansion(self, *, quoted: bool) -> WordPart | None:
        """The expansion that begins with the $ here; None: the $ stands for itself."""
        if self.peek(3) == "$((":
            return WordPart("arithmetic", self._inside("$((", "))"), quoted)
        if self.peek(2) == "$(":
            return WordPart("command", self._inside("$(", ")"), quoted)
        if self.peek(2) == "${":
            return WordPart("variable", self._inside("${", "}"), quoted)
        if match := _VARIABLE.match(self.text, self.at + 1):
            self.take(1 + len(match[0]))
            return WordPart("variable", match[0], quoted)
        return None

    def _inside(self, opening: str, closing: str) -> str:
        """The text between brackets; brackets of the same kind inside them, and quotes, are respected."""
        line, begin, depth, first = self.line, self.at + len(opening), 1, closing[0]
        self.take(len(opening))
        opens = {")": "(", "}": "{"}[first]
        while self.at < len(self.text):
            character = self.peek()
            if character == "\\":
                self.take(2)
                continue
            if character in "'\"":
                end = self._end_of_quote(character, line)
                self.take(end - self.at)
                continue
            if depth == 1 and self.text.startswith(closing, self.at):
                inner = self.text[begin : self.at]
                self.take(len(closing))
                return inner
            depth += (character == opens) - (character == first)
            self.take(1)
        raise self.error(f"the bracket {opening} is not closed", f"add the missing {closing}", line)

    def _end_of_quote(self, quote: str, line: int) -> int:
        """Position behind the quote that closes the one here."""
        at = self.at + 1
        while at < len(self.text) and self.text[at] != quote:
            at += 2 if quote == '"' and self.text[at] == "\\" else 1
        if at >= len(self.text):
            raise self._unbalanced(quote, line)
        return at + 1


def is_name(text: str) -> bool:
    """Whether a text can be the name of a variable."""
    return _NAME.fullmatch(text) is not None
