"""Figures that operators, vendors and benchmarks published, and what must be known to read them. Nothing is computed here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One published figure.

    Parameters
    ----------
    id : key of the prediction
    what : what was measured
    at : split, batch or load of the measurement
    value, unit : the published value
    """

    id: str
    what: str
    at: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Case:
    """Figures of one publication.

    Parameters
    ----------
    id : key of the case
    title : heading of its section
    source : where the figures were published, with their date
    figures : the published figures
    commands : commands that print the predictions
    reading : how the figures are read, one sentence or more for each point
    assumed : inputs that the source does not state, and the values used instead
    misses : why predictions differ, one point each; the numbers in it are measured or printed by `commands`
    """

    id: str
    title: str
    source: str
    figures: tuple[Figure, ...]
    commands: tuple[str, ...]
    reading: tuple[str, ...]
    assumed: tuple[str, ...]
    misses: tuple[str, ...]


ACCEPTANCE = 0.7
"""Acceptance of the draft token of CloudMatrix-Infer (arXiv:2506.12708, section 5.1) [-]."""

NODE = 8
"""Cards of a node of DeepSeek [count]."""

HITS = 0.563
"""Input tokens of DeepSeek's day that the cache served / all input tokens [-]."""

DAY_BATCH = 12_672
"""Sequences of a decode instance of 144 cards: 14,800 tok/s / 8 cards / 21 tok/s per user = 88 a card [count]."""

MI300X_IN_FLIGHT = 10_800
"""Requests in flight in all runs on MI300X (--max-concurrency) [count]."""

SPEEDS = (75.0, 120.0, 164.0)
"""Speeds at which GB200 and B200 are compared [token/s per user]."""


def _cloudmatrix() -> Case:
    decode = tuple(
        figure
        for batch, tpot, rate in ((96, 49.4, 1943.0), (24, 24.6, 974.0), (8, 14.9, 538.0))
        for figure in (
            Figure(f"cloudmatrix-decode-{batch}.tok_s_per_device", "decode", f"EP320, {batch} sequences a card", rate,
                   "tok/s/card"),
            Figure(f"cloudmatrix-decode-{batch}.tpot_ms", "TPOT", f"EP320, {batch} sequences a card", tpot, "ms"),
        )
    )  # fmt: skip
    at = "EP32, 4,096 tokens, 16,384 a card"
    prefill = (
        Figure("cloudmatrix-prefill.tok_s_per_device", "prefill", at, 5655.0, "tok/s/card"),
        Figure("cloudmatrix-prefill-balanced.tok_s_per_device", "prefill, perfectly balanced experts", at, 6688.0,
               "tok/s/card"),
    )  # fmt: skip
    rows = "tokenworks validate --data benchmarks/accuracy/production.csv --out rows.csv"
    return Case(
        "cloudmatrix384", "CloudMatrix384: DeepSeek-R1 in INT8",
        "arXiv:2506.12708, section 5.1 and tables 2 to 4, June 2025",
        prefill + decode,
        (f"{rows}  # the row cloudmatrix-prefill", f"{rows} --set calibration.rank_skew=0  # cloudmatrix-prefill-balanced",
         f"{rows} --set calibration.acceptance={ACCEPTANCE}  # the rows cloudmatrix-decode-96, -24 and -8"),
        ("Decode is one instance of 160 cards, prefill one of 16 cards. The paper has one rank on each of the two dies of a "
         "card; here a rank is a card.",
         "Context 4,096 tokens, one draft token with the acceptance 0.7 that the paper states.",
         "6,688 is a value that the paper projects for perfect balance; predicted with equally popular experts."),
        ("the batch of 24 sequences: throughput x TPOT",
         "latencies of kernels and of dispatch of the Ascend 910C, and its GEMM in 16 bits: not published, "
         "priors of the catalog; the interval is wide because of them",
         "INT8 by the usual recipe: all linear layers but routers, embeddings and the head"),
        ("Not independent: the GEMM and attention rates of this card, and the bandwidth of its dispatch, are measured values "
         "of the same paper (`catalog/calibration`), and the prior of the expert skew uses the ratio of 6,688 to 5,655. "
         "The rates of a whole step were not fitted.",
         "Prefill is 11 % fast with perfect balance: compute that the model hides behind dispatch and combine is not hidden "
         "completely by the paper's micro-batches. The row cannot state the 32 redundant experts of the paper; with them, "
         "`estimate` gives 7,410 tok/s for both cases.",
         "Decode is slow by a time that hardly depends on the batch: 6.0 ms at 96 sequences, 4.6 ms at 8. These are starts: "
         "attention, experts and dispatch with 61 layers. The paper fuses dispatch and combine with their quantisation, and "
         "runs attention and experts on two streams; the model starts them one by one with the priors of the catalog."),
    )  # fmt: skip


