"""`tokenworks.import_launch`: launch commands become a deployment, and flags without a place are listed."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typing_extensions import TypedDict

from tokenworks.errors import SpecError, UnknownName
from tokenworks.launch.command import Command
from tokenworks.launch.dialect import Dialect, load_dialect
from tokenworks.launch.read.source import LaunchText, holds_deployments, read_launches
from tokenworks.launch.reasons import Unread
from tokenworks.launch.router import is_router
from tokenworks.launch.table import TABLES, values_in
from tokenworks.launch.translate import choose, engine_of, read
from tokenworks.launch.words import is_flag, parse
from tokenworks.planning.asked import DeploymentLike, deployed_of
from tokenworks.specs.compose import On
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.deployment_file import Deployed, Entry, document
from tokenworks.specs.given import Assume, Given, given
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs, rounded
from tokenworks.specs.shown import Record, Shown

LaunchLike = str | Path | Sequence[str | Path]
"""Every form of launch commands: a command line, a file, or a list of these."""

MODEL, ON = "--model", "--on"

SECRET = re.compile(r"api-key|hf-token|password|secret|credential")
"""Flags whose values no result may print."""

NAMED = 12
"""Flags that a note names; `import` lists all [count]."""


@dataclass(frozen=True, slots=True)
class Understood:
    """A flag of a command that has a place in the deployment.

    Parameters
    ----------
    flag : the flag as the command spells it; a key of a JSON value after a dot
    value : its value; empty: it has none
    thing : what it says, in words
    where : file and line of the command
    """

    flag: str
    value: str
    thing: str
    where: str


class ImportBody(TypedDict):
    """The plain form of an import.

    dialect : version of the engine whose flags the commands were read as
    environment : names of environment variables, which are not read
    """

    inputs: Inputs
    source: str
    title: str
    dialect: str
    deployment: Annotated[Plain, FormOf(Deployment)]
    understood: list[Annotated[Plain, FormOf(Understood)]]
    unread: list[Annotated[Plain, FormOf(Unread)]]
    environment: list[str]
    notes: list[str]


@dataclass(frozen=True, slots=True, repr=False)
class Imported(Shown):
    """The answer of `import_launch`.

    Parameters
    ----------
    deployment : the deployment that the commands start
    launch : the commands, and where they come from
    dialect : version of the engine whose flags the commands were read as
    understood : flags that have a place in the deployment
    unread : flags that have none, each with the reason
    given : numbers that the user set
    notes : sentences for the reader
    """

    deployment: Deployment
    launch: LaunchText
    dialect: Dialect
    understood: tuple[Understood, ...]
    unread: tuple[Unread, ...]
    given: tuple[Given, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The import in one line."""
        one = self.deployment
        return (
            f"{one.model} on {one.system} with {self.dialect.title}: {one}; {len(self.understood)} flags understood, "
            f"{len(self.unread)} without a place"
        )

    def to_records(self) -> list[Record]:
        """The flags, one a record."""
        rows = [{"flag": one.flag, "value": one.value, "read_as": one.thing, "where": one.where}
                for one in self.understood]  # fmt: skip
        return [*rows, *({"flag": one.flag, "value": one.value, "read_as": "", "where": one.where}
                         for one in self.unread)]  # fmt: skip

    @property
    def environment(self) -> tuple[str, ...]:
        """Names of the environment variables of all commands."""
        return tuple(dict.fromkeys(name for command in self.launch.commands for name in command.environment))

    def deployed(self) -> Deployed:
        """The deployment with the numbers of the user."""
        numbers = tuple(item for item in self.given if item.area != "workload")
        return Deployed(self.deployment, numbers)

    def document(self) -> Plain:
        """The file of deployments that other commands read."""
        about = {
            "source": self.launch.where,
            "dialect": self.dialect.name,
            "assumed": [{"path": item.path, "value": item.value, "why": item.why} for item in self.given],
            "unread": [{"flag": one.flag, "value": one.value, "reason": one.reason} for one in self.unread],
        }
        plain: Plain = rounded(document([Entry(rank=1, deployment=self.deployment)], about))
        return plain

    def plain(self) -> Plain:
        """The whole answer as plain data."""
        one = self.deployment
        body: ImportBody = {
            "inputs": inputs(model=one.model, machine=one.system, engine=one.engine, given=self.given),
            "source": self.launch.where,
            "title": self.launch.title,
            "dialect": self.dialect.name,
            "deployment": one.model_dump(mode="json"),
            "understood": [dataclasses.asdict(item) for item in self.understood],
            "unread": [dataclasses.asdict(item) for item in self.unread],
            "environment": list(self.environment),
            "notes": list(self.notes),
        }
        return envelope("import", body)


