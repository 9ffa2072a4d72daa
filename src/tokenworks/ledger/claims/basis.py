"""Everything that claims rest on, and one name space of paths for all of it.

scalex40.device.nic, hgx-h100.network.hop   numbers of a system, for any count of it
reliability.parts.device.failures           failure rates and times of repair
prices.cards.h100, prices.network.fibre     prices
calibration.skew, engine.host_step          numbers of all machines
workload.isl                                numbers of the requests
mix.workload                                the choice of models, requests and machines
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenworks import units
from tokenworks.errors import SpecError
from tokenworks.ledger.claims.asks import AvailabilityAsk, PlanAsk, TrainAsk, rates_text
from tokenworks.ledger.claims.inputs import (
    ClaimInput,
    factor_of,
    of_plain,
    of_price,
    of_quantity,
    price_paths,
    with_price,
)
from tokenworks.ledger.claims.mix import AssumedRange, Mix, MixLike, load_mix
from tokenworks.specs import load
from tokenworks.specs.calibration import DEFAULT, Calibration, load_calibration
from tokenworks.specs.compose import Parts, parts, settable
from tokenworks.specs.edits import edited, leaves, workload_with
from tokenworks.specs.given import SET, Assume, Given, given
from tokenworks.specs.load import nearest
from tokenworks.specs.price import Prices
from tokenworks.specs.price_file import load_prices
from tokenworks.specs.provenance import Quantity
from tokenworks.specs.reliability import PUBLISHED, Reliability, ReliabilityLike, load_reliability
from tokenworks.specs.workload import Workload

_ON = re.compile(r"(?:[0-9]+x)?(?P<system>[^@:]+)(?:@[^@:]+)?(?::[0-9]+)?")
BUDGET = "1000000 requests"
"""Where the search of a plan ends that claims need, so that all claims take minutes."""

_SHARED = ("workload", "calibration", "engine")
HEADS = ("reliability", "prices", *_SHARED, "mix")
"""First words of paths that belong to no system."""


_catalog = functools.cache(lambda: frozenset(load.catalog_names("system")))


@functools.lru_cache(maxsize=4096)
def _parts(on: str, numbers: tuple[Given, ...]) -> Parts:
    """The files of a machine of the catalog: checks read the same ones again and again."""
    return parts(on, assume=numbers or None)


@functools.lru_cache(maxsize=1024)
def _settable(system: str, numbers: tuple[Given, ...]) -> Mapping[str, Any]:
    """Every number of a system."""
    return dict(settable(_parts(system, numbers)))


@functools.lru_cache(maxsize=64)
def _calibrated(calibration: str, numbers: tuple[Given, ...]) -> Mapping[str, Any]:
    """Every number of a calibration."""
    return dict(leaves(load_calibration(calibration, assume=numbers)))


def system_of(on: str) -> str:
    """The system in the text of a machine: 5xhgx-h100@ndr is made of hgx-h100."""
    match = _ON.fullmatch(on.strip())
    return match["system"] if match else on


@dataclass(frozen=True)
class Basis:
    """Everything that claims rest on.

    Parameters
    ----------
    mix : models, requests and machines
    prices : the price list
    reliability : failure rates and times of repair
    calibration : as `plan` takes it
    shared : numbers of workload, calibration and engines that replace numbers of the catalog
    own : numbers of machines that replace numbers of the catalog, by system
    told : all numbers that the user set, with their whole paths
    """

    mix: Mix
    prices: Prices
    reliability: Reliability
    calibration: str = DEFAULT
    shared: tuple[Given, ...] = ()
    own: Mapping[str, tuple[Given, ...]] = field(default_factory=dict)
    told: tuple[Given, ...] = ()

    @classmethod
    def read(
        cls, *, assume_of: Mapping[str, Assume] | None = None, assume: Assume = None,
        prices: str | Path | Mapping[str, Any] | Prices | None = None, reliability: ReliabilityLike = PUBLISHED,
        mix: MixLike | None = None, calibration: str | Path = DEFAULT,
    ) -> Basis:  # fmt: skip
        """Read everything; the parameters are those of `claims`.

        Raises
        ------
        SpecError : a file, a path or a value is wrong
        """
        chosen = load_mix(mix)
        basis = cls(chosen, load_prices(prices), load_reliability(reliability), str(calibration), own=chosen.assumed())
        told = [
            item.model_copy(update={"path": f"{system_of(system)}.{item.path}"})
            for system, numbers in (assume_of or {}).items()
            for item in given(numbers)
        ]
        told += given(assume)
        for item in told:
            basis = basis.with_(item.path, item.value, why=item.why)
        basis = dataclasses.replace(basis, told=tuple(told))
        basis.check()
        return basis

    def check(self) -> None:
        """Refuse what no claim can be checked with, before anything takes long."""
        self.reliability.must_serve()
        load_calibration(self.calibration, assume=self.shared)
        for name in (self.mix.workload, *self.mix.workloads):
            workload_with(name, self.shared)
        for on in self.mix.machines:
            self.parts(on)

    # ── numbers by their paths ────────────────────────────────────────────────────────────────────────────────────

    def with_(self, path: str, value: str | float, *, why: str = SET) -> Basis:
        """The same basis with one other input.

        Parameters
        ----------
        path : path of the input
        value : text with its unit, or a number in the unit that `input` gives
        why : origin of the value

        Raises
        ------
        SpecError : no such path, or the value is not one of this input
        """
        head, _, rest = path.partition(".")
        where = f"{why} {path}"
        if head == "prices":
            unit = self.input(path).unit
            return dataclasses.replace(self, prices=with_price(self.prices, rest, value, unit, where))
        if head == "mix":
            one = Given(path=path, value=str(value), why=why)
            return dataclasses.replace(self, mix=edited(self.mix, [one], prefix="mix.", where=where))
        text = value if isinstance(value, str) else f"{value!r} {self.input(path).unit}".strip()
        if head == "reliability":
            one = Given(path=path, value=text, why=why)
            changed = edited(self.reliability, [one], prefix="reliability.", but=("name", "title"), where=where)
            return dataclasses.replace(self, reliability=changed)
        if head in _SHARED:
            one = Given(path=path, value=text, why=why)
            changed_basis = dataclasses.replace(self, shared=_replaced(self.shared, one))
            changed_basis._must_be_shared(one)
            return changed_basis
        system, inner = self._split(path, why)
        one = Given(path=inner, value=text, why=why)
        own = {**self.own, system: _replaced(self.own.get(system, ()), one)}
        changed_basis = dataclasses.replace(self, own=own)
        changed_basis.parts(system)  # refuses unknown paths and wrong values
        return changed_basis

    def value(self, path: str) -> float:
        """The number at a path, in the unit that `input` gives.

        Raises
        ------
        SpecError : no such path, or the number is not published
        """
        known = self.input(path).value
        if known is None:
            raise SpecError("is not published", where=path, hint=f"give it with --set {path}=VALUE")
        return known

    def input(self, path: str) -> ClaimInput:
        """The number at a path, with its unit and its range.

        Raises
        ------
        SpecError : no such path, or no number stands there
        """
        head, _, rest = path.partition(".")
        if head == "prices":
            return self._price(path, rest)
        system, rest = ("", rest) if head in HEADS else self._split(path, SET)
        known = self._numbers(head, system, path)
        found = known.get(rest)
        if isinstance(found, Quantity):
            factor = factor_of(self.reliability, rest) if head == "reliability" else None
            return self._of_mix(of_quantity(path, found, factor), system, rest)
        if isinstance(found, int | float) and not isinstance(found, bool):
            return of_plain(path, float(found))
        if rest in known:
            raise SpecError("is no number", where=path, hint="only numbers have a range")
        near = nearest(rest, list(known))
        raise SpecError("no such path", where=path, hint=near or f"known: {', '.join(list(known)[:12])} ...")

    def _numbers(self, head: str, system: str, path: str) -> Mapping[str, Any]:
        """The numbers below the first word of a path, or below its system."""
        if system:
            known = system in _catalog()
            return _settable(system, self.numbers(system)) if known else dict(settable(self.parts(system)))
        if head == "calibration":
            return _calibrated(self.calibration, self.shared)
        if head == "engine":
            raise SpecError("has one number for each engine", where=path, hint="give it with --set; no range is known")
        specs = {
            "reliability": self.reliability, "workload": self.workload, "mix": self.mix,
        }  # fmt: skip
        return dict(leaves(specs[head]))

    def _of_mix(self, item: ClaimInput, system: str, rest: str) -> ClaimInput:
        """The input with the range of the mix, if its number is the one of the mix."""
        one = self.mix.assume.get(system, {}).get(rest)
        if not isinstance(one, AssumedRange) or item.written != one.mid:
            return item
        low, high = (units.parse(text, item.unit, where=item.path) for text in (one.low, one.high))
        return dataclasses.replace(item, low=low, high=high)

    def _price(self, path: str, rest: str) -> ClaimInput:
        known = price_paths(self.prices)
        head, _, name = rest.partition(".")
        per = {"systems": "system", "servers": "server"}.get(head)
        if rest not in known and not (per and name in load.catalog_names("system")):
            near = nearest(rest, list(known))
            raise SpecError("no such price", where=path, hint=near or "`tokenworks catalog prices` lists the lists")
        return of_price(path, known.get(rest), f"USD/{per}" if per else "-")

    def _split(self, path: str, why: str) -> tuple[str, str]:
        """The system and the path inside it."""
        names = {*_catalog(), *(system_of(on) for on in self.mix.machines), *self.own}
        system = max((name for name in names if path.startswith(f"{name}.")), key=len, default="")
        if not system:
            head = path.partition(".")[0]
            hint = nearest(head, [*sorted(names), *HEADS]) or ""
            raise SpecError(
                "begins with no system", where=f"{why} {path}",
                hint=f"{hint + '; ' if hint else ''}begin it with a system, as in scalex40.device.nic, or with "
                f"{', '.join(HEADS)}",
            )  # fmt: skip
        return system, path.removeprefix(f"{system}.")

    def _must_be_shared(self, one: Given) -> None:
        if one.area == "workload":
            workload_with(self.mix.workload, self.shared)
        elif one.area == "calibration":
            load_calibration(self.calibration, assume=self.shared)

    # ── what checks read ──────────────────────────────────────────────────────────────────────────────────────────

    def parts(self, on: str) -> Parts:
        """The files of a machine, with the numbers of its system."""
        return (
            _parts(on, self.numbers(on)) if system_of(on) in _catalog() else parts(on, assume=self.numbers(on) or None)
        )

    def numbers(self, on: str) -> tuple[Given, ...]:
        """The numbers that replace numbers of the system of a machine."""
        return tuple(self.own.get(system_of(on), ()))

    @property
    def loaded_calibration(self) -> Calibration:
        """The calibration with the numbers of the user."""
        return load_calibration(self.calibration, assume=self.shared)

    @property
    def workload(self) -> Workload:
        """The workload of the checks that take one, with the numbers of the user."""
        return workload_with(self.mix.workload, self.shared)

    @functools.cached_property
    def rates(self) -> str:
        """The failure rates, as asks carry them."""
        return rates_text(self.reliability)

    def plan(
        self, model: str, on: str, *, workload: str | None = None, slo: str | None = None, more: tuple[Given, ...] = (),
        devices: int | None = None, engine: str = "auto", tiers: str = "none", simulate: bool = True,
        fronts: bool = False,
    ) -> PlanAsk:  # fmt: skip
        """A plan on a machine. It carries the numbers of this machine and of the requests, and no others.

        Parameters
        ----------
        workload : None: the workload of the mix
        more : further numbers, such as another context
        fronts : whether the points of the Pareto front are simulated, too

        The other parameters are those of `plan`.
        """
        numbers = (*self.numbers(on), *self.shared)
        for item in more:
            numbers = _replaced(numbers, item)
        return PlanAsk(
            model, on, workload or self.mix.workload, slo, numbers, devices, engine, tiers, self.calibration,
            BUDGET if simulate else None, simulate, fronts,
        )  # fmt: skip

    def train(
        self, model: str, on: str, *, precision: str | None = None, deploy: str | None = None, seq: int | None = None,
        tokens: str | None = None, batch: str | None = None,
    ) -> TrainAsk:  # fmt: skip
        """A training plan on a machine. It carries the numbers of this machine and of the calibration."""
        numbers = (*self.numbers(on), *(item for item in self.shared if item.area == "calibration"))
        return TrainAsk(
            model, on, tokens or self.mix.training.tokens, batch or self.mix.training.batch, self.rates, seq, precision,
            deploy, numbers, self.calibration,
        )  # fmt: skip

    def availability(self, on: str, *, plan: PlanAsk | None = None, elastic: bool = False, spares: int = 0,
                     seeds: int = 100) -> AvailabilityAsk:  # fmt: skip
        """Availability of a machine, or of the best deployment of a plan on it."""
        return AvailabilityAsk(on, self.rates, self.numbers(on), plan, elastic, spares, seeds)


def _replaced(numbers: tuple[Given, ...], one: Given) -> tuple[Given, ...]:
    """The numbers with one in place of a number of the same path."""
    return (*(item for item in numbers if item.path != one.path), one)
