"""What a device draws: between idle and its TDP, more with more in use, and a watt is a watt."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.costs import step
from tokenworks.costs.breakdown import COMPUTE, HBM, HOST, LATENCY, Breakdown, Kernel
from tokenworks.costs.power import power, roof_use
from tokenworks.costs.rates import rates
from tokenworks.costs.split import Split
from tokenworks.specs.calibration import load_calibration, number
from tokenworks.specs.compose import machine
from tokenworks.specs.engine import load_engine
from tokenworks.specs.hf import load_model
from tokenworks.units import registry

SHARES = load_calibration("serving").power
MODEL, VLLM = load_model("Qwen/Qwen3-8B"), load_engine("vllm")
FOUND = rates(machine("hgx-h100"), load_calibration("serving"))
U = registry()
SHARE = st.floats(0, 1)


def test_by_hand() -> None:
    """700 W: idle 0.12, half of the time on the compute roof, a quarter on HBM: 0.12 + 0.3 + 0.125 = 0.545 of it."""
    assert power(700.0, load_calibration("datasheet").power, compute=0.5, hbm=0.25) == pytest.approx(381.5, rel=1e-3)
    assert power(700.0, SHARES, compute=0.0, hbm=0.0) == pytest.approx(700 * number(SHARES.idle))


def test_a_gemm_and_the_memory_at_their_roofs_reach_the_limit() -> None:
    assert power(700.0, SHARES, compute=1.0, hbm=1.0) == 700.0


@given(SHARE, SHARE, SHARE)
def test_it_lies_between_idle_and_tdp_and_grows(compute: float, hbm: float, more: float) -> None:
    drawn = power(1000.0, SHARES, compute=compute, hbm=hbm)
    assert 1000 * number(SHARES.idle) <= drawn <= 1000.0
    assert power(1000.0, SHARES, compute=min(1.0, compute + more), hbm=hbm) >= drawn
    assert power(1000.0, SHARES, compute=compute, hbm=min(1.0, hbm + more)) >= drawn


def test_a_watt_is_a_watt() -> None:
    tdp: Any = U.Quantity("700 W")
    drawn: Any = power(tdp, SHARES, compute=np.array([0.1, 0.9]), hbm=0.5)
    assert U.Quantity(drawn).check("[power]")


def test_roofs_in_use_by_hand() -> None:
    """10 ms: 4 ms of compute, 3 ms of it while 3 ms of HBM hide behind, 5 ms of HBM alone, 1 ms of the host."""
    cost = Breakdown(
        {
            "a": Kernel(4e-3, 0.0, 0.0, {COMPUTE: 4e-3, HBM: 3e-3, LATENCY: 0.0}),
            "b": Kernel(5e-3, 0.0, 0.0, {COMPUTE: 0.0, HBM: 5e-3, LATENCY: 0.0}),
            "host": Kernel(1e-3, 0.0, 0.0, {HOST: 1e-3}),
        },
        10e-3,
    )
    assert roof_use(cost) == pytest.approx((0.4, 0.8))


@settings(deadline=None)
@given(st.integers(1, 512), st.integers(0, 8192))
def test_a_step_uses_its_roofs_for_no_more_than_its_time(sequences: int, prefill: int) -> None:
    load = step.Batch(sequences, 1000.0 * sequences, prefill, 500.0 * prefill)
    cost = step.step(MODEL, FOUND, Split(tp=2), load, engine=VLLM)
    compute, hbm = roof_use(cost)
    assert 0 < compute <= 1
    assert 0 < hbm <= 1


def test_prefill_works_and_decode_reads() -> None:
    steps = [
        step.step(MODEL, FOUND, Split(), load, engine=VLLM)
        for load in (step.Batch(prefill=8192.0, prefill_context=8192.0 * 500), step.Batch(8.0, 8000.0))
    ]
    (work, less), (idle, read) = map(roof_use, steps)
    assert work > 0.6 > idle
    assert read > 0.6 > less
