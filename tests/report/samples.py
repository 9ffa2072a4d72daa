"""Small results that the tests of the pages read: a plan, a simulation, and names that try to break out of HTML."""

import copy
import functools
from dataclasses import asdict
from typing import Any

import tokenworks
from tokenworks import plan
from tokenworks.simulation.run import simulate
from tokenworks.simulation.source import Source
from tokenworks.specs.compose import machine
from tokenworks.specs.machine import Machine
from tokenworks.specs.result import inputs
from tokenworks.specs.slo import Slo

COMMAND = "tokenworks plan Qwen/Qwen3-30B-A3B --on 2xhgx-h100 --workload chat --no-simulate"

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>--><img src=x onerror=alert(1)>",
    '" onload="alert(1)',
    "{{ 7 * 7 }}{% raw %}{name}",
    "javascript:alert(1)//https://example.org/x.js",
    "\u2028\u202e\x00\ud800 &lt;b&gt;",
)


@functools.cache
def _plan() -> tuple[Any, Machine]:
    result = plan("Qwen/Qwen3-30B-A3B", on="2xhgx-h100", workload="chat", engine="vllm", simulate=False, top=4)
    return result, result.setting.machine


def plan_sample() -> tuple[dict[str, Any], dict[str, Machine]]:
    """A plan of estimates as plain data, and its machine."""
    result, its_machine = _plan()
    return copy.deepcopy(result.plain()), {its_machine.name: its_machine}


@functools.cache
def _simulation() -> Any:
    result, _ = _plan()
    traffic = Source.read(None, "chat", requests=300).traffic(rate=4.0)
    return simulate(result.deployed(), traffic, slo=Slo.parse("ttft=2s,tpot=50ms")).plain()


def simulate_sample() -> tuple[dict[str, Any], dict[str, Machine]]:
    """A short simulation as plain data, and its machine."""
    plain = copy.deepcopy(_simulation())
    return plain, {plain["inputs"]["machine"]: machine("2xhgx-h100")}


@functools.cache
def _planned_on(on: str) -> Any:
    return plan("Qwen/Qwen3-30B-A3B", on=on, workload="chat", engine="vllm", simulate=False, top=2)


def compare_sample() -> tuple[dict[str, Any], dict[str, Machine]]:
    """A comparison of two machines and of one that the model does not fit, as plain data, and the machines."""
    names = ("2xhgx-h100", "hgx-h200:4", "scalex40:8")
    systems = [_system(name) for name in names[:2]]
    systems.append({
        "system": names[2], "title": "scaleX40", "devices": None, "amount": None, "effective_tok_s_per_unit": None,
        "capacity": None, "expected_tok_s_per_unit": None, "availability": None,
        "error": "the model does not fit", "answers": [_empty()],
        "cost": None, "site": None, "break_even": [], "effects": [],
    })  # fmt: skip
    plain = {
        "schema": "tokenworks.compare/2", "kind": "compare",
        "inputs": {**_plan()[0].plain()["inputs"], "model": None, "machine": None},
        "models": [{"model": "Qwen/Qwen3-30B-A3B", "weight": 1.0}],
        "equal": "devices", "unit": "device", "reliability": "published", "tiers": "auto",
        "currency": "USD", "terms": "50 % utilisation",
        "notes": ["A note about this comparison."], "winner": names[0],
        "why": ["The first machine wins, because its memory is faster."], "systems": systems,
        "ratios": [{"system": names[0], "against": names[1], "value": 1.2, "low": 0.9, "high": 1.6}],
        "crossovers": [
            {"axis": "output_tok_s_per_user", "low": 40.0, "high": 41.0, "below": names[0], "above": names[1]},
            {"axis": "context", "low": 9e3, "high": 9e3, "below": names[0], "above": None},
            {"axis": f"price of {names[0]}", "low": 3e5, "high": 3e5, "below": names[0], "above": names[1]},
        ],
        "wall": {"elapsed_s": 1.0},
    }  # fmt: skip
    return copy.deepcopy(plain), {name: _planned_on(name).setting.machine for name in names[:2]}


