"""A real vLLM on a CPU: three points calibrate the machine, the others are predicted; `-s` prints them side by side.

Runs that were recorded stand beside a checkout (`shared`). A run on this machine (`engine`) wants an environment with
vLLM for the CPU, which TOKENWORKS_VLLM names (examples/localhost/install.sh makes one), and takes some ten minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenworks.arrays import Floats
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.own_machine import Played, calibrate_own
from tokenworks.calibrate.own_results import measured_table
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.deployment import Deployment, Parallel, Role

PRIOR = load_calibration("datasheet")
RECORDED = Path(__file__).parents[3] / "shared/localhost-vllm"
EXAMPLE = Path(__file__).parents[2] / "examples/localhost"
VLLM = os.environ.get("TOKENWORKS_VLLM", "")

COMMON = {"vocab_size": 4096, "head_dim": 64, "torch_dtype": "bfloat16", "max_position_embeddings": 32768}
LLAMA = COMMON | {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 384, "intermediate_size": 1024,
    "num_hidden_layers": 8, "num_attention_heads": 6, "num_key_value_heads": 2,
}  # fmt: skip
MOE = COMMON | {
    "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 512, "intermediate_size": 1536,
    "moe_intermediate_size": 256, "num_experts": 32, "num_experts_per_tok": 4, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 2, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "norm_topk_prob": True,
}  # fmt: skip
DEVICE = {
    "name": "recorded-core", "title": "One vCPU of the recorded runs", "vendor": "AMD", "family": "cpu",
    "peak": {
        "fp32": {"value": "37.8 GFLOP/s", "status": "measured", "source": "sgemm of one thread"},
        # The runs say so, too: 256 tokens in 48 ms are 134 GFLOP/s.
        "bf16": {"value": "151 GFLOP/s", "status": "derived", "source": "four times FP32: AVX512_BF16, as measured"},
    },
    "hbm": {
        "capacity": {"value": "23 GiB", "status": "measured", "source": "MemTotal"},
        "bandwidth": {"value": "12.4 GB/s", "status": "measured", "source": "streaming read"},
    },
    "scale_up": {"bandwidth": {"value": None, "status": "not-published"}},
}  # fmt: skip
NOTHING = {"value": "0 us", "status": "derived", "source": "one device"}
SYSTEM = {
    "name": "recorded", "title": "The recorded machine", "vendor": "AMD", "device": "./device.yaml", "devices": 1,
    "domain": 1, "host": {"devices": 1},
    "scale_up": {"topology": "none", "layers": 0, "semantics": "load-store", "hop": NOTHING, "endpoint": NOTHING,
                 "overhead": NOTHING},
}  # fmt: skip


def deployed(folder: Path, config: dict[str, Any]) -> Deployment:
    """What was served, its model and machine as files."""
    for name, content in (("device.yaml", DEVICE), ("system.yaml", SYSTEM), ("config.json", config)):
        (folder / name).write_text(json.dumps(content))
    role = Role(name="aggregated", parallel=Parallel(), max_sequences=128, chunk_tokens=2048, memory_fraction=0.5)
    return Deployment(model=str(folder / "config.json"), system=str(folder / "system.yaml"), roles=(role,))


def errors(points: list[Point], *fits: Any) -> list[tuple[Floats, Floats]]:
    """|predicted / measured - 1| of TPOT and TTFT under each calibration."""
    pairs = []
    for calibration in fits:
        tpot, ttft = np.split(np.abs(np.expm1(Played(points, calibration).errors([], np.zeros(0)))), 2)
        pairs.append((tpot, ttft))
    return pairs


# Folder, model, the three points, and the most that the others may be off in the median: TPOT, TTFT. The machine was
# shared (load 3 to 11 on 2 cores, beside each point in points.txt), so points differ by 20 to 40 % among themselves.
RUNS = {
    "llama": ("tiny-llama-25m-iter", LLAMA, ("rinf_c1_i128", "rinf_c16_i128", "rinf_c4_i1024"), 0.45, 0.6),
    "llama long": ("tiny-llama-25m", LLAMA, ("rinf_c1_i128", "rinf_c16_i128", "rinf_c1_i2048"), 0.35, 0.4),
    "moe": ("qwen3moe-120m", MOE, ("rinf_c1_i128", "rinf_c16_i128", "rinf_c1_i1024"), 0.3, 0.25),
}


@pytest.mark.shared
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    "run", ["llama long", *(pytest.param(run, marks=pytest.mark.long) for run in ("llama", "moe"))]
)
def test_recorded_points_from_three_of_them(tmp_path: Path, run: str) -> None:
    folder, config, fitted, tpot_most, ttft_most = RUNS[run]
    if not RECORDED.is_dir():
        pytest.skip("no recorded runs beside the checkout")
    # Prompts with a common prefix are left out: a result does not say what the prefix cache served.
    files = [file for file in sorted((RECORDED / folder).glob("*.json")) if file.stem.endswith("_p0")]
    points = measured_table(files, deployed(tmp_path, config)).points
    mine = [point for point in points if any(name in point.id for name in fitted)]
    others = [point for point in points if point not in mine]
    own = calibrate_own(mine, PRIOR, name="recorded", fitted_on="three points", data_sha256="")
    (tpot_before, ttft_before), (tpot, ttft) = errors(others, PRIOR, own.calibration)
    print(f"\n{folder}: fitted on {len(mine)}, predicted {len(others)}; error of TPOT and TTFT, before -> after")
    for point, *shown in zip(others, tpot_before, tpot, ttft_before, ttft, strict=True):
        before, after, ttft_was, ttft_is = (f"{100 * one:.0f} %" for one in shown)
        print(f"  {point.id:45s} {before:>6} -> {after:>6}   {ttft_was:>6} -> {ttft_is:>6}")
    assert len(mine) == 3
    assert np.median(tpot) < min(tpot_most, float(np.median(tpot_before)))
    assert np.median(ttft) < ttft_most


def test_the_launch_needs_a_calibration(tmp_path: Path) -> None:
    script = ["bash", str(EXAMPLE / "launch.sh"), "no-environment"]
    done = subprocess.run([*script, str(tmp_path), "llama-64m"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "llama-64m.calibration.yaml: run '" in done.stderr
    assert subprocess.run(script, capture_output=True, text=True, check=False).stderr.endswith("RESULTS [MODEL]\n")


def test_the_figures_of_a_launch_beside_its_benchmark(tmp_path: Path) -> None:
    figures = [
        {"name": "tpot_s", "title": "mean TPOT [ms]", "value": 47.0, "low": 26.4, "high": 83.7},
        {"name": "ttft_s", "title": "mean TTFT [ms]", "value": 2110.0, "low": None, "high": None},
        {"name": "effective_share", "title": "within the SLO [%]", "value": 100.0, "low": None, "high": None},
    ]
    launch, result = tmp_path / "launch.json", tmp_path / "result.json"
    files = [{"file": "README.md", "figures": []}, {"file": "bench.sh", "figures": figures}]
    launch.write_text(json.dumps({"files": files}))
    result.write_text(json.dumps({"mean_tpot_ms": 50.0, "mean_ttft_ms": 2000.0}))
    command = [sys.executable, str(EXAMPLE / "compare.py"), str(launch), str(result)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[2:] == [
        "| mean TPOT [ms] | 47 (26.4 to 83.7) | 50 | -6 % |", "| mean TTFT [ms] | 2,110 | 2,000 | +5 % |",
    ]  # fmt: skip


@pytest.mark.engine
def test_an_engine_on_this_machine(tmp_path: Path) -> None:
    """The whole example, one model; what it prints is the result, and that it is there and sane is the test."""
    if not VLLM:
        pytest.skip("TOKENWORKS_VLLM names no environment with vLLM for the CPU")
    done = subprocess.run(
        [str(EXAMPLE / "run.sh"), VLLM, str(tmp_path), "llama-64m"], capture_output=True, text=True, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "6 of 6 points predicted" in done.stdout
    assert (tmp_path / "llama-64m.calibration.yaml").is_file()
    launch = [str(EXAMPLE / "launch.sh"), VLLM, str(tmp_path), "llama-64m"]
    done = subprocess.run(launch, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "| mean TPOT [ms] |" in done.stdout
