"""`advise`: what a deployment does is what `plan --why` and `capacity` say; changes are single, legal and simulated."""

from pathlib import Path

import pytest

import tokenworks
from tokenworks.errors import DoesNotFit, SloMissed, SpecError
from tokenworks.ledger.advise import LEAST_GAIN, Advice, prepared
from tokenworks.ledger.changes import changes, is_legal, split_changes
from tokenworks.legal.points import Setting
from tokenworks.specs.deployment import Deployment, Parallel, Role
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.edits import edited
from tokenworks.specs.given import from_options
from tokenworks.specs.load import WorkloadLike

MOE, ON = "Qwen/Qwen3-30B-A3B", "hgx-h100:2"
REUSED = {"isl": 2000, "osl": 200, "hit_share": 0.5, "reused_context": 1000}
SHORT = {"isl": 1000, "osl": 100, "slo": "ttft=2s,tpot=50ms"}


def moe(**settings: object) -> Deployment:
    """An aggregated deployment of a small MoE model over two devices."""
    role = Role(parallel=Parallel(tp=2, ep=2), **{"max_sequences": 32, "chunk_tokens": 2048, **settings})
    return Deployment(model=MOE, system=ON, engine="vllm", roles=(role,))


def asked(deployment: Deployment, **more: object) -> Advice:
    return tokenworks.advise(deployment, **{**SHORT, **more})  # type: ignore[arg-type]


def setting_of(deployment: Deployment, workload: WorkloadLike = "chat") -> Setting:
    nothing = dict.fromkeys(
        ("on", "model", "isl", "osl", "rate", "concurrency", "slo", "devices", "assume", "calibration")
    )
    return prepared(Deployed(deployment), workload=workload, **nothing)[0].setting


@pytest.fixture(scope="module")
def advice(kernel: None) -> Advice:
    return asked(moe())


def test_small_batches_are_the_first_thing_to_change(advice: Advice) -> None:
    assert advice.meets_slo
    assert advice.improvements
    assert any(one.change.kind == "max_sequences" for one in advice.improvements)
    assert advice.simulations > advice.tried / 4


def test_gains_are_ratios_of_simulated_effective_tokens(advice: Advice) -> None:
    assert advice.prediction is not None
    before = advice.prediction.effective_tok_s_per_device
    for one in advice.improvements:
        assert one.gain == pytest.approx(one.row.effective_tok_s_per_device / before - 1)
        assert one.gain is not None
        assert one.gain >= LEAST_GAIN
    gains = [one.gain or 0.0 for one in advice.improvements]
    assert gains == sorted(gains, reverse=True)


def test_the_values_of_a_change_make_its_deployment(advice: Advice) -> None:
    for one in advice.improvements:
        changed = edited(advice.deployment, from_options(one.change.values), where="x")
        assert changed == one.change.deployment


def test_a_change_does_what_the_changed_deployment_does(advice: Advice) -> None:
    best = advice.improvements[0]
    alone = asked(best.change.deployment).prediction
    assert alone is not None
    assert alone.effective_tok_s_per_device == pytest.approx(best.row.effective_tok_s_per_device, rel=0.03)


def test_shares_of_device_time_add_up(advice: Advice) -> None:
    assert sum(part["share"] for part in advice.parts) == pytest.approx(1)
    assert [part["share"] for part in advice.parts] == sorted((part["share"] for part in advice.parts), reverse=True)


def test_the_same_input_gives_the_same_advice(advice: Advice) -> None:
    again = asked(moe()).plain()
    assert {**advice.plain(), "wall": None} == {**again, "wall": None}


def test_records_and_the_headline(advice: Advice) -> None:
    records = advice.to_records()
    assert records[0]["change"] == "as it is"
    assert len(records) == 1 + len(advice.improvements)
    assert "best change" in advice.headline


def test_all_changes_are_legal_and_single() -> None:
    deployment = moe(draft_tokens=0, kv_dtype="fp8")
    setting = setting_of(deployment)
    every = changes(setting, deployment)
    assert {one.kind for one in every} >= {"max_sequences", "chunk_tokens", "kv_dtype", "overlap"}
    for one in (*every, *split_changes(setting, deployment, 0)):
        assert is_legal(setting, one.deployment), one.words
        assert one.deployment != deployment
        paths = {value.partition("=")[0].rpartition(".")[2] for value in one.values}
        if one.kind == "max_sequences":
            assert paths <= {"max_sequences", "chunk_tokens"}
        elif one.kind != "split":
            assert one.kind in paths, one
    assert all(one.note for one in every if one.kind == "kv_dtype" and "-> fp8" in one.words)


