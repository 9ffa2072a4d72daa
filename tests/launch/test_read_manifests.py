"""Compose files, Kubernetes manifests and YAML recipes become launch commands."""

from pathlib import Path

import pytest

from tokenworks.errors import SpecError
from tokenworks.launch.read.source import read_launch
from tokenworks.launch.read.yaml_text import documents

COMPOSE = """
x-common: &common
  image: vllm/vllm-openai:v0.11.0
  environment:
    - HF_TOKEN=secret
    - A=1
services:
  prefill:
    <<: *common
    command: >
      --model org/m --tensor-parallel-size ${TP:-8}
      --kv-transfer-config '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'
  decode:
    <<: *common
    entrypoint: ["vllm", "serve"]
    command: ["org/m", "-tp", "${TP}", "--port", "$$x"]
    deploy: {replicas: 2}
  db:
    image: postgres
    command: "${UNSET}"
"""

LWS = """
apiVersion: v1
kind: Service
metadata: {name: x}
---
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: wide-ep-decode
spec:
  replicas: 3
  leaderWorkerTemplate:
    size: 2
    workerTemplate:
      spec:
        containers:
          - name: vllm
            image: x/y
            command: ["/bin/bash", "-c"]
            args:
              - |
                START=$(( ${LWS_WORKER_INDEX:-0} * LOCAL ))
                exec vllm serve \\
                  org/m \\
                  --data-parallel-start-rank $START \\
                  --data-parallel-address ${LWS_LEADER_ADDRESS} \\
                  --host $POD_IP
            env:
              - {name: LOCAL, value: "8"}
              - name: POD_IP
                valueFrom: {fieldRef: {fieldPath: status.podIP}}
            readinessProbe:
              exec: {command: ["curl", "x"]}
"""


def written(tmp_path: Path, text: str, name: str = "file.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_compose(tmp_path: Path) -> None:
    commands = read_launch(written(tmp_path, COMPOSE), given={"TP": "4"}).commands
    assert [(one.role, one.instance) for one in commands] == [("prefill", 0), ("decode", 0), ("decode", 1)]
    assert commands[0].program == ("vllm", "serve")
    assert commands[0].arguments[:4] == ("--model", "org/m", "--tensor-parallel-size", "4")
    assert commands[0].arguments[5] == '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'
    assert commands[1].arguments == ("org/m", "-tp", "4", "--port", "$x")
    assert dict(commands[0].environment) == {"HF_TOKEN": "(not shown)", "A": "1"}


def test_a_variable_of_compose_without_a_value_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"file.yaml:16: .* needs \$TP, .* --env TP=VALUE"):
        read_launch(written(tmp_path, COMPOSE))


def test_a_leader_worker_set_has_replicas_and_nodes(tmp_path: Path) -> None:
    commands = read_launch(written(tmp_path, LWS)).commands
    assert [(one.instance, one.node) for one in commands] == [(i, node) for node in (0, 1) for i in (0, 1, 2)]
    assert {one.role for one in commands} == {"decode"}
    assert commands[0].arguments == (
        "org/m", "--data-parallel-start-rank", "0", "--data-parallel-address", "$(LWS_LEADER_ADDRESS)", "--host",
        "$(POD_IP)",
    )  # fmt: skip
    assert commands[3].arguments[2] == "8"
    assert commands[0].where.endswith("file.yaml:23")


def test_arguments_of_a_container_use_its_variables(tmp_path: Path) -> None:
    text = """
kind: Deployment
apiVersion: apps/v1
spec:
  replicas: 2
  template:
    spec:
      containers:
      - image: vllm/vllm-openai
        args: [--model, $(MODEL), --tensor-parallel-size, "8", --x, $(UNSET), $$(Y)]
        env: [{name: MODEL, value: org/m}]
"""
    commands = read_launch(written(tmp_path, text)).commands
    assert len(commands) == 2
    assert commands[0].arguments == ("--model", "org/m", "--tensor-parallel-size", "8", "--x", "$(UNSET)", "$(Y)")


FLAGS = """
model: org/m
tensor-parallel-size: 8
gpu_memory_utilization: 0.90
enable-expert-parallel: true
enable-prefix-caching: false
trust-remote-code: false
speculative-config: {method: mtp, num_speculative_tokens: 2}
cudagraph-capture-sizes: [1, 2, 4]
"""


def test_a_configuration_of_vllm(tmp_path: Path) -> None:
    launch = read_launch(written(tmp_path, FLAGS))
    (command,) = launch.commands
    assert command.program == ("vllm", "serve")
    assert command.arguments == (
        "--model", "org/m", "--tensor-parallel-size", "8", "--gpu-memory-utilization", "0.90",
        "--enable-expert-parallel", "--no-enable-prefix-caching", "--no-trust-remote-code", "--speculative-config",
        '{"method": "mtp", "num_speculative_tokens": 2}', "--cudagraph-capture-sizes", "1", "2", "4",
    )  # fmt: skip
    assert "are read as flags of vllm" in launch.notes[0]


def test_a_script_with_a_configuration_beside_it(tmp_path: Path) -> None:
    written(tmp_path, FLAGS, "flags.yaml")
    script = written(tmp_path, "vllm serve org/m --config flags.yaml -tp 4\n", "run.sh")
    arguments = read_launch(script).commands[0].arguments
    assert arguments[:3] == ("org/m", "-tp", "4")
    assert "--tensor-parallel-size" not in arguments
    assert "--enable-expert-parallel" in arguments
    script.write_text("vllm serve org/m --config other.yaml\n")
    with pytest.raises(SpecError, match=r"run.sh:1: --config names other.yaml, and the file is not there"):
        read_launch(script)


