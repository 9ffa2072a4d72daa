"""Published launch recipes: what `import` understands of each, and what `advise` says of it.

    python benchmarks/recipes.py ../shared/cases/launch/recipes.csv

prints the table of docs/advise.md. Recipes that name a checkpoint which the catalog does not have are read with the
nearest model of the catalog, named in the table.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import tokenworks
from tokenworks.errors import TokenworksError
from tokenworks.launch.importing import Imported
from tokenworks.ledger.advise import Advice

WORKLOAD = "chat"

ON: dict[str, tuple[str, str, str]] = {
    "x40-dsv4pro-32": ("scalex40:32", "sgl-project/DeepSeek-V4-Pro-FP8", ""),
    "x40-kimik26-24": ("scalex40:24", "moonshotai/Kimi-K2.5", ""),
    "x40-glm52-24": ("scalex40:24", "zai-org/GLM-5.2-FP8", ""),
    "x40-glm53-8": ("scalex40:8", "zai-org/GLM-5.3-FP8", ""),
    "x40-dsv4flash-16": ("scalex40:16", "sgl-project/DeepSeek-V4-Flash-FP8", ""),
    "x40-minimaxm25-8": ("scalex40:8", "MiniMaxAI/MiniMax-M2.5", ""),
    "sn16-hy3-16": ("", "", "the model hygon/Hy3 and the supernode of 16 BW1100 cards"),
    "sn16-hy3-32": ("", "", "the model hygon/Hy3 and the supernode of 16 BW1100 cards"),
    "llmd-dsr1-wideep-32": ("4xhgx-h200", "deepseek-ai/DeepSeek-R1", ""),
    "vr-dsr1-tp8ep": ("hgx-h200", "deepseek-ai/DeepSeek-R1", ""),
    "vr-dsr1-dp8ep": ("hgx-h200", "deepseek-ai/DeepSeek-R1", ""),
    "ix-dsr1-h200-sglang": ("hgx-h200", "deepseek-ai/DeepSeek-R1", ""),
    "gs-qwen3-235b-vllm": ("hgx-h100", "Qwen/Qwen3-235B-A22B-Instruct-2507", ""),
    "gs-qwen3-235b-fp8-tp4-vllm": ("hgx-h100:4", "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", ""),
    "gs-qwen3-235b-sglang": ("hgx-h100", "Qwen/Qwen3-235B-A22B-Instruct-2507", ""),
    "sc-qwen3-235b-fp8-sglang": ("hgx-h200", "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", ""),
    "ms-kimik2-tp16": ("2xhgx-h200", "moonshotai/Kimi-K2-Instruct", ""),
    "vr-kimik2-dp16ep": ("2xhgx-h200", "moonshotai/Kimi-K2-Instruct", ""),
    "vr-kimik2-tp8pp2": ("2xhgx-h200", "moonshotai/Kimi-K2-Instruct", ""),
    "vr-glm5-fp8": ("hgx-h200", "zai-org/GLM-5-FP8", ""),
    "ix-gptoss120b-h100-vllm": ("hgx-h100:4", "openai/gpt-oss-120b", ""),
    "vr-gptoss120b-hopper": ("hgx-h100:1", "openai/gpt-oss-120b", ""),
    "ix-llama33-70b-mi300x": ("hgx-mi300x:4", "nvidia/Llama-3.1-70B-Instruct-FP8", ""),
    "llmd-qwen3-32b-offload": ("hgx-h100:2", "Qwen/Qwen3-32B", ""),
    "llmd-qwen3-32b-lmcache": ("hgx-h100:2", "Qwen/Qwen3-32B", ""),
}
"""Recipe -> `--on`, `--model`, and the input that the catalog lacks; empty: none."""


def recipes(table: Path) -> list[str]:
    """Names of all recipes of a table, in their order."""
    with table.open(encoding="utf-8") as file:
        return list(dict.fromkeys(row["recipe_id"] for row in csv.DictReader(file)))


def flags(imported: Imported) -> tuple[int, int]:
    """Flags that are understood, and flags that are listed, each role counted [count]."""
    understood = {(one.where, one.flag) for one in imported.understood}
    return len(understood), len({(one.where, one.flag) for one in imported.unread})


def row(name: str, table: Path) -> list[str]:
    """The row of one recipe."""
    on, model, lacks = ON[name]
    if lacks:
        return [name, "-", "-", "-", "-", f"not computed: the catalog lacks {lacks}"]
    imported = tokenworks.import_launch(table, on=on, model=model, recipe=name)
    understood, listed = flags(imported)
    setting = f"{model.partition('/')[2]} on {on}"
    read = f"{imported.deployment} ({imported.dialect.title})"
    try:
        advice = tokenworks.advise(imported.deployment, workload=WORKLOAD)
        words = "; ".join(said(advice))
    except TokenworksError as error:
        words = str(error)
    return [name, setting, read, str(understood), str(listed), words]


def said(advice: Advice) -> Iterator[str]:
    """What `advise` says, in short."""
    best = [one.change.words + ("" if one.gain is None else f" ({one.gain:+.0%})") for one in advice.improvements]
    if advice.prediction is None:
        yield from (f"{item.rule}: {item.message}" for item in advice.broken)
        yield "legal with " + ", or ".join(best) if best else "no single change makes it legal"
        return
    one = advice.prediction
    where = "" if one.bound_role == "aggregated" else f" of {one.bound_role}"
    kept = "" if one.meets_slo else ", misses the SLO"
    yield f"{one.effective_tok_s_per_device:,.1f} effective tokens/s a device{kept}, bound by {one.bound_by}{where}"
    yield "best changes: " + ", ".join(best) if best else "no single change gains 2 %"


def main(table: Path) -> None:
    """Print the table."""
    head = ["recipe", "model and machine", "read as", "understood", "listed", f"`advise --workload {WORKLOAD}`"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name in recipes(table):
        print(f"| {' | '.join(row(name, table))} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
