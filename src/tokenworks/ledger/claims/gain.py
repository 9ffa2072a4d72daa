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
from tokenworks.ledger.claims.finding import ClaimTable, Finding, MapCell
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
from tokenworks.specs.slo import Bound, Slo
from tokenworks.specs.tier_setup import NO_TIERS

TIGHT = "15ms"
"""A bound on TPOT tighter than those of the mix: that of CloudMatrix384 (arXiv:2506.12708, 538 token/s a card)."""

LONGER, REUSED = 4.0, 0.9
"""Of further cases: their context / that of the workload, and the share of their input in the prefix cache [-]."""

NEAREST = 2
"""Kinds of servers, from the first of the mix on, that all cases are computed for [count]."""


@dataclass(frozen=True, slots=True)
class GainCase:
    """Work that both machines of a ratio do.

    Parameters
    ----------
    words : the case in words
    model : the model
    slo : the bounds; None: those of the requests of the mix
    more : numbers of the requests that differ
    tiers : KV tiers below HBM, as `plan` takes them
    """

    words: str
    model: str
    slo: str | None = None
    more: tuple[Given, ...] = ()
    tiers: str = NO_TIERS

    def ask(self, basis: Basis, on: str, links: tuple[Given, ...] = ()) -> PlanAsk:
        """The plan of the case on a machine."""
        return basis.plan(self.model, on, slo=self.slo, more=(*self.more, *links), tiers=self.tiers)

    def estimate(self, basis: Basis, on: str, engine: str, links: tuple[Given, ...] = ()) -> PlanAsk:
        """The closed form of the case on a machine with one engine."""
        return basis.plan(
            self.model, on, slo=self.slo, more=(*self.more, *links), engine=engine,
            simulate=False,
        )  # fmt: skip


def _case(
    basis: Basis, model: str, *, speed: str | None = None, more: tuple[Given, ...] = (), tiers: str = NO_TIERS,
    words: str = "",
) -> GainCase:  # fmt: skip
    """A case with its words: model, requests, bounds, and what else differs."""
    usual = slo = Slo.of(basis.workload.slo)
    if speed is not None:
        seconds = units.parse(speed, "s", where="speed")
        slo = dataclasses.replace(slo, tpot=dataclasses.replace(slo.tpot or Bound(seconds), value=seconds))
    said = ", ".join(filter(None, (short(model), basis.mix.workload, words, str(slo))))
    return GainCase(said, model, None if slo == usual else str(slo), more, tiers)


def _speeds(basis: Basis, model: str, speeds: Iterable[str]) -> tuple[GainCase, ...]:
    """A model with other bounds on TPOT than those of its requests."""
    cases = (_case(basis, model, speed=speed) for speed in speeds)
    return tuple({case.words: case for case in cases if case.slo is not None}.values())


def model_cases(basis: Basis) -> tuple[GainCase, ...]:
    """The models of the mix with its requests and their usual bounds, the main model first."""
    mix = basis.mix
    return tuple(_case(basis, model) for model in dict.fromkeys((mix.main, *mix.models)))


def further_cases(basis: Basis) -> tuple[GainCase, ...]:
    """The main model, one thing at a time: a bound on TPOT, the tightest first; the context; the prefix cache."""
    main, requests = basis.mix.main, basis.workload
    longer = numbers_at("context", requests, float(round(requests.isl * LONGER)))
    reused = numbers_at("reuse", requests, REUSED)
    return (
        *_speeds(basis, main, (TIGHT, *basis.mix.speeds)),
        _case(basis, main, more=longer, words=f"{LONGER:g} x the context"),
        _case(basis, main, more=reused, tiers=AUTO, words=f"{REUSED:.0%} of the input cached, KV tiers"),
    )


@dataclass(frozen=True, slots=True)
class GainPlace:
    """One cell of the map of a gain: a case on a supernode and on servers.

    Parameters
    ----------
    case : the work
    on, against : the supernode and the servers
    column : heading of the column
    links, remark : numbers of the links of the servers that differ, and words for them
    """

    case: GainCase
    on: str
    against: str
    column: str
    links: tuple[Given, ...] = ()
    remark: str = ""

    def asks(self, basis: Basis) -> tuple[PlanAsk, PlanAsk]:
        """The plans of the supernode and of the servers."""
        return self.case.ask(basis, self.on), self.case.ask(basis, self.against, self.links)

    def gain(self, basis: Basis, answers: Answers, correlation: float) -> Gain:
        """What the supernode gains for each card."""
        own, other = (answers[ask] for ask in self.asks(basis))
        return Gain(_cell(self, own, other, correlation), _served(own), _served(other), self.on, self.against)

    def estimates(self, basis: Basis, finding: Finding) -> tuple[PlanAsk, PlanAsk]:
        """The closed forms of both plans, each with the engine of its best deployment."""
        engines = {row[:2]: str(row[2]) for row in finding.tables[0].rows}
        own, other = engines[self.case.words, self.on], engines[self.case.words, self.servers]
        return (
            self.case.estimate(basis, self.on, own),
            self.case.estimate(basis, self.against, other, self.links),
        )

    @property
    def servers(self) -> str:
        """The servers, with words for their links."""
        return f"{self.against}{self.remark}"


