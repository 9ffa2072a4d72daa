"""Back ends of dispatch, and environment variables, that a device and its fabric need."""

from __future__ import annotations

import functools
from typing import Annotated

from pydantic import Field

from tokenworks.launch.dialect import DialectEngine
from tokenworks.specs.deployment import Role
from tokenworks.specs.load import CATALOG, read_yaml, validate
from tokenworks.specs.provenance import Spec

VISIBLE = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "HIP_VISIBLE_DEVICES", "hygon": "HIP_VISIBLE_DEVICES",
           "ascend": "ASCEND_RT_VISIBLE_DEVICES"}  # fmt: skip
"""Begin of a device family -> variable that names the devices of a process."""

DEEPEP = ("nvidia", "hygon")
"""Families whose engines dispatch with DeepEP, by how their names begin."""
MORI = ("amd",)
"""Families whose engines dispatch with MORI."""
NO_GRAPHS = ("cpu",)
"""Families without captured graphs."""


class When(Spec):
    """Conditions; all of them must hold.

    Parameters
    ----------
    families : families of the devices, by how their names begin; empty: all
    engines : engines; empty: all
    spanning : whether a scale-up domain has several hosts; None: both
    disaggregated : whether prefill and decode are separate; None: both
    dispatch : back ends of dispatch; empty: all
    """

    families: tuple[str, ...] = ()
    engines: tuple[DialectEngine, ...] = ()
    spanning: bool | None = None
    disaggregated: bool | None = None
    dispatch: tuple[str, ...] = ()

    def holds(self, family: str, engine: DialectEngine, dispatch: str, *, spanning: bool, disaggregated: bool) -> bool:
        """Whether all conditions hold."""
        return (
            (not self.families or family.startswith(self.families))
            and (not self.engines or engine in self.engines)
            and self.spanning in (None, spanning)
            and self.disaggregated in (None, disaggregated)
            and (not self.dispatch or dispatch in self.dispatch)
        )


class VariableSet(Spec):
    """Environment variables.

    Parameters
    ----------
    when : where they are set
    set : variables and values
    why : what they do
    source : where they come from
    """

    when: When
    set: Annotated[dict[str, str], Field(min_length=1)]
    why: str
    source: str


class _File(Spec):
    settings: tuple[VariableSet, ...]


@functools.cache
def environment_table() -> tuple[VariableSet, ...]:
    """The table of the catalog."""
    path = CATALOG / "environment.yaml"
    return validate(_File, {"settings": read_yaml(path)}, str(path)).settings


def environment_of(
    family: str, engine: DialectEngine, dispatch: str, *, spanning: bool, disaggregated: bool
) -> dict[str, str]:
    """The environment variables of one command.

    Parameters
    ----------
    family : family of the devices
    engine : the engine
    dispatch : back end of dispatch, "none" without one
    spanning : whether a scale-up domain of the machine has several hosts
    disaggregated : whether prefill and decode are separate
    """
    return {
        name: value
        for one in environment_table()
        if one.when.holds(family, engine, dispatch, spanning=spanning, disaggregated=disaggregated)
        for name, value in one.set.items()
    }


def dispatch_of(role: Role, family: str, engine: DialectEngine, nodes: int, *, elastic: bool = False) -> str:
    """The back end of dispatch and combine of experts; "none": the default of the engine.

    DeepEP and MORI are for roles whose experts are spread over several hosts, for data-parallel ranks of a role that
    only prefills or only decodes, and for two-batch overlap.

    Parameters
    ----------
    role : the role
    family : family of the devices
    engine : the engine
    nodes : nodes of one instance [count]
    elastic : whether the role can go on without some of its ranks; SGLang then dispatches with Mooncake, whose
        collectives leave failed ranks out
    """
    parallel = role.parallel
    if elastic and engine == "sglang":
        return "mooncake"
    library = "deepep" if family.startswith(DEEPEP) else "mori" if family.startswith(MORI) else ""
    wide = nodes > 1 or role.overlap == "two-batch" or (role.name != "aggregated" and parallel.dp > 1)
    if not library or parallel.ep == 1 or parallel.expert_tp > 1 or not wide:
        return "none"
    if engine == "sglang":
        return library
    if parallel.dp == 1 and role.overlap == "none":  # vLLM dispatches between data-parallel ranks only
        return "none"
    return f"{library}_low_latency" if role.name == "decode" else f"{library}_high_throughput"


def visible_devices(family: str) -> str:
    """The variable that names the devices of a process; empty: the family has none."""
    return next((name for begin, name in VISIBLE.items() if family.startswith(begin)), "")
