"""Measured points in closed form, all at once: TPOT from the mean batch of a simulation and the times of two steps.

A fit evaluates thousands of points many times with changed factors. Simulations are too slow for this. The mean batch
hardly depends on the factors, so it comes from one simulation. The same simulation gives an anchor, simulated TPOT /
closed-form TPOT. The anchor contains what the closed form leaves out: order, queues, chunks, prompts of several ranks
in one step.
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
from tokenworks.costs.rates import rates, with_engine
from tokenworks.costs.requests import accepted_tokens, batch
from tokenworks.costs.split import Split
from tokenworks.specs.calibration import Calibration
from tokenworks.specs.engine import Engine
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model


@dataclass(frozen=True)
class Bunch:
    """Points of one model, machine, engine and mode, as arrays.

    Parameters
    ----------
    model, machine, engine : what the points share
    at : indices of the points among all points
    split : parallel widths of each point
    load : batches of two steps per point: row 0 only decodes, row 1 prefills a prompt
    batch : decoding sequences of an instance, mean over the simulation [count]
    osl : mean output length [token]
    drafts : draft tokens per step [token]
    alone : whether prefill runs in its own step
    disaggregated : whether prefill runs on other devices
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
        """TPOT of each point [s]: the time of a decode step, and the prefill time between two decode steps.

            tpot = (t_d + B / n (t_p - t_d)) / g,    n = osl / g

        with t_d and t_p the times of the decode step and of the prefill step, B the decoding sequences, n the steps of
        a sequence, and g the tokens gained per step. If prefill has its own step, t_p replaces t_p - t_d. If prefill
        runs on other devices, only t_d counts.

        Parameters
        ----------
        calibration : calibration of the step times
        """
        reached = with_engine(rates(self.machine, calibration), self.engine, self.model)
        seconds = step.step(self.model, reached, self.split, self.load, engine=self.engine).seconds
        decode, other = np.asarray(seconds, float)
        gained = accepted_tokens(self.drafts, reached.acceptance, reached.later_acceptance)
        if self.disaggregated:
            return np.asarray(decode / gained)
        often = self.batch * gained / self.osl
        return np.asarray((decode + often * (other - (0.0 if self.alone else decode))) / gained)


def bunches(points: Sequence[Point], predictions: Sequence[Predicted], calibration: Calibration) -> list[Bunch]:
    """All points with a closed form. Points without a TPOT, and points that are not closed loops, are left out.

    Parameters
    ----------
    points : measured points
    predictions : predictions of the points by simulation with `calibration`; they contain the mean batches
    calibration : calibration of the simulation
    """
    rows: dict[tuple[Any, ...], list[tuple[int, Point, Case]]] = defaultdict(list)
    for i, (point, prediction) in enumerate(zip(points, predictions, strict=True)):
        if not (prediction.tpot and prediction.batch and point.measured.tpot and point.load == "closed"):
            continue
        try:
            simulated = case(point, calibration)
        except Skipped:
            continue
        key = (simulated.site.model.name, simulated.site.machine.name, point.engine, point.mode, point.drafts > 0,
               point.weights)  # fmt: skip
        rows[key].append((i, point, simulated))
    return [_bunch(members, predictions) for members in rows.values()]


def _bunch(members: list[tuple[int, Point, Case]], predictions: Sequence[Predicted]) -> Bunch:
    site, points = members[0][2].site, [point for _, point, _ in members]
    roles = [simulated.deployment.roles[-1] for _, _, simulated in members]
    batches = np.array([predictions[i].batch for i, _, _ in members])
    alone = site.engine.mixing == "prefill-first"
    requests = [simulated.site.request for _, _, simulated in members]
    # Row 0 only decodes. Row 1 prefills one prompt, beside the decoding sequences if the engine mixes both.
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


def tpots(groups: Sequence[Bunch], calibration: Calibration, count: int) -> Floats:
    """TPOT of the points of all bunches, as one array over all points; NaN for points in no bunch [s].

    Parameters
    ----------
    groups : the bunches
    calibration : calibration of the step times
    count : number of all points
    """
    seconds = np.full(count, np.nan)
    for bunch in groups:
        seconds[bunch.at] = bunch.tpot(calibration)
    return seconds
