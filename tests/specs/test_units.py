"""Unit strings: known conversions, laws, and every way to get one wrong."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks import units
from tokenworks.errors import SpecError


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("3.35 TB/s", "byte/s", 3.35e12),
        ("144 GiB", "byte", 144 * 2**30),
        ("189471 MiB", "byte", 198_674_743_296),
        ("80 GB", "byte", 80e9),
        ("400 Gb/s", "byte/s", 50e9),
        ("989 TFLOP/s", "FLOP/s", 989e12),
        ("1979 TOP/s", "FLOP/s", 1979e12),
        ("2.5 us", "s", 2.5e-6),
        ("50ms", "s", 0.05),
        ("45 kW", "W", 45e3),
        ("450 kg", "kg", 450.0),
        ("8200000 USD", "USD", 8.2e6),
        ("0.9999", "", 0.9999),
        ("0 us", "s", 0.0),
    ],
)
def test_known(text: str, unit: str, value: float) -> None:
    assert units.parse(text, unit) == pytest.approx(value, rel=1e-15)


@given(st.floats(0, 1e12), st.sampled_from(["GB", "GiB", "TB", "B"]))
def test_number_is_linear_in_its_unit(number: float, unit: str) -> None:
    assert units.parse(f"{number!r} {unit}", "byte") == pytest.approx(
        number * units.parse(f"1 {unit}", "byte"), rel=1e-12
    )


@pytest.mark.parametrize(
    ("text", "unit", "words"),
    [
        ("3.35 TB", "byte/s", ['"3.35 TB" is a size, not a rate', 'write "3.35 TB/s"']),
        ("448 GB/s", "byte", ["is a rate, not a size", '"80 GB"']),
        ("700 TFLOP", "FLOP/s", ["in another kind of unit", "not a compute rate"]),
        ("80 GB", "", ["is a size, not a plain number"]),
        ("0.9", "byte", ["is a plain number, not a size"]),
        ("5 GHz", "byte/s", ['in an unknown unit ("GHz")']),
        ("28 PFLOPS", "FLOP/s", ['in an unknown unit ("PFLOPS")', '"989 TFLOP/s"']),
        ("-80 GB", "byte", ["must be finite and not negative"]),
        ("nan GB", "byte", ["must be finite"]),
        ("inf GB/s", "byte/s", ["must be finite"]),
        ("1e999 GB", "byte", ["must be finite"]),
        ("1e7 s", "s", ["is too large: at most 1e+06 s"]),
        ("1e25 B", "byte", ["is too large: at most 1e+24 byte"]),
        ("1,000 GB", "byte", ["cannot read", "as a size"]),
        ("9**9**9 GB", "byte", ["cannot read"]),
        ("GB", "byte", ["cannot read"]),
        ("", "byte", ["cannot read"]),
        ("80 GB/", "byte", ["in an unknown unit"]),
    ],
)
def test_wrong_unit_says_what_is_right(text: str, unit: str, words: list[str]) -> None:
    with pytest.raises(SpecError) as error:
        units.parse(text, unit, where="box.yaml: host.dram")
    assert str(error.value).startswith("box.yaml: host.dram: ")
    for word in words:
        assert word in str(error.value)


@given(st.text(max_size=12), st.sampled_from(sorted(units.KINDS)))
def test_any_text_is_a_number_or_a_spec_error(text: str, unit: str) -> None:
    with contextlib.suppress(SpecError):
        assert units.parse(text, unit) >= 0