def import_launch(
    source: LaunchLike, *, on: On | None = None, model: str | None = None, recipe: str | None = None,
    variables: Mapping[str, str] | None = None, dialect: str | None = None, assume: Assume = None,
) -> Imported:  # fmt: skip
    """Read launch commands of vLLM or SGLang into a deployment.

    Nothing is executed, and no other script is read. A file that `--config` names is read.

    Parameters
    ----------
    source : a command line; or the path of a shell script, Compose file, Kubernetes manifest, YAML recipe, or table of
        recipes; or a list of these that start one deployment together, such as the scripts of its roles
    on : machine, as `load_machine` takes it; a command does not name it
    model : model of the commands, if they name it by a local path or by an id that the catalog does not have
    recipe : id of a recipe in a table
    variables : values of variables that the text does not set
    dialect : version of the engine, such as "vllm-0.33.0", "sglang" or "sglang-das"; None: the newest version that has
        all flags
    assume : numbers that replace numbers of the catalog

    Raises
    ------
    SpecError : the text cannot be read, starts no engine, or contradicts itself; a name is unknown
    """
    chosen = None if dialect is None else load_dialect(dialect)
    texts = [source] if isinstance(source, (str, Path)) else list(source)
    launch = read_launches(texts, recipe=recipe, given=variables, engine=chosen.engine if chosen else None)
    if on is None:
        hint = "name it, such as --on scalex40 or --on 2xhgx-h200"
        raise SpecError("a launch command does not name the machine", where=ON, hint=hint)
    firsts = [command for command in launch.commands if command.node == 0]  # other nodes repeat the flags
    if chosen is None:
        chosen = load_dialect(launch.dialect) if launch.dialect else choose(firsts)
    try:
        deployment, unread = read(firsts, system=on, model=model, dialect=chosen, assume=assume)
    except UnknownName as error:
        raise _of_model(error) from None
    notes = [*launch.notes]
    if dialect is None:
        why = "which the recipe names" if launch.dialect else "the newest version that has most of the flags"
        notes.append(f"The flags are read as those of {chosen.title}, {why} (--dialect).")
    unread += _stray(firsts, chosen)
    unread = [dataclasses.replace(one, value="(not shown)") if SECRET.search(one.flag) else one for one in unread]
    return Imported(
        deployment, launch, chosen, tuple(_understood(firsts, chosen, unread)), tuple(unread), given(assume),
        tuple(notes),
    )  # fmt: skip


def _of_model(error: UnknownName) -> SpecError:
    """The error for a model that the catalog does not have: the way out is --model."""
    match = re.match(r"unknown model '(.*)'", error.message)
    if match is None:
        return error
    what = f"the command starts {match[1]}, which is no model of the catalog"
    if match[1].startswith(("/", ".", "~")):
        what = f"the command starts {match[1]}, a path that is not on this computer"
    return SpecError(what, where=MODEL, hint=f"name the model: {MODEL} ID; {error.hint}")


