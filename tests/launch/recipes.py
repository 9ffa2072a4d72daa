"""Published recipes beside what `emit` writes for the same deployment, with the reason of every difference.

    python -m tests.launch.recipes ../shared/cases/launch/recipes.csv

writes docs/launch-recipes.md. The recipe becomes a deployment (`translate.read`), and the deployment becomes commands.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenworks.launch.command import Command
from tokenworks.launch.commands import Launch, LaunchNames, launch_of
from tokenworks.launch.dialect import Dialect, load_dialect
from tokenworks.launch.router import is_router
from tokenworks.launch.target import target_of
from tokenworks.launch.translate import read
from tokenworks.launch.words import is_flag, parse

PAGE = Path(__file__).parents[2] / "docs" / "launch-recipes.md"
PROGRAMS = {"vllm": ("vllm", "serve"), "sglang": ("python3", "-m", "sglang.launch_server")}


@dataclass(frozen=True)
class Recipe:
    """A recipe to hold against `emit`.

    Parameters
    ----------
    name : name in the file of recipes
    title : heading of its table
    system, model : machine and model in the words of tokenworks
    dialect : dialect that reads and writes it
    remark : what the catalog has in place of the machine or the model of the recipe
    """

    name: str
    title: str
    system: str
    model: str
    dialect: str
    remark: str = ""


RECIPES = (
    Recipe("x40-dsv4pro-32", "DeepSeek-V4-Pro on 32 cards of a scaleX40, Hygon's SGLang 0.5.12", "scalex40:32",
           "sgl-project/DeepSeek-V4-Pro-FP8", "sglang-das-0.5.12"),
    Recipe("x40-kimik26-24", "Kimi-K2.6 on 24 cards of a scaleX40, Hygon's SGLang 0.5.12", "scalex40:24",
           "moonshotai/Kimi-K2.5", "sglang-das-0.5.12", "The catalog has Kimi-K2.5, of the same size."),
    Recipe("llmd-dsr1-wideep-32", "DeepSeek-R1 with wide expert parallelism on 32 H200, vLLM", "4xhgx-h200",
           "deepseek-ai/DeepSeek-R1", "vllm-0.33.0"),
    Recipe("sc-qwen3-235b-fp8-sglang", "Qwen3-235B in FP8 on 8 H200, SGLang", "hgx-h200",
           "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", "sglang-0.5.23"),
)  # fmt: skip

WHY: tuple[tuple[str, str, str], ...] = (
    # side ("published", "emitted" or "both"), pattern of the setting, reason
    ("emitted", r"--(mem-fraction-static|gpu-memory-utilization|context-length|max-num-.*|max-running-requests"
     r"|chunked-prefill-size|.*prefix-caching|tensor-parallel-size)$",
     "the recipe leaves it to the engine; `emit` says what the prediction holds for"),
    ("emitted", r"env:VLLM_NIXL.*", "address of NIXL, which moves the KV cache between hosts"),
    ("published", r"env:(DEEP_EP.*|HIP_BUFFER.*|ROCSHMEM_GDR.*)", "transport of dispatch: this role has none"),
    ("both", r"--(model-path|served-model-name|tokenizer-path)|model$", "weights of the vendor: see `--model-path`"),
    ("both", r"--(host|port|dist-init-addr|.*-port|.*address|nnodes|node-rank|headless)$",
     "hosts and ports: from `--hosts`; the recipe leaves them to its reader"),
    ("both", r"env:(HIP|CUDA)_VISIBLE_DEVICES", "set only where an instance has a part of a host"),
    ("both", r"env:(ROCSHMEM_HEAP_SIZE|ROCSHMEM_.*)", "size of the buffers of ROCSHMEM: one value for all roles"),
    ("both", r"env:SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK",
     "sequences of a rank x (1 + drafts), rounded up to 16; the recipe rounds up further, or sets it without need in "
     "prefill"),
    ("both", r"--deepep-mode", "auto is for roles that prefill and decode; the recipe says the same for each role"),
    ("both", r"--kv-cache-dtype", "auto: the checkpoint of the catalog asks for the same dtype"),
    ("both", r"--all2all-backend",
     "deepep_high_throughput for prefill; the recipe takes deepep_v2, which newer images have. Both dispatch the same "
     "bytes"),
    ("both", r"--kv-transfer-config", "emit says the role; kv_both allows both roles. fail is the default"),
    ("both", r"--chunked-prefill-size", "the recipe turns chunks off (-1): a step takes whole prompts up to "
     "--max-prefill-tokens, 16,384 for each rank. The deployment has this budget"),
    ("both", r"--policy", "the policy of the deployment"),
    ("published", r"env:(SGLANG_(USE|OPT|DSV4|LIGHTOP|KVALLOC|ROCM|TOPK|JIT|CREATE|ASSIGN|GET|DEBUG|APPLY|NCCL|DISABLED"
     r"|ENABLE|CHUNKED).*|SGL_CHUNKED.*|USE_DCU.*|HIPBLASLT.*|ALLREDUCE.*|AITER_REBUILD|VLLM_(USE|MOE).*|PYTORCH.*"
     r"|HIP_GRAPH.*|GPU_FORCE.*|AITER.*|TORCH_CUDA.*)",
     "kernels and their tuning: the calibration of the device stands for them. Take them from the recipe"),
    ("published", r"env:(SGLANG_(DISAGG|HEALTH|SET_CPU).*|VLLM_(ENGINE|HTTP|LOGGING|SKIP|RANDOM|MEMORY).*"
     r"|PYTHONUNBUFFERED|HSA_.*|ROC_.*|HIP_KERNEL.*|GPU_MAX.*|GPU_.*|TRITON_.*|NVIDIA_.*)",
     "time limits, logs and queues of the driver: no part of a deployment"),
    ("published", r"env:(MC_ALLOWED.*|NCCL_IB.*|NVSHMEM.*|MC_IB.*|DEEP_EP.*|HIP_BUFFER.*|MC_ENABLE.*)",
     "ports of the hosts and transport: they depend on the site"),
    ("published", r"--disaggregation-ib-device", "names of the network ports depend on the site: add it to the script"),
    ("published", r"--(trust-remote-code|dtype)$", "only some models need it: add it to the script"),
    ("published", r"--(dist-timeout|watchdog-timeout|skip-server-warmup|disable-access-log.*|tool-call-parser"
     r"|reasoning-parser|.*timeout-secs|stream-interval|decode-log-interval)$",
     "service around the engine: no part of a deployment"),
    ("published", r"--(disable-cuda-graph|enforce-eager)$",
     "prefill runs without graphs; the engine decides this by the size of its steps, and the cost model, too"),
    ("published", r"--(attention-backend|custom-all-reduce-backend|disable-flashinfer-autotune|moe-backend|numa-node"
     r"|page-size|deepep-config|custom-.*)$", "kernels and NUMA: the calibration of the device stands for them"),
    ("published", r"--(init-expert-location|ep-dispatch-algorithm|eplb-algorithm)$",
     "a fixed placement from a recorded file; `emit` has no recording and lets EPLB move the experts"),
    ("published", r"--(enable-nsa-prefill-context-parallel|nsa-prefill-cp-mode)$",
     "context parallelism: the model of tokenworks has none, and its prefill uses tp"),
    ("published", r"--speculative-.*", "a draft model (EAGLE3): tokenworks drafts with MTP layers only"),
    ("published", r"--data-parallel-(multi-port-external-lb|supervisor-port)$",
     "one API server for each rank, with the router of llm-d; `emit` uses the load balancing of vLLM"),
    ("published", r"--pipeline-parallel-size|--pp-size", "1 is the default"),
    ("published", r"--dbo-decode-token-threshold$", "32 is the default"),
    ("published", r"--(max-prefill-tokens|enable-metrics)$", "the default is enough"),
    ("emitted", r"--(mem-fraction-static|gpu-memory-utilization|context-length|max-num-.*|max-running-requests"
     r"|chunked-prefill-size|kv-cache-dtype|.*prefix-caching|tensor-parallel-size)$",
     "the recipe leaves it to the engine; `emit` says what the prediction holds for"),
    ("emitted", r"--(cuda-graph-max-bs.*|max-cudagraph-capture-size)$", "graphs for the largest batch of a rank"),
    ("emitted", r"--(disaggregation-transfer-backend|enable-metrics|prometheus-port)$", "default, or for metrics"),
    ("emitted", r"--enable-eplb", "moves the redundant experts, instead of the recorded placement of the recipe"),
    ("emitted", r"--(enable-prefill-delayer|moe-a2a-backend|deepep-mode|moe-dense-tp-size|enable-dp-lm-head)$",
     "the layout that the cost model has"),
    ("emitted", r"env:(ROCSHMEM.*|DEEP_EP.*|HIP_BUFFER.*|AITER.*|MC_.*|SGLANG_USE_LIGHTOP|GLIBC.*|SGLANG_DEEPEP.*"
     r"|VLLM_NIXL.*|NVSHMEM.*)", "the fabric between the hosts, as other recipes of the same machine have it"),
)  # fmt: skip
"""Reasons of differences; the first entry that matches counts."""


def rows_of(path: Path, name: str) -> dict[str, list[Mapping[str, str]]]:
    """The rows of a recipe, by role."""
    roles: dict[str, list[Mapping[str, str]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["recipe_id"] == name:
                roles.setdefault(row["role"], []).append(row)
    return roles


def commands_of(recipe: Recipe, roles: Mapping[str, Sequence[Mapping[str, str]]]) -> list[Command]:
    """The commands of a recipe."""
    commands = []
    for role, rows in roles.items():
        engine, words, environment = rows[0]["engine"], [], {}
        if role == "router" and not any(row["flag"] in ("--policy", "--pd-disaggregation") for row in rows):
            continue  # a side car of the orchestrator
        if role != "router" and engine == "vllm":
            words.append(rows[0]["model"])
        for row in rows:
            if row["flag"].startswith("env:"):
                environment[row["flag"].removeprefix("env:")] = row["value"]
                continue
            words.append(row["flag"])
            words += row["value"].split() if row["flag"] == "--numa-node" else [row["value"]] if row["value"] else []
        if role != "router" and engine == "sglang" and "--model-path" not in words:
            words += ["--model-path", rows[0]["model"]]
        program = ("python3", "-m", "sglang_router.launch_router") if role == "router" else PROGRAMS[engine]
        commands.append(Command(program, tuple(words), environment, role, where=f"{recipe.name}, {role}"))
    return commands


def launch_again(recipe: Recipe, commands: Sequence[Command]) -> Launch:
    """What `emit` writes for the deployment of a recipe."""
    dialect = load_dialect(recipe.dialect)
    deployment, _ = read(commands, system=recipe.system, model=recipe.model, dialect=dialect)
    target = target_of(recipe.model, recipe.system, dialect)
    return launch_of(deployment, target, dialect, LaunchNames(recipe.model, recipe.model))


def settings_of(command: Command, dialect: Dialect) -> dict[str, str]:
    """The settings of a command: flag -> value, and variables of the environment."""
    settings = {f"env:{name}": value for name, value in command.environment.items()}
    if is_router(command):
        words = list(command.arguments)
        for place, word in enumerate(words):
            if is_flag(word) and word not in ("--prefill", "--decode", "--worker-urls"):
                following = words[place + 1 : place + 2]
                settings[word] = "" if not following or is_flag(following[0]) else following[0]
        return settings
    parsed = parse(command, dialect)
    settings |= {name: "off" if term.negated else _number(term.value) for name, term in parsed.terms.items()}
    settings |= {f"{name}": ", ".join(f"{k} {v}" for k, v in content.items()) for name, content in parsed.keys.items()}
    settings |= {term.word: term.value for term in parsed.unknown}
    return settings


def _number(text: str) -> str:
    """The text of a number without zeros at its end, such as 0.8 for 0.80."""
    try:
        return f"{float(text):g}" if "." in text else text
    except ValueError:
        return text


@dataclass(frozen=True)
class Difference:
    """A setting that a recipe and `emit` have in common, or not.

    Parameters
    ----------
    setting : flag or variable
    published, emitted : its values; None: it is not set
    why : reason of the difference; empty: there is no difference
    """

    setting: str
    published: str | None
    emitted: str | None
    why: str


def differences(published: Mapping[str, str], emitted: Mapping[str, str]) -> Iterator[Difference]:
    """All settings of a role, those that are equal first.

    Raises
    ------
    LookupError : a difference has no reason in `WHY`
    """
    same = [name for name in published if emitted.get(name) == published[name]]
    for name in same:
        yield Difference(name, published[name], emitted[name], "")
    for name in dict.fromkeys([*published, *emitted]):
        if name in same:
            continue
        side = "published" if name not in emitted else "emitted" if name not in published else "both"
        reasons = [why for where, pattern, why in WHY if where in (side, "both") and re.fullmatch(pattern, name)]
        if not reasons:
            raise LookupError(f"{name}: published {published.get(name)!r}, emitted {emitted.get(name)!r}")
        yield Difference(name, published.get(name), emitted.get(name), reasons[0])


def compared(recipe: Recipe, path: Path) -> dict[str, list[Difference]]:
    """The differences of a recipe, by role."""
    dialect, commands = load_dialect(recipe.dialect), commands_of(recipe, rows_of(path, recipe.name))
    launch = launch_again(recipe, commands)
    result = {}
    for command in commands:
        mine = next((one for one in launch.commands if one.role == command.role and one.node == 0), None)
        if mine is not None:
            result[command.role] = list(differences(settings_of(command, dialect), settings_of(mine, dialect)))
    return result


def page(path: Path) -> str:
    """The text of docs/launch-recipes.md."""
    lines = ["# Published recipes beside what `emit` writes", "",
             "Written by `python -m tests.launch.recipes`. Each recipe was read into a deployment, and `emit` wrote "
             "this deployment again. A test fails if a difference has no reason here.", ""]  # fmt: skip
    for recipe in RECIPES:
        lines += [f"## {recipe.title}", "", f"Recipe `{recipe.name}`. {recipe.remark}".strip(), ""]
        for role, every in compared(recipe, path).items():
            equal = [f"`{one.setting}{' ' * bool(one.published)}{one.published}`" for one in every if not one.why]
            lines += [f"**{role}**: {len(equal)} settings are equal: {', '.join(equal) or 'none'}.", ""]
            lines += ["| setting | published | emitted | why |", "|---|---|---|---|"]
            by_reason: dict[str, list[Difference]] = {}
            for one in every:
                if one.why:
                    by_reason.setdefault(one.why, []).append(one)
            for why, group in by_reason.items():
                lines += [_row(one, why) for one in group] if len(group) <= 3 else [_many(group, why)]
            lines.append("")
    return "\n".join(lines)


def _row(one: Difference, why: str) -> str:
    published, emitted = (_cell(value) for value in (one.published, one.emitted))
    return f"| `{one.setting}` | {published} | {emitted} | {why} |"


def _many(group: Sequence[Difference], why: str) -> str:
    names = ", ".join(f"`{one.setting}`" for one in group)
    sides = {(one.published is None, one.emitted is None) for one in group}
    published = "-" if sides == {(True, False)} else f"{len(group)} values"
    emitted = "-" if sides == {(False, True)} else f"{sum(one.emitted is not None for one in group)} values"
    return f"| {names} | {published} | {emitted} | {why} |"


def _cell(value: str | None) -> str:
    return "-" if value is None else f"`{value}`" if value else "on"


if __name__ == "__main__":
    PAGE.write_text(page(Path(sys.argv[1])), encoding="utf-8")
