"""`tokenworks.import_training`: the launch of a training run becomes a training deployment."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typing_extensions import TypedDict

from tokenworks.errors import SpecError, UnknownName
from tokenworks.launch.importing import SECRET, Understood
from tokenworks.launch.read.source import LaunchPath
from tokenworks.launch.read.training import TrainingFlag, TrainingText, is_training_launch, read_training_launch
from tokenworks.launch.reasons import Unread
from tokenworks.launch.training_meaning import TrainingMeaning, training_meaning
from tokenworks.launch.training_table import TITLES, TrainingRow, look_up, training_reason, value_of
from tokenworks.specs.compose import machine
from tokenworks.specs.hf import load_model, model_names
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs
from tokenworks.specs.shown import Record, Shown
from tokenworks.specs.training import Training, TrainingDeployment
from tokenworks.specs.training_text import KEYS, load_training, training_document, training_text

MODEL, ON = "--model", "--on"

NAMED_MODELS = 4
"""Models of the catalog with the sizes of a launch that a note names [count]."""

TITAN_MODELS = {
    "llama3 8b": "meta-llama/Meta-Llama-3.1-8B", "llama3 70b": "meta-llama/Meta-Llama-3.1-70B",
    "llama3 405b": "meta-llama/Meta-Llama-3.1-405B", "deepseek_v3 671b": "deepseek-ai/DeepSeek-V3",
    "qwen3 8b": "Qwen/Qwen3-8B", "qwen3 32b": "Qwen/Qwen3-32B", "qwen3 30b-a3b": "Qwen/Qwen3-30B-A3B",
    "qwen3 235b-a22b": "Qwen/Qwen3-235B-A22B", "gpt_oss 120b": "openai/gpt-oss-120b",
    "gpt_oss 20b": "openai/gpt-oss-20b",
}  # fmt: skip
"""Name and flavor of a model in torchtitan -> id in the catalog."""


class ImportTrainingBody(TypedDict):
    """The plain form of an import of a training launch.

    text : the deployment in the short form of --deploy
    """

    inputs: Inputs
    source: str
    framework: str
    deployment: Annotated[Plain, FormOf(TrainingDeployment)]
    text: str
    understood: list[Annotated[Plain, FormOf(Understood)]]
    unread: list[Annotated[Plain, FormOf(Unread)]]
    environment: list[str]
    notes: list[str]


@dataclass(frozen=True, slots=True, repr=False)
class ImportedTraining(Shown):
    """The answer of `import_training`.

    Parameters
    ----------
    deployment : the training deployment that the launch starts
    launch : the flags, and where they come from
    understood : flags that have a place in the deployment
    unread : flags that have none, each with the reason
    notes : sentences for the reader
    """

    deployment: TrainingDeployment
    launch: TrainingText
    understood: tuple[Understood, ...]
    unread: tuple[Unread, ...]
    notes: tuple[str, ...] = ()

    @property
    def training(self) -> Training:
        """The settings of the run."""
        return self.deployment.training

    @property
    def headline(self) -> str:
        """The import in one line."""
        one = self.deployment
        return (
            f"{one.model} on {one.system} with {TITLES[self.launch.framework]}: {one.training}; "
            f"{len(self.understood)} flags understood, {len(self.unread)} without a place"
        )

    def to_records(self) -> list[Record]:
        """The flags, one a record."""
        rows = [{"flag": one.flag, "value": one.value, "read_as": one.thing, "where": one.where}
                for one in self.understood]  # fmt: skip
        return [*rows, *({"flag": one.flag, "value": one.value, "read_as": "", "where": one.where}
                         for one in self.unread)]  # fmt: skip

    def document(self) -> Plain:
        """The file of a training deployment that other commands read."""
        return training_document(self.deployment)

    def plain(self) -> Plain:
        """The whole answer as plain data."""
        one = self.deployment
        body: ImportTrainingBody = {
            "inputs": inputs(model=one.model, machine=one.system),
            "source": self.launch.where,
            "framework": TITLES[self.launch.framework],
            "deployment": one.model_dump(mode="json"),
            "text": training_text(one.training),
            "understood": [dataclasses.asdict(item) for item in self.understood],
            "unread": [dataclasses.asdict(item) for item in self.unread],
            "environment": list(self.launch.environment),
            "notes": list(self.notes),
        }
        return envelope("import-training", body)


def trains(sources: Sequence[LaunchPath]) -> bool:
    """Whether launch commands or files start a training run.

    Parameters
    ----------
    sources : command lines and files
    """
    return len(sources) == 1 and is_training_launch(sources[0])


def import_training(
    source: LaunchPath, *, on: str | None = None, model: str | None = None, variables: Mapping[str, str] | None = None
) -> ImportedTraining:
    """Read the launch of a training run into a training deployment. Nothing is executed.

    Parameters
    ----------
    source : a command line that starts Megatron-LM, Megatron-Bridge, torchtitan or DeepSpeed; or the path of a shell
        script, of YAML of Megatron, of TOML of torchtitan, or of JSON of DeepSpeed
    on : machine; a launch does not name it
    model : model; None: the launch names it, or its sizes are those of one model of the catalog
    variables : values of variables that a script does not set

    Raises
    ------
    SpecError : the launch cannot be read or contradicts itself; a name is unknown
    """
    launch = read_training_launch(source, variables)
    if on is None:
        hint = "name it, such as --on 16xhgx-h100"
        raise SpecError("a launch of a training run does not name the machine", where=ON, hint=hint)
    rows, unread = _rows(launch)
    said = {row.key: value_of(row, one.flag, one.value, one.where) for one, row in rows}
    bridge = launch.framework == "megatron" and Path(launch.where).suffix in (".yaml", ".yml")
    devices = machine(on).devices
    meaning = training_meaning(launch.framework, said, devices, launch.where, bridge=bridge)
    if meaning.devices is not None and meaning.devices > devices:
        raise SpecError(f"the launch starts {meaning.devices} devices, and {on} has {devices}", where=ON,
                        hint="name a larger machine")  # fmt: skip
    notes = [*launch.notes, *meaning.notes]
    name = model or _model(meaning, launch.where, notes)
    load_model(name)
    training = load_training(_nested(meaning.settings), devices=meaning.devices or devices, where=launch.where)
    if (used := training.parallel.devices) < devices:
        notes.append(f"The run takes {used} of the {devices} devices of {on}.")
    deployment = TrainingDeployment(model=name, system=str(on), training=training)
    return ImportedTraining(deployment, launch, tuple(_understood(rows)), tuple(unread), tuple(notes))


def _rows(launch: TrainingText) -> tuple[list[tuple[TrainingFlag, TrainingRow]], list[Unread]]:
    """The flags with a place, and those without one. A later flag replaces an earlier one of the same meaning."""
    rows: dict[str, tuple[TrainingFlag, TrainingRow]] = {}
    unread: list[Unread] = []
    for one in launch.flags:
        row = look_up(one.flag, launch.framework)
        if row is None:
            kind, reason = training_reason(one.flag)
            value = "(not shown)" if SECRET.search(one.flag.replace("_", "-")) else one.value
            unread.append(Unread(one.flag, value, reason, kind, one.where))
        else:
            rows.pop(row.key, None)
            rows[row.key] = (one, row)
    return list(rows.values()), unread


def _understood(rows: Sequence[tuple[TrainingFlag, TrainingRow]]) -> Iterator[Understood]:
    for one, row in rows:
        yield Understood(one.flag, one.value, row.thing, one.where)


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Training` from keys of the short form."""
    data: dict[str, Any] = {}
    for key, value in settings.items():
        path = KEYS[key]
        place = data
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value
    return data


