"""The command frame: words on stderr, the right exit code, no traceback."""

import pytest

from tokenworks import cli
from tokenworks.errors import DoesNotFit, SloMissed, SpecError, TokenworksError, UnknownName


@pytest.mark.parametrize("arguments", [["nonsense"], ["systems", "--nonsense"], ["plan"], ["systems", "-o", "xml"]])
def test_a_wrong_command_line_is_bad_input(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tokenworks: ")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SpecError("x"), 2),
        (UnknownName("model", "x", []), 2),
        (DoesNotFit("x"), 3),
        (SloMissed("x"), 4),
        (TokenworksError("x"), 1),
        (ZeroDivisionError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_has_its_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert cli.run(["anything"]) == code
    assert capsys.readouterr().err.startswith("tokenworks: ")


def test_a_spec_error_says_what_where_and_the_way_out() -> None:
    error = SpecError("'448 GB' is a size, not a rate", where="my-box.yaml: bandwidth", hint='write "448 GB/s"')
    assert str(error) == "my-box.yaml: bandwidth: '448 GB' is a size, not a rate; write \"448 GB/s\""


def test_an_unknown_name_suggests_near_ones() -> None:
    assert "did you mean scalex40" in str(UnknownName("system", "scalex4", ["scalex40", "gb200-nvl72"]))
    assert str(UnknownName("network", "zzz", ["ndr", "xdr"])).endswith("known: ndr, xdr")
    many = [f"box-{number}" for number in range(20)]
    assert str(UnknownName("system", "zzz", many)).endswith("box-7 and 12 more (`tokenworks systems`)")


def test_no_error_prints_hundreds_of_digits() -> None:
    error = SpecError(f"isl + osl = {1e300:,.0f} tokens, 131,072 at most", where="plan", hint=f"not {10**300}")
    assert str(error) == (
        "plan: isl + osl = 1,000,000,00... (301 digits) tokens, 131,072 at most; not 100000000000... (301 digits)"
    )
    assert "9" * 13 not in str(DoesNotFit("9" * 400))


@pytest.mark.parametrize("isl", ["1e308", "1e200"])
def test_absurd_lengths_are_refused_in_few_words(isl: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["estimate", "deepseek-ai/DeepSeek-R1", "--on", "scalex40", "--isl", isl, "--osl", "10"]) == 2
    assert len(capsys.readouterr().err) < 300
