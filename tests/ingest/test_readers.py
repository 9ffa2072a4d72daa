"""Each format, by a small file of its form: what is read, what is left out and why."""

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenworks.errors import SpecError
from tokenworks.ingest import load_trace
from tokenworks.ingest.recorded import freed_by
from tokenworks.specs.trace import Trace

GOOD = {"timestamp": 1000, "input_length": 1025, "output_length": 10, "hash_ids": [7, 8, 100]}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def blocks(trace: Trace) -> list[list[int]]:
    return [part.tolist() for part in np.split(trace.hash_ids, trace.hash_offsets[1:-1])]


def test_mooncake(tmp_path: Path) -> None:
    later = {"timestamp": 3500, "input_length": 600, "output_length": 1, "hash_ids": [7, 9]}
    trace = load_trace(write(tmp_path / "talk.jsonl", GOOD, "", later))
    assert (trace.name, trace.hash_block_tokens, trace.dropped, trace.reordered) == ("talk", 512, (), 0)
    assert trace.arrival_s.tolist() == [0, 2.5]  # milliseconds, from the first request
    assert trace.input_tokens.tolist() == [1025, 600]
    assert trace.output_tokens.tolist() == [10, 1]
    assert blocks(trace) == [[0, 1, 3], [0, 2]]  # ids keep their order and lose their gaps
    assert trace.id_count == 4
    assert trace.parent.tolist() == [-1, -1]


def test_mooncake_rows_without_hashes_share_nothing_and_say_so(tmp_path: Path) -> None:
    bare = {**GOOD, "hash_ids": []}
    left_out = {name: value for name, value in GOOD.items() if name != "hash_ids"}
    trace = load_trace(write(tmp_path / "some.jsonl", GOOD, bare, left_out, GOOD))
    assert blocks(trace) == [[0, 1, 2], [], [], [0, 1, 2]]
    assert (trace.hash_block_tokens, trace.dropped) == (512, ())
    assert trace.notes == ("2 requests have no hash_ids: they share no blocks with other requests",)
    none = load_trace(write(tmp_path / "none.jsonl", bare, bare))
    assert (none.hash_block_tokens, len(none), none.id_count) == (0, 2, 0)


def test_rows_name_their_class(tmp_path: Path) -> None:
    """A row without one, where others have one, is of the class default; all requests alike have none."""
    rows = [{**GOOD, "class": "batch"}, GOOD, {**GOOD, "class": "chat"}, {**GOOD, "class": "no spaces"}]
    trace = load_trace(write(tmp_path / "talk.jsonl", *rows))
    assert trace.classes == ("batch", "default", "chat")
    assert trace.class_of.tolist() == [0, 1, 2]
    assert trace.dropped[0].reason.startswith("class: expected `str` matching regex")
    again = load_trace(tmp_path / "talk.jsonl")  # from the cache
    assert (again.classes, again.class_of.tolist()) == (trace.classes, [0, 1, 2])
    head, *lines = AZURE.splitlines()
    text = "\n".join([head + ",class", lines[0] + ",batch", lines[1] + ","])
    azure = load_trace(write(tmp_path / "a.csv", text))
    assert (azure.classes, azure.class_of.tolist()) == (("batch", "default"), [0, 1])
    burst = load_trace(write(tmp_path / "b.csv", "Timestamp,Request tokens,Response tokens,class\n5,472,18,chat\n"))
    assert burst.classes == ("chat",)
    assert load_trace(write(tmp_path / "plain.jsonl", GOOD)).classes == ()
    with pytest.raises(SpecError, match="9 classes of requests: at most 8"):
        load_trace(write(tmp_path / "many.jsonl", *({**GOOD, "class": f"c{k}"} for k in range(9))))


AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.2299600,3,8\n"
)


def test_azure_and_packed_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeff" + AZURE)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(AZURE.encode()))
    (tmp_path / "a.csv.xz").write_bytes(lzma.compress(AZURE.replace("\n", "\r\n").encode()))
    for name in ("a.csv", "a.csv.gz", "a.csv.xz"):
        trace = load_trace(tmp_path / name)
        np.testing.assert_allclose(trace.arrival_s, [0, 0.25], atol=1e-6)
        assert trace.input_tokens.tolist() == [4808, 3]
        assert trace.hash_block_tokens == 0


def test_azure_2024_has_time_zones(tmp_path: Path) -> None:
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
    assert load_trace(write(tmp_path / "a.csv", text)).input_tokens.tolist() == [2162]


def test_burstgpt_leaves_failures_out(tmp_path: Path) -> None:
    text = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    text += "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,0,1087,API log\n118.5,GPT-4,417,276,693,API log"
    trace = load_trace(write(tmp_path / "b.csv", text))
    assert trace.arrival_s.tolist() == [0, 113.5]
    (dropped,) = trace.dropped
    assert (dropped.count, dropped.where) == (1, f"{tmp_path}/b.csv:3")
    assert dropped.reason == "Response tokens: expected `int` >= 1"


