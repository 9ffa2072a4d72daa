"""When experts are moved, as flags of vLLM and SGLang, both ways."""

from typing import Any

import pytest

from tests.launch.cases import MACHINES, launch
from tests.launch.test_round_trip import sglang, vllm
from tests.planning.settings import R1
from tokenworks.errors import SpecError
from tokenworks.launch.translate import read
from tokenworks.specs.deployment import Deployment, Eplb, Parallel, Role

WIDE = ("-tp", "1", "-dp", "8", "--enable-expert-parallel")
SPLIT = ("--tp", "8", "--attn-dp-size", "8", "--ep-size", "8")


def started(dialect: str, eplb: dict[str, Any] | None, redundant: int = 0) -> tuple[str, Deployment, Deployment]:
    """Arguments of the first command, the settled deployment, and the deployment that the commands mean."""
    engine: Any = dialect.split("-", maxsplit=1)[0]
    role = Role(parallel=Parallel(dp=8, ep=8), redundant_experts=redundant, eplb=eplb)
    system = MACHINES[dialect][0]
    start = launch(Deployment(model=R1, system=system, engine=engine, roles=(role,)), dialect)
    back, _ = read(start.commands, system=system, dialect=dialect)
    return " ".join(start.commands[0].arguments), start.deployment, back


@pytest.mark.parametrize(
    "eplb",
    [None, {}, {"every_steps": 500}, {"every_steps": 500, "window_steps": 100, "in_background": False}],
)
@pytest.mark.parametrize("redundant", [0, 8])
def test_vllm_both_ways(eplb: dict[str, Any] | None, redundant: int) -> None:
    words, settled, back = started("vllm-0.33.0", eplb, redundant)
    assert back.roles == settled.roles
    assert ("--enable-eplb" in words) == (eplb is not None or redundant > 0)
    assert ("step_interval" in words) == (eplb is not None)


@pytest.mark.parametrize(
    "eplb",
    [None, {}, {"every_steps": 500, "window_steps": 100}, {"every_steps": 700, "min_utilization": 0.8}],
)
@pytest.mark.parametrize("redundant", [0, 8])
def test_sglang_both_ways(eplb: dict[str, Any] | None, redundant: int) -> None:
    words, settled, back = started("sglang-0.5.23", eplb, redundant)
    assert back.roles == settled.roles
    assert ("--eplb-rebalance-num-iterations" in words) == (eplb is not None)


def test_what_an_engine_cannot_do() -> None:
    with pytest.raises(SpecError, match=r"min_utilization 0\.5: vLLM moves experts after every interval"):
        started("vllm-0.33.0", {"min_utilization": 0.5})
    with pytest.raises(SpecError, match="in_background: SGLang runs no step"):
        started("sglang-0.5.23", {"in_background": True})


def test_flags_of_users() -> None:
    deployment, unread = read([vllm(R1, *WIDE, "--enable-eplb")], system="hgx-h200")
    assert deployment.roles[0].eplb == Eplb(every_steps=3000)
    assert not [one for one in unread if "eplb" in one.flag]
    config = '{"num_redundant_experts": 8, "step_interval": 100, "use_async": true}'
    deployment, _ = read([vllm(R1, *WIDE, "--enable-eplb", "--eplb-config", config)], system="hgx-h200")
    assert deployment.roles[0].redundant_experts == 8
    assert deployment.roles[0].eplb == Eplb(every_steps=100, in_background=True)
    deployment, _ = read([sglang(*SPLIT, "--enable-eplb")], system="hgx-h200")
    assert deployment.roles[0].eplb == Eplb(every_steps=1000)


def test_flags_without_effect_are_named() -> None:
    deployment, unread = read([sglang(*SPLIT, "--eplb-rebalance-num-iterations", "50")], system="hgx-h200")
    assert deployment.roles[0].eplb is None
    assert [one.reason for one in unread if "eplb" in one.flag] == ["experts are moved only with --enable-eplb"]
    _, unread = read([vllm(R1, "-tp", "8", "--enable-eplb")], system="hgx-h200")
    assert [one.reason for one in unread if "eplb" in one.flag] == ["without expert parallelism no expert is moved"]


def test_bad_numbers() -> None:
    with pytest.raises(SpecError, match="must be at least 1"):
        read([sglang(*SPLIT, "--enable-eplb", "--eplb-rebalance-num-iterations", "0")], system="hgx-h200")
    with pytest.raises(SpecError, match="is not a share"):
        read([sglang(*SPLIT, "--enable-eplb", "--eplb-min-rebalancing-utilization-threshold", "2")], system="hgx-h200")
