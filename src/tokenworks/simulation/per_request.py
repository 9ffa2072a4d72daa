"""All simulated requests as columns of a table. `cli.per_request` writes them to files."""

from __future__ import annotations

from typing import Any

from tokenworks.engine.types import Status
from tokenworks.simulation.run import Simulation

TIMES = ("arrival_s", "scheduled_s", "first_token_s", "end_s")
COUNTS = ("input_tokens", "output_tokens", "cached_tokens", "preemptions", "rank")


def columns(run: Simulation) -> dict[str, Any]:
    """Columns over all requests, in the order of the trace: times, lengths, status, class.

    Returns
    -------
    Column by name. A column of numbers is an array; times [s] are NaN if the request never reached that state. A column
    of words is a pair: the list of words, and the index of each request into the list
    """
    outcome, trace = run.outcome, run.traffic.trace
    table: dict[str, Any] = {name: getattr(outcome, name) for name in (*TIMES, *COUNTS)}
    table["status"] = ([status.name.lower() for status in Status], outcome.status)
    if trace.classes:
        table["class"] = (list(trace.classes), trace.class_of)
    return table
