"""Public kernel times of Hygon's BW1100, BW1000 and their sister cards as calls of the cost functions.

This module reads the CSV tables and contains no physics, as `operations`. The tables hold four kinds of rows:

- `hygon_bw1100_kernels.csv`: GEMM, grouped GEMM and attention of training, forward and backward together [1],
- `hygon_fmoe_aiter.csv`: fused kernels of routed experts on one card, INT8 and FP8 [2],
- `megamoe_dcu.csv`: a layer of routed experts with dispatch and combine on 8 and 16 sister cards [3],
- `hygon_bw1100_card.csv`: readings of power and memory, which no fit uses.

References
----------
[1] HYGON-AI/hcu-train-simulator, bw1100_torch271_dtk2604.yaml @55da280 (Apache-2.0), BF16, measured 2026-08-05.
[2] HYGON-AI/aiter-das, tuned_fmoe_asm_w8a8_channel.csv @2d34506.
[3] Notes of a port of MegaMoE to the DCU, a public user repository, June and July 2026.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tokenworks.arrays import FloatArray, Floats
from tokenworks.calibrate.kernels.operations import MS, US, OperationRows
from tokenworks.costs import moe, parts, roofline
from tokenworks.costs.kernels import ExpertLayer, Gemm, Kernels
from tokenworks.costs.rates import Rates
from tokenworks.costs.split import Split
from tokenworks.errors import SpecError
from tokenworks.specs.compose import machine
from tokenworks.specs.hf.formats import FP8, integers
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import BF16, Experts, Format, Scan

KERNELS, FUSED, EXCHANGED = "hygon_bw1100_kernels.csv", "hygon_fmoe_aiter.csv", "megamoe_dcu.csv"
"""Names of the tables."""

PASSES = 3
"""Products of a GEMM in training: the output, the gradient of the input, and the gradient of the weight [count]."""

AGREE = 0.02
"""Largest relative difference of a row's rate and the rate that its time gives; rounding is 0.5 % [-]."""

BACKWARD = 2.5 * 0.73 / 0.63
"""Time of backward attention / time of forward attention [-]. Backward has 2.5 times the work (five products against
two). It reaches 0.63 of the peak of an A100, and forward 0.73 (FlashAttention-2, arXiv:2307.08691, section 4.1)."""

INT8 = integers(8, None, zeros=False, activations=8)
LINK = {"device.scale_up.bandwidth": "64 GB/s", "scale_up.hop": "0.25 us", "scale_up.endpoint": "0.45 us",
        "device.nic": "50 GB/s"}  # fmt: skip
"""Links of BW1000, which are not published. No row of one card depends on them."""

SAME = {"device.peak.int8": "700 TOP/s"}
"""INT8 peak of BW1100, which is not published: as FP8, because the same expert layer takes the same time in both. The
time of a row depends on the product of this peak and its utilisation."""

LAYER = Experts(count=256, topk=6, hidden=4096, intermediate=2048)
"""Routed experts of a layer of DeepSeek-V4-Flash, which the rows with dispatch and combine ran."""

ON = {"TX32 node": "tx32", "8x BW1101 node": "scalex40:8"}
"""Machine of the rows with dispatch and combine -> machine of the catalog. BW1101 counts as a card of the scaleX40."""

LOW_LATENCY = "LL graph"
ATTENTION = re.compile(r"causal b(?P<batch>\d+) s(?P<tokens>\d+) h(?P<heads>\d+) d(?P<key>\d+)(/(?P<value>\d+))?")


