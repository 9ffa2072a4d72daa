"""Known numbers about scaleX40 and five 8-GPU servers: first-order KV capacity and expert traffic, by hand."""

import pytest

from tokenworks.costs.memory import cached_tokens
from tokenworks.costs.moe import direct_copies

WEIGHTS = 671e9  # DeepSeek-R1, one byte a parameter [byte]
TOKEN = 70_272  # BF16 latent of 576 elements in 61 layers [byte]: 61 x 576 x 2 (arXiv 2505.09343, table 1)
SHARE = 0.9  # of device memory that an engine takes


@pytest.mark.parametrize(
    ("copies", "devices", "vendor_gb", "millions"),
    [
        pytest.param(1, 40, 144, 64.2, id="scalex40, one copy on 40 cards"),
        pytest.param(5, 8, 141, 24.5, id="5 x 8 H200, a copy a box"),
        pytest.param(5, 8, 96, 1.44, id="5 x 8 H20, a copy a box"),
        pytest.param(5, 8, 80, 0.0, id="5 x 8 H100: a copy does not fit a box"),
    ],
)
def test_first_order_kv_capacity(copies: int, devices: int, vendor_gb: float, millions: float) -> None:
    tokens = copies * cached_tokens(SHARE * devices * vendor_gb * 1e9, WEIGHTS, TOKEN)
    assert tokens / 1e6 == pytest.approx(millions, rel=0.004)


@pytest.mark.parametrize(("domain", "crossing"), [(40, 0.0), (8, 0.8)])
def test_expert_traffic_that_leaves_the_box(domain: int, crossing: float) -> None:
    """EP40: of 40 ranks that hold an expert, 32 stand in another of five boxes, none outside a 40-card domain."""
    inside, outside = direct_copies(8, ep=40, expert_tp=1, domain=domain)
    assert outside / 8 == pytest.approx(crossing)
    assert (inside + outside) / 8 == pytest.approx(39 / 40)  # one choice in forty stays where it is
