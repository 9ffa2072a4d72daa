"""Checks of what the catalog knows: sizes, sums over the cards, height, and kinds of topology."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tokenworks.ledger.claims.article import article
from tokenworks.ledger.claims.asks import Answers
from tokenworks.ledger.claims.basis import Basis, system_of
from tokenworks.ledger.claims.check import Check
from tokenworks.ledger.claims.finding import ClaimTable, Finding


def _sum(claim: str, path: str, unit: str, scale: float, *, sold: str = "") -> Check:
    """A check of a number of all cards together.

    Parameters
    ----------
    claim : number of the claim
    path : number of one card
    unit, scale : unit of the claim, and its size in SI units
    sold : path of the same number as the maker prints it; empty: there is none
    """

    def paths(basis: Basis) -> Iterable[str]:
        return (f"{system_of(basis.mix.machine)}.{path}",)

    def judge(basis: Basis, _answers: Answers) -> Finding:
        number = article().claims[claim].number
        assert number is not None
        cards, one = basis.parts(basis.mix.machine).devices, basis.input(next(iter(paths(basis))))
        total = cards * basis.value(one.path) / scale
        ends = sorted((total, _sold(basis, sold, cards, scale) or total))
        verdict = number.verdict(*ends)
        derived = (
            (f"The number of one card is {one.status}: it follows from the claim itself, so the sum is no evidence.",)
            if one.status == "derived" and "article" in one.source else ()
        )  # fmt: skip
        return Finding(
            verdict, (f"{cards} cards x {one.written} = {total:,.4g} {unit}.",), total, ends[0], ends[1], unit,
            notes=derived,
        )  # fmt: skip

    return Check(judge, rests_on=paths, turns=paths)


def _sold(basis: Basis, path: str, cards: int, scale: float) -> float | None:
    known = basis.input(f"{system_of(basis.mix.machine)}.{path}").value if path else None
    return None if known is None else cards * known / scale


def _cards(basis: Basis, _answers: Answers) -> Finding:
    number = article().claims["C05"].number
    assert number is not None
    parts = basis.parts(basis.mix.machine)
    hosts = parts.devices // parts.system.host.devices
    nodes = f"{hosts} host nodes of {parts.system.host.devices} cards"
    return Finding(
        number.verdict(parts.domain, parts.domain),
        (f"One scale-up domain has {parts.domain} cards.",), parts.domain, parts.domain, parts.domain, "cards",
        notes=(f"A node in the words of the article is a scale-up domain: the box has {nodes}.",),
        tables=(ClaimTable("Cards", ("of", "cards"), (("the box", parts.devices), ("a scale-up domain", parts.domain),
                ("a host node", parts.system.host.devices))),),
    )  # fmt: skip


Judge = Callable[[Basis, Answers], Finding]

CHECKS: dict[str, Check] = {
    "C05": Check(_cards),
    "C06": _sum("C06", "device.peak.fp8", "PFLOP/s", 1e15),
    "C07": _sum("C07", "device.hbm.capacity", "TB", 1e12, sold="device.hbm.sold"),
    "C08": _sum("C08", "device.hbm.bandwidth", "TB/s", 1e12),
}
"""Number of a claim -> its check."""
