"""Kernel tables: the rows read from them, and fits that recover the constants that the tables were made with."""

import dataclasses
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.calibrate.kernel_cases import EXPERTS, GEMMS, LOW_LATENCY, REDUCES, tables, write
from tokenworks.calibrate.factors import changed, quantities
from tokenworks.calibrate.kernels.fit import DEFAULT, HELD_OUT, START, KernelRows, Which
from tokenworks.calibrate.kernels.fit import write as write_fit
from tokenworks.calibrate.kernels.operations import OPERATIONS
from tokenworks.calibrate.kernels.tables import find_tables
from tokenworks.costs import collectives
from tokenworks.costs.rates import rates
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import Calibration, Family, load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.provenance import Quantity

PRIOR = load_calibration("datasheet")
WEAK = {"attention_decode": 0.3, "expert": 0.6, "walk": 0.3}
"""Tolerances of constants that only few rows depend on [-]."""
FAMILY = {"h100": "nvidia-hopper", "b200": "nvidia-blackwell"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> KernelRows:
    """Rows of an H100 and a B200 with arbitrary times."""
    return KernelRows.read(tables(tmp_path_factory.mktemp("tables"), "h100_sxm", "b200_sxm"), "default")


def timed(shapes: KernelRows, truth: Calibration, spoil: Callable[[np.ndarray], np.ndarray] = np.asarray) -> KernelRows:
    """The same rows, with the times that the cost functions predict with `truth`."""
    rows = {
        name: [
            dataclasses.replace(item, measured=spoil(np.asarray(item.predict(rates(item.machine, truth)))))
            for item in items
        ]
        for name, items in shapes.rows.items()
    }
    return dataclasses.replace(shapes, rows=rows)


def fields(device: str) -> list[str]:
    """All numbers that the rows of a device determine."""
    without = {"h100": ("fp4",), "b200": ()}[device]
    return [
        f for operation in OPERATIONS for f in operation.fields if f.partition(".")[2] not in without or "." not in f
    ]


def set_to(values: dict[tuple[str, str], float]) -> Calibration:
    """The prior with factors of families replaced."""
    families = dict(PRIOR.families)
    for (name, field), value in values.items():
        families[name] = changed(families[name], field, partial(Quantity.model_copy, update={"value": value}))
    return PRIOR.model_copy(update={"families": families})


def get(family: Family, field: str) -> Quantity:
    (quantity,) = quantities(family, field)
    return quantity


# ── the fit ───────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_constants_that_made_a_table_are_found(shapes: KernelRows, seed: int) -> None:
    """The fit recovers shares of 0.6 to 1.2 and latencies of 0.5 to 2 times the start values."""
    rng = np.random.default_rng(seed)
    put = {}
    for device, family in FAMILY.items():
        for field in fields(device):
            start = START[field.partition(".")[0]]
            low, high = (0.6, 1.2) if start > 1e-3 else (0.5, 2.0)
            put[family, field] = start * rng.uniform(low, high)
    fitted = timed(shapes, set_to(put)).fit(PRIOR)
    assert all(one.error < 0.02 for one in fitted.fitted)
    for (family, field), value in put.items():
        got = get(fitted.calibration.families[family], field)
        assert got.value == pytest.approx(value, rel=WEAK.get(field, 0.06)), f"{family}.{field}"
        assert got.status == "measured"


def test_wrong_rows_do_not_lead(shapes: KernelRows) -> None:
    """Every tenth row takes three times as long, like a measured launch. Factors change by less than 10 %."""

    def spoil(seconds: np.ndarray) -> np.ndarray:
        return np.asarray(seconds * np.where(np.arange(len(seconds)) % 10 == 5, 3.0, 1.0))

    family = timed(shapes, PRIOR, spoil).fit(PRIOR).calibration.families["nvidia-hopper"]
    for field in ("gemm.bf16", "hbm", "attention_hbm", "scale_up"):
        assert get(family, field).value == pytest.approx(get(PRIOR.families["nvidia-hopper"], field).value, rel=0.1), (
            field
        )


def test_a_device_left_out_leaves_nothing_behind(shapes: KernelRows) -> None:
    """Without the H100 its family has no rows. Its factors have the start values, and their source says so."""
    rows = timed(shapes, PRIOR)
    fitted = rows.fit(PRIOR, without=("h100",))
    hopper, blackwell = (fitted.calibration.families[FAMILY[device]] for device in ("h100", "b200"))
    for field in fields("h100"):
        got = get(hopper, field)
        assert got.value == pytest.approx(START[field.partition(".")[0]]), field
        assert got.status == "assumed", field
    assert {get(blackwell, field).status for field in fields("b200")} == {"measured"}
    kernels = fitted.calibration.kernels
    assert {name for name, one in kernels.items() if one.family in FAMILY.values()} == {"b200"}
    assert "scalex40-card" in kernels  # its family has no rows here: the prior knows its kernels
    assert "h100" not in fitted.calibration.fitted_on


def test_the_file_is_a_calibration_with_its_errors_and_hashes(shapes: KernelRows, tmp_path: Path) -> None:
    fitted = timed(shapes, PRIOR).fit(PRIOR, name="mine")
    write_fit(fitted, tmp_path / "mine.yaml")
    again = load_calibration(str(tmp_path / "mine.yaml"))
    assert again == fitted.calibration.model_copy(update={"sources": again.sources})  # the table is the file's
    assert again.grade_of(machine("hgx-h100")) == "kernel-calibrated"
    assert again.grade_of(machine("hgx-h20")) == "datasheet"
    assert again.grade_of(machine("hgx-mi300x")) == "datasheet"
    text = (tmp_path / "mine.yaml").read_text()
    assert f"# h100_sxm/gemm/vllm/1.0/gemm_perf.parquet: {len(GEMMS)}, 0, {fitted.used[0].sha256[:8]}"[:60] in text
    assert all(used.sha256 in text for used in fitted.used)


# ── the tables ────────────────────────────────────────────────────────────────────────────────────────────────────


def read(root: Path, which: Which = "default") -> KernelRows:
    return KernelRows.read(root, which)


def test_units_of_the_tables(tmp_path: Path) -> None:
    """GEMM in ms, all-reduce in ms of elements of two bytes, DeepEP in us."""
    write(tmp_path, "h100_sxm/gemm/vllm/1/gemm_perf", [GEMMS[0] | {"m": 8192, "n": 8192, "k": 8192, "latency": 1.4}])
    write(tmp_path, "h100_sxm/comm/vllm/1/custom_allreduce_perf", [REDUCES[-1] | {"latency": 0.5}])
    write(tmp_path, "h100_sxm/comm/sglang/1/wideep_deepep_ll_perf", [LOW_LATENCY[0] | {"dispatch_avg_t_us": 16.0}])
    rows = read(tmp_path).rows
    (gemm,), (reduce,), dispatch = rows["gemm"], rows["collectives"], rows["dispatch"][0]
    at = rates(gemm.machine, PRIOR)
    assert gemm.measured == pytest.approx([1.4e-3])
    assert gemm.predict(at) == pytest.approx(2 * 8192**3 / (0.84 * 989.5e12), rel=0.05)  # by hand: 1.32 ms
    size = 2 * REDUCES[-1]["message_size"]
    assert reduce.predict(at) == collectives.all_reduce(
        size, REDUCES[-1]["num_gpus"], domain=8, inner=at.inner, outer=at.outer
    )
    assert dispatch.measured == pytest.approx([16e-6])


def test_of_equal_shapes_the_quickest_counts(tmp_path: Path) -> None:
    """Of repeated rows and slower engines, one row per shape remains. Repeated rows are counted."""
    quick, slow = GEMMS[0] | {"latency": 2.0}, GEMMS[0] | {"latency": 3.0}
    write(tmp_path, "h100_sxm/gemm/vllm/1/gemm_perf", [slow, slow, quick, slow])
    write(tmp_path, "h100_sxm/gemm/sglang/1/gemm_perf", [slow])
    rows = read(tmp_path)
    assert [item.measured.tolist() for item in rows.rows["gemm"]] == [[2e-3]]
    assert {used.path: used.repeated for used in rows.used} == {
        "h100_sxm/gemm/vllm/1/gemm_perf.parquet": 2,
        "h100_sxm/gemm/sglang/1/gemm_perf.parquet": 0,
    }


def test_experts_quicker_than_their_memory_are_not_what_they_say(tmp_path: Path) -> None:
    """An impossible series is dropped, other engines stay. Reading 128 x 18.9 MB takes longer than 0.1 ms."""
    whole = {"moe_dtype": "fp8_block", "hidden_size": 4096, "inter_size": 1536, "moe_tp_size": 1, "moe_ep_size": 1}
    even = [row for row in EXPERTS if whole.items() <= row.items()]
    wrong = [row | {"latency": 0.1 if row["num_tokens"] == 1024 else 1e3} for row in even]
    write(tmp_path, "h100_sxm/moe/sglang/1/moe_perf", wrong)
    write(tmp_path, "h100_sxm/moe/vllm/1/moe_perf", even)
    (rows,) = read(tmp_path).rows["experts"]
    assert len(rows.measured) == len(even)
    assert (rows.measured == 1.0).all()


def test_a_cache_that_holds_the_matrix_says_nothing_of_memory(tmp_path: Path) -> None:
    """4096 x 4096 in 16 bits are 34 MB: in the cache of an L40S (96 MB), read from memory by an H100."""
    for system in ("l40s", "h100_sxm"):
        rows = [GEMMS[0] | {"n": n, "k": n, "m": 1} for n in (4096, 16384)]
        write(tmp_path, f"{system}/gemm/vllm/1/gemm_perf", rows)
    assert {item.machine.device: len(item.measured) for item in read(tmp_path).rows["gemm"]} == {"h100": 2, "l40s": 1}


def test_held_out_systems_are_read_only_when_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "h100_sxm/gemm/vllm/1/gemm_perf", GEMMS)
    for system in HELD_OUT:
        write(tmp_path, f"{system}/gemm/vllm/1/gemm_perf", GEMMS)
    assert read(tmp_path).devices == ["h100"]
    assert read(tmp_path, "all").devices == ["a100", "arc-b60", "b300", "gb300", "h100"]


