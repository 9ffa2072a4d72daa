"""Settings of published training runs that their tables do not state, from the recipes of their framework.

Each file of catalog/recipes lists the settings by model, device, precision and version, with the source of each row.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from tokenworks.specs.engine import version_key
from tokenworks.specs.load import CATALOG, read_yaml, validate
from tokenworks.specs.provenance import Spec

FOLDER = CATALOG / "recipes"


class RecipeSettings(Spec):
    """Settings with their source.

    Parameters
    ----------
    settings : key of a training deployment -> value; see `specs.training_text`
    source : where the settings were read
    """

    settings: dict[str, Any] = Field(default_factory=dict)
    source: str


class TrainingRecipe(RecipeSettings):
    """Settings of some runs of a framework.

    Parameters
    ----------
    models : catalog ids of the models
    devices, precisions : devices and precisions; empty: all
    methods : methods, such as pretrain; empty: all
    since, until : first and last version of the framework with these settings; empty: all versions
    """

    models: tuple[str, ...]
    devices: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    since: str = ""
    until: str = ""

    def matches(self, model: str, device: str, precision: str, method: str, version: str) -> bool:
        """Whether the settings are those of a run.

        Parameters
        ----------
        model : catalog id of the model
        device : catalog name of the device
        precision : recipe of the precision, such as mxfp8
        method : method, such as pretrain
        version : version of the framework
        """
        return (
            model in self.models
            and (not self.devices or device in self.devices)
            and (not self.precisions or precision in self.precisions)
            and (not self.methods or method in self.methods)
            and (not self.since or version_key(version) >= version_key(self.since))
            and (not self.until or version_key(version) <= version_key(self.until))
        )


class TrainingRecipes(Spec):
    """One file of catalog/recipes.

    Parameters
    ----------
    name, title : name in the catalog, and a title for people
    frameworks : names of the framework in measured points
    common : settings of all runs
    recipes : settings of single runs; the first one that matches counts
    """

    name: str
    title: str
    frameworks: tuple[str, ...]
    common: RecipeSettings
    recipes: tuple[TrainingRecipe, ...]


@functools.cache
def all_recipes() -> tuple[TrainingRecipes, ...]:
    """All files of catalog/recipes."""
    return tuple(validate(TrainingRecipes, read_yaml(path), str(path)) for path in sorted(FOLDER.glob("*.yaml")))


def recipe_settings(
    framework: str, *, model: str, device: str, precision: str, method: str, version: str
) -> tuple[Mapping[str, Any], str]:
    """The settings that the recipes of a framework give for a run, and their source; empty without a recipe.

    Parameters
    ----------
    framework : name of the framework in measured points
    model, device, precision, method, version : as in `TrainingRecipe.matches`
    """
    for file in all_recipes():
        if framework in file.frameworks:
            for one in file.recipes:
                if one.matches(model, device, precision, method, version):
                    return {**file.common.settings, **one.settings}, f"{file.title}: {one.source}"
            return file.common.settings, f"{file.title}: {file.common.source}"
    return {}, ""
