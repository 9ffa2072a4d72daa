"""The cost model as the engine takes it: a table of step times over tokens, and slopes for what a batch holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray, Floats
from tokenworks.costs import step
from tokenworks.costs.breakdown import Breakdown
from tokenworks.costs.rates import Rates
from tokenworks.costs.requests import MeanRequest, prefix_tokens
from tokenworks.costs.split import Split
from tokenworks.engine.types import Limits, StepCost
from tokenworks.specs.calibration import number
from tokenworks.specs.deployment import Role
from tokenworks.specs.engine import Engine
from tokenworks.specs.given import Given
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model

NODES_DENSE, NODES_RATIO = 256, 1.03
"""Token counts at which the cost model is asked: each up to the first, then growing by the second."""

SHORTER = 0.1
"""Share by which contexts are shortened to find what a token of context costs."""

COMMON = 0.01
"""Share of a step that belongs to no rank by itself, at least [-]."""


@dataclass(frozen=True, slots=True)
class Site:
    """What every role of a deployment shares.

    Parameters
    ----------
    request : the mean request that step times are made linear around: exact for such requests, near for others
    given : numbers that a user put in place of those of the catalog
    """

    model: Model
    machine: Machine
    engine: Engine
    rates: Rates
    request: MeanRequest
    given: tuple[Given, ...] = ()

    def breakdown(self, role: Role, decode: FloatArray, prefill: FloatArray, *, context: float = 1.0) -> Breakdown:
        """The step of one instance of a role for a batch of mean requests, part by part.

        Prompts come in chunks as steps with a full token budget cut them, in proportion to the prefill tokens.

        Parameters
        ----------
        decode : sequences that decode [count]; prefill : prefill tokens [token]
        context : scales what sequences and prefill tokens attend to [-]
        """
        lanes = role.parallel.dp * role.parallel.pp
        prefix = prefix_tokens(self.request, float(role.chunk_tokens), lanes)
        before = prefix / role.chunk_tokens + 0.5  # of a token: the chunk's prefix, and half of the chunk
        load = step.Batch(
            decode=decode,
            context=decode * self.request.context * context,
            prefill=prefill,
            prefill_context=prefill * self.request.seen * context,
            prefix=prefill * np.maximum(before * context - 0.5, 0.0),
        )
        return step.step(self.model, self.rates, Split.of(role), load, engine=self.engine, overlap=role.overlap)


def step_cost(role: Role, site: Site, limits: Limits) -> StepCost:
    """The times of `costs.step` as the engine takes them: a table over tokens, and slopes.

    The engine's form is t = f(m) + R max over ranks (a n + b S + c Q + e p), with d times all Q for c and e where ranks
    prefill at the same time. For requests as in `site.request`, evenly spread, it is exact at the nodes of f: on
    steps that only decode (m up to all sequences of all ranks), and on those that prefill beside all of these; a holds
    what a decoding sequence costs beyond f (head, drafts, host, windows and states), so that a step of prefill alone is
    right, too. Slopes are those at the largest batch, what overlap and host hide taken off. Between nodes f is linear.
    """
    steps = _Steps(role, site)
    width, ranks = 1 + role.draft_tokens, role.parallel.dp
    most = ranks * limits.token_budget
    full = float(ranks * limits.max_sequences) if role.name != "prefill" else 0.0
    square_s = steps.attending(0.0, float(most)) / (most * site.request.seen)
    alone = ranks > 1 and site.engine.dp_prefill == "alone"
    token_s = max(0.0, steps.own(float(most)) - square_s * site.request.seen) if alone else 0.0
    context_s = steps.attending(full, 0.0) / (full * site.request.context) if full else 0.0
    sequence_s = 0.0
    if full:
        prefill_alone = float(steps(0.0, full * width)) - (square_s * site.request.seen + token_s) * full * width
        beyond = float(steps(full, 0.0)) - context_s * full * site.request.context - prefill_alone
        sequence_s = max(0.0, beyond / full)
    nodes = _nodes(role, site, most, int(full * width))
    decode = np.minimum(nodes, full * width) / width
    prefill = nodes - decode * width
    hot = np.maximum(decode, ranks) * (full > 0)
    whole = steps(decode, prefill)
    table = whole - hot * (sequence_s + context_s * site.request.context)
    # Slopes are those of large batches: where a small one is cheaper a token than they say, nothing of it is left.
    table = np.maximum(table - (square_s * site.request.seen + token_s) * prefill, COMMON * whole)
    by_tokens = np.interp(np.arange(most + 1), nodes, table)
    if ranks > 1 and not alone:
        return StepCost(by_tokens, sequence_s, context_s, together_context_s=square_s)
    return StepCost(by_tokens, sequence_s, context_s, square_s, token_s)


@dataclass(frozen=True, slots=True)
class _Steps:
    """Step times of an instance for batches of typical requests [s]."""

    role: Role
    site: Site

    def __call__(self, decode: FloatArray, prefill: FloatArray, context: float = 1.0) -> Floats:
        """Of `decode` sequences and `prefill` tokens; `context` scales what they attend to."""
        return np.asarray(self.site.breakdown(self.role, decode, prefill, context=context).seconds)

    def attending(self, decode: float, prefill: float) -> float:
        """The part of a step's time that grows in proportion to context [s]."""
        return float(self(decode, prefill) - self(decode, prefill, 1 - SHORTER)) / SHORTER

    def own(self, prefill: float) -> float:
        """What one more prefill token costs the rank that it is on [s/token]: all but the experts, which all share."""
        whole, half = (self.site.breakdown(self.role, 0.0, tokens) for tokens in (prefill, prefill / 2))

        def more(name: str) -> float:
            return float(whole.parts[name].seconds - half.parts[name].seconds)

        share = 1.0 - more("experts") / sum(map(more, whole.parts)) if "experts" in whole.parts else 1.0
        return float(whole.seconds - half.seconds) / (prefill / 2) * share


def _nodes(role: Role, site: Site, most: int, decodes: int) -> Floats:
    """Token counts to ask for: dense, then geometric, and both sides of every kink."""
    ranks = role.parallel.dp * role.parallel.pp
    graph = int(number(site.engine.graph_tokens)) * ranks
    kinks = [k + side for k in (ranks, graph, decodes) for side in (0, 1)]
    count = int(np.log(max(most / NODES_DENSE, 1.0)) / np.log(NODES_RATIO)) + 2
    wide = np.geomspace(min(NODES_DENSE, most), most, count).round()
    nodes = np.unique(np.concatenate([np.arange(1, NODES_DENSE), wide, kinks]))
    return nodes[(nodes >= 1) & (nodes <= most)].astype(float)
