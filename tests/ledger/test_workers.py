"""Questions in local processes: the same answers, in the order of the questions, and the first error of that order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.waiting import wait_until
from tokenworks.errors import SpecError, TokenworksError, UnknownName
from tokenworks.ledger.workers import each
from tokenworks.processes import cores

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


def wait_in_file(folder: str, _say: Say | None) -> int:
    """Write the number of this process into a file, and go on for longer than any test."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)
    return 0


def refuse_or_wait(asked: tuple[str, bool], say: Say | None) -> int:
    """One question fails as soon as the other one waits."""
    folder, refuses = asked
    if not refuses:
        return wait_in_file(folder, say)
    wait_until(lambda: list(Path(folder).iterdir()))
    raise SpecError("is wrong", where="first", hint="write another")


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


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


def test_an_error_ends_the_other_questions(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is wrong"):
        each(refuse_or_wait, [(str(tmp_path), True), (str(tmp_path), False)], names=["a", "b"], workers=2)
    (pid,) = (int(path.name) for path in tmp_path.iterdir())
    wait_until(lambda: not runs(pid))


def test_one_worker_is_this_process() -> None:
    assert set(each(process, [1, 2], names=["a", "b"], workers=1)) == {os.getpid()}
    assert os.getpid() not in each(process, [1, 2], names=["a", "b"], workers=2)
    assert cores() >= 1


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_main_process(stop: signal.Signals, tmp_path: Path) -> None:
    """Also if their questions take long; so does the process that passes on their messages."""
    code = (
        "import signal\n"
        "from tests.ledger.test_workers import each, wait_in_file\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # may be ignored where the tests run
        f"if __name__ == '__main__': each(wait_in_file, [{str(tmp_path)!r}] * 2, names=['a', 'b'], workers=2)"
    )
    script = tmp_path.with_suffix(".py")
    script.write_text(code)
    main = subprocess.Popen([sys.executable, script], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    children = {int(pid) for pid in Path(f"/proc/{main.pid}/task/{main.pid}/children").read_text().split()}
    main.send_signal(stop)
    main.wait(timeout=60)
    assert {int(path.name) for path in tmp_path.iterdir()} < children
    wait_until(lambda: not any(runs(pid) for pid in children))
