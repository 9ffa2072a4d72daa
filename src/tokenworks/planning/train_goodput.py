"""Goodput of a training run on a machine: checkpoints, failures, and the speed on the devices that a failure leaves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tokenworks.costs import reliability as law
from tokenworks.costs.train_memory import STATES
from tokenworks.costs.train_plan import BYTES, TrainPlans
from tokenworks.costs.train_weights import adapter_weights
from tokenworks.specs.calibration import number
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model, draft_parameters, parameters
from tokenworks.specs.reliability import Reliability
from tokenworks.specs.training import Training

HOUR = 3600.0
AfterFailure = Literal["elastic", "spare", "wait"]
"""What a run does after a failure that takes a part out of service: it goes on with the devices that are left; a spare
takes the place of the part; or it waits for the repair."""


@dataclass(frozen=True, slots=True)
class Goodput:
    """Share of its time in which a run makes progress that it keeps.

    Parameters
    ----------
    share : the share for the policy `after` [-]
    after : what the run does after a lost part
    mtbf_s : mean time between failures of the run; None: it never fails [s]
    checkpoint_bytes : size of a checkpoint [byte]
    write_s : time for which a checkpoint stops the run [s]
    interval_s : best time of work between two checkpoints (Daly); None: the run never fails [s]
    restart_s : time from a failure to the next step [s]
    spare, wait : the share with a spare for each lost part, and of a run that waits for the repair [-]
    elastic : the share of a run that goes on with the devices that are left; None: no plan fits them [-]
    rest_devices : devices that such a run uses; None: no plan fits [count]
    rest_speed : speed of such a run / speed on all devices; None: no plan fits [-]
    """

    share: float
    after: AfterFailure
    mtbf_s: float | None
    checkpoint_bytes: float
    write_s: float
    interval_s: float | None
    restart_s: float
    spare: float
    wait: float
    elastic: float | None
    rest_devices: int | None
    rest_speed: float | None


def goodput(
    model: Model,
    machine: Machine,
    training: Training,
    rates: Reliability,
    *,
    after: AfterFailure,
    storage: float | None = None,
    rest: tuple[int, float] | None = None,
) -> Goodput:
    """The goodput of a run.

    Parameters
    ----------
    model, machine : the model, and the machine with its hosts
    training : the plan: devices in use, and dtypes of the optimiser
    rates : failure rates, and times after a failure
    after : what the run does after a lost part; "elastic" without a plan for the rest waits for the repair
    storage : bandwidth at which all hosts together write a checkpoint; None: that of `rates` for each host [byte/s]
    rest : devices, and speed / speed on all devices, of a run on what a failure leaves; None: no plan fits
    """
    devices = training.parallel.devices
    hosts = math.ceil(devices / machine.host.devices)
    failures = law.failure_rate(
        devices, hosts, per_device=number(rates.device_failures) / HOUR, per_host=number(rates.host_failures) / HOUR
    )
    size = checkpoint_size(model, training)
    write = size / (number(rates.storage) * hosts if storage is None else storage)
    mtbf = 1 / failures if failures else math.inf
    interval, restart = law.daly_interval(write, mtbf), number(rates.restart)
    working = law.working_share(interval, write, restart, mtbf)
    lost, repair = failures * number(rates.lost), number(rates.repair)
    shares = {
        "spare": working,
        "wait": law.waiting_share(working, lost, repair),
        "elastic": None if rest is None else law.elastic_share(working, rest[1], lost, repair),
    }
    used: AfterFailure = "wait" if after == "elastic" and rest is None else after
    share = shares[used]
    assert share is not None
    return Goodput(
        share=share, after=used, mtbf_s=mtbf if failures else None, checkpoint_bytes=size, write_s=write,
        interval_s=interval if failures else None, restart_s=restart, spare=working, wait=shares["wait"] or 0.0,
        elastic=shares["elastic"], rest_devices=rest[0] if rest else None, rest_speed=rest[1] if rest else None,
    )  # fmt: skip


def checkpoint_size(model: Model, training: Training) -> float:
    """Size of a checkpoint of a run: weights, copy of the optimiser and its states, of what the run trains [byte].

    Parameters
    ----------
    model : the model
    training : method, precision and optimiser
    """
    optimiser = training.optimiser
    states = STATES[optimiser.name] * (1.0 if optimiser.name == "adam-8bit" else BYTES[optimiser.states])
    trained = float(parameters(model) + (draft_parameters(model) if training.draft_layers else 0))
    if training.method.name == "lora":
        whole = Training(method=training.method, seq_len=training.seq_len)
        trained = float(np.max(adapter_weights(model, TrainPlans.of(whole), 0)))
    wide = training.precision.recipe == "fp32"
    master = 0.0 if wide or optimiser.master is None else BYTES[optimiser.master]
    return law.checkpoint_bytes(trained, weights=4.0 if wide else 2.0, master=master, states=states)


def machines_used(machine: Machine) -> Iterator[Machine]:
    """The machines that a run may use: all devices; and the largest power of two of devices in each domain.

    Widths are mostly powers of two, so runs on domains of 72 use 64 of them.

    Parameters
    ----------
    machine : the whole machine
    """
    yield machine
    domains, round_number = machine.devices // machine.domain, 1 << (machine.domain.bit_length() - 1)
    if domains > 1 and round_number < machine.domain:
        yield dataclasses.replace(machine, devices=domains * round_number, domain=round_number)


def machines_left(machine: Machine) -> Iterator[Machine]:
    """The machines that a lost device leaves: one device less in each domain, or one domain less.

    All domains of a run have the same number of devices, so a device that is lost in one of them idles one in each.

    Parameters
    ----------
    machine : the whole machine
    """
    domains = machine.devices // machine.domain
    if machine.domain > 1:
        less = machine.domain - 1
        scale_out = machine.scale_out if domains > 1 else None
        yield dataclasses.replace(machine, devices=less * domains, domain=less, scale_out=scale_out)
    if domains > 1:
        scale_out = machine.scale_out if domains > 2 else None
        yield dataclasses.replace(machine, devices=machine.domain * (domains - 1), scale_out=scale_out)
