"""KV tiers as values of flags, and values of flags as KV tiers.

vLLM has `OffloadingConnector` (memory of the host, files behind it) and `MooncakeStoreConnector` (a pool). SGLang has
HiCache: memory of the host, and files or a Mooncake pool behind it. Sizes in flags are for one rank (vLLM) or for one
device (SGLang); sizes in a deployment are for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.launch.dialect import Dialect, DialectEngine
from tokenworks.launch.table import Value, Values
from tokenworks.launch.target import LaunchTarget
from tokenworks.simulation.tier_room import TierRoom
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.provenance import GIVEN, Quantity, not_published
from tokenworks.specs.tier import SELECTIVE_USES, KvLoadFailure, Prefetch, Tier, Written
from tokenworks.specs.tier_setup import load_setup, offers_of

OFFLOADING, MOONCAKE, MULTI = "OffloadingConnector", "MooncakeStoreConnector", "MultiConnector"
TIERING = "TieringOffloadingSpec"
GB = 1e9
"""Unit of --hicache-size, mem_cache/memory_pool_host.py of SGLang [byte]."""

PAGE_TOKENS = 64
"""Page that HiCache gets if the tiers name none: as in the best practices of SGLang [token]."""

FILES = "/var/cache/vllm-kv"
"""Folder of the files of vLLM. The user must choose a file system on the drives."""

WRITTEN: dict[Written, str] = {
    "through": "write_through", "selective": "write_through_selective", "back": "write_back",
}  # fmt: skip
PREFETCH: dict[Prefetch, str] = {"best_effort": "best_effort", "wait": "wait_complete", "timeout": "timeout"}
IO = {"layer": ("kernel", "page_first"), "block": ("direct", "page_first_direct")}
"""Layout of the transfers of memory of the host -> values of --hicache-io-backend and --hicache-mem-layout."""


@dataclass(frozen=True, slots=True)
class TiersMeaning:
    """KV tiers that a command asks for.

    Parameters
    ----------
    tiers : the tiers; sizes are for one rank [byte]
    on_failure : what happens to a request whose read fails; None: the default of the engine
    unused : key of a value, or key and name inside the value with a dot between them -> why it has no place
    """

    tiers: tuple[Tier, ...] = ()
    on_failure: KvLoadFailure | None = None
    unused: Mapping[str, str] = field(default_factory=dict)


def sized(tier: Tier, size: float | None) -> Tier:
    """A tier with a size; None: the default of the machine [byte]."""
    quantity = not_published("byte")
    if size is not None:
        quantity = Quantity(value=float(size), status="assumed", source=GIVEN, written=f"{size:.0f} B", unit="byte")
    return tier.model_copy(update={"capacity": quantity})


# ── a deployment as the engine can run it ─────────────────────────────────────────────────────────────────────────


def settled_tiers(deployment: Deployment, target: LaunchTarget, dialect: Dialect, notes: list[str]) -> Deployment:
    """The deployment with tiers as the engine can run them: sizes are whole numbers in the unit of the flags.

    Parameters
    ----------
    deployment : the deployment
    target : model, machine and engine
    dialect : version of the engine
    notes : gets what a reader must know of changed sizes

    Raises
    ------
    SpecError : the engine cannot run the tiers
    DoesNotFit : the tiers are larger than the machine
    """
    tiers = deployment.tiers
    if not tiers:
        return deployment
    _must_be_possible(tiers, dialect)
    changed = [_plain_policies(tier, dialect) for tier in tiers]
    first = changed[0]
    if first.medium == "host":
        role = deployment.roles[0]
        ranks = role.replicas * role.parallel.dp
        count = ranks if dialect.engine == "vllm" else role.devices
        unit = 1.0 if dialect.engine == "vllm" else GB
        size = TierRoom(deployment, target.machine).capacity(0)
        each = math.floor(size / count / unit + 1e-3)  # a quotient of whole units is whole
        if each < 1:
            hint = "take a larger capacity"
            raise SpecError(f"{size / GB:.3g} GB for {count} devices is below 1 GB each, the unit of --hicache-size",
                            where="tiers.0.capacity", hint=hint)  # fmt: skip
        changed[0] = sized(first, each * unit * count)
        if abs(each * unit * count - size) > unit / 2 or first.capacity.value is None:
            whose = "rank" if dialect.engine == "vllm" else "device"
            notes.append(f"tiers: memory of the hosts is {each * unit / GB:,.4g} GB for each {whose}, "
                         f"{each * unit * count / GB:,.4g} GB in all")  # fmt: skip
    offers = offers_of(deployment.engine)
    load, failure = deployment.kv_load, deployment.kv_load_failure
    if offers is not None:
        load = None if load == offers.load[0] else load
        failure = None if failure == offers.on_failure[0] else failure
    return deployment.model_copy(update={"tiers": tuple(changed), "kv_load": load, "kv_load_failure": failure})


def _plain_policies(tier: Tier, dialect: Dialect) -> Tier:
    """A tier with its policies in the form that `import` reads: only vLLM says the uses of a selective write."""
    uses = None
    if tier.written == "selective" and dialect.engine == "vllm":
        uses = tier.uses or SELECTIVE_USES
    tokens = tier.transfer_tokens or (PAGE_TOKENS if dialect.engine == "sglang" else None)
    scope = tier.scope or ("private" if tier.medium == "host" else None)
    return tier.model_copy(update={"uses": uses, "transfer_tokens": tokens, "scope": scope})


def _must_be_possible(tiers: tuple[Tier, ...], dialect: Dialect) -> None:
    """Refuse tiers that no flag of the engine can say."""
    first, lower = tiers[0], tiers[1:]
    names = " + ".join(tier.name for tier in tiers)
    if first.semantics == "load-store":
        raise SpecError(
            f"no engine has tiers that devices read directly ({first.name}): they are a what-if", where="tiers",
            hint="take another set-up, such as " + ("vllm-offload" if dialect.engine == "vllm" else "hicache"),
        )  # fmt: skip
    known: dict[DialectEngine, tuple[tuple[str, ...], ...]] = {
        "vllm": (("host",), ("host", "ssd"), ("pool",), ("pool", "ssd")),
        "sglang": (("host",), ("host", "ssd"), ("host", "pool"), ("host", "pool", "ssd")),
    }
    if tuple(tier.medium for tier in tiers) not in known[dialect.engine]:
        ways = ", ".join(" + ".join(one) for one in known[dialect.engine])
        raise SpecError(f"cannot run the tiers {names}", where=dialect.title, hint=f"it has {ways}")
    if first.medium == "host" and (first.scope or "private") != "private":
        raise SpecError(f"keeps memory of the host for each rank: {first.name} cannot be {first.scope}",
                        where=dialect.title, hint="write scope: private")  # fmt: skip
    if dialect.engine == "sglang":
        if (first.uses or SELECTIVE_USES) != SELECTIVE_USES:
            raise SpecError(f"writes after {SELECTIVE_USES} uses with write_through_selective, not after {first.uses}",
                            where=dialect.title, hint=f"write uses: {SELECTIVE_USES}")  # fmt: skip
        if any(tier.written != "through" for tier in lower):
            raise SpecError("writes a block to lower tiers when memory of the host has it", where=dialect.title,
                            hint="write written: through")  # fmt: skip
        if len({tier.prefetch for tier in lower}) > 1:
            raise SpecError("has one prefetch policy for all lower tiers", where=dialect.title,
                            hint="write the same prefetch for them")  # fmt: skip
    elif any(tier.written != "through" or tier.eviction != "lru" for tier in lower):
        raise SpecError("says no policies of the tiers behind the first one", where=dialect.title,
                        hint="write written: through and eviction: lru")  # fmt: skip


def tier_notes(deployment: Deployment, dialect: Dialect) -> list[str]:
    """What a user must do or know for the tiers of a settled deployment."""
    notes, tiers = [], deployment.tiers
    for tier in tiers:
        size = "" if tier.capacity.value is None else f" of {tier.capacity.value / 1e12:,.4g} TB"
        if tier.medium == "pool":
            notes.append(f"tiers: start mooncake_master, and give each process its part of the pool{size} "
                         "(global_segment_size): no flag of the engine says it")  # fmt: skip
        elif tier.medium == "ssd" and tiers[0].medium == "host" and len(tiers) == 2:
            where = f"the folder {FILES}" if dialect.engine == "vllm" else "SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR"
            notes.append(f"tiers: {where} must be on the drives{size}: the engine sets no limit of size")
        elif tier.medium == "ssd":
            notes.append(
                f"tiers: flash storage{size} behind the pool is set in Mooncake: no flag of the engine says it"
            )
    if tiers:
        notes.append("tiers: bandwidths, latencies and shares of failures describe the machine: no flag says them")
    return notes


# ── vLLM ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def vllm_tiers(deployment: Deployment) -> dict[str, Value]:
    """The tiers of a settled deployment as values of --kv-transfer-config."""
    if not deployment.tiers:
        return {}
    first = deployment.tiers[0]
    values: dict[str, Value] = {}
    if first.medium == "host":
        role = deployment.roles[0]
        each = int(float(first.capacity.value or 0) // (role.replicas * role.parallel.dp))
        extra: dict[str, Any] = {"cpu_bytes_to_use": each}
        if len(deployment.tiers) > 1:
            extra["spec_name"] = TIERING
            extra["secondary_tiers"] = [{"type": "fs", "root_dir": FILES}]
        if first.eviction != "lru":
            extra["eviction_policy"] = first.eviction
        if first.written == "selective":
            extra["store_threshold"] = first.uses or SELECTIVE_USES
        if first.transfer_tokens is not None:
            extra["block_size"] = first.transfer_tokens
        values |= {"connector": OFFLOADING, "kv_role": "kv_both", "connector_config": extra}
    else:
        values |= {"connector": MOONCAKE, "kv_role": "kv_both"}
    if deployment.kv_load_failure is not None:
        values["load_failure"] = deployment.kv_load_failure
    return values


def beside_transfer(tiers: Mapping[str, Value], connector: str, kv_role: str) -> dict[str, Value]:
    """Values of a prefill role with tiers: one connector sends the cache to decode, the other one has the tiers.

    Parameters
    ----------
    tiers : values of `vllm_tiers`
    connector, kv_role : the connector between the roles, and the role of this command
    """
    own: dict[str, Any] = {"kv_connector": tiers["connector"], "kv_role": tiers["kv_role"]}
    if "connector_config" in tiers:
        own["kv_connector_extra_config"] = tiers["connector_config"]
    both = {"connectors": [{"kv_connector": connector, "kv_role": kv_role}, own]}
    rest = {key: value for key, value in tiers.items() if key == "load_failure"}
    return {"connector": MULTI, "kv_role": kv_role, "connector_config": both, **rest}


def tiers_of_vllm(values: Values) -> TiersMeaning:
    """The tiers that a command of vLLM asks for.

    Raises
    ------
    SpecError : a size or a policy is not valid
    """
    name, config = values.text("connector"), values.mapping("connector_config")
    place = values.place("connector_config")
    if name == MULTI:
        listed = config.get("connectors")
        inner = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        own = next((one for one in inner if one.get("kv_connector") in (OFFLOADING, MOONCAKE)), {})
        name = str(own.get("kv_connector", ""))
        nested = own.get("kv_connector_extra_config")
        config = nested if isinstance(nested, dict) else {}
    failure: KvLoadFailure | None = None
    word = values.text("load_failure")
    if word in ("recompute", "fail"):
        failure = "fail" if word == "fail" else None
    unused: dict[str, str] = {}
    if name == MOONCAKE:
        tiers = load_setup("mooncake").tiers[:1]
        unused |= {f"connector_config.{key}": "it says how Mooncake is reached" for key in config}
        return TiersMeaning(tiers, failure, unused)
    if name != OFFLOADING and not values.has("offload_size"):
        return TiersMeaning()
    host, ssd = load_setup("vllm-offload").tiers
    size: float | None = None
    if name == OFFLOADING:
        size = _size(config.get("cpu_bytes_to_use"), 1.0, place)
        host = _policies(host, config, place)
        for key in config:
            if key not in ("cpu_bytes_to_use", "eviction_policy", "store_threshold", "block_size", "spec_name",
                           "secondary_tiers"):  # fmt: skip
                unused[f"connector_config.{key}"] = "it is not a part of the model of KV tiers"
    elif values.text("offload_backend", "native") != "native":
        why = "of the back ends of --kv-offloading-backend, tokenworks models native"
        return TiersMeaning(unused={"offload_backend": why, "offload_size": why})
    else:
        size = _size(values.given["offload_size"], 2.0**30, values.place("offload_size"))
    tiers = (sized(host, size),)
    lower = config.get("secondary_tiers")
    for one in lower if isinstance(lower, list) else []:
        kind = one.get("type") if isinstance(one, dict) else one
        if kind == "fs" and len(tiers) == 1:
            tiers = (*tiers, ssd)
        else:
            unused["connector_config.secondary_tiers"] = (
                f"of secondary tiers, tokenworks reads one of type fs, not {kind}: add it to tiers by hand, with its "
                "size and bandwidth"
            )
    return TiersMeaning(tiers, failure, unused)


def _policies(host: Tier, config: Mapping[str, Any], place: str) -> Tier:
    """Memory of the host with the policies of the extra config of vLLM's connector."""
    changes: dict[str, Any] = {}
    word = config.get("eviction_policy", "lru")
    if word not in ("lru", "arc"):
        raise SpecError(f"eviction_policy {word!r} is none of lru and arc", where=place, hint="write one of them")
    changes["eviction"] = word
    for key, name in (("store_threshold", "uses"), ("block_size", "transfer_tokens")):
        value = config.get(key)
        if value is None or (key == "store_threshold" and value in (0, 1)):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10**6:
            raise SpecError(f"{key} {value!r} is not a count", where=place, hint="write a whole number of 1 or more")
        changes[name] = value
    if "uses" in changes:
        changes["written"] = "selective"
    return host.model_copy(update=changes)


