"""`tokenworks compare`: which machine, why, and what a token costs on it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from tokenworks.cli.compare_table import missed, print_comparison
from tokenworks.cli.compare_training import missed_runs, print_runs
from tokenworks.cli.options import (
    CALIBRATION,
    MACHINE,
    NUMBERS,
    PAGE_HELP,
    REQUESTS,
    RESULT,
    PageFormat,
    PageOptions,
    Switch,
)
from tokenworks.cli.output import console, emit, timed
from tokenworks.cli.progress import compile_once, progress
from tokenworks.errors import SpecError
from tokenworks.ledger.compare import compare as comparing
from tokenworks.ledger.compare_axes import Axis
from tokenworks.ledger.compare_machines import Equal
from tokenworks.ledger.compare_training import compare_training as training
from tokenworks.ledger.comparison import Comparison
from tokenworks.ledger.terms import Pay
from tokenworks.ledger.train_comparison import TrainComparison
from tokenworks.planning.setting import EngineChoice
from tokenworks.planning.tiered import AUTO
from tokenworks.planning.train_goodput import AfterFailure
from tokenworks.specs.calibration import DEFAULT
from tokenworks.specs.given import AREAS, Given, from_options, given, split
from tokenworks.specs.machine import Machine
from tokenworks.specs.price import Currency, Region
from tokenworks.specs.reliability import PUBLISHED
from tokenworks.specs.result import Plain
from tokenworks.specs.training import MethodName, PrecisionName

MONEY = Group("Money and site", sort_key=2)
RUN = Group("Training run, with --train", sort_key=1)
FORMAT = Parameter(name=["-o", "--output"], help=PAGE_HELP, group=RESULT)


@Parameter(name="*", group=MONEY)
@dataclass(frozen=True, kw_only=True)
class MoneyOptions:
    """What costs are computed with.

    Parameters
    ----------
    prices
        YAML file of prices that replace prices of the catalog, or litellm's price list (JSON), whose API prices are
        read.
    pay
        Buy the machines, or rent their devices.
    utilisation
        Share of the time in which the machines serve; by default 0.5. May be repeated: break-even prices are printed
        for each share, all other costs for the first one.
    currency
        Currency of all costs.
    region
        Region of the price of electricity.
    room
        YAML file of the room for the machines: racks, rack_power, power, rack_weight, cooling.
    api
        Model whose API price is a rival; by default the compared model.
    """

    prices: Path | None = None
    pay: Pay = "buy"
    utilisation: Annotated[tuple[float, ...], Parameter(negative=(), show_default=False)] = ()
    currency: Currency = "USD"
    region: Region = "cn"
    room: Path | None = None
    api: str | None = None


@Parameter(name="*", group=RUN)
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The training run of --train, as in train.

    Parameters
    ----------
    train
        Compare training instead of serving: one model, no workload.
    tokens
        Tokens of the whole run, such as 14.8T; by default 1T.
    batch
        Tokens of an optimiser step, such as 16M, or sequences x length, such as 15360x4096.
    seq
        Tokens of a sequence; by default 8192, or the length in --batch.
    method
        What is trained: pretrain, continued, sft, lora or dpo; by default pretrain.
    precision
        Dtype of the GEMMs: bf16, fp16 or fp32, or a recipe; by default bf16.
    after_failure
        What the run does when a device is lost: elastic, spare or wait; by default elastic.
    storage
        Bandwidth at which all hosts together write a checkpoint, such as "20 GB/s"; by default 0.95 GB/s a host.
    """

    train: Switch = False
    tokens: str | None = None
    batch: str | None = None
    seq: int | None = None
    method: MethodName | None = None
    precision: PrecisionName | None = None
    after_failure: AfterFailure | None = None
    storage: str | None = None

    def given(self) -> dict[str, Any]:
        """The options of the run that the user gave, by their names in `compare_training`."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name != "train" and value is not None}


def compare(
    models: Annotated[
        tuple[str, ...],
        Parameter(
            help="Models, as plan takes them. Of several models each may have its share of the effective tokens behind "
            "it, such as deepseek-ai/DeepSeek-R1=0.7 Qwen/Qwen3-8B=0.3.",
            group=MACHINE,
        ),
    ] = (),
    /,
    *,
    on: Annotated[
        tuple[str, ...], Parameter(help="Machine, as plan takes it. Give it twice or more.", group=MACHINE, negative=())
    ] = (),
    workload: Annotated[str | None, Parameter(group=REQUESTS)] = None,
    isl: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    osl: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    slo: Annotated[str | None, Parameter(group=REQUESTS)] = None,
    engine: Annotated[EngineChoice, Parameter(group=MACHINE)] = "auto",
    equal: Annotated[Equal, Parameter(group=RESULT)] = "devices",
    assume: Annotated[tuple[str, ...], Parameter(group=NUMBERS, negative=())] = (),
    set_: Annotated[tuple[str, ...], Parameter(name="--set", group=NUMBERS, negative=(), show_default=False)] = (),
    calibration: Annotated[str, CALIBRATION] = DEFAULT,
    money: MoneyOptions = MoneyOptions(),
    crossover: Annotated[tuple[Axis, ...], Parameter(group=RESULT, negative=())] = (),
    tiers: Annotated[str, Parameter(group=MACHINE)] = AUTO,
    reliability: Annotated[str, Parameter(group=NUMBERS)] = PUBLISHED,
    run: RunOptions = RunOptions(),
    budget: Annotated[str | None, Parameter(group=RESULT)] = None,
    workers: Annotated[int | None, Parameter(group=RESULT)] = None,
    output: Annotated[PageFormat, FORMAT] = "table",
    page: PageOptions = PageOptions(),  # noqa: B008 - frozen
) -> None:
    """Compare machines on the same work: the best simulated plan of each, why one wins, and what a token costs.

    Parameters
    ----------
    workload
        Workload of the catalog (agent, chat, code, reason, summarise) or a YAML file.
    isl
        Mean input tokens of a request. --isl and --osl replace --workload.
    osl
        Mean output tokens of a request.
    slo
        Bounds, such as ttft=2s,tpot=50ms (99th percentiles) or ttft.p50=1s; by default the SLO of the workload.
    engine
        Serving engine. auto compares all engines that run on the device.
    equal
        What the machines have equal amounts of: devices, power of the devices under load, racks, or money (cost of an
        hour).
    assume
        YAML file of numbers that replace numbers of the catalog, for all machines, or for one of them:
        SYSTEM=FILE, such as scalex40=mine.yaml. May be repeated.
    set_
        Replace one number for all machines, such as engine.host_step=1ms or workload.isl=5000. May be repeated.
    crossover
        Repeat the comparison at other context lengths or other shares of reuse, and print where the winner changes.
        Takes several times as long. May be repeated.
    tiers
        KV tiers below HBM of each plan, as in plan: auto, none, or a set-up of the catalog such as hicache.
    reliability
        Failure rates: a name of catalog/reliability, or a YAML file of the same form.
    budget
        Where the search of each machine ends, settled or not, as in plan.
    workers
        Processes; by default one for each processor. The number changes no result.
    """
    began = time.perf_counter()
    page.check(output)
    if not on:
        raise SpecError("no machine", where="--on", hint="give two or more, such as --on scalex40 --on 5xhgx-h100")
    bare, numbers = split(from_options(set_))
    if bare:
        hint = f"begin the path with one of {', '.join(AREAS)}, as in machine.{bare[0].path}"
        raise SpecError("no such path", where=bare[0].where, hint=hint)
    shared, own = _assumed(assume, on)
    shares = _shares(models)
    if workers is not None and workers < 1:
        raise SpecError(f"{workers} processes", where="--workers", hint="give 1 or more")
    shared_arguments: dict[str, Any] = {
        "equal": equal, "assume": (*shared, *numbers) or None, "assume_of": own, "calibration": calibration,
        "reliability": reliability, "prices": money.prices, "pay": money.pay, "currency": money.currency,
        "region": money.region, "room": money.room, "workers": workers,
    }  # fmt: skip
    serving: dict[str, Any] = {
        "workload": workload, "isl": isl, "osl": osl, "slo": slo, "engine": engine, "tiers": tiers, "budget": budget,
        "crossover": crossover, "utilisation": money.utilisation, "api": money.api,
    }  # fmt: skip
    _must_be_of_a_kind(run, serving)
    if run.train:
        asked_runs = partial(training, _one_model(shares), on, **shared_arguments, **run.given())
        _print_runs(asked_runs, output, page, began)
    else:
        serving["utilisation"] = money.utilisation or 0.5
        asked_plans = partial(comparing, shares, on, **shared_arguments, **serving)
        _print_plans(asked_plans, output, page, began)


def _print_plans(asked: partial[Comparison], output: PageFormat, page: PageOptions, began: float) -> None:
    compile_once()
    with progress("reading") as report:
        result = asked(progress=report)
    if output == "table":
        print_comparison(result, console())
    else:
        machines = [answer.machine for one in result.systems for answer in one.answers if answer.machine]
        _emit(result.plain(), machines, output, page, began)
    if error := missed(result):
        raise error


def _print_runs(asked: partial[TrainComparison], output: PageFormat, page: PageOptions, began: float) -> None:
    with progress("reading") as report:
        runs = asked(progress=report)
    if output == "table":
        print_runs(runs, console())
    else:
        machines = [one.study.run.setting.machine for one in runs.systems if one.study.run]
        _emit(runs.plain(), machines, output, page, began)
    if error := missed_runs(runs):
        raise error


def _emit(plain: Plain, machines: list[Machine], output: PageFormat, page: PageOptions, began: float) -> None:
    """Print a result as JSON or YAML, or write its page."""
    if output == "json" or output == "yaml":  # noqa: PLR1714 - mypy reads these
        emit(timed(plain, began), output)
    else:
        assert output != "table"
        page.write(output, plain, machines)


def _must_be_of_a_kind(run: RunOptions, serving: Mapping[str, Any]) -> None:
    """Refuse options of serving with --train, and options of a training run without it."""
    usual = {"engine": "auto", "tiers": AUTO}
    given_ = [name for name, value in serving.items() if value not in (None, (), usual.get(name))]
    words, hint = "of serving", "leave out --train, or these options"
    if not run.train:
        given_, words, hint = list(run.given()), "of a training run", "add --train, or leave out these options"
    if given_:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given_)
        raise SpecError(f"options {words}: {options}", where="--train", hint=hint)


def _one_model(shares: Mapping[str, float]) -> str:
    """The model of a training run."""
    if len(shares) > 1 or set(shares.values()) != {1.0}:
        raise SpecError("a run trains one model, without a share", where="MODEL", hint="give one model with --train")
    return next(iter(shares))


def _shares(models: tuple[str, ...]) -> dict[str, float]:
    """Models with their shares: NAME or NAME=SHARE."""
    if not models:
        raise SpecError("no model", where="MODEL", hint="give one, such as deepseek-ai/DeepSeek-R1")
    shares: dict[str, float] = {}
    for text in models:
        name, equals, share = text.rpartition("=")
        if not equals:
            name, share = text, "1"
        try:
            value = float(share)
        except ValueError:
            raise SpecError("has no number behind =", where=text, hint=f"write {name}=0.5") from None
        if name in shares:
            raise SpecError("is given twice", where=name, hint="give each model once")
        shares[name] = value
    return shares


def _assumed(texts: tuple[str, ...], on: tuple[str, ...]) -> tuple[tuple[Given, ...], dict[str, tuple[Given, ...]]]:
    """Numbers for all machines, and numbers by machine."""
    shared: list[Given] = []
    own: dict[str, tuple[Given, ...]] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals:
            shared += given(Path(text))
        elif name not in on:
            raise SpecError("is not compared", where=f"--assume {text}", hint=f"one of {', '.join(on)}, as --on has it")
        elif not path:
            raise SpecError("has no file behind =", where=f"--assume {text}", hint=f"write {name}=mine.yaml")
        else:
            own[name] = (*own.get(name, ()), *given(Path(path)))
    return tuple(shared), own
