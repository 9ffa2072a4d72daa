"""KV tiers of a deployment in the form of the engine: blocks, stores, and links with the time of a block on each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tokenworks.costs.memory import cache_bytes
from tokenworks.costs.split import KV_BYTES, Split
from tokenworks.engine.tiers import Lane, Store, Tiers
from tokenworks.engine.types import Pool
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.simulation.steps import Site
from tokenworks.simulation.tier_room import TierRoom
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.machine import Assumption
from tokenworks.specs.model import Model, kv_bytes_per_token
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
    build = _Build(deployment, site, pool, TierRoom(deployment, site.machine))
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
    return BuiltTiers(engine, tuple(sizes), tuple(build.room.assumed.values()))


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
    room: TierRoom
    numbers: dict[tuple[object, ...], int] = field(default_factory=dict)

    # ── sizes ────────────────────────────────────────────────────────────────────────────────────────────────────

    def device_bytes(self) -> float:
        """Cache of one block on one device of a rank [byte]."""
        per_token = float(np.min(cache_bytes(self.site.model, Split.of(self.room.role))[0]))
        if per_token <= 0:
            raise SpecError(
                f"tokens of {self.site.model.name} add nothing to the KV cache, so a KV tier has nothing to hold",
                where="tiers", hint="leave tiers out",
            )  # fmt: skip
        return per_token * self.pool.limits.block_tokens

    def once(self) -> float:
        """Share of the cache of all devices of a rank that one copy needs [-]."""
        role, kv_bytes = self.room.role, KV_BYTES[self.room.role.kv_dtype]
        split = Split(tp=role.parallel.tp, pp=role.parallel.pp, kv_bytes=kv_bytes)
        device = float(np.min(cache_bytes(self.site.model, split)[0]))
        return min(1.0, kv_bytes_per_token(self.site.model, kv_bytes) / (device * self.room.width))

    # ── a store ──────────────────────────────────────────────────────────────────────────────────────────────────

    def store(self, at: int) -> tuple[Store, float]:
        """One tier as the engine plays it, and what a block takes there [byte]."""
        tier = self.deployment.tiers[at]
        defaults = medium_defaults(tier.medium)
        scope, hosts = self.room.scope(tier), self.room.hosts()
        stores = {"private": list(range(self.room.ranks)), "host": hosts, "shared": [0] * self.room.ranks}[scope]
        copies = self.once() if (tier.copies or defaults.copies) == "once" else 1.0
        block = self.device_bytes() * self.room.width
        stored = block * copies
        capacity = self.room.capacity(at)
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
            latency_s=float(self.room.number(at, "latency") or 0.0) + wait,
            gateway=names.index(tier.gateway) if tier.gateway else -1,
            written="back" if tier.written == "back" else "through",
            uses=(tier.uses or SELECTIVE_USES) if tier.written == "selective" else 1,
            eviction=tier.eviction, prefetch=tier.prefetch, timeout_s=float(self.room.number(at, "timeout") or 0.0),
            failures=float(self.room.number(at, "failures") or 0.0), survives=scope == "shared",
        ), stored  # fmt: skip

    def must_reach_memory(self, at: int) -> None:
        """Refuse loads and stores where the scale-up fabric does not reach the memory of the hosts."""
        machine = self.site.machine
        if machine.scale_up.semantics != "load-store":
            raise SpecError(f"the scale-up fabric of {machine.name} sends messages: it has no loads and stores",
                            where=f"tiers.{at}.semantics", hint="write semantics: message")  # fmt: skip
        if self.room.number(at, "total") is None:
            self.room.host("fabric", at, "total")

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
            tier.medium == "ssd" and self.room.scope(tier) == "shared" and self.room.hosts_of_the_machine > 1
        ):
            return far
        if tier.medium == "remote":
            return "network"
        return "none" if tier.gateway else "host-link"

    def link_rate(self, at: int, link: TierLink) -> tuple[float, float]:
        """Bandwidth of a link of one device, and the time of a message on it [byte/s, s]."""
        machine = self.site.machine
        if link == "host-link":
            return self.room.host("link", at, "read"), 0.0
        if link == "network" and machine.scale_out is None:
            raise SpecError(
                f"{machine.name} is one domain without a network, and the KV tier {self.room.named(at)} uses one",
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
        device, block = self.device_bytes(), self.device_bytes() * self.room.width
        tokens = tier.transfer_tokens or self.site.engine.kv_block
        size = device / self.pool.limits.block_tokens * tokens
        if tier.layout == "layer":
            size /= max(_pieces(self.site.model) / self.room.role.parallel.pp, 1)
        read, write, wait = [], [], 0.0
        link = self.link(tier)
        if link != "none" or tier.read is not None:
            rates = list(self.device_rates(at, tier, defaults, link, size))
            (read_rate, write_rate), wait = (rates[0], rates[1]), rates[2]
            key = (tier.name,) if tier.read is not None and link == "none" else (link,)
            duplex = float(self.room.number(at, "duplex") or 1.0)
            if duplex > 0.5:
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
                self.room.take_curve(f"tiers.{at}.{name}", curve.numbers())
                yield curve.at(size)
            yield 0.0
            return
        bandwidth, wait = self.link_rate(at, link)
        shares = tier.efficiency or defaults.efficiency
        self.room.take_curve(f"tiers.{at}.efficiency", shares.numbers())
        rate = bandwidth * shares.at(size)
        yield from (rate, rate, wait)

    def medium_lane(self, at: int, tier: Tier) -> tuple[Callable[[int], tuple[object, ...]], float] | None:
        """The link inside the medium of a tier, which ranks share: its key by rank, and its bandwidth [byte/s]."""
        hosts, given = self.room.hosts(), self.room.number(at, "total")
        if tier.medium == "remote":
            return None if given is None else (lambda _: ("remote", tier.name), given)
        if tier.medium == "pool":
            if given is None and self.link(tier) == "scale-up":
                given = self.room.host("fabric", at, "total") * self.room.hosts_of_the_machine
            return None if given is None else (lambda _: ("pool",), given)
        if tier.medium == "ssd":
            rate = self.room.host("ssd_bandwidth", at, "total") if given is None else given
            if self.room.scope(tier) == "shared":
                return (lambda _: ("ssd",)), rate * self.room.hosts_of_the_machine
            return (lambda rank: ("ssd", hosts[rank])), rate * self.room.hosts_of_a_rank
        rate_or_none = self.room.spare("dram_bandwidth") if given is None else given
        if rate_or_none is None:
            self.room.assumed["host.dram_bandwidth"] = Assumption(
                "host.dram_bandwidth", "no limit", "not published; links of the devices limit transfers"
            )
            return None
        return (lambda rank: ("memory", hosts[rank])), rate_or_none * self.room.hosts_of_a_rank

    def lane(self, key: tuple[object, ...] | Callable[[int], tuple[object, ...]], block_s: float) -> Lane:
        """A lane with a link for each rank.

        Parameters
        ----------
        key : key of the link of a rank; or a key that each rank has for itself
        block_s : time of one block on the link [s]
        """
        keys = [key(rank) if callable(key) else (*key, rank) for rank in range(self.room.ranks)]
        return Lane(tuple(self.numbers.setdefault(one, len(self.numbers)) for one in keys), block_s)
