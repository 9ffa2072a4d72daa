"""Input of `estimate`: a deployment from a file, or a model, a machine and the widths of one instance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.legal.points import Setting
from tokenworks.planning.result import Plan
from tokenworks.planning.setting import setting_of, with_memory_fraction, with_role_fraction, workload_of
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
"""Every form of a deployment: a file of deployments, the content of such a file, a deployment, or a plan."""

LENGTHS = {"isl": 4000.0, "osl": 1000.0}
"""Default mean lengths of requests, used if neither a workload nor lengths are given [token]."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What `estimate` must compute.

    Parameters
    ----------
    setting : model, machine, engine and workload
    calibration : as `load_calibration` takes it
    roles : the roles to estimate
    """

    setting: Setting
    calibration: CalibrationLike
    roles: tuple[Role, ...]


@dataclass(frozen=True, slots=True)
class AskedRequests:
    """Requests as the user described them; None: the user did not give it.

    Parameters
    ----------
    workload : as `load_workload` takes it
    isl, osl : mean input and output length of a request [token]
    """

    workload: WorkloadLike | None = None
    isl: float | None = None
    osl: float | None = None

    def read(self, recorded: Workload | None, assume: Assume) -> Workload:
        """The workload that the user gave, else the workload of the plan, else requests of the lengths `LENGTHS`.

        Parameters
        ----------
        recorded : workload that the deployments were planned for
        assume : numbers that the user set
        """
        if self.workload is not None:
            return workload_of(self.workload, isl=self.isl, osl=self.osl, assume=assume)
        if recorded is not None and self.isl is None and self.osl is None:
            return workload_of(recorded, assume=assume)
        known = {"isl": recorded.isl, "osl": recorded.osl} if recorded else LENGTHS
        pairs = (("isl", self.isl), ("osl", self.osl))
        isl, osl = (known[name] if length is None else length for name, length in pairs)
        return workload_of(None, isl=isl, osl=osl, assume=assume)


def deployed_of(deployment: DeploymentLike, pick: int = 1) -> Deployed:
    """A deployment together with the model, machine and workload it was planned for.

    Parameters
    ----------
    deployment : a file, the content of a file, a deployment, or a plan
    pick : position of the deployment in the file or in the plan, 1 is the best
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
    pick: int = 1, engine: EngineName | None = None, max_model_len: int | None = None,
    memory_fraction: float | None = None, devices: int | None = None, assume: Assume = None,
    calibration: CalibrationLike | None = None,
) -> Asked:  # fmt: skip
    """Read and check all arguments of `estimate`.

    Parameters
    ----------
    thing : a model, together with `on` and `deploy`; or a deployment
    requests : workload or lengths
    on : as `load_machine` takes it
    deploy : widths and settings of one instance, such as "tp=8,dp=5,ep=40"
    pick : position of the deployment in the file or in the plan, 1 is the best
    engine, max_model_len, assume, calibration : None: the value that the deployment was planned with, else the default
    memory_fraction : share of device memory that the engine takes; None: the value of the deployment, else the default
        of the engine [-]
    devices : number of devices of the machine to use; None: all [count]

    Raises
    ------
    SpecError : an argument is wrong
    """
    if holds_deployments(thing):
        if deploy is not None:
            raise SpecError(f"{thing} holds deployments already", where="--deploy", hint="leave one of the two out")
        deployed = deployed_of(thing, pick)  # type: ignore[arg-type]
        asked_for = _of_deployment(
            deployed, requests, on=on, engine=engine, max_model_len=max_model_len, devices=devices, assume=assume,
            calibration=calibration,
        )  # fmt: skip
        return asked_for if memory_fraction is None else _with_fraction(asked_for, memory_fraction)
    if on is None or deploy is None:
        raise SpecError("a model needs --on and --deploy", hint='such as --on scalex40 --deploy "tp=8,dp=5,ep=40"')
    numbers = with_memory_fraction(given(assume), memory_fraction)
    wanted = requests.read(None, numbers)
    setting = setting_of(
        thing, on, engine or "vllm", wanted, numbers, max_model_len=max_model_len, devices=devices,  # type: ignore[arg-type]
    )  # fmt: skip
    role = read_deploy(deploy, setting)
    setting = with_role_fraction(setting, role.memory_fraction)
    return Asked(setting, DEFAULT if calibration is None else calibration, (role,))


def _with_fraction(of: Asked, fraction: float) -> Asked:
    """The same with another share of device memory in the setting and in all roles."""
    with_memory_fraction((), fraction)  # checks it
    roles = tuple(role.model_copy(update={"memory_fraction": fraction}) for role in of.roles)
    return dataclasses.replace(of, setting=with_role_fraction(of.setting, fraction), roles=roles)


def _of_deployment(
    deployed: Deployed, requests: AskedRequests, *, on: On | None, engine: EngineName | None,
    max_model_len: int | None, devices: int | None, assume: Assume, calibration: CalibrationLike | None,
) -> Asked:  # fmt: skip
    deployment = deployed.deployment
    numbers = deployed.given if assume is None else given(assume)
    if on is None and deployed.machine is not None and assume is None:  # the machine has the assumed numbers already
        on, numbers = deployed.machine, tuple(item for item in numbers if item.area != "machine")
    on = deployment.system if on is None else on
    setting = setting_of(
        deployed.model or deployment.model, on, engine or deployment.engine,
        requests.read(deployed.workload, numbers), numbers, devices=devices,
        max_model_len=deployment.max_model_len if max_model_len is None else max_model_len,
    )  # fmt: skip
    return Asked(setting, deployed.calibration if calibration is None else calibration, deployment.roles)


def read_deploy(text: str, setting: Setting) -> Role:
    """The role that `--deploy` describes.

    Parameters
    ----------
    text : widths and settings of one instance, such as "tp=8,dp=5,ep=40"
    setting : model, machine and engine, with the defaults of what the text leaves out

    Raises
    ------
    SpecError : the text cannot be read
    """
    terms = [term.strip() for term in text.split(",")]
    shares = [term for term in terms if term.partition("=")[0] == "memory_fraction"]
    rest = ",".join(term for term in terms if term not in shares)
    try:
        role = read_role(rest, setting)
        return role if not shares else role.model_copy(update={"memory_fraction": _share(shares)})
    except SpecError as error:
        raise SpecError(error.message, where="--deploy", hint=error.hint) from None


def _share(terms: list[str]) -> float:
    """The number of `memory_fraction=0.9`."""
    if len(terms) > 1:
        raise SpecError("memory_fraction is given twice", where="--deploy", hint="keep one")
    text = terms[0].partition("=")[2]
    try:
        fraction = float(text)
    except ValueError:
        hint = "write memory_fraction=0.9"
        raise SpecError(f"memory_fraction={text} is not a number", where="--deploy", hint=hint) from None
    with_memory_fraction((), fraction)
    return fraction
