"""One point of a sweep: the question with the values of the point, and its answer as one flat record."""

from __future__ import annotations

import dataclasses
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenworks.engine.types import Cluster
from tokenworks.errors import SpecError, TokenworksError
from tokenworks.ledger.cost import Served, cost
from tokenworks.ledger.priced import Paying, hardware, paying, served_by
from tokenworks.ledger.site import Hardware
from tokenworks.ledger.study import TOP, Best, best_of
from tokenworks.ledger.sweep_axes import SweepDesign
from tokenworks.ledger.sweep_file import SweepFile, Value
from tokenworks.planning.bench import Bench, Budget
from tokenworks.planning.estimate import Estimate, estimate
from tokenworks.planning.plan import planned, prepare
from tokenworks.planning.result import Plan, row_plain
from tokenworks.simulation.run import Simulation, simulate
from tokenworks.simulation.source import Source
from tokenworks.simulation.steps import Site
from tokenworks.specs.calibration import DEFAULT
from tokenworks.specs.compose import times
from tokenworks.specs.deployment_file import Deployed, pick_deployment
from tokenworks.specs.edits import edited
from tokenworks.specs.given import Given, given
from tokenworks.specs.load import load_workload
from tokenworks.specs.result import rounded
from tokenworks.specs.shown import Record, flat
from tokenworks.specs.slo import PERCENTILE, Bound, RequestClass, Slo, SloLike
from tokenworks.specs.trace import Trace
from tokenworks.traffic.generate import session_turns

ReadTrace = Callable[[str], Trace]

KEPT = 32
"""Deployments whose step times one process keeps [count]."""

NO_RESULT, INTERNAL = ("schema", "kind", "partial"), 1
"""Keys of a simulation that are no result; exit code of an error in the program itself."""

MONEY = ("prices", "pay", "utilisation", "currency", "region")
"""Arguments of a sweep of plans that are about its costs."""

PLAIN: dict[str, Any] = dict.fromkeys(("workload", "isl", "osl", "rate", "concurrency", "slo")) | {
    "engine": "auto", "calibration": DEFAULT,
}  # fmt: skip
"""Arguments of `prepare` that a sweep need not give."""

_PERCENTILE = re.compile(r"slo\.(ttft|tpot)(?:\.p(.+))?")


@dataclass(frozen=True)
class SweepJob:
    """Everything that a process needs to compute points of a sweep.

    Parameters
    ----------
    file : the question, with its fixed arguments
    design : the points
    where : file of the sweep; the source of the numbers that the sweep sets
    read_trace : function that reads a trace file
    """

    file: SweepFile
    design: SweepDesign
    where: str
    read_trace: ReadTrace

    def alike(self, number: int) -> tuple[Value, ...]:
        """What the points share that use the same step times: all their values but the rate."""
        return tuple(value for path, value in self.design.at(number).items() if path != "rate")


