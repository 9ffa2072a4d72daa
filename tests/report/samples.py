"""Small results that the tests of the pages read: a plan, a simulation, and names that try to break out of HTML."""

import copy
import functools
from typing import Any

from tokenworks import plan
from tokenworks.simulation.run import simulate
from tokenworks.simulation.source import Source
from tokenworks.specs.compose import machine
from tokenworks.specs.machine import Machine
from tokenworks.specs.slo import Slo

COMMAND = "tokenworks plan Qwen/Qwen3-30B-A3B --on 2xhgx-h100 --workload chat --no-simulate"

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>--><img src=x onerror=alert(1)>",
    '" onload="alert(1)',
    "{{ 7 * 7 }}{% raw %}{name}",
    "javascript:alert(1)//https://example.org/x.js",
    "\u2028\u202e\x00\ud800 &lt;b&gt;",
)


@functools.cache
def _plan() -> tuple[Any, Machine]:
    result = plan("Qwen/Qwen3-30B-A3B", on="2xhgx-h100", workload="chat", engine="vllm", simulate=False, top=4)
    return result, result.setting.machine


def plan_sample() -> tuple[dict[str, Any], dict[str, Machine]]:
    """A plan of estimates as plain data, and its machine."""
    result, its_machine = _plan()
    return copy.deepcopy(result.plain()), {its_machine.name: its_machine}


@functools.cache
def _simulation() -> Any:
    result, _ = _plan()
    traffic = Source.read(None, "chat", requests=300).traffic(rate=4.0)
    return simulate(result.deployed(), traffic, slo=Slo.parse("ttft=2s,tpot=50ms")).plain()


def simulate_sample() -> tuple[dict[str, Any], dict[str, Machine]]:
    """A short simulation as plain data, and its machine."""
    plain = copy.deepcopy(_simulation())
    return plain, {plain["inputs"]["machine"]: machine("2xhgx-h100")}


FREE = {"title", "why", "value", "path", "model", "source", "trace", "machine", "name"}
"""Keys whose texts come from a user or a file."""


def with_text(value: Any, text: str) -> Any:
    """Plain data with all free texts replaced: titles, notes, reasons, values, names of models and machines."""
    if isinstance(value, dict):
        return {key: _replaced(key, item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [text if isinstance(item, str) and " " in item else with_text(item, text) for item in value]
    return value


def _replaced(key: str, value: Any, text: str) -> Any:
    if key == "deployment":  # its names are checked when it is read, and it cannot have a lone surrogate
        return {**value, "model": text.encode("utf-8", "replace").decode()}
    if key in FREE and isinstance(value, str):
        return text
    return with_text(value, text)
