"""The examples run as they are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.usefixtures("kernel")
def test_the_whatif_example_writes_its_chart(tmp_path: Path) -> None:
    for name in ("altair", "pandas"):
        pytest.importorskip(name)
    command = [sys.executable, "-W", "error", str(EXAMPLES / "whatif.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert "effective_tok_s_per_device" in done.stdout
    chart = (tmp_path / "whatif.html").read_text(encoding="utf-8")
    assert "output tokens/s per device" in chart
    assert chart.count('"concurrency": ') >= 6


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("scale*.yaml")), ids=lambda path: path.stem)
def test_the_sweeps_of_scale_can_run(path: Path) -> None:
    from tokenworks import ingest
    from tokenworks.ledger.sweep import prepare

    prepared = prepare(path, ingest.load_trace, "0")
    assert len(prepared.job.design) == {"scale": 8, "scale-boxes": 12}[path.stem]
