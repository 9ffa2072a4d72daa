"""The mean request of a workload or of recorded requests: the lengths and contexts that an engine step has on average.

Plan, estimate, simulation, energy and calibration all build batches from this mean request. So they agree on the time
of a step.
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
    """Means over requests. `context` is weighted by decode steps, `seen` by computed prefill tokens.

    Parameters
    ----------
    isl, osl : mean input and output length [token]
    isl_cv, osl_cv : coefficients of variation of inputs and outputs [-]
    hit_share : share of the input tokens that a large enough prefix cache serves [-]
    uncached_cv : coefficient of variation of the input tokens that must be computed [-]
    context : mean context of a decoding sequence over all decode steps [token]
    context_cv : coefficient of variation of this context [-]
    seen : mean context that a computed prefill token attends to [token]
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
        """Mean input tokens of a request that must be computed, with a large enough prefix cache [token]."""
        return self.isl * (1 - self.hit_share)

    def tail(self, share: float) -> float:
        """Quantile of the uncached tokens of a request / their mean. Uncached tokens are taken as lognormal.

        Parameters
        ----------
        share : share of the requests that have no more uncached tokens than the quantile [-]

        Returns
        -------
        Quantile / mean [-].
        """
        return _lognormal(self.uncached_cv, share)


def _lognormal(cv: float, share: float) -> float:
    """Quantile of a lognormal distribution / its mean, from its coefficient of variation [-]."""
    spread = math.log1p(cv**2)
    return math.exp(math.sqrt(spread) * NormalDist().inv_cdf(share) - spread / 2)


def long_request(workload: Workload, share: float) -> float:
    """Quantile of input + output of a request, taken as lognormal with the mean and the variance of the sum.

    Parameters
    ----------
    workload : the workload; lengths of input and output are independent
    share : share of the requests that are not longer [-]

    Returns
    -------
    Input + output [token].

    References
    ----------
    [1] Fenton, The sum of log-normal probability distributions in scatter transmission systems, IRE Trans. 8, 1960.
    """
    mean = workload.isl + workload.osl
    deviation = math.hypot(workload.isl * workload.isl_cv, workload.osl * workload.osl_cv)
    return mean * _lognormal(deviation / mean, share)


def mean_request(workload: Workload) -> MeanRequest:
    """The mean request of a workload, from the statistics of its lengths.

    A sequence takes part in one decode step for each output token, so long outputs weigh more. Inputs i and outputs o
    are independent and lognormal. The mean context, and the variance of its part that decoding adds, are

        context    = E[o (i + o / 2)] / E[o]    = E[i] + E[o] (1 + cv_o^2) / 2
        var(grown) = E[o^3] / (3 E[o]) - (E[o^2] / (2 E[o]))^2 = E[o]^2 (L^3 / 3 - L^2 / 4),  L = 1 + cv_o^2

    A request computes u = s i of its input tokens. The uncached share s does not depend on the length i. The u tokens
    see a context of i - u / 2 on average. The mean over all computed tokens is

        seen = E[u (i - u / 2)] / E[u] = E[i] (1 + cv_i^2) - E[u] (1 + cv_u^2) / 2

    Parameters
    ----------
    workload : mean lengths, their variation, and the hit share

    Returns
    -------
    The mean request.
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
    """The mean request of recorded requests. The sums replace the expectations of `mean_request`.

        context = sum o (i + o / 2) / sum o,    seen = sum u (i - u / 2) / sum u,    u = i - cached

    Parameters
    ----------
    input_tokens : i, input tokens of each request, at least 1 [token]
    output_tokens : o, output tokens of each request, at least 1 [token]
    cached_tokens : input tokens of each request that a prefix cache serves, at most i - 1 [token]

    Returns
    -------
    The mean request.
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
    """The batch of one step, if all its requests are the mean request.

    Parameters
    ----------
    request : the mean request
    decode : sequences that decode [count]
    prefill : prefill tokens [token]
    lanes : dp ranks x microbatches of the instance; each lane prefills its own prompt [count]
    uneven : context of the busiest rank, for which the others wait / context of the mean rank [-]

    Returns
    -------
    Sums over the batch, as `step` takes them.
    """
    return Batch(
        decode=decode,
        context=decode * request.context * uneven,
        prefill=prefill,
        prefill_context=prefill * request.seen,
        prefix=prefix_tokens(request, prefill, lanes),
    )


def prefix_tokens(request: MeanRequest, prefill: FloatArray, lanes: FloatArray) -> FloatArray:
    """Cached context before the prefill chunks of a step, summed over chunks: P = max(T (i - u) / u, n s - T / 2).

    MLA attention needs this prefix expanded. Engines expand it again for every chunk: kv_b has P additional rows (2.05
    GFLOP per row for DeepSeek-R1).

    A whole prompt of u uncached tokens has the i - u tokens of the cache before it. If the lanes have less than one
    prompt each, every chunk has T / n tokens of a prompt. Its tokens see a context of s on average, so the chunk begins
    at s - T / 2n.

    Parameters
    ----------
    request : the mean request, with i = `isl`, u = `uncached`, s = `seen`
    prefill : T, prefill tokens of the step [token]
    lanes : n, dp ranks x microbatches of the instance [count]

    Returns
    -------
    P, sum of the prefixes [token].

    References
    ----------
    [1] vLLM, MLA attention backends: chunked prefill gathers the cached latents and applies kv_b to them.
    """
    whole = prefill * (request.isl - request.uncached) / request.uncached
    return np.maximum(whole, lanes * request.seen - prefill / 2) * (prefill > 0)


def accepted_tokens(draft_tokens: FloatArray, acceptance: float, later: float) -> FloatArray:
    """Mean number of tokens that a sequence gains in a step with speculation: 1 + a + a b + ... + a b^(k - 1).

    A draft token counts only if all draft tokens before it were accepted. Later ones are accepted less often: the draft
    layer was trained for the first, and reads its own output after that.

    Parameters
    ----------
    draft_tokens : k, draft tokens per step, at most 8 [token]
    acceptance : a, probability that the first draft token is accepted [-]
    later : b, probability that a later draft token is accepted, if the token before was [-]

    Returns
    -------
    Tokens per sequence and step [token].

    References
    ----------
    [1] Leviathan et al., arXiv:2211.17192, eq. 1, with equal probabilities.
    """
    return 1.0 + acceptance * sum(np.where(draft_tokens > before, later**before, 0.0) for before in range(8))
