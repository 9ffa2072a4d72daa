"""Published training runs against the model of a training step: what is promised on `docs/calibrate.md`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenworks.calibrate.training_points import read_training
from tokenworks.calibrate.training_validate import validate_training
from tokenworks.specs.calibration import load_calibration

SHARED = Path(__file__).parents[3] / "shared/measured"
pytestmark = [pytest.mark.shared, pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not here")]


def test_published_runs_with_parallelism() -> None:
    """Megatron-Bridge tables and the Llama-3 paper: all are predicted, with a mean error of 9.4 %."""
    plain = validate_training(read_training([SHARED / "training_dev.csv"]), load_calibration("serving")).plain()
    assert plain["coverage"] >= 0.95
    assert plain["tok_s_per_device"]["mape"] < 0.1
    assert plain["tok_s_per_device"]["inside_interval"] > 0.8
    dense = [one for name, one in plain["by"]["model"].items() if name.startswith("LLAMA")]
    assert all(one["tok_s_per_device"]["mape"] < 0.12 for one in dense)


def test_iterations_on_a100_that_no_fit_has_seen() -> None:
    """1,440 iterations of GPT models: good and bad plans."""
    plain = validate_training(read_training([SHARED / "training_a100_single.csv"]), load_calibration("serving")).plain()
    assert plain["covered"] == plain["points"] == 1440
    assert plain["tok_s_per_device"]["mape"] < 0.15
    assert plain["ranking"]["equal_devices"]["kendall"] > 0.85
