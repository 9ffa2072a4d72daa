"""Reads command lines with the parser of an installed engine: a list of lists of words as JSON on stdin.

    python launch_parser.py vllm|vllm-bench|sglang

This program runs in an environment with the engine and imports nothing of tokenworks. It prints a list of messages; an
empty message means that the parser takes the line.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Callable
from importlib import import_module


def vllm_parser() -> Callable[[list[str]], object]:
    """The parser of `vllm serve`."""
    arguments = import_module("vllm.entrypoints.launchers.cli_args")
    parser = arguments.make_arg_parser(import_module("vllm.utils.argparse_utils").FlexibleArgumentParser())

    def read(words: list[str]) -> object:
        read_words = parser.parse_args(words)
        arguments.validate_parsed_serve_args(read_words)
        return read_words

    return read


def sglang_parser() -> Callable[[list[str]], object]:
    """The parser of `python -m sglang.launch_server`."""
    parser = argparse.ArgumentParser()
    import_module("sglang.srt.server_args").ServerArgs.add_cli_args(parser)
    return parser.parse_args


def vllm_bench_parser() -> Callable[[list[str]], object]:
    """The parser of `vllm bench serve`."""
    parser = import_module("vllm.utils.argparse_utils").FlexibleArgumentParser()
    import_module("vllm.benchmarks.serve").add_cli_args(parser)
    read: Callable[[list[str]], object] = parser.parse_args
    return read


def main() -> None:
    """Read all lines, and print what the parser says of each."""
    read = {"vllm": vllm_parser, "vllm-bench": vllm_bench_parser, "sglang": sglang_parser}[sys.argv[1]]()
    messages = []
    for words in json.load(sys.stdin):
        stderr = io.StringIO()
        try:
            with contextlib.redirect_stderr(stderr):
                read(words)
            messages.append("")
        except (Exception, SystemExit) as error:  # a parser ends the program
            messages.append(stderr.getvalue().strip()[-400:] or repr(error))
    print("\n" + json.dumps(messages))


if __name__ == "__main__":
    main()
