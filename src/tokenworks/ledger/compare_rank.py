"""The machines of a comparison with their plans and costs, best first, and the ratios between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tokenworks.ledger.compare_asked import AskedServing
from tokenworks.ledger.compare_machines import AMOUNTS, NO_AMOUNT, Measures, Ratio, does_not_stand
from tokenworks.ledger.comparison import Compared
from tokenworks.ledger.cost import Served
from tokenworks.ledger.priced import Priced, priced, served
from tokenworks.ledger.study import Study, charged, study, without
from tokenworks.ledger.uptime import SystemUptime, mix_capacity
from tokenworks.ledger.workers import Say, each
from tokenworks.planning.intervals import ratio_interval
from tokenworks.specs.compose import parts
from tokenworks.specs.given import Given


def ranked(asked: AskedServing, say: Say | None, *more: Given) -> tuple[tuple[Compared, ...], tuple[str, ...]]:
    """The machines, best first; and sentences about prices and availabilities that are not known.

    Parameters
    ----------
    asked : what is compared
    say : told in words what happens
    more : numbers of the workload that are changed
    """
    questions = asked.questions(*more)
    names = [f"{one.system}, {one.model}" if len(asked.shares) > 1 else str(one.system) for one in questions]
    weights = [float(parts(str(one.system)).devices) for one in questions]
    bought = asked.bought()
    too_large = {name: error for name, one in bought.items() if (error := does_not_stand(one, asked.paying.terms.room))}
    kept = [i for i, one in enumerate(questions) if one.system not in too_large]
    planned = each(
        study, [questions[i] for i in kept], names=[names[i] for i in kept], workers=asked.workers,
        weights=[weights[i] for i in kept], say=say,
    )  # fmt: skip
    answered = dict(zip(kept, planned, strict=True))
    studies = [
        answered[i] if i in answered else without(one, too_large[str(one.system)]) for i, one in enumerate(questions)
    ]
    width = len(asked.shares)
    answers = {name: studies[i * width : (i + 1) * width] for i, name in enumerate(asked.on)}
    machines = {
        name: (bought[name], None if any(one.error for one in own) else served(own, asked.shares))
        for name, own in answers.items()
    }
    costs, unpriced = priced(machines, asked.paying, next(iter(asked.shares)))
    uptimes, unknown = asked.uptimes()
    rows = [
        _compared(asked, name, own, rates=machines[name][1], costs=costs[name], uptime=uptimes[name])
        for name, own in answers.items()
    ]
    return tuple(sorted(rows, key=lambda row: -(row.effective_tok_s_per_unit or 0.0))), (*unpriced, *unknown)


def _compared(
    asked: AskedServing, name: str, studies: Sequence[Study], *, rates: Served | None, costs: Priced,
    uptime: SystemUptime | None,
) -> Compared:  # fmt: skip
    """One machine, with its effective tokens per unit of the amount that is equal."""
    bare = Compared(
        system=name, title=parts(name).system.title, devices=None, amount=None, effective_tok_s_per_unit=None,
        capacity=None, error="", answers=tuple(studies), costs=costs, uptime=uptime,
    )  # fmt: skip
    if rates is None:
        errors = [one.error for one in studies if one.error]
        if len(errors) < len(studies) or len(set(errors)) > 1:
            errors = [f"{one.model}: {one.error}" for one in studies if one.error]
        return replace(bare, error="; ".join(dict.fromkeys(errors)))
    measures = Measures(charged(studies[0]), rates.power_w, costs.placed, costs.cost)
    one = replace(bare, devices=measures.devices, capacity=_capacity(studies, asked.shares))
    amount = AMOUNTS[asked.equal](measures)
    if amount is None:
        return replace(one, error=costs.error or NO_AMOUNT[asked.equal](measures))
    return replace(one, amount=amount, effective_tok_s_per_unit=rates.effective_tok_s / amount)


def _capacity(studies: Sequence[Study], shares: Mapping[str, float]) -> float | None:
    """Mean capacity that failures leave to the mix [-]; None: the availability of the machine is not known."""
    known = [(one.uptime.capacity, one.best.effective_tok_s) for one in studies if one.uptime and one.best]
    if len(known) < len(studies):
        return None
    return mix_capacity([capacity for capacity, _ in known], [rate for _, rate in known], shares)


def ratios_of(systems: Sequence[Compared], correlation: float) -> Iterator[Ratio]:
    """The winner against each other machine with a value, with the interval of the ratio.

    Parameters
    ----------
    systems : machines, best first
    correlation : correlation of the log errors of two predictions [-]
    """
    valued = [one for one in systems if one.effective_tok_s_per_unit is not None]
    for other in valued[1:]:
        yield ratio_of(valued[0], other, correlation)


def ratio_of(one: Compared, other: Compared, correlation: float) -> Ratio:
    """Effective tokens of one machine / those of another at equal amounts, with the 80 % interval.

    Both machines are measured by the same kind of error: that of throughput at a given speed per user. With several
    models, the interval is that of the model whose interval is the widest.

    Parameters
    ----------
    one, other : two machines with values
    correlation : correlation of the log errors of two predictions [-]
    """
    assert one.effective_tok_s_per_unit
    assert other.effective_tok_s_per_unit
    value = one.effective_tok_s_per_unit / other.effective_tok_s_per_unit
    rows = [(mine.row, theirs.row) for mine, theirs in zip(one.answers, other.answers, strict=True)]
    widths = [ratio_interval(mine, theirs, correlation) for mine, theirs in rows if mine and theirs]
    widest = max(widths, key=lambda width: width.high / width.low)
    return Ratio(one.system, other.system, value * widest.low / widest.value, value, value * widest.high / widest.value)