@dataclass
class SweepRunner:
    """Computes points in one process, and keeps what several points use.

    Parameters
    ----------
    job : the sweep
    deployments, traces : files that were read
    built : step times of the last deployments, by all inputs that they depend on
    payings : prices and conditions of costs, by the arguments that name them
    """

    job: SweepJob
    deployments: dict[Hashable, Deployed] = field(default_factory=dict)
    traces: dict[str, Trace] = field(default_factory=dict)
    built: OrderedDict[Hashable, tuple[Site, Cluster]] = field(default_factory=OrderedDict)
    payings: dict[str, Paying] = field(default_factory=dict)

    def run(self, number: int) -> Record:
        """The record of a point: the values of its paths, its result, and `exit_code` and `error`.

        Parameters
        ----------
        number : number of the point, from 0 on
        """
        values = self.job.design.at(number)
        result, code, words = Record(), 0, None
        try:
            result = self._answer(values)
        except TokenworksError as error:
            code, words = error.exit_code, str(error)
        except Exception as error:  # one point must not end the sweep
            code, words = INTERNAL, f"internal error: {type(error).__name__}: {error}"
        kept = {name: value for name, value in result.items() if name not in values}
        record: Record = rounded({**values, "exit_code": code, "error": words, **kept})
        return record

    def _answer(self, values: Mapping[str, Value]) -> Record:
        """The flat result of the question with the values of a point."""
        arguments, bounds = self.job.file.arguments(), dict[str, Value]()
        numbers, changes = list[Given](), list[Given]()
        for text, value in values.items():
            path = self.job.design.paths[text]
            match path.place:
                case "argument":
                    arguments[text] = value
                case "slo":
                    bounds[text] = value
                case "number":
                    numbers.append(path.given(value, self.job.where))
                case "deployment":
                    changes.append(path.given(value, self.job.where))
        answer = {"simulate": self._simulated, "plan": self._planned, "estimate": self._estimated}[self.job.file.do]
        return answer(arguments, tuple(numbers), tuple(changes), bounds)

    # ── simulate ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _simulated(
        self, arguments: dict[str, Any], numbers: tuple[Given, ...], changes: tuple[Given, ...],
        bounds: Mapping[str, Value],
    ) -> Record:  # fmt: skip
        deployed = self._deployed(arguments, numbers, changes)
        file = arguments.get("trace")
        if file is not None and file not in self.traces:
            self.traces[file] = self.job.read_trace(file)
        classes = arguments.get("classes", {})
        told = tuple(RequestClass.parse(f"{name}:{text}", where="classes") for name, text in classes.items())
        source = Source.read(
            None if file is None else self.traces[file], arguments.get("workload"),
            requests=arguments.get("requests"), limit=arguments.get("limit"), classes=told,
            seed=arguments.get("seed", 0), file=file, assume=deployed.given,
        )  # fmt: skip
        slo = _bounded(source.slo(arguments.get("slo")), bounds)
        load = {name: arguments.get(name) for name in ("rate", "scale", "concurrency")}
        key = self._key(arguments, deployed, source)
        run = simulate(
            deployed, source.traffic(**load), slo=slo, router=arguments.get("router"),
            max_queue=arguments.get("max_queue", 0), seed=arguments.get("seed", 0),
            like=None if key is None else self.built.get(key),
        )  # fmt: skip
        if run.partial:
            raise KeyboardInterrupt
        if key is not None:
            self.built[key] = run.site, run.cluster
            if len(self.built) > KEPT:
                self.built.popitem(last=False)
        return simulation_record(run)

    def _deployed(
        self, arguments: dict[str, Any], numbers: tuple[Given, ...], changes: tuple[Given, ...]
    ) -> Deployed:  # fmt: skip
        """The deployment of the question, with the changes and the numbers of a point."""
        source, pick = arguments["deployment"], arguments.get("pick", 1)
        key = (source if isinstance(source, str) else "", pick)
        if key not in self.deployments:
            self.deployments[key] = pick_deployment(source, pick)
        deployed = self.deployments[key]
        if (limit := arguments.get("max_model_len")) is not None:
            changes = (*changes, Given(path="max_model_len", value=str(limit), why=self.job.where))
        base = deployed.given if arguments.get("assume") is None else given(arguments["assume"])
        return dataclasses.replace(
            deployed,
            deployment=edited(deployed.deployment, changes, where=source if isinstance(source, str) else "deployment"),
            given=(*base, *numbers),
            calibration=arguments.get("calibration") or deployed.calibration,
        )

    def _key(self, arguments: dict[str, Any], deployed: Deployed, source: Source) -> Hashable | None:
        """All inputs of the step times; None if the rate of the requests is one of them.

        The step times depend on the mean request. At each rate of an open loop, independent requests have the same
        lengths in the same order. Requests of sessions, and of a closed loop, have another order at another load.
        """
        workload = source.workload
        if workload is None or arguments.get("rate") is None or session_turns(workload)[0] > 1:
            return None
        calibration = deployed.calibration
        if not isinstance(calibration, str):
            return None
        return (
            deployed.deployment, deployed.given, calibration, workload.model_dump_json(), source.requests, source.seed,
            arguments.get("max_queue", 0),
        )  # fmt: skip

    # ── plan ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _planned(
        self, arguments: dict[str, Any], numbers: tuple[Given, ...], _changes: tuple[Given, ...],
        bounds: Mapping[str, Value],
    ) -> Record:  # fmt: skip
        """The best deployment of a plan, and what its tokens cost."""
        arguments = _assuming(_on_boxes(arguments), numbers)
        money = {name: arguments.pop(name) for name in MONEY if name in arguments}
        if bounds:
            workload = arguments.get("workload")
            base: SloLike = arguments.get("slo", "" if workload is None else load_workload(workload).slo)
            arguments["slo"] = _bounded(Slo.of(base), bounds)
        bench, paid = Bench(), self._paying(money)
        simulate, budget = arguments.pop("simulate", True), Budget.of(arguments.pop("budget", None))
        result = planned(prepare(**PLAIN | arguments), TOP, simulate=simulate, budget=budget, bench=bench)
        best = best_of(result, bench) if result.decision is not None and result.meets_slo else None
        bought = hardware(arguments["on"], arguments["assume"] or ())
        return plan_record(result) | cost_record(bought, result, best, paid)

    def _paying(self, money: Mapping[str, Any]) -> Paying:
        key = repr(sorted(money.items()))
        if key not in self.payings:
            self.payings[key] = paying(**money)
        return self.payings[key]

    # ── estimate ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _estimated(
        self, arguments: dict[str, Any], numbers: tuple[Given, ...], changes: tuple[Given, ...],
        _bounds: Mapping[str, Value],
    ) -> Record:  # fmt: skip
        arguments = _on_boxes(arguments)
        if "deployment" not in arguments:
            return estimate_record(estimate(**_assuming(arguments, numbers)))
        thing = self._deployed(arguments, numbers, changes)
        rest = {"deployment", "pick", "assume", "calibration"}
        kept = {name: value for name, value in arguments.items() if name not in rest}
        return estimate_record(estimate(thing, **kept))


