"""Measured points in closed form, all at once: TPOT from the mean batch of a simulation and the times of two steps.

A fit asks for thousands of points again and again while it turns factors, which no simulation is quick enough for. The
batch hardly moves when factors do, so it is taken from one simulation; and what the closed form leaves out (order,
queues, chunks, prompts of several ranks in one step) is the ratio of the two, taken there, too.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.calibrate.case import Case, case
from tokenworks.calibrate.case_machine import Skipped
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.predict import Predicted
from tokenworks.costs import step
from tokenworks.costs.rates import rates
from tokenworks.costs.requests import accepted_tokens, batch
from tokenworks.costs.split import Split
from tokenworks.specs.calibration import Calibration
from tokenworks.specs.engine import Engine
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model


@dataclass(frozen=True)
class Bunch:
    """Points of one model, machine, engine and mode, as arrays.

    at : their places among all points
    load : two steps of each point, one a row: the step that only decodes, and the one that prefills a prompt
    batch : decoding sequences of an instance, mean over a simulation [count]
    alone : prefill runs in a step of its own; disaggregated : prefill runs on other devices
    """

    model: Model
    machine: Machine
    engine: Engine
    at: Any
    split: Split
    load: step.Batch
    batch: Floats
    osl: Floats
    drafts: Floats
    alone: bool
    disaggregated: bool

    def tpot(self, calibration: Calibration) -> Floats:
        """TPOT of each point [s]: the step that decodes, and the share of prefill that comes between.

            tpot = (t_d + B / n (t_p - t_d)) / g,    n = osl / g

        where prefill shares a step with decodes; a step of its own adds t_p whole, a prefill role nothing.
        """
        found = rates(self.machine, calibration)
        made = step.step(self.model, found, self.split, self.load, engine=self.engine).seconds
        decode, other = np.asarray(made, float)
        gained = accepted_tokens(self.drafts, found.acceptance)
        if self.disaggregated:
            return np.asarray(decode / gained)
        often = self.batch * gained / self.osl
        return np.asarray((decode + often * (other - (0.0 if self.alone else decode))) / gained)


def bunches(points: Sequence[Point], predictions: Sequence[Predicted], calibration: Calibration) -> list[Bunch]:
    """Points that can be put in closed form; those without a TPOT or out of a closed loop are left out.

    Parameters
    ----------
    predictions : of a simulation with `calibration`, which gives the mean batches
    """
    rows: dict[tuple[Any, ...], list[tuple[int, Point, Case]]] = defaultdict(list)
    for i, (point, said) in enumerate(zip(points, predictions, strict=True)):
        if not (said.tpot and said.batch and point.measured.tpot and point.load == "closed"):
            continue
        try:
            made = case(point, calibration)
        except Skipped:
            continue
        key = (made.site.model.name, made.site.machine.name, point.engine, point.mode, point.drafts > 0,
               point.weights)  # fmt: skip
        rows[key].append((i, point, made))
    return [_bunch(members, predictions) for members in rows.values()]


def _bunch(members: list[tuple[int, Point, Case]], predictions: Sequence[Predicted]) -> Bunch:
    site, points = members[0][2].site, [point for _, point, _ in members]
    roles = [made.deployment.roles[-1] for _, _, made in members]
    batches = np.array([predictions[i].batch for i, _, _ in members])
    alone = site.engine.mixing == "prefill-first"
    requests = [made.site.request for _, _, made in members]
    # The step that decodes, and the step that prefills one prompt beside what decodes, where the engine mixes both.
    steps = [
        [batch(one, decode=often * with_decodes, prefill=prompts * one.isl, lanes=1.0)
         for one, often in zip(requests, batches, strict=True)]
        for prompts, with_decodes in ((0.0, 1.0), (1.0, float(not alone)))
    ]  # fmt: skip
    return Bunch(
        model=site.model, machine=site.machine, engine=site.engine, at=np.array([i for i, _, _ in members]),
        split=Split(*np.array([dataclasses.astuple(Split.of(role)) for role in roles]).T),
        load=step.Batch(*np.array([[dataclasses.astuple(one) for one in row] for row in steps]).transpose(2, 0, 1)),
        batch=batches, osl=np.array([one.osl for one in requests]),
        drafts=np.array([point.drafts for point in points]), alone=alone, disaggregated=points[0].mode == "disagg",
    )  # fmt: skip


def tpots(found: Sequence[Bunch], calibration: Calibration, count: int) -> Floats:
    """TPOT of every point of the bunches, at its place among `count`; NaN elsewhere [s]."""
    made = np.full(count, np.nan)
    for bunch in found:
        made[bunch.at] = bunch.tpot(calibration)
    return made
