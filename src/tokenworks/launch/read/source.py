"""A file or a command line becomes launch commands: the form of the text decides which reader reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.launch.command import Command
from tokenworks.launch.dialect import DialectEngine, dialects
from tokenworks.launch.read.manifests import is_compose, read_compose, read_kubernetes
from tokenworks.launch.read.recipe import read_flags, read_recipe, recipe_names
from tokenworks.launch.read.shell import read_shell
from tokenworks.launch.read.yaml_text import documents
from tokenworks.specs import files
from tokenworks.specs.files import is_there
from tokenworks.specs.load import MAX_BYTES

LaunchPath = str | Path
"""A command line, or the path of a file."""

COMMAND = "command"
"""Name of a text that is no file, in messages."""

RECIPE = "--recipe"

_YAML = (".yaml", ".yml", ".json")
_HINT = "it must start vLLM (`vllm serve`, python -m vllm.entrypoints.openai.api_server) or SGLang (`sglang serve`, "
_HINT += "python -m sglang.launch_server)"


@dataclass(frozen=True, slots=True)
class LaunchText:
    """Launch commands and where they come from.

    Parameters
    ----------
    commands : commands that start engines and routers
    where : file of the text, or "command"
    notes : sentences for the user
    dialect : name of the dialect that the text names; empty: it names none
    title : the text in words
    """

    commands: tuple[Command, ...]
    where: str
    notes: tuple[str, ...] = ()
    dialect: str = ""
    title: str = ""


def read_launches(
    sources: Sequence[str | Path], *, recipe: str | None = None, given: Mapping[str, str] | None = None,
    engine: DialectEngine | None = None,
) -> LaunchText:  # fmt: skip
    """Read the launch commands of several texts that start one deployment together; parameters as in `read_launch`."""
    if not sources:
        raise SpecError("is empty", where=COMMAND, hint="give a launch command, or a file")
    if len(sources) == 1:
        return read_launch(sources[0], recipe=recipe, given=given, engine=engine)
    read = [read_launch(source, recipe=recipe, given=given, engine=engine, router_alone=True) for source in sources]
    return LaunchText(
        tuple(command for one in read for command in one.commands), ", ".join(one.where for one in read),
        tuple(dict.fromkeys(note for one in read for note in one.notes)),
        next((one.dialect for one in read if one.dialect), ""),
    )  # fmt: skip


def read_launch(
    source: str | Path, *, recipe: str | None = None, given: Mapping[str, str] | None = None,
    engine: DialectEngine | None = None, router_alone: bool = False,
) -> LaunchText:  # fmt: skip
    """Read the launch commands of a command line or of a file.

    Parameters
    ----------
    source : a command line, or the path of a shell script, Compose file, Kubernetes manifest, YAML recipe or table of
        recipes
    recipe : id of a recipe in a table
    given : values of variables that the text does not set
    engine : engine whose flags the keys of a YAML recipe are; None: the recipe says it
    router_alone : whether a text that starts a router alone is right, since other texts start the engines

    Raises
    ------
    SpecError : the text cannot be read, or starts no engine
    """
    path = path_of(source)
    if path is None:
        if recipe is not None:
            raise SpecError("names a recipe of a table", where=RECIPE, hint="give the CSV file of the table")
        launch = _of_shell(str(source), COMMAND, given)
        folder = Path()
    else:
        launch, folder = _of_file(path, recipe, given, engine), path.parent
    if not any(router_alone or command.role != "router" for command in launch.commands):
        raise SpecError("holds no launch command of an engine", where=launch.where, hint=_HINT)
    return dataclasses.replace(launch, commands=tuple(_with_config(command, folder) for command in launch.commands))


def path_of(source: LaunchPath) -> Path | None:
    """The path that a source is; None: it is a command line.

    Parameters
    ----------
    source : a command line, or a path
    """
    if isinstance(source, Path):
        return source
    words = source.split()
    if len(words) != 1 and not (len(source) < 1024 and "\n" not in source and is_there(source)):
        if not words:
            raise SpecError("is empty", where=COMMAND, hint="give a launch command, or a file")
        return None
    return Path(source)


def _of_shell(text: str, where: str, given: Mapping[str, str] | None) -> LaunchText:
    read = read_shell(text, where, given=given)
    return LaunchText(read.commands, where, read.notes)


def _of_file(
    path: Path, recipe: str | None, given: Mapping[str, str] | None, engine: DialectEngine | None
) -> LaunchText:  # fmt: skip
    where, text = str(path), read_text(path)
    if path.suffix.lower() == ".csv":
        if recipe is None:
            names = recipe_names(text, where)
            hint = f"give one with {RECIPE}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
            raise SpecError(f"holds {len(names)} recipes", where=where, hint=hint)
        of_table = read_recipe(text, recipe, where)
        return LaunchText(of_table.commands, f"{where}: {recipe}", (), of_table.dialect, of_table.title)
    if recipe is not None:
        raise SpecError("names a recipe of a table", where=RECIPE, hint=f"{path.name} is no CSV file")
    if path.suffix.lower() in _YAML:
        return _of_yaml(text, where, given, engine)
    return _of_shell(text, where, given)


def read_text(path: Path) -> str:
    """The text of a file.

    Raises
    ------
    SpecError : the file is missing, too large, or no text
    """
    text = files.text(path, most=MAX_BYTES, hint="no launch file is that large")
    if not text.strip():
        raise SpecError("is empty", where=str(path), hint="give a launch command")
    return text


def _of_yaml(text: str, where: str, given: Mapping[str, str] | None, engine: DialectEngine | None) -> LaunchText:
    commands: list[Command] = []
    notes: list[str] = []
    for document in documents(text, where):
        _must_be_no_deployment(document, where)
        reader = read_compose if is_compose(document) else read_kubernetes
        read = reader(document, where, given)
        commands += read.commands
        notes += read.notes
        if not read.commands:
            flags = read_flags(document, where, engine)
            commands += flags.commands
            notes += flags.notes
    return LaunchText(tuple(commands), where, tuple(dict.fromkeys(notes)))


def _must_be_no_deployment(document: Any, where: str) -> None:
    keys = set(document) if isinstance(document, dict) else set()
    if {"model", "system", "roles"} <= keys or "deployments" in keys:
        raise SpecError(
            "is a file of deployments already", where=where, hint="give it to estimate, simulate, plan --why or advise"
        )


# ── files that a command names ────────────────────────────────────────────────────────────────────────────────────


def _with_config(command: Command, folder: Path) -> Command:
    """The command with the flags of the file that --config names; flags of the command replace those of the file."""
    words = list(command.arguments)
    place = next((at for at, word in enumerate(words) if word.partition("=")[0] == "--config"), None)
    if place is None or command.role == "router":
        return command
    _, equals, name = words[place].partition("=")
    if not equals:
        if place + 1 >= len(words):
            raise SpecError("--config has no value", where=command.where, hint="name the file")
        name = words[place + 1]
    rest = words[:place] + words[place + (1 if equals else 2) :]
    path = folder / name
    if not is_there(path):
        raise SpecError(
            f"--config names {name}, and the file is not there", where=command.where,
            hint="put the file beside the script, or write its flags into the command",
        )  # fmt: skip
    engine: DialectEngine = "sglang" if any("sglang" in word for word in command.program) else "vllm"
    read = read_flags(documents(read_text(path), str(path))[0], str(path), engine).commands
    if not read:
        raise SpecError("holds no flags of an engine", where=str(path), hint="write `flag: value`, one per line")
    own = {_flag(word, engine) for word in rest if word.startswith("-")}
    kept: list[str] = []
    takes = True
    for word in read[0].arguments:
        if word.startswith("--"):
            takes = _flag(word, engine) not in own
        if takes:
            kept.append(word)
    return dataclasses.replace(command, arguments=(*rest, *kept))


def _flag(word: str, engine: DialectEngine) -> str:
    """Name of the flag that a word spells; the word itself if no dialect of the engine has it."""
    name = word.partition("=")[0]
    for dialect in dialects():
        if dialect.engine == engine and dialect.has(name):
            spelled = dialect.look_up(name)
            assert spelled is not None
            return spelled.name
    return name


def holds_deployments(source: str | Path) -> bool:
    """Whether a source is a file of deployments, as `plan -o yaml` writes it, and no launch command."""
    path = path_of(source)
    if path is None or path.suffix.lower() not in (".yaml", ".yml"):
        return False
    first = documents(read_text(path), str(path))[0]
    return isinstance(first, dict) and ("deployments" in first or "roles" in first)
