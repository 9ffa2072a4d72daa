"""The mean request: what an engine's step sees of a workload, or of recorded requests. The one home of this idea.

Plan, estimate, simulation, energy and calibration all describe a batch by the same mean request, so that they agree
on the time of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from tokenworks.arrays import FloatArray
from tokenworks.costs.step import Batch
from tokenworks.specs.workload import Workload


@dataclass(frozen=True, slots=True)
class MeanRequest:
    """Means over requests, weighted as the steps of an engine meet them.

    Parameters
    ----------
    isl, osl : mean input and output length [token]
    isl_cv, osl_cv : coefficients of variation of inputs and outputs [-]
    hit_share : share of the input tokens that the prefix cache serves, if the cache holds all that it should [-]
    uncached_cv : coefficient of variation of the input tokens that must be computed [-]
    context : context of a decoding sequence, mean over its decode steps [token]
    context_cv : coefficient of variation of that context [-]
    seen : context that a prefill token attends to, mean over the computed tokens [token]
    """

    isl: float
    osl: float
    isl_cv: float
    osl_cv: float
    hit_share: float
    uncached_cv: float
    context: float
    context_cv: float
    seen: float

    @property
    def uncached(self) -> float:
        """Input tokens of a request that must be computed, where the cache holds all that it should [token]."""
        return self.isl * (1 - self.hit_share)

    def tail(self, share: float) -> float:
        """Uncached tokens of a request that a share of the requests does not exceed, over their mean [-]; lognormal."""
        spread = math.log1p(self.uncached_cv**2)
        return math.exp(math.sqrt(spread) * NormalDist().inv_cdf(share) - spread / 2)


def mean_request(workload: Workload) -> MeanRequest:
    """The mean request of a workload's statistics.

    A sequence is in a step once for each output token, so long outputs weigh more. With independent inputs i and
    outputs o, both lognormal,

        context    = E[o (i + o / 2)] / E[o]    = E[i] + E[o] (1 + cv_o^2) / 2
        var(grown) = E[o^3] / (3 E[o]) - (E[o^2] / (2 E[o]))^2 = E[o]^2 (L^3 / 3 - L^2 / 4),  L = 1 + cv_o^2

    A request computes u = s i of its input, where the uncached share s does not depend on the length i. Its u tokens
    see i - u / 2 on average, so that over all computed tokens

        seen = E[u (i - u / 2)] / E[u] = E[i] (1 + cv_i^2) - E[u] (1 + cv_u^2) / 2
    """
    longer = 1 + workload.osl_cv**2
    context = workload.isl + workload.osl * longer / 2
    variance = (workload.isl * workload.isl_cv) ** 2 + workload.osl**2 * (longer**3 / 3 - longer**2 / 4)
    cv = workload.isl_cv if workload.uncached_cv is None else workload.uncached_cv
    return MeanRequest(
        isl=workload.isl,
        osl=workload.osl,
        isl_cv=workload.isl_cv,
        osl_cv=workload.osl_cv,
        hit_share=workload.hit_share,
        uncached_cv=cv,
        context=context,
        context_cv=math.sqrt(variance) / context,
        seen=workload.isl * (1 + workload.isl_cv**2) - workload.uncached * (1 + cv**2) / 2,
    )


def mean_of_requests(
    input_tokens: ArrayLike, output_tokens: ArrayLike, cached_tokens: ArrayLike | float = 0.0
) -> MeanRequest:
    """The mean request of single requests, by the sums that `mean_request` takes the expectation of.

        context = sum o (i + o / 2) / sum o,    seen = sum u (i - u / 2) / sum u,    u = i - cached

    Parameters
    ----------
    input_tokens, output_tokens : of each request, at least 1 [token]
    cached_tokens : input tokens of each request that a prefix cache serves, fewer than its input in total [token]
    """
    i, o = np.asarray(input_tokens, float), np.asarray(output_tokens, float)
    u = i - np.asarray(cached_tokens, float)
    context = float((o * (i + o / 2)).sum() / o.sum())
    square = float((o * (i * i + i * o + o * o / 3)).sum() / o.sum())
    return MeanRequest(
        isl=float(i.mean()),
        osl=float(o.mean()),
        isl_cv=float(i.std() / i.mean()),
        osl_cv=float(o.std() / o.mean()),
        hit_share=1 - float(u.sum() / i.sum()),
        uncached_cv=float(u.std() / u.mean()),
        context=context,
        context_cv=math.sqrt(max(square - context**2, 0.0)) / context,
        seen=float((u * (i - u / 2)).sum() / u.sum()),
    )


def batch(
    request: MeanRequest, *, decode: FloatArray, prefill: FloatArray, lanes: FloatArray, uneven: FloatArray = 1.0
) -> Batch:
    """The batch of one step that is made of mean requests.

    Parameters
    ----------
    decode : sequences that decode [count]
    prefill : prefill tokens [token]
    lanes : dp ranks x microbatches of the instance; each of them prefills a prompt of its own [count]
    uneven : context of the rank that the others wait for, over the mean rank's [-]
    """
    return Batch(
        decode=decode,
        context=decode * request.context * uneven,
        prefill=prefill,
        prefill_context=prefill * request.seen,
        prefix=prefix_tokens(request, prefill, lanes),
    )


def prefix_tokens(request: MeanRequest, prefill: FloatArray, lanes: FloatArray) -> FloatArray:
    """Context that the chunks of a step find before them, summed over chunks [token].

    Attention over latents (MLA) reads that prefix expanded, and engines expand it anew for every chunk: P rows more of
    kv_b, at DeepSeek-R1 2.05 GFLOP each.

        P = max(T (i - u) / u, n s - T / 2)

    Whole prompts of u uncached tokens each find what the cache serves of them, i - u. Where n lanes share fewer tokens
    than a prompt each, every chunk of T / n tokens is cut out of a prompt; as its tokens see s on average, it begins at
    s - T / 2n.

    Parameters
    ----------
    prefill : T, prefill tokens of the step [token]; lanes : n, see `batch`

    References
    ----------
    [1] vLLM, MLA attention backends: chunked prefill gathers the cached latents and applies kv_b to them.
    """
    whole = prefill * (request.isl - request.uncached) / request.uncached
    return np.maximum(whole, lanes * request.seen - prefill / 2) * (prefill > 0)


def accepted_tokens(draft_tokens: FloatArray, acceptance: float) -> FloatArray:
    """Tokens that a sequence gains in a step with speculation [-]: 1 + a + a^2 + ... + a^k, one draft after the other.

    References
    ----------
    [1] Leviathan et al., arXiv:2211.17192, eq. 1.
    """
    return sum(np.where(draft_tokens >= power, acceptance**power, 0.0) for power in range(9))
