"""Why a deployment is not in the plan: the rules that it breaks, or its place and where it loses time."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import ValidationError
from typing_extensions import TypedDict

from tokenworks.arrays import Floats, Ints
from tokenworks.errors import DoesNotFit, SloMissed, SpecError, TokenworksError
from tokenworks.legal.points import KV_DTYPES, OVERLAPS, Points, Setting
from tokenworks.legal.rules import MEMORY, Broken, explain
from tokenworks.legal.splits import Candidates, splits
from tokenworks.legal.splits import candidates as legal_splits
from tokenworks.planning import aggregated, disaggregated
from tokenworks.planning.bench import Bench, Say
from tokenworks.planning.cells import SearchCounts, Shortlist
from tokenworks.planning.costing import Costing
from tokenworks.planning.decide import ERROR, decide
from tokenworks.planning.grid import batch_of, decode_times, hold, room, slots
from tokenworks.planning.ranking import Candidate, candidates, estimated
from tokenworks.planning.result import PlanInputs, Ranked, RankedPlain, plan_inputs, row_plain
from tokenworks.planning.search import SearchResult
from tokenworks.planning.searches import searched
from tokenworks.planning.setting import with_role_fraction
from tokenworks.planning.space import CHUNKS, Ladders
from tokenworks.simulation.spent import device_time
from tokenworks.specs.deployment import Deployment, Parallel, Role
from tokenworks.specs.deployment_file import pick_deployment
from tokenworks.specs.result import FormOf, Plain, envelope

WHERE = "--why"
ALL = 1 << 30
"""Families to keep: with this many nothing is ruled out for being beaten by those before it."""

PLACES = 10
"""Deployments of a plan that a simulated split is compared with; behind the last one its place is not known [count]."""

WIDTHS = tuple(Parallel.model_fields)
SETTINGS = ("max_sequences", "chunk_tokens", "kv_dtype", "redundant_experts", "draft_tokens", "overlap")
FILE = re.compile(r"(?P<path>.*\.ya?ml)(:(?P<pick>[0-9]+))?")
"""A file of deployments, and which of them."""


class Part(TypedDict):
    """Time of all devices per output token in one part: of the deployment, and of the best one [s/token]."""

    part: str
    device_s_per_token: float
    best_device_s_per_token: float


class WhyBody(TypedDict):
    """The plain form of `plan --why`."""

    inputs: PlanInputs
    roles: list[Annotated[Plain, FormOf(Role)]]
    legal: bool
    broken: list[Annotated[Plain, FormOf(Broken)]]
    place: int | None
    prediction: RankedPlain | None
    best: RankedPlain | None
    parts: list[Part]


@dataclass(frozen=True, slots=True)
class Why:
    """The answer: rules that the roles break; if there are none, what they do, and how far that is from the best.

    Parameters
    ----------
    costing : the setting, with the engine that suits the roles best
    roles : the roles that were asked for, at their best settings where the text leaves settings open
    broken : rules that the roles break
    prediction : what they do; None where a rule is broken
    place : place among the deployments of the plan, 1 is the best; `PLACES` + 1 is behind them
    best : the best deployment of the plan
    parts : where the time of all devices goes; empty without simulation
    """

    costing: Costing
    roles: tuple[Role, ...]
    broken: tuple[Broken, ...]
    prediction: Ranked | None = None
    place: int | None = None
    best: Ranked | None = None
    parts: tuple[Part, ...] = ()

    def plain(self) -> Plain:
        """The whole answer as plain data."""
        body: WhyBody = {
            "inputs": plan_inputs(self.costing.setting, self.costing.slo, self.costing.calibration),
            "roles": [role.model_dump(mode="json") for role in self.roles],
            "legal": not self.broken,
            "broken": [dataclasses.asdict(item) for item in self.broken],
            "place": self.place,
            "prediction": row_plain(self.prediction) if self.prediction else None,
            "best": row_plain(self.best) if self.best else None,
            "parts": list(self.parts),
        }
        return envelope("plan-why", body)

    def error(self) -> TokenworksError | None:
        """What is wrong with the roles, as an error with its exit code; None for roles that meet the SLO."""
        names = " + ".join(f"[{role.parallel}]" for role in self.roles)
        if self.broken:
            rules = ", ".join(item.rule for item in self.broken)
            if all(item.rule in MEMORY for item in self.broken):
                return DoesNotFit(f"{names} does not fit: {rules}")
            return SpecError(f"{names} breaks {rules}", where=WHERE, hint="the output says what would be right")
        if self.prediction is not None and not self.prediction.meets_slo:
            slo = str(self.costing.slo) or "the load"
            return SloMissed(f"{names} misses {slo}: {self.prediction.slo_pressure:.4g} times the bound")
        return None


def read_role(text: str, setting: Setting) -> Role:
    """A role from `tp=3,dp=2,ep=6`: fields of `Parallel` and `Role`; what is left out is the smallest that can run.

    `expert_tp` follows from the other widths, `chunk_tokens` is the smallest of the ladder that holds the batch.
    """
    given: dict[str, Any] = {}
    for term in (part.strip() for part in text.split(",") if part.strip()):
        name, equals, value = term.partition("=")
        if not equals or name not in (*WIDTHS, *SETTINGS):
            near = difflib.get_close_matches(name, [*WIDTHS, *SETTINGS], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}=?" if near else f"known: {', '.join((*WIDTHS, *SETTINGS))}"
            raise SpecError(f"cannot read {term!r}", where=WHERE, hint=hint)
        if name in given:
            raise SpecError(f"{name} is given twice", where=WHERE, hint="keep one")
        given[name] = value
    if not given:
        raise SpecError("nothing is given", where=WHERE, hint='write widths, as in "tp=8,dp=5,ep=40"')
    try:
        parallel = Parallel.model_validate({name: given[name] for name in WIDTHS if name in given})
        if setting.experts and "expert_tp" not in given and parallel.tp * parallel.dp % parallel.ep == 0:
            parallel = parallel.model_copy(update={"expert_tp": parallel.tp * parallel.dp // parallel.ep})
        settings = {name: given[name] for name in SETTINGS if name in given}
        least = {"parallel": parallel, "memory_fraction": setting.memory_fraction, "max_sequences": parallel.dp}
        role = Role.model_validate(least | settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise SpecError(f"{first['loc'][-1]}={first['input']}: {first['msg'].lower()}", where=WHERE) from None
    if "chunk_tokens" in given:
        return role
    lanes = parallel.dp * parallel.pp
    need = role.max_sequences * (1 + role.draft_tokens) / lanes
    per_lane = next((chunk for chunk in CHUNKS if chunk >= need), CHUNKS[-1])
    return role.model_copy(update={"chunk_tokens": per_lane * lanes})


def why(costings: Sequence[Costing], text: str, *, simulate: bool = True, say: Say | None = None) -> Why:
    """Judge a deployment: the rules that it breaks; or if it is legal what it does, and its place among all.

    Settings that the text does not give are chosen as in a plan: engine, KV dtype, MTP drafts, redundant experts,
    overlap, batch and token budget.

    Parameters
    ----------
    costings : the setting for each engine
    text : widths and settings of one instance, such as "tp=3,dp=2,ep=6"; or a file of deployments, such as
        "ranked.yaml" or "ranked.yaml:2"
    simulate : False compares estimates of the closed form
    say : told in words what happens next

    Raises
    ------
    SpecError : not readable; or legal, but without a steady state at that batch and budget, and why
    """
    if match := FILE.fullmatch(text):
        asked = _of_file(costings, match["path"], int(match["pick"] or 1))
    else:
        asked = _of_split(costings, text)
    if isinstance(asked, Why):
        return asked
    if not simulate:
        first = asked.candidates()[0]
        row = dataclasses.replace(
            estimated(asked.results, 1)[0],
            deployment=first.deployment, devices=first.devices, idle_devices=first.idle_devices,
        )  # fmt: skip
        others = estimated(searched(costings, ALL, margin=0.0, progress=say), ALL)
        return _answer(costings, row, others)
    bench = Bench()
    plan, _ = decide(bench, candidates(searched(costings, PLACES, margin=ERROR, progress=say)), PLACES, say=say)
    ((row,), _) = decide(bench, asked.candidates(), 1, say=say)
    answer = _answer(costings, row, plan)
    own, best = (
        device_time(bench.listed[one.deployment], one.charged, one.output_tok_s_per_device)
        for one in (row, answer.best or row)
    )
    parts = [Part(part=part, device_s_per_token=own.get(part, 0.0), best_device_s_per_token=best.get(part, 0.0))
             for part in dict.fromkeys([*own, *best])]  # fmt: skip
    return dataclasses.replace(answer, parts=tuple(parts))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A deployment that breaks no rule.

    Parameters
    ----------
    results : its estimates, for each engine
    exactly : the deployment, where the text leaves no setting open
    sequences : running sequences of an instance, where the text gives them [count]
    """

    results: tuple[SearchResult, ...]
    exactly: Deployment | None = None
    sequences: int | None = None

    def candidates(self) -> list[Candidate]:
        """The deployments to simulate, best estimate first."""
        every = list(candidates(self.results))
        if self.exactly is not None:
            return [_exactly(every[0], self.exactly)]
        return every if self.sequences is None else [_with_sequences(one, self.sequences) for one in every]


