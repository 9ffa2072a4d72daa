"""Launch commands become a deployment; every flag is understood or listed with a reason."""

import runpy
from pathlib import Path

import pytest

import tokenworks
from tokenworks.errors import SpecError
from tokenworks.launch.importing import Imported, deployed_or_imported, import_launch
from tokenworks.launch.read.source import read_launch
from tokenworks.launch.words import is_flag
from tokenworks.specs.deployment_file import load_deployments

R1 = "deepseek-ai/DeepSeek-R1"
SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "recipes.py"))
ON: dict[str, tuple[str, str, str]] = SCRIPT["ON"]
RECIPES = Path(__file__).parents[2] / "../shared/cases/launch/recipes.csv"


def test_vllm() -> None:
    imported = import_launch(
        f"vllm serve {R1} -dp 8 --enable-expert-parallel --max-num-seqs 64 --kv-cache-dtype fp8 --port 8000",
        on="hgx-h200",
    )
    (role,) = imported.deployment.roles
    assert (role.parallel.dp, role.parallel.ep, role.max_sequences, role.kv_dtype) == (8, 8, 512, "fp8")
    assert imported.deployment.engine == "vllm"
    assert {one.flag for one in imported.understood} == {
        R1, "-dp", "--enable-expert-parallel", "--max-num-seqs", "--kv-cache-dtype"}  # fmt: skip
    assert [(one.flag, one.kind) for one in imported.unread] == [("--port", "address")]


def test_a_word_without_a_flag_is_listed() -> None:
    imported = import_launch(f"vllm serve {R1} -tp 8 extra", on="hgx-h200")
    assert [(one.flag, one.reason) for one in imported.unread] == [("extra", "it follows no flag that takes a value")]


def test_values_of_secrets_are_not_printed() -> None:
    imported = import_launch(f"vllm serve {R1} -tp 8 --api-key abc123", on="hgx-h200")
    assert "abc123" not in str(imported.plain())
    assert "--api-key" in str(imported.plain())


PAIR = """
export MODEL=deepseek-ai/DeepSeek-R1
python3 -m sglang.launch_server --model-path $MODEL --tp-size 8 --disaggregation-mode prefill &
for rank in 0 1; do
  python3 -m sglang.launch_server --model-path $MODEL --tp-size 16 --dp-size 16 --enable-dp-attention --ep-size 16 \\
    --moe-a2a-backend deepep --disaggregation-mode decode --nnodes 2 --node-rank $rank --host 10.0.0.$rank &
done
python3 -m sglang_router.launch_router --pd-disaggregation --policy round_robin
"""


def test_roles_nodes_and_a_router_make_one_deployment(tmp_path: Path) -> None:
    path = tmp_path / "run.sh"
    path.write_text(PAIR)
    deployment = import_launch(path, on="3xhgx-h200").deployment
    assert str(deployment) == "1xprefill[tp8 etp8] + 1xdecode[dp16 ep16]"
    assert deployment.router == "round_robin"


def test_the_file_is_read_back(tmp_path: Path) -> None:
    imported = import_launch(f"vllm serve {R1} -tp 8 --port 1", on="hgx-h200", assume={"engine.host_step": "1 ms"})
    path = tmp_path / "deployment.yaml"
    import yaml

    path.write_text(yaml.safe_dump(imported.document(), sort_keys=False))
    (deployed,) = load_deployments(path)
    assert deployed.deployment == imported.deployment
    assert deployed.given == imported.given
    again, notes = deployed_or_imported(path)
    assert (again.deployment, notes) == (imported.deployment, ())


@pytest.mark.parametrize(
    ("text", "given", "words"),
    [
        ("vllm serve /data/r1 -tp 8", {}, "/data/r1, a path that is not on this computer; name the model: --model ID"),
        ("vllm serve my/own -tp 8", {}, "my/own, which is no model of the catalog; name the model: --model ID"),
        (f"vllm serve {R1} -tp 8", {"on": None}, "a launch command does not name the machine; name it, such as --on"),
        (f"vllm serve {R1} -tp", {}, "-tp: has no value"),
        (f"vllm serve {R1} -tp 8 -tp 4", {}, "contradict each other"),
        (f"vllm serve {R1} -tp eight", {}, "eight"),
        (f"vllm serve {R1}", {"dialect": "vlm"}, "unknown dialect 'vlm'"),
        (f"vllm serve {R1}", {"dialect": "sglang"}, "give the commands of one engine"),
        ("vllm serve", {}, "the command names no model"),
    ],
)  # fmt: skip
def test_bad_commands(text: str, given: dict[str, str | None], words: str) -> None:
    with pytest.raises(SpecError) as error:
        import_launch(text, **{"on": "hgx-h200", **given})  # type: ignore[arg-type]
    assert words in str(error.value)


