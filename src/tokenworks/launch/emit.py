"""`tokenworks.emit`: a planned deployment becomes a folder of launch scripts, a benchmark and a scrape file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typing_extensions import TypedDict

from tokenworks.errors import SpecError
from tokenworks.launch.bench import BenchLoad, bench_script, load_of_bench, requests_of
from tokenworks.launch.commands import Launch, LaunchNames, launch_of
from tokenworks.launch.dialect import Dialect, load_dialect
from tokenworks.launch.expect import simulated
from tokenworks.launch.figures import Figure, expected_number, figures_of, memory_figures
from tokenworks.launch.folder import must_be_free, write_folder
from tokenworks.launch.scrape import scrape_config
from tokenworks.launch.scripts import readme, script, script_name
from tokenworks.launch.settle import must_be_of
from tokenworks.launch.target import LaunchTarget, target_of
from tokenworks.planning.asked import DeploymentLike, deployed_of
from tokenworks.planning.fit import fit_role
from tokenworks.planning.fit_search import EngineLimits, Width
from tokenworks.planning.setting import setting_of, with_role_fraction, workload_of
from tokenworks.specs.converted import converted_for
from tokenworks.specs.deployment import LAUNCHED_ENGINES, Deployment, Role
from tokenworks.specs.deployment_file import Deployed, Entry, document
from tokenworks.specs.given import Given
from tokenworks.specs.load import WorkloadLike
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs
from tokenworks.specs.shown import Record, Shown, flat
from tokenworks.specs.slo import Slo
from tokenworks.specs.workload import Workload

ACCURACY = {
    "kv": "accuracy: the KV cache is stored in FP8. It changes answers a little: compare the accuracy of your own "
    "tasks with a BF16 cache before you serve users. Without scales in the checkpoint the engine uses 1.0",
    "drafts": "accuracy: draft tokens are verified by the model, so answers keep their distribution. Speed depends on "
    "how many drafts are accepted: compare the acceptance in the log with the calibration",
}
"""What a user must know of settings that can change answers."""


class EmittedFile(TypedDict):
    """A file of a launch.

    file : name in the folder
    host : host that the file is for; None: any
    role : role of the command; None: the file is no command of a role
    figures : figures that the file should reach
    """

    file: str
    host: str | None
    role: str | None
    figures: list[Annotated[Plain, FormOf(Figure)]]


class EmitBody(TypedDict):
    """The plain form of `emit`.

    dialect : version of the engine
    settled_deployment : the deployment as the dialect runs it
    files : files of the folder
    """

    inputs: Inputs
    notes: list[str]
    dialect: str
    settled_deployment: Annotated[Plain, FormOf(Deployment)]
    files: list[EmittedFile]


@dataclass(frozen=True, slots=True, repr=False)
class Emitted(Shown):
    """A launch with all its files.

    Parameters
    ----------
    launch : commands of all hosts
    files : name -> text
    figures : name of a file -> figures that it should reach
    notes : what a reader must know
    given : numbers that the user set
    """

    launch: Launch
    files: Mapping[str, str]
    figures: Mapping[str, Sequence[Figure]]
    notes: tuple[str, ...]
    given: tuple[Given, ...] = ()

    @property
    def headline(self) -> str:
        """The launch in one line."""
        launch = self.launch
        return f"{launch.deployment} on {launch.deployment.system}, {launch.dialect.title}: {len(self.files)} files"

    def to_records(self) -> list[Record]:
        """The figures, one a record, with their files."""
        return [flat(dataclasses.asdict(one), file=name) for name, every in self.figures.items() for one in every]

    def save(self, out: str | Path) -> None:
        """Write the folder, completely or not at all.

        Parameters
        ----------
        out : a folder that does not exist, is empty, or holds only what `emit` wrote

        Raises
        ------
        SpecError : the folder holds other files, or cannot be written
        """
        must_be_free(Path(out))
        write_folder(Path(out), self.files)

    def plain(self) -> Plain:
        """The whole answer as plain data, without the texts of the files."""
        launch, scripts = self.launch, {script_name(one, self.launch): one for one in self.launch.commands}
        body: EmitBody = {
            "inputs": inputs(
                model=launch.deployment.model, machine=launch.deployment.system, engine=launch.deployment.engine,
                given=self.given,
            ),
            "notes": list(self.notes),
            "dialect": launch.dialect.name,
            "settled_deployment": launch.deployment.model_dump(mode="json"),
            "files": [
                {
                    "file": name,
                    "host": launch.host_of(scripts[name]) if name in scripts else None,
                    "role": scripts[name].role if name in scripts else None,
                    "figures": [dataclasses.asdict(one) for one in self.figures.get(name, ())],
                }
                for name in self.files
            ],
        }  # fmt: skip
        return envelope("emit", body)


def emit(
    deployment: DeploymentLike,
    out: str | Path | None = None,
    *,
    pick: int = 1,
    dialect: str | None = None,
    hosts: Sequence[str] = (),
    model_path: str | None = None,
    workload: WorkloadLike | None = None,
    rate: float | None = None,
    concurrency: float | None = None,
    requests: int | None = None,
    seed: int = 0,
    command: str = "tokenworks.emit",
) -> Emitted:
    """Write the launch commands of a deployment, a benchmark of its workload, and a scrape file.

    Parameters
    ----------
    deployment : YAML file of deployments, a dict with its contents, a `Deployment`, or the result of `plan`
    out : folder for the files; None: nothing is written
    pick : number of the deployment in the file or the plan; 1 is the first one
    dialect : version of the engine, such as vllm-0.33.0 or sglang-das-0.5.12; None: the newest one for the device
    hosts : names or addresses of the hosts; empty: node-0, node-1, ...
    model_path : folder or id that the engine loads the weights from; None: the model of the deployment
    workload : workload that bench.sh sends; None: the workload of the plan
    rate : requests per second of bench.sh; None: the rate of the workload, else the rate that the plan expects [1/s]
    concurrency : requests in flight of bench.sh, instead of a rate [count]
    requests : number of requests of bench.sh; None: about five minutes of them [count]
    seed : seed of the requests
    command : how the files are written, for the README

    Raises
    ------
    SpecError : an argument is wrong, the engine cannot run the deployment, or the folder holds other files
    DoesNotFit : the deployment does not fit the memory of the devices
    """
    if out is not None:
        must_be_free(Path(out))
    deployed = deployed_of(deployment, pick)
    load = _asked_load(deployed, workload, rate=rate, concurrency=concurrency, requests=requests, seed=seed)
    emitted = _emitted(deployed, load, dialect_name=dialect, hosts=hosts, model_path=model_path, command=command)
    if out is not None:
        write_folder(Path(out), emitted.files)
    return emitted


def dialect_for(deployment: Deployment, family: str, name: str | None) -> Dialect:
    """The dialect of a launch.

    Parameters
    ----------
    deployment : its engine decides
    family : family of the devices
    name : name of the dialect that the user asks for; None: the newest one for the devices

    Raises
    ------
    SpecError : no such dialect, or none of the engine of the deployment
    """
    if name is not None:
        chosen = load_dialect(name)
        must_be_of(chosen, deployment.engine)
        return chosen
    lines = {("sglang", "hygon"): "sglang-das", ("vllm", "cpu"): "vllm-cpu"}
    own = [line for (engine, begin), line in lines.items() if engine == deployment.engine and family.startswith(begin)]
    if deployment.engine not in LAUNCHED_ENGINES:
        hint = (
            "pick a deployment of vLLM or SGLang in the file (--pick N), or plan with --engine vllm or --engine sglang"
        )
        raise SpecError(
            f"the deployment is for {deployment.engine}, which emit cannot write", where="engine", hint=hint
        )
    return load_dialect(own[0] if own else deployment.engine)


def _asked_load(
    deployed: Deployed, workload: WorkloadLike | None, *, rate: float | None, concurrency: float | None,
    requests: int | None, seed: int,
) -> BenchLoad | None:  # fmt: skip
    """The load of bench.sh; None: the file has no workload, and the user names none."""
    if requests is not None and requests < 1:
        raise SpecError(f"{requests} requests", where="--requests", hint="write 1 or more")
    if workload is None and deployed.workload is None:
        if rate is not None or concurrency is not None:
            raise SpecError("a load without a workload", where="--rate", hint="name the requests with --workload")
        return None
    asked: Workload = workload_of(deployed.workload if workload is None else workload)
    expected = expected_number(deployed.expected, "requests_s") if workload is None else None
    return load_of_bench(asked, expected, rate=rate, concurrency=concurrency, requests=requests, seed=seed)


def _emitted(
    deployed: Deployed, load: BenchLoad | None, *, dialect_name: str | None, hosts: Sequence[str],
    model_path: str | None, command: str,
) -> Emitted:  # fmt: skip
    deployment = deployed.deployment
    base = target_of(deployed.model or deployment.model, deployed.machine or deployment.system, None, deployed.given)
    dialect = dialect_for(deployment, base.machine.family, dialect_name)
    target = target_of(base.model, base.machine, dialect, deployed.given)
    widths: dict[str, Width] = {role.name: _memory(role, deployment, deployed, target) for role in deployment.roles}
    weights = model_path or _weights(deployment.model)
    names = LaunchNames(weights, _served(deployment.model), hosts)
    shares = load is not None and load.workload.hit_share > 0
    kv = {name: width.kv for name, width in widths.items()}
    launch = launch_of(deployment, target, dialect, names, shares_prefixes=shares, kv_bytes=kv)
    notes = [*launch.notes, *_accuracy(launch.deployment), *_about(deployed, target, dialect, widths)]
    if load is not None and not deployed.expected:
        expected, remarks = simulated(dataclasses.replace(deployed, deployment=launch.deployment), load)
        deployed = dataclasses.replace(deployed, expected=expected)
        notes += remarks
    if not deployed.expected:
        notes.append("there are no predictions: the file has none, and no workload to simulate")
    starts: dict[str, Sequence[Figure]] = {
        name: memory_figures(width, dialect.engine) for name, width in widths.items()
    }
    files: dict[str, str] = {}
    purposes: dict[str, str] = {}
    figures: dict[str, Sequence[Figure]] = {}
    for one in launch.commands:
        name = script_name(one, launch)
        figures[name] = starts.get(one.role, ()) if one.node == 0 else ()
        files[name] = script(one, launch, figures[name])
        purposes[name] = "starts the router" if one.role == "router" else f"starts a node of the {one.role} role"
    served: tuple[Figure, ...] = ()
    slo = Slo.of("")
    if load is not None:
        slo = Slo.of(load.workload.slo)
        served = figures_of(deployed.expected, slo, load.workload.osl, dialect.engine)
        requests, block = requests_of(load)
        files["requests.jsonl"] = requests
        purposes["requests.jsonl"] = f"the requests of `bench.sh`, {load.words}"
        files["bench.sh"] = bench_script(launch, weights, load, block, served)
        purposes["bench.sh"] = f"measures with the client of the engine: {load.words}"
        figures["bench.sh"] = served
        notes += _load_notes(load, dialect)
    else:
        notes.append("bench.sh is missing: the file has no workload; give --workload with --rate or --concurrency")
    files["prometheus.yml"] = scrape_config(launch, served)
    purposes["prometheus.yml"] = "scrape file of Prometheus, with the same figures as queries"
    files["deployment.yaml"] = _deployment_file(launch.deployment, deployed)
    purposes["deployment.yaml"] = (
        "the deployment as it is started: for `tokenworks simulate`, `estimate` and `plan --why`"
    )
    files["README.md"] = readme(launch, purposes, figures, notes, command)
    return Emitted(launch, files, figures, tuple(dict.fromkeys(notes)), deployed.given)


def _memory(role: Role, deployment: Deployment, deployed: Deployed, target: LaunchTarget) -> Width:
    """The memory of one instance, by the memory model; a role that does not fit is an error."""
    request = Workload(name="emit", isl=1, osl=1)
    numbers = tuple(item for item in deployed.given if item.area != "machine")
    setting = setting_of(
        target.model, target.machine, deployment.engine, request, numbers, max_model_len=deployment.max_model_len
    )
    setting = with_role_fraction(dataclasses.replace(setting, engine=target.engine), role.memory_fraction)
    ranks = role.parallel.dp
    defaults = target.defaults
    limits = EngineLimits(
        max(role.chunk_tokens // ranks, 1), max(role.max_sequences // ranks, 1), setting.model.max_context,
        defaults.graph_sequences,
    )  # fmt: skip
    return fit_role(setting, role, limits).widths[0]


def _weights(model: str) -> str:
    """What the engine loads: an id, or the folder of a config.json."""
    return str(Path(model).parent) if model.endswith(".json") else model


def _served(model: str) -> str:
    """The name of the model in requests. SGLang accepts no colon in it."""
    weights = _weights(model)
    is_folder = weights.startswith((".", "/", "~")) or Path(weights).exists()
    return (Path(weights).name if is_folder else weights).replace(":", "-")


def _accuracy(deployment: Deployment) -> list[str]:
    notes = [ACCURACY["kv"]] if any(role.kv_dtype == "fp8" for role in deployment.roles) else []
    return [*notes, ACCURACY["drafts"]] if any(role.draft_tokens for role in deployment.roles) else notes


def _about(deployed: Deployed, target: LaunchTarget, dialect: Dialect, widths: Mapping[str, Width]) -> list[str]:
    """What a reader must know of the model, the memory and the devices."""
    deployment, notes = deployed.deployment, []
    longest = deployment.max_model_len or target.model.max_context
    for name, width in widths.items():
        if width.concurrency < 1:
            notes.append(
                f"{name}: one rank holds {width.rank_tokens:,.0f} tokens, and the longest request has {longest:,}: set "
                "max_model_len, or the engine may refuse to start"
            )
    for role in deployment.roles:
        derived = target.memory_fraction(role.parallel.tp * role.parallel.pp)
        if target.engine.memory.derived is not None and role.memory_fraction > derived:
            notes.append(
                f"{role.name}: memory_fraction {role.memory_fraction:g} is above {derived:g}, which "
                f"{target.engine.title} derives for this device: take less if a step runs out of memory"
            )
    idle = target.machine.devices - deployment.devices
    if idle > 0:
        notes.append(f"{idle} of {target.machine.devices} devices of {deployment.system} stay free")
    if any(role.redundant_experts for role in deployment.roles):
        notes.append(
            "redundant experts: the engine moves them while it runs, from the load of the experts that it counts; the "
            "prediction holds after the first moves"
        )
    converted = converted_for(target.model, target.machine).converted
    if converted:
        notes.append(f"weights: {converted}; name their folder with --model-path")
    if dialect.engine == "vllm" and target.machine.family.startswith("hygon"):
        notes.append("Hygon's build of vLLM has flags of its own, which no dialect lists: see the recipes of Hygon")
    return notes


def _load_notes(load: BenchLoad, dialect: Dialect) -> list[str]:
    notes = []
    if load.workload.think_time:
        notes.append(
            "bench.sh sends the turns of a session at the times of the simulation, and does not wait for the answer "
            "before"
        )
    if dialect.engine == "sglang":
        notes.append(
            "bench.sh: the client of SGLang reads text, so prompts are words of about one token each; lengths are "
            "right within a few per cent. It sends requests with Poisson arrivals"
        )
    return notes


def _deployment_file(deployment: Deployment, deployed: Deployed) -> str:
    """The settled deployment as a file for other commands, with the inputs of the plan."""
    import yaml

    given: dict[str, Any] = {}
    if isinstance(deployed.calibration, str):
        given["calibration"] = deployed.calibration
    if deployed.given:
        given["assumed"] = [item.model_dump() for item in deployed.given]
    if deployed.workload is not None:
        given["workload"] = deployed.workload.model_dump(mode="json")
        given["slo"] = deployed.workload.slo
    entry = Entry(rank=1, deployment=deployment, expected=dict(deployed.expected))
    return yaml.safe_dump(document([entry], given), sort_keys=False)
