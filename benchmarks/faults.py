"""A lost card in the middle of a recorded trace, for several deployments: the tables of docs/failures.md.

    python benchmarks/faults.py DATA

DATA is a folder with the traces `azure2023_conv.csv` and `mooncake_conversation_trace.jsonl`, or these files packed by
xz. Each case plays the trace twice, with the fault and without it. The first table has one row per case. The second
table has one row per minute around the fault, for the cases that `MINUTES` names.
"""

from __future__ import annotations

import argparse
import lzma
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenworks
from tokenworks.simulation.run import Simulation

R1 = "deepseek-ai/DeepSeek-R1"
SLO = "ttft=10s,tpot=100ms"
CARD = {"part": "device 7", "for": "3 min"}
DECODER = {"part": "device 30", "for": "3 min"}
BROKEN = {"part": "device 7", "permanent": True}
SWITCH = {"part": "switch 1", "for": "10 min", "crash": False}
AZURE, MOONCAKE = "azure2023_conv.csv", "mooncake_conversation_trace.jsonl"
SCALES, AT_MIN = {AZURE: 1.0, MOONCAKE: 0.5}, {AZURE: 30, MOONCAKE: 60}
"""Rates of the traces / their own rates, and time of the fault: the middle of the trace [-, min]. At its own rate, the
prompts of Mooncake are more than 24 cards prefill."""
POOL: dict[str, Any] = {"tiers": "hicache-mooncake"}


