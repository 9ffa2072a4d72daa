"""What steady state tells before simulating: throughput, TPOT and TTFT of an instance from the times of its steps.

Everything is elementwise over arrays. "Expected to meet" is all that an estimate can say; a simulation decides.
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
"""Load up to which a prefill role is planned [-]: beyond it waits grow without bound."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A workload under an SLO, as the steady state needs it.

    Parameters
    ----------
    request : the mean request
    warm : context that a session keeps between its turns [token]
    think : time between an answer and the next turn of its session [s]
    ttft_share, tpot_share : shares of requests for which the SLO's bounds hold [-]
    request_s : what client, HTTP and tokeniser add to TTFT, once for each role [s]
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
        """Uncached tokens of a request at the SLO's TTFT percentile, over their mean [-]."""
        return self.request.tail(self.ttft_share)


# ── what varies ───────────────────────────────────────────────────────────────────────────────────────────────────


def deviations(share: float) -> float:
    """Deviations of the normal distribution above its mean that a share of it stays below; never fewer than none."""
    return max(NormalDist().inv_cdf(share), 0.0)


def crowd(batch: FloatArray, above: float) -> FloatArray:
    """Sequences that decode at once, at a percentile of the time: B + z sqrt(B - 1).

    Where requests come as they like, those beside a request that decodes are Poisson, as in a queue with as many
    servers as requests: B - 1 on average. In a closed loop their number is fixed: z = 0.

    Parameters
    ----------
    batch : B, mean; above : z, deviations of the normal distribution at the percentile
    """
    return batch + above * np.sqrt(np.maximum(batch - 1, 0.0))


def mean_batch(most: FloatArray, above: float) -> FloatArray:
    """The batch whose `crowd` is `most`."""
    root = (np.sqrt(above**2 + 4 * np.maximum(most - 1, 0.0)) - above) / 2
    return np.minimum(1 + root**2, most)


def busiest_context(sequences: FloatArray, ranks: FloatArray, cv: float) -> FloatArray:
    """Context on the busiest of R ranks over the mean one [-]: ranks wait for each other, as in `lockstep.lockstep`.

    Routers level the number of sequences, not their lengths. The sum over n of them has the deviation cv / sqrt(n),
    and the largest of R such is at `normal_max(R)`; no rank has more than all.

    Parameters
    ----------
    sequences : n, of one rank; cv : variation of their contexts
    """
    return np.minimum(1 + normal_max(ranks) * cv / np.sqrt(np.maximum(sequences, 1.0)), ranks)


def seen_cv(cv: float) -> float:
    """Coefficient of variation of the context that the chunks of prompts see [-].

    A chunk is at a uniform place of its prompt, and long prompts L have more chunks: E[s] = E[L^2] / (2 E[L]) and
    E[s^2] = E[L^3] / (3 E[L]), with lognormal lengths.

    Parameters
    ----------
    cv : coefficient of variation of the prompts [-]
    """
    return float(np.sqrt(4 / 3 * (1 + cv**2) - 1))


# ── one role ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance at work; fields broadcast.

    batch : decoding sequences; ranks : dp ranks that share them; gained : tokens a sequence gains in a step
    decode_s : a step without prefill [s]; crowded_s : what it lasts longer with a `crowd` [s]
    token_s : what one more prefill token adds to a step, spread over all lanes [s]
    uneven : what it adds where it really comes, over `token_s` (see `lockstep.lockstep`) [-]
    lone : what a token of a prompt adds, from its prompt's view: on one rank, through all stages, over `token_s` [-]
    budget : most prefill tokens of a step, all lanes; mixed : prefill and decode share a step
    kv_tokens : what it can cache
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
    """An instance in steady state.

    rate : requests [1/s]; tpot, ttft : means [s]; tpot_tail, ttft_tail : at the SLO's percentiles [s]
    hit_share : of input tokens, after what the cache could not hold [-]
    busy : load of the prefill queue, stable below 1 [-]
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

    With B decoding sequences that gain g tokens a step, a request is done after n = osl / g steps, so that each step
    must prefill w = B u / n tokens (u uncached ones a request), each of which lengthens the step by c (`token_s` x
    `uneven`):

        step = t_d + c w,    tpot = step / g,    rate = B / (n step)          (Little: B = rate x n step)

    A mixed step takes at most its budget of prefill tokens, so the queue's load is w / budget steps of the longest
    kind; where prefill runs by itself it is the share of time that it takes.
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
        # Either the request is large or it waits for large ones; both at once is rarer than the percentile.
        ttft_tail=demand.request_s + step + np.maximum(tail + wait, mean + long_wait),
        hit_share=hit,
        busy=busy,
    )


def hit_share(demand: Demand, at: Instance, full: FloatArray, slope: FloatArray) -> FloatArray:
    """What the prefix cache serves [-], given that it must hold the sessions that think.

    rate x think of them (Little), each with its warm context, in what running sequences leave free. Where they do not
    all fit, the share falls in proportion, which lengthens the step and so lowers the rate: with step = full - slope h,

        h = H min(1, room / (rate think warm)) = min(H, k (full - slope h)),   k = H room osl / (B g think warm)

    Parameters
    ----------
    full, slope : length of a step if nothing is cached, and what a hit share of 1 would save [s]
    """
    kept = demand.think * demand.warm
    if demand.request.hit_share == 0 or kept == 0:
        return np.full(np.shape(full), demand.request.hit_share)
    room = np.maximum(at.kv_tokens - at.batch * demand.request.context, 0.0)
    k = demand.request.hit_share * room * demand.request.osl / (at.batch * at.gained * kept)
    return np.minimum(demand.request.hit_share, k * full / (1 + k * slope))


def _own_prefill(demand: Demand, at: Instance, hit: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Time to prefill a request, mean and at the TTFT percentile [s].

    One rank computes it, in one microbatch after the other, and mixed steps have the decodes of each of its passes.
    """

    def lasts(tokens: FloatArray) -> FloatArray:
        alone = tokens * at.lone * at.token_s
        return alone + np.maximum(1.0, tokens * at.ranks / at.budget) * at.decode_s if at.mixed else alone

    tokens = demand.request.isl * (1 - hit)
    return lasts(tokens), lasts(tokens * demand.tail)


