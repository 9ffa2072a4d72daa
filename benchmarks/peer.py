"""Compare our errors with the errors of another predictor, row by row: python benchmarks/peer.py PEER.csv

PEER.csv holds rows `system, backend, model, mode, isl, osl, batch, conc, m_ttft, m_tpot, p_ttft, p_tpot, status` in ms
(measured values `m_`, and predictions of the peer `p_`). `id` names the parallelism (`tp8_ep8`) where the source names
it. This script predicts the aggregated rows whose id names the parallelism, and counts all other rows with a reason.
Measured values are means over all requests of a run, with the first wave of a closed loop, as AISimulate reads
InferenceX's results.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenworks.calibrate.measured import Measured, Point, Worker
from tokenworks.calibrate.own_results import NATIVE
from tokenworks.calibrate.predict import Predicted
from tokenworks.calibrate.validate import predict_all
from tokenworks.specs.calibration import load_calibration

DTYPES = ("fp4", "fp8", "bf16")
GROUPS = ("InferenceX", "other sources")
INFERENCEX = "inferencex-dump"
"""Group of the rows of InferenceX, as the measured points of this project name it: recipes are found by it."""

SENT = 0.9
"""Lengths of InferenceX are uniform between 0.8 and 1.0 of the nominal ones."""


def point(row: dict[str, str], line: int) -> Point | str:
    """The row as a measured point, or why it cannot be one."""
    if row["mode"] != "agg":
        return "disaggregated without the workers of each role"
    split = dict(re.findall(r"_(tp|ep|dp|pp)([0-9]+)", row["id"]))
    if "tp" not in split:
        return "the id states no parallelism"
    weights = next((name for name in DTYPES if f"_{name}_" in row["id"].lower()), NATIVE)
    load = float(row["conc"] or row["batch"] or 0)
    if load < 1:
        return "no concurrency"
    tp, dp, pp, ep = (int(split.get(name, 1)) for name in ("tp", "dp", "pp", "ep"))
    devices = tp * dp * pp
    isl, osl = float(row["isl"]), float(row["osl"])
    share = SENT if inferencex(row) else 1.0
    return Point(
        line=line, id=row["id"], group=INFERENCEX if inferencex(row) else "silicon_sample", model=row["model"],
        weights=weights, device=row["system"].split("_")[0], devices=devices, engine=row["backend"], mode="agg",
        drafts=0, workers=(Worker("aggregated", devices, tp, dp, pp, ep),), load="closed", concurrency=round(load),
        rate=0.0, requests=0, isl=share * isl, osl=share * osl, nominal_isl=isl,
        measured=Measured(
            tpot=1e-3 * float(row["m_tpot"]), tpot_mean=True, ttft=1e-3 * float(row["m_ttft"]), ttft_mean=True
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """Median errors of one metric in one group of rows.

    Parameters
    ----------
    metric : `tpot` or `ttft`
    group : where the rows come from
    both : rows that both predictors predict [count]
    ours, theirs : our median error, and the median error of the peer, on these rows; None without rows [-]
    alone : rows that only we predict [count]
    ours_alone : our median error on the rows that only we predict; None without rows [-]
    """

    metric: str
    group: str
    both: int
    ours: float | None
    theirs: float | None
    alone: int
    ours_alone: float | None


def compare(path: Path, calibration: str) -> tuple[list[Comparison], Counter[str], int]:
    """Predict the rows of a peer's file, and compare the errors.

    Parameters
    ----------
    path : the CSV with measured values and with the predictions of the peer
    calibration : name or path of our calibration

    Returns
    -------
    The median errors, the reasons for rows without a prediction, and the number of rows
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    read = [(row, point(row, i + 2)) for i, row in enumerate(rows) if row["m_tpot"] and row["m_ttft"]]
    why = Counter(reason for _, reason in read if isinstance(reason, str))
    pairs = [(row, measured) for row, measured in read if isinstance(measured, Point)]
    predictions = predict_all([measured for _, measured in pairs], load_calibration(calibration))
    why.update(one.why for one in predictions if one.why)
    predicted = [(row, one) for (row, _), one in zip(pairs, predictions, strict=True) if not one.why]
    return [_compared(predicted, metric, group) for metric in ("tpot", "ttft") for group in GROUPS], why, len(rows)


def _compared(predicted: list[tuple[dict[str, str], Predicted]], metric: str, group: str) -> Comparison:
    mine, other, alone = [], [], []
    for row, one in predicted:
        value = one.tpot if metric == "tpot" else one.ttft
        if not value or (group == GROUPS[0]) != inferencex(row):
            continue
        measured = float(row[f"m_{metric}"])
        error = abs(1e3 * value / measured - 1)
        if row["status"] == "OK" and row[f"p_{metric}"]:
            mine.append(error)
            other.append(abs(float(row[f"p_{metric}"]) / measured - 1))
        else:
            alone.append(error)
    return Comparison(metric, group, len(mine), _median(mine), _median(other), len(alone), _median(alone))


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    table, why, rows = compare(Path(sys.argv[1]), sys.argv[2] if sys.argv[2:] else "serving")
    print(f"{rows} rows; not predicted:")
    for reason, count in why.most_common():
        print(f"  {count}: {reason}")
    for one in table:
        print(
            f"{one.metric}, {one.group}: median error of {one.both} rows that both predict: {_percent(one.ours)} ours, "
            f"{_percent(one.theirs)} the peer's; of {one.alone} rows that only we predict: {_percent(one.ours_alone)}"
        )


def inferencex(row: dict[str, str]) -> bool:
    return row["id"].startswith("20")  # they have a date


def _median(errors: list[float]) -> float | None:
    return float(np.median(errors)) if errors else None


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{100 * error:.1f} %"


if __name__ == "__main__":
    main()
