"""Checks of the interconnect: bandwidth, latency, what crosses a domain, and what must be configured."""

from __future__ import annotations

from collections.abc import Iterable

from tokenworks.ledger.claims.article import article
from tokenworks.ledger.claims.asks import Answers
from tokenworks.ledger.claims.basis import Basis, system_of
from tokenworks.ledger.claims.check import Check
from tokenworks.ledger.claims.finding import ClaimTable, Finding

NDR = "hgx-h100"
"""A system of the catalog on an NDR network, whose numbers of NDR are read."""


def _bus_paths(basis: Basis) -> Iterable[str]:
    return (f"{system_of(basis.mix.machine)}.device.scale_up.bandwidth", f"{NDR}.network.port")


def _bus(basis: Basis, _answers: Answers) -> Finding:
    number = article().claims["C20"].number
    assert number is not None
    bus, port = (basis.value(path) for path in _bus_paths(basis))
    used = basis.loaded_calibration.families["nvidia-hopper"].dispatch_out.value
    assert used is not None
    rows = (("line rate", port / 1e9, bus / port), ("achieved by dispatch", used * port / 1e9, bus / (used * port)))
    return Finding(
        number.verdict(bus / port, bus / (used * port)),
        (f"{bus / 1e9:,.4g} GB/s a direction are {bus / port:,.3g} x the line rate of NDR.",), bus / port, bus / port,
        bus / (used * port), tables=(ClaimTable("Bus / NDR", ("NDR as", "NDR [GB/s]", "ratio"), rows),),
        conditions=("It holds if NDR counts with the rate that dispatch reaches on it.",),
    )  # fmt: skip


CHECKS: dict[str, Check] = {"C20": Check(_bus, rests_on=_bus_paths, turns=_bus_paths)}
"""Number of a claim -> its check."""
