"""Software stacks: the factor that their points have in common, and the steps that it makes longer."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.calibrate.cases import table
from tests.costs.cases import LLAMA, R1, model, on
from tokenworks.calibrate.measured import read_points
from tokenworks.calibrate.software import (
    LEAST,
    PRIOR_SPLITS,
    PRIOR_WIDTHS,
    SPLIT_POINTS,
    Line,
    Residual,
    SoftwareFit,
    fit_software,
    left_out,
    software_of,
)
from tokenworks.calibrate.validate import predict_all
from tokenworks.costs import step
from tokenworks.costs.breakdown import Breakdown
from tokenworks.costs.power import roof_use
from tokenworks.costs.rates import rates, with_engine
from tokenworks.costs.split import Split
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import Calibration, load_calibration
from tokenworks.specs.deployment import Parallel, Role
from tokenworks.specs.engine import find_engine
from tokenworks.specs.interval import Silicon
from tokenworks.specs.load import CATALOG, read_yaml, validate
from tokenworks.specs.software import PRIOR_DEVICES, Software, SoftwareKey, times_words

PRIOR = load_calibration("datasheet")
KEY = SoftwareKey.of("h100", "vllm", model(LLAMA), drafts=False)
OFF = st.floats(-1.0, 1.0)


def residuals(*splits: list[float], key: SoftwareKey = KEY, widths: Sequence[int] = (1,)) -> list[Residual]:
    """Errors of the points of a stack, split by split. Splits take TP widths in turns."""
    turns = zip(splits, itertools.cycle(widths), strict=False)
    return [Residual(key, "llama", (number,), tp, off) for number, (offs, tp) in enumerate(turns) for off in offs]


def stack(time: float, *, drafts: bool, name: str = LLAMA, device: str = "h100", engine: str = "vllm") -> Software:
    key = SoftwareKey.of(device, engine, model(name), drafts=drafts)
    return Software(**key._asdict(), model=name, time={1: time}, points=9, splits=3)


def test_a_factor_by_hand() -> None:
    """Medians of two splits are 0.2 and 0.1. Five points of a split weigh 5 / 6, and a single one 1 / 2."""
    members = residuals([0.2, 0.2, 0.9, 0.2, -0.5], [0.1])
    by_hand = -(5 / 6 * 0.2 + 1 / 2 * 0.1) / (5 / 6 + 1 / 2 + 0.3)
    assert Line.through(members).at(1) == pytest.approx(by_hand)
    (found,) = software_of(members)
    assert found.time == {1: pytest.approx(np.exp(by_hand), rel=1e-3)}
    assert (found.points, found.splits, found.model) == (6, 2, "llama")


@given(off=OFF, splits=st.integers(1, 40))
def test_a_factor_removes_a_common_error_the_more_splits_have_it(off: float, splits: int) -> None:
    turn = Line.through(residuals(*[[off]] * splits)).at(1)
    assert turn == pytest.approx(-off * splits / (splits + PRIOR_SPLITS * (1 + SPLIT_POINTS)))
    assert abs(turn) <= abs(off)


@given(st.lists(st.lists(OFF, min_size=2, max_size=6), min_size=2, max_size=6), st.lists(OFF, min_size=2, max_size=6))
def test_a_split_that_is_left_out_does_not_count(splits: list[list[float]], other: list[float]) -> None:
    members = residuals(*splits) + residuals([0.0] * LEAST, key=KEY._replace(drafts=True))
    changed = residuals(*splits[:-1], other) + residuals([0.0] * LEAST, key=KEY._replace(drafts=True))
    here, there = left_out(members, members), left_out(changed, changed)
    if len([one for one in members if one.key == KEY]) >= LEAST <= len([one for one in changed if one.key == KEY]):
        assert here[-LEAST - 1] == there[-LEAST - 1] == Line.through(residuals(*splits[:-1])).at(1)
    assert np.isnan(here[-LEAST:]).all()  # the only split of its stack


@given(level=OFF, change=st.floats(-0.3, 0.3), pairs=st.integers(1, 20), tp=st.sampled_from([1, 2, 4, 8]))
def test_an_error_that_changes_with_the_width_needs_more_splits_than_a_common_one(
    level: float, change: float, pairs: int, tp: int
) -> None:
    """Splits with TP 2 and 4 are off by `level`, and by `change` with each doubling. Outside, the nearest counts."""
    offs = [[level - change / 2], [level + change / 2]] * pairs
    weight = 2 * pairs / (1 + SPLIT_POINTS)
    at = min(max(math.log2(tp), 1), 2) - 1.5
    by_hand = -level * weight / (weight + PRIOR_SPLITS) - change * at * weight / 4 / (weight / 4 + PRIOR_WIDTHS)
    assert Line.through(residuals(*offs, widths=(2, 4))).at(tp) == pytest.approx(by_hand, abs=1e-12)
    assert Line.through(residuals(*offs)).slope == 0  # one width says no more


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), st.lists(OFF, min_size=1, max_size=5)), min_size=1, max_size=9)
)
def test_a_line_is_least_squares_with_its_priors_as_more_rows(splits: list[tuple[int, list[float]]]) -> None:
    members = residuals(*(offs for _, offs in splits), widths=[tp for tp, _ in splits])
    at = np.log2([tp for tp, _ in splits])
    weights = np.array([len(offs) / (len(offs) + SPLIT_POINTS) for _, offs in splits])
    middle = np.average(at, weights=weights)
    rows = np.array([*np.c_[np.ones(len(at)), at - middle], [1, 0], [0, 1]])
    values = np.array([*(np.median(offs) for _, offs in splits), 0, 0])
    roots = np.sqrt([*weights, PRIOR_SPLITS, PRIOR_WIDTHS])
    a, b = np.linalg.lstsq(rows * roots[:, None], values * roots, rcond=None)[0]
    line = Line.through(members)
    for tp in {tp for tp, _ in splits}:
        assert line.at(tp) == pytest.approx(-a - b * (math.log2(tp) - middle), abs=1e-9)
    ends = {min(tp for tp, _ in splits), max(tp for tp, _ in splits)}
    assert line.time == {tp: pytest.approx(math.exp(line.at(tp)), rel=1e-3) for tp in ends}


@given(st.dictionaries(st.sampled_from([1, 2, 4, 8, 16]), st.floats(0.4, 2.5), min_size=1), st.integers(1, 64))
def test_a_factor_between_widths_lies_between_theirs(time: dict[int, float], tp: int) -> None:
    one = stack(1.0, drafts=False).model_copy(update={"time": time})
    here = float(one.at(tp))
    assert min(time.values()) * 0.999 <= here <= max(time.values()) * 1.001
    if tp in time:
        assert here == pytest.approx(time[tp])
    if tp <= min(time):
        assert here == pytest.approx(time[min(time)])
    assert one.at(np.array([tp, 1])) == pytest.approx([here, float(one.at(1))])
    assert one.used([tp]).time == {tp: pytest.approx(here, rel=1e-3)}
    other = stack(1.0, drafts=False, device="b200").model_copy(update={"time": {2: 1.3, 8: 0.8}})
    lent, logs = Software.like([one, other], "h20"), math.log(here) + math.log(float(other.at(tp)))
    assert math.log(lent.at(tp)) == pytest.approx(logs / (2 + PRIOR_DEVICES), abs=2e-3)


def test_factors_of_other_devices_stay() -> None:
    before = PRIOR.model_copy(update={"software": (stack(1.2, drafts=False), stack(1.4, drafts=False, device="b200"))})
    members = tuple(residuals([0.1] * LEAST))
    fit = SoftwareFit(software_of(members), members)
    assert [(one.device, one.time == {1: 1.4}) for one in fit.beside(before)] == [("b200", True), ("h100", False)]


def test_a_device_without_points_has_the_factor_of_its_vendor() -> None:
    """Two devices of NVIDIA, ln time 0.2 and 0.4, give 0.6 / 3 to a third one; a device of AMD counts for nothing."""
    known = {
        "h100": Silicon.of(on("hgx-h100")), "b200": Silicon.of(on("hgx-b200")), "mi300x": Silicon.of(on("hgx-mi300x"))
    }  # fmt: skip
    times = {"h100": math.exp(0.2), "b200": math.exp(0.4), "mi300x": 3.0}
    software = tuple(stack(time, drafts=False, device=device) for device, time in times.items())
    calibration = PRIOR.model_copy(update={"software": software, "devices": known})
    (lent,) = calibration.software_on(on("hgx-h20"))
    assert lent.time == {1: pytest.approx(math.exp(0.6 / (2 + PRIOR_DEVICES)), rel=1e-3)}
    assert (lent.device, lent.measured_on, lent.points, lent.splits) == ("h20", ("b200", "h100"), 18, 6)
    assert lent.runs("vllm", model(LLAMA))
    assert lent.words == (
        f"Step times are 1.22 x what all other numbers give: 18 points of vllm with {LLAMA} (bf16) on b200, h100 were "
        "measured, and none on h20."
    )
    (own,) = calibration.software_on(on("hgx-h100"))
    assert (own.time, own.measured_on) == ({1: times["h100"]}, ())
    assert calibration.software_on(on("scalex40")) == ()
    assert calibration.model_copy(update={"devices": {}}).software_on(on("hgx-h20")) == ()


def test_fp4_weights_have_other_kernels_where_a_device_multiplies_in_fp4() -> None:
    known = {"h100": Silicon.of(on("hgx-h100")), "b200": Silicon.of(on("hgx-b200"))}
    software = tuple(
        stack(time, drafts=False, device=device).model_copy(update={"weights": "fp4"})
        for device, time in (("h100", 1.2), ("b200", 0.8))
    )
    calibration = PRIOR.model_copy(update={"software": software, "devices": known})
    lenders = {name: calibration.software_on(on(name))[0].measured_on for name in ("hgx-h20", "hgx-a100", "hgx-b300")}
    assert lenders == {"hgx-h20": ("h100",), "hgx-a100": ("h100",), "hgx-b300": ("b200",)}
    fp8 = tuple(one.model_copy(update={"weights": "fp8"}) for one in software)
    calibration = calibration.model_copy(update={"software": fp8})
    assert calibration.software_on(on("hgx-h20"))[0].measured_on == ("b200", "h100")
    # A100 is the only one without FP8. Then all devices of the vendor lend.
    assert calibration.software_on(on("hgx-a100"))[0].measured_on == ("b200", "h100")


@given(st.lists(st.floats(0.4, 2.5), min_size=1, max_size=5))
def test_a_lent_factor_lies_between_1_and_the_factors_that_it_comes_from(times: list[float]) -> None:
    others = [stack(time, drafts=False, device=f"device-{number}") for number, time in enumerate(times)]
    lent = Software.like(others, "h20")
    assert min(1.0, *times) * 0.999 <= lent.time[1] <= max(1.0, *times) * 1.001


def test_few_points_give_no_factor() -> None:
    assert software_of(residuals([0.5] * (LEAST - 1))) == ()


@pytest.mark.usefixtures("kernel")
def test_a_fit_finds_how_much_slower_a_stack_was(tmp_path: Path) -> None:
    """vLLM took 1.3 times as long as predicted, with each of six splits; SGLang as long as predicted."""
    rows = [
        {"concurrency": str(flying), "tp": str(tp), "devices": str(tp), "n_devices": str(tp), "engine": engine}
        for engine in ("vllm", "sglang") for tp in (1, 2, 4) for flying in (1, 4)
    ]  # fmt: skip
    points = read_points(table(tmp_path, *rows)).points
    measured = []
    for point, prediction in zip(points, predict_all(points, PRIOR), strict=True):
        assert prediction.tpot
        slower = 1.3 if point.engine == "vllm" else 1.0
        measured.append(replace(point, measured=replace(point.measured, tpot=prediction.tpot * slower)))
    fit = fit_software(measured, PRIOR)
    sglang, vllm = sorted(fit.software, key=lambda one: one.engine)
    weight = 3 * 2 / (2 + SPLIT_POINTS)  # three splits of two points
    factor = pytest.approx(1.3 ** (weight / (weight + PRIOR_SPLITS)), rel=1e-3)
    assert vllm.time == {1: factor, 4: factor}
    assert sglang.time == {1: pytest.approx(1.0, abs=1e-3), 4: pytest.approx(1.0, abs=1e-3)}
    assert (vllm.points, vllm.splits) == (6, 3)
    plain = fit.plain()
    before, left = plain["tpot_without_software"], plain["tpot_software_left_out"]
    assert before
    assert left
    assert left["mape"] < 0.4 * before["mape"]
    # With its factor, a closed loop takes that much longer.
    again = predict_all(measured, PRIOR.model_copy(update={"software": fit.software}))
    for point, prediction in zip(measured, again, strict=True):
        assert prediction.tpot == pytest.approx(point.measured.tpot, rel=0.05)
    # A fit does not start from the factors of its calibration.
    assert fit_software(measured, PRIOR.model_copy(update={"software": fit.software})) == fit


@pytest.mark.parametrize("name", [LLAMA, R1])
def test_only_the_measured_software_is_slower(name: str) -> None:
    """Each part takes longer; work and traffic stay, so the device draws less power."""
    known = stack(1.5, drafts=False, name=name).model_copy(update={"time": {4: 1.1, 8: 1.5}})
    calibration = PRIOR.model_copy(update={"software": (known,)})
    hardware, checkpoint, batch = on("hgx-h100"), model(name), step.Batch(decode=64.0, context=64e3)
    split = Split(tp=8, draft_tokens=np.array([0, 1]) if checkpoint.draft else 0)

    def seconds(known: Calibration, engine: str) -> Breakdown:
        used = find_engine(engine)
        reached = with_engine(rates(hardware, known), used, checkpoint)
        return step.step(checkpoint, reached, split, batch, engine=used)

    before, after = seconds(PRIOR, "vllm"), seconds(calibration, "vllm")
    longer = np.array([1.5, 1.0]) if checkpoint.draft else 1.5
    np.testing.assert_allclose(np.asarray(after.seconds), np.asarray(before.seconds) * longer)
    for part, cost in before.parts.items():
        np.testing.assert_allclose(np.asarray(after.parts[part].seconds), np.asarray(cost.seconds) * longer)
        np.testing.assert_allclose(np.asarray(after.parts[part].flop), np.asarray(cost.flop))
    np.testing.assert_allclose(np.asarray(roof_use(after)[1]) * longer, np.asarray(roof_use(before)[1]))
    np.testing.assert_array_equal(after.bound(), before.bound())
    np.testing.assert_array_equal(
        np.asarray(seconds(calibration, "sglang").seconds), np.asarray(seconds(PRIOR, "sglang").seconds)
    )


def test_a_deployment_names_the_factors_of_its_widths() -> None:
    """Two roles of one stack with other widths: both factors. A role with draft tokens has a stack of its own."""
    plain, drafted = (stack(1.0, drafts=drafts, name=R1) for drafts in (False, True))
    known = plain.model_copy(update={"time": {1: 1.2, 4: 1.0}}), drafted.model_copy(update={"time": {8: 0.9}})
    calibration = PRIOR.model_copy(update={"software": known})
    reached = with_engine(rates(on("hgx-h100"), calibration), find_engine("vllm"), model(R1))
    roles = [Role(name=name, parallel=Parallel(tp=tp)) for name, tp in (("prefill", 1), ("decode", 2))]
    (one,) = reached.software_for(roles)
    assert one.time == {1: 1.2, 2: pytest.approx(math.sqrt(1.2), rel=1e-3)}
    both = reached.software_for([*roles, Role(name="decode", parallel=Parallel(tp=4), draft_tokens=1)])
    assert [(found.drafts, found.time) for found in both] == [(False, one.time), (True, {4: 0.9})]
    assert reached.software_for([]) == ()


def test_a_model_is_known_by_its_size_and_not_by_its_name() -> None:
    """A fine-tuned model is the same to an engine; the same model in another dtype is not."""
    one = stack(1.2, drafts=False)
    assert one.runs("vllm", replace(model(LLAMA), name="me/tuned"))
    assert not one.runs("sglang", model(LLAMA))
    assert not one.runs("vllm", model(R1))
    assert not one.model_copy(update={"weights": "fp8"}).runs("vllm", model(LLAMA))


def test_the_words_say_what_was_measured() -> None:
    words = stack(1.27, drafts=True, name=R1).words
    assert words == (
        "Step times are 1.27 x what all other numbers give: 9 points of vllm with deepseek-ai/DeepSeek-R1 (fp8, MTP) "
        "on h100 were measured."
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"time": {}}, "software.0.time"),
        ({"time": 1.2}, "software.0.time"),
        ({"time": {1: 0}}, "software.0.time"),
        ({"time": {0: 1.2}}, "software.0.time"),
        ({"time": {1: "fast"}}, "software.0.time"),
        ({"points": 0}, "software.0.points"),
        ({"engines": "vllm"}, "software.0.engines"),
    ],
)
def test_a_wrong_factor_is_refused(changed: dict[str, object], message: str) -> None:
    data = read_yaml(CATALOG / "calibration" / "datasheet.yaml")
    data["software"] = [stack(1.2, drafts=False).model_dump() | changed]
    with pytest.raises(SpecError, match=message):
        validate(Calibration, data, "mine.yaml")


def test_the_words_name_the_widths_with_other_factors() -> None:
    one = stack(1.27, drafts=True, name=R1).model_copy(update={"time": {8: 0.952, 1: 1.081, 4: 2.0}})
    assert one.words.startswith("Step times are 1.08 (TP 1) to 0.95 (TP 8) x what all other numbers give: 9 points")
    assert times_words({1: 1.021, 8: 1.019}) == "1.02"


def test_a_stack_that_is_there_twice_is_refused() -> None:
    data = read_yaml(CATALOG / "calibration" / "datasheet.yaml")
    data["software"] = [stack(time, drafts=False).model_dump() for time in (1.1, 1.2)]
    with pytest.raises(SpecError, match=r"software: h100, vllm, llama, .*is there twice"):
        validate(Calibration, data, "mine.yaml")


def test_shipped_factors_are_of_measured_devices_and_name_no_stack_twice() -> None:
    shipped = load_calibration()
    assert {one.device for one in shipped.software} <= set(shipped.devices)
    assert all(0.3 < time < 3 for one in shipped.software for time in one.time.values())
    assert shipped.without_software.software == ()