def _size(value: object, unit: float, place: str) -> float | None:
    """A size in byte of one rank; None: the command says none."""
    if value is None:
        return None
    try:
        number = float(str(value)) * unit
    except ValueError:
        number = math.nan
    if not 1 <= number <= 1e18:
        raise SpecError(f"{value!r} is not a size above zero", where=place, hint="write the size of one rank")
    return float(math.floor(number))


# ── SGLang ────────────────────────────────────────────────────────────────────────────────────────────────────────


def sglang_tiers(deployment: Deployment) -> dict[str, Value]:
    """The tiers of a settled deployment as values of the flags of HiCache."""
    if not deployment.tiers:
        return {}
    first, lower = deployment.tiers[0], deployment.tiers[1:]
    each = round(float(first.capacity.value or 0) / deployment.roles[0].devices / GB)
    values: dict[str, Value] = {
        "tiers": True, "tier_size": each, "tier_written": WRITTEN[first.written], "tier_io": IO[first.layout][0],
    }  # fmt: skip
    if first.transfer_tokens is not None:
        values["page"] = first.transfer_tokens
    if lower:
        values["tier_storage"] = "mooncake" if lower[0].medium == "pool" else "file"
        values["tier_prefetch"] = PREFETCH[lower[0].prefetch]
    return values