def _tpot_tail(demand: Demand, at: Instance, per_step: FloatArray) -> FloatArray:
    """TPOT at the SLO's percentile [s]: the batch varies, and how much prefill falls into the life of a request.

    While a request of o tokens decodes, B o / osl others begin, Poisson, with variation cv in their uncached tokens:
    their sum has the relative variance (1 + cv^2) osl / (B o), and over all requests E[osl / o] = 1 + osl_cv^2
    (lognormal). It is taken as normal. No mixed step takes more than its budget.
    """
    variance = (1 + demand.request.uncached_cv**2) * (1 + demand.request.osl_cv**2) / at.batch
    most = per_step * (1 + deviations(demand.tpot_share) * np.sqrt(variance))
    if at.mixed:
        most = np.minimum(most, np.maximum(at.budget, per_step))
    return (at.decode_s + at.crowded_s + at.token_s * at.uneven * most) / at.gained


def waiting(busy: FloatArray, service: FloatArray, cv: float, share: float) -> tuple[FloatArray, FloatArray]:
    """Mean wait of an M/G/1 queue, and its quantile [s].

        W = rho S (1 + cv^2) / (2 (1 - rho))

    Those who wait (a share rho) wait exponentially long: the heavy-traffic limit. Each lane is such a queue: a request
    gets a rank when it comes, by the number of those before it there and not by their lengths, and stays on it.

    Parameters
    ----------
    busy : rho; service : S, mean [s]; cv : its variation; share : of requests that wait no longer

    References
    ----------
    [1] Pollaczek and Khinchine: Kleinrock, Queueing Systems 1, 1975, section 5.7.
    [2] Kingman, The heavy traffic approximation in the theory of queues, 1961.
    """
    rho = np.minimum(busy, 1 - 1e-9)
    of_those = service * (1 + cv**2) / 2 / (1 - rho)
    return rho * of_those, of_those * np.log(np.maximum(rho / (1 - share), 1.0))


# ── two roles ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Prefill:
    """A prefill role; fields broadcast.

    instances : x; lanes : batches that each works on side by side (ranks x microbatches)
    token_s : time of one prefill token over all lanes of an instance, in full chunks [s]
    pass_s : a step of full chunks; lone_s : a step of one chunk of one prompt [s]
    kv_tokens : that one instance can cache
    """

    instances: FloatArray
    lanes: FloatArray
    token_s: FloatArray
    pass_s: FloatArray
    lone_s: FloatArray
    kv_tokens: FloatArray


def prefill_limit(demand: Demand, role: Prefill, tpot: FloatArray) -> FloatArray:
    """Highest rate that a prefill role takes [1/s]; it grows in proportion to its instances.

    At load b = `BUSIEST` x instances compute A = b x / (c isl) inputs a second if nothing is cached. Their caches turn
    over q = x K / ((think + osl tpot) warm) sessions a second, so that the hit share is H min(1, q / rate), and

        rate = min(A / (1 - H), A + H q)

    Parameters
    ----------
    tpot : of the decode role [s]; its time, too, the session stays warm
    """
    computed = BUSIEST * role.instances / (role.token_s * demand.request.isl) + 0.0 * tpot
    if demand.request.hit_share == 0:
        return computed
    held = role.instances * role.kv_tokens / ((demand.think + demand.request.osl * tpot) * demand.warm)
    return np.minimum(computed / (1 - demand.request.hit_share), computed + demand.request.hit_share * held)


def prefilling(demand: Demand, role: Prefill, rate: FloatArray, tpot: FloatArray) -> Serving:
    """A prefill role at a rate [1/s]: TTFT but for the KV transfer, hit share, load; `tpot` is the decode role's.

    A step takes `lone_s` where a prompt is by itself, and `pass_s` where all ranks are full. Between the two it grows
    with the load.
    """
    hit = np.full(np.shape(rate), demand.request.hit_share)
    if demand.request.hit_share > 0:
        kept = (demand.think + demand.request.osl * tpot) * demand.warm
        hit = demand.request.hit_share * np.minimum(
            1.0, role.instances * role.kv_tokens / np.maximum(kept * rate, TINY)
        )
    uncached = demand.request.isl * (1 - hit)
    busy = rate / role.instances * uncached * role.token_s
    step = role.lone_s + np.minimum(busy, 1.0) * (role.pass_s - role.lone_s)
    chunks = uncached * role.lanes * role.token_s / role.pass_s
    mean = np.maximum(chunks, 1.0) * step
    longer = np.minimum(chunks * demand.tail, 1.0) / np.minimum(chunks, 1.0)
    tail = np.maximum(chunks * demand.tail, 1.0) * np.maximum(step, np.minimum(role.lone_s * longer, role.pass_s))
    wait, long_wait = waiting(busy, chunks * step, demand.request.uncached_cv, demand.ttft_share)
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
