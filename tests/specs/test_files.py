"""Files that cannot be read: every way there is, refused at once, in words."""

import contextlib
import gzip
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.specs.hf_cases import LLAMA
from tokenworks.calibrate.measured import read_points
from tokenworks.errors import SpecError
from tokenworks.ingest import load_benchmarks, load_trace
from tokenworks.specs.deployment_file import pick_deployment
from tokenworks.specs.files import opened
from tokenworks.specs.hf import load_model
from tokenworks.specs.load import load_workload, read_yaml

ROW = '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}\n'

NOBODY = 65534
FILE = "hub/models--me--mine/snapshots/abc/config.json"

READERS: dict[str, Callable[[Path], object]] = {
    "yaml": read_yaml,
    "workload": load_workload,
    "deployment": pick_deployment,
    "config": lambda path: load_model(str(path)),
    "trace": load_trace,
    "benchmarks": load_benchmarks,
    "points": read_points,
}


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENWORKS_CACHE", str(tmp_path))


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of a user who is not root for the time of the test, for root may read everything."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        if root := os.geteuid() == 0:
            os.seteuid(NOBODY)
        yield Path(folder)
        if root:
            os.seteuid(0)
        for path in Path(folder).rglob("*"):
            path.chmod(0o700)


def hidden(home: Path, place: str) -> Path:
    """A config.json that must not be read: itself, or a folder above it."""
    if os.geteuid() == NOBODY:
        os.seteuid(0)
    file = home / "hub" / "models--me--mine" / "snapshots" / "abc" / "config.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(LLAMA))
    (home / "hub" / "models--me--mine" / "refs").mkdir()
    (home / "hub" / "models--me--mine" / "refs" / "main").write_text("abc")
    (home / place).chmod(0)
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
    return file


@pytest.mark.parametrize("place", [FILE, "hub/models--me--mine/snapshots/abc"])
@pytest.mark.parametrize("reader", READERS)
def test_a_file_without_permission(reader: str, place: str, home: Path) -> None:
    path = hidden(home, place)
    with pytest.raises(SpecError, match=r"config\.json: not permitted to read it; you need permission"):
        READERS[reader](path)


@pytest.mark.parametrize(
    "place",
    ["hub", "hub/models--me--mine", "hub/models--me--mine/refs", "hub/models--me--mine/refs/main",
     "hub/models--me--mine/snapshots", "hub/models--me--mine/snapshots/abc", FILE],
)  # fmt: skip
def test_a_model_cache_without_permission(place: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden(home, place)
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    with pytest.raises(SpecError, match="not permitted"):
        load_model("me/mine")


def test_a_model_folder_without_permission(home: Path) -> None:
    folder = hidden(home, "hub/models--me--mine/snapshots/abc").parent
    with pytest.raises(SpecError, match="not permitted"):
        load_model(str(folder))


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_that_nobody_writes_to_and_a_device(reader: str, tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    with pytest.raises(SpecError, match=r"pipe: is a pipe"):
        READERS[reader](pipe)
    with pytest.raises(SpecError, match="/dev/zero: is a device; give a file"):
        READERS[reader](Path("/dev/zero"))


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_and_a_file_that_is_not_there(reader: str, tmp_path: Path) -> None:
    for name, words in ((tmp_path, "is a folder|no config.json in this"), (tmp_path / "none", "no such|unknown model")):
        with pytest.raises(SpecError, match=words):
            READERS[reader](name)


@contextmanager
def piped(data: bytes, wait_s: float = 0.0) -> Iterator[Path]:
    """A pipe as <(...) of a shell makes it, that somebody writes to."""
    out, into = os.pipe()

    def write() -> None:
        time.sleep(wait_s)
        with contextlib.suppress(BrokenPipeError), open(into, "wb") as file:
            file.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield Path(f"/dev/fd/{out}")
    finally:
        os.close(out)
        writer.join()


@pytest.mark.parametrize("wait_s", [0.0, 0.2])
def test_a_pipe_is_read_once(wait_s: float) -> None:
    with piped(b"name: box\n", wait_s) as path:
        assert read_yaml(path) == {"name": "box"}
    with piped(ROW.encode() * 5000, wait_s) as path:
        assert len(load_trace(path)) == 5000
    with piped(gzip.compress(ROW.encode()), wait_s) as path:
        assert len(load_trace(path)) == 1


def test_a_pipe_that_would_have_to_be_read_twice_or_is_too_long() -> None:
    with piped(b"point_id\n") as path, pytest.raises(SpecError, match="is a pipe; give a file"):
        read_points(path)
    with piped(b"x" * 200_000) as path, pytest.raises(SpecError, match="is a pipe of more than 100000 bytes; write it"):
        opened(path, pipe=100_000)
