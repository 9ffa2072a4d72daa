"""`tokenworks train`: the best plan to train a model on a machine, the time of a step, and the days of the run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Annotated

from cyclopts import Group, Parameter

from tokenworks.cli.options import (
    CALIBRATION,
    DEVICES,
    MODEL,
    NUMBERS,
    ON,
    RESULT,
    NumberOptions,
    Output,
    OutputFormat,
)
from tokenworks.cli.output import console, emit, timed
from tokenworks.cli.page import Page
from tokenworks.cli.progress import progress
from tokenworks.cli.tables import Columns, print_table
from tokenworks.errors import SpecError
from tokenworks.planning.train import trained
from tokenworks.planning.train_asked import asked_training
from tokenworks.planning.train_goodput import AfterFailure
from tokenworks.planning.train_result import DAY, TrainRow, TrainRun
from tokenworks.planning.train_why import WHERE, TrainWhy, why_training
from tokenworks.specs.calibration import DEFAULT
from tokenworks.specs.files import is_there
from tokenworks.specs.model import active_parameters, parameters
from tokenworks.specs.reliability import PUBLISHED, load_reliability
from tokenworks.specs.training import MethodName, PrecisionName, Training

RUN = Group("Training run", sort_key=1)
GB = 1e9
BAR = 24
"""Length of the bar of a whole step [character]."""

FRONT_ROWS = 6
AFTER = {
    "elastic": "goes on with the devices that are left",
    "spare": "takes a spare part",
    "wait": "waits for the repair",
}


def train(
    model: Annotated[str, MODEL],
    *,
    on: Annotated[str, ON],
    devices: Annotated[int | None, DEVICES] = None,
    tokens: Annotated[str, Parameter(group=RUN)] = "1T",
    batch: Annotated[str | None, Parameter(group=RUN)] = None,
    seq: Annotated[int | None, Parameter(group=RUN)] = None,
    method: Annotated[MethodName | None, Parameter(group=RUN)] = None,
    precision: Annotated[PrecisionName | None, Parameter(group=RUN)] = None,
    deploy: Annotated[str | None, Parameter(group=RUN)] = None,
    after_failure: Annotated[AfterFailure, Parameter(group=RUN)] = "elastic",
    storage: Annotated[str | None, Parameter(group=RUN)] = None,
    reliability: Annotated[str, Parameter(group=NUMBERS)] = PUBLISHED,
    numbers: NumberOptions = NumberOptions(),  # noqa: B008 - frozen
    calibration: Annotated[str, CALIBRATION] = DEFAULT,
    top: Annotated[int, Parameter(group=RESULT)] = 5,
    why: Annotated[str | None, Parameter(group=RESULT)] = None,
    output: Output = "table",
) -> None:
    """Find the fastest plan to train a model on a machine: step time, MFU, memory, days and energy.

    Parameters
    ----------
    tokens
        Tokens of the whole run, such as 1T, 14.8T or 500B.
    batch
        Tokens of an optimiser step, such as 16M, where k and M are 2^10 and 2^20 as recipes count a batch; or sequences
        x length, such as 15360x4096. By default the batch of the file of --deploy.
    seq
        Tokens of a sequence; by default 8192, or the length in --batch or in the file.
    method
        What is trained: all weights (pretrain, continued, sft), adapters (lora), or all weights beside a reference
        model (dpo); by default pretrain.
    precision
        Dtype of the GEMMs: bf16, fp16 or fp32, or a recipe; by default bf16.
    deploy
        What is fixed of the plan, such as tp=8,pp=16,recompute=full; the search decides the rest. Or a YAML file of a
        training plan, as `train -o yaml` writes it: nothing is searched.
    after_failure
        What the run does when a device is lost: elastic goes on with the devices that are left, spare has a spare
        part, wait waits for the repair.
    storage
        Bandwidth at which all hosts together write a checkpoint, such as "20 GB/s"; by default 0.95 GB/s a host.
    reliability
        Failure rates: a name of catalog/reliability, or a YAML file of the same form.
    top
        Number of plans to list.
    why
        Explain one plan instead: what is fixed of it, such as tp=8,pp=4. The answer is the rules that it breaks, or its
        place and where its step loses time.
    """
    began = time.perf_counter()
    if top < 1:
        raise SpecError(f"{top} plans", where="--top", hint="write 1 or more")
    assume = numbers.given("machine", "calibration")
    failures = load_reliability(reliability)
    if why is not None and deploy is not None:
        raise SpecError("explains a plan that it names itself", where=WHERE, hint="leave out --deploy")
    ask = asked_training(
        model, on, tokens=tokens, batch=batch, seq=seq, deploy=deploy if why is None else why, method=method,
        precision=precision, devices=devices, assume=assume, where="--deploy" if why is None else WHERE,
    )  # fmt: skip
    with progress("reading") as report:
        if why is not None:
            answer = why_training(ask, assume=assume, calibration=calibration, say=report)
        else:
            result = trained(
                ask, after_failure=after_failure, storage=storage, reliability=failures, assume=assume,
                calibration=calibration, top=top, progress=report, started=began,
            )  # fmt: skip
    if why is not None:
        _print_why(answer, output, began)
        if error := answer.error():
            raise error
        return
    if output == "table":
        _print(result, console())
    elif output == "json":
        emit(result.plain(), "json")
    else:
        file = result.document()
        if is_there(os.path.expanduser(model)):  # a model that the user named by its path
            file["model"] = model
        emit(file, "yaml")


# ── the table ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _print(result: TrainRun, out: Page) -> None:
    for line in _heading(result):
        out.paragraph(line)
    out.print()
    columns: Columns = {"": "right", "plan": "left"}
    columns |= dict.fromkeys(("step [s]", "tok/s device", "MFU", "GB", "days"), "right")
    columns["bound by"] = "left"
    rows = [_row(row) for row in result.rows]
    print_table(out, columns, rows, wraps=("plan",), spare=("bound by", "GB"))
    for note in result.notes:
        out.paragraph(note)
    out.paragraph(
        f"\n{result.considered:,} plans considered, {result.legal:,} legal, {result.timed:,} computed. Bounds "
        f"of memory exclude {result.pruned['memory']:,}, bounds of time {result.pruned['time']:,}. tok/s device = "
        "tokens per second / devices of the machine. GB = memory of the fullest device. days = with checkpoints and "
        "failures. Plan: tp, cp, pp, dp, ep and etp widths; micro-batch; batch x sequence; schedule; recompute; "
        "precision."
    )
    _print_step(result.best, out)
    _print_front(result, out)
    for line in _trust(result):
        out.paragraph(line)


def _heading(result: TrainRun) -> Iterator[str]:
    setting, best = result.setting, result.best
    model, machine, base = setting.model, setting.machine, setting.base
    yield (
        f"{model.name}: {parameters(model) / 1e9:,.1f} B parameters, {active_parameters(model) / 1e9:,.1f} B active; "
        f"{base.method.name} on {token_words(result.tokens)} tokens, "
        f"{base.global_batch:,} x {base.seq_len:,} tokens a step"
    )
    domains = "one scale-up domain" if machine.devices <= machine.domain else f"scale-up domains of {machine.domain}"
    yield f"{machine.name}: {machine.devices} x {machine.device}, {domains}"
    low, high = best.interval["days"]
    energy = "" if best.energy_kwh is None else f", {energy_words(best.energy_kwh)} of the devices"
    yield (
        f"\n{best.days:,.1f} days (80 % interval {low:,.1f} to {high:,.1f}): {best.tok_s:,.0f} tokens/s, "
        f"{best.tok_s_per_device:,.0f} a device, MFU {best.mfu:.1%}, goodput {result.goodput.share:.1%}{energy}"
    )


def _row(row: TrainRow) -> list[str]:
    return [
        str(row.rank),
        plan_words(row.training),
        f"{row.step_s:,.3g}" if row.step_s < 100 else f"{row.step_s:,.0f}",
        f"{row.tok_s_per_device:,.0f}",
        f"{row.mfu:.1%}",
        f"{row.memory_bytes / GB:,.1f}",
        f"{row.days:,.1f}",
        row.bound_by,
    ]


def plan_words(training: Training) -> str:
    """A plan without its batch, which all plans share."""
    schedule = training.schedule
    chunks = f" x{schedule.virtual_stages}" if schedule.virtual_stages > 1 else ""
    words = [f"[{training.parallel}]", f"mbs {training.micro_batch}"]
    if training.parallel.pp > 1:
        words.append(f"{schedule.name}{chunks}")
    if training.recompute.name != "none":
        words.append(f"recompute {training.recompute.name}")
    return " ".join([*words, training.precision.recipe])


def token_words(count: float) -> str:
    """A number of tokens in words, such as 14.8 T."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if count >= size:
            return f"{count / size:,.4g} {letter}"
    return f"{count:,.0f}"


