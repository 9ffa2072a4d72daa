"""Play a trace through Dynamo's offline replay.

Usage: play_dynamo.py TRACE PROFILE.npz ENGINE.json WORKERS OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dynamo.replay import run_trace_replay  # type: ignore[import-not-found]

trace, profile, engine, workers, out = sys.argv[1:]
timing = {"type": "external", "provider": "dynamo_profile", "config": {"path": profile}}
report = run_trace_replay(
    trace, extra_engine_args={"engine": {**json.loads(Path(engine).read_text()), "timing_model": timing}},
    num_workers=int(workers), router_mode="round_robin", trace_format="mooncake", trace_block_size=512,
    capture_per_request=True,
)  # fmt: skip
rows = sorted(report.per_request, key=lambda row: row["arrival_time_ms"])
columns = ("ttft_ms", "last_token_ms", "first_token_ms", "input_length", "output_length", "reused_input_tokens")
Path(out).write_text(json.dumps([{name: row[name] for name in columns} for row in rows]))
