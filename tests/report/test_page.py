"""A page of a result: complete, small, without an address to load, the same twice, and safe with hostile names."""

import functools
import re
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.report.html import PageReader
from tests.report.samples import (
    COMMAND,
    HOSTILE,
    availability_sample,
    claims_sample,
    compare_sample,
    compare_training_sample,
    plan_sample,
    simulate_sample,
    sweep_sample,
    with_text,
)
from tokenworks.report.figures import visible
from tokenworks.report.page import BUILDERS, page
from tokenworks.specs.machine import Machine

Lang = Literal["en", "zh"]
Sample = Callable[[], tuple[dict[str, Any], dict[str, Machine]]]

MOST_BYTES = 2_500_000
SAMPLES: dict[str, Sample] = {
    "plan": plan_sample,
    "simulate": simulate_sample,
    "compare": compare_sample,
    "sweep": sweep_sample,
    "availability": availability_sample,
    "compare-training": compare_training_sample,
    "claims": claims_sample,
}


def html(kind: str, lang: Lang = "en", text: str | None = None, command: str = COMMAND) -> str:
    plain, machines = SAMPLES[kind]()
    if text is not None:
        plain = with_text(plain, text)
        machines = dict.fromkeys([text], next(iter(machines.values()))) if machines else {}
    return page(BUILDERS[kind](plain, machines, command, lang), lang)


@functools.cache
def plain_page(kind: str, lang: Lang) -> PageReader:
    return PageReader(html(kind, lang))


