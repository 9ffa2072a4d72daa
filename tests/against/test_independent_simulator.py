"""The engine against a second, small simulator with the rules of vLLM V1: one queue, one KV cache, one loop.

The second simulator shares no code with the engine and has none of its short cuts. A sequence has a count of known
tokens (prompt and answer so far) and a count of computed tokens (in the KV cache). Each step computes missing tokens,
in chunks within the token budget. A sequence with all known tokens computed gets its next token when the step ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from tokenworks.engine import simulator
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, StepCost

StepTime = Callable[[list[int], list[tuple[int, int]]], float]
"""Seconds of a step, from the contexts of decoding sequences and (tokens before, new tokens) of prefill chunks."""


@dataclass(eq=False)
class Sequence:
    """One request; times are NaN until they happen [s]."""

    arrival: float
    prompt: int
    answer: int
    given: int = 0  # tokens of the answer so far
    computed: int = 0
    decodes: bool = False
    blocks: int = 0
    scheduled: float = np.nan
    first: float = np.nan
    end: float = np.nan
    preemptions: int = 0

    @property
    def missing(self) -> int:
        """Known tokens that are not in the KV cache."""
        return self.prompt + self.given - self.computed


@dataclass
class Server:
    """First come, first served; decodes before prefill; preemption of the youngest, by recomputation."""

    max_sequences: int
    budget: int
    free: int
    block: int
    step_time: StepTime
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)
    steps: int = 0

    def lacks(self, one: Sequence, tokens: int) -> int:
        """Blocks to allocate before `one` can hold `tokens`."""
        return -(-tokens // self.block) - one.blocks

    def leave(self, one: Sequence) -> None:
        """`one` stops running and gives its blocks back."""
        self.running.remove(one)
        self.free += one.blocks
        one.blocks = 0

    def compute(self, one: Sequence, tokens: int, step: list[tuple[Sequence, int]]) -> int:
        """Put `tokens` of `one` into the step; its blocks are free. Returns `tokens`."""
        need = self.lacks(one, one.computed + tokens)
        one.blocks, self.free = one.blocks + need, self.free - need
        step.append((one, tokens))
        return tokens

    def plan(self, now: float) -> list[tuple[Sequence, int]]:
        """Sequences of the next step, each with the tokens to compute."""
        step: list[tuple[Sequence, int]] = []
        left, preempted, place = self.budget, False, 0
        while place < len(self.running):
            one = self.running[place]
            tokens = min(one.missing, left)
            while one in self.running and self.lacks(one, one.computed + tokens) > self.free:
                youngest, preempted = self.running[-1], True
                self.leave(youngest)
                youngest.computed, youngest.decodes = 0, False
                youngest.preemptions += 1
                self.waiting.appendleft(youngest)
            if one in self.running:
                left -= self.compute(one, tokens, step)
                place += 1
        while not preempted and left and self.waiting and len(self.running) < self.max_sequences:
            one = self.waiting[0]
            if self.lacks(one, one.missing) > self.free:  # a sequence must fit as a whole, though it runs in chunks
                break
            self.running.append(self.waiting.popleft())
            one.scheduled = now if np.isnan(one.scheduled) else one.scheduled
            left -= self.compute(one, min(one.missing, left), step)
        return step

    def finish(self, step: list[tuple[Sequence, int]], now: float) -> None:
        """The step has ended: its tokens are in the cache, and complete sequences get a token."""
        self.steps += 1
        for one, tokens in step:
            one.computed += tokens
            if not one.missing:
                one.given, one.decodes = one.given + 1, True
                one.first = now if one.given == 1 else one.first
                if one.given == one.answer:
                    one.end = now
                    self.leave(one)

    def play(self, requests: list[Sequence]) -> None:
        """Serve all requests, which come in order of arrival."""
        now, coming = 0.0, deque(requests)
        while coming or self.waiting or self.running:
            if not (self.waiting or self.running):
                now = max(now, coming[0].arrival)
            while coming and coming[0].arrival <= now:
                self.waiting.append(coming.popleft())
            step = self.plan(now)
            contexts = [one.computed + 1 for one, _ in step if one.decodes]
            now += self.step_time(contexts, [(one.computed, tokens) for one, tokens in step if not one.decodes])
            self.finish(step, now)


def random_case(seed: int) -> tuple[Limits, StepCost, list[Sequence]]:
    """Limits that are often short of blocks, budget or sequences, random costs, and up to 30 requests."""
    rng = np.random.default_rng(seed)
    count, sequences = int(rng.integers(1, 31)), int(rng.integers(1, 9))
    prompts = rng.integers(1, int(rng.choice([8, 60, 300])), count)
    answers = rng.integers(1, int(rng.choice([3, 20, 60])), count)
    block = int(rng.choice([1, 4, 16]))
    least = -(-int((prompts + answers - 1).max()) // block)
    blocks = least + int(rng.choice([0, 3, 1000]))
    limits = Limits(sequences, sequences + int(rng.choice([0, 7, 64, 512])), blocks, block)
    table = np.cumsum(rng.uniform(1e-5, 1e-4, limits.token_budget + 1)) + 1e-3
    cost = StepCost(table, *(rng.uniform(0, 1e-5, 4) * rng.integers(0, 2)))
    arrivals = np.cumsum(rng.exponential(float(rng.choice([1e-4, 0.01, 0.1])), count))
    rows = zip(arrivals.tolist(), prompts.tolist(), answers.tolist(), strict=True)
    return limits, cost, [Sequence(*row) for row in rows]


def seconds_of(cost: StepCost) -> StepTime:
    """The step time in the engine's coefficients: a token of a prompt sees all tokens up to itself."""

    def seconds(contexts: list[int], chunks: list[tuple[int, int]]) -> float:
        prefill = sum(tokens for _, tokens in chunks)
        seen = sum(sum(range(before + 1, before + tokens + 1)) for before, tokens in chunks)
        total: float = cost.by_tokens[len(contexts) + prefill]
        total += cost.decode_sequence_s * len(contexts) + cost.decode_context_s * sum(contexts)
        return float(total + cost.prefill_context_s * seen + cost.prefill_token_s * prefill)

    return seconds


@pytest.mark.parametrize("block", range(4))
def test_both_simulators_give_the_same_times(block: int) -> None:
    """100 random cases each: all times within 1 ns, and the same steps and preemptions."""
    preemptions = 0
    for seed in range(100 * block, 100 * block + 100):
        limits, cost, sequences = random_case(seed)
        server = Server(
            limits.max_sequences, limits.token_budget, limits.kv_blocks, limits.block_tokens, seconds_of(cost)
        )
        server.play(sequences)
        columns = [[getattr(one, name) for one in sequences] for name in ("arrival", "prompt", "answer")]
        outcome = simulator.run(Cluster((Pool(cost, limits),)), Requests.of(*columns))
        for name, mine in (("scheduled_s", "scheduled"), ("first_token_s", "first"), ("end_s", "end")):
            want = [getattr(one, mine) for one in sequences]
            np.testing.assert_allclose(getattr(outcome, name), want, rtol=0, atol=1e-9, err_msg=f"{name}, seed {seed}")
        assert outcome.preemptions.tolist() == [one.preemptions for one in sequences]
        assert outcome.steps == server.steps
        preemptions += int(outcome.preemptions.sum())
    assert preemptions > 20