def _answer(costings: Sequence[Costing], row: Ranked, others: Sequence[Ranked]) -> Why:
    """The answer for a deployment beside the deployments of a plan."""

    def value(one: Ranked) -> tuple[float, float]:
        return one.effective_tok_s_per_device, one.output_tok_s_per_device

    costing = next(one for one in costings if one.setting.engine.name == row.deployment.engine)
    place = 1 + sum(value(other) > value(row) and other.deployment != row.deployment for other in others)
    best = others[0] if others and value(others[0]) > value(row) else row
    return Why(costing, row.deployment.roles, (), row, place, best)


def _of_split(costings: Sequence[Costing], text: str) -> _Asked | Why:
    """What a text of widths and settings asks for, with each engine that can run it."""
    names = {term.partition("=")[0].strip() for term in text.split(",")}
    results, wrong = [], []
    for costing in costings:
        role = read_role(text, costing.setting)
        legal = legal_splits(costing.setting, _variants(role, names, costing.setting))
        if not len(legal.points):
            broken = explain(role, costing.setting)
            wrong.append(Why(costing, (role,), tuple(broken)))
            continue
        try:
            results.append(_estimates(costing, role, names, legal))
        except SpecError:
            if costing is costings[-1] and not results:
                raise
    if not results:
        return wrong[0]
    return _Asked(tuple(results), sequences=role.max_sequences if "max_sequences" in names else None)


