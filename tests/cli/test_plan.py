"""`tokenworks plan`: one result on stdout, words on stderr, the right exit code."""

from pathlib import Path

import pytest
import yaml

from tests.cli.envelope import result
from tokenworks import cli
from tokenworks.specs.deployment_file import load_deployments, pick_deployment

MOE = [
    "plan",
    "Qwen/Qwen3-30B-A3B",
    "--on",
    "hgx-h100",
    "--isl",
    "2000",
    "--osl",
    "200",
    "--no-simulate",
    "--engine",
    "vllm",
]
SLO = ["--slo", "ttft=2s,tpot=50ms"]

Output = pytest.CaptureFixture[str]


def run(arguments: list[str], capsys: Output) -> tuple[int, str, str]:
    code = cli.run(arguments)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_the_table_explains_itself(capsys: Output) -> None:
    code, out, err = run([*MOE, *SLO], capsys)
    assert (code, err) == (0, "")
    for words in (
        "30.5 B parameters", "8 x ", "effective", "is bound by", "points considered", "Pareto points",
        "Grade ", "80 % interval", "Assumed:",
    ):  # fmt: skip
        assert words in out


def test_the_table_prints_the_tokens_that_it_is_ranked_by(capsys: Output) -> None:
    asked = [
        "plan", "Qwen/Qwen3-32B", "--on", "hgx-h100:2", "--isl", "1000", "--osl", "100", *SLO, "--engine", "vllm",
        "--top", "3", "--budget", "300000 requests",
    ]  # fmt: skip
    _, out, _ = run([*asked, "-o", "json"], capsys)
    rows = result(out)["deployments"]
    assert any(row["effective_tok_s_per_device"] < row["output_tok_s_per_device"] for row in rows)
    _, out, _ = run(asked, capsys)
    lines = [line.split() for line in out.splitlines() if line[:1].isdecimal()][: len(rows)]
    for row, words in zip(rows, lines, strict=True):
        value = row["effective_tok_s_per_device"]
        assert (f"{value:,.1f}" if value >= 10 else f"{value:.3g}") in words


def test_json_is_one_object(capsys: Output) -> None:
    code, out, err = run([*MOE, *SLO, "-o", "json", "--top", "3"], capsys)
    assert (code, err) == (0, "")
    found = result(out)
    assert len(found["deployments"]) == 3
    assert found["inputs"]["slo"] == "ttft=2s,tpot=50ms"
    assert found["wall"].keys() == {"elapsed_s"}


def test_yaml_is_a_file_that_others_read(capsys: Output, tmp_path: Path) -> None:
    code, out, _ = run([*MOE, *SLO, "-o", "yaml", "--top", "2"], capsys)
    assert code == 0
    path = tmp_path / "ranked.yaml"
    path.write_text(out)
    assert len(load_deployments(path)) == 2
    first = yaml.safe_load(out)["deployments"][0]
    assert first["rank"] == 1
    assert {"ttft_slo_s", "tpot_slo_s", "interval", "grade"} <= first["expected"].keys()


def test_a_missed_slo_prints_the_nearest_and_exits_4(capsys: Output) -> None:
    code, out, err = run([*MOE, "--slo", "ttft=1ms,tpot=1ms", "-o", "json"], capsys)
    assert code == 4
    assert result(out)["meets_slo"] is False
    assert "the nearest" in err
    code, out, err = run([*MOE, "--slo", "ttft=1ms,tpot=1ms"], capsys)
    assert code == 4
    assert "output" in out