def _deepseek_day() -> Case:
    at = "EP144, 88 sequences a card, context 4,989"
    return Case(
        "deepseek-day", "DeepSeek's production day: DeepSeek-V3 and R1 on H800",
        "deepseek-ai/open-infra-index, 202502OpenSourceWeek, day 6: mean of 27 to 28 February 2025",
        (
            Figure("prefill", "prefill, cache hits in it", "EP32, 56.3 % hits", 73_700.0, "tok/s/node"),
            Figure("decode.none", "decode, no draft token", at, 14_800.0, "tok/s/node"),
            Figure("tpot.none", "TPOT, no draft token", at, 47.6, "ms"),
            Figure("decode.mtp", "decode, one draft token", at, 14_800.0, "tok/s/node"),
            Figure("tpot.mtp", "TPOT, one draft token", at, 47.6, "ms"),
        ),
        (f"tokenworks estimate examples/published/deepseek-day.yaml --batch {DAY_BATCH} "
         "--workload examples/published/deepseek-day-requests.yaml",),
        ("A node has 8 cards. The prefill rate counts hits: computed tokens a second of four nodes / 4 / (1 - 0.563).",
         "20 to 22 tok/s per user: TPOT 47.6 ms is 1 / 21. The batch follows: 14,800 / 8 / 21 = 88 sequences a card. So decode "
         "rate and TPOT are one prediction.",
         "32 redundant experts in both roles and two-batch overlap, as published. With one draft token, `draft_tokens: 1` in the "
         "decode role."),
        ("tokens of a prefill step: 16,384 a card, as in DeepSeek's profile data",
         "input 4,383 and output 1,211 tokens of a request: 608 G and 168 G tokens of the day, and 4,989 tokens in the KV cache "
         "of an output token, if all requests are equal",
         "draft tokens: not stated, so both cases are predicted"),
        ("Prefill: the published rate is the mean load of a day, the prediction is a busy machine. DeepSeek's own profile of one "
         "step has 7,839 computed tok/s a card; the day's 73,700 a node are 4,026, half of it. The prediction is 5,783, "
         "between both. DeepSeek scales nodes with the load, but a mean over a day has reserve in it, and a profile has none.",
         "Decode without a draft token is 20 % slow. Dispatch and combine take 28 of 85 ms before overlap; two-batch overlap hides "
         "28 ms and costs a second start of each kernel. DeepSeek splits attention in two steps and overlaps five stages, "
         "which the model does not have. With one draft token the prediction is 3 to 4 % from the figure.",
         "The [accuracy page](accuracy.md#production-figures) has the prefill rate as 4,026 computed tok/s a card and predicts "
         "4,744: its table of measured points cannot state redundant experts, and experts without copies are less balanced."),
    )  # fmt: skip