def _understood(commands: Sequence[Command], dialect: Dialect, unread: Sequence[Unread]) -> Iterator[Understood]:
    """The flags of all commands that have a place in the deployment, each role and value once."""
    without = {(one.where, one.flag) for one in unread}
    seen: set[tuple[str, str, str]] = set()
    for command in commands:
        if is_router(command):
            for at, word in enumerate(command.arguments):
                flag, _, value = word.partition("=")
                if is_flag(word) and (command.where, flag) not in without:
                    following = " ".join(itertools.takewhile(lambda one: not is_flag(one), command.arguments[at + 1 :]))
                    yield from _once(seen, Understood(flag, value or following, "router", command.where))
        if engine_of(command) is None:
            continue
        parsed = parse(command, dialect)
        values, flags = values_in(parsed, dialect, command.where)
        if parsed.positional and not values.has("model"):
            yield from _once(seen, Understood(parsed.positional[0], "", "model", command.where))
        for name, term in parsed.terms.items():
            if name in flags and (command.where, term.word) not in without:
                yield from _once(seen, Understood(term.word, term.value, _thing(name, "", dialect), command.where))
        for name, content in parsed.keys.items():
            for key, value in content.items():
                path = f"{name}.{key}"
                if path in flags and (command.where, path) not in without:
                    yield from _once(seen, Understood(path, str(value), _thing(name, key, dialect), command.where))


def _stray(commands: Sequence[Command], dialect: Dialect) -> Iterator[Unread]:
    """Words of commands that stand where no word is read, such as a second model."""
    for command in commands:
        if engine_of(command) is not None:
            parsed = parse(command, dialect)
            values, _ = values_in(parsed, dialect, command.where)
            for word in parsed.positional[0 if values.has("model") else 1 :]:
                yield Unread(word, "", "it follows no flag that takes a value", "unknown", command.where, command.role)


def _once(seen: set[tuple[str, str, str]], one: Understood) -> Iterator[Understood]:
    key = (one.flag, one.value, one.where)
    if key not in seen:
        seen.add(key)
        yield one


def _thing(name: str, key: str, dialect: Dialect) -> str:
    """What a flag says, in the words of the table."""
    for row in TABLES[dialect.engine]:
        for flag in row.flags:
            spelled = dialect.look_up(flag) if dialect.has(flag) else None
            if spelled is not None and spelled.name == name and row.path == key:
                return row.thing
    return ""


# ── deployments from a file of deployments, or from launch commands ───────────────────────────────────────────────


def deployed_or_imported(
    source: DeploymentLike | LaunchLike, pick: int = 1, *, on: On | None = None, model: str | None = None,
    recipe: str | None = None, variables: Mapping[str, str] | None = None, dialect: str | None = None,
    assume: Assume = None,
) -> tuple[Deployed, tuple[str, ...]]:  # fmt: skip
    """A deployment of a file of deployments, or of launch commands, with sentences for the reader.

    Parameters
    ----------
    source : as `estimate` takes a deployment, or as `import_launch` takes launch commands
    pick : position in a file of deployments, 1 is the best
    on, model, recipe, variables, dialect, assume : as in `import_launch`
    """
    if isinstance(source, Sequence) and not isinstance(source, str) and len(source) == 1:
        source = source[0]
    if not isinstance(source, (str, Path, Sequence)) or (isinstance(source, (str, Path)) and holds_deployments(source)):
        for value, option in ((recipe, "--recipe"), (dialect, "--dialect"), (variables or None, "--env")):
            if value is not None:
                hint = f"leave {option} out"
                raise SpecError("is for launch commands, and this is a file of deployments", where=option, hint=hint)
        return deployed_of(source, pick), ()
    if pick != 1:
        raise SpecError("launch commands hold one deployment", where="--pick", hint="leave --pick out")
    imported = import_launch(
        source, on=on, model=model, recipe=recipe, variables=variables, dialect=dialect, assume=assume
    )
    return imported.deployed(), notes_of(imported)


def notes_of(imported: Imported) -> tuple[str, ...]:
    """Sentences on an import: its version, and the flags without a place."""
    names = list(dict.fromkeys(one.flag for one in imported.unread))
    if not names:
        return imported.notes
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    listed = f"{', '.join(names[:NAMED])}{more}"
    return (*imported.notes, f"Flags without a place in the deployment: {listed} (`tokenworks import` says why).")
