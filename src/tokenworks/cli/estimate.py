"""`tokenworks estimate`: where the time of one prefill step and one decode step of a deployment goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tokenworks.cli.output import Output, console, emit, table
from tokenworks.costs.breakdown import OUT, Breakdown
from tokenworks.costs.kernels import dequantised
from tokenworks.costs.memory import Memory, memory
from tokenworks.costs.rates import Rates, rates
from tokenworks.costs.roofline import compute_dtype
from tokenworks.costs.split import Split
from tokenworks.costs.step import Load, prefix_tokens, step
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.plan.points import Setting
from tokenworks.plan.rows import ROOFS
from tokenworks.plan.rules import MEMORY, explain
from tokenworks.plan.why import read_role
from tokenworks.specs.calibration import DEFAULT, Calibration, load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.deployment import EngineName, Role
from tokenworks.specs.deployment_file import load_assumed, load_calibration_of, load_workload_of, pick_deployment
from tokenworks.specs.engine import load_engine
from tokenworks.specs.hf import load_model
from tokenworks.specs.load import is_path, validate
from tokenworks.specs.machine import Assumption
from tokenworks.specs.workload import Workload

KINDS: dict[str, tuple[Literal["prefill", "decode"], ...]] = {
    "aggregated": ("prefill", "decode"),
    "prefill": ("prefill",),
    "decode": ("decode",),
}
TAKEN = ("weights", "activations", "buffers", "reserve")  # of device memory, before the KV cache
LEFT_OUT = 1e-12  # parts that take no time are not printed [s]
ATTENTION = ("attention_prefill", "attention_decode", "attention_hbm", "attention_start")
# The calibrated factors behind each part; every other part is GEMMs. Beyond a domain, `_out` stands for `_up`.
FACTORS: dict[str, tuple[str, ...]] = {
    "attention": ATTENTION,
    "linear attention": ATTENTION,
    "norms": ("hbm", "kernel"),
    "embedding": ("hbm", "kernel"),
    "all-reduce": ("scale_up", "collective_start"),
    "pipeline": ("scale_up", "collective_start"),
    "dispatch": ("dispatch_up", "dispatch_start"),
    "combine": ("dispatch_up", "dispatch_start"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one role, and what it was asked to do."""

    role: Role
    kind: str
    load: Load
    cost: Breakdown


@dataclass(frozen=True, slots=True)
class Estimate:
    """All steps of a deployment, with what they rest on."""

    setting: Setting
    calibration: Calibration
    deployment: str
    rates: Rates
    memory: dict[str, Memory]
    steps: tuple[Step, ...]

    @property
    def assumed(self) -> list[Assumption]:
        """What is assumed, of what this model and these roles use."""
        unused = set() if self.setting.experts else {"calibration.skew"}
        if not any(made.role.draft_tokens for made in self.steps):
            unused.add("calibration.acceptance")
        return [item for item in self.rates.assumed if item.path not in unused]


