"""Energy of a simulated run: watts between idle and TDP, joules that add up, and none where no TDP is published."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation.test_run import DEPLOYMENT, LLAMA, loaded
from tokenworks.simulation.run import simulate
from tokenworks.specs.calibration import load_calibration, number
from tokenworks.specs.deployment import Deployment, Parallel, Role

TDP = 700.0
IDLE = TDP * number(load_calibration().power.idle)
APART = Deployment(
    model=LLAMA,
    system="hgx-h100",
    roles=(Role(name="prefill", parallel=Parallel(tp=4)), Role(name="decode", parallel=Parallel(tp=4))),
)


def told(deployment: Deployment, **load: float) -> dict[str, Any]:
    return simulate(deployment, loaded(400, **load)).plain()


def test_more_load_takes_more_power_and_less_energy_a_token() -> None:
    low, high = told(DEPLOYMENT, rate=0.2), told(DEPLOYMENT, rate=8)
    assert IDLE < low["watts_per_device"] < high["watts_per_device"] < TDP
    assert low["joules_per_output_token"] > 3 * high["joules_per_output_token"]


@pytest.mark.parametrize("deployment", [DEPLOYMENT, APART])
def test_joules_are_watts_over_the_tokens_of_a_second(deployment: Deployment) -> None:
    run = simulate(deployment, loaded(400, rate=4), calibration="datasheet")
    plain, tokens = run.plain(), int(run.outcome.output_tokens.sum())
    seconds = float(run.outcome.end_s.max())
    watts = plain["watts_per_device"] * deployment.devices
    assert plain["joules_per_output_token"] == pytest.approx(watts * seconds / tokens)
    assert [item["path"] for item in plain["assumed"]].count("calibration.power") == 1


def test_a_card_without_a_published_tdp_is_not_guessed() -> None:
    plain = told(DEPLOYMENT.model_copy(update={"system": "tx32"}), rate=4)
    assert plain["watts_per_device"] is None
    assert plain["joules_per_output_token"] is None
    assert "calibration.power" not in [item["path"] for item in plain["assumed"]]


def test_the_card_of_the_scalex40_draws_what_was_read_on_its_class() -> None:
    """149 W idle to 400 W under load. The power cap is assumed to be that of the BW1100, and the result says so."""
    plain = told(DEPLOYMENT.model_copy(update={"system": "scalex40"}), rate=4)
    assert 149 < plain["watts_per_device"] < 400
    assert plain["joules_per_output_token"] > 0
    assert {"device.tdp", "calibration.power"} <= {item["path"] for item in plain["assumed"]}