def _system(name: str) -> dict[str, Any]:
    result = _planned_on(name).plain()
    best = result["deployments"][0]
    devices = best["devices"] + best["idle_devices"]
    rate = best["effective_tok_s_per_device"]
    curve = [
        {
            "output_tok_s_per_user": point["output_tok_s_per_user"],
            "output_tok_s_per_device": point["output_tok_s_per_device"],
            "output_tok_s": devices * point["output_tok_s_per_device"],
            "ttft_slo_s": point["ttft_slo_s"],
            "engine": point["deployment"]["engine"],
            "label": best["label"],
        }
        for point in result["pareto"]
    ]
    money = [1.0, 1.5, 2.5]
    return {
        "system": name, "title": f"Title of {name}", "devices": devices, "amount": devices,
        "effective_tok_s_per_unit": rate, "capacity": 0.99, "expected_tok_s_per_unit": 0.99 * rate, "error": None,
        "availability": {
            "whole": 0.98, "usable_devices": 0.999, "failures_per_year": 12.0,
            "assumed": [{"path": "reliability.repair", "value": "12 h", "why": "nobody published it"}],
        },
        "answers": [{
            **_empty(), "error": None, "best": best, "effective_tok_s": rate * devices, "users": 100.0,
            "availability": {"serves": 0.999, "capacity": 0.99, "cause": "host", "cause_share": 0.6},
            "tiers": {
                "uses": [{"name": "hbm", "capacity_bytes": 1e12, "hit_share": 0.5},
                         {"name": "a tier", "capacity_bytes": 2e12, "hit_share": 0.3}],
                "without_effective_tok_s": 0.5 * rate * devices, "without_meets_slo": False,
            },
            "joules_per_effective_token": 0.5, "curve": curve, "assumed": result["assumed"],
            "parts": [
                {"part": "attention", "device_s_per_token": 2e-4, "bound_by": "hbm"},
                {"part": "no work", "device_s_per_token": 5e-5, "bound_by": None},
            ],
        }],
        "cost": {
            "per_hour": [20.0, 24.0, 40.0], "per_device_hour": money,
            "per_million": {"effective": money, "output": money, "input": money, "cached_input": None},
            "hourly": {"power": [1.0, 1.0, 1.0]}, "capex": {"cards": [1e5, 2e5, 3e5]}, "missing": "", "words": "50 %",
        },
        "site": {
            "boxes": 2, "racks": 1, "boxes_per_rack": 4, "rack_units": 8.0, "rack_power_w": 2e4,
            "rack_weight_kg": None, "power_w": 2e4, "weight_kg": None, "cooling": "air", "cables": None, "links": 16,
            "switches": 1, "endpoints": 16, "boxes_that_fit": None, "limited_by": "power",
        },
        "break_even": [
            {"rival": "an API", "utilisation": 0.5, "price": [1e5, 2e5, 3e5], "per_card": None, "words": "It pays off."}
        ],
        "effects": [{"name": "power", "low_input": "0.09 USD/kWh", "high_input": "0.2", "low": 2e5, "high": 1e5}],
    }  # fmt: skip


def _empty() -> dict[str, Any]:
    """The answer of a machine without a result."""
    return {
        "model": "Qwen/Qwen3-30B-A3B", "weight": 1.0, "error": "the model does not fit",
        "command": "tokenworks plan Qwen/Qwen3-30B-A3B --on hgx-h100", "best": None, "availability": None,
        "tiers": None, "effective_tok_s": None, "users": None,
        "joules_per_effective_token": None, "parts": [], "curve": [], "assumed": [],
    }  # fmt: skip