def test_a_model_of_another_computer_needs_a_name() -> None:
    imported = import_launch("vllm serve /data/r1 -tp 8", on="hgx-h200", model=R1)
    assert imported.deployment.model == R1


def test_a_file_of_deployments_takes_no_options_of_launch_commands(tmp_path: Path) -> None:
    path = tmp_path / "deployment.yaml"
    path.write_text(f"model: {R1}\nsystem: hgx-h200\nroles: [{{parallel: {{tp: 8, expert_tp: 8}}}}]\n")
    with pytest.raises(SpecError, match="--recipe: is for launch commands"):
        deployed_or_imported(path, recipe="x")
    with pytest.raises(SpecError, match="--pick: launch commands hold one deployment"):
        deployed_or_imported(f"vllm serve {R1}", 2, on="hgx-h200")


def test_python_users_import() -> None:
    imported = tokenworks.import_launch(f"vllm serve {R1} -tp 8", on="hgx-h200")
    assert isinstance(imported, Imported)
    assert "[tp8 etp8]" in repr(imported)
    assert imported.to_records()[0]["flag"] == R1


# ── all published recipes ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.shared
def test_every_flag_of_every_recipe_is_understood_or_listed() -> None:
    if not RECIPES.exists():
        pytest.skip("needs ../shared/cases/launch/recipes.csv")
    names = SCRIPT["recipes"](RECIPES)
    assert set(names) == set(ON)
    for name in names:
        on, model, _ = ON[name]
        if model == "":
            continue
        imported = import_launch(RECIPES, on=on, model=model, recipe=name)
        listed = {one.flag for one in imported.unread} | {one.flag for one in imported.understood}
        for command in read_launch(RECIPES, recipe=name).commands:
            if command.role == "router":
                continue
            for word in filter(is_flag, command.arguments):
                flag = word.partition("=")[0]
                spelled = {flag, flag.replace("_", "-"), flag.partition(".")[0]}
                assert any(one.partition(".")[0] in spelled for one in listed), (name, flag)
        assert all(one.reason for one in imported.unread), name


@pytest.mark.shared
def test_the_table_of_the_page_counts_the_flags() -> None:
    if not RECIPES.exists():
        pytest.skip("needs ../shared/cases/launch/recipes.csv")
    page = (Path(__file__).parents[2] / "docs" / "advise.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    table = {row[0]: row for row in rows if row[0] in ON}
    assert set(table) == set(ON)
    for name, (on, model, lacks) in ON.items():
        if not lacks:
            imported = import_launch(RECIPES, on=on, model=model, recipe=name)
            assert table[name][2] == f"{imported.deployment} ({imported.dialect.title})"
            assert tuple(map(int, table[name][3:5])) == SCRIPT["flags"](imported)


# ── what `emit` writes ────────────────────────────────────────────────────────────────────────────────────────────

DISAGGREGATED = """
model: deepseek-ai/DeepSeek-R1
system: 2xhgx-h200
engine: sglang
router: power_of_two
roles:
  - {name: prefill, parallel: {tp: 8, expert_tp: 8}, max_sequences: 64, chunk_tokens: 8192}
  - {name: decode, parallel: {dp: 8, ep: 8}, max_sequences: 512, chunk_tokens: 8192}
"""
AGGREGATED = """
model: deepseek-ai/DeepSeek-R1
system: 2xhgx-h200
router: least_loaded
roles: [{parallel: {dp: 16, ep: 16}, max_sequences: 512, chunk_tokens: 32768, kv_dtype: fp8}]
"""


@pytest.mark.parametrize("text", [DISAGGREGATED, AGGREGATED], ids=["sglang, two roles", "vllm, two nodes"])
def test_scripts_of_emit_become_the_same_deployment(text: str, tmp_path: Path) -> None:
    file, out = tmp_path / "deployment.yaml", tmp_path / "out"
    file.write_text(text)
    (planned,) = load_deployments(file)
    tokenworks.emit(file, out=out, workload={"isl": 1000, "osl": 100}, rate=1.0)
    scripts = sorted(path for path in out.glob("*.sh") if path.name != "bench.sh")
    assert len(scripts) >= 2
    again = import_launch(scripts, on="2xhgx-h200").deployment
    assert again.model_copy(update={"devices_per_host": None}) == planned.deployment
