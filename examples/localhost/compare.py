"""Print the figures that `tokenworks emit -o json` predicts beside the result of the emitted bench.sh.

compare.py LAUNCH.json RESULT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# Figure of emit: key of the result of `vllm bench serve`.
MEASURED = {
    "ttft_s": "mean_ttft_ms", "ttft_slo_s": "p99_ttft_ms", "tpot_s": "mean_tpot_ms", "tpot_slo_s": "p99_tpot_ms",
    "requests_s": "request_throughput", "output_tok_s": "output_throughput",
}  # fmt: skip


def shown(value: float) -> str:
    """A number as text: whole from 100 on, else three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(launch: dict[str, Any], result: dict[str, Any]) -> str:
    """The figures of bench.sh, predicted and measured, as a Markdown table.

    Parameters
    ----------
    launch : what `tokenworks emit -o json` printed
    result : result file of the emitted bench.sh
    """
    rows = ["| figure | predicted (80 % interval) | measured | error |", "|---|---|---|---|"]
    for file in launch["files"]:
        for figure in file["figures"] if file["file"] == "bench.sh" else ():
            if figure["name"] not in MEASURED:
                continue
            predicted, measured = figure["value"], result[MEASURED[figure["name"]]]
            interval = f" ({shown(figure['low'])} to {shown(figure['high'])})" if figure["low"] else ""
            error = 100 * (predicted / measured - 1)
            rows.append(f"| {figure['title']} | {shown(predicted)}{interval} | {shown(measured)} | {error:+.0f} % |")
    return "\n".join(rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(table(*(json.loads(Path(name).read_text()) for name in sys.argv[1:])))
