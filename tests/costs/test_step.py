"""Steps: FLOP counted by hand, known orders of magnitude, and laws that every split and load must keep."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.costs.cases import LLAMA, MACHINES, MODELS, QWEN, R1, achieved, loads, model, on, perfect, splits
from tokenworks.arrays import Bools, Floats
from tokenworks.costs.rates import rates
from tokenworks.costs.requests import mean_of_requests, prefix_tokens
from tokenworks.costs.split import Split
from tokenworks.costs.step import COMMUNICATION, HOSTS, OVERLAPS, Batch, step
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.engine import load_engine
from tokenworks.specs.model import active_parameters

VLLM = load_engine("vllm")
FEW = settings(max_examples=40, deadline=None)
NETWORKED = {"all-reduce", "dispatch", "combine", "pipeline"}


# ── by hand ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_flop_of_a_dense_decode() -> None:
    """Llama-3.1-70B, 64 sequences of 4,000 tokens: 2 x (70.6e9 - embedding) x 64, and 4 x 64 x 128 x 80 x 256,000."""
    cost = step(model(LLAMA), achieved("hgx-h100"), Split(), Batch(64, 64 * 4000.0), engine=VLLM)
    gemm = 2 * (70.55e9 - 128256 * 8192) * 64
    assert cost.flop == pytest.approx(gemm + 80 * 32768 * 64 * 4000, rel=0.01)


def test_flop_of_a_dense_prefill() -> None:
    """Llama-3.1-70B, a prompt of 8,192: 2 x 68.4e9 x 8192 (one row of logits), causal attention half of the square."""
    cost = step(
        model(LLAMA), achieved("hgx-h100"), Split(), Batch(prefill=8192, prefill_context=8192**2 / 2), engine=VLLM
    )
    gemm = 2 * (70.55e9 - 2 * 128256 * 8192) * 8192
    assert cost.flop == pytest.approx(gemm + 80 * 32768 * 8192**2 / 2, rel=0.01)


@pytest.mark.parametrize("name", [R1, QWEN])
def test_flop_of_experts(name: str) -> None:
    """Without skew and on one rank, FLOP are 2 x active parameters x tokens, and those of attention."""
    cost = step(model(name), perfect(on("scalex40")), Split(), Batch(4096, 0.0), engine=VLLM)
    assert cost.flop == pytest.approx(2 * active_parameters(model(name)) * 4096, rel=0.01)


def test_decode_of_a_70b_on_four_h100() -> None:
    """Llama-3.3-70B in FP8 with 4 users took 12.2 ms; BF16 weights are twice the bytes: 15 to 25 ms."""
    cost = step(model(LLAMA), achieved("hgx-h100"), Split(tp=4), Batch(4, 4 * 4500.0), engine=VLLM)
    assert 15e-3 < cost.seconds < 25e-3
    assert cost.bound() == "hbm"


def test_decode_of_r1_on_gb200() -> None:
    """DeepSeek-R1 FP8, EP32 on GB200, 29 sequences a GPU of 1.5 k tokens: 19.4 ms a token measured; within 25 %."""
    cost = step(
        model(R1), achieved("gb200-nvl72"), Split(dp=32, ep=32), Batch(928, 928 * 1400.0), engine=load_engine("trtllm")
    )
    assert cost.seconds == pytest.approx(19.4e-3, rel=0.25)


def test_decode_of_r1_as_deepseek_served_it() -> None:
    """H800, EP144 with 32 copies, two-batch overlap: 14.8 k tok/s a host at 20 to 22 tok/s a user and 4,989 of context.

    That is 88 sequences a GPU and 47.6 ms (deepseek-ai/open-infra-index, day 6); within 25 %, from H100 kernels alone.
    """
    sequences = 144 * 88
    load = Batch(sequences, sequences * 4989.0)
    split = Split(dp=144, ep=144, redundant=32)
    cost = step(model(R1), achieved("18xhgx-h800"), split, load, engine=load_engine("sglang"), overlap="two-batch")
    assert cost.seconds == pytest.approx(47.6e-3, rel=0.25)


# ── laws ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", MODELS)
@FEW
@given(data=st.data(), machine=st.sampled_from(MACHINES), load=loads)
def test_no_part_is_faster_than_its_roofline(name: str, data: st.DataObject, machine: str, load: Batch) -> None:
    hardware, split = on(machine), data.draw(splits(model(name)))
    whole = step(model(name), perfect(hardware), split, load, engine=VLLM)
    links = hardware.scale_up.bandwidth + (hardware.scale_out.bandwidth if hardware.scale_out else 0.0)
    for part, cost in whole.parts.items():
        roof = cost.bytes / (2 * links) if part in NETWORKED else cost.bytes / hardware.hbm_bandwidth
        if part != "draft":  # it holds both kinds of bytes
            assert cost.seconds >= roof * (1 - 1e-9), part
        assert cost.seconds >= cost.flop / max(hardware.peak.values()) * (1 - 1e-9), part


@pytest.mark.parametrize("name", MODELS)
@FEW
@given(data=st.data(), machine=st.sampled_from(MACHINES), load=loads)
def test_calibrated_is_never_faster_than_perfect(name: str, data: st.DataObject, machine: str, load: Batch) -> None:
    split = data.draw(splits(model(name)))
    calibrated = step(model(name), achieved(machine), split, load, engine=VLLM)
    bare = step(model(name), perfect(on(machine)), split, load, engine=VLLM)
    assert calibrated.seconds >= bare.seconds * (1 - 1e-9)


@pytest.mark.parametrize("name", MODELS)
@FEW
@given(data=st.data(), load=loads, overlap=st.sampled_from(sorted(OVERLAPS)), more=st.floats(1, 8))
def test_more_load_takes_longer(name: str, data: st.DataObject, load: Batch, overlap: str, more: float) -> None:
    """More context, or more prefill; more of everything where the hottest rank is not a matter of chance.

    The load of the hottest rank over the mean falls with more tokens, so the number of sequences is not in this law.
    """
    split, device_rates = data.draw(splits(model(name))), achieved("5xhgx-h100")
    longer = dataclasses.replace(load, context=load.context * more, prefill_context=load.prefill_context * more)
    first = step(model(name), device_rates, split, load, engine=VLLM, overlap=overlap)
    assert step(model(name), device_rates, split, longer, engine=VLLM, overlap=overlap).seconds >= first.seconds * (
        1 - 1e-9
    )
    dense = model(LLAMA)
    width = dataclasses.replace(split, dp=1, ep=1, expert_tp=1, redundant=0, draft_tokens=0)
    one, two = (
        step(dense, device_rates, width, load.scaled(x), engine=VLLM, overlap=overlap).seconds for x in (1, more)
    )
    assert two >= one * (1 - 1e-9)


@pytest.mark.parametrize("name", MODELS)
@FEW
@given(data=st.data(), machine=st.sampled_from(MACHINES), load=loads, faster=st.floats(1, 4))
def test_more_bandwidth_is_never_slower(
    name: str, data: st.DataObject, machine: str, load: Batch, faster: float
) -> None:
    hardware, split = on(machine), data.draw(splits(model(name)))
    before = step(model(name), achieved(machine), split, load, engine=VLLM).seconds
    up = dataclasses.replace(
        hardware.scale_up, bandwidth=hardware.scale_up.bandwidth * faster, pair=hardware.scale_up.pair * faster
    )
    for better in (
        dataclasses.replace(hardware, hbm_bandwidth=hardware.hbm_bandwidth * faster),
        dataclasses.replace(hardware, scale_up=up),
        dataclasses.replace(hardware, peak={dtype: peak * faster for dtype, peak in hardware.peak.items()}),
    ):
        after = step(model(name), rates(better, load_calibration("datasheet")), split, load, engine=VLLM).seconds
        assert after <= before * (1 + 1e-9)


@pytest.mark.parametrize("name", MODELS)
@FEW
@given(data=st.data(), load=loads)
def test_parts_add_up(name: str, data: st.DataObject, load: Batch) -> None:
    split, device_rates = data.draw(splits(model(name))), achieved("5xhgx-h100")
    plain = step(model(name), device_rates, split, load, engine=VLLM)
    assert sum(part.seconds for part in plain.parts.values()) == pytest.approx(plain.seconds)
    halves = step(model(name), device_rates, split, load, engine=VLLM, overlap="two-batch")
    apart = {
        key: sum(p.seconds for n, p in halves.parts.items() if (n in COMMUNICATION) == key) for key in (True, False)
    }
    assert halves.seconds <= (apart[True] + apart[False]) * (1 + 1e-9)
    assert halves.seconds >= max(apart[True], apart[False] - halves.parts["host"].seconds) * (1 - 1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_arrays_and_numbers_agree(name: str) -> None:
    checkpoint, generator = model(name), np.random.default_rng(4)
    routed = any(block.experts for block in checkpoint.blocks)
    tp, dp = np.array([1, 2, 8, 4]), np.array([8, 4, 1, 10]) if routed else np.ones(4, dtype=int)
    ep = tp * dp if routed else np.ones(4, dtype=int)
    split = Split(tp=tp, dp=dp, ep=ep, redundant=np.array([0, 8, 8, 24]) * routed)
    load = Batch(*(generator.uniform(1, 4000, (3, 4)) * size for size in (1, 1000, 1, 1000, 10)))
    for overlap in OVERLAPS:
        together = step(checkpoint, achieved("5xhgx-h100"), split, load, engine=VLLM, overlap=overlap)
        for row in range(3):
            for column in range(4):
                one = Split(*(np.broadcast_to(v, 4)[column].item() for v in dataclasses.astuple(split)))
                batch = Batch(*(float(v[row, column]) for v in dataclasses.astuple(load)))
                alone = step(checkpoint, achieved("5xhgx-h100"), one, batch, engine=VLLM, overlap=overlap)
                assert np.asarray(together.seconds)[row, column] == pytest.approx(float(alone.seconds), rel=1e-12)
                assert together.bound()[row, column] == alone.bound()


@pytest.mark.parametrize("name", [R1, QWEN])
def test_instances_with_and_without_overlap_are_priced_together(name: str) -> None:
    """One call for instances of both policies gives the same bits as one call for each policy."""
    halved, parts = np.array([True, False, False, True]), (2, 8, 4, 1)
    split = Split(tp=np.array(parts), dp=np.full(4, 8), ep=np.array(parts) * 8, draft_tokens=np.array([0, 0, 1, 1]))
    load = Batch(*(np.random.default_rng(2).uniform(1, 4000, (3, 4)) * size for size in (1, 1000, 1, 1000, 10)))
    if not model(name).draft:
        split = dataclasses.replace(split, draft_tokens=0)

    def seconds(overlap: str | Bools) -> Floats:
        return np.asarray(step(model(name), achieved("5xhgx-h100"), split, load, engine=VLLM, overlap=overlap).seconds)

    whole = seconds(halved)
    assert (whole == np.where(halved, seconds("two-batch"), seconds("none"))).all()
    assert (seconds(np.zeros(4, bool)) == seconds("none")).all()
    assert (seconds(np.ones(4, bool)) == seconds("two-batch")).all()


# ── what a split does ─────────────────────────────────────────────────────────────────────────────────────────────


def test_one_domain_has_no_scale_out() -> None:
    """EP40 on scaleX40 touches no network; on five boxes of eight H100 dispatch is bound by it."""
    split, load = Split(dp=40, ep=40, redundant=24), Batch(4000, 4000 * 2000.0)
    box = step(model(R1), achieved("scalex40"), split, load, engine=VLLM)
    assert all(np.all(part.roofs.get("scale-out", 0.0) == 0) for part in box.parts.values())
    boxes = step(model(R1), achieved("5xhgx-h100"), split, load, engine=VLLM)
    assert boxes.parts["dispatch"].bound() == "scale-out"


def test_without_attention_dp_nothing_is_dispatched() -> None:
    cost = step(model(R1), achieved("scalex40"), Split(tp=8, ep=8), Batch(64, 64 * 2000.0), engine=VLLM)
    assert cost.parts["dispatch"].seconds == cost.parts["combine"].seconds == 0
    assert cost.parts["all-reduce"].seconds > 0


def test_a_pipeline_takes_microbatches() -> None:
    """Two stages finish the batch every pass of a half: faster for large batches, not for one sequence."""
    device_rates = achieved("hgx-h100")

    def seconds(pp: int, load: Batch) -> float:
        return float(step(model(LLAMA), device_rates, Split(tp=4, pp=pp), load, engine=VLLM).seconds)

    prefill = Batch(prefill=8192, prefill_context=8192**2 / 2)
    assert 0.5 < seconds(2, prefill) / seconds(1, prefill) < 0.6
    assert seconds(2, Batch(1, 4000.0)) > seconds(1, Batch(1, 4000.0))


def test_stages_that_do_not_divide_wait_for_the_fullest() -> None:
    """61 layers in 4 stages: 16 in the fullest, so a round of 4 microbatches takes 64 / 61 of the layers' time."""
    cost = step(model(R1), achieved("scalex40"), Split(pp=4), Batch(400, 400 * 4000.0), engine=VLLM)
    layers = sum(part.seconds for name, part in cost.parts.items() if name not in ("head", "pipeline", "embedding"))
    assert cost.seconds == pytest.approx(layers * 64 / 61, rel=1e-3)


