"""Single changes of a deployment: one setting, one split, one number of instances. Nothing is estimated here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from tokenworks.legal.points import KV_DTYPES, OVERLAPS, Points, Setting
from tokenworks.legal.rules import SHAPE, Proposal, explain, judge
from tokenworks.legal.splits import DRAFTS, copies, divisors, replicas, splits
from tokenworks.planning.setting import with_role_fraction
from tokenworks.specs.deployment import Deployment, Parallel, Role, RouterName
from tokenworks.specs.engine import load_engine

SIZES = (0.5, 1.5, 2.0, 4.0, 8.0)
"""Factors on the sequences of a role [-]."""

CHUNKS = (0.25, 0.5, 2.0, 4.0)
"""Factors on the token budget of a role [-]."""

MOST_DRAFTS = 3
"""Draft tokens that are tried, at most [token]."""

ACCURACY = {
    "kv_dtype": "FP8 keys and values can change answers: check the accuracy on your own tasks.",
    "draft_tokens": "The gain depends on the acceptance of draft tokens, which differs between tasks: measure it.",
}
"""Setting -> what a user must check beside the speed."""


@dataclass(frozen=True, slots=True)
class Change:
    """A single change of a deployment.

    Parameters
    ----------
    kind : setting that changes, such as "chunk_tokens"; "split" are the parallel widths
    words : the change for people, such as "chunk_tokens of prefill: 8192 -> 16384"
    values : values of the changed deployment by path, as `--set` of `simulate` takes them
    deployment : the changed deployment
    note : what to check beside the speed; empty: nothing
    """

    kind: str
    words: str
    values: tuple[str, ...]
    deployment: Deployment
    note: str = ""


def changes(setting: Setting, deployment: Deployment, *, rate: bool = False) -> list[Change]:
    """All single changes that are legal on the engine and the machine, without splits.

    Parameters
    ----------
    setting : model, machine, engine and workload
    deployment : the deployment that is changed
    rate : whether a rate is given, so that fewer devices are a gain
    """
    every = [*_whole(setting, deployment)]
    for number in range(len(deployment.roles)):
        every += _of_role(setting, deployment, number)
    every += _instances(setting, deployment, fewer=rate)
    return [change for change in every if is_legal(setting, change.deployment)]


def is_legal(setting: Setting, deployment: Deployment) -> bool:
    """Whether a deployment fits the machine, and its roles break no rule."""
    if deployment.devices > setting.machine.devices:
        return False
    return not any(explain(role, with_role_fraction(setting, role.memory_fraction)) for role in deployment.roles)


def _with_role(deployment: Deployment, number: int, **values: Any) -> Deployment:
    """The deployment with other values of one role. The token budget holds all sequences of a step."""
    roles = list(deployment.roles)
    role = roles[number].model_copy(update=values)
    least = role.max_sequences * (1 + role.draft_tokens) if role.name != "prefill" else 1
    if role.chunk_tokens < least:
        role = role.model_copy(update={"chunk_tokens": least})
    roles[number] = role
    return deployment.model_copy(update={"roles": tuple(roles)})


def _differences(before: Deployment, after: Deployment) -> tuple[str, ...]:
    """The paths and values in which two deployments differ."""
    lines: list[str] = []
    for number, (old, new) in enumerate(zip(before.roles, after.roles, strict=True)):
        for name in Role.model_fields:
            if name == "parallel":
                widths = ((width, getattr(old.parallel, width), getattr(new.parallel, width))
                          for width in Parallel.model_fields)  # fmt: skip
                lines += [f"roles.{number}.parallel.{width}={now}" for width, was, now in widths if was != now]
            elif getattr(old, name) != getattr(new, name):
                lines.append(f"roles.{number}.{name}={getattr(new, name)}")
    for name in ("router", "prefix_caching", "scheduling"):
        if getattr(before, name) != getattr(after, name):
            value = getattr(after, name)
            lines.append(f"{name}={str(value).lower() if isinstance(value, bool) else value}")
    return tuple(lines)


def _change(before: Deployment, after: Deployment, kind: str, words: str, note: str = "") -> Change:
    return Change(kind, words, _differences(before, after), after, note)


def _of(role: Role) -> str:
    return "" if role.name == "aggregated" else f" of {role.name}"


# ── settings of one role ──────────────────────────────────────────────────────────────────────────────────────────


def _of_role(setting: Setting, deployment: Deployment, number: int) -> Iterator[Change]:
    """Changes of the settings of one role."""
    role = deployment.roles[number]

    def one(name: str, value: Any, note: str = "") -> Change:
        after = _with_role(deployment, number, **{name: value})
        new = after.roles[number]
        words = f"{name}{_of(role)}: {_shown(getattr(role, name))} -> {_shown(value)}"
        if name != "chunk_tokens" and new.chunk_tokens != role.chunk_tokens:
            words += f", which needs chunk_tokens {_shown(new.chunk_tokens)}"
        return _change(deployment, after, name, words, note)

    lanes = role.parallel.dp * role.parallel.pp
    for factor in SIZES:
        sequences = max(lanes, round(role.max_sequences * factor))
        if sequences != role.max_sequences:
            yield one("max_sequences", sequences)
    for factor in CHUNKS:
        chunk = max(lanes, round(role.chunk_tokens * factor))
        if chunk != role.chunk_tokens:
            yield one("chunk_tokens", chunk)
    default = dataclasses.replace(setting, engine=load_engine(setting.engine.name)).memory_fraction
    if role.memory_fraction < default:
        yield one("memory_fraction", default)
    if setting.model.draft and role.name != "prefill":
        for drafts in sorted({*DRAFTS, *range(MOST_DRAFTS + 1)} - {role.draft_tokens}):
            yield one("draft_tokens", drafts, ACCURACY["draft_tokens"] if drafts else "")
    if setting.experts and role.parallel.ep > 1:
        for overlap in OVERLAPS:
            if overlap != role.overlap:
                yield one("overlap", overlap)
        for redundant in sorted({0, *copies(role.parallel.ep, setting.experts.count)} - {role.redundant_experts}):
            yield one("redundant_experts", redundant)


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


# ── the whole deployment ──────────────────────────────────────────────────────────────────────────────────────────


def _whole(setting: Setting, deployment: Deployment) -> Iterator[Change]:
    """Changes of settings that all roles share."""
    first = deployment.roles[0]
    for kv_dtype in KV_DTYPES:
        if any(role.kv_dtype != kv_dtype for role in deployment.roles):
            roles = tuple(role.model_copy(update={"kv_dtype": kv_dtype}) for role in deployment.roles)
            after = deployment.model_copy(update={"roles": roles})
            note = ACCURACY["kv_dtype"] if kv_dtype == "fp8" else ""
            yield _change(deployment, after, "kv_dtype", f"kv_dtype: {first.kv_dtype} -> {kv_dtype}", note)
    if first.replicas * first.parallel.dp > 1:
        now = deployment.router or _default_router(setting)
        for router in get_args(RouterName):
            if router != now:
                after = deployment.model_copy(update={"router": router})
                yield _change(deployment, after, "router", f"router: {now} -> {router}")
    if not deployment.prefix_caching and setting.workload.hit_share > 0:
        after = deployment.model_copy(update={"prefix_caching": True})
        yield _change(deployment, after, "prefix_caching", "prefix_caching: off -> on")


def _default_router(setting: Setting) -> str:
    return "prefix_aware" if setting.workload.hit_share > 0 else "least_loaded"


def _instances(setting: Setting, deployment: Deployment, *, fewer: bool) -> Iterator[Change]:
    """One instance more on devices that are left over, one less, or one of prefill instead of one of decode."""
    counts = [role.replicas for role in deployment.roles]
    steps = [[1], [-1]] if len(counts) == 1 else [[1, 0], [0, 1], [1, -1], [-1, 1], [-1, 0], [0, -1]]
    for step in steps:
        if sum(step) < 0 and not fewer:
            continue
        asked = [count + more for count, more in zip(counts, step, strict=True)]
        if min(asked) < 1:
            continue
        roles = tuple(role.model_copy(update={"replicas": count})
                      for role, count in zip(deployment.roles, asked, strict=True))  # fmt: skip
        if len(roles) == 1 and asked[0] > int(replicas(np.array([roles[0].parallel.devices]), setting)[0]):
            continue
        after = deployment.model_copy(update={"roles": roles})
        pairs = zip(deployment.roles, asked, strict=True)
        words = ", ".join(
            f"replicas{_of(role)}: {role.replicas} -> {count}" for role, count in pairs if role.replicas != count
        )
        yield _change(deployment, after, "replicas", words)


# ── splits ────────────────────────────────────────────────────────────────────────────────────────────────────────


def split_changes(setting: Setting, deployment: Deployment, number: int) -> list[Change]:
    """All other legal splits of one role over the same devices.

    Sequences and token budget of the role stay the same per device. Redundant experts are as many as the split needs
    at least.

    Parameters
    ----------
    setting : model, machine, engine and workload
    deployment : the deployment that is changed
    number : place of the role
    """
    role = deployment.roles[number]
    every = splits(setting)
    same = np.isin(every.devices, divisors(role.devices))
    same &= (every.kv == KV_DTYPES.index(role.kv_dtype)) & (every.overlap == 0) & (every.draft == 0)
    least = np.zeros(len(every), dtype=bool)
    if setting.experts:
        least = every.redundant > -setting.experts.count % every.ep
    points = every[same & ~least]
    kept, _ = judge(Proposal(points, setting), SHAPE)
    made: dict[Parallel, Change] = {}
    for index in np.flatnonzero(kept):
        if change := _split(setting, deployment, number, points, int(index)):
            made.setdefault(change.deployment.roles[number].parallel, change)
    return [change for change in made.values() if is_legal(setting, change.deployment)]


def _split(setting: Setting, deployment: Deployment, number: int, points: Points, index: int) -> Change | None:
    """The deployment with one role over other widths; None for its own widths."""
    role = deployment.roles[number]
    new = points.role(role.name, index, setting).parallel
    if new == role.parallel:
        return None
    share = new.devices / role.parallel.devices
    sequences = max(new.dp * new.pp, round(role.max_sequences * share))
    values: dict[str, Any] = {
        "parallel": new,
        "replicas": role.devices // new.devices,
        "max_sequences": sequences,
        "chunk_tokens": max(new.dp * new.pp, round(role.chunk_tokens * share)),
        "redundant_experts": int(points.redundant[index]) if new.ep > 1 else 0,
    }
    if new.ep == 1:
        values["overlap"] = "none"
    after = _with_role(deployment, number, **values)
    one = split_of(deployment, number)
    words = f"split{_of(role)}: {one} -> {split_of(after, number)}"
    return _change(deployment, after, "split", words)


def split_of(deployment: Deployment, number: int) -> str:
    """Instances and widths of one role as text."""
    role = deployment.roles[number]
    return f"{role.replicas}x[{role.parallel}]"
