"""Tokens of prompts, names of blocks, texts and lengths of answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.errors import SpecError
from tokenworks.serving.lengths import DEFAULT, OutputLengths
from tokenworks.serving.tokens import ByteTokenizer, block_names, chat_tokens, load_tokenizer, seed_of
from tokenworks.serving.words import Vocabulary, Words
from tokenworks.specs.load import load_workload

PLAIN = ByteTokenizer()
VOCABULARY = Vocabulary(PLAIN)


@settings(max_examples=25, deadline=None)
@given(st.text('aé€🙂\0\n"\ud800', max_size=30))
def test_tokens_of_a_text(text: str) -> None:
    tokens = PLAIN.encode(text)
    size = len(text.encode("utf-8", "surrogatepass"))
    assert len(tokens) == -(-size // 4)
    if "\0" not in text and text.isprintable():
        assert PLAIN.decode(tokens) == text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5))
def test_blocks_share_a_name_if_all_tokens_before_are_equal(one: list[int], two: list[int], size: int) -> None:
    first, second = (block_names(np.array(tokens, np.uint32), size).tolist() for tokens in (one, two))
    assert len(first) == len(one) // size
    for i, (name, other) in enumerate(zip(first, second, strict=False)):
        end = (i + 1) * size
        assert (name == other) == (one[:end] == two[:end])
    assert len(set(first)) == len(first)
    assert all(name >= 0 for name in first)


def test_the_next_turn_begins_with_this_turn_and_its_answer() -> None:
    """So the prefix cache serves the answer, too."""
    messages = [("system", "be kind"), ("user", "hello")]
    prompt, words = chat_tokens(PLAIN, messages), Words(VOCABULARY, 77)
    turn = np.concatenate([prompt, words.ids(9)])
    later = chat_tokens(PLAIN, [*messages, ("assistant", words.text(0, 9)), ("user", "more")])
    assert later[: len(turn)].tolist() == turn.tolist()


def test_words_of_an_answer() -> None:
    words = Words(VOCABULARY, 12345)
    assert words.text(0, 6) == words.text(0, 2) + words.text(2, 6)
    assert json.loads(b'"' + words.escaped(0, 6) + b'"') == words.text(0, 6)
    assert len(PLAIN.encode(words.text(0, 50))) == 50
    assert words.ids(50).tolist() == PLAIN.encode(words.text(0, 50)).tolist()
    assert Words(VOCABULARY, 12345).text(0, 9) == words.text(0, 9)
    words.repeat('a "quoted" line', 5)
    assert words.text(0, 5) == 'a "quoted" linea "q'
    assert json.loads(b'"' + words.escaped(0, 5) + b'"') == words.text(0, 5)
    for count in range(1, 6):
        words.call(count)
        assert isinstance(json.loads(words.text(0, count)), dict)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 60), st.integers(1, 60), st.text("aeh ", min_size=1, max_size=3), st.integers(0, 5))
def test_a_stop_text_ends_the_answer(seed: int, count: int, stop: str, least: int) -> None:
    whole = Words(VOCABULARY, seed).text(0, count)
    words = Words(VOCABULARY, seed)
    tokens = words.stop([stop, "never there"], count, least)
    at = whole.find(stop, 4 * min(least, count))
    if tokens is None:
        assert at < 0
        return
    assert words.text(0, tokens) == whole[:at]
    assert 4 * (tokens - 1) < at + len(stop) <= 4 * tokens


def test_lengths() -> None:
    chat = load_workload("chat")
    most = OutputLengths("max", workload=chat, recorded=None)
    assert most.of(7, 100, 1) == (7, False)
    assert most.of(None, 10_000, 1) == (round(chat.osl), True)
    assert most.of(None, 3, 1) == (3, False)
    assert OutputLengths("max", workload=None, recorded=None).of(None, 10_000, 1) == (DEFAULT, True)
    drawn = OutputLengths("workload", workload=chat, recorded=None)
    lengths = [drawn.of(None, 10**6, seed)[0] for seed in range(2000)]
    assert np.mean(lengths) == pytest.approx(chat.osl, rel=0.1)
    assert drawn.of(None, 10**6, 5) == drawn.of(None, 10**6, 5)
    assert drawn.of(2, 10**6, 5) == (2, False)
    assert drawn.of(9, 10**6, 5, whole=True) == (9, False)
    replayed = OutputLengths("trace", workload=None, recorded=np.array([3, 5]))
    assert [replayed.of(4, 100, 0) for _ in range(3)] == [(3, True), (4, False), (3, True)]
    assert replayed.of(100, 100, 0, least=8) == (8, True)
    for name in ("workload", "trace"):
        with pytest.raises(SpecError, match="--lengths"):
            OutputLengths(name, workload=None, recorded=None)


def test_seeds() -> None:
    one = PLAIN.encode("hello")
    assert seed_of(one, 1) == seed_of(one, 1)
    assert len({seed_of(one, 1), seed_of(one, 2), seed_of(PLAIN.encode("hellp"), 1)}) == 3


def test_a_tokenizer_from_a_file(tmp_path: Path) -> None:
    library = pytest.importorskip("tokenizers")
    vocabulary = {word: i for i, word in enumerate(["<unk>", *(f"▁{word}" for word in ("the", "and", "cat", "hello"))])}
    tokenizer = library.Tokenizer(library.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = library.pre_tokenizers.Metaspace()
    tokenizer.decoder = library.decoders.Metaspace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    own = load_tokenizer(tmp_path)
    assert len(own.encode("hello the cat")) == 3
    words = Words(Vocabulary(own), 4)
    assert own.encode(words.text(0, 12)).tolist() == words.ids(12).tolist()
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(SpecError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