def test_a_pipeline_waits_for_drafts_and_is_free_for_one() -> None:
    """The last stage has the draft layers, too; one sequence alone waits for nobody."""
    crowd, alone = (
        step(model(R1), achieved("scalex40"), Split(tp=8, ep=8, pp=5, draft_tokens=2), load, engine=VLLM).parts
        for load in (Batch(640, 640 * 4000.0), Batch(1, 4000.0))
    )
    last = crowd["head"].seconds + crowd["draft"].seconds
    hops = step(model(R1), achieved("scalex40"), Split(tp=8, ep=8, pp=5), Batch(1, 4000.0), engine=VLLM)
    layers = sum(part.seconds for name, part in crowd.items() if name not in ("head", "draft", "pipeline", "host"))
    total = sum(part.seconds for part in crowd.values())
    assert total == pytest.approx(5 * (12 / 61 * layers + last), rel=0.01)
    assert alone["pipeline"].seconds < 1.01 * hops.parts["pipeline"].seconds


def test_a_cached_latent_is_expanded_for_each_chunk() -> None:
    """DeepSeek-R1: 61 layers x 2 x 512 x 128 heads x (128 + 128) = 2.05 GFLOP a token of prefix; sparse reads none."""
    chunk, prefix = 2048.0, 30000.0
    seen = prefix + chunk / 2
    long, whole = mean_of_requests([2 * seen], [1]), mean_of_requests([4000, 2000], [1, 1])
    assert prefix_tokens(long, chunk, lanes=1) == prefix
    assert prefix_tokens(whole, 4 * 4000.0, lanes=4) == 0  # whole prompts, however their lengths vary
    assert prefix_tokens(long, 0.0, lanes=4) == 0

    def flop(name: str, tokens: float) -> float:
        load = Batch(prefill=chunk, prefill_context=chunk * seen, prefix=tokens)
        return float(step(model(name), achieved("scalex40"), Split(), load, engine=VLLM).flop)

    assert flop(R1, prefix) - flop(R1, 0.0) == pytest.approx(prefix * 61 * 2 * 512 * 128 * 256)
    for name in ("deepseek-ai/DeepSeek-V3.2", LLAMA):
        assert flop(name, prefix) == flop(name, 0.0)


