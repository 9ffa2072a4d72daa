"""AMD's kernels alone, beside the numbers that serving gave its families: python -m benchmarks.aiter DIR

DIR holds the tuned tables of AITER, AMD's library of kernels for vLLM, SGLang and atom: the folder `aiter/configs` of
the package amd-aiter (`pip download --no-deps amd-aiter`, then unzip). Each row has the time of the fastest kernel of a
shape:

    *_tuned_gemm*.csv   dense GEMMs: compute units of the device, M, N, K, time; the first word is the dtype
    *tuned_fmoe*.csv    fused kernels of routed experts on one device: tokens, widths, experts, dtypes, time

The script fits the formulas of a step on plain kernels (no scales for blocks: what engines lose with these has its own
number) of MI355X and MI308X, and prints the numbers beside those of both calibrations of the catalog. MI308X is MI300X
with 80 of its 304 compute units: of MI300X itself only GEMMs with scales for blocks were tuned.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.calibrate.factors import Factor, changed, quantities, turned
from tokenworks.calibrate.fit import fit
from tokenworks.calibrate.kernels.fit import SPREAD, START, RowProblem, measured_at
from tokenworks.calibrate.kernels.operations import LEAST, MOST, US, OperationRows
from tokenworks.costs import moe, parts
from tokenworks.costs.kernels import Gemm
from tokenworks.costs.rates import Rates
from tokenworks.costs.split import Split
from tokenworks.specs.calibration import Calibration, load_calibration, number
from tokenworks.specs.compose import machine
from tokenworks.specs.hf.formats import FP8, NVFP4
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Format
from tokenworks.specs.provenance import Quantity

MI355X, MI308X, MI300X = 256, 80, 304
"""Compute units of the devices, as the tables name them. MI350X has 256, too: the tables do not tell them apart."""

FORMS: Mapping[str, Format] = {"a8w8": FP8, "a4w4": NVFP4}
"""First word of the name of a table of GEMMs -> format. 8 bits are FP8 or INT8, with one peak on these devices."""

PLAIN = ("QuantType.per_Token", "QuantType.per_Tensor")
"""Kinds of scales of experts in FP8 that are read."""

GEMM_FIELDS = ("gemm.fp8", "gemm.fp4", "hbm", "kernel", "walk")
EXPERT_FIELDS = ("grouped.fp8", "experts_hbm", "experts_start", "expert")


class Shape(NamedTuple):
    """A tuned shape: a GEMM (m, n, k), or experts (tokens, hidden, inner, experts, topk); and its time [us]."""

    size: tuple[int, ...]
    us: float


def shapes(path: Path, units: int, keys: Sequence[str], **words: Sequence[str]) -> tuple[list[Shape], int]:
    """The rows of one device in a table, and the number of damaged rows: without a time, or with shifted fields.

    Parameters
    ----------
    path : the table
    units : compute units of the device
    keys : columns of the size
    words : column -> the values that are read
    """
    found, damaged = [], 0
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if any(row.get(column) not in values for column, values in words.items()):
                continue
            try:
                size, us = tuple(int(row[key] or "") for key in ("cu_num", *keys)), float(row["us"] or "")
            except (KeyError, TypeError, ValueError):
                damaged += 1
                continue
            if min(size) < 1 or not (math.isfinite(us) and us > 0):
                damaged += 1
            elif size[0] == units:
                found.append(Shape(size[1:], us))
    return found, damaged


def gemm_rows(folder: Path, units: int, on: Machine) -> tuple[list[OperationRows], int]:
    """Dense GEMMs of a device, one item for each format, and the number of damaged rows.

    Parameters
    ----------
    folder : folder of the tables
    units : compute units of the device
    on : machine with the device
    """
    items, damaged = [], 0
    for word, form in FORMS.items():
        best: dict[tuple[int, ...], float] = {}
        for path in sorted(folder.rglob(f"{word}_*tuned_gemm*.csv")):
            if "untuned" in path.name or (form is FP8 and "blockscale" in path.name):
                continue
            found, wrong = shapes(path, units, ("M", "N", "K"))
            damaged += wrong
            for (m, n, k), us in found:
                if min(n, k) >= LEAST and k <= MOST and m & (m - 1) == 0:
                    best[m, n, k] = min(us, best.get((m, n, k), math.inf))
        if best and form.compute in on.peak:
            m, n, k = np.array(list(best), float).T
            gemm = Gemm("dense", k, True, n, 0, 0, 1, form)
            items.append(OperationRows(f"gemm {form.name}", on, US * np.array(list(best.values())), _gemm(gemm, m)))
    return items, damaged


def _gemm(gemm: Gemm, rows: FloatArray) -> partial[FloatArray]:
    def predict(rates: Rates, gemm: Gemm, rows: FloatArray) -> FloatArray:
        return parts.gemm_part(gemm, rates, Split(), rows).seconds

    return partial(predict, gemm=gemm, rows=rows)


def expert_rows(folder: Path, units: int, on: Machine) -> tuple[list[OperationRows], int]:
    """Routed experts of a device in FP8, and the number of damaged rows. Tokens choose their experts at random.

    Parameters
    ----------
    folder : folder of the tables
    units : compute units of the device
    on : machine with the device
    """
    best: dict[tuple[int, ...], float] = {}
    damaged = 0
    keys = ("token", "model_dim", "inter_dim", "expert", "topk")
    for path in sorted(folder.rglob("*tuned_fmoe*.csv")):
        if "untuned" in path.name:
            continue
        dtypes = ("torch.float8_e4m3fn", "torch.float8_e4m3fnuz")
        found, wrong = shapes(path, units, keys, q_dtype_w=dtypes, q_type=PLAIN)
        damaged += wrong
        for size, us in found:
            if size[3] % 2 == 0:  # an odd number counts a shared expert as a routed one
                best[size] = min(us, best.get(size, math.inf))
    if not best:
        return [], damaged
    tokens, hidden, inner, experts, topk = np.array(list(best), float).T
    touched = moe.touched_experts(tokens, experts=experts, topk=topk, local=experts, skew=0.0)
    gemms = [Gemm("experts", k, True, n, 0, 0, 1, FP8) for n, k in ((2 * inner, hidden), (hidden, inner))]

    def predict(rates: Rates) -> FloatArray:
        each = [parts.grouped_part(gemm, rates, Split(), tokens * topk, touched).seconds for gemm in gemms]
        return sum(each) + rates.experts_start + touched * rates.expert

    return [OperationRows("experts fp8", on, US * np.array(list(best.values())), predict)], damaged


def small() -> Machine:
    """A machine with MI308X, which is not in the catalog."""
    whole = machine("hgx-mi300x")
    peak = {dtype: value * MI308X / MI300X for dtype, value in whole.peak.items()}
    return dataclasses.replace(whole, device="mi308x", peak=peak)


def fitted(prior: Calibration, rows: Sequence[OperationRows], fields: Sequence[str]) -> tuple[Calibration, np.ndarray]:
    """A fit of some numbers of a family on rows, and ln(predicted / measured) of each row.

    Parameters
    ----------
    prior : calibration with all other numbers
    rows : rows of one family
    fields : the numbers
    """
    name = rows[0].machine.family
    family = prior.families[name]
    for field in fields:
        start = START[field.partition(".")[0]]
        family = changed(family, field, partial(Quantity.model_copy, update={"value": start}))
    calibration = prior.model_copy(update={"families": prior.families | {name: family}})
    result = fit(RowProblem(calibration, rows), [Factor((name,), field, SPREAD, name) for field in fields], enough=1e-5)
    return turned(calibration, result.factors, result.theta), result.errors


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    catalog = {name: load_calibration(name) for name in ("datasheet", "serving")}
    for units, on in ((MI355X, machine("hgx-mi355x")), (MI308X, small())):
        (dense, lost), (experts, more) = gemm_rows(folder, units, on), expert_rows(folder, units, on)
        if not dense or not experts:
            sys.exit(f"{folder}: no GEMMs or no experts of {on.device}: give the folder aiter/configs of amd-aiter")
        print(f"{on.device}, family {on.family}; {lost + more} damaged rows are left out")
        calibration = measured_at(catalog["datasheet"].standalone([on.family]), [on])
        formats = {item.name.rpartition(" ")[2] for item in dense}
        gemm = [field for field in GEMM_FIELDS if field != "gemm.fp4" or "nvfp4" in formats]
        for rows, fields in ((dense, gemm), (experts, EXPERT_FIELDS)):
            calibration, errors = fitted(calibration, rows, fields)
            print(f"  {len(errors)} rows, mean |log error| {np.mean(np.abs(errors)):.2f}")
            for field in fields:
                numbers = [calibration, *catalog.values()]
                words = [f"{number(quantities(one.families[on.family], field)[0]):.3g}" for one in numbers]
                print(f"    {field:14} kernels {words[0]:>9}   datasheet {words[1]:>9}   serving {words[2]:>9}")


if __name__ == "__main__":
    main()
