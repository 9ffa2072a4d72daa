"""`tokenworks fit` as a user meets it."""

from pathlib import Path

import pytest

from tests.cli.envelope import result
from tokenworks.cli import SPLIT, WITH_SPLITS, run

R1 = "deepseek-ai/DeepSeek-R1"


def test_the_first_line_answers_and_the_rest_explains(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", R1, "--on", "scalex40"]) == 0
    out, err = capsys.readouterr()
    first, *rest = out.splitlines()
    assert first.startswith(f"{R1} fits scalex40: from 6 devices; best split of all 40 is ")
    assert "KV tokens left in BF16" in first
    assert "144.0 GiB" in "".join(rest)
    assert "Assumed" not in "".join(rest)  # only the memory is read, and that is published
    assert err == ""


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", R1, "--on", "scalex40", "-o", "json"]) == 0
    found = result(capsys.readouterr().out)
    assert found["fits"] is True
    assert found["smallest_devices"] == 6
    assert found["assumed"] == []
    assert found["widths"][0]["role"]["parallel"]["tp"] >= 1


def test_what_does_not_fit_exits_3_with_by_how_much(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", R1, "--on", "hgx-h100", "-o", "json"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "does not fit hgx-h100" in err
    assert "--on 2xhgx-h100" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no/such-model", "--on", "scalex40"], "no/such-model"),
        ([R1, "--on", "scalex41"], "did you mean scalex40"),
        ([R1, "--on", "metax-s600"], "--assume FILE"),
        ([R1, "--on", "scalex40", "--kv-dtype", "fp5"], "kv-dtype"),
        ([R1, "--on", "scalex40", "--engine", "tgi"], "engine"),
        ([R1, "--on", "scalex40", "--assume", "missing.yaml"], "missing.yaml"),
        ([R1, "--on", "scalex40", "--memory-fraction", "0"], "--memory-fraction: 0 is not a share"),
        ([R1, "--on", "scalex40", "--memory-fraction", "1.2"], "--memory-fraction: 1.2 is not a share"),
        ([R1, "--on", "scalex40", "--memory-fraction", "nan"], "--memory-fraction"),
        ([R1, "--on", "scalex40", "--set", "engine.memory_fraction=1.2"], "must be above 0 and at most 1"),
        ([R1, "--on", "scalex40", "--set", "engine.memory_fraction=0"], "must be above 0 and at most 1"),
        ([R1, "--on", "scalex40", "--set", "engine.version=new"], "give a version such as 0.21"),
        ([R1, "--on", "scalex40", "--chunk", "0"], "--chunk: 0 is not a number of 1 or more"),
        ([R1, "--on", "scalex40", "--max-sequences", "-1"], "--max-sequences"),
        ([R1, "--on", "scalex40", "--deploy", "tp=3"], "tp"),
        ([R1, "--on", "scalex40", "--deploy", "tp=8,memory_fraction=1.2"], "1.2 is not a share"),
        ([R1, "--on", "scalex40", "--deploy", "tp=8,chunk_tokens=64", "--chunk", "64"], "chunk_tokens is given twice"),
        ([R1, "--on", "scalex40", "--set", "calibration.skews=1"], "calibration.skews: no such path; did you mean"),
    ],
)
def test_bad_input_exits_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err


def test_an_unknown_device_family_is_refused_with_the_nearest_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "box.yaml"
    assert run(["systems", "hgx-h200", "-o", "yaml"]) == 0
    file.write_text(capsys.readouterr().out.replace("family: nvidia-hopper", "family: nvidia-hoper"))
    assert run(["fit", R1, "--on", str(file)]) == 2
    assert capsys.readouterr().err == (
        "tokenworks: unknown device family 'nvidia-hoper'; device.family must be a family of calibration serving; "
        "did you mean nvidia-hopper, nvidia-ampere, nvidia-rubin?\n"
    )


def test_the_page_explains_the_split(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["fit", R1, "--on", "scalex40"], *([verb, "--help"] for verb in WITH_SPLITS)):
        assert run(arguments) == 0
        assert " ".join(SPLIT.split()) in " ".join(capsys.readouterr().out.split())


def test_an_unpublished_card_can_be_supplied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = tmp_path / "metax.yaml"
    given.write_text("device.hbm.capacity: 64 GB\nscale_up.hop: 0.25 us\n", encoding="utf-8")
    assert run(["fit", "Qwen/Qwen3-32B", "--on", "metax-s600", "--assume", str(given)]) == 0
    out = capsys.readouterr().out
    assert "Assumed: device.hbm.capacity = 64 GB\n" in out  # and not the hop, which is not read


def test_a_machine_whose_links_are_not_published_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", "Qwen/Qwen3-8B", "--on", "bw1000-8"]) == 0
    assert "fits bw1000-8: from 1 device; best" in capsys.readouterr().out


def test_with_a_context_limit_each_rank_holds_such_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", "Qwen/Qwen3-32B", "--on", "hgx-h100", "--max-model-len", "131072"]) == 0
    out, _ = capsys.readouterr()
    assert "131,072 tokens, with YaRN, factor 4" in out
    assert "The KV cache of each rank holds a request of this length." in out


def test_a_request_that_no_rank_holds_exits_3(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["fit", "meta-llama/Llama-3.3-70B-Instruct", "--on", "pcie-rtx-4090", "--max-model-len", "131072"]
    assert run(asked) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "one request of 131,072 tokens (--max-model-len)" in err
    assert "would hold it" in err


def test_the_words_of_the_engine(capsys: pytest.CaptureFixture[str]) -> None:
    """vLLM printed 14.25 GiB, 56.25 GiB and 1,053,328 tokens for this start (inference-sim)."""
    asked = ["--deploy", "tp=1", "--chunk", "4096", "--max-sequences", "128", "--memory-fraction", "0.9"]
    assert run(["fit", "Qwen/Qwen2.5-7B-Instruct", "--on", "hgx-h100", *asked]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "fits hgx-h100 as [tp1]: 1 device a copy" in out
    assert "model weights take 14.19 GiB, KV cache memory 56.13 GiB, KV cache size 1,051,019 tokens" in out
    assert "maximum concurrency for 32,768 tokens per request 32.07x" in out


def test_what_would_do_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--engine", "sglang", "--deploy", "tp=8", "--memory-fraction", "0.88"]
    assert run(["fit", "deepseek-ai/DeepSeek-V4-Pro", "--on", "hgx-h200", *asked]) == 3
    assert "--memory-fraction 0.91 would do" in capsys.readouterr().err


@pytest.mark.parametrize("tokens", ["0", "131073"])
def test_a_context_limit_that_is_not_allowed_is_bad_input(tokens: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", "Qwen/Qwen3-32B", "--on", "hgx-h100", "--max-model-len", tokens]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--max-model-len" in err
