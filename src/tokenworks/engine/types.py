"""Input of a simulation: clusters and requests, as plain numbers and arrays. `outcome` has the results."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenworks.arrays import Bools, Floats
from tokenworks.engine.faults import LossName
from tokenworks.engine.policies import POLICIES
from tokenworks.engine.tiers import Tiers
from tokenworks.errors import SpecError
from tokenworks.specs.deployment import RoleName, RouterName

PRIORITIES = 8
GROUPS = 8
MOST_RETRIES = 32767


class Status(IntEnum):
    """State of a request.

    PENDING: the request has not reached a rank, and may never be sent. FAILED: its blocks could not be read from a KV
    tier (`tiers.Tiers.on_failure`), or its rank was lost (`Cluster.on_loss`).
    """

    PENDING = 0
    QUEUED = 1
    RUNNING = 2
    COMPLETED = 3
    REJECTED = 4
    CANCELLED = 5
    FAILED = 6


def _need(condition: bool | np.bool_, message: str, where: str, hint: str = "") -> None:
    if not condition:
        raise SpecError(message, where=where, hint=hint)


@dataclass(frozen=True)
class StepCost:
    """Time of one step of an instance, computed from a few sums over the sequences of the step.

        t = by_tokens[m] + d sum(Q) + R max(a n + b S + c Q + e p)                                            [s]

    The sum and the maximum run over the R dp ranks of the instance. m counts the tokens of all ranks, decode and
    prefill. Each rank has n decoding sequences with S tokens of context, and p prefill tokens; Q sums, over these
    prefill tokens, the context that each of them sees. The slowest rank sets the time, because ranks step together.
    All coefficients are times of the whole instance under even load; one rank holds 1/R of that load, hence the R.

    Parameters
    ----------
    by_tokens : time by the number of tokens in a step, from index 0 to the token budget of all ranks: GEMMs,
        experts, collectives, host [s]
    decode_sequence_s : a, time of a decoding sequence; includes layers with a sliding window, whose cost does not
        grow with the context beyond the window [s]
    decode_context_s : b, time of a token of context of a decoding sequence [s/token]
    prefill_context_s : c, time of a token of context that a prefill token sees [s/token^2]
    prefill_token_s : e, time of a prefill token in what each rank computes alone, that is all but experts [s/token]
    together_context_s : d, replaces c (and e is 0) in engines whose ranks prefill at the same time [s/token^2]
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
    """Limits of the scheduler and the KV cache of one dp rank.

    Parameters
    ----------
    max_sequences : most sequences that run at the same time
    token_budget : most tokens in one step, the chunk of chunked prefill [token]
    kv_blocks, block_tokens : blocks of the paged KV cache, and the size of a block (`Requests.block_ids`) [token]
    max_model_len : longest input + output that the model takes [token]
    max_queue : number of requests that may wait at a rank, the next one is refused; 0 = no limit
    watermark_blocks : blocks that admission leaves free while a sequence runs
    output_reserve : share of the output to come that admission keeps free at the start (SGLang: new_token_ratio); only
        policies that reserve use it (`policies.Reserve`) [-]
    draft_tokens : tokens that each sequence drafts in a step (MTP); the cache has room for them in advance [token]
    tokens_per_step : mean tokens that a sequence gains in a decode step, 1 .. 1 + draft_tokens [token]
    prefix_caching : whether requests share blocks with equal ids
    policy : scheduling policy, a name in `policies.POLICIES`
    receive_interval : decode steps between two looks for new requests (SGLang: --scheduler-recv-interval). The
        scheduler also looks after each step with prefill, and when it is idle
    ageing_s : wait that an uncached token of a prompt costs [s/token]. The waiting requests of a class are in the order
        of time + ageing_s x uncached tokens, both at the moment when the request joins the queue of the rank. A longer
        prompt is overtaken by requests that come at most ageing_s x its uncached tokens later, so no request starves.
        0 = first come, first served. SGLang has this order without an age (--schedule-policy shortest-prefill-first);
        its pull request 30806 and PrefillOnly (SOSP 2025, arXiv:2505.07203) have it with an age
    long_prefill_tokens : most tokens of one prompt in one step [token]. Shorter prompts are prefilled in the rest of
        the token budget, so a rank may have several unfinished prefills (vLLM: --long-prefill-token-threshold);
        0 = no limit. Policies that mix prefill and decode only
    """

    max_sequences: int
    token_budget: int
    kv_blocks: int
    block_tokens: int = 16
    max_model_len: int = 1 << 30
    max_queue: int = 0
    watermark_blocks: int = 0
    output_reserve: float = 0.0
    draft_tokens: int = 0
    tokens_per_step: float = 1.0
    prefix_caching: bool = False
    policy: str = "vllm"
    receive_interval: int = 1
    ageing_s: float = 0.0
    long_prefill_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("max_sequences", "token_budget", "kv_blocks", "block_tokens", "max_model_len", "receive_interval"):
            _need(getattr(self, name) > 0, f"{getattr(self, name)} must be above zero", f"Limits.{name}")
        for name in ("max_queue", "watermark_blocks", "draft_tokens", "long_prefill_tokens"):
            _need(getattr(self, name) >= 0, f"{getattr(self, name)} must not be negative", f"Limits.{name}")
        _need(0 <= self.output_reserve <= 1, f"{self.output_reserve} is not a share", "Limits.output_reserve")
        known = " or ".join(POLICIES)
        _need(self.policy in POLICIES, f"unknown policy {self.policy!r}", "Limits.policy", known)
        ok = math.isfinite(self.ageing_s) and self.ageing_s >= 0
        _need(ok, f"{self.ageing_s} must be finite and not negative", "Limits.ageing_s")
        _need(POLICIES[self.policy].mixes or not self.long_prefill_tokens,
              f"{self.policy} continues one prompt at a time", "Limits.long_prefill_tokens",
              "want 0, or a policy whose steps mix prefill and decode")  # fmt: skip
        gain, top = self.tokens_per_step, 1 + self.draft_tokens
        _need(1 <= gain <= top, f"{gain} must lie in 1 .. 1 + draft_tokens = {top}", "Limits.tokens_per_step")
        width = self.max_sequences * top
        _need(self.token_budget >= width, f"{self.token_budget} cannot decode all sequences at once",
              "Limits.token_budget", f"want at least max_sequences x (1 + draft_tokens) = {width}")  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """Equal instances with one role.

    Parameters
    ----------
    cost, limits : time of a step of an instance; limits of each rank
    instances : number of instances
    ranks : dp ranks of an instance; they step together, and each has its own queue and KV cache
    role : aggregated, prefill or decode
    stages : pipeline stages of an instance. The client sees the tokens of a request `lag_s` after the step ends
    variants : other costs of a step, which an instance takes after an event "cost" (`faults`)
    """

    cost: StepCost
    limits: Limits
    instances: int = 1
    ranks: int = 1
    role: RoleName = "aggregated"
    stages: int = 1
    variants: tuple[StepCost, ...] = ()

    def __post_init__(self) -> None:
        _need(self.role in get_args(RoleName), f"unknown role {self.role!r}", "Pool.role")
        for name in ("instances", "ranks", "stages"):
            _need(getattr(self, name) > 0, f"{getattr(self, name)} must be above zero", f"Pool.{name}")
        budget = self.ranks * self.limits.token_budget
        for cost in (self.cost, *self.variants):
            last = len(cost.by_tokens) - 1
            _need(last >= budget, f"ends at {last} tokens; a step may hold {budget}", "StepCost.by_tokens")
        if self.role == "decode":
            _need(not self.limits.prefix_caching, "KV travels whole to a decode role", "Limits.prefix_caching")

    def cost_of(self, variant: int) -> StepCost:
        """Cost of a step with this number: 0 is `cost`, others are `variants`."""
        return self.variants[variant - 1] if variant else self.cost

    def lag_s(self, step_tokens: int, tokens: int, square: int, variant: int = 0) -> float:
        """Time from the end of the step to the first token at the client, for a request whose prompt is complete [s].

        The step time assumes that all tokens are spread evenly over the stages' microbatches. But the last chunk of
        one prompt fills only k = ceil(tokens / (budget / stages)) microbatches, and they pass the stages one after
        the other. The last microbatch starts k - 1 stages late and passes all stages in F = f(stages x tokens), at
        most f(budget), with f = `by_tokens`. The step of m tokens has counted f(m). The chunk's own cost c Q + e p was
        counted for one stage; stages - 1 are added:

            lag = max(0, F (1 + (k - 1) / stages) - f(m)) + ranks (c Q + e p) (stages - 1) / k

        Parameters
        ----------
        step_tokens : m, tokens of the whole step [token]
        tokens : p, tokens of the last chunk of the prompt [token]
        square : Q, sum of the contexts that these tokens see [token^2]
        variant : number of the cost of that step (`cost_of`)
        """
        if self.stages == 1:
            return 0.0
        cost, budget = self.cost_of(variant), self.limits.token_budget
        parts = -(-tokens * self.stages // budget)
        whole = float(cost.by_tokens[min(self.stages * tokens, budget)])
        own = self.ranks * (cost.prefill_context_s * square + cost.prefill_token_s * tokens)
        late = whole * (1.0 + (parts - 1) / self.stages) - float(cost.by_tokens[step_tokens])
        return max(0.0, late) + own * (self.stages - 1) / parts


@dataclass(frozen=True)
class Transfer:
    """Time of a KV transfer from prefill to decode: a flow over the links of both instances, one flow at a time.

    Parameters
    ----------
    latency_s : time before the first byte [s]
    seconds_per_token : time for the KV of a token, over the slower of both links [s/token]
    overlap : share of this time that is hidden behind the prefill (layer by layer), 0 .. 1
    """

    latency_s: float = 0.0
    seconds_per_token: float = 0.0
    overlap: float = 0.0

    def __post_init__(self) -> None:
        ok = all(math.isfinite(value) and value >= 0 for value in (self.latency_s, self.seconds_per_token))
        _need(ok, "times must be finite and not negative", "Transfer")
        _need(0 <= self.overlap <= 1, f"{self.overlap} is not a share", "Transfer.overlap")


@dataclass(frozen=True)
class Router:
    """The rule that chooses a rank for a request. It sees queues and cache events, never output lengths.

    The load of a rank is its number of requests in flight. The rules are:
    round_robin : the ranks in turn
    least_loaded : the rank with the lowest load
    power_of_two : the less loaded of two ranks that are drawn at random
    prefix_aware : the rank with the fewest tokens to prefill: prompts of requests that have no first token yet, plus
        this prompt without the prefix that the rank has cached, plus `load_tokens` x load. Ranks with load above
        (1 + imbalance) x lowest load + slack are left out. Among equal ranks the one that was chosen longest ago

    With `cold_ranks`, prefix_aware first chooses between two groups of ranks, and then a rank of the group (LAPS,
    MLSys 2026, arXiv:2601.11589: prefill instances for long prompts). A request goes to the cold ranks if more than
    `cold_tokens` of its prompt are uncached on each of the other ranks. So a turn whose prefix only a cold rank has
    cached goes there, too. The lowest load is that of the group.

    Parameters
    ----------
    name : one of these rules
    imbalance, slack : bound of the load under prefix_aware, as a share and as requests
    load_tokens : tokens that a request in flight counts for under prefix_aware [token]
    event_delay_s : delay of cache events on their way to the router [s]
    seed : of the random draws of power_of_two
    cold_ranks : ranks for cold prompts under prefix_aware, whole instances first, the last ones; 0 = none [count]
    cold_tokens : a prompt with more uncached tokens is cold [token]
    """

    name: RouterName = "round_robin"
    imbalance: float = 0.5
    slack: int = 4
    load_tokens: int = 1000
    event_delay_s: float = 0.0
    seed: int = 0
    cold_ranks: int = 0
    cold_tokens: int = 0

    def __post_init__(self) -> None:
        _need(self.name in get_args(RouterName), f"unknown router {self.name!r}", "Router.name",
              f"one of {', '.join(get_args(RouterName))}")  # fmt: skip
        ok = min(self.imbalance, self.slack, self.load_tokens, self.event_delay_s) >= 0
        _need(ok, "imbalance, slack, load_tokens and event_delay_s must not be negative", "Router")
        for name in ("cold_ranks", "cold_tokens"):
            _need(getattr(self, name) >= 0, f"{getattr(self, name)} must not be negative", f"Router.{name}")
        _need(not self.cold_ranks or self.name == "prefix_aware", f"{self.name} does not know what ranks have cached",
              "Router.cold_ranks", "want prefix_aware")  # fmt: skip


@dataclass(frozen=True)
class Cluster:
    """A deployment as the engine sees it, and the client's limit.

    Parameters
    ----------
    pools : one aggregated pool, or a prefill pool and a decode pool
    router : chooses the rank of the first pool; in the decode pool the least loaded rank takes a request
    transfer : time of a KV transfer from prefill to decode
    concurrency : most requests in flight, from the time when the client sends them to their end, `request_s` included;
        the client sends the next request when a slot becomes free (`vllm bench serve --max-concurrency`); 0 = no limit
    window_s : width of a window of the time series [s]; 0 = no time series
    request_s : overhead of client, HTTP and tokeniser, from sending a request to its arrival at a rank [s]
    accept_s : time of the front end (HTTP server, tokeniser) for one request. It takes one request after the other, so
        requests that come together reach the ranks with this distance [s]
    tiers : KV tiers below HBM of the first pool
    on_loss : what happens to the requests of a lost rank: "fail", "restart" or "migrate" (`faults`, rule 6)
    retries : most times that one request is sent again after a loss
    """

    pools: tuple[Pool, ...]
    router: Router = field(default_factory=Router)
    transfer: Transfer = field(default_factory=Transfer)
    concurrency: int = 0
    window_s: float = 0.0
    request_s: float = 0.0
    accept_s: float = 0.0
    tiers: Tiers = field(default_factory=Tiers)
    on_loss: LossName = "fail"
    retries: int = 3

    def __post_init__(self) -> None:
        roles = tuple(pool.role for pool in self.pools)
        ok = roles in (("aggregated",), ("prefill", "decode"))
        _need(ok, f"roles {roles}", "Cluster.pools", 'want ("aggregated",) or ("prefill", "decode")')
        blocks = {pool.limits.block_tokens for pool in self.pools if pool.limits.prefix_caching}
        _need(len(blocks) <= 1, "one block size for all prefix caches", "Cluster.pools")
        front = self.pools[0]
        _need(self.router.cold_ranks < front.instances * front.ranks,
              f"{self.router.cold_ranks} of {front.instances * front.ranks} ranks", "Router.cold_ranks",
              "leave at least one rank for warm requests")  # fmt: skip
        ok = min(self.concurrency, self.window_s, self.request_s, self.accept_s) >= 0
        _need(ok, "concurrency, window_s, request_s and accept_s must not be negative", "Cluster")
        ok = self.on_loss in get_args(LossName)
        _need(ok, f"unknown policy {self.on_loss!r}", "Cluster.on_loss", " or ".join(get_args(LossName)))
        _need(self.retries >= 0, f"{self.retries} must not be negative", "Cluster.retries")
        _need(self.retries <= MOST_RETRIES, f"{self.retries} is too many", "Cluster.retries",
              f"want at most {MOST_RETRIES}")  # fmt: skip
        self._check_tiers()

    def _check_tiers(self) -> None:
        front = self.pools[0]
        ok = not self.tiers.stores or front.limits.prefix_caching
        _need(ok, "the first pool has no prefix cache, so nothing could be taken from a KV tier", "Cluster.tiers",
              "set Limits.prefix_caching, or give no tiers")  # fmt: skip
        ranks = front.instances * front.ranks
        for store in self.tiers.stores:
            sizes = {"stores": len(store.stores)}
            for kind in ("read", "write"):
                sizes |= {f"{kind}[{i}].links": len(lane.links) for i, lane in enumerate(getattr(store, kind))}
            for name, count in sizes.items():
                _need(count == ranks, f"{name} of {store.name!r} has {count} numbers for {ranks} ranks",
                      "Cluster.tiers", "give one number for each rank of the first pool")  # fmt: skip

    def is_cold(self) -> Bools:
        """Whether each rank of the first pool is a cold one, by rank number (`Router.cold_ranks`)."""
        front = self.pools[0]
        number = np.arange(front.instances * front.ranks)
        place = number % front.instances * front.ranks + number // front.instances
        return place >= len(number) - self.router.cold_ranks

    def never_fits(self, input_tokens: NDArray[np.int32], output_tokens: NDArray[np.int32]) -> Bools:
        """Whether each request can never run, as it is longer than the model's limit or than the whole KV cache."""
        bad = np.zeros(len(input_tokens), dtype=np.bool_)
        for pool in self.pools:
            limits = pool.limits
            total = input_tokens.astype(np.int64) + output_tokens
            ahead = limits.draft_tokens + math.ceil(limits.tokens_per_step) - 2
            held = input_tokens + limits.draft_tokens if pool.role == "prefill" else total + ahead
            bad |= (total > limits.max_model_len) | (held > limits.kv_blocks * limits.block_tokens)
        return bad


def _column(values: ArrayLike | None, count: int, dtype: Any, default: int) -> NDArray[Any]:
    if values is None:
        return np.broadcast_to(np.array(default, dtype=dtype), (count,))
    return np.ascontiguousarray(values, dtype=dtype)


@dataclass(frozen=True)
class Requests:
    """Requests that the client sends: arrays with one value for each request, checked by `Requests.of`.

    Parameters
    ----------
    arrival_s : time at which the client wants to send the request, in rising order; for a request with a parent
        (`after` >= 0) the time from the end of the parent [s]
    input_tokens, output_tokens : lengths, at least 1 [token]
    priority : 0 (served first) .. 7
    group : 0 .. 7; gaps between tokens are counted by group, and nothing else depends on it
    after : index of the parent, an earlier request that must complete first; -1 = none
    block_ids : chained hashes of full blocks, of all requests one after the other; ids beyond the input name blocks
        that the output fills, which a later turn may share
    block_offsets : the ids of request i are block_ids[block_offsets[i] : block_offsets[i + 1]]
    earlier : number of requests submitted before, where `after` counts them too; 0 = `after` counts these requests only
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
        cls, arrival_s: ArrayLike, input_tokens: ArrayLike, output_tokens: ArrayLike, *,
        priority: ArrayLike | None = None, group: ArrayLike | None = None, after: ArrayLike | None = None,
        block_ids: ArrayLike | None = None, block_offsets: ArrayLike | None = None, earlier: int = 0,
    ) -> Requests:  # fmt: skip
        """Requests from any array-likes, checked; a `SpecError` names the column that is wrong."""
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
        ok = bool((np.diff(self.arrival_s[self.after < 0]) >= 0).all())
        _need(ok, "not sorted", "Requests.arrival_s", "sort requests by arrival")
        ok = bool(((self.after >= -1) & (self.after < self.earlier + np.arange(count))).all())
        _need(ok, "a request may only follow an earlier one", "Requests.after")
        for name, end in (("priority", PRIORITIES), ("group", GROUPS)):
            column = getattr(self, name)
            _need(bool(((column >= 0) & (column < end)).all()), f"want 0 .. {end - 1}", f"Requests.{name}")
        offsets = self.block_offsets
        ok = len(offsets) == count + 1 and bool((np.diff(offsets) >= 0).all()) and offsets[0] == 0
        _need(ok and offsets[-1] == len(self.block_ids), "do not cover block_ids", "Requests.block_offsets")
