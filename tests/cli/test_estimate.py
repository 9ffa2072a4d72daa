"""`tokenworks estimate` as a user meets it."""

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.envelope import result
from tokenworks.cli import run
from tokenworks.specs.deployment import Deployment, Parallel, Role
from tokenworks.specs.deployment_file import Entry, document

R1 = "deepseek-ai/DeepSeek-R1"
WIDE = "tp=4,dp=10,ep=40,redundant_experts=24,max_sequences=400"


def test_the_table_explains_both_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", R1, "--on", "scalex40", "--deploy", WIDE, "--engine", "sglang"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{R1} on scalex40, SGLang: aggregated [tp4 dp10 ep40]")
    assert "Prefill step: 1" in out
    assert "Decode step: 400 sequences of 4,500 tokens" in out
    for part in ("attention gemm", "experts", "dispatch", "combine", "head"):
        assert part in out
    assert "grade kernel-calibrated" in out
    assert "80 % interval" in out
    assert "device.peak.bf16 = 350 TFLOP/s" in out
    assert "calibration.hygon-dcu = hbm, packed_experts, attention_decode" in out
    assert "acceptance" not in out  # nothing is drafted
    assert err == ""


def test_json_is_one_object_that_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", R1, "--on", "5xhgx-h200", "--deploy", WIDE, "--batch", "800", "-o", "json"]) == 0
    found = result(capsys.readouterr().out)
    assert [made["step"] for made in found["steps"]] == ["prefill", "decode"]
    for made in found["steps"]:
        assert sum(part["seconds"] for part in made["parts"]) == pytest.approx(made["seconds"])
        assert made["interval"] == pytest.approx([made["seconds"] / found["spread"], made["seconds"] * found["spread"]])
        assert made["bound_by"] in ("compute", "hbm", "scale-up", "scale-out", "host")
        assert {part["utilisation"] for part in made["parts"]} <= {"measured", "assumed"}
    load = found["steps"][1]["load"]
    assert (load["decode"], load["prefill"], load["context"]) == (800, 0, 800 * 4500)
    assert 1 < load["busiest_context"] < 1.05
    assert found["grade"] == "end-to-end-calibrated"
    assert found["dequantised"] == {}


@pytest.mark.parametrize(("engine", "measured"), [("vllm", True), ("sglang", False)])
def test_a_step_names_the_measured_software_that_it_rests_on(
    engine: str, measured: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["estimate", "openai/gpt-oss-120b", "--on", "hgx-h100", "--deploy", "tp=2,ep=2", "--engine", engine]
    assert run(asked) == 0
    assert ("of vllm with openai/gpt-oss-120b (fp4) on h100 were measured." in capsys.readouterr().out) == measured
    assert run([*asked, "-o", "json"]) == 0
    software = result(capsys.readouterr().out)["software"]
    assert [(one["device"], one["engine"], one["drafts"]) for one in software] == [("h100", "vllm", False)] * measured


def test_dequantised_weights_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", "openai/gpt-oss-120b", "--on", "hgx-h100", "--deploy", "tp=2,ep=2"]) == 0
    assert (
        "Dequantised: mxfp4 weights are multiplied in bf16, because h100 cannot multiply mxfp4"
        in capsys.readouterr().out
    )


def test_overlap_says_what_it_hides(capsys: pytest.CaptureFixture[str]) -> None:
    deploy = "dp=40,ep=40,redundant_experts=24,max_sequences=2000,overlap=two-batch"
    assert run(["estimate", R1, "--on", "5xhgx-h200", "--deploy", deploy]) == 0
    assert "two-batch overlap hides" in capsys.readouterr().out


@pytest.fixture
def planned(tmp_path: Path) -> Path:
    """A file as `plan -o yaml` writes it: disaggregated first, aggregated second."""
    wide = Parallel(dp=8, ep=8)
    apart = (
        Role(name="prefill", parallel=wide, chunk_tokens=65536, max_sequences=8),
        Role(name="decode", parallel=wide, max_sequences=256, kv_dtype="fp8"),
    )
    deployments = [
        Deployment(model=R1, system="2xhgx-h200", engine="sglang", roles=apart),
        Deployment(model=R1, system="2xhgx-h200", engine="vllm", roles=(Role(name="aggregated", parallel=wide),)),
    ]
    path = tmp_path / "plan.yaml"
    entries = [Entry(rank=rank, deployment=deployment) for rank, deployment in enumerate(deployments, 1)]
    path.write_text(yaml.safe_dump(document(entries, {})))
    return path


def test_a_file_of_deployments(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", str(planned), "-o", "json"]) == 0
    found = result(capsys.readouterr().out)
    assert [(made["role"], made["step"]) for made in found["steps"]] == [("prefill", "prefill"), ("decode", "decode")]
    assert found["engine"] == "sglang"
    assert run(["estimate", str(planned), "--pick", "2", "-o", "yaml"]) == 0
    second = yaml.safe_load(capsys.readouterr().out)
    assert (second["engine"], second["deployment"]) == ("vllm", "aggregated [dp8 ep8]")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([R1], "--on and --deploy"),
        ([R1, "--on", "scalex40"], "--on and --deploy"),
        ([R1, "--on", "scalex40", "--deploy", "pt=8"], "did you mean tp="),
        ([R1, "--on", "scalex40", "--deploy", "tp=0"], "--deploy"),
        ([R1, "--on", "scalex40", "--deploy", "tp=3"], "tp_divides_heads"),
        ([R1, "--on", "scalex40", "--deploy", "tp=8,overlap=three"], "--deploy"),
        ([R1, "--on", "scalex41", "--deploy", "tp=8"], "did you mean scalex40"),
        (["no/such-model", "--on", "scalex40", "--deploy", "tp=8"], "no/such-model"),
        (["missing.yaml"], "missing.yaml"),
        ([R1, "--on", "scalex40", "--deploy", "tp=8", "--isl", "-1"], "isl"),
        ([R1, "--on", "scalex40", "--deploy", "tp=8", "--batch", "0"], "batch"),
        ([R1, "--on", "scalex40", "--deploy", "tp=8", "--chunk", "inf"], "chunk"),
        ([R1, "--on", "scalex40", "--deploy", "tp=8", "--engine", "tgi"], "engine"),
    ],
)
def test_bad_input_exits_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err


