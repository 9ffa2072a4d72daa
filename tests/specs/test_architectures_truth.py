"""Every config that transformers wrote against `truth.csv`: parameters by instantiation, KV elements of a real cache.

The data is not part of the repository: `../shared/architectures`, 243 configs of 154 types as transformers 5.24 writes
them.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path

import pytest

from tokenworks.errors import SpecError
from tokenworks.specs.hf import load_model
from tokenworks.specs.model import Model, Scan, active_parameters, parameters

SHARED = Path(__file__).parents[2] / "../shared/architectures"
CASES = Path(__file__).parents[2] / "../shared/cases/configs"
pytestmark = pytest.mark.shared

# Configs that say too little, or that are no autoregressive decoder. transformers cannot instantiate them either.
REFUSED = {
    "deepseek_ocr2": "the field is missing",
    "diffusion_gemma": "diffusion",
    "dots1": "the field is missing",
    "lfm2_moe": "the field is missing",
    "qwen4_exp": "the field is missing",
    "qwen4_exp_text": "the field is missing",
}
# transformers repeats the 8 KV heads of Falcon-40B for all 128 before it caches them. Engines keep 8.
REPEATED_KV = {"falcon--40b"}
# transformers keeps the whole prompt and a window of the answer in tensors of its own; here all of it is kept.
OWN_CACHE = {"unlimited_ocr"}
# The truth counts the experts that only tokens of images visit as active, all of them.
VISION_EXPERTS = {"ernie4_5_vl_moe"}
TAPS = (2, 3, 4, 7)


def rows() -> list[dict[str, str]]:
    if not (SHARED / "truth.csv").exists():
        return []
    with (SHARED / "truth.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def truth() -> list[dict[str, str]]:
    if not rows():
        pytest.skip(f"no truth beside this checkout ({SHARED})")
    return rows()


@functools.cache
def load(name: str) -> Model:
    return load_model(str(SHARED / "configs" / f"{name}.json"))


def elements(model: Model, *, windowed: bool) -> float:
    """Cache elements of a token that grows with the context, or of all windows together."""

    def of(scan: Scan) -> float:
        return scan.elements * (scan.keeps or 0) if windowed else scan.elements / scan.stride

    return sum(
        block.count * of(scan)
        for block in model.blocks
        for scan in block.scans
        if (scan.keeps is not None) == windowed and scan.name != "indexer"
    )


def test_nearly_all_load_and_each_other_one_says_why(truth: list[dict[str, str]]) -> None:
    refused = {}
    for row in truth:
        try:
            load(row["id"])
        except SpecError as error:
            refused[row["id"]] = str(error)
    assert refused.keys() == REFUSED.keys()
    assert all(REFUSED[name] in text for name, text in refused.items())
    assert len(refused) <= 0.03 * len(truth)


def test_parameters_are_right_within_a_thousandth(truth: list[dict[str, str]]) -> None:
    wrong = []
    for row in truth:
        if row["id"] in REFUSED or not row["total_params"]:
            continue
        model = load(row["id"])
        every = parameters(model) + (model.vision_parameters or 0)
        active = 0.0 if row["id"] in VISION_EXPERTS else active_parameters(model) / int(row["active_params"]) - 1
        if abs(every / int(row["total_params"]) - 1) > 1e-3 or abs(active) > 1e-3:
            wrong.append((row["id"], every, row["total_params"]))
        if row["layers"] and int(row["layers"]) != model.layers:
            wrong.append((row["id"], model.layers, row["layers"]))
    assert not wrong


def test_cache_and_windows_are_exact(truth: list[dict[str, str]]) -> None:
    """MiMo-V2 keeps `sliding_window` + 1 tokens in transformers, and its config as transformers writes it says so."""
    for row in truth:
        if row["id"] in REFUSED or not row["kv_source"] or row["id"] in REPEATED_KV | OWN_CACHE:
            continue
        model = load(row["id"])
        assert elements(model, windowed=False) == float(row["kv_growth_elements"] or 0), row["id"]
        assert elements(model, windowed=True) == float(row["kv_window_elements"] or 0), row["id"]


def test_recurrent_states_are_exact(truth: list[dict[str, str]]) -> None:
    """transformers keeps as many past inputs of a convolution as it has taps. Engines keep one less, as here."""
    for row in truth:
        if row["id"] in REFUSED or row["kv_source"] != "cache":
            continue
        state = sum(block.count * block.state.bytes for block in load(row["id"]).blocks if block.state)
        recurrent, conv = float(row["recurrent_elements"] or 0), float(row["conv_elements"] or 0)
        # ZAYA's two convolutions keep one input each, which is what transformers keeps, too.
        kept = {conv * (taps - 1) / taps for taps in TAPS} | {conv}
        assert any(state == pytest.approx(recurrent * size + 2 * each) for size in (2, 4) for each in kept), row["id"]


def test_published_configs_that_failed_once_load() -> None:
    if not CASES.exists():
        pytest.skip(f"no cases beside this checkout ({CASES})")
    for path in sorted(CASES.glob("*.json")):
        model = load_model(str(path))
        assert parameters(model) > 1e9
        assert sum(note.startswith("not used") for note in model.notes) <= 1
