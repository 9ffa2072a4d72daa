"""Which words start an engine or a router, behind wrappers such as env, nohup, srun or `docker run`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tokenworks.errors import SpecError

SERVERS = ("vllm", "sglang")
"""Programs that start an engine with the word `serve` behind them."""

MODULES = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "vllm.entrypoints.api_server": "vllm",
    "sglang.launch_server": "sglang",
    "dynamo.vllm": "vllm",
    "dynamo.sglang": "sglang",
}
"""Python modules that start an engine, and the engine."""

ROUTERS = ("sglang_router.launch_router", "sglang_router.launch_server", "sglang-router", "vllm-router", "smg")
"""Python modules and programs that start a router."""

OTHERS = ("trtllm-serve", "lmdeploy", "tgi", "text-generation-launcher", "mindie", "ktransformers", "llama-server")
"""Engines whose command lines are not read."""

IMAGES = {"vllm": ("vllm", "serve"), "sglang": ("python3", "-m", "sglang.launch_server")}
"""A word in the name of a container image -> the program that the image starts with arguments alone."""

_CONTAINERS = ("docker", "podman", "nerdctl")
_SHELLS = ("bash", "sh", "zsh", "python", "python3", "sleep", "tail")
_ALONE = re.compile(
    r"--(rm|privileged|init|interactive|tty|detach|publish-all|read-only|oom-kill-disable|no-healthcheck|quiet|sig-proxy"
    r"|disable-content-trust|replace|help)|-[ditPq]+"
)
_CODE = re.compile(r"(?<![\w/.-])(vllm|sglang)\s+serve\s|-m\s+(" + "|".join(map(re.escape, MODULES)) + r")(?![\w.])")


@dataclass(frozen=True, slots=True)
class Start:
    """The words that start a program, and those around them.

    Parameters
    ----------
    engine : "vllm", "sglang" or "router"
    program : words that name the program
    arguments : words behind the program
    before : words in front of it: wrappers and their options
    """

    engine: str
    program: tuple[str, ...]
    arguments: tuple[str, ...]
    before: tuple[str, ...] = ()


def start_of(words: Sequence[str], where: str) -> Start | None:
    """Where an engine or a router starts in the words of a command; None: nowhere.

    Parameters
    ----------
    words : all words of a command, without assignments in front
    where : file and line, for messages

    Raises
    ------
    SpecError : the command starts an engine that is not read
    """
    for at, word in enumerate(words):
        name, rest = PurePosixPath(word).name, tuple(words[at + 1 :])
        before = tuple(words[:at])
        if name in SERVERS and rest[:1] == ("serve",):
            return Start(name, (name, "serve"), rest[1:], before)
        if word == "-m" and rest and at:
            python, module = PurePosixPath(words[at - 1]).name, rest[0]
            if module in MODULES or module in ROUTERS:
                engine = MODULES.get(module, "router")
                return Start(engine, (python, "-m", module), rest[1:], before[:-1])
        if name in ROUTERS:
            return Start("router", (name,), rest, before)
        if at == 0 and name in OTHERS:
            raise SpecError(f"{name} is not read", where=where, hint="the command lines of vLLM and SGLang are read")
    return None


def code_in(words: Sequence[str]) -> str | None:
    """The word that holds a whole launch command, as behind `bash -c` or `ssh HOST`; None: no word does."""
    return next((word for word in words if any(map(str.isspace, word)) and _CODE.search(f"{word} ")), None)


def set_by(before: Sequence[str]) -> dict[str, str]:
    """Environment variables that wrappers set: `env A=b`, `docker run -e A=b --env=A=b`."""
    variables: dict[str, str] = {}
    for at, word in enumerate(before):
        previous = before[at - 1] if at else ""
        text = word
        for option in ("--env=", "-e="):
            text = text.removeprefix(option)
        if text == word and previous not in ("-e", "--env", "-x", "env") and not re.match(r"[A-Z_][A-Z0-9_]*=", text):
            continue
        name, equals, value = text.partition("=")
        if equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            variables[name] = value
    return variables


def start_of_container(words: Sequence[str], where: str) -> Start | None:
    """The engine that a container image starts with arguments alone: `docker run [OPTIONS] IMAGE ARGUMENTS`."""
    if not words or PurePosixPath(words[0]).name not in _CONTAINERS or "run" not in words[1:3]:
        return None
    at = list(words).index("run") + 1
    entrypoint: tuple[str, ...] | None = None
    while at < len(words) and words[at].startswith("-"):
        option, equals, value = words[at].partition("=")
        if not equals and not _ALONE.fullmatch(option):
            at += 1
            value = words[at] if at < len(words) else ""
        if option == "--entrypoint":
            entrypoint = tuple(value.split())
        at += 1
    if at >= len(words):
        return None
    return start_of_image(words[at], tuple(words[at + 1 :]), tuple(words[:at]), entrypoint, where)


def start_of_image(
    image: str, arguments: tuple[str, ...], before: tuple[str, ...], entrypoint: tuple[str, ...] | None, where: str
) -> Start | None:
    """The engine that a container starts if neither its command nor its entrypoint names one.

    Parameters
    ----------
    image : name of the image
    arguments : arguments of the container
    before : words in front of the image
    entrypoint : program that replaces that of the image; None: the program of the image
    where : file and line, for messages
    """
    name = image.rpartition("/")[2].lower() if image.rpartition("/")[2].lower().startswith(SERVERS) else image.lower()
    engine = next((engine for engine in SERVERS if engine in name), None)
    if entrypoint:
        start = start_of((*entrypoint, *arguments), where)
        return start if start is None else Start(start.engine, start.program, start.arguments, (*before, *start.before))
    if engine is None:
        return None
    first = arguments[0] if arguments else ""
    begins_engine = first.startswith("-") or (engine == "vllm" and first and PurePosixPath(first).name not in _SHELLS)
    return Start(engine, IMAGES[engine], arguments, before) if begins_engine else None
