"""Rows in the form of measured points, made here."""

from pathlib import Path

HEADER = (
    "point_id,source_group,model,weights,device,n_devices,engine,spec_decode,mode,devices,tp,dp,pp,ep,prefill_workers,"
    "prefill_devices,prefill_tp,prefill_dp,prefill_pp,prefill_ep,decode_workers,decode_devices,decode_tp,decode_dp,"
    "decode_pp,decode_ep,load,concurrency,request_rate,n_requests,isl,osl,isl_mean,osl_mean,total_tok_s_per_gpu,"
    "tpot_ms_median,ttft_ms_median,note"
)
ROW = dict.fromkeys(HEADER.split(","), "") | {
    "point_id": "a", "model": "meta-llama/Llama-3.1-8B", "weights": "bf16", "device": "h100", "n_devices": "1",
    "engine": "vllm", "spec_decode": "none", "mode": "agg", "devices": "1", "tp": "1", "dp": "1", "pp": "1", "ep": "1",
    "load": "closed", "concurrency": "4", "isl": "500", "osl": "50", "isl_mean": "450", "osl_mean": "45",
    "tpot_ms_median": "8", "ttft_ms_median": "40", "total_tok_s_per_gpu": "4500",
}  # fmt: skip
DISAGG = {
    "model": "deepseek-ai/DeepSeek-R1", "weights": "fp4", "device": "b200", "n_devices": "16", "mode": "disagg",
    "engine": "sglang", "spec_decode": "mtp", "note": "little_ratio=0.42", "concurrency": "8",
} | {
    f"{role}_{name}": value
    for role in ("prefill", "decode")
    for name, value in {"workers": "1", "devices": "8", "tp": "8", "dp": "1", "pp": "1", "ep": "1"}.items()
} | dict.fromkeys(("devices", "tp", "dp", "pp", "ep"), "")  # fmt: skip


def table(path: Path, *rows: dict[str, str]) -> Path:
    """A file of rows, each a change of `ROW`."""
    lines = [",".join({**ROW, "point_id": f"p{i}", **row}.values()) for i, row in enumerate(rows)]
    file = path / "points.csv"
    file.write_text("\n".join([HEADER, *lines]) + "\n")
    return file