def test_no_held_out_system_is_a_default() -> None:
    assert not {"a100", "a800", "b300", "gb300", "h20", "mi325x", "rtx-4090", "b60"} & {
        word for system in DEFAULT.values() for word in system.replace("hgx-", "").replace("x", " ", 1).split()
    }
    assert not set(DEFAULT) & set(HELD_OUT)


def test_a_family_that_borrows_is_fitted_as_its_own(tmp_path: Path) -> None:
    write(tmp_path, "a100_sxm/gemm/vllm/1/gemm_perf", GEMMS)
    calibration = read(tmp_path, "all").fit(PRIOR).calibration
    assert "nvidia-ampere" in calibration.families
    assert "nvidia-ampere" not in calibration.borrowed


# ── bad input ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"gemm_dtype": "fp8", "m": 1, "n": 512, "latency": 1.0}], "has no column k"),
        ([GEMMS[0] | {"latency": 0.0}], "row 0: latency is 0.0; a time is above 0"),
        ([GEMMS[0], GEMMS[0] | {"latency": float("nan")}], "row 1: latency is nan"),
        ([GEMMS[0] | {"latency": "fast"}], "column latency holds"),
        ([GEMMS[0] | {"m": None}, GEMMS[0]], "1 rows of column m are empty"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, rows: list[dict[str, object]], says: str) -> None:
    file = write(tmp_path, "h100_sxm/gemm/vllm/1/gemm_perf", rows)
    with pytest.raises(SpecError, match=says) as error:
        read(tmp_path)
    assert str(file) in str(error.value)