def _variants(role: Role, given: set[str], setting: Setting) -> Points:
    """The splits of the search with the widths of a role, and with its settings where they are given."""
    parallel = role.parallel
    points = splits(setting, [(parallel.tp, parallel.pp, parallel.dp, parallel.ep)])
    fixed = {"expert_tp": parallel.expert_tp}
    settings = {
        "kv_dtype": ("kv", KV_DTYPES.index(role.kv_dtype)), "redundant_experts": ("redundant", role.redundant_experts),
        "draft_tokens": ("draft", role.draft_tokens), "overlap": ("overlap", OVERLAPS.index(role.overlap)),
    }  # fmt: skip
    fixed |= dict(settings[name] for name in sorted(given & settings.keys()))
    points = dataclasses.replace(points, **{name: np.full(len(points), value) for name, value in fixed.items()})
    columns = np.stack([getattr(points, field.name) for field in dataclasses.fields(points)])
    return Points(*np.unique(columns, axis=1))


def _estimates(costing: Costing, role: Role, given: set[str], legal: Candidates) -> SearchResult:
    """Estimates of splits at the best batch that the running sequences of a role allow, and at its token budget.

    Parameters
    ----------
    given : fields of the role that are given; the best values are taken for the others

    Raises
    ------
    SpecError : no steady state
    """
    lanes = role.parallel.dp * role.parallel.pp
    ladders = Ladders.default()
    if "chunk_tokens" in given:
        ladders = Ladders(np.array([role.chunk_tokens / lanes]), ladders.sequences)
    chunk = lanes * ladders.chunks.reshape(1, 1, -1)
    running = role.max_sequences if "max_sequences" in given else lanes + 1
    full, errors = Shortlist(costing.slo, keep=1), []
    for index in range(len(legal.points)):
        one = legal.kept(np.array([index]))
        try:
            cells = aggregated.at_batch(costing, one, _batch(costing, one.points, running, chunk), chunk)
        except SpecError as error:
            errors.append(error)
            continue
        cells["index"] = index
        full.offer(cells)
    if len(errors) == len(legal.points):
        raise errors[-1]
    shortlist = Shortlist(costing.slo, keep=1)
    aggregated.search(costing, legal, ladders, decode_times(costing, legal.points, ladders), shortlist)
    if "max_sequences" in given and not _below(costing, legal, shortlist, running):
        shortlist = full
    if not len(shortlist.best):
        raise SpecError(
            f"cannot keep up with prefill at {'this' if 'max_sequences' in given else 'any'} batch",
            where=WHERE, hint="give it a larger chunk_tokens",
        )  # fmt: skip
    return SearchResult(costing, shortlist, legal, 0, SearchCounts(0, 0, {}))


