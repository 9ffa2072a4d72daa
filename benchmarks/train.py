"""Tables of docs/train.md: speed of the search, DeepSeek-V3, Llama 3, and where scaleX40 trains 2.2 times as fast.

`python -m benchmarks.train [SECTION ...]` writes the tables between the marks of docs/train.md. Sections: speed,
deepseek, llama, region; all without an argument. `region` takes about ten minutes.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tokenworks.costs.train import TrainStep, train_step
from tokenworks.costs.train_plan import train_rates
from tokenworks.legal.training import TrainSetting
from tokenworks.planning.train_result import TrainRow
from tokenworks.planning.train_search import search_training
from tokenworks.specs.calibration import Calibration, load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.hf import load_model
from tokenworks.specs.machine import Machine
from tokenworks.specs.training import Training
from tokenworks.specs.training_text import load_training

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "train.md"
KERNELS = ("measured", "datasheet")
"""Hygon cards with their own measured kernels; and with the datasheet and the utilisations of NVIDIA Hopper."""

# ── speed ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SPEED = (
    ("meta-llama/Meta-Llama-3.1-405B", "128xhgx-h100", "gbs=2048,seq=8192"),
    ("moonshotai/Kimi-K2-Instruct", "4xscalex40", "gbs=2048,seq=8192"),
    ("deepseek-ai/DeepSeek-V3", "256xhgx-h800", "gbs=15360,seq=4096"),
    ("meta-llama/Meta-Llama-3.1-8B", "scalex40", "gbs=512,seq=8192"),
)


def speed() -> Iterator[str]:
    """Plans, and time of the whole search with its Pareto front."""
    yield "| model | machine | plans considered | legal | computed | search [s] |"
    yield "|---|---|---:|---:|---:|---:|"
    for model, on, text in SPEED:
        setting = TrainSetting(load_model(model), machine(on), _balanced(load_training(text)))
        rates = train_rates(setting.machine, load_calibration())
        began = time.process_time()
        result = search_training(setting, rates, keep=5)
        took = time.process_time() - began
        yield (
            f"| {_short(model)} | {on} | {result.considered:,} | {result.legal:,} | {len(result.points):,} | "
            f"{took:.1f} |"
        )


# ── published runs ────────────────────────────────────────────────────────────────────────────────────────────────

DEEPSEEK_SAVES = "kept=fp8,gather=fp8,dispatch=fp8,states=bf16,modules=layernorm+mla_up_proj+moe_act,draft_layers=true"
"""Number formats and recompute of DeepSeek-V3 (arXiv:2412.19437, sections 3.2.3 and 3.3)."""

DEEPSEEK = (
    "tp=1,pp=16,dp=128,ep=64,zero=1,mbs=1,gbs=15360,seq=4096,schedule=dualpipe,layout=balanced,ep_overlap=true,"
    f"recompute=selective,precision=fp8-block,{DEEPSEEK_SAVES}"
)
DEEPSEEK_FREE = f"gbs=15360,seq=4096,precision=fp8-block,{DEEPSEEK_SAVES}"
HOURS, TOKENS = 2.664e6, 14.8e12
"""GPU hours and tokens of the pre-training of DeepSeek-V3 (arXiv:2412.19437, table 1)."""


def deepseek() -> Iterator[str]:
    """The published plan of DeepSeek-V3, and the plans that the search chooses."""
    model, on = load_model("deepseek-ai/DeepSeek-V3"), machine("256xhgx-h800")
    rates = train_rates(on, load_calibration())
    yield "| plan | step [s] | M GPU hours | predicted / published | MFU | GB | bound by |"
    yield "|---|---:|---:|---:|---:|---:|---|"
    published = load_training(DEEPSEEK)
    yield _run("published", published, train_step(model, rates, published), on)
    for words, text in (
        ("search", DEEPSEEK_FREE),
        ("search, dispatch hidden in all schedules", f"{DEEPSEEK_FREE},ep_overlap=true"),
    ):
        base = _balanced(load_training(text))
        result = search_training(TrainSetting(model, on, base), rates, front=False)
        best = result.points.training(0, base)
        yield _run(f"{words}: {best}", best, train_step(model, rates, best), on)


def _run(name: str, training: Training, step: TrainStep, on: Machine) -> str:
    row = TrainRow.of(1, training, step, on, TOKENS)
    hours = row.days * 24 * on.devices
    return (
        f"| {name} | {row.step_s:.1f} | {hours / 1e6:.2f} | {hours / HOURS:.2f} | {row.mfu:.1%} | "
        f"{row.memory_bytes / 1e9:.0f} | {row.bound_by} |"
    )


LLAMA = (
    ("1024xhgx-h100@roce400", "tp=8,cp=1,pp=16,dp=64,gbs=2048,seq=8192", 0.43),
    ("2048xhgx-h100@roce400", "tp=8,cp=1,pp=16,dp=128,gbs=2048,seq=8192", 0.41),
    ("2048xhgx-h100@roce400", "tp=8,cp=16,pp=16,dp=8,gbs=128,seq=131072", 0.38),
)
"""Machine, plan and MFU of Llama 3 405B (arXiv:2407.21783, table 4)."""

LLAMA_WORDS = "zero=2,mbs=1,vpp=8,exchange=all-gather"
"""ZeRO 2 and gathered keys and values (section 3.3.2). The paper has no number of chunks; 8 of one layer are taken."""


def llama() -> Iterator[str]:
    """MFU of the plans of Llama 3 405B, and of the plans that the search chooses for the same batch."""
    model = load_model("meta-llama/Meta-Llama-3.1-405B")
    yield "| devices | plan | published MFU | predicted MFU | GB | MFU of the search | its plan |"
    yield "|---:|---|---:|---:|---:|---:|---|"
    for name, text, mfu in LLAMA:
        on = machine(name)
        rates = train_rates(on, load_calibration())
        training = load_training(f"{text},{LLAMA_WORDS}")
        step = train_step(model, rates, training)
        base = _balanced(load_training(",".join([*text.split(",")[-2:], "exchange=all-gather"])))
        result = search_training(TrainSetting(model, on, base), rates, front=False)
        best = result.points.training(0, base)
        own = train_step(model, rates, best)
        yield (
            f"| {on.devices:,} | {text} | {mfu:.0%} | {float(step.mfu):.1%} | "
            f"{float(step.memory.total) / 1e9:.0f} | {float(own.mfu):.1%} | "
            f"[{best.parallel}] mbs {best.micro_batch} {best.schedule.name} |"
        )


# ── where scaleX40 trains 2.2 times as fast ───────────────────────────────────────────────────────────────────────

CLAIM = 2.2
MODELS = (
    "meta-llama/Meta-Llama-3.1-8B",
    "meta-llama/Meta-Llama-3.1-70B",
    "Qwen/Qwen3-30B-A3B",
    "zai-org/GLM-4.5-Air",
    "Qwen/Qwen3-235B-A22B",
)
BASELINES: dict[str, Path | None] = {
    "5xhgx-h20": None, "5xhgx-h100": None, "5xhgx-h200": None, "5xbw1000-8": ROOT / "examples" / "bw1000.yaml",
}  # fmt: skip
"""Five servers, and a file of the numbers that are not published."""

NETWORKS = ("ndr", "roce400")
BATCHES = (2**20, 2**24)
"""Tokens of an optimiser step [token]."""

LENGTHS = (4096, 32768)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One comparison of scaleX40 with a baseline.

    Parameters
    ----------
    ratio : tokens per second of scaleX40 / of the baseline; None: the model fits neither machine [-]
    words : the case in words
    """

    ratio: float | None
    words: str


