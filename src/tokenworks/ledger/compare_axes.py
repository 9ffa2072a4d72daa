"""The comparison at other contexts or other shares of reuse: where the winner changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from tokenworks.ledger.compare_asked import AskedServing
from tokenworks.ledger.compare_machines import written
from tokenworks.ledger.compare_rank import ranked
from tokenworks.ledger.comparison import Compared
from tokenworks.ledger.priced import Machines, with_reuse
from tokenworks.ledger.workers import Say
from tokenworks.specs.given import Given
from tokenworks.specs.workload import Workload

Axis = Literal["context", "reuse"]
CONTEXTS = (0.25, 0.5, 2.0, 4.0, 8.0)
"""Factors on the input length at which `--crossover context` compares the machines again [-]."""

REUSES = (0.0, 0.25, 0.5, 0.75, 0.9)
"""Shares of the input tokens that the prefix cache serves at which `--crossover reuse` compares again [-]."""


def repeated(
    asked: AskedServing, axis: Axis, systems: tuple[Compared, ...], say: Say | None
) -> dict[float, tuple[Compared, ...]]:
    """The comparison at a few values of an axis, smallest first.

    Parameters
    ----------
    asked : what is compared
    axis : context or reuse
    systems : the machines at the value of the workload
    say : told in words what happens
    """
    workload = asked.workload()
    if axis == "context":
        base, values = workload.isl, [float(round(workload.isl * factor)) for factor in CONTEXTS]
    else:
        base, values = workload.hit_share, list(REUSES)
    rows = {base: systems}
    for value in values:
        if value not in rows:
            told = None if say is None else (lambda words, at=value: say(f"{axis} {at:g}: {words}"))
            rows[value] = ranked(asked, told, *numbers_at(axis, workload, value))[0]
    return dict(sorted(rows.items()))


def reuse_effects(
    asked: AskedServing, systems: tuple[Compared, ...], rows: Mapping[float, tuple[Compared, ...]]
) -> tuple[Compared, ...]:
    """The machines with the effect of reuse on break-even prices: between the nearest values below and above.

    Parameters
    ----------
    asked : what is compared
    systems : the machines
    rows : the machines at each share of reuse
    """
    values, at = list(rows), list(rows).index(asked.workload().hit_share)
    ends = (values[max(at - 1, 0)], values[min(at + 1, len(values) - 1)])
    reuse = {f"{value:.0%} of the input": _served(rows[value]) for value in ends}
    costs = with_reuse({one.system: one.costs for one in systems}, _served(systems), reuse, asked.paying)
    return tuple(replace(one, costs=costs[one.system]) for one in systems)


def _served(systems: Sequence[Compared]) -> Machines:
    """Hardware of each machine that serves within the SLO, and what it serves."""
    costs = {one.system: one.costs.cost for one in systems}
    return {name: (cost.hardware, cost.served) for name, cost in costs.items() if cost is not None}


def numbers_at(axis: Axis, workload: Workload, value: float) -> tuple[Given, ...]:
    """The numbers of a workload that change with its context or its reuse.

    The context that a session keeps in the cache grows with the input and with the reuse. The variation of the input
    tokens that must be computed keeps its value, or falls to the largest one that the variation of the input allows:
    u (1 + v^2) <= isl (1 + isl_cv^2), with the mean u and the variation v of the computed input tokens.

    Parameters
    ----------
    axis : context: the input tokens of a request; reuse: the share of them that the prefix cache serves
    workload : the workload of the comparison
    value : the other value of the axis [token or -]
    """
    if axis == "context":
        changed = {"isl": value, "reused_context": workload.reused_context * value / workload.isl}
    else:
        share = workload.reused_context / workload.hit_share if workload.hit_share else workload.isl
        changed = {"hit_share": value, "reused_context": share * value}
        if workload.uncached_cv is not None:
            most = (1 + workload.isl_cv**2) / (1 - value) - 1
            changed["uncached_cv"] = min(workload.uncached_cv, math.sqrt(most))
    return tuple(
        Given(path=f"workload.{name}", value=written(number), why=f"--crossover {axis}")
        for name, number in changed.items()
    )
