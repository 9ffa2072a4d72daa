"""GEMM times: numbers by hand, and what must hold for all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.costs.roofline import compute_dtype, gemm_bytes, gemm_compute_time, half_rate_rows, kernel_time
from tokenworks.errors import SpecError
from tokenworks.specs.hf.formats import FP8, MXFP4, NVFP4
from tokenworks.specs.model import BF16, Format

H100 = {"rate": 0.8 * 989e12, "hbm": 0.85 * 3.35e12}
sizes = st.integers(1, 32768)


def gemm(m: int, n: int, k: int, *, rate: float, hbm: float, half: float, weight: float = 2, start: float = 0) -> float:
    """Time of one product, from the formulas that a step puts together."""
    compute = gemm_compute_time(m, n, k, rate=rate, half=half)
    return float(kernel_time(compute, gemm_bytes(m, n, k, weight=weight, activation=2) / hbm, start))


def test_prefill_of_a_known_layer() -> None:
    """8192^3 in BF16 at 80 % of 989 TFLOP/s: 2 n^3 / (0.8 F) = 1.39 ms (by hand)."""
    seconds = gemm(8192, 8192, 8192, **H100, half=0)
    assert seconds == pytest.approx(1.39e-3, rel=0.01)


def test_one_row_reads_the_weights() -> None:
    """One token through 8192 x 8192 in BF16: 134 MB at 2.85 TB/s = 47.1 us, and 2 us of latency (by hand)."""
    half = half_rate_rows(H100["rate"], H100["hbm"], weight=2, unhidden=0.3)
    seconds = gemm(1, 8192, 8192, **H100, half=half, start=2e-6)
    assert seconds == pytest.approx(49.1e-6, rel=0.01)


def test_measured_gemm_of_an_h100() -> None:
    """m 256, n = k = 8192 in BF16: 51.3 us on an H100 (aiconfigurator-core 0.12.0, best kernel), within 20 %."""
    rate, hbm = 0.84 * 989e12, 0.86 * 3.35e12
    half = half_rate_rows(rate, hbm, weight=2, unhidden=0.3)
    seconds = gemm(256, 8192, 8192, rate=rate, half=half, hbm=hbm, start=3.5e-6)
    assert seconds == pytest.approx(MEASURED_256, rel=0.2)


MEASURED_256 = 51.3e-6


def test_half_of_the_rate_at_half_rate_rows() -> None:
    full = 2 * 1e9 * 1024 * 1024 / 1e15
    assert gemm_compute_time(1e9, 1024, 1024, rate=1e15, half=100) == pytest.approx(full, rel=1e-6)
    assert gemm_compute_time(100, 1024, 1024, rate=1e15, half=100) == pytest.approx(2 * 100 / 1e9 * full)


@given(m=sizes, more=sizes, n=sizes, k=sizes, half=st.floats(0, 200))
def test_more_rows_take_longer_and_nothing_beats_the_roof(m: int, more: int, n: int, k: int, half: float) -> None:
    def seconds(rows: int) -> float:
        return gemm(rows, n, k, **H100, half=half, start=1e-6)

    assert seconds(m) <= seconds(m + more)
    assert seconds(m) >= 2 * m * n * k / H100["rate"]
    assert seconds(m) >= gemm_bytes(m, n, k, weight=2, activation=2) / H100["hbm"]


@given(m=sizes, n=sizes, k=sizes, faster=st.floats(1, 10))
def test_more_bandwidth_is_never_slower(m: int, n: int, k: int, faster: float) -> None:
    """Half-rate rows fall with bandwidth, so both roofs do."""

    def seconds(hbm: float) -> float:
        half = half_rate_rows(1e15, hbm, weight=1, unhidden=0.3)
        return gemm(m, n, k, rate=1e15, half=half, hbm=hbm, weight=1, start=1e-6)

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
