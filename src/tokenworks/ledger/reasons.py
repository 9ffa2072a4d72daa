"""Why one machine wins, in words and numbers: the time of its devices per output token, beside that of the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tokenworks.costs.roofline import compute_dtype
from tokenworks.ledger.compare_machines import UNITS, Ratio, four_digits
from tokenworks.ledger.comparison import Compared
from tokenworks.ledger.study import Study
from tokenworks.simulation.spent import IDLE, LEFT_OVER, WAITING
from tokenworks.specs.model import Format, Model

NAMED = 3
"""Parts that are named for each rival, those with the largest difference first [count]."""

SMALL = 0.03
"""A part whose difference is a smaller share of the whole difference is not named [-]."""

DEVICE = UNITS["devices"]
"""Unit of a comparison at equal devices."""

ROOFS = {
    "compute": "arithmetic",
    "hbm": "device memory",
    "scale-up": "the scale-up links",
    "scale-out": "the scale-out network",
    "latency": "the start of kernels and messages",
    "host": "the host",
}
"""What binds a part, in words."""


PHRASES = {WAITING: "waiting for the busiest rank", IDLE: "time without work", LEFT_OVER: "devices that stay idle"}
"""Parts whose names need other words in a sentence."""


def reasons(
    systems: Sequence[Compared], ratios: Sequence[Ratio], unit: str, shares: Mapping[str, float]
) -> tuple[str, ...]:
    """Sentences: what the winner gives, and where the time of each rival goes.

    Parameters
    ----------
    systems : the machines, best first
    ratios : the winner against each other machine with a value
    unit : unit of what the machines have equal amounts of
    shares : model -> share of the effective tokens [-]
    """
    valued = [one for one in systems if one.effective_tok_s_per_unit is not None]
    if not valued:
        return ("No machine has a value.",)
    winner = valued[0]
    first = _headline(winner, unit)
    if len(valued) == 1:
        return (first, "No other machine has a value.")
    weights = list(shares.values())
    against = (_against(winner, other, ratio, weights, unit) for other, ratio in zip(valued[1:], ratios, strict=True))
    return (first, *against, *_with_failures(valued, unit))


def _with_failures(valued: Sequence[Compared], unit: str) -> Iterator[str]:
    """The machines that give more than the winner once failures count."""
    winner = valued[0]
    for other in valued[1:]:
        own, theirs = winner.expected_tok_s_per_unit, other.expected_tok_s_per_unit
        if own is not None and theirs is not None and theirs > own:
            yield (
                f"Failures change this order: in the mean over a long time {other.system} gives {four_digits(theirs)} "
                f"effective tokens/s per {unit}, {winner.system} {four_digits(own)}. Failures leave "
                f"{other.capacity:.2%} of the capacity of {other.system}, and {winner.capacity:.2%} of that of "
                f"{winner.system}{_cause_of_loss(winner)}."
            )


def _cause_of_loss(one: Compared) -> str:
    """The parts that take most capacity of a machine with one model."""
    uptime = one.answers[0].uptime
    if len(one.answers) > 1 or uptime is None or uptime.cause is None:
        return ""
    return f", mostly by failures of its parts of the kind {uptime.cause} ({uptime.cause_share:.0%} of the loss)"


def _headline(winner: Compared, unit: str) -> str:
    rows = [(answer.model, answer.row.deployment) for answer in winner.answers if answer.row]
    assert winner.effective_tok_s_per_unit is not None
    value = f"{four_digits(winner.effective_tok_s_per_unit)} effective tokens/s per {unit}"
    if len(rows) == 1:
        deployment = rows[0][1]
        return f"{winner.system} wins with {value}; its best deployment is {deployment} on {deployment.engine}."
    best = "; ".join(f"{deployment} on {deployment.engine} for {model}" for model, deployment in rows)
    return f"{winner.system} wins with {value}; its best deployments are {best}."


def _against(winner: Compared, other: Compared, ratio: Ratio, weights: Sequence[float], unit: str) -> str:
    """One rival: the ratio, and the parts of the time per token that make it."""
    one, two = _heaviest(winner, other, weights)
    assert one.best
    assert two.best
    assert one.machine
    assert two.machine
    own, rival = sum(one.best.spent.values()), sum(two.best.spent.values())
    gap = rival - own
    of_model = f" of {one.model}" if len(winner.answers) > 1 else ""
    text = (
        f"It gives {ratio.value:.3g} times the tokens of {other.system} "
        f"(80 % interval {ratio.low:.3g} to {ratio.high:.3g})"
        f"{_amounts(winner, other, unit)}: an output token{of_model} takes {_ms(own)} of device time on "
        f"{winner.system}, {_ms(rival)} on {other.system}"
    )
    named = list(_parts(one, two, gap))
    return f"{text}. Largest differences: {'; '.join(named)}." if named else f"{text}."


def _amounts(winner: Compared, other: Compared, unit: str) -> str:
    """Devices in one unit of the equal amount; empty where devices are equal themselves."""
    if unit == DEVICE:
        return ""
    counts = [(one.devices or 0) / (one.amount or 1.0) for one in (winner, other)]
    return f", where one {unit} is {counts[0]:.3g} devices of {winner.system} or {counts[1]:.3g} of {other.system}"


def _heaviest(one: Compared, other: Compared, weights: Sequence[float]) -> tuple[Study, Study]:
    """The answers of two machines for the model that takes most device time per token of the mix, on both together."""

    def seconds(pair: tuple[Study, Study, float]) -> float:
        *answers, weight = pair
        return weight * sum(sum(answer.best.spent.values()) for answer in answers if answer.best)

    mine, theirs, _ = max(zip(one.answers, other.answers, weights, strict=True), key=seconds)
    return mine, theirs


def _parts(one: Study, two: Study, gap: float) -> Iterator[str]:
    assert one.best
    assert two.best
    assert one.machine
    assert two.machine
    own, rival = one.best.spent, two.best.spent
    names = sorted({*own, *rival}, key=lambda name: -abs(rival.get(name, 0.0) - own.get(name, 0.0)))
    for name in names[:NAMED]:
        less = rival.get(name, 0.0) - own.get(name, 0.0)
        if abs(less) < SMALL * abs(gap):
            return
        verb = "less" if less > 0 else "more"
        cause = _cause(one, two, name)
        times = f"{_ms(own.get(name, 0.0))} against {_ms(rival.get(name, 0.0))}"
        yield f"{PHRASES.get(name, name)} {_ms(abs(less))} {verb} ({times}{cause})"


def _cause(one: Study, two: Study, name: str) -> str:
    """What binds a part on both machines, with the figures of that resource."""
    assert one.best
    assert two.best
    assert one.machine
    assert two.machine
    mine, other = one.best.roofs.get(name), two.best.roofs.get(name)
    if mine is None or other is None:
        return ""
    if mine != other:
        return f"; bound by {ROOFS[mine]} on {one.system}, by {ROOFS[other]} on {two.system}"
    figures = [resource(study, mine) for study in (one, two)]
    known = f": {figures[0].words} against {figures[1].words} of a device" if all(figures) else ""
    return f"; bound by {ROOFS[mine]}{known}"


@dataclass(frozen=True, slots=True)
class _Resource:
    value: float
    words: str

    def __bool__(self) -> bool:
        return self.value > 0


def resource(study: Study, roof: str) -> _Resource:
    """Bandwidth or rate of a roof on one device, in words; 0: the roof has no single figure."""
    machine = study.machine
    assert machine is not None
    if roof == "hbm":
        return _Resource(machine.hbm_bandwidth, f"{machine.hbm_bandwidth / 1e12:.3g} TB/s")
    if roof == "compute":
        assert study.plan is not None
        dtype, _ = compute_dtype(_main_format(study.plan.setting.model), machine.peak)
        return _Resource(machine.peak[dtype], f"{machine.peak[dtype] / 1e12:,.4g} {dtype.upper()} TFLOP/s")
    link = {"scale-up": machine.scale_up, "scale-out": machine.scale_out}.get(roof)
    if link is None:
        return _Resource(0.0, "")
    return _Resource(link.bandwidth, f"{link.bandwidth / 1e9:,.4g} GB/s")


def _main_format(model: Model) -> Format:
    """The format that most bytes of the weights have."""
    held: dict[str, float] = {}
    forms: dict[str, Format] = {}
    for block in model.blocks:
        for matrix in block.matrices:
            forms[matrix.format.name] = matrix.format
            held[matrix.format.name] = held.get(matrix.format.name, 0.0) + block.count * matrix.stored
    return forms[max(held, key=lambda name: held[name])]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
