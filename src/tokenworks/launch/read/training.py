"""Launches of training frameworks become flags with their values: command lines, scripts, YAML, TOML and JSON.

Nothing is executed. A launch is a command that starts `pretrain_*.py` or a script of Megatron, `torchtitan.train` or
`deepspeed`; or a file: YAML of Megatron-LM or Megatron-Bridge, TOML of torchtitan, JSON of DeepSpeed.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.launch.command import Command
from tokenworks.launch.read.programs import Start
from tokenworks.launch.read.shell import read_shell
from tokenworks.launch.read.source import COMMAND, LaunchPath, path_of, read_text
from tokenworks.launch.read.yaml_text import documents, line_of, walked
from tokenworks.launch.training_table import TABLES, TITLES, TrainingFramework

LAUNCHERS = ("torchrun", "deepspeed", "python", "python3", "accelerate")
"""Programs whose own options stand before the training script."""

MEGATRON_SCRIPT = re.compile(r"(^|/)(pretrain_\w+|train_gpt|run_script|run_recipe|pretrain|finetune_\w+)\.py$")
TITAN_SCRIPT = re.compile(r"(^|/)(torchtitan/train|train)\.py$")
TITAN_MODULE = "torchtitan.train"
LOOKS_LIKE = re.compile(
    r"\bpretrain_\w+\.py|\btorchtitan\b|(^|[\s/])deepspeed\s|--deepspeed|tensor-model-parallel-size|--job\.config"
)
"""A script or command line with one of these starts a training run."""

DEEPSPEED_KEYS = {"train_batch_size", "train_micro_batch_size_per_gpu", "zero_optimization"}
TITAN_KEYS = {"parallelism", "training", "activation_checkpoint"}
MOST_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class TrainingFlag:
    """One flag of a launch, or one key of a file.

    Parameters
    ----------
    flag : the flag as the launch spells it; the path of a key with dots
    value : its value as text; empty: it has none
    where : file and line
    """

    flag: str
    value: str
    where: str


@dataclass(frozen=True, slots=True)
class TrainingText:
    """The flags of a launch, and where they come from.

    Parameters
    ----------
    framework : the framework whose flags they are
    flags : the flags in their order; a later flag replaces an earlier one with the same name
    where : file of the text, or "command"
    environment : environment variables that the launch sets
    notes : sentences for the user
    """

    framework: TrainingFramework
    flags: tuple[TrainingFlag, ...]
    where: str
    environment: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def is_training_launch(source: LaunchPath) -> bool:
    """Whether a source starts a training run.

    Parameters
    ----------
    source : a command line or a file, as `read_training_launch` takes it
    """
    path = path_of(source)
    if path is None:
        return bool(LOOKS_LIKE.search(str(source)))
    kind = path.suffix.lower()
    if kind == ".toml":
        return True
    if kind == ".csv":
        return False
    text = read_text(path)
    if kind == ".json":
        return any(f'"{key}"' in text for key in DEEPSPEED_KEYS)
    if kind in (".yaml", ".yml"):
        return "tensor_model_parallel_size" in text or "--tensor-model-parallel-size" in text or (
            "pipeline_model_parallel_size" in text
        )  # fmt: skip
    return bool(LOOKS_LIKE.search(text))


def read_training_launch(source: LaunchPath, given: Mapping[str, str] | None = None) -> TrainingText:
    """Read the flags of a launch. A file that the launch names with its flag for settings is read, too.

    Parameters
    ----------
    source : a command line, or the path of a shell script or of a YAML, TOML or JSON file
    given : values of variables that a script does not set

    Raises
    ------
    SpecError : the text cannot be read, or starts no training run
    """
    path = path_of(source)
    if path is None:
        return _of_shell(str(source), COMMAND, Path(), given)
    text, where = read_text(path), str(path)
    match path.suffix.lower():
        case ".toml":
            return TrainingText("torchtitan", tuple(_of_toml(text, where)), where)
        case ".json":
            return TrainingText("deepspeed", tuple(_of_json(text, where)), where)
        case ".yaml" | ".yml":
            return TrainingText("megatron", tuple(_of_yaml(text, where)), where)
    return _of_shell(text, where, path.parent, given)


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_toml(text: str, where: str) -> Iterator[TrainingFlag]:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"is no TOML: {error}", where=where, hint="give a job file of torchtitan") from None
    if not TITAN_KEYS & set(data):
        raise SpecError(f"has none of the tables {', '.join(sorted(TITAN_KEYS))}", where=where,
                        hint="give a job file of torchtitan")  # fmt: skip
    yield from _leaves(data, where)


def _of_json(text: str, where: str) -> Iterator[TrainingFlag]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(
            f"is no JSON: {str(error)[:80]}", where=where, hint="give a configuration of DeepSpeed"
        ) from None
    if not isinstance(data, dict) or not DEEPSPEED_KEYS & set(data):
        raise SpecError(f"has none of the keys {', '.join(sorted(DEEPSPEED_KEYS))}", where=where,
                        hint="give a configuration of DeepSpeed")  # fmt: skip
    yield from _leaves(data, where)


def _leaves(data: Mapping[str, Any], where: str) -> Iterator[TrainingFlag]:
    """Every value of nested tables with its path."""
    waiting: list[tuple[str, Any]] = list(data.items())[::-1]
    count = 0
    while waiting:
        path, value = waiting.pop()
        count += 1
        if count > MOST_KEYS:
            raise SpecError(f"holds more than {MOST_KEYS:,} keys", where=where, hint="no launch file is that large")
        if isinstance(value, dict):
            waiting += [(f"{path}.{key}", inner) for key, inner in reversed(value.items())]
        elif value != "auto":  # DeepSpeed: the script decides
            text = json.dumps(value) if isinstance(value, (list, bool)) or value is None else str(value)
            yield TrainingFlag(str(path), text, where)


def _of_yaml(text: str, where: str) -> Iterator[TrainingFlag]:
    """Values of all mappings. A key is a flag, such as `--seq-length`, or a name, such as `seq_length`."""
    for document in documents(text, where):
        for path, mapping in walked(document, where):
            for key, value in mapping.items():
                if isinstance(value, dict):
                    continue
                words = " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
                name = key if str(key).startswith("--") else ".".join((*path, str(key)))
                yield TrainingFlag(name, words, f"{where}:{line_of(value) if value is not None else line_of(mapping)}")


# ── command lines and scripts ─────────────────────────────────────────────────────────────────────────────────────


def start_of_training(words: Sequence[str], where: str) -> Start | None:  # noqa: ARG001 - as `start_of`
    """Where a training script starts in the words of a command; None: nowhere.

    Parameters
    ----------
    words : all words of a command, without assignments in front
    where : file and line, for messages
    """
    launcher = next((PurePosixPath(word).name for word in words if PurePosixPath(word).name in LAUNCHERS), "")
    for at, word in enumerate(words):
        following = tuple(words[at + 1 :])
        if word == TITAN_MODULE or (TITAN_SCRIPT.search(word) and "torchtitan" in word):
            return Start("torchtitan", (word,), following, tuple(words[:at]))
        if MEGATRON_SCRIPT.search(word):
            framework = "deepspeed" if launcher == "deepspeed" or "--deepspeed_config" in following else "megatron"
            return Start(framework, (word,), following, tuple(words[:at]))
        if word.endswith(".py") and (
            launcher == "deepspeed" or any(one.startswith("--deepspeed") for one in following)
        ):
            return Start("deepspeed", (word,), following, tuple(words[:at]))
        if re.search(r"(^|/)run_train\.sh$", word):
            return Start("torchtitan", (word,), following, tuple(words[:at]))
    return None


def _of_shell(text: str, where: str, folder: Path, given: Mapping[str, str] | None) -> TrainingText:
    launched: list[Start] = []

    def starts(words: Sequence[str], place: str) -> Start | None:
        start = start_of_training(words, place)
        if start is None:
            return None
        launched.append(start)
        return replace(start, program=(start.engine, *start.program), arguments=(*start.before, *start.arguments))

    read = read_shell(text, where, given=given, starts=starts)
    if not read.commands:
        hint = "it must start pretrain_*.py of Megatron, torchtitan.train, or a script with deepspeed"
        raise SpecError("holds no command that starts a training run", where=where, hint=hint)
    if len({command.program for command in read.commands}) > 1:
        raise SpecError(
            f"starts {len(read.commands)} training runs", where=where, hint="give a script with one of them"
        )
    command = read.commands[-1]
    framework = next(name for name in TABLES if name == command.program[0])
    flags = [*_variables(command), *_flags(command)]
    flags = [*_named_files(flags, framework, folder), *flags]
    return TrainingText(framework, tuple(flags), where, tuple(command.environment), read.notes)


def _variables(command: Command) -> Iterator[TrainingFlag]:
    """Variables that give the number of devices: NGPU of torchtitan's run_train.sh."""
    for name in ("NGPU", "CONFIG_FILE"):
        if name in command.environment:
            flag = "--ngpu" if name == "NGPU" else "--job.config_file"
            yield TrainingFlag(flag, command.environment[name], command.where)


