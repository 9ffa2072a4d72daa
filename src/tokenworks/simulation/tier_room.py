"""Numbers of KV tiers: what a deployment gives, defaults of the medium and the machine, and what fits the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

from tokenworks.errors import DoesNotFit, NotPublished, SpecError
from tokenworks.specs.deployment import Deployment, Role
from tokenworks.specs.machine import Assumption, Machine
from tokenworks.specs.provenance import Quantity
from tokenworks.specs.tier import Scope, Tier
from tokenworks.specs.tier_setup import medium_defaults


@dataclass(slots=True)
class TierRoom:
    """Numbers of the tiers of a deployment on a machine. It collects the assumed ones.

    Parameters
    ----------
    deployment : the deployment, with its tiers
    machine : its machine
    assumed : assumed numbers that were taken, by path
    """

    deployment: Deployment
    machine: Machine
    assumed: dict[str, Assumption] = field(default_factory=dict)

    @property
    def role(self) -> Role:
        """The role that uses the tiers."""
        return self.deployment.roles[0]

    @property
    def ranks(self) -> int:
        """Ranks of the role [count]."""
        return self.role.replicas * self.role.parallel.dp

    @property
    def width(self) -> int:
        """Devices of one rank [count]."""
        return self.role.parallel.tp * self.role.parallel.pp

    def hosts(self) -> list[int]:
        """Number of the first host of each rank."""
        per_host = self.machine.host.devices
        return [rank * self.width // per_host for rank in range(self.ranks)]

    @property
    def hosts_of_a_rank(self) -> float:
        """Hosts whose memory and drives one rank uses [count]."""
        return max(1.0, self.width / self.machine.host.devices)

    @property
    def hosts_of_the_role(self) -> float:
        """Hosts of all devices of the role; a part of a host counts as this part [count]."""
        return self.role.devices / self.machine.host.devices

    @property
    def hosts_of_the_machine(self) -> float:
        """Hosts of the machine [count]."""
        return self.machine.devices / self.machine.host.devices

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
                f"{self.machine.name} does not publish host.{name}, and the KV tier {self.named(at)} needs it",
                where=f"tiers.{at}", hint=f"give --set machine.host.{name}=... or --set tiers.{at}.{instead}=...",
            )  # fmt: skip
        return value

    def spare(self, name: str) -> float | None:
        """A number of a host of the machine that may be missing. An assumed one is listed."""
        host = self.machine.host
        path = f"host.{name}"
        self.assumed |= {one.path: one for one in host.assumed if one.path == path}
        return cast("float | None", getattr(host, name))

    def named(self, at: int) -> str:
        """Name of a tier, for messages."""
        return self.deployment.tiers[at].name

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
                    f"{self.machine.name} with {one_host / 1e12:,.4g} TB each have {one_host * hosts / 1e12:,.4g} "
                    f"TB. Take a smaller capacity, or give --set machine.host.{name}=..."
                )

    def scope(self, tier: Tier) -> Scope:
        """Which ranks share a store of a tier."""
        return tier.scope or medium_defaults(tier.medium).scope