def _below(costing: Costing, legal: Candidates, shortlist: Shortlist, running: int) -> bool:
    """Whether the best batch of a shortlist takes at most a number of running sequences."""
    if not len(shortlist.best):
        return False
    index = int(shortlist.best["index"][0])
    return bool(np.all(slots(costing, legal.points[index : index + 1], shortlist.best["batch"][:1]) <= running))


def _of_file(costings: Sequence[Costing], path: str, pick: int) -> _Asked | Why:
    """What a deployment of a file asks for.

    Raises
    ------
    SpecError : the file is for another model or machine, or for an engine that is not compared
    """
    deployment = pick_deployment(path, pick).deployment
    setting = costings[0].setting
    engines = [one.setting.engine.name for one in costings]
    for name, theirs, ours in (("model", deployment.model, setting.model.name),
                               ("system", deployment.system, setting.machine.name)):  # fmt: skip
        if theirs != ours:
            raise SpecError(
                f"{name} is {theirs}, the plan is for {ours}", where=f"{WHERE}: {path}", hint="ask for both"
            )
    if deployment.engine not in engines:
        raise SpecError(
            f"engine is {deployment.engine}, the plan compares {', '.join(engines)}", where=f"{WHERE}: {path}",
            hint=f"take --engine {deployment.engine}",
        )  # fmt: skip
    costing = costings[engines.index(deployment.engine)]
    broken = [item for role in deployment.roles for item in explain(role, costing.setting)]
    if broken:
        return Why(costing, deployment.roles, tuple(broken))
    return _Asked((_alike(costing, deployment, f"{WHERE}: {path}"),), deployment)


def candidate_of(costing: Costing, deployment: Deployment, where: str) -> Candidate:
    """A deployment with estimates for the start of a search.

    Parameters
    ----------
    costing : the setting, with the engine of the deployment
    deployment : roles that break no rule
    where : file of the deployment, for messages

    Raises
    ------
    SpecError : no steady state
    """
    least = min(role.memory_fraction for role in deployment.roles)
    setting = with_role_fraction(costing.setting, least)
    costing = costing if setting is costing.setting else dataclasses.replace(costing, setting=setting)
    (candidate,) = _Asked((_alike(costing, deployment, where),), deployment).candidates()
    role, estimates = deployment.roles[-1], candidate.estimated
    places = role.replicas * role.max_sequences
    most = places / (costing.demand.request.osl * estimates.tpot_s)  # Little's law: all places decode
    started = dataclasses.replace(estimates, requests_s=min(estimates.requests_s, most))
    return dataclasses.replace(candidate, estimated=started)


