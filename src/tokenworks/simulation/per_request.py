"""Every simulated request as columns of a table; files of them are written at the edge."""

from __future__ import annotations

from typing import Any

from tokenworks.engine.types import Status
from tokenworks.simulation.run import Simulation

TIMES = ("arrival_s", "scheduled_s", "first_token_s", "end_s")
COUNTS = ("input_tokens", "output_tokens", "cached_tokens", "preemptions", "rank")


def columns(run: Simulation) -> dict[str, Any]:
    """Every request in order of the trace: times [s], NaN where it never came to that; lengths, status, class.

    Numbers are arrays; words are (categories, index of each).
    """
    outcome, trace = run.outcome, run.traffic.trace
    made: dict[str, Any] = {name: getattr(outcome, name) for name in (*TIMES, *COUNTS)}
    made["status"] = ([status.name.lower() for status in Status], outcome.status)
    if trace.classes:
        made["class"] = (list(trace.classes), trace.class_of)
    return made