def test_drafts_cost_a_pass_each_and_share_the_verification() -> None:
    load = Batch(64, 64 * 4000.0)
    off, one, two = (
        step(model(R1), achieved("scalex40"), Split(tp=8, ep=8, draft_tokens=n), load, engine=VLLM) for n in (0, 1, 2)
    )
    assert "draft" not in off.parts
    assert two.parts["draft"].seconds == pytest.approx(2 * one.parts["draft"].seconds, rel=1e-6)
    assert one.parts["attention"].bytes == off.parts["attention"].bytes
    assert one.parts["attention"].flop == 2 * off.parts["attention"].flop
    assert off.seconds < one.seconds < 2 * off.seconds


def test_a_model_without_drafts_refuses_them() -> None:
    with pytest.raises(SpecError, match="no draft layers"):
        step(model(LLAMA), achieved("scalex40"), Split(draft_tokens=1), Batch(1, 1.0), engine=VLLM)


def test_the_host_shows_where_the_device_is_quick() -> None:
    quick = step(model("Qwen/Qwen3-0.6B"), achieved("gb200-nvl72"), Split(), Batch(256, 256.0), engine=VLLM)
    assert quick.parts["host"].seconds > 0
    slow = step(model(LLAMA), achieved("gb200-nvl72"), Split(), Batch(256, 256.0), engine=VLLM)
    assert slow.parts["host"].seconds == 0
    assert HOSTS["serial"](1.0, 5.0) == 1.0
    assert (HOSTS["hidden"](1.0, 5.0), HOSTS["hidden"](5.0, 1.0)) == (0.0, 4.0)


