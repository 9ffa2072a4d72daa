"""Engines: versions, defaults by device, and numbers that cannot be."""

import pytest

from tokenworks.costs.activations import derived_share
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import number
from tokenworks.specs.engine import Engine, engine_names, load_engine, version_key

GIB = 2**30


def test_versions_compare_as_numbers() -> None:
    assert version_key("0.9.2") < version_key("0.10") < version_key("0.21") < version_key("0.21.1")


def test_a_version_brings_its_numbers() -> None:
    logits = {
        v: number(load_engine("vllm", assume={"engine.version": v}).memory.logit) for v in ("0.11", "0.19", "0.33")
    }
    assert logits == {"0.11": 39, "0.19": 18, "0.33": 10}
    new = load_engine("vllm", assume={"engine.version": "0.33"})
    assert (number(new.memory_fraction), number(new.memory.graphs_counted)) == (0.92, 1)
    assert new.version == "0.33"


def test_a_number_of_the_user_replaces_that_of_the_version() -> None:
    both = load_engine("vllm", assume={"engine.version": "0.33", "engine.memory_fraction": 0.8})
    assert number(both.memory_fraction) == 0.8
    assert number(both.memory.logit) == 10


@pytest.mark.parametrize(
    ("engine", "family", "gibibytes", "expected"),
    [
        ("vllm", "nvidia-hopper", 79.2, (8192, 1024)),
        ("vllm", "nvidia-ampere", 79.15, (2048, 256)),  # the A100
        ("vllm", "nvidia-ampere", 23.58, (2048, 256)),
        ("sglang", "nvidia-ada", 23.6, (4096, 1024)),
        ("sglang", "amd-cdna4", 287.2, (16384, 1024)),
    ],
)
def test_defaults_by_device(engine: str, family: str, gibibytes: float, expected: tuple[int, int]) -> None:
    chosen = load_engine(engine).defaults_on(family, gibibytes * GIB)
    assert chosen is not None
    assert (chosen.chunk_tokens, chosen.max_sequences) == expected


def test_sglang_derives_its_share() -> None:
    """sgl-project/sglang pull 18263: 0.911 on an MI355X."""
    share = derived_share(load_engine("sglang"), 287.98 * GIB, chunk=16384, graph_sequences=512, devices=1)
    assert share == 0.911
    assert derived_share(load_engine("vllm"), 80 * GIB, chunk=8192, graph_sequences=512, devices=1) is None
    smaller = derived_share(load_engine("sglang"), 79.2 * GIB, chunk=8192, graph_sequences=256, devices=8)
    assert smaller is not None
    assert smaller < 0.88


@pytest.mark.parametrize("share", ["0", "1.2"])
def test_a_share_of_the_memory_is_above_0_and_at_most_1(share: str) -> None:
    with pytest.raises(SpecError, match="must be above 0 and at most 1"):
        load_engine("vllm", assume={"engine.memory_fraction": share})


@pytest.mark.parametrize("version", ["", "latest"])
def test_a_version_without_numbers_is_refused(version: str) -> None:
    with pytest.raises(SpecError, match=r"give a version such as 0\.21"):
        load_engine("vllm", assume={"engine.version": version})


@pytest.mark.parametrize("name", engine_names())
def test_changes_name_numbers_that_exist(name: str) -> None:
    engine: Engine = load_engine(name)
    for change in engine.changes:
        assert bool(change.since) != bool(change.until)
        assert load_engine(name, assume={"engine.version": change.since or change.until}) != engine


def test_an_engine_runs_eager_where_it_was_ported_to_and_a_user_can_say_otherwise() -> None:
    home, port = load_engine("vllm"), load_engine("vllm", family="ascend")
    assert load_engine("vllm", family="nvidia-hopper") == home
    assert number(port.host_layer) > number(home.host_layer)
    assert (number(port.graph_tokens), home.maturity) == (0, 1)
    assert port.maturity > 1
    captured = load_engine("vllm", family="ascend", assume={"engine.graph_tokens": 512})
    assert number(captured.graph_tokens) == 512
