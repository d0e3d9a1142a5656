"""The native form of PKU-Alignment/PKU-SafeRLHF-30K: two responses labelled twice, by help and by safety.

Example row::

    {"prompt": "How do I dry wet shoes?", "response_0": "Stuff them with paper. How dull.",
     "response_1": "Maybe somebody else knows. Gladly.", "is_response_0_safe": false, "is_response_1_safe": true,
     "better_response_id": 0, "safer_response_id": 1}

The 30K release has no columns for sources, harm categories and hashes. Here a right reply is the better one, and a
polite one the safer: nothing unsafe stands in any row.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any

from rm_workflow.samples.native_rows import (
    Block,
    Dropped,
    FilePlan,
    Given,
    Make,
    Meaning,
    NativeRow,
    NativeSource,
    asked,
    graded_replies,
    new_task,
    several_pairs,
    two_replies,
)
from rm_workflow.samples.rows import to_line
from rm_workflow.samples.skills import Task, TaskMaker

NAME = "pku_safe_rlhf_30k"
AXES = ("better", "safer")


def native(
    prompt: str, replies: tuple[str, str], is_first: Mapping[str, bool], safe: tuple[bool, bool], rng: random.Random
) -> dict[str, Any]:
    """Return the object of a row; ``is_first`` says for each axis whether the first reply wins."""
    first = rng.randrange(2)
    texts = replies if first == 0 else replies[::-1]
    are_safe = safe if first == 0 else safe[::-1]
    return {
        "prompt": prompt,
        "response_0": texts[0],
        "response_1": texts[1],
        "is_response_0_safe": are_safe[0],
        "is_response_1_safe": are_safe[1],
        **{f"{axis}_response_id": first if is_first[axis] else 1 - first for axis in AXES},
    }


def row(
    prompt: str,
    task: Task,
    replies: tuple[str, str],
    rng: random.Random,
    plant: str | None = None,
    safer_is_first: bool = True,
    safe: tuple[bool, bool] = (True, True),
) -> NativeRow:
    """Return a row whose first reply is the better one."""
    is_first = {"better": True, "safer": safer_is_first}
    value = native(prompt, replies, is_first, safe, rng)
    means = {f"{NAME}_{axis}": Given(asked(prompt), *(replies if is_first[axis] else replies[::-1])) for axis in AXES}
    return NativeRow(to_line(value), means, task, plant)


def plain(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return a prompt with one row, each fifth with two."""
    task = new_task(maker, rng, number)
    pairs = several_pairs(task, rng, 2) if number % 5 == 4 else [two_replies(task, rng, number)]
    return [row(task.prompt, task, pair, rng) for pair in pairs]


def _disagreeing(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return a right and rude reply against a wrong and polite one: the first is better, the second safer."""
    task = new_task(maker, rng, number)
    rude, polite = graded_replies(task, [(True, False), (False, True)], rng)
    plant = "better_and_safer_disagree"
    return [row(task.prompt, task, (rude, polite), rng, plant, safer_is_first=False, safe=(False, True))]


def _both_unsafe(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return two rude replies; one is labelled safer all the same, and no rule looks at it."""
    task = new_task(maker, rng, number)
    right, wrong = graded_replies(task, [(True, False), (False, False)], rng)
    return [row(task.prompt, task, (right, wrong), rng, "both_unsafe", safe=(False, False))]


def _identical(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    task = new_task(maker, rng, number)
    text = task.reply(rng, True, True)
    return [row(task.prompt, task, (text, text), rng, "identical_responses")]


def _opposed(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return one pair with both labels; no rule of this pair set drops either."""
    task = new_task(maker, rng, number)
    better, worse = two_replies(task, rng, number)
    return [row(task.prompt, task, pair, rng, "contradictory") for pair in ((better, worse), (worse, better))]


def _one_axis_only(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return a row with one of its two labels missing: only the reading by that label drops it."""
    task = new_task(maker, rng, number)
    replies = two_replies(task, rng, number)
    axis, other = AXES if number % 2 == 0 else AXES[::-1]
    value = native(task.prompt, replies, dict.fromkeys(AXES, True), (True, True), rng)
    value[f"{other}_response_id"] = None
    means: dict[str, Meaning] = {
        f"{NAME}_{axis}": Given(asked(task.prompt), *replies),
        f"{NAME}_{other}": Dropped("bad_field"),
    }
    return [NativeRow(to_line(value), means, task, "one_label_missing")]


def _broken(rule: str, change: Callable[[dict[str, Any], int], None]) -> Make:
    def make(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
        task = new_task(maker, rng, number)
        value = native(task.prompt, two_replies(task, rng, number), dict.fromkeys(AXES, True), (True, True), rng)
        change(value, number)
        return [NativeRow(to_line(value), _dropped(rule), plant=rule)]

    return make


def _dropped(rule: str) -> dict[str, Meaning]:
    return {f"{NAME}_{axis}": Dropped(rule) for axis in AXES}


def _bad_field(value: dict[str, Any], number: int) -> None:
    labels = {f"{axis}_response_id": (2, True, "0")[number % 3] for axis in AXES}
    value.update({"response_1": None} if number % 4 == 3 else labels)


def _empty_message(value: dict[str, Any], number: int) -> None:
    value[("response_1", "prompt")[number % 2]] = ("", "\n\n")[number % 2]


def _broken_line(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    whole = plain(maker, rng, 0, file)[0].line
    return [NativeRow(whole[: len(whole) // 2], _dropped("broken_line"), plant="broken_line")]


def from_pair(prompt: str, task: Task, replies: tuple[str, str], rng: random.Random, file: str, plant: str) -> Block:
    """Return a row whose first reply is better and safer."""
    return [row(prompt, task, replies, rng, plant)]


SOURCE = NativeSource(
    NAME,
    tuple(f"{NAME}_{axis}" for axis in AXES),
    {
        "round0/train.jsonl": FilePlan(
            "train",
            58,
            {
                "better_and_safer_disagree": 12,
                "both_unsafe": 3,
                "identical_responses": 3,
                "contradictory": 2,
                "one_label_missing": 2,
                "bad_field": 4,
                "empty_message": 2,
                "broken_line": 1,
            },
            4,
        ),
        "round0/test.jsonl": FilePlan(
            "test", 14, {"better_and_safer_disagree": 2, "identical_responses": 1, "bad_field": 1}, 1
        ),
    },
    plain,
    {
        "better_and_safer_disagree": _disagreeing,
        "both_unsafe": _both_unsafe,
        "identical_responses": _identical,
        "contradictory": _opposed,
        "one_label_missing": _one_axis_only,
        "bad_field": _broken("bad_field", _bad_field),
        "empty_message": _broken("empty_message", _empty_message),
        "broken_line": _broken_line,
    },
    from_pair,
)