def test_two_batches_pay_off_only_where_there_is_much_to_hide() -> None:
    """DeepSeek-R1 over five boxes: dispatch over the network hides behind a large batch, not behind a small one."""
    split, device_rates = Split(dp=40, ep=40, redundant=24), achieved("5xhgx-h100")

    def gain(sequences: int) -> float:
        load = Batch(sequences, sequences * 2000.0)
        plain, halves = (
            step(model(R1), device_rates, split, load, engine=VLLM, overlap=o).seconds for o in ("none", "two-batch")
        )
        return float(plain / halves)

    assert gain(10000) > 1.1
    assert gain(40) < 1.0


def test_dequantised_weights_are_multiplied_in_16_bits() -> None:
    """gpt-oss (MXFP4) on H100: the same bytes, and the BF16 rate for its experts; on B200 the FP8 rate."""
    from tokenworks.costs.kernels import dequantised

    gpt = model("openai/gpt-oss-120b")
    assert dequantised(gpt, on("hgx-h100").peak) == {"mxfp4": "bf16"}
    assert dequantised(gpt, on("hgx-b200").peak) == {}


def test_a_pipeline_is_no_faster_than_its_last_stage() -> None:
    """Llama-3.1-8B, pp 8: four of 32 layers a stage, and the head (0.53 of 8.03 B) on the last; all wait for it."""
    small, load = model("meta-llama/Meta-Llama-3.1-8B"), Batch(decode=512.0, context=512.0 * 1000)
    device_rates = rates(on("hgx-h100"), load_calibration())
    staged = step(small, device_rates, Split(pp=8), load, engine=load_engine("vllm"))
    alone = step(small, device_rates, Split(), Batch(decode=64.0, context=64.0 * 1000), engine=load_engine("vllm"))
    head = float(alone.parts["head"].seconds)
    layers = sum(float(alone.parts[name].seconds) for name in ("attention gemm", "attention", "dense ffn", "norms"))
    assert float(staged.seconds) >= 8 * (layers / 8 + head) * 0.999