def test_a_model_that_does_not_fit_exits_3(capsys: Output) -> None:
    code, out, err = run(["plan", "deepseek-ai/DeepSeek-R1", "--on", "hgx-h100", "--workload", "chat"], capsys)
    assert (code, out) == (3, "")
    assert "GB" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "Qwen/Qwen3-30B-A3B", "--on", "hgx-h100"], "--isl"),
        (["plan", "Qwen/Qwen3-30B-A3", "--on", "hgx-h100", "--workload", "chat"], "Qwen/Qwen3-30B-A3B"),
        (["plan", "Qwen/Qwen3-30B-A3B", "--on", "0xhgx-h100", "--workload", "chat"], "1 or more"),
        (["plan", "Qwen/Qwen3-30B-A3B", "--on", "hgx-h10", "--workload", "chat"], "hgx-h100"),
        (["plan", "Qwen/Qwen3-30B-A3B", "--on", "hgx-h100", "--workload", "chatt"], "chat"),
        (["plan", "Qwen/Qwen3-30B-A3B", "--on", "hgx-h100", "--workload", "no.yaml"], "no such file"),
        (["plan", "Qwen/Qwen3-30B-A3B", "--on", "hgx-h100", "--workload", "chat", "--isl", "5"], "not both"),
        ([*MOE, "--rate", "1", "--concurrency", "1"], "not both"),
        ([*MOE, "--slo", "garbage"], "ttft=2s,tpot=50ms"),
        ([*MOE, "--engine", "nonsense"], "engine"),
        ([*MOE, "--top", "-1"], "--top"),
        ([*MOE, "--isl", "nan"], "isl"),
        ([*MOE, "--concurrency", "1e300"], "concurrency: 1e+300"),
        ([*MOE, "--why", "tp"], "--why"),
        ([*MOE, "--why", "tq=3"], "did you mean tp="),
        ([*MOE, "--why", "tp=3,tp=4"], "twice"),
        ([*MOE, "--why", "tp=x"], "tp=x"),
        ([*MOE, "--why", "tp=0"], "tp=0"),
        ([*MOE, "--why", ""], "nothing is given"),
        ([*MOE, "--why", "kv_dtype=fp3"], "fp3"),
        ([*MOE, "--why", "none.yaml:2"], "none.yaml: no such file"),
        ([*MOE, "--budget", "0 requests"], "--budget"),
        ([*MOE, "--budget", "100"], "has no unit"),
        (["plan", "Qwen/Qwen3-8B", "--on", "scalex40", "--workload", "chat", "--engine", "trtllm"], "does not run on"),
    ],
)
def test_bad_input_exits_2_with_words(arguments: list[str], words: str, capsys: Output) -> None:
    code, out, err = run(arguments, capsys)
    assert (code, out) == (2, "")
    assert err.startswith("tokenworks: ")
    assert words in err


def test_why_not_names_every_broken_rule(capsys: Output) -> None:
    code, out, _ = run([*MOE, "--why", "tp=3,dp=2,ep=6"], capsys)
    assert code == 2
    for words in ("tp_divides_heads", "take tp of 1, 2, 4, 8", "experts_divide", "add 4 redundant experts"):
        assert words in out
    code, out, _ = run([*MOE, "--why", "tp=3,dp=2,ep=6", "-o", "json"], capsys)
    assert {item["rule"] for item in result(out)["broken"]} >= {"tp_divides_heads", "experts_divide"}


def test_why_estimates_what_is_legal(capsys: Output) -> None:
    code, out, _ = run([*MOE, *SLO, "--why", "tp=2,ep=2"], capsys)
    assert code == 0
    assert "is legal" in out
    assert "in place" in out
    given = [*MOE, *SLO, "--why", "tp=2,ep=2,max_sequences=17,chunk_tokens=4096,kv_dtype=bf16", "-o", "json"]
    code, out, _ = run(given, capsys)
    found = result(out)
    assert found["legal"] is True
    assert found["place"] >= 1
    assert found["prediction"]["deployment"]["roles"][0]["max_sequences"] == 17


def test_why_of_a_file_has_the_exit_code_of_its_answer(capsys: Output, tmp_path: Path) -> None:
    file = tmp_path / "ranked.yaml"
    _, out, _ = run([*MOE, *SLO, "-o", "yaml", "--top", "30"], capsys)
    file.write_text(out)
    every = [one["deployment"] for one in yaml.safe_load(out)["deployments"]]
    apart = next(k for k, one in enumerate(every, 1) if len(one["roles"]) == 2)
    for pick in (1, apart):
        code, out, _ = run([*MOE, *SLO, "--why", f"{file}:{pick}", "-o", "json"], capsys)
        answer = result(out)
        assert code == 0
        assert answer["prediction"]["deployment"] == every[pick - 1]
        assert [role["name"] for role in answer["roles"]] == [role["name"] for role in every[pick - 1]["roles"]]
    code, out, err = run([*MOE, *SLO, "--why", f"{file}:31"], capsys)
    assert (code, out) == (2, "")
    assert "holds 1 to 30" in err
    code, _, err = run([*MOE[:3], "hgx-h200", *MOE[4:], *SLO, "--why", str(file)], capsys)
    assert code == 2
    assert "system is hgx-h100, the plan is for hgx-h200" in err
    code, _, err = run([*MOE[:-1], "sglang", *SLO, "--why", str(file)], capsys)
    assert code == 2
    assert "take --engine vllm" in err
    code, out, err = run([*MOE, "--slo", "tpot=1us", "--why", str(file)], capsys)
    assert code == 4
    assert "misses the SLO" in out
    code, _, err = run(
        ["plan", "deepseek-ai/DeepSeek-R1", "--on", "hgx-h100", "--workload", "chat", "--why", "tp=8,ep=8"], capsys
    )
    assert code == 3
    assert "does not fit" in err


