"""`estimate` beside `plan` and the simulator: one mean request, so one time of a step."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planning.settings import DENSE, R1, SESSIONS, SMALL_MOE, costing, role
from tokenworks.cli import run
from tokenworks.costs.rates import rates
from tokenworks.legal.points import Points
from tokenworks.planning.estimate import estimate_roles
from tokenworks.simulation.steps import Site
from tokenworks.specs.calibration import DEFAULT, load_calibration
from tokenworks.specs.deployment import Role
from tokenworks.specs.load import load_workload
from tokenworks.specs.workload import Workload

WORKLOADS = [*map(load_workload, ("agent", "chat", "summarise")), SESSIONS, Workload(name="even", isl=4000, osl=1000)]
ROLES = {
    R1: [
        ("scalex40", role(tp=8, ep=8)),
        ("5xhgx-h100", role(tp=2, dp=20, ep=40, redundant_experts=24)),
        ("gb200-nvl72", role(dp=72, ep=72, redundant_experts=32)),
        ("cloudmatrix384", role(dp=320, ep=320, redundant_experts=64)),
    ],
    SMALL_MOE: [("hgx-h100", role(dp=8, ep=8, kv_dtype="fp8")), ("hgx-h200", role(tp=2, pp=2, expert_tp=2))],
    DENSE: [("hgx-h100", role(tp=4)), ("scalex40", role(tp=8, kv_dtype="fp8"))],
}
CASES = [(model, on, one) for model, roles in ROLES.items() for on, one in roles]


@settings(deadline=None)
@given(st.sampled_from(CASES), st.sampled_from(WORKLOADS), st.integers(1, 64), st.integers(1, 16384))
def test_plan_and_estimate_cost_one_step(
    case: tuple[str, str, Role], workload: Workload, sequences: int, tokens: int
) -> None:
    """The decode step and the prefill step, to 1e-9, for any batch that the cache holds."""
    model, on, one = case
    if workload.isl + workload.osl > costing(model, on, workload=WORKLOADS[-1]).setting.model.max_context:
        return
    planned = costing(model, on, workload=workload)
    points, none = Points.of(one), np.zeros(1)
    fits = planned.kv_tokens(points, np.full(1, sequences), np.full(1, tokens))[0]
    if fits < sequences * planned.demand.request.context or fits / one.parallel.dp < workload.isl + workload.osl:
        return
    made = estimate_roles(planned.setting, DEFAULT, [one], sequences=sequences, tokens=tokens)
    prefill, decode = made.steps
    assert decode.seconds == pytest.approx(planned.seconds(points, np.full(1, 1.0 * sequences), none)[0], rel=1e-9)
    assert prefill.seconds == pytest.approx(planned.seconds(points, none, np.full(1, 1.0 * tokens))[0], rel=1e-9)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_the_simulator_costs_full_chunks_alike(workload: Workload) -> None:
    """A step of prefill with a full token budget, on ranks that share it evenly: the step table asks for the same."""
    one = role(tp=8, ep=8, chunk_tokens=8192)
    planned = costing(R1, "scalex40", workload=workload)
    setting = planned.setting
    site = Site(
        setting.model, setting.machine, setting.engine, rates(setting.machine, load_calibration()),
        planned.demand.request,
    )  # fmt: skip
    simulated = float(site.breakdown(one, 0.0, 8192.0).seconds)
    assert simulated == pytest.approx(planned.seconds(Points.of(one), 0.0, np.full(1, 8192.0))[0], rel=1e-9)


def test_the_command_takes_a_workload_as_plan_does(capsys: pytest.CaptureFixture[str]) -> None:
    """DeepSeek-R1, tp8 ep8 on scaleX40, `summarise`: a prefill step of 8,192 tokens."""
    command = ["estimate", R1, "--on", "scalex40", "--deploy", "tp=8,ep=8", "--chunk", "8192", "-o", "json"]
    assert run([*command, "--workload", "summarise"]) == 0
    found = json.loads(capsys.readouterr().out)["steps"][0]
    planned = costing(R1, "scalex40", workload=load_workload("summarise"))
    seconds = planned.seconds(Points.of(role(tp=8, ep=8)), 0.0, np.full(1, 8192.0))[0]
    assert found["seconds"] == pytest.approx(seconds, rel=1e-8)  # nine digits are printed
    assert run([*command, "--workload", "summarise", "--isl", "100"]) == 2
    assert "not both" in capsys.readouterr().err
    assert run([*command, "--workload", "sumarise"]) == 2
    assert "summarise" in capsys.readouterr().err