def wide(ranks: int, **more: Any) -> dict[str, Any]:
    """One instance of DeepSeek-R1 over some devices, all with attention and experts of their own."""
    slots = -(-256 // ranks)
    role = {"parallel": {"dp": ranks, "ep": ranks}, "max_sequences": 64 * ranks, "chunk_tokens": 2048 * ranks,
            "redundant_experts": slots * ranks - 256, "kv_dtype": "bf16"}  # fmt: skip
    return {"model": R1, "engine": "sglang", "roles": [role], **more}


def apart(**more: Any) -> dict[str, Any]:
    """DeepSeek-R1 with 24 devices for prefill and 16 for decode; both can do without two ranks."""
    prefill = {"name": "prefill", "parallel": {"dp": 24, "ep": 24}, "max_sequences": 24 * 16,
               "chunk_tokens": 24 * 4096, "redundant_experts": 32}  # fmt: skip
    decode = {"name": "decode", "parallel": {"dp": 16, "ep": 16}, "max_sequences": 16 * 64, "chunk_tokens": 16 * 128,
              "redundant_experts": 64}  # fmt: skip
    return {"model": R1, "engine": "sglang", "roles": [prefill, decode], **more}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    system: str
    deployment: dict[str, Any]
    fault: dict[str, Any] = field(default_factory=lambda: CARD)
    trace: str = AZURE


ELASTIC: dict[str, Any] = {"elastic_ep": True, "on_loss": "migrate"}
CASES = (
    Case("EP40, card reset in 3 min", "scalex40", wide(40)),
    Case("EP40, elastic, requests fail", "scalex40", wide(40, elastic_ep=True)),
    Case("EP40, elastic, requests restart", "scalex40", wide(40, elastic_ep=True, on_loss="restart")),
    Case("EP40, elastic, requests migrate", "scalex40", wide(40, **ELASTIC)),
    Case("EP40, card broken", "scalex40", wide(40), BROKEN),
    Case("EP40, card broken, elastic", "scalex40", wide(40, **ELASTIC), BROKEN),
    Case("EP36 and 4 spares, card broken", "scalex40", wide(36, spares=4), BROKEN),
    Case("EP36 and 4 spares, card broken, elastic", "scalex40", wide(36, spares=4, **ELASTIC), BROKEN),
    Case("EP40, 1 of 4 switches for 10 min", "scalex40", wide(40), SWITCH),
    Case("EP40 over 5 hosts, card reset in 3 min", "5xhgx-h100", wide(40)),
    Case("EP40 over 5 hosts, elastic", "5xhgx-h100", wide(40, **ELASTIC)),
    Case("2 x EP16 over 4 hosts and a spare host, card broken", "5xhgx-h100",
         wide(16, spares=8) | {"roles": [wide(16)["roles"][0] | {"replicas": 2}]}, BROKEN),
    Case("prefill 24 + decode 16, card of prefill", "scalex40", apart(), trace=MOONCAKE),
    Case("the same, elastic", "scalex40", apart(**ELASTIC), trace=MOONCAKE),
    Case("the same, card of decode", "scalex40", apart(), DECODER, trace=MOONCAKE),
    Case("the same, elastic", "scalex40", apart(**ELASTIC), DECODER, trace=MOONCAKE),
    Case("KV in host memory and a pool, card of prefill", "scalex40", apart(**POOL), trace=MOONCAKE),
    Case("the same, elastic", "scalex40", apart(**POOL, **ELASTIC), trace=MOONCAKE),
)  # fmt: skip
MINUTES = (0, 3, 12, 16)
"""Cases whose minutes are printed."""


def run(case: Case, folder: Path) -> Simulation:
    """Play one case."""
    return tokenworks.simulate(
        case.deployment | {"system": case.system}, trace=folder / case.trace, slo=SLO,
        scale=None if SCALES[case.trace] == 1 else SCALES[case.trace],
        faults=[case.fault | {"at": f"{AT_MIN[case.trace]} min"}],
    )  # fmt: skip


def row(case: Case, plain: dict[str, Any]) -> str:
    """A case as a row of the table."""
    faults = plain["faults"]
    fault, healthy = faults["faults"][0], faults["healthy_effective_tokens"]
    failed = plain["failed"] + plain["rejected"]
    hits = sum(tier["hit_share"] for tier in plain["tiers"])
    cells = [
        case.name, case.system, f"{fault['ranks']}", f"{fault['down_s']:,.0f}",
        f"{fault['whole_s'] - fault['at_s']:,.0f}",
        f"{faults['lost_requests']:,}", f"{faults['retries']:,}", f"{failed:,}", f"{faults['lost_output_tokens']:,}",
        f"{faults['lost_kv_tokens']:,}", f"{hits:.1%}", f"{healthy:,}", f"{faults['lost_effective_share']:.2%}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def minutes(case: Case, plain: dict[str, Any]) -> Iterator[str]:
    """The minutes around the fault, as rows of a table."""
    series = plain["faults"]["series"]
    width = series["window_s"]
    first = int(AT_MIN[case.trace] * 60 // width)
    for index in range(max(first - 2, 0), min(first + 12, len(series["arrived"]))):
        times = (series[name][index] for name in ("median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "p99_tpot_ms"))
        texts = ["-" if value is None else f"{value:,.0f}" for value in times]
        cells = [f"{(index - first) * width / 60:+.0f}", f"{series['arrived'][index]:,}",
                 f"{series['failed'][index]:,}",
                 *texts, f"{series['effective_tok_s'][index]:,.0f}",
                 f"{series['healthy_effective_tok_s'][index]:,.0f}"]  # fmt: skip
        yield "| " + " | ".join(cells) + " |"


def unpacked(data: Path, folder: Path) -> None:
    """Put the traces of a folder into another one, unpacked."""
    for name in (AZURE, MOONCAKE):
        packed = data / f"{name}.xz"
        content = lzma.decompress(packed.read_bytes()) if packed.exists() else (data / name).read_bytes()
        (folder / name).write_bytes(content)


HEADINGS = ("deployment", "machine", "ranks lost", "down [s]", "whole after [s]", "requests lost", "sent again",
            "failed or refused", "output tokens lost", "KV tokens lost", "hits", "effective tokens without the fault",
            "lost")  # fmt: skip
BY_MINUTE = ("minute", "arrived", "failed", "TTFT p50 [ms]", "p99", "TPOT p50 [ms]", "p99", "effective tokens/s",
             "without the fault")  # fmt: skip


def table(headings: Sequence[str]) -> str:
    """The first two lines of a table."""
    return f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--case", type=int, action="append", help="number of a case; all cases without it")
    asked = parser.parse_args()
    chosen = range(len(CASES)) if asked.case is None else asked.case
    with tempfile.TemporaryDirectory() as name:
        unpacked(asked.data, Path(name))
        plains = {number: dict(run(CASES[number], Path(name)).plain()) for number in chosen}
    for trace in (AZURE, MOONCAKE):
        print(f"\n{trace} at {SCALES[trace]:g} times its rate\n\n{table(HEADINGS)}")
        for number, plain in plains.items():
            if CASES[number].trace == trace:
                print(row(CASES[number], plain))
    for number in MINUTES:
        if number in plains:
            print(f"\n{CASES[number].name}, {CASES[number].trace}\n\n{table(BY_MINUTE)}")
            print("\n".join(minutes(CASES[number], plains[number])))


if __name__ == "__main__":
    main()
