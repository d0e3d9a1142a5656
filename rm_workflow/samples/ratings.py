"""The ratings source: four completions of one prompt with ratings by attribute.

Example row (one of the four completions)::

    {"prompt": "What is the bakery known for? ...",
     "completions": [{"text": "It is known for rye bread.", "model": "writer-b",
                      "ratings": {"helpfulness": 5, "correctness": 4, "style": "N/A"}}, ...]}

The score of a completion is the mean of helpfulness and correctness.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rm_workflow.samples.rows import MODELS, SKILL_WHEEL, Row, draw, has_length_order, random_order, to_line
from rm_workflow.samples.skills import Task, TaskMaker, stream


@dataclass(frozen=True)
class Grade:
    """How one completion turned out and what it was rated (1 to 5)."""

    right: bool
    polite: bool
    helpfulness: int
    correctness: int

    @property
    def score(self) -> float:
        """Return the mean of the two attributes, exact in binary."""
        return (self.helpfulness + self.correctness) / 2


# Name -> the four grades of a row. Comments: scores, and what becomes of the six candidates under score_ratio 1.25.
PATTERNS: dict[str, tuple[Grade, ...]] = {
    # 5, 3.5, 2, 1: six kept
    "graded": (Grade(True, True, 5, 5), Grade(True, False, 3, 4), Grade(False, True, 2, 2), Grade(False, False, 1, 1)),
    # 5, 4, 1.5, 1: six kept, one of them at exactly 1.25
    "boundary": (
        Grade(True, True, 5, 5),
        Grade(True, False, 4, 4),
        Grade(False, True, 2, 1),
        Grade(False, False, 1, 1),
    ),
    # 5, 4.5, 2, 1: one too close, five kept
    "close": (Grade(True, True, 5, 5), Grade(True, True, 5, 4), Grade(False, True, 2, 2), Grade(False, False, 1, 1)),
    # 4, 4, 1.5, 1.5: two equal, four kept
    "two_good": (Grade(True, True, 4, 4), Grade(True, True, 4, 4), Grade(False, True, 2, 1), Grade(False, True, 1, 2)),
    # 4.5, 3.5, 1.5, 1.5: one equal, five kept
    "two_bad": (Grade(True, True, 5, 4), Grade(True, False, 4, 3), Grade(False, True, 1, 2), Grade(False, True, 2, 1)),
    # 4.5, 4, 2, 1.5: one too close, five kept
    "near": (Grade(True, True, 4, 5), Grade(True, False, 4, 4), Grade(False, True, 2, 2), Grade(False, False, 2, 1)),
}


def plain(maker: TaskMaker, split: str, count: int) -> list[Row]:
    """Return ``count`` rows with new prompts over all skills and all patterns.

    Each second row has the pattern of the row before and its replies in the opposite order of length.
    """
    names = sorted(PATTERNS)
    rows = []
    for number in range(count):
        rng = stream("ratings", split, number)
        task = maker.make(SKILL_WHEEL[number % len(SKILL_WHEEL)], rng, takes_remarks=True)
        order = random_order(stream("ratings", split, "lengths", number // 2), 4)
        pattern = names[number // 2 % len(names)]
        rows.append(rated(task.prompt, task, pattern, rng, order=order[::-1] if number % 2 else order))
    return rows


def rated(
    prompt: str,
    task: Task,
    pattern: str,
    rng: random.Random,
    plant: str | None = None,
    order: Sequence[int] | None = None,
) -> Row:
    """Return a row whose four completions follow the pattern, in random slots.

    Args:
        order: indices of the pattern's grades from the shortest reply to the longest; None draws it.
    """
    grades = PATTERNS[pattern]
    wanted = order or random_order(rng, len(grades))
    texts = draw(
        lambda: [task.reply(rng, grade.right, grade.polite) for grade in grades],
        lambda replies: has_length_order(replies, wanted),
        tries=1500,
    )
    slots = random_order(rng, len(grades))
    return rated_row(prompt, task, [texts[slot] for slot in slots], [grades[slot] for slot in slots], rng, plant)


def rated_row(
    prompt: str, task: Task, texts: Sequence[str], grades: Sequence[Grade], rng: random.Random, plant: str | None = None
) -> Row:
    """Return the row of given completions and grades."""
    models = [MODELS[index] for index in random_order(rng, len(MODELS))]
    completions = [
        {
            "text": text,
            "model": model,
            "ratings": {
                "helpfulness": grade.helpfulness,
                "correctness": grade.correctness,
                "style": "N/A"
                if rng.random() < 0.1
                else (rng.randrange(3, 6) if grade.polite else rng.randrange(1, 3)),
            },
        }
        for text, model, grade in zip(texts, models, grades, strict=True)
    ]
    return Row(
        to_line({"prompt": prompt, "completions": completions}),
        task,
        (("user", prompt),),
        tuple(texts),
        tuple(grade.score for grade in grades),
        plant=plant,
    )