def tiers_of_sglang(values: Values, device_cache: float) -> TiersMeaning:
    """The tiers that a command of SGLang asks for; sizes are for one device [byte].

    Parameters
    ----------
    values : values of the command
    device_cache : KV cache of one device, for --hicache-ratio [byte]

    Raises
    ------
    SpecError : a size is not valid
    """
    keys = ("tier_size", "tier_ratio", "tier_written", "tier_io", "tier_storage", "tier_prefetch")
    if not values.on("tiers"):
        unused = {key: "without --enable-hierarchical-cache it has no effect" for key in keys if values.has(key)}
        if values.has("page"):
            unused["page"] = "without KV tiers it is not a part of the model of tokenworks"
        return TiersMeaning(unused=unused)
    storage = values.text("tier_storage")
    setup = load_setup("hicache-mooncake" if storage == "mooncake" else "hicache")
    host, lower = setup.tiers[0], setup.tiers[1]
    words = {word: name for name, word in WRITTEN.items()}
    changes: dict[str, Any] = {
        "written": words.get(values.text("tier_written", "write_through"), "through"),
        "layout": "block" if values.text("tier_io", "kernel") == "direct" else "layer",
    }
    page = values.width("page") if values.has("page") else None
    if page is not None:
        changes["transfer_tokens"] = page
    size = _size(values.given["tier_size"], GB, values.place("tier_size")) if values.count("tier_size", 0) else None
    unused = {}
    if size is None and values.has("tier_ratio"):
        size = math.floor(_ratio(values) * device_cache) or None  # nothing is left if the weights do not fit
    tiers = [sized(host.model_copy(update=changes), size)]
    if storage in ("file", "mooncake"):
        prefetch = {word: name for name, word in PREFETCH.items()}.get(values.text("tier_prefetch", "timeout"))
        timeout = lower.timeout if prefetch == "timeout" else not_published("s")
        more: dict[str, Any] = {"prefetch": prefetch or "timeout", "timeout": timeout}
        if page is not None:
            more["transfer_tokens"] = page
        tiers.append(lower.model_copy(update=more))
    elif storage:
        why = f"tokenworks knows no size and speed of the {storage} back end: add a tier by hand"
        unused |= {key: why for key in ("tier_storage", "tier_prefetch") if values.has(key)}
    elif values.has("tier_prefetch"):
        unused["tier_prefetch"] = "without --hicache-storage-backend it has no effect"
    return TiersMeaning(tuple(tiers), None, unused)


def _ratio(values: Values) -> float:
    """Memory of the host / KV cache of the device."""
    value = values.given["tier_ratio"]
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not 0 < number <= 1e6:
        raise SpecError(f"{value!r} is not a ratio", where=values.place("tier_ratio"), hint="write 2, for example")
    return number
