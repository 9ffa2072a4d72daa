"""Named set-ups of KV tiers (catalog/tiers), the defaults of each medium, and what an engine offers."""

from __future__ import annotations

import functools
from typing import Any, get_args

from tokenworks.errors import SpecError
from tokenworks.specs.engine import load_engine
from tokenworks.specs.load import CATALOG, nearest, read_yaml, validate
from tokenworks.specs.tier import (
    KvLoad,
    KvLoadFailure,
    Medium,
    Tier,
    TierMedium,
    TierOffers,
    TierSetup,
    must_be_offered,
)

NO_TIERS = "none"
"""The name of a set-up without tiers."""


def setup_names(engine: str | None = None) -> list[str]:
    """Names of the set-ups of the catalog, sorted.

    Parameters
    ----------
    engine : only set-ups that this engine has, or that are a what-if for any engine; None: all
    """
    names = sorted(path.stem for path in (CATALOG / "tiers").glob("*.yaml"))
    return [name for name in names if engine is None or _runs(load_setup(name), engine)]


@functools.cache
def load_setup(name: str) -> TierSetup:
    """Load a set-up of the catalog.

    Parameters
    ----------
    name : name of the set-up

    Raises
    ------
    SpecError : the catalog has no such set-up
    """
    known = setup_names()
    if name not in known:
        hint = nearest(name, known) or f"known: {', '.join([NO_TIERS, *known])}"
        raise SpecError(f"unknown set-up of KV tiers {name!r}", where="tiers", hint=f"{hint}; or write a list of tiers")
    path = CATALOG / "tiers" / f"{name}.yaml"
    return validate(TierSetup, read_yaml(path), str(path))


def _runs(setup: TierSetup, engine: str) -> bool:
    return not setup.engines or engine in setup.engines


def with_setup(data: dict[str, Any]) -> dict[str, Any]:
    """The plain data of a deployment, with the tiers of the set-up that they name.

    Parameters
    ----------
    data : plain data of a deployment, with the name of a set-up in `tiers`

    Raises
    ------
    ValueError : the catalog has no such set-up, or it belongs to another engine
    """
    name, engine = data["tiers"], data.get("engine", "vllm")
    if name == NO_TIERS:
        without = {key: value for key, value in data.items() if key not in ("kv_load", "kv_load_failure")}
        return {**without, "tiers": ()}
    try:
        setup = load_setup(name)
    except SpecError as error:
        raise ValueError(str(error)) from None
    if isinstance(engine, str) and not _runs(setup, engine):
        known = ", ".join(setup_names(engine))
        raise ValueError(f"tiers: {name} is a set-up of {' and '.join(setup.engines)}, not of {engine}: take {known}")
    chosen = {**data, "tiers": setup.tiers}
    for key, value in (("kv_load", setup.load), ("kv_load_failure", setup.on_failure)):
        if value is not None and chosen.get(key) is None:
            chosen[key] = value
    return chosen


def offers_of(engine: str) -> TierOffers | None:
    """What an engine offers for KV tiers; None: it has none."""
    return load_engine(engine).kv_tiers


def must_be_offered_by(
    engine: str, tiers: tuple[Tier, ...], load: KvLoad | None, on_failure: KvLoadFailure | None
) -> None:
    """Refuse policies that an engine does not have, see `tier.must_be_offered`."""
    must_be_offered(tiers, load, on_failure, offers_of(engine), engine)


@functools.cache
def medium_defaults(medium: Medium) -> TierMedium:
    """Defaults of the tiers of a medium, of catalog/tier_media.yaml."""
    path = CATALOG / "tier_media.yaml"
    data = read_yaml(path)
    assert set(data) == set(get_args(Medium))
    return validate(TierMedium, data[medium], f"{path}: {medium}")
