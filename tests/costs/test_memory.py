"""Where memory goes: sums by hand, and laws over all splits."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.costs.cases import LLAMA, MODELS, R1, model, on, splits
from tokenworks.costs.activations import activation_bytes
from tokenworks.costs.memory import buffer_bytes, cache_bytes, memory
from tokenworks.costs.split import Split
from tokenworks.costs.weights import weight_bytes
from tokenworks.specs.deployment import Parallel, Role
from tokenworks.specs.engine import load_engine
from tokenworks.specs.model import weight_bytes as all_weights

VLLM = load_engine("vllm")
GROUP = 1.6 * 2**30
SETTING: dict[str, Any] = {"engine": VLLM, "max_sequences": 64, "chunk_tokens": 8192, "memory_fraction": 0.9}


@pytest.mark.parametrize("name", MODELS)
def test_one_device_holds_all_weights(name: str) -> None:
    checkpoint = model(name)
    assert weight_bytes(checkpoint, Split()) == pytest.approx(all_weights(checkpoint))


def test_drafts_are_held_where_they_run() -> None:
    checkpoint = model(R1)
    drafting = weight_bytes(checkpoint, Split(draft_tokens=1)) - weight_bytes(checkpoint, Split())
    stored = sum(m.stored for block in checkpoint.draft for m in block.matrices)
    assert stored < drafting < 1.001 * stored  # and the vectors of the norms


def test_experts_and_attention_are_split_apart() -> None:
    """DeepSeek-R1 on 40 devices, EP40 with 24 copies: 7 of 256 experts each; attention over tp 4 (by hand).

    58 layers x 7 x 3 x 7168 x 2048 at (1 + 4/16384) byte = 17.89 GB of experts.
    """
    checkpoint = model(R1)
    wide = Split(tp=4, dp=10, ep=40, redundant=24)
    experts = 58 * 7 * 3 * 7168 * 2048 * (1 + 4 / 16384)
    rest = weight_bytes(checkpoint, Split(tp=4, dp=10, ep=256)) - experts / 7
    assert weight_bytes(checkpoint, wide) == pytest.approx(rest + experts)
    assert 20e9 < weight_bytes(checkpoint, wide) < 25e9


def test_grouped_cache_by_hand() -> None:
    """Llama-3.1-70B: 80 layers x 2 x 8 heads x 128 x 2 bytes = 327,680 a token; tp divides it down to one head."""
    per_token, per_sequence = cache_bytes(model(LLAMA), Split(tp=np.array([1, 8, 16]), kv_bytes=2.0))
    assert np.array_equal(per_token, [327680, 40960, 40960])
    assert np.all(per_sequence == 0)


def test_latent_cache_by_hand() -> None:
    """DeepSeek-R1: 61 layers x 576 x 2 bytes = 70,272 bytes a token on every tp rank; a half in FP8."""
    per_token, _ = cache_bytes(model(R1), Split(tp=np.array([1, 8]), kv_bytes=np.array([2.0, 1.0])))
    assert np.array_equal(per_token, [70272, 35136])


def test_windows_are_kept_per_sequence() -> None:
    """gpt-oss-120b: 18 layers keep 128 tokens, 18 keep all: 2 x 8 x 64 x 2 bytes each."""
    per_token, per_sequence = cache_bytes(model("openai/gpt-oss-120b"), Split(kv_bytes=2.0))
    assert per_token == 18 * 2048
    assert per_sequence == 18 * 128 * 2048


def test_vendor_figures_of_the_kv_capacity() -> None:
    """The formula with 0.9 of vendor GB, 671e9 bytes of weights and 70,272 bytes a token (BF16).

    One copy on 40 x 144 GB: 64.2 M tokens; on 5 x 8 x 141 GB, a copy a box: 24.5 M; on 5 x 8 x 96 GB: 1.44 M.
    """

    def tokens(devices: int, gigabytes: float, boxes: int) -> float:
        return boxes * (0.9 * devices * gigabytes * 1e9 - 671e9) / 70272 / 1e6

    assert tokens(40, 144, 1) == pytest.approx(64.2, abs=0.05)
    assert tokens(8, 141, 5) == pytest.approx(24.5, abs=0.05)
    assert tokens(8, 96, 5) == pytest.approx(1.44, abs=0.01)


def test_all_is_accounted_for() -> None:
    room = memory(model(R1), on("scalex40"), Split(tp=4, dp=10, ep=40, redundant=24), **SETTING)
    used = room.weights + room.activations + room.buffers + room.reserve + room.kv
    assert used == pytest.approx(room.usable)
    assert room.usable == pytest.approx(0.9 * 147440 * 2**20)
    assert room.kv_tokens == pytest.approx(10 * room.kv / 70272)


def test_what_does_not_fit_is_negative_and_holds_no_tokens() -> None:
    room = memory(model(R1), on("scalex40"), Split(), **SETTING)
    assert room.kv < 0
    assert room.kv_tokens == 0


def test_dispatch_buffers_by_hand() -> None:
    """DeepEP low-latency, 128 tokens, 256 experts, 7,168 wide: 4 x 128 x 256 x 14,336 = 1.88 GB, and a group."""
    spread = buffer_bytes(model(R1), Split(dp=40, ep=40), VLLM, max_sequences=64)
    assert spread == pytest.approx(4 * 128 * 256 * 14336 + GROUP)
    crowd = buffer_bytes(model(R1), Split(dp=40, ep=40), VLLM, max_sequences=40 * 640)
    assert crowd == pytest.approx(4 * 640 * 256 * 14336 + GROUP)
    assert buffer_bytes(model(R1), Split(tp=8, ep=8), VLLM, max_sequences=64) == pytest.approx(GROUP)
    assert buffer_bytes(model(R1), Split(), VLLM, max_sequences=64) == 0


def test_a_dense_layer_by_hand() -> None:
    """Llama-3.1-70B over tp 8, 8,192 tokens: 2 byte x (4 x 8,192 + 3 x 28,672 / 8) = 0.71 GB."""
    peak = activation_bytes(model(LLAMA), Split(tp=8), VLLM, max_sequences=1, chunk_tokens=8192)
    assert peak == pytest.approx(8192 * 2 * (4 * 8192 + 3 * 28672 / 8))


def test_the_sampler_of_many_sequences_is_the_peak() -> None:
    """1,024 sequences x 128,256 x 39 byte = 5.1 GB, beside the hidden states of the chunk; tp does not divide it."""
    one, eight = (activation_bytes(model(LLAMA), Split(tp=tp), VLLM, max_sequences=1024, chunk_tokens=8192)
                  for tp in (1, 8))  # fmt: skip
    assert one == eight == pytest.approx(1024 * 128256 * 39 + 8192 * 8192 * 2)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=40)
@given(data=st.data())
def test_all_ranks_together_hold_a_whole_model(name: str, data: st.DataObject) -> None:
    """The fullest rank holds at least the mean: devices x fullest >= one copy."""
    checkpoint = model(name)
    split = data.draw(splits(checkpoint))
    assert weight_bytes(checkpoint, split) * split.devices >= all_weights(checkpoint) * (1 - 1e-9)


@settings(max_examples=60)
@given(split=splits(model(R1)), more=st.sampled_from([1, 10, 1000]))
def test_more_load_leaves_less(split: Split, more: int) -> None:
    small = memory(model(R1), on("scalex40"), split, **SETTING)
    large = memory(
        model(R1), on("scalex40"), split, **(SETTING | {"max_sequences": 64 * more, "chunk_tokens": 8192 * more})
    )
    assert large.kv <= small.kv
    assert large.kv_tokens <= small.kv_tokens


def test_arrays_and_numbers_agree() -> None:
    tp, pp = np.array([1, 2, 8, 8]), np.array([1, 2, 1, 4])
    together = memory(model(R1), on("scalex40"), Split(tp=tp, pp=pp, ep=1, expert_tp=tp), **SETTING)
    for index in range(4):
        alone = memory(model(R1), on("scalex40"), Split(tp=tp[index], pp=pp[index], expert_tp=tp[index]), **SETTING)
        for field in ("weights", "activations", "buffers", "kv", "kv_tokens", "kv_bytes_per_token"):
            assert np.broadcast_to(getattr(together, field), 4)[index] == pytest.approx(float(getattr(alone, field)))


def test_a_role_becomes_a_split() -> None:
    role = Role(
        name="decode",
        parallel=Parallel(tp=2, pp=3, dp=4, ep=8),
        redundant_experts=8,
        kv_dtype="fp8",
        draft_tokens=2,
    )
    assert Split.of(role) == Split(tp=2, pp=3, dp=4, ep=8, redundant=8, kv_bytes=1.0, draft_tokens=2)
    assert Split.of(role).devices == 24
