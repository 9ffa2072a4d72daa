"""Checks of what the catalog knows: sizes, sums over the cards, the rack, and kinds of topology."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

from tokenworks.ledger.claims.article import number_of
from tokenworks.ledger.claims.asks import Answers
from tokenworks.ledger.claims.basis import Basis, system_of
from tokenworks.ledger.claims.check import Check
from tokenworks.ledger.claims.finding import ClaimTable, Finding
from tokenworks.ledger.site import RACK_UNITS, Hardware, hardware_of
from tokenworks.specs.load import CATALOG, catalog_names, load_system
from tokenworks.specs.provenance import Quantity
from tokenworks.specs.system import CoolingKind, System

EARLIER = ("scalex640", "cloudmatrix384", "gb200-nvl72")
"""The supernodes that the article names."""

SMALL_DOMAIN = 16
"""Domains of up to this many devices are servers, larger ones supernodes [count]."""

RACK_KW = (15, 20, 45, 60, 100)
"""Power of a rack for which the box is placed [kW]."""


# ── sizes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def _supernodes() -> tuple[System, ...]:
    """All systems of the catalog with more than `SMALL_DOMAIN` devices in a domain, the largest domain first."""
    systems = [load_system(name) for name in catalog_names("system")]
    large = [one for one in systems if one.domain > SMALL_DOMAIN and one.scale_up.topology != "torus"]
    return tuple(sorted(large, key=lambda one: (-one.domain, one.name)))


def _earlier(_basis: Basis, _answers: Answers) -> Finding:
    """C01: cards of a domain of the supernodes that the article names, beside all others of the catalog."""
    sizes = sorted(load_system(name).domain for name in EARLIER)
    rows = tuple(
        (one.name, one.domain, one.devices, one.facts["launch_date"].value if "launch_date" in one.facts else "")
        for one in _supernodes()
    )
    small = [one.name for one in _supernodes() if one.domain < number_of("C01").value]
    return Finding(
        number_of("C01").verdict(sizes[0], sizes[-1]),
        (f"Of the three that the article names, domains have {sizes[0]}, {sizes[1]} and {sizes[2]} cards.",),
        sizes[1],
        sizes[0],
        sizes[-1],
        "cards",
        ("It holds for scaleX640 and CloudMatrix384. NVL72 has 72 cards, and so needs less than a hundred.",),
        (ClaimTable("Supernodes of the catalog", ("system", "cards in a domain", "cards", "launch"), rows),),
        notes=(f"{len(small)} supernodes of the catalog have fewer than 100 cards in a domain: {', '.join(small)}.",),
    )


def _cards(basis: Basis, _answers: Answers) -> Finding:
    """C05: cards of a scale-up domain."""
    parts = basis.parts(basis.mix.machine)
    host = parts.system.host.devices
    rows = (("the box", parts.devices), ("a scale-up domain", parts.domain), ("a host node", host))
    return Finding(
        number_of("C05").verdict(parts.domain, parts.domain),
        (f"One scale-up domain has {parts.domain} cards.",),
        parts.domain,
        parts.domain,
        parts.domain,
        "cards",
        tables=(ClaimTable("Cards", ("of", "cards"), rows),),
        notes=(
            f"A node in the words of the article is a scale-up domain. The box has {parts.devices // host} host nodes "
            f"of {host} cards, each with its own processor and operating system.",
        ),
    )


# ── sums over the cards ───────────────────────────────────────────────────────────────────────────────────────────


def _sum(claim: str, path: str, scale: float, *, sold: str = "") -> Check:
    """A check of a number of all cards together.

    Parameters
    ----------
    claim : number of the claim
    path : number of one card
    scale : unit of the claim in SI units
    sold : path of the same number as the maker prints it; empty: there is none
    """

    def paths(basis: Basis) -> Iterable[str]:
        return (f"{system_of(basis.mix.machine)}.{path}",)

    def judge(basis: Basis, _answers: Answers) -> Finding:
        number = number_of(claim)
        system, cards = system_of(basis.mix.machine), basis.parts(basis.mix.machine).devices
        one = basis.input(f"{system}.{path}")
        total = cards * basis.value(one.path) / scale
        printed = basis.input(f"{system}.{sold}").value if sold else None
        ends = sorted((total, total if printed is None else cards * printed / scale))
        notes: tuple[str, ...] = ()
        if one.status == "derived" and "article" in one.source:
            notes = (f"The number of one card is the claim itself / {cards}, so the sum is no evidence: {one.source}.",)
        return Finding(
            number.verdict(ends[0], ends[1]),
            (f"{cards} cards x {one.written} = {total:,.4g} {number.unit}.",),
            total,
            ends[0],
            ends[1],
            number.unit,
            notes=notes,
        )

    return Check(judge, rests_on=paths, turns=paths)


# ── topology ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _written(quantity: Quantity) -> str:
    return quantity.written or "not published"


def _topology(system: System) -> tuple[str, ...]:
    """What the catalog says about the scale-up fabric of a system."""
    fabric = system.scale_up
    return (
        fabric.topology,
        str(fabric.layers),
        fabric.semantics,
        _written(fabric.switches),
        _written(system.cables),
        system.facts["cableless"].value if "cableless" in system.facts else "",
    )


def _like_gtc(basis: Basis, _answers: Answers) -> Finding:
    """C18: the topology of the machine beside that of Vera Rubin and of NVL72."""
    names = (system_of(basis.mix.machine), "vera-rubin-nvl72", "gb200-nvl72")
    rows = tuple((name, *_topology(basis.parts(name).system)) for name in names)
    columns = ("system", "topology", "layers", "semantics", "switches", "cables", "words of the maker")
    return Finding(
        "holds if",
        ("Both have one layer of switches with loads and stores, and compute trays that plug in without cables.",),
        conditions=(
            "It holds for the compute trays of Vera Rubin, which plug into a midplane.",
            "It does not hold for its rack: the spine between trays and switches is still copper cable.",
        ),
        tables=(ClaimTable("Topology in the catalog", columns, rows),),
        notes=("Resemblance has no measure: only entries of the catalog are compared.",),
    )


def _cables_path(basis: Basis) -> Iterable[str]:
    return (f"{system_of(basis.mix.machine)}.cables",)


def _plugged(basis: Basis, _answers: Answers) -> Finding:
    """C19: cables inside the scale-up domain."""
    number, item = number_of("C19"), basis.input(f"{system_of(basis.mix.machine)}.cables")
    parts = basis.parts(basis.mix.machine)
    if item.value is None:
        return Finding("cannot be known", ("The number of cables is not published.",), unit=number.unit)
    switches = parts.system.scale_up.switches
    return Finding(
        number.verdict(item.value, item.value),
        (f"The scale-up domain has {item.value:,.0f} cables ({item.status}: {item.source}).",),
        item.value,
        item.value,
        item.value,
        number.unit,
        notes=(
            f"{_written(switches)} switch nodes connect {parts.system.devices // parts.system.host.devices} compute "
            "nodes. The figure is the maker's: nobody else has opened a box in public.",
        ),
    )


# ── the rack ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _rack_paths(basis: Basis) -> Iterable[str]:
    return (f"{system_of(basis.mix.machine)}.{name}" for name in ("rack_units", "power", "weight"))


def _rack(basis: Basis, _answers: Answers) -> Finding:
    """C25: height of the box, and the boxes that stand in racks with less or more power, with air or liquid."""
    number, hardware = number_of("C25"), hardware_of(basis.parts(basis.mix.machine))
    height, power, weight = (basis.value(path) for path in _rack_paths(basis))
    kinds: tuple[CoolingKind, ...] = ("air", "liquid")
    rows = tuple(
        (f"{kilowatts} kW", cooling, _boxes(hardware, kilowatts, cooling)) for cooling in kinds for kilowatts in RACK_KW
    )
    fits = number.verdict(height, height)
    cooled = hardware.cooling or "unknown"
    return Finding(
        "does not hold" if fits == "does not hold" else "holds if",
        (
            f"The box takes {height:,.4g} of the 42 units of a 19-inch rack, weighs {weight:,.4g} kg and draws up to "
            f"{power / 1e3:,.4g} kW.",
        ),
        height,
        height,
        height,
        number.unit,
        (f"It holds if the site gives a rack {power / 1e3:,.4g} kW and has {cooled} cooling.",),
        (ClaimTable("Boxes in a rack of 42 units", ("power of a rack", "cooling of the site", "boxes"), rows),),
        notes=(
            "The height is the maker's figure. No standard says which power and cooling are usual; a rack of "
            "air-cooled "
            "8-GPU servers of 10.2 kW takes the same 45 kW with four servers.",
        ),
    )


def _boxes(hardware: Hardware, kilowatts: float, cooling: CoolingKind) -> int:
    """Boxes that height and power of a rack allow; 0 if the site cools less than the box needs [count]."""
    if hardware.cooling != "air" and cooling == "air":
        return 0
    return int(min(RACK_UNITS / (hardware.rack_units or math.inf), kilowatts * 1e3 / (hardware.power_w or math.inf)))


# ── the stack ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _stack(basis: Basis, _answers: Answers) -> Finding:
    """C33: makers and engines of the stack, as far as the catalog knows them."""
    parts = basis.parts(basis.mix.machine)
    network = parts.network.title if parts.network else "none"
    forks = sorted(path.stem for path in (CATALOG / "dialects").glob("*-das-*.yaml"))
    rows = (
        ("machine", parts.system.vendor),
        ("card", parts.device.vendor),
        ("host processor", parts.system.host.cpu),
        ("network", network),
        ("engines with published flags", ", ".join(forks)),
    )
    return Finding(
        "cannot be known",
        ("An open architecture has no measure that models compute.",),
        tables=(ClaimTable("The stack in the catalog", ("part", "maker or name"), rows),),
        notes=(
            "What can be seen: card and processor are Hygon's, machine and network Sugon's, and forks of SGLang for "
            "the cards are public.",
        ),
    )


CHECKS: dict[str, Check] = {
    "C01": Check(_earlier),
    "C05": Check(_cards),
    "C06": _sum("C06", "device.peak.fp8", 1e15),
    "C07": _sum("C07", "device.hbm.capacity", 1e12, sold="device.hbm.sold"),
    "C08": _sum("C08", "device.hbm.bandwidth", 1e12),
    "C18": Check(_like_gtc),
    "C19": Check(_plugged, rests_on=_cables_path),
    "C25": Check(_rack, rests_on=_rack_paths, turns=_rack_paths),
    "C33": Check(_stack),
}
"""Number of a claim -> its check."""
