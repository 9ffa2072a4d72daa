"""KV tiers as flags of vLLM and SGLang, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.launch.cases import launch
from tests.planning.settings import DENSE
from tokenworks.errors import SpecError
from tokenworks.launch.command import Command
from tokenworks.launch.reasons import Unread
from tokenworks.launch.translate import read
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.edits import edited
from tokenworks.specs.given import from_options

VLLM, SGLANG = "vllm-0.33.0", "sglang-0.5.23"
GB100 = "tiers.0.capacity=100 GB"


def started(tiers: Any, *sets: str, engine: str = "vllm", roles: Any = None, on: str = "hgx-h200") -> Any:
    roles = roles or [{"parallel": {"tp": 2}, "replicas": 2}]
    deployment = Deployment(model=DENSE, system=on, engine=engine, roles=roles, tiers=tiers)
    return launch(edited(deployment, from_options(sets)), VLLM if engine == "vllm" else SGLANG)


def config(command: Command) -> dict[str, Any]:
    words: dict[str, Any] = json.loads(command.arguments[command.arguments.index("--kv-transfer-config") + 1])
    return words


def value(command: Command, flag: str) -> str:
    return command.arguments[command.arguments.index(flag) + 1]


def imported(engine: str, *words: str, on: str = "hgx-h200", model: str = DENSE) -> tuple[Deployment, list[Unread]]:
    program = ("vllm", "serve", model) if engine == "vllm" else ("python3", "-m", "sglang.launch_server")
    path = () if engine == "vllm" else ("--model-path", model)
    command = Command(program[:2] if engine == "vllm" else program, (*program[2:] * (engine == "vllm"), *path, *words))
    return read([command], system=on, dialect=VLLM if engine == "vllm" else SGLANG)


def test_vllm_has_memory_of_the_host_and_files_behind_it() -> None:
    """100 GB over two ranks of two devices: 50 GB a rank."""
    one = started("vllm-offload", GB100, "tiers.0.eviction=arc", "kv_load_failure=fail")
    assert config(one.commands[0]) == {
        "kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_load_failure_policy": "fail",
        "kv_connector_extra_config": {
            "cpu_bytes_to_use": 50_000_000_000, "spec_name": "TieringOffloadingSpec", "eviction_policy": "arc",
            "secondary_tiers": [{"type": "fs", "root_dir": "/var/cache/vllm-kv"}],
        },
    }  # fmt: skip
    assert any("/var/cache/vllm-kv must be on the drives" in note for note in one.notes)


def test_a_prefill_role_of_vllm_has_two_connectors() -> None:
    roles = [{"name": "prefill", "parallel": {"tp": 2}}, {"name": "decode", "parallel": {"tp": 2}}]
    one = started([{"medium": "host"}], GB100, roles=roles)
    prefill, decode = one.commands[:2]
    assert config(prefill)["kv_connector"] == "MultiConnector"
    assert config(prefill)["kv_role"] == "kv_producer"
    assert [each["kv_connector"] for each in config(prefill)["kv_connector_extra_config"]["connectors"]] == [
        "NixlConnector", "OffloadingConnector",
    ]  # fmt: skip
    assert config(decode) == {"kv_connector": "NixlConnector", "kv_role": "kv_consumer"}
    back, _ = read(one.commands, system="hgx-h200", dialect=VLLM)
    assert back == one.deployment


def test_sglang_counts_memory_for_each_device_in_whole_gb() -> None:
    """2 TB of which 0.8 are for KV: half of them for four of eight devices, 200 GB each."""
    one = started("hicache", "tiers.0.written=selective", "tiers.1.prefetch=timeout", engine="sglang")
    command = one.commands[0]
    assert "--enable-hierarchical-cache" in command.arguments
    assert value(command, "--hicache-size") == "200"
    assert value(command, "--hicache-write-policy") == "write_through_selective"
    assert value(command, "--hicache-io-backend") == "kernel"
    assert value(command, "--hicache-mem-layout") == "page_first"
    assert value(command, "--hicache-storage-backend") == "file"
    assert value(command, "--hicache-storage-prefetch-policy") == "timeout"
    assert value(command, "--page-size") == "64"
    assert one.deployment.tiers[0].capacity.value == 800e9
    assert any("200 GB for each device, 800 GB in all" in note for note in one.notes)


def test_a_decode_role_of_sglang_has_no_tiers() -> None:
    roles = [{"name": "prefill", "parallel": {"tp": 2}}, {"name": "decode", "parallel": {"tp": 2}}]
    one = started("hicache-mooncake", engine="sglang", roles=roles)
    prefill, decode = one.commands[:2]
    assert value(prefill, "--hicache-storage-backend") == "mooncake"
    assert not [word for word in decode.arguments if "hicache" in word or "hierarchical" in word]
    assert any("start mooncake_master" in note for note in one.notes)


@pytest.mark.parametrize(
    ("engine", "tiers", "sets", "words"),
    [
        ("vllm", [{"medium": "pool", "semantics": "load-store"}], (), "no engine has tiers that devices read directly"),
        ("vllm", [{"medium": "host"}, {"medium": "pool", "gateway": "host"}], (), "cannot run the tiers host"),
        ("vllm", [{"medium": "remote", "capacity": "1 TB"}], (), "it has host, host"),
        ("vllm", [{"medium": "host", "scope": "shared"}], (), "write scope: private"),
        ("vllm", "vllm-offload", ("tiers.1.eviction=arc",), "says no policies of the tiers behind"),
        ("sglang", "hicache", ("tiers.0.written=selective", "tiers.0.uses=3"), "not after 3"),
        ("sglang", "hicache", ("tiers.1.written=back",), "write written: through"),
        ("sglang", "hicache", ("tiers.0.capacity=1 GB",), "below 1 GB each"),
        ("sglang", "hicache-mooncake", ("tiers.2.prefetch=wait", "tiers.2.timeout=0 s"), "timeout is the longest wait"),
        ("sglang", [{"medium": "host"}, {"medium": "pool", "gateway": "host", "prefetch": "wait"},
                    {"medium": "ssd", "gateway": "host", "prefetch": "best_effort"}], (), "one prefetch policy"),
    ],
)  # fmt: skip
def test_tiers_that_no_flag_can_say_are_refused(engine: str, tiers: Any, sets: tuple[str, ...], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        started(tiers, *sets, engine=engine)


def test_the_short_flag_of_vllm_is_read() -> None:
    """8 GiB for one rank of two devices."""
    deployment, unread = imported("vllm", "-tp", "2", "--kv-offloading-size", "8")
    (host,) = deployment.tiers
    assert (host.medium, host.capacity.value, host.scope) == ("host", 8 * 2**30, "private")
    assert unread == []
    deployment, unread = imported("vllm", "--kv-offloading-size", "8", "--kv-offloading-backend", "lmcache")
    assert deployment.tiers == ()
    assert {one.flag for one in unread} == {"--kv-offloading-size", "--kv-offloading-backend"}


def test_what_has_no_place_inside_a_connector_is_listed() -> None:
    extra = {"cpu_bytes_to_use": 10**10, "lazy_offload": True, "secondary_tiers": [{"type": "obj", "bucket": "b"}]}
    text = json.dumps({"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra})
    deployment, unread = imported("vllm", "--kv-transfer-config", text)
    assert len(deployment.tiers) == 1
    inside = "--kv-transfer-config.kv_connector_extra_config"
    assert {one.flag: one.reason.partition(",")[0] for one in unread} == {
        f"{inside}.lazy_offload": "it is not a part of the model of KV tiers",
        f"{inside}.secondary_tiers": "of secondary tiers",
    }


def test_another_connector_has_no_place() -> None:
    text = json.dumps({"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"})
    deployment, unread = imported("vllm", "--kv-transfer-config", text)
    assert deployment.tiers == ()
    assert "not of LMCacheConnectorV1" in unread[0].reason


def test_hicache_by_ratio_and_by_the_default_of_the_machine() -> None:
    words = ("--tp", "8", "--enable-hierarchical-cache")
    by_machine, _ = imported("sglang", *words)
    assert by_machine.tiers[0].capacity.value is None
    by_ratio, _ = imported("sglang", *words, "--hicache-ratio", "2")
    twice, _ = imported("sglang", *words, "--hicache-ratio", "4")
    assert twice.tiers[0].capacity.value == pytest.approx(2 * (by_ratio.tiers[0].capacity.value or 0), rel=1e-9)
    assert 100e9 < (by_ratio.tiers[0].capacity.value or 0) / 8 < 250e9  # two caches of an H200
    old = Command(
        ("python3", "-m", "sglang.launch_server"), ("--model-path", DENSE, "--enable-hierarchical-cache", "--tp", "8")
    )
    older, _ = read([old], system="scalex40", dialect="sglang-das-main")
    assert older.tiers[0].capacity.value is not None  # --hicache-ratio has the default 2.0 there


def test_flags_of_tiers_without_tiers_have_no_effect() -> None:
    deployment, unread = imported("sglang", "--hicache-size", "30", "--page-size", "64")
    assert deployment.tiers == ()
    assert {one.flag for one in unread} == {"--hicache-size", "--page-size"}
    deployment, unread = imported("sglang", "--enable-hierarchical-cache", "--disable-radix-cache")
    assert deployment.tiers == ()
    assert "without a prefix cache" in unread[0].reason


@pytest.mark.parametrize(
    ("engine", "words", "message"),
    [
        ("vllm", ("--kv-offloading-size", "0"), "'0' is not a size|0.0 is not a size"),
        ("vllm", ("--kv-offloading-size", "much"), "is not"),
        ("vllm", ("--kv-transfer-config", '{"kv_connector": "OffloadingConnector", "kv_connector_extra_config": '
                  '{"cpu_bytes_to_use": -1}}'), "-1 is not a size"),
        ("vllm", ("--kv-transfer-config", '{"kv_connector": "OffloadingConnector", "kv_connector_extra_config": '
                  '{"eviction_policy": "cost"}}'), "none of lru and arc"),
        ("vllm", ("--kv-transfer-config", '{"kv_connector": "OffloadingConnector", "kv_connector_extra_config": '
                  '{"store_threshold": "x"}}'), "store_threshold 'x' is not a count"),
        ("sglang", ("--enable-hierarchical-cache", "--hicache-ratio", "-3"), "is not a ratio"),
        ("sglang", ("--enable-hierarchical-cache", "--hicache-size", "-3"), "negative"),
        ("sglang", ("--enable-hierarchical-cache", "--page-size", "0"), "at least 1"),
        ("sglang", ("--encoder-only",), "a pool of encoders is not modelled"),
        ("vllm", ("--mm-encoder-only",), "a pool of encoders is not modelled"),
    ],
)  # fmt: skip
def test_bad_commands_are_refused(engine: str, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        imported(engine, *words)


def test_instances_with_different_tiers_are_no_role() -> None:
    commands = [Command(("vllm", "serve"), (DENSE, "--kv-offloading-size", size)) for size in ("8", "9")]
    with pytest.raises(SpecError, match="different KV tiers"):
        read(commands, system="hgx-h200", dialect=VLLM)
