"""One step (iteration) of an engine on one instance: the time of every part, from a few sums over the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Bools, FloatArray
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
    """The batch of one step of an instance, all dp ranks together. The fields are numbers or arrays.

    Parameters
    ----------
    decode : sequences that decode [count]
    context : sum of their contexts [token]
    prefill : prefill tokens [token]
    prefill_context : sum over the prefill tokens of the context that each token sees [token^2]
    prefix : context before each prefill chunk, summed over chunks, see `requests.prefix_tokens` [token]
    """

    decode: FloatArray = 0.0
    context: FloatArray = 0.0
    prefill: FloatArray = 0.0
    prefill_context: FloatArray = 0.0
    prefix: FloatArray = 0.0

    def scaled(self, share: FloatArray) -> Batch:
        """A share of the batch.

        Parameters
        ----------
        share : factor of all sums, such as 0.5 for half of the batch [-]

        Returns
        -------
        The smaller batch.
        """
        return Batch(*(getattr(self, field.name) * share for field in dataclasses.fields(self)))


def step(
    model: Model, rates: Rates, split: Split, batch: Batch, *, engine: Engine, overlap: str | Bools = "none"
) -> Breakdown:
    """Cost of one step of an instance, by part.

    All dp ranks take equal shares of the batch, at least one sequence each. With pp > 1 the batch runs as pp
    microbatches. `seconds` is the larger of two times: one microbatch through all stages, and one round of all
    microbatches through the slowest stage (`parts.stage_wait`). So the whole batch completes one step every `seconds`.
    Each part is the sum over all layers. Where points of this software were measured, each part has the time that
    they have (`Rates.software_time`).

    Parameters
    ----------
    model : the model
    rates : achieved rates of the machine
    split : parallel widths of the instance; numbers or arrays that broadcast with `batch`
    batch : sums over the batch of the instance
    engine : serving engine, with its host times
    overlap : overlap policy, a name in `OVERLAPS`; or an array that says for each instance whether it has two-batch
        overlap, with the axes of `split`

    Returns
    -------
    Time of the step, and time, FLOP and bytes of its parts.

    Raises
    ------
    SpecError : the split speculates, but the model has no draft layers
    """
    drafts = bool(np.any(np.asarray(split.draft_tokens) > 0))
    if drafts and not model.draft:
        raise SpecError(f"{model.name} has no draft layers", hint="set draft_tokens to 0")

    slower = rates.blockwise.get(engine.name, 1.0) if kernels(model.blocks, model.kv_heads).blockwise else 1.0
    if slower != 1.0:
        names = ("kernel", "experts_start", "expert")
        rates = dataclasses.replace(rates, **{name: getattr(rates, name) * slower for name in names})

    def run(share: FloatArray) -> Parts:
        return _parts(model, rates, split, batch.scaled(share), drafts)

    policy = OVERLAPS[overlap] if isinstance(overlap, str) else some_halved(overlap)
    whole = policy(run, _host(model, split, batch, engine))
    return whole.slowed(rates.software_time(split.draft_tokens, split.tp)) if rates.software else whole


# ── overlap and host ──────────────────────────────────────────────────────────────────────────────────────────────

Run = Callable[[FloatArray], Parts]
Host = Callable[[FloatArray], FloatArray]


def no_overlap(run: Run, host: Host) -> Breakdown:
    """No overlap: t = sum of all parts + the host time that the device does not hide.

    Parameters
    ----------
    run : function from a share of the batch [-] to the cost of its parts
    host : function from the device time [s] to the host time that it does not hide [s]

    Returns
    -------
    Cost of the step.
    """
    parts = run(1.0)
    return _finish(parts, total(parts), host)


def two_batch(run: Run, host: Host) -> Breakdown:
    """Two-batch overlap: t = 2 max(compute, communication) of a half batch.

    The batch runs as two halves. One half communicates while the other half computes. Each half reads all weights and
    has all latencies, so small batches are slower than without overlap.

    Parameters
    ----------
    run : function from a share of the batch [-] to the cost of its parts
    host : function from the device time [s] to the host time that it does not hide [s]

    Returns
    -------
    Cost of the step.

    References
    ----------
    [1] DeepSeek-V3, arXiv:2412.19437, section 3.4; SGLang's two-batch overlap.
    """
    parts: Parts = {name: times(part, 2) for name, part in run(0.5).items()}
    talking = total({name: part for name, part in parts.items() if name in COMMUNICATION})
    return _finish(parts, np.maximum(talking, total(parts) - talking), host)


OVERLAPS: dict[str, Callable[[Run, Host], Breakdown]] = {"none": no_overlap, "two-batch": two_batch}


def some_halved(halved: Bools) -> Callable[[Run, Host], Breakdown]:
    """The policy of instances of which some have two-batch overlap. Each time equals that of its own policy exactly.

    Parameters
    ----------
    halved : whether an instance has two-batch overlap; broadcasts with the batch

    Returns
    -------
    A function like `no_overlap` and `two_batch`, which are used where all instances are alike.
    """
    if not np.any(halved):
        return no_overlap
    if np.all(halved):
        return two_batch

    def policy(run: Run, host: Host) -> Breakdown:
        runs = np.where(halved, 2.0, 1.0)
        parts: Parts = {name: times(part, runs) for name, part in run(1 / runs).items()}
        talking = total({name: part for name, part in parts.items() if name in COMMUNICATION})
        alone = total(parts)
        return _finish(parts, np.where(halved, np.maximum(talking, alone - talking), alone), host)

    return policy


def hidden_host(busy: FloatArray, device: FloatArray) -> FloatArray:
    """Host time that adds to a step, if the CPU prepares the next step while the device runs this one.

    Parameters
    ----------
    busy : CPU time of a step [s]
    device : device time of a step [s]

    Returns
    -------
    The part of `busy` that is longer than `device` [s].
    """
    return np.maximum(busy - device, 0.0)


def serial_host(busy: FloatArray, device: FloatArray) -> FloatArray:  # noqa: ARG001 (a policy takes both)
    """Host time that adds to a step, if the device waits for the CPU between steps.

    Parameters
    ----------
    busy : CPU time of a step [s]
    device : device time of a step, not used [s]

    Returns
    -------
    All of `busy` [s].
    """
    return busy


HOSTS: dict[str, Callable[[FloatArray, FloatArray], FloatArray]] = {"hidden": hidden_host, "serial": serial_host}


def _finish(parts: Parts, device: FloatArray, host: Host) -> Breakdown:
    """Adds the part `host` to the parts of the device."""
    added = host(device)
    return Breakdown({**parts, "host": Kernel(added, 0.0, 0.0, {HOST: added})}, device + added)


def _host(model: Model, split: Split, batch: Batch, engine: Engine) -> Host:
    """The function from device time to added host time [s].

    CPU time of a step = fixed time + time per sequence of a rank + launch time per layer, if the step is too large for
    the captured CUDA graphs. With draft tokens, the device also waits for what the engine does not overlap.
    """
    sequences = batch.decode / split.dp
    tokens = (batch.decode * (1 + split.draft_tokens) + batch.prefill) / (split.dp * split.pp)
    eager = tokens > number(engine.graph_tokens)
    busy = number(engine.host_step) + sequences * number(engine.host_sequence)
    busy = busy + eager * model.layers * number(engine.host_layer)
    waits = number(engine.host_drafts) * (np.asarray(split.draft_tokens) > 0)
    return lambda device: HOSTS[engine.host](busy, device) + waits


# ── the batch of a rank ───────────────────────────────────────────────────────────────────────────────────────────


def _parts(model: Model, rates: Rates, split: Split, batch: Batch, drafts: bool) -> Parts:
    """Cost of all parts on the device, with draft passes and pipeline waits."""
    parts = main_parts(model, rates, split, _share(batch, split, 1 + split.draft_tokens, 1))
    if drafts:
        # The draft layers run one pass per draft token. A prefill token is in one pass only: divided over all passes.
        passes = np.maximum(split.draft_tokens, 1)
        parts["draft"] = times(draft_part(model, rates, split, _share(batch, split, 1, passes)), split.draft_tokens)
    if np.any(np.asarray(split.pp) > 1):
        flying = np.where(batch.prefill > 0, split.pp, np.clip(batch.decode / split.dp, 1, split.pp))
        parts["pipeline"] = plus(parts["pipeline"], stage_wait(model.layers, split, parts, flying))
    return parts


def _share(batch: Batch, split: Split, queries: FloatArray, passes: FloatArray) -> RankBatch:
    """The batch of one rank for one microbatch: 1 / (dp pp) of the batch, at least one whole sequence."""
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
