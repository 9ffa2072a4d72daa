"""The Python functions: names, dicts and typed objects mean the same; a wrong one is a `SpecError`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

import tokenworks
from tokenworks import SpecError
from tokenworks.specs import compose
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.machine_file import machine_file
from tokenworks.specs.provenance import file_form

MODEL = "meta-llama/Llama-3.1-8B"
ON = "hgx-h100:2"
LOAD: dict[str, Any] = {"isl": 1000, "osl": 100, "slo": {"ttft": "2s", "tpot": "50ms"}, "top": 2, "engine": "vllm"}


@pytest.fixture(scope="module")
def planned() -> Any:
    return tokenworks.plan(MODEL, ON, **LOAD)


def body(result: Any) -> Any:
    """The plain form, but for times and names."""
    plain = {**result.plain(), "wall": {}}
    return yaml.safe_load(yaml.safe_dump(plain).replace("given by the user", "--assume"))


def test_names_dicts_and_objects_mean_the_same(planned: Any) -> None:
    objects = tokenworks.plan(
        tokenworks.load_model(MODEL),
        tokenworks.load_machine(ON),
        workload=tokenworks.Workload(name="isl 1000, osl 100", isl=1000, osl=100),
        slo=tokenworks.Slo.parse("ttft=2s,tpot=50ms"),
        calibration=load_calibration(),
        top=2,
        engine="vllm",
    )
    dicts = tokenworks.plan(
        MODEL, ON, workload={"name": "isl 1000, osl 100", "isl": 1000, "osl": 100}, slo="ttft=2s,tpot=50ms",
        top=2, engine="vllm",
    )  # fmt: skip
    assert body(objects) == body(dicts) == body(planned)


def test_a_machine_can_be_a_dict() -> None:
    parts = yaml.safe_load(machine_file(compose.parts("hgx-h100")))
    by_name, by_dict = (tokenworks.fit(MODEL, on).to_records() for on in ("hgx-h100", parts))
    assert by_name == by_dict


def test_a_plan_is_simulated_on_its_own_model_and_machine() -> None:
    machine = tokenworks.load_machine(ON, assume={"device.hbm.bandwidth": "1.5 TB/s"})
    slow = tokenworks.plan(MODEL, machine, **LOAD)
    how: dict[str, Any] = {"workload": {"isl": 1000, "osl": 100}, "rate": 5, "requests": 300}
    run = tokenworks.simulate(slow, **how)
    again = tokenworks.simulate(slow.best.deployment, **how, assume={"device.hbm.bandwidth": "1.5 TB/s"})
    assert run.metrics == again.metrics
    assert run.metrics.mean_tpot_ms > tokenworks.simulate(slow.best.deployment, **how).metrics.mean_tpot_ms
    assert "device.hbm.bandwidth" in {item["path"] for item in run.plain()["assumed"]}


def test_numbers_of_every_area_are_put_in_place_and_named() -> None:
    numbers = {"engine.host_step": "9 ms", "calibration.skew": 0.9, "workload.isl_cv": 0.5, "scale_up.hop": "1 us"}
    changed = tokenworks.plan(MODEL, ON, **LOAD, assume=numbers)
    setting = changed.setting
    assert setting.engine.host_step.value == pytest.approx(9e-3)
    assert setting.workload.isl_cv == 0.5
    assert {"engine.host_step", "calibration.skew", "workload.isl_cv", "scale_up.hop"} <= {
        item.path for item in changed.assumed
    }
    assert {item["path"] for item in changed.plain()["inputs"]["assumed"]} == set(numbers)


def test_a_calibration_that_is_rewritten_is_read_anew(tmp_path: Path) -> None:
    file, data = tmp_path / "mine.yaml", file_form(load_calibration("datasheet"))
    times = []
    for util in (0.9, 0.3):
        data["families"]["nvidia-hopper"]["hbm"] = {"value": util, "status": "assumed", "source": "a test"}
        file.write_text(yaml.safe_dump(data))
        times.append(tokenworks.estimate(MODEL, "hgx-h100", deploy="tp=1", calibration=str(file)).steps[1].seconds)
    assert times[1] > 1.5 * times[0]


def test_results_are_short_and_become_records(planned: Any) -> None:
    run = tokenworks.simulate(planned, workload={"isl": 1000, "osl": 100}, rate=5, requests=300)
    held = tokenworks.capacity(planned, workload={"isl": 1000, "osl": 100}, requests=300, slo={"tpot": "50ms"})
    results = [
        planned, run, held, tokenworks.fit(MODEL, "hgx-h100"), tokenworks.load_machine("scalex40"),
        tokenworks.estimate(MODEL, "hgx-h100", deploy="tp=1"), tokenworks.load_model(MODEL), run.traffic.trace,
    ]  # fmt: skip
    for result in results:
        assert len(repr(result)) < 400, result
        records = result.to_records()
        assert records
        assert all(not isinstance(value, (dict, list, tuple)) for record in records for value in record.values())
        assert len({tuple(record) for record in records}) == 1
        assert "<table>" in result._repr_html_()
    assert planned.to_records()[0]["tpot_s_low"] < planned.best.tpot_s < planned.to_records()[0]["tpot_s_high"]


def test_a_notebook_escapes_what_it_shows() -> None:
    named = dataclasses.replace(tokenworks.load_machine("hgx-h100"), name="<script>x</script>")
    assert "<script>" not in named._repr_html_()


WRONG: list[tuple[str, list[Any], dict[str, Any], str]] = [
    (
        "plan",
        [MODEL, "hgx-h100"],
        {"isl": 1, "osl": 1, "slow": ""},
        "tokenworks.plan: unknown argument 'slow'; did you",
    ),
    ("plan", [MODEL], {}, "missing a required argument: 'on'"),
    ("plan", [MODEL, 3], {}, "tokenworks.plan: on: 3 is of type int; give str, Path, a dict, System or Machine"),
    ("plan", [MODEL, "hgx-h100"], {"isl": "1k", "osl": 1}, "tokenworks.plan: isl: '1k' is not a known value"),
    ("plan", [MODEL, "hgx-h100"], {"isl": True, "osl": 1}, "isl: True is of type bool"),
    ("plan", [MODEL, "hgx-h100"], {"isl": 1, "osl": 1, "engine": "vlm"}, "'vllm', 'sglang'"),
    ("plan", [MODEL, "hgx-h100"], {"isl": 1, "osl": 1, "slo": {"tttf": "2s"}}, "slo: cannot read 'tttf=2s'"),
    ("plan", [MODEL, "hgx-h100"], {"isl": 1, "osl": 1, "slo": {"ttft": 2}}, 'write it like "ttft=2s"'),
    ("plan", [MODEL, "hgx-h100"], {"workload": {"isl": 1}}, "workload: osl: is missing"),
    ("plan", [MODEL, "hgx-h100"], {"workload": "chit"}, "unknown workload 'chit'"),
    ("plan", [MODEL, "hgx-h100"], {"isl": 1, "osl": 1, "assume": {"scale_up.hopp": 1}}, "did you mean scale_up.hop"),
    ("plan", [MODEL, "hgx-h100"], {"isl": 1, "osl": 1, "assume": {"engine.hosts": 1}}, "engine.hosts: no such path"),
    ("plan", [MODEL, "hgx-h100"], {"isl": 1, "osl": 1, "assume": {"workload.islv": 1}}, "did you mean workload.isl"),
    ("plan", [MODEL, "hgx-h100"], {"isl": 1, "osl": 1, "calibration": {"name": "x"}}, "calibration: title: is missing"),
    ("plan", [MODEL, {"name": "x"}], {"isl": 1, "osl": 1}, "machine: device: is missing"),
    ("plan", [{"model_type": "llama"}, "hgx-h100"], {"isl": 1, "osl": 1}, "hidden_size: the field is missing"),
    ("fit", [MODEL, "hgx-h100"], {"kv": "bf16"}, "tokenworks.fit: unknown argument 'kv'"),
    ("fit", [MODEL, "hgx-h100"], {"devices": 9}, "9 of 8 devices"),
    ("estimate", [MODEL, "hgx-h100"], {"deploy": "tpp=2"}, "did you mean tp="),
    ("estimate", [MODEL, "hgx-h100"], {"deploys": "tp=2"}, 'did you mean "deploy"?'),
    (
        "simulate",
        [{"model": MODEL, "system": "hgx-h100"}],
        {"workload": "chat", "rate": 1},
        "deployment: roles: is missing",
    ),
    ("simulate", [{"roles": []}], {"workload": "chat", "rat": 1}, "tokenworks.simulate: unknown argument 'rat'"),
    ("simulate", ["none.yaml"], {"workload": "chat"}, "none.yaml: no such file"),
    ("emit", ["none.yaml"], {}, "none.yaml: no such file"),
    ("emit", ["none.yaml"], {"host": "a"}, 'did you mean "hosts"?'),
    ("capacity", ["none.yaml"], {"user": True}, 'did you mean "users"?'),
    ("validate", ["none.csv"], {}, "none.csv"),
    ("validate", ["none.csv"], {"calibrations": "x"}, 'did you mean "calibration"?'),
    ("load_model", ["no/such"], {}, "unknown model 'no/such'"),
    ("load_model", [3], {}, "tokenworks.load_model: model: 3 is of type int"),
    ("load_machine", ["h200"], {}, "is a device, not a machine"),
    ("load_machine", ["hgx-h200"], {"assumed": {}}, 'did you mean "assume"?'),
    ("load_trace", ["none.jsonl"], {}, "none.jsonl"),
    ("load_trace", ["none.jsonl"], {"formm": "azure"}, 'did you mean "form"?'),
    ("Workload", [], {"name": "x", "isl": 0, "osl": 1}, "Workload: isl: 0"),
    ("Workload", [], {"name": "x", "isl": 1, "osl": 1, "hits": 1}, "Workload: hits: unknown key"),
    (
        "Deployment",
        [],
        {"model": "m", "system": "s", "roles": [{"nam": "x"}]},
        "roles.0.nam: unknown key; did you mean",
    ),
]


@pytest.mark.parametrize(("function", "arguments", "named", "words"), WRONG)
def test_a_wrong_argument_is_said_in_words(
    function: str, arguments: list[Any], named: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError) as error:
        getattr(tokenworks, function)(*arguments, **named)
    assert words in str(error.value)