@pytest.mark.usefixtures("kernel")
def test_why_says_where_the_time_of_the_devices_goes(capsys: Output) -> None:
    asked = ["plan", "Qwen/Qwen3-8B", "--on", "hgx-h100", "--isl", "1000", "--osl", "100", *SLO, "--engine", "vllm"]
    code, out, _ = run([*asked, "--why", "tp=8", "-o", "json"], capsys)
    answer = result(out)
    assert code == 0
    for key, row in (("device_s_per_token", answer["prediction"]), ("best_device_s_per_token", answer["best"])):
        assert sum(part[key] for part in answer["parts"]) == pytest.approx(1 / row["output_tok_s_per_device"], rel=1e-6)
    assert answer["place"] > 1
    code, out, _ = run([*asked, "--why", "tp=8"], capsys)
    assert "all-reduce" in out
    assert "part of a step" in out


def test_the_winner_stands_in_the_first_place(capsys: Output) -> None:
    _, out, _ = run([*MOE, *SLO, "-o", "json", "--top", "1"], capsys)
    best = result(out)["deployments"][0]
    (role,) = best["deployment"]["roles"] if len(best["deployment"]["roles"]) == 1 else (None,)
    if role is None:  # the best is disaggregated, and --why speaks of aggregated ones
        return
    widths = ",".join(f"{name}={value}" for name, value in role["parallel"].items())
    rest = ",".join(
        f"{name}={role[name]}"
        for name in ("max_sequences", "chunk_tokens", "kv_dtype", "redundant_experts", "draft_tokens", "overlap")
    )
    _, out, _ = run([*MOE, *SLO, "--why", f"{widths},{rest}", "-o", "json"], capsys)
    found = result(out)
    assert found["place"] == 1
    assert found["prediction"]["tpot_s"] == pytest.approx(best["tpot_s"], rel=1e-6)


def test_two_runs_differ_in_wall_only(capsys: Output) -> None:
    found = []
    for _ in range(2):
        _, out, _ = run([*MOE, *SLO, "-o", "json"], capsys)
        found.append({key: value for key, value in result(out).items() if key != "wall"})
    assert found[0] == found[1]


def test_a_system_that_is_not_published_needs_assumptions(capsys: Output, tmp_path: Path) -> None:
    asked = ["plan", "Qwen/Qwen3-30B-A3B", "--on", "kunlun-32", "--isl", "500", "--osl", "50"]
    code, out, err = run(asked, capsys)
    assert (code, out) == (2, "")
    assert "scale_up.hop" in err
    assert "--assume" in err
    file = tmp_path / "mine.yaml"
    file.write_text("scale_up.hop: 0.3 us\nscale_up.endpoint: 0.5 us\nhost.link: 32 GB/s\nhost.dram: 1 TB\n")
    code, out, _ = run([*asked, "--assume", str(file), "-o", "json", "--top", "1", "--no-simulate"], capsys)
    found = result(out)
    assert code == 0
    assert found["assumed"]
    assert found["deployments"][0]["deployment"]["system"] == "kunlun-32"


def test_a_file_of_deployments_keeps_what_was_assumed(capsys: Output, tmp_path: Path) -> None:
    file, ranked = tmp_path / "mine.yaml", tmp_path / "ranked.yaml"
    file.write_text("scale_up.hop: 0.3 us\n")
    code, out, _ = run([*MOE, *SLO, "--assume", str(file), "-o", "yaml", "--top", "1"], capsys)
    assert code == 0
    ranked.write_text(out)
    assert [(one.path, one.value) for one in pick_deployment(ranked).given] == [("scale_up.hop", "0.3 us")]


def test_without_an_slo_nothing_is_effective_and_nothing_met(capsys: Output) -> None:
    _, out, _ = run([*MOE, "--slo", ""], capsys)
    assert "SLO none" in out
    assert "effective" not in out
    _, out, _ = run([*MOE, "--why", "tp=2,ep=2"], capsys)
    assert "meets" not in out
    assert "it keeps up" in out


def test_the_table_says_which_percentile(capsys: Output) -> None:
    _, out, _ = run([*MOE, "--slo", "ttft.p50=2s,tpot=50ms"], capsys)
    for words in ("TTFT p50", "TPOT p99", "mean TPOT of deployment 1 is"):
        assert words in out


def test_one_user_is_one_sequence(capsys: Output) -> None:
    _, out, _ = run([*MOE, "--concurrency", "1"], capsys)
    assert "1 sequence decodes" in out


def test_one_output_token_has_no_tpot(capsys: Output) -> None:
    asked = ["plan", "Qwen/Qwen3-30B-A3B", "--on", "hgx-h100", "--isl", "2000", "--osl", "1"]
    code, out, _ = run([*asked, "--slo", "ttft=2s,tpot=1us"], capsys)
    assert code == 0
    assert "have no TPOT" in out