def _cell(place: GainPlace, own: Study, other: Study, correlation: float) -> MapCell:
    row, column = place.case.words, place.column
    if own.row is None or other.row is None:
        return MapCell(row, column, None, state=state_of(own.row, other.row))
    value = own.row.effective_tok_s_per_device / other.row.effective_tok_s_per_device
    wide = ratio_interval(own.row, other.row, correlation)
    return MapCell(row, column, value, value * wide.low / wide.value, value * wide.high / wide.value)


def _deployments(basis: Basis, answers: Answers, places: Sequence[GainPlace]) -> ClaimTable:
    """The best deployment of each plan."""
    rows = {}
    for place in places:
        for ask, on in zip(place.asks(basis), (place.on, place.servers), strict=True):
            row = answers[ask].row
            if row is not None:
                speed, decision = row.effective_tok_s_per_device, answers[ask].plan.decision
                settled = "yes" if decision is not None and decision.settled else "no"
                rows[place.case.words, on] = (row.deployment.engine, str(row.deployment), speed, row.bound_by, settled)
    headings = (
        "case", "machine", "engine", "deployment", "effective tokens per card [token/s]", "bound by", "settled",
    )  # fmt: skip
    return ClaimTable("Best deployments", headings, tuple((*key, *row) for key, row in rows.items()))


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
    """The cells of +330 %: all models against all servers; further cases against the first `NEAREST` of them."""
    mix = basis.mix
    places = [GainPlace(case, mix.machine, on, on) for case in model_cases(basis) for on in mix.baselines]
    further = [GainPlace(case, mix.machine, on, on) for case in further_cases(basis) for on in mix.baselines[:NEAREST]]
    return (*places, *further)


def link_places(basis: Basis) -> tuple[GainPlace, ...]:
    """The tightest bound against servers with assumed links, with worse and with better links."""
    mix, case = basis.mix, further_cases(basis)[0]
    return tuple(
        GainPlace(case, mix.machine, on, on + remark, links, remark)
        for on in mix.baselines[:NEAREST]
        for remark, better in ((", worse links", False), (", better links", True))
        if (links := _links(basis, on, better=better))
    )


def _at(places: Sequence[GainPlace], cell: MapCell) -> GainPlace:
    return next(place for place in places if (place.case.words, place.column) == (cell.row, cell.column))


def _command(basis: Basis, place: GainPlace) -> str:
    """The two plans of a cell; its value is the ratio of their effective tokens per device."""
    return " && ".join(ask.command for ask in place.asks(basis))


def _unsettled(deployments: ClaimTable) -> Iterator[str]:
    """A sentence if searches ended at their budget."""
    open_ = sum(row[-1] == "no" for row in deployments.rows)
    if open_:
        yield (
            f"{open_} of {len(deployments.rows)} plans are not settled: the budget ended before every deployment was "
            "simulated that could be better. The table of deployments names them."
        )


def _gauge(places: Callable[[Basis], Sequence[GainPlace]]) -> Gauge:
    """The ratio of the cell that decides, in closed form."""

    def decides(basis: Basis, finding: Finding) -> GainPlace | None:
        cells = [cell for cell in finding.maps[0].cells if cell.value is not None and cell.value == finding.computed]
        return _at(places(basis), cells[0]) if cells else None

    def asks(basis: Basis, finding: Finding) -> Iterable[ClaimAsk]:
        place = decides(basis, finding)
        return () if place is None else place.estimates(basis, finding)

    def value(basis: Basis, answers: Answers, finding: Finding) -> float | None:
        place = decides(basis, finding)
        if place is None:
            return None
        own, other = (answers[ask].row for ask in place.estimates(basis, finding))
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
    links = [place.gain(basis, answers, correlation) for place in link_places(basis)]
    ends, deployments = best_and_worst(gains), _deployments(basis, answers, places)
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
        tables=(deployments, money.table(at_cards, number)),
        maps=(map_of(f"Effective tokens per {amount}: {machine} / servers", gains, number, rows="case",
                     columns="servers"),
              map_of("Effective tokens per card with other assumed links of the servers", links, number, rows="case",
                     columns="servers")),
        notes=(
            f"Bounds, context and prefix cache are varied against {' and '.join(basis.mix.baselines[:NEAREST])}.",
            *_unsettled(deployments),
        ),
        turning_points=tuple(money.turning_points(at_cards, number)),
        command="" if best is None else _command(basis, _at(places, best)),
    )  # fmt: skip


