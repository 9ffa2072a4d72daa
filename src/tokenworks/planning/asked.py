"""What `estimate` is asked: a deployment of a file, or the widths of one instance of a model on a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.legal.points import Setting
from tokenworks.planning.result import Plan
from tokenworks.planning.setting import setting_of, workload_of
from tokenworks.planning.why import read_role
from tokenworks.specs.calibration import DEFAULT, CalibrationLike
from tokenworks.specs.compose import On
from tokenworks.specs.deployment import Deployment, EngineName, Role
from tokenworks.specs.deployment_file import Deployed, pick_deployment
from tokenworks.specs.given import Assume, given
from tokenworks.specs.hf import ModelLike
from tokenworks.specs.load import WorkloadLike, is_path
from tokenworks.specs.workload import Workload

DeploymentLike = str | Path | Mapping[str, Any] | Deployment | Deployed | Plan
"""What names a deployment: a file of deployments, what it holds, a deployment, or a plan."""

LENGTHS = {"isl": 4000.0, "osl": 1000.0}
"""Mean lengths of requests where neither a workload nor lengths are given [token]."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Roles in a setting; calibration : as `load_calibration` takes it."""

    setting: Setting
    calibration: CalibrationLike
    roles: tuple[Role, ...]


@dataclass(frozen=True, slots=True)
class AskedRequests:
    """What requests are like: a workload, or mean lengths [token]; None is what was not given."""

    workload: WorkloadLike | None = None
    isl: float | None = None
    osl: float | None = None

    def read(self, recorded: Workload | None, assume: Assume) -> Workload:
        """What was asked for, else the workload that the deployments were planned for, else `LENGTHS`."""
        if self.workload is not None:
            return workload_of(self.workload, isl=self.isl, osl=self.osl, assume=assume)
        if recorded is not None and self.isl is None and self.osl is None:
            return workload_of(recorded, assume=assume)
        known = {"isl": recorded.isl, "osl": recorded.osl} if recorded else LENGTHS
        pairs = (("isl", self.isl), ("osl", self.osl))
        isl, osl = (known[name] if length is None else length for name, length in pairs)
        return workload_of(None, isl=isl, osl=osl, assume=assume)


def deployed_of(deployment: DeploymentLike, pick: int = 1) -> Deployed:
    """A deployment with all that it was planned with.

    Parameters
    ----------
    pick : which deployment of a file or of a plan, 1 is the best
    """
    if isinstance(deployment, Plan):
        return deployment.deployed(pick)
    return deployment if isinstance(deployment, Deployed) else pick_deployment(deployment, pick)


def holds_deployments(thing: ModelLike | DeploymentLike) -> bool:
    """Whether the first argument of `estimate` is a deployment rather than a model."""
    if isinstance(thing, (str, Path)):
        return is_path(thing) and str(thing).endswith((".yaml", ".yml"))
    if isinstance(thing, Mapping):
        return "deployments" in thing or "roles" in thing
    return isinstance(thing, (Deployment, Deployed, Plan))


def asked(
    thing: ModelLike | DeploymentLike, requests: AskedRequests, *, on: On | None = None, deploy: str | None = None,
    pick: int = 1, engine: EngineName | None = None, max_model_len: int | None = None, devices: int | None = None,
    assume: Assume = None, calibration: CalibrationLike | None = None,
) -> Asked:  # fmt: skip
    """Everything that `estimate` was given, read and checked.

    Parameters
    ----------
    thing : a model, with `on` and `deploy`; or a deployment
    deploy : widths and settings of one instance, such as "tp=8,dp=5,ep=40"
    pick : which deployment of a file or of a plan
    engine, max_model_len, assume, calibration : None is what the deployment was planned with, else the default

    Raises
    ------
    SpecError : anything wrong with what was given
    """
    if holds_deployments(thing):
        if deploy is not None:
            raise SpecError(f"{thing} holds deployments already", where="--deploy", hint="leave one of the two out")
        deployed = deployed_of(thing, pick)  # type: ignore[arg-type]
        return _of_deployment(
            deployed, requests, on=on, engine=engine, max_model_len=max_model_len, devices=devices, assume=assume,
            calibration=calibration,
        )  # fmt: skip
    if on is None or deploy is None:
        raise SpecError("a model needs --on and --deploy", hint='such as --on scalex40 --deploy "tp=8,dp=5,ep=40"')
    numbers = given(assume)
    wanted = requests.read(None, numbers)
    setting = setting_of(
        thing, on, engine or "vllm", wanted, numbers, max_model_len=max_model_len, devices=devices,  # type: ignore[arg-type]
    )  # fmt: skip
    return Asked(setting, DEFAULT if calibration is None else calibration, (_role(deploy, setting),))


def _of_deployment(
    deployed: Deployed, requests: AskedRequests, *, on: On | None, engine: EngineName | None,
    max_model_len: int | None, devices: int | None, assume: Assume, calibration: CalibrationLike | None,
) -> Asked:  # fmt: skip
    deployment = deployed.deployment
    numbers = deployed.given if assume is None else given(assume)
    if on is None and deployed.machine is not None and assume is None:  # its numbers are in place
        on, numbers = deployed.machine, tuple(item for item in numbers if item.area != "machine")
    on = deployment.system if on is None else on
    setting = setting_of(
        deployed.model or deployment.model, on, engine or deployment.engine,
        requests.read(deployed.workload, numbers), numbers, devices=devices,
        max_model_len=deployment.max_model_len if max_model_len is None else max_model_len,
    )  # fmt: skip
    return Asked(setting, deployed.calibration if calibration is None else calibration, deployment.roles)


def _role(text: str, setting: Setting) -> Role:
    try:
        return read_role(text, setting)
    except SpecError as error:
        raise SpecError(error.message, where="--deploy", hint=error.hint) from None
