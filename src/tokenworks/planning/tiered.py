"""KV tiers below HBM in the search of `plan`: which deployments get tiers, and whether the tiers are worth it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tokenworks.errors import SpecError
from tokenworks.planning.costing import Costing
from tokenworks.planning.ranking import Candidate
from tokenworks.simulation.tier_room import TierRoom
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.tier_setup import NO_TIERS, load_setup, setup_names

AUTO = "auto"
"""`plan` tries the set-ups that the engine has, and keeps the one that gains most."""


def check_tiers(tiers: str, costings: Sequence[Costing]) -> tuple[Costing, ...]:
    """The engines of a plan that have the wanted set-up of KV tiers.

    Parameters
    ----------
    tiers : "auto", "none" or the name of a set-up
    costings : one for each engine of the plan

    Raises
    ------
    SpecError : there is no such set-up, or no engine of the plan has it
    """
    if tiers in (AUTO, NO_TIERS):
        return tuple(costings)
    try:
        setup = load_setup(tiers)
    except SpecError as error:
        raise SpecError(error.message, where="--tiers", hint=f"{error.hint}, auto or none") from None
    having = tuple(one for one in costings if not setup.engines or one.setting.engine.name in setup.engines)
    if not having:
        names = " and ".join(one.setting.engine.name for one in costings)
        raise SpecError(f"{tiers} is a set-up of {' and '.join(setup.engines)}, not of {names}", where="--tiers",
                        hint="take another --engine, or --tiers auto")  # fmt: skip
    return having


def choices(candidate: Candidate, tiers: str) -> tuple[str, ...]:
    """Names of the set-ups to try for a deployment, the usual one first; none if no request shares a prefix.

    Parameters
    ----------
    candidate : a deployment without tiers
    tiers : "auto": the set-ups of the engine, without what-ifs; "none"; or the name of a set-up
    """
    workload = candidate.costing.setting.workload
    if tiers == NO_TIERS or not workload.hit_share or not candidate.deployment.prefix_caching:
        return ()
    if tiers != AUTO:
        return (tiers,)
    return tuple(name for name in setup_names(candidate.deployment.engine) if load_setup(name).engines)


def with_tiers(candidate: Candidate, name: str) -> Candidate:
    """The deployment with the KV tiers of a set-up, or with "none" without tiers.

    Parameters
    ----------
    candidate : a deployment
    name : name of a set-up that its engine has, or "none"
    """
    plain = candidate.deployment.model_dump(mode="json", exclude_unset=True)
    for key in ("kv_load", "kv_load_failure"):
        plain.pop(key, None)
    return dataclasses.replace(candidate, deployment=Deployment.model_validate({**plain, "tiers": name}))


def must_fit(candidate: Candidate) -> None:
    """Refuse KV tiers that the machine of a deployment has no room for.

    Parameters
    ----------
    candidate : a deployment with tiers

    Raises
    ------
    SpecError : a number of the machine is not published
    DoesNotFit : the tiers are larger than memory or storage of the machine
    """
    room = TierRoom(candidate.deployment, candidate.costing.setting.machine)
    for at in range(len(candidate.deployment.tiers)):
        room.capacity(at)
