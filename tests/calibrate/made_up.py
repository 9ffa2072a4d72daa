"""Rows in the form of measured points over all devices, models, weights, engines, loads and modes: made up here.

What comes from outside is of this form, on hardware and models that nobody fitted on, with cells missing as in these.
"""

import csv
import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path

from tests.calibrate.cases import HEADER
from tokenworks.specs.hf import model_names

COLUMNS = (
    *HEADER.split(","), "joules_per_output_token", "output_tok_s_per_gpu", "input_tok_s_per_gpu", "tpot_ms_p99",
    "ttft_ms_p99", "e2el_ms_median", "ttft_ms_mean", "tpot_ms_mean", "e2el_ms_mean", "itl_ms_mean",
    "interactivity_tok_s_user", "parallelism_as_published", "model_as_published", "system_as_published",
    "weights_dtype", "source", "date",
)  # fmt: skip

DEVICES = (
    "b300", "gb300", "mi325x", "rtx-4090", "a100", "a800", "h20", "ascend-910b", "ascend-910c", "k100-ai", "bw1000",
    "arc-b60", "h100", "h200", "b200", "gb200", "mi300x", "mi355x", "h800", "rtx-pro-6000", "a10", "l40s",
    "a100-80gb-sxm", "A100-SXM4-80GB", "a100_80gb_pcie", "a100-40gb", "A800 80GB PCIe", "ascend910b", "910b", "910c",
    "hygon-k100-ai", "hygon-bw1000", "rtx4090", "RTX 4090", "arc-pro-b60", "b60", "h20-96gb", "h20-141gb",
    "MI325X", "B300-SXM", "gb300-nvl72", "cloudmatrix384",
)  # fmt: skip
ENGINES = (
    "vllm", "sglang", "trtllm", "atom", "atom-disagg", "dynamo-trt", "dynamo-sglang", "dynamo-vllm", "mindie", "chitu",
    "lmdeploy", "cloudmatrix-internal", "tensorrt-llm", "vllm-ascend", "transformers", "mori-sglang",
)  # fmt: skip
WEIGHTS = ("fp8", "fp4", "bf16", "int4", "int8")
LOADS = ("closed", "closed", "burst", "poisson", "offline", "offline")
SPECULATION = ("none", "none", "none", "mtp", "mtp1", "mtp3", "eagle", "eagle3")
WIDTHS = (
    (1, 1, 1),
    (2, 1, 1),
    (4, 1, 1),
    (8, 1, 1),
    (1, 8, 1),
    (2, 4, 1),
    (1, 16, 1),
    (1, 32, 1),
    (2, 1, 2),
    (8, 1, 2),
)
"""tp, dp and pp of a worker."""

LENGTHS = ((1024, 1024), (8192, 1024), (1024, 8192), (128, 2048), (294, 296), (9428, 684), (6144, 1), (1, 2048))
MADE_UP = {
    "tpot_ms_median": "20.5", "ttft_ms_median": "300", "total_tok_s_per_gpu": "900", "output_tok_s_per_gpu": "450",
    "joules_per_output_token": "2.5", "tpot_ms_mean": "21", "interactivity_tok_s_user": "45",
}  # fmt: skip


def rows(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """`count` rows: devices, models and engines in turn, all other cells random."""
    draw = random.Random(seed)
    cycles = [itertools.cycle(draw.sample(names, len(names))) for names in (DEVICES, model_names(), ENGINES)]
    for i in range(count):
        device, model, engine = map(next, cycles)
        mode = draw.choices(("agg", "disagg", "prefill_only", "decode_only"), (80, 14, 3, 3))[0]
        row = dict.fromkeys(COLUMNS, "") | {
            "point_id": f"s{i}", "source_group": draw.choice(("inferencex-dump", "mlperf", "trtllm-perf", "rocm")),
            "model": model, "weights": draw.choice(WEIGHTS), "device": device, "engine": engine, "mode": mode,
            "spec_decode": draw.choice(SPECULATION),
        }  # fmt: skip
        measured = {name: value for name, value in MADE_UP.items() if draw.random() < 0.5}
        yield row | _split(draw, mode) | _load(draw, mode) | measured


def _split(draw: random.Random, mode: str) -> dict[str, str]:
    if mode == "disagg":
        cells: dict[str, str] = {}
        total = 0
        for role in ("prefill", "decode"):
            widths, workers = draw.choice(WIDTHS[2:]), draw.choice((1, 1, 2, 4))
            total += math.prod(widths) * workers
            cells |= _widths(draw, f"{role}_", *widths) | {f"{role}_workers": str(workers)}
        return cells | {"n_devices": f"{total}.0"}
    widths, replicas = draw.choice(WIDTHS), draw.choice((1, 1, 1, 2, 8))
    if draw.random() < 0.15:  # how it is split is not stated
        return {"n_devices": draw.choice(("1", "4", "8", "16"))}
    return _widths(draw, "", *widths) | {"n_devices": str(math.prod(widths) * replicas)}


def _widths(draw: random.Random, prefix: str, tp: int, dp: int, pp: int) -> dict[str, str]:
    named = {"devices": tp * dp * pp, "tp": tp, "dp": dp, "pp": pp, "ep": draw.choice((1, tp * dp))}
    return {f"{prefix}{name}": str(value) for name, value in named.items()}


def _load(draw: random.Random, mode: str) -> dict[str, str]:
    (isl, osl), sent = draw.choice(LENGTHS), draw.choice((1.0, 0.9))
    lengths = {"isl": f"{isl}.0", "isl_mean": f"{isl * sent:.1f}"}
    lengths |= {"osl": f"{osl}.0", "osl_mean": f"{max(1, osl * sent):.1f}"}
    if mode == "prefill_only":
        return lengths | {"load": "tokens_per_device", "concurrency": str(draw.choice((4096, 16384)))}
    if mode == "decode_only":
        load, users = draw.choice(("batch_per_device", "closed")), draw.choice((1, 8, 96, 256))
        return lengths | {"load": load, "concurrency": str(users)}
    load = draw.choice(LOADS)
    cells = {
        "closed": {"concurrency": f"{4 ** draw.randrange(6)}.0"},
        "burst": {"n_requests": str(draw.choice((200, 1000)))},
        "poisson": {"request_rate": str(draw.choice((0.5, 4, 30))), "n_requests": draw.choice(("", "500"))},
        "offline": {"n_requests": draw.choice(("", "", "1000", "24576"))},
    }
    return lengths | {"load": load} | cells[load]


def write(path: Path, count: int, seed: int = 0) -> Path:
    """Write a file of `count` rows."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows(count, seed))
    return path