def _mi300x() -> Case:
    lengths = ((1000, 61_828.9, 172.16), (512, 66_194.8, 160.33), (2000, 51_187.87, 208.59))
    figures = tuple(
        figure
        for length, rate, gap in lengths
        for figure in (
            Figure(f"{length}.rate", "output", f"{length:,} / {length:,}, 10,800 in flight", rate, "tok/s"),
            Figure(f"{length}.itl", "mean ITL", f"{length:,} / {length:,}, 10,800 in flight", gap, "ms"),
        )
    )
    return Case(
        "mi300x-2p3d", "40 MI300X: DeepSeek-R1, two prefill and three decode instances",
        "docs.moreh.io, DeepSeek R1 671B on AMD MI300X GPUs: Maximum Throughput (Moreh vLLM 0.11, ShareGPT prompts), "
        "December 2025",
        figures,
        tuple(
            f"tokenworks simulate examples/published/mi300x.yaml --workload examples/published/mi300x-requests.yaml "
            f"--set workload.isl={length} --set workload.osl={length} --concurrency {MI300X_IN_FLIGHT} --requests 162000 "
            "--set machine.device.nic=25GB/s"
            for length, *_ in lengths
        ),
        ("Deployment file: the flags of the publication (DP8 and EP8 in each server, FP8 KV cache, 64,000 and 16,384 tokens a "
         "step, 0.92 of the memory, no prefix cache). Network: InfiniBand HDR, 25 GB/s a card.",
         "The client sends up to 80 requests a second (140, 48) and keeps 10,800 in flight. In the steady state, requests end "
         "more slowly than it sends, so it is a closed loop. Warm-up and cool-down are left out on both sides.",
         "ITL is the mean of the gaps between tokens, as vLLM's client prints it."),
        ("expert popularity: the skew of the calibration; the publication uses real text so that experts are loaded unevenly, and "
         "does not print how unevenly",),
        ("The MI300X rows of the fit are single servers with one instance. No row has two roles, wide batches or this engine.",
         "TTFT: 18 s predicted, 1.8 s published. In the prediction, both prefill instances are always busy: 3,400 tok/s a card, of "
         "which experts are three quarters. The published run had time left at 3,860 tok/s a card. Moreh's engine has its own "
         "expert kernels (per-token FP8 instead of blocks); the model has the grouped GEMM of stock ROCm engines.",
         "Decode steps fit: 180 ms predicted with 3,270 sequences an instance, 172 ms published with about 3,570. So the model is "
         "about 14 % slow in decode, too, for the same reason: experts are 59 % of the step.",
         "vLLM runs without CUDA graphs here (`--enforce-eager`). Steps of 160 to 210 ms hide the launches, so this changes little."),
    )  # fmt: skip


def _blackwell() -> Case:
    rates = {75: (5789.6, 2557.7), 120: (3987.5, 1110.0), 164: (817.8, 751.2)}
    ratios = {75: 2.26, 120: 3.59, 164: 1.09}
    figures = tuple(
        figure
        for speed, (gb200, b200) in rates.items()
        for figure in (
            Figure(f"ratio.{speed}", "GB200 / B200", f"{speed} tok/s per user", ratios[speed], "x"),
            Figure(f"gb200.{speed}", "GB200 NVL72", f"{speed} tok/s per user", gb200, "tok/s/GPU"),
            Figure(f"b200.{speed}", "B200", f"{speed} tok/s per user", b200, "tok/s/GPU"),
        )
    )
    return Case(
        "blackwell", "GB200 NVL72 against B200: DeepSeek-R1 in FP8, 8,192 / 1,024",
        "inferencex.semianalysis.com, compare/deepseek-r1-b200-vs-gb200 (8k/1k, FP8), 2026",
        figures,
        ("tokenworks validate --data examples/published/blackwell.csv --out rows.csv",),
        ("tok/s counts input and output, over all GPUs of both roles. The dashboard interpolates the best measured points; here "
         "the best predicted points are interpolated in the same way (monotone cubic, SciPy's PCHIP).",
         "`blackwell.csv` has the configurations with draft tokens that can be on this front: splits, draft tokens and requests in "
         "flight are those of SemiAnalysisAI/InferenceX (`.github/configs/nvidia-master.yaml`, `dsr1-fp8-*`; the draft tokens "
         "stand in the names of its recipes). Lengths are uniform in 0.8 to 1.0 of 8,192 and 1,024.",
         "The published values agree with our reading: the measured points of the dashboard, interpolated like this, give "
         "5,764, 4,009 and 855 for GB200, and 2,504, 1,114 and 754 for B200."),
        ("acceptance of draft tokens: not recorded by the benchmark; the fitted 0.666 for the first token",
         "two hosts of B200 are joined by 400 Gb/s a GPU"),
        ("GB200 is slow by 12 to 30 %, B200 is within 15 %, so all three ratios are low. On the same machine without draft tokens, "
         "predicted TPOT is 1.04 to 1.13 of the measured one from 10 sequences a GPU on; with three draft tokens it is 1.14 to "
         "1.44, most at 42 and 83 sequences a GPU. So the error is the step that checks four tokens of each sequence, or the "
         "acceptance.",
         "On B200 the same engine with the same draft tokens is at 0.98 to 1.11 (8 GPUs, up to 136 sequences a GPU). Both have "
         "the same card family and the same factors, so no factor of the card can be right for both. What differs is the "
         "recipe (container and version of TensorRT-LLM, EP16 and EP32 over NVLink), which the points do not record.",
         "The shape is right where the publication is surprising: the gain of the rack is largest in the middle, and none is left "
         "at 164 tok/s per user, where a latency-bound TP8 instance is the best on both machines."),
    )  # fmt: skip


