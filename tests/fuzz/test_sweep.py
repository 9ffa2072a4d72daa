"""Damaged sweep files: a sweep that could run, or words about the fault, soon, and nothing else."""

from __future__ import annotations

import contextlib
from pathlib import Path

import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.damage import damaged_yaml, tries
from tests.fuzz.test_commands import bounds
from tests.ledger.sweep_cases import ESTIMATE, PLAN, SIMULATE
from tokenworks import ingest
from tokenworks.errors import SpecError
from tokenworks.ledger.sweep import prepare

RANGES = {
    "batch": {"from": 1, "to": 64, "scale": "log"},
    "machine.device.hbm.bandwidth": {"from": "2 TB/s", "to": "4 TB/s"},
}
TOGETHER = {"size": {"together": {"machine.domain": [1, 2], "machine.devices": [2, 4]}, "scale": "log"}}
FILES = [
    ESTIMATE,
    {**SIMULATE, "over": {"rate": {"from": 1, "to": 9, "steps": 3}}, "show": {"x": "rate", "y": "duration"}},
    {**PLAN, "over": TOGETHER},
    {**ESTIMATE, "over": RANGES, "latin": {"points": 5, "seed": 1}},
]


def test_damaged_sweeps(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"

    @tries(60)
    @given(st.one_of([damaged_yaml(yaml.safe_dump(data, sort_keys=False)) for data in FILES]))
    def check(text: str) -> None:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        with bounds(), contextlib.suppress(SpecError):
            prepare(path, ingest.load_trace, "0", tmp_path / "out.parquet")

    check()
    assert [one.name for one in tmp_path.iterdir()] == ["sweep.yaml"]
