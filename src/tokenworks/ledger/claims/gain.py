"""Checks of what a supernode gains in serving: +330 % over five 8-card servers, and 2.6 times one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tokenworks import units
from tokenworks.ledger.claims.article import number_of
from tokenworks.ledger.claims.asks import Answers, ClaimAsk, PlanAsk
from tokenworks.ledger.claims.basis import Basis
from tokenworks.ledger.claims.check import Check, Gauge
from tokenworks.ledger.claims.finding import Finding, MapCell
from tokenworks.ledger.claims.ratios import (
    Gain,
    GainPrices,
    best_and_worst,
    conditions,
    honest,
    machine_paths,
    map_of,
    price_paths_of,
    short,
    state_of,
    verdict_of,
    with_assumed,
)
from tokenworks.ledger.compare_axes import numbers_at
from tokenworks.ledger.cost import Served
from tokenworks.ledger.priced import served_by
from tokenworks.ledger.study import Study
from tokenworks.planning.intervals import ratio_interval
from tokenworks.planning.tiered import AUTO
from tokenworks.specs.given import Given
from tokenworks.specs.load import load_workload
from tokenworks.specs.slo import Bound, Slo
from tokenworks.specs.tier_setup import NO_TIERS

TIGHT = "15ms"
"""A bound on TPOT tighter than those of the mix: that of CloudMatrix384 (arXiv:2506.12708, 538 token/s a card)."""

LONGER, REUSED = 4.0, 0.9
"""Of further cases: their context / that of the workload, and the share of their input in the prefix cache [-]."""


@dataclass(frozen=True, slots=True)
class GainCase:
    """Work that both machines of a ratio do.

    Parameters
    ----------
    words : the case in words
    model : the model
    workload : name of the requests; None: those of the mix
    slo : the bounds; None: those of the workload
    more : numbers of the requests that differ
    tiers : KV tiers below HBM, as `plan` takes them
    """

    words: str
    model: str
    workload: str | None = None
    slo: str | None = None
    more: tuple[Given, ...] = ()
    tiers: str = NO_TIERS

    def ask(self, basis: Basis, on: str, *, simulate: bool = True, links: tuple[Given, ...] = ()) -> PlanAsk:
        """The plan of the case on a machine."""
        return basis.plan(
            self.model, on, workload=self.workload, slo=self.slo, more=(*self.more, *links), tiers=self.tiers,
            simulate=simulate,
        )  # fmt: skip


def _bounds(workload: str | None, speed: str | None, basis: Basis) -> Slo:
    """The SLO of requests with another bound on TPOT; None: their own."""
    requests = basis.workload if workload is None else load_workload(workload)
    slo = Slo.of(requests.slo)
    if speed is None:
        return slo
    seconds = units.parse(speed, "s", where="speed")
    return dataclasses.replace(slo, tpot=dataclasses.replace(slo.tpot, value=seconds) if slo.tpot else Bound(seconds))


def _case(
    basis: Basis, model: str, *, workload: str | None = None, speed: str | None = None, more: tuple[Given, ...] = (),
    tiers: str = NO_TIERS, words: str = "",
) -> GainCase:  # fmt: skip
    """A case with its words: model, requests, bounds, and what else differs."""
    slo = _bounds(workload, speed, basis)
    usual = slo == _bounds(workload, None, basis)
    said = ", ".join(filter(None, (short(model), workload or basis.mix.workload, words, str(slo))))
    return GainCase(said, model, workload, None if usual else str(slo), more, tiers)


def _speeds(basis: Basis, model: str, speeds: Iterable[str]) -> Iterator[GainCase]:
    """A model with its usual bounds, and with other bounds on TPOT."""
    usual = _case(basis, model)
    yield usual
    yield from (case for case in (_case(basis, model, speed=speed) for speed in speeds) if case.slo != usual.slo)


def gain_cases(basis: Basis) -> tuple[GainCase, ...]:
    """The cases of +330 %: one thing at a time differs from the main model with the requests of the mix.

    Bounds on TPOT, models, a longer context, a prefix cache with and without KV tiers, and the requests of the mix with
    the longest input.
    """
    mix = basis.mix
    longer = numbers_at("context", basis.workload, float(round(basis.workload.isl * LONGER)))
    reused = numbers_at("reuse", basis.workload, REUSED)
    cached = f"{REUSED:.0%} of the input cached"
    longest = max(mix.workloads, key=lambda name: load_workload(name).isl)
    cases = [
        *_speeds(basis, mix.main, (TIGHT, *mix.speeds)),
        *(_case(basis, model) for model in mix.models if model != mix.main),
        _case(basis, mix.main, more=longer, words=f"{LONGER:g} x the context"),
        _case(basis, mix.main, more=reused, words=cached),
        _case(basis, mix.main, more=reused, tiers=AUTO, words=f"{cached}, KV tiers"),
        _case(basis, mix.main, workload=longest, tiers=AUTO, words="KV tiers"),
    ]  # fmt: skip
    return tuple({case.words: case for case in cases}.values())


@dataclass(frozen=True, slots=True)
class GainPlace:
    """One cell of the map of a gain: a case on a supernode and on servers.

    Parameters
    ----------
    case : the work
    on, against : the supernode and the servers
    column : heading of the column
    links : numbers of the links of the servers that differ
    """

    case: GainCase
    on: str
    against: str
    column: str
    links: tuple[Given, ...] = ()

    def asks(self, basis: Basis, *, simulate: bool = True) -> tuple[PlanAsk, PlanAsk]:
        """The plans of the supernode and of the servers."""
        own = self.case.ask(basis, self.on, simulate=simulate)
        return own, self.case.ask(basis, self.against, simulate=simulate, links=self.links)

    def gain(self, basis: Basis, answers: Answers, correlation: float) -> Gain:
        """What the supernode gains for each card."""
        own, other = (answers[ask] for ask in self.asks(basis))
        return Gain(_cell(self, own, other, correlation), _served(own), _served(other), self.on, self.against)


def _cell(place: GainPlace, own: Study, other: Study, correlation: float) -> MapCell:
    row, column = place.case.words, place.column
    if own.row is None or other.row is None:
        return MapCell(row, column, None, state=state_of(own.row, other.row))
    value = own.row.effective_tok_s_per_device / other.row.effective_tok_s_per_device
    wide = ratio_interval(own.row, other.row, correlation)
    return MapCell(row, column, value, value * wide.low / wide.value, value * wide.high / wide.value)


def _served(study: Study) -> Served | None:
    if study.row is None or study.plan is None or study.best is None:
        return None
    return served_by(study.best, study.row.charged, str(study.plan.slo))


def _links(basis: Basis, on: str, *, better: bool) -> tuple[Given, ...]:
    """The numbers of a machine that the mix assumes, all of them at their better or at their worse end."""
    system = basis.parts(on).system.name
    numbers = []
    for path in basis.mix.assume.get(system, {}):
        item = basis.input(f"{system}.{path}")
        value = item.high if better != (item.unit == "s") else item.low
        if value is not None:
            numbers.append(Given(path=path, value=f"{value!r} {item.unit}".strip(), why="range"))
    return tuple(numbers)


def gain_places(basis: Basis) -> tuple[GainPlace, ...]:
    """The cells of +330 %; servers with assumed links also with worse and with better links, at the usual SLO."""
    mix, cases = basis.mix, gain_cases(basis)
    places = [GainPlace(case, mix.machine, on, on) for case in cases for on in mix.baselines]
    for on in mix.baselines:
        for better, words in ((False, "worse"), (True, "better")):
            if links := _links(basis, on, better=better):
                places.append(GainPlace(cases[0], mix.machine, on, f"{on}, {words} links", links))
    return tuple(places)


def _at(places: Sequence[GainPlace], cell: MapCell) -> GainPlace:
    return next(place for place in places if (place.case.words, place.column) == (cell.row, cell.column))


def _command(basis: Basis, place: GainPlace) -> str:
    """The two plans of a cell; its value is the ratio of their effective tokens per device."""
    return " && ".join(ask.command for ask in place.asks(basis))


def _gauge(places: Callable[[Basis], Sequence[GainPlace]]) -> Gauge:
    """The ratio of the cell that decides, in closed form."""

    def decides(basis: Basis, finding: Finding) -> GainPlace | None:
        valued = [cell for cell in finding.maps[0].cells if cell.value is not None]
        return _at(places(basis), max(valued, key=lambda cell: cell.value or 0.0)) if valued else None

    def asks(basis: Basis, finding: Finding) -> Iterable[ClaimAsk]:
        place = decides(basis, finding)
        return () if place is None else place.asks(basis, simulate=False)

    def value(basis: Basis, answers: Answers, finding: Finding) -> float | None:
        place = decides(basis, finding)
        if place is None:
            return None
        own, other = (answers[ask].row for ask in place.asks(basis, simulate=False))
        if own is None or other is None:
            return None
        return float(own.effective_tok_s_per_device / other.effective_tok_s_per_device)

    return Gauge(asks, value)


# ── C13: +330 % ───────────────────────────────────────────────────────────────────────────────────────────────────


def _judged_gain(basis: Basis, answers: Answers) -> Finding:
    """At equal cards; at equal money where the price of the supernode is known."""
    number, money, places = number_of("C13"), GainPrices(basis), gain_places(basis)
    correlation, machine = basis.loaded_calibration.correlation, basis.mix.machine
    at_cards = [place.gain(basis, answers, correlation) for place in places]
    at_money = money.known(at_cards)
    gains, amount = (at_cards, "card") if at_money is None else (at_money, "dollar")
    ends = best_and_worst(gains)
    best = None if ends is None else ends[0].cell
    guessed = with_assumed(basis, basis.mix.baselines)
    unpriced = (
        ""
        if at_money is not None
        else (
            f"The price of {machine} is not published. Equal cards are equal money only if it costs as much as the "
            "servers, as C11 claims."
        )
    )
    return Finding(
        verdict_of([gain.cell for gain in gains], number),
        tuple(filter(None, (honest(gains, does="serves", amount=amount, assumed=guessed), unpriced))),
        *((None, None, None) if best is None else (best.value, best.low, best.high)),
        conditions=tuple(conditions(gains, number)),
        tables=(money.table(at_cards, number),),
        maps=(map_of(f"Effective tokens per {amount}: {machine} / servers", gains, number, rows="case",
                     columns="servers"),),
        turning_points=tuple(money.turning_points(at_cards, number)),
        command="" if best is None else _command(basis, _at(places, best)),
    )  # fmt: skip


def _gain_paths(basis: Basis) -> Iterable[str]:
    machines = (basis.mix.machine, *basis.mix.baselines)
    return (*machine_paths(basis, machines), *price_paths_of(basis, machines), "calibration.skew")


# ── C26: 2.6 times one server ─────────────────────────────────────────────────────────────────────────────────────


def single_places(basis: Basis) -> tuple[GainPlace, ...]:
    """The cells of 2.6 times: each supernode over one server of each kind.

    The main model with several bounds on TPOT, and the next model of the mix: the main one may not fit a server.
    """
    mix = basis.mix
    others = [one for one in mix.models if one != mix.main]
    cases = (*_speeds(basis, mix.main, mix.speeds), *(_case(basis, one) for one in others[:1]))
    return tuple(
        GainPlace(case, on, against, f"{on} / {against}")
        for case in cases for on in mix.supernodes for against in mix.servers
    )  # fmt: skip


def _whole(basis: Basis, gain: Gain) -> Gain:
    """The same case for whole machines in place of single cards."""
    cell, cards = gain.cell, basis.parts(gain.on).devices / basis.parts(gain.against).devices
    if cell.value is None or cell.low is None or cell.high is None:
        return gain
    whole = dataclasses.replace(cell, value=cell.value * cards, low=cell.low * cards, high=cell.high * cards)
    return dataclasses.replace(gain, cell=whole)


def _judged_single(basis: Basis, answers: Answers) -> Finding:
    number, places = number_of("C26"), single_places(basis)
    correlation = basis.loaded_calibration.correlation
    per_card = [place.gain(basis, answers, correlation) for place in places]
    per_machine = [_whole(basis, gain) for gain in per_card]
    ends, guessed = best_and_worst(per_card), with_assumed(basis, basis.mix.servers)
    best = None if ends is None else ends[0].cell
    maps = [
        map_of(f"Effective tokens per {amount}: supernode / one server", gains, number, rows="case",
               columns="supernode / server")
        for amount, gains in (("card", per_card), ("machine", per_machine))
    ]  # fmt: skip
    return Finding(
        verdict_of([gain.cell for gain in (*per_card, *per_machine)], number),
        tuple(filter(None, (honest(gains, does="serves", amount=amount, assumed=guessed)
                            for amount, gains in (("card", per_card), ("machine", per_machine))))),
        *((None, None, None) if best is None else (best.value, best.low, best.high)),
        conditions=(
            *conditions(per_card, number, group=lambda gain: f"{gain.on} per card"),
            *conditions(per_machine, number, group=lambda gain: f"{gain.on} as a whole machine"),
        ),
        maps=tuple(maps), command="" if best is None else _command(basis, _at(places, best)),
    )  # fmt: skip


def _single_paths(basis: Basis) -> Iterable[str]:
    return (*machine_paths(basis, (*basis.mix.supernodes, *basis.mix.servers)), "calibration.skew")


def _asks(places: Callable[[Basis], Sequence[GainPlace]]) -> Callable[[Basis], Iterable[ClaimAsk]]:
    return lambda basis: [ask for place in places(basis) for ask in place.asks(basis)]


CHECKS: dict[str, Check] = {
    "C13": Check(_judged_gain, asks=_asks(gain_places), rests_on=_gain_paths, gauge=_gauge(gain_places)),
    "C26": Check(_judged_single, asks=_asks(single_places), rests_on=_single_paths, gauge=_gauge(single_places)),
}
"""Number of a claim -> its check."""