def gemm_rows(folder: Path) -> list[OperationRows]:
    """GEMMs of training, one item for each row: the three products of forward and backward.

    A row is left out if its rate contradicts its time: the row 7168 x 2048 states 105 TFLOP/s, and its time gives 240.

    Parameters
    ----------
    folder : folder of the tables

    Raises
    ------
    SpecError : the table is missing, or a row is not valid
    """
    card, items = machine("scalex40"), []
    for row in _rows(folder / KERNELS, ("kind", "op", "m", "n", "k", "mean_ms", "tflops")):
        if row["kind"] == "gemm":
            out, tokens, inputs = (row.number(key) for key in ("m", "n", "k"))
            rate = PASSES * float(roofline.gemm_flop(tokens, out, inputs)) / (MS * row.number("mean_ms"))
            if abs(rate / (1e12 * row.number("tflops")) - 1) < AGREE:
                name = f"{row['op']} {out:.0f} x {inputs:.0f}"
                items.append(
                    trained_gemm(name, card, out=out, tokens=tokens, inputs=inputs, seconds=MS * row.number("mean_ms"))
                )
    return items


def trained_gemm(
    name: str, card: Machine, *, out: float, tokens: float, inputs: float, seconds: float, form: Format = BF16
) -> OperationRows:
    """A measured GEMM of training: the output, the gradient of the input, and the gradient of the weight.

    Parameters
    ----------
    name : name of the row
    card : machine of one card
    out : outputs of the layer [count]
    tokens : rows of the input [token]
    inputs : inputs of the layer [count]
    seconds : measured time of the three products together [s]
    form : format of the numbers
    """
    products = ((tokens, inputs, out), (tokens, out, inputs), (out, tokens, inputs))

    def predict(rates: Rates) -> FloatArray:
        times = [
            parts.gemm_part(_gemm(outputs, inner, form), rates, Split(), rows).seconds
            for rows, inner, outputs in products
        ]
        return sum(times)

    return OperationRows(name, card, np.array([seconds]), predict)


def grouped_rows(folder: Path) -> list[OperationRows]:
    """Grouped GEMMs of training, one item for each row.

    Parameters
    ----------
    folder : folder of the tables

    Raises
    ------
    SpecError : the table is missing, or a row is not valid
    """
    card, items = machine("scalex40"), []
    for row in _rows(folder / KERNELS, ("kind", "op", "m", "n", "k", "mean_ms")):
        if row["kind"].startswith("grouped_gemm_"):
            experts = row["kind"].rpartition("_")[2]
            if not experts.isdecimal() or not int(experts):
                raise SpecError(f"kind: {row['kind']!r} does not end with a number of experts", where=row.where)
            out, inputs, tokens = (row.number(key) for key in ("m", "n", "k"))
            name = f"{row['kind']} {row['op']}"
            items.append(
                trained_experts(
                    name,
                    card,
                    experts=float(experts),
                    out=out,
                    inputs=inputs,
                    tokens=tokens,
                    seconds=MS * row.number("mean_ms"),
                )
            )
    return items


def trained_experts(
    name: str, card: Machine, *, experts: float, out: float, inputs: float, tokens: float, seconds: float,
    form: Format = BF16,
) -> OperationRows:  # fmt: skip
    """A measured grouped GEMM of training.

    The three products have equal work, and each reads or writes the weights once, so their time is three times the
    time of the forward product.

    Parameters
    ----------
    name : name of the row
    card : machine of one card
    experts : experts on the card [count]
    out, inputs : outputs and inputs of one expert [count]
    tokens : tokens of each expert [token]
    seconds : measured time of the three products together [s]
    form : format of the numbers
    """
    gemm = _gemm(out, inputs, form)

    def predict(rates: Rates) -> FloatArray:
        return PASSES * parts.grouped_part(gemm, rates, Split(), experts * tokens, experts).seconds

    return OperationRows(name, card, np.array([seconds]), predict)


def attention_rows(folder: Path) -> list[OperationRows]:
    """Attention of training, one item for each row, see `trained_attention`.

    Parameters
    ----------
    folder : folder of the tables

    Raises
    ------
    SpecError : the table is missing, or a row is not valid
    """
    card, items = machine("scalex40"), []
    for row in _rows(folder / KERNELS, ("kind", "op", "mean_ms")):
        if row["kind"] == "flash_attn":
            shape = ATTENTION.match(row["op"])
            if shape is None:
                raise SpecError(f"op: {row['op']!r} is not like 'causal b1 s4096 h32 d128'", where=row.where)
            sizes = {key: float(value) for key, value in shape.groupdict().items() if value and key != "3"}
            items.append(trained_attention(row["op"], card, sizes, MS * row.number("mean_ms")))
    return items


