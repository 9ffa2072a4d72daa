"""Where instances stand: every device once, ranks on their own devices, and machines that are too small."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.simulation.layout import device_layout
from tokenworks.specs.compose import machine
from tokenworks.specs.deployment import Deployment, Parallel, Role

R1 = "deepseek-ai/DeepSeek-R1"
BOX, HOSTS = machine("scalex40"), machine("5xhgx-h100")


def deployed(*roles: Role, on: str = "scalex40", **more: Any) -> Deployment:
    return Deployment(model=R1, system=on, roles=roles, **more)


def wide(dp: int, replicas: int = 1, tp: int = 1, pp: int = 1, name: Any = "aggregated") -> Role:
    ep = tp * dp
    return Role(name=name, replicas=replicas, parallel=Parallel(tp=tp, pp=pp, dp=dp, ep=ep))


def test_a_device_is_a_rank_of_a_wide_instance() -> None:
    layout = device_layout(deployed(wide(36), spares=4), BOX)
    assert layout.lost_ranks([0, 7, 39]) == {0: (0, 7)}
    assert layout.idle == (36, 37, 38, 39)


def test_a_rank_has_tp_devices_and_stages_stand_apart() -> None:
    layout = device_layout(deployed(wide(dp=2, tp=4, pp=2)), BOX)
    assert layout.lost_ranks([3, 4]) == {0: (0, 1)}
    assert layout.lost_ranks([8, 12]) == {0: (0, 1)}, "the second stage"


def test_instances_do_not_cross_the_border_of_a_domain() -> None:
    layout = device_layout(deployed(wide(dp=2, tp=3, replicas=5), on="5xhgx-h100"), HOSTS)
    assert [devices[0] for devices in layout.devices_of] == [0, 8, 16, 24, 32]


def test_ranks_of_the_engine_are_numbered_across_instances() -> None:
    layout = device_layout(deployed(wide(4, 3, name="prefill"), wide(8, 2, name="decode")), BOX)
    assert [layout.engine_rank(1, rank) for rank in range(4)] == [1, 4, 7, 10]
    assert [layout.engine_rank(4, rank) for rank in range(2)] == [12 + 1, 12 + 3]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_instance_has_its_devices(data: st.DataObject) -> None:
    dp, tp = data.draw(st.sampled_from([1, 2, 4, 5])), data.draw(st.sampled_from([1, 2, 4]))
    role = wide(dp, data.draw(st.integers(1, 40 // (dp * tp))), tp)
    spares = data.draw(st.integers(0, 40 - role.devices))
    layout = device_layout(deployed(role, spares=spares), data.draw(st.sampled_from([BOX, HOSTS])))
    assert len(layout.idle) == 40 - role.devices
    for instance, devices in enumerate(layout.devices_of):
        assert len(devices) == dp * tp
        assert layout.lost_ranks(devices) == {instance: tuple(range(dp))}
    numbers = {layout.engine_rank(i, rank) for i in range(role.replicas) for rank in range(dp)}
    assert numbers == set(range(role.replicas * dp))


def test_more_spares_than_devices_are_refused() -> None:
    with pytest.raises(SpecError, match=r"8 spare devices, but scalex40 has 40 devices .* write 4 or less"):
        device_layout(deployed(wide(36), spares=8), BOX)
    with pytest.raises(SpecError, match="leave spares out"):
        device_layout(deployed(wide(40), spares=1), BOX)
    with pytest.raises(DoesNotFit, match="takes 40 devices"):
        device_layout(deployed(wide(40)), replace(BOX, devices=39))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"elastic_ep": True, "roles": (wide(1, tp=8),)}, "can lose a rank"),
        ({"elastic_ep": True, "roles": (Role(),)}, "a role needs dp and ep above 1"),
        ({"elastic_ep": True, "roles": (wide(8, pp=2),)}, "can lose a rank"),
        ({"elastic_ep": True, "roles": (wide(8),), "engine": "trtllm"}, "trtllm has no elastic expert parallelism"),
        ({"retries": 2, "roles": (wide(8),)}, "on_loss is fail"),
        ({"retries": 0, "on_loss": "migrate", "roles": (wide(8),)}, "greater than or equal to 1"),
        ({"spares": -1, "roles": (wide(8),)}, "greater than or equal to 0"),
    ],
)
def test_fields_that_cannot_work_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Deployment(model=R1, system="scalex40", **fields)


def test_a_file_without_these_fields_keeps_its_bytes() -> None:
    plain = deployed(wide(40)).model_dump(mode="json")
    assert not {"elastic_ep", "spares", "on_loss", "retries"} & set(plain)
    more = deployed(wide(36), elastic_ep=True, spares=4, on_loss="migrate", retries=2)
    assert Deployment(**more.model_dump(mode="json")) == more
