"""What faults do: events for the engine, changes of step times, the effect of each fault, and states of instances."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenworks.simulation.fault_plan import PartFault
from tokenworks.simulation.variants import HEALTHY, Condition


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """An event for `Simulator.at`."""

    at_s: float
    kind: str
    index: int
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class CostChange:
    """From a time on, an instance has the step times of a condition."""

    at_s: float
    instance: int
    condition: Condition


@dataclass(slots=True)
class FaultEffect:
    """What a fault did.

    Parameters
    ----------
    fault : the fault
    devices : devices that stopped [count]
    lost : bandwidth that the instance which loses most lost, the larger share of both levels [-]
    instances : instances that stopped, or became slower
    ranks : ranks whose requests left, over all instances [count]
    noticed_s : time at which the requests of the ranks were handled; None: no rank was lost [s]
    down_s : time for which instances stood still, the sum over the instances [s]
    whole_s : time at which nothing of the fault was left [s]
    begun, ended : whether the part has failed, and whether it works again
    """

    fault: PartFault
    devices: int = 0
    lost: float = 0.0
    instances: set[int] = field(default_factory=set)
    ranks: int = 0
    noticed_s: float | None = None
    down_s: float = 0.0
    whole_s: float = 0.0
    begun: bool = False
    ended: bool = False


@dataclass(frozen=True, slots=True)
class InstanceState:
    """State of an instance at a moment.

    Parameters
    ----------
    instance : number of the instance in the engine
    role : name of its role
    ranks : dp ranks [count]
    live : ranks that the router uses [count]
    stopped : whether it stands still
    starting : whether its processes start
    condition : what its step times are computed for
    devices : numbers of its devices, each rank's devices in turn
    serving : numbers of the devices that work for requests now
    """

    instance: int
    role: str
    ranks: int
    live: int
    stopped: bool
    starting: bool
    condition: Condition
    devices: tuple[int, ...]
    serving: tuple[int, ...]

    @property
    def word(self) -> str:
        """The state in one word: running, degraded, stopped, lost or starting."""
        if self.starting:
            return "starting"
        if not self.live:
            return "lost"
        if self.stopped:
            return "stopped"
        return "running" if self.condition == HEALTHY and self.live == self.ranks else "degraded"
