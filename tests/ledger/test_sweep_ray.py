"""A sweep on a Ray cluster, which the test starts on loopback: the bytes of local processes."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tokenworks
from tests.ledger.sweep_cases import ESTIMATE, SIMULATE
from tokenworks.errors import SpecError

RAY = Path(sys.executable).with_name("ray")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster with two CPUs."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'tokenworks[ray]'")
    folder = tmp_path_factory.mktemp("ray")
    source = str(Path(tokenworks.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(RAY), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
    command += ["--include-dashboard=false", f"--temp-dir={folder}"]
    with (folder / "log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()
            head.wait(60)


def wait_for(address: str) -> None:
    host, _, port = address.partition(":")
    for _ in range(120):
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            __import__("time").sleep(0.5)
        else:
            return
    raise TimeoutError(address)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("kernel")
def test_ray_gives_the_bytes_of_local_processes(cluster: str, tmp_path: Path) -> None:
    wait_for(cluster)
    for name, case in (("e", ESTIMATE), ("s", SIMULATE)):
        tokenworks.sweep(case, parquet=tmp_path / f"{name}.local", workers=1)
        tokenworks.sweep(case, parquet=tmp_path / f"{name}.ray", ray=cluster)
        assert (tmp_path / f"{name}.local").read_bytes() == (tmp_path / f"{name}.ray").read_bytes()


def test_a_cluster_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'tokenworks[ray]'")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(SpecError, match="there is no Ray cluster: Connection refused"):
        tokenworks.sweep(ESTIMATE, parquet=tmp_path / "e.parquet", ray=f"127.0.0.1:{port}")
