"""Laws of the plan that a test tries to break: the front is exact, bounds lose nothing, nothing beats its roofline."""

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import tokenworks
from tests.planning.settings import DENSE, PLAIN, R1, SESSIONS, SMALL_MOE, costing, setting
from tokenworks.legal.rules import explain
from tokenworks.legal.splits import candidates, splits
from tokenworks.pareto import beaten, front
from tokenworks.planning import aggregated as together
from tokenworks.planning import grid
from tokenworks.planning.cells import Shortlist
from tokenworks.planning.costing import Costing, OfferedLoad
from tokenworks.planning.grid import decode_times
from tokenworks.planning.plan import prepare
from tokenworks.planning.ranking import deployment
from tokenworks.planning.search import search
from tokenworks.planning.space import Ladders
from tokenworks.specs.deployment import EngineName
from tokenworks.specs.model import active_parameters, kv_bytes_per_token
from tokenworks.specs.slo import Slo
from tokenworks.specs.workload import Workload

points = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=60)


def _arrays(pairs: list[tuple[int, int]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    table = np.array(pairs, dtype=float)
    return table[:, 0], table[:, 1]


@given(points)
def test_the_front_is_exact(pairs: list[tuple[int, int]]) -> None:
    """Against all pairs: kept if and only if no other is as good in both and better in one; of equal ones the first."""
    speed, throughput = _arrays(pairs)
    kept = front(speed, throughput).tolist()
    expected = [
        index
        for index, (s, t) in enumerate(pairs)
        if not any((a >= s and b > t) or (a > s and b >= t) for a, b in pairs) and (s, t) not in pairs[:index]
    ]
    assert sorted(kept) == expected
    assert (np.diff(speed[kept]) < 0).all()


@given(points, points)
def test_beaten_is_exact(known: list[tuple[int, int]], asked: list[tuple[int, int]]) -> None:
    speed, throughput = _arrays(known)
    kept = front(speed, throughput)
    found = beaten(*_arrays(asked), speed[kept], throughput[kept])
    assert found.tolist() == [any(a >= s and b > t for a, b in known) for s, t in asked]


CASES = {
    "plain": costing(SMALL_MOE, "hgx-h100"),
    "two domains": costing(DENSE, "2xhgx-h100", engine="sglang"),
    "dense": costing(DENSE, "hgx-h200", "ttft=1s,tpot=30ms"),
    "sessions": costing(SMALL_MOE, "hgx-h100", "ttft=3s,tpot=20ms", workload=SESSIONS),
    "no slo": costing(DENSE, "hgx-h100", ""),
    "rate": costing(SMALL_MOE, "hgx-h100", load=OfferedLoad("rate", 5.0)),
    "users": costing(SMALL_MOE, "hgx-h100", load=OfferedLoad("concurrency", 64)),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_bounds_lose_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best five and the front are the same where nothing is ruled out."""
    case = CASES[name]
    bounded = search(case, keep=5).shortlist
    monkeypatch.setattr(Shortlist, "hopeless", lambda _self, speed, _output: np.zeros(speed.shape, dtype=bool))
    monkeypatch.setattr(Shortlist, "met", property(lambda _self: False))
    monkeypatch.setattr("tokenworks.planning.disaggregated.best_decode", lambda _costing, roles: roles)
    monkeypatch.setattr("tokenworks.planning.disaggregated.best_prefill", lambda _costing, roles: roles)
    free = search(case, keep=5).shortlist
    assert free.offered >= bounded.offered
    best, same = free.best[:5], bounded.best[:5]
    kept = best["effective"] > 0
    for column, error in (("effective", 1e-12), ("output", 1e-12), ("tpot", 1e-12), ("ttft_tail", 0.1)):
        # prefill roles are compared at no load and at the TTFT bound: of equal outputs, another one may be sooner
        np.testing.assert_allclose(same[column][kept], best[column][kept], rtol=error)
    for column in ("output", "tpot"):
        np.testing.assert_allclose(bounded.front[column], free.front[column], rtol=1e-12)


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_deployment_of_the_list_and_the_front_keeps_every_rule(name: str) -> None:
    case = CASES[name]
    found = search(case, keep=10)
    for cell in [*found.shortlist.best[:10], *found.shortlist.front]:
        made = deployment(found, cell)
        for role in made.roles:
            assert explain(role, case.setting) == []
        assert made.devices <= case.setting.machine.devices


FULL = Workload(name="full", isl=1000, osl=1000)


@pytest.mark.parametrize("load", [None, OfferedLoad("rate", 50.0), OfferedLoad("concurrency", 4000)])
@pytest.mark.parametrize(("model", "slo"), [("Qwen/Qwen3-8B", "tpot=1s"), (SMALL_MOE, "ttft=2s,tpot=50ms")])
def test_where_a_rung_is_legal_what_is_aimed_at_is_legal(model: str, slo: str, load: OfferedLoad | None) -> None:
    """KV caches that are the bound, too: memory beside a batch falls as the batch grows."""
    case = costing(model, "hgx-h100", slo, workload=FULL, load=load)
    found = candidates(case.setting, splits(case.setting)).points
    some = grid.estimate(case, found, *together._ladder(found, Ladders.default()))
    for target in (together._slo(case), lambda _serving, batch: 0.0 * batch, lambda _serving, batch: 2.0 + 0.0 * batch):
        batch = grid.aim(case, some, target)
        aimed, _, _ = grid.room(case, found.columns(2), batch, some.chunk)
        assert (aimed == some.legal.any(axis=1, keepdims=True)).all()
    huge = grid.hold(case, found.columns(2), np.full(batch.shape, 1e9), some.chunk)
    assert (grid.room(case, found.columns(2), huge, some.chunk)[0] == aimed).all()
    assert (huge >= 0.95 * np.where(some.legal, some.batch, 0).max(axis=1, keepdims=True)).all()


def test_a_cache_holds_all_that_run() -> None:
    """Every sequence that decodes, and one that is prefilled in each lane."""
    case = CASES["sessions"]
    found = candidates(case.setting, splits(case.setting)).points
    some = grid.estimate(case, found, *together._ladder(found, Ladders.default()))
    kv_tokens = np.broadcast_to(some.at.kv_tokens, some.legal.shape)
    need = found.columns(2).lanes * case.demand.request.isl + some.batch * case.demand.request.context
    assert (need <= kv_tokens * (1 + 1e-9))[some.legal].all()


@pytest.mark.parametrize(
    "load", [OfferedLoad("rate", 200.0), OfferedLoad("rate", 1e6), OfferedLoad("concurrency", 1e6)]
)
def test_any_load_has_a_capacity(load: OfferedLoad) -> None:
    cells = search(costing("Qwen/Qwen3-8B", "hgx-h100", workload=FULL, load=load), keep=10).shortlist.best[:10]
    assert np.isfinite(cells["capacity"]).all()
    assert (cells["capacity"] > 0).all()


@pytest.mark.parametrize(
    ("model", "on"), [(R1, "scalex40"), (SMALL_MOE, "hgx-h100"), (DENSE, "5xhgx-h20"), (DENSE, "gb200-nvl72")]
)
def test_nothing_is_above_its_roofline(model: str, on: str) -> None:
    """By hand: two FLOP a parameter and token at the fastest rate, and the KV cache read once a step."""
    case = costing(model, on, "")
    found, machine, model_ = search(case, keep=30), case.setting.machine, case.setting.model
    outside = model_.embedding.parameters + (model_.head.parameters if model_.head else 0)
    flop = 2 * (active_parameters(model_) - outside) * (PLAIN.isl / PLAIN.osl + 1)
    compute = max(machine.peak.values()) / flop
    gained = 1 + 3 * bool(model_.draft)
    read = (PLAIN.isl + PLAIN.osl / 2) * kv_bytes_per_token(model_, 1.0)
    cells = np.concatenate([found.shortlist.best, found.shortlist.front])
    share = cells["devices"] / cells["charged"]
    assert (cells["output"] <= compute * share).all()
    decoding = cells["batch"] > 1
    assert (cells["output"][decoding] <= (gained * machine.hbm_bandwidth / read * share)[decoding]).all()
    assert len(cells) > 10


@settings(max_examples=12, deadline=None)
@given(st.floats(0.2, 4.0), st.floats(0.01, 0.2), st.floats(1.0, 2.0), st.floats(1.0, 2.0))
def test_a_looser_slo_never_lowers_the_winner(ttft: float, tpot: float, more: float, longer: float) -> None:
    """Effective tokens of the best deployment rise, or stay, with either bound.

    To the resolution of the batches that are tried: where throughput has a step (a batch beyond the captured graphs),
    a tighter bound may aim at a batch just below it that the looser one does not try.
    """

    def best(ttft: float, tpot: float) -> float:
        case = costing(SMALL_MOE, "hgx-h100", f"ttft={ttft:.6f}s,tpot={tpot:.6f}s")
        return float(search(case, keep=1).shortlist.best["effective"][0])

    assert best(ttft * more, tpot * longer) >= best(ttft, tpot) * 0.98


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([2, 3, 4]), st.sampled_from([SMALL_MOE, DENSE]))
def test_more_of_the_same_machine_never_does_less(times: int, model: str) -> None:
    """What one box does, several do each: instances inside a domain cost the same there."""

    def total(on: str) -> float:
        case, shortlist = costing(model, on), Shortlist(Slo.parse("ttft=2s,tpot=50ms"), keep=1)
        legal, ladders = candidates(case.setting, splits(case.setting)), Ladders.default()
        together.search(case, legal, ladders, decode_times(case, legal.points, ladders), shortlist)
        return float(shortlist.best["effective"][0] * case.setting.machine.devices)

    assert total(f"{times}xhgx-h100") >= times * total("hgx-h100") * (1 - 1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(1, 400), st.floats(0, 60000))
def test_more_work_is_never_faster(seed: int, batch: float, tokens: float) -> None:
    """What the bounds of the search rest on: a mixed step takes at least its decode alone, and its prefill alone."""
    case = CASES["plain"]
    legal = candidates(case.setting, splits(case.setting)).points
    some = legal[np.random.default_rng(seed).integers(0, len(legal), 16)]
    both = case.seconds(some, np.full(16, batch), np.full(16, tokens))
    assert (both >= case.seconds(some, np.full(16, batch), np.zeros(16)) * (1 - 1e-12)).all()
    assert (both >= case.seconds(some, np.zeros(16), np.full(16, tokens)) * (1 - 1e-12)).all()


@pytest.mark.parametrize("piece", [1, 50, 333])
def test_the_size_of_a_call_of_the_cost_model_changes_nothing(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points are priced in pieces, and several steps in one call: each time keeps its bits."""
    case, ladders = CASES["plain"], Ladders.default()
    points = candidates(case.setting, splits(case.setting)).points[:40]
    wide, batch = points.columns(1), ladders.batches(points.lanes)[:, :6]
    whole, prefill = case.times(wide, batch, 0.0), case.times(wide, 0.0, 64.0 * batch)
    monkeypatch.setattr("tokenworks.planning.costing.PIECE", piece)
    joined = case.several(wide, [(batch, 0.0), (0.0, 64.0 * batch)], axis=1)
    for one, other in zip((whole, prefill), joined, strict=True):
        for seconds, again in zip(one.fields, other.fields, strict=True):
            assert np.array_equal(seconds, again)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([SMALL_MOE, DENSE]), st.sampled_from(["hgx-h100", "2xhgx-h20", "scalex40:8"]),
    st.integers(50, 20_000), st.integers(20, 2_000), st.sampled_from(["vllm", "sglang", "trtllm"]),
)  # fmt: skip
def test_no_estimate_exceeds_its_upper_bound(model: str, on: str, isl: int, osl: int, engine: EngineName) -> None:
    """Within 1 %, also for engines that mix prefill and decode: how the time of a token changes is no theorem."""
    if engine == "trtllm" and on.startswith("scalex"):
        return
    case = prepare(
        model, on, workload=None, isl=isl, osl=osl, rate=None, concurrency=None, slo="tpot=50ms", engine=engine,
        assume=None, calibration="serving",
    )[0]  # fmt: skip
    legal, ladders = candidates(case.setting, splits(case.setting)), Ladders.default()
    rows = np.linspace(0, len(legal.points) - 1, min(40, len(legal.points))).astype(int)
    legal = legal.kept(np.unique(rows))
    _, output, _ = together.upper_bounds(case, legal, ladders, decode_times(case, legal.points, ladders))
    grid = together.climb(case, legal.points, ladders)
    charged = case.setting.machine.devices / legal.replicas
    seen = np.where(grid.legal & (grid.serving.busy < together.STEADY), grid.serving.rate * osl, 0.0)
    best = (seen / charged[:, None, None]).max(axis=2)
    assert (best <= output[:, : best.shape[1]] * 1.01).all()


def test_two_runs_give_the_same_bytes() -> None:
    def once() -> bytes:
        plain = tokenworks.plan(
            SMALL_MOE, "hgx-h100", isl=2000, osl=200, slo="ttft=1s,tpot=40ms", simulate=False
        ).plain()
        del plain["wall"]
        return msgspec.json.encode(plain)

    assert once() == once()


def test_order_of_the_splits_does_not_matter() -> None:
    """The same best and the same front if the search meets the splits in another order."""
    case = CASES["plain"]
    legal = candidates(case.setting, splits(case.setting))

    def found(order: NDArray[np.int64]) -> Shortlist:
        shortlist, kept, ladders = Shortlist(case.slo, keep=5), legal.kept(order), Ladders.default()
        together.search(case, kept, ladders, decode_times(case, kept.points, ladders), shortlist)
        return shortlist

    one = found(np.arange(len(legal.points)))
    other = found(np.random.default_rng(7).permutation(len(legal.points)))
    for column in ("effective", "tpot", "ttft_tail"):
        np.testing.assert_array_equal(one.best[column][:5], other.best[column][:5])
        np.testing.assert_array_equal(one.front[column], other.front[column])


def test_a_given_rate_takes_no_more_devices_than_all_that_fit() -> None:
    """Effective tokens a device at a given rate: rate x osl over the devices in use, all of them expected to be met."""
    case = CASES["rate"]
    found = search(case, keep=5).shortlist.best[:5]
    met = found[found["effective"] > 0]
    np.testing.assert_allclose(met["effective"] * met["devices"], 5.0 * PLAIN.osl, rtol=0.03)
    whole = dataclasses.replace(case, load=None)
    assert isinstance(whole, Costing)
    assert search(whole, keep=1).shortlist.best["rate"][0] >= 5.0
    assert setting(SMALL_MOE, "hgx-h100").machine.devices == 8
