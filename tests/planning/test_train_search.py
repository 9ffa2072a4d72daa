"""The search for training plans: bounds exclude nothing that belongs to the answer."""

import numpy as np
import pytest

from tokenworks import pareto
from tokenworks.costs.train import train_step
from tokenworks.costs.train_plan import train_rates
from tokenworks.legal.rules import judge
from tokenworks.legal.training import TRAIN_SETTINGS, TRAIN_WIDTHS, TrainProposal, TrainSetting
from tokenworks.planning.train_bounds import bounds_of
from tokenworks.planning.train_search import memory_of, search_training, seconds_of
from tokenworks.planning.train_space import Fixed, TrainSpace
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.hf import load_model
from tokenworks.specs.training_text import load_training

CASES: dict[str, tuple[str, str, str, dict[str, tuple[int, ...]]]] = {
    "dense": ("meta-llama/Meta-Llama-3.1-8B", "hgx-h100", "gbs=32,seq=8192", {}),
    "experts": ("Qwen/Qwen3-30B-A3B", "hgx-h200", "gbs=32,seq=4096", {"zero": (1, 3), "expert_tp": (1,)}),
    "domains": ("Qwen/Qwen3-30B-A3B", "2xhgx-h100", "gbs=32,seq=4096,precision=fp8", {"cp": (1, 2), "zero": (1,)}),
    "adapters": ("meta-llama/Meta-Llama-3.1-8B", "hgx-h20", "gbs=32,seq=4096,method=lora", {"zero": (1,)}),
}


def asked(case: str) -> tuple[TrainSetting, Fixed]:
    model, on, text, fixed = CASES[case]
    return TrainSetting(load_model(model), machine(on), load_training(text)), Fixed(fixed)


@pytest.mark.parametrize("case", CASES)
def test_bounds_exclude_nothing_that_belongs_to_the_answer(case: str) -> None:
    setting, fixed = asked(case)
    rates = train_rates(setting.machine, load_calibration())
    points = TrainSpace.of(setting, fixed).points()
    for rules in (TRAIN_WIDTHS, TRAIN_SETTINGS):
        points = points[judge(TrainProposal(points, setting), rules)[0]]
    need = memory_of(setting, rates, points)
    bounds = bounds_of(setting, rates, points)
    assert np.all(bounds.need <= need * (1 + 1e-9))
    fits = need <= setting.machine.hbm_bytes
    seconds = seconds_of(setting, rates, points[fits])
    assert np.all(bounds.seconds[fits] <= seconds * (1 + 1e-9))
    front = pareto.front(-seconds, -need[fits])
    found = search_training(setting, rates, fixed, keep=3)
    assert found.legal == len(points)
    assert np.allclose(found.seconds[found.front], seconds[front], rtol=1e-9)
    assert np.allclose(found.need[found.front], need[fits][front], rtol=1e-9)
    quick = search_training(setting, rates, fixed, front=False)
    assert quick.seconds[0] == pytest.approx(seconds.min())
    training = found.points.training(0, setting.base)
    step = train_step(setting.model, rates, training)
    assert step.step_s == pytest.approx(found.seconds[0])
    assert step.memory.total == pytest.approx(found.need[0])