def estimate(
    model: str,
    *,
    on: str | None = None,
    deploy: str | None = None,
    pick: int = 1,
    isl: float | None = None,
    osl: float | None = None,
    batch: int | None = None,
    chunk: int | None = None,
    engine: EngineName | None = None,
    assume: Path | None = None,
    calibration: str | None = None,
    output: Output = "table",
) -> None:
    """Break down one prefill and one decode step of a deployment.

    Parameters
    ----------
    model
        A model with --on and --deploy; or a file of deployments, as `plan -o yaml` writes it.
    on
        Machine, such as scalex40, 5xhgx-h100, 4xscalex40@xdr or my-box.yaml.
    deploy
        Widths and settings of one instance, such as tp=8,dp=5,ep=40,redundant_experts=24,max_sequences=512.
    pick
        Which deployment of the file.
    isl
        Input tokens of a request; those of the file's workload, or 4,000.
    osl
        Output tokens of a request; those of the file's workload, or 1,000.
    batch
        Sequences that decode in one instance; its max_sequences if not given.
    chunk
        Prefill tokens of one step of one instance; its chunk_tokens if not given.
    engine
        Serving engine whose overheads are assumed; vllm, or the file's.
    assume
        YAML file of numbers to use instead, `path: value` a line.
    calibration
        Calibration of the catalog, or a YAML file such as `calibrate` writes; serving, or the file's own.
    output
        table, json or yaml.
    """
    if is_path(model) and model.endswith((".yaml", ".yml")):
        if deploy is not None:
            raise SpecError(f"{model} holds deployments already", where="--deploy", hint="leave one of the two out")
        found = pick_deployment(model, pick)
        workload = _workload(load_workload_of(model), isl, osl)
        assumed = assume or load_assumed(model)
        setting = _setting(found.model, found.system if on is None else on, engine or found.engine, assumed, workload)
        roles, calibration = found.roles, calibration or load_calibration_of(model)
    elif on is None or deploy is None:
        raise SpecError("a model needs --on and --deploy", hint='such as --on scalex40 --deploy "tp=8,dp=5,ep=40"')
    else:
        setting = _setting(model, on, engine or "vllm", assume, _workload(None, isl, osl))
        roles = (_role(deploy, setting),)
    made = _estimate(setting, load_calibration(calibration or DEFAULT), roles, batch, chunk)
    if output == "table":
        _print(made)
    else:
        emit(_plain(made), output)


def _workload(recorded: Workload | None, isl: float | None, osl: float | None) -> Workload:
    """The lengths that were asked for, else those that the deployments were planned for."""
    if recorded is not None and isl is None and osl is None:
        return recorded
    lengths = {"isl": isl or (recorded.isl if recorded else 4000), "osl": osl or (recorded.osl if recorded else 1000)}
    return validate(Workload, {"name": "estimate", **lengths}, "--isl, --osl")


def _setting(model: str, on: str, engine: str, assume: Path | Mapping[str, str] | None, workload: Workload) -> Setting:
    return Setting(load_model(model), machine(on, assume=assume), load_engine(engine), workload)


def _role(text: str, setting: Setting) -> Role:
    try:
        return read_role(text, setting)
    except SpecError as error:
        raise SpecError(error.message, where="--deploy", hint=error.hint) from None


def _estimate(
    setting: Setting, calibration: Calibration, roles: tuple[Role, ...], batch: int | None, chunk: int | None
) -> Estimate:
    found = rates(setting.machine, calibration)
    steps: list[Step] = []
    room: dict[str, Memory] = {}
    for role in roles:
        _must_be_legal(role, setting)
        sequences = _at_least_one(role.max_sequences if batch is None else batch, "--batch")
        tokens = _at_least_one(role.chunk_tokens if chunk is None else chunk, "--chunk")
        room[role.name] = _memory(role, setting, sequences, tokens)
        _must_fit(role, setting, room[role.name])
        for kind in KINDS[role.name]:
            if kind == "decode":
                _must_hold(role, setting, sequences, room[role.name])
                load = Load(decode=sequences, context=sequences * _context(setting))
            else:
                load = _prefill(role, setting, tokens)
            cost = step(setting.model, found, Split.of(role), load, engine=setting.engine, overlap=role.overlap)
            steps.append(Step(role, kind, load, cost))
    named = " + ".join(f"{role.name} [{role.parallel}]" for role in roles)
    return Estimate(setting, calibration, named, found, room, tuple(steps))


def _prefill(role: Role, setting: Setting, tokens: float) -> Load:
    """A token sees what is cached and half of the rest, on average; each lane has a chunk, or whole prompts."""
    workload = setting.workload
    seen, alone = workload.isl * (1 + workload.hit_share) / 2, workload.isl * (1 - workload.hit_share)
    chunks = max(role.parallel.dp * role.parallel.pp, tokens / alone)
    prefix = prefix_tokens(tokens, seen, chunks=chunks)
    return Load(prefill=tokens, prefill_context=tokens * seen, prefix=prefix)


def _at_least_one(value: int, where: str) -> int:
    if value < 1:
        raise SpecError(f"{value} is not a number of 1 or more", where=where)
    return value


