"""A scheduling policy: a name or a mapping in a file, its own parameters only, and what an engine does not have."""

from __future__ import annotations

from typing import Any

import pytest

from tokenworks.errors import SpecError
from tokenworks.specs.deployment import Deployment, Role
from tokenworks.specs.scheduling import DEFAULTS, NO_AGE, SCHEDULINGS, Scheduling, what_if


def deployed(scheduling: Any) -> Deployment:
    return Deployment(model="m", system="s", roles=(Role(),), scheduling=scheduling)


@pytest.mark.parametrize("name", SCHEDULINGS)
def test_a_name_is_the_policy_with_its_defaults(name: str) -> None:
    one = deployed(name)
    assert one.scheduling.parameters == DEFAULTS[one.scheduling.name]
    assert deployed({"name": name, **one.scheduling.parameters}) == one
    assert Deployment.model_validate(one.model_dump(mode="json")) == one


def test_the_plain_form_is_short() -> None:
    assert deployed("fcfs").model_dump(mode="json")["scheduling"] == "fcfs"
    own = {"name": "shortest_prefill", "ageing_s": 0.5, "long_prefill_tokens": 7}
    assert deployed(own).model_dump(mode="json")["scheduling"] == own
    assert str(deployed(own).scheduling) == "shortest_prefill (ageing_s 0.5, long_prefill_tokens 7)"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("lpm", "scheduling.name: unknown policy 'lpm': write one of fcfs, shortest_prefill, interleaved, cold_pool"),
        ({"name": ["fcfs"]}, "unknown policy"),
        ({"cold_ranks": 2}, "cold_ranks belongs to cold_pool; fcfs has no parameters"),
        ({"name": "cold_pool", "ageing_s": 1}, "ageing_s belongs to shortest_prefill; cold_pool has cold_tokens and"),
        (
            {"name": "cold_pool", "cold_ranks": 0},
            "scheduling.cold_ranks: 0: input should be greater than or equal to 1",
        ),
        ({"name": "cold_pool", "cold_tokens": -1}, "scheduling.cold_tokens: -1"),
        ({"name": "interleaved", "long_prefill_tokens": 0}, "scheduling.long_prefill_tokens: 0"),
        ({"name": "interleaved", "long_prefill_tokens": "many"}, "scheduling.long_prefill_tokens"),
        ({"name": "shortest_prefill", "ageing_s": -1}, "scheduling.ageing_s: -1"),
        ({"name": "shortest_prefill", "ageing_s": float("nan")}, "scheduling.ageing_s"),
        ({"name": "shortest_prefill", "ageing_s": 3601}, "scheduling.ageing_s: 3601"),
        ({"name": "shortest_prefill", "age": 1}, "scheduling"),
        (7, "scheduling: is just 7"),
        (None, "scheduling: is nothing"),
    ],
)
def test_bad_policies_are_refused(raw: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        deployed(raw)


@pytest.mark.parametrize(
    ("scheduling", "scheduler", "words"),
    [
        (Scheduling(), "vllm", ""),
        (Scheduling(name="interleaved", long_prefill_tokens=9), "vllm", ""),
        (Scheduling(name="shortest_prefill", ageing_s=NO_AGE), "sglang", ""),
        (Scheduling(name="shortest_prefill", ageing_s=1.0), "sglang", "has no age"),
        (Scheduling(name="shortest_prefill", ageing_s=1.0), "vllm", "vLLM serves first come, first served"),
        (Scheduling(name="cold_pool", cold_tokens=9, cold_ranks=1), "vllm", "no router of the engines has cold ranks"),
    ],
)
def test_what_an_engine_lacks_is_a_what_if(scheduling: Scheduling, scheduler: str, words: str) -> None:
    note = what_if(scheduling, scheduler)
    assert words in note
    assert bool(note) == bool(words)