def sweep_sample() -> tuple[dict[str, Any], dict[str, Machine]]:
    """A sweep over two axes as plain data; a sweep has no machine."""
    points = [
        {
            "workload.isl": isl, "rate": rate, "effective_tok_s_per_device": 100 * rate / (1 + rate) * 1e3 / isl,
            "label": "1x[tp8]", "error": None, "exit_code": 0,
        }
        for isl in (1000, 2000)
        for rate in (1.0, 2.0, 4.0, 8.0)
    ]  # fmt: skip
    curves = [
        {
            "at": {"workload.isl": isl}, "x": [1.0, 2.0, 4.0, 8.0],
            "y": [point["effective_tok_s_per_device"] for point in points if point["workload.isl"] == isl],
            "knee": {"x": 2.0, "y": points[1 + 4 * index]["effective_tok_s_per_device"], "distance": 0.3},
        }
        for index, isl in enumerate((1000, 2000))
    ]  # fmt: skip
    workload = _plan()[0].plain()["inputs"]["workload"]
    plain = {
        "schema": "tokenworks.sweep/1", "kind": "sweep",
        "inputs": {"model": "Qwen/Qwen3-30B-A3B", "machine": "hgx-h100", "workload": workload, "slo": None,
                   "engine": None, "calibration": None, "assumed": None, "sweep": {"title": "Rates and lengths"}},
        "do": "simulate",
        "axes": [
            {"name": "workload.isl", "paths": ["workload.isl"], "units": ["token"], "values": [1000, 2000],
             "scale": "linear"},
            {"name": "rate", "paths": ["rate"], "units": ["1/s"], "values": [1.0, 2.0, 4.0, 8.0], "scale": "log"},
        ],
        "x": "rate", "y": "effective_tok_s_per_device", "in_all": 8, "with_result": 8, "does_not_fit": 0,
        "bad_input": 0, "internal_errors": 0, "curves": curves,
        "effects": [{"path": "rate", "share": 0.6, "direction": "rises"}], "method": "share of the variance",
        "points": points, "wall": {"elapsed_s": 1.0},
    }  # fmt: skip
    return plain, {}


@functools.cache
def _availability() -> dict[str, Any]:
    result = tokenworks.availability("scalex40", seeds=3)
    deployment = {
        "label": "1x[dp40 ep40]", "elastic": True, "spares": 0, "serves": asdict(result.devices),
        "capacity": asdict(result.devices), "effective_tok_s": 2000.0, "lost_tokens": 1e6, "simulated": 1,
        "states": [{"state": "aggregated: 39 of 40 ranks", "capacity": 0.975, "time": 0.002}],
    }  # fmt: skip
    return result.plain() | {"deployment": deployment, "notes": ["a note"]}


def availability_sample() -> tuple[dict[str, Any], dict[str, Machine]]:
    """An availability with a deployment as plain data, and its machine."""
    return copy.deepcopy(_availability()), {"scalex40": machine("scalex40")}


@functools.cache
def _training() -> dict[str, Any]:
    on = ["hgx-h100", "hgx-h20", "pcie-l40s:1"]
    return tokenworks.compare_training("Qwen/Qwen3-8B", on, tokens="20B", batch="64x4096", workers=1).plain()


def compare_training_sample() -> tuple[dict[str, Any], dict[str, Machine]]:
    """A comparison of two machines that train, and of one that the model does not fit, as plain data."""
    return copy.deepcopy(_training()) | {"notes": ["a note"]}, {"hgx-h100": machine("hgx-h100")}


