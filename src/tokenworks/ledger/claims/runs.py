"""Questions about the best deployment of a plan: other loads, couplings switched off, KV tiers. All are simulated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.ledger.changes import is_legal
from tokenworks.ledger.claims.asks import ClaimAsk, PlanAsk
from tokenworks.ledger.workers import Say
from tokenworks.planning.bench import Bench
from tokenworks.planning.costing import Costing
from tokenworks.planning.judge import best_run, shown
from tokenworks.planning.plan import prepare
from tokenworks.planning.ranking import Candidate
from tokenworks.planning.result import Plan, Ranked
from tokenworks.planning.why import candidate_of
from tokenworks.simulation.energy import used
from tokenworks.simulation.run import Simulation
from tokenworks.specs.deployment import Deployment, Role
from tokenworks.specs.tier_setup import NO_TIERS, load_setup, setup_names

NOTHING = "no deployment meets the SLO"


@dataclass(frozen=True)
class _Best:
    """The best deployment of a plan, ready to be simulated.

    Parameters
    ----------
    plan : the plan
    costing : its setting with the engine of the best deployment
    """

    plan: Plan
    costing: Costing

    @property
    def row(self) -> Ranked:
        """The best deployment with its predictions."""
        return self.plan.best

    @property
    def settled(self) -> bool:
        """Whether the plan was settled before its budget ended; a plan in closed form has no budget."""
        return self.plan.decision is None or self.plan.decision.settled

    def candidate(self, deployment: Deployment) -> Candidate:
        """A deployment in this setting, with its estimates."""
        return candidate_of(self.costing, deployment, "deployment")


def _best(ask: PlanAsk, say: Say | None) -> _Best | None:
    """The best deployment of a plan; None: none meets the SLO, or the model does not fit."""
    found = ask.answer(say)
    if found.plan is None or found.row is None:
        return None
    (costing,) = prepare(
        ask.model, ask.system, workload=ask.workload, isl=None, osl=None, rate=None, concurrency=None, slo=ask.slo,
        engine=found.row.deployment.engine, devices=ask.devices, assume=ask.assume or None, calibration=ask.calibration,
    )  # fmt: skip
    return _Best(found.plan, costing)


def unsettled(*answers: Loads | Couplings | TierPoints) -> tuple[str, ...]:
    """A note on deployments of plans whose budget ended before they were settled; empty: all were settled."""
    open_ = [answer.deployment for answer in answers if not answer.settled]
    return (f"Not settled: a plan may have a better deployment than {', '.join(open_)}.",) if open_ else ()


# ── other loads ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """A deployment under one load.

    Parameters
    ----------
    share : load / highest load within the SLO [-]
    output_tok_s, effective_tok_s : tokens of the whole deployment, and those within the SLO [token/s]
    watts : mean power of a device [W]; None: its TDP is not published
    compute, hbm : share of the time on the compute roof and on the HBM roof [-]
    tpot_s, ttft_s : mean TPOT and TTFT [s]
    """

    share: float
    output_tok_s: float
    effective_tok_s: float
    watts: float | None
    compute: float
    hbm: float
    tpot_s: float
    ttft_s: float


@dataclass(frozen=True, slots=True)
class Loads:
    """The best deployment of a plan under several loads.

    Parameters
    ----------
    points : one for each load
    deployment : the deployment, in words; empty: no deployment meets the SLO
    charged : devices of the machine that the deployment uses or leaves idle [count]
    slo : the SLO, in words
    settled : whether the plan was settled before its budget ended
    """

    points: tuple[LoadPoint, ...]
    deployment: str = ""
    charged: int = 0
    slo: str = ""
    settled: bool = True


@dataclass(frozen=True)
class LoadsAsk(ClaimAsk):
    """The best deployment of a plan at shares of its highest rate; the answer is `Loads`.

    Parameters
    ----------
    plan : the plan
    shares : loads / highest load within the SLO [-]
    """

    plan: PlanAsk
    shares: tuple[float, ...]

    @property
    def name(self) -> str:
        """The plan."""
        return f"loads of {self.plan.name}"

    @property
    def command(self) -> str:
        """The plan, and the simulation of its best deployment."""
        return f"{self.plan.command} -o yaml > best.yaml && tokenworks simulate best.yaml --rate RATE"

    @property
    def weight(self) -> float:
        """The plan, and some simulations."""
        return 1.3 * self.plan.weight

    def answer(self, say: Say | None) -> Loads:
        """The deployment under each load."""
        best = _best(self.plan, say)
        if best is None:
            return Loads(())
        bench, candidate = Bench(), best.candidate(best.row.deployment)
        runs = [bench.at(candidate, rate=best.row.offered_s * share, again=True) for share in self.shares]
        points = tuple(_load_point(share, run) for share, run in zip(self.shares, runs, strict=True))
        return Loads(points, str(best.row.deployment), best.row.charged, str(best.plan.slo), best.settled)


def _load_point(share: float, run: Simulation) -> LoadPoint:
    use = used(run.deployment.roles, run.window.counts.pools, run.site, run.span.seconds)
    metrics = run.metrics
    return LoadPoint(
        share, metrics.output_throughput, metrics.effective_throughput, use.watts(run.site), use.compute, use.hbm,
        metrics.mean_tpot_ms / 1e3, metrics.mean_ttft_ms / 1e3,
    )  # fmt: skip


# ── couplings of the layers ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Coupling:
    """A deployment with one coupling changed.

    Parameters
    ----------
    name : the coupling, or "all" of them
    used : whether the best deployment uses it
    tok_s : effective tokens per second and device with the coupling changed; None: it is not possible [token/s]
    """

    name: str
    used: bool
    tok_s: float | None


@dataclass(frozen=True, slots=True)
class Couplings:
    """The best deployment of a plan, and the same with couplings changed.

    Parameters
    ----------
    tok_s : effective tokens per second and device of the best deployment [token/s]
    deployment : the deployment, in words; empty: no deployment meets the SLO
    changed : a coupling that the deployment uses is switched off, one that it does not use is switched on
    settled : whether the plan was settled before its budget ended
    """

    tok_s: float
    deployment: str
    changed: tuple[Coupling, ...]
    settled: bool = True


@dataclass(frozen=True)
class CouplingsAsk(ClaimAsk):
    """What MTP, two-batch overlap and more redundant experts are worth; the answer is `Couplings`.

    Parameters
    ----------
    plan : the plan
    """

    plan: PlanAsk

    @property
    def name(self) -> str:
        """The plan."""
        return f"couplings of {self.plan.name}"

    @property
    def command(self) -> str:
        """The plan, and advice on its best deployment."""
        return f"{self.plan.command} -o yaml > best.yaml && tokenworks advise best.yaml"

    @property
    def weight(self) -> float:
        """The plan, and some simulations."""
        return 1.3 * self.plan.weight

    def answer(self, say: Say | None) -> Couplings:
        """The best deployment, and the same with each coupling changed."""
        best = _best(self.plan, say)
        if best is None:
            return Couplings(0.0, "", ())
        bench, own = Bench(), best.row.deployment

        def tok_s(deployment: Deployment) -> float | None:
            if not is_legal(best.costing.setting, deployment):
                return None
            try:
                candidate = best.candidate(deployment)
                if not self.plan.simulate:
                    return candidate.estimated.effective_tok_s_per_device
                run = best_run(bench, candidate)
            except (SpecError, DoesNotFit):  # the memory or a rule forbids the change
                return None
            return None if run is None else shown(candidate, run).effective_tok_s_per_device

        base = tok_s(own)
        changed = tuple(Coupling(name, was, tok_s(other)) for name, was, other in _changed(best, own))
        return Couplings(base or 0.0, str(own), changed, best.settled)


def _changed(best: _Best, own: Deployment) -> Iterator[tuple[str, bool, Deployment]]:
    """The deployment with each coupling changed, and with all that it uses switched off."""
    setting, off = best.costing.setting, own
    if setting.model.draft:
        mtp = any(role.draft_tokens for role in own.roles)
        yield "MTP", mtp, _with(own, draft_tokens=0 if mtp else 1)
        off = _with(off, draft_tokens=0)
    if setting.experts and any(role.parallel.ep > 1 for role in own.roles):
        overlap = any(role.overlap != "none" for role in own.roles)
        yield "two-batch overlap", overlap, _with(own, overlap="none" if overlap else "two-batch")
        off = _with(off, overlap="none")
        count = setting.experts.count
        more = any(role.redundant_experts > -count % role.parallel.ep for role in own.roles if role.parallel.ep > 1)
        yield "redundant experts", more, _with_copies(own, count, spare=not more)
        off = _with_copies(off, count, spare=False)
    if off != own:
        yield "all", True, off


def _with(deployment: Deployment, **values: Any) -> Deployment:
    """The deployment with other values of all roles that can have them."""
    roles = []
    for role in deployment.roles:
        mine = dict(values)
        if role.name == "prefill":
            mine.pop("draft_tokens", None)
        if role.parallel.ep == 1:
            mine.pop("overlap", None)
        changed = role.model_copy(update=mine)
        least = changed.max_sequences * (1 + changed.draft_tokens) if changed.name != "prefill" else 1
        roles.append(changed.model_copy(update={"chunk_tokens": max(changed.chunk_tokens, least)}))
    return deployment.model_copy(update={"roles": tuple(roles)})


def _with_copies(deployment: Deployment, experts: int, *, spare: bool) -> Deployment:
    """The deployment with the fewest redundant experts that its widths allow, or with one more on each rank."""

    def of(role: Role) -> Role:
        ep = role.parallel.ep
        return role if ep == 1 else role.model_copy(update={"redundant_experts": -experts % ep + ep * spare})

    return deployment.model_copy(update={"roles": tuple(map(of, deployment.roles))})


# ── KV tiers ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class TierPoint:
    """A deployment with some KV tiers under one load.

    Parameters
    ----------
    tiers : memories that hold the KV cache
    share : load / highest load within the SLO with HBM only [-]
    hit_share : share of the input tokens that the cache serves [-]
    ttft_s, ttft_slo_s : mean TTFT, and TTFT at the percentile of the SLO [s]
    effective_tok_s : effective tokens per second and device [token/s]
    meets_slo : whether the SLO is kept
    """

    tiers: str
    share: float
    hit_share: float
    ttft_s: float
    ttft_slo_s: float
    effective_tok_s: float
    meets_slo: bool


@dataclass(frozen=True, slots=True)
class TierPoints:
    """The best deployment of a plan with HBM only, with memory of the host, and with flash storage.

    Parameters
    ----------
    points : one for each set of tiers and load
    deployment : the deployment, in words; empty: no deployment meets the SLO
    endless : share of the input tokens that a cache without an end would serve, by the workload [-]
    missing : why a set of tiers has no point, in words
    settled : whether the plan was settled before its budget ended
    """

    points: tuple[TierPoint, ...]
    deployment: str = ""
    endless: float = 0.0
    missing: tuple[str, ...] = ()
    settled: bool = True


@dataclass(frozen=True)
class TiersAsk(ClaimAsk):
    """The best deployment of a plan with more and more KV tiers; the answer is `TierPoints`.

    Parameters
    ----------
    plan : the plan, without tiers
    shares : loads / highest load within the SLO with HBM only [-]
    only_all : leave out the smaller sets of tiers
    """

    plan: PlanAsk
    shares: tuple[float, ...]
    only_all: bool = False

    @property
    def name(self) -> str:
        """The plan."""
        return f"KV tiers of {self.plan.name}"

    @property
    def command(self) -> str:
        """The plan, and the simulation of its best deployment with tiers."""
        return (
            f"{self.plan.command} -o yaml > best.yaml && tokenworks simulate best.yaml --rate RATE --set tiers=hicache"
        )

    @property
    def weight(self) -> float:
        """The plan, and simulations of sessions, which are long."""
        return 3 * self.plan.weight

    def answer(self, say: Say | None) -> TierPoints:
        """The deployment with each set of tiers under each load."""
        best = _best(self.plan, say)
        if best is None:
            return TierPoints(())
        bench, own = Bench(), best.row.deployment
        points: list[TierPoint] = []
        missing: list[str] = []
        sets = list(_tier_sets(own.engine).items())
        for name, tiers in sets[-1:] if self.only_all else sets:
            plain = own.model_dump(mode="json", exclude_unset=True)
            try:
                candidate = best.candidate(Deployment.model_validate({**plain, "tiers": tiers}))
                points += [
                    _tier_point(name, share, candidate, bench.at(candidate, rate=best.row.offered_s * share))
                    for share in self.shares
                ]
            except (SpecError, DoesNotFit) as error:
                missing.append(f"{name}: {error}")
        return TierPoints(
            tuple(points), str(own), best.costing.setting.workload.hit_share, tuple(missing), best.settled
        )


def _tier_sets(engine: str) -> Mapping[str, Sequence[Mapping[str, Any]] | str]:
    """Sets of tiers, each one larger than the one before, from the first set-up of an engine."""
    name = next(name for name in setup_names(engine) if load_setup(name).engines)
    return {"HBM": NO_TIERS, "HBM and DRAM": [{"medium": "host", "scope": "private"}], "HBM, DRAM and SSD": name}


def _tier_point(name: str, share: float, candidate: Candidate, run: Simulation) -> TierPoint:
    row = shown(candidate, run)
    return TierPoint(
        name, share, row.hit_share, row.ttft_s, row.ttft_slo_s, run.metrics.effective_throughput / row.charged,
        row.meets_slo,
    )  # fmt: skip
