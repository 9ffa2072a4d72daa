"""`import` on damaged scripts, manifests, recipes and tables: a deployment, or words about the fault."""

from pathlib import Path

import pytest

from tests.fuzz.damage import damaged_csv, damaged_text, damaged_yaml
from tests.fuzz.test_commands import law

MODEL = "meta-llama/Meta-Llama-3.1-8B"
SCRIPT = f"""#!/bin/bash
export MODEL={MODEL} PORT=8000
ARGS=(--max-num-seqs 64 --kv-cache-dtype "fp8")
for i in 0 1; do
  CUDA_VISIBLE_DEVICES=$i vllm serve "$MODEL" --port $((PORT + i)) \\
    --tensor-parallel-size ${{TP:-2}} "${{ARGS[@]}}" --speculative-config '{{"method": "mtp"}}' > log 2>&1 &
done
if [ -z "$X" ]; then echo no; fi
docker run --gpus all -e A=1 vllm/vllm-openai --model $MODEL -tp 2
wait
"""
MANIFEST = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: decode, labels: {{role: decode}}}}
spec:
  replicas: 2
  template:
    spec:
      containers:
      - image: vllm/vllm-openai
        command: [/bin/sh, -c]
        args: ["vllm serve {MODEL} -tp $TP --port 8000"]
        env: [{{name: TP, value: '2'}}]
"""
COMPOSE = f"""
services:
  engine:
    image: vllm/vllm-openai
    command: --model {MODEL} --tensor-parallel-size 2 --max-model-len ${{LENGTH:-8192}}
    environment: {{A: 1}}
    deploy: {{replicas: 2}}
"""
FLAGS = f"""
model: {MODEL}
tensor-parallel-size: 2
gpu-memory-utilization: 0.9
enable-prefix-caching: false
"""
ROLES = f"""
model: {{path: {MODEL}}}
resources: {{prefill_workers: 1, decode_workers: 2, decode_nodes: 2}}
backend:
  sglang_config:
    prefill: {{tp-size: 1, disaggregation-mode: prefill}}
    decode: {{tp-size: 2, disaggregation-mode: decode}}
"""
TABLE = f"""recipe_id,model,engine,engine_version,fork,role,nodes,flag,value
one,{MODEL},vllm,0.33.0,,aggregated,1,--tensor-parallel-size,2
one,{MODEL},vllm,0.33.0,,aggregated,1,env:A,1
"""
IMPORT = ["import", "FILE", "--on", "hgx-h100"]


def test_damaged_scripts(tmp_path: Path) -> None:
    law(tmp_path / "run.sh", damaged_text(SCRIPT), [IMPORT, [*IMPORT, "-o", "yaml"]], 60)


@pytest.mark.parametrize("text", [MANIFEST, COMPOSE, FLAGS, ROLES], ids=["manifest", "compose", "flags", "roles"])
def test_damaged_yaml(text: str, tmp_path: Path) -> None:
    law(tmp_path / "file.yaml", damaged_yaml(text), [IMPORT], 40)
    law(tmp_path / "file.yaml", damaged_text(text), [IMPORT], 20)


def test_damaged_tables(tmp_path: Path) -> None:
    law(tmp_path / "table.csv", damaged_csv(TABLE), [[*IMPORT, "--recipe", "one"]], 40)


def test_the_good_files_are_read(tmp_path: Path) -> None:
    from tests.fuzz.test_commands import obeys

    for name, text in (("file.yaml", MANIFEST), ("file.yaml", COMPOSE), ("file.yaml", FLAGS), ("file.yaml", ROLES)):
        (tmp_path / name).write_text(text)
        code = obeys([word.replace("FILE", str(tmp_path / name)) for word in IMPORT])
        assert code == (2 if text is MANIFEST else 0)  # the manifest has a decode role alone
    (tmp_path / "table.csv").write_text(TABLE)
    assert obeys(["import", str(tmp_path / "table.csv"), "--on", "hgx-h100", "--recipe", "one"]) == 0
