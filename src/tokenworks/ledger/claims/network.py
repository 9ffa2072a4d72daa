"""Checks of the interconnect: bandwidth, latency, what crosses a domain, and what must be configured."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tokenworks.costs.moe import direct_copies
from tokenworks.ledger.claims.article import number_of
from tokenworks.ledger.claims.asks import Answers
from tokenworks.ledger.claims.basis import Basis, system_of
from tokenworks.ledger.claims.check import Check
from tokenworks.ledger.claims.finding import ClaimTable, Finding, TableCell
from tokenworks.ledger.site import hardware_of
from tokenworks.specs.hf import load_model
from tokenworks.specs.machine import Assumption
from tokenworks.specs.model import Model

NDR = "hgx-h100"
"""A system of the catalog on InfiniBand NDR, whose numbers of NDR are read."""

HOPPER = "calibration.families.nvidia-hopper"
"""Calibration of devices whose dispatch over NDR was measured."""

WIDTHS = (8, 16, 32, 40, 64, 128, 320)
"""Expert-parallel ranks of C16 [count]."""

SMALL = 64.0
"""Size of a small access [byte]."""

CLUSTERS = (40, 80, 200, 400, 1000)
"""Cards of the sites of C27 [count]."""


def _own(basis: Basis, path: str) -> str:
    return f"{system_of(basis.mix.machine)}.{path}"


# ── C16: traffic of experts ───────────────────────────────────────────────────────────────────────────────────────


def experts_per_token(model: Model) -> int:
    """Routed experts that a token visits; 0 for a dense model [count]."""
    return max((block.experts.topk for block in model.blocks if block.experts), default=0)


def _local(topk: int, ranks: int, domain: int) -> float:
    """Share of the bytes of dispatch and combine that stay inside a domain [-]."""
    inside, outside = direct_copies(topk, ep=ranks, expert_tp=1, domain=min(domain, ranks))
    sent = float(inside + outside)
    return float(inside) / sent if sent else 1.0


def _experts(basis: Basis, _answers: Answers) -> Finding:
    number, domain = number_of("C16"), basis.parts(basis.mix.machine).domain
    baseline = basis.mix.baselines[0]
    server, topk = basis.parts(baseline).domain, experts_per_token(load_model(basis.mix.main))
    if not topk:
        return Finding("cannot be known", (f"{basis.mix.main} has no routed experts.",), unit=number.unit)
    rows = tuple((ranks, 100 * _local(topk, ranks, domain), 100 * _local(topk, ranks, server)) for ranks in WIDTHS)
    widest, local = rows[-1], 100 * _local(topk, domain, domain)
    columns = ("ranks", f"inside a domain of {domain} [%]", f"inside a domain of {server} [%]")
    return Finding(
        number.verdict(widest[1], local),
        (
            f"An instance with at most {domain} expert-parallel ranks keeps all its traffic inside the domain; on "
            "servers "
            f"of {server} cards, {100 * _local(topk, domain, server):.0f} % of the bytes of {domain} ranks stay "
            "inside.",
        ),
        local,
        widest[1],
        local,
        number.unit,
        (
            f"It holds if an instance has at most {domain} ranks. With {widest[0]} ranks, {widest[1]:.0f} % stay "
            "inside.",
        ),
        (
            ClaimTable(
                f"Dispatch and combine that stay inside ({basis.mix.main}, {topk} experts a token)", columns, rows
            ),
        ),
        notes=(
            f"{basis.mix.main} was published with instances of 32 to 320 ranks. Experts count as placed at "
            "random: routing "
            "to few nodes keeps more inside.",
        ),
    )


# ── C20: bandwidth against NDR ────────────────────────────────────────────────────────────────────────────────────


def _bus_paths(basis: Basis) -> Iterable[str]:
    return (_own(basis, "device.scale_up.bandwidth"), f"{NDR}.network.port", f"{HOPPER}.dispatch_out")


def _bus(basis: Basis, _answers: Answers) -> Finding:
    number = number_of("C20")
    bus, port, used = (basis.value(path) for path in _bus_paths(basis))
    line, achieved = bus / port, bus / (used * port)
    rows = (
        ("line rate of NDR", port / 1e9, line),
        ("what dispatch achieves on NDR", used * port / 1e9, achieved),
        ("line rate, if the figure of the bus is both directions", port / 1e9, line / 2),
    )
    return Finding(
        number.verdict(line, achieved),
        (
            f"{bus / 1e9:,.4g} GB/s a direction are {line:,.3g} x the line rate of NDR ({port / 1e9:,.4g} GB/s), and "
            f"{achieved:,.3g} x what dispatch achieves on NDR ({used * port / 1e9:,.4g} GB/s).",
        ),
        line,
        line,
        achieved,
        number.unit,
        (
            "It holds if NDR counts with the rate that it achieves and the bus with its own line rate, which is "
            "not like "
            "for like. With line rates it does not hold.",
        ),
        (ClaimTable("Bandwidth of the bus / bandwidth of NDR", ("NDR as", "NDR [GB/s]", "ratio"), rows),),
        notes=(
            "That the figure of the bus is one direction is assumed: 4 switch nodes x 8 lanes x 112 Gb/s give it "
            "exactly.",
        ),
    )


# ── C21, C22, C23: latency ────────────────────────────────────────────────────────────────────────────────────────


def _path_paths(basis: Basis) -> tuple[str, str]:
    return _own(basis, "scale_up.hop"), _own(basis, "scale_up.endpoint")


def _switches(layers: int) -> int:
    """Switches on the longest path: 2 x layers - 1 [count]."""
    return 2 * layers - 1


def _access_paths(basis: Basis) -> Iterable[str]:
    names = ("hop", "endpoint", "overhead")
    return (*_path_paths(basis), *(f"{NDR}.network.{name}" for name in names))


def _semantics(basis: Basis, _answers: Answers) -> Finding:
    """C21: time of a small access by load and store, and by a message over NDR."""
    fabric = basis.parts(basis.mix.machine).system.scale_up
    hop, endpoint, far_hop, far_end, software = (basis.value(path) for path in _access_paths(basis))
    near = endpoint + _switches(fabric.layers) * hop
    far = far_end + far_hop + software
    rows = (
        ("load or store inside the domain", near * 1e9, 0.0),
        ("message over NDR, one switch", far * 1e9, software * 1e9),
    )
    return Finding(
        "holds if" if fabric.semantics == "load-store" else "does not hold",
        (
            f"The catalog has {fabric.semantics} for the fabric. An access of {SMALL:g} bytes then takes "
            f"{near * 1e6:.2f} "
            f"us, and {far * 1e6:.2f} us as a message over NDR, {software * 1e6:.2f} us of it software.",
        ),
        far / near,
        far / near,
        far / near,
        "",
        (
            "It holds if the maker's words are right: nobody published a measurement of an access, and the "
            "latencies of "
            "the fabric are assumed.",
        ),
        (ClaimTable(f"One way of {SMALL:g} bytes", ("access", "time [ns]", "of it software [ns]"), rows),),
        notes=(
            "Computed is the time of a message over NDR / the time of a load. One address space for memory of "
            "hosts would "
            "need a link between hosts and the fabric, whose bandwidth is not published.",
        ),
        assumed=(Assumption(_own(basis, "scale_up.semantics"), fabric.semantics, "words of the maker"),),
    )


def _latency(basis: Basis, _answers: Answers) -> Finding:
    """C22: one-way latency of the longest path inside the domain."""
    number = number_of("C22")
    layers = basis.parts(basis.mix.machine).system.scale_up.layers
    items = [basis.input(path) for path in _path_paths(basis)]
    hop, endpoint = (basis.value(path) for path in _path_paths(basis))
    switches = _switches(layers)
    path = 1e9 * (endpoint + switches * hop)
    low, high = (1e9 * (ends[1] + switches * ends[0]) for ends in _ends(items))
    return Finding(
        number.verdict(low, high),
        (
            f"Both ends take {endpoint * 1e9:,.4g} ns and {switches} switch takes {hop * 1e9:,.4g} ns, "
            f"{path:,.4g} ns together.",
        ),
        path,
        low,
        high,
        number.unit,
        (
            "Hundreds of nanoseconds: it holds if both ends take less than "
            f"{number.value - 1e9 * switches * hop:,.4g} ns.",
            "Within 100 ns: it does not hold, since one switch alone takes 200 to 260 ns in fabrics that publish it.",
        ),
        (
            ClaimTable(
                "Parts of a path",
                ("part", "time [ns]", "low [ns]", "high [ns]"),
                tuple(
                    (name, 1e9 * (item.value or 0), 1e9 * (item.low or 0), 1e9 * (item.high or 0))
                    for name, item in zip(("one switch", "both ends"), items, strict=True)
                ),
            ),
        ),
        notes=(
            "The translation leaves open whether 100 ns or 100 to 999 ns are meant. The maker published neither the "
            "latency of the switch nor that of a card.",
        ),
    )


def _ends(items: Iterable[object]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The low and the high ends of inputs."""
    return tuple(tuple(float(getattr(item, end)) for item in items) for end in ("low", "high"))  # type: ignore[return-value]


