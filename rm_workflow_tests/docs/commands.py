"""Commands as people write them: checked against the command line, and run in a folder."""

import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.cli.main import _register, app, main

if TYPE_CHECKING:
    from rm_workflow_tests.docs.conftest import Place

RMW = "rmw"
# What documents call a version's first digits.
OLD = "@OLD"


@cache
def root() -> Any:
    """Return the command line as typer makes it."""
    _register()
    return typer.main.get_command(app)


def words(command: str) -> list[str]:
    """Return the words of a command in a shell, without its comment."""
    return shlex.split(command, comments=True)


def rmw_parts(command: str) -> list[list[str]]:
    """Return the arguments of each ``rmw`` in a line: behind variables that are set, and on either side of a pipe."""
    lexer = shlex.shlex(command.partition("\n")[0], posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    skip = False
    for word in lexer:
        if skip or set(word) <= set("<>"):
            skip = not skip
        elif set(word) <= set("|;&"):
            parts.append([])
        elif parts[-1] or "=" not in word or word.startswith("-"):
            parts[-1].append(word)
    return [part[1:] for part in parts if part[:1] == [RMW]]


def problem(arguments: list[str], command: Any = None) -> str | None:
    """Return why ``rmw`` would not take these arguments, or None; nothing is run."""
    command = command or root()
    if hasattr(command, "commands"):
        inner = command.commands.get(arguments[0]) if arguments else None
        if (
            arguments
            and arguments[0].startswith("--")
            and any(arguments[0] in option.opts for option in command.params)
        ):
            return None
        return problem(arguments[1:], inner) if inner else f"there is no verb {arguments[:1]}"
    try:
        command.make_context(command.name, list(arguments))
    except SystemExit:
        return None  # --help
    except typer.Exit:
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def inline_problem(text: str) -> str | None:
    """Return what is wrong with a command in running text, where arguments may be left out."""
    try:
        arguments = shlex.split(text)[1:]
    except ValueError as error:
        return str(error)
    command = root()
    while arguments and hasattr(command, "commands"):
        if arguments[0] not in command.commands:
            known = [option for parameter in command.params for option in parameter.opts]
            return None if arguments[0] in known or not arguments[0].islower() else f"there is no verb {arguments[0]!r}"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }
    used = {word.strip("[]").partition("=")[0] for word in arguments if word.strip("[]").startswith("-")}
    unknown = sorted(option for option in used if len(option) > 1 and option not in known)
    return f"there is no option {', '.join(unknown)}" if unknown else None


class Shell:
    """Runs the commands of documents: ``rmw`` in this process, all else by bash.

    ``OLD`` in a command stands for the version of the newest checkpoint. A project that ``rmw init`` makes shares the
    home of the place.
    """

    def __init__(
        self, place: "Place", monkeypatch: pytest.MonkeyPatch, captured: Callable[[], tuple[str, str]]
    ) -> None:
        self.place = place
        self.monkeypatch = monkeypatch
        self.captured = captured

    def run(self, command: str) -> str:
        """Run one command line and return what it prints; fails where it does."""
        if OLD in command:
            version = ArtifactStore(self.place.home).require("quickstart_checkpoint").version
            command = command.replace(OLD, f"@{version[:6]}")
        first = command.partition("\n")[0]
        given, pipe, last = first.rpartition(f"| {RMW} ")
        if pipe:
            printed = self._bash(given).encode()
            self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(printed))))
            return self.rmw(words(last))
        parts = words(first) if "<<" not in first else []
        variables = []
        while parts and "=" in parts[0] and not parts[0].startswith("-"):
            variables.append(parts.pop(0))
        if parts[:1] == [RMW]:
            with self.monkeypatch.context() as patched:
                for variable in variables:
                    key, _, value = variable.partition("=")
                    patched.setenv(key, value)
                return self.rmw(parts[1:])
        if parts[:1] == ["cd"]:
            target = (Path.cwd() / parts[1]).resolve()
            assert target.is_relative_to(self.place.folder), command
            self.monkeypatch.chdir(target)
            return ""
        return self._bash(command)

    def rmw(self, arguments: list[str]) -> str:
        """Run ``rmw`` in this process and return what it prints on stdout."""
        self.monkeypatch.setattr(sys, "argv", [RMW, *arguments])
        # The settings export it for children; a program of its own would not have it from the last command.
        self.monkeypatch.delenv("RMW_HOME", raising=False)
        self.captured()
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        out, err = self.captured()
        if arguments[:1] == ["init"]:
            for project in Path.cwd().glob("*/workspace.yaml"):
                self.place.share(project.parent)
        assert not code, f"{shlex.join([RMW, *arguments])} ended with {code}: {err[-2000:]}"
        return out

    @staticmethod
    def _bash(command: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", command], capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ)
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout
