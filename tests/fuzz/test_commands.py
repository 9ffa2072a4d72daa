"""Commands on damaged files, and damaged commands: an answer or words about the fault, soon, and nothing else."""

from __future__ import annotations

import contextlib
import io
import resource
import signal
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from types import FrameType

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.calibrate import cases
from tests.fuzz.damage import LINES, VALUES, damaged_csv, damaged_json, damaged_text, damaged_yaml, tries
from tests.fuzz.test_ingest import BENCHMARKS, TRACES, trace_file
from tokenworks.cli import VERBS, run

CATALOG = files("tokenworks") / "catalog"
SMALL = "meta-llama/Meta-Llama-3.1-8B"
ON = ["--on", "hgx-h100"]
LENGTHS = ["--isl", "512", "--osl", "64"]
TOO_LONG_S = 20
MOST_BYTES = 4 << 30  # that a command may ask for
DEPLOYMENTS = """
schema: tokenworks.deployment/1
inputs:
  model: meta-llama/Meta-Llama-3.1-8B
  machine: hgx-h100
  workload: {name: mine, title: '', isl: 512.0, osl: 64.0, isl_cv: 0.0, osl_cv: 0.0, hit_share: 0.0,
    uncached_cv: null, reused_context: 0.0, think_time: 0.0, rate: null, concurrency: null, arrivals: {kind: poisson},
    slo: '', classes: [], assumed: [], source: ''}
  slo: ttft=2s,tpot=50ms
  engine: vllm
  calibration: serving
  assumed: [{path: device.hbm.bandwidth, value: 3.3 TB/s, why: measured}]
  system: hgx-h100
deployments:
- rank: 1
  deployment:
    model: meta-llama/Meta-Llama-3.1-8B
    system: hgx-h100
    engine: vllm
    roles:
    - {name: aggregated, parallel: {tp: 1, pp: 1, dp: 1, ep: 1, expert_tp: 1}, replicas: 8, max_sequences: 217,
       chunk_tokens: 16384, kv_dtype: fp8, redundant_experts: 0, draft_tokens: 0, overlap: none, memory_fraction: 0.9}
    router: null
    prefix_caching: true
    devices_per_host: 8
  expected: {ttft_s: 0.106178067, tpot_s: 0.0421484399, ttft_slo_s: 0.283896314, tpot_slo_s: 0.0483799616}
"""
ASSUME = """
device.hbm.bandwidth: 2.5 TB/s
device.peak.fp8: 900 TFLOP/s
scale_up.hop: 0.3 us
price: 1000000 USD
"""


def text_of(kind: str, name: str) -> str:
    return (CATALOG / kind / name).read_text(encoding="utf-8")


class TooLong(BaseException):
    """Not an Exception, so that no command takes it for its own."""


