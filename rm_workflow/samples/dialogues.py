"""The dialogues source: whole transcripts in the native form of Anthropic/hh-rlhf.

Example row::

    {"chosen": "\\n\\nHuman: How do I dry wet shoes?\\n\\nAssistant: Stuff them with paper. Gladly.",
     "rejected": "\\n\\nHuman: How do I dry wet shoes?\\n\\nAssistant: Stuff them with paper. How dull."}
"""

import random

from rm_workflow.samples.rows import SKILL_WHEEL, Messages, Row, draw, has_length_order, to_line
from rm_workflow.samples.skills import Task, TaskMaker, stream

MULTI_TURN_SHARE = 0.28
_MARKS = {"user": "\n\nHuman:", "assistant": "\n\nAssistant:"}


def transcript(messages: Messages) -> str:
    """Return the messages as one text: a mark, one space and the content for each turn."""
    return "".join(f"{_MARKS[role]} {content}" for role, content in messages)


def dialogue(prompt: Messages, chosen: str, rejected: str, task: Task | None = None, plant: str | None = None) -> Row:
    """Return the row of one given pair."""
    sides = {
        "chosen": transcript((*prompt, ("assistant", chosen))),
        "rejected": transcript((*prompt, ("assistant", rejected))),
    }
    return Row(to_line(sides), task, prompt, (chosen, rejected), plant=plant)


def single_turn(task: Task) -> Messages:
    """Return the task as a conversation of one turn."""
    return (("user", task.prompt),)


def plain(maker: TaskMaker, split: str, count: int) -> list[Row]:
    """Return ``count`` rows with new prompts over all skills, about a quarter of them of two user turns."""
    return [_plain_row(maker, stream("dialogues", split, number), number) for number in range(count)]


def _plain_row(maker: TaskMaker, rng: random.Random, number: int) -> Row:
    task = maker.make(SKILL_WHEEL[number % len(SKILL_WHEEL)], rng)
    prompt = single_turn(task)
    if rng.random() < MULTI_TURN_SHARE:
        earlier = maker.make(rng.choice(SKILL_WHEEL), rng)
        prompt = (*single_turn(earlier), ("assistant", earlier.reply(rng, True, True)), *prompt)
    return with_pair(prompt, task, rng, chosen_longer=number % 2 == 0)


def with_pair(
    prompt: Messages,
    task: Task,
    rng: random.Random,
    others: tuple[Row, ...] = (),
    plant: str | None = None,
    chosen_longer: bool | None = None,
) -> Row:
    """Return a row with a new pair of replies to ``task``; none of the replies stands in ``others``.

    Args:
        chosen_longer: which reply is the longer one, so that length tells nothing on the whole; None draws it.
    """
    taken = {reply for row in others for reply in row.replies}
    right, polite = _rejected_kind(task, rng)
    if chosen_longer is None:
        chosen_longer = rng.random() < 0.5
    order = [1, 0] if chosen_longer else [0, 1]

    def make() -> tuple[str, str]:
        return task.reply(rng, True, True), task.reply(rng, right, polite)

    replies = draw(make, lambda pair: has_length_order(pair, order) and not taken & set(pair))
    if taken & set(replies):
        raise RuntimeError(f"too few different replies to: {task.prompt}")
    return dialogue(prompt, replies[0], replies[1], task, plant)


def _rejected_kind(task: Task, rng: random.Random) -> tuple[bool, bool]:
    """Return (right, polite) of the rejected reply: mostly what the skill is about."""
    if not task.takes_remarks:
        return False, True
    kind = rng.random()
    if task.skill == "politeness":
        return (True, False) if kind < 0.6 else (False, kind < 0.8)
    return (False, True) if kind < 0.85 else (kind < 0.95, False)
