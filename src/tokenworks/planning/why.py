"""Why a deployment is not in the plan: every rule that it breaks, or what it would do and where it would stand."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Container
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import ValidationError
from typing_extensions import TypedDict

from tokenworks.arrays import Floats, Ints
from tokenworks.errors import SpecError
from tokenworks.legal.points import Points, Setting
from tokenworks.legal.rules import Broken, explain
from tokenworks.legal.splits import candidates as legal_splits
from tokenworks.planning import aggregated
from tokenworks.planning.cells import SearchCounts, Shortlist
from tokenworks.planning.costing import Costing
from tokenworks.planning.decide import ERROR, Bench, Say, decide
from tokenworks.planning.grid import batch_of, hold, room, slots
from tokenworks.planning.ranking import Candidate, candidates
from tokenworks.planning.result import PlanInputs, Ranked, RankedPlain, plan_inputs, row_plain
from tokenworks.planning.search import SearchResult, search
from tokenworks.planning.space import CHUNKS, Ladders
from tokenworks.specs.deployment import Parallel, Role
from tokenworks.specs.result import FormOf, Plain, envelope

WHERE = "--why"
ALL = 1 << 30
"""Families to keep: with this many nothing is ruled out for being beaten by those before it."""

PLACES = 10
"""Deployments of a plan that a simulated split is compared with; behind the last one its place is not known [count]."""

WIDTHS = tuple(Parallel.model_fields)
SETTINGS = ("max_sequences", "chunk_tokens", "kv_dtype", "redundant_experts", "draft_tokens", "overlap")


class WhyBody(TypedDict):
    """The plain form of `plan --why`."""

    inputs: PlanInputs
    role: Annotated[Plain, FormOf(Role)]
    legal: bool
    broken: list[Annotated[Plain, FormOf(Broken)]]
    place: int | None
    prediction: RankedPlain | None


@dataclass(frozen=True, slots=True)
class Why:
    """The answer: rules that the role breaks; if there are none, what it does, and its place in the plan."""

    costing: Costing
    role: Role
    broken: tuple[Broken, ...]
    prediction: Ranked | None = None
    place: int | None = None

    def plain(self) -> Plain:
        """The whole answer as plain data."""
        body: WhyBody = {
            "inputs": plan_inputs(self.costing.setting, self.costing.slo, self.costing.calibration),
            "role": self.role.model_dump(mode="json"),
            "legal": not self.broken,
            "broken": [dataclasses.asdict(item) for item in self.broken],
            "place": self.place,
            "prediction": row_plain(self.prediction) if self.prediction else None,
        }
        return envelope("plan-why", body)


def read_role(text: str, setting: Setting) -> Role:
    """A role from `tp=3,dp=2,ep=6`: fields of `Parallel` and `Role`; what is left out is the smallest that can run.

    `expert_tp` follows from the other widths, `chunk_tokens` is the smallest of the ladder that holds the batch.
    """
    given: dict[str, Any] = {}
    for term in (part.strip() for part in text.split(",") if part.strip()):
        name, equals, value = term.partition("=")
        if not equals or name not in (*WIDTHS, *SETTINGS):
            near = difflib.get_close_matches(name, [*WIDTHS, *SETTINGS], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}=?" if near else f"known: {', '.join((*WIDTHS, *SETTINGS))}"
            raise SpecError(f"cannot read {term!r}", where=WHERE, hint=hint)
        if name in given:
            raise SpecError(f"{name} is given twice", where=WHERE, hint="keep one")
        given[name] = value
    if not given:
        raise SpecError("nothing is given", where=WHERE, hint='write widths, as in "tp=8,dp=5,ep=40"')
    try:
        parallel = Parallel.model_validate({name: given[name] for name in WIDTHS if name in given})
        if setting.experts and "expert_tp" not in given and parallel.tp * parallel.dp % parallel.ep == 0:
            parallel = parallel.model_copy(update={"expert_tp": parallel.tp * parallel.dp // parallel.ep})
        settings = {name: given[name] for name in SETTINGS if name in given}
        least = {"parallel": parallel, "memory_fraction": setting.memory_fraction, "max_sequences": parallel.dp}
        role = Role.model_validate(least | settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise SpecError(f"{first['loc'][-1]}={first['input']}: {first['msg'].lower()}", where=WHERE) from None
    if "chunk_tokens" in given:
        return role
    lanes = parallel.dp * parallel.pp
    need = role.max_sequences * (1 + role.draft_tokens) / lanes
    per_lane = next((chunk for chunk in CHUNKS if chunk >= need), CHUNKS[-1])
    return role.model_copy(update={"chunk_tokens": per_lane * lanes})


def why(costing: Costing, text: str, *, simulate: bool = True, say: Say | None = None) -> Why:
    """Judge a role: the rules that it breaks; or if it is legal what it does, and its place among all deployments.

    A batch and a token budget that the text does not give are chosen as in a plan.

    Parameters
    ----------
    text : widths and settings of one instance, such as "tp=3,dp=2,ep=6"
    simulate : False compares estimates of the closed form
    say : told in words what happens next

    Raises
    ------
    SpecError : not readable; or legal, but without a steady state at that batch and budget, and why
    """
    role = read_role(text, costing.setting)
    if broken := explain(role, costing.setting):
        return Why(costing, role, tuple(broken))
    rows = _estimates(costing, role, {term.partition("=")[0].strip() for term in text.split(",")})
    if not simulate:
        row, shortlist = rows[0].row, search(costing, keep=ALL, progress=say).shortlist
        others = shortlist.best[shortlist.leaders][["effective", "output"]].tolist()
    else:
        bench, everything = Bench(costing), search(costing, PLACES, margin=ERROR, progress=say)
        decided, _ = decide(bench, candidates(costing, everything), PLACES, say=say)
        ((row,), _) = decide(bench, rows, 1, say=say)
        others = [(other.effective_tok_s_per_device, other.output_tok_s_per_device) for other in decided]
    own = row.effective_tok_s_per_device, row.output_tok_s_per_device
    return Why(costing, role, (), row, 1 + sum(other > own for other in others))


def _estimates(costing: Costing, role: Role, given: Container[str]) -> tuple[Candidate, ...]:
    """Estimates of a role: at its batch and its token budget where these are given, else at the best ones.

    Raises
    ------
    SpecError : no steady state
    """
    legal = legal_splits(costing.setting, Points.of(role))
    shortlist = Shortlist(costing.slo, keep=1)
    lanes = role.parallel.dp * role.parallel.pp
    ladders = Ladders.default()
    if "chunk_tokens" in given:
        ladders = Ladders(np.array([role.chunk_tokens / lanes]), ladders.sequences)
    chunk = lanes * ladders.chunks.reshape(1, 1, -1)
    running = role.max_sequences if "max_sequences" in given else lanes + 1
    batch = _batch(costing, legal.points, running, chunk)
    if "max_sequences" in given:
        shortlist.offer(aggregated.at_batch(costing, legal, batch, chunk))
    else:
        aggregated.search(costing, legal, ladders, shortlist)
    if not len(shortlist.best):
        raise SpecError(
            f"cannot keep up with prefill at {'this' if 'max_sequences' in given else 'any'} batch",
            where=WHERE, hint="give it a larger chunk_tokens",
        )  # fmt: skip
    rows = tuple(candidates(costing, SearchResult(shortlist, legal, 0, SearchCounts(0, 0, {}))))
    if "max_sequences" not in given:
        return rows
    return tuple(_with_sequences(candidate, role.max_sequences) for candidate in rows)


def _with_sequences(candidate: Candidate, sequences: int) -> Candidate:
    """Of all batches that have the same mean, the batch that was asked for."""
    row = candidate.row
    (role,) = row.deployment.roles
    asked = role.model_copy(update={"max_sequences": sequences})
    deployment = row.deployment.model_copy(update={"roles": (asked,)})
    return Candidate(candidate.family, dataclasses.replace(row, deployment=deployment))


def _batch(costing: Costing, points: Points, running: int, chunk: Floats | Ints) -> Floats:
    """The mean batch of one instance that runs so many sequences; an error that says why where it cannot."""
    lanes, draft = int(points.lanes[0]), int(points.draft[0])
    beside = f"in each of {lanes} lanes (dp x pp)" if lanes > 1 else "beside those that decode"
    if running <= lanes:
        raise SpecError(
            f"max_sequences={running}, and one sequence is prefilled {beside}", where=WHERE,
            hint=f"give it {lanes + 1} or more, so that one can decode",
        )  # fmt: skip
    if running * (1 + draft) > chunk.max():
        raise SpecError(
            f"chunk_tokens={chunk.max():.0f} for {running} sequences of {1 + draft} tokens a step, one of them "
            f"prefilled {beside}", where=WHERE, hint=f"give it {running * (1 + draft)} or more",
        )  # fmt: skip
    batch = batch_of(costing, points.columns(2), np.full((1, 1, 1), float(running)))
    wide = points.columns(2)
    if not room(costing, wide, batch, chunk)[0].any():
        held = hold(costing, wide, batch, chunk)
        kept = np.where(room(costing, wide, held, chunk)[0], slots(costing, wide, held), 0).max()
        raise SpecError(
            f"the KV cache does not hold {running} sequences, one of them prefilled {beside}", where=WHERE,
            hint=f"give it max_sequences of at most {kept:.0f}" if kept else "take more devices a rank, or fp8",
        )  # fmt: skip
    return batch
