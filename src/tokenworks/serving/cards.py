"""Metrics of the simulated machine: cards with the names of Hygon's exporter (use, power, memory), and KV tiers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenworks.engine.outcome import PoolCounts
from tokenworks.simulation.energy import used

if TYPE_CHECKING:
    from tokenworks.serving.build import ServedDeployment
    from tokenworks.serving.driver import Driver

LEAST_S = 0.5
"""Shortest time that a mean is taken over [s]."""


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

    def _measure(self) -> tuple[list[float], float | None]:
        """Busy share of each role since the last scrape, and the mean power of a card [-, W]."""
        now, pools = self._driver.simulator.now, self._driver.simulator.counts().pools
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

    def tier_lines(self) -> Iterable[str]:
        """Hits and bytes of each KV tier below HBM, in the text format of Prometheus."""
        names = [store.name for store in self._served.cluster.tiers.stores]
        counts = self._driver.simulator.counts().tiers
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

    def lines(self) -> Iterable[str]:
        """Use, power and memory of each card, in the text format of Prometheus."""
        shares, watts = self._measure()
        machine, pools = self._served.site.machine, self._driver.simulator.counts().pools
        series: dict[str, tuple[str, list[float]]] = {
            "hcu_utilizationrate": ("Share of time in steps, in percent.", []),
            "hcu_usedmemory_bytes": ("Memory in use.", []),
            "hcu_memorycap_bytes": ("Memory.", []),
        }
        if watts is not None and machine.tdp is not None:
            series["hcu_power_usage"] = ("Power.", [])
            series["hcu_powercap"] = ("Power limit.", [])
        for role, share, counts, (fixed, kv) in zip(
            self._served.deployment.roles, shares, pools, self._memory, strict=True
        ):
            held = fixed + kv * counts.kv_used / max(counts.kv_total, 1)
            values = {
                "hcu_utilizationrate": 100 * share, "hcu_usedmemory_bytes": held,
                "hcu_memorycap_bytes": machine.hbm_bytes, "hcu_power_usage": watts, "hcu_powercap": machine.tdp,
            }  # fmt: skip
            for name, (_, figures) in series.items():
                value = values[name]
                assert value is not None
                figures.extend([float(value)] * role.devices)
        for name, (text, figures) in series.items():
            yield f"# HELP {name} {text} (simulated)"
            yield f"# TYPE {name} gauge"
            for card, value in enumerate(figures):
                yield f'{name}{{device_id="{card}",minor_number="{card}",name="{machine.name}"}} {value!r}'
