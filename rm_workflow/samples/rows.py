"""One row of a sample source: the line as it stands in the file, and what it means.

The meaning is kept beside the line so that the accounting never has to parse a file.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rm_workflow.samples.skills import SKILLS, Task

# (role, content) of each turn of a prompt.
Messages = tuple[tuple[str, str], ...]

MODELS = ("writer-a", "writer-b", "writer-c", "writer-d")

# Arithmetic is the hardest skill for a small model and stands in the sample a little less often.
SKILL_WHEEL = (
    "facts",
    "topic",
    "politeness",
    "constraints",
    "arithmetic",
    "topic",
    "politeness",
    "facts",
    "constraints",
)
assert set(SKILL_WHEEL) == set(SKILLS)


@dataclass(frozen=True)
class Row:
    """A line with its meaning.

    Attributes:
        line: the physical line, without its newline.
        task: the task whose prompt ends the conversation; None where the row is broken on purpose.
        prompt: the turns before the reply.
        replies: (chosen, rejected) of a dialogue, all completions of a rated row; empty where the row is dropped.
        scores: mean rating of each reply, or None for a dialogue.
        row_rule: the row rule that drops this row, or None.
        plant: name of what was planted with this row, or None.
    """

    line: str
    task: Task | None = None
    prompt: Messages = ()
    replies: tuple[str, ...] = ()
    scores: tuple[float, ...] | None = None
    row_rule: str | None = None
    plant: str | None = None


def to_line(value: Any) -> str:
    """Return one JSON line in plain ASCII; keys keep their order."""
    return json.dumps(value, ensure_ascii=True)


def draw(make: Callable[[], Sequence[str]], wanted: Callable[[Sequence[str]], bool], tries: int = 400) -> Sequence[str]:
    """Return different replies that meet ``wanted``; after ``tries`` draws any different replies will do."""
    found: Sequence[str] | None = None
    for _ in range(tries):
        replies = make()
        if len(set(replies)) < len(replies):
            continue
        if wanted(replies):
            return replies
        found = replies
    if found is None:
        raise RuntimeError("a task has too few different replies")
    return found


def size(reply: str) -> tuple[int, int]:
    """Return words and characters, the two ways to call a reply long."""
    return len(reply.split()), len(reply)


def has_length_order(replies: Sequence[str], order: Sequence[int]) -> bool:
    """Return whether the replies named by ``order`` grow strictly, both in words and in characters."""
    sizes = [size(replies[index]) for index in order]
    return all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(sizes))


def random_order(rng: random.Random, count: int) -> list[int]:
    """Return the numbers 0..count-1 in random order."""
    order = list(range(count))
    rng.shuffle(order)
    return order
