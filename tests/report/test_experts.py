"""The experts on the page of a simulation."""

from tests.report.samples import COMMAND, simulate_sample
from tokenworks.report.content import ChartPart, TablePart
from tokenworks.report.simulate import simulate_content

EXPERTS = {
    "load": "alpha 0.8, no drift, seed 0",
    "roles": [
        {
            "role": "aggregated", "ep": 8, "redundant_experts": 0, "eplb": {"every_steps": 500}, "balance": 1.2,
            "worst_balance": 4.0, "plain_balance": 2.0, "touched": 15.5, "routed_tokens": 64.0, "rebalances": 3,
            "moved_copies": 10, "moved_inside_bytes": 2e9, "moved_between_bytes": 1e9, "pause_s": 3.1,
            "levels": [1.0, 2.0],
            "series": {"at_s": [0.0, 5.0], "balance": [2.0, 1.1], "worst_balance": [4.0, 1.3],
                       "plain_balance": [2.0, 2.0]},
        }
    ],
}  # fmt: skip


def test_experts_have_a_section() -> None:
    plain, machines = simulate_sample()
    for lang in ("en", "zh"):
        sections = simulate_content(plain | {"experts": EXPERTS}, machines, COMMAND, lang).sections
        table, chart = next(section.parts for section in sections if section.name == "experts")
        assert isinstance(table, TablePart)
        assert isinstance(chart, ChartPart)
        assert table.rows[0][1:] == ("1.2", "4", "2", "15.5", "3", "2", "1", "3.1")
        assert chart.table is not None
        assert chart.table.rows == (("0", "2", "2"), ("5", "1.1", "2"))
    assert all(section.name != "experts" for section in simulate_content(plain, machines, COMMAND, "en").sections)
