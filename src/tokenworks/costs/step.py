"""One iteration of an engine on one instance: every part's time from a few sums over the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.costs.breakdown import HOST, Breakdown, Kernel, Parts, plus, times, total
from tokenworks.costs.kernels import kernels
from tokenworks.costs.parts import RankBatch, draft_part, main_parts, stage_wait
from tokenworks.costs.rates import Rates
from tokenworks.costs.split import Split
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import number
from tokenworks.specs.engine import Engine
from tokenworks.specs.model import Model

COMMUNICATION = ("all-reduce", "dispatch", "combine")


@dataclass(frozen=True, slots=True)
class Batch:
    """The batch of one iteration, per instance, over all dp ranks; numbers or arrays.

    decode : sequences that decode; context : sum of their contexts [token]
    prefill : prefill tokens; prefill_context : sum over them of the context that each one sees [token^2]
    prefix : context before each chunk of a prompt, summed over chunks, see `requests.prefix_tokens` [token]
    """

    decode: FloatArray = 0.0
    context: FloatArray = 0.0
    prefill: FloatArray = 0.0
    prefill_context: FloatArray = 0.0
    prefix: FloatArray = 0.0

    def scaled(self, share: float) -> Batch:
        """A part of the batch."""
        return Batch(*(getattr(self, field.name) * share for field in dataclasses.fields(self)))


def step(model: Model, rates: Rates, split: Split, batch: Batch, *, engine: Engine, overlap: str = "none") -> Breakdown:
    """Time of one pass of the instance's batch [s], and where it goes.

    Every dp rank takes an equal share, but not less than one sequence. With pp > 1 the batch runs as pp microbatches;
    `seconds` is one microbatch through all stages, or a round of all of them through the slowest (`parts.stage_wait`)
    if that is longer, so that the whole batch completes a step every `seconds`. Parts are sums over all layers.

    Parameters
    ----------
    split, batch : numbers or arrays that broadcast together
    overlap : a name in `OVERLAPS`

    Raises
    ------
    SpecError : the split speculates, and the model brings no draft layers
    """
    drafts = bool(np.any(np.asarray(split.draft_tokens) > 0))
    if drafts and not model.draft:
        raise SpecError(f"{model.name} has no draft layers", hint="set draft_tokens to 0")

    slower = rates.blockwise.get(engine.name, 1.0) if kernels(model.blocks, model.kv_heads).blockwise else 1.0
    if slower != 1.0:
        names = ("kernel", "experts_start", "expert")
        rates = dataclasses.replace(rates, **{name: getattr(rates, name) * slower for name in names})

    def run(share: float) -> Parts:
        return _parts(model, rates, split, batch.scaled(share), drafts)

    return OVERLAPS[overlap](run, _host(model, split, batch, engine))


# ── overlap and host ──────────────────────────────────────────────────────────────────────────────────────────────

Run = Callable[[float], Parts]
Host = Callable[[FloatArray], FloatArray]


def no_overlap(run: Run, host: Host) -> Breakdown:
    """One part after the other: t = sum of the parts, and the host where it shows."""
    parts = run(1.0)
    return _finish(parts, total(parts), host)


def two_batch(run: Run, host: Host) -> Breakdown:
    """Two half batches; one communicates while the other computes: t = 2 max(compute, communication) of a half.

    Each half reads all weights and pays every latency, so it does not pay for small batches.

    References
    ----------
    [1] DeepSeek-V3, arXiv:2412.19437, section 3.4; SGLang's two-batch overlap.
    """
    parts: Parts = {name: times(part, 2) for name, part in run(0.5).items()}
    talking = total({name: part for name, part in parts.items() if name in COMMUNICATION})
    return _finish(parts, np.maximum(talking, total(parts) - talking), host)


OVERLAPS: dict[str, Callable[[Run, Host], Breakdown]] = {"none": no_overlap, "two-batch": two_batch}


def hidden_host(busy: FloatArray, device: FloatArray) -> FloatArray:
    """The CPU prepares the next step while the device runs this one; what is longer shows [s]."""
    return np.maximum(busy - device, 0.0)


def serial_host(busy: FloatArray, device: FloatArray) -> FloatArray:  # noqa: ARG001 (a policy takes both)
    """The device waits for the CPU between steps [s]."""
    return busy


HOSTS: dict[str, Callable[[FloatArray, FloatArray], FloatArray]] = {"hidden": hidden_host, "serial": serial_host}


def _finish(parts: Parts, device: FloatArray, host: Host) -> Breakdown:
    shown = host(device)
    return Breakdown({**parts, "host": Kernel(shown, 0.0, 0.0, {HOST: shown})}, device + shown)


def _host(model: Model, split: Split, batch: Batch, engine: Engine) -> Host:
    """CPU time of a step: a base, the sequences of a rank, and launches where the step is no captured graph [s]."""
    sequences = batch.decode / split.dp
    tokens = (batch.decode * (1 + split.draft_tokens) + batch.prefill) / (split.dp * split.pp)
    eager = tokens > number(engine.graph_tokens)
    busy = number(engine.host_step) + sequences * number(engine.host_sequence)
    busy = busy + eager * model.layers * number(engine.host_layer)
    return lambda device: HOSTS[engine.host](busy, device)


# ── the batch of a rank ───────────────────────────────────────────────────────────────────────────────────────────


def _parts(model: Model, rates: Rates, split: Split, batch: Batch, drafts: bool) -> Parts:
    parts = main_parts(model, rates, split, _share(batch, split, 1 + split.draft_tokens, 1))
    if drafts:
        # As many passes of the draft layers as there are draft tokens; a prefill token passes once: spread over them.
        passes = np.maximum(split.draft_tokens, 1)
        parts["draft"] = times(draft_part(model, rates, split, _share(batch, split, 1, passes)), split.draft_tokens)
    if np.any(np.asarray(split.pp) > 1):
        flying = np.where(batch.prefill > 0, split.pp, np.clip(batch.decode / split.dp, 1, split.pp))
        parts["pipeline"] = plus(parts["pipeline"], stage_wait(model.layers, split, parts, flying))
    return parts


def _share(batch: Batch, split: Split, queries: FloatArray, passes: FloatArray) -> RankBatch:
    """The share of a rank: 1 / (dp pp), but whole sequences."""
    ranks = split.dp * split.pp
    alone = 1 / np.maximum(batch.decode, 1.0)
    share = np.maximum(1 / ranks, alone)
    return RankBatch(
        sequences=batch.decode * share,
        context=batch.context * share,
        queries=queries,
        prefill=batch.prefill / (ranks * passes),
        prefill_context=batch.prefill_context / (ranks * passes),
        prefix=batch.prefix / (ranks * passes),
        routed=batch.decode * np.maximum(1 / split.pp, alone) * queries + batch.prefill / (split.pp * passes),
    )
