"""GEMM times: numbers by hand, and what must hold for all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.costs.roofline import SPLIT_K, compute_dtype, gemm_bytes, gemm_flop, kernel_time, walk_time
from tokenworks.errors import SpecError
from tokenworks.specs.hf.formats import FP8, MXFP4, NVFP4
from tokenworks.specs.model import BF16, Format

H100 = {"rate": 0.8 * 989e12, "hbm": 0.85 * 3.35e12}
sizes = st.integers(1, 32768)


def gemm(m: int, n: int, k: int, *, rate: float, hbm: float, weight: float = 2, start: float = 0) -> float:
    """Time of one product of 16 bits, from the formulas that a step puts together."""
    read = gemm_bytes(m, n, k, weight=weight, activation=2) / hbm
    return float(kernel_time(gemm_flop(m, n, k) / rate, read, start, walk_time(k, 0.7e-9, wide=1)))


def test_prefill_of_a_known_layer() -> None:
    """8192^3 in BF16 at 80 % of 989 TFLOP/s: 2 n^3 / (0.8 F) = 1.39 ms (by hand)."""
    assert gemm(8192, 8192, 8192, **H100) == pytest.approx(1.39e-3, rel=0.01)


def test_one_row_reads_the_weights() -> None:
    """One token through 8192 x 8192 in BF16: 134 MB at 2.85 TB/s = 47.1 us, and 2 us of latency (by hand)."""
    assert gemm(1, 8192, 8192, **H100, start=2e-6) == pytest.approx(49.1e-6, rel=0.01)


MEASURED = {  # (m, n, k): us in BF16 on an H100, best kernel of aiconfigurator-core 0.12.0; none fits in its L2 cache
    (1, 4096, 12288): 37.3, (16, 4096, 12288): 39.5, (128, 4096, 12288): 37.9, (256, 4096, 12288): 52.4,
    (512, 4096, 12288): 61.8, (2048, 4096, 12288): 255.7, (8192, 4096, 12288): 1004.7, (1, 8192, 8192): 47.8,
    (16, 8192, 8192): 46.4, (64, 8192, 8192): 47.4, (256, 8192, 8192): 51.3, (1024, 8192, 8192): 164.0,
    (8192, 8192, 8192): 1404.8, (1, 5120, 10240): 39.6, (128, 5120, 10240): 46.4, (512, 5120, 10240): 68.7,
}  # fmt: skip


def test_measured_gemms_of_an_h100() -> None:
    """Mean |log error| below 0.12, none off by more than a third: worst where both roofs are equal (m 256)."""
    predicted = [gemm(*shape, rate=0.83 * 989e12, hbm=0.85 * 3.35e12, start=2.4e-6) * 1e6 for shape in MEASURED]
    off = np.abs(np.log(np.array(predicted) / np.array(list(MEASURED.values()))))
    assert off.mean() < 0.12
    assert off.max() < np.log(4 / 3)


@pytest.mark.parametrize(("k", "measured_us"), [(1024, 5.9), (4096, 7.6), (7168, 9.7), (16384, 15.5)])
def test_a_tile_walks_its_inputs(k: int, measured_us: float) -> None:
    """FP8 on a B200, 16 rows, 128 to 3,072 outputs (aiconfigurator-core 0.12.0, best kernel), within 20 %."""
    read = gemm_bytes(16, 1024, k, weight=1, activation=2) / (0.76 * 8e12)
    compute = gemm_flop(16, 1024, k) / (0.6 * 4500e12)
    seconds = kernel_time(compute, read, 2 * 2.5e-6, walk_time(k, 0.58e-9, wide=0))
    assert seconds * 1e6 == pytest.approx(measured_us, rel=0.2)


def test_wide_inputs_are_split() -> None:
    assert walk_time(1000, 1e-9, wide=1) == pytest.approx(2e-6)
    assert walk_time(30000, 1e-9, wide=1) == walk_time(SPLIT_K, 1e-9, wide=1)
    assert walk_time(30000, 1e-9, wide=0) == pytest.approx(30e-6)


@given(m=sizes, more=sizes, n=sizes, k=sizes)
def test_more_rows_take_longer_and_nothing_beats_the_roof(m: int, more: int, n: int, k: int) -> None:
    def seconds(rows: int) -> float:
        return gemm(rows, n, k, **H100, start=1e-6)

    assert seconds(m) <= seconds(m + more)
    roofs = 2 * m * n * k / H100["rate"], gemm_bytes(m, n, k, weight=2, activation=2) / H100["hbm"]
    assert max(roofs) <= seconds(m) <= sum(roofs) + walk_time(k, 0.7e-9, wide=1) + 1.001e-6


@given(m=sizes, n=sizes, k=sizes, faster=st.floats(1, 10))
def test_more_bandwidth_is_never_slower(m: int, n: int, k: int, faster: float) -> None:
    def seconds(hbm: float) -> float:
        return gemm(m, n, k, rate=1e15, hbm=hbm, weight=1, start=1e-6)

    assert seconds(faster * 1e12) <= seconds(1e12) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("form", "peak", "expected"),
    [
        (BF16, {"bf16": 1.0, "fp8": 2.0}, ("bf16", False)),
        (FP8, {"bf16": 1.0, "fp8": 2.0}, ("fp8", False)),
        (FP8, {"bf16": 1.0}, ("bf16", True)),  # A100, Ascend 910C
        (NVFP4, {"bf16": 1.0, "fp8": 2.0}, ("bf16", True)),  # H100: Marlin
        (NVFP4, {"bf16": 1.0, "fp8": 2.0, "fp4": 4.0}, ("fp4", False)),
        (MXFP4, {"bf16": 1.0, "fp8": 2.0}, ("bf16", True)),  # H100: gpt-oss is multiplied in bf16
        (MXFP4, {"bf16": 1.0, "fp8": 2.0, "fp4": 4.0}, ("fp8", False)),  # B200: FP4 x FP8 at the FP8 rate
        (Format("int4", 0.53, "bf16"), {"bf16": 1.0, "fp8": 2.0}, ("bf16", False)),  # W4A16 asks for bf16 itself
        (FP8, {"fp32": 1.0}, ("fp32", True)),
    ],
)
def test_compute_dtype(form: Format, peak: dict[str, float], expected: tuple[str, bool]) -> None:
    assert compute_dtype(form, peak) == expected


def test_a_device_without_any_rate_is_an_error() -> None:
    with pytest.raises(SpecError, match="no rate for fp8"):
        compute_dtype(FP8, {"int8": 1.0})
