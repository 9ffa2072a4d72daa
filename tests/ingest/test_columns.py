"""CSV rows as arrays: the same trace, the same reasons and the same lines as reading them one by one."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ingest.test_cache import same
from tokenworks.errors import SpecError
from tokenworks.ingest import azure, burstgpt, cells, columns
from tokenworks.ingest import rows as reading
from tokenworks.ingest.rows import Rows, Seconds, Tokens
from tokenworks.specs.trace import Trace

HEADINGS: dict[type[columns.CsvRow], tuple[str, ...]] = {
    azure.AzureRow: ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    burstgpt.BurstGptRow: ("Timestamp", "Request tokens", "Response tokens"),
}
TIMES = [
    "2023-11-16 18:17:03.9799600", "2024-05-10 00:00:00.009930+00:00", "2024-02-29T23:59:59.9999995Z",
    "2023-02-29 00:00:00", "2023-11-16 18:17:03", "2023-11-16 24:00:00", "2023-13-01 00:00:00", "2023-11-16 18:17:03.",
    "2023-11-16 18:17:03.12345678", "2023-11-16 18:17:03+01:00", "1969-12-31 23:59:59", "0000-01-01 00:00:00", "",
]  # fmt: skip
NUMBERS = ["0", "5", "118.25", "007", "1e3", "-1", " 7", "16777216", "16777217", ".5", "5.", "1.2.3", "nan", "é", "",
           "0.1", "123456789012345.6", "1000000000000", "1000000000001", "99999999999999999999"]  # fmt: skip


def one_by_one(text: bytes, path: Path, form: type[columns.CsvRow], *, strict: bool) -> Trace | str:
    """What a quoted heading makes of a file: no block of it is read at once."""
    heading, end, body = text.partition(b"\n")
    quoted = b",".join(b'"' + name + b'"' for name in heading.split(b","))
    return outcome(quoted + end + body, path, form, strict=strict)


def outcome(text: bytes, path: Path, form: type[columns.CsvRow], *, strict: bool) -> Trace | str:
    path.write_bytes(text)
    try:
        return columns.read(Rows(path, strict=strict), form)
    except SpecError as error:
        return str(error)


@st.composite
def files(draw: st.DrawFn) -> tuple[type[columns.CsvRow], bytes]:
    form = draw(st.sampled_from(list(HEADINGS)))
    names = [*HEADINGS[form], *draw(st.sampled_from([[], ["class"], ["other"]]))]
    order = draw(st.permutations(range(len(names))))
    time = st.sampled_from(TIMES if form is azure.AzureRow else NUMBERS)
    good = st.sampled_from(
        ["2023-11-16 18:17:04.5", "2023-11-16 18:17:03"] if form is azure.AzureRow else ["3", "2.5", "900.125"]
    )
    lines = [[*names]]
    for _ in range(draw(st.integers(0, 12))):
        plain = draw(st.booleans())
        cell = st.sampled_from(["1", "48", "9999"]) if plain else st.sampled_from(NUMBERS)
        word = st.sampled_from(["chat", "batch", ""] if plain else ["no spaces", "a" * 65, "chat"])
        row = [draw(good if plain else time), draw(cell), draw(cell), draw(word)][: len(names)]
        lines.append(row)
    ends = st.sampled_from(["\n", "\n", "\r\n", "\n\n", " \n", ",\n", "\n \n"])
    text = "".join(
        ",".join(line[k] for k in order) + draw(ends if n else st.just("\n")) for n, line in enumerate(lines)
    )
    return form, text.encode()


@given(files(), st.booleans(), st.integers(1, 200))
def test_both_ways_of_reading_agree(
    tmp_path_factory: pytest.TempPathFactory, file: tuple[type[columns.CsvRow], bytes], strict: bool, block: int
) -> None:
    form, text = file
    path = tmp_path_factory.getbasetemp() / "columns.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK", block)
        result = outcome(text, path, form, strict=strict)
    expected = one_by_one(text, path, form, strict=strict)
    assert same(result, expected) if isinstance(result, Trace) and isinstance(expected, Trace) else result == expected


def column(texts: list[str]) -> tuple[cells.Text, np.ndarray, np.ndarray]:
    data = ",".join(texts).encode()
    ends = np.cumsum([len(text.encode()) + 1 for text in texts]) - 1
    starts = np.append(0, ends[:-1] + 1)
    return np.frombuffer(data + bytes(cells.PAD), np.uint8), starts, ends


def converted(texts: list[str], kind: object) -> Iterator[float | None]:
    for text in texts:
        try:
            value = msgspec.convert(text, kind, strict=False)
        except ValueError:
            yield None
            continue
        if isinstance(value, datetime):
            value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        yield value


NUMBER = st.one_of(
    st.integers(0, 10**17).map(str), st.decimals(0, 10**12, places=6).map(str), st.text("0123456789.e-+ ", max_size=18)
)
WHEN = st.builds(
    lambda when, mark, part, zone: when.strftime(f"%Y-%m-%d{mark}%H:%M:%S").zfill(19) + part + zone,
    st.datetimes(), st.sampled_from([" ", "T", "t"]), st.from_regex(r"(\.[0-9]{0,9})?", fullmatch=True),
    st.sampled_from(["", "Z", "+00:00", "+02:00", "-00:00"]),
)  # fmt: skip


@pytest.mark.parametrize(
    ("read", "kind", "texts"),
    [(cells.tokens, Tokens, NUMBER), (cells.seconds, Seconds, NUMBER), (cells.times, datetime, WHEN)],
)
def test_a_cell_that_is_read_is_read_as_msgspec_reads_it(read: object, kind: object, texts: object) -> None:
    @given(st.lists(texts, min_size=1, max_size=20))  # type: ignore[arg-type]
    def law(written_cells: list[str]) -> None:
        values, good = read(*column(written_cells))  # type: ignore[operator]
        for value, held, expected in zip(values.tolist(), good.tolist(), converted(written_cells, kind), strict=True):
            assert not held or value == expected

    law()


@pytest.mark.parametrize(
    ("read", "kind", "texts"),
    [
        (cells.tokens, Tokens, ["1", "4808", "16777216"]),
        (cells.seconds, Seconds, ["0", "118.25", "999999999999.5", "0.1"]),
        (cells.times, datetime, TIMES[:3]),
    ],
)
def test_usual_cells_are_read_at_once(read: object, kind: object, texts: list[str]) -> None:
    values, good = read(*column(texts))  # type: ignore[operator]
    assert good.all()
    assert values.tolist() == list(converted(texts, kind))


def test_words_are_names_of_classes() -> None:
    texts = ["chat", "", "a" * 64, "a b", "é", "a" * 65]
    values, good = cells.words(*column(texts))
    assert good.tolist() == [True] * 3 + [False] * 3
    assert values[:3].tolist() == [b"chat", b"", b"a" * 64]


def test_a_file_of_usual_rows_makes_no_object_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "2023-11-16 18:17:03.9799600,4808,10\n" * 1000
    (tmp_path / "a.csv").write_text(text)
    monkeypatch.setattr(msgspec, "convert", lambda *_, **__: pytest.fail("a row was read by itself"))
    assert len(columns.read(Rows(tmp_path / "a.csv"), azure.AzureRow)) == 1000


def test_quotes_may_hold_ends_of_lines(tmp_path: Path) -> None:
    text = "TIMESTAMP,ContextTokens,GeneratedTokens,note\n2023-11-16 18:17:03,1,2,x\n"
    text += '2023-11-16 18:17:04,3,4,"two\nlines"\n2023-11-16 18:17:05,5,no,y\n2023-11-16 18:17:06,7,8,z'
    (tmp_path / "a.csv").write_text(text)
    trace = columns.read(Rows(tmp_path / "a.csv"), azure.AzureRow)
    assert trace.input_tokens.tolist() == [1, 3, 7]
    assert [(d.reason, d.where[-2:]) for d in trace.dropped] == [("GeneratedTokens: expected `int`, got `str`", ":5")]
