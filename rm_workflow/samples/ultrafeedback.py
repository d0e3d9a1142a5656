"""The native form of openbmb/UltraFeedback: four completions of one instruction, rated on four aspects.

Example row (one completion, cut)::

    {"source": "evol_instruct", "instruction": "What is the bakery known for? ...", "models": ["writer-b", ...],
     "completions": [{"annotations": {"helpfulness": {"Rating": "5", "Rationale": ..., "Rationale For Rating": ...,
                                                      "Type": ["1"]}, "honesty": {"Rating": "N/A", ...}, ...},
                      "fine-grained_score": 5.0, "response": "It is known for rye bread.", ...}, ...]}

A rating is text, "1" to "5" or "N/A"; a completion's score is the mean of its ratings that are there.
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
from rm_workflow.samples.rows import MODELS, random_order, to_line
from rm_workflow.samples.skills import Task, TaskMaker

NAME = "ultrafeedback"
ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
TYPED = ("truthfulness", "helpfulness")
RATIONALE = {
    "5": "Nothing is missing.",
    "4": "Small faults only.",
    "3": "About half of it is right.",
    "2": "Mostly beside the point.",
    "1": "Of no use.",
    "N/A": "This cannot be judged here.",
}

# (right, polite, the ratings of ASPECTS; N is "N/A")
Grade = tuple[bool, bool, str]

PLAIN: tuple[tuple[Grade, ...], ...] = (
    ((True, True, "5555"), (True, False, "4454"), (False, True, "2423"), (False, False, "1211")),
    # an aspect without a number, as many rows have: 5, 4, 2, 1
    ((True, True, "5N55"), (True, False, "44N4"), (False, True, "2N2N"), (False, False, "11N1")),
    ((True, True, "5545"), (True, True, "5444"), (False, True, "3222"), (False, False, "1112")),
)
PLANTED: dict[str, tuple[Grade, ...]] = {
    # 9/2 and 9/2 over other counts, 2 and 2
    "equal_means": ((True, True, "54NN"), (True, True, "5454"), (False, True, "2222"), (False, True, "N31N")),
    # 11/3 and 11/3, 7/3 and 7/3: as sums of thirds in floating point each pair differs in the last bit
    "equal_thirds": ((True, True, "344N"), (True, True, "443N"), (False, True, "421N"), (False, True, "412N")),
    "no_rating": ((True, True, "5555"), (True, False, "4444"), (False, True, "NNNN"), (False, False, "1111")),
    "two_without_rating": ((True, True, "NNNN"), (True, False, "4444"), (False, True, "NNNN"), (False, False, "1111")),
    "three_completions": ((True, True, "5555"), (False, True, "2222"), (False, False, "1111")),
    "two_completions": ((True, True, "5545"), (False, False, "1111")),
    "one_completion": ((True, True, "5545"),),
}


def _ratings(grade: str) -> list[str]:
    return ["N/A" if letter == "N" else letter for letter in grade]


def _mean(grade: str) -> Fraction | None:
    numbers = [int(letter) for letter in grade if letter != "N"]
    return Fraction(sum(numbers), len(numbers)) if numbers else None


def _completion(text: str, grade: str, model: str) -> dict[str, Any]:
    annotations: dict[str, dict[str, Any]] = {}
    for aspect, rating in zip(ASPECTS, _ratings(grade), strict=True):
        annotations[aspect] = {"Rating": rating, "Rationale": RATIONALE[rating]}
        if aspect in TYPED:
            kind = "None" if aspect == "truthfulness" else "1"
            annotations[aspect] |= {"Rationale For Rating": RATIONALE[rating], "Type": [kind]}
    mean = _mean(grade)
    return {
        "annotations": dict(sorted(annotations.items())),
        "critique": "" if mean is None else RATIONALE[str(round(mean))],
        "custom_system_prompt": "Answer in plain words.",
        "fine-grained_score": None if mean is None else float(mean),
        "model": model,
        "overall_score": None if mean is None else float(round(2 * mean)),
        "principle": "helpfulness",
        "response": text,
    }


def native(prompt: str, texts: Sequence[str], grades: Sequence[str], rng: random.Random, file: str) -> dict[str, Any]:
    """Return the object of a row."""
    models = [MODELS[index] for index in random_order(rng, len(MODELS))][: len(texts)]
    known = [f"The answer to: {prompt}"] if file.startswith("truthful_qa") else ["None"]
    return {
        "source": file.removesuffix(".jsonl"),
        "instruction": prompt,
        "models": models,
        "completions": [
            _completion(text, grade, model) for text, grade, model in zip(texts, grades, models, strict=True)
        ],
        "correct_answers": known,
        "incorrect_answers": ["I do not know."] if known != ["None"] else known,
    }


def row(
    prompt: str,
    task: Task,
    texts: Sequence[str],
    grades: Sequence[str],
    rng: random.Random,
    file: str,
    plant: str | None = None,
) -> NativeRow:
    """Return a row with the completions in random slots."""
    slots = random_order(rng, len(texts))
    texts, grades = [texts[slot] for slot in slots], [grades[slot] for slot in slots]
    value = native(prompt, texts, grades, rng, file)
    rated = Rated(asked(prompt), tuple(zip(texts, map(_mean, grades), strict=True)))
    return NativeRow(to_line(value), {NAME: rated}, task, plant)


def plain(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return a row of four completions."""
    return _graded(maker, rng, number, file, PLAIN[number % len(PLAIN)], None)