def check(document: str) -> PageReader:
    """Read a page, and hold it against what every page must be."""
    assert len(document.encode()) < MOST_BYTES
    read = PageReader(document)
    assert read.unclosed == []
    assert read.handlers == []
    assert all(address.startswith("#") for address in read.addresses), read.addresses
    assert not any(re.search(r"url\(|@import|expression\(", style) for style in read.styles)
    assert len(read.ids) == len(set(read.ids))
    assert [kind for kind, _ in read.scripts] == ["application/json", None, None]
    names = {tag for tag, _ in read.tags}
    assert not names & {"img", "iframe", "object", "embed", "link", "base", "video", "audio"}
    (policy,) = [
        attributes["content"] or ""
        for tag, attributes in read.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "http" not in policy
    return read


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("kind", SAMPLES)
def test_a_page_is_whole_and_loads_nothing(kind: str, lang: Lang) -> None:
    read = check(html(kind, lang))
    data = read.data()
    assert data["charts"]
    assert all(f"chart-{name}" in read.ids for name in data["charts"])
    for section in ("asked", "answer", "chart", "assumed", "again", "terms"):
        assert section in read.ids
    assert ("topology" in read.ids) == (kind in ("plan", "simulate", "compare"))
    assert COMMAND in read.shown
    assert "None" not in read.shown
    assert "{" not in read.shown.replace(data["strings"]["one"], "")


def test_sections_stand_in_the_order_that_a_stranger_needs() -> None:
    read = PageReader(html("plan"))
    order = [name for name in read.ids if name in ("asked", "answer", "chart", "deployments", "assumed", "again")]
    assert order == ["asked", "answer", "chart", "deployments", "assumed", "again"]


@pytest.mark.parametrize("kind", SAMPLES)
def test_the_same_result_gives_the_same_bytes(kind: str) -> None:
    plain, machines = SAMPLES[kind]()
    first = page(BUILDERS[kind](plain, machines, COMMAND, "en"), "en")
    again, _ = SAMPLES[kind]()
    again["wall"] = {"elapsed_s": 123.456}
    assert page(BUILDERS[kind](again, machines, COMMAND, "en"), "en") == first


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(SAMPLES)), st.sampled_from(HOSTILE) | st.text(max_size=40), st.sampled_from(["en", "zh"]))
def test_hostile_names_are_text(kind: str, text: str, lang: Lang) -> None:
    plain = plain_page(kind, lang)
    read = check(html(kind, lang, text, command=f"tokenworks {kind} {text}"))
    assert [tag for tag, _ in read.tags if tag in ("script", "section")] == [
        tag for tag, _ in plain.tags if tag in ("script", "section")
    ]
    words = " ".join(visible(text).split())
    assert words in " ".join(read.shown.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_no_hostile_text_ends_the_script(text: str) -> None:
    document = html("plan", text=text)
    assert document.count("</script>") == 3
    assert "alert(1)</script>" not in document


def test_the_answer_has_the_numbers_of_the_plan() -> None:
    plain, _ = plan_sample()
    best = plain["deployments"][0]
    shown = PageReader(html("plan")).shown
    assert best["label"] in shown
    assert f"{best['effective_tok_s_per_device']:,.0f}" in shown.replace(".", " ") or "effective" in shown
    assert f"Grade of the prediction: {best['grade']}" in shown
    for item in plain["assumed"]:
        assert item["path"] in shown


@pytest.mark.parametrize(
    ("lang", "says"),
    [("en", "With MTP, step times are 1.27 "), ("zh", "步时间为其余数据推算值的 1.27 倍")],
)
@pytest.mark.parametrize("kind", ["plan", "simulate"])
def test_the_answer_names_the_measured_software(kind: str, lang: Lang, says: str) -> None:
    plain, machines = SAMPLES[kind]()
    answer = plain["deployments"][0] if kind == "plan" else plain
    answer["software"] = [
        {"device": "h100", "engine": "sglang", "model": "<b>R1", "architecture": "deepseek_v3", "parameters": 1,
         "weights": "fp8", "drafts": True, "time": {"1": 1.27}, "points": 43, "splits": 3}
    ]  # fmt: skip
    document = page(BUILDERS[kind](plain, machines, COMMAND, lang), lang)
    assert says in PageReader(document).shown
    assert "<b>R1" not in document
    answer["software"][0] |= {"time": {"16": 0.9, "8": 1.1}}
    document = page(BUILDERS[kind](plain, machines, COMMAND, lang), lang)
    shown = PageReader(document).shown
    assert shown.index("1.1") < shown.index("to 0.9 (TP 16)" if lang == "en" else "至 0.9")
    answer["software"][0] |= {"device": "h20", "measured_on": ("h100", "<i>h200")}
    document = page(BUILDERS[kind](plain, machines, COMMAND, lang), lang)
    assert ("h100, <i>h200 (none on h20)" if lang == "en" else "h20 没有实测点") in PageReader(document).shown
    assert "<i>h200" not in document


def test_a_plan_that_misses_the_slo_says_so() -> None:
    plain, machines = plan_sample()
    plain["meets_slo"] = False
    shown = PageReader(page(BUILDERS["plan"](plain, machines, COMMAND, "en"), "en")).shown
    assert "No deployment meets the SLO" in shown


def test_a_machine_that_is_not_known_is_not_drawn() -> None:
    plain, _ = plan_sample()
    read = check(page(BUILDERS["plan"](plain, {}, COMMAND, "en"), "en"))
    assert "topology" not in read.ids


def test_a_comparison_shows_availability_and_tiers() -> None:
    plain, machines = compare_sample()
    shown = check(page(BUILDERS["compare"](plain, machines, COMMAND, "en"), "en")).shown
    for words in ("Availability", "99.900%", "host 60 %", "KV tiers below HBM", "a tier", "misses the SLO"):
        assert words in shown
    for system in plain["systems"]:
        system["availability"] = None
        for answer in system["answers"]:
            answer["tiers"] = None
    read = check(page(BUILDERS["compare"](plain, machines, COMMAND, "en"), "en"))
    assert not {"availability", "tiers"} & set(read.ids)


@pytest.mark.parametrize(("lang", "says", "verdict"), [("en", "It gains much.", "◐ holds if"),
                                                        ("zh", "提升很大。", "◐ 在某些条件下成立")])  # fmt: skip
def test_a_claim_stands_beside_its_verdict(lang: Lang, says: str, verdict: str) -> None:
    plain, machines = claims_sample()
    read = check(page(BUILDERS["claims"](plain, machines, COMMAND, lang), lang))
    for words in (says, verdict, "It holds for one model.", "224 GB/s", "28 PFLOP/s published, 20 assumed"):
        assert words in read.shown
    for name in ("claims", "C13-map-0", "C13-map-0-curves", "C13-effects"):
        assert name in read.data()["charts"]


def test_a_cell_is_above_a_number_only_with_its_whole_interval() -> None:
    plain, machines = claims_sample()
    read = check(page(BUILDERS["claims"](plain, machines, COMMAND, "en"), "en"))
    (cells,) = [rows for rows in read.data()["charts"]["C13-map-0"]["datasets"].values() if "row" in rows[0]]
    classes = {cell["column"]: cell["series"].partition(" ")[0] for cell in cells}
    assert classes == {"8": "no", "16": "below", "24": "the", "32": "the", "40": "at"}


def test_a_page_of_claims_without_numbers_has_no_overview() -> None:
    plain, machines = claims_sample()
    plain["claims"] = plain["claims"][1:]
    read = check(page(BUILDERS["claims"](plain, machines, COMMAND, "en"), "en"))
    assert "chart" not in read.ids


def test_a_value_in_another_unit_than_the_claim_is_not_divided_by_it() -> None:
    """Such as the price at which a claim about a ratio of costs holds."""
    plain, machines = claims_sample()
    plain["claims"][0].update(unit="M CNY")
    read = check(page(BUILDERS["claims"](plain, machines, COMMAND, "en"), "en"))
    assert "chart" not in read.ids
    assert "up to 2 x" in read.shown