def trained_attention(
    name: str, card: Machine, sizes: Mapping[str, float], seconds: float, *, causal: bool = True
) -> OperationRows:
    """A measured attention of training: forward takes 1 / (1 + `BACKWARD`) of the time.

    Parameters
    ----------
    name : name of the row
    card : machine of one card
    sizes : batch [sequence], tokens of a sequence [token], heads [count], key and value width of a head [count];
        without a value width, both are equal
    seconds : measured time of forward and backward together [s]
    causal : whether a token only sees the tokens before it
    """
    heads, key = sizes["heads"], sizes["key"]
    value = sizes.get("value", key)
    flop = 2 * heads * (key + value)
    scan = Scan("heads", 1, None, None, heads * (key + value), int(heads), int(heads), flop, flop)
    stack = Kernels(layers=1, gemms=(), experts=(), scans=((scan, 1),), states=(), reduces=0, moe_reduces=0)
    tokens = sizes["batch"] * sizes["tokens"]
    context = (sizes["tokens"] + 1) / 2 if causal else sizes["tokens"]
    batch = parts.RankBatch(0.0, 0.0, 1.0, tokens, tokens * context, 0.0, 0.0)

    def predict(rates: Rates) -> FloatArray:
        return parts.attention_parts(stack, rates, Split(), batch)["attention"].seconds

    return OperationRows(name, card, np.array([seconds / (1 + BACKWARD)]), predict)


def expert_rows(folder: Path) -> list[OperationRows]:
    """Fused kernels of routed experts on one card, one item for each card, dtype and shape.

    Tokens choose their experts at random: the table states the share of experts that got a token.

    Parameters
    ----------
    folder : folder of the tables

    Raises
    ------
    SpecError : the table is missing, or a row is not valid
    """
    cards = {"gfx938": machine("scalex40", assume=SAME), "gfx936": machine("bw1000-8", assume=LINK)}
    series: dict[tuple[str, ...], list[_Row]] = {}
    keys = ("arch", "quant", "dim", "inter", "experts", "topk")
    for row in _rows(folder / FUSED, (*keys, "tokens", "time_us")):
        if row["arch"] not in cards:
            raise SpecError(f"arch: {row['arch']!r} is not one of {', '.join(cards)}", where=row.where)
        if row["quant"] not in ("int8", "fp8"):
            raise SpecError(f"quant: {row['quant']!r} is not int8 or fp8", where=row.where)
        series.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [_expert_series(rows, cards[rows[0]["arch"]]) for rows in series.values()]


def _expert_series(rows: Sequence[_Row], card: Machine) -> OperationRows:
    first = rows[0]
    form = FP8 if first["quant"] == "fp8" else INT8
    hidden, inner, experts, topk = (first.number(key) for key in ("dim", "inter", "experts", "topk"))
    tokens = np.array([row.number("tokens") for row in rows])
    touched = moe.touched_experts(tokens, experts=experts, topk=topk, local=experts, skew=0.0)
    gemms = (_gemm(2 * inner, hidden, form), _gemm(hidden, inner, form))

    def predict(rates: Rates) -> FloatArray:
        times = [parts.grouped_part(gemm, rates, Split(), tokens * topk, touched).seconds for gemm in gemms]
        return sum(times) + rates.experts_start + touched * rates.expert

    name = f"{first['arch']} {first['quant']} {hidden:.0f} x {inner:.0f}, {experts:.0f} experts"
    return OperationRows(name, card, US * np.array([row.number("time_us") for row in rows]), predict)