def test_load_beyond_all_capacity_is_said_in_its_own_unit(capsys: Output) -> None:
    code, out, err = run([*MOE, "--slo", "ttft=2s,tpot=50ms", "--rate", "1e6", "-o", "json", "--top", "1"], capsys)
    (row,) = result(out)["deployments"]
    assert code == 4
    assert f"can carry {1e6 / row['load']:.3g} of 1e+06 requests/s" in err
    assert 0.4 * row["requests_s"] < 1e6 / row["load"] <= row["requests_s"] * 1.01


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("tp=1,kv_dtype=fp8,max_sequences=900", "KV cache does not hold 900 sequences"),
        ("tp=8,chunk_tokens=1", "chunk_tokens=1 for 2 sequences"),
        ("pp=8,max_sequences=2", "give it 9 or more"),
    ],
)
def test_why_says_what_stops_a_role_at_its_batch(why: str, words: str, capsys: Output) -> None:
    asked = ["plan", "Qwen/Qwen3-8B", "--on", "hgx-h100", "--isl", "1000", "--osl", "1000", "--slo", "tpot=1s"]
    code, out, err = run([*asked, "--why", why], capsys)
    assert (code, out) == (2, "")
    assert words in err


def test_an_interrupt_ends_with_words(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_args: object, **_more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tokenworks.planning.searches.search", stop)
    code, out, err = run([*MOE, *SLO], capsys)
    assert (code, out) == (130, "")
    assert "interrupted" in err


@pytest.mark.usefixtures("kernel")
def test_a_plan_is_simulated_unless_told_otherwise(capsys: Output) -> None:
    asked = ["plan", "Qwen/Qwen3-8B", "--on", "hgx-h100", "--isl", "1000", "--osl", "100", "--slo", "ttft=2s,tpot=50ms"]
    code, out, _ = run([*asked, "--top", "3", "-o", "json"], capsys)
    assert code == 0
    plan = result(out)
    assert (plan["simulated"], plan["settled"]) == (True, True)
    assert plan["simulations"] > 3
    rows = plan["deployments"]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert all(row["estimated"]["effective_tok_s_per_device"] > 0 for row in rows)
    code, out, _ = run([*asked, "--top", "2", "--rate", "20"], capsys)
    assert code == 0
    assert "Simulated under the load, with the scheduler of its engine" in out
    code, out, _ = run([*asked, "--top", "2", "--no-simulate"], capsys)
    assert "Simulated" not in out
    assert "an estimate of the steady state, not a simulation" in out
    code, _, err = run([*asked, "--budget", "0"], capsys)
    assert code == 2
    assert '"0" has no unit' in err


QWEN = ["plan", "Qwen/Qwen3-235B-A22B", "--on", "scalex40", "--workload", "agent", "--no-simulate"]


def test_the_context_limit_is_named_where_it_refuses(capsys: Output) -> None:
    code, out, err = run(QWEN, capsys)
    assert (code, out) == (2, "")
    assert "reads 40,960: set --max-model-len to 131,072 (with YaRN, factor 4)" in err


def test_a_longer_context_is_planned_and_remembered(tmp_path: Path, capsys: Output) -> None:
    code, out, err = run([*QWEN, "--max-model-len", "131072", "-o", "yaml"], capsys)
    assert (code, err) == (0, "")
    file = tmp_path / "plan.yaml"
    file.write_text(out)
    assert {one.deployment.max_model_len for one in load_deployments(file)} == {131072}
    code, out, err = run(["estimate", str(file)], capsys)
    assert (code, err) == (0, "")
    assert "Context limit (--max-model-len): 131,072 tokens, with YaRN, factor 4" in out
    code, out, err = run(["estimate", str(file), "--max-model-len", "100000"], capsys)
    assert (code, out) == (2, "")
    assert "reads 100,000: set --max-model-len to 131,072" in err


@pytest.mark.parametrize(("tokens", "words"), [("0", "not a context limit"), ("131073", "or 131,072 with YaRN")])
def test_a_context_limit_that_is_not_allowed_is_bad_input(tokens: str, words: str, capsys: Output) -> None:
    code, out, err = run([*QWEN, "--max-model-len", tokens], capsys)
    assert (code, out) == (2, "")
    assert "--max-model-len" in err
    assert words in err


@pytest.mark.parametrize(
    ("tiers", "words"),
    [
        ("nonsense", "unknown set-up of KV tiers 'nonsense'"),
        ("hicache", "hicache is a set-up of sglang, not of vllm"),
    ],
)
def test_tiers_that_the_engine_does_not_have(tiers: str, words: str, capsys: Output) -> None:
    code, out, err = run([*MOE, *SLO, "--tiers", tiers], capsys)
    assert (code, out) == (2, "")
    assert f"--tiers: {words}" in err
