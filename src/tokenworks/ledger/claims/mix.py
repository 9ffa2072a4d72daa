"""Models, requests, machines and sizes that claims are checked with: `catalog/claims/mix.yaml`, or a user's file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from tokenworks import units
from tokenworks.errors import SpecError
from tokenworks.ledger.claims.article import FOLDER
from tokenworks.specs import load
from tokenworks.specs.given import Given
from tokenworks.specs.provenance import Spec


def _weight(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"a weight is above 0, not {value:g}")
    return value


def _time(text: str) -> str:
    if not units.parse(text, "s"):
        raise ValueError("a bound on TPOT is above 0")
    return text


Weight = Annotated[float, AfterValidator(_weight)]
Bound = Annotated[str, AfterValidator(_time)]
Size = Annotated[int, Field(gt=0, le=10_000, strict=True)]


class AssumedRange(Spec):
    """A number that nobody published, with the range in which it may lie: three texts with their units."""

    low: str
    mid: str
    high: str


class TrainingMix(Spec):
    """What is trained where a claim is about training.

    Parameters
    ----------
    models : models
    tokens, batch : tokens of the run, and of an optimiser step, as `train` takes them
    """

    models: tuple[str, ...] = Field(min_length=1)
    tokens: str
    batch: str


class Mix(Spec):
    """Models and requests that stand for the needs of buyers, and the machines that are compared.

    Parameters
    ----------
    name, title, source : name, title, and where the choice is from
    models : model -> its weight in the mix [-]
    main : model of the checks that take one model
    workload : workload of the checks that take one
    workloads : workloads of the checks that take several
    speeds : bounds on TPOT of the checks that take several
    machine : the supernode of the article
    baselines : machines of as many cards, made of 8-card servers
    servers : one 8-card server of each baseline
    supernodes : machines that are compared with one server
    domains : cards of a scale-up domain, for the checks of sizes [count]
    training : what is trained
    assume : system -> numbers of it that nobody published, by path: a value, or low, mid and high
    """

    name: str = "mix"
    title: str = ""
    source: str = ""
    models: dict[str, Weight] = Field(min_length=1)
    main: str
    workload: str
    workloads: tuple[str, ...] = Field(min_length=1)
    speeds: tuple[Bound, ...] = Field(min_length=1)
    machine: str
    baselines: tuple[str, ...] = Field(min_length=1)
    servers: tuple[str, ...] = Field(min_length=1)
    supernodes: tuple[str, ...] = Field(min_length=1)
    domains: tuple[Size, ...] = Field(min_length=3)
    training: TrainingMix
    assume: dict[str, dict[str, str | AssumedRange]] = Field(default_factory=dict)

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the models; their sum is 1."""
        total = math.fsum(self.models.values())
        return {model: weight / total for model, weight in self.models.items()}

    @property
    def machines(self) -> tuple[str, ...]:
        """The supernodes, the baselines and the servers."""
        return tuple(dict.fromkeys((self.machine, *self.baselines, *self.servers, *self.supernodes)))

    def assumed(self) -> dict[str, tuple[Given, ...]]:
        """The numbers that nobody published, by system."""
        return {
            system: tuple(
                Given(
                    path=path, value=value.mid if isinstance(value, AssumedRange) else value, why="assumed by the mix"
                )
                for path, value in numbers.items()
            )
            for system, numbers in self.assume.items()
        }


MixLike = str | Path | Mapping[str, Any] | Mix
"""Every form of a mix: a YAML file, its content, or a `Mix`."""


def load_mix(mix: MixLike | None = None) -> Mix:
    """Read a mix. What a file or a dict leaves out is as in the mix of the catalog.

    Parameters
    ----------
    mix : a YAML file, the content of such a file, a `Mix`, or None: the mix of the catalog

    Raises
    ------
    SpecError : no such file, an unknown key, no model, or a weight that is not above 0
    """
    if isinstance(mix, Mix):
        return mix
    shipped = FOLDER / "mix.yaml"
    if mix is None:
        return load.load(Mix, shipped)
    own = dict(mix) if isinstance(mix, Mapping) else load.read_yaml(Path(mix))
    where = "mix" if isinstance(mix, Mapping) else str(mix)
    if not isinstance(own, Mapping):
        raise SpecError("is no mix", where=where, hint="write `models:` and below it one `MODEL: WEIGHT` per line")
    return load.validate(Mix, _over(load.read_yaml(shipped), own), where)


def _over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The own keys in place of those of the base. Own models without a main model: the first one is the main one."""
    data = {**base, **own}
    models = own.get("models")
    if isinstance(models, Mapping) and models and "main" not in own:
        data["main"] = next(iter(models))
    return data
