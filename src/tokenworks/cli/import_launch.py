"""`tokenworks import`: launch commands of vLLM and SGLang, and of training runs, become a deployment.

Flags without a place are listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter

from tokenworks.cli.options import MACHINE, NumberOptions, Output, OutputFormat
from tokenworks.cli.output import console, emit, notes
from tokenworks.cli.page import Page
from tokenworks.cli.tables import Columns, print_table
from tokenworks.errors import SpecError
from tokenworks.launch.importing import Imported, deployed_or_imported
from tokenworks.launch.importing import import_launch as imported_of
from tokenworks.launch.read.tokens import is_name
from tokenworks.launch.read.variables import GIVE
from tokenworks.launch.training import ImportedTraining, import_training, trains
from tokenworks.specs.deployment import Role
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.given import Given
from tokenworks.specs.load import short

LAUNCH = Group("Launch commands", sort_key=0)


@Parameter(name="*", group=LAUNCH)
@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """What launch commands leave open.

    Parameters
    ----------
    on
        Machine, such as scalex40, 5xhgx-h100, 4xscalex40@xdr, hgx-h200:2 or my-box.yaml. Launch commands do not name
        it.
    model
        Model: catalog id or path of a config.json. Needed if the commands name a path of another computer, or an id
        that the catalog does not have.
    recipe
        Id of a recipe in a CSV table of recipes.
    env
        Value of a variable that a script or manifest does not set, such as NODE_RANK=0. May be repeated.
    dialect
        Version of the engine, such as vllm-0.33.0, sglang or sglang-das; by default the newest version that has all
        flags.
    """

    on: Annotated[str | None, Parameter(group=MACHINE)] = None
    model: Annotated[str | None, Parameter(group=MACHINE)] = None
    recipe: str | None = None
    env: Annotated[tuple[str, ...], Parameter(name=GIVE, negative=(), show_default=False)] = ()
    dialect: str | None = None

    def variables(self) -> Mapping[str, str]:
        """The values of --env by name."""
        values: dict[str, str] = {}
        for text in self.env:
            name, equals, value = text.partition("=")
            if not equals or not (is_name(name) or name.isdigit()):
                raise SpecError(f"cannot read {short(repr(text))}", where=GIVE, hint="write NAME=VALUE")
            values[name] = value
        return values

    def imported(self, sources: Sequence[str], given: tuple[Given, ...] | None) -> Imported:
        """The deployment that launch commands start."""
        return imported_of(
            list(sources), on=self.on, model=self.model, recipe=self.recipe, variables=self.variables(),
            dialect=self.dialect, assume=given,
        )  # fmt: skip

    def deployed(
        self, sources: Sequence[str], pick: int, given: tuple[Given, ...] | None
    ) -> tuple[Deployed, tuple[str, ...]]:
        """A deployment of a file of deployments, or of launch commands, with notes."""
        return deployed_or_imported(
            list(sources), pick, on=self.on, model=self.model, recipe=self.recipe, variables=self.variables(),
            dialect=self.dialect, assume=given,
        )  # fmt: skip


def import_launch(
    *sources: Annotated[str, Parameter(group=LAUNCH)],
    launch: LaunchOptions = LaunchOptions(),
    numbers: NumberOptions = NumberOptions(),  # noqa: B008 - frozen
    output: Output = "table",
) -> None:
    """Read launch commands of vLLM or SGLang into a deployment, or the launch of a training run.

    Parameters
    ----------
    sources
        A launch command in quotes, or a file: shell script, Compose file, Kubernetes manifest, YAML recipe, or CSV
        table of recipes. Several of them start one deployment together. -o yaml writes a file of deployments, which
        estimate, simulate, capacity, plan --why and advise take. A training run is a command or script that starts
        Megatron-LM, Megatron-Bridge, torchtitan or DeepSpeed, or its YAML, TOML or JSON file. -o yaml writes a
        training deployment.
    """
    if trains(sources):
        _training(sources[0], launch, numbers, output)
        return
    result = launch.imported(sources, numbers.given())
    if output == "json":
        emit(result.plain(), "json")
    elif output == "yaml":
        emit(result.document(), "yaml")
        for note in (*result.notes, *(f"{one.flag}: {one.reason}" for one in result.unread)):
            notes().paragraph(note)
    else:
        _print(result, console())


def _training(source: str, launch: LaunchOptions, numbers: NumberOptions, output: OutputFormat) -> None:
    """Read the launch of a training run."""
    for value, option in ((launch.recipe, "--recipe"), (launch.dialect, "--dialect"), (numbers.given(), "--set")):
        if value:
            raise SpecError("does not go with a training run", where=option, hint=f"leave {option} out")
    result = import_training(source, on=launch.on, model=launch.model, variables=launch.variables())
    if output == "json":
        emit(result.plain(), "json")
    elif output == "yaml":
        emit(result.document(), "yaml")
        for note in (*result.notes, *(f"{one.flag}: {one.reason}" for one in result.unread)):
            notes().paragraph(note)
    else:
        _print_training(result, console())


def _print_training(result: ImportedTraining, out: Page) -> None:
    out.paragraph(f"{result.launch.where}: {result.headline}")
    for note in result.notes:
        out.paragraph(note)
    out.print()
    _print_flags(result, out)
    if result.launch.environment:
        out.paragraph(f"\nEnvironment variables, which are not read: {', '.join(result.launch.environment)}")


def _print(result: Imported, out: Page) -> None:
    one = result.deployment
    length = f", requests of at most {one.max_model_len:,} tokens" if one.max_model_len else ""
    out.paragraph(
        f"{result.launch.title or result.launch.where}: {one.model} on {one.system} with {result.dialect.title}, "
        f"{one}, {one.devices} devices{length}, router {one.router or 'by the workload'}, prefix cache "
        f"{'on' if one.prefix_caching else 'off'}"
    )
    for role in one.roles:
        out.paragraph(f"{role.name}: {_settings(role)}")
    for note in result.notes:
        out.paragraph(note)
    out.print()
    _print_flags(result, out)
    if result.environment:
        out.paragraph(f"\nEnvironment variables, which are not read: {', '.join(result.environment)}")


def _print_flags(result: Imported | ImportedTraining, out: Page) -> None:
    """Print the flags with a place, and those without one."""
    columns: Columns = {"flag": "left", "value": "left", "read as": "left"}
    rows = [[item.flag, short(item.value), item.thing] for item in result.understood]
    print_table(out, columns, _unique(rows), title=f"Understood: {len(_unique(rows))}", wraps=("value",))
    if result.unread:
        columns = {"flag": "left", "value": "left", "reason": "left"}
        rows = _unique([[item.flag, short(item.value), item.reason] for item in result.unread])
        print_table(out, columns, rows, title=f"\nWithout a place in the deployment: {len(rows)}", wraps=("reason",))


def _unique(rows: list[list[str]]) -> list[list[str]]:
    return [list(row) for row in dict.fromkeys(map(tuple, rows))]


def _settings(role: Role) -> str:
    """The settings of one instance of a role in words."""
    words = [
        f"[{role.parallel}]", f"{role.max_sequences:,} sequences", f"{role.chunk_tokens:,} tokens a step",
        f"KV cache in {role.kv_dtype}", f"memory fraction {role.memory_fraction:g}",
    ]  # fmt: skip
    if role.draft_tokens:
        words.append(f"{role.draft_tokens} draft tokens")
    if role.redundant_experts:
        words.append(f"{role.redundant_experts} redundant experts")
    if role.overlap != "none":
        words.append(f"{role.overlap} overlap")
    return ", ".join(words)
