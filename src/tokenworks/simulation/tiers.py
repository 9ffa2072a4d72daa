"""KV tiers of a deployment in the form of the engine: blocks, stores, and links with the time of a block on each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from tokenworks.costs.memory import cache_bytes
from tokenworks.costs.split import KV_BYTES, Split
from tokenworks.engine.tiers import Lane, Store, Tiers
from tokenworks.engine.types import Pool
from tokenworks.errors import DoesNotFit, NotPublished, SpecError
from tokenworks.simulation.steps import Site
from tokenworks.specs.deployment import Deployment, Role
from tokenworks.specs.machine import Assumption
from tokenworks.specs.model import Model, kv_bytes_per_token
from tokenworks.specs.provenance import Quantity
from tokenworks.specs.tier import SELECTIVE_USES, Tier, TierLink, TierMedium
from tokenworks.specs.tier_setup import medium_defaults, offers_of

MOST_BLOCKS = 1 << 26
"""Blocks of a store that count as enough: more than any simulation uses [count]."""


@dataclass(frozen=True, slots=True)
class BuiltTiers:
    """KV tiers in the form of the engine, with the assumed numbers behind them.

    Parameters
    ----------
    engine : the tiers as the engine plays them
    bytes_per_block : what a block takes in the store of each tier [byte]
    assumed : assumed numbers that the tiers depend on
    """

    engine: Tiers
    bytes_per_block: tuple[float, ...]
    assumed: tuple[Assumption, ...]


def tiers_of(deployment: Deployment, site: Site, pool: Pool, *, seed: int = 0) -> BuiltTiers:
    """Build the KV tiers of a deployment.

    A device moves its part of the cache over a link of its own, so the links of a rank add up over its devices.
    Memory and drives of a host are shared by the ranks of the host; a pool and a remote store are shared by all ranks.
    A rank on several hosts has the memory and drives of all of them.

    Parameters
    ----------
    deployment : the deployment, with its tiers
    site : model, machine and engine
    pool : pool of the first role, which uses the tiers
    seed : seed of the random stream of failures

    Raises
    ------
    SpecError : a tier needs a number that is not published, a link that the machine does not have, or a cache that
        grows with the context
    DoesNotFit : a tier is larger than the machine, or smaller than one block
    """
    if not deployment.tiers:
        return BuiltTiers(Tiers(), (), ())
    build = _Build(deployment, site, pool)
    stores, sizes = [], []
    for at in range(len(deployment.tiers)):
        store, size = build.store(at)
        stores.append(store)
        sizes.append(size)
    offers = offers_of(deployment.engine)
    load = deployment.kv_load or (offers.load[0] if offers else "layerwise")
    on_failure = deployment.kv_load_failure or (offers.on_failure[0] if offers else "recompute")
    block_s, position_s = _recompute(pool)
    engine = Tiers(
        tuple(stores), load=load, layers=site.model.layers, on_failure=on_failure, seed=seed, block_s=block_s,
        position_s=position_s,
    )  # fmt: skip
    return BuiltTiers(engine, tuple(sizes), tuple(build.assumed.values()))


def _recompute(pool: Pool) -> tuple[float, float]:
    """Time to compute a block again in a full step, and its growth with each block before it [s, s/block]."""
    cost, size, budget = pool.cost, pool.limits.block_tokens, pool.limits.token_budget
    tokens = budget * pool.ranks
    token_s = float(cost.by_tokens[tokens]) / tokens + cost.prefill_token_s
    context_s = cost.prefill_context_s + cost.together_context_s
    return size * token_s, size * size * context_s


def _pieces(model: Model) -> int:
    """Separate pieces of the cache of a block in layout "layer": keys and values of each layer, one piece with MLA."""
    scans = ((block.count, scan) for block in model.blocks for scan in block.scans if scan.growth(1.0))
    return max(sum(count * (1 if scan.latent else 2) for count, scan in scans), 1)


@dataclass(slots=True)
class _Build:
    """Builds the stores of a deployment. Links of equal keys have equal numbers."""

    deployment: Deployment
    site: Site
    pool: Pool
    assumed: dict[str, Assumption] = field(default_factory=dict)
    numbers: dict[tuple[object, ...], int] = field(default_factory=dict)

    @property
    def role(self) -> Role:
        """The role that uses the tiers."""
        return self.deployment.roles[0]

    @property
    def ranks(self) -> int:
        """Ranks of the role [count]."""
        return self.pool.instances * self.pool.ranks

    @property
    def width(self) -> int:
        """Devices of one rank [count]."""
        return self.role.parallel.tp * self.role.parallel.pp

    def hosts(self) -> list[int]:
        """Number of the first host of each rank."""
        per_host = self.site.machine.host.devices
        return [rank * self.width // per_host for rank in range(self.ranks)]

    @property
    def hosts_of_a_rank(self) -> float:
        """Hosts whose memory and drives one rank uses [count]."""
        return max(1.0, self.width / self.site.machine.host.devices)

    @property
    def hosts_of_the_role(self) -> float:
        """Hosts of all devices of the role; a part of a host counts as this part [count]."""
        return self.role.devices / self.site.machine.host.devices

    @property
    def hosts_of_the_machine(self) -> float:
        """Hosts of the machine [count]."""
        return self.site.machine.devices / self.site.machine.host.devices

    # ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────

    def number(self, at: int, name: str) -> float | None:
        """A number of a tier; if the tier has none, the default of its medium, if there is one."""
        tier = self.deployment.tiers[at]
        quantity: Quantity = getattr(tier, name)
        if quantity.value is None:
            quantity = getattr(medium_defaults(tier.medium), name, quantity)
        return self.take(f"tiers.{at}.{name}", quantity)

    def take(self, path: str, quantity: Quantity) -> float | None:
        """The value of a number. An assumed one is listed."""
        if quantity.value is not None and quantity.assumed:
            self.assumed[path] = Assumption(path, quantity.written, quantity.source)
        return quantity.value

    def take_curve(self, path: str, quantities: list[Quantity]) -> None:
        """List the assumed numbers of a curve."""
        for point, quantity in enumerate(quantities):
            self.take(path if len(quantities) == 1 else f"{path}.points.{point}", quantity)

    def host(self, name: str, at: int, instead: str) -> float:
        """A number of a host of the machine.

        Parameters
        ----------
        name : name of the number
        at : number of the tier that needs it
        instead : number of the tier that replaces it
        """
        value = self.spare(name)
        if value is None:
            raise NotPublished(
                f"{self.site.machine.name} does not publish host.{name}, and the KV tier {self.named(at)} needs it",
                where=f"tiers.{at}", hint=f"give --set machine.host.{name}=... or --set tiers.{at}.{instead}=...",
            )  # fmt: skip
        return value

    def spare(self, name: str) -> float | None:
        """A number of a host of the machine that may be missing. An assumed one is listed."""
        host = self.site.machine.host
        path = f"host.{name}"
        self.assumed |= {one.path: one for one in host.assumed if one.path == path}
        return cast("float | None", getattr(host, name))

    def named(self, at: int) -> str:
        """Name of a tier, for messages."""
        return self.deployment.tiers[at].name

    # ── sizes ────────────────────────────────────────────────────────────────────────────────────────────────────

    def device_bytes(self) -> float:
        """Cache of one block on one device of a rank [byte]."""
        per_token = float(np.min(cache_bytes(self.site.model, Split.of(self.role))[0]))
        if per_token <= 0:
            raise SpecError(
                f"tokens of {self.site.model.name} add nothing to the KV cache, so a KV tier has nothing to hold",
                where="tiers", hint="leave tiers out",
            )  # fmt: skip
        return per_token * self.pool.limits.block_tokens

    def once(self) -> float:
        """Share of the cache of all devices of a rank that one copy needs [-]."""
        kv_bytes = KV_BYTES[self.role.kv_dtype]
        every = float(np.min(cache_bytes(self.site.model, Split(tp=self.role.parallel.tp, pp=self.role.parallel.pp,
                                                                kv_bytes=kv_bytes))[0])) * self.width  # fmt: skip
        return min(1.0, kv_bytes_per_token(self.site.model, kv_bytes) / every)

    def capacity(self, at: int) -> float:
        """Size of all stores of a tier together [byte]. Without a size, tiers of one kind divide what is left."""
        tier = self.deployment.tiers[at]
        name = "dram" if tier.of_memory else "ssd"
        asked = self.number(at, "capacity")
        if tier.medium == "remote":
            if asked is None:
                hint = f"give --set tiers.{at}.capacity=100TB"
                raise SpecError("a remote store has no default size", where=f"tiers.{at}.capacity", hint=hint)
            return asked
        every = self.deployment.tiers
        alike = [i for i, one in enumerate(every) if one.medium != "remote" and one.of_memory == tier.of_memory]
        if asked is None:
            one_host = self.host(name, at, "capacity")
            share = self.share(at)
            given = sum(every[i].capacity.value or 0.0 for i in alike)
            open_ = [i for i in alike if every[i].capacity.value is None]
            left = (share * one_host * self.hosts_of_the_machine - given) / len(open_)
            return min(share * one_host * self.reach(tier), left)
        one_host_or_none = self.spare(name)
        if one_host_or_none is not None:
            self.must_fit(alike, one_host_or_none, name)
        return asked

    def share(self, at: int) -> float:
        """Share of the memory or storage of the machine that a tier without a size takes [-]."""
        tier = self.deployment.tiers[at]
        share, path = medium_defaults(tier.medium).share, f"tiers.{at}.capacity"
        if share.assumed:
            of = "host.dram" if tier.of_memory else "host.ssd"
            self.assumed[path] = Assumption(path, f"{share.written} of {of}", share.source)
        return float(share.value or 0.0)

    def reach(self, tier: Tier) -> float:
        """Hosts whose memory or storage a tier can use [count]."""
        return self.hosts_of_the_machine if self.scope(tier) == "shared" else self.hosts_of_the_role

    def must_fit(self, alike: list[int], one_host: float, name: str) -> None:
        """Refuse tiers that are larger than the memory or storage of the hosts that they can use.

        Parameters
        ----------
        alike : numbers of the tiers that share it
        one_host : memory or storage of one host [byte]
        name : "dram" or "ssd"
        """
        given = {i: self.deployment.tiers[i].capacity.value or 0.0 for i in alike}
        cases = [((i,), math.ceil(self.reach(self.deployment.tiers[i]))) for i in alike]
        for group, hosts in (*cases, (tuple(alike), math.ceil(self.hosts_of_the_machine))):
            asked = sum(given[i] for i in group)
            if asked > one_host * hosts * (1 + 1e-9):
                names = " + ".join(f"{self.named(i)} {given[i] / 1e12:,.4g} TB" for i in group if given[i])
                raise DoesNotFit(
                    f"KV tiers {names}: {asked / 1e12:,.4g} TB of host.{name}, but {hosts} x host of "
                    f"{self.site.machine.name} with {one_host / 1e12:,.4g} TB each have {one_host * hosts / 1e12:,.4g} "
                    f"TB. Take a smaller capacity, or give --set machine.host.{name}=..."
                )

    def scope(self, tier: Tier) -> str:
        """Which ranks share a store of a tier."""
        return tier.scope or medium_defaults(tier.medium).scope

    # ── a store ──────────────────────────────────────────────────────────────────────────────────────────────────

    def store(self, at: int) -> tuple[Store, float]:
        """One tier as the engine plays it, and what a block takes there [byte]."""
        tier = self.deployment.tiers[at]
        defaults = medium_defaults(tier.medium)
        scope, hosts = self.scope(tier), self.hosts()
        stores = {"private": list(range(self.ranks)), "host": hosts, "shared": [0] * self.ranks}[scope]
        copies = self.once() if (tier.copies or defaults.copies) == "once" else 1.0
        block = self.device_bytes() * self.width
        stored = block * copies
        capacity = self.capacity(at)
        blocks = int(min(capacity / len(set(stores)) // stored, MOST_BLOCKS))
        if blocks < 1:
            raise DoesNotFit(
                f"KV tier {tier.name}: {capacity / 1e9:,.4g} GB in {len(set(stores))} stores hold no block of "
                f"{stored / 1e6:,.4g} MB ({self.pool.limits.block_tokens} tokens)"
            )
        if tier.semantics == "load-store":
            self.must_reach_memory(at)
        names = [one.name for one in self.deployment.tiers]
        read, write, wait = self.lanes(at, tier, defaults, stored)
        return Store(
            tier.name, blocks, tuple(stores), tuple(read), tuple(write),
            latency_s=float(self.number(at, "latency") or 0.0) + wait,
            gateway=names.index(tier.gateway) if tier.gateway else -1,
            written="back" if tier.written == "back" else "through",
            uses=(tier.uses or SELECTIVE_USES) if tier.written == "selective" else 1,
            eviction=tier.eviction, prefetch=tier.prefetch, timeout_s=float(self.number(at, "timeout") or 0.0),
            failures=float(self.number(at, "failures") or 0.0),
        ), stored  # fmt: skip

    def must_reach_memory(self, at: int) -> None:
        """Refuse loads and stores where the scale-up fabric does not reach the memory of the hosts."""
        machine = self.site.machine
        if machine.scale_up.semantics != "load-store":
            raise SpecError(f"the scale-up fabric of {machine.name} sends messages: it has no loads and stores",
                            where=f"tiers.{at}.semantics", hint="write semantics: message")  # fmt: skip
        if self.number(at, "total") is None:
            self.host("fabric", at, "total")

    def link(self, tier: Tier) -> TierLink:
        """The link of a device that reads and writes of a tier occupy."""
        machine = self.site.machine
        if tier.link is not None:
            return tier.link
        above = next((one.medium for one in self.deployment.tiers if one.name == tier.gateway), None)
        if above == "pool":  # blocks travel between drives and memory of the hosts
            return "none"
        far: TierLink = "network" if machine.scale_out is not None else "host-link"
        if machine.host.fabric is not None:
            far = "scale-up"
        if tier.medium == "pool" or (
            tier.medium == "ssd" and self.scope(tier) == "shared" and self.hosts_of_the_machine > 1
        ):
            return far
        if tier.medium == "remote":
            return "network"
        return "none" if tier.gateway else "host-link"

    def link_rate(self, at: int, link: TierLink) -> tuple[float, float]:
        """Bandwidth of a link of one device, and the time of a message on it [byte/s, s]."""
        machine = self.site.machine
        if link == "host-link":
            return self.host("link", at, "read"), 0.0
        if link == "network" and machine.scale_out is None:
            raise SpecError(
                f"{machine.name} is one domain without a network, and the KV tier {self.named(at)} uses one",
                where=f"tiers.{at}.link", hint="write link: scale-up or host-link; or read and write of the tier",
            )  # fmt: skip
        wire = machine.scale_out if link == "network" and machine.scale_out is not None else machine.scale_up
        if not np.isfinite(wire.bandwidth):
            raise SpecError(f"{machine.name} has one device, which has no scale-up link", where=f"tiers.{at}.link",
                            hint="write link: host-link")  # fmt: skip
        return wire.bandwidth, wire.latency + wire.overhead

    def lanes(self, at: int, tier: Tier, defaults: TierMedium, stored: float) -> tuple[list[Lane], list[Lane], float]:
        """Lanes of reads and of writes of a tier, and the latency of its link [s].

        Parameters
        ----------
        stored : what a block takes in the store [byte]
        """
        device, block = self.device_bytes(), self.device_bytes() * self.width
        tokens = tier.transfer_tokens or self.site.engine.kv_block
        size = device / self.pool.limits.block_tokens * tokens
        if tier.layout == "layer":
            size /= max(_pieces(self.site.model) / self.role.parallel.pp, 1)
        read, write, wait = [], [], 0.0
        link = self.link(tier)
        if link != "none" or tier.read is not None:
            rates = list(self.device_rates(at, tier, defaults, link, size))
            (read_rate, write_rate), wait = (rates[0], rates[1]), rates[2]
            key = (tier.name,) if tier.read is not None and link == "none" else (link,)
            duplex = float(self.number(at, "duplex") or 1.0)
            if duplex > 0.5:  # noqa: PLR2004 - at one half, both directions share one link
                read.append(self.lane((*key, "read"), device / read_rate))
                write.append(self.lane((*key, "write"), device / write_rate))
            if duplex < 1:
                both = duplex * (read_rate + write_rate)
                read.append(self.lane((*key, "both"), device / both))
                write.append(self.lane((*key, "both"), device / both))
        total = self.medium_lane(at, tier)
        if total is not None:
            key_of, rate = total
            read.append(self.lane(key_of, block / rate))
            write.append(self.lane(key_of, stored / rate))
        if not read:
            raise SpecError(f"the KV tier {tier.name} has no bandwidth", where=f"tiers.{at}",
                            hint="write read and write, or total")  # fmt: skip
        return read, write, wait

    def device_rates(self, at: int, tier: Tier, defaults: TierMedium, link: TierLink, size: float) -> Iterator[float]:
        """Bandwidth of reads and of writes of one device [byte/s], and the latency of its link [s]."""
        if tier.read is not None and tier.write is not None:
            for name, curve in (("read", tier.read), ("write", tier.write)):
                self.take_curve(f"tiers.{at}.{name}", curve.numbers())
                yield curve.at(size)
            yield 0.0
            return
        bandwidth, wait = self.link_rate(at, link)
        curve = tier.efficiency or defaults.efficiency
        self.take_curve(f"tiers.{at}.efficiency", curve.numbers())
        rate = bandwidth * curve.at(size)
        yield from (rate, rate, wait)

    def medium_lane(self, at: int, tier: Tier) -> tuple[Callable[[int], tuple[object, ...]], float] | None:
        """The link inside the medium of a tier, which ranks share: its key for each rank, and its bandwidth [byte/s]."""
        hosts, given = self.hosts(), self.number(at, "total")
        if tier.medium == "remote":
            return None if given is None else (lambda _: ("remote", tier.name), given)
        if tier.medium == "pool":
            if given is None and self.link(tier) == "scale-up":
                given = self.host("fabric", at, "total") * self.hosts_of_the_machine
            return None if given is None else (lambda _: ("pool",), given)
        if tier.medium == "ssd":
            rate = self.host("ssd_bandwidth", at, "total") if given is None else given
            if self.scope(tier) == "shared":
                return (lambda _: ("ssd",)), rate * self.hosts_of_the_machine
            return (lambda rank: ("ssd", hosts[rank])), rate * self.hosts_of_a_rank
        rate_or_none = self.spare("dram_bandwidth") if given is None else given
        if rate_or_none is None:
            self.assumed["host.dram_bandwidth"] = Assumption(
                "host.dram_bandwidth", "no limit", "not published; links of the devices limit transfers"
            )
            return None
        return (lambda rank: ("memory", hosts[rank])), rate_or_none * self.hosts_of_a_rank

    def lane(self, key: tuple[object, ...] | Callable[[int], tuple[object, ...]], block_s: float) -> Lane:
        """A lane with a link for each rank.

        Parameters
        ----------
        key : key of the link of a rank; or a key that each rank has for itself
        block_s : time of one block on the link [s]
        """
        keys = [key(rank) if callable(key) else (*key, rank) for rank in range(self.ranks)]
        return Lane(tuple(self.numbers.setdefault(one, len(self.numbers)) for one in keys), block_s)
