"""Tables of docs/experts.md: layers of routed experts by popularity and width, measured layers, and EPLB in runs.

`python -m benchmarks.experts [SECTION ...]` writes the tables between the marks of docs/experts.md. Sections:
imbalance, layers, touched, crossing, deepep, hygon, runs; all without an argument. `hygon` reads
../shared/hygon/megamoe_dcu.csv.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.calibrate.kernels.hygon import layer_rows, tokens_of
from tokenworks.costs import moe, parts, step
from tokenworks.costs.breakdown import Parts
from tokenworks.costs.kernels import Kernels, kernels
from tokenworks.costs.placement import TOKENS, balance, balanced, plain, rank_loads, slot_loads
from tokenworks.costs.popularity import by_order, visits, zipf
from tokenworks.costs.rates import Rates, rates
from tokenworks.costs.split import Split
from tokenworks.simulation.run import simulate
from tokenworks.simulation.source import Source
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.engine import load_engine
from tokenworks.specs.hf import load_model
from tokenworks.specs.machine import Machine

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "experts.md"
SHARED = ROOT.parent / "shared" / "hygon"
R1 = load_model("deepseek-ai/DeepSeek-R1")
EXPERTS, TOPK, LAYERS, HIDDEN = 256, 8, 58, 7168
ALPHAS = (0.0, 0.4, 0.8, 1.2)
BATCH, CONTEXT = 128.0, 4096.0
"""Sequences that decode on each device, and tokens of their contexts."""
US = 1e6


def popularity(alpha: float, seed: int = 1) -> Floats:
    """Probabilities of a visit to the experts of DeepSeek-R1, in 58 layers with an order of their own."""
    scores = np.random.default_rng(seed).standard_normal((LAYERS, EXPERTS))
    return by_order(visits(zipf(EXPERTS, alpha), TOPK), scores)


def reached(on: Machine) -> Rates:
    """Rates of a machine with the default calibration."""
    return rates(on, load_calibration())


def five_hosts() -> Machine:
    """The cards of scaleX40 as five hosts of eight, with the network of `5xhgx-h100` between them."""
    box, hosts = machine("scalex40"), machine("5xhgx-h100")
    return dataclasses.replace(box, domain=8, scale_out=hosts.scale_out, network=hosts.network)


def one_layer() -> Kernels:
    """One layer of routed experts of DeepSeek-R1."""
    whole = kernels(R1.blocks, R1.kv_heads)
    return dataclasses.replace(whole, experts=((whole.experts[0][0], 1),))


def layer(known: Rates, ep: int, redundant: int, *, decoded: float = 0.0, prefill: float = 0.0) -> Parts:
    """Cost of the experts of one layer with dispatch and combine."""
    batch = parts.RankBatch(decoded, 0.0, 1.0, prefill, 0.0, 0.0, ep * (decoded + prefill))
    return parts.expert_parts(one_layer(), known, Split(dp=ep, ep=ep, redundant=redundant), batch)


def speed(known: Rates, ep: int, redundant: int) -> float:
    """Output tokens of a decode step per second and device."""
    load = step.Batch(decode=BATCH * ep, context=BATCH * CONTEXT * ep)
    split = Split(dp=ep, ep=ep, redundant=redundant, kv_bytes=1.0)
    return BATCH / float(step.step(R1, known, split, load, engine=load_engine("sglang")).seconds)


# ── sections ──────────────────────────────────────────────────────────────────────────────────────────────────────


def imbalance() -> Iterator[str]:
    """A published measurement of DeepSeek-R1, and what one number of it predicts of the others."""
    yield "| | measured | alpha 0.6 | alpha 0.68 | alpha 0.8 |"
    yield "|---|---:|---:|---:|---:|"
    at, count = TOKENS.index(4096.0), 4096 * TOPK / EXPERTS
    names = ("tokens of an expert: standard deviation / mean", "hottest expert / mean",
             "EP32, 8 slots, no EPLB: tokens of a rank: standard deviation / mean", "hottest rank / mean",
             "EP32, 9 slots, EPLB: hottest rank / mean", "hottest slot / mean",
             "EP36, 8 slots, EPLB: hottest rank / mean", "hottest slot / mean")  # fmt: skip
    measured = (164.1 / 128, 11.948, 491.6 / 1024, 2.564, 1.109, 2.792, 1.115, 2.791)
    columns = []
    for alpha in (0.6, 0.68, 0.8):
        chosen = popularity(alpha)
        share = visits(zipf(EXPERTS, alpha), TOPK) * EXPERTS / TOPK
        start = plain(LAYERS, EXPERTS, 0, 32)
        column = [np.sqrt(share.var() + 1 / count), share.max(), rank_loads(chosen, start, 32).std(axis=1).mean(),
                  balance(chosen, start, 32).hot[at]]  # fmt: skip
        for ep in (32, 36):
            made = balanced(chosen, 32, ep)
            slots = slot_loads(chosen, made)
            column += [balance(chosen, made, ep).hot[at], (slots.max(axis=1) / slots.mean(axis=1)).mean()]
        columns.append(column)
    for i, name in enumerate(names):
        yield f"| {name} | {measured[i]:.2f} | " + " | ".join(f"{column[i]:.2f}" for column in columns) + " |"


def layers() -> Iterator[str]:
    """Hottest rank, touched experts, layer times, and speed of decode, with and without EPLB."""
    yield (
        "| cards | alpha | hottest / mean | dispatch | GEMMs | combine | layer | tok/s a card | with EPLB: hottest | "
        "dispatch | GEMMs | combine | layer | tok/s a card |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    cases = [(f"scaleX40, EP{ep}", machine("scalex40"), ep) for ep in (8, 16, 32, 40)]
    cases += [
        ("the same cards as 5 hosts x 8, EP40", five_hosts(), 40),
        ("5xhgx-h100, EP40", machine("5xhgx-h100"), 40),
    ]
    for name, on, ep in cases:
        for alpha in ALPHAS:
            yield f"| {name} | {alpha:g} |" + "|".join(_layer_cells(on, ep, alpha)) + " |"


def _layer_cells(on: Machine, ep: int, alpha: float) -> Iterator[str]:
    """Cells of one row of `layers`."""
    chosen, least = popularity(alpha), -EXPERTS % ep
    spare = least or ep  # EPLB with a slot more on each rank, where the experts fill the slots
    for placement, redundant in (
        (plain(LAYERS, EXPERTS, least, ep), least), (balanced(chosen, spare, ep), spare),
    ):  # fmt: skip
        tables = balance(chosen, placement, ep)
        known = dataclasses.replace(reached(on), balance=tables)
        costs = layer(known, ep, redundant, decoded=BATCH)
        times = {part: float(cost.seconds) * US for part, cost in costs.items()}
        yield f" {float(tables.hottest_load(BATCH * ep)):.2f} "
        yield from (f" {times[part]:.0f} " for part in ("dispatch", "experts", "combine"))
        yield f" {sum(times.values()):.0f} "
        yield f" {speed(known, ep, redundant):,.0f}"


def touched() -> Iterator[str]:
    """Touched experts of the rank that touches most, and hottest rank, by batch."""
    yield "| routed tokens | " + " | ".join(f"alpha {alpha:g}: {kind}" for alpha in (0.0, 0.8) for kind in (
        "7 slots", "7 slots, EPLB", "8 slots, EPLB")) + " |"  # fmt: skip
    yield "|---:|" + "---:|" * 6
    tables = []
    for alpha in (0.0, 0.8):
        chosen = popularity(alpha)
        placements = (plain(LAYERS, EXPERTS, 24, 40), balanced(chosen, 24, 40), balanced(chosen, 64, 40))
        tables += [balance(chosen, placement, 40) for placement in placements]
    for tokens in (16.0, 64.0, 256.0, 1024.0, 4096.0):
        cells = [f"{float(one.hottest_touched(tokens)):.1f}, {float(one.hottest_load(tokens)):.2f}" for one in tables]
        yield f"| {tokens:,.0f} | " + " | ".join(cells) + " |"


def crossing() -> Iterator[str]:
    """Copies of a token inside and between hosts."""
    yield (
        "| experts over | low-latency: inside | between | high-throughput: inside | between | "
        "with groups of the router: between |"
    )
    yield "|---|---:|---:|---:|---:|---:|"
    for name, ep, domain in (
        ("EP8, one host", 8, 8), ("EP40, one box", 40, 40), ("EP16, 2 hosts", 16, 8), ("EP32, 4 hosts", 32, 8),
        ("EP40, 5 hosts", 40, 8), ("EP64, 8 hosts", 64, 8),
    ):  # fmt: skip
        where = {"ep": ep, "expert_tp": 1, "domain": domain}
        near, far = moe.direct_copies(TOPK, **where)
        inside, between = moe.forwarded_copies(TOPK, **where)
        hosts = ep // domain
        limit = "-"
        if 8 % hosts == 0:
            held = moe.limited_domains(TOPK, hosts, groups=8, chosen=4)
            limit = f"{held * (1 - 1 / hosts):.2f}"
        yield f"| {name} | {near:.2f} | {far:.2f} | {inside:.2f} | {between:.2f} | {limit} |"


LOW_LATENCY = ((8, 77, 114), (16, 118, 195), (32, 155, 273), (64, 173, 314), (128, 192, 369), (256, 194, 360))
"""DeepEP, docs/legacy.md: EP, dispatch and combine of low-latency kernels, 128 tokens of a rank on H800 [us]."""
CLOUDMATRIX = ((8, 116, 118), (256, 152, 149))
"""CloudMatrix384, arXiv:2506.12708: EP, dispatch and combine of 128 tokens of a rank [us]."""
NORMAL = ((16, 43, 43), (32, 58, 57), (64, 51, 50))
"""DeepEP, docs/legacy.md: EP, dispatch and combine bandwidth of normal kernels, 4,096 tokens of a rank [GB/s]."""


def deepep() -> Iterator[str]:
    """Published times of dispatch and combine, and predictions with equally popular experts."""
    yield "| kernels | EP | dispatch measured | predicted | error | combine measured | predicted | error |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for name, on, rows in (
        ("DeepEP low-latency, H800", "{}xhgx-h800", LOW_LATENCY), ("CloudMatrix384", "cloudmatrix384", CLOUDMATRIX),
    ):  # fmt: skip
        for ep, out, back in rows:
            known = _equal(reached(machine(on.format(ep // 8))), ep)
            costs = layer(known, ep, 0, decoded=128.0)
            yield f"| {name} | {ep} | " + _pairs(costs, out, back)
    for ep, out, back in NORMAL:
        hosts = ep // 8
        held = moe.limited_domains(TOPK, hosts, groups=8, chosen=4)
        copies = 4096 * HIDDEN * held
        known = _equal(reached(machine(f"{hosts}xhgx-h800")), ep)
        measured = copies / out / 1e3, 2 * copies / back / 1e3
        yield f"| DeepEP normal, H800 | {ep} | " + _pairs(layer(known, ep, 0, prefill=4096.0), *measured)
        yield f"| the same with groups of the router | {ep} | " + _pairs(_limited(known, ep, held), *measured)


def _limited(known: Rates, ep: int, held: float) -> Parts:
    """Dispatch and combine of a prefill whose tokens reach `held` hosts."""
    inside, _ = moe.forwarded_copies(TOPK, ep=ep, expert_tp=1, domain=8)
    split, hot = Split(dp=ep, ep=ep), known.balance.hottest_load(4096.0 * ep) if known.balance else 1.0
    sizes = {"dispatch": 4096 * HIDDEN * hot, "combine": 2 * 4096 * HIDDEN * hot}
    between = held * (1 - 8 / ep)
    return {
        part: parts.exchange_part(inside * size, between * size, known, split) for part, size in sizes.items()
    }  # fmt: skip


def _equal(known: Rates, ep: int) -> Rates:
    """Rates with equally popular experts, as benchmarks of kernels have them."""
    return dataclasses.replace(known, balance=balance(popularity(0.0)[:1], plain(1, EXPERTS, 0, ep), ep))


def _pairs(costs: Parts, out: float, back: float) -> str:
    cells = []
    for part, measured in (("dispatch", out), ("combine", back)):
        predicted = float(costs[part].seconds) * US
        cells += [f"{measured:,.0f}", f"{predicted:,.0f}", f"{predicted / measured - 1:+.0%}"]
    return " | ".join(cells) + " |"


def hygon() -> Iterator[str]:
    """Layers of DeepSeek-V4-Flash on a Hygon supernode and on a server with eight cards."""
    yield (
        "| layer, tokens of a rank | measured [ms] | alpha 0 | error | alpha 0.68 | error | alpha 0.68, EPLB | error |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for item in layer_rows(SHARED, skew=None):
        ep = int(item.name.rsplit("EP", 1)[1])
        columns = []
        for alpha, moved in ((0.0, False), (0.68, False), (0.68, True)):
            chosen = by_order(visits(zipf(256, alpha), 6), np.random.default_rng(1).standard_normal((43, 256)))
            placement = balanced(chosen, 0, ep) if moved else plain(43, 256, 0, ep)
            known = dataclasses.replace(reached(item.machine), balance=balance(chosen, placement, ep))
            columns.append(np.asarray(item.predict(known)))
        for i, tokens in enumerate(tokens_of(SHARED, item.name)):
            measured = float(item.measured[i])
            cells = [f"{1e3 * float(one[i]):.3g} | {float(one[i]) / measured - 1:+.0%}" for one in columns]
            yield f"| {item.name}, {tokens:,.0f} | {1e3 * measured:.3g} | " + " | ".join(cells) + " |"


def runs() -> Iterator[str]:
    """DeepSeek-R1 with EP40 in a closed loop, while the popularity drifts."""
    yield (
        "| machine | half-life | EPLB | hottest / mean | without EPLB | rebalances | moved inside [GB] | "
        "between hosts [GB] | paused [s] | TPOT mean [ms] | tok/s a card |"
    )
    yield "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for on, tp in (("scalex40", 1), ("5xhgx-h100", 1)):
        for half_life in (None, "8 h", "1 h"):
            for eplb in (None, {"every_steps": 3000}, {"every_steps": 500}):
                yield _run(on, tp, half_life, eplb)


def _run(on: str, tp: int, half_life: str | None, eplb: dict[str, Any] | None) -> str:
    role = {
        "parallel": {"tp": tp, "dp": 40 // tp, "ep": 40}, "redundant_experts": 24, "max_sequences": 40 * 64,
        "chunk_tokens": 40 * 512, "kv_dtype": "fp8", "eplb": eplb or {"every_steps": 10**9},
    }  # fmt: skip
    deployment = Deployment.model_validate(
        {"model": "deepseek-ai/DeepSeek-R1", "system": on, "engine": "sglang", "roles": [role]}
    )
    source = Source.read(None, {"isl": 1000, "osl": 1000, "concurrency": 1600}, requests=16_000)
    load = {"alpha": 0.68} | ({"half_life": half_life} if half_life else {})
    run = simulate(deployment, source.traffic(), experts=load)
    one = run.plain()["experts"]["roles"][0]
    words = f"every {eplb['every_steps']:,} steps" if eplb else "off"
    return (
        f"| {on} | {half_life or 'no drift'} | {words} | {one['balance']:.2f} | {one['plain_balance']:.2f} | "
        f"{one['rebalances']} | {one['moved_inside_bytes'] / 1e9:,.0f} | {one['moved_between_bytes'] / 1e9:,.0f} | "
        f"{one['pause_s']:.1f} | {run.metrics.mean_tpot_ms:.1f} | {run.metrics.output_throughput / 40:,.0f} |"
    )


SECTIONS: dict[str, Callable[[], Iterator[str]]] = {
    "imbalance": imbalance, "layers": layers, "touched": touched, "crossing": crossing, "deepep": deepep,
    "hygon": hygon, "runs": runs,
}  # fmt: skip


def write(section: str) -> None:
    """Write the table of a section between its marks."""
    table = "\n".join(SECTIONS[section]())
    print(table)
    text = PAGE.read_text(encoding="utf-8")
    first, last = f"<!-- {section}: written by benchmarks/experts.py -->", f"<!-- end of {section} -->"
    before, rest = text.split(first)
    PAGE.write_text(f"{before}{first}\n{table}\n{last}{rest.split(last)[1]}", encoding="utf-8")


if __name__ == "__main__":
    for chosen_section in sys.argv[1:] or SECTIONS:
        write(chosen_section)
