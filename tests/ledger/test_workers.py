"""Questions in local processes: the same answers, in the order of the questions, and the first error of that order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tokenworks.errors import SpecError, TokenworksError, UnknownName
from tokenworks.ledger.workers import cores, each

Say = Callable[[str], None]


def square(number: int, say: Say | None) -> int:
    time.sleep(0.02 * (3 - number % 3))
    if say:
        say(f"{number} done")
    return number * number


def refuse(number: int, _say: Say | None) -> int:
    if number == 1:
        time.sleep(0.2)
        raise SpecError("is wrong", where="first", hint="write another")
    if number == 2:
        raise UnknownName("system", "hgx", ["hgx-h20"])
    return number


def vanish(_number: int, _say: Say | None) -> int:
    os._exit(9)


def process(_number: int, _say: Say | None) -> int:
    time.sleep(0.1)
    return os.getpid()


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_have_the_order_of_the_questions(workers: int) -> None:
    words: list[str] = []
    numbers = list(range(6))
    answers = each(
        square, numbers, names=[f"n{number}" for number in numbers], workers=workers,
        weights=[float(number) for number in numbers], say=words.append,
    )  # fmt: skip
    assert answers == [number * number for number in numbers]
    assert sorted(words) == [f"n{number}: {number} done" for number in numbers]


def test_nobody_has_to_listen() -> None:
    assert each(square, [2, 3], names=["a", "b"], workers=2) == [4, 9]
    assert each(square, [], names=[], workers=2) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_by_the_order_of_the_questions_is_raised(workers: int) -> None:
    """Also if a later question fails earlier; the error keeps its words on the way from another process."""
    with pytest.raises(SpecError) as caught:
        each(refuse, [0, 1, 2], names=["a", "b", "c"], workers=workers)
    assert str(caught.value) == "first: is wrong; write another"


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unknown_name_comes_back_from_another_process(workers: int) -> None:
    with pytest.raises(UnknownName, match="did you mean hgx-h20"):
        each(refuse, [2, 0], names=["a", "b"], workers=workers)


def test_a_process_that_is_killed_is_an_error_in_words() -> None:
    with pytest.raises(TokenworksError, match="ended from outside"):
        each(vanish, [1, 2], names=["a", "b"], workers=2)


def test_one_worker_is_this_process() -> None:
    assert set(each(process, [1, 2], names=["a", "b"], workers=1)) == {os.getpid()}
    assert os.getpid() not in each(process, [1, 2], names=["a", "b"], workers=2)
    assert cores() >= 1