def test_sharegpt_estimates_lengths_and_says_so(tmp_path: Path) -> None:
    talk = [("human", "x" * 40), ("gpt", "y" * 80), ("human", "z" * 40), ("gpt", "é" * 10), ("human", "no answer")]
    records = [
        {"id": "a", "conversations": [{"from": who, "value": text} for who, text in talk]},
        {"id": "b", "conversations": []},
        {"id": "c", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello there"}]},
    ]
    trace = load_trace(write(tmp_path / "s.json", records))
    assert trace.input_tokens.tolist() == [10, 40, 1]
    assert trace.output_tokens.tolist() == [20, 5, 3]
    assert trace.parent.tolist() == [-1, 0, -1]
    assert trace.session.tolist() == [0, 0, 2]
    assert blocks(trace) == [[], [0, 1], []]
    assert [d.reason for d in trace.dropped] == ["conversations: expected a message and an answer to it"]
    assert any("bytes / 4" in note for note in trace.notes)


def bench(**changes: Any) -> dict[str, Any]:
    return {
        "request_rate": 4.0,
        "max_concurrency": None,
        "request_throughput": 3.8,
        "input_lens": [256, 300, 200],
        "output_lens": [64, 2, 3],
        "ttfts": [0.1, 0.2, 0.1],
        "itls": [[0.1], [0.1], [0.5, 0.4]],
        "start_times": [10.0, 12.0, 11.0],
        "errors": ["", "", ""],
        **changes,
    }


def test_vllm_bench(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path / "r.json", bench()))
    assert trace.arrival_s.tolist() == [0, 1, 2]
    assert trace.input_tokens.tolist() == [256, 200, 300]
    assert trace.parent.tolist() == [-1, -1, -1]


def test_vllm_bench_closed_loop_waits_for_a_slot(tmp_path: Path) -> None:
    """Two slots: the third request starts when the first ends at 10.2, 0.05 s later."""
    run = bench(request_rate="inf", max_concurrency=2, start_times=[10.0, 10.25, 10.0])
    trace = load_trace(write(tmp_path / "r.json", run))
    assert trace.input_tokens.tolist() == [256, 200, 300]
    assert trace.parent.tolist() == [-1, -1, 0]
    np.testing.assert_allclose(trace.think_s, [0, 0, 0.05], atol=1e-9)


def test_slots_whose_clocks_cross_still_have_earlier_parents() -> None:
    parent, think = freed_by(np.array([0.0, 1.0, 2.0]), np.array([9.0, 9.0, 2.0]), 1)
    assert (parent < np.arange(3)).all()
    assert (think >= 0).all()


def test_vllm_bench_failures_and_wrong_files(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path / "r.json", bench(errors=["", "refused", ""], output_lens=[64, 0, 0])))
    assert len(trace) == 1
    assert {d.reason for d in trace.dropped} == {
        "errors: expected none: the request failed in the run",
        "output_lens[]: expected 1 to 16777216",
    }
    with pytest.raises(SpecError, match="--save-detailed"):
        load_trace(write(tmp_path / "short.json", {"request_throughput": 1.0}))
    with pytest.raises(SpecError, match=r"different lengths.*ttfts 1"):
        load_trace(write(tmp_path / "uneven.json", bench(ttfts=[0.1])))
    with pytest.raises(SpecError, match=r"is no JSON object.*is the file complete"):
        load_trace(write(tmp_path / "cut.json", json.dumps(bench())[:-20]))


def test_llmservingsim(tmp_path: Path) -> None:
    row = {
        "request_id": "bench-0",
        "input_toks": 2361,
        "output_toks": 532,
        "arrival_time": 1777142984.5,
        "queued_ts": 1.0,
    }
    trace = load_trace(write(tmp_path / "requests.jsonl", row, {**row, "arrival_time": 1777142985.0}))
    assert trace.arrival_s.tolist() == [0, 0.5]
    assert trace.input_tokens.tolist() == [2361, 2361]


def call(t: float, tokens: int, rl: list[int], api: float | None = 1.0, think: float | None = None, **more: Any) -> Any:
    row = {"t": t, "type": "n", "model": "m", "in": tokens, "out": 5, "hash_rl": rl, "think_time": think, **more}
    return row if api is None else {**row, "api_time": api}


def session(*requests: Any, **more: Any) -> dict[str, Any]:
    return {"id": "s", "block_size": 64, "hash_id_scope": "local", "requests": requests, **more}


