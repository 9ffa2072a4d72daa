"""Memory of training: weights, states and activations by hand, and two published runs that must fit."""

import dataclasses

import pytest

from tests.costs.cases import model, on
from tests.costs.test_train import DEEPSEEK_PLAN
from tests.costs.train_cases import DEEPSEEK, LLAMA_405B, QWEN, bare, run, trained
from tokenworks.costs.kernels import kernels
from tokenworks.costs.train_memory import checkpoint_bytes, kept_bytes, stage_memory, train_memory
from tokenworks.costs.train_plan import TrainPlans
from tokenworks.costs.train_weights import stage_layers, stage_weights
from tokenworks.specs.model import draft_parameters, parameters
from tokenworks.specs.training_text import load_training

LLAMA_8B = "meta-llama/Meta-Llama-3.1-8B"
BOX, H100 = "hgx-h100", "1024xhgx-h100@roce400"
LLAMA_PLAN = "tp=8,pp=16,dp=64,gbs=2048,seq=8192,zero=2"


def plans(text: str) -> TrainPlans:
    """The plan of a short form."""
    return TrainPlans.of(load_training(text))


@pytest.mark.parametrize(
    ("zero", "weights", "gradients", "states"), [(0, 2, 4, 12), (1, 2, 4, 12 / 8), (2, 2, 4 / 8, 12 / 8)]
)
def test_states_of_zero(zero: int, weights: float, gradients: float, states: float) -> None:
    """Adam in mixed precision on 8 ranks, per weight: 2 byte, 4 of its gradient, 12 of states and copy.

    ZeRO, arXiv:1910.02054, figure 1, with gradients in 32 bits as Megatron-LM adds them up.
    """
    memory = train_memory(model(LLAMA_8B), bare(BOX), plans(f"dp=8,gbs=8,zero={zero}"))
    count = parameters(model(LLAMA_8B))
    assert memory.weights == pytest.approx(weights * count)
    assert memory.gradients == pytest.approx(gradients * count)
    assert memory.optimiser == pytest.approx(states * count)


def test_states_of_zero_3_and_of_copies_of_shards() -> None:
    """FSDP divides all 18 byte, and holds two whole layers. HSDP over 4 of 8 ranks divides by 4."""
    count, layer = parameters(model(LLAMA_8B)), parameters(model(LLAMA_8B)) / 32
    for shard in (8, 4):
        memory = train_memory(model(LLAMA_8B), bare(BOX), plans(f"dp=8,gbs=8,zero=3,shard={shard}"))
        assert memory.weights == pytest.approx(2 * count / shard + 2 * 2 * layer)
        assert memory.gradients + memory.optimiser == pytest.approx(16 * count / shard)


def test_activations_of_a_llama_layer_by_hand() -> None:
    """Llama-3.1-405B, tp 8, 8,192 tokens: 4 h of norms, h + 2 kv, the output h, and 3 f, in 2 byte, and a log-sum."""
    stack = kernels(model(LLAMA_405B).blocks, 8)
    kept = kept_bytes(stack, model(LLAMA_405B), bare(H100), plans("tp=8,gbs=1,seq=8192")) / 126
    h, kv, f = 16384, 1024, 53248
    assert kept == pytest.approx(8192 / 8 * (2 * (4 * h + h + 2 * kv + h + 3 * f) + 4 * 128), rel=1e-6)
    without = kept_bytes(stack, model(LLAMA_405B), bare(H100), plans("tp=8,gbs=1,seq=8192,sp=false")) / 126
    assert without - kept == pytest.approx(8192 * 2 * 4 * h * 7 / 8, rel=1e-6)


def test_activations_of_experts_by_hand() -> None:
    """Qwen3-30B-A3B, 4,096 tokens: 8 copies of the residual and 8 x 3 x 768 inside experts, in every layer."""
    blocks, rates = model(QWEN).blocks, bare(BOX)
    both = [
        kept_bytes(kernels(blocks, 4), model(QWEN), rates, plans(f"dp=8,ep=8,gbs=8,seq=4096{more}"))
        for more in ("", ",recompute=selective,modules=moe")
    ]
    assert both[0] - both[1] == pytest.approx(48 * 4096 * 8 * 2 * (2048 + 3 * 768), rel=1e-6)


def test_llama_405b_fits_as_published() -> None:
    """Llama 3, arXiv:2407.21783, section 3.3.2: tp 8, pp 16 and ZeRO 2 on H100 of 80 GB, without recompute.

    By hand, second stage: 8 of 126 layers of 3.19 B weights / 8, 6 byte each, and 15 micro-batches x 8 layers of
    533 MB. That is 5 % over the memory of the card. The paper frees tensors early, "including the input and output
    tensors of each pipeline stage", and this count keeps them. Norms and activation functions that run again need less
    than the card has.
    """
    whole = train_memory(model(LLAMA_405B), trained(H100), plans(LLAMA_PLAN))
    layer = 3 * 16384 * 53248 + 2 * 16384 * 16384 + 2 * 16384 * 1024
    by_hand = 8 * layer / 8 * (2 + 4 + 12 / 64) + 15 * 8 * 8192 / 8 * 2 * 260096
    at_second = stage_memory(model(LLAMA_405B), bare(H100), plans(LLAMA_PLAN), 1)
    assert at_second.total - at_second.buffers == pytest.approx(by_hand, rel=0.01)
    assert whole.total == pytest.approx(on(H100).hbm_bytes, rel=0.08)
    lean = f"{LLAMA_PLAN},recompute=selective,modules=layernorm+activation"
    assert train_memory(model(LLAMA_405B), trained(H100), plans(lean)).fits
    # On 16,384 cards with 8 chunks of a layer: a batch has as many micro-batches as the pipeline has stages.
    wide = "tp=8,pp=16,dp=128,gbs=2048,seq=8192,zero=2,vpp=8"
    assert train_memory(model(LLAMA_405B), trained("2048xhgx-h100@roce400"), plans(wide)).fits