def _saved(hop: float, endpoint: float) -> float:
    """Share of the latency that two layers have more than one: 2 h / (e + 3 h) [%]."""
    return 100 * 2 * hop / (endpoint + 3 * hop)


def _two_layers(basis: Basis, _answers: Answers) -> Finding:
    """C23: one switch on the path against three."""
    number = number_of("C23")
    hop_in, end_in = (basis.input(path) for path in _path_paths(basis))
    hop, endpoint = (basis.value(path) for path in _path_paths(basis))
    saved = _saved(hop, endpoint)
    assert None not in (hop_in.low, hop_in.high, end_in.low, end_in.high)
    low, high = _saved(hop_in.low or 0, end_in.high or 0), _saved(hop_in.high or 0, end_in.low or 0)
    most = (200 / number.value - 3) * hop
    rows: tuple[tuple[TableCell, ...], ...] = tuple(
        (f"{ends * 1e9:,.0f}", *(round(_saved(one, ends), 1) for one in (0.15e-6, 0.25e-6, 0.33e-6)))
        for ends in (0.225e-6, 0.45e-6, 0.9e-6, 1.35e-6, 3e-6)
    )
    return Finding(
        number.verdict(low, high),
        (
            f"A path takes {1e9 * (endpoint + hop):,.4g} ns through one switch and "
            f"{1e9 * (endpoint + 3 * hop):,.4g} ns "
            f"through three: {saved:.1f} % less.",
        ),
        saved,
        low,
        high,
        number.unit,
        (
            f"It holds if both ends take at most {most * 1e9:,.4g} ns with a switch of {hop * 1e9:,.4g} ns: loads and "
            "stores do, messages with software do not.",
        ),
        (ClaimTable("Latency saved by one layer [%]", ("both ends [ns]", "switch 150 ns", "250 ns", "330 ns"), rows),),
    )


