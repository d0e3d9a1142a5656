"""Rows in the native schemas of RM-Mistral-7B's sources: the line as it stands in a file, and what it means.

The six modules ``shp``, ``ultrafeedback``, ``helpsteer``, ``capybara``, ``orca`` and ``pku`` each describe one source.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from rm_workflow.samples import dialogues
from rm_workflow.samples.rows import SKILL_WHEEL, Messages, Row, draw, has_length_order, random_order
from rm_workflow.samples.skills import Task, TaskMaker


@dataclass(frozen=True)
class Given:
    """A pair as one reading of a row labels it.

    Attributes:
        scores: of chosen and rejected, None where a side has none; None as a whole where the source has no scores.
        marks: what the source says about the row and a rule may drop it for: ``tie``, ``in_gsm8k_train``.
        group: the source's own group, or None where the first user turn is the group.
    """

    prompt: Messages
    chosen: str
    rejected: str
    scores: tuple[Fraction | None, Fraction | None] | None = None
    marks: frozenset[str] = frozenset()
    group: str | None = None


@dataclass(frozen=True)
class Rated:
    """Responses of one prompt with their exact mean ratings, None where a response has no rating."""

    prompt: Messages
    replies: tuple[tuple[str, Fraction | None], ...]


@dataclass(frozen=True)
class Dropped:
    """A row that a row rule drops."""

    rule: str


Meaning = Given | Rated | Dropped


@dataclass(frozen=True)
class NativeRow:
    """A line with its meaning.

    Attributes:
        line: the physical line, without its newline.
        means: reading -> what the row says to it; the readings are those of its source.
        task: the task behind the prompt; None where the row is broken on purpose.
        plant: name of what was planted with this row, or None.
    """

    line: str
    means: Mapping[str, Meaning]
    task: Task | None = None
    plant: str | None = None


# Rows that stay together when a file is shuffled.
Block = list[NativeRow]
# (tasks, random stream, number of the block, file) -> rows
Make = Callable[[TaskMaker, random.Random, int, str], Block]
# (prompt, task, (chosen, rejected), random stream, file, plant) -> rows that say so
FromPair = Callable[[str, Task, tuple[str, str], random.Random, str, str], Block]


@dataclass(frozen=True)
class FilePlan:
    """What one file is made of.

    Attributes:
        split: ``train`` or ``test``, as a mixture takes the file.
        plain: blocks with a new prompt and nothing planted.
        plants: plant -> blocks.
        repeats: unplanted rows that stand there once more, further down.
    """

    split: str
    plain: int
    plants: Mapping[str, int]
    repeats: int = 0


@dataclass(frozen=True)
class NativeSource:
    """One source: its files and the ways to make its rows.

    Attributes:
        name: folder under ``data/samples``.
        readings: the sources of the catalogue that read these files, without ``sample_``.
        files: file -> plan, in the order in which the catalogue lists them.
    """

    name: str
    readings: tuple[str, ...]
    files: Mapping[str, FilePlan]
    plain: Make
    plants: Mapping[str, Make]
    from_pair: FromPair


def new_task(maker: TaskMaker, rng: random.Random, number: int) -> Task:
    """Return a new task beside whose answer a remark may stand, the skills by turns."""
    return maker.make(SKILL_WHEEL[number % len(SKILL_WHEEL)], rng, takes_remarks=True)


def asked(prompt: str) -> Messages:
    """Return a prompt of one user turn."""
    return (("user", prompt),)


def two_replies(task: Task, rng: random.Random, number: int) -> tuple[str, str]:
    """Return (better, worse) replies; each second time the better one is the longer."""
    row = dialogues.with_pair(dialogues.single_turn(task), task, rng, chosen_longer=number % 2 == 0)
    return row.replies[0], row.replies[1]


def several_pairs(task: Task, rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Return pairs of (better, worse) replies in which no reply stands twice."""
    rows: tuple[Row, ...] = ()
    for number in range(count):
        rows = (
            *rows,
            dialogues.with_pair(dialogues.single_turn(task), task, rng, rows, chosen_longer=number % 2 == 0),
        )
    return [(row.replies[0], row.replies[1]) for row in rows]


def graded_replies(task: Task, kinds: Sequence[tuple[bool, bool]], rng: random.Random) -> list[str]:
    """Return one reply for each (right, polite), all different, in a random order of length."""
    order = random_order(rng, len(kinds))
    return list(
        draw(
            lambda: [task.reply(rng, right, polite) for right, polite in kinds],
            lambda texts: has_length_order(texts, order),
        )
    )
