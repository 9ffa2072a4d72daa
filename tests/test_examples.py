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
