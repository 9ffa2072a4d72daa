"""`tokenworks.claims`: a verdict on each claim of the scaleX40 article, from running the models."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenworks.ledger.claims.article import chosen
from tokenworks.ledger.claims.asks import answered
from tokenworks.ledger.claims.basis import Basis
from tokenworks.ledger.claims.checks import CHECKS
from tokenworks.ledger.claims.effects import Found, effects
from tokenworks.ledger.claims.mix import MixLike
from tokenworks.ledger.claims.result import ClaimsRun, JudgedClaim
from tokenworks.ledger.claims.turning import turning_points
from tokenworks.ledger.workers import Say
from tokenworks.processes import cores
from tokenworks.specs.calibration import DEFAULT
from tokenworks.specs.compose import parts
from tokenworks.specs.given import Assume
from tokenworks.specs.hf import load_model
from tokenworks.specs.machine import Assumption
from tokenworks.specs.price import Prices
from tokenworks.specs.reliability import PUBLISHED, ReliabilityLike


def claims(
    ids: Sequence[str] = (),
    *,
    assume_of: Mapping[str, Assume] | None = None,
    assume: Assume = None,
    prices: str | Path | Mapping[str, Any] | Prices | None = None,
    reliability: ReliabilityLike = PUBLISHED,
    mix: MixLike | None = None,
    calibration: str | Path = DEFAULT,
    workers: int | None = None,
    progress: Say | None = None,
) -> ClaimsRun:
    """Check the claims of the scaleX40 article: what we compute, a verdict, and the assumptions it hangs on.

    Parameters
    ----------
    ids : numbers of the claims, such as ["C13", "C11"]; empty: all
    assume_of : numbers of one system, by its name: {"scalex40": FILE or {"device.nic": "25 GB/s"}}
    assume : numbers by their whole path, such as {"scalex40.device.nic": "25 GB/s", "reliability.repair": "4 h",
        "prices.cards.h100": "28000 USD/card"}
    prices : a price list in place of prices of the catalog
    reliability : failure rates: name of the catalog, YAML file, dict or `Reliability`
    mix : models, requests and machines in place of those of the catalog: YAML file, dict or `Mix`
    calibration : name of the catalog, or YAML file
    workers : processes; None: one for each processor. The number changes no result [count]
    progress : told in words what happens

    Raises
    ------
    SpecError : an unknown claim, a wrong file, path or value
    """
    began = time.perf_counter()
    asked = chosen(ids)
    basis = Basis.read(
        assume_of=assume_of, assume=assume, prices=prices, reliability=reliability, mix=mix, calibration=calibration
    )
    for model in (*basis.mix.models, basis.mix.main, *basis.mix.training.models):
        load_model(model)
    checks = {name: CHECKS[name] for name in asked}
    many = cores() if workers is None else workers
    answers = answered((ask for one in checks.values() for ask in one.asks(basis)), workers=many, say=progress)
    found = [Found(name, check, check.judge(basis, answers)) for name, check in checks.items()]
    moved = effects(found, basis, answers, workers=many, say=progress)
    judged = tuple(
        JudgedClaim(
            one.id, asked[one.id], one.finding, moved[one.id],
            turning_points(one.check, basis, answers, one.finding), _command(one, basis), _assumed(one, basis),
        )
        for one in found
    )  # fmt: skip
    return ClaimsRun(judged, basis, tuple(contradictions(basis)), time.perf_counter() - began)


def _command(one: Found, basis: Basis) -> str:
    """The command that reproduces the computed value, with the numbers of the user that the claim rests on."""
    if one.finding.command:
        return one.finding.command
    words = ["tokenworks", "claims", one.id]
    paths = set(one.check.rests_on(basis))
    for item in basis.told:
        if item.path in paths:
            words += ["--set", f"{item.path}={item.value}"]
    return shlex.join(words)


def _assumed(one: Found, basis: Basis) -> tuple[Assumption, ...]:
    """The assumed numbers among the inputs of a claim, and those of its check."""
    inputs = (basis.input(path) for path in dict.fromkeys(one.check.rests_on(basis)))
    own = [Assumption(item.path, item.written, item.source) for item in inputs if item.assumed]
    return tuple(dict.fromkeys((*own, *one.finding.assumed)))


def contradictions(basis: Basis) -> Iterator[str]:
    """A sentence for each number of the user that contradicts a published one."""
    for system, items in basis.own.items():
        published, now = parts(system).quantities(), basis.parts(system).quantities()
        for item in items:
            known, new = published.get(item.path), now.get(item.path)
            if known is None or new is None or known.assumed or known.value in (None, new.value):
                continue
            yield (
                f"{system}: {item.path} is {known.written} ({known.status}: {known.source}), and {item.value} is "
                f"assumed ({item.why})."
            )
