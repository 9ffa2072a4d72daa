"""Tokens of prompts, names of their blocks for the prefix cache, and the words of answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tokenworks.arrays import Ints
from tokenworks.errors import SpecError

Tokens = NDArray[np.uint32]

BYTES = 4
"""Bytes of UTF-8 that count as one token without a tokenizer. English text has 4 to 5 bytes per token of a modern
vocabulary (assumed)."""
WORDS = [
    "the", "and", "for", "are", "not", "you", "all", "new", "was", "can", "had", "her", "one", "our", "out", "day",
    "get", "has", "him", "his", "how", "man", "now", "old", "see", "two", "way", "who", "its", "let", "put", "say",
    "she", "too", "use", "air", "arm", "art", "ask", "bed", "big", "box", "boy", "bus", "buy", "car", "cat", "cup",
    "cut", "dry", "eat", "egg", "end", "eye", "far", "few", "fly", "fun", "hat", "ice", "job", "key",
]  # fmt: skip
"""64 harmless words. Each one has four bytes with the space before it, so it is one token without a tokenizer."""

_HEAD, _TAIL = 3, 1
"""Tokens before and after the text of each message of a chat: role and delimiters, as in ChatML [token]."""
_ODD = np.array([0x9E3779B97F4A7C15], np.uint64)


class Tokenizer(Protocol):
    """What turns text into tokens and back."""

    words: list[str]
    """Words for answers, a power of two of them. Each word is one token of its own after any other word."""
    ids: Tokens
    """Tokens of these words."""

    def encode(self, text: str) -> Tokens:
        """Tokens of a text."""
        ...

    def decode(self, tokens: Tokens) -> str:
        """Text of tokens."""
        ...


class ByteTokenizer:
    """Counts `BYTES` bytes of UTF-8 as one token. The number of the token is the value of these bytes."""

    def __init__(self) -> None:
        self.words = [f" {word}" for word in WORDS]
        self.ids = np.concatenate([self.encode(word) for word in self.words])

    def encode(self, text: str) -> Tokens:
        """Tokens of a text: one for each `BYTES` bytes, the last one may have fewer."""
        data = text.encode("utf-8", "surrogatepass")
        return np.frombuffer(data + b"\0" * (-len(data) % BYTES), "<u4")

    def decode(self, tokens: Tokens) -> str:
        """Text of tokens. Bytes that are not UTF-8 become U+FFFD."""
        return tokens.astype("<u4").tobytes().rstrip(b"\0").decode("utf-8", "replace")


class FileTokenizer:
    """A tokenizer from a `tokenizer.json` of Hugging Face, read with the library tokenizers.

    Parameters
    ----------
    path : the file, or the folder with it

    Raises
    ------
    SpecError : the library is not installed, or the file cannot be read
    """

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer as Library
        except ImportError:
            hint = "pip install tokenizers, or leave --tokenizer out: then 4 bytes count as one token"
            raise SpecError("needs the package tokenizers", where="--tokenizer", hint=hint) from None
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            self._library: Any = Library.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            hint = "name a tokenizer.json of Hugging Face, or the folder with it"
            raise SpecError(f"cannot be read: {error}", where=str(file), hint=hint) from None
        self.words = self._usable()
        self.ids = np.array([self.encode(word)[0] for word in self.words], np.uint32)

    def _usable(self) -> list[str]:
        """Words that are one token each after a space, as many as the largest power of two."""
        single = [word for word in (f" {word}" for word in WORDS) if len(self.encode(word)) == 1]
        if not single:
            known = sorted(self._library.get_vocab(with_added_tokens=False).values())[:4096]
            texts = (self._library.decode([one]) for one in known)
            single = [text for text in texts if text.isascii() and text.isalpha() and len(self.encode(text)) == 1][:64]
        if not single:
            raise SpecError("has no word of one token", where="--tokenizer", hint="use another tokenizer")
        return single[: 1 << (len(single).bit_length() - 1)]

    def encode(self, text: str) -> Tokens:
        """Tokens of a text."""
        return np.array(self._library.encode(text, add_special_tokens=False).ids, np.uint32)

    def decode(self, tokens: Tokens) -> str:
        """Text of tokens."""
        text: str = self._library.decode(tokens.tolist(), skip_special_tokens=False)
        return text


def load_tokenizer(path: Path | None) -> Tokenizer:
    """The tokenizer of a file; None: `ByteTokenizer`."""
    return ByteTokenizer() if path is None else FileTokenizer(path)


def chat_tokens(tokenizer: Tokenizer, messages: Sequence[tuple[str, str]]) -> Tokens:
    """Tokens of a chat: `_HEAD` tokens, the text and `_TAIL` tokens for each message, and the head of the answer.

    The texts of the messages are encoded one by one. So the tokens of a chat begin with the tokens of the chat before
    it and its answer, and the prefix cache serves them.

    Parameters
    ----------
    tokenizer : what encodes the texts
    messages : role and text of each message
    """
    parts = []
    for role, text in (*messages, ("assistant", None)):
        begin = np.zeros(_HEAD, np.uint32)
        begin[1] = sum(role.encode()) + 1  # the same number for the same role
        parts.append(begin)
        if text is not None:
            parts += [tokenizer.encode(text), np.full(_TAIL, 1, np.uint32)]
    return np.concatenate(parts)


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The random number that splitmix64 makes of each state (Steele et al., OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def block_names(tokens: Tokens, size: int) -> Ints:
    """Names of the full blocks of a prompt. Two prompts share a name if they are equal up to the end of the block.

    The name of block i is a hash of the sum of the hashes of blocks 0 to i, each with its position. Names are 63-bit
    numbers, so two different prefixes share a name with a probability of 1e-19.

    Parameters
    ----------
    tokens : tokens of the prompt, and of its answer
    size : size of a block [token]
    """
    count = len(tokens) // size
    weights = _mixed(np.arange(1, size + 1, dtype=np.uint64) * _ODD) | np.uint64(1)
    blocks = tokens[: count * size].reshape(count, size).astype(np.uint64)
    sums = _mixed(blocks + np.uint64(1)) @ weights
    places = np.arange(1, count + 1, dtype=np.uint64) * _ODD
    return (_mixed(np.cumsum(_mixed(sums + places), dtype=np.uint64)) >> np.uint64(1)).astype(np.int64)


def seed_of(tokens: Tokens, seed: int) -> int:
    """A random 63-bit number for a prompt. Equal prompts and seeds give equal numbers."""
    whole = np.concatenate(
        [tokens[-256:], np.array([len(tokens), seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF], np.uint32)]
    )
    return int(block_names(whole, len(whole))[0])