def _alike(costing: Costing, deployment: Deployment, where: str) -> SearchResult:
    """Estimates of a deployment with the widths and settings of a given one, at any number of replicas.

    An engine runs as many of its sequences as the KV cache holds. So if the cache does not hold `max_sequences` mean
    requests, the estimates are those of the best batch that it holds.
    """
    if len(deployment.roles) == 1:
        (role,) = deployment.roles
        legal = legal_splits(costing.setting, Points.of(role))
        if not len(legal.points):
            raise SpecError(f"{deployment} breaks {', '.join(legal.broken)}", where=where)
        try:
            return _estimates(costing, role, {*SETTINGS}, legal)
        except SpecError:
            return _estimates(costing, role, {*SETTINGS} - {"max_sequences"}, legal)
    pairs = [[getattr(Points.of(role), field.name)[0] for role in deployment.roles]
             for field in dataclasses.fields(Points)]  # fmt: skip
    legal = legal_splits(costing.setting, Points(*map(np.array, pairs)))
    shortlist, ladders = Shortlist(costing.slo, keep=ALL), Ladders.default()
    disaggregated.search(costing, legal, ladders, decode_times(costing, legal.points, ladders), shortlist)
    if not len(shortlist.best):
        raise SpecError("prefill and decode have no steady state together", where=where)
    return SearchResult(costing, shortlist, legal, 0, SearchCounts(0, 0, {}))


def _exactly(candidate: Candidate, deployment: Deployment) -> Candidate:
    """A deployment with the estimates of one that is much like it: they say where its search starts."""
    devices = candidate.charged if candidate.costing.load is None else deployment.devices
    factor = deployment.devices / candidate.devices
    estimates = dataclasses.replace(candidate.estimated, requests_s=candidate.estimated.requests_s * factor)
    return dataclasses.replace(
        candidate, deployment=deployment, devices=deployment.devices, idle_devices=devices - deployment.devices,
        estimated=estimates,
    )  # fmt: skip


def _with_sequences(candidate: Candidate, sequences: int) -> Candidate:
    """Of all batches that have the same mean, the batch that was asked for."""
    (role,) = candidate.deployment.roles
    asked = role.model_copy(update={"max_sequences": sequences})
    return dataclasses.replace(candidate, deployment=candidate.deployment.model_copy(update={"roles": (asked,)}))


def _batch(costing: Costing, points: Points, running: int, chunk: Floats | Ints) -> Floats:
    """The mean batch of one instance that runs so many sequences; an error that says why where it cannot."""
    lanes, draft = int(points.lanes[0]), int(points.draft[0])
    beside = f"in each of {lanes} lanes (dp x pp)" if lanes > 1 else "beside those that decode"
    if running <= lanes:
        raise SpecError(
            f"max_sequences={running}, and one sequence is prefilled {beside}", where=WHERE,
            hint=f"give it {lanes + 1} or more, so that one can decode",
        )  # fmt: skip
    if running * (1 + draft) > chunk.max():
        raise SpecError(
            f"chunk_tokens={chunk.max():.0f} for {running} sequences of {1 + draft} tokens a step, one of them "
            f"prefilled {beside}", where=WHERE, hint=f"give it {running * (1 + draft)} or more",
        )  # fmt: skip
    batch = batch_of(costing, points.columns(2), np.full((1, 1, 1), float(running)))
    wide = points.columns(2)
    if not room(costing, wide, batch, chunk)[0].any():
        held = hold(costing, wide, batch, chunk)
        kept = np.where(room(costing, wide, held, chunk)[0], slots(costing, wide, held), 0).max()
        raise SpecError(
            f"the KV cache does not hold {running} sequences, one of them prefilled {beside}", where=WHERE,
            hint=f"give it max_sequences of at most {kept:.0f}" if kept else "take more devices a rank, or fp8",
        )  # fmt: skip
    return batch