def _sd200() -> Case:
    return Case(
        "sd200", "SD200 (64 cards): TPOT of DeepSeek-R1",
        "Inspur Information, SD200 pages; segmentfault.com/a/1190000047950946, July 2026",
        (Figure("tpot", "TPOT, one user", "64 cards", 8.73, "ms"),),
        ("tokenworks estimate deepseek-ai/DeepSeek-R1 --on sd200 --deploy tp=64,ep=64 --batch 1 --isl 4096 --osl 1024 "
         "--assume examples/published/sd200.yaml",),
        ("One decode step with one sequence. The card is not named, and nothing but its 64 GB is known.",),
        ("the card: 1.8 TB/s of memory, 240 TFLOP/s in BF16, 200 GB/s of scale-up; `examples/published/sd200.yaml`",
         "the split: TP64 for attention, EP64 for experts; lengths 4,096 / 1,024; no draft token",
         "weights in FP8, unpacked to BF16 for the multiplication; whether the card multiplies FP8 is not known",
         "kernel latencies as those of Ascend cards (`other-npu` borrows them), and an engine that captures whole steps"),
        ("Half of the predicted time is the experts, and nearly all of that is starts: at one sequence a layer reads 8 experts on 8 "
         "of 64 cards. The borrowed latency of one layer of routed experts is 0.14 ms; 8.73 ms leave 0.143 ms for a whole "
         "layer. The vendor must start fewer and shorter kernels than the Ascend cards from which the numbers are borrowed.",
         "The memory roof is no limit: 1.7 GB a card are read in less than 1 ms. So no likely bandwidth of the card changes the "
         "result: this figure tests latencies, of which none is published.",
         "The interval holds the figure only because it is a factor of 2.3 wide each way. This is no evidence for the model."),
    )  # fmt: skip


CASES = (_cloudmatrix(), _deepseek_day(), _blackwell(), _mi300x(), _sd200())

NOT_PREDICTED = (
    ("8 x H200 DeepSeek-R1, 3,976 output tok/s with 1,024 users (Inspur Information NF5688G7)",
     "lengths of requests are not published"),
    ("Ling-1T on three nodes of Hygon DCU, 2.85 requests/s (HYGON-AI/dcu-inference-cookbook)",
     "the card is not named, and the page does not state the model's configuration"),
    ("MoE decode of one domain of 64 against eight of 8, 20 to 32 % more (Alibaba, OCP 2025)",
     "model, batch and card are not published"),
    ("DeepSeek-V3: TPOT of 14.76 ms over InfiniBand, 0.82 ms over NVL72 (arXiv:2505.09343)",
     "bounds by bandwidth, not measurements: arithmetic on inputs"),
    ("DeepSeek's profile data (7,839 tok/s of prefill, 2,325 of decode a card); 96 H100 of LMSYS",
     "rows of the fit; the [accuracy page](accuracy.md) has them"),
)  # fmt: skip
"""Published figures that are not predicted, and why."""
