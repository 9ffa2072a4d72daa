"""Tables of AITER: rows that are read, damaged rows, and a fit that finds the numbers that a table was made with."""

import dataclasses
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from benchmarks.aiter import EXPERT_FIELDS, GEMM_FIELDS, MI308X, MI355X, expert_rows, fitted, gemm_rows, small

from tokenworks.calibrate.factors import changed, quantities
from tokenworks.costs.rates import rates
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.provenance import Quantity

PRIOR = load_calibration("datasheet")
GEMM = "cu_num,M,N,K,us"
EXPERT = "cu_num,token,model_dim,inter_dim,expert,topk,q_dtype_w,q_type,us"
FP8 = "torch.float8_e4m3fn,QuantType.per_Token"


def write(root: Path, name: str, head: str, rows: list[str]) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join([head, *rows]) + "\n")


def test_the_quickest_row_of_a_shape_counts_and_damaged_rows_are_counted(tmp_path: Path) -> None:
    """Of four tables one is for shapes that wait for tuning, and one for scales of blocks. Times are in us."""
    good = "256,32,4096,4096,9.5"
    write(
        tmp_path, "a8w8_tuned_gemm.csv", GEMM, [good, "256,32,4096,4096,0", "256,many,4096,4096,9", "80,32,4096,4096,7"]
    )
    write(
        tmp_path, "model_configs/a8w8_bpreshuffle_tuned_gemm_x.csv", GEMM, ["256,32,4096,4096,8.5", "256,32,256,4096,1"]
    )
    write(tmp_path, "a8w8_untuned_gemm.csv", "M,N,K", ["32,4096,4096"])
    write(tmp_path, "a8w8_blockscale_tuned_gemm.csv", GEMM, ["256,32,4096,4096,1"])
    (rows,), damaged = gemm_rows(tmp_path, MI355X, machine("hgx-mi355x"))
    assert rows.measured == pytest.approx([8.5e-6])
    assert damaged == 2


def test_experts_by_hand(tmp_path: Path) -> None:
    """128 tokens reach 252 of 256 experts of MI308X: their weights at 0.75 of 5.3 TB/s, a start and 252 experts."""
    write(
        tmp_path, "tuned_fmoe.csv", EXPERT, [f"80,128,7168,256,256,8,{FP8},500", "80,128,7168,256,256,8,torch.int8,x,1"]
    )
    (rows,), damaged = expert_rows(tmp_path, MI308X, small())
    touched = 256 * (1 - (1 - 8 / 256) ** 128)
    memory = touched * 3 * 7168 * 256 / (0.75 * 5.3e12)
    assert rows.measured == pytest.approx([5e-4])
    assert rows.predict(rates(rows.machine, PRIOR)) == pytest.approx(memory + 60e-6 + touched * 200e-9, rel=0.1)
    assert damaged == 0


def test_numbers_that_made_a_table_are_found(tmp_path: Path) -> None:
    sizes = product((1, 32, 512, 8192), ((512, 1024), (4096, 4096), (1024, 8192), (16384, 8192)))
    write(tmp_path, "a8w8_tuned_gemm.csv", GEMM, [f"256,{m},{n},{k},1" for m, (n, k) in sizes])
    shapes = product((1, 16, 128, 1024, 16384), ("7168,256,256,8", "4096,384,128,8", "7168,2048,256,8"))
    write(tmp_path, "tuned_fmoe.csv", EXPERT, [f"256,{tokens},{shape},{FP8},1" for tokens, shape in shapes])
    on = machine("hgx-mi355x")
    put = {"gemm.fp8": 0.45, "hbm": 0.7, "kernel": 3e-6, "walk": 1.2e-9, "grouped.fp8": 0.4, "experts_hbm": 0.6,
           "experts_start": 20e-6, "expert": 1.5e-7}  # fmt: skip
    family = PRIOR.families[on.family]
    for field, value in put.items():
        family = changed(family, field, partial(Quantity.model_copy, update={"value": value}))
    truth = PRIOR.model_copy(update={"families": PRIOR.families | {on.family: family}})
    found = PRIOR
    for (rows, _), fields in (
        (gemm_rows(tmp_path, MI355X, on), [field for field in GEMM_FIELDS if field != "gemm.fp4"]),
        (expert_rows(tmp_path, MI355X, on), EXPERT_FIELDS),
    ):
        timed = [dataclasses.replace(one, measured=np.asarray(one.predict(rates(on, truth)))) for one in rows]
        found, errors = fitted(found, timed, fields)
        assert np.abs(errors).max() < 0.05
    for field, value in put.items():
        (got,) = quantities(found.families[on.family], field)
        assert got.value == pytest.approx(value, rel=0.3 if field in ("walk", "expert") else 0.06), field
