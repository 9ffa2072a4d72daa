"""The texts: both languages have all of them, with the same fields, and the pages use no others."""

import re
from pathlib import Path

import pytest

import tokenworks.report
from tokenworks.report.strings import Lang, script_strings, strings

LANGS: tuple[Lang, ...] = ("en", "zh")
FOLDER = Path(tokenworks.report.__file__).parent


def fields(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def test_both_languages_have_every_text_with_the_same_fields() -> None:
    english, chinese = strings("en"), strings("zh")
    assert english.keys() == chinese.keys()
    for name, text in english.items():
        assert fields(text) == fields(chinese[name]), name
        assert text.strip()
        assert chinese[name].strip()


@pytest.mark.parametrize("lang", LANGS)
def test_names_are_text(lang: Lang) -> None:
    assert all(isinstance(name, str) and isinstance(text, str) for name, text in strings(lang).items())


def test_chinese_is_chinese() -> None:
    same = {name for name, text in strings("zh").items() if not re.search(r"[\u4e00-\u9fff]", text)}
    assert same <= {
        "lang", "slo", "split_term", "spoken", "ttft_at", "tpot_at", "tokens_s", "role_prefill", "role_decode",
        "prefilled",
    }  # fmt: skip


def test_the_code_asks_for_texts_that_exist() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.py")))
    asked = set(re.findall(r'words\["([\w-]+)"\]', code))
    template = (FOLDER / "files" / "page.html.j2").read_text(encoding="utf-8")
    asked |= set(re.findall(r"words\.(\w+)", template)) - {"get"}
    assert asked <= strings("en").keys()
    script = (FOLDER / "files" / "page.js").read_text(encoding="utf-8")
    assert set(re.findall(r"\bwords\.(\w+)", script)) == script_strings("en").keys()