def test_pick_beyond_the_file(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", str(planned), "--pick", "3"]) == 2
    assert "1 to 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("deploy", "words"),
    [
        ("tp=1", "short by"),
        (WIDE.replace("400", "60000"), "take --batch "),
    ],
)
def test_what_does_not_fit_exits_3(deploy: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", R1, "--on", "scalex40", "--deploy", deploy]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err


def test_a_plan_file_brings_its_workload_and_what_it_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, file = tmp_path / "given.yaml", tmp_path / "plan.yaml"
    given.write_text("device.peak.bf16: 175 TFLOP/s\n", encoding="utf-8")
    asked = ["--on", "hgx-h100", "--workload", "summarise", "--top", "1", "--assume", str(given), "-o", "yaml"]
    assert run(["plan", "Qwen/Qwen3-30B-A3B-FP8", *asked, "--no-simulate"]) == 0
    written = capsys.readouterr().out
    file.write_text(written, encoding="utf-8")
    isl = yaml.safe_load(written)["inputs"]["workload"]["isl"]
    assert run(["estimate", str(file)]) == 0
    out = capsys.readouterr().out
    assert f"of prompts with {isl:,.0f}" in out
    assert "device.peak.bf16 = 175 TFLOP/s" in out
    assert run(["estimate", str(file), "--deploy", "tp=1"]) == 2
    assert "leave one of the two out" in capsys.readouterr().err


def test_a_plan_file_of_a_model_by_path_is_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file has the path, because the name of the folder is no id of a model."""
    config, file = tmp_path / "my-model" / "config.json", tmp_path / "plan.yaml"
    config.parent.mkdir()
    shown = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 512, "intermediate_size": 1536,
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 4096,
        "max_position_embeddings": 16384, "torch_dtype": "bfloat16",
    }  # fmt: skip
    config.write_text(json.dumps(shown), encoding="utf-8")
    asked = ["--on", "hgx-h100", "--isl", "1000", "--osl", "100", "--slo", "ttft=2s,tpot=50ms", "--engine", "vllm"]
    words = ["plan", str(config.parent), *asked, "--top", "1", "--no-simulate", "-o", "yaml"]
    assert run(words) == 0
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    assert run(["estimate", str(file)]) == 0
    assert "my-model" in capsys.readouterr().out


def test_a_chunk_beyond_memory_says_what_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", R1, "--on", "scalex40", "--deploy", WIDE, "--chunk", "100000000"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "short by" in err
    assert "smaller --chunk" in err


def test_fixed_times_have_the_word_of_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """What starting kernels takes is "host" to both."""
    assert run(["estimate", "Qwen/Qwen3-0.6B", "--on", "hgx-h100", "--deploy", "tp=1", "-o", "json"]) == 0
    found = result(capsys.readouterr().out)
    bounds = {row["bound"] for made in found["steps"] for row in made["parts"]}
    assert "host" in bounds
    assert "latency" not in bounds
