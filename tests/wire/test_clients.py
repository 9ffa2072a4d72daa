"""Real clients, unmodified, against `tokenworks serve` as a process. `make wire` makes their environments first.

Versions are in the .txt files beside this one. A client whose environment is missing is skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.wire.environments import FOLDER, HERE

pytestmark = pytest.mark.wire
PLAN = {
    "model": "meta-llama/Meta-Llama-3.1-8B", "system": "hgx-h100:2", "max_model_len": 8192,
    "roles": [{"name": "aggregated", "replicas": 2, "max_sequences": 64}],
}  # fmt: skip
OFFLINE = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1", "PYTHONDONTWRITEBYTECODE": "1",
}  # fmt: skip


def command_of(name: str, command: str) -> Path:
    """A command of an environment; skip without it."""
    path = FOLDER / name / "bin" / command
    if not path.exists():
        pytest.skip(f"{path} is missing; `make wire` makes it")
    return path


def run(command: list[str | Path], *, seconds: int = 300, cwd: Path | None = None, **environment: str) -> str:
    """Output of a command that must succeed."""
    given = {**os.environ, **OFFLINE, **environment}
    given = {name: value for name, value in given.items() if value}
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=given, cwd=cwd, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@contextmanager
def served(folder: Path, *options: str) -> Iterator[str]:
    """Address of an endpoint in a process of its own."""
    if not FOLDER.exists():
        pytest.skip(f"{FOLDER} is missing; `make wire` makes it")
    file = folder / "plan.yaml"
    file.write_text(json.dumps(PLAN))
    command = [sys.executable, "-m", "tokenworks", "serve", str(file), "--port", "0", "--served-model-name", "tiny"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        match = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert match, line
        try:
            yield match[0]
        finally:
            server.terminate()  # a client that is missing is skipped here; nobody would end the endpoint
        assert server.wait(60) == 0


@pytest.fixture(scope="module")
def url(kernel: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An endpoint in real time."""
    with served(tmp_path_factory.mktemp("plan")) as address:
        yield address


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small tokenizer, made by the library of a client that has it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    for name in ("aiperf", "guidellm", "vllm"):
        python = FOLDER / name / "bin" / "python"
        if python.exists():
            run([python, HERE / "make_tokenizer.py", folder])
            return folder
    pytest.skip("no client with a tokenizer is installed; `make wire` installs them")


SDK = """
import openai, sys
client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="x", max_retries=0)
assert [model.id for model in client.models.list()] == ["tiny"]
hello = [{"role": "user", "content": "hello"}]
chat = client.chat.completions.create(model="tiny", messages=hello, max_completion_tokens=9)
assert (chat.usage.completion_tokens, chat.choices[0].finish_reason) == (9, "length")
stream = client.chat.completions.create(
    model="tiny", messages=hello, max_tokens=9, stream=True, stream_options={"include_usage": True})
parts = list(stream)
assert "".join(part.choices[0].delta.content or "" for part in parts[:-1]) == chat.choices[0].message.content
assert parts[-1].usage.completion_tokens == 9
tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
called = client.chat.completions.create(
    model="tiny", messages=hello, max_tokens=9, tools=[tool], tool_choice="required")
assert called.choices[0].message.tool_calls[0].function.name == "f"
done = client.completions.create(model="tiny", prompt=[1, 2, 3], max_tokens=5, n=2, logprobs=1)
assert len(done.choices) == 2 and len(done.choices[0].logprobs.tokens) == 5
answer = client.responses.create(model="tiny", input="hello", max_output_tokens=5)
assert answer.output_text and answer.usage.output_tokens == 5
with client.responses.stream(model="tiny", input="hello", max_output_tokens=5) as events:
    *_, last = events
assert last.type == "response.incomplete" and last.response.usage.output_tokens == 5
for wrong, error in (({"model": "other"}, openai.NotFoundError), ({"model": "tiny", "n": 0}, openai.BadRequestError)):
    try:
        client.chat.completions.create(messages=hello, **wrong)
    except error as caught:
        assert caught.body["message"]
    else:
        raise AssertionError(wrong)
print("openai", openai.__version__)
"""
ANTHROPIC = """
import anthropic, sys
client = anthropic.Anthropic(base_url=sys.argv[1], api_key="x", max_retries=0)
hello = [{"role": "user", "content": "hello"}]
one = client.messages.create(model="tiny", messages=hello, max_tokens=9)
assert one.usage.output_tokens == 9 and one.stop_reason == "max_tokens"
with client.messages.stream(model="tiny", messages=hello, max_tokens=9, system="be brief") as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert final.content[0].text == text and final.usage.output_tokens == 9
assert client.messages.count_tokens(model="tiny", messages=hello).input_tokens == one.usage.input_tokens
tool = {"name": "f", "input_schema": {"type": "object"}}
called = client.messages.create(
    model="tiny", messages=hello, max_tokens=9, tools=[tool], tool_choice={"type": "tool", "name": "f"})
assert called.content[0].name == "f" and isinstance(called.content[0].input, dict)
try:
    client.messages.create(model="other", messages=hello, max_tokens=9)
except anthropic.NotFoundError as caught:
    assert caught.body["error"]["type"] == "not_found_error"
else:
    raise AssertionError("no error")
print("anthropic", anthropic.__version__)
"""


