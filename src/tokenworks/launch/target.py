"""What a launch command leaves open: the model, the machine and the defaults of the engine on its devices."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.costs.activations import derived_share
from tokenworks.launch.dialect import Dialect
from tokenworks.legal.points import Setting
from tokenworks.planning.fit_search import EngineLimits, load_of
from tokenworks.planning.setting import must_run_on
from tokenworks.specs.compose import On, machine
from tokenworks.specs.engine import DEFAULT, Engine, load_engine, version_key
from tokenworks.specs.given import Assume, Given, given
from tokenworks.specs.hf import ModelLike, load_model
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model
from tokenworks.specs.workload import Workload

MEMORY = frozenset({"device.hbm.capacity"})
"""The numbers of a machine that a translation needs."""


@dataclass(frozen=True, slots=True)
class LaunchTarget:
    """Model, machine and engine of a launch.

    Parameters
    ----------
    model : the model
    machine : the machine
    engine : the engine, with the numbers of the version of the dialect
    """

    model: Model
    machine: Machine
    engine: Engine

    @property
    def in_fp32(self) -> bool:
        """Whether all matrices of the checkpoint are FP32. Engines would load such a checkpoint in 16 bits."""
        return all(matrix.format.name == "fp32" for block in self.model.blocks for matrix in block.matrices)

    @property
    def has_experts(self) -> bool:
        """Whether the model has routed experts."""
        return any(block.experts for block in self.model.blocks)

    @property
    def setting(self) -> Setting:
        """The setting for the memory model; its workload is one token."""
        return Setting(self.model, self.machine, self.engine, Workload(name="launch", isl=1, osl=1))

    @property
    def defaults(self) -> EngineLimits:
        """Token budget, sequences and graphs that the engine chooses for one rank on this device."""
        return load_of(self.setting)

    def memory_fraction(self, devices: int) -> float:
        """Share of the device memory that the engine takes if no flag says it [-].

        Parameters
        ----------
        devices : tp x pp devices of one rank [count]
        """
        load = self.defaults
        share = derived_share(
            self.engine, self.machine.hbm_bytes, chunk=load.chunk, graph_sequences=load.graph_sequences, devices=devices
        )
        return self.setting.memory_fraction if share is None else share


def target_of(model: ModelLike, on: On, dialect: Dialect | None, assume: Assume = None) -> LaunchTarget:
    """Read model, machine and engine of a launch.

    Parameters
    ----------
    model : as `load_model` takes it
    on : as `load_machine` takes it
    dialect : its engine and version; None: vLLM in any version
    assume : numbers that replace numbers of the catalog

    Raises
    ------
    SpecError : a name is unknown, or the engine does not run on the devices
    """
    numbers = given(assume)
    version: tuple[Given, ...] = ()
    if (
        dialect is not None
        and version_key(dialect.version)
        and not any(one.path == "engine.version" for one in numbers)
    ):
        version = (Given(path="engine.version", value=dialect.version, why=dialect.title),)
    engine = load_engine(dialect.engine if dialect else DEFAULT, assume=(*version, *numbers))
    whole = machine(on, assume=None if isinstance(on, Machine) else numbers, needs=MEMORY)
    if dialect is not None:
        must_run_on(engine, whole)
    return LaunchTarget(load_model(model), whole, engine)