def test_what_is_no_parquet(tmp_path: Path) -> None:
    file = tmp_path / "h100_sxm/gemm/vllm/1/gemm_perf.parquet"
    file.parent.mkdir(parents=True)
    file.write_text("m,n,k\n")
    with pytest.raises(SpecError, match="is no Parquet table"):
        read(tmp_path)


def test_what_is_no_directory_of_tables(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no kernel tables"):
        find_tables(tmp_path)
    write(tmp_path, "abacus/gemm/vllm/1/gemm_perf", GEMMS)
    with pytest.raises(SpecError, match="unknown system of kernel tables 'abacus'"):
        read(tmp_path)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        SpecError, match=r"aiconfigurator-core, which is not installed; pip install 'tokenworks\[kernels\]'"
    ):
        find_tables(None)


# ── the real tables ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.wheel
def test_the_tables_of_the_wheel() -> None:
    if importlib.util.find_spec("aiconfigurator_core") is None:
        pytest.skip("aiconfigurator-core is not installed: pip install 'tokenworks[kernels]'")
    fitted = KernelRows.read(find_tables(None), "default").fit(PRIOR)
    assert fitted.calibration.fitted_on.endswith(": b200, gb200, h100, h200, l40s, rtx-pro-6000")
    errors = {(one.family, one.operation): one.error for one in fitted.fitted}
    for family in FAMILY.values():
        assert errors[family, "gemm"] < 0.15
        assert errors[family, "collectives"] < 0.25
    assert all(error < 0.6 for error in errors.values())
    assert max(used.repeated for used in fitted.used) > 0
