"""The native schema of argilla/distilabel-intel-orca-dpo-pairs: pairs that a judge has looked at again.

Example row (cut)::

    {"system": "You are a helpful assistant.", "input": "How do I dry wet shoes?", "chosen": "Stuff them with paper.",
     "rejected": "Ugh, fine.", "rating": [9.0, 2.0], "status": "unchanged", "chosen_score": 9.0,
     "in_gsm8k_train": false, ...}

``status`` is ``tie``, ``swapped`` or ``unchanged``; ``rating`` is null where the judge gave no numbers. The published
set is one Parquet file; every row here fits its columns and types.
"""

import random
from collections.abc import Callable
from typing import Any

from rm_workflow.samples.native_rows import (
    Block,
    Dropped,
    FilePlan,
    Given,
    Make,
    NativeRow,
    NativeSource,
    new_task,
    two_replies,
)
from rm_workflow.samples.rows import Messages, to_line
from rm_workflow.samples.skills import Task, TaskMaker

NAME = "orca"
SYSTEMS = (
    "",
    "You are a helpful assistant.",
    "Answer like a patient teacher who explains each step.",
    "",
    "You are a guide. Keep it short.",
)


def native(system: str | None, question: str, replies: tuple[str, str], rng: random.Random) -> dict[str, Any]:
    """Return the object of a row that the judge was sure about."""
    chosen, rejected = replies
    swapped = rng.random() < 0.2
    order = ["chosen", "rejected"] if rng.random() < 0.5 else ["rejected", "chosen"]
    shown = [chosen, rejected] if order[0] == "chosen" else [rejected, chosen]
    high, low = float(rng.randrange(7, 11)), float(rng.randrange(1, 7))
    original = (rejected, chosen) if swapped else replies
    return {
        "system": system,
        "input": question,
        "chosen": chosen,
        "rejected": rejected,
        "generations": shown,
        "order": order,
        "labelling_model": "judge",
        "labelling_prompt": [
            {"content": "You compare two answers.", "role": "system"},
            {"content": f"Which is better? {question}", "role": "user"},
        ],
        "raw_labelling_response": f"{high:g} {low:g}",
        "rating": [high, low] if order[0] == "chosen" else [low, high],
        "rationale": "One of them helps more.",
        "status": "swapped" if swapped else "unchanged",
        "original_chosen": original[0],
        "original_rejected": original[1],
        "chosen_score": high,
        "in_gsm8k_train": False,
    }


def row(
    system: str | None,
    question: str,
    task: Task,
    replies: tuple[str, str],
    rng: random.Random,
    plant: str | None = None,
    **changes: Any,
) -> NativeRow:
    """Return the row of a pair; ``changes`` are set in its object."""
    value = native(system, question, replies, rng) | changes
    marks = {"tie": value["status"] == "tie", "in_gsm8k_train": value["in_gsm8k_train"] is True}
    prompt: Messages = (("user", question),)
    if system and system.strip():
        prompt = (("system", system), *prompt)
    given = Given(prompt, *replies, marks=frozenset(mark for mark, is_set in marks.items() if is_set))
    return NativeRow(to_line(value), {NAME: given}, task, plant)


def plain(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return a pair, three of five times under a system text."""
    task = new_task(maker, rng, number)
    return [row(SYSTEMS[number % len(SYSTEMS)], task.prompt, task, two_replies(task, rng, number), rng)]


def _changed(plant: str, system: str | None = "", **changes: Any) -> Make:
    def make(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
        task = new_task(maker, rng, number)
        return [row(system, task.prompt, task, two_replies(task, rng, number), rng, plant, **changes)]

    return make


NO_NUMBERS: dict[str, Any] = {
    "rating": None,
    "rationale": None,
    "raw_labelling_response": None,
    "chosen_score": None,
}


def _two_systems(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return the same pair under two system texts: two prompts, so no duplicate."""
    task = new_task(maker, rng, number)
    replies = two_replies(task, rng, number)
    return [row(system, task.prompt, task, replies, rng, "two_systems") for system in SYSTEMS[:2]]


def _identical(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    task = new_task(maker, rng, number)
    text = task.reply(rng, True, True)
    return [row("", task.prompt, task, (text, text), rng, "identical_responses")]


def _broken(rule: str, change: Callable[[dict[str, Any], int], None]) -> Make:
    def make(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
        task = new_task(maker, rng, number)
        value = native("", task.prompt, two_replies(task, rng, number), rng)
        change(value, number)
        return [NativeRow(to_line(value), {NAME: Dropped(rule)}, plant=rule)]

    return make


def _bad_field(value: dict[str, Any], number: int) -> None:
    value[("chosen", "input", "rejected")[number % 3]] = None


def _empty_message(value: dict[str, Any], number: int) -> None:
    value[("rejected", "input")[number % 2]] = ("", " \n ")[number % 2]


def from_pair(prompt: str, task: Task, replies: tuple[str, str], rng: random.Random, file: str, plant: str) -> Block:
    """Return a pair without a system text."""
    return [row("", prompt, task, replies, rng, plant)]


SOURCE = NativeSource(
    NAME,
    (NAME,),
    {
        "train.jsonl": FilePlan(
            "train",
            56,
            {
                "tie": 6,
                "in_gsm8k_train": 5,
                "tie_in_gsm8k_train": 2,
                "tie_without_rating": 3,
                "without_rating": 2,
                "no_mark": 2,
                "blank_system": 2,
                "two_systems": 2,
                "identical_responses": 3,
                "bad_field": 3,
                "empty_message": 2,
            },
            3,
        )
    },
    plain,
    {
        "tie": _changed("tie", status="tie"),
        "in_gsm8k_train": _changed("in_gsm8k_train", in_gsm8k_train=True),
        "tie_in_gsm8k_train": _changed("tie_in_gsm8k_train", status="tie", in_gsm8k_train=True),
        "tie_without_rating": _changed("tie_without_rating", status="tie", **NO_NUMBERS),
        "without_rating": _changed("without_rating", **NO_NUMBERS),
        "no_mark": _changed("no_mark", system=None, status=None, in_gsm8k_train=None),
        "blank_system": _changed("blank_system", system=" \n"),
        "two_systems": _two_systems,
        "identical_responses": _identical,
        "bad_field": _broken("bad_field", _bad_field),
        "empty_message": _broken("empty_message", _empty_message),
    },
    from_pair,
)
