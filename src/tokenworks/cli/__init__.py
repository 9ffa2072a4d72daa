"""The command line: one module per command, imported when it is called. Errors become messages and an exit code."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Sequence

from cyclopts import App

import tokenworks
from tokenworks.errors import TokenworksError

VERBS = {
    "systems": "List the machines, show one with the sources of its numbers, or start a file for your own.",
    "models": "List the models, or show one: parameters, KV cache, formats.",
    "catalog": "List workloads, calibrations, engines, networks, devices, prices and failure rates, or show one.",
    "fit": "Check whether a model fits, on how few devices, and how much KV cache is left.",
    "estimate": "Break down one prefill and one decode step of a deployment.",
    "plan": "Rank the deployments of a model on a machine under an SLO.",
    "train": "Find the fastest plan to train a model on a machine: step time, MFU, memory, days and energy.",
    "compare": "Compare machines on the same work: which one wins, why, and what a token costs.",
    "simulate": "Play a trace or a workload through a deployment, request by request.",
    "serve": "Start an OpenAI-compatible endpoint that behaves like a deployment, in real time.",
    "record": "Record the requests to an OpenAI-compatible server, as a trace.",
    "capacity": "Find the highest rate, or the most users, that a deployment serves within the SLO.",
    "availability": "Find how much of the time a machine and a deployment work, and which parts take the rest.",
    "claims": "Check the claims of the scaleX40 article: what we compute, a verdict, and the numbers it hangs on.",
    "emit": "Write launch scripts, a benchmark and a scrape file for a deployment.",
    "import": "Read launch commands of vLLM and SGLang into a deployment.",
    "advise": "Say what a deployment will do, what binds it, and which single changes gain most.",
    "sweep": "Compute many points of one question: curves, their knee, and which input matters most.",
    "calibrate": "Fit a calibration on measured points or kernel tables, and print its error.",
    "validate": "Compare predictions with measured points: errors by system, model and engine.",
    "trace": "Show a request trace: lengths, rate over time, prefix reuse.",
}

NAMES = {"import": "import_launch"}
"""Commands whose name is no name in Python -> name of their module and function."""

SPLIT = (
    "Split of an instance, such as [tp2 dp20 ep40]: tp x pp x dp devices. Experts are divided over ep groups of etp "
    "devices, and ep x etp = tp x dp. Widths of 1 are not printed."
)
"""How to read the split of an instance. The help of the commands `WITH_SPLITS` ends with this text."""

WITH_SPLITS = ("fit", "estimate", "plan", "simulate", "serve", "capacity", "availability", "import", "advise")

INTERNAL, INTERRUPTED = 1, 130


def app() -> App:
    """The command tree. Commands are import paths, so `tokenworks --help` does not import them."""
    from tokenworks.cli.page import Page

    tree = App(
        name="tokenworks",
        help="A token factory in software: plan, cost and check LLM serving on supernodes.",
        version=tokenworks.__version__,
        help_flags=["--help", "-h"],
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
        console=Page(),
    )
    for place, (verb, text) in enumerate(VERBS.items()):
        after = SPLIT if verb in WITH_SPLITS else None
        module = NAMES.get(verb, verb)
        tree.command(f"tokenworks.cli.{module}:{module}", name=verb, help=text, help_epilogue=after, sort_key=place)
    tree.register_install_completion_command()
    return tree


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : words of the command line; None: the words of this process

    Returns
    -------
    Exit code: 0 ok, 1 internal error, 2 bad input, 3 does not fit, 4 SLO missed, 130 interrupted.
    """
    from cyclopts import CycloptsError

    from tokenworks.cli.command import remember
    from tokenworks.cli.heap import keep_freed_memory, seek_cycles_rarely
    from tokenworks.cli.page import open_stdout, writing

    keep_freed_memory()
    seek_cycles_rarely()
    try:
        open_stdout()
        remember(sys.argv[1:] if arguments is None else arguments)
        try:
            app()(arguments, result_action="return_value")
        finally:
            with writing():
                sys.stdout.flush()
    except TokenworksError as error:
        return _fail(str(error), error.exit_code)
    except CycloptsError as error:
        return _fail(f"{error}; see `tokenworks {_verb(arguments)}--help`", 2)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        return 0
    except Exception as error:  # no traceback reaches a user
        return _unforeseen(error)
    return 0


def _verb(arguments: Sequence[str] | None) -> str:
    """The command of a command line, with a space after it; empty if there is none."""
    words = sys.argv[1:] if arguments is None else arguments
    return next((f"{word} " for word in words[:1] if word in VERBS), "")


def main() -> None:
    """Entry point of the `tokenworks` script. `timeout` and batch systems send SIGTERM: it does what Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = run()
    if elsewhere := sys.modules.get("tokenworks.planning.elsewhere"):  # its processes may still work
        elsewhere.leave()
    sys.exit(code)


def _unforeseen(error: Exception) -> int:
    if isinstance(error, MemoryError):
        return _fail("out of memory; ask for less, such as fewer --requests, or use a computer with more memory", 2)
    return _fail(f"internal error: {type(error).__name__}: {error}; please report it with this command", INTERNAL)


def _fail(message: str, code: int) -> int:
    """Print an error message, and return the exit code."""
    from tokenworks.cli.page import escaped

    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"tokenworks: {escaped(message)}", file=sys.stderr)
    return code
