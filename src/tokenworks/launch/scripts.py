"""The files of a launch: one script for each command, and a README with the figures that each file should reach."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from tokenworks.launch.command import Command
from tokenworks.launch.commands import Launch
from tokenworks.launch.figures import Figure
from tokenworks.launch.words import is_flag

WIDE = 110
"""Longest line of a command in a script [character]."""


def script_name(command: Command, launch: Launch) -> str:
    """The name of the script of a command."""
    if command.role == "router":
        return "router.sh"
    replicas = next(role.replicas for role in launch.deployment.roles if role.name == command.role)
    name = command.role if replicas == 1 else f"{command.role}-{command.instance}"
    return f"{name}.sh" if launch.layout.nodes(command.role) == 1 else f"{name}-node-{command.node}.sh"


def script(command: Command, launch: Launch, figures: Sequence[Figure]) -> str:
    """The text of the script of a command. Words after the name of the script are added to the command.

    Parameters
    ----------
    command : the command
    launch : the launch
    figures : what the engine should print at its start
    """
    head = ["#!/usr/bin/env bash", f"# {_title(command, launch)}", f"# Run on {launch.host_of(command)}.", "#"]
    head += [f"# Predicted: {figure.title} {figure.text}; {figure.read}" for figure in figures]
    head.append("set -euo pipefail")
    head += [f"export {name}={shlex.quote(value)}" for name, value in command.environment.items()]
    return "\n".join([*head, *_wrapped(command)]) + "\n"


def _title(command: Command, launch: Launch) -> str:
    if command.role == "router":
        return f"Router of {launch.served}."
    role = next(role for role in launch.deployment.roles if role.name == command.role)
    nodes = launch.layout.nodes(command.role)
    place = f", node {command.node + 1} of {nodes}" if nodes > 1 else ""
    number = f" {command.instance + 1} of {role.replicas}" if role.replicas > 1 else ""
    return f"{launch.served}, {command.role} instance{number} [{role.parallel}]{place}, {launch.dialect.title}."


def _wrapped(command: Command) -> Iterator[str]:
    """The command over several lines, a flag with its values on one line."""
    groups: list[list[str]] = [["exec", *command.program]]
    for word in command.arguments:
        if is_flag(word):
            groups.append([])
        groups[-1].append(word)
    line = ""
    for group in groups:
        text = shlex.join(group)
        if line and len(line) + len(text) > WIDE:
            yield f"{line} \\"
            line = f"  {text}"
        else:
            line = f"{line} {text}" if line else text
    yield f'{line} "$@"'


def readme(
    launch: Launch,
    files: Mapping[str, str],
    figures: Mapping[str, Sequence[Figure]],
    notes: Sequence[str],
    command: str,
) -> str:
    """The text of the README of a launch.

    Parameters
    ----------
    launch : the launch
    files : name of a file -> what it is for
    figures : name of a file -> the figures that it should reach
    notes : what a reader must know
    command : how the folder was written
    """
    deployment = launch.deployment
    lines = [
        f"# {launch.served} on {deployment.system}",
        "",
        f"{deployment}, {launch.dialect.title}. Written by `{command}`.",
        "",
        "Start the scripts on their hosts, all of a role at the same time, and the router last. Words after the name "
        "of a script are added to its command, such as `--trust-remote-code`.",
        "",
        "| file | host | what it does |",
        "|---|---|---|",
    ]
    hosts = {script_name(one, launch): launch.host_of(one) for one in launch.commands}
    lines += [f"| `{name}` | {hosts.get(name, 'any')} | {words} |" for name, words in files.items()]
    lines += ["", "## Figures", "", "In brackets: the interval that should contain 80 % of measurements.", ""]
    lines += ["| file | figure | predicted | where to read it |", "|---|---|---|---|"]
    rows = [(name, figure) for name, every in figures.items() for figure in every]
    lines += [f"| `{name}` | {one.title} | {one.text} | `{one.read}` |" for name, one in rows]
    if not rows:
        lines.append("| - | the file of the deployment had no predictions | - | - |")
    if notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"