# ── the model ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _model(meaning: TrainingMeaning, where: str, notes: list[str]) -> str:
    """The model that a launch names, or the first one of the catalog with the sizes of the launch."""
    if meaning.model:
        named = TITAN_MODELS.get(meaning.model.lower(), meaning.model)
        try:
            return load_model(named).name
        except UnknownName as error:
            raise SpecError(f"the launch trains {meaning.model!r}, which is no model of the catalog", where=where,
                            hint=f"name the model: {MODEL} ID; {error.hint}") from None  # fmt: skip
    if {"num_layers", "hidden_size"} <= set(meaning.shape):
        alike = list(itertools.islice((name for name in model_names() if _has(name, meaning.shape)), NAMED_MODELS))
        if alike:
            others = f"; so have {', '.join(alike[1:4])}" if alike[1:] else ""
            notes.append(f"The sizes of the launch are those of {alike[0]}{others} ({MODEL}).")
            return alike[0]
    raise SpecError("does not name the model, and no model of the catalog has its sizes", where=where,
                    hint=f"name the model: {MODEL} ID, or {MODEL} config.json")  # fmt: skip


def _has(name: str, shape: Mapping[str, int]) -> bool:
    """Whether a model of the catalog has the sizes that a launch states. Models that cannot be computed have none."""
    try:
        model = load_model(name)
    except SpecError:
        return False
    experts = max((block.experts.count for block in model.blocks if block.experts), default=0)
    sizes = {"num_layers": model.layers, "hidden_size": model.hidden, "num_experts": experts, "heads": model.heads}
    return all(sizes[key] == value for key, value in shape.items()) and bool(experts) == ("num_experts" in shape)
