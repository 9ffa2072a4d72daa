"""The mean request: beside requests that are drawn one by one, and the ways in which it is made."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenworks.costs.requests import batch, mean_of_requests, mean_request, prefix_tokens
from tokenworks.specs.workload import Workload

DRAWS, BLOCKS = 1_000_000, 50
FIELDS = ("isl", "osl", "isl_cv", "osl_cv", "hit_share", "uncached_cv", "context", "context_cv", "seen")


def workloads(count: int) -> list[Workload]:
    """Random workloads whose uncached tokens vary no more than their inputs allow."""
    rng, drawn = np.random.default_rng(11), []
    for k in range(count):
        isl, isl_cv = float(rng.uniform(200, 20_000)), float(rng.uniform(0.0, 0.9))
        hit = float(rng.choice([0.0, rng.uniform(0.05, 0.95)]))
        most = math.sqrt((1 + isl_cv**2) / (1 - hit) - 1)  # what a share of 0 or 1 for each request would give
        drawn.append(
            Workload(
                name=f"drawn {k}",
                isl=isl,
                osl=float(rng.uniform(50, 2000)),
                isl_cv=isl_cv,
                osl_cv=float(rng.uniform(0.0, 0.9)),
                hit_share=hit,
                reused_context=hit * isl,
                uncached_cv=float(rng.uniform(isl_cv, isl_cv + 0.9 * (most - isl_cv))) if hit else None,
            )
        )
    return drawn


def lognormal(rng: np.random.Generator, mean: float, cv: float) -> NDArray[np.float64]:
    spread = math.sqrt(math.log1p(cv**2))
    return mean * np.exp(spread * rng.standard_normal(DRAWS) - spread**2 / 2)


def drawn(workload: Workload, rng: np.random.Generator) -> tuple[NDArray[np.float64], ...]:
    """Inputs, outputs, and uncached tokens: a beta share of each input, that does not depend on its length."""
    inputs, outputs = lognormal(rng, workload.isl, workload.isl_cv), lognormal(rng, workload.osl, workload.osl_cv)
    share = np.full(DRAWS, 1 - workload.hit_share)
    if workload.uncached_cv is not None:
        mean = 1 - workload.hit_share
        variance = ((1 + workload.uncached_cv**2) / (1 + workload.isl_cv**2) - 1) * mean**2
        both = mean * (1 - mean) / variance - 1
        share = rng.beta(mean * both, (1 - mean) * both, DRAWS)
    return inputs, outputs, share * inputs


@pytest.mark.parametrize("workload", workloads(10), ids=lambda workload: workload.name)
def test_a_workload_is_the_mean_of_requests_drawn_from_it(workload: Workload) -> None:
    """10^6 draws, their means within five standard errors of what the workload's statistics say.

    The sampling error is that of 50 blocks of draws. A sequence is seen after each output token, at a uniform place.
    """
    inputs, outputs, computed = drawn(workload, np.random.default_rng(3))
    request = mean_request(workload)
    parts = [np.split(values, BLOCKS) for values in (inputs, outputs, computed)]
    blocks = [mean_of_requests(i, o, i - u) for i, o, u in zip(*parts, strict=True)]
    for field in FIELDS:
        values = np.array([getattr(block, field) for block in blocks])
        error = values.std(ddof=1) / math.sqrt(BLOCKS)
        # A ratio of means, or a root, is off by the order of one over the draws of a block.
        assert values.mean() == pytest.approx(getattr(request, field), abs=5 * error + 2e-3 * abs(values.mean())), field


def brute(inputs: Any, outputs: Any, computed: Any) -> tuple[float, float, float]:
    """Context of a decode step, its deviation, and what a computed token sees: token by token."""
    contexts = np.concatenate([i + np.arange(o) + 0.5 for i, o in zip(inputs, outputs, strict=True)])
    seen = np.concatenate([i - u + np.arange(u) + 0.5 for i, u in zip(inputs, computed, strict=True)])
    return float(contexts.mean()), float(contexts.std()), float(seen.mean())


REQUESTS = st.lists(st.tuples(st.integers(2, 400), st.integers(1, 60), st.floats(0, 0.99)), min_size=1, max_size=20)


@given(REQUESTS)
def test_single_requests_are_what_their_steps_see(requests: list[tuple[int, int, float]]) -> None:
    inputs, outputs, shares = (np.array(column) for column in zip(*requests, strict=True))
    cached = np.floor(shares * (inputs - 1))
    request = mean_of_requests(inputs, outputs, cached)
    context, deviation, seen = brute(inputs, outputs, (inputs - cached).astype(int))
    assert request.context == pytest.approx(context)
    assert request.context_cv * request.context == pytest.approx(deviation, abs=0.3)  # steps are whole tokens
    assert request.seen == pytest.approx(seen)
    assert request.uncached == pytest.approx((inputs - cached).mean())


@given(REQUESTS, st.integers(1, 64))
def test_whole_prompts_find_what_the_cache_serves(requests: list[tuple[int, int, float]], lanes: int) -> None:
    """As many whole prompts as there are, in lanes that hold them: the prefixes are the cached tokens, no more."""
    inputs, outputs, shares = (np.array(column) for column in zip(*requests, strict=True))
    cached = np.floor(shares * (inputs - 1))
    request, tokens = mean_of_requests(inputs, outputs, cached), float((inputs - cached).sum())
    prefill = (
        tokens * lanes * 2 * request.seen / request.uncached
    )  # so many prompts that no lane has only a part of one
    assert prefix_tokens(request, prefill, lanes) / prefill == pytest.approx(cached.sum() / tokens, abs=1e-9)


@given(st.integers(100, 100_000), st.integers(2, 50))
def test_chunks_of_a_prompt_find_what_came_before(chunk: int, parts: int) -> None:
    """Equal chunks, one a step: on average half of the prompt's other chunks stand before one of them."""
    request = mean_of_requests([parts * chunk], [1])
    assert prefix_tokens(request, float(chunk), 1) == pytest.approx(np.mean([k * chunk for k in range(parts)]))


def test_a_batch_is_sums_over_mean_requests() -> None:
    """By hand: 100 in (60 of them cached), 20 out: context 110, a computed token sees 80."""
    request = mean_of_requests([100, 100], [20, 20], [60, 60])
    assert (request.context, request.seen, request.uncached, request.hit_share) == pytest.approx((110, 80, 40, 0.6))
    step = batch(request, decode=8.0, prefill=80.0, lanes=2, uneven=1.5)
    assert (step.decode, step.context, step.prefill, step.prefill_context) == (8.0, 8 * 110 * 1.5, 80.0, 80 * 80)
    assert step.prefix == 2 * 60
    assert batch(request, decode=8.0, prefill=0.0, lanes=2).prefix == 0
