"""Small scenarios computed by hand, in the reference and in the kernel: the schedulers of vLLM and SGLang by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tokenworks.engine import reference, simulator
from tokenworks.engine.outcome import Outcome
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, Router, Status, StepCost, Transfer

Run = Callable[[Cluster, Requests], Outcome]
both = pytest.mark.parametrize("run", [reference.run, simulator.run], ids=["reference", "kernel"])
TICK = StepCost(np.full(1001, 1.0))  # every step takes a second


def one(limits: Limits, cost: StepCost = TICK) -> Cluster:
    return Cluster((Pool(cost, limits),))


@both
def test_step_time_by_hand(run: Run) -> None:
    """Prompt of 3 alone, then a decode step over 4 tokens of context, then over 5.

    Prefill: f(3) + c (1 + 2 + 3); decode: f(1) + a + 4 b, f(1) + a + 5 b.
    """
    table = np.array([9.0, 1.0, 2.0, 4.0, 8.0])
    outcome = run(one(Limits(2, 4, 10), StepCost(table, 0.5, 0.25, 0.125)), Requests.of([0.0], [3], [3]))
    assert outcome.first_token_s[0] == 4.0 + 6 * 0.125
    assert outcome.end_s[0] == 4.75 + (1 + 0.5 + 4 * 0.25) + (1 + 0.5 + 5 * 0.25)


@both
def test_vllm_mixes_a_chunk_with_decodes(run: Run) -> None:
    """Budget 10: 1 decodes while the prompt of 25 takes 9 a step, so its first token comes after three steps."""
    outcome = run(one(Limits(2, 10, 100)), Requests.of([0.0, 1.0], [8, 25], [10, 2]))
    assert outcome.first_token_s.tolist() == [1, 4]
    assert outcome.end_s.tolist() == [10, 5]


@both
def test_sglang_prefills_first(run: Run) -> None:
    """The same requests in SGLang: three steps of prefill alone (chunks of 10), without any decode."""
    outcome = run(one(Limits(2, 10, 100, policy="sglang")), Requests.of([0.0, 1.0], [8, 25], [10, 2]))
    assert outcome.first_token_s.tolist() == [1, 4]
    assert outcome.end_s.tolist() == [13, 5]


@both
def test_an_arrival_during_a_step_waits_for_the_next_step(run: Run) -> None:
    """A request that arrives exactly at the end of a step is in the next step; a later one waits for the step after."""
    outcome = run(one(Limits(3, 10, 100)), Requests.of([0.0, 1.0, 1.5], [1, 1, 1], [5, 1, 1]))
    assert outcome.scheduled_s.tolist() == [0, 1, 2]


@both
def test_the_last_admitted_is_preempted_and_comes_back_first(run: Run) -> None:
    """Two prompts of 8 tokens share six blocks of 4. Both get a third block at the same time, but there is no fourth.

    So the younger sequence is preempted, with 8 + 5 tokens to compute again. It is admitted again when the older one
    has ended, before the third request.
    """
    outcome = run(one(Limits(2, 100, 6, 4)), Requests.of([0.0, 0.0, 0.5], [8, 8, 8], [9, 9, 1]))
    assert outcome.preemptions.tolist() == [0, 1, 0]
    assert outcome.end_s[0] == 9
    assert outcome.scheduled_s[2] >= 9
    assert outcome.pools[0].prefill_tokens == 24 + 8 + 5
    assert outcome.end_s[1] == 9 + 1 + 3


@both
def test_a_whole_prompt_must_fit_before_it_is_admitted(run: Run) -> None:
    """Ten blocks of 4, of which 5 + 1 are held: a prompt of 20 must wait, although its first chunk would fit."""
    outcome = run(one(Limits(2, 8, 10, 4)), Requests.of([0.0, 1.0], [24, 20], [5, 1]))
    assert outcome.scheduled_s.tolist() == [0, outcome.end_s[0]]


@both
def test_watermark(run: Run) -> None:
    """Of five blocks each prompt takes two. The second prompt waits if admission must leave two blocks free."""
    requests = Requests.of([0.0, 0.0], [8, 8], [3, 1])
    for limits, admitted in ((Limits(2, 100, 5, 4), 0), (Limits(2, 100, 5, 4, watermark_blocks=2), 3)):
        assert run(one(limits), requests).scheduled_s[1] == admitted


@both
def test_sglang_keeps_room_for_output(run: Run) -> None:
    """Blocks of one token. The first request decodes and has 9 tokens to come when the second one arrives.

    The second request needs 4 tokens of prompt, 5 of output and 1 more. Of 17 blocks 4 are in use. With the ratio 0
    there is room for it; with 0.7 admission keeps 6.3 more blocks free, and the second request waits for the end of the
    first one.
    """
    requests = Requests.of([0.0, 0.5], [4, 4], [10, 5])
    for ratio, admitted in ((0.0, 1), (0.7, 10)):
        outcome = run(one(Limits(2, 100, 17, 1, policy="sglang", output_reserve=ratio)), requests)
        assert outcome.scheduled_s[1] == admitted


@both
def test_a_scheduler_that_looks_every_three_steps(run: Run) -> None:
    """With `receive_interval` 3 the scheduler looks after the prefill of A (1 s), and after its decodes at 4 s and 7 s.

    B comes at 1.5 s and is admitted at 4 s, not at 2 s. Its prefill ends at 5 s, so the scheduler looks again: C, which
    came at 4.5 s, is admitted. All requests have left at 16 s. D comes at 20 s and finds an idle instance.
    """
    requests = Requests.of([0.0, 1.5, 4.5, 20.25], [4, 4, 4, 4], [14, 1, 1, 1])
    for interval, admitted in ((1, [0, 2, 5, 20.25]), (3, [0, 4, 5, 20.25])):
        outcome = run(one(Limits(4, 100, 100, policy="sglang", receive_interval=interval)), requests)
        assert outcome.scheduled_s.tolist() == admitted


@both
def test_an_unseen_request_counts_and_can_be_cancelled(run: Run) -> None:
    """A request that the scheduler has not looked at yet counts for the queue limit, and can be withdrawn."""
    limits = Limits(4, 100, 100, max_queue=1, policy="sglang", receive_interval=5)
    requests = Requests.of([0.0, 1.5, 1.75, 3.5], [4, 4, 4, 4], [20, 1, 1, 1])
    assert run(one(limits), requests).status.tolist() == [3, 3, 4, 4]
    made = reference.Reference if run is reference.run else simulator.Simulator
    engine: Any = made(one(limits))
    engine.submit(requests)
    engine.advance(3.0)
    engine.cancel(1)
    engine.advance()
    outcome = engine.outcome()
    assert outcome.status.tolist() == [3, 5, 4, 3]
    assert outcome.end_s[1] == 3.0
    assert outcome.scheduled_s[3] == 6.0


@both
def test_the_front_end_takes_one_request_after_the_other(run: Run) -> None:
    """Three requests that are sent together reach the rank 0.25 s apart, so the first one has a step of its own.

    Waiting at the front end is part of TTFT: all three were sent at 0 s.
    """
    cluster = Cluster((Pool(TICK, Limits(8, 100, 100)),), request_s=0.5, accept_s=0.25)
    outcome = run(cluster, Requests.of([0.0] * 3, [5] * 3, [2] * 3))
    assert outcome.scheduled_s.tolist() == [0.5, 1.5, 1.5]
    assert outcome.arrival_s.tolist() == [0, 0, 0]
    assert outcome.first_token_s.tolist() == [1.5, 2.5, 2.5]


@both
def test_sglang_evicts_whole_nodes_and_frees_duplicates(run: Run) -> None:
    """Eight blocks of 4. A and B have the same two blocks and run in one step, so B gives its two blocks back.

    C shares one block with them, which splits their node; then the blocks of C and the second block of A and B are
    nodes of their own. D needs more empty blocks than there are: the second block of A and B is the node that was used
    least recently, and only this node is evicted. So E finds the first block, and F finds nothing after it.
    """
    chains = [[1, 2], [1, 2], [1, 3, 4], [5, 6, 7], [1, 3, 4], [1, 2]]
    requests = Requests.of(
        [0.0, 0.0, 10.0, 20.0, 30.0, 40.0], [9, 9, 13, 13, 13, 9], [1] * 6,
        block_ids=np.concatenate(chains), block_offsets=[0, 2, 4, 7, 10, 13, 15],
    )  # fmt: skip
    outcome = run(one(Limits(4, 100, 8, 4, prefix_caching=True, policy="sglang")), requests)
    assert outcome.cached_tokens.tolist() == [0, 0, 4, 0, 12, 4]


def sharing(policy: str) -> Outcome:
    limits = Limits(4, 100, 100, 4, prefix_caching=True, policy=policy)
    ids = np.tile([1, 2, 3], 3)
    requests = Requests.of([0.0, 0.0, 5.0], [12, 12, 13], [2, 2, 2], block_ids=ids, block_offsets=[0, 3, 6, 9])
    slow, fast = reference.run(one(limits), requests), simulator.run(one(limits), requests)
    assert slow.cached_tokens.tolist() == fast.cached_tokens.tolist()
    return fast


def test_prefix_hits() -> None:
    """vLLM shares blocks within a step, SGLang from the next step on. The last token of a prompt is always computed."""
    assert sharing("vllm").cached_tokens.tolist() == [0, 8, 12]
    assert sharing("sglang").cached_tokens.tolist() == [0, 0, 12]


@both
def test_the_least_recently_used_chain_is_evicted_from_its_end(run: Run) -> None:
    """Six blocks of 4. Chain A fills 3 blocks and part of one, chain B 2 and part of one.

    C needs two blocks. It takes the block that holds no content, as vLLM since May 2026, and the last block of A. So A
    finds its first two blocks again.
    """
    chains = [[1, 2, 3], [11, 12], [21, 22], [1, 2, 3]]
    requests = Requests.of(
        [0.0, 10.0, 20.0, 30.0], [13, 9, 5, 13], [1] * 4,
        block_ids=np.concatenate(chains), block_offsets=[0, 3, 5, 7, 10],
    )  # fmt: skip
    outcome = run(one(Limits(1, 100, 6, 4, prefix_caching=True)), requests)
    assert outcome.cached_tokens.tolist() == [0, 0, 0, 8]


@both
def test_a_later_turn_finds_the_answer_of_the_earlier_turn(run: Run) -> None:
    """Block ids beyond the prompt are for the answer: of 8 + 5 tokens 12 are cached, in three full blocks."""
    requests = Requests.of([0.0, 2.5], [8, 20], [5, 1], after=[-1, 0], block_ids=[1, 2, 3, 1, 2, 3, 4, 5],
                           block_offsets=[0, 3, 8])  # fmt: skip
    outcome = run(one(Limits(1, 100, 20, 4, prefix_caching=True)), requests)
    assert outcome.cached_tokens.tolist() == [0, 12]
    assert outcome.arrival_s.tolist() == [0, 5 + 2.5]


@both
def test_priority_admits_first_and_is_preempted_last(run: Run) -> None:
    """Class 0 is admitted before class 1. When blocks run out, one of class 1 is preempted, and later the other."""
    requests = Requests.of([0.0, 0.0, 0.0], [8, 8, 8], [9, 9, 9], priority=[1, 1, 0])
    outcome = run(one(Limits(2, 100, 6, 4)), requests)
    assert outcome.scheduled_s[:3].tolist() == [0, outcome.scheduled_s[1], 0]
    assert outcome.preemptions.tolist() == [1, 1, 0]


@both
def test_drafts(run: Run) -> None:
    """With 1.5 tokens a step, the 7 tokens after the first take five steps. A decode step uses two tokens of budget."""
    outcome = run(one(Limits(2, 10, 100, draft_tokens=1, tokens_per_step=1.5)), Requests.of([0.0], [4], [8]))
    assert outcome.end_s[0] == 1 + 5
    assert outcome.pools[0].output_tokens == 8


@both
def test_lockstep_takes_the_hottest_rank(run: Run) -> None:
    """Two ranks, 4 and 8 tokens: f(12) + 2 c max(10, 36)."""
    table = np.arange(1.0, 202.0)
    cluster = Cluster((Pool(StepCost(table, 0, 0, 0.5), Limits(2, 100, 100), ranks=2),))
    outcome = run(cluster, Requests.of([0.0, 0.0], [4, 8], [1, 1]))
    assert outcome.rank.tolist() == [0, 1]
    assert outcome.end_s.tolist() == [13 + 2 * 0.5 * 36] * 2


@both
def test_transfers_share_links_and_hold_blocks(run: Run) -> None:
    """Two prefills of 10 tokens end at 1 s. Their transfers follow each other: 0.5 + 10 x 0.1 x (1 - 0.5) s each."""
    pools = (Pool(TICK, Limits(4, 100, 100), role="prefill"), Pool(TICK, Limits(4, 100, 100), role="decode"))
    cluster = Cluster(pools, transfer=Transfer(0.5, 0.1, 0.5), window_s=0.25)
    outcome = run(cluster, Requests.of([0.0, 0.0], [10, 10], [2, 2]))
    assert outcome.first_token_s.tolist() == [1, 1]
    assert outcome.end_s.tolist() == [3, 4]
    assert outcome.series[:, 2].tolist() == [2] * 3 + [4] * 4 + [3] * 4 + [1] * 4 + [0]


@both
def test_a_client_with_two_slots(run: Run) -> None:
    """Closed loop with two slots: the third request is sent when the first one ends, and its times count from there."""
    cluster = Cluster((Pool(TICK, Limits(8, 100, 100)),), concurrency=2)
    outcome = run(cluster, Requests.of([0.0] * 4, [5] * 4, [2, 3, 2, 2]))
    assert outcome.arrival_s.tolist() == [0, 0, 2, 3]
    assert outcome.status.tolist() == [Status.COMPLETED] * 4


@both
def test_routers(run: Run) -> None:
    """Round robin takes the ranks in turn. Least loaded takes the first rank with the fewest requests."""
    requests = Requests.of([0.0, 0.1, 0.2, 4.0], [5] * 4, [9, 2, 9, 1])
    for name, ranks in (("round_robin", [0, 1, 0, 1]), ("least_loaded", [0, 1, 0, 1])):
        cluster = Cluster((Pool(TICK, Limits(8, 100, 100), instances=2),), Router(name))  # type: ignore[arg-type]
        assert run(cluster, requests).rank.tolist() == ranks