def test_agents_with_sub_agents(tmp_path: Path) -> None:
    """A turn, two sub-agents it starts at once (of 30 s and 40 s), an asynchronous one, and the turn after them."""
    sub = {
        "type": "subagent",
        "t": 32.0,
        "duration_ms": 30000,
        "requests": [call(0, 64, [50, 1]), call(9, 64, [50, 1])],
    }
    slow = {"type": "subagent", "t": 42.0, "duration_ms": 40000, "requests": [call(0, 64, [60, 1], api=3.0)]}
    free = {"type": "subagent", "t": 43.0, "duration_ms": None, "requests": [call(0, 64, [70, 1])]}
    first, last = call(0, 130, [1, 2]), call(50.0, 200, [1, 3], think=48.5, type="s")
    doubled = session(first, duplicate_of="s")
    trace = load_trace(write(tmp_path / "w.jsonl", session(first, sub, slow, free, last), doubled, session(first)))
    assert len(trace) == 7
    order = trace.arrival_s.tolist()
    assert order == [0, 0, 2, 2, 11, 43, 50]
    assert trace.session.tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert trace.agent.tolist() == [0, 0, 1, 2, 1, 3, 0]
    assert trace.parent.tolist() == [-1, -1, 0, 0, 2, 0, 4]  # the last turn waits for who came back last: 2 + 9 + 1 s
    np.testing.assert_allclose(trace.think_s, [0, 0, 1, 1, 8, 42, 38])
    assert blocks(trace) == [[0, 1], [6, 7], [3], [4], [3], [5], [0, 1, 2]]  # the other session's ids are its own
    assert "1 sessions left out: the file marks them as duplicates of other sessions" in trace.notes


def test_agents_take_the_recorded_think_time(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path / "w.jsonl", session(call(0, 64, [1, 1]), call(9, 64, [1, 1], think=7.25))))
    assert trace.think_s.tolist() == [0, 7.25]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (call(1, 64, [1, 1], out=0), "requests[].out: expected 1 to 16777216"),
        (call(1, 0, []), "requests[].in: expected 1 to 16777216"),
        (call(1, 64, [1]), "requests[].hash_rl: expected runs with one hash for each 64 tokens of `in`"),
        (call(1, 64, [1, 9]), "requests[].hash_rl: expected runs with one hash for each 64 tokens of `in`"),
        (call(1, 64, [1, 1, 5, 0]), "requests[].hash_rl: expected runs with one hash for each 64 tokens of `in`"),
    ],
)
def test_a_broken_agent_request_is_left_out_alone(tmp_path: Path, wrong: Any, reason: str) -> None:
    path = write(tmp_path / "w.jsonl", session(call(0, 64, [1, 1]), wrong, call(5, 64, [1, 1])))
    trace = load_trace(path)
    assert trace.parent.tolist() == [-1, 0]
    assert [d.reason for d in trace.dropped] == [reason]
    with pytest.raises(SpecError, match=r"w\.jsonl:1"):
        load_trace(path, strict=True)


def test_a_broken_agent_session_is_left_out_whole(tmp_path: Path) -> None:
    other = {**session(call(0, 64, [1, 2])), "block_size": 32}
    unknown = session(call(0, 64, [1, 1], type="x"))
    whole = {**session(call(0, 64, [1, 1])), "hash_id_scope": "global"}
    trace = load_trace(write(tmp_path / "w.jsonl", session(call(0, 64, [1, 1])), other, unknown, whole))
    assert len(trace) == 1
    assert [d.reason for d in trace.dropped] == [
        "block_size: expected 64, like the sessions before",
        "requests[].type: invalid value 'x'",
        "hash_id_scope: invalid enum value 'global'",
    ]


def lab(session_id: str, tokens: int, prefix: int, sent: str, end: str) -> dict[str, Any]:
    events = [
        {"event_type": "tool_result", "timestamp": f"2026-06-01T05:40:{sent}Z"},
        {"event_type": "text", "timestamp": f"2026-06-01T05:40:{end}Z"},
    ]
    return {"session_id": session_id, "model": "m", "input_tokens_total": tokens, "prefix_tokens": prefix,
            "output_tokens": 9, "timing_events": events}  # fmt: skip


def test_tracelab_shares_what_the_provider_served(tmp_path: Path) -> None:
    rows = [
        lab("a", 256, 128, "00.000", "02.000"),
        lab("b", 192, 64, "01.000", "02.000"),
        lab("a", 384, 192, "05.500", "06.000"),
    ]
    trace = load_trace(write(tmp_path / "t.jsonl", *rows))
    assert trace.arrival_s.tolist() == [0, 1, 5.5]
    assert trace.parent.tolist() == [-1, -1, 0]
    assert trace.think_s.tolist() == [0, 0, 3.5]
    first, other, second = blocks(trace)
    assert first[:1] == other[:1]  # the first calls share what their model was served
    assert first[1] not in other
    assert second[:3] == first[:3]
    assert len(second) == 6
    assert not set(second[3:]) & {*first, *other}
