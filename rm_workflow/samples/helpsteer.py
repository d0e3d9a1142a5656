"""The native form of nvidia/HelpSteer: one rated response a row, those of one prompt in up to four rows.

Example row::

    {"prompt": "How do I dry wet shoes?", "response": "Stuff them with paper.", "helpfulness": 4, "correctness": 4,
     "coherence": 4, "complexity": 1, "verbosity": 1}

The score of a response is the mean of helpfulness and correctness (0 to 4).
"""

import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from rm_workflow.samples.native_rows import (
    Block,
    Dropped,
    FilePlan,
    Make,
    NativeRow,
    NativeSource,
    Rated,
    asked,
    graded_replies,
    new_task,
)
from rm_workflow.samples.rows import to_line
from rm_workflow.samples.skills import Task, TaskMaker

NAME = "helpsteer"

# (right, polite, helpfulness and correctness; N is null)
Grade = tuple[bool, bool, str]

PLAIN: tuple[tuple[Grade, ...], ...] = (
    ((True, True, "44"), (True, False, "34"), (False, True, "11"), (False, False, "00")),
    ((True, True, "43"), (False, True, "21"), (False, False, "01")),
    ((True, True, "44"), (False, True, "12")),
    ((True, True, "34"), (True, False, "33"), (False, True, "10"), (False, False, "00")),
)
PLANTED: dict[str, tuple[Grade, ...]] = {
    # 3 and 3 of other ratings, 1 and 1
    "equal_means": ((True, True, "42"), (True, True, "33"), (False, True, "20"), (False, True, "11")),
    "one_response": ((True, True, "44"),),
    # the mean over what is there: 4 over 3 over none
    "one_rating": ((True, True, "4N"), (True, False, "N3"), (False, True, "11")),
    "no_rating": ((True, True, "44"), (False, True, "NN"), (False, False, "10")),
}


def native(prompt: str, response: str, grade: str, rng: random.Random) -> dict[str, Any]:
    """Return the object of a row."""
    helpfulness, correctness = (None if letter == "N" else int(letter) for letter in grade)
    return {
        "prompt": prompt,
        "response": response,
        "helpfulness": helpfulness,
        "correctness": correctness,
        "coherence": rng.randrange(2, 5),
        "complexity": rng.randrange(0, 3),
        "verbosity": rng.randrange(0, 3),
    }


def row(prompt: str, task: Task, response: str, grade: str, rng: random.Random, plant: str | None = None) -> NativeRow:
    """Return the row of one response."""
    numbers = [int(letter) for letter in grade if letter != "N"]
    mean = Fraction(sum(numbers), len(numbers)) if numbers else None
    rated = Rated(asked(prompt), ((response, mean),))
    return NativeRow(to_line(native(prompt, response, grade, rng)), {NAME: rated}, task, plant)


def plain(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return the rows of one prompt."""
    return _graded(maker, rng, number, PLAIN[number % len(PLAIN)], None)


def _graded(maker: TaskMaker, rng: random.Random, number: int, grades: Sequence[Grade], plant: str | None) -> Block:
    task = new_task(maker, rng, number)
    texts = graded_replies(task, [grade[:2] for grade in grades], rng)
    rows = [row(task.prompt, task, text, grade[2], rng, plant) for text, grade in zip(texts, grades, strict=True)]
    rng.shuffle(rows)
    return rows


def _planted(plant: str) -> Make:
    def make(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
        return _graded(maker, rng, number, PLANTED[plant], plant)

    return make


def _same_text(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return texts X, X, Y rated 4, 3, 1: X with X is identical, X over Y comes twice."""
    task = new_task(maker, rng, number)
    x, y = graded_replies(task, [(True, True), (False, True)], rng)
    return [
        row(task.prompt, task, text, grade, rng, "identical_responses")
        for text, grade in ((x, "44"), (y, "11"), (x, "33"))
    ]


def _broken(rule: str, change: Callable[[dict[str, Any], int], None]) -> Make:
    """Return a prompt of three responses, one of whose rows a row rule drops; the other two stay."""

    def make(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
        good = _graded(maker, rng, number, PLAIN[2], rule)
        task = good[0].task
        assert task is not None
        value = native(task.prompt, "This one is lost.", "22", rng)
        change(value, number)
        return [good[0], NativeRow(to_line(value), {NAME: Dropped(rule)}, plant=rule), good[1]]

    return make


def _bad_field(value: dict[str, Any], number: int) -> None:
    if number % 3 == 0:
        value["response"] = None
    elif number % 3 == 1:
        value["prompt"] = 7
    else:
        del value["correctness"]


def _empty_message(value: dict[str, Any], number: int) -> None:
    value[("response", "prompt")[number % 2]] = ("\n", "")[number % 2]


def _broken_line(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    whole = plain(maker, rng, 0, file)[0].line
    return [NativeRow(whole[: len(whole) // 2], {NAME: Dropped("broken_line")}, plant="broken_line")]


def from_pair(prompt: str, task: Task, replies: tuple[str, str], rng: random.Random, file: str, plant: str) -> Block:
    """Return two rows."""
    return [row(prompt, task, text, grade, rng, plant) for text, grade in zip(replies, ("44", "10"), strict=True)]


SOURCE = NativeSource(
    NAME,
    (NAME,),
    {
        "train.jsonl": FilePlan(
            "train",
            28,
            {
                "equal_means": 3,
                "one_response": 3,
                "one_rating": 2,
                "no_rating": 2,
                "identical_responses": 3,
                "bad_field": 3,
                "empty_message": 2,
                "broken_line": 1,
            },
            3,
        ),
        "validation.jsonl": FilePlan("test", 8, {"equal_means": 1, "one_response": 1, "empty_message": 1}),
    },
    plain,
    {
        **{plant: _planted(plant) for plant in PLANTED},
        "identical_responses": _same_text,
        "bad_field": _broken("bad_field", _bad_field),
        "empty_message": _broken("empty_message", _empty_message),
        "broken_line": _broken_line,
    },
    from_pair,
)
