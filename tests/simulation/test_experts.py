"""Experts during a run: drift, EPLB every N steps, pauses, and what a result says of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenworks.engine.types import Status
from tokenworks.errors import SpecError
from tokenworks.simulation.expert_group import settled
from tokenworks.simulation.experts import HOST_S, Level, Track
from tokenworks.simulation.popularity import Popularity, routed
from tokenworks.simulation.run import Simulation, simulate
from tokenworks.simulation.source import Source
from tokenworks.specs.deployment import Deployment, Eplb, Parallel, Role
from tokenworks.specs.experts import ExpertCounts, ExpertLoad
from tokenworks.specs.hf import load_model
from tokenworks.specs.model import Experts

MODEL = "Qwen/Qwen3-30B-A3B"
WIDE = Parallel(dp=8, ep=8)


def run(
    experts: Any = None, *, role: Role | None = None, engine: Any = "sglang", requests: int = 400, model: str = MODEL
) -> Simulation:
    chosen = role or Role(parallel=WIDE, max_sequences=512, chunk_tokens=16384, eplb=Eplb(every_steps=200))
    deployment = Deployment(model=model, system="hgx-h100", engine=engine, roles=(chosen,))
    source = Source.read(None, {"isl": 500, "osl": 200, "rate": 40}, requests=requests)
    return simulate(deployment, source.traffic(), experts=experts)


@pytest.fixture(scope="module")
def drifting() -> Simulation:
    return run({"alpha": 1.0, "half_life": "20 s"})


# ── popularity ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_states_of_a_drifting_order() -> None:
    load = ExpertLoad(alpha=0.8, half_life=640.0, seed=1)
    experts = Experts(64, 4, 8, 8)
    one, other = Popularity(load, experts, 3, 100.0), Popularity(load, experts, 3, 100.0)
    assert one.step_s == 10.0
    assert (one.number(0), one.number(9.9), one.number(10.0), one.start_s(3)) == (0, 0, 1, 30.0)
    assert (one.state(7) == other.state(7)).all()  # by the seed alone, in any order of questions
    assert (one.state(2) == other.state(2)).all()
    assert np.sort(one.state(7)) == pytest.approx(np.sort(one.state(0)))  # the law never changes, the order does
    assert (one.state(7) != one.state(0)).any()
    assert one.mean(one.window(0, 25)) == pytest.approx((one.state(0) + one.state(1) + one.state(2)) / 3)


def test_equal_popularity_and_no_half_life_have_one_state() -> None:
    for load in (ExpertLoad(alpha=0.0, half_life=10.0), ExpertLoad(alpha=1.0)):
        states = Popularity(load, Experts(64, 4, 8, 8), 3, 100.0)
        assert (states.number(1e6), states.start_s(1)) == (0, np.inf) or load.alpha == 0
        assert states.number(1e6) == 0


def test_a_run_with_a_short_half_life_has_a_bounded_number_of_states() -> None:
    states = Popularity(ExpertLoad(alpha=1.0, half_life=1.0), Experts(64, 4, 8, 8), 3, 25_600.0)
    assert states.number(25_600.0) == 256


def test_recorded_counts() -> None:
    counts = np.array([[[3.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 2.0, 2.0]]])
    states = Popularity(ExpertCounts(np.array([5.0, 60.0]), counts, "file"), Experts(4, 1, 8, 8), 1, 100.0)
    assert states.state(0).tolist() == [[0.75, 0.25, 0, 0]]
    assert [states.number(at) for at in (0, 59, 60, 1e9)] == [0, 0, 1, 1]
    assert (states.start_s(1), states.start_s(2)) == (60.0, np.inf)
    with pytest.raises(SpecError, match="has 1 layers, the model has 2"):
        Popularity(ExpertCounts(np.array([0.0]), counts[:1], "file"), Experts(4, 1, 8, 8), 2, 1.0)
    with pytest.raises(SpecError, match="has 4 experts, the model has 8"):
        Popularity(ExpertCounts(np.array([0.0]), counts[:1], "file"), Experts(8, 1, 8, 8), 1, 1.0)


# ── runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_with_drift(drifting: Simulation) -> None:
    (track,) = drifting.tracks
    plain = drifting.plain()["experts"]["roles"][0]
    assert (drifting.outcome.status == Status.COMPLETED).all()
    assert plain["rebalances"] == len(track.moved) > 1
    steps = drifting.outcome.pools[0].steps
    assert plain["rebalances"] == pytest.approx(steps / 200, abs=1.5)  # every 200 steps
    assert 1 <= plain["balance"] < plain["plain_balance"] <= plain["worst_balance"] <= 8 + 1e-9
    assert plain["pause_s"] > HOST_S * plain["rebalances"]  # SGLang stands still
    assert plain["moved_between_bytes"] == 0  # one domain
    experts = load_model(MODEL).blocks[0].matrices
    size = sum(one.stored / 128 for one in experts if one.part == "experts")
    assert plain["moved_inside_bytes"] == pytest.approx(plain["moved_copies"] * size)
    assert 0 < plain["touched"] <= 16
    assert plain["series"]["at_s"] == sorted(plain["series"]["at_s"])
    assert 1 < len(track.levels) <= 16
    assert [one.limit for one in track.levels] == sorted(one.limit for one in track.levels)


def test_equal_inputs_give_equal_results(drifting: Simulation) -> None:
    again = run({"alpha": 1.0, "half_life": "20 s"})
    one, other = drifting.plain(), again.plain()
    one.pop("wall"), other.pop("wall")
    assert one == other


def test_experts_that_stay(drifting: Simulation) -> None:
    """Without EPLB, balance is that of the first places, and the run is slower than with EPLB if a step is."""
    still = run({"alpha": 1.0, "half_life": "20 s"}, role=Role(parallel=WIDE, max_sequences=512, chunk_tokens=16384))
    plain = still.plain()["experts"]["roles"][0]
    assert (plain["rebalances"], plain["eplb"], plain["pause_s"], plain["moved_copies"]) == (0, None, 0, 0)
    assert plain["balance"] == pytest.approx(plain["plain_balance"])
    assert "stay in their first places" in " ".join(still.notes)


def test_popular_experts_cost_time() -> None:
    """Larger differences of popularity, slower steps; without EPLB."""
    role = Role(parallel=WIDE, max_sequences=512, chunk_tokens=16384)
    tpot = [run({"alpha": alpha}, role=role).metrics.mean_tpot_ms for alpha in (0.0, 0.6, 1.2)]
    assert tpot[0] < tpot[1] < tpot[2]


def test_copies_that_move_in_the_background() -> None:
    """VLLM does not pause; the new places count when the copies have arrived."""
    role = Role(parallel=WIDE, max_sequences=512, chunk_tokens=16384, eplb=Eplb(every_steps=300, window_steps=100))
    plain = run({"alpha": 1.0}, role=role, engine="vllm").plain()["experts"]["roles"][0]
    assert plain["pause_s"] == 0
    assert plain["rebalances"] >= 1
    assert plain["eplb"]["in_background"] is True
    first, last = plain["series"]["balance"][0], plain["series"]["balance"][-1]
    assert last < first == pytest.approx(plain["plain_balance"])
    assert plain["series"]["at_s"][1] > HOST_S


def test_utilization_that_is_high_enough_moves_nothing() -> None:
    role = Role(parallel=WIDE, max_sequences=512, chunk_tokens=16384,
                eplb=Eplb(every_steps=200, min_utilization=0.01))  # fmt: skip
    assert run({"alpha": 1.0}, role=role).plain()["experts"]["roles"][0]["rebalances"] == 0


def test_without_popularity_nothing_changes() -> None:
    """The field `eplb` alone gives the bytes of a run without it, but for the deployment itself."""
    one, other = (run(role=Role(parallel=WIDE, max_sequences=512, eplb=eplb)).plain() for eplb in (None, Eplb()))
    assert "experts" not in one
    for plain in (one, other):
        plain.pop("wall"), plain.pop("inputs")
    assert one == other


def test_recorded_counts_in_a_run(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [
        f"{time},{layer},{expert},{count}"
        for time in (0, 5)
        for layer in range(48)
        for expert, count in enumerate(random.integers(1, 40, 128))
    ]
    file = tmp_path / "counts.csv"
    file.write_text("time,layer,expert,count\n" + "\n".join(rows) + "\n")
    plain = run(file).plain()["experts"]
    assert plain["load"] == str(file)
    assert len(plain["roles"][0]["series"]["at_s"]) >= 2
    file.write_text("time,layer,expert,count\n" + "\n".join(rows[:640]) + "\n")
    with pytest.raises(SpecError, match="has 5 layers, the model has 48"):
        run(file)


def test_models_and_roles_without_experts() -> None:
    dense = Role(parallel=Parallel(tp=8))
    with pytest.raises(SpecError, match="has no routed experts"):
        run({"alpha": 0.5}, role=dense, model="Qwen/Qwen3-8B")
    with pytest.raises(SpecError, match="each rank has all experts"):
        run({"alpha": 0.5}, role=Role(parallel=Parallel(tp=8, expert_tp=8)))
    with pytest.raises(SpecError, match="no routed experts"):
        routed(load_model("Qwen/Qwen3-8B"))


def test_defaults_of_the_engines() -> None:
    """Redundant experts alone turn EPLB on, as launch commands do."""
    assert settled(Role(parallel=WIDE), "vllm") is None
    copies = Role(parallel=WIDE, redundant_experts=8)
    assert settled(copies, "vllm") == Eplb(every_steps=3000, window_steps=1000, in_background=True)
    assert settled(copies, "sglang") == Eplb(every_steps=1000, window_steps=1000, in_background=False)
    own = Role(parallel=WIDE, eplb=Eplb(every_steps=100, in_background=False))
    assert settled(own, "vllm") == Eplb(every_steps=100, window_steps=100, in_background=False)


def test_means_over_time(drifting: Simulation) -> None:
    group = drifting.tracks[0].group
    levels: tuple[Level, ...] = drifting.tracks[0].levels
    track = Track(group, levels, at_s=[0.0, 10.0, 30.0], limit=[1.0, 2.0, 9.0])
    assert track.mean(track.limit, 20.0) == pytest.approx(1.5)
    assert track.mean(track.limit, 40.0) == pytest.approx((10 + 40 + 90) / 40)
    assert track.mean(track.limit, 0.0) == 1.0
