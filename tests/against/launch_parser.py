"""Reads command lines with the parser of an installed engine: a list of lists of words as JSON on stdin.

    python launch_parser.py vllm|sglang

This program runs in an environment with the engine and imports nothing of tokenworks. It prints a list of messages; an
empty message means that the parser takes the line.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable


def vllm_parser() -> Callable[[list[str]], object]:
    """The parser of `vllm serve`."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())

    def read(words: list[str]) -> object:
        read_words = parser.parse_args(words)
        validate_parsed_serve_args(read_words)
        return read_words

    return read


def sglang_parser() -> Callable[[list[str]], object]:
    """The parser of `python -m sglang.launch_server`."""
    import argparse

    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    return parser.parse_args


def main() -> None:
    """Read all lines, and print what the parser says of each."""
    read = {"vllm": vllm_parser, "sglang": sglang_parser}[sys.argv[1]]()
    messages = []
    for words in json.load(sys.stdin):
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                read(words)
            messages.append("")
        except (Exception, SystemExit) as error:  # a parser ends the program
            messages.append(said.getvalue().strip()[-400:] or repr(error))
    print("\n" + json.dumps(messages))


if __name__ == "__main__":
    main()