def claims_sample() -> tuple[dict[str, Any], dict[str, Machine]]:
    """Two claims as plain data: one with everything that a claim can have, and one with nothing; no machine."""
    cells: list[dict[str, Any]] = []
    for row in ("one model", "another"):
        cells.append({"row": row, "column": "8", "value": None, "low": None, "high": None, "state": "not served"})
        for size in (16, 24, 32, 40):
            low, value, high = size / 40, size / 30, size / 20
            cells.append({"row": row, "column": str(size), "value": value, "low": low, "high": high, "state": ""})
    full = {
        "id": "C13", "short": {"en": "a gain", "zh": "提升"}, "says": {"en": "It gains much.", "zh": "提升很大。"},
        "system": "scaleX40", "number": 2.0, "relation": "up to", "number_unit": "x", "unit": "x",
        "unknown": "the model",
        "computed": 1.5, "low": 0.7, "high": 2.5, "verdict": "holds if", "because": ["A reason about this."],
        "conditions": ["It holds for one model."], "notes": ["A note about this claim."],
        "depends_on": [
            {"path": "scalex40.device.scale_up.bandwidth", "value": 448e9, "unit": "byte/s", "low": 224e9,
             "high": 896e9, "status": "assumed", "computed_low": 1.2, "computed_high": 1.9, "exact": True},
            {"path": "prices.systems.scalex40", "value": None, "unit": "CNY/system", "low": None, "high": None,
             "status": "missing", "computed_low": None, "computed_high": None, "exact": False},
        ],
        "break_even": [
            {"path": "calibration.skew", "value": 0.3, "unit": "-", "now": 0.1, "verdict_below": "holds if",
             "verdict_above": "does not hold"}
        ],
        "tables": [
            {"title": "Rows of it", "columns": ["model", "tokens [1/s]"], "rows": [["a model", 1.25], ["b", None]]}
        ],
        "maps": [
            {"title": "Its gain", "rows": "model", "columns": "cards", "unit": "", "number": None, "cells": cells}
        ],
        "assumed": [{"path": "scale_up.hop", "value": "0.3 us", "why": "nobody published it"}],
        "command": "tokenworks claims C13",
    }  # fmt: skip
    bare = full | {
        "id": "C22", "number": None, "relation": None, "number_unit": "", "unit": "", "unknown": "",
        "computed": None, "low": None, "high": None,
        "verdict": "cannot be known", "conditions": [], "notes": [], "depends_on": [], "break_even": [],
        "tables": [], "maps": [], "assumed": [], "command": "tokenworks claims C22",
    }  # fmt: skip
    plain = {
        "schema": "tokenworks.claims/1", "kind": "claims", "inputs": inputs(calibration="serving"),
        "mix": {
            "name": "mix", "models": {"deepseek-ai/DeepSeek-R1": 1.0, "Qwen/Qwen3-32B": 3.0}, "machine": "scalex40",
            "main": "deepseek-ai/DeepSeek-R1", "workload": "chat", "workloads": ["chat", "agent"],
            "baselines": ["5xhgx-h20"],
        },
        "reliability": "published", "prices": "catalog",
        "verdicts": {"holds": 0, "holds if": 1, "does not hold": 0, "cannot be known": 1}, "claims": [full, bare],
        "notes": ["28 PFLOP/s published, 20 assumed"], "wall": {"elapsed_s": 1.0},
    }  # fmt: skip
    return copy.deepcopy(plain), {}


FREE = {
    "title",
    "why",
    "value",
    "path",
    "model",
    "source",
    "trace",
    "machine",
    "name",
    "system",
    "against",
    "winner",
    "below",
    "above",
    "part",
    "rival",
    "command",
    "method",
    "error",
    "label",
}
"""Keys whose texts come from a user or a file."""


def with_text(value: Any, text: str) -> Any:
    """Plain data with all free texts replaced: titles, notes, reasons, values, names of models and machines."""
    if isinstance(value, dict):
        return {key: _replaced(key, item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [text if isinstance(item, str) and " " in item else with_text(item, text) for item in value]
    return value


def _replaced(key: str, value: Any, text: str) -> Any:
    if key == "deployment":  # its names are checked when it is read, and it cannot have a lone surrogate
        return {**value, "model": text.encode("utf-8", "replace").decode()}
    if key in FREE and isinstance(value, str):
        return text
    return with_text(value, text)
