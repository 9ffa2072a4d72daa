"""What the catalog ships: it loads, says where its numbers are from, and holds the figures that sources print."""

from __future__ import annotations

import pytest

from tokenworks.errors import SpecError
from tokenworks.specs import compose, load
from tokenworks.specs.compose import Parts
from tokenworks.specs.device import Device
from tokenworks.specs.machine import Link

DEVICES, SYSTEMS, NETWORKS = (load.catalog_names(kind) for kind in ("device", "system", "network"))
UNPLANNABLE = [
    "al128", "bw1000-8", "helios", "kunlun-32", "kunlun-64", "metax-s600", "mtt-c256", "pcie-k100-ai", "scalex-10k",
    "sd200", "tianchi-256", "tianchi-512", "unipod-s80000", "vera-rubin-nvl72",
]  # fmt: skip
TORUS = ["tpu-v5e-pod", "tpu-v6e-pod", "tpu7x-pod"]
FAMILIES = {
    "nvidia-ampere", "nvidia-hopper", "nvidia-ada", "nvidia-blackwell", "nvidia-blackwell-workstation", "nvidia-rubin",
    "amd-cdna3", "amd-cdna4", "amd-cdna5", "hygon-dcu", "ascend", "tpu", "gaudi", "intel-gpu", "cpu", "other-npu",
}  # fmt: skip


def scale_out(on: str) -> Link:
    link = compose.machine(on).scale_out
    assert link is not None
    return link


def parts(device: str) -> Parts:
    """A device as if in a system with few numbers of its own."""
    return Parts(device, 1, load.load_system("pcie-a10"), load.load(Device, load.locate("device", device)), None)


@pytest.mark.parametrize("name", DEVICES)
def test_device(name: str) -> None:
    device = load.load(Device, load.locate("device", name))
    assert device.name == name
    assert device.family in FAMILIES
    for path, quantity in parts(name).quantities().items():
        assert (quantity.value is None) == (quantity.status == "not-published"), path
        assert quantity.value is None or quantity.source, path
    rates = {dtype: rate.value for dtype, rate in device.peak.items() if rate.value}
    assert all(value >= rates.get("bf16", 0) for dtype, value in rates.items() if dtype in ("fp4", "fp8"))
    if device.hbm.capacity.value and device.hbm.sold.value:  # GB as sold are GB, GiB, or what ECC and spares leave
        assert 0.93 <= device.hbm.capacity.value / device.hbm.sold.value <= 1.09
    pair, link = device.scale_up.pair, device.scale_up.bandwidth
    assert pair is None or (pair.value and link.value and 7 * pair.value == pytest.approx(link.value))


@pytest.mark.parametrize("name", SYSTEMS)
def test_system(name: str) -> None:
    found = compose.parts(name)
    assert found.system.name == name
    assert all(quantity.value is None or quantity.source for quantity in found.quantities().values())
    assert all(fact.source for fact in found.system.facts.values())
    if name in TORUS:
        with pytest.raises(SpecError, match="no cost model of a torus"):
            compose.machine(name)
    elif name in UNPLANNABLE:
        with pytest.raises(SpecError, match=r"--assume FILE"):
            compose.machine(name)
    else:
        assert compose.machine(name).devices == found.system.devices


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str) -> None:
    network = load.load_network(name)
    assert network.name == name
    assert all(number.value for number in (network.port, network.radix, network.hop, network.endpoint))


def test_51_devices_and_one_that_stands_in() -> None:
    assert len(DEVICES) == 52
    assert "unpublished" in DEVICES


def test_what_measured_data_call_devices() -> None:
    assert {"h100", "h200", "b200", "gb200", "mi300x", "mi355x", "h800", "a10", "rtx-pro-6000"} <= set(DEVICES)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("A100-SXM4-80GB", "a100"), ("a100_80gb_pcie", "a100-pcie"), ("NVIDIA A100 PCIe 40GB", "a100-pcie-40gb"),
        ("ascend910b", "ascend-910b"), ("910C", "ascend-910c"), ("hygon-k100-ai", "k100-ai"), ("rtx4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"), ("Arc Pro B60", "arc-b60"), ("gb300-nvl72", "gb300"),
        ("Instinct MI325X", "mi325x"), ("abacus", None), ("nvidia", None), ("", None),
    ],
)  # fmt: skip
def test_a_device_by_any_name_that_it_goes_by(written: str, name: str | None) -> None:
    assert load.find_device(written) == name


def test_every_device_is_found_by_its_name_and_its_aliases() -> None:
    for name in DEVICES:
        for known in (name, *load.load(Device, load.locate("device", name)).aliases):
            assert load.find_device(known.upper()) == name