def region() -> Iterator[str]:
    """Ratio of the training speed of scaleX40 to that of five servers, over models, networks, batches and lengths."""
    table = {name: _cells(name) for name in KERNELS}
    yield "| model | baseline | measured kernels | at least 2.2 | datasheet | at least 2.2 |"
    yield "|---|---|---:|---:|---:|---:|"
    for model in MODELS:
        for baseline in BASELINES:
            columns = [_summary(table[name][model, baseline]) for name in KERNELS]
            yield f"| {_short(model)} | {baseline} | {' | '.join(columns)} |"


def _cells(kernels: str) -> dict[tuple[str, str], list[Cell]]:
    used = load_calibration()
    cells: dict[tuple[str, str], list[Cell]] = {}
    for name in MODELS:
        model = load_model(name)
        for tokens in BATCHES:
            for length in LENGTHS:
                base = _balanced(load_training(f"gbs={tokens // length},seq={length}"))
                own = _fastest(TrainSetting(model, _with(kernels, machine("scalex40")), base), used)
                for baseline, assume in BASELINES.items():
                    for network in NETWORKS:
                        on = _with(kernels, machine(f"{baseline}@{network}", assume=assume))
                        other = _fastest(TrainSetting(model, on, base), used)
                        ratio = None if own is None else float("inf") if other is None else other / own
                        words = f"{tokens // length} x {length}, {network}"
                        cells.setdefault((name, baseline), []).append(Cell(ratio, words))
        print(kernels, name, file=sys.stderr, flush=True)
    return cells


