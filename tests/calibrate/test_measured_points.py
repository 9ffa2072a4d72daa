"""Reading measured points: what each cell means, and every way in which a file can be wrong."""

import re
from pathlib import Path

import pytest

from tests.calibrate.cases import DISAGG, HEADER, ROW, table
from tokenworks.calibrate.measured import Worker, read_points
from tokenworks.errors import SpecError


def test_a_row_is_a_point(tmp_path: Path) -> None:
    read = read_points(table(tmp_path, {}))
    (point,) = read.points
    assert point.workers == (Worker("aggregated", 1, 1, 1, 1, 1),)
    assert (point.concurrency, point.isl, point.osl, point.nominal_isl) == (4, 450, 45, 500)
    assert point.measured.tpot == pytest.approx(8e-3)
    assert point.measured.ttft == pytest.approx(40e-3)
    assert (point.measured.rate, point.measured.counted) == (4500, "total")
    assert read.ignored == ()


def test_two_roles_speculation_and_the_note(tmp_path: Path) -> None:
    (point,) = read_points(table(tmp_path, DISAGG)).points
    assert [worker.role for worker in point.workers] == ["prefill", "decode"]
    assert point.drafts == 2
    assert point.little_ratio == 0.42


@pytest.mark.parametrize(
    ("text", "drafts"),
    [("none", 0), ("", 0), ("mtp", 2), ("mtp3", 3), ("eagle3", 2), ("yes: --speculative-num-steps 1 --x 4", 1)],
)
def test_draft_tokens(tmp_path: Path, text: str, drafts: int) -> None:
    assert read_points(table(tmp_path, {"spec_decode": text, "engine": "sglang"})).points[0].drafts == drafts


@pytest.mark.parametrize(("engine", "drafts"), [("vllm", 1), ("dynamo-trtllm", 3), ("sglang", 2), ("atom", 3)])
def test_draft_tokens_that_are_not_stated_are_those_of_recipes(tmp_path: Path, engine: str, drafts: int) -> None:
    (point,) = read_points(table(tmp_path, {"spec_decode": "mtp", "engine": engine})).points
    assert point.drafts == drafts
    assert point.assumed == (f"draft tokens of mtp: {drafts}",)


NO_SPLIT = dict.fromkeys(("devices", "tp", "dp", "pp", "ep"), "")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (NO_SPLIT | {"n_devices": "4"}, "the split is not known: 4 devices, and tp, dp and pp are empty"),
        (NO_SPLIT | {"n_devices": "8", "ep": "8"}, "the split is not known: 8 devices, and tp, dp and pp are empty"),
        ({"n_devices": "8", "devices": "8", "tp": "3"}, "the split is not known: 8 devices, and tp 3 x dp 1 x pp 1"),
        ({"n_devices": "8", "devices": "8", "tp": "32"}, "the split is not known: 8 devices, and tp 32 x dp 1 x pp 1"),
        ({"n_devices": "9", "devices": "9", "tp": "9", "pp": "2"}, "9 devices, and tp 9 x dp 1 x pp 2"),
        (
            DISAGG | {"decode_tp": "", "decode_dp": "", "decode_pp": ""},
            "the split is not known: 8 devices, and decode_tp, decode_dp and decode_pp are empty",
        ),
    ],
)
def test_a_row_without_a_known_split_is_not_predicted(tmp_path: Path, row: dict[str, str], says: str) -> None:
    unknown, whole = read_points(table(tmp_path, row, {})).points
    assert says in unknown.lacks
    assert not whole.lacks


def test_one_device_has_one_split(tmp_path: Path) -> None:
    (point,) = read_points(table(tmp_path, NO_SPLIT | {"n_devices": "1"})).points
    assert (point.lacks, point.workers) == ("", (Worker("aggregated", 1, 1, 1, 1, 1),))


@pytest.mark.parametrize(
    ("row", "widths"),
    [
        ({"n_devices": "160", "devices": "160", "dp": "320", "ep": "320"}, (1, 160, 1)),
        ({"n_devices": "8", "devices": "8", "tp": "16"}, (8, 1, 1)),
        ({"n_devices": "8", "devices": "8", "tp": "2", "dp": "8"}, (2, 4, 1)),
    ],
)
def test_dies_that_count_as_devices(tmp_path: Path, row: dict[str, str], widths: tuple[int, int, int]) -> None:
    (point,) = read_points(table(tmp_path, row)).points
    (worker,) = point.workers
    assert ((worker.tp, worker.dp, worker.pp), worker.count, worker.stated) == (widths, 1, True)
    assert "devices of 2 dies as" in point.assumed[0]
    assert not point.lacks


def test_the_speed_of_one_request_is_a_throughput(tmp_path: Path) -> None:
    """Input and output tokens / time at batch 1, over all devices: 500 tokens a second on four devices are 125 each."""
    columns = f"{HEADER},speed_total_tok_s"
    cells = ROW | {"concurrency": "1", "n_devices": "4", "devices": "4", "tp": "4", "total_tok_s_per_gpu": ""}
    rows = [cells, cells | {"concurrency": "4"}, cells | {"load": "burst", "n_requests": "10"},
            cells | {"total_tok_s_per_gpu": "90"}]  # fmt: skip
    file = tmp_path / "speeds.csv"
    file.write_text("\n".join([columns, *(",".join([*row.values(), "500"]) for row in rows)]) + "\n")
    table_read = read_points(file)
    one, busy, burst, both = table_read.points
    assert table_read.ignored == ()
    assert (one.measured.rate, one.measured.counted, one.lacks) == (125, "total", "")
    assert "speed_total_tok_s is a speed at batch 1" in busy.lacks
    assert "speed_total_tok_s is a speed at batch 1" in burst.lacks
    assert (both.measured.rate, both.lacks) == (90, "")  # the throughput of the row counts


