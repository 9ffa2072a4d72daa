"""The text of an answer: words from a seed, the prompt once more, or a tool call; cut where a stop text begins."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from tokenworks.serving.tokens import Tokenizer, Tokens

_ENCODE = msgspec.json.Encoder().encode


def escaped(text: str) -> bytes:
    """A text as it stands between the quotes of a JSON string."""
    return _ENCODE(text)[1:-1]


class Vocabulary:
    """The words of answers, ready to be written.

    Parameters
    ----------
    tokenizer : the tokenizer with the words
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.words = list(tokenizer.words)
        self.escaped = [escaped(word) for word in self.words]
        self.ids, self.mask = tokenizer.ids, len(self.words) - 1
        sizes = {len(word) for word in self.escaped}
        self.size = sizes.pop() if len(sizes) == 1 else 0
        """Length of each word if all are equally long, else 0 [byte]."""


class Words:
    """The text of one choice, token by token.

    Token k is word (start + stride x k) of the vocabulary: nothing is stored, so a stream of a million tokens takes no
    memory. An echo, a tool call or an answer with a stop text has a list of its tokens.

    Parameters
    ----------
    vocabulary : the words
    seed : random number of the request
    """

    __slots__ = ("pieces", "start", "stopped_by", "stride", "vocabulary")

    def __init__(self, vocabulary: Vocabulary, seed: int) -> None:
        self.vocabulary = vocabulary
        self.start, self.stride = seed & vocabulary.mask, ((seed >> 20) | 1) & vocabulary.mask
        self.pieces: list[str] | None = None
        self.stopped_by: str | None = None

    def word(self, k: int) -> str:
        """Text of token k."""
        if self.pieces is not None:
            return self.pieces[k] if k < len(self.pieces) else ""
        return self.vocabulary.words[(self.start + self.stride * k) & self.vocabulary.mask]

    def escaped(self, first: int, last: int) -> bytes:
        """Text of tokens `first` to `last` - 1 as it stands in JSON."""
        if self.pieces is not None:
            return escaped("".join(self.pieces[first:last]))
        words, mask = self.vocabulary.escaped, self.vocabulary.mask
        return b"".join([words[(self.start + self.stride * k) & mask] for k in range(first, last)])

    def text(self, first: int, last: int) -> str:
        """Text of tokens `first` to `last` - 1."""
        return "".join([self.word(k) for k in range(first, last)])

    def ids(self, count: int) -> Tokens:
        """The first `count` tokens; an answer with pieces has no tokens of its own."""
        if self.pieces is not None:
            return np.zeros(0, np.uint32)
        places = (self.start + self.stride * np.arange(count)) & self.vocabulary.mask
        tokens: Tokens = self.vocabulary.ids[places]
        return tokens

    def repeat(self, text: str, count: int) -> None:
        """Let the answer repeat a text: four characters a token, from the start again at its end."""
        parts = [text[at : at + 4] for at in range(0, len(text), 4)] or [" "]
        self.pieces = [parts[k % len(parts)] for k in range(count)]

    def call(self, count: int) -> None:
        """Let the answer be the arguments of a function: a JSON object of `count` tokens."""
        self.pieces = None
        if count < 3:
            self.pieces = ["{}", *[""] * (count - 1)]
            return
        self.pieces = ['{"text":"', *[self.word(k) for k in range(count - 2)], '"}']

    def stop(self, stops: Sequence[str], count: int, least: int) -> int | None:
        """Cut the answer before the first stop text. Returns its tokens, the stop text included; None: it has none.

        Parameters
        ----------
        stops : texts that end the answer
        count : tokens of the answer without a stop [token]
        least : a stop text within the first `least` tokens does not count [token]
        """
        words = self.pieces or [self.word(k) for k in range(count)]
        text, begins = "".join(words), np.cumsum([0, *map(len, words)])
        skip = int(begins[min(least, len(words))])
        matches = [(at, len(stop), stop) for stop in stops if (at := text.find(stop, skip)) >= 0]
        if not matches:
            return None
        at, size, self.stopped_by = min(matches)
        last = int(np.searchsorted(begins, at + size))
        self.pieces = [text[int(begins[k]) : max(int(begins[k]), min(int(begins[k + 1]), at))] for k in range(last)]
        return last
