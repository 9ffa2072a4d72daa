"""`tokenworks compare`: tables that explain themselves, commands that reproduce them, and errors in words."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.cli.envelope import result
from tokenworks import cli
from tokenworks.cli.tables import print_table
from tokenworks.specs.load import read_yaml

SMALL, LARGE, HUGE = "Qwen/Qwen3-0.6B", "Qwen/Qwen3-32B", "deepseek-ai/DeepSeek-R1"
H20, H100, L40S = "hgx-h20:1", "hgx-h100:1", "pcie-l40s:1"
ENGINE = ["--isl", "1000", "--osl", "100", "--engine", "vllm"]
QUICK = ["--budget", "5000 requests", "--workers", "1"]
WORK = [*ENGINE, "--slo", "ttft=2s,tpot=50ms", *QUICK]
BOTH = ["--on", H20, "--on", L40S, *WORK]

Output = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("kernel")


def run(arguments: list[str], capsys: Output) -> tuple[int, str, str]:
    code = cli.run(arguments)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def compare(arguments: list[str], capsys: Output, *, code: int = 0) -> str:
    got, out, err = run(["compare", *arguments], capsys)
    assert got == code, err
    return " ".join(out.split())


def compare_json(arguments: list[str], capsys: Output) -> Any:
    code, out, err = run(["compare", *arguments, "-o", "json"], capsys)
    assert code == 0, err
    return result(out)


def file(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


# ── what is printed ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_tables_explain_themselves(capsys: Output) -> None:
    out = compare([SMALL, "--on", H20, "--on", H100, *WORK], capsys)
    for words in (
        "compared at equal devices", "effective = output tokens/s of requests that meet the SLO, per device", "Why",
        "wins with", "of device time on", "Cost, in USD: 50% utilisation", "M effective = all cost", "endpoints",
        "No API price of Qwen/Qwen3-0.6B is known", f"tokenworks plan {SMALL} --on {H20}",
    ):  # fmt: skip
        assert words in out


def test_each_line_has_a_cell_for_each_column(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[tuple[list[str], list[list[str]]]] = []

    def seen(out: Any, columns: Any, rows: Any, **other: Any) -> None:
        tables.append((list(columns), rows))
        print_table(out, columns, rows, **other)

    monkeypatch.setattr("tokenworks.cli.compare_table.print_table", seen)
    for models in ([SMALL], [LARGE], [f"{SMALL}=3", f"{LARGE}=1"]):
        compare([*models, *BOTH], capsys)
    assert len(tables) >= 6
    for columns, rows in tables:
        assert rows
        assert {len(row) for row in rows} == {len(columns)}


def test_json_is_one_object_and_twice_the_same(capsys: Output) -> None:
    first, second = (compare_json([SMALL, *BOTH], capsys) for _ in range(2))
    first.pop("wall")
    second.pop("wall")
    assert first == second
    assert first["winner"] == first["systems"][0]["system"]
    assert first["inputs"]["slo"] == "ttft=2s,tpot=50ms"
    for one in first["systems"]:
        (answer,) = one["answers"]
        assert one["effective_tok_s_per_unit"] == pytest.approx(answer["effective_tok_s"] / one["amount"])
        assert sum(answer["token_shares"].values()) == pytest.approx(1)
        speeds = [point["output_tok_s_per_user"] for point in answer["curve"]]
        assert speeds == sorted(speeds, reverse=True)


@pytest.mark.parametrize(
    "more",
    [[], ["--set", "engine.host_step=2ms"], ["--assume", f"{H20}=FILE"], ["--isl", "1234.5"]],
    ids=["plain", "set", "assume", "isl"],
)
def test_the_printed_command_prints_the_figures_of_the_line(more: list[str], capsys: Output, tmp_path: Path) -> None:
    own = file(tmp_path, "mine.yaml", "device.hbm.bandwidth: 2 TB/s\nengine.host_step: 3 ms\n")
    arguments = [SMALL, *BOTH]
    if more[:1] == ["--isl"]:
        at = arguments.index("--isl")
        arguments[at : at + 2] = more
    else:
        arguments += [word.replace("FILE", own) for word in more]
    compared = compare_json(arguments, capsys)
    for one in compared["systems"]:
        (answer,) = one["answers"]
        words = shlex.split(answer["command"])
        assert words[:2] == ["tokenworks", "plan"]
        code, out, _ = run([*words[1:], "-o", "json"], capsys)
        assert code == 0
        best = result(out)["deployments"][0]
        for name in ("label", "effective_tok_s_per_device", "output_tok_s_per_user", "tpot_s", "interval", "devices"):
            assert best[name] == answer["best"][name]
        assert result(out)["pareto"][0]["output_tok_s_per_user"] == answer["curve"][0]["output_tok_s_per_user"]


def test_numbers_of_one_machine_change_that_machine_alone(capsys: Output, tmp_path: Path) -> None:
    own = file(tmp_path, "mine.yaml", "device.hbm.bandwidth: 2 TB/s\n")
    before = compare_json([SMALL, *BOTH], capsys)
    after = compare_json([SMALL, *BOTH, "--assume", f"{H20}={own}"], capsys)
    values = [
        {one["system"]: one["effective_tok_s_per_unit"] for one in answer["systems"]} for answer in (before, after)
    ]
    assert values[0][L40S] == values[1][L40S]
    assert values[0][H20] > values[1][H20]
    assert after["inputs"]["assumed"][0]["path"] == "device.hbm.bandwidth"


def test_a_fleet_mix_has_a_line_for_each_model(capsys: Output) -> None:
    out = compare([f"{SMALL}=3", f"{LARGE}=1", "--on", H20, "--on", H100, *WORK], capsys)
    assert f"75% {SMALL}, 25% {LARGE}" in out
    assert "its best deployments are" in out
    assert "an output token of" in out


def test_a_machine_without_a_price_breaks_even_somewhere(capsys: Output, tmp_path: Path) -> None:
    free = file(tmp_path, "prices.yaml", "cards:\n  h100: null\n")
    arguments = [SMALL, "--on", H20, "--on", H100, *WORK, "--prices", free]
    out = compare([*arguments, "--utilisation", "0.5", "--utilisation", "0.8", "--api", HUGE], capsys)
    assert f"{H100} has no cost" in out
    assert f"Price of {H100} in USD at which its effective tokens cost as much as those of a rival:" in out
    assert "80%" in out
    assert f"What moves this price most, against {H20}:" in out


def test_rent_has_no_electricity_and_no_break_even(capsys: Output) -> None:
    out = compare([SMALL, "--on", H20, "--on", H100, *WORK, "--pay", "rent", "--currency", "CNY"], capsys)
    assert "Cost, in CNY: 50% utilisation, rent; SLO" in out
    assert "at which its effective tokens cost" not in out
    assert "No API price" not in out


def test_yaml_is_the_same_object(capsys: Output, tmp_path: Path) -> None:
    code, out, _ = run(["compare", SMALL, *BOTH, "-o", "yaml"], capsys)
    assert code == 0
    assert read_yaml(file(tmp_path, "result.yaml", out))["winner"] == compare_json([SMALL, *BOTH], capsys)["winner"]


# ── machines that cannot do the work ──────────────────────────────────────────────────────────────────────────────


def test_one_machine_is_too_small_and_the_other_answers(capsys: Output) -> None:
    out = compare([LARGE, *BOTH], capsys)
    assert f"{L40S} has no value: {LARGE} does not fit {L40S}" in out
    assert "No other machine has a value." in out
    assert "At every speed per user" not in out


@pytest.mark.parametrize(("machine", "way_out"), [("kunlun-32", "--assume"), ("tpu-v6e-pod", "--like tpu-v6e-pod")])
def test_a_machine_without_a_prediction_names_the_way_out(machine: str, way_out: str, capsys: Output) -> None:
    out = compare([SMALL, *BOTH, "--on", machine], capsys)
    assert f"{machine} has no value: " in out
    assert way_out in out


@pytest.mark.parametrize("output", [[], ["-o", "json"]])
def test_a_model_that_fits_nowhere_exits_3(output: list[str], capsys: Output) -> None:
    code, out, err = run(["compare", HUGE, *BOTH, *output], capsys)
    assert code == 3
    assert out
    assert "no machine has a value" in err
    assert err.count("does not fit") == 2


def test_an_slo_that_nobody_meets_exits_4_and_names_the_nearest(capsys: Output) -> None:
    impossible = ["--slo", "ttft=1ms,tpot=1ms"]
    code, out, err = run(["compare", SMALL, "--on", H20, "--on", L40S, *ENGINE, *QUICK, *impossible], capsys)
    assert code == 4
    assert err.count("the nearest, ") == 2
    assert "No machine has a value." in out


def test_a_room_that_holds_one_machine_or_none(capsys: Output, tmp_path: Path) -> None:
    room = ["--room", file(tmp_path, "room.yaml", "name: cupboard\nracks: 1\nrack_power: 1 kW\n")]
    out = compare([SMALL, *BOTH, *room], capsys)
    assert f"{H20} has no value: {H20} does not fit cupboard" in out
    code, out, err = run(["compare", SMALL, "--on", H20, "--on", H100, *WORK, *room], capsys)
    assert code == 3
    assert err.count("does not fit cupboard") == 2


def test_equal_money_without_a_price_is_bad_input(capsys: Output) -> None:
    code, _, err = run(["compare", SMALL, "--on", "pcie-l40s:2", "--on", L40S, *WORK, "--equal", "money"], capsys)
    assert code == 2
    assert "give cards.l40s of the price list" in err


# ── bad input ─────────────────────────────────────────────────────────────────────────────────────────────────────

CONTRADICTION = "cards:\n  h20: 10000 USD/card\nrental:\n  h20: 1 USD/card-h\n"
REVERSED = "cards:\n  h20: {low: 5, mid: 4, high: 6, unit: USD/card, status: media, source: x, date: 2026-11}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([SMALL, *WORK], "--on: no machine"),
        ([SMALL, "--on", H20, *WORK], "needs two machines"),
        ([SMALL, "--on", H20, "--on", H20, *WORK], "is given twice"),
        ([SMALL, "--on", "hgx-h2000", "--on", H20, *WORK], "did you mean hgx-h20"),
        (["Qwen/Qwen3-0.7B", *BOTH], "did you mean"),
        ([*BOTH], "MODEL"),
        ([SMALL, *BOTH, "--equal", "cards"], '"devices", "power", "racks", "money"'),
        ([f"{SMALL}=0", *BOTH], "0 is no share"),
        ([f"{SMALL}=-1", *BOTH], "-1 is no share"),
        ([f"{SMALL}=abc", *BOTH], "has no number behind ="),
        ([SMALL, SMALL, *BOTH], "is given twice"),
        ([SMALL, *BOTH, "--assume", f"{H100}=mine.yaml"], "is not compared"),
        ([SMALL, *BOTH, "--assume", f"{H20}="], "has no file behind ="),
        ([SMALL, *BOTH, "--assume", f"{H20}=no-such.yaml"], "no-such.yaml: no such file"),
        ([SMALL, *BOTH, "--assume", "no-such.yaml"], "no-such.yaml: no such file"),
        ([SMALL, *BOTH, "--prices", "no-such.yaml"], "no-such.yaml: no such file"),
        ([SMALL, *BOTH, "--room", "no-such.yaml"], "no-such.yaml: no such file"),
        ([SMALL, *BOTH, "--set", "scale_up.hop=1us"], "begin the path with one of machine"),
        ([SMALL, "--on", H20, "--on", L40S, *ENGINE, "--workers", "0"], "--workers: 0 processes"),
        ([SMALL, "--on", H20, "--on", L40S, *ENGINE, "--budget", "much"], "--budget"),
        ([SMALL, *BOTH, "--utilisation", "0"], "utilisation: 0 is not possible"),
        ([SMALL, *BOTH, "--utilisation", "0.5", "--utilisation", "1.5"], "utilisation: 1.5 is not possible"),
        ([SMALL, *BOTH, "--crossover", "price"], '"context", "reuse"'),
        ([SMALL, *BOTH, "--api", "nobody/has-this"], "catalog prices api"),
        ([SMALL, *BOTH, "-o", "html"], "needs --out"),
        ([SMALL, "--on", H20, "--on", L40S], "--workload: no workload"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_words(arguments: list[str], words: str, capsys: Output) -> None:
    code, out, err = run(["compare", *arguments], capsys)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("both.yaml", CONTRADICTION, "prices a purchase (cards.h20) and a rent (rental.h20)"),
        ("reversed.yaml", REVERSED, "the range is not in order: 5 stands before 4"),
        ("other.json", '{"a": [1, 2]}', "is no price list"),
        ("other.csv", "name,price\nh100,3\n", "is no price list"),
    ],
)
def test_a_price_list_that_cannot_be_used(name: str, text: str, words: str, capsys: Output, tmp_path: Path) -> None:
    code, out, err = run(["compare", SMALL, *BOTH, "--prices", file(tmp_path, name, text)], capsys)
    assert (code, out) == (2, "")
    assert name in err
    assert words in err


def test_the_work_of_one_machine_alone_cannot_be_changed(capsys: Output, tmp_path: Path) -> None:
    own = file(tmp_path, "mine.yaml", "workload.isl: 500\n")
    code, _, err = run(["compare", SMALL, *BOTH, "--assume", f"{H20}={own}"], capsys)
    assert code == 2
    assert "all machines do the same work" in err


# ── the page ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("model", "code"), [(SMALL, 0), (LARGE, 0), (HUGE, 3)])
def test_a_page_is_written_also_without_a_winner(model: str, code: int, capsys: Output, tmp_path: Path) -> None:
    pytest.importorskip("altair")
    page = tmp_path / "page.html"
    got, _, err = run(["compare", model, *BOTH, "-o", "html", "--out", str(page)], capsys)
    assert got == code, err
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


# ── availability, KV tiers and training ───────────────────────────────────────────────────────────────────────────

TRAIN = ["Qwen/Qwen3-0.6B", "--on", "hgx-h20", "--on", "hgx-h100", "--train", "--workers", "1"]
BATCH = ["--batch", "64x4096", "--tokens", "20B"]


def test_availability_has_a_table_and_keys(capsys: Output) -> None:
    out = compare([SMALL, *BOTH], capsys)
    assert "Availability with the failure rates published, closed form" in out
    assert "expected = effective x capacity, per device" in out
    found = compare_json([SMALL, *BOTH], capsys)
    assert (found["reliability"], found["tiers"]) == ("published", "auto")
    for one in found["systems"]:
        (answer,) = one["answers"]
        assert one["expected_tok_s_per_unit"] == pytest.approx(one["effective_tok_s_per_unit"] * one["capacity"])
        assert answer["availability"]["capacity"] == pytest.approx(one["capacity"])
        assert one["availability"]["assumed"]


def test_tiers_of_no_engine_are_refused_and_none_are_taken(capsys: Output) -> None:
    _, _, err = run(["compare", SMALL, *BOTH, "--tiers", "hicache"], capsys)
    assert "--tiers: hicache is a set-up of sglang, not of vllm" in err
    found = compare_json([SMALL, *BOTH, "--tiers", "none"], capsys)
    assert all(one["answers"][0]["tiers"] is None for one in found["systems"])
    assert all("--tiers none" in one["answers"][0]["command"] for one in found["systems"])


def test_training_has_a_table_json_and_a_command_with_the_same_figures(capsys: Output) -> None:
    out = compare([*TRAIN, *BATCH], capsys)
    for words in ("compared at equal devices", "kept tok/s = tokens/s that the run keeps", "Why", "wins with",
                  "Cost, in USD: 100% utilisation", "the run", "tokenworks train Qwen/Qwen3-0.6B --on"):  # fmt: skip
        assert words in out
    found = compare_json([*TRAIN, *BATCH], capsys)
    assert found["kind"] == "compare-training"
    assert found["winner"] == found["systems"][0]["system"]
    for one in found["systems"]:
        kept = one["best"]["tok_s"] * one["goodput"]["share"] / one["amount"]
        assert one["kept_tok_s_per_unit"] == pytest.approx(kept)
        code, out, _ = run([*shlex.split(one["command"])[1:], "-o", "json"], capsys)
        assert code == 0
        assert result(out)["plans"][0] == one["best"]


def test_training_that_fits_nowhere_exits_3(capsys: Output) -> None:
    arguments = ["Qwen/Qwen3-8B", "--on", L40S, "--on", "hgx-h20:1", "--train", "--workers", "1", *BATCH]
    code, out, err = run(["compare", *arguments], capsys)
    assert code == 3
    assert "No machine has a value." in out
    assert "no machine has a value" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*TRAIN, *BATCH, "--workload", "chat", "--isl", "5", "--utilisation", "0.5"],
         "options of serving: --workload, --isl, --utilisation"),
        ([*TRAIN, *BATCH, "--engine", "vllm", "--crossover", "reuse"], "options of serving: --engine, --crossover"),
        ([SMALL, *BOTH, "--batch", "16M", "--after-failure", "wait"],
         "options of a training run: --batch, --after-failure"),
        ([SMALL, *BOTH, "--tiers", "hicash"], "unknown set-up of KV tiers"),
        ([SMALL, *BOTH, "--reliability", "publishd"], "failure rates"),
        ([SMALL, *BOTH, "--reliability", "no-such.yaml"], "no-such.yaml: no such file"),
        ([LARGE, *TRAIN, *BATCH], "a run trains one model"),
        ([f"{SMALL}=0.5", *TRAIN[1:], *BATCH], "a run trains one model"),
        ([*TRAIN], "--batch: no batch"),
        ([*TRAIN, *BATCH, "--storage", "0 GB/s"], "--storage: 0 byte/s"),
        ([*TRAIN, *BATCH, "--precision", "fp7"], '"fp8"'),
        ([*TRAIN, *BATCH, "--set", "workload.isl=5"], "training reads no numbers of workload"),
        ([*TRAIN, *BATCH, "-o", "html"], "needs --out"),
    ],
)  # fmt: skip
def test_bad_input_of_these_is_refused_in_words(arguments: list[str], words: str, capsys: Output) -> None:
    code, out, err = run(["compare", *arguments], capsys)
    assert code == 2, err
    assert out == ""
    assert words in " ".join(err.split())
