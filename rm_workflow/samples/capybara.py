"""The native schema of argilla/distilabel-capybara-dpo-7k-binarized: dialogues, the last reply against another one.

Example row (cut)::

    {"source": "Dove", "conversation": [{"input": "How do I dry wet shoes?", "output": "Stuff them with paper."}],
     "chosen": [{"content": "How do I dry wet shoes?", "role": "user"}, {"content": "Stuff ...", "role": "assistant"}],
     "rejected": [{"content": "How do I dry wet shoes?", "role": "user"}, {"content": "Ugh ...", "role": "assistant"}],
     "rating_chosen": 5, "rating_rejected": 1, "chosen_model": "original", "rejected_model": "writer-b", ...}

The published set is one Parquet file; every row here fits its columns and types.
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
from rm_workflow.samples.rows import MODELS, Messages, to_line
from rm_workflow.samples.skills import Task, TaskMaker

NAME = "capybara"
PARTS = ("Airoboros", "Dove", "EverythingLM", "GOAT", "TaskSource", "Verified-Camel")


def native(prompt: Messages, replies: tuple[str, str], rng: random.Random) -> dict[str, Any]:
    """Return the object of a row."""
    chosen, rejected = ([*prompt, ("assistant", reply)] for reply in replies)
    turns = zip(chosen[::2], chosen[1::2], strict=True)
    return {
        "source": rng.choice(PARTS),
        "conversation": [{"input": user, "output": reply} for (_, user), (_, reply) in turns],
        "original_response": replies[0],
        "generation_prompt": [f"<s>[INST] {prompt[-1][1]} [/INST]"],
        "raw_generation_responses": [replies[1]],
        "new_generations": [replies[1]],
        "prompt": " ".join(text for role, text in prompt if role == "user"),
        "chosen": _messages(chosen),
        "rejected": _messages(rejected),
        "rating_chosen": rng.randrange(4, 6),
        "rating_rejected": rng.randrange(1, 4),
        "chosen_model": "original",
        "rejected_model": rng.choice(MODELS),
    }


def _messages(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"content": text, "role": role} for role, text in turns]


def row(
    prompt: Messages, task: Task, replies: tuple[str, str], rng: random.Random, plant: str | None = None, **changes: Any
) -> NativeRow:
    """Return the row of a pair; ``changes`` are set in its object."""
    value = native(prompt, replies, rng) | changes
    return NativeRow(to_line(value), {NAME: Given(prompt, *replies)}, task, plant)


def several_turns(maker: TaskMaker, task: Task, rng: random.Random, earlier: int) -> Messages:
    """Return a dialogue that asks ``task`` after so many other turns of the user."""
    prompt: Messages = ()
    for number in range(earlier):
        before = new_task(maker, rng, number)
        prompt = (*prompt, ("user", before.prompt), ("assistant", before.reply(rng, True, True)))
    return (*prompt, ("user", task.prompt))


def plain(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return a dialogue of one to three user turns."""
    task = new_task(maker, rng, number)
    return [row(several_turns(maker, task, rng, number % 3), task, two_replies(task, rng, number), rng)]


def _equal_ratings(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return a pair with equal ratings; no rule of this pair set looks at them."""
    task = new_task(maker, rng, number)
    prompt = several_turns(maker, task, rng, number % 2)
    replies = two_replies(task, rng, number)
    return [row(prompt, task, replies, rng, "equal_ratings", rating_chosen=4, rating_rejected=4)]


def _identical(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    task = new_task(maker, rng, number)
    text = task.reply(rng, True, True)
    return [row(several_turns(maker, task, rng, number % 2), task, (text, text), rng, "identical_responses")]


def _broken(rule: str, change: Callable[[dict[str, Any], int], None]) -> Make:
    def make(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
        task = new_task(maker, rng, number)
        value = native(several_turns(maker, task, rng, 1), two_replies(task, rng, number), rng)
        change(value, number)
        return [NativeRow(to_line(value), {NAME: Dropped(rule)}, plant=rule)]

    return make


def _bad_field(value: dict[str, Any], number: int) -> None:
    if number % 3 == 0:
        value["chosen"] = None
    elif number % 3 == 1:
        value["rejected"][-1]["role"] = "bot"
    else:
        value["rejected"][-1]["content"] = None


def _context_differs(value: dict[str, Any], number: int) -> None:
    if number % 2:
        value["rejected"] = value["rejected"][2:]
    else:
        value["rejected"][0]["content"] += " Thank you."


def _empty_message(value: dict[str, Any], number: int) -> None:
    if number % 2:
        value["rejected"][-1]["content"] = ""
    else:
        value["chosen"][1]["content"] = value["rejected"][1]["content"] = "\t"


def _not_alternating(value: dict[str, Any], number: int) -> None:
    if number % 2:
        value["rejected"][-1]["role"] = "user"
        return
    for side in ("chosen", "rejected"):
        value[side].insert(0, {"content": "Hello there.", "role": "user"})


def from_pair(prompt: str, task: Task, replies: tuple[str, str], rng: random.Random, file: str, plant: str) -> Block:
    """Return a dialogue of one turn."""
    return [row((("user", prompt),), task, replies, rng, plant)]


SOURCE = NativeSource(
    NAME,
    (NAME,),
    {
        "train.jsonl": FilePlan(
            "train",
            54,
            {
                "equal_ratings": 3,
                "identical_responses": 4,
                "bad_field": 3,
                "context_differs": 2,
                "empty_message": 2,
                "not_alternating": 2,
            },
            3,
        )
    },
    plain,
    {
        "equal_ratings": _equal_ratings,
        "identical_responses": _identical,
        "bad_field": _broken("bad_field", _bad_field),
        "context_differs": _broken("context_differs", _context_differs),
        "empty_message": _broken("empty_message", _empty_message),
        "not_alternating": _broken("not_alternating", _not_alternating),
    },
    from_pair,
)
