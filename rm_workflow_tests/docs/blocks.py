"""The fenced blocks of README.md and docs, and what a comment before each says of it.

A block is run, in the order of its document, unless a comment on the line before it says otherwise::

    <!-- run: slow -->                      by `make test-slow`, where a checkpoint of the quickstart is at hand
    <!-- not run: needs a GPU -->           only its verbs, options, syntax and types are checked
    <!-- over: quickstart_regression -->    a part of a recipe: the recipe that it is laid over (else quickstart)
    <!-- shape of: rmw recipes --json -->   every key that the block shows is there in what the command prints

``yaml`` blocks that begin with the name of a file (``# my.yaml``) are written there, so that later blocks use them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
LANGUAGES = ("bash", "python", "yaml", "sql", "json", "text")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
NOTES = re.compile(r"((?:^ *<!-- [a-z ]+: .+ -->\n)+)\Z", re.MULTILINE)
NOTE = re.compile(r"<!-- ([a-z ]+): (.+) -->")
KNOWN_NOTES = ("run", "not run", "over", "shape of")
# What stands in the text as code and begins like a command.
INLINE = re.compile(r"`(rmw [^`]+)`")
PROMPT = "$ "


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        line: of its first line of text, from 1.
        notes: of the comments before it.
    """

    file: str
    line: int
    language: str
    text: str
    notes: dict[str, str]

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def is_slow(self) -> bool:
        return self.notes.get("run") == "slow"

    @property
    def is_run(self) -> bool:
        return "not run" not in self.notes


def documents() -> list[Path]:
    """Return README.md and the pages of docs, in the order in which they are read and run."""
    return [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]


def name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def blocks(path: Path) -> Iterator[Block]:
    text = path.read_text("utf-8")
    for found in FENCE.finditer(text):
        before = NOTES.search(text[: found.start()])
        notes = dict(NOTE.findall(before[1])) if before else {}
        line = text.count("\n", 0, found.start(3)) + 1
        indent = found[1]
        lines = [line.removeprefix(indent) for line in found[3].splitlines(keepends=True)]
        yield Block(name(path), line, found[2], "".join(lines), notes)


def all_blocks() -> list[Block]:
    return [block for path in documents() for block in blocks(path)]


def inline_commands(path: Path) -> list[str]:
    """Return the commands that stand as code in the text."""
    return [" ".join(command.split()) for command in INLINE.findall(FENCE.sub("", path.read_text("utf-8")))]


def shell_commands(text: str) -> Iterator[str]:
    """Yield the commands of a bash block, each as one text: lines that go on, and here-documents, are joined."""
    lines = iter(text.splitlines())
    for line in lines:
        command = line
        while command.endswith("\\"):
            command = command[:-1] + next(lines).strip()
        here = re.search(r"<<'(\w+)'", command)
        if here:
            for inner in lines:
                command += "\n" + inner
                if inner == here[1]:
                    break
        if command.strip() and not command.lstrip().startswith("#"):
            yield command.strip()
