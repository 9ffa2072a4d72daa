"""Write docs/published.md and docs/published.json: python -m benchmarks.published [--left-out FILE]... [--render]

FILE is a calibration that was fitted without GB200 and B200; the page says how to make it. Without FILE the page keeps
the predictions of the last one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from benchmarks.published.page import LEFT_OUT_CASE, page
from benchmarks.published.predict import PREDICT, ROOT, SERVING, Predictions
from tokenworks.errors import SpecError, TokenworksError
from tokenworks.specs.calibration import load_calibration

PAGE, FIGURES = ROOT / "docs" / "published.md", ROOT / "docs" / "published.json"
CALIBRATION = ROOT / "src" / "tokenworks" / "catalog" / "calibration" / "serving.yaml"
FROZEN = "2716b5e"
"""The last commit before the first prediction of this page."""

FROZEN_SHA256 = "a932a0f25e5bb80dc129971bbe9e2fec7dda35d37b230e9bcd611d395a6da523"
"""SHA-256 of the calibration file in this commit."""

LEFT_OUT = ("gb200", "b200")
DIGITS = 5
"""Significant digits of the figures in the JSON file."""


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m benchmarks.published", description=__doc__)
    options.add_argument("--left-out", action="append", default=[], help="a calibration fitted without GB200 and B200")
    options.add_argument("--render", action="store_true", help="write docs/published.md from docs/published.json only")
    given = options.parse_args()
    before: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    if not given.render:
        try:
            before = figures(before, given.left_out)
        except TokenworksError as problem:
            print(f"python -m benchmarks.published: {problem}", file=sys.stderr)
            return 2
    text = page(before)
    FIGURES.write_text(json.dumps(before, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(text, encoding="utf-8")
    return 0


def figures(before: dict[str, Any], left_out: list[str]) -> dict[str, Any]:
    """All predictions.

    Parameters
    ----------
    before : figures of the last page; a date stays if its predictions do
    left_out : calibrations that were fitted without GB200 and B200
    """
    predictions = {name: plain(predict(SERVING)) for name, predict in PREDICT.items()}
    kept = before.get("date") if before.get("predictions") == predictions else None
    return {
        "date": kept or datetime.now(UTC).date().isoformat(),
        "calibration": {"name": SERVING, "frozen": FROZEN, "sha256": FROZEN_SHA256, "held": sha256() == FROZEN_SHA256},
        "predictions": predictions,
        "left_out": [unseen(path) for path in left_out] or before.get("left_out", []),
    }


def sha256() -> str:
    """SHA-256 of the default calibration of today."""
    return hashlib.sha256(CALIBRATION.read_bytes()).hexdigest()


def unseen(path: str) -> dict[str, Any]:
    """Predictions for GB200 and B200 by a calibration that has no serving point of them.

    Parameters
    ----------
    path : the calibration

    Raises
    ------
    SpecError : the calibration was fitted on points of one of them, or is no calibration
    """
    calibration = load_calibration(path)
    if seen := [device for device in LEFT_OUT if device in calibration.devices]:
        hint = "make it by tokenworks calibrate --data serving_dev.csv --without gb200 --without b200 --out FILE"
        raise SpecError(f"was fitted on points of {', '.join(seen)}", where=path, hint=hint)
    return {
        "fitted_on": calibration.fitted_on,
        "data_sha256": calibration.data_sha256,
        "devices": sorted(calibration.devices),
        "kernels": [device for device in LEFT_OUT if device in calibration.kernels],
        "predictions": plain(PREDICT[LEFT_OUT_CASE](path)),
    }


def plain(predictions: Predictions) -> dict[str, Any]:
    """Predictions as plain data, rounded."""
    return {
        name: {
            key: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
            for key, value in asdict(one).items()
        }
        for name, one in predictions.items()
    }


if __name__ == "__main__":
    sys.exit(main())
