"""Error of the closed form of the plan against the simulation: `python benchmarks/estimate.py [CASES [SEED]]`.

Each case is a random legal deployment of a random model on a random machine under a random workload. Two runs simulate
it: a closed loop, and an open loop at 60 to 95 % of the throughput of the closed loop. The closed form computes the
same figures from the same batch or the same rate:

- step: time for a token of all decoding sequences, at the mean batch of the open loop
- TPOT, TPOT p99, TTFT, TTFT p99 at the rate of the open loop
- rate: requests/s at the mean batch of the closed loop

The table shows closed form / simulation - 1 by the number of dp ranks of the instance (of a disaggregated deployment:
of its prefill instance): median of the absolute value, 95th percentile, worst, and bias (median with its sign).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Bools, Floats
from tokenworks.costs.rates import rates
from tokenworks.errors import TokenworksError
from tokenworks.legal.points import Points, Setting
from tokenworks.legal.splits import Candidates, candidates, splits
from tokenworks.planning import grid
from tokenworks.planning.costing import Costing
from tokenworks.planning.queueing import BUSIEST, crowd, prefill_limit, prefilling
from tokenworks.planning.roles import _table, exposed, prefill_of, prefill_roles, sequences_of
from tokenworks.planning.space import CHUNKS, SEQUENCES, Ladders
from tokenworks.simulation.run import Simulation, simulate
from tokenworks.simulation.source import Source
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.deployment import Deployment, EngineName, Role
from tokenworks.specs.engine import load_engine
from tokenworks.specs.hf import load_model
from tokenworks.specs.slo import Slo
from tokenworks.specs.workload import Workload

MODELS = ("deepseek-ai/DeepSeek-R1", "Qwen/Qwen3-235B-A22B-FP8", "openai/gpt-oss-120b", "Qwen/Qwen3-30B-A3B",
          "Qwen/Qwen3-32B")  # fmt: skip
MACHINES = ("scalex40", "hgx-h200", "5xhgx-h100", "5xhgx-h20", "gb200-nvl72", "cloudmatrix384")
ENGINES: tuple[EngineName, ...] = ("vllm", "vllm", "sglang")
SLOWEST = 0.25
"""TPOT above which a case is left out, because no service runs so slowly [s]."""
DISAGGREGATED = 0.4
"""Share of the draws with prefill and decode roles. More of these draws are not legal [-]."""
TRIES = 50
"""Draws of two roles until both fit the machine side by side [count]."""
REQUESTS, TURNS = 4000, 6
"""Requests of a run: the larger of `REQUESTS` and `TURNS` for each sequence that runs at the same time [count]."""
FIGURES = ("step", "TPOT", "TPOT p99", "TTFT", "TTFT p99", "rate")
WIDTHS = {"dp 1": (1, 1), "dp 2-8": (2, 8), "dp > 8": (9, 10**6)}


@dataclass(frozen=True)
class Case:
    """A deployment, and what its two runs showed.

    Parameters
    ----------
    model, on, engine, workload : what is simulated
    deployment : the deployment
    batch, closed_batch : decoding sequences of an instance in the open and in the closed loop, mean [count]
    rate : requests/s of the open loop [1/s]
    seen : simulated figures, by the names of `FIGURES` [s], [1/s]
    """

    model: str
    on: str
    engine: EngineName
    workload: Workload
    deployment: Deployment
    batch: float
    closed_batch: float
    rate: float
    seen: dict[str, float]

    @property
    def group(self) -> str:
        """Name of the row of the table that the case belongs to."""
        role = self.deployment.roles[0]
        width = next(name for name, (low, high) in WIDTHS.items() if low <= role.parallel.dp <= high)
        return f"{'prefill ' if role.name == 'prefill' else ''}{width}"


def costing_of(model: str, on: str, engine: EngineName, workload: Workload) -> Costing:
    setting = Setting(load_model(model), machine(on), load_engine(engine), workload)
    return Costing(setting, rates(setting.machine, load_calibration()), Slo.parse("ttft=2s,tpot=50ms"))


# ── cases ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def draw(random: np.random.Generator) -> Case | None:
    """A random case with its runs; None if the draw is not legal or not useful."""
    model, on = str(random.choice(MODELS)), str(random.choice(MACHINES))
    engine = ENGINES[random.integers(len(ENGINES))]
    apart = random.random() < DISAGGREGATED
    longest = 300 if apart else 1500  # short answers, so that prefill often is the bottleneck
    isl, osl = np.exp(random.uniform(np.log([200, 60]), np.log([12000, longest]))).round()
    # Answers of one length would end, and thus prefill, in waves.
    cvs = random.choice([0.0, 0.5, 1.0, 1.3]), random.choice([0.3, 0.6, 1.0])
    workload = Workload(name="drawn", isl=isl, osl=osl, isl_cv=cvs[0], osl_cv=cvs[1])
    costing = costing_of(model, on, engine, workload)
    legal = legal_splits(costing)
    if not len(legal.points):
        return None
    deployment = (two_roles if apart else one_role)(costing, legal, random)
    if deployment is None:
        return None
    running = sum(role.max_sequences * role.replicas for role in deployment.roles)
    count = max(REQUESTS, TURNS * running)
    source = Source(workload, requests=count, seed=int(random.integers(2**31)))
    role = deployment.roles[-1]
    users = max(1, round(role.replicas * float(costing.filled(np.array(float(role.max_sequences))))))
    closed = simulate(deployment, source.traffic(concurrency=users))
    metrics = closed.metrics
    if metrics.completed < REQUESTS / 4 or not metrics.mean_tpot_ms < SLOWEST * 1e3:
        return None
    rate = metrics.request_throughput * random.uniform(0.6, 0.95)
    opened: Simulation = simulate(deployment, source.traffic(rate=rate))
    at_rate = opened.metrics
    if at_rate.completed < REQUESTS / 4 or not opened.stable:
        return None
    flying = at_rate.request_throughput * (at_rate.mean_e2el_ms - at_rate.mean_ttft_ms) / 1e3
    seen = {
        "step": flying / at_rate.output_throughput,
        "TPOT": at_rate.mean_tpot_ms / 1e3,
        "TPOT p99": at_rate.p99_tpot_ms / 1e3,
        "TTFT": at_rate.mean_ttft_ms / 1e3,
        "TTFT p99": at_rate.p99_ttft_ms / 1e3,
        "rate": metrics.request_throughput,
    }
    closed_flying = metrics.request_throughput * (metrics.mean_e2el_ms - metrics.mean_ttft_ms) / 1e3
    batches = flying / role.replicas, closed_flying / role.replicas
    return Case(model, on, engine, workload, deployment, *batches, rate, seen)


def legal_splits(costing: Costing) -> Candidates:
    """All legal splits."""
    return candidates(costing.setting, splits(costing.setting))


def drawn_split(legal: Candidates, random: np.random.Generator) -> int:
    """A split: first a number of dp ranks is drawn, then a split that has it."""
    width = random.choice(np.unique(legal.points.dp))
    return int(random.choice(np.flatnonzero(legal.points.dp == width)))


def one_role(costing: Costing, legal: Candidates, random: np.random.Generator) -> Deployment | None:
    """An aggregated deployment with a random batch and token budget."""
    index = drawn_split(legal, random)
    points = legal.points[[index]]
    batch, chunk = points.lanes * random.choice(SEQUENCES[2:16]), points.lanes * random.choice(CHUNKS)
    fits, _, _ = grid.room(costing, points, batch.astype(float), chunk)
    if not fits[0]:
        return None
    role = points.role(
        "aggregated", 0, costing.setting, max_sequences=int(grid.slots(costing, points, batch)[0]),
        chunk_tokens=int(chunk[0]), replicas=int(min(legal.replicas[index], 4)),
    )  # fmt: skip
    return deployment_of(costing, (role,))


def two_roles(costing: Costing, legal: Candidates, random: np.random.Generator) -> Deployment | None:
    """A disaggregated deployment: one or two prefill and up to four decode instances, random batch and token budget."""
    points, machine_devices = legal.points, costing.setting.machine.devices
    for _ in range(TRIES):
        left, right = drawn_split(legal, random), drawn_split(legal, random)
        x, y = random.integers(1, 3), random.integers(1, 5)
        devices = x * points.devices[left] + y * points.devices[right]
        if points.kv[left] == points.kv[right] and not points.draft[left] and devices <= machine_devices:
            break
    else:
        return None
    batch = points.lanes[right] * random.choice(SEQUENCES[4:17])
    chunk = points.lanes[left] * random.choice(CHUNKS)
    together = sequences_of(costing, np.array([float(chunk)]), points.lanes[[left]])
    places = int(costing.places(np.array(float(batch))))
    prefill = points.role(
        "prefill", left, costing.setting, max_sequences=int(together[0]), chunk_tokens=int(chunk), replicas=int(x)
    )
    decode = points.role(
        "decode", right, costing.setting, max_sequences=places, replicas=int(y),
        chunk_tokens=int(places * (1 + points.draft[right])),
    )  # fmt: skip
    return deployment_of(costing, (prefill, decode))


def deployment_of(costing: Costing, roles: tuple[Role, ...]) -> Deployment:
    setting = costing.setting
    return Deployment(
        model=setting.model.name, system=setting.machine.name, engine=setting.engine.name, roles=roles,
        devices_per_host=setting.machine.host.devices,
    )  # fmt: skip


# ── closed form ───────────────────────────────────────────────────────────────────────────────────────────────────


def closed_form(case: Case) -> dict[str, float]:
    """The figures of a case by the closed form; infinite where it says that the rate cannot be served."""
    costing = costing_of(case.model, case.on, case.engine, case.workload)
    return (aggregated if len(case.deployment.roles) == 1 else apart)(costing, case)


def ladder(case: Case) -> Floats:
    """Both mean batches, and batches from one sequence to twice the sequences that may run."""
    most = 2.0 * case.deployment.roles[-1].max_sequences
    return np.concatenate([[case.batch, case.closed_batch], np.geomspace(1.0, max(most, 2.0), 200)])


def aggregated(costing: Costing, case: Case) -> dict[str, float]:
    (role,) = case.deployment.roles
    batch = ladder(case)
    points = Points.of(role)[np.zeros(len(batch), int)]
    chunk = np.full((len(batch), 1, 1), float(role.chunk_tokens))
    serving = grid.estimate(costing, points, batch.reshape(-1, 1, 1), chunk).serving
    rate = np.ravel(serving.rate) * role.replicas
    kept = np.ravel(serving.busy) < 1
    figures = {"step": float(np.ravel(serving.tpot)[0]), "rate": float(rate[1])}
    for name, values in (("TPOT", serving.tpot), ("TPOT p99", serving.tpot_tail),
                         ("TTFT", serving.ttft), ("TTFT p99", serving.ttft_tail)):  # fmt: skip
        figures[name] = at_rate(case.rate, rate[2:], np.ravel(values)[2:], kept[2:])
    return figures


def at_rate(rate: float, rates_: Floats, values: Floats, kept: Bools) -> float:
    """The value where the rates first reach a rate; infinite where they do not."""
    reached = np.flatnonzero((rates_ >= rate) & kept)
    if not len(reached):
        return np.inf
    last = int(reached[0])
    if last == 0:
        return float(values[0])
    share = (rate - rates_[last - 1]) / (rates_[last] - rates_[last - 1])
    return float(values[last - 1] + share * (values[last] - values[last - 1]))


def apart(costing: Costing, case: Case) -> dict[str, float]:
    left, right = case.deployment.roles
    points = Points.of(right).columns(1)
    batch = ladder(case)
    tpot = costing.seconds(points, batch[None, :], 0.0)[0] / costing.gained(points)[0, 0]
    tail = costing.seconds(points, np.asarray(crowd(batch, costing.crowding))[None, :], 0.0)[0]
    tail = np.maximum(tail / costing.gained(points)[0, 0], tpot)
    rate = right.replicas * batch / (costing.demand.request.osl * tpot)
    everywhere = np.ones(len(batch) - 2, bool)
    figures = {"step": float(tpot[0])}
    figures["TPOT"] = at_rate(case.rate, rate[2:], tpot[2:], everywhere)
    figures["TPOT p99"] = at_rate(case.rate, rate[2:], tail[2:], everywhere)
    single = Candidates(Points.of(left), np.zeros(1, int), np.ones(1, int), {})
    ladders = Ladders(np.array([left.chunk_tokens / (left.parallel.dp * left.parallel.pp)]), np.array([1]))
    roles = prefill_roles(costing, single, ladders)
    if not len(roles):
        return figures | dict.fromkeys(("TTFT", "TTFT p99", "rate"), np.inf)
    role = prefill_of(roles, np.array([left.replicas]))
    decode_tpot = np.array([figures["TPOT"] if np.isfinite(figures["TPOT"]) else tpot[0]])
    at = prefilling(costing.demand, role, np.array([case.rate]), decode_tpot)
    token_bytes = _table(costing, Candidates(Points.of(right), np.zeros(1, int), np.ones(1, int), {}),
                                       np.array([0]))["token_bytes"]  # fmt: skip
    late = exposed(costing, roles, token_bytes, at.hit_share)
    steady = bool(np.all(np.asarray(at.busy) < 1))
    figures["TTFT"] = float(np.ravel(at.ttft + late)[0]) if steady else np.inf
    figures["TTFT p99"] = float(np.ravel(at.ttft_tail + late)[0]) if steady else np.inf
    limit = float(np.ravel(prefill_limit(costing.demand, role, decode_tpot))[0]) / BUSIEST
    figures["rate"] = min(limit, float(rate[1]))
    return figures


# ── the table ─────────────────────────────────────────────────────────────────────────────────────────────────────


def table(cases: list[Case]) -> None:
    errors = {name: np.array([closed_form(case)[name] / case.seen[name] - 1 for case in cases]) for name in FIGURES}
    groups = np.array([case.group for case in cases])
    print(f"{'':15}{'figure':10}{'cases':>6}{'median':>9}{'p95':>9}{'worst':>9}{'bias':>9}{'unserved':>9}")
    for group in sorted(set(groups)):
        for name in FIGURES:
            values = errors[name][groups == group]
            size = np.abs(values)
            print(f"{group:15}{name:10}{len(values):6}" + "".join(
                f"{100 * value:8.1f}%" for value in (np.median(size), np.quantile(size, 0.95, method="lower"),
                                                    size[np.isfinite(size)].max(initial=0.0), np.median(values))
            ) + f"{np.isinf(size).sum():9}")  # fmt: skip


def main() -> None:
    count, seed = (int(text) for text in (sys.argv[1:3] + ["1000", "0"][len(sys.argv) - 1 :]))
    cases: list[Case] = []
    index = 0
    while len(cases) < count:
        random = np.random.default_rng([seed, index])
        index += 1
        try:
            case = draw(random)
        except TokenworksError as error:
            print(error, file=sys.stderr)
            continue
        if case:
            cases.append(case)
    table(cases)


if __name__ == "__main__":
    main()
