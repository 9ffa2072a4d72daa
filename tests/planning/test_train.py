"""Training plans: what is asked, the rules, the result, goodput on a machine, and advice."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import tokenworks
from tokenworks import DoesNotFit, SpecError
from tokenworks.costs.train_memory import train_memory
from tokenworks.costs.train_plan import TrainPlans, train_rates
from tokenworks.legal.training import TRAIN_SHAPE, TrainPoints, TrainProposal, TrainSetting
from tokenworks.planning.train import choose
from tokenworks.planning.train_asked import asked_training, batch_of, token_count
from tokenworks.planning.train_goodput import checkpoint_size, goodput, machines_left, machines_used
from tokenworks.planning.train_space import TrainSpace, used_devices
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.hf import load_model
from tokenworks.specs.reliability import load_reliability
from tokenworks.specs.training import Training
from tokenworks.specs.training_text import load_training

DENSE, MOE = "meta-llama/Meta-Llama-3.1-8B", "Qwen/Qwen3-30B-A3B"
FAILING: dict[str, Any] = {
    "device_failures": 1e-5, "host_failures": 1e-4, "lost": 0.4, "restart": "11 min", "repair": "12 h",
    "storage": "1 GB/s",
}  # fmt: skip
SMALL: dict[str, Any] = {"batch": "64x4096", "tokens": "20B"}


def setting(model: str = DENSE, on: str = "2xhgx-h100", text: str = "gbs=64,seq=4096") -> TrainSetting:
    return TrainSetting(load_model(model), machine(on), load_training(text))


# ── what is asked ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("1T", 1e12), ("14.8T", 14.8e12), ("500B", 5e11), ("20000000", 2e7), (3e9, 3e9), ("1e3 k", 1e6)],
)
def test_tokens_are_decimal(text: str, tokens: float) -> None:
    assert token_count(text, "--tokens") == tokens


@pytest.mark.parametrize(
    ("text", "seq", "batch"),
    [
        ("16M", None, (2048, 8192)),
        ("4M", 4096, (1024, 4096)),
        ("15360x4096", None, (15360, 4096)),
        (8192, None, (1, 8192)),
        ("8x2048", 2048, (8, 2048)),
    ],
)
def test_a_batch_counts_tokens_or_sequences(text: str, seq: int | None, batch: tuple[int, int]) -> None:
    assert batch_of(text, seq) == batch


@pytest.mark.parametrize(
    ("text", "seq", "words"),
    [
        ("4000000", None, "write 488x8192, which is 3,997,696 tokens"),
        ("0", None, "--batch: 0 tokens"),
        ("0x4096", None, "0x4096 has no tokens"),
        ("8x2048", 4096, "--seq is 4,096"),
        ("many", None, "cannot read 'many'"),
        ("-1M", None, "cannot read"),
        ("4M", 0, "--seq: 0 is not a sequence length"),
    ],
)
def test_a_wrong_batch_is_refused(text: str, seq: int | None, words: str) -> None:
    with pytest.raises(SpecError) as error:
        batch_of(text, seq)
    assert words in str(error.value)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"tokens": "0"}, "--tokens: 0 tokens; write a number above 0"),
    ({"tokens": "1e30"}, "write at most"),
    ({"batch": None}, "--batch: no batch; write tokens or sequences of a step: --batch 16M or 2048x8192"),
    ({"batch": "64x300000"}, "sequences of 300,000 tokens, meta-llama/Meta-Llama-3.1-8B reads 131,072"),
    ({"batch": "4M", "seq": 300000}, "--seq: sequences of 300,000 tokens"),
    ({"deploy": "tp"}, "--deploy: 'tp' is not KEY=VALUE"),
    ({"deploy": "tp=0"}, "--deploy: tp=0; write a whole number from 1"),
    ({"deploy": "zero=4"}, "write a whole number from 0 to 3"),
    ({"deploy": "tp=2,tp=4"}, "tp is given twice"),
    ({"deploy": "tpp=2"}, "unknown key 'tpp'; did you mean \"tp\"?"),
    ({"deploy": "recompute=some"}, "unknown recompute 'some'"),
    ({"deploy": "gbs=64"}, "the batch is given twice"),
    ({"deploy": "method=sft", "method": "lora"}, "method is given twice"),
    ({"deploy": "none.yaml"}, "none.yaml: no such file"),
    ({"deploy": "tp=3"}, "tp_shares_heads: 32 query heads and 8 KV heads over tp=3"),
    ({"deploy": "dp=3"}, "batch_is_shared: a batch of 64 sequences"),
    ({"precision": "nvfp4"}, "precision_is_there: h100 has no fp4, which nvfp4 needs: take precision=bf16 or"),
    ({"top": 0}, "--top: 0 plans"),
    ({"storage": "0 GB/s"}, "--storage: 0 byte/s"),
    ({"storage": "20 GB"}, '--storage: "20 GB" is a size'),
    ({"reliability": "none"}, "unknown failure rates 'none'"),
    ({"reliability": {"device_failures": 1}}, "reliability: host_failures: is missing"),
    ({"reliability": FAILING | {"lost": 1.5}}, "a share is at least 0 and at most 1"),
    ({"reliability": FAILING | {"storage": None}}, "must be above zero and not null"),
    ({"reliability": FAILING | {"restart": "11 GB"}}, "not a time"),
    ({"reliability": FAILING | {"failures": 1}}, "failures: unknown key"),
    ({"assume": {"scale_up.hopp": "1 us"}}, "did you mean scale_up.hop"),
    ({"devices": 99}, "99 of 16 devices"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_a_wrong_argument_is_said_in_words(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as error:
        tokenworks.train(DENSE, "2xhgx-h100", **SMALL | arguments)
    assert words in str(error.value)


def test_a_text_fixes_what_it_names() -> None:
    ask = asked_training(
        MOE, "hgx-h100", tokens="1T", batch=None, seq=None, deploy="ep=8,gbs=64,seq=2048,states=bf16,shard=2,vpp=2",
        method=None, precision="fp8", devices=None, assume=None,
    )  # fmt: skip
    assert ask.fixed.values == {"ep": (8,), "virtual": (2,)}
    base = ask.setting.base
    assert (base.global_batch, base.seq_len, base.optimiser.states, base.precision.recipe) == (64, 2048, "bf16", "fp8")
    assert base.parallel.shard == 2


# ── space and rules ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_search_tries_all_devices_and_round_numbers_below() -> None:
    assert used_devices(setting(on="scalex40")) == [40, 32]
    assert used_devices(setting(on="128xhgx-h100")) == [1024]
    lost = dataclasses.replace(machine("scalex40"), devices=39, domain=39)
    assert used_devices(dataclasses.replace(setting(), machine=lost)) == [39, 38, 36, 32]


def test_plans_become_arrays_and_come_back() -> None:
    base = load_training("gbs=64,seq=4096,states=bf16,modules=layernorm")
    text = "tp=2,pp=2,dp=2,cp=2,zero=3,mbs=2,vpp=4,recompute=selective,precision=fp8,modules=layernorm"
    training = load_training(f"{text},gbs=64,seq=4096,states=bf16")
    assert TrainPoints.of(training).training(0, base) == training


RULES: list[tuple[str, str, str, str]] = [
    ("run_fits_machine", DENSE, "tp=8,pp=4", "32 devices, 2xhgx-h100 has 16"),
    ("run_fills_domains", DENSE, "dp=12", "take at most 8, or a multiple such as 16"),
    ("tp_group_stays_aligned", DENSE, "tp=3,dp=5,pp=1", "groups of tp=3"),
    ("tp_shares_heads", DENSE, "tp=3", "take tp of 1, 2, 4"),
    ("chunks_have_layers", DENSE, "pp=16,vpp=4", "32 layers over pp=16 x vpp=4"),
    ("sequence_is_shared", DENSE, "cp=3", "seq=4096 does not divide"),
    ("batch_is_shared", DENSE, "dp=12", "a batch of 64 sequences over mbs=1 x dp=12"),
    ("dense_run_has_no_experts", DENSE, "ep=2,dp=16", "has no routed experts"),
    ("experts_lie_in_a_stage", MOE, "ep=16,dp=8,pp=2", "does not divide tp x cp x dp = 8"),
    ("experts_are_shared", MOE, "ep=3,dp=3", "128 experts of width 768 over ep=3"),
    ("schedule_has_a_pipeline", DENSE, "schedule=zero-bubble,pp=1", "take schedule=1f1b"),
    ("interleaving_has_rounds", DENSE, "vpp=2,pp=16,mbs=8", "8 micro-batches over pp=16"),
    ("dualpipe_has_two_ends", MOE, "schedule=dualpipe,pp=8,mbs=16,dp=2", "at least 16 micro-batches"),
    ("precision_is_there", DENSE, "precision=nvfp4", "h100 has no fp4"),
]


def test_each_rule_has_a_case() -> None:
    assert {case[0] for case in RULES} == set(TRAIN_SHAPE)


@pytest.mark.parametrize(("name", "model", "text", "words"), RULES)
def test_a_rule_explains_itself(name: str, model: str, text: str, words: str) -> None:
    ask = asked_training(
        model, "2xhgx-h100", tokens="1T", batch="64x4096", seq=None, deploy=text, method=None, precision=None,
        devices=None, assume=None,
    )  # fmt: skip
    points = TrainSpace.of(ask.setting, ask.fixed).points()
    verdict = TRAIN_SHAPE[name](TrainProposal(points, ask.setting))
    assert not np.all(verdict.kept)
    at = int(np.argmin(verdict.kept))
    alone = TRAIN_SHAPE[name](TrainProposal(points[at : at + 1], ask.setting))
    assert words in alone.why()
    assert (TRAIN_SHAPE[name].__doc__ or "").strip().endswith(".")


# ── the result ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def result() -> Any:
    return tokenworks.train(MOE, "scalex40", **SMALL, deploy="zero=1", top=3)


def test_the_parts_add_up_to_the_step(result: Any) -> None:
    for row in result.rows:
        assert sum(part.seconds for part in row.parts) == pytest.approx(row.step_s, rel=1e-6)
        assert row.tok_s == pytest.approx(64 * 4096 / row.step_s)
        assert row.days == pytest.approx(20e9 / row.tok_s / 86400 / result.goodput.share)
        assert row.memory_bytes <= result.setting.machine.hbm_bytes
        low, high = row.interval["step_s"]
        assert low < row.step_s < high


def test_what_a_user_fixes_makes_no_plan_faster(result: Any) -> None:
    for text in ("tp=2,zero=1", "recompute=full,zero=1", "zero=1,pp=5,mbs=1"):
        fixed = tokenworks.train(MOE, "scalex40", **SMALL, deploy=text, top=1)
        assert fixed.best.step_s >= result.best.step_s * (1 - 1e-9)
        assert fixed.legal < result.legal


def test_rows_are_ordered_and_of_different_widths(result: Any) -> None:
    assert [row.step_s for row in result.rows] == sorted(row.step_s for row in result.rows)
    assert len({str(row.training.parallel) for row in result.rows}) == len(result.rows)
    seconds, need = ([getattr(point, name) for point in result.front] for name in ("step_s", "memory_bytes"))
    assert seconds == sorted(seconds)
    assert need == sorted(need, reverse=True)


def test_unpublished_failure_rates_are_listed(result: Any) -> None:
    listed = {item.path for item in result.assumed}
    assert {"reliability.device_failures", "reliability.host_failures", "reliability.repair"} <= listed
    assert "reliability.storage" not in listed


def test_a_file_is_read_back(result: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(result.document()))
    again = tokenworks.train(MOE, "scalex40", tokens="20B", deploy=file)
    assert again.best.training == result.best.training
    assert again.best.step_s == pytest.approx(result.best.step_s)
    assert again.considered == 1
    by_text = tokenworks.train(MOE, "scalex40", tokens="20B", deploy=result.plain()["plans"][0]["deploy"])
    assert by_text.best.step_s == pytest.approx(result.best.step_s)


def test_a_run_on_39_of_40_cards_goes_on(result: Any) -> None:
    kept = result.goodput
    assert kept.after == "elastic"
    assert kept.rest_devices is not None
    assert 32 <= kept.rest_devices <= 39
    assert 0.5 < kept.rest_speed <= 1
    assert kept.wait <= kept.elastic <= kept.spare


def test_choose_gives_the_fastest_plan() -> None:
    model, on = load_model(DENSE), machine("hgx-h100")
    chosen = choose(model, on, 64, 4096)
    assert chosen is not None
    assert (chosen.global_batch, chosen.seq_len, chosen.parallel.devices) == (64, 4096, 8)
    best = tokenworks.train(DENSE, on, batch="64x4096").best
    assert best.training.parallel == chosen.parallel
    assert choose(load_model("deepseek-ai/DeepSeek-V3"), on, 64, 4096) is None


# ── goodput and advice ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_checkpoint_holds_what_the_run_trains() -> None:
    model = load_model(DENSE)
    assert checkpoint_size(model, Training()) == pytest.approx(8.03e9 * 14, rel=0.01)
    assert checkpoint_size(model, load_training("states=bf16")) == pytest.approx(8.03e9 * 10, rel=0.01)
    assert checkpoint_size(model, load_training("precision=fp32")) == pytest.approx(8.03e9 * 12, rel=0.01)
    assert checkpoint_size(model, load_training("method=lora,rank=16")) < 0.02 * checkpoint_size(model, Training())


def test_goodput_without_failures_and_with_fast_storage() -> None:
    model, on = load_model(DENSE), machine("scalex40")
    never = load_reliability().model_dump() | {"device_failures": 0, "host_failures": 0}
    rates = load_reliability(
        {name: value for name, value in never.items() if name in ("name", "title")}
        | {
            "device_failures": 0,
            "host_failures": 0,
            "lost": 0.4,
            "restart": "11 min",
            "repair": "12 h",
            "storage": "1 GB/s",
        }
    )
    kept = goodput(model, on, load_training("dp=40,gbs=40"), rates, after="wait")
    assert (kept.share, kept.mtbf_s, kept.interval_s) == (1.0, None, None)
    slow, fast = (
        goodput(model, on, load_training("dp=40,gbs=40"), load_reliability(), after="spare", storage=storage)
        for storage in (1e9, 1e12)
    )
    assert slow.share < fast.share < 1
    assert slow.write_s == pytest.approx(1000 * fast.write_s)


def test_machines_that_a_lost_device_leaves() -> None:
    assert [one.devices for one in machines_left(machine("scalex40"))] == [39]
    assert [(one.devices, one.domain) for one in machines_left(machine("4xscalex40"))] == [(156, 39), (120, 40)]
    assert [one.scale_out is None for one in machines_left(machine("2xhgx-h100"))] == [False, True]


def test_a_run_may_use_a_part_of_each_domain() -> None:
    assert [(one.devices, one.domain) for one in machines_used(machine("2xgb200-nvl72"))] == [(144, 72), (128, 64)]
    assert [one.devices for one in machines_used(machine("scalex40"))] == [40]
    assert [one.devices for one in machines_used(machine("2xhgx-h100"))] == [16]
    run = tokenworks.train(DENSE, "2xgb200-nvl72", batch="512x8192", top=1)
    assert (run.best.devices, run.best.idle_devices) == (128, 16)
    assert run.best.tok_s_per_device == pytest.approx(run.best.tok_s / 144)
    assert (run.goodput.rest_devices, run.goodput.rest_speed) == (128, 1.0)  # idle devices take its place


def test_what_does_not_fit_names_the_smallest_changes_that_do() -> None:
    with pytest.raises(DoesNotFit) as error:
        tokenworks.train("meta-llama/Meta-Llama-3.1-70B", "hgx-h100", batch="64x4096")
    text = str(error.value)
    assert "does not fit hgx-h100 for training: its smallest plan [tp8] needs" in text
    words = r'; --deploy "offload=1" or (?P<count>[0-9]+) of these devices \(--on (?P<on>\w+-\w+)\) would do$'
    more = re.search(words, text)
    assert more is not None
    enough = machine(more["on"])
    assert enough.devices == int(more["count"])
    rates = train_rates(enough, load_calibration())
    plan = choose(load_model("meta-llama/Meta-Llama-3.1-70B"), enough, 64, 4096)
    assert plan is not None
    assert train_memory(load_model("meta-llama/Meta-Llama-3.1-70B"), rates, TrainPlans.of(plan)).fits


def test_what_is_fixed_is_changed_first() -> None:
    with pytest.raises(DoesNotFit) as error:
        tokenworks.train(DENSE, "hgx-h100", batch="256x8192", deploy="tp=1,pp=1,dp=8,mbs=2,zero=3,recompute=none")
    assert "recompute=full or mbs=1" in str(error.value)
