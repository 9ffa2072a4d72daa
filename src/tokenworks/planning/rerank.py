"""The best estimates, simulated: estimates say which are worth a simulation, simulations say which is best."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from tokenworks.errors import SloMissed
from tokenworks.planning.costing import OfferedLoad
from tokenworks.planning.result import Plan, Ranked, SimulatedPlain
from tokenworks.simulation.capacity import Try, capacity
from tokenworks.simulation.run import Simulation, simulate
from tokenworks.simulation.source import Source
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.deployment_file import Deployed

Play = Callable[[Deployment, float], Simulation]


@dataclass(frozen=True, slots=True)
class Simulated:
    """A ranked deployment with what its simulation showed.

    estimated : its row of the plan, by the rank it had there; seen : the load that was simulated, and what came of it
    charged : devices that effective tokens are counted over, idle ones too where the plan was for a whole machine
    """

    rank: int
    estimated: Ranked
    seen: Try
    charged: int

    @property
    def effective_tok_s_per_device(self) -> float:
        """Output tokens of requests that met the SLO, per charged device; none where the promise was not kept [1/s]."""
        held = self.seen.effective_tok_s_per_device if self.seen.held else 0.0
        return held * self.estimated.devices / self.charged

    def plain(self) -> SimulatedPlain:
        """As plain data."""
        seen = self.seen
        return {
            "rank": self.rank,
            "estimated_rank": self.estimated.rank,
            "label": str(self.estimated.deployment),
            "load": seen.load,
            "held": seen.held,
            "missed": list(seen.missed),
            "ttft_ms": seen.ttft_ms,
            "tpot_ms": seen.tpot_ms,
            "request_throughput": seen.request_throughput,
            "output_tok_s_per_device": seen.output_tok_s_per_device,
            "effective_tok_s_per_device": self.effective_tok_s_per_device,
        }


def simulated(found: Plan, *, say: Callable[[str], None] | None = None) -> Plan:
    """The plan with its deployments simulated on requests of its workload, and ranked by what that shows.

    A plan that meets nothing stays as it is: nothing of it is worth a simulation.
    """
    if not found.meets_slo:
        return dataclasses.replace(found, simulated=())
    setting = found.setting
    source = Source(setting.workload)
    users = found.load is not None and found.load.kind == "concurrency"

    def play(deployment: Deployment, load: float) -> Simulation:
        traffic = source.traffic(concurrency=load) if users else source.traffic(rate=load)
        return simulate(
            Deployed(deployment, setting.given, found.calibration, model=setting.model, machine=setting.machine),
            traffic,
            slo=found.slo,
        )

    seen = rerank(found.deployments, play, found.load, say=say)
    rows = tuple(dataclasses.replace(item.estimated, rank=item.rank) for item in seen)
    return dataclasses.replace(found, deployments=rows, simulated=seen)


def rerank(
    rows: tuple[Ranked, ...], play: Play, load: OfferedLoad | None, *, say: Callable[[str], None] | None = None
) -> tuple[Simulated, ...]:
    """Rank by effective tokens per device as simulated.

    With a load, each is simulated under it; without one, at the highest rate that it holds within the SLO, found by
    bisection from its estimate.

    Parameters
    ----------
    play : simulates a deployment at a load: requests a second, or users where `load` is a concurrency
    say : told what is simulated next
    """
    found: list[Simulated] = []
    for row in rows:
        if say:
            say(f"simulating {row.deployment} ({len(found) + 1} of {len(rows)})")
        found.append(Simulated(0, row, _seen(row, play, load), row.devices if load else row.devices + row.idle_devices))
    found.sort(key=lambda item: (-item.effective_tok_s_per_device, item.estimated.rank))
    return tuple(dataclasses.replace(item, rank=rank) for rank, item in enumerate(found, 1))


def _seen(row: Ranked, play: Play, load: OfferedLoad | None) -> Try:
    if load is not None:
        return Try.of(load.value, play(row.deployment, load.value))
    try:
        return capacity(lambda rate: play(row.deployment, rate), "rate", start=row.requests_s).best
    except SloMissed:
        return Try.of(row.requests_s, play(row.deployment, row.requests_s))
