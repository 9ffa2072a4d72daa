"""A deployment becomes commands, and the commands become the same deployment, in every dialect."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.launch.cases import MACHINES, deployments, launch, target
from tests.planning.settings import DENSE, R1
from tokenworks.errors import SpecError
from tokenworks.launch.command import Command
from tokenworks.launch.dialect import dialect_names, load_dialect
from tokenworks.launch.router import FLAGS, is_router
from tokenworks.launch.settle import settled
from tokenworks.launch.translate import choose, read
from tokenworks.launch.words import is_flag, parse
from tokenworks.specs.deployment import Deployment, EngineName, Parallel, Role
from tokenworks.specs.scheduling import NO_AGE, Scheduling


def test_every_dialect_is_tried() -> None:
    assert sorted(MACHINES) == sorted(dialect_names())


@pytest.mark.parametrize("name", sorted(MACHINES))
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_commands_mean_the_deployment_that_they_came_from(name: str, data: st.DataObject) -> None:
    deployment = data.draw(deployments(name))
    try:
        started = launch(deployment, name)
    except SpecError as error:
        refused = str(error)
        if "cannot overlap two batches" in refused or "does not fit" in refused:
            return
        raise
    back, unread = read(started.commands, system=deployment.system, dialect=name)
    assert back == started.deployment
    assert {one.kind for one in unread} <= {"address", "service", "kernels", "not modelled", "no effect"}
    again, notes = settled(started.deployment, target(name, deployment.model, deployment.system), load_dialect(name))
    assert (again, notes) == (started.deployment, [])


@pytest.mark.parametrize("name", sorted(MACHINES))
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_flag_and_choice_is_in_the_list_of_the_dialect(name: str, data: st.DataObject) -> None:
    try:
        started = launch(data.draw(deployments(name)), name)
    except SpecError:
        return
    dialect = load_dialect(name)
    for command in started.commands:
        if is_router(command):
            assert {word for word in command.arguments if is_flag(word)} <= FLAGS[dialect.engine]
            continue
        words = parse(command, dialect)
        assert (words.unknown, dict(words.refused)) == ((), {})
        assert not any(dialect.flags[flag].deprecated for flag in words.terms)


def test_a_settled_deployment_says_what_changed() -> None:
    role = Role(parallel=Parallel(dp=8, ep=8), max_sequences=257, chunk_tokens=8193)
    deployment = Deployment(model=R1, system="hgx-h200", roles=(role,))
    started = launch(deployment, "vllm-0.33.0")
    assert (started.deployment.roles[0].max_sequences, started.deployment.roles[0].chunk_tokens) == (256, 8192)
    assert [note for note in started.notes if "max_sequences 257" in note]
    assert [note for note in started.notes if "chunk_tokens 8,193" in note]
    assert started.deployment.router == "least_loaded"  # vLLM does so by itself


def started_with(dialect: str, engine: EngineName, scheduling: str | dict[str, Any]) -> tuple[str, Scheduling, str]:
    """Arguments of the first command, the settled policy, and the notes on it."""
    role = Role(parallel=Parallel(tp=8, ep=8))
    deployment = Deployment(model=R1, system=MACHINES[dialect][0], engine=engine, roles=(role,),
                            scheduling=Scheduling.model_validate(scheduling))  # fmt: skip
    started = launch(deployment, dialect)
    notes = [note for note in started.notes if note.startswith("scheduling")]
    return " ".join(started.commands[0].arguments), started.deployment.scheduling, " ".join(notes)


def test_scheduling_becomes_the_flag_of_the_engine_or_a_note() -> None:
    words, settled_policy, note = started_with("vllm-0.33.0", "vllm", {"name": "interleaved", "long_prefill_tokens": 9})
    assert "--long-prefill-token-threshold 9" in words
    assert (str(settled_policy), note) == ("interleaved (long_prefill_tokens 9)", "")
    both = {"name": "shortest_prefill", "long_prefill_tokens": 9}
    words, settled_policy, note = started_with("vllm-0.33.0", "vllm", both)
    assert "--long-prefill-token-threshold 9" in words
    assert "no flag of vLLM 0.33.0 says shortest_prefill" in note
    assert "started with interleaved (long_prefill_tokens 9)" in note
    words, settled_policy, note = started_with("sglang-0.5.23", "sglang", "shortest_prefill")
    assert "--schedule-policy shortest-prefill-first" in words
    assert "started with shortest_prefill (ageing_s 3600)" in note
    for dialect, policy in (("sglang-das-0.5.15", "shortest_prefill"), ("sglang-0.5.23", "cold_pool")):
        words, settled_policy, note = started_with(dialect, "sglang", policy)
        assert "--schedule-policy" not in words
        assert settled_policy == Scheduling()
        assert "started with fcfs, and predictions for" in note


def wide(engine: EngineName, **more: Any) -> Deployment:
    role = Role(parallel=Parallel(dp=8, ep=8), max_sequences=256, chunk_tokens=8192)
    return Deployment(model=R1, system="2xhgx-h200", engine=engine, roles=(role,), **more)


def test_elastic_ep_becomes_flags_and_what_no_flag_says_is_a_note() -> None:
    asked: dict[str, Any] = {"elastic_ep": True, "spares": 8, "on_loss": "migrate", "retries": 2}
    started = launch(wide("vllm", **asked), "vllm-0.33.0")
    words = " ".join(started.commands[0].arguments)
    assert "--enable-eplb" in words
    assert "--enable-elastic-ep" in words
    assert "--enable-fault-tolerance" in words
    assert (started.deployment.on_loss, started.deployment.retries, started.deployment.spares) == ("fail", None, 8)
    notes = " ".join(started.notes)
    for part in ("NVIDIA Dynamo (--migration-limit)", "8 devices stay free", "needs EPLB", "120 s by default"):
        assert part in notes
    started = launch(wide("sglang", elastic_ep=True), "sglang-0.5.23")
    words = " ".join(started.commands[0].arguments)
    assert "--moe-a2a-backend mooncake" in words
    assert "--elastic-ep-backend mooncake" in words
    assert "--enable-elastic-expert-backup" in words
    assert "--mooncake-ib-device" in " ".join(started.notes)


def test_flags_of_elastic_ep_are_read_or_refused_with_a_reason() -> None:
    wide_words = ("-dp", "8", "--enable-expert-parallel", "--enable-eplb", "--enable-elastic-ep")
    deployment, unread = read([vllm(R1, *wide_words, "--enable-fault-tolerance")], system="hgx-h200")
    assert deployment.elastic_ep
    assert not unread
    deployment, unread = read([vllm(R1, "-tp", "8", "--enable-elastic-ep")], system="hgx-h200")
    assert not deployment.elastic_ep
    assert ["dp and ep above 1" in one.reason for one in unread] == [True]
    deployment, unread = read([vllm(R1, "-tp", "8", "--enable-fault-tolerance")], system="hgx-h200")
    assert ["the instance stops with each of its ranks" in one.reason for one in unread] == [True]
    dp = ("--tp", "8", "--dp", "8", "--enable-dp-attention", "--ep", "8", "--elastic-ep-backend")
    assert read([sglang(*dp, "nixl")], system="hgx-h200")[0].elastic_ep
    assert not read([sglang(*dp, "none")], system="hgx-h200")[0].elastic_ep


def test_flags_of_the_order_are_read() -> None:
    deployment, unread = read([vllm(R1, "-tp", "8", "--long-prefill-token-threshold", "512")], system="hgx-h200")
    assert deployment.scheduling == Scheduling(name="interleaved", long_prefill_tokens=512)
    assert not unread
    assert (
        read([vllm(R1, "-tp", "8", "--long-prefill-token-threshold", "0")], system="hgx-h200")[0].scheduling.name
        == "fcfs"
    )
    order = ("--tp", "8", "--schedule-policy")
    deployment, unread = read([sglang(*order, "shortest-prefill-first")], system="hgx-h200")
    assert deployment.scheduling == Scheduling(name="shortest_prefill", ageing_s=NO_AGE)
    assert not unread
    deployment, unread = read([sglang(*order, "lpm")], system="hgx-h200")
    assert deployment.scheduling == Scheduling()
    assert [one.reason for one in unread] == ["the model of tokenworks has no order lpm; taken as fcfs"]


def test_instances_that_share_a_host_have_ports_and_devices_of_their_own() -> None:
    deployment = Deployment(model=DENSE, system="hgx-h200", roles=(Role(parallel=Parallel(tp=2), replicas=3),))
    started = launch(deployment, "vllm-0.33.0")
    servers = [command for command in started.commands if command.role != "router"]
    assert [command.environment["CUDA_VISIBLE_DEVICES"] for command in servers] == ["0,1", "2,3", "4,5"]
    ports = [command.arguments[command.arguments.index("--port") + 1] for command in servers]
    assert ports == ["8000", "8001", "8002"]
    assert started.commands[-1].arguments.count("--worker-urls") == 1


def test_an_instance_over_hosts_is_divided_evenly() -> None:
    wide = Role(parallel=Parallel(dp=16, ep=16), max_sequences=256)
    started = launch(Deployment(model=R1, system="4xhgx-h200", roles=(wide,)), "vllm-0.33.0")
    second = started.commands[1].arguments
    assert started.commands[0].arguments[-4:] == ("--host", "0.0.0.0", "--port", "8000")
    assert second[-1] == "--headless"
    assert second[second.index("--data-parallel-start-rank") + 1] == "8"
    roles = (Role(parallel=Parallel(tp=16, expert_tp=16)),)
    tall = started.deployment.model_copy(update={"roles": roles})
    first = launch(tall, "vllm-0.33.0").commands[0].arguments
    assert first[first.index("--nnodes") + 1] == "2"
    assert first[first.index("--master-addr") + 1] == "node-0"


def test_what_an_engine_cannot_express_is_an_error() -> None:
    mixed = Role(parallel=Parallel(tp=4, dp=2, ep=4, expert_tp=2))
    deployment = Deployment(model=R1, system="hgx-h200", roles=(mixed,))
    with pytest.raises(SpecError, match=r"vLLM: cannot run \[tp4 dp2 ep4 etp2\]"):
        launch(deployment, "vllm-0.33.0")
    with pytest.raises(SpecError, match="a dialect of sglang, and the deployment is for vllm"):
        launch(deployment, "sglang-0.5.23")
    overlapped = Role(parallel=Parallel(tp=8, ep=4, expert_tp=2), overlap="two-batch")
    with pytest.raises(SpecError, match="cannot overlap two batches"):
        launch(deployment.model_copy(update={"engine": "sglang", "roles": (overlapped,)}), "sglang-0.5.23")


# ── commands that people write ────────────────────────────────────────────────────────────────────────────────────


def vllm(*words: str, role: str = "") -> Command:
    return Command(("vllm", "serve"), words, {}, role, where="line 1")


def sglang(*words: str, role: str = "") -> Command:
    return Command(("python3", "-m", "sglang.launch_server"), ("--model-path", R1, *words), {}, role, where="line 1")


def one_role(*commands: Command, on: str = "hgx-h200") -> Role:
    deployment, _ = read(commands, system=on)
    return deployment.roles[0]


def test_every_spelling_of_vllm_is_read() -> None:
    plain = one_role(vllm(R1, "--tensor-parallel-size", "8", "--max-num-seqs", "64", "--enable-expert-parallel"))
    assert plain.parallel == Parallel(tp=8, ep=8)
    for words in (
        ("-tp", "8", "--max_num_seqs=64", "-ep"),
        ("--tensor-parallel-size=8", "--max-num-seq", "64", "--enable-expert-parallel"),
    ):
        assert one_role(vllm(R1, *words)) == plain


def test_keys_of_json_values_are_read_in_both_forms() -> None:
    whole = one_role(vllm(R1, "-tp", "8", "--speculative-config", '{"method": "mtp", "num_speculative_tokens": 2}'))
    parts = ("--speculative-config.method", "mtp", "--speculative-config.num_speculative_tokens", "2")
    assert one_role(vllm(R1, "-tp", "8", *parts)) == whole
    assert one_role(vllm(R1, "-tp", "8", "--spec-method", "mtp", "--spec-tokens", "2")) == whole
    assert whole.draft_tokens == 2


def test_old_and_new_attention_dp_of_sglang_are_the_same() -> None:
    old = one_role(sglang("--tp", "8", "--dp-size", "4", "--enable-dp-attention", "--ep", "8"))
    assert old == one_role(sglang("--tp-size", "8", "--attn-dp-size", "4", "--ep-size", "8"))
    assert old.parallel == Parallel(tp=2, dp=4, ep=8)


def test_a_back_end_of_dispatch_spreads_experts_over_all_devices() -> None:
    assert one_role(sglang("--tp", "8", "--moe-a2a-backend", "deepep")).parallel == Parallel(tp=8, ep=8)


def test_replicas_come_from_data_parallelism_without_attention_dp() -> None:
    assert one_role(sglang("--tp", "4", "--dp", "2")).replicas == 2
    assert one_role(vllm(DENSE, "-tp", "2", "-dp", "4")).replicas == 4


def test_the_router_counts_instances_that_have_no_command_of_their_own() -> None:
    prefill = vllm(R1, "-tp", "8", "--kv-transfer-config", '{"kv_connector":"NixlConnector","kv_role":"kv_producer"}')
    decode = vllm(R1, "-tp", "8", "--kv-transfer-config", '{"kv_connector":"NixlConnector","kv_role":"kv_consumer"}')
    urls = ("--prefill", "http://a:1", "--prefill", "http://b:1", "--decode", "http://c:1", "--policy", "round_robin")
    router = Command(("vllm-router",), ("--vllm-pd-disaggregation", *urls), where="line 9")
    deployment, _ = read([prefill, decode, router], system="4xhgx-h200")
    assert [(role.name, role.replicas) for role in deployment.roles] == [("prefill", 2), ("decode", 1)]
    assert deployment.router == "round_robin"


def test_open_values_are_the_defaults_of_the_engine_on_the_device() -> None:
    role = one_role(vllm(DENSE, "-tp", "2"))
    assert (role.max_sequences, role.chunk_tokens, role.memory_fraction) == (1024, 8192, 0.92)
    small = one_role(Command(("sglang", "serve"), ("--model-path", DENSE, "--tp", "2")))
    assert (small.chunk_tokens, small.memory_fraction) == (8192, 0.905)  # 1 - (0.5 + 12 + 0.5 + 0.25) GiB / 140 GiB


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tensor-parallel-size",), "has no value"),
        (("-tp", "8", "--tensor-parallel-size", "4"), "contradict each other"),
        (("--enable-prefix-caching", "--no-enable-prefix-caching"), "contradict each other"),
        (("-tp", "zero"), "'zero' is not a whole number"),
        (("-tp", "0"), "must be at least 1"),
        (("--gpu-memory-utilization", "1.5"), "is not a share"),
        (("--kv-cache-dtype", "fp9"), "not one of the values"),
        (("--speculative-config", '{"method": "mtp"'), "is not JSON"),
        (("--eplb-config", '{"num_redundant_experts": 8}', "-tp", "8", "-ep"), "without --enable-eplb"),
        (("--enable-eplb", "--eplb-config.num_redundant_experts", "8", "-tp", "8"), "without expert parallelism"),
        (("--speculative-config.method", "mtp", "--speculative-config.num_speculative_tokens", "9"), "9 draft tokens"),
        (("--max-num", "4"), "can be"),
    ],
)
def test_bad_commands_of_vllm_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read([vllm(R1, *words)], system="hgx-h200", dialect="vllm-0.33.0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tp", "8", "--attn-dp-size", "3"), "3 ranks do not divide 8"),
        (("--tp", "8", "--ep", "3"), "3 groups do not divide 8 devices"),
        (("--tp", "8", "--attn-dp-size", "2", "--dp-size", "2"), "no replicas"),
        (("--tp", "8", "--ep-num-redundant-experts", "8"), "without expert parallelism"),
        (
            ("--speculative-algorithm", "EAGLE", "--speculative-num-steps", "3", "--speculative-eagle-topk", "1",
             "--speculative-num-draft-tokens", "5"),
            "a step verifies 4, not 5",
        ),
    ],
)  # fmt: skip
def test_bad_commands_of_sglang_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read([sglang(*words)], system="hgx-h200", dialect="sglang-0.5.23")


def test_commands_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(SpecError, match="no command starts vLLM or SGLang"):
        read([Command(("nginx",))], system="hgx-h200")
    with pytest.raises(SpecError, match="sglang and vllm commands"):
        read([vllm(R1), sglang()], system="hgx-h200")
    with pytest.raises(SpecError, match="two models"):
        read([vllm(R1), vllm(DENSE)], system="hgx-h200")
    with pytest.raises(SpecError, match="names no model"):
        read([vllm("-tp", "8")], system="hgx-h200")
    with pytest.raises(SpecError, match="all commands are of the role prefill"):
        read([sglang("--tp", "8", "--disaggregation-mode", "prefill")], system="hgx-h200")
    with pytest.raises(SpecError, match="aggregated commands differ in parallel"):
        read([vllm(R1, "-tp", "8"), vllm(R1, "-tp", "4")], system="hgx-h200")


WORDS = st.sampled_from((
    "--tp", "-tp", "8", "0", "-1", "1e9", "--ep", "--dp-size", "--attn-dp-size", "--enable-dp-attention",
    "--enable-dbo",
    "--no-enable-dbo", "--speculative-config", '{"method": 3}', '{"a": {"b": []}}', "[]", "{", "--eplb-config.x.y",
    "--speculative-config.method.x", "mtp", "--kv-cache-dtype", "auto", "--max-num-seqs=", "--max-model-len", "-", "--",
    "--=", "auto", "--kv-transfer-config", '{"kv_role": "kv_producer"}', "--gpu-memory-utilization", "nan", "0.5",
    "--node-rank", "--nnodes", "--headless", "", " ", "ü", "--max-num-batched-tokens", "8k", "kk", "--context-length",
    "--model-path", R1, "--speculative-algorithm", "EAGLE", "--chunked-prefill-size", "--disaggregation-mode", "decode",
))  # fmt: skip


@given(words=st.lists(WORDS, max_size=12), of_vllm=st.booleans(), role=st.sampled_from(("", "prefill", "router")))
@settings(max_examples=300, deadline=None)
def test_any_words_are_read_or_refused(words: list[str], role: str, *, of_vllm: bool) -> None:
    program = ("vllm", "serve") if of_vllm else ("python3", "-m", "sglang.launch_server")
    with contextlib.suppress(SpecError):
        read([Command(program, tuple(words), {}, role)], system="hgx-h200", model=R1)


def test_flags_without_a_place_have_a_reason() -> None:
    words = (
        "--tp",
        "8",
        "--host",
        "a",
        "--tool-call-parser",
        "qwen",
        "--attention-backend",
        "fa3",
        "--no-such-flag",
        "1",
    )
    _, unread = read([sglang(*words, "--enable-lmcache")], system="hgx-h200", dialect="sglang-0.5.23")
    kinds = {one.flag: one.kind for one in unread}
    assert kinds == {
        "--host": "address", "--tool-call-parser": "service", "--attention-backend": "kernels",
        "--no-such-flag": "unknown", "--enable-lmcache": "not modelled",
    }  # fmt: skip


def test_a_flag_of_another_version_names_the_version() -> None:
    old = sglang("--tp", "8", "--custom-all-reduce-backend", "aiter")
    _, unread = read([old], system="hgx-h200", dialect="sglang-0.5.23")
    assert unread[0].kind == "other version"
    assert "SGLang 0.5.15 of Hygon, SGLang 0.5.12 of Hygon has it" in unread[0].reason
    assert choose([old]).name == "sglang-das-0.5.15"
    _, unread = read([sglang("--tp", "8", "--enable-dbo")], system="hgx-h200", dialect="sglang-0.5.23")
    assert "it is a flag of vLLM 0.33.0" in unread[0].reason


def test_drafts_that_are_no_mtp_layers_are_not_in_the_deployment() -> None:
    words = ("--tp", "8", "--speculative-algorithm", "EAGLE3", "--speculative-draft-model-path", "some/draft")
    deployment, unread = read([sglang(*words)], system="hgx-h200")
    assert deployment.roles[0].draft_tokens == 0
    assert "drafts with the MTP layers" in next(one.reason for one in unread if one.flag == "--speculative-algorithm")


def test_a_settled_host_memory_stays_as_it_is() -> None:
    """A whole number of bytes above 10^12 does not grow when the deployment is settled once more."""
    role = {"parallel": {"tp": 16}, "max_sequences": 1, "chunk_tokens": 1}
    deployment = Deployment.model_validate({
        "model": DENSE, "system": "2xhgx-h200", "roles": [role], "tiers": [{"medium": "host", "capacity": "1008 GB"}],
    })  # fmt: skip
    name = "vllm-0.33.0"
    once, _ = settled(deployment, target(name, DENSE, deployment.system), load_dialect(name))
    assert once.tiers[0].capacity.value == 1008e9
    assert settled(once, target(name, DENSE, deployment.system), load_dialect(name)) == (once, [])
