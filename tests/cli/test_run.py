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
