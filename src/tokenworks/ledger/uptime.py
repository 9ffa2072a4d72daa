"""How much of the time a machine works and its best deployment serves, from the closed form: what `compare` shows."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenworks.costs import reliability as law
from tokenworks.errors import SpecError
from tokenworks.ledger.availability_capacity import bounded_share
from tokenworks.ledger.availability_form import MachineForm, closed_form
from tokenworks.ledger.availability_stand import stand_of
from tokenworks.simulation.run import Simulation
from tokenworks.simulation.variants import HEALTHY, Condition
from tokenworks.specs.compose import machine
from tokenworks.specs.given import Given
from tokenworks.specs.machine import Assumption, named
from tokenworks.specs.parts import PartKind, assumed_parts, part_counts, parts_of
from tokenworks.specs.reliability import Reliability


@dataclass(frozen=True, slots=True)
class SystemUptime:
    """Availability of a machine without its software.

    Parameters
    ----------
    whole : share of the time in which every part works [-]
    usable_devices : mean share of the devices that can be used [-]
    failures_per_year : failures of all parts [1/year]
    assumed : assumed rates, times and counts of parts
    """

    whole: float
    usable_devices: float
    failures_per_year: float
    assumed: tuple[Assumption, ...]


@dataclass(frozen=True, slots=True)
class DeploymentUptime:
    """Availability of a deployment.

    Parameters
    ----------
    serves : share of the time in which the deployment serves requests [-]
    capacity : mean capacity that failures leave / full capacity [-]
    cause : kind of part that takes the most capacity; None: nothing fails
    cause_share : share of the lost capacity that parts of this kind take [-]
    """

    serves: float
    capacity: float
    cause: PartKind | None
    cause_share: float


def system_uptime(name: str, numbers: Sequence[Given], rates: Reliability) -> SystemUptime:
    """Availability of a machine.

    Parameters
    ----------
    name : machine, as `--on` names it
    numbers : numbers that a user set for the machine
    rates : failure rates and times

    Raises
    ------
    SpecError : the parts of the machine cannot be counted
    """
    on = machine(name, assume=tuple(item for item in numbers if item.area == "machine"), needs=())
    parts = parts_of(on)
    form, counts = MachineForm(on, parts, rates), part_counts(parts)
    assumed = named(on.given, (*assumed_parts(on), *rates.assumed_for(on, counts)))
    return SystemUptime(float(form.whole()), form.devices(), form.failures_rate() * law.YEAR_S, tuple(assumed))


def deployment_uptime(run: Simulation, rates: Reliability) -> DeploymentUptime | None:
    """Availability of a simulated deployment; None: the parts of its machine cannot be counted.

    The closed form counts one failure at a time. The capacity of an instance with less bandwidth is the ratio of two
    roofline bounds (`availability_capacity.bounded_share`). `tokenworks availability` simulates both.

    Parameters
    ----------
    run : a simulation of the deployment
    rates : failure rates and times
    """

    @functools.cache
    def bounded(role: int, condition: Condition) -> float:
        return 1.0 if condition == HEALTHY else bounded_share(run, role, condition)

    def share(role: int, condition: Condition) -> float:
        return bounded(role, condition.rounded())

    try:
        stand = stand_of(run.deployment, run.site)
    except SpecError:  # the reason stands beside the machine, see `system_uptime`
        return None
    lost, outage = (closed_form(stand, rates, load_s=stand.load_s, share=share, outage=dead) for dead in (False, True))
    by_kind = {kind: float(taken) for kind, taken in lost.lost_by_kind().items()}
    cause = max(by_kind, key=lambda kind: by_kind[kind], default=None)
    total = sum(by_kind.values())
    known = cause if total else None
    return DeploymentUptime(
        serves=1 - float(outage.unavailability()), capacity=1 - float(lost.unavailability()), cause=known,
        cause_share=by_kind[known] / total if known else 0.0,
    )  # fmt: skip


def mix_capacity(capacities: Sequence[float], rates: Sequence[float], shares: Mapping[str, float]) -> float:
    """Mean capacity that failures leave to a machine that divides its time between models [-].

    With shares s, rates r and capacities c the machine serves 1 / sum(s / (r c)) tokens a second, without failures
    1 / sum(s / r). The result is the quotient.

    Parameters
    ----------
    capacities : capacity that failures leave to each model [-]
    rates : effective tokens per second of each model while the machine serves it alone [token/s]
    shares : model -> share of the effective tokens [-]
    """
    weights = [share / rate for share, rate in zip(shares.values(), rates, strict=True)]
    return sum(weights) / sum(weight / capacity for weight, capacity in zip(weights, capacities, strict=True))
