"""docs/deployments.md against the code: its examples can be simulated, its tables have all fields and defaults."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_core import PydanticUndefined

from tokenworks.cli import run
from tokenworks.simulation.run import Traffic, simulate
from tokenworks.specs.deployment import Deployment, Parallel, Role
from tokenworks.specs.deployment_file import load_deployments
from tokenworks.specs.edits import edited
from tokenworks.specs.given import from_options
from tokenworks.specs.provenance import Spec
from tokenworks.specs.tier import Tier
from tokenworks.specs.tier_setup import setup_names
from tokenworks.specs.workload import Workload
from tokenworks.traffic import from_workload

PAGE = Path(__file__).parents[1] / "docs" / "deployments.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?model:.+?)```", TEXT, re.DOTALL)
TIERS = re.findall(r"```yaml\n(tiers:.+?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"^\$ tokenworks (\w+ mine\.yaml.*)$", TEXT, re.MULTILINE)
IN_WORDS: dict[str, Any] = {
    "by the requests": None,
    "by the engine": None,
    "no tiers": (),
    "unknown": None,
    "3 times": None,
    "limit of the model": None,
    "one device": Parallel(),
}
"""Defaults that the page gives in words, because no fixed value is the default."""


def documented(heading: str) -> dict[str, str]:
    """Field and default of each row in the table below a line."""
    table = TEXT.partition(heading)[2].partition("| field |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.split("|")] for row in table.splitlines() if row.startswith("| `")]
    return {name.strip("`"): row[2] for row in rows for name in row[1].split(", ")}


def example(text: str, folder: Path) -> Deployment:
    """The deployment of an example of the page, read from a file."""
    plain: Any = yaml.safe_load(text)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    (deployed,) = load_deployments(path)
    return deployed.deployment


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("text", EXAMPLES, ids=["minimal", "larger", "tiers"])
def test_an_example_is_simulated(text: str, tmp_path: Path) -> None:
    deployment = example(text, tmp_path)
    workload = Workload(name="chat", isl=1000, osl=100, rate=4)
    simulation = simulate(deployment, Traffic(from_workload(workload, 100)))
    assert simulation.metrics.completed == 100


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_runs(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example(EXAMPLES[0], tmp_path)
    words = shlex.split(command, comments=True)
    few = [] if words[0] == "estimate" else ["--requests", "200"]
    assert run([*words, *few]) == 0


def test_the_edits_are_accepted(tmp_path: Path) -> None:
    deployment = example(EXAMPLES[0], tmp_path)
    edits = re.findall(r"--set (roles\S+=\S+)", TEXT.partition("## Change a value")[2])
    assert len(edits) == 4
    changed = edited(deployment, from_options(edits))
    assert (changed.roles[0].max_sequences, changed.roles[0].kv_dtype) == (128, "fp8")
    assert (changed.roles[0].parallel.tp, changed.roles[0].replicas) == (8, 1)


@pytest.mark.parametrize(
    ("heading", "spec"),
    [("Fields of `deployment`:", Deployment), ("Fields of a role:", Role), ("Fields of `parallel`", Parallel)],
)
def test_all_fields_have_their_defaults(heading: str, spec: type[Spec]) -> None:
    page = documented(heading)
    assert page.keys() == spec.model_fields.keys()
    for name, field in spec.model_fields.items():
        told = page[name]
        if field.default is PydanticUndefined:
            assert told == "required", name
        else:
            value = IN_WORDS[told] if told in IN_WORDS else told if told == "none" else yaml.safe_load(told)
            assert value in (field.default, str(field.default)), name


def test_all_fields_of_a_tier_are_on_the_page() -> None:
    page = documented("A list describes each tier")
    assert page.keys() | {"uses", "timeout"} == Tier.model_fields.keys()
    for name, told in page.items():
        default = Tier.model_fields[name].default
        if isinstance(default, str) and default:
            assert told == default, name
    names = set(re.findall(r"^\| `([a-z-]+)` \| [a-zA-Z: -]+ \| [`A-Z]", TEXT, re.MULTILINE))
    assert names >= {*setup_names(), "none"}


def test_the_list_of_tiers_is_a_deployment() -> None:
    (text,) = TIERS
    deployment = Deployment(model="m", system="s", roles=[{}], **yaml.safe_load(text))
    assert [tier.medium for tier in deployment.tiers] == ["host", "ssd"]