def must_repeat(file: SweepFile, where: str) -> None:
    """Refuse a budget of time: the rows of a sweep must not depend on the speed of the machine."""
    budget = getattr(file, "budget", None)
    if budget is not None and Budget.of(budget).seconds is not None:
        hint = 'give a number of requests, such as "500000 requests"'
        raise SpecError(f"{budget} is a time, and results would depend on it", where=f"{where}: budget", hint=hint)


def must_price(file: SweepFile) -> None:
    """Refuse wrong prices and conditions of costs before any point is computed."""
    arguments = file.arguments()
    paying(**{name: arguments[name] for name in MONEY if name in arguments})


def _assuming(arguments: dict[str, Any], numbers: tuple[Given, ...]) -> dict[str, Any]:
    """The arguments with the numbers of a point behind the numbers that the file assumes."""
    return {**arguments, "assume": (*given(arguments.get("assume")), *numbers) or None}


def _on_boxes(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with `boxes` as a part of `on`."""
    boxes = arguments.get("boxes")
    if boxes is None:
        return arguments
    if "on" not in arguments:
        raise SpecError("has no machine", where="boxes", hint="give `on`")
    if boxes < 1:
        raise SpecError(f"{boxes} is not a number of 1 or more", where="boxes")
    rest = {name: value for name, value in arguments.items() if name != "boxes"}
    return {**rest, "on": times(arguments["on"], boxes)}


def _bounded(slo: Slo, bounds: Mapping[str, Value]) -> Slo:
    """The SLO with the bounds of a point. The percentile is that of the path, else that of the replaced bound, else 99.

    Parameters
    ----------
    slo : the SLO of the question
    bounds : path such as `slo.tpot` or `slo.ttft.p50` -> bound [s]
    """
    for path, value in bounds.items():
        match = _PERCENTILE.fullmatch(path)
        assert match is not None
        old = getattr(slo, match[1])
        percentile = float(match[2]) if match[2] else old.percentile if old else PERCENTILE
        assert not isinstance(value, str)
        if value <= 0 or not 0 < percentile < 100:
            raise SpecError(f"{value:g} s is no bound", where=path, hint="a bound is above 0, as in slo.ttft.p50: 2 s")
        slo = dataclasses.replace(slo, **{match[1]: Bound(float(value), percentile)})
    return slo


# ── records ───────────────────────────────────────────────────────────────────────────────────────────────────────


def simulation_record(run: Simulation) -> Record:
    """The numbers of a simulation in one record, with the keys of `simulate`."""
    record = {name: value for name, value in flat(run.plain()).items() if name not in NO_RESULT}
    pools = run.window.counts.pools
    hits, queries = sum(pool.hit_tokens for pool in pools), sum(pool.query_tokens for pool in pools)
    return {
        "label": str(run.deployment),
        "devices": run.deployment.devices,
        "meets_slo": run.meets_slo,
        "settled": not run.unsettled,
        "hit_share": hits / max(queries, 1),
        **record,
    }


def plan_record(result: Plan) -> Record:
    """The best deployment of a plan in one record, with the keys of `plan`."""
    record = flat(rounded(row_plain(result.best)))
    settled = result.decision is not None and result.decision.settled
    kept = {name: value for name, value in record.items() if name not in ("rank", "label")}
    return {
        "label": str(result.best.deployment),
        "engine": result.best.deployment.engine,
        "system_devices": result.setting.machine.devices,
        "simulated": result.decision is not None,
        "settled": settled,
        **kept,
    }


def cost_record(bought: Hardware, result: Plan, best: Best | None, paid: Paying) -> Record:
    """What the best deployment of a plan costs, prices in the middle. None: a price is missing, or nothing is served.

    Parameters
    ----------
    bought : the machine
    result, best : the plan, and what its best deployment does; None: the plan was not simulated, and the devices are
        taken to draw the largest power of the machine
    paid : prices and conditions
    """
    row = result.best
    if best is None:
        rates = Served(row.effective_tok_s_per_device * row.charged, row.output_tok_s_per_device * row.charged)
    else:
        rates = served_by(best, row.charged, str(result.slo))
    known = cost(bought, rates, paid.prices, paid.terms)
    purchase = known.capex and known.capex.total
    amounts = {
        "purchase_per_device": purchase and purchase / bought.devices,
        "cost_per_device_hour": known.per_device_hour,
        "cost_per_million_effective": known.per_million_effective,
    }
    middle = {name: amount and amount.mid for name, amount in amounts.items()}
    return {**middle, "currency": paid.terms.currency, "cost_needs": known.needed or None}


def estimate_record(result: Estimate) -> Record:
    """The steps of a deployment in one record: the time of a prefill step and of a decode step."""
    record: Record = {"label": result.deployment, "grade": result.rates.grade, "spread": result.rates.spread}
    for step in result.steps:
        amount = step.decode if step.kind == "decode" else step.prefill
        unit = "sequences" if step.kind == "decode" else "tokens"
        record |= {
            f"{step.kind}_step_s": step.seconds,
            f"{step.kind}_{unit}": amount,
            f"{step.kind}_bound_by": step.bound_by,
        }
    return record
