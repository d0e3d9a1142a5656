"""The native form of stanfordnlp/SHP: two answers to a post and their votes, one folder a subreddit, JSON lines.

Example row (cut)::

    {"post_id": "4f0c2a", "domain": "askculinary_train", "history": "What is the best way to boil an egg? ...",
     "score_A": 7, "score_B": 42, "human_ref_A": "Ugh, fine. ...", "human_ref_B": "Gladly. ...", "labels": 0,
     "seconds_difference": 60.0, "score_ratio": 6.0, ...}

``labels`` is 1 where A is preferred and 0 where B is. A post has several rows and is its own group.
"""

import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from rm_workflow.keys import content_id
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
    new_task,
    several_pairs,
    two_replies,
)
from rm_workflow.samples.rows import to_line
from rm_workflow.samples.skills import Task, TaskMaker

NAME = "shp"
# When the answer with fewer votes was written (2020-09-13).
FIRST_SECOND = 1_600_000_000
# Votes of the better and of the worse answer where nothing is planted: more than 2 to 1.
PLAIN_VOTES = ((42, 7), (9, 4), (31, 3), (120, 18), (15, 7), (8, 1))

# plant -> votes of the preferred and of the other answer
VOTES: dict[str, tuple[int | None, int]] = {
    "ratio_is_two": (14, 7),
    "ratio_just_above_two": (15, 7),
    "ratio_below_two": (10, 6),
    "votes_zero": (12, 0),
    "votes_negative": (12, -3),
    "both_votes_negative": (-2, -9),
    "equal_votes": (6, 6),
    "label_against_votes": (4, 30),
    "votes_missing": (None, 3),
}


def post(prompt: str) -> str:
    """Return the id of a post."""
    return content_id(prompt)[:6]


def row(
    prompt: str,
    task: Task | None,
    replies: tuple[str, str],
    votes: tuple[int | None, int],
    rng: random.Random,
    file: str,
    plant: str | None = None,
    post_id: str | None = None,
) -> NativeRow:
    """Return a row in which the first reply is preferred, as answer A or B by chance."""
    value = native(prompt, replies, votes, rng, file, post_id or post(prompt))
    scores = tuple(None if vote is None else Fraction(vote) for vote in votes)
    given = Given(asked(prompt), *replies, scores=(scores[0], scores[1]), group=value["post_id"])
    return NativeRow(to_line(value), {NAME: given}, task, plant)


def native(
    prompt: str,
    replies: tuple[str, str],
    votes: tuple[int | None, int],
    rng: random.Random,
    file: str,
    post_id: str,
) -> dict[str, Any]:
    """Return the object of a row."""
    sides = ("A", "B") if rng.random() < 0.5 else ("B", "A")
    seconds = rng.randrange(30, 4000)
    # The preferred answer was written later and has more votes all the same.
    created = (FIRST_SECOND + seconds, FIRST_SECOND)
    of_side = {
        side: {"c_root_id": content_id([post_id, reply])[:7], "created_at_utc": second, "score": vote, "ref": reply}
        for side, second, vote, reply in zip(sides, created, votes, replies, strict=True)
    }
    high, low = votes
    subreddit, split = file.removesuffix(".json").split("/")
    return {
        "post_id": post_id,
        "domain": f"{subreddit}_{split}",
        "upvote_ratio": rng.randrange(70, 100) / 100,
        "history": prompt,
        **{f"c_root_id_{side}": of_side[side]["c_root_id"] for side in ("A", "B")},
        **{f"created_at_utc_{side}": of_side[side]["created_at_utc"] for side in ("A", "B")},
        **{f"score_{side}": of_side[side]["score"] for side in ("A", "B")},
        **{f"human_ref_{side}": of_side[side]["ref"] for side in ("A", "B")},
        "labels": 1 if sides[0] == "A" else 0,
        "seconds_difference": float(seconds),
        "score_ratio": 1.0 if high is None else high / max(low, 1),
    }