def _with(kernels: str, on: Machine) -> Machine:
    """The machine; with `datasheet`, Hygon cards use their peaks as well as NVIDIA Hopper does."""
    if kernels == "datasheet" and on.family.startswith("hygon"):
        return dataclasses.replace(on, family="nvidia-hopper")
    return on


def _fastest(setting: TrainSetting, calibration: Calibration) -> float | None:
    """Time of the step of the fastest plan; None: no plan fits [s]."""
    rates = train_rates(setting.machine, calibration)
    result = search_training(setting, rates, front=False)
    return float(result.seconds[0]) if len(result.points) else None


def _summary(cells: list[Cell]) -> str:
    """Range of the ratios, and how many of them reach the claim."""
    known = [cell.ratio for cell in cells if cell.ratio is not None]
    both = [ratio for ratio in known if ratio < float("inf")]
    if not known:
        return "does not fit scaleX40 | -"
    if not both:
        return "fits scaleX40 alone | -"
    alone = f", {len(known) - len(both)} fit scaleX40 alone" if len(both) < len(known) else ""
    reached = sum(ratio >= CLAIM for ratio in both)
    return f"{min(both):.2f} to {max(both):.2f} | {reached} of {len(both)}{alone}"


# ── the page ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _balanced(training: Training) -> Training:
    """The settings of a search: it divides layers so that the end stages are not the slowest."""
    return training.model_copy(update={"schedule": training.schedule.model_copy(update={"layout": "balanced"})})


def _short(model: str) -> str:
    return model.rsplit("/", 1)[-1]


SECTIONS: dict[str, Callable[[], Iterator[str]]] = {
    "speed": speed, "deepseek": deepseek, "llama": llama, "region": region,
}  # fmt: skip


def write(section: str) -> None:
    """Write the table of a section between its marks.

    Parameters
    ----------
    section : name of the section
    """
    lines = list(SECTIONS[section]())
    text = PAGE.read_text(encoding="utf-8")
    first, last = f"<!-- {section}: written by benchmarks/train.py -->", f"<!-- end of {section} -->"
    before, rest = text.split(first, 1)
    _, after = rest.split(last, 1)
    PAGE.write_text("\n".join([before + first, *lines, last + after]), encoding="utf-8")
    print(*lines, sep="\n")


if __name__ == "__main__":
    for each in sys.argv[1:] or SECTIONS:
        write(each)