def layer_rows(folder: Path, *, most: float = np.inf, skew: float | None = 0.0) -> list[OperationRows]:
    """A layer of routed experts with dispatch and combine, one item for each machine, mode and number of ranks.

    Parameters
    ----------
    folder : folder of the tables
    most : largest number of tokens of a rank that is read [token]
    skew : log-deviation of expert popularity; None: the skew of the calibration [-]

    Raises
    ------
    SpecError : the table is missing, or a row is not valid
    """
    series: dict[tuple[str, ...], list[_Row]] = {}
    keys = ("machine", "mode", "ep")
    for row in _rows(folder / EXCHANGED, (*keys, "tokens_per_rank", "ms")):
        if row["machine"] not in ON:
            raise SpecError(f"machine: {row['machine']!r} is not one of {', '.join(ON)}", where=row.where)
        if row.number("tokens_per_rank") <= most:
            series.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [_layer_series(rows, skew) for rows in series.values()]


def _layer_series(rows: Sequence[_Row], skew: float | None) -> OperationRows:
    first, tokens = rows[0], np.array([row.number("tokens_per_rank") for row in rows])
    ranks, nothing = int(first.number("ep")), np.zeros(len(rows))
    gemms = (_gemm(2.0 * LAYER.intermediate, LAYER.hidden, FP8), _gemm(LAYER.hidden, LAYER.intermediate, FP8))
    layer = ExpertLayer(LAYER, gemms, send=1.0)
    stack = Kernels(layers=1, gemms=(), experts=((layer, 1),), scans=(), states=(), reduces=0, moe_reduces=0)
    decoded, prefill = (tokens, nothing) if first["mode"] == LOW_LATENCY else (nothing, tokens)
    batch = parts.RankBatch(decoded, nothing, 1.0, prefill, nothing, nothing, ranks * tokens)

    def predict(rates: Rates) -> FloatArray:
        rates = rates if skew is None else dataclasses.replace(rates, skew=skew, rank_skew=skew)
        costs = parts.expert_parts(stack, rates, Split(dp=ranks, ep=ranks), batch)
        return sum(cost.seconds for cost in costs.values())

    name = f"{first['machine']}, {first['mode']}, EP{ranks}"
    return OperationRows(name, machine(ON[first["machine"]]), MS * _column(rows, "ms"), predict)


def tokens_of(folder: Path, name: str) -> Floats:
    """Tokens of a rank for the rows of one item of `layer_rows` [token].

    Parameters
    ----------
    folder : folder of the tables
    name : name of the item
    """
    rows = [
        row for row in _rows(folder / EXCHANGED, ("machine", "mode", "ep", "tokens_per_rank"))
        if name == f"{row['machine']}, {row['mode']}, EP{row['ep']}"
    ]  # fmt: skip
    return _column(rows, "tokens_per_rank")


def _gemm(outputs: float, inputs: float, form: Format) -> Gemm:
    """A GEMM on one device."""
    return Gemm("dense", inputs, True, outputs, 0, 0, 1, form)


class _Row(dict[str, str]):
    """One line of a table; where : file and line, for messages."""

    where = ""

    def number(self, key: str) -> float:
        """A number above zero."""
        try:
            value = float(self[key])
        except ValueError:
            value = np.nan
        if not (np.isfinite(value) and value > 0):
            raise SpecError(f"{key}: {self[key]!r} is not a number above zero", where=self.where)
        return value


def _column(rows: Sequence[_Row], key: str) -> Floats:
    return np.array([row.number(key) for row in rows])


def _rows(path: Path, columns: Sequence[str]) -> Iterator[_Row]:
    """The lines of a table without its comments."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot be read: {error}", where=str(path)) from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    reader = csv.DictReader(line for _, line in numbered)
    missing = [key for key in columns if key not in (reader.fieldnames or ())]
    if missing:
        raise SpecError(f"has no column {', '.join(missing)}", where=str(path))
    for (number, _), content in zip(numbered[1:], reader, strict=True):
        row = _Row({key: value or "" for key, value in content.items() if key})
        row.where = f"{path}:{number}"
        yield row
