"""Wrong input: the message names the value, the place and the way out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tokenworks.engine import simulator
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, Router, Status, StepCost, Transfer
from tokenworks.errors import SpecError

LIMITS = Limits(2, 8, 10, 4)
COST = StepCost(np.full(9, 0.001))
POOL = Pool(COST, LIMITS)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("arrival_s: not sorted", {"arrival_s": [1.0, 0.5]}),
        ("arrival_s: times must be finite and not negative", {"arrival_s": [-1.0, 0.5]}),
        ("arrival_s: times must be finite", {"arrival_s": [0.0, np.nan]}),
        (r"input_tokens: \[0\] tokens in request \[1\]; want at least 1", {"input_tokens": [1, 0]}),
        (r"output_tokens: \[-3\] tokens in request \[0\]", {"output_tokens": [-3, 1]}),
        ("output_tokens: 3 values for 2 requests", {"output_tokens": [1, 1, 1]}),
        ("wrong length of priority, group or after", {"priority": [0]}),
        (r"priority: want 0 \.\. 7", {"priority": [0, 8]}),
        ("after: a request may only follow an earlier one", {"after": [-1, 1]}),
        ("block_offsets: do not cover block_ids", {"block_ids": [1, 2], "block_offsets": [0, 1, 1]}),
        ("block_offsets: do not cover block_ids", {"block_ids": [1, 2], "block_offsets": [0, 2]}),
    ],
)
def test_requests(words: str, arguments: dict[str, object]) -> None:
    given = {"arrival_s": [0.0, 1.0], "input_tokens": [1, 1], "output_tokens": [1, 1], **arguments}
    with pytest.raises(SpecError, match=words):
        Requests.of(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("by_tokens: want finite times above zero", lambda: StepCost(np.zeros(5))),
        ("by_tokens: want finite times", lambda: StepCost(np.array([0.0, np.inf]))),
        ("decode_context_s: -1.0 must be finite", lambda: StepCost(np.ones(5), 0.0, -1.0)),
        ("kv_blocks: 0 must be above zero", lambda: Limits(2, 8, 0)),
        ("max_queue: -1 must not be negative", lambda: Limits(2, 8, 10, max_queue=-1)),
        ("receive_interval: 0 must be above zero", lambda: Limits(2, 8, 10, receive_interval=0)),
        ("request_s and accept_s must not be negative", lambda: Cluster((POOL,), accept_s=-1)),
        ("unknown policy 'orca'; vllm or sglang", lambda: Limits(2, 8, 10, policy="orca")),
        (r"tokens_per_step: 3 must lie in 1 \.\. 1 \+ draft_tokens = 1", lambda: Limits(2, 8, 10, tokens_per_step=3)),
        (r"token_budget: 3 cannot decode all .* = 4", lambda: Limits(2, 3, 10, draft_tokens=1)),
        ("unknown role 'chef'", lambda: Pool(COST, LIMITS, role="chef")),  # type: ignore[arg-type]
        ("instances: 0 must be above zero", lambda: Pool(COST, LIMITS, instances=0)),
        ("by_tokens: ends at 8 tokens; a step may hold 16", lambda: Pool(COST, LIMITS, ranks=2)),
        ("KV travels whole", lambda: Pool(COST, Limits(2, 8, 10, prefix_caching=True), role="decode")),
        ("Transfer: times must be finite", lambda: Transfer(-1.0)),
        ("overlap: 2 is not a share", lambda: Transfer(overlap=2)),
        ("unknown router 'coin'; one of round_robin", lambda: Router("coin")),  # type: ignore[arg-type]
        ("must not be negative", lambda: Router(imbalance=-1)),
        (r"roles \('decode',\); want", lambda: Cluster((Pool(COST, LIMITS, role="decode"),))),
        ("concurrency, window_s, request_s and accept_s must", lambda: Cluster((POOL,), concurrency=-1)),
    ],
)  # fmt: skip
def test_clusters(words: str, make: object) -> None:
    with pytest.raises(SpecError, match=words):
        make()  # type: ignore[operator]


def test_a_request_that_never_fits_is_rejected_at_its_arrival() -> None:
    """Ten blocks of 4 hold 40 tokens: 38 + 2 tokens need 39, 38 + 4 need 41. Then the model's limit rejects all."""
    requests = Requests.of([0.0, 1.0, 2.0], [38, 38, 50], [2, 4, 1])
    outcome = simulator.run(Cluster((POOL,)), requests)
    assert outcome.status.tolist() == [Status.COMPLETED, Status.REJECTED, Status.REJECTED]
    assert outcome.end_s[1:].tolist() == [1.0, 2.0]
    short = Cluster((Pool(COST, Limits(2, 8, 10, 4, max_model_len=39)),))
    assert simulator.run(short, requests).status.tolist() == [Status.REJECTED] * 3