@contextlib.contextmanager
def bounds() -> Iterator[None]:
    """Stop what takes too long, and refuse memory beyond what is sensible."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooLong

    before, limits = signal.signal(signal.SIGALRM, stop), resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, limits[1]))
    signal.alarm(TOO_LONG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def obeys(arguments: Sequence[str]) -> int:
    """Run one command, and see that it ends as commands may end; returns its exit code."""
    out, err = io.StringIO(), io.StringIO()
    with bounds(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    assert code in {0, 2, 3, 4}, (code, arguments, err.getvalue()[-3000:])
    assert "Traceback" not in err.getvalue(), (arguments, err.getvalue())
    assert code == 0 or err.getvalue().strip(), (code, arguments, "says nothing")
    return code


def law(path: Path, damage: st.SearchStrategy[str], commands: list[list[str]], count: int) -> None:
    """All that holds of one kind of file: each command on damaged files, after one on the good file."""

    @tries(count)
    @given(damage, st.sampled_from(commands))
    def check(text: str, command: list[str]) -> None:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        obeys([word.replace("FILE", str(path)) for word in command])

    check()


FIT = ["fit", SMALL, "--on"]
ESTIMATE = ["estimate", SMALL, *LENGTHS, "--deploy", "tp=2"]
PLAN = ["plan", SMALL, *LENGTHS, "--no-simulate"]


def small_calibration() -> str:
    """The calibration `datasheet` with two families only: it is read several times faster."""
    data = yaml.safe_load(text_of("calibration", "datasheet.yaml"))
    data["families"] = {
        name: data["families"][name] for name in ("nvidia-hopper", "other-npu") if name in data["families"]
    }
    data["lent"] = {name: one for name, one in data.get("lent", {}).items() if name in data["families"]}
    data["borrowed"] = {name: like for name, like in data["borrowed"].items() if like["like"] == "nvidia-hopper"}
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


YAML_FILES: dict[str, tuple[str, list[list[str]], int]] = {
    "system": (
        text_of("systems", "hgx-h100.yaml"),
        [["systems", "FILE"], [*FIT, "FILE"], [*ESTIMATE, "--on", "FILE"]], 25,
    ),
    "workload": (
        text_of("workloads", "agent.yaml"), [[*PLAN[:2], *ON, "--workload", "FILE", "--top", "1", "--no-simulate"]], 15
    ),
    "deployment": (DEPLOYMENTS, [["estimate", "FILE"], ["estimate", "FILE", "-o", "json"]], 40),
    "calibration": (small_calibration(), [[*ESTIMATE, *ON, "--calibration", "FILE"]], 15),
    "assume": (ASSUME, [[*FIT, "hgx-h100", "--assume", "FILE"], [*ESTIMATE, *ON, "--assume", "FILE"]], 30),
}  # fmt: skip


@pytest.mark.parametrize("kind", YAML_FILES)
def test_yaml(kind: str, tmp_path: Path) -> None:
    text, commands, count = YAML_FILES[kind]
    law(tmp_path / "file.yaml", damaged_yaml(text), commands, count)


DEVICE = text_of("devices", "h100.yaml")


def test_device_beside_its_system(tmp_path: Path) -> None:
    system = tmp_path / "box.yaml"
    system.write_text(text_of("systems", "hgx-h100.yaml").replace("device: h100", "device: card.yaml"))
    commands = [["systems", str(system)], [*FIT, str(system)]]
    law(tmp_path / "card.yaml", damaged_yaml(DEVICE), commands, 25)


CONFIGS = ["Qwen--Qwen3-0.6B", "deepseek-ai--DeepSeek-V3", "Qwen--Qwen3-30B-A3B-FP8", "google--gemma-4-26B-A4B",
           "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "meta-llama--Llama-4-Scout-17B-16E-Instruct"]  # fmt: skip


@pytest.mark.parametrize("model", CONFIGS)
def test_config_json(model: str, tmp_path: Path) -> None:
    commands = [["models", "FILE"], ["models", "FILE", "-o", "json"], ["fit", "FILE", *ON],
                ["estimate", "FILE", *ON, "--deploy", "tp=8"]]  # fmt: skip
    law(tmp_path / "config.json", damaged_json(text_of("models", f"{model}.json")), commands, 30)


@pytest.mark.usefixtures("kernel")
def test_measured_points(tmp_path: Path) -> None:
    text = cases.table(tmp_path, {}, {"concurrency": "16"}).read_text()
    law(tmp_path / "points.csv", damaged_csv(text), [["validate", "--data", "FILE"]], 15)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("form", [form for form in TRACES if form != "per-request-parquet"])  # it is no text
def test_traces(form: str, tmp_path: Path) -> None:
    text = TRACES[form].decode()
    plan = tmp_path / "plan.yaml"
    plan.write_text(DEPLOYMENTS)
    commands = [["trace", "FILE"], ["simulate", str(plan), "--trace", "FILE"]]
    law(trace_file(tmp_path), damaged_text(text), commands, 10)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("form", BENCHMARKS)
def test_benchmarks(form: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(DEPLOYMENTS)
    load = ["--load", "concurrency=2"] if form == "aiperf-records" else []
    commands = [["validate", "--data", "FILE", "--deployment", str(plan), *load]]
    lines = BENCHMARKS[form].decode().splitlines()
    damaged = st.tuples(*(damaged_json(line) for line in lines)).map("\n".join)
    law(tmp_path / "result.json", damaged, commands, 10)


OPTION_WORDS = """
    --on --model --workload --isl --osl --slo --rate --concurrency --top --why --engine --calibration --assume
    --deploy --batch --chunk --pick -o --output --kv-dtype --class --set --seed --requests --router --limit --data
    --deployment --name --trace --benchmark --load
    --help --format --strict --require-slo --max-queue --scale --no-such -- - -h
