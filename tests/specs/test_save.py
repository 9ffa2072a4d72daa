"""What is written is there whole or not at all, and what cannot be written is refused before the work."""

import os
import stat
from pathlib import Path

import pytest

from tokenworks.errors import SpecError
from tokenworks.specs.save import must_be_writable, saved


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    file.write_text("before")
    half = saved(file)
    half.__enter__().write_text("half")
    assert half.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None) is False
    assert file.read_text() == "before"
    assert os.listdir(tmp_path) == ["out.csv"]
    with saved(file) as part:
        part.write_text("after")
        assert file.read_text() == "before"
    assert file.read_text() == "after"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_others_may_read_it_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with saved(tmp_path / "out.csv") as part:
        part.touch()
    plain, out = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "out.csv"))
    assert out == plain


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with saved(tmp_path / "link") as part:
        part.write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "x"


def test_a_device_is_written_to() -> None:
    with saved(Path("/dev/null")) as part:
        part.write_text("x")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(("name", "says"), [("no/out.csv", "there is no folder"), ("folder", "is a folder")])
def test_what_cannot_be_written(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SpecError, match=says):
        must_be_writable(tmp_path / name)
    with pytest.raises(SpecError, match="cannot be written"), saved(tmp_path / name) as part:
        part.write_text("x")
    must_be_writable(tmp_path / "out.csv")
    assert os.listdir(tmp_path) == ["folder"]
