"""The cost model in the form of the engine: a table of step times over tokens, and slopes for sequences and context."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tokenworks.arrays import FloatArray, Floats
from tokenworks.costs import step
from tokenworks.costs.breakdown import Breakdown, total
from tokenworks.costs.memory import Memory
from tokenworks.costs.rates import Rates
from tokenworks.costs.requests import MeanRequest, prefix_tokens
from tokenworks.costs.split import Split
from tokenworks.engine.types import Limits, Pool, StepCost
from tokenworks.specs.calibration import number
from tokenworks.specs.deployment import Role
from tokenworks.specs.engine import Engine
from tokenworks.specs.given import Given
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model

NODES_DENSE, NODES_RATIO = 256, 1.03
"""Token counts of the table: every count up to the first number [token], then each larger by the second factor [-]."""

SHORTER = 0.1
"""Contexts are shortened by this share to compute the cost of one token of context [-]."""

TINY = 1e-30
"""Smallest time that a share is computed of [s]."""

COMMON = 0.01
"""The part of a step time that belongs to no single rank is at least this share of the step [-]."""


@dataclass(frozen=True, slots=True)
class Site:
    """What all roles of a deployment share.

    Parameters
    ----------
    model, machine, engine : model, machine and serving engine
    rates : rates that the machine reaches with the calibration
    request : the mean request. Step times are linear around it: exact for mean requests, approximate for others
    given : numbers that a user put in place of numbers of the catalog
    pools, rooms : pools and memory of roles that were built here before; the keys hold all that they depend on
    """

    model: Model
    machine: Machine
    engine: Engine
    rates: Rates
    request: MeanRequest
    given: tuple[Given, ...] = ()
    pools: dict[object, Pool] = field(default_factory=dict, init=False, repr=False, compare=False)
    rooms: dict[Role, Memory] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[Site], tuple[object, ...]]:
        """What another process gets: the pools and rooms are built again where they are needed."""
        return Site, (self.model, self.machine, self.engine, self.rates, self.request, self.given)

    def breakdown(self, role: Role, decode: FloatArray, prefill: FloatArray, *, context: FloatArray = 1.0) -> Breakdown:
        """Cost of one step of an instance, part by part, for a batch of mean requests.

        Prompts are cut into chunks of the full token budget. The prefix of a chunk is scaled with the prefill tokens.

        Parameters
        ----------
        role : the role of the instance
        decode : decoding sequences [count]
        prefill : prefill tokens [token]
        context : factor on the context that sequences and prefill tokens attend to [-]
        """
        lanes = role.parallel.dp * role.parallel.pp
        prefix = prefix_tokens(self.request, float(role.chunk_tokens), lanes)
        before = (
            prefix / role.chunk_tokens + 0.5
        )  # per prefill token, in chunks: the prefix, and half of the chunk itself
        load = step.Batch(
            decode=decode,
            context=decode * self.request.context * context,
            prefill=prefill,
            prefill_context=prefill * self.request.seen * context,
            prefix=prefill * np.maximum(before * context - 0.5, 0.0),
        )
        return step.step(self.model, self.rates, Split.of(role), load, engine=self.engine, overlap=role.overlap)


def step_cost(role: Role, site: Site, limits: Limits) -> StepCost:
    """The step times of `costs.step` in the form of the engine:

        t = f(m) + R max over ranks (a n + b S + c Q + e p)

    with m tokens in the step, R ranks, and per rank n decoding sequences, S context tokens of these, p prefill tokens,
    and Q context tokens that the prefill tokens attend to. If ranks prefill at the same time, d x (sum of Q over all
    ranks) replaces the terms with c and e.

    For mean requests that are evenly distributed, the form is exact at the nodes of f: for steps that only decode (m
    up to all sequences of all ranks), and for steps that prefill beside all sequences. a contains the cost of a
    decoding sequence beyond f (head, drafts, host, windows, states), so that a pure prefill step is also correct.
    Slopes come from the largest batch, without the time that overlap and host hide. Between nodes f is linear.

    Parameters
    ----------
    role : the role whose steps are tabulated
    site : model, machine, engine and mean request
    limits : sequences and tokens of one rank
    """
    width, ranks = 1 + role.draft_tokens, role.parallel.dp
    most = float(ranks * limits.token_budget)
    full = float(ranks * limits.max_sequences) if role.name != "prefill" else 0.0
    nodes = _nodes(role, site, int(most), int(full * width))
    decode = np.minimum(nodes, full * width) / width
    loads = _Loads()  # one call of the cost model is much faster than many
    table = loads.add(decode, nodes - decode * width)
    prompt, shorter = loads.add(0.0, most), loads.add(0.0, most, 1 - SHORTER)
    half = loads.add(0.0, most / 2)
    decodes, shorter_decodes = loads.add(full, 0.0), loads.add(full, 0.0, 1 - SHORTER)
    as_prompt = loads.add(0.0, full * width)
    steps = loads.breakdown(role, site)
    seconds = np.asarray(steps.seconds)
    experts, parts = (np.broadcast_to(values, seconds.shape) for values in experts_of(steps))

    def attending(all_of_it: slice, less: slice) -> float:
        """The part of a step time that is proportional to context [s]; rounding must not make it negative."""
        return max(0.0, float((seconds[all_of_it] - seconds[less])[0]) / SHORTER)

    square_s = attending(prompt, shorter) / (most * site.request.seen)
    alone = ranks > 1 and site.engine.dp_prefill == "alone"
    token_s = 0.0
    if alone:  # one more prefill token for its own rank, without the experts, which all ranks share
        share = own_share(experts[prompt] - experts[half], parts[prompt] - parts[half])
        more = float((seconds[prompt] - seconds[half])[0]) / (most / 2) * float(np.asarray(share)[0])
        token_s = max(0.0, more - square_s * site.request.seen)
    context_s = sequence_s = 0.0
    if full:
        context_s = attending(decodes, shorter_decodes) / (full * site.request.context)
        prefill_alone = float(seconds[as_prompt][0]) - (square_s * site.request.seen + token_s) * full * width
        beyond = float(seconds[decodes][0]) - context_s * full * site.request.context - prefill_alone
        sequence_s = max(0.0, beyond / full)
    hot = np.maximum(decode, ranks) * (full > 0)
    whole = seconds[table]
    by_nodes = whole - hot * (sequence_s + context_s * site.request.context)
    # Slopes come from large batches. A small batch can cost less per token, and the rest must not become negative.
    prefill = nodes - decode * width
    by_nodes = np.maximum(by_nodes - (square_s * site.request.seen + token_s) * prefill, COMMON * whole)
    by_tokens = np.interp(np.arange(int(most) + 1), nodes, by_nodes)
    if ranks > 1 and not alone:
        return StepCost(by_tokens, sequence_s, context_s, together_context_s=square_s)
    return StepCost(by_tokens, sequence_s, context_s, square_s, token_s)


class _Loads:
    """Steps of one instance that are computed together: sequences, prefill tokens, and a factor on their context."""

    def __init__(self) -> None:
        self.rows: list[Floats] = []
        self.size = 0

    def add(self, decode: FloatArray, prefill: FloatArray, context: float = 1.0) -> slice:
        """Add steps; returns their places."""
        row = np.stack(np.broadcast_arrays(np.atleast_1d(decode), np.atleast_1d(prefill), context))
        self.rows.append(row)
        self.size += row.shape[1]
        return slice(self.size - row.shape[1], self.size)

    def breakdown(self, role: Role, site: Site) -> Breakdown:
        """The cost of all steps."""
        decode, prefill, context = np.concatenate(self.rows, axis=1)
        return site.breakdown(role, decode, prefill, context=context)


def experts_of(breakdown: Breakdown) -> tuple[FloatArray, FloatArray]:
    """Time of the routed experts, and time of all parts, before overlap hides a share of it [s, s]."""
    experts = breakdown.parts["experts"].seconds if "experts" in breakdown.parts else 0.0
    return experts, total(breakdown.parts)


def own_share(experts: FloatArray, parts: FloatArray) -> FloatArray:
    """Share of the time of additional tokens that a dp rank takes alone: all parts but the routed experts.

    All ranks compute the experts of all tokens. Dispatch and combine move the tokens of a rank, so they belong to it.
    Overlap and host hide the same share of each part.

    Parameters
    ----------
    experts : time that the routed experts add [s]
    parts : time that all parts add [s]

    Returns
    -------
    Share between 0 and 1 [-].
    """
    return np.clip(1.0 - experts / np.maximum(parts, TINY), 0.0, 1.0)


def _nodes(role: Role, site: Site, most: int, decodes: int) -> Floats:
    """Token counts of the table: dense, then geometric, and both sides of every kink."""
    ranks = role.parallel.dp * role.parallel.pp
    graph = int(number(site.engine.graph_tokens)) * ranks
    kinks = [k + side for k in (ranks, graph, decodes) for side in (0, 1)]
    count = int(np.log(max(most / NODES_DENSE, 1.0)) / np.log(NODES_RATIO)) + 2
    wide = np.geomspace(min(NODES_DENSE, most), most, count).round()
    nodes = np.unique(np.concatenate([np.arange(1, NODES_DENSE), wide, kinks]))
    return nodes[(nodes >= 1) & (nodes <= most)].astype(float)
