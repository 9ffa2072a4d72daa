"""One run of NVIDIA's offline replay, in its own environment: a job as JSON on stdin, the outcome as JSON in a file.

Nothing of tokenworks is imported here. The job names the trace, the engine, the workers and the router.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

TIMES = ("arrival_time_ms", "first_admit_ms", "first_token_ms", "terminal_time_ms")
SIZES = ("input_length", "output_length")
LOAD = ("running_requests", "waiting_requests")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Replay twice: watched, for what happens, and bare, for what it costs (`cpu_s`: read the trace and play it)."""
    replay = importlib.import_module("dynamo.replay")
    options = {
        "extra_engine_args": {"engine": job["engine"]},
        "trace_block_size": job["hash_block_tokens"],
        "num_workers": job["workers"],
        "router_mode": job["router"],
    }
    watch = replay.TelemetryOptions(sample_interval_ms=job["every_ms"])
    seen = replay.run_trace_replay(job["trace"], **options, capture_per_request=True, telemetry_options=watch)
    start = time.process_time()
    replay.run_trace_replay(job["trace"], **options)
    cpu_s = time.process_time() - start
    rows = seen.per_request
    samples = seen.telemetry.samples
    return {
        "version": version("ai-dynamo-runtime"),
        "times_ms": [[row[name] for name in TIMES] for row in rows],
        "sizes": [[row[name] for name in SIZES] for row in rows],
        "readmissions": [row["readmission_count"] for row in rows],
        # The request's own figure is of its last admission; vLLM, and we, count the first.
        "hit_tokens": [row["admission_history"][0]["reused_input_tokens"] for row in rows],
        "completed": [row["terminal_status"] == "completed" for row in rows],
        "load": [[sum(rank[name] for rank in s["decode_scheduler_metrics"]) for name in LOAD] for s in samples],
        "mean_itl_ms": seen.summary["mean_itl_ms"],
        "hit_share_with_readmissions": seen.summary["prefix_cache_reused_ratio"],
        "cpu_s": cpu_s,
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(run(json.load(sys.stdin))))