def test_a_speed_that_is_no_number_is_named(tmp_path: Path) -> None:
    file = tmp_path / "speeds.csv"
    file.write_text(f"{HEADER},speed_total_tok_s\n{','.join(ROW.values())},fast\n")
    with pytest.raises(SpecError, match=r"speeds.csv:2: speed_total_tok_s: 'fast'; want a number"):
        read_points(file)


def test_a_mean_stands_in_for_a_median_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "means.csv"
    cells = ROW | {"tpot_ms_median": ""}
    file.write_text(f"{HEADER},tpot_ms_mean,extra\n{','.join(cells.values())},9,x\n")
    read = read_points(file)
    assert read.points[0].measured.tpot == pytest.approx(9e-3)
    assert read.points[0].measured.tpot_mean
    assert read.ignored == ("extra",)


def test_limit(tmp_path: Path) -> None:
    assert len(read_points(table(tmp_path, {}, {}, {}), limit=2).points) == 2


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"tpot_ms_median": "fast"}, r"points.csv:2: tpot_ms_median: 'fast'; want a number"),
        ({"tpot_ms_median": "-1"}, r"tpot_ms_median.*above zero"),
        ({"isl_mean": "inf"}, r"isl_mean.*finite"),
        ({"tp": "1.5"}, r"tp: '1.5'; want a whole number"),
    ],
)
def test_a_wrong_cell_is_named_with_its_line(tmp_path: Path, row: dict[str, str], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        read_points(table(tmp_path, row))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"isl": "", "isl_mean": ""}, "isl_mean is empty"),
        ({"isl": "", "isl_mean": "0"}, "isl_mean is empty"),
        ({"mode": "both"}, "mode 'both': want one of agg"),
        ({"load": "flood"}, "load 'flood': want one of closed"),
        ({"load": "poisson"}, "request_rate is empty where load is poisson"),
        ({"concurrency": ""}, "concurrency is empty where load is closed"),
        ({"model": ""}, "model is empty"),
        ({"n_devices": ""}, "n_devices is empty"),
        (
            {"mode": "disagg", "isl": "", "isl_mean": ""},
            "prefill_devices is empty where mode is disagg; decode_devices",
        ),
    ],
)
def test_a_row_that_lacks_something_says_so_and_leaves_the_others(
    tmp_path: Path, row: dict[str, str], says: str
) -> None:
    lacking, whole = read_points(table(tmp_path, row, {})).points
    assert says in lacking.lacks
    assert not whole.lacks


def test_a_nominal_length_stands_in_for_a_sent_one(tmp_path: Path) -> None:
    (point,) = read_points(table(tmp_path, {"isl_mean": "", "osl_mean": "", "tpot_ms_median": "0", "tp": "nan"})).points
    assert (point.isl, point.osl, point.lacks) == (500, 50, "")
    assert point.measured.tpot is None


@pytest.mark.parametrize(
    ("row", "want"),
    [
        ({"n_devices": "8", "devices": "8"}, (1, 1, 8)),
        ({"n_devices": "8", "devices": "4", "tp": "2", "dp": "2"}, (2, 2, 2)),
    ],
)
def test_a_split_that_is_smaller_than_the_devices_means_several_instances(
    tmp_path: Path, row: dict[str, str], want: tuple[int, int, int]
) -> None:
    (worker,) = read_points(table(tmp_path, row)).points[0].workers
    assert (worker.tp, worker.dp, worker.count) == want


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no column point_id"),
        ("a,b\n1,2\n", "has no column"),
        (HEADER + ",tp\n", "names column tp twice"),
        (HEADER + "\n", "has no rows"),
        (HEADER + "\nx,y\n", "2 cells, the header has"),
    ],
)
def test_a_file_of_another_form(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "points.csv"
    file.write_text(text)
    with pytest.raises(SpecError, match=says):
        read_points(file)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"n_devices": "2147483648"}, "2: n_devices: '2147483648'; want a number of at most 100,000"),
        ({"devices": "1e9"}, "devices: '1e9'; want a number of at most 100,000"),
        ({"ep": "100001"}, "ep: '100001'; want a number of at most 100,000"),
        ({"tp": "1000", "dp": "1000", "devices": ""}, "n_devices: '1'; want at most 100,000 devices in all"),
        ({"isl_mean": "1e23"}, "isl_mean: '1e23'; want a number of at most 16,777,216"),
        ({"osl_mean": "99999999"}, "osl_mean: '99999999'; want a number of at most 16,777,216"),
        ({"concurrency": "1e7"}, "concurrency: '1e7'; want a number of at most 1,000,000"),
        ({"tpot_ms_median": "1e300"}, "tpot_ms_median: '1e300'; want a number of at most 1,000,000,000,000"),
        ({**DISAGG, "decode_workers": "2147483647"}, "decode_workers: '2147483647'; want a number of at most 100,000"),
        ({**DISAGG, "decode_workers": "90000"}, "decode_workers: '90000'; want at most 100,000 devices in all"),
    ],
)
def test_a_number_that_no_machine_comes_near(tmp_path: Path, cells: dict[str, str], says: str) -> None:
    with pytest.raises(SpecError, match=re.escape(says)):
        read_points(table(tmp_path, cells))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        read_points(tmp_path / "none.csv")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(SpecError, match="UTF-8"):
        read_points(binary)