"""
VALUE_WORDS = """
    hgx-h100 2xhgx-h100 hgx-h100@xdr 0xhgx-h100 -1xhgx-h100 9999999999xhgx-h100 x@y chat agent tp=2 tp=2,dp=2 tp=0
    tp=-1 tp=1e9 tp= = tp=2,tp=3 ttft=2s,tpot=50ms ttft=-1s ttft.p50=1s ttft.p200=1s ttft=1e400s json yaml table
    vllm sglang bf16 fp8 native batch:priority=1,ttft=60s batch:priority=99 roles.0.max_sequences=64 roles.9.x=1
    roles..= PLAN TRACE POINTS prefix_aware 512 64 / /dev/null . ~ no/such.yaml
"""
FLAGS, WORDS = OPTION_WORDS.split(), [SMALL, *VALUE_WORDS.split()]
NUMBERS = [str(value) if not isinstance(value, int) or abs(value) < 2**1000 else "9" * 400 for value in VALUES]
GOOD = [
    ["systems"], ["systems", "hgx-h100"], ["models", SMALL], ["fit", SMALL, *ON], [*ESTIMATE, *ON],
    [*PLAN, *ON, "--top", "2"], ["estimate", "PLAN"], ["trace", "TRACE"], ["trace", "TRACE", "--strict", "-o", "json"],
    ["simulate", "PLAN", "--trace", "TRACE", "--slo", "ttft=2s"],
    ["simulate", "PLAN", "--workload", "chat", "--rate", "1", "--requests", "20"],
    ["capacity", "PLAN", "--workload", "chat", "--requests", "20"], ["validate", "--data", "POINTS"],
    ["calibrate", "--data", "POINTS"],
]  # fmt: skip


@st.composite
def commands(draw: st.DrawFn) -> list[str]:
    """A good command with words replaced, added and left out; or any words."""
    word = st.one_of(st.sampled_from(WORDS), st.sampled_from(FLAGS), st.sampled_from(NUMBERS), st.sampled_from(LINES))
    if draw(st.integers(0, 9)) == 0:
        verbs = [verb for verb in VERBS if verb != "serve"]  # a good command of this verb does not end
        return [draw(st.sampled_from([*verbs, "no-verb", ""])), *draw(st.lists(word, max_size=6))]
    command = list(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(1, len(command)))
        how = draw(st.sampled_from(["replace", "add", "leave", "option", "option"]))
        if how == "replace" and at < len(command):
            command[at] = draw(word)
        elif how == "add":
            command.insert(at, draw(word))
        elif how == "leave" and at < len(command):
            del command[at]
        elif how == "option":
            command += [draw(st.sampled_from(FLAGS)), draw(st.one_of(st.sampled_from(WORDS), st.sampled_from(NUMBERS)))]
    return command


@pytest.mark.usefixtures("kernel")
def test_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that write files (--out, --per-request) are not among the words."""
    monkeypatch.chdir(tmp_path)
    Path("PLAN").write_text(DEPLOYMENTS)
    Path("TRACE").write_bytes(TRACES["mooncake"])
    Path("POINTS").write_text(cases.table(tmp_path, {}).read_text())

    @tries(60)
    @given(commands())
    def check(command: list[str]) -> None:
        obeys(command)

    check()


def test_what_is_damaged_is_good(tmp_path: Path) -> None:
    """Before any damage each file is one that its commands take."""
    for text, kinds, _count in YAML_FILES.values():
        (tmp_path / "file.yaml").write_text(text)
        for command in kinds:
            assert obeys([word.replace("FILE", str(tmp_path / "file.yaml")) for word in command]) in {0, 3, 4}, command
