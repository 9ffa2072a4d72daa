"""One launch command of a serving engine or of a router: program, arguments and environment."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Command:
    """One command that starts a process on one node.

    Parameters
    ----------
    program : words that name the program, such as ("vllm", "serve") or ("python3", "-m", "sglang.launch_server")
    arguments : words after the program, as the program gets them: without quotes and without shell variables
    environment : environment variables that are set for the process
    role : job of the process: "aggregated", "prefill", "decode", "router"; empty: the text does not say
    instance : number of the instance of the role, from 0
    node : rank of the node in the instance, from 0
    where : file and line of the command, for messages
    """

    program: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    role: str = ""
    instance: int = 0
    node: int = 0
    where: str = "command"

    @property
    def argv(self) -> tuple[str, ...]:
        """All words of the command."""
        return (*self.program, *self.arguments)

    def __str__(self) -> str:
        """The command on one line, with quotes for a POSIX shell."""
        return shlex.join(self.argv)
