"""The router in front of the instances: vllm-router and sglang-router. Both have the same policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenworks.errors import SpecError
from tokenworks.launch.command import Command
from tokenworks.launch.dialect import DialectEngine
from tokenworks.launch.reasons import Unread
from tokenworks.launch.words import is_flag
from tokenworks.specs.deployment import RoleName, RouterName

POLICIES: dict[RouterName, str] = {
    "round_robin": "round_robin", "power_of_two": "power_of_two", "prefix_aware": "cache_aware",
}  # fmt: skip
"""Router of a deployment -> --policy. No router of the engines has the policy least_loaded."""
MEANS: dict[str, RouterName] = {policy: router for router, policy in POLICIES.items()}
DEFAULT_POLICY = "cache_aware"

PROGRAMS: dict[DialectEngine, tuple[str, ...]] = {
    "vllm": ("vllm-router",),
    "sglang": ("python3", "-m", "sglang_router.launch_router"),
}
"""Engine -> program of its router: vllm-router 0.1.17 and sglang-router 0.3.2 of PyPI."""
DISAGGREGATED: dict[DialectEngine, str] = {"vllm": "--vllm-pd-disaggregation", "sglang": "--pd-disaggregation"}
BY_RANK: dict[DialectEngine, str] = {"vllm": "--intra-node-data-parallel-size", "sglang": "--dp-aware"}
"""Engine -> flag with which its router chooses data-parallel ranks."""
FLAGS: dict[DialectEngine, frozenset[str]] = {
    engine: frozenset({"--host", "--port", "--policy", "--worker-urls", "--prefill", "--decode", "--prometheus-port",
                       "--prometheus-host", DISAGGREGATED[engine], ranked})
    for engine, ranked in BY_RANK.items()
}  # fmt: skip
"""Flags that `emit` writes. Sources: vllm-project/router, py_src/vllm_router/router_args.py; sgl-project/sglang,
sgl-model-gateway/bindings/python/src/sglang_router/router_args.py."""


@dataclass(frozen=True, slots=True)
class RouterWords:
    """What the command of a router says.

    Parameters
    ----------
    policy : router of the deployment; None: a policy that tokenworks does not have
    workers : role -> number of URLs [count]
    unread : flags without a place in a deployment
    """

    policy: RouterName | None
    workers: Mapping[RoleName, int]
    unread: tuple[Unread, ...]


@dataclass(frozen=True, slots=True)
class Backends:
    """The instances that a router sends requests to.

    Parameters
    ----------
    urls : role -> URLs of its instances
    bootstrap : ports of the prefill instances for the transfer of the KV cache, in the order of their URLs
    ranks : data-parallel ranks behind one URL that the router chooses from; 1: the engine chooses the rank [count]
    """

    urls: Mapping[RoleName, Sequence[str]]
    bootstrap: Sequence[int] = ()
    ranks: int = 1


def is_router(command: Command) -> bool:
    """Whether a command starts a router."""
    words = " ".join(command.program)
    return command.role == "router" or "router" in words or words.endswith("smg") or "sidecar" in words


def router_arguments(engine: DialectEngine, router: RouterName, routed: Backends, port: int) -> list[str]:
    """Arguments of the command of a router.

    Parameters
    ----------
    engine : engine of the instances
    router : policy; least_loaded is not one of them
    routed : the instances
    port : port of the router
    """
    words = ["--host", "0.0.0.0", "--port", str(port), "--policy", POLICIES[router]]
    if "prefill" in routed.urls:
        words.append(DISAGGREGATED[engine])
        ports: Sequence[int | None] = routed.bootstrap or [None] * len(routed.urls["prefill"])
        for url, bootstrap in zip(routed.urls["prefill"], ports, strict=True):
            words += ["--prefill", url, *([str(bootstrap)] if bootstrap else [])]
        for url in routed.urls["decode"]:
            words += ["--decode", url]
    else:
        words += ["--worker-urls", *routed.urls["aggregated"]]
    if routed.ranks > 1:
        words += ["--dp-aware"] if engine == "sglang" else ["--intra-node-data-parallel-size", str(routed.ranks)]
    return words


def read_router(command: Command) -> RouterWords:
    """What the command of a router says.

    Raises
    ------
    SpecError : --policy has no value
    """
    workers: dict[RoleName, int] = {}
    policy, unread = DEFAULT_POLICY, []
    words = list(command.arguments)
    for place, word in enumerate(words):
        if not is_flag(word):
            continue
        flag, equals, own = word.partition("=")
        following = [own] if equals else _until_flag(words[place + 1 :])
        if flag == "--policy":
            if not following:
                raise SpecError(
                    "has no value", where=f"{command.where}: --policy", hint=f"write one of {', '.join(MEANS)}"
                )
            policy = following[0]
        elif flag in ("--prefill", "--decode"):
            role: RoleName = "prefill" if flag == "--prefill" else "decode"
            workers[role] = workers.get(role, 0) + 1
        elif flag == "--worker-urls":
            workers["aggregated"] = workers.get("aggregated", 0) + len(following)
        elif flag not in DISAGGREGATED.values():
            reason = "it belongs to the router, of which a deployment has the policy only"
            unread.append(Unread(flag, " ".join(following), reason, "service", command.where, "router"))
    if policy not in MEANS:
        reason = f"tokenworks has the policies {', '.join(MEANS)}"
        unread.append(Unread("--policy", policy, reason, "not modelled", command.where, "router"))
    return RouterWords(MEANS.get(policy), workers, tuple(unread))


def _until_flag(words: Sequence[str]) -> list[str]:
    """The words before the next flag."""
    end = next((place for place, word in enumerate(words) if is_flag(word)), len(words))
    return list(words[:end])