# ── C27: what must be configured ──────────────────────────────────────────────────────────────────────────────────


def _scale_out(basis: Basis, _answers: Answers) -> Finding:
    """C27: systems, ports, links and switches of the scale-out network for the same cards."""
    number = number_of("C27")
    server, machine = system_of(basis.mix.baselines[0]), system_of(basis.mix.machine)
    size, box = basis.parts(server).devices, basis.parts(machine).devices
    rows = []
    for cards in (cards for cards in CLUSTERS if cards % size == 0 and cards % box == 0):
        for name, many in ((server, cards // size), (machine, cards // box)):
            one = hardware_of(basis.parts(f"{many}x{name}"))
            rows.append((cards, name, many, one.endpoints, one.links, one.switches))
    ratio = box / size
    few = [row for row in rows if row[0] == box]
    many_ = [row for row in rows if row[0] != box]
    ports = min((theirs[3] / own[3] for theirs, own in zip(many_[::2], many_[1::2], strict=True)), default=math.inf)
    return Finding(
        number.verdict(ports, math.inf),
        (
            f"For {box} cards, {few[0][2]} servers need {few[0][3]} ports and {few[0][4]} links; one box needs no "
            "network."
            if few
            else f"One box of {box} cards needs no network.",
            f"For more cards, each card has a port in both: {ports:.3g} x as many ports, and {ratio:.3g} x as "
            "many systems.",
        ),
        ratio,
        ports,
        None,
        number.unit,
        (
            f"It holds if {box} cards are all: then there is no scale-out network at all.",
            f"It does not hold for a site of several boxes: {ratio:.3g} x fewer systems, and as many ports and links.",
        ),
        (ClaimTable("Scale-out network", ("cards", "made of", "systems", "ports", "links", "switches"), tuple(rows)),),
        notes=(
            "Complexity has no unit: computed are systems to configure. The high end is open, since nothing is "
            "divided by "
            "nothing.",
        ),
    )


CHECKS: dict[str, Check] = {
    "C16": Check(_experts),
    "C20": Check(_bus, rests_on=_bus_paths, turns=_bus_paths),
    "C21": Check(_semantics, rests_on=_access_paths),
    "C22": Check(_latency, rests_on=_path_paths, turns=_path_paths),
    "C23": Check(_two_layers, rests_on=_path_paths, turns=_path_paths),
    "C27": Check(_scale_out),
}
"""Number of a claim -> its check."""
