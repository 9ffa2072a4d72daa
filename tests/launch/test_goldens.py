"""Frozen launch scripts, and published recipes beside what `emit` writes for the same deployment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.goldens import CASES, FOLDER, text_of
from tests.launch.recipes import PAGE, RECIPES, commands_of, compared, differences, page, rows_of
from tokenworks.launch.translate import read

FILE = Path(__file__).parents[3] / "shared" / "cases" / "launch" / "recipes.csv"
WIDTHS = {
    "--tp-size", "--ep-size", "--dp-size", "--pp-size", "--data-parallel-size", "--max-running-requests",
    "--max-num-seqs", "--mem-fraction-static", "--gpu-memory-utilization", "--tensor-parallel-size",
}  # fmt: skip
beside = pytest.mark.skipif(not FILE.exists(), reason=f"{FILE} is not here")


@pytest.mark.parametrize("name", sorted(CASES))
def test_scripts_are_frozen(name: str) -> None:
    """`python -m tests.launch.goldens` writes them after a change that is meant."""
    assert text_of(name) == (FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def test_a_difference_without_a_reason_is_an_error() -> None:
    with pytest.raises(LookupError, match="--strange"):
        list(differences({"--strange": "1"}, {}))


@pytest.mark.shared
@beside
def test_the_page_of_recipes_is_what_the_code_writes() -> None:
    """`python -m tests.launch.recipes FILE` writes it; every difference needs a reason."""
    assert PAGE.read_text(encoding="utf-8") == page(FILE)


@pytest.mark.shared
@beside
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_widths_and_limits_of_a_recipe_come_back(recipe: object) -> None:
    for role, every in compared(recipe, FILE).items():  # type: ignore[arg-type]
        if role == "router":
            continue
        changed = {one.setting for one in every if one.published is not None and one.emitted is not None and one.why}
        assert not changed & WIDTHS


@pytest.mark.shared
@beside
def test_the_largest_recipe_is_the_deployment_of_its_page() -> None:
    recipe = RECIPES[0]
    deployment, _ = read(
        commands_of(recipe, rows_of(FILE, recipe.name)),
        system=recipe.system,
        model=recipe.model,
        dialect=recipe.dialect,
    )
    assert str(deployment) == "1xprefill[tp8 pp2 ep8] + 1xdecode[dp16 ep16]"
    assert [role.redundant_experts for role in deployment.roles] == [8, 0]
    assert [role.draft_tokens for role in deployment.roles] == [0, 3]