def _flags(command: Command) -> Iterator[TrainingFlag]:
    """The flags of a command: `--flag value`, `--flag=value`, and `path.key=value` as hydra writes it."""
    words = command.arguments
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if re.fullmatch(r"--?[A-Za-z][\w.-]*(=.*)?", word):
            flag, equals, value = word.partition("=")
            values = [value] if equals else []
            while not equals and at < len(words) and not re.match(r"--?[A-Za-z]|[\w.]+\.py$|[\w.]+=", words[at]):
                values.append(words[at])
                at += 1
            yield TrainingFlag(flag, " ".join(values), command.where)
        elif re.fullmatch(r"\+{0,2}[A-Za-z_][\w.]*=.*", word):
            key, _, value = word.lstrip("+").partition("=")
            yield TrainingFlag(key, value, command.where)


FILES = {
    "megatron": ("--yaml-cfg", "--config-file", "--config_file"),
    "torchtitan": ("--job.config_file", "--job.config-file"),
    "deepspeed": ("--deepspeed_config", "--deepspeed", "--deepspeed-config", "--ds_config"),
}  # fmt: skip
"""Flags of each framework that name a file of settings."""


def _named_files(flags: Sequence[TrainingFlag], framework: TrainingFramework, folder: Path) -> Iterator[TrainingFlag]:
    """The settings of the files that a command names. Flags of the command replace them."""
    for one in flags:
        if one.flag not in FILES[framework] or not one.value:
            continue
        path = folder / one.value
        if not path.is_file():
            raise SpecError(
                f"{one.flag} names {one.value}, and the file is not there", where=one.where,
                hint="put the file beside the script, or give the file itself",
            )  # fmt: skip
        read = read_training_launch(path)
        if read.framework != framework:
            raise SpecError(f"{one.flag} names {one.value}, a file of {TITLES[read.framework]}", where=one.where,
                            hint=f"name a file of {TITLES[framework]}")  # fmt: skip
        yield from read.flags