def _graded(
    maker: TaskMaker, rng: random.Random, number: int, file: str, grades: Sequence[Grade], plant: str | None
) -> Block:
    task = new_task(maker, rng, number)
    texts = graded_replies(task, [grade[:2] for grade in grades], rng)
    return [row(task.prompt, task, texts, [grade[2] for grade in grades], rng, file, plant)]


def _planted(plant: str) -> Make:
    def make(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
        return _graded(maker, rng, number, file, PLANTED[plant], plant)

    return make


def _identical(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return texts X, X, Y, Z rated 5, 4, 2, 1: X with X is identical, X over Y and X over Z come twice."""
    task = new_task(maker, rng, number)
    x, y, z = graded_replies(task, [(True, True), (False, True), (False, False)], rng)
    grades = ("5555", "4444", "2222", "1111")
    return [row(task.prompt, task, (x, x, y, z), grades, rng, file, "identical_responses")]


def _opposed(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return the same four completions twice with opposite ratings; no rule of this pair set drops them."""
    task = new_task(maker, rng, number)
    texts = graded_replies(task, [grade[:2] for grade in PLAIN[0]], rng)
    grades = ("5555", "4444", "2222", "1111")
    return [row(task.prompt, task, texts, order, rng, file, "contradictory") for order in (grades, grades[::-1])]


def _wrong_overall_score(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return a row whose worst completion has the overall score 10, as the first release had; nothing reads it."""
    task = new_task(maker, rng, number)
    texts = graded_replies(task, [grade[:2] for grade in PLAIN[0]], rng)
    grades = [grade[2] for grade in PLAIN[0]]
    value = native(task.prompt, texts, grades, rng, file)
    value["completions"][3]["overall_score"] = 10.0
    rated = Rated(asked(task.prompt), tuple(zip(texts, map(_mean, grades), strict=True)))
    return [NativeRow(to_line(value), {NAME: rated}, task, "wrong_overall_score")]


def _broken(rule: str, change: Callable[[dict[str, Any], int], None], plant: str | None = None) -> Make:
    def make(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
        task = new_task(maker, rng, number)
        texts = graded_replies(task, [grade[:2] for grade in PLAIN[0]], rng)
        value = native(task.prompt, texts, [grade[2] for grade in PLAIN[0]], rng, file)
        change(value, number)
        return [NativeRow(to_line(value), {NAME: Dropped(rule)}, plant=plant or rule)]

    return make


def _bad_field(value: dict[str, Any], number: int) -> None:
    if number % 4 == 0:
        value["completions"][2]["response"] = None
    elif number % 4 == 1:
        del value["completions"][1]["annotations"]
    elif number % 4 == 2:
        value["instruction"] = None
    else:
        value["completions"] = None


def _no_completions(value: dict[str, Any], number: int) -> None:
    value["models"], value["completions"] = [], []


def _empty_message(value: dict[str, Any], number: int) -> None:
    value["completions"][number % 4]["response"] = " " * number


def _broken_line(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    whole = plain(maker, rng, 0, file)[0].line
    return [NativeRow(whole[: len(whole) // 2], {NAME: Dropped("broken_line")}, plant="broken_line")]


def from_pair(prompt: str, task: Task, replies: tuple[str, str], rng: random.Random, file: str, plant: str) -> Block:
    """Return a row of two completions."""
    return [row(prompt, task, replies, ("5555", "1111"), rng, file, plant)]


SOURCE = NativeSource(
    NAME,
    (NAME,),
    {
        "evol_instruct.jsonl": FilePlan(
            "train",
            64,
            {
                "equal_means": 3,
                "equal_thirds": 3,
                "no_rating": 3,
                "two_without_rating": 2,
                "three_completions": 2,
                "two_completions": 2,
                "one_completion": 2,
                "no_completions": 2,
                "identical_responses": 3,
                "contradictory": 2,
                "wrong_overall_score": 2,
                "bad_field": 4,
                "empty_message": 2,
                "broken_line": 1,
            },
            3,
        ),
        "truthful_qa.jsonl": FilePlan("train", 14, {"equal_means": 1, "no_completions": 1}),
    },
    plain,
    {
        **{plant: _planted(plant) for plant in PLANTED},
        "no_completions": _broken("bad_field", _no_completions, "no_completions"),
        "identical_responses": _identical,
        "contradictory": _opposed,
        "wrong_overall_score": _wrong_overall_score,
        "bad_field": _broken("bad_field", _bad_field),
        "empty_message": _broken("empty_message", _empty_message),
        "broken_line": _broken_line,
    },
    from_pair,
)
