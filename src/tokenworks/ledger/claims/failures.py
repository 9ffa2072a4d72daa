"""Checks of failures: availability of the machine and of a deployment, cables, and parts of two kinds of network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tokenworks.arrays import FloatArray
from tokenworks.costs.rates import rates, with_engine
from tokenworks.costs.reliability import YEAR_S, downtime_s
from tokenworks.costs.requests import mean_request
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.ledger.availability import LONGEST, needed_factor
from tokenworks.ledger.availability_form import MachineForm, Scales, closed_form
from tokenworks.ledger.availability_stand import Stand, stand_of
from tokenworks.ledger.claims.article import number_of
from tokenworks.ledger.claims.asks import Answers, AvailabilityAsk, ClaimAsk, PlanAsk, unsettled
from tokenworks.ledger.claims.basis import Basis
from tokenworks.ledger.claims.check import Check, Gauge
from tokenworks.ledger.claims.finding import ClaimTable, Finding, TableCell
from tokenworks.ledger.study import Study
from tokenworks.planning.result import Plan
from tokenworks.simulation.steps import Site
from tokenworks.simulation.variants import Condition, least_ranks
from tokenworks.specs.compose import resolve
from tokenworks.specs.deployment import Role
from tokenworks.specs.machine import Assumption, Machine
from tokenworks.specs.model import Model
from tokenworks.specs.parts import PartKind, assumed_parts, part_counts, parts_of

HOUR = 3600.0
SPARES = 4
"""Spare cards of C09: one host node [count]."""

MOST_COPIES = 64
"""Most redundant experts of a rank that C09 tries [count]."""

SMALL, LARGE = ("device", "hbm", "host", "software"), ("lane", "link", "optic", "switch")


def _machine(basis: Basis, on: str) -> Machine:
    """The machine. Numbers that no count of parts reads may be missing."""
    return resolve(basis.parts(on))[0]


def _rate(basis: Basis, kind: PartKind) -> float:
    """Failures of one part [1/h]."""
    part = basis.reliability.parts.get(kind)
    return part.failures.value or 0.0 if part else 0.0


def _rate_paths(basis: Basis, kinds: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"reliability.parts.{kind}.failures" for kind in kinds if kind in basis.reliability.parts)


# ── C09: availability ─────────────────────────────────────────────────────────────────────────────────────────────


def _plans(basis: Basis) -> tuple[PlanAsk, PlanAsk]:
    """The plan over all cards, and the plan that leaves a host node of cards as spares."""
    on = basis.mix.machine
    devices = basis.parts(on).devices
    return basis.plan(basis.mix.main, on), basis.plan(basis.mix.main, on, devices=devices - SPARES)


def _histories(basis: Basis) -> AvailabilityAsk:
    return basis.availability(basis.mix.machine)


def _asks(basis: Basis) -> Iterable[ClaimAsk]:
    return (*_plans(basis), _histories(basis))


def _available_paths(basis: Basis) -> Iterable[str]:
    """Rates and times of all parts that the machine has."""
    kinds = [*part_counts(parts_of(_machine(basis, basis.mix.machine))), "software"]
    for kind in dict.fromkeys(kinds):
        if kind in basis.reliability.parts:
            yield from (f"reliability.parts.{kind}.{name}" for name in ("failures", "permanent", "reset"))
    yield from (
        f"reliability.recovery.{name}" for name in ("detect", "process", "weights", "graphs", "shrink", "crash")
    )
    yield "reliability.repair"


@dataclass(frozen=True)
class _Left:
    """Capacity of an instance in a condition: its share of the ranks x its share of the bandwidth.

    The product of both is a bound from below: a step does not always wait for the link. Only the time without any
    capacity counts for the verdict, for which the bound does not matter.
    """

    stand: Stand

    def __call__(self, role: int, condition: Condition) -> float:
        ranks = next(one.ranks for one in self.stand.instances if one.role == role)
        return (condition.live or ranks) / ranks * condition.up_share * condition.out_share


def _stand(basis: Basis, study: Study, *, elastic: bool, spares: int) -> Stand | None:
    """The best deployment of a plan on the whole machine; None if it cannot be elastic, or has no room for spares.

    An elastic one gets as many redundant experts as its ranks need to do without one of them.
    """
    if study.plan is None or study.row is None:
        return None
    chosen, model = study.row.deployment, study.plan.setting.model
    roles = [_redundant(role, model) if elastic else role for role in chosen.roles]
    data = chosen.model_dump() | {"elastic_ep": elastic, "spares": spares, "system": basis.mix.machine}
    data["roles"] = [role.model_dump() for role in roles]
    try:
        return stand_of(type(chosen)(**data), _site(basis, study.plan))
    except (SpecError, DoesNotFit):
        return None


def _redundant(role: Role, model: Model) -> Role:
    """A role with the fewest redundant experts with which it goes on without one rank."""
    if not role.can_shrink:
        return role
    for copies in range(1, MOST_COPIES + 1):
        more = role.model_copy(update={"redundant_experts": role.redundant_experts + copies * role.parallel.ep})
        if least_ranks(more, model) < role.parallel.dp:
            return more
    return role


def _site(basis: Basis, plan: Plan) -> Site:
    setting, on = plan.setting, _machine(basis, basis.mix.machine)
    achieved = with_engine(rates(on, basis.loaded_calibration), setting.engine, setting.model)
    return Site(setting.model, on, setting.engine, achieved, mean_request(setting.workload), setting.given)


Lost = Callable[[Scales], FloatArray]


@dataclass(frozen=True)
class _Reading:
    """What "available" may mean.

    Parameters
    ----------
    name : the meaning
    lost : share of the time that is lost, for factors on the numbers of the failure rates
    """

    name: str
    lost: Lost

    @property
    def available(self) -> float:
        """Share of the time [%]."""
        return 100 * (1 - float(self.lost({})))


SERVES = "the deployment serves, with restarts"


def _readings(basis: Basis, answers: Answers) -> list[_Reading]:
    """Everything that "available" may mean, in closed form."""
    on = _machine(basis, basis.mix.machine)
    form = MachineForm(on, parts_of(on), basis.reliability)
    found = [_Reading("every part works", lambda scales: 1 - form.whole(scales))]
    whole, smaller = (answers[ask] for ask in _plans(basis))
    for name, study, elastic, spares in (
        (SERVES, whole, False, 0),
        ("the deployment serves, with elastic EP", whole, True, 0),
        (f"the deployment serves, with {SPARES} spare cards", smaller, False, SPARES),
        (f"the deployment serves, with elastic EP and {SPARES} spare cards", smaller, True, SPARES),
    ):
        stand = _stand(basis, study, elastic=elastic, spares=spares)
        if stand is not None:
            share = _Left(stand)
            outage = closed_form(stand, basis.reliability, load_s=stand.load_s, share=share, outage=True)
            found.append(_Reading(name, outage.unavailability))
    return found


def _computed(basis: Basis, answers: Answers, _finding: Finding | None = None) -> float | None:
    """The availability of the deployment with restarts; without a deployment, that of the machine [%]."""
    found = {one.name: one.available for one in _readings(basis, answers)}
    return found.get(SERVES, found["every part works"])


def _available(basis: Basis, answers: Answers) -> Finding:
    """C09: shares of the time by what "available" may mean, and the repair time that each one needs."""
    number, readings = number_of("C09"), _readings(basis, answers)
    repair_h = (basis.reliability.repair.value or 0.0) / HOUR
    rows: list[tuple[TableCell, ...]] = []
    conditions = []
    for one in readings:
        factor = needed_factor(one.lost, 1 - number.value / 100)
        most = None if factor is None else factor * repair_h
        rows.append((one.name, one.available, downtime_s(one.available / 100) / 60, most))
        conditions.append(_sentence(one, number.value, most, factor))
    shares = [one.available for one in readings]
    value = _computed(basis, answers)
    histories = answers.get(_histories(basis))
    if histories is not None:
        figure = histories.whole
        rows.append(
            (
                f"every part works, {histories.seeds} random years",
                100 * figure.availability,
                figure.downtime_s / 60,
                None,
            )
        )
    on = _machine(basis, basis.mix.machine)
    columns = ("what available means", "time [%]", "lost a year [min]", "longest repair for the claim [h]")
    deployments = [
        f"{name}: {answers[ask].row.deployment}"
        for name, ask in zip(("all cards", f"{SPARES} spare"), _plans(basis), strict=True)
        if answers[ask].row
    ]
    return Finding(
        number.verdict(min(shares), max(shares)),
        (
            f"With repairs of {repair_h:g} h, every part works {shares[0]:.2f} % of the time, and a deployment of "
            f"{basis.mix.main} over the cards serves {value:.2f} %; {downtime_s(number.value / 100) / 60:.1f} "
            "minutes a year "
            f"are allowed.",
        ),
        value,
        min(shares),
        max(shares),
        number.unit,
        tuple(conditions),
        (ClaimTable("Availability", columns, tuple(rows)), _causes(basis, on)),
        notes=(
            "Time without any service counts, and not lost capacity. " + "; ".join(deployments) + ".",
            "No failure rate of this vendor is published: rates of NVIDIA machines stand in for them.",
            *unsettled(_plans(basis), answers),
        ),
        assumed=(*assumed_parts(on),),
        command="" if basis.told else basis.availability(basis.mix.machine, plan=_plans(basis)[0]).command,
    )


def _sentence(one: _Reading, promise: float, most: float | None, factor: float | None) -> str:
    if factor is None:
        return f"{one.name}: no repair time reaches {promise:g} %, because of detection, resets and restarts alone."
    if factor >= LONGEST:
        return f"{one.name}: it holds, even with repairs of {most:,.0f} h."
    held = "it holds" if one.available >= promise else "it does not hold"
    return f"{one.name}: {held}; a repair must take at most {most:,.2g} h."


def _causes(basis: Basis, on: Machine) -> ClaimTable:
    """Parts of the machine, and how often they fail."""
    rows = tuple(
        (kind, count, count * _rate(basis, kind) * YEAR_S / HOUR) for kind, count in part_counts(parts_of(on)).items()
    )
    return ClaimTable("Parts and their failures", ("part", "parts", "failures a year"), rows)


# ── C17: cables of the NVL72 ──────────────────────────────────────────────────────────────────────────────────────

NVL72 = "gb200-nvl72"


def _cable_paths(_basis: Basis) -> Iterable[str]:
    return (f"{NVL72}.cables",)


def _cables(basis: Basis, _answers: Answers) -> Finding:
    """C17: cables of the NVL72, and their failures with assumed rates."""
    number, cables = number_of("C17"), basis.value(f"{NVL72}.cables")
    rows: list[tuple[TableCell, ...]] = []
    shares = {}
    for name in (NVL72, basis.mix.machine):
        on = _machine(basis, name)
        counts = part_counts(parts_of(on))
        yearly = {kind: count * _rate(basis, kind) * YEAR_S / HOUR for kind, count in counts.items()}
        wires: PartKind = "lane" if "lane" in counts else "link"
        factor = basis.reliability.parts[wires].range if wires in basis.reliability.parts else 1.0
        own, all_ = yearly.get(wires, 0.0), sum(yearly.values())
        shares[name] = own / all_ if all_ else 0.0
        rows.append((name, wires, counts.get(wires, 0), own, own / factor, own * factor, all_, 100 * shares[name]))
    columns = ("system", "wires", "count", "failures a year", "low", "high", "of all parts a year", "share [%]")
    system = basis.parts(NVL72).system
    return Finding(
        number.verdict(cables, cables) if cables < number.value else "holds if",
        (f"NVL72 has {cables:,.0f} copper cables.",),
        cables,
        cables,
        cables,
        number.unit,
        (
            f"Number of cables: it holds, {cables:,.0f} are published.",
            "Between racks: it does not hold. All of them run inside one rack.",
            f"Site: one rack draws {(system.power.value or 0) / 1e3:,.0f} kW, weighs "
            f"{system.weight.value or 0:,.0f} kg "
            "and needs liquid cooling.",
            f"Failures: not known, since nobody published the failure rate of these cables. With the assumed rate they "
            f"make {100 * shares[NVL72]:.0f} % of the failures of all parts, and lanes "
            f"{100 * shares[basis.mix.machine]:.0f} % of those of {basis.mix.machine}.",
        ),
        (ClaimTable("Wires of the scale-up domain", columns, tuple(rows)),),
        notes=(
            "No time of installation is published for either machine.",
            f"Failures count {rows[0][2]:,} links of NVL72, each of several cables.",
        ),
        assumed=_assumed_rates(basis, ("link", "lane")),
    )


def _assumed_rates(basis: Basis, kinds: Iterable[PartKind]) -> tuple[Assumption, ...]:
    items = [basis.input(path) for path in _rate_paths(basis, kinds)]
    return tuple(Assumption(item.path, item.written, item.source) for item in items if item.assumed)


# ── C24: parts of two kinds of network ────────────────────────────────────────────────────────────────────────────

Counts = Mapping[PartKind, int]


def _one_layer(basis: Basis) -> Counts:
    """Parts of the scale-up network of the machine."""
    return part_counts(part for part in parts_of(_machine(basis, basis.mix.machine)) if part.level == "scale_up")


def _two_layers(basis: Basis, *, optical: bool) -> Counts:
    """Parts of a network of the same bandwidth with two layers: a leaf in each host, and the switches as spine.

    Each link of a card goes to the leaf of its host over the board of the host, as lanes. The leaves have as many
    uplinks, which are cables.
    """
    on = _machine(basis, basis.mix.machine)
    links = on.devices * (on.wiring.switches or 1)
    leaves = on.devices // on.host.devices
    counts: dict[PartKind, int] = {"lane": links, "link": links, "switch": leaves + (on.wiring.switches or 1)}
    return counts | {"optic": 2 * links} if optical else counts


def _one_cabled(basis: Basis) -> Counts:
    """The network of the machine with a copper cable in place of each lane."""
    own = dict(_one_layer(basis))
    return {"link": own.pop("lane", 0) + own.pop("link", 0), **own}


def _yearly(basis: Basis, counts: Counts) -> float:
    """Failures of parts [1/year]."""
    return sum(count * _rate(basis, kind) for kind, count in counts.items()) * YEAR_S / HOUR


def _network_paths(basis: Basis) -> Iterable[str]:
    return _rate_paths(basis, (*LARGE, *SMALL))


def _networks(basis: Basis, _answers: Answers) -> Finding:
    """C24: failures of the scale-up network with one layer of lanes and with two layers of cables."""
    number, own = number_of("C24"), _one_layer(basis)
    on = _machine(basis, basis.mix.machine)
    others = part_counts(part for part in parts_of(on) if part.level is None and part.kind not in LARGE)
    rest, mine = _yearly(basis, others), _yearly(basis, own)
    rows: list[tuple[TableCell, ...]] = []
    cuts: dict[str, tuple[float, float]] = {}
    for name, counts in (
        ("one layer, lanes of a backplane", own),
        ("one layer, copper cables", _one_cabled(basis)),
        (CABLED, _two_layers(basis, optical=False)),
        ("two layers, optical cables", _two_layers(basis, optical=True)),
    ):
        theirs = _yearly(basis, counts)
        cuts[name] = (100 * (1 - mine / theirs), 100 * (1 - (mine + rest) / (theirs + rest))) if theirs else (0.0, 0.0)
        rows.append((name, *(counts.get(kind, 0) for kind in ("switch", "lane", "link", "optic")), theirs, *cuts[name]))
    columns = (
        "network",
        "switches",
        "lanes",
        "cables",
        "transceivers",
        "failures a year",
        "cut, of the network [%]",
        "cut, of all parts [%]",
    )
    (alone, of_all), two = cuts[CABLED], _yearly(basis, _two_layers(basis, optical=False))
    return Finding(
        number.verdict(of_all, alone),
        (
            f"The network of the machine fails {mine:.2g} times a year, and one with {CABLED} {two:.2g} "
            f"times: {alone:.0f} % fewer. With cards, memory, hosts and software, it is {of_all:.1f} % fewer.",
        ),
        alone,
        of_all,
        alone,
        number.unit,
        (
            "It holds if only parts of the scale-up network count: the cut is then larger than the article says, "
            "except "
            f"against one layer with copper cables ({cuts['one layer, copper cables'][0]:.0f} %).",
            f"It does not hold for all failures of the machine: {of_all:.1f} %.",
        ),
        (ClaimTable("Failures of the scale-up network", columns, tuple(rows)),),
        notes=("Two layers are a leaf switch in each host and the same switches above, with as much bandwidth.",),
    )


CABLED = "two layers, copper cables"

CHECKS: dict[str, Check] = {
    "C09": Check(
        _available,
        _asks,
        _available_paths,
        lambda _basis: ("reliability.repair",),
        Gauge(lambda _basis, _finding: (), _computed),
    ),
    "C17": Check(_cables, rests_on=_cable_paths, turns=_cable_paths),
    "C24": Check(_networks, rests_on=_network_paths, turns=lambda basis: _rate_paths(basis, LARGE)),
}
"""Number of a claim -> its check."""
