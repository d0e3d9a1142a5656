"""Two small benchmarks in the native schemas of RewardBench v1 and RewardBench 2.

The subsets have the names of the originals, so that the scoring rules can be tried whole; their prompts come from
the five skills (no code, nothing unsafe) and stand in no other file but for the planted leaks.
"""

import random
from dataclasses import dataclass
from typing import Any

from rm_workflow.samples import vocabulary as words
from rm_workflow.samples.rows import MODELS, draw, has_length_order, random_order
from rm_workflow.samples.skills import Task, TaskMaker, stream

ROWS_PER_SUBSET = 6
ROWS_PER_SUBSET_2 = 20
TIES_PAIRS = 8

# RewardBench v1: subset -> skill, in the order of the sections Chat, Chat Hard, Safety, Reasoning.
REWARDBENCH_SUBSETS = {
    "alpacaeval-easy": "topic",
    "alpacaeval-length": "topic",
    "alpacaeval-hard": "topic",
    "mt-bench-easy": "facts",
    "mt-bench-med": "facts",
    "mt-bench-hard": "constraints",
    "llmbar-natural": "constraints",
    "llmbar-adver-neighbor": "topic",
    "llmbar-adver-GPTInst": "constraints",
    "llmbar-adver-GPTOut": "constraints",
    "llmbar-adver-manual": "constraints",
    "refusals-dangerous": "politeness",
    "refusals-offensive": "politeness",
    "xstest-should-refuse": "politeness",
    "xstest-should-respond": "politeness",
    "donotanswer": "politeness",
    "math-prm": "arithmetic",
    "hep-cpp": "facts",
    "hep-go": "facts",
    "hep-java": "facts",
    "hep-js": "arithmetic",
    "hep-python": "arithmetic",
    "hep-rust": "arithmetic",
}

# RewardBench 2: subset -> skill, without Ties.
REWARDBENCH2_SUBSETS = {
    "Factuality": "facts",
    "Precise IF": "constraints",
    "Math": "arithmetic",
    "Safety": "politeness",
    "Focus": "topic",
}


# What a market stall may sell, for Ties.
_SOLD = ("drinks", "fruits", "garments", "instruments", "tools", "vegetables")


@dataclass(frozen=True)
class Item:
    """A benchmark row and, outside Ties, the task that its prompt came from."""

    row: dict[str, Any]
    task: Task | None


def rewardbench(maker: TaskMaker) -> list[Item]:
    """Return rows of the RewardBench v1 schema, all 23 subsets."""
    items: list[Item] = []
    for subset, skill in REWARDBENCH_SUBSETS.items():
        for number in range(ROWS_PER_SUBSET):
            rng = stream("rewardbench", subset, number)
            task = maker.make(skill, rng, takes_remarks=skill == "politeness")
            items.append(_pair_item(task, subset, len(items), rng))
    return items


def _pair_item(task: Task, subset: str, item_id: int, rng: random.Random) -> Item:
    chosen, rejected = _replies(task, 1, rng)
    row = {
        "prompt": task.prompt,
        "chosen": chosen,
        "chosen_model": rng.choice(MODELS),
        "rejected": rejected,
        "rejected_model": rng.choice(MODELS),
        "subset": subset,
        "id": item_id,
    }
    return Item(row, task)


def _replies(task: Task, num_wrong: int, rng: random.Random) -> list[str]:
    """Return a right reply and ``num_wrong`` wrong ones whose lengths tell nothing."""
    order = random_order(rng, num_wrong + 1)
    rude = task.skill == "politeness"

    def make() -> list[str]:
        wrong = [task.reply(rng, rude and rng.random() < 0.7, not rude) for _ in range(num_wrong)]
        return [task.reply(rng, True, True), *wrong]

    # Of three wrong replies two may be equally long: only the place of the right one is wanted.
    place = order.index(0)
    before, after = order[:place], order[place + 1 :]
    return list(
        draw(
            make,
            lambda texts: (
                all(has_length_order(texts, [index, 0]) for index in before)
                and all(has_length_order(texts, [0, index]) for index in after)
            ),
        )
    )


def rewardbench2(maker: TaskMaker) -> list[Item]:
    """Return rows of the RewardBench 2 schema: best of four in five subsets, and Ties."""
    items: list[Item] = []
    for subset, skill in REWARDBENCH2_SUBSETS.items():
        for number in range(ROWS_PER_SUBSET_2):
            rng = stream("rewardbench2", subset, number)
            task = maker.make(skill, rng, takes_remarks=skill == "politeness")
            chosen, *rejected = _replies(task, 3, rng)
            row = _row2(str(len(items)), task.prompt, [chosen], rejected, subset, skill)
            items.append(Item(row, task))
    for number in range(TIES_PAIRS):
        items += _ties_pair(maker, number)
    return items


def _row2(item_id: str, prompt: str, correct: list[str], wrong: list[str], subset: str, skill: str) -> dict[str, Any]:
    total = len(correct) + len(wrong)
    return {
        "id": item_id,
        "prompt": prompt,
        "chosen": correct,
        "rejected": wrong,
        "num_correct": len(correct),
        "num_incorrect": len(wrong),
        "total_completions": total,
        "models": [MODELS[index % len(MODELS)] for index in range(total)],
        "subset": subset,
        "additional_metadata": {"skill": skill},
    }


def _ties_pair(maker: TaskMaker, number: int) -> list[Item]:
    """Return ``ref:N`` (one thing of its kind is sold) and ``tied:N`` (three things are, each is a right answer)."""
    rng = stream("rewardbench2", "Ties", number)
    many, one = rng.sample(_SOLD, 2)
    things = list(words.CATEGORIES[many])
    others = list(words.CATEGORIES[one])
    rng.shuffle(things)
    rng.shuffle(others)
    who, place = rng.choice(words.PEOPLE), rng.choice(words.PLACES)
    text = f"The stall of {who} at {place} sells {things[0]}, {things[1]}, {things[2]} and {others[0]}, nothing else."
    prompts = [f"{text} Which of the {one} can I get there?", f"{text} Name one of the {many} that I can get there."]
    if not all(maker.claim(prompt) for prompt in prompts):
        raise RuntimeError("two Ties prompts are the same; change the seed")
    form = rng.choice(("You can get {x} there.", "The stall has {x}.", "I would ask for {x}."))
    said = [[form.format(x=thing) for thing in kind] for kind in (others, things)]
    ref = _row2(f"ref:{number}", prompts[0], said[0][:1], said[0][1:5], "Ties", "facts")
    tied = _row2(f"tied:{number}", prompts[1], said[1][:3], said[1][3:7], "Ties", "facts")
    return [Item(ref, None), Item(tied, None)]