def energy_words(kwh: float) -> str:
    """An energy in words, such as 1.2 GWh."""
    return f"{kwh / 1e6:,.3g} GWh" if kwh >= 1e6 else f"{kwh / 1e3:,.3g} MWh" if kwh >= 1e3 else f"{kwh:,.3g} kWh"


def _print_step(row: TrainRow, out: Page) -> None:
    """The timeline of one step: each part with a bar that begins where the part before ends."""
    columns: Columns = {"part of a step": "left", "": "left", "ms": "right", "share": "right", "level": "left"}
    rows, before = [], 0.0
    for part in row.parts:
        if part.share < 0.001:
            before += part.share
            continue
        rows.append(
            [_part(part.part, part.kind), _bar(before, part.share), f"{part.seconds * 1e3:,.1f}", f"{part.share:.1%}",
             part.level]
        )  # fmt: skip
        before += part.share
    title = (
        f"\nOne step of plan 1, {row.step_s:,.3g} s. Parts are summed over its {row.training.micro_batches:,} "
        "micro-batches; communication is what compute does not hide"
    )
    print_table(out, columns, rows, title=title, spare=("",))
    hidden = ", ".join(f"{part.part} {part.seconds * 1e3:,.1f} ms ({part.level})" for part in row.hidden)
    if hidden:
        out.paragraph(f"Hidden beside compute: {hidden}.")
    sizes = ", ".join(f"{name} {size / GB:,.1f}" for name, size in row.memory.items())
    out.paragraph(f"Memory of the fullest device, {row.memory_bytes / GB:,.1f} GB: {sizes}.")