def test_deepseek_v3_as_published() -> None:
    """DeepSeek-V3, arXiv:2412.19437, section 3: pp 16, ep 64, ZeRO 1, DualPipe on H800 of 80 GB, no tensor parallelism.

    By hand, a layer: 187 M of attention, 44 M of a shared expert, 4 of 256 experts of 44 M. A device holds two stages
    of 4 layers. The ends are the fullest: they hold embedding and head, 7.4 GB of gradients alone. The count is 2 %
    over the card: the paper keeps more activations in 8 bits than the inputs of GEMMs and activation functions.
    """
    mid = stage_weights(model(DEEPSEEK), plans(DEEPSEEK_PLAN), 5)
    assert mid.experts == pytest.approx(4 * 4 * 3 * 7168 * 2048 * 58 / 61)
    assert mid.dense == pytest.approx(4 * (187e6 + (58 * 44e6 + 3 * 396e6) / 61), rel=0.02)
    memory = train_memory(model(DEEPSEEK), trained("256xhgx-h800@ndr"), plans(DEEPSEEK_PLAN))
    assert memory.total == pytest.approx(on("256xhgx-h800@ndr").hbm_bytes, rel=0.04)


def test_zero_2_scatters_the_gradients_of_a_chunk_after_its_run() -> None:
    """8 chunks: a device keeps its part of the gradients, and whole ones of two chunks."""
    plan = "tp=8,pp=16,dp=64,gbs=2048,seq=8192,vpp=8,zero="
    whole, parts = (run(LLAMA_405B, bare("1024xhgx-h100@ndr"), plan + stage).memory.gradients for stage in "12")
    assert parts / whole == pytest.approx(2 / 8 + 1 / 64)
    flat = "tp=8,pp=16,dp=64,gbs=2048,seq=8192,zero="
    one, two = (run(LLAMA_405B, bare("1024xhgx-h100@ndr"), flat + stage).memory.gradients for stage in "12")
    assert one == two


def test_popular_experts_of_many_layers_average_out() -> None:
    """The fullest rank of one layer is not the fullest rank of all: its excess falls with the root of the layers."""
    skewed = dataclasses.replace(bare(BOX), skew=0.5)
    plan = "dp=8,ep=8,gbs=8,seq=4096"
    more = run(QWEN, skewed, plan).memory.activations / run(QWEN, bare(BOX), plan).memory.activations
    assert 1.0 < more < 1.05


def test_layers_of_stages() -> None:
    """126 layers on 16 stages: 7 on the first and on the last one, 8 on the others. Every layer has one place."""
    assert [stage_layers(126, 16, at) for at in range(16)] == [7] + 14 * [8] + [7]
    for layers in range(4, 40):
        for stages in range(1, 5):
            assert sum(float(stage_layers(layers, stages, at)) for at in range(stages)) == layers


def test_endless_memory_fits_all() -> None:
    endless = dataclasses.replace(trained(BOX), hbm_bytes=float("inf"))
    assert run(LLAMA_405B, endless, "gbs=1").memory.fits
    assert not run(LLAMA_405B, trained(BOX), "gbs=1").memory.fits


def test_less_memory_by_policies() -> None:
    """Each policy takes memory away, and none adds."""
    base = "tp=4,pp=2,dp=1,gbs=8,seq=8192"
    usual = run(LLAMA_8B, trained(BOX), base).memory
    for more in (
        "recompute=full", "recompute=selective,modules=mlp", "recompute=selective,modules=layernorm+activation",
        "offload_layers=8", "precision=fp8,gather=fp8", "states=bf16", "optimiser=adafactor", "gradients=bf16",
        "master=none", "offload=1",
    ):  # fmt: skip
        assert run(LLAMA_8B, trained(BOX), f"{base},{more}").memory.total < usual.total, more


def test_checkpoint() -> None:
    """A checkpoint of mixed precision with Adam has 2 + 4 + 8 byte for each weight."""
    assert checkpoint_bytes(model(LLAMA_8B), plans("gbs=1")) == pytest.approx(14 * parameters(model(LLAMA_8B)))
    draft = checkpoint_bytes(model(DEEPSEEK), plans("gbs=1,draft_layers=true")) / 14
    assert draft == pytest.approx(parameters(model(DEEPSEEK)) + draft_parameters(model(DEEPSEEK)))
