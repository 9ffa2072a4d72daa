"""Launches of training runs: what each framework's flags mean, what has no place, and what bad input says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.envelope import result
from tokenworks.cli import run
from tokenworks.errors import SpecError
from tokenworks.launch.read.training import is_training_launch, read_training_launch
from tokenworks.launch.training import ImportedTraining, import_training
from tokenworks.launch.training_table import MODULES, TABLES, look_up, training_reason
from tokenworks.specs.training import RECOMPUTE_MODULES
from tokenworks.specs.training_text import KEYS, load_training, load_training_deployment

MEGATRON = """
NODES=16
MODEL=(--num-layers 80 --hidden-size 8192 --num-attention-heads 64 --seq-length 8192 --swiglu)
SPLIT=(--tensor-model-parallel-size 4 --pipeline-model-parallel-size 8 --num-layers-per-virtual-pipeline-stage 2
       --sequence-parallel --use-distributed-optimizer)
torchrun --nproc_per_node 8 --nnodes $NODES --master_addr host pretrain_gpt.py ${MODEL[@]} ${SPLIT[@]} \\
    --micro-batch-size 1 --global-batch-size 256 --bf16 --fp8-format hybrid --fp8-recipe tensorwise \\
    --recompute-granularity selective --recompute-modules core_attn layernorm --overlap-grad-reduce \\
    --tp-comm-overlap --lr 6e-5 --save /ckpt --frobnicate 3 --wandb-api-key abc
"""

BRIDGE = """
model:
  tensor_model_parallel_size: 2
  pipeline_model_parallel_size: 4
  virtual_pipeline_model_parallel_size: 5
  expert_model_parallel_size: 8
  recompute_granularity: null
train:
  global_batch_size: 256
  micro_batch_size: 1
dataset:
  seq_length: 4096
mixed_precision: bf16_with_mxfp8_mixed
ddp:
  grad_reduce_in_fp32: false
