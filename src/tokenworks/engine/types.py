"""What goes into a simulation and what comes out: plain numbers and arrays, no scheduler and no model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenworks.arrays import Bools, Floats, Ints
from tokenworks.engine.policies import POLICIES
from tokenworks.errors import SpecError
from tokenworks.specs.deployment import RoleName, RouterName

PRIORITIES = 8
GROUPS = 8


class Status(IntEnum):
    """Where a request is. PENDING: not sent yet (its turn or its client's slot has not come)."""

    PENDING = 0
    QUEUED = 1
    RUNNING = 2
    COMPLETED = 3
    REJECTED = 4
    CANCELLED = 5


def _need(condition: bool | np.bool_, message: str, where: str, hint: str = "") -> None:
    if not condition:
        raise SpecError(message, where=where, hint=hint)


@dataclass(frozen=True)
class StepCost:
    """Time of one iteration of an instance, from its aggregates; the sums run over all dp ranks of the instance.

        t = by_tokens[m] + d sum of Q + ranks * max over ranks (a n + b S + c Q + e p)                        [s]

    m : tokens in the step, decode and prefill (GEMM, experts, collectives, host); n : decoding sequences of a rank;
    S : sum of their contexts [token]; Q : sum over a rank's prefill tokens of the context each one sees [token^2];
    p : its prefill tokens; e is what a rank does for each by itself (all but experts), so that one busy rank is slow.
    An engine that lets its ranks prefill at the same time has d in place of c, and no e.
    Coefficients are for the instance as a whole with its load spread evenly, so the hottest of R ranks counts R times.
    A layer with a sliding window has constant cost a sequence beyond its window: fold it into `decode_sequence_s`.

    by_tokens : [s], index 0 .. most tokens in a step; decode_sequence_s : a [s]; decode_context_s : b [s/token];
    prefill_context_s : c [s/token^2]; prefill_token_s : e [s/token]; together_context_s : d [s/token^2]
    """

    by_tokens: Floats
    decode_sequence_s: float = 0.0
    decode_context_s: float = 0.0
    prefill_context_s: float = 0.0
    prefill_token_s: float = 0.0
    together_context_s: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_tokens", np.ascontiguousarray(self.by_tokens, dtype=np.float64))
        table = self.by_tokens
        ok = table.ndim == 1 and len(table) > 1 and np.isfinite(table).all() and bool((table[1:] > 0).all())
        _need(ok, "want finite times above zero for 1, 2, ... tokens", "StepCost.by_tokens")
        for name in (f.name for f in fields(self) if f.name != "by_tokens"):
            value = getattr(self, name)
            _need(np.isfinite(value) and value >= 0, f"{value} must be finite and not negative", f"StepCost.{name}")


@dataclass(frozen=True)
class Limits:
    """What the engine of one dp rank may hold.

    max_sequences : running at once; token_budget : tokens of one step (chunked prefill) [token]
    kv_blocks, block_tokens : paged KV cache; block ids of requests are of the same block size
    max_model_len : longest input + output [token]; max_queue : waiting requests beyond which one is refused, 0 = never
    watermark_blocks : blocks that admission leaves free while anything runs
    reserve_tokens : tokens that admission leaves free for each running sequence (SGLang's new_token_ratio x clipped
        max_new_tokens); draft_tokens : speculated tokens of a step (MTP), whose slots are held ahead
    tokens_per_step : mean tokens a sequence gains in a decode step, 1 .. 1 + draft_tokens
    policy : how the rank schedules, a name in `policies.POLICIES`
    """

    max_sequences: int
    token_budget: int
    kv_blocks: int
    block_tokens: int = 16
    max_model_len: int = 1 << 30
    max_queue: int = 0
    watermark_blocks: int = 0
    reserve_tokens: int = 0
    draft_tokens: int = 0
    tokens_per_step: float = 1.0
    prefix_caching: bool = False
    policy: str = "vllm"

    def __post_init__(self) -> None:
        for name in ("max_sequences", "token_budget", "kv_blocks", "block_tokens", "max_model_len"):
            _need(getattr(self, name) > 0, f"{getattr(self, name)} must be above zero", f"Limits.{name}")
        for name in ("max_queue", "watermark_blocks", "reserve_tokens", "draft_tokens"):
            _need(getattr(self, name) >= 0, f"{getattr(self, name)} must not be negative", f"Limits.{name}")
        known = " or ".join(POLICIES)
        _need(self.policy in POLICIES, f"unknown policy {self.policy!r}", "Limits.policy", known)
        a, top = self.tokens_per_step, 1 + self.draft_tokens
        _need(1 <= a <= top, f"{a} must lie in 1 .. 1 + draft_tokens = {top}", "Limits.tokens_per_step")
        width = self.max_sequences * top
        _need(self.token_budget >= width, f"{self.token_budget} cannot decode all sequences at once",
              "Limits.token_budget", f"want at least max_sequences x (1 + draft_tokens) = {width}")  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """Equal instances that do one job.

    ranks : dp ranks that step in lockstep, each with its own queue and KV
    stages : of a pipeline. A step's tokens lie evenly in as many microbatches, but those of one prompt in as few as can
        hold them, which pass the stages one after the other: so its first token, and with it all others, are seen
        later than the step ends (`lag_s`). Nobody else waits for that
    """

    cost: StepCost
    limits: Limits
    instances: int = 1
    ranks: int = 1
    role: RoleName = "aggregated"
    stages: int = 1

    def __post_init__(self) -> None:
        _need(self.role in get_args(RoleName), f"unknown role {self.role!r}", "Pool.role")
        for name in ("instances", "ranks", "stages"):
            _need(getattr(self, name) > 0, f"{getattr(self, name)} must be above zero", f"Pool.{name}")
        most, known = self.ranks * self.limits.token_budget, len(self.cost.by_tokens) - 1
        _need(known >= most, f"ends at {known} tokens; a step may hold {most}", "StepCost.by_tokens")
        if self.role == "decode":
            _need(not self.limits.prefix_caching, "KV travels whole to a decode role", "Limits.prefix_caching")

    def lag_s(self, step_tokens: int, tokens: int, square: int) -> float:
        """How long after its step the last `tokens` of a prompt have passed all stages [s].

        In a step of m tokens they fill k = ceil(tokens / (budget / stages)) microbatches, of which the last starts
        k - 1 stages late and takes all of them, F = f(stages x tokens), at most f(budget); the step has f(m) of that.
        Of what they cost by themselves, c Q + e p, the step has each stage once, and stages - 1 are missing:

            lag = max(0, F (1 + (k - 1) / stages) - f(m)) + ranks (c Q + e p) (stages - 1) / k
        """
        if self.stages == 1:
            return 0.0
        cost, budget = self.cost, self.limits.token_budget
        parts = -(-tokens * self.stages // budget)
        whole = float(cost.by_tokens[min(self.stages * tokens, budget)])
        own = self.ranks * (cost.prefill_context_s * square + cost.prefill_token_s * tokens)
        late = whole * (1.0 + (parts - 1) / self.stages) - float(cost.by_tokens[step_tokens])
        return max(0.0, late) + own * (self.stages - 1) / parts


@dataclass(frozen=True)
class Transfer:
    """KV from prefill to decode: a flow over the links of both instances; a link has one flow at a time.

    latency_s : before the first byte [s]; seconds_per_token : of the slower link [s/token]
    overlap : share hidden behind the prefill itself (layer by layer), 0 .. 1
    """

    latency_s: float = 0.0
    seconds_per_token: float = 0.0
    overlap: float = 0.0

    def __post_init__(self) -> None:
        ok = (
            np.isfinite([self.latency_s, self.seconds_per_token]).all()
            and min(self.latency_s, self.seconds_per_token) >= 0
        )
        _need(ok, "times must be finite and not negative", "Transfer")
        _need(0 <= self.overlap <= 1, f"{self.overlap} is not a share", "Transfer.overlap")


@dataclass(frozen=True)
class Router:
    """How a request finds its rank; it sees queues and cache events, never output lengths.

    name : round_robin, least_loaded (fewest requests in flight), power_of_two (the less loaded of two drawn),
        prefix_aware (fewest tokens to prefill before the first of this request: those of requests routed there that
        have none yet, and its own less the known prefix; a request in flight counts as `load_tokens` more; among ranks
        with load <= (1 + imbalance) x least + slack; of equal ones the one that has not been chosen for longest)
    event_delay_s : cache events reach the router so much later [s]; seed : of power_of_two
    """

    name: RouterName = "round_robin"
    imbalance: float = 0.5
    slack: int = 4
    load_tokens: int = 1000
    event_delay_s: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _need(self.name in get_args(RouterName), f"unknown router {self.name!r}", "Router.name",
              f"one of {', '.join(get_args(RouterName))}")  # fmt: skip
        ok = min(self.imbalance, self.slack, self.load_tokens, self.event_delay_s) >= 0
        _need(ok, "imbalance, slack, load_tokens and event_delay_s must not be negative", "Router")


@dataclass(frozen=True)
class Cluster:
    """A deployment as the engine sees it: one aggregated pool, or a prefill and a decode pool.

    concurrency : most requests in flight, from the client's sending to the end, `request_s` included; the client sends
        the next request when a slot becomes free; 0 = no limit (closed loop of `vllm bench serve`)
    request_s : what client, HTTP and tokeniser take from the sending of a request to its arrival at a rank [s]
    window_s : width of the time series [s], 0 = none
    """

    pools: tuple[Pool, ...]
    router: Router = field(default_factory=Router)
    transfer: Transfer = field(default_factory=Transfer)
    concurrency: int = 0
    window_s: float = 0.0
    request_s: float = 0.0

    def __post_init__(self) -> None:
        roles = tuple(pool.role for pool in self.pools)
        known = roles in (("aggregated",), ("prefill", "decode"))
        _need(known, f"roles {roles}", "Cluster.pools", 'want ("aggregated",) or ("prefill", "decode")')
        blocks = {pool.limits.block_tokens for pool in self.pools if pool.limits.prefix_caching}
        _need(len(blocks) <= 1, "one block size for all prefix caches", "Cluster.pools")
        ok = min(self.concurrency, self.window_s, self.request_s) >= 0
        _need(ok, "concurrency, window_s and request_s must not be negative", "Cluster")

    def never_fits(self, input_tokens: NDArray[np.int32], output_tokens: NDArray[np.int32]) -> Bools:
        """Which requests no rank could ever hold: longer than the model's limit or than the whole KV cache."""
        bad = np.zeros(len(input_tokens), dtype=np.bool_)
        for pool in self.pools:
            limits = pool.limits
            total = input_tokens.astype(np.int64) + output_tokens
            ahead = limits.draft_tokens + math.ceil(limits.tokens_per_step) - 2
            most = input_tokens + limits.draft_tokens if pool.role == "prefill" else total + ahead
            bad |= (total > limits.max_model_len) | (most > limits.kv_blocks * limits.block_tokens)
        return bad


def _column(values: ArrayLike | None, count: int, dtype: Any, default: int) -> NDArray[Any]:
    if values is None:
        return np.broadcast_to(np.array(default, dtype=dtype), (count,))
    return np.ascontiguousarray(values, dtype=dtype)


@dataclass(frozen=True)
class Requests:
    """What users send; arrays of one length.

    arrival_s : when it is sent [s], not falling; for a request with `after` >= 0 the time from the end of that one
    input_tokens, output_tokens : at least 1 each; priority : 0 (first) .. 7; after : index of an earlier request, or -1
    earlier : requests that were submitted before, if `after` counts those, too; 0 = it counts from the first of these
    group : 0 .. 7, what gaps between tokens are counted by; nothing else depends on it
    block_ids, block_offsets : chained hashes of full blocks, those of request i at offsets[i] : offsets[i + 1];
        ids beyond the input name blocks that its output fills, which a later turn may find
    """

    arrival_s: Floats
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    priority: NDArray[np.int8]
    group: NDArray[np.int8]
    after: NDArray[np.int32]
    block_ids: NDArray[np.int64]
    block_offsets: NDArray[np.int64]
    earlier: int = 0

    @classmethod
    def of(
        cls,
        arrival_s: ArrayLike,
        input_tokens: ArrayLike,
        output_tokens: ArrayLike,
        *,
        priority: ArrayLike | None = None,
        group: ArrayLike | None = None,
        after: ArrayLike | None = None,
        block_ids: ArrayLike | None = None,
        block_offsets: ArrayLike | None = None,
        earlier: int = 0,
    ) -> Requests:
        """Check and convert; any array-likes."""
        arrival = np.ascontiguousarray(arrival_s, dtype=np.float64)
        count = len(arrival)
        requests = cls(
            arrival,
            np.ascontiguousarray(input_tokens, dtype=np.int32),
            np.ascontiguousarray(output_tokens, dtype=np.int32),
            _column(priority, count, np.int8, 0),
            _column(group, count, np.int8, 0),
            _column(after, count, np.int32, -1),
            np.ascontiguousarray([] if block_ids is None else block_ids, dtype=np.int64),
            _column(block_offsets, count + 1, np.int64, 0),
            earlier,
        )
        requests._check()
        return requests

    def __len__(self) -> int:
        return len(self.arrival_s)

    def _check(self) -> None:
        count = len(self)
        for name in ("input_tokens", "output_tokens"):
            column = getattr(self, name)
            _need(len(column) == count, f"{len(column)} values for {count} requests", f"Requests.{name}")
            bad = np.flatnonzero(column < 1)
            _need(not len(bad), f"{column[bad[:1]]} tokens in request {bad[:1]}", f"Requests.{name}", "want at least 1")
        same = len(self.priority) == len(self.group) == len(self.after) == count
        _need(same, "wrong length of priority, group or after", "Requests")
        ok = np.isfinite(self.arrival_s).all() and bool((self.arrival_s >= 0).all())
        _need(ok, "times must be finite and not negative", "Requests.arrival_s")
        first = self.arrival_s[self.after < 0]
        _need(bool((np.diff(first) >= 0).all()), "not sorted", "Requests.arrival_s", "sort requests by arrival")
        ok = bool(((self.after >= -1) & (self.after < self.earlier + np.arange(count))).all())
        _need(ok, "a request may only follow an earlier one", "Requests.after")
        for name, end in (("priority", PRIORITIES), ("group", GROUPS)):
            column = getattr(self, name)
            _need(bool(((column >= 0) & (column < end)).all()), f"want 0 .. {end - 1}", f"Requests.{name}")
        offsets = self.block_offsets
        ok = len(offsets) == count + 1 and bool((np.diff(offsets) >= 0).all()) and offsets[0] == 0
        _need(ok and offsets[-1] == len(self.block_ids), "do not cover block_ids", "Requests.block_offsets")


@dataclass(frozen=True)
class PoolCounts:
    """What a pool did, all instances together.

    steps : iterations; decode_sequences : sum over steps of decoding sequences; output_tokens : produced, first ones
    included; prefill_tokens : computed, recomputation included; query_tokens, hit_tokens : of first admissions;
    preemptions; evictions : cached blocks that lost their content; busy_s : summed over instances
    link_busy_s : how long the links of the instances are booked by flows so far, also beyond now; link_flows : how many
        flows; KV from prefill to decode takes a link on both sides
    kv_total, kv_used : blocks, at the end of the run
    """

    steps: int
    decode_sequences: int
    output_tokens: int
    prefill_tokens: int
    query_tokens: int
    hit_tokens: int
    preemptions: int
    evictions: int
    busy_s: float
    link_busy_s: float
    link_flows: int
    kv_total: int
    kv_used: int

    def since(self, earlier: PoolCounts) -> PoolCounts:
        """What happened after an earlier moment; blocks as they are now."""
        kept = ("kv_total", "kv_used")
        return PoolCounts(
            **{name: value if name in kept else value - getattr(earlier, name) for name, value in vars(self).items()}
        )

    @property
    def mean_batch(self) -> float:
        """Decoding sequences in a step, on average over steps."""
        return self.decode_sequences / max(self.steps, 1)


@dataclass(frozen=True)
class Counts:
    """Everything that is counted up to a moment.

    sent : requests sent so far; itl_counts : gaps between output tokens by group and duration, see `gaps.itl_bin`
    """

    now_s: float
    sent: int
    pools: tuple[PoolCounts, ...]
    itl_counts: Ints

    def since(self, earlier: Counts) -> Counts:
        """What happened after an earlier moment."""
        pools = tuple(one.since(other) for one, other in zip(self.pools, earlier.pools, strict=True))
        return Counts(self.now_s, self.sent - earlier.sent, pools, self.itl_counts - earlier.itl_counts)


@dataclass(frozen=True)
class PerRequest:
    """What became of requests, arrays of one length; NaN where it never came to that.

    arrival_s : when it was really sent, of one that was never sent without meaning
    end_s : in a pipeline up to `Pool.lag_s` after now
    """

    arrival_s: Floats
    scheduled_s: Floats
    first_token_s: Floats
    end_s: Floats
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    cached_tokens: NDArray[np.int32]
    preemptions: NDArray[np.int32]
    status: NDArray[np.int8]
    rank: NDArray[np.int32]

    def count(self, status: Status) -> int:
        """Requests in this state."""
        return int(np.count_nonzero(self.status == status))


@dataclass(frozen=True)
class Ended(PerRequest):
    """Requests that have ended since somebody asked, in the order in which they did.

    number : in the order of submission; status : PENDING of one that is never sent, because the request before it did
        not complete
    """

    number: Ints


@dataclass(frozen=True)
class Outcome(PerRequest):
    """Per request in the order of submission, per pool, and per window of time.

    itl_counts : as in `Counts`
    series : columns running, waiting, kv_used, output_tokens, prefill_tokens at the end of, or in, each window
    """

    now_s: float
    pools: tuple[PoolCounts, ...]
    itl_counts: Ints
    window_s: float
    series: Ints

    @property
    def steps(self) -> int:
        """Iterations of all instances."""
        return sum(pool.steps for pool in self.pools)


SERIES = ("running", "waiting", "kv_used", "output_tokens", "prefill_tokens")
