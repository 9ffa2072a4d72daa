"""Made-up training runs in the forms that `validate` and `calibrate` read."""

from __future__ import annotations

from pathlib import Path

HEADER = (
    "point_id", "model", "hardware", "n_devices", "parallelism", "isl", "concurrency_or_batch", "metric", "value",
    "weights_dtype", "engine", "engine_version", "source_group", "note",
)  # fmt: skip
RUN = {
    "point_id": "run", "model": "LLAMA3_8B", "hardware": "H100", "n_devices": "8",
    "parallelism": "tp=1;pp=1;cp=1;fsdp=8", "isl": "8192", "concurrency_or_batch": "GBS=128;MBS=1",
    "metric": "train_tok_s_per_gpu", "value": "14000",
    "weights_dtype": "FP8-CS", "engine": "megatron-bridge", "engine_version": "26.04", "source_group": "mb", "note": "",
}  # fmt: skip
"""One run with the throughput of a published one."""

VTRAIN = (
    "# GPUs,global batch,micro batch,hidden size,attention heads,# layers,sequence length,tensor parallelism,"
    "data parallelism,pipeline parallelism,iteration time (ms)"
)


def runs(folder: Path, *rows: dict[str, str], name: str = "runs.csv") -> Path:
    """A CSV of runs in the long form; each row changes cells of `RUN`."""
    path = folder / name
    lines = [",".join(HEADER)]
    lines += [",".join({**RUN, **row}[column] for column in HEADER) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def iterations(folder: Path, *rows: str) -> Path:
    """A CSV in the form of vTrain."""
    path = folder / "vtrain.csv"
    path.write_text("\n".join([VTRAIN, *rows]) + "\n", encoding="utf-8")
    return path