def _all_places(basis: Basis) -> Sequence[GainPlace]:
    return (*gain_places(basis), *link_places(basis))


def _gain_paths(basis: Basis) -> Iterable[str]:
    machines = (basis.mix.machine, *basis.mix.baselines)
    return (*machine_paths(basis, machines), *price_paths_of(basis, machines))


# ── C26: 2.6 times one server ─────────────────────────────────────────────────────────────────────────────────────


MOST_CARDS = 100
"""A plan for more cards takes as long as ten others [count]."""


def single_places(basis: Basis) -> tuple[GainPlace, ...]:
    """The cells of 2.6 times: each supernode over one server of each kind.

    The main model with several bounds on TPOT, and the next model of the mix: the main one may not fit a server. A
    supernode of more than `MOST_CARDS` has the usual bounds only.
    """
    mix = basis.mix
    cases = (*model_cases(basis)[:2], *_speeds(basis, mix.main, mix.speeds))
    return tuple(
        GainPlace(case, on, against, f"{on} / {against}")
        for case in cases for on in mix.supernodes for against in mix.servers
        if case.slo is None or basis.parts(on).devices <= MOST_CARDS
    )  # fmt: skip


def _whole(basis: Basis, gain: Gain) -> Gain:
    """The same case for whole machines in place of single cards."""
    cell, cards = gain.cell, basis.parts(gain.on).devices / basis.parts(gain.against).devices
    if cell.value is None or cell.low is None or cell.high is None:
        return gain
    whole = dataclasses.replace(cell, value=cell.value * cards, low=cell.low * cards, high=cell.high * cards)
    return dataclasses.replace(gain, cell=whole)


def _judged_single(basis: Basis, answers: Answers) -> Finding:
    """The computed value is the largest ratio per card of the supernode of the mix."""
    number, places = number_of("C26"), single_places(basis)
    correlation = basis.loaded_calibration.correlation
    per_card = [place.gain(basis, answers, correlation) for place in places]
    per_machine = [_whole(basis, gain) for gain in per_card]
    ends = best_and_worst(gain for gain in per_card if gain.on == basis.mix.machine) or best_and_worst(per_card)
    guessed, deployments = with_assumed(basis, basis.mix.servers), _deployments(basis, answers, places)
    cards = {on: basis.parts(on).devices for on in (*basis.mix.supernodes, *basis.mix.servers)}
    best = None if ends is None else ends[0].cell
    maps = [
        map_of(f"Effective tokens per {amount}: supernode / one server", gains, number, rows="case",
               columns="supernode / server")
        for amount, gains in (("card", per_card), ("machine", per_machine))
    ]  # fmt: skip
    return Finding(
        verdict_of([gain.cell for gain in (*per_card, *per_machine)], number),
        tuple(filter(None, (
            honest(per_card, does="serves", amount="card", assumed=guessed),
            honest(per_machine, does="serves", amount="machine", assumed=guessed, cards=cards),
        ))),
        *((None, None, None) if best is None else (best.value, best.low, best.high)),
        conditions=(
            *conditions(per_card, number, group=lambda gain: f"{gain.on} per card"),
            *conditions(per_machine, number, group=lambda gain: f"{gain.on} as a whole machine"),
        ),
        tables=(deployments,), maps=tuple(maps),
        notes=(f"The computed value is the largest ratio per card of {basis.mix.machine}.", *_unsettled(deployments)),
        command="" if best is None else _command(basis, _at(places, best)),
    )  # fmt: skip


LARGE_PATHS = ("device.peak.fp8", "device.hbm.bandwidth", "device.scale_up.bandwidth")
"""Inputs whose effect on 2.6 times is measured: closed forms of the largest machines take long."""


def _single_paths(basis: Basis) -> Iterable[str]:
    return machine_paths(basis, (*basis.mix.supernodes, *basis.mix.servers), LARGE_PATHS)


def _asks(places: Callable[[Basis], Sequence[GainPlace]]) -> Callable[[Basis], Iterable[ClaimAsk]]:
    return lambda basis: [ask for place in places(basis) for ask in place.asks(basis)]


CHECKS: dict[str, Check] = {
    "C13": Check(_judged_gain, asks=_asks(_all_places), rests_on=_gain_paths, gauge=_gauge(gain_places)),
    "C26": Check(_judged_single, asks=_asks(single_places), rests_on=_single_paths, gauge=_gauge(single_places)),
}
"""Number of a claim -> its check."""