def test_memory_that_the_engine_could_take_is_a_change() -> None:
    deployment = moe(memory_fraction=0.7)
    words = {one.words for one in changes(setting_of(deployment), deployment)}
    assert "memory_fraction: 0.7 -> 0.9" in words or "memory_fraction: 0.7 -> 0.92" in words


def test_a_split_keeps_the_devices() -> None:
    deployment = moe()
    for one in split_changes(setting_of(deployment), deployment, 0):
        assert one.deployment.devices == deployment.devices
        assert one.deployment.roles[0].parallel != deployment.roles[0].parallel


def pair() -> Deployment:
    prefill = Role(name="prefill", parallel=Parallel(tp=1), max_sequences=16, chunk_tokens=4096)
    decode = Role(name="decode", parallel=Parallel(tp=1), max_sequences=64, chunk_tokens=2048)
    return Deployment(model=MOE, system="hgx-h100:4", engine="sglang", roles=(prefill, decode))


def test_prefill_and_decode_can_share_devices_in_other_ways(kernel: None) -> None:
    advice = asked(pair())
    assert advice.prediction is not None
    assert advice.prediction.idle_devices == 2
    assert any(one.change.kind == "replicas" for one in advice.improvements)


def test_under_a_rate_fewer_devices_are_a_gain(kernel: None) -> None:
    deployment = moe().model_copy(update={"system": "hgx-h100"})
    role = deployment.roles[0].model_copy(update={"replicas": 3})
    advice = asked(deployment.model_copy(update={"roles": (role,)}), rate=1.0)
    assert advice.meets_slo
    assert advice.improvements[0].change.words == "replicas: 3 -> 2"
    assert advice.improvements[0].gain == pytest.approx(0.5, rel=0.05)


def test_a_router_and_the_prefix_cache_are_changes() -> None:
    deployment = moe().model_copy(update={"system": "hgx-h100", "prefix_caching": False})
    role = deployment.roles[0].model_copy(update={"replicas": 3})
    deployment = deployment.model_copy(update={"roles": (role,)})
    words = {one.words for one in changes(setting_of(deployment, REUSED), deployment)}
    assert {"router: prefix_aware -> round_robin", "prefix_caching: off -> on", "replicas: 3 -> 4"} <= words


@pytest.mark.parametrize(
    ("deployment", "error", "words"),
    [
        (moe(memory_fraction=0.05), DoesNotFit, "does not fit: weights_fit"),
        (moe(redundant_experts=1), SpecError, "breaks experts_divide"),
        (moe(draft_tokens=1), SpecError, "breaks drafts_exist"),
        (moe(max_sequences=4096), SpecError, "breaks chunk_holds_batch"),
        (moe().model_copy(update={"roles": (moe().roles[0].model_copy(update={"replicas": 9}),)}), DoesNotFit,
         "deployment_fits_machine"),
    ],
)  # fmt: skip
def test_what_is_illegal_or_does_not_fit_is_said(deployment: Deployment, error: type[Exception], words: str) -> None:
    advice = asked(deployment, top=1)
    assert advice.prediction is None
    assert advice.broken
    assert isinstance(advice.error(), error)
    assert words in str(advice.error())
    assert advice.plain()["legal"] is False
    assert all(one.gain is None and one.row.meets_slo for one in advice.improvements)


def test_an_slo_that_is_missed(kernel: None) -> None:
    advice = asked(moe(), slo="tpot=0.1ms")
    assert not advice.meets_slo
    assert isinstance(advice.error(), SloMissed)


def test_sequences_that_the_cache_does_not_hold_are_no_error(kernel: None) -> None:
    """The default of vLLM is 1,024 sequences; the engine runs as many as the cache holds."""
    advice = asked(moe(max_sequences=1024, memory_fraction=0.5), isl=16000, osl=1000)
    assert advice.prediction is not None


def test_a_launch_command(kernel: None, tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text(f"vllm serve {MOE} -tp 2 --enable-expert-parallel --max-num-seqs 32 --port 8000\n")
    advice = tokenworks.advise(script, on=ON, isl=1000, osl=100, slo="ttft=2s,tpot=50ms")
    assert advice.deployment.roles[0].max_sequences == 32
    assert any("--port" in note for note in advice.notes)


def test_bad_arguments() -> None:
    with pytest.raises(SpecError, match="no workload"):
        tokenworks.advise(moe())
    with pytest.raises(SpecError, match="unknown system"):
        asked(moe(), on="hgx-x")