def plain(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return a post with one row, each fourth with two."""
    task = new_task(maker, rng, number)
    # Every fourth is left out of the turns of longer and shorter.
    pairs = several_pairs(task, rng, 2) if number % 4 == 3 else [two_replies(task, rng, number + number // 4)]
    return [row(task.prompt, task, pair, rng.choice(PLAIN_VOTES), rng, file) for pair in pairs]


def _voted(plant: str) -> Make:
    def make(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
        task = new_task(maker, rng, number)
        return [row(task.prompt, task, two_replies(task, rng, number), VOTES[plant], rng, file, plant)]

    return make


def _several(plant: str, count: int) -> Make:
    def make(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
        task = new_task(maker, rng, number)
        pairs = several_pairs(task, rng, count)
        return [row(task.prompt, task, pair, rng.choice(PLAIN_VOTES), rng, file, plant) for pair in pairs]

    return make


def _identical(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    task = new_task(maker, rng, number)
    text = task.reply(rng, True, True)
    return [row(task.prompt, task, (text, text), (20, 5), rng, file, "identical_responses")]


def _sides_turned(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return one pair twice, as A over B and as B over A: the second is an exact duplicate."""
    task = new_task(maker, rng, number)
    first = row(task.prompt, task, two_replies(task, rng, number), (20, 5), rng, file, "sides_turned")
    given = first.means[NAME]
    assert isinstance(given, Given)
    while True:
        second = row(task.prompt, task, (given.chosen, given.rejected), (20, 5), rng, file, "sides_turned")
        if second.line.split('"human_ref_A"')[1] != first.line.split('"human_ref_A"')[1]:
            return [first, second]


def _opposed(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    """Return one pair with both labels; no rule of this pair set drops either."""
    task = new_task(maker, rng, number)
    better, worse = two_replies(task, rng, number)
    return [
        row(task.prompt, task, pair, (20, 5), rng, file, "contradictory") for pair in ((better, worse), (worse, better))
    ]


def _broken(plant: str, change: Callable[[dict[str, Any], int], None]) -> Make:
    def make(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
        task = new_task(maker, rng, number)
        value = native(task.prompt, two_replies(task, rng, number), (20, 5), rng, file, post(task.prompt))
        change(value, number)
        return [NativeRow(to_line(value), _dropped(plant), plant=plant)]

    return make


def _dropped(rule: str) -> dict[str, Meaning]:
    return {NAME: Dropped(rule)}


def _bad_field(value: dict[str, Any], number: int) -> None:
    changes = ({"human_ref_B": None}, {"labels": 2}, {"post_id": None}, {"labels": "1"}, {"history": ["What?"]})
    if number % 6 == 5:
        del value["human_ref_A"]
    else:
        value.update(changes[number % 6])


def _empty_message(value: dict[str, Any], number: int) -> None:
    value[("human_ref_A", "history")[number % 2]] = (" \n", "")[number % 2]


def _broken_line(maker: TaskMaker, rng: random.Random, number: int, file: str) -> Block:
    whole = plain(maker, rng, 0, file)[0].line
    return [NativeRow(whole[: len(whole) // 2], _dropped("broken_line"), plant="broken_line")]


def from_pair(prompt: str, task: Task, replies: tuple[str, str], rng: random.Random, file: str, plant: str) -> Block:
    """Return a row of this pair."""
    return [row(prompt, task, replies, (20, 5), rng, file, plant)]


SOURCE = NativeSource(
    NAME,
    (NAME,),
    {
        "askculinary/train.json": FilePlan("train", 14, {"ratio_is_two": 1, "seven_pairs": 1, "bad_field": 1}, 1),
        "explainlikeimfive/train.json": FilePlan(
            "train",
            40,
            {
                **dict.fromkeys(VOTES, 2),
                "ratio_is_two": 3,
                "ratio_below_two": 6,
                "five_pairs": 1,
                "six_pairs": 1,
                "seven_pairs": 1,
                "identical_responses": 3,
                "sides_turned": 2,
                "contradictory": 2,
                "bad_field": 6,
                "empty_message": 2,
                "broken_line": 1,
            },
            4,
        ),
        "askculinary/validation.json": FilePlan("test", 4, {"ratio_below_two": 1}),
        "explainlikeimfive/validation.json": FilePlan("test", 8, {"ratio_is_two": 1, "empty_message": 1}, 1),
        "askculinary/test.json": FilePlan("test", 4, {"six_pairs": 1}),
        "explainlikeimfive/test.json": FilePlan("test", 8, {"votes_negative": 1, "identical_responses": 1}),
    },
    plain,
    {
        **{plant: _voted(plant) for plant in VOTES},
        **{plant: _several(plant, count) for plant, count in (("five_pairs", 5), ("six_pairs", 6), ("seven_pairs", 7))},
        "identical_responses": _identical,
        "sides_turned": _sides_turned,
        "contradictory": _opposed,
        "bad_field": _broken("bad_field", _bad_field),
        "empty_message": _broken("empty_message", _empty_message),
        "broken_line": _broken_line,
    },
    from_pair,
)