ROLES = """
name: x
model: {path: org/m, container: y}
resources: {prefill_nodes: 1, prefill_workers: 1, decode_nodes: 4, decode_workers: 2}
backend:
  prefill_environment: {A: 1}
  sglang_config:
    prefill: {tensor-parallel-size: 4, disaggregation-mode: prefill, disable-radix-cache: true}
    decode: {tensor-parallel-size: 8, disaggregation-mode: decode, max-running-requests: 512}
"""


def test_a_recipe_with_roles(tmp_path: Path) -> None:
    commands = read_launch(written(tmp_path, ROLES)).commands
    assert [(one.role, one.instance, one.node) for one in commands] == [
        ("prefill", 0, 0), ("decode", 0, 0), ("decode", 0, 1), ("decode", 1, 0), ("decode", 1, 1),
    ]  # fmt: skip
    assert commands[0].program == ("python3", "-m", "sglang.launch_server")
    assert commands[0].arguments == (
        "--model-path", "org/m", "--tensor-parallel-size", "4", "--disaggregation-mode", "prefill",
        "--disable-radix-cache",
    )  # fmt: skip
    assert dict(commands[0].environment) == {"A": "1"}


def test_a_recipe_with_widths_alone(tmp_path: Path) -> None:
    text = """
framework: sglang
model: org/m
prefill: {num-worker: 2, tp: 4, ep: 4, dp-attn: true}
decode: {num-worker: 1, tp: 8, ep: 8, dp-attn: false}
"""
    commands = read_launch(written(tmp_path, text)).commands
    assert [one.role for one in commands] == ["prefill", "prefill", "decode"]
    assert "--enable-dp-attention" in commands[0].arguments


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("a: [1", ":1: "),
        ("a: 1\na: 2", "duplicate key 'a'"),
        ("- 1", "holds no launch command"),
        ("title: hello\nauthor: me", "holds no launch command"),
        ("x: !!python/object:os.system {}", "could not determine a constructor"),
        ("a: &a [x]\nb: &b [" + "*a, " * 50 + "]\nc: &c [" + "*b, " * 50 + "]\nd: [" + "*c, " * 50 + "]",
         "repeats too much"),
        ("x: " + "[" * 500, "is too large or nested too deeply"),
        ("services: {x: 3}", "service x is no mapping"),
        ("services: {x: {image: vllm, command: 'vllm serve \"m'}}", "a quote is not closed"),
        ("services: {x: {image: vllm, command: vllm serve m, deploy: {replicas: many}}}", "is no number of replicas"),
        ("model: m\nsystem: x\nroles: []", "is a file of deployments already"),
        ("prefill: {tp-size: 4}\na: {prefill: {tp-size: 4}}", "holds the flags of the role prefill twice"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SpecError) as error:
        read_launch(written(tmp_path, text))
    assert words in str(error.value)
    assert "file.yaml" in str(error.value)


def test_texts_keep_their_form_and_line() -> None:
    (data,) = documents("a: 0.90\nb: on\nc: null\nd: 2024-01-01", "x")
    assert data == {"a": "0.90", "b": "on", "c": None, "d": "2024-01-01"}
    assert data["d"].line == 4


HEAD = "recipe_id,source,hardware,model,engine,engine_version,fork,role,nodes,flag,value\n"
TABLE = (
    HEAD
    + "one,s,H200,org/m,sglang,0.5.12,hcu,prefill,2,env:A,1\n"
    + "one,s,H200,org/m,sglang,0.5.12,hcu,prefill,2,--tp-size,4\n"
    + "one,s,H200,org/m,sglang,0.5.12,hcu,prefill,2,--numa-node,0 5 3\n"
    + "one,s,H200,org/m,sglang,0.5.12,hcu,router,1,--policy,round_robin\n"
    + "two,s,H200,org/m,vllm,>=0.12,,aggregated,1,--enable-expert-parallel,\n"
)


def test_a_table_of_recipes(tmp_path: Path) -> None:
    path = written(tmp_path, TABLE, "recipes.csv")
    launch = read_launch(path, recipe="one")
    assert [(one.role, one.node) for one in launch.commands] == [("prefill", 0), ("prefill", 1), ("router", 0)]
    assert launch.commands[0].arguments == ("--model-path", "org/m", "--tp-size", "4", "--numa-node", "0", "5", "3")
    assert launch.dialect == "sglang-das-0.5.12"
    assert read_launch(path, recipe="two").commands[0].arguments == ("org/m", "--enable-expert-parallel")
    with pytest.raises(SpecError, match="holds 2 recipes; give one with --recipe: one, two"):
        read_launch(path)
    with pytest.raises(SpecError, match="unknown recipe 'tow'; did you mean two"):
        read_launch(path, recipe="tow")
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SpecError, match="has no column recipe_id"):
        read_launch(path, recipe="one")


def test_sources_that_are_no_launch(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        read_launch(str(tmp_path / "missing.sh"))
    with pytest.raises(SpecError, match="holds no launch command"):
        read_launch("echo hello")
    with pytest.raises(SpecError, match="names a recipe of a table"):
        read_launch("vllm serve m", recipe="x")
    with pytest.raises(SpecError, match="is empty"):
        read_launch("  ")
    path = tmp_path / "binary.sh"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="is not UTF-8"):
        read_launch(path)
