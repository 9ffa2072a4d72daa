"""The check of what a supernode gains in training: +120 % over five 8-card servers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tokenworks.costs.ratio import ratio_width
from tokenworks.ledger.claims.article import number_of
from tokenworks.ledger.claims.asks import Answers, ClaimAsk, TrainAsk
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
from tokenworks.ledger.cost import Served
from tokenworks.planning.train_goodput import checkpoint_size
from tokenworks.planning.train_result import TrainRun
from tokenworks.specs.hf import load_model
from tokenworks.specs.training import Training

LONG = 32_768
"""Length of the sequences of the cases with long ones [token]."""

SPEED = "tok_s_per_device"
"""Key of the interval of a training run that its ratio takes."""

FAILURES = ("reliability.device_failures", "reliability.host_failures", "reliability.repair", "reliability.restart")
"""Inputs of the share of time in which a run makes progress."""


@dataclass(frozen=True, slots=True)
class TrainCase:
    """A training run that both machines of a ratio do.

    Parameters
    ----------
    words : the case in words
    model : the model
    eight_bit : FP8 on the cards that have it, else BF16
    seq : length of a sequence; None: the usual one [token]
    """

    words: str
    model: str
    eight_bit: bool = False
    seq: int | None = None

    def ask(self, basis: Basis, on: str) -> TrainAsk:
        """The training plan of the case on a machine."""
        peak = basis.parts(on).device.peak.get("fp8")
        has = peak is not None and peak.value is not None
        return basis.train(self.model, on, precision="fp8" if self.eight_bit and has else "bf16", seq=self.seq)


@dataclass(frozen=True, slots=True)
class TrainPlace:
    """One cell of the map: a case, and the servers."""

    case: TrainCase
    against: str

    def asks(self, basis: Basis) -> tuple[TrainAsk, TrainAsk]:
        """The training plans of the supernode and of the servers."""
        return self.case.ask(basis, basis.mix.machine), self.case.ask(basis, self.against)


def train_places(basis: Basis) -> tuple[TrainPlace, ...]:
    """The cells of +120 %: BF16, FP8, long sequences; one case of a model that is too large for the supernode."""
    cases: list[TrainCase] = []
    memory = basis.parts(basis.mix.machine)
    room = memory.devices * (memory.device.hbm.capacity.value or math.inf)
    for model in basis.mix.training.models:
        cases.append(TrainCase(f"{short(model)}, BF16", model))
        if checkpoint_size(load_model(model), Training()) <= room:
            cases.append(TrainCase(f"{short(model)}, FP8 where the card has it", model, eight_bit=True))
            cases.append(TrainCase(f"{short(model)}, BF16, sequences of {LONG:,}", model, seq=LONG))
    return tuple(TrainPlace(case, on) for case in cases for on in basis.mix.baselines)


Runs = tuple[TrainRun | None, TrainRun | None]
"""The runs of the supernode and of the servers; None: no plan fits."""


def _runs(basis: Basis, answers: Answers, place: TrainPlace) -> Runs:
    own, other = (answers[ask].run for ask in place.asks(basis))
    return own, other


def _gain(basis: Basis, place: TrainPlace, runs: Runs) -> Gain:
    """Tokens per second and card of the supernode / of the servers, without failures.

    The errors of two training runs count as independent: their correlation is not measured.
    """
    own, other = runs
    row, column = place.case.words, place.against
    if own is None or other is None:
        cell = MapCell(row, column, None, state=state_of(own, other))
    else:
        value = own.best.tok_s_per_device / other.best.tok_s_per_device
        (down, up), (other_down, other_up) = _widths(own), _widths(other)
        low, high = ratio_width(down, other_up, 0.0), ratio_width(up, other_down, 0.0)
        cell = MapCell(row, column, value, value * math.exp(-low), value * math.exp(high))
    return Gain(cell, _served(own), _served(other), basis.mix.machine, place.against)


def _widths(run: TrainRun) -> tuple[float, float]:
    """Log widths of the interval of the speed, below and above its value [-]."""
    low, high = run.best.interval[SPEED]
    return math.log(run.best.tok_s_per_device / low), math.log(high / run.best.tok_s_per_device)


def _served(run: TrainRun | None) -> Served | None:
    """The tokens of a run as a cost takes them."""
    if run is None:
        return None
    watts, devices = run.best.power_w, run.best.devices
    return Served(run.best.tok_s, run.best.tok_s, power_w=None if watts is None else watts * devices)


def _with_failures(gain: Gain, runs: Runs) -> Gain:
    """The same case with checkpoints and failures: both speeds x the share of the time with progress."""
    (own, other), cell = runs, gain.cell
    if own is None or other is None or cell.value is None or cell.low is None or cell.high is None:
        return gain
    kept = own.goodput.share / other.goodput.share
    return dataclasses.replace(
        gain, cell=dataclasses.replace(cell, value=cell.value * kept, low=cell.low * kept, high=cell.high * kept)
    )


def _judged(basis: Basis, answers: Answers) -> Finding:
    """At equal cards, with failures; at equal money where the price of the supernode is known."""
    number, money, places = number_of("C12"), GainPrices(basis), train_places(basis)
    pairs = [_runs(basis, answers, place) for place in places]
    without = [_gain(basis, place, runs) for place, runs in zip(places, pairs, strict=True)]
    at_cards = [_with_failures(gain, runs) for gain, runs in zip(without, pairs, strict=True)]
    at_money = money.known(at_cards)
    gains, amount = (at_cards, "card") if at_money is None else (at_money, "dollar")
    ends, machine = best_and_worst(gains), basis.mix.machine
    best = None if ends is None else ends[0].cell
    none = [gain.cell.row for gain in gains if gain.own is None and gain.other is None]
    return Finding(
        verdict_of([gain.cell for gain in gains], number),
        tuple(filter(None, (
            honest(gains, does="trains", amount=amount, assumed=with_assumed(basis, basis.mix.baselines)),
            *(f"{row}: no plan fits any of the machines." for row in _everywhere(none, len(basis.mix.baselines))),
        ))),
        *((None, None, None) if best is None else (best.value, best.low, best.high)),
        conditions=tuple(conditions(gains, number)),
        tables=(money.table(at_cards, number), _progress(basis, places, pairs)),
        maps=(
            map_of(f"Training tokens per {amount} with failures: {machine} / servers", gains, number, rows="case",
                   columns="servers"),
            map_of(f"Training tokens per card without failures: {machine} / servers", without, number, rows="case",
                   columns="servers"),
        ),
        turning_points=tuple(money.turning_points(at_cards, number)),
        command="" if best is None else " && ".join(
            ask.command for ask in _at(places, best).asks(basis)
        ),
    )  # fmt: skip


def _everywhere(rows: Sequence[str], count: int) -> Iterator[str]:
    """The cases that no machine can do."""
    yield from (row for row in dict.fromkeys(rows) if rows.count(row) == count)


def _at(places: Sequence[TrainPlace], cell: MapCell) -> TrainPlace:
    return next(place for place in places if (place.case.words, place.against) == (cell.row, cell.column))


def _progress(basis: Basis, places: Sequence[TrainPlace], pairs: Sequence[Runs]) -> ClaimTable:
    """Speed, utilisation and share of progress of each run."""
    rows = {}
    for place, runs in zip(places, pairs, strict=True):
        for run, on in zip(runs, (basis.mix.machine, place.against), strict=True):
            rows[place.case.words, on] = (
                (place.case.words, on, run.best.tok_s_per_device, run.best.mfu, run.goodput.share, run.best.bound_by)
                if run else (place.case.words, on, None, None, None, "does not fit")
            )  # fmt: skip
    headings = ("case", "machine", "tokens per card [token/s]", "MFU [-]", "time with progress [-]", "bound by")
    return ClaimTable("Training runs", headings, tuple(rows.values()))


def _paths(basis: Basis) -> Iterable[str]:
    machines = (basis.mix.machine, *basis.mix.baselines)
    return (*machine_paths(basis, machines), *price_paths_of(basis, machines), *FAILURES)


def _asks(basis: Basis) -> Iterable[ClaimAsk]:
    return [ask for place in train_places(basis) for ask in place.asks(basis)]


def _decides(basis: Basis, finding: Finding) -> TrainPlace | None:
    valued = [cell for cell in finding.maps[0].cells if cell.value is not None]
    return _at(train_places(basis), max(valued, key=lambda cell: cell.value or 0.0)) if valued else None


def _gauge_asks(basis: Basis, finding: Finding) -> Iterable[ClaimAsk]:
    place = _decides(basis, finding)
    return () if place is None else place.asks(basis)


def _gauge_value(basis: Basis, answers: Answers, finding: Finding) -> float | None:
    place = _decides(basis, finding)
    if place is None:
        return None
    runs = _runs(basis, answers, place)
    return _with_failures(_gain(basis, place, runs), runs).cell.value


CHECKS: dict[str, Check] = {
    "C12": Check(_judged, asks=_asks, rests_on=_paths, gauge=Gauge(_gauge_asks, _gauge_value)),
}
"""Number of a claim -> its check."""
