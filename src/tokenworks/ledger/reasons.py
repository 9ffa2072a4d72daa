"""Why one machine wins, in words and numbers: the time of its devices per output token, beside that of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenworks.ledger.comparison import UNITS, Compared, Equal, Ratio
from tokenworks.ledger.study import Study
from tokenworks.specs.machine import Machine

NAMED = 3
"""Parts that are named for each rival, those with the largest difference first [count]."""

SMALL = 0.03
"""A part whose difference is a smaller share of the whole difference is not named [-]."""

ROOFS = {
    "compute": "arithmetic",
    "hbm": "device memory",
    "scale-up": "the scale-up links",
    "scale-out": "the scale-out network",
    "latency": "the start of kernels and messages",
    "host": "the host",
}
"""What binds a part, in words."""


def reasons(systems: Sequence[Compared], ratios: Sequence[Ratio], equal: Equal) -> tuple[str, ...]:
    """Sentences: what the winner gives, and where the time of each rival goes."""
    valued = [one for one in systems if one.effective_tok_s_per_unit is not None]
    if not valued:
        return ("No machine serves the work within the SLO.",)
    winner = valued[0]
    first = _headline(winner, equal)
    if len(valued) == 1:
        return (first, "No other machine serves the work within the SLO.")
    return (first, *(_against(winner, other, ratio) for other, ratio in zip(valued[1:], ratios, strict=True)))


def _headline(winner: Compared, equal: Equal) -> str:
    row = winner.answers[0].row
    assert row is not None
    value = f"{winner.effective_tok_s_per_unit:,.4g} effective tokens/s per {UNITS[equal]}"
    return f"{winner.system} wins with {value}; its best deployment is {row.deployment} on {row.deployment.engine}."


def _against(winner: Compared, other: Compared, ratio: Ratio) -> str:
    """One rival: the ratio, and the parts of the time per token that make it."""
    one, two = _heaviest(winner), _heaviest(other)
    assert one.best
    assert two.best
    assert one.machine
    assert two.machine
    own, rival = sum(one.best.spent.values()), sum(two.best.spent.values())
    gap = rival - own
    text = (
        f"{ratio.value:.3g} times {other.system} ({ratio.low:.3g} to {ratio.high:.3g}): an output token takes "
        f"{_ms(own)} of device time on {winner.system}, {_ms(rival)} on {other.system}"
    )
    named = list(_parts(one, two, gap))
    return f"{text}. {'; '.join(named)}." if named else f"{text}."


def _heaviest(one: Compared) -> Study:
    """The model that most device time goes to per effective token."""
    return max(one.answers, key=lambda answer: sum(answer.best.spent.values()) if answer.best else 0.0)


def _parts(one: Study, two: Study, gap: float) -> Iterator[str]:
    assert one.best
    assert two.best
    assert one.machine
    assert two.machine
    own, rival = one.best.spent, two.best.spent
    names = sorted({*own, *rival}, key=lambda name: -abs(rival.get(name, 0.0) - own.get(name, 0.0)))
    for number, name in enumerate(names[:NAMED]):
        less = rival.get(name, 0.0) - own.get(name, 0.0)
        if abs(less) < SMALL * abs(gap):
            return
        verb = "less" if less > 0 else "more"
        cause = _cause(one, two, name)
        lead = "The largest difference: " if number == 0 else ""
        yield f"{lead}{name} {_ms(abs(less))} {verb} ({_ms(own.get(name, 0.0))} against {_ms(rival.get(name, 0.0))}{cause})"


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
        return f"; bound by {ROOFS[mine]} here, by {ROOFS[other]} there"
    figures = [resource(machine, mine) for machine in (one.machine, two.machine)]
    known = f": {figures[0].words} against {figures[1].words} a device" if all(figures) else ""
    return f"; bound by {ROOFS[mine]}{known}"


@dataclass(frozen=True, slots=True)
class _Resource:
    value: float
    words: str

    def __bool__(self) -> bool:
        return self.value > 0


def resource(machine: Machine, roof: str) -> _Resource:
    """Bandwidth or rate of a roof on one device, in words; 0: the roof has no single figure."""
    if roof == "hbm":
        return _Resource(machine.hbm_bandwidth, f"{machine.hbm_bandwidth / 1e12:.3g} TB/s")
    if roof == "compute":
        best = max(("fp8", "int8", "bf16"), key=lambda dtype: machine.peak.get(dtype, 0.0))
        return _Resource(
            machine.peak.get(best, 0.0), f"{machine.peak.get(best, 0.0) / 1e12:,.4g} {best.upper()} TFLOP/s"
        )
    link = {"scale-up": machine.scale_up, "scale-out": machine.scale_out}.get(roof)
    if link is None:
        return _Resource(0.0, "")
    return _Resource(link.bandwidth, f"{link.bandwidth / 1e9:,.4g} GB/s")


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
