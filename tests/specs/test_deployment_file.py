"""SLOs, workloads and the file of deployments: what they read, and how they refuse."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

import tokenworks
from tests.planning.settings import SMALL_MOE
from tokenworks.errors import SpecError
from tokenworks.specs.deployment import SCHEMA, Deployment, Parallel, Role
from tokenworks.specs.deployment_file import Entry, document, load_deployments, pick_deployment
from tokenworks.specs.given import Given
from tokenworks.specs.load import validate
from tokenworks.specs.slo import Bound, RequestClass, Slo
from tokenworks.specs.workload import Workload


def test_a_class_of_requests_is_read() -> None:
    assert RequestClass.parse("batch:priority=1,ttft=60s") == RequestClass("batch", 1, Slo(Bound(60.0)))
    assert RequestClass.parse("chat: tpot=50ms") == RequestClass("chat", 0, Slo(None, Bound(0.05)))
    assert RequestClass.parse("rest") == RequestClass("rest")


@pytest.mark.parametrize("text", ["", ":", "a b:priority=1", "x:priority=-1", "x:priority=1,priority=2", "x:ttft",
                                  "x:priority=8", "x:priority=1.5"])  # fmt: skip
def test_a_garbled_class_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--class"):
        RequestClass.parse(text)


CHAT = {"name": "chat", "share": 0.5}


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ([CHAT, {"name": "batch", "share": 0.4}], "shares of classes add up to 0.9, not 1"),
        ([CHAT, CHAT], "two classes have the same name"),
        ([CHAT, {"name": "batch", "share": 0.5, "slo": "soon"}], "classes batch slo: cannot read 'soon'"),
        ([CHAT, {"name": "batch", "share": 0.5, "priority": 8}], "less than 8"),
        ([CHAT, {"name": "a batch", "share": 0.5}], "should match pattern"),
        ([{"name": f"c{k}", "share": 1 / 9} for k in range(9)], "at most 8 items"),
    ],
)
def test_wrong_classes_of_a_workload(classes: list[dict[str, object]], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        validate(Workload, {"name": "w", "isl": 1, "osl": 1, "classes": classes}, "w.yaml")


@pytest.mark.parametrize(
    ("text", "slo"),
    [
        ("", Slo()),
        ("ttft=2s,tpot=50ms", Slo(Bound(2.0), Bound(0.05))),
        ("ttft.p50=1s", Slo(Bound(1.0, 50.0))),
        ("tpot.p99.9=30 ms", Slo(None, Bound(0.03, 99.9))),
        (" tpot=0.05s , ttft=500ms ", Slo(Bound(0.5), Bound(0.05))),
    ],
)
def test_an_slo_is_read(text: str, slo: Slo) -> None:
    assert Slo.parse(text) == slo
    assert Slo.parse(str(slo)) == slo


@pytest.mark.parametrize(
    "text", ["ttft", "ttft=", "ttft=2s;tpot=3s", "ttft=-1s", "ttft.p100=1s", "ttft.p0=1s", "2s", ","]
)
def test_a_garbled_slo_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--slo"):
        Slo.parse(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"isl": 0}, {"isl": -5}, {"isl": float("nan")}, {"isl": float("inf")}, {"osl": 0}, {"hit_share": 1.0},
        {"hit_share": 0.5}, {"isl_cv": -1}, {"think_time": float("inf")}, {"rate": 1, "concurrency": 1},
        {"slo": "soon"}, {"unknown": 1}, {"isl_cv": 1e200}, {"osl_cv": 101}, {"rate": 1e13}, {"concurrency": 1e300},
        {"osl": 1e10}, {"think_time": 1e300},
    ],
)  # fmt: skip
def test_a_wrong_workload_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Workload.model_validate({"name": "x", "isl": 10, "osl": 10} | changes)


ONE = Deployment(
    model=SMALL_MOE, system="hgx-h100", roles=(Role(name="aggregated", parallel=Parallel(tp=4, ep=4), replicas=2),)
)
TWO = Deployment(
    model=SMALL_MOE,
    system="hgx-h100",
    engine="sglang",
    roles=(
        Role(name="prefill", parallel=Parallel(tp=2, expert_tp=2), replicas=2),
        Role(name="decode", parallel=Parallel(dp=4, ep=4), max_sequences=64),
    ),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ranked.yaml"
    entries = [Entry(rank=2, deployment=TWO), Entry(rank=1, deployment=ONE, expected={"tpot_s": 0.03})]
    path.write_text(yaml.safe_dump(document(entries, {"model": SMALL_MOE})))
    return path


def test_a_file_is_read_as_it_was_written_best_first(file: Path) -> None:
    assert [one.deployment for one in load_deployments(file)] == [ONE, TWO]
    assert pick_deployment(file).deployment == ONE
    assert pick_deployment(file, 2).deployment == TWO
    assert str(ONE) == "2x[tp4 ep4]"
    assert str(TWO) == "2xprefill[tp2 etp2] + 1xdecode[dp4 ep4]"
    assert TWO.devices == 8


@pytest.mark.parametrize("pick", [0, 3, -1])
def test_a_pick_out_of_range_says_what_there_is(file: Path, pick: int) -> None:
    with pytest.raises(SpecError, match=r"--pick: .* out of range; .* holds 1 to 2"):
        pick_deployment(file, pick)


def test_a_number_after_the_file_says_pick(file: Path) -> None:
    with pytest.raises(SpecError, match=r"no such file; write .*\.yaml --pick 2$"):
        load_deployments(f"{file}:2")
    with pytest.raises(SpecError, match=r"no such file$"):
        load_deployments(f"{file}.other:2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("schema", "tokenworks.deployment/9"), "write the file again"),
        (("schema", None), "schema"),
        (("deployments", []), "deployments"),
        (("extra", 1), "unknown key"),
    ],
)
def test_another_schema_or_shape_is_refused(file: Path, change: tuple[str, object], words: str) -> None:
    data = yaml.safe_load(file.read_text())
    data[change[0]] = change[1]
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(SpecError, match=words) as caught:
        load_deployments(file)
    assert str(file) in str(caught.value)


def test_a_wrong_value_is_named_with_its_path(file: Path) -> None:
    file.write_text(file.read_text().replace("tp: 4", "tp: 0"))
    with pytest.raises(SpecError, match=r"ranked.yaml: deployments\.\d\.deployment\.roles\.0\.parallel\.tp: 0"):
        load_deployments(file)


def test_assumptions_travel_with_the_file(file: Path) -> None:
    assert pick_deployment(file).given == ()
    data = yaml.safe_load(file.read_text())
    data["inputs"]["assumed"] = [{"path": "scale_up.hop", "value": "0.3 us", "why": "--assume"}]
    file.write_text(yaml.safe_dump(data))
    assert pick_deployment(file).given == (Given(path="scale_up.hop", value="0.3 us", why="--assume"),)
    data["inputs"]["assumed"] = [{"path": "scale_up.hop"}]
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(SpecError, match=r"inputs: assumed\.0\.value"):
        load_deployments(file)


def test_ranks_may_be_left_out(tmp_path: Path) -> None:
    path, roles = tmp_path / "mine.yaml", [{"parallel": {"tp": 4, "ep": 4}, "replicas": 2}]
    one = {"model": SMALL_MOE, "system": "hgx-h100", "roles": roles}
    path.write_text(yaml.safe_dump({"schema": SCHEMA, "deployments": [{"deployment": one}]}))
    assert pick_deployment(path).deployment.roles[0].replicas == 2
    path.write_text(yaml.safe_dump(one))
    assert pick_deployment(path).deployment == pick_deployment(one).deployment
    path.write_text(yaml.safe_dump(one | {"system": 3}))
    with pytest.raises(SpecError, match=r"mine.yaml: system: 3: input should be a valid string"):
        pick_deployment(path)


def test_a_misspelt_key_gets_its_neighbour(file: Path) -> None:
    file.write_text(file.read_text().replace("replicas: 2", "replica: 2", 1))
    with pytest.raises(SpecError, match='did you mean "replicas"'):
        load_deployments(file)


@pytest.mark.parametrize("text", ["- 1\n", "word\n"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=f"write model, system and roles .* {SCHEMA}"):
        load_deployments(path)


def test_roles_must_make_a_deployment() -> None:
    with pytest.raises(SpecError, match="one prefill and one decode"):
        Deployment(model="m", system="s", roles=(Role(name="decode", parallel=Parallel()),))


def test_what_plan_ranks_is_what_a_file_gives_back(tmp_path: Path) -> None:
    found = tokenworks.plan(SMALL_MOE, "hgx-h100", isl=1000, osl=100, slo="", top=3, simulate=False)
    path = tmp_path / "ranked.yaml"
    entries = [Entry(rank=row.rank, deployment=row.deployment) for row in found.deployments]
    path.write_text(yaml.safe_dump(document(entries, found.inputs())))
    assert [one.deployment for one in load_deployments(path)] == [row.deployment for row in found.deployments]


@pytest.mark.parametrize("text", ["ttft.p99.999999999999999999=1s", "tpot.p0=50ms", "ttft.p00.0=1s"])
def test_a_percentile_lies_between_none_and_all(text: str) -> None:
    with pytest.raises(SpecError, match="a percentile is above 0 and below 100"):
        Slo.parse(text)


@pytest.mark.parametrize(("field", "value"), [("expert_tp", 10**20), ("tp", 10**6 + 1)])
def test_no_machine_is_that_wide(field: str, value: int) -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1000000"):
        Parallel.model_validate({field: value})
