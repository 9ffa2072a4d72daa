"""The step times of a deployment as one function, for schedulers and simulators of other people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenworks.engine.types import Router, StepCost
from tokenworks.errors import SpecError
from tokenworks.simulation.cluster import cluster
from tokenworks.simulation.run import site_of
from tokenworks.simulation.source import Source
from tokenworks.simulation.steps import Site
from tokenworks.specs.calibration import CalibrationLike
from tokenworks.specs.deployment import RoleName
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.given import Assume

Sequences = Sequence[tuple[int, int]]
"""The sequences of a step: tokens that the step computes, and tokens that are in the KV cache before it."""


@dataclass(frozen=True)
class Predictor:
    """Predicts the time of one step of an instance: `predictor([(extend, past), ...])` [s].

    A sequence with `extend` = 1 and `past` > 0 decodes; all others prefill. The times are those of `simulate`.

    Parameters
    ----------
    cost : step times of the instance
    ranks : dp ranks of the instance
    draft_tokens : tokens that each decoding sequence drafts in a step [token]
    spread : 80 % of measured times lie between time / spread and time x spread [-]
    """

    cost: StepCost
    ranks: int
    draft_tokens: int
    spread: float

    def __call__(self, batch: Sequences, ranks: Sequence[int] | None = None) -> float:
        """Time of a step [s].

        Parameters
        ----------
        batch : tokens to compute, and tokens in the KV cache, of each sequence
        ranks : dp rank of each sequence; None: the sequences are dealt to the ranks in turn
        """
        cost, width = self.cost, 1 + self.draft_tokens
        a, b, c, e = cost.decode_sequence_s, cost.decode_context_s, cost.prefill_context_s, cost.prefill_token_s
        hot = [0.0] * self.ranks
        tokens = square = 0
        for place, (extend, past) in enumerate(batch):
            if extend == 1 and past > 0:
                tokens += width
                own = a + b * (past + 1)
            else:
                tokens += extend
                seen = extend * past + extend * (extend + 1) // 2
                square += seen
                own = c * seen + e * extend
            hot[place % self.ranks if ranks is None else ranks[place]] += own
        return self._of_tokens(tokens) + cost.together_context_s * square + self.ranks * max(hot)

    def _of_tokens(self, tokens: int) -> float:
        """The part of a step time that depends on the number of tokens; beyond the table it goes on as a line [s]."""
        table = self.cost.by_tokens
        last = len(table) - 1
        if tokens <= last:
            return float(table[tokens])
        slope = (table[last] - table[last // 2]) / (last - last // 2)
        return float(table[last] + slope * (tokens - last))

    def interval(self, batch: Sequences, ranks: Sequence[int] | None = None) -> tuple[float, float]:
        """The interval that contains 80 % of measured times of such a step [s, s]."""
        seconds = self(batch, ranks)
        return seconds / self.spread, seconds * self.spread

    def save_npz(self, path: str | Path, *, max_context: int = 131072, max_sequences: int = 256) -> None:
        """Write the tables that Dynamo's replay reads as a profile (`engine.timing_model`: external, dynamo_profile).

        Parameters
        ----------
        path : the .npz file
        max_context : longest prompt and context in the tables [token]
        max_sequences : most decoding sequences in the tables [count]
        """
        prompts = np.unique(np.geomspace(16, max_context, 40).round().astype(np.int64))
        contexts = np.unique(np.geomspace(16, max_context, 24).round().astype(np.int64))
        held = np.unique(np.geomspace(16, max_context * max_sequences, 32).round().astype(np.int64))
        ttft_ms = np.array([1e3 * self([(int(isl), 0)]) for isl in prompts])
        itl_ms = np.empty((len(held), len(contexts)))
        for i, kv in enumerate(held.tolist()):
            for j, context in enumerate(contexts.tolist()):
                count = min(max(1, round(kv / context)), max_sequences)
                itl_ms[i, j] = 1e3 * self([(1, max(1, context - 1))] * count)
        doubles = [table.astype(np.float64) for table in (prompts, ttft_ms, held, contexts, itl_ms)]
        np.savez(  # Dynamo 1.6.1 reads tables of float64 alone
            path, prefill_isl=doubles[0], prefill_ttft_ms=doubles[1], decode_active_kv_tokens=doubles[2],
            decode_context_length=doubles[3], decode_itl=doubles[4],
        )  # fmt: skip

    def llm_d(self, *, context: int = 2048, max_prompt: int = 8192, max_sequences: int = 256) -> dict[str, str | float]:
        """The latency parameters of llm-d-inference-sim, calculator `per-token` [1].

        The simulator has straight lines where steps have none: prefill = overhead + tokens x time per token, fitted to
        prompts up to `max_prompt` with equal relative weights; and the time between tokens grows in a straight line
        from one request to `max_sequences` requests. Prefill grows with requests, too, by the same factor.

        Parameters
        ----------
        context : context of each decoding sequence [token]
        max_prompt : longest prompt of the fit [token]
        max_sequences : sequences at which the time between tokens is exact again, as it is for one [count]

        Raises
        ------
        SpecError : a number is out of range

        References
        ----------
        [1] llm-d-inference-sim, docs/latency-simulation.md.
        """
        least_of = {"context": (context, 1), "max_prompt": (max_prompt, 64), "max_sequences": (max_sequences, 2)}
        for name, (value, least) in least_of.items():
            if value < least:
                raise SpecError(f"{value} is out of range", where=name, hint=f"give {least} or more")
        prompts = np.unique(np.geomspace(16, max_prompt, 40).round().astype(np.int64))
        times = np.array([self([(int(tokens), 0)]) for tokens in prompts])
        slope, start = np.polyfit(prompts, times, 1, w=1 / times)
        if start < 0:  # no line with a negative start: the line through zero
            slope, start = float(np.mean(times / prompts)), 0.0
        alone, full = (self([(1, context)] * count) for count in (1, max_sequences))
        return {
            "latency-calculator": "per-token", "prefill-overhead": f"{1e6 * start:.0f}us",
            "prefill-time-per-token": f"{1e9 * slope:.0f}ns", "inter-token-latency": f"{1e6 * alone:.0f}us",
            "time-factor-under-load": float(f"{max(1.0, full / alone):.4g}"), "max-num-seqs": max_sequences,
        }  # fmt: skip

    def save_llm_d(self, path: str | Path, **given: int) -> None:
        """Write the parameters of `llm_d` as a file for `llm-d-inference-sim --config`.

        Parameters
        ----------
        path : the YAML file
        given : as in `llm_d`
        """
        lines = ["# Latency parameters for llm-d-inference-sim, from the step times of a deployment.", "engine: vllm"]
        lines += [f"{name}: {value}" for name, value in self.llm_d(**given).items()]
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def predictor_of(
    deployed: Deployed,
    source: Source,
    *,
    role: RoleName | None = None,
    assume: Assume = None,
    calibration: CalibrationLike | None = None,
) -> Predictor:
    """The predictor of one role of a deployment.

    Parameters
    ----------
    deployed : the deployment, with the inputs of its plan
    source : trace or workload that the step times are computed for
    role : "aggregated", "prefill" or "decode"; None: the first role
    assume, calibration : as in `tokenworks.simulate`

    Raises
    ------
    SpecError : the deployment has no such role, or a role breaks a rule
    DoesNotFit : the deployment does not fit the machine
    """
    deployment, names = deployed.deployment, [one.name for one in deployed.deployment.roles]
    name = role or names[0]
    if name not in names:
        raise SpecError(f"the deployment has no role {name}", where="role", hint=f"give {' or '.join(names)}")
    site = site_for(deployed, source, assume=assume, calibration=calibration)
    built = cluster(
        deployment, site, router=Router("least_loaded"), block_tokens=site.engine.kv_block, prefix_caching=False
    )
    pool, own = built.pools[names.index(name)], deployment.roles[names.index(name)]
    return Predictor(pool.cost, pool.ranks, own.draft_tokens, site.rates.spread_of(own.draft_tokens))


def site_for(
    deployed: Deployed, source: Source, *, assume: Assume = None, calibration: CalibrationLike | None = None
) -> Site:
    """The site of a deployment, with the mean request of a source.

    Parameters
    ----------
    deployed, source, assume, calibration : as in `predictor_of`
    """
    traffic = source.traffic(rate=1.0 if source.workload else None)  # the rate changes no length
    shared = deployed.deployment.prefix_caching and traffic.trace.hash_block_tokens > 0
    numbers = deployed.calibration if calibration is None else calibration
    return site_of(deployed, traffic.trace, numbers, assume, shared=shared)