"""

TITAN = """
[model]
name = "llama3"
flavor = "70B"
[training]
local_batch_size = 2
seq_len = 8192
steps = 1000
[parallelism]
data_parallel_replicate_degree = 2
data_parallel_shard_degree = -1
tensor_parallel_degree = 8
enable_async_tensor_parallel = true
[activation_checkpoint]
mode = "full"
"""

DEEPSPEED = {
    "train_batch_size": 64, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": "auto",
    "zero_optimization": {"stage": 3, "overlap_comm": True, "offload_optimizer": {"device": "cpu"}},
    "bf16": {"enabled": True}, "gradient_clipping": 1.0,
}  # fmt: skip

LLAMA = "meta-llama/Meta-Llama-3.1-8B"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def short(read: ImportedTraining) -> str:
    return f"{read.training.parallel}"


def reasons(read: ImportedTraining) -> dict[str, str]:
    return {one.flag: one.kind for one in read.unread}


def test_megatron(tmp_path: Path) -> None:
    path = written(tmp_path, "run.sh", MEGATRON)
    read = import_training(path, on="16xhgx-h100", model="meta-llama/Meta-Llama-3.1-70B")
    assert short(read) == "tp4 pp8 dp4 zero1"
    training = read.training
    assert (training.micro_batch, training.global_batch, training.seq_len) == (1, 256, 8192)
    assert (training.schedule.name, training.schedule.virtual_stages) == ("interleaved", 5)
    assert (training.precision.recipe, training.recompute.modules) == ("fp8", ("core_attn", "layernorm"))
    assert (training.overlap.dp, training.overlap.tp, training.parallel.sequence) == (True, True, True)
    assert reasons(read) == {
        "--master_addr": "address", "--swiglu": "no effect", "--lr": "no effect", "--save": "service",
        "--frobnicate": "unknown", "--wandb-api-key": "service",
    }  # fmt: skip
    assert next(one.value for one in read.unread if "api-key" in one.flag) == "(not shown)"


def test_the_sizes_of_a_launch_name_the_model(tmp_path: Path) -> None:
    path = written(tmp_path, "run.sh", MEGATRON)
    read = import_training(path, on="16xhgx-h100")
    assert "llama" in read.deployment.model.lower()
    assert any("The sizes of the launch are those of" in note for note in read.notes)


def test_megatron_without_flags_has_the_defaults_of_megatron() -> None:
    read = import_training(
        "torchrun pretrain_gpt.py --global-batch-size 8 --seq-length 128", on="hgx-h100", model=LLAMA
    )
    training = read.training
    assert (training.parallel.zero, training.parallel.sequence, training.precision.recipe) == (0, False, "fp32")
    assert training.overlap.dp is False


def test_megatron_bridge(tmp_path: Path) -> None:
    read = import_training(written(tmp_path, "c.yaml", BRIDGE), on="gb200-nvl72:64", model="Qwen/Qwen3-30B-A3B")
    assert short(read) == "tp2 pp4 dp8 ep8 zero1"
    assert (read.training.precision.recipe, read.training.precision.reduce) == ("mxfp8", "bf16")
    assert read.training.schedule.virtual_stages == 5


def test_torchtitan(tmp_path: Path) -> None:
    path = written(tmp_path, "job.toml", TITAN)
    read = import_training(path, on="4xhgx-h100")
    assert read.deployment.model == "meta-llama/Meta-Llama-3.1-70B"
    assert short(read) == "tp8 dp4 zero3 shard2"
    assert (read.training.micro_batch, read.training.global_batch, read.training.recompute.name) == (2, 8, "full")
    command = (
        f"torchrun --nproc_per_node=8 --nnodes 2 -m torchtitan.train --job.config_file {path} --training.seq_len=1024"
    )
    read = import_training(command, on="4xhgx-h100")
    assert (short(read), read.training.seq_len) == ("tp8 dp2 zero0", 1024)
    assert any("takes 16 of the 32 devices" in note for note in read.notes)


def test_deepspeed(tmp_path: Path) -> None:
    path = written(tmp_path, "ds.json", json.dumps(DEEPSPEED))
    read = import_training(path, on="hgx-h100", model=LLAMA)
    assert short(read) == "dp8 zero3"
    assert (read.training.global_batch, read.training.optimiser.offload) == (64, 1.0)
    assert any("states no sequence length" in note for note in read.notes)
    command = f"deepspeed --num_gpus 4 train.py --deepspeed {path} --model_name_or_path {LLAMA}"
    command += " --max_seq_length 512 --lora_r 8"
    read = import_training(command, on="hgx-h100")
    assert (read.training.parallel.dp, read.training.seq_len, read.training.method.name) == (4, 512, "lora")
    assert read.training.method.rank == 8


def test_every_row_of_the_table_has_a_place() -> None:
    """Every key is one of a deployment, or one that the meaning of a launch turns into such keys."""
    from tokenworks.launch.training_meaning import HELPERS

    for framework, table in TABLES.items():
        for flag, row in table.items():
            assert row.key in {*KEYS, *HELPERS}, (framework, flag)
    assert set(MODULES.values()) <= set(RECOMPUTE_MODULES)
    assert look_up("--no-bf16", "megatron") is not None
    assert look_up("--frobnicate", "megatron") is None
    assert training_reason("--frobnicate")[0] == "unknown"
    assert training_reason("zero_optimization.offload_param.device")[0] == "not modelled"


def test_what_starts_a_training_run(tmp_path: Path) -> None:
    assert is_training_launch("torchrun pretrain_gpt.py --bf16")
    assert not is_training_launch("vllm serve Qwen/Qwen3-8B")
    assert is_training_launch(written(tmp_path, "c.yaml", BRIDGE))
    assert not is_training_launch(written(tmp_path, "d.yaml", "model: x\ntensor-parallel-size: 8\n"))
    assert read_training_launch(written(tmp_path, "r.sh", MEGATRON)).framework == "megatron"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.toml", "[training\n", "is no TOML"),
        ("a.toml", "[server]\nport = 1\n", "has none of the tables"),
        ("a.json", '{"zero_optimization": ', "is no JSON"),
        ("a.json", '["train_batch_size"]', "has none of the keys"),
        (
            "a.yaml",
            "model: {tensor_model_parallel_size: many}\n",
            "tensor_model_parallel_size 'many'; want a whole number",
        ),
        ("a.yaml", "model: {tensor_model_parallel_size: 3}\ntrain: {global_batch_size: 8}\n", "does not divide"),
        ("a.sh", "torchrun pretrain_gpt.py --fp8-format hybrid --fp8-recipe rare\n", "want one of tensorwise, delayed"),
        ("a.sh", "torchrun pretrain_gpt.py --recompute-modules brain\n", "brain: want some of core_attn"),
        ("a.sh", "torchrun pretrain_gpt.py --yaml-cfg none.yaml\n", "names none.yaml, and the file is not there"),
        ("a.sh", "# pretrain_gpt.py\necho tensor-model-parallel-size\n", "holds no command that starts a training run"),
        (
            "a.sh",
            "torchrun --nnodes 4 --nproc_per_node 8 pretrain_gpt.py --bf16\n",
            "starts 32 devices, and hgx-h100 has 8",
        ),
        ("a.sh", "torchrun pretrain_gpt.py --seq-length $SEQ --bf16\n", "--env"),
        ("a.sh", "torchrun pretrain_gpt.py --num-layers 7 --hidden-size 9\n", "no model of the catalog has its sizes"),
    ],
)
def test_bad_launches(tmp_path: Path, name: str, text: str, says: str) -> None:
    path = written(tmp_path, name, text)
    model = None if "no model" in says else LLAMA
    with pytest.raises(SpecError) as caught:
        import_training(path, on="hgx-h100", model=model)
    assert says in str(caught.value)


def test_a_machine_is_needed() -> None:
    with pytest.raises(SpecError, match="--on: a launch of a training run does not name the machine"):
        import_training("torchrun pretrain_gpt.py --bf16")


def test_import_as_a_user_meets_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written(tmp_path, "job.toml", TITAN))
    assert run(["import", path, "--on", "4xhgx-h100", "-o", "json"]) == 0
    plain = result(capsys.readouterr().out)
    training = load_training(plain["text"])
    assert training.model_dump(mode="json") == plain["deployment"]["training"]
    assert run(["import", path, "--on", "4xhgx-h100", "-o", "yaml"]) == 0
    out = tmp_path / "out.yaml"
    out.write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_training_deployment(out).training == training
    assert run(["import", path, "--on", "4xhgx-h100"]) == 0
    assert "Without a place in the deployment" in capsys.readouterr().out
    assert run(["import", path, "--on", "4xhgx-h100", "--dialect", "vllm"]) == 2
    assert "--dialect: does not go with a training run" in capsys.readouterr().err
