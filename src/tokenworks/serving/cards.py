"""Metrics of the simulated machine: cards with the names of Hygon's exporter (use, power, memory), and KV tiers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenworks.engine.outcome import Counts, PoolCounts
from tokenworks.engine.tiers import TierCounts
from tokenworks.simulation.energy import used
from tokenworks.simulation.layout import device_layout

if TYPE_CHECKING:
    from tokenworks.serving.build import ServedDeployment
    from tokenworks.serving.driver import Driver

LEAST_S = 0.5
"""Shortest time that a mean is taken over [s]."""
IDLE_C, FULL_C = 35.0, 75.0
"""Temperature of a card without power and at its power limit [degree Celsius]. Both are assumed: nobody has published
temperatures of these cards. Between them, the temperature is linear in the power."""
_NAMES = {
    "hcu_utilizationrate": "Share of time in steps, in percent.",
    "hcu_usedmemory_bytes": "Memory in use.",
    "hcu_memorycap_bytes": "Memory.",
    "hcu_power_usage": "Power.",
    "hcu_powercap": "Power limit.",
    "hcu_temp": f"Temperature, assumed: {IDLE_C:g} C without power, {FULL_C:g} C at the power limit.",
    "hcu_ce_count": "Errors of the memory that were corrected: not modelled, always 0.",
    "hcu_throttle": "Whether the clock is throttled: not modelled, always 0.",
}
"""Name of a metric in Hygon's exporter -> help."""


class Cards:
    """The cards of a deployment between two scrapes. All cards of a role have the same figures.

    Parameters
    ----------
    served : the deployment
    driver : the engine on a real clock
    """

    def __init__(self, served: ServedDeployment, driver: Driver) -> None:
        self._served, self._driver = served, driver
        self._before: tuple[float, tuple[PoolCounts, ...]] = (0.0, driver.simulator.counts().pools)
        self._means: tuple[list[float], float | None] = ([0.0] * len(served.deployment.roles), None)
        self._memory = served.memory_bytes()
        self._places = device_layout(served.deployment, served.site.machine).places

    def _measure(self, now: float, pools: tuple[PoolCounts, ...]) -> tuple[list[float], float | None]:
        """Busy share of each role since the last scrape, and the mean power of a card [-, W]."""
        then, earlier = self._before
        if now == then or (then and now - then < LEAST_S):  # the first scrape has no earlier figures to repeat
            return self._means
        if any(pool.steps < before.steps for pool, before in zip(pools, earlier, strict=True)):  # the cache was flushed
            self._before = (now, pools)
            return self._means
        since = [pool.since(before) for pool, before in zip(pools, earlier, strict=True)]
        self._before = (now, pools)
        roles = self._served.deployment.roles
        busy = [
            min(1.0, counts.busy_s / (role.replicas * (now - then))) for role, counts in zip(roles, since, strict=True)
        ]
        watts = used(roles, since, self._served.site, now - then).watts(self._served.site)
        self._means = (busy, watts)
        return self._means

    def tier_lines(self, counts: tuple[TierCounts, ...]) -> Iterable[str]:
        """Hits and bytes of each KV tier below HBM, in the text format of Prometheus."""
        names = [store.name for store in self._served.cluster.tiers.stores]
        if not names:
            return
        size = self._served.block_bytes
        series = {
            "tokenworks_kv_tier_hit_blocks_total": ("counter", "Blocks that a KV tier served.", "hit_blocks", 1.0),
            "tokenworks_kv_tier_read_bytes_total": ("counter", "Bytes read from a KV tier.", "read_blocks", size),
            "tokenworks_kv_tier_written_bytes_total": ("counter", "Bytes written to a tier.", "written_blocks", size),
            "tokenworks_kv_tier_used_bytes": ("gauge", "Bytes that a KV tier holds.", "used", size),
            "tokenworks_kv_tier_capacity_bytes": ("gauge", "Capacity of a KV tier.", "total", size),
        }
        for name, (kind, text, counter, factor) in series.items():
            yield f"# HELP {name} {text} (simulated)"
            yield f"# TYPE {name} {kind}"
            for tier, own in zip(names, counts, strict=True):
                yield f'{name}{{tier="{tier}"}} {getattr(own, counter) * factor!r}'

    def lines(self, counts: Counts) -> Iterable[str]:
        """Use, power, temperature and memory of each card that works, in the text format of Prometheus."""
        pools, machine = counts.pools, self._served.site.machine
        shares, watts = self._measure(counts.now_s, pools)
        faults = self._driver.faults
        names = dict(_NAMES)
        if watts is None or machine.tdp is None:
            for name in ("hcu_power_usage", "hcu_powercap", "hcu_temp"):
                del names[name]
        values: list[dict[str, float]] = []
        for share, pool, (fixed, kv) in zip(shares, pools, self._memory, strict=True):
            values.append({
                "hcu_utilizationrate": 100 * share,
                "hcu_usedmemory_bytes": fixed + kv * pool.kv_used / max(pool.kv_total, 1),
                "hcu_memorycap_bytes": machine.hbm_bytes, "hcu_ce_count": 0.0, "hcu_throttle": 0.0,
            })  # fmt: skip
            if watts is not None and machine.tdp is not None:
                celsius = IDLE_C + (FULL_C - IDLE_C) * watts / machine.tdp
                values[-1] |= {"hcu_power_usage": watts, "hcu_powercap": machine.tdp, "hcu_temp": celsius}
        cards = [
            (f'{{device_id="{device}",minor_number="{device}",name="{machine.name}"}}', place.role)
            for device, place in enumerate(self._places)
            if place is not None and (faults is None or faults.works(device))
        ]
        for name, text in names.items():
            yield f"# HELP {name} {text} (simulated)"
            yield f"# TYPE {name} gauge"
            if cards:
                texts = [repr(float(own[name])) for own in values]
                yield "\n".join([f"{name}{labels} {texts[role]}" for labels, role in cards])