def _context(setting: Setting) -> float:
    """Mean context of a running sequence: its prompt and half of its answer [token]."""
    return setting.workload.isl + setting.workload.osl / 2


def _must_be_legal(role: Role, setting: Setting) -> None:
    broken = explain(role, setting)
    if broken and broken[0].rule in MEMORY:
        raise DoesNotFit(f"[{role.parallel}] on {setting.machine.name}: {broken[0].message}")
    if broken:
        raise SpecError(f"{broken[0].rule}: {broken[0].message}", where=f"[{role.parallel}]")


def _memory(role: Role, setting: Setting, sequences: float, tokens: float) -> Memory:
    return memory(
        setting.model,
        setting.machine,
        Split.of(role),
        engine=setting.engine,
        max_sequences=sequences,
        chunk_tokens=tokens,
        memory_fraction=role.memory_fraction,
    )


def _must_fit(role: Role, setting: Setting, room: Memory) -> None:
    if (short := -float(np.min(room.kv))) > 0:
        taken = ((name, float(getattr(room, name))) for name in TAKEN)
        parts = ", ".join(f"{name} {size / 1e9:,.1f}" for name, size in taken)
        raise DoesNotFit(
            f"[{role.parallel}] on {setting.machine.name}: short by {short / 1e9:,.1f} GB a device: {parts} GB; "
            f"usable {float(room.usable) / 1e9:,.1f} GB: take a smaller --chunk or --batch"
        )


