"""Every model of the catalog has a time and a memory on machines of several kinds."""

import numpy as np
import pytest

from tests.costs.cases import achieved, model, on
from tokenworks.costs.memory import memory
from tokenworks.costs.split import Split
from tokenworks.costs.step import Batch, step
from tokenworks.specs.engine import load_engine
from tokenworks.specs.hf import model_names
from tokenworks.specs.model import Model

VLLM = load_engine("vllm")
REFUSED = "nvidia/Llama-3_3-Nemotron-Super-49B-v1"  # its block list is not in the catalog: it cannot be computed


def widths(checkpoint: Model) -> Split:
    """One and eight devices, experts spread and sliced."""
    routed = any(block.experts for block in checkpoint.blocks)
    tp = np.array([1, 8, 8, 1])
    dp, ep = (np.array([1, 1, 1, 8]), np.array([1, 1, 8, 8])) if routed else (np.ones(4), np.ones(4))
    return Split(tp=tp, dp=dp, ep=ep, expert_tp=tp * dp // ep if routed else np.ones(4))


@pytest.mark.parametrize("name", [name for name in model_names() if name != REFUSED])
def test_every_model_is_costed(name: str) -> None:
    checkpoint = model(name)
    split, load = widths(checkpoint), Batch(16, 16 * 4000.0, 2048, 2048 * 2000.0)
    for machine in ("scalex40", "hgx-h200", "cloudmatrix384"):
        cost = step(checkpoint, achieved(machine), split, load, engine=VLLM)
        assert np.all(np.isfinite(cost.seconds))
        assert np.all((cost.seconds > 1e-4) & (cost.seconds < 60))
        assert np.all(cost.flop > 0)
        room = memory(
            checkpoint, on(machine), split, engine=VLLM, max_sequences=16, chunk_tokens=2048, memory_fraction=0.9
        )
        assert np.all(room.weights > 1e8)
        assert np.all(room.kv_bytes_per_token + room.state_bytes_per_sequence > 0)