def _part(name: str, kind: str) -> str:
    return f"{name} communication" if kind == "communication" else name


def _bar(start: float, share: float) -> str:
    first, last = round(start * BAR), round((start + share) * BAR)
    return " " * min(first, BAR - 1) + "█" * max(last - first, 1)


def _print_front(result: TrainRun, out: Page) -> None:
    """A few plans of the front, both ends among them."""
    front = result.front
    if len(front) < 2:
        return
    count = min(FRONT_ROWS, len(front))
    places = sorted({round(index * (len(front) - 1) / (count - 1)) for index in range(count)})
    columns: Columns = {"step [s]": "right", "GB": "right", "plan": "left"}
    rows = [[f"{front[place].step_s:,.3g}", f"{front[place].memory_bytes / GB:,.1f}", plan_words(front[place].training)]
            for place in places]  # fmt: skip
    title = f"\nTime against memory: {len(places)} of {len(front)} Pareto points"
    print_table(out, columns, rows, title=title, wraps=("plan",))


def _trust(result: TrainRun) -> Iterator[str]:
    kept = result.goodput
    if kept.mtbf_s is None or kept.interval_s is None:
        yield "\nThe run never fails: its failure rate is 0."
    else:
        shares = {"elastic": kept.elastic, "spare": kept.spare, "wait": kept.wait}
        others = ", ".join(
            f"{share:.1%} if it {AFTER[name]}"
            for name, share in shares.items()
            if share is not None and name != kept.after
        )
        rest = f" ({kept.rest_devices} devices at {kept.rest_speed:.0%} of the speed)" if kept.rest_devices else ""
        yield (
            f"\nGoodput {kept.share:.1%}: a failure every {kept.mtbf_s / DAY:,.3g} days; a checkpoint of "
            f"{kept.checkpoint_bytes / 1e12:,.3g} TB takes {kept.write_s:,.3g} s, every {kept.interval_s / 60:,.3g} "
            f"min; a restart takes {kept.restart_s / 60:,.3g} min. After a lost part the run {AFTER[kept.after]}"
            f"{rest if kept.after == 'elastic' else ''}; goodput {others}."
        )
    low, high = result.best.interval["step_s"]
    yield (
        f"\nGrade {result.grade}. The step of plan 1 takes {result.best.step_s:,.3g} s, 80 % interval {low:,.3g} to "
        f"{high:,.3g} s."
    )
    machine = [item for item in result.assumed if not item.path.startswith("calibration")]
    numbers = "; ".join(f"{item.path} = {item.value}" for item in machine) or "no number of the machine"
    rest_of = len(result.assumed) - len(machine)
    yield f"Assumed: {numbers}; and {rest_of} factors of calibration (see `-o json`)."


# ── why ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _print_why(answer: TrainWhy, output: OutputFormat, began: float) -> None:
    if output != "table":
        emit(timed(answer.plain(), began), output)
        return
    out = console()
    if answer.broken:
        count = len(answer.broken)
        out.paragraph(f"{answer.label} breaks {count} {'rule' if count == 1 else 'rules'}:")
        for item in answer.broken:
            out.paragraph(f"\n{item.rule}: {item.law}\n  {item.message}")
        return
    row, best = answer.prediction, answer.best
    assert row is not None
    assert best is not None
    out.paragraph(
        f"{row.training} is legal: {row.step_s:,.3g} s a step, {row.tok_s_per_device:,.0f} tokens/s per device, MFU "
        f"{row.mfu:.1%}, {row.memory_bytes / GB:,.1f} GB; bound by {row.bound_by}. It would stand in place "
        f"{answer.place} of the plans, each with the best settings for its widths."
    )
    if answer.place == 1:
        return
    columns: Columns = {"part of a step": "left", "this": "right", "best": "right", "difference": "right"}
    pairs = [(part["part"], 1e3 * part["seconds"], 1e3 * part["best_seconds"]) for part in answer.parts]
    pairs.append(("all", sum(pair[1] for pair in pairs), sum(pair[2] for pair in pairs)))
    rows = [[name, f"{own:,.1f}", f"{other:,.1f}", f"{own - other:+,.1f}"] for name, own, other in pairs]
    title = f"\nTime of a step [ms]; the best is {best.training}"
    print_table(out, columns, rows, title=title, wraps=("part of a step",))