def _must_hold(role: Role, setting: Setting, sequences: float, room: Memory) -> None:
    need, have = sequences * _context(setting), float(room.kv_tokens)
    if need > have:
        most = int(have // _context(setting))
        raise DoesNotFit(
            f"[{role.parallel}] on {setting.machine.name}: {sequences:,.0f} sequences of {_context(setting):,.0f} "
            f"tokens need {need:,.0f} KV tokens, there is room for {have:,.0f}: at most {most} sequences"
        )


# ── output ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _rests_on(part: str, binds: str, setting: Setting, calibration: Calibration) -> str:
    """Where the utilisation of a part comes from."""
    if part == "host":
        engine = setting.engine
        times = (engine.host_step, engine.host_sequence, engine.host_layer)
        return "assumed" if any(time.assumed for time in times) else "measured"
    matrices = [matrix for block in setting.model.blocks for matrix in block.matrices]
    dtypes = {compute_dtype(matrix.format, setting.machine.peak)[0] for matrix in matrices}
    gemm: tuple[str, ...] = ("hbm", "kernel", "walk", *(f"gemm.{dtype}" for dtype in dtypes))
    if part == "experts":
        gemm = ("experts_hbm", "experts_start", "expert", *gemm[3:], *(f"grouped.{dtype}" for dtype in dtypes))
    factors = [name.replace("_up", "_out") if binds == OUT else name for name in FACTORS.get(part, gemm)]
    return calibration.rests_on(setting.machine.family, factors)


def _shown(roof: str) -> str:
    """A roof in the words of `plan`: starting kernels is a fixed time, like the host's."""
    return ROOFS[roof]


def _rows(made: Step, found: Estimate) -> Iterator[dict[str, Any]]:
    for name, part in made.cost.parts.items():
        if float(part.seconds) > LEFT_OUT:
            yield {
                "part": name,
                "seconds": float(part.seconds),
                "share": float(part.seconds / made.cost.seconds),
                "flop": float(part.flop),
                "bytes": float(part.bytes),
                "bound": _shown(binds := str(part.bound())),
                "utilisation": _rests_on(name, binds, found.setting, found.calibration),
            }


def _plain_step(made: Step, found: Estimate) -> dict[str, Any]:
    seconds, spread = float(made.cost.seconds), found.rates.spread_of(made.role.draft_tokens)
    return {
        "role": made.role.name,
        "step": made.kind,
        "parallel": made.role.parallel.model_dump(),
        "overlap": made.role.overlap,
        "load": {"decode": made.load.decode, "prefill": made.load.prefill, "context": made.load.context},
        "seconds": seconds,
        "interval": [seconds / spread, seconds * spread],
        "bound_by": _shown(str(made.cost.bound())),
        "parts": list(_rows(made, found)),
    }


def _plain(found: Estimate) -> dict[str, Any]:
    names = ("weights", "activations", "buffers", "reserve", "usable", "kv", "kv_bytes_per_token", "kv_tokens")
    return {
        "model": found.setting.model.name,
        "machine": found.setting.machine.name,
        "engine": found.setting.engine.name,
        "deployment": found.deployment,
        "grade": found.rates.grade,
        "spread": found.rates.spread,
        "steps": [_plain_step(made, found) for made in found.steps],
        "memory": {role: {name: float(getattr(room, name)) for name in names} for role, room in found.memory.items()},
        "dequantised": dequantised(found.setting.model, found.setting.machine.peak),
        "assumed": [{"path": item.path, "value": item.value, "why": item.why} for item in found.assumed],
    }


def _print(found: Estimate) -> None:
    out, setting = console(), found.setting
    out.print(
        f"{setting.model.name} on {setting.machine.name}, {setting.engine.title}: {found.deployment}", soft_wrap=True
    )
    for made in found.steps:
        out.print(f"\n{_heading(made, setting)}", soft_wrap=True)
        columns: dict[str, Literal["left", "right"]] = {"part": "left"}
        columns |= dict.fromkeys(("ms", "share", "GFLOP", "MB"), "right")
        out.print(
            table(
                "", columns | {"bound by": "left", "utilisation": "left"}, [_cells(row) for row in _rows(made, found)]
            )
        )
        for line in _total(made, found):
            out.print(line, soft_wrap=True)
    for line in _trust(found):
        out.print(line, soft_wrap=True)


def _heading(made: Step, setting: Setting) -> str:
    if made.kind == "prefill":
        return f"Prefill step: {made.load.prefill:,.0f} tokens of prompts of {setting.workload.isl:,.0f}"
    drafts = f", each with {made.role.draft_tokens} drafted" if made.role.draft_tokens else ""
    return f"Decode step: {made.load.decode:,.0f} sequences of {_context(setting):,.0f} tokens{drafts}"


def _cells(row: dict[str, Any]) -> list[str]:
    numbers = (
        f"{row['seconds'] * 1e3:,.3f}",
        f"{row['share']:.1%}",
        f"{row['flop'] / 1e9:,.1f}",
        f"{row['bytes'] / 1e6:,.1f}",
    )
    return [row["part"], *numbers, row["bound"], row["utilisation"]]


def _total(made: Step, found: Estimate) -> Iterator[str]:
    seconds, spread = float(made.cost.seconds) * 1e3, found.rates.spread_of(made.role.draft_tokens)
    yield (
        f"{seconds:,.2f} ms, bound by {_shown(str(made.cost.bound()))}; 80 % interval {seconds / spread:,.2f} to "
        f"{seconds * spread:,.2f} ms (grade {found.rates.grade})"
    )
    apart = float(sum(np.asarray(part.seconds) for part in made.cost.parts.values())) * 1e3
    if apart > seconds * 1.001:
        yield f"{made.role.overlap} overlap hides {apart - seconds:,.2f} ms of it"


def _trust(found: Estimate) -> Iterator[str]:
    for role, room in found.memory.items():
        used = ((name, float(getattr(room, name))) for name in (*TAKEN, "kv"))
        sizes = ", ".join(f"{'KV' if name == 'kv' else name} {size / 1e9:,.1f}" for name, size in used)
        yield f"\nMemory of a device, {role} [GB of {float(room.usable) / 1e9:,.1f}]: {sizes}"
    machine_ = found.setting.machine
    for form, dtype in dequantised(found.setting.model, machine_.peak).items():
        yield f"Dequantised: {form} weights are multiplied in {dtype}; {machine_.device} has no units for them"
    yield "\nAssumed: " + "; ".join(f"{item.path} = {item.value}" for item in found.assumed)
