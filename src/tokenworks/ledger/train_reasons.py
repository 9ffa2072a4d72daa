"""Why one machine trains faster, in words and numbers: device time per token, part by part, and goodput."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from tokenworks.ledger.compare_machines import UNITS, Ratio, four_digits
from tokenworks.ledger.reasons import NAMED, SMALL
from tokenworks.ledger.train_comparison import TrainCompared
from tokenworks.planning.train_result import TrainRow

GOODPUT_GAP = 0.01
"""A smaller difference of two goodputs is not named [-]."""

MICRO = 1e6


def train_reasons(systems: Sequence[TrainCompared], ratios: Sequence[Ratio], unit: str) -> tuple[str, ...]:
    """Sentences: what the winner gives, and where the time of each rival goes.

    Parameters
    ----------
    systems : the machines, best first
    ratios : the winner against each other machine with a value
    unit : unit of what the machines have equal amounts of
    """
    valued = [one for one in systems if one.kept_tok_s_per_unit is not None]
    if not valued:
        return ("No machine has a value.",)
    winner = valued[0]
    best, run = winner.study.best, winner.study.run
    assert best is not None
    assert run is not None
    first = (
        f"{winner.system} wins with {four_digits(winner.kept_tok_s_per_unit or 0.0)} kept tokens/s per {unit}: "
        f"{best.days:,.4g} days with [{best.training.parallel}], MFU {best.mfu:.1%}, goodput {run.goodput.share:.1%}."
    )
    if len(valued) == 1:
        return (first, "No other machine has a value.")
    return (first, *(_against(winner, other, ratio, unit) for other, ratio in zip(valued[1:], ratios, strict=True)))


def _against(winner: TrainCompared, other: TrainCompared, ratio: Ratio, unit: str) -> str:
    """One rival: the ratio, and the parts of the device time per token that make it."""
    one, two = winner.study.best, other.study.best
    assert one is not None
    assert two is not None
    own, rival = device_times(one), device_times(two)
    text = (
        f"It keeps {ratio.value:.3g} times the tokens of {other.system} "
        f"(80 % interval {ratio.low:.3g} to {ratio.high:.3g}){_amounts(winner, other, unit)}: a token takes "
        f"{_us(sum(own.values()))} of device time on {winner.system}, {_us(sum(rival.values()))} on {other.system}"
    )
    gap = sum(rival.values()) - sum(own.values())
    named = list(_parts(own, rival, gap))
    text = f"{text}. Largest differences: {'; '.join(named)}" if named else text
    return f"{text}{_goodputs(winner, other)}."


def device_times(row: TrainRow) -> dict[str, float]:
    """Time of all devices of a plan per trained token, by part, without failures; sorted by name [s/token].

    Parameters
    ----------
    row : the plan
    """
    times: defaultdict[str, float] = defaultdict(float)
    for part in row.parts:
        name = f"{part.part} over {part.level}" if part.kind == "communication" else part.part
        times[name] += part.seconds
    devices = row.devices + row.idle_devices
    return {name: times[name] * devices / row.training.tokens for name in sorted(times)}


def _parts(own: dict[str, float], rival: dict[str, float], gap: float) -> Iterator[str]:
    names = sorted({*own, *rival}, key=lambda name: (-abs(rival.get(name, 0.0) - own.get(name, 0.0)), name))
    for name in names[:NAMED]:
        less = rival.get(name, 0.0) - own.get(name, 0.0)
        if abs(less) < SMALL * abs(gap):
            return
        verb = "less" if less > 0 else "more"
        yield f"{name} {_us(abs(less))} {verb} ({_us(own.get(name, 0.0))} against {_us(rival.get(name, 0.0))})"


def _amounts(winner: TrainCompared, other: TrainCompared, unit: str) -> str:
    """Devices in one unit of the equal amount; empty where devices are equal themselves."""
    if unit == UNITS["devices"]:
        return ""
    counts = [(one.devices or 0) / (one.amount or 1.0) for one in (winner, other)]
    return f", where one {unit} is {counts[0]:.3g} devices of {winner.system} or {counts[1]:.3g} of {other.system}"


def _goodputs(winner: TrainCompared, other: TrainCompared) -> str:
    """Both goodputs, if they differ."""
    one, two = winner.study.run, other.study.run
    assert one is not None
    assert two is not None
    shares = one.goodput.share, two.goodput.share
    if abs(shares[0] - shares[1]) < GOODPUT_GAP:
        return ""
    return f". Goodput is {shares[0]:.1%} on {winner.system} and {shares[1]:.1%} on {other.system}"


def _us(seconds: float) -> str:
    return f"{seconds * 1e3:,.3g} ms" if seconds >= 1e-3 else f"{seconds * MICRO:.3g} us"
