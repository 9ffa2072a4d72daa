"""What `estimate` is asked: a deployment of a file, or the widths of one instance of a model on a machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenworks.errors import SpecError
from tokenworks.legal.points import Setting
from tokenworks.planning.plan import workload_of
from tokenworks.planning.why import read_role
from tokenworks.specs.calibration import DEFAULT
from tokenworks.specs.compose import machine
from tokenworks.specs.context import with_max_model_len
from tokenworks.specs.deployment import EngineName, Role
from tokenworks.specs.deployment_file import load_assumed, load_calibration_of, load_workload_of, pick_deployment
from tokenworks.specs.engine import load_engine
from tokenworks.specs.hf import load_model
from tokenworks.specs.load import is_path
from tokenworks.specs.workload import Workload

LENGTHS = {"isl": 4000.0, "osl": 1000.0}
"""What is taken where neither a workload nor lengths are given [token]."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Roles in a setting; calibration : its name, or the path of its file."""

    setting: Setting
    calibration: str
    roles: tuple[Role, ...]


@dataclass(frozen=True, slots=True)
class AskedRequests:
    """What requests are like: a workload by name or file, or mean lengths [token]; None is what was not told."""

    workload: str | None = None
    isl: float | None = None
    osl: float | None = None

    def read(self, recorded: Workload | None) -> Workload:
        """What was asked for, else the workload that the deployments were planned for, else `LENGTHS`."""
        if self.workload is not None:
            return workload_of(self.workload, isl=self.isl, osl=self.osl)
        if recorded is not None and self.isl is None and self.osl is None:
            return recorded
        known = {"isl": recorded.isl, "osl": recorded.osl} if recorded else LENGTHS
        isl, osl = (known[name] if told is None else told for name, told in (("isl", self.isl), ("osl", self.osl)))
        return workload_of(None, isl=isl, osl=osl)


def asked(
    model: str, requests: AskedRequests, *, on: str | None = None, deploy: str | None = None, pick: int = 1,
    engine: EngineName | None = None, max_model_len: int | None = None, assume: Path | None = None,
    calibration: str | None = None,
) -> Asked:  # fmt: skip
    """Everything that `estimate` was given, read and checked.

    Parameters
    ----------
    model : a model, with `on` and `deploy`; or a file of deployments
    deploy : widths and settings of one instance, such as "tp=8,dp=5,ep=40"; pick : which deployment of the file
    engine, max_model_len, assume, calibration : None is what the file says, else the default

    Raises
    ------
    SpecError : anything wrong with what was given
    """
    if is_path(model) and model.endswith((".yaml", ".yml")):
        if deploy is not None:
            raise SpecError(f"{model} holds deployments already", where="--deploy", hint="leave one of the two out")
        deployment = pick_deployment(model, pick)
        setting = Setting(
            with_max_model_len(
                load_model(deployment.model), deployment.max_model_len if max_model_len is None else max_model_len
            ),
            machine(deployment.system if on is None else on, assume=assume or load_assumed(model)),
            load_engine(engine or deployment.engine),
            requests.read(load_workload_of(model)),
        )
        return Asked(setting, calibration or load_calibration_of(model), deployment.roles)
    if on is None or deploy is None:
        raise SpecError("a model needs --on and --deploy", hint='such as --on scalex40 --deploy "tp=8,dp=5,ep=40"')
    wanted = requests.read(None)
    limited = with_max_model_len(load_model(model), max_model_len)
    setting = Setting(limited, machine(on, assume=assume), load_engine(engine or "vllm"), wanted)
    return Asked(setting, calibration or DEFAULT, (_role(deploy, setting),))


def _role(text: str, setting: Setting) -> Role:
    try:
        return read_role(text, setting)
    except SpecError as error:
        raise SpecError(error.message, where="--deploy", hint=error.hint) from None
