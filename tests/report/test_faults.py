"""The faults on the page of a simulation."""

from typing import Any

from tests.report.samples import COMMAND, simulate_sample
from tokenworks.report.content import ChartPart, TablePart, TextPart
from tokenworks.report.simulate import simulate_content

FELT = {
    "from_s": 0.0, "to_s": 60.0, "arrived": 100, "failed": 3, "completed": 90, "median_ttft_ms": 100.0,
    "p99_ttft_ms": None, "median_tpot_ms": 40.0, "p99_tpot_ms": 50.0, "output_tok_s": 900.0, "effective_tok_s": 800.0,
}  # fmt: skip
FAULTS: dict[str, Any] = {
    "faults": [
        {
            "part": "device 7", "at_s": 600.0, "lasts_s": 180.0, "permanent": False, "devices": 1, "instances": [0],
            "ranks": 40, "lost_bandwidth_share": 0.25, "noticed_s": 630.0, "down_s": 331.0, "whole_s": 931.0,
            "lost_requests": 50, "retries": 40, "lost_output_tokens": 1234, "lost_kv_tokens": 9999, "before": FELT,
            "during": FELT, "after": FELT,
        }
    ],
    "lost_requests": 50, "retries": 40, "lost_output_tokens": 1234, "lost_kv_tokens": 9999, "effective_tokens": 900,
    "healthy_effective_tokens": 1000, "lost_effective_share": 0.1,
    "series": {"window_s": 60.0, "effective_tok_s": [800.0, 0.0], "healthy_effective_tok_s": [800.0],
               "p99_ttft_ms": [100.0, None], "healthy_p99_ttft_ms": [100.0]},
}  # fmt: skip


def test_faults_have_a_section() -> None:
    plain, machines = simulate_sample()
    for lang in ("en", "zh"):
        sections = simulate_content(plain | {"faults": FAULTS}, machines, COMMAND, lang).sections
        text, table, tokens, ttft, felt = next(section.parts for section in sections if section.name == "faults")
        assert isinstance(text, TextPart)
        assert isinstance(table, TablePart)
        assert isinstance(felt, TablePart)
        assert isinstance(tokens, ChartPart)
        assert isinstance(ttft, ChartPart)
        assert "10 %" in text.text
        assert table.rows == (("device 7", "600", "180", "40", "25 %", "331", "331", "50", "40", "1,234"),)
        assert felt.rows[0][2:6] == ("100", "3", "100", "-")
        assert len(felt.rows) == 3
        assert tokens.table is not None
        assert tokens.table.rows == (("0", "800", "800"), ("60", "0", "-"))
    assert all(section.name != "faults" for section in simulate_content(plain, machines, COMMAND, "en").sections)
