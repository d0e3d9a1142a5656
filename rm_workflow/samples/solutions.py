"""The solutions source: worked solutions of small sums, right or wrong, in the form of RLHFlow/Mistral-ORM-Data.

Example row, one of four of its problem::

    {"conversations": [{"role": "user", "content": "Ada packs 3 boxes ... Step 1: They hold 3 * 4 = 12 plums.\\n..."},
                       {"role": "assistant", "content": "+"}]}

A wrong solution takes the wrong operation in one of its two steps and carries the result on. Planted in train: two rows
that stand further up already, one solution with both labels, a label that is no sign, a broken line, and four other
solutions of a problem that stands in test.
"""

from rm_workflow.samples import vocabulary as words
from rm_workflow.samples.rows import random_order, to_line
from rm_workflow.samples.skills import stream

FILES = ("solutions/train.jsonl", "solutions/test.jsonl")
NUM_PROBLEMS = {"train": 70, "test": 25}
# Right and wrong solutions of a problem by its number; each fifth has one kind only.
PATTERNS = ("++--", "+---", "+++-", "++--", "++++")


def build() -> dict[str, list[str]]:
    """Return the lines of each file; the same each time."""
    used: set[str] = set()
    split_rows = {split: _rows(split, used) for split in NUM_PROBLEMS}
    train, test = split_rows["train"], split_rows["test"]
    problem, solution, sign = train[6]
    in_test = [(asked, answer.replace("Step 1: ", "Step 1: Right. "), right) for asked, answer, right in test[8:12]]
    planted = [train[0], train[9], (problem, solution, "-" if sign == "+" else "+"), *in_test, (*train[20][:2], "?")]
    lines = [_line(*row) for row in train + planted]
    lines.append(lines[30][: len(lines[30]) // 2])
    stream("solutions", "order").shuffle(lines)
    return {FILES[0]: lines, FILES[1]: [_line(*row) for row in test]}


def _rows(split: str, used: set[str]) -> list[tuple[str, str, str]]:
    """Return (problem, solution, sign) of all problems of a split, none of which stands in ``used``."""
    rows = []
    for number in range(NUM_PROBLEMS[split]):
        signs = PATTERNS[number % len(PATTERNS)]
        problem, solutions = _problem(split, number, signs, used)
        places = random_order(stream("solutions", split, "signs", number), len(signs))
        rows += [(problem, solutions[place], signs[place]) for place in places]
    return rows


def _problem(split: str, number: int, signs: str, used: set[str]) -> tuple[str, list[str]]:
    rng = stream("solutions", split, number)
    while True:
        who, thing = rng.choice(words.PEOPLE), rng.choice(words.THINGS)
        boxes, each = rng.randrange(3, 10), rng.randrange(4, 13)
        change = rng.randrange(2, boxes + each)
        buys = rng.random() < 0.5
        problem = (
            f"{who} packs {boxes} boxes with {each} {thing} each and then "
            f"{'buys' if buys else 'gives away'} {change} {thing}{' more' if buys else ''}. "
            f"How many {thing} does {who} have?"
        )
        if problem not in used:
            used.add(problem)
            break
    openings = [
        "We count the boxes first.",
        "Look at the boxes first.",
        "Begin with the boxes.",
        "Take the boxes first.",
    ]
    rng.shuffle(openings)
    solutions = []
    for opening, sign in zip(openings, signs, strict=True):
        wrong = rng.choice((1, 2)) if sign == "-" else 0
        packed, first = (boxes + each, "+") if wrong == 1 else (boxes * each, "*")
        adds = buys if wrong != 2 else not buys
        left = packed + change if adds else packed - change
        solutions.append(
            f"Step 1: {opening} They hold {boxes} {first} {each} = {packed} {thing}.\n"
            f"Step 2: {who} then has {packed} {'+' if adds else '-'} {change} = {left} {thing}. The answer is: {left}"
        )
    return problem, solutions


def _line(problem: str, solution: str, sign: str) -> str:
    turns = [{"role": "user", "content": f"{problem} {solution}"}, {"role": "assistant", "content": sign}]
    return to_line({"conversations": turns})
