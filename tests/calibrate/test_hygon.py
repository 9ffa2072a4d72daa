"""Tables of Hygon cards: which rows count, what bad rows say, and that a fit finds the numbers that made its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tokenworks.calibrate.kernels import hygon
from tokenworks.calibrate.kernels.hygon_fit import FAMILY, fit_card, layer_errors
from tokenworks.calibrate.kernels.operations import OperationRows
from tokenworks.costs.rates import rates
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import load_calibration

PRIOR = load_calibration("datasheet")
KERNELS = """# a comment
kind,op,m,n,k,mean_ms,tflops
gemm,proj,4096,4096,4096,2.0,206.2
gemm,up,2048,4096,4096,1.0,206.2
gemm,wrong,4096,4096,4096,2.0,100.0
grouped_gemm_16,fc1,1536,2048,512,3.0,51.5
grouped_gemm_8,fc2,2048,768,512,1.5,25.8
flash_attn,causal b1 s4096 h32 d128,,,,6.654,41.3
flash_attn,causal b1 s4096 h16 d192/128 (MLA),,,,4.926,34.9
elementwise,norm,,,,0.4,
"""
FUSED = """arch,quant,dim,inter,experts,topk,tokens,time_us
gfx938,int8,7168,256,256,8,8,250
gfx938,int8,7168,256,256,8,512,1000
gfx936,fp8,4096,256,128,8,64,400
"""
EXCHANGED = """machine,mode,ep,tokens_per_rank,ms,note
TX32 node,LL graph,16,8,0.37,
TX32 node,LL graph,16,256,1.04,
TX32 node,LL graph,8,64,0.66,
8x BW1101 node,normal,8,4096,5.8,
"""


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    for name, text in ((hygon.KERNELS, KERNELS), (hygon.FUSED, FUSED), (hygon.EXCHANGED, EXCHANGED)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def predicted(item: OperationRows, name: str = "datasheet") -> list[float]:
    return [float(t) for t in np.atleast_1d(item.predict(rates(item.machine, load_calibration(name))))]


def test_rows_become_times_of_cost_functions(tables: Path) -> None:
    gemm, _ = hygon.gemm_rows(tables)  # the row whose rate contradicts its time is left out
    assert gemm.measured == pytest.approx(2e-3)
    flop = 3 * 2 * 4096**3
    assert predicted(gemm)[0] == pytest.approx(flop / (0.596 * 350e12), rel=0.05)
    grouped, _ = hygon.grouped_rows(tables)
    assert predicted(grouped)[0] > 3 * 2 * 16 * 1536 * 2048 * 512 / (0.596 * 0.22 * 350e12)
    first, latent = hygon.attention_rows(tables)
    assert first.measured == pytest.approx(6.654e-3 / 3.897, rel=1e-3)
    assert predicted(latent)[0] == pytest.approx(predicted(first)[0] / 2 * 320 / 256, rel=0.02)


def test_experts_of_each_card_have_the_peak_of_their_dtype(tables: Path) -> None:
    new, old = hygon.expert_rows(tables)
    assert (new.machine.device, old.machine.device) == ("scalex40-card", "bw1000")
    assert len(new.measured) == 2
    assert predicted(new)[0] < predicted(new)[1]


def test_expert_layers_by_machine_and_mode(tables: Path) -> None:
    errors = layer_errors(tables, PRIOR)
    assert {name: list(of_tokens) for name, of_tokens in errors.items()} == {
        "TX32 node, LL graph, EP16": [8, 256],
        "TX32 node, LL graph, EP8": [64],
        "8x BW1101 node, normal, EP8": [4096],
    }
    assert [len(item.measured) for item in hygon.layer_rows(tables, most=128)] == [1, 1]
    even = layer_errors(tables, PRIOR, skew=0.0)
    assert even["TX32 node, LL graph, EP16"][256] < errors["TX32 node, LL graph, EP16"][256]


def test_a_fit_finds_the_numbers_that_made_the_rows(tmp_path: Path) -> None:
    """Times that the calibration `datasheet` predicts, written as tables: the fit returns its numbers."""
    own = PRIOR.families[FAMILY]
    shapes = [(7168, 256, 256, 8), (4096, 512, 256, 6)]
    lines = [FUSED.splitlines()[0]]
    counts = [1, 8, 64, 512, 4096, 32768]
    lines += [f"gfx938,int8,{d},{i},{e},{k},{t},1" for d, i, e, k in shapes for t in counts]
    (tmp_path / hygon.KERNELS).write_text(KERNELS, encoding="utf-8")
    (tmp_path / hygon.EXCHANGED).write_text(EXCHANGED, encoding="utf-8")
    (tmp_path / hygon.FUSED).write_text("\n".join(lines), encoding="utf-8")
    times = [t for item in hygon.expert_rows(tmp_path) for t in predicted(item)]
    lines[1:] = [f"{line[:-2]},{1e6 * t:.6f}" for line, t in zip(lines[1:], times, strict=True)]
    (tmp_path / hygon.FUSED).write_text("\n".join(lines), encoding="utf-8")
    calibration, fitted = fit_card(tmp_path, PRIOR)
    experts = next(one for one in fitted if one.operation == "experts")
    assert experts.error < 0.02
    got = calibration.families[FAMILY]
    assert got.experts_hbm.value == pytest.approx(own.experts_hbm.value, rel=0.05)
    assert got.util("int8") * (got.grouped["int8"].value or 0) == pytest.approx(own.grouped_util("int8"), rel=0.05)
    assert fitted[-1].left_out_error >= 0


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        (hygon.KERNELS, "gemm,proj,4096", "gemm,proj,many", r"csv:3: m: 'many' is not a number above zero"),
        (hygon.KERNELS, ",2.0,206.2", ",-2,206.2", "mean_ms: '-2' is not a number above zero"),
        (hygon.KERNELS, ",2.0,206.2", ",nan,206.2", "mean_ms: 'nan' is not a number above zero"),
        (hygon.KERNELS, "mean_ms", "ms", "has no column mean_ms"),
        (hygon.KERNELS, "causal b1 s4096 h32", "full b1 h32", "is not like 'causal b1 s4096 h32 d128'"),
        (hygon.KERNELS, "grouped_gemm_16", "grouped_gemm_x", "kind: 'grouped_gemm_x' does not end with"),
        (hygon.FUSED, "gfx936", "gfx942", "arch: 'gfx942' is not one of gfx938, gfx936"),
        (hygon.FUSED, "gfx936,fp8", "gfx936,bf16", "quant: 'bf16' is not int8 or fp8"),
        (hygon.EXCHANGED, "8x BW1101 node", "a box", "machine: 'a box' is not one of TX32 node"),
        (hygon.EXCHANGED, ",16,8,0.37", ",0,8,0.37", "ep: '0' is not a number above zero"),
    ],
)
def test_a_bad_row_names_its_place(tables: Path, name: str, old: str, new: str, words: str) -> None:
    text = (tables / name).read_text(encoding="utf-8")
    assert old in text
    (tables / name).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        fit_card(tables, PRIOR)
    assert words.replace("csv:3: ", "") in str(caught.value)
    assert name in str(caught.value)


def test_too_few_rows_are_named(tables: Path) -> None:
    (tables / hygon.EXCHANGED).write_text("\n".join(EXCHANGED.splitlines()[:2]), encoding="utf-8")
    with pytest.raises(SpecError, match="1 kernels or series of expert layers"):
        fit_card(tables, PRIOR)


def test_a_missing_table_is_named(tables: Path) -> None:
    (tables / hygon.FUSED).unlink()
    with pytest.raises(SpecError, match=r"hygon_fmoe_aiter\.csv: cannot be read"):
        fit_card(tables, PRIOR)