@pytest.mark.parametrize(
    ("system", "fp8", "hbm", "hbm_rate", "source"),
    [
        ("scalex40", 28e15, 40 * 147440 * 2**20, 80e12, "scaleX40 article: 28 PFLOPS, 5.62 TB, 80 TB/s"),
        ("5xhgx-h100", 79.16e15, 40 * 79.2 * 2**30, 134e12, "40 x 1.979 PFLOPS, 40 x 3.35 TB/s"),
        ("5xhgx-h20", 11.84e15, 40 * 95.0 * 2**30, 160e12, "40 x 296 TFLOPS, 40 x 4 TB/s"),
    ],
)
def test_totals_that_sources_print(system: str, fp8: float, hbm: float, hbm_rate: float, source: str) -> None:
    machine = compose.machine(system)
    assert machine.devices * machine.peak["fp8"] == pytest.approx(fp8), source
    assert machine.devices * machine.hbm_bytes == pytest.approx(hbm), source
    assert machine.devices * machine.hbm_bandwidth == pytest.approx(hbm_rate), source


def test_cloudmatrix_totals() -> None:
    """arXiv 2506.12708: 289 to 300 PFLOPS BF16, 49.2 TB, 1229 TB/s."""
    machine = compose.machine("cloudmatrix384")
    assert machine.devices * machine.peak["bf16"] == pytest.approx(294.5e15, rel=0.02)
    assert machine.devices * machine.hbm_bytes == pytest.approx(49.2e12, rel=0.002)
    assert machine.devices * machine.hbm_bandwidth == pytest.approx(1229e12, rel=0.001)


def test_usable_bytes_as_start_up_logs_print_them() -> None:
    """What torch and vLLM print [GiB]; 288 GB cards as ai-dynamo/aiconfigurator systems/*.yaml @095f58a has them."""
    reported = {
        "h100": 79.2, "h200": 139.8, "h20": 95.0, "b200": 178.35, "gb200": 184.3, "a100": 79.15, "mi300x": 191.45,
        "mi355x": 287.2, "rtx-3090": 23.58, "rtx-4090": 23.6, "rtx-5090": 31.4, "l4": 22.05, "l40s": 44.4,
        "rtx-pro-6000": 95.0, "scalex40-card": 147440 / 1024, "b300": 275040 / 1024, "gb300": 284208 / 1024,
    }  # fmt: skip
    for name, gibibytes in reported.items():
        seen = load.load(Device, load.locate("device", name)).hbm.capacity.value
        assert seen == pytest.approx(gibibytes * 2**30), name


def test_one_mesh_peer_gets_a_seventh() -> None:
    link = compose.machine("hgx-mi300x").scale_up
    assert (link.bandwidth, link.pair, link.layers) == (448e9, 64e9, 0)


def test_the_totals_of_the_scalex_cluster_describe_another_card() -> None:
    """5 EFLOPS, 650 TB and 18 PB/s over 10,240 cards: half of the card of scaleX640 each, and near the BW1000."""
    cluster, rack = compose.parts("scalex-10k"), compose.parts("scalex640")
    assert cluster.devices == 16 * rack.devices
    assert cluster.device.name == "unpublished"
    own, near = rack.device, compose.parts("bw1000-8").device
    for total, mine, other in (
        (5e18, own.peak["bf16"], near.peak["bf16"]),
        (650e12, own.hbm.sold, near.hbm.sold),
        (18e15, own.hbm.bandwidth, near.hbm.bandwidth),
    ):
        assert mine.value is not None
        assert other.value is not None
        assert total / cluster.devices / mine.value == pytest.approx(0.5, abs=0.02)
        assert total / cluster.devices / other.value == pytest.approx(1.0, abs=0.11)


def test_scalex40_names_what_it_assumes() -> None:
    assert {assumption.path for assumption in compose.machine("scalex40").assumed} >= {
        "device.peak.bf16", "device.scale_up.bandwidth", "scale_up.hop", "scale_up.endpoint",
    }  # fmt: skip


def test_latency_one_layer_against_two() -> None:
    """arXiv 2505.09343, table 5: 64 B take 2.8 and 3.7 us over InfiniBand, 3.6 and 5.6 us over RoCE."""
    for network, near, far in (("ndr", 2.8e-6, 3.7e-6), ("roce400", 3.6e-6, 5.6e-6)):
        one, two = (scale_out(f"{n}xhgx-h100@{network}") for n in (2, 9))
        assert (one.layers, two.layers) == (1, 2)
        assert one.latency + one.overhead == pytest.approx(near)
        assert two.latency + two.overhead == pytest.approx(far)


def test_scalefabric_three_hops_cost_31_percent_more_than_one() -> None:
    """0.9 us of ends and 0.26 us a hop: 1.16 and 1.68 us."""
    one, two = (scale_out(on) for on in ("2xscalex40", "3xscalex40"))
    assert [one.latency, two.latency] == pytest.approx([1.16e-6, 1.68e-6])