@pytest.mark.parametrize(("name", "script"), [("openai", SDK), ("anthropic", ANTHROPIC)])
def test_sdks(url: str, name: str, script: str) -> None:
    assert name in run([command_of("sdk", "python"), "-W", "error::UserWarning", "-c", script, url])


def test_curl(url: str) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stream": True})
    shown = run([curl, "--silent", "--no-buffer", f"{url}/v1/chat/completions", "--data", body])
    assert shown.endswith("data: [DONE]\n\n")
    assert shown.count("data: {") >= 2


def test_schemathesis(kernel: None, tmp_path: Path) -> None:
    """Requests that the description of the API allows and forbids: no internal error, and answers as described.

    The endpoint runs a thousand times as fast as the machine: random requests ask for thousands of tokens.
    """
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    left_out = "^/(live/events|sleep|metrics|admin/faults)$"
    with served(tmp_path, "--speed", "1000") as url:
        command: list[str | Path] = [
            command_of("sdk", "schemathesis"), "run", f"{url}/openapi.json", "--checks", checks,
            "--max-examples", "40", "--phases", "examples,coverage,fuzzing", "--exclude-path-regex", left_out,
            "--suppress-health-check", "all", "--seed", "1", "--generation-database", "none", "--no-color",
        ]  # fmt: skip
        run(command, seconds=300, cwd=tmp_path)


def test_guidellm(url: str, tokenizer: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command: list[str | Path] = [
        command_of("guidellm", "guidellm"), "run", "--backend", f"kind=openai_http,target={url},model=tiny",
        "--profile", "kind=concurrent,streams=2", "--constraint", "kind=max_requests,count=12",
        "--tokenizer", f"kind=hf_auto,model={tokenizer}",
        "--data", "kind=synthetic_text,prompt_tokens=64,output_tokens=16",
        "--output", f"kind=json,path={out}", "--disable-console-interactive",
    ]  # fmt: skip
    run(command)
    from tokenworks import ingest

    (one,) = ingest.load_benchmarks(out)
    assert (one.requests, one.osl.mean) == (12, 16)


def test_aiperf(url: str, tokenizer: Path, tmp_path: Path) -> None:
    command: list[str | Path] = [
        command_of("aiperf", "aiperf"), "profile", "--model", "tiny", "--url", url, "--endpoint-type", "chat",
        "--streaming", "--tokenizer", tokenizer, "--concurrency", "2", "--request-count", "12",
        "--synthetic-input-tokens-mean", "100", "--output-tokens-mean", "16", "--ui", "none",
        "--artifact-dir", tmp_path,
    ]  # fmt: skip
    run(command, cwd=tmp_path, HF_HUB_OFFLINE="", TRANSFORMERS_OFFLINE="")
    from tokenworks import ingest

    (file,) = tmp_path.rglob("profile_export_aiperf.json")
    (one,) = ingest.load_benchmarks(file)
    assert one.requests == 12


def test_vllm_bench(url: str, tokenizer: Path, tmp_path: Path) -> None:
    shown = bench(url, tokenizer, tmp_path, rate=8.0, count=40)
    assert (shown["completed"], shown["total_output_tokens"]) == (40, 40 * 32)


def bench(url: str, tokenizer: Path, folder: Path, *, rate: float, count: int) -> Any:
    """Result of `vllm bench serve` with random prompts."""
    command: list[str | Path] = [
        command_of("vllm", "vllm"), "bench", "serve", "--backend", "vllm", "--base-url", url, "--model", "tiny",
        "--tokenizer", tokenizer, "--dataset-name", "random", "--random-input-len", "256", "--random-output-len", "32",
        "--num-prompts", str(count), "--request-rate", str(rate), "--ignore-eos", "--save-result", "--save-detailed",
        "--result-dir", folder, "--result-filename", "bench.json", "--percentile-metrics", "ttft,tpot,itl,e2el",
        "--disable-tqdm",
    ]  # fmt: skip
    run(command, seconds=600)
    return json.loads((folder / "bench.json").read_text(encoding="utf-8"))
