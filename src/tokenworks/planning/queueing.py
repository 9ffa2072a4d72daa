"""Steady-state formulas: throughput, TPOT and TTFT of an instance from the times of its steps, without simulation.

All functions work elementwise on arrays. They give estimates; a simulation decides whether a deployment meets an SLO.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.costs.moe import normal_max
from tokenworks.costs.requests import MeanRequest, mean_request
from tokenworks.specs.slo import PERCENTILE, Slo
from tokenworks.specs.workload import Workload

TINY = 1e-30
BUSIEST = 0.9
"""Highest load of a prefill role in a plan [-]. Above it, waiting times grow very fast."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A workload and an SLO in the form that the steady-state formulas need.

    Parameters
    ----------
    request : the mean request
    warm : context that a session keeps between its turns [token]
    think : time between an answer and the next turn of its session [s]
    ttft_share, tpot_share : shares of requests for which the SLO's bounds hold [-]
    request_s : time that client, HTTP and tokeniser add to TTFT, once per role [s]
    """

    request: MeanRequest
    warm: float
    think: float
    ttft_share: float
    tpot_share: float
    request_s: float = 0.0

    @classmethod
    def of(cls, workload: Workload, slo: Slo, request_s: float = 0.0) -> Demand:
        """The demand of a workload under an SLO."""
        return cls(
            request=mean_request(workload),
            warm=workload.reused_context,
            think=workload.think_time,
            ttft_share=(slo.ttft.percentile if slo.ttft else PERCENTILE) / 100,
            tpot_share=(slo.tpot.percentile if slo.tpot else PERCENTILE) / 100,
            request_s=request_s,
        )

    @property
    def tail(self) -> float:
        """Uncached tokens of a request at the TTFT percentile of the SLO / mean uncached tokens [-]."""
        return self.request.tail(self.ttft_share)


# ── what varies ───────────────────────────────────────────────────────────────────────────────────────────────────


def deviations(share: float) -> float:
    """Quantile of the standard normal distribution, in standard deviations; 0 below the median [-].

    Parameters
    ----------
    share : share of the distribution below the quantile [-]
    """
    return max(NormalDist().inv_cdf(share), 0.0)


def crowd(batch: FloatArray, above: float) -> FloatArray:
    """Number of sequences that decode at the same time, at a percentile of time: B + z sqrt(B - 1) [count].

    In an open loop, a decoding request sees a Poisson number of other decoding requests, with mean B - 1, as in a queue
    with unlimited servers (M/G/infinity). In a closed loop the number is constant: z = 0.

    Parameters
    ----------
    batch : B, mean number of decoding sequences [count]
    above : z, standard deviations between mean and percentile [-]
    """
    return batch + above * np.sqrt(np.maximum(batch - 1, 0.0))


def mean_batch(most: FloatArray, above: float) -> FloatArray:
    """The mean batch whose `crowd` is `most`: the inverse of `crowd` [count].

    Parameters
    ----------
    most : sequences at the percentile [count]
    above : z, as in `crowd` [-]
    """
    root = (np.sqrt(above**2 + 4 * np.maximum(most - 1, 0.0)) - above) / 2
    return np.minimum(1 + root**2, most)


def busiest_context(sequences: FloatArray, ranks: FloatArray, cv: float) -> FloatArray:
    """Context of the busiest of R ranks / context of the average rank [-].

    Ranks wait for each other, as in `lockstep.lockstep`. Routers balance the number of sequences, not their lengths.
    The context of a rank with n sequences has the coefficient of variation cv / sqrt(n). The largest of R contexts lies
    `normal_max(R)` standard deviations above the mean. The ratio cannot exceed R.

    Parameters
    ----------
    sequences : n, decoding sequences of one rank [count]
    ranks : R, dp ranks that step together [count]
    cv : coefficient of variation of the context of a sequence [-]
    """
    return np.minimum(1 + normal_max(ranks) * cv / np.sqrt(np.maximum(sequences, 1.0)), ranks)


def seen_cv(cv: float) -> float:
    """Coefficient of variation of the context that the chunks of prompts see [-].

    The position of a chunk in its prompt is uniform, and long prompts L have more chunks: E[s] = E[L^2] / (2 E[L]) and
    E[s^2] = E[L^3] / (3 E[L]), with lognormal lengths.

    Parameters
    ----------
    cv : coefficient of variation of the prompts [-]
    """
    return float(np.sqrt(4 / 3 * (1 + cv**2) - 1))


# ── one role ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Instance:
    """An aggregated instance at a batch. All fields broadcast.

    Parameters
    ----------
    batch : decoding sequences [count]
    ranks : dp ranks that share the sequences [count]
    gained : tokens that a sequence gains in a step [token]
    decode_s : time of a step without prefill [s]
    crowded_s : additional time of this step with the batch of `crowd` [s]
    token_s : time that an additional prefill token adds to a step, if all lanes share the tokens evenly [s]
    uneven : the added time with the real, uneven distribution over ranks / `token_s`; see `lockstep.lockstep` [-]
    lone : time of one token of a single prompt (one rank, all pipeline stages) / `token_s` [-]
    budget : largest number of prefill tokens of a step, all lanes [token]
    kv_tokens : tokens that the KV cache holds [token]
    mixed : whether prefill and decode share a step
    """

    batch: FloatArray
    ranks: FloatArray
    gained: FloatArray
    decode_s: FloatArray
    crowded_s: FloatArray
    token_s: FloatArray
    uneven: FloatArray
    lone: FloatArray
    budget: FloatArray
    kv_tokens: FloatArray
    mixed: bool


@dataclass(frozen=True, slots=True)
class Serving:
    """Steady state of an instance.

    Parameters
    ----------
    rate : requests served [1/s]
    tpot, ttft : mean TPOT and mean TTFT [s]
    tpot_tail, ttft_tail : TPOT and TTFT at the percentiles of the SLO [s]
    hit_share : input tokens that the prefix cache serves / all input tokens, with the real size of the cache [-]
    busy : load of the prefill queue; stable below 1 [-]
    """

    rate: FloatArray
    tpot: FloatArray
    tpot_tail: FloatArray
    ttft: FloatArray
    ttft_tail: FloatArray
    hit_share: FloatArray
    busy: FloatArray


def aggregated(demand: Demand, at: Instance) -> Serving:
    """Steady state of an instance that prefills and decodes.

    B sequences decode and gain g tokens per step. A request ends after n = osl / g steps. So each step must prefill
    w = B u / n tokens, with u uncached tokens per request. Each of these tokens lengthens the step by c (`token_s` x
    `uneven`):

        step = t_d + c w,    tpot = step / g,    rate = B / (n step)          (Little: B = rate x n step)

    A mixed step takes at most its budget of prefill tokens, so the load of the queue is w / budget x the time of the
    longest step / step. If prefill has steps of its own, the load is the share of time of these steps.

    Parameters
    ----------
    demand : workload and SLO
    at : the instance at its batch
    """
    steps = demand.request.osl / at.gained
    slope = at.batch * demand.request.isl * at.token_s * at.uneven / steps
    hit = hit_share(demand, at, at.decode_s + slope, slope)
    step = at.decode_s + slope * (1 - hit)
    per_step = at.batch * demand.request.isl * (1 - hit) / steps
    longest = at.decode_s + at.token_s * at.budget if at.mixed else at.token_s * at.budget
    busy = per_step / at.budget * longest / step

    mean, tail = _own_prefill(demand, at, hit)
    wait, long_wait = waiting(busy, mean, demand.request.uncached_cv, demand.ttft_share)
    return Serving(
        rate=at.batch / (steps * step),
        tpot=step / at.gained,
        tpot_tail=_tpot_tail(demand, at, per_step),
        ttft=demand.request_s + step / 2 + wait + mean,
        # Either the request is long, or it waits for long requests. Both together are rarer than the percentile.
        ttft_tail=demand.request_s + step + np.maximum(tail + wait, mean + long_wait),
        hit_share=hit,
        busy=busy,
    )


def hit_share(demand: Demand, at: Instance, full: FloatArray, slope: FloatArray) -> FloatArray:
    """Share of the input tokens that the prefix cache serves [-].

    The cache must hold the warm context of all sessions that think: rate x think sessions (Little's law). They use the
    memory that running sequences leave free. If they do not all fit, the share falls in proportion. Then steps take
    longer and the rate falls. With step = full - slope h:

        h = H min(1, room / (rate think warm)) = min(H, k (full - slope h)),   k = H room osl / (B g think warm)

    Parameters
    ----------
    demand : workload and SLO
    at : the instance at its batch
    full : time of a step if nothing is cached [s]
    slope : time of a step that a hit share of 1 would save [s]
    """
    kept = demand.think * demand.warm
    if demand.request.hit_share == 0 or kept == 0:
        return np.full(np.shape(full), demand.request.hit_share)
    room = np.maximum(at.kv_tokens - at.batch * demand.request.context, 0.0)
    k = demand.request.hit_share * room * demand.request.osl / (at.batch * at.gained * kept)
    return np.minimum(demand.request.hit_share, k * full / (1 + k * slope))


def _own_prefill(demand: Demand, at: Instance, hit: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Time to prefill a request, mean and at the TTFT percentile [s].

    One rank computes the request, one microbatch after the other. In mixed steps, the decode of each step adds time.
    """

    def lasts(tokens: FloatArray) -> FloatArray:
        alone = tokens * at.lone * at.token_s
        return alone + np.maximum(1.0, tokens * at.ranks / at.budget) * at.decode_s if at.mixed else alone

    tokens = demand.request.isl * (1 - hit)
    return lasts(tokens), lasts(tokens * demand.tail)


def _tpot_tail(demand: Demand, at: Instance, per_step: FloatArray) -> FloatArray:
    """TPOT at the percentile of the SLO [s].

    The batch varies, and so does the prefill work during the decode of a request. While a request of o tokens decodes,
    a Poisson number of other requests starts, B o / osl on average. Their uncached tokens have the coefficient of
    variation cv. So the sum of these tokens has the relative variance (1 + cv^2) osl / (B o), and the mean over all
    requests is E[osl / o] = 1 + osl_cv^2 (lognormal lengths). The sum is treated as normal. A mixed step takes no more
    than its budget.
    """
    variance = (1 + demand.request.uncached_cv**2) * (1 + demand.request.osl_cv**2) / at.batch
    most = per_step * (1 + deviations(demand.tpot_share) * np.sqrt(variance))
    if at.mixed:
        most = np.minimum(most, np.maximum(at.budget, per_step))
    return (at.decode_s + at.crowded_s + at.token_s * at.uneven * most) / at.gained


def waiting(
    busy: FloatArray, service: FloatArray, cv: float, share: float, servers: FloatArray = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Mean wait of an M/G/c queue, and its quantile [s].

        W = rho^(sqrt(2 (c + 1)) - 1) S (1 + cv^2) / (2 c (1 - rho))

    The power of rho is the share of requests that wait, and the waiting times are exponential (the heavy-traffic
    limit). With one server this is the formula of Pollaczek and Khinchine.

    Parameters
    ----------
    busy : rho, load of the queue [-]
    service : S, mean service time [s]
    cv : coefficient of variation of the service time [-]
    share : share of requests that wait no longer than the quantile [-]
    servers : c, lanes that a router chooses from: a request waits only if all of them are busy [count]

    References
    ----------
    [1] Pollaczek and Khinchine: Kleinrock, Queueing Systems 1, 1975, section 5.7.
    [2] Kingman, The heavy traffic approximation in the theory of queues, 1961.
    [3] Sakasegawa, An approximation formula L = a rho^b / (1 - rho), Ann. Inst. Stat. Math. 29, 1977.
    """
    rho = np.minimum(busy, 1 - 1e-9)
    waits = rho ** (np.sqrt(2 * (servers + 1)) - 1)
    wait_if_queued = service * (1 + cv**2) / 2 / (servers * (1 - rho))
    return waits * wait_if_queued, wait_if_queued * np.log(np.maximum(waits / (1 - share), 1.0))


# ── two roles ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Prefill:
    """A prefill role. All fields broadcast.

    Parameters
    ----------
    instances : x, instances of the role [count]
    lanes : batches that an instance works on in parallel: ranks x microbatches [count]
    token_s : time of one prefill token in full chunks, over all lanes of an instance [s]
    pass_s : time of a step with full chunks [s]
    lone_s : time of a step with one chunk of one prompt [s]
    kv_tokens : tokens that the KV cache of one instance holds [token]
    """

    instances: FloatArray
    lanes: FloatArray
    token_s: FloatArray
    pass_s: FloatArray
    lone_s: FloatArray
    kv_tokens: FloatArray


def prefill_limit(demand: Demand, role: Prefill, tpot: FloatArray) -> FloatArray:
    """Highest rate that a prefill role can serve [1/s]. It is proportional to the number of instances.

    At the load b = `BUSIEST`, x instances compute A = b x / (c isl) inputs per second if nothing is cached. The caches
    can keep q = x K / ((think + osl tpot) warm) sessions per second. So the hit share is H min(1, q / rate), and

        rate = min(A / (1 - H), A + H q)

    Parameters
    ----------
    demand : workload and SLO
    role : the prefill role
    tpot : TPOT of the decode role, because a session also stays cached while it decodes [s]
    """
    computed = BUSIEST * role.instances / (role.token_s * demand.request.isl) + 0.0 * tpot
    if demand.request.hit_share == 0:
        return computed
    held = role.instances * role.kv_tokens / ((demand.think + demand.request.osl * tpot) * demand.warm)
    return np.minimum(computed / (1 - demand.request.hit_share), computed + demand.request.hit_share * held)


def prefilling(demand: Demand, role: Prefill, rate: FloatArray, tpot: FloatArray) -> Serving:
    """Steady state of a prefill role at a rate. TTFT does not include the KV transfer.

    A step with a single prompt takes l = `lone_s`, and a step in which all ranks are full takes p = `pass_s`. A step
    takes the prompts that came during the step before: T = l + b T (p - l) / p with the load b, so

        T = l / (1 - b (1 - l / p)),  at most p

    Parameters
    ----------
    demand : workload and SLO
    role : the prefill role
    rate : requests of all instances [1/s]
    tpot : TPOT of the decode role [s]
    """
    hit = np.full(np.shape(rate), demand.request.hit_share)
    if demand.request.hit_share > 0:
        kept = (demand.think + demand.request.osl * tpot) * demand.warm
        hit = demand.request.hit_share * np.minimum(
            1.0, role.instances * role.kv_tokens / np.maximum(kept * rate, TINY)
        )
    uncached = demand.request.isl * (1 - hit)
    busy = rate / role.instances * uncached * role.token_s
    step = role.lone_s / (1 - np.minimum(busy, 1.0) * (1 - role.lone_s / role.pass_s))
    chunks = uncached * role.lanes * role.token_s / role.pass_s
    mean = np.maximum(chunks, 1.0) * step
    longer = np.minimum(chunks * demand.tail, 1.0) / np.minimum(chunks, 1.0)
    tail = np.maximum(chunks * demand.tail, 1.0) * np.maximum(step, np.minimum(role.lone_s * longer, role.pass_s))
    servers = role.lanes * role.instances
    wait, long_wait = waiting(busy, chunks * step, demand.request.uncached_cv, demand.ttft_share, servers)
    begun = step * np.minimum(rate / role.instances * step, 1.0)
    return Serving(
        rate=rate,
        tpot=tpot,
        tpot_tail=tpot,
        ttft=2 * demand.request_s + begun / 2 + wait + mean,
        ttft_tail=2 * demand.request_s + begun + np.maximum(tail + wait, mean + long_wait),
        hit_share=hit,
        busy=busy,
    )
