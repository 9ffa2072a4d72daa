"""Launch scripts of a few deployments, frozen in `golden/`: `python -m tests.launch.goldens` writes them again."""

from __future__ import annotations

from pathlib import Path

from tests.launch.cases import launch
from tests.planning.settings import DENSE, R1
from tokenworks.launch.scripts import script, script_name
from tokenworks.specs.deployment import Deployment, Parallel, Role

FOLDER = Path(__file__).parent / "golden"

PREFILL = Role(name="prefill", parallel=Parallel(tp=8, ep=8), replicas=2, chunk_tokens=16384, kv_dtype="fp8")
DECODE = Role(
    name="decode", parallel=Parallel(dp=16, ep=16), max_sequences=1024, chunk_tokens=16384, kv_dtype="fp8",
    draft_tokens=1, redundant_experts=16,
)  # fmt: skip
PAIR = Role(parallel=Parallel(tp=2), replicas=2)
WIDE = Role(parallel=Parallel(dp=16, ep=16), max_sequences=2048, chunk_tokens=65536, overlap="two-batch")
CASES: dict[str, tuple[str, Deployment]] = {
    "scalex40": (
        "sglang-das-0.5.12",
        Deployment(model=R1, system="scalex40", engine="sglang", router="round_robin", roles=(PREFILL, DECODE)),
    ),
    "h200-sglang": (
        "sglang-0.5.23",
        Deployment(model=R1, system="4xhgx-h200", engine="sglang", router="prefix_aware", roles=(PREFILL, DECODE)),
    ),
    "h200-vllm": ("vllm-0.33.0", Deployment(model=R1, system="2xhgx-h200", router="prefix_aware", roles=(WIDE,))),
    "h200-dense": ("vllm-0.33.0", Deployment(model=DENSE, system="hgx-h200", max_model_len=32768, roles=(PAIR,))),
}
"""Name -> dialect and deployment."""


def text_of(name: str) -> str:
    """All scripts of a case in one text."""
    made = launch(CASES[name][1], CASES[name][0])
    texts = [f"==== {script_name(one, made)}\n{script(one, made, ())}" for one in made.commands]
    return "\n".join([*texts, *(f"note: {note}" for note in made.notes)]) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in CASES:
        (FOLDER / f"{each}.txt").write_text(text_of(each), encoding="utf-8")