def test_a_full_queue_refuses() -> None:
    cluster = Cluster((Pool(COST, Limits(1, 8, 10, 4, max_queue=1)),))
    outcome = simulator.run(cluster, Requests.of([0.0, 0.0005, 0.0006, 0.0007], [1] * 4, [5] * 4))
    assert outcome.status.tolist() == [Status.COMPLETED, Status.COMPLETED, Status.REJECTED, Status.REJECTED]


def test_no_such_request() -> None:
    with pytest.raises(IndexError, match="no request 3"):
        simulator.Simulator(Cluster((POOL,))).cancel(3)


def test_submitting_into_the_past() -> None:
    run = simulator.Simulator(Cluster((POOL,)))
    run.advance(5.0)
    with pytest.raises(SpecError, match=r"arrival_s: 4\.0 s lies before now, 5\.0 s"):
        run.submit(Requests.of([4.0], [1], [1]))


def test_events_from_outside() -> None:
    run = simulator.Simulator(Cluster((POOL,)))
    run.submit(Requests.of([5.0], [1], [1]))
    run.advance(1.0)
    with pytest.raises(SpecError, match="unknown event 'applaud'; one of cancel"):
        run.at(2.0, "applaud", 0)
    for time in (0.5, math.inf):
        with pytest.raises(SpecError, match=r"want finite times that do not lie before now, 1\.0 s"):
            run.at(time, "cancel", 0)
    with pytest.raises(IndexError, match="no request 1"):
        run.at(2.0, "cancel", [0, 1])


def test_a_parent_of_an_earlier_call() -> None:
    """A child may be submitted while its parent is in flight; it is sent its think time after the parent's end."""
    run = simulator.Simulator(Cluster((POOL,)))
    run.submit(Requests.of([0.0], [1], [5]))
    run.submit(Requests.of([0.5, 1.0], [1, 1], [1, 1], after=[0, 1], earlier=1))
    run.advance()
    outcome = run.outcome()
    np.testing.assert_allclose(outcome.arrival_s[1:] - outcome.end_s[:2], [0.5, 1.0])
    with pytest.raises(SpecError, match=r"earlier: 2, but 3 requests were submitted; give 0 or 3"):
        run.submit(Requests.of([0.5], [1], [1], after=[0], earlier=2))
    for _ in range(2):
        with pytest.raises(SpecError, match="request 2 has ended and cannot be a parent; give -1"):
            run.submit(Requests.of([0.5], [1], [1], after=[2], earlier=3))
        run.take()
    assert run.slots == 3
    run.submit(Requests.of([run.now] * 3, [1] * 3, [1] * 3))
    assert run.slots == 3


def test_the_followers_of_a_rejected_request_are_never_sent() -> None:
    run = simulator.Simulator(Cluster((POOL,)))
    run.submit(Requests.of([0.0, 0.1, 0.1, 9.0], [50, 1, 1, 1], [1, 1, 1, 1], after=[-1, 0, 1, -1]))
    run.advance(1.0)
    ended = run.take()
    assert ended.number.tolist() == [0, 1, 2]
    assert ended.status.tolist() == [Status.REJECTED, Status.PENDING, Status.PENDING]
    assert (run.sent, run.ended) == (1, 3)
