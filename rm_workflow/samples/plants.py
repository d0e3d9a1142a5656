"""What is planted in the sources on purpose: every rule of the data stages meets rows that it must drop.

Plants are kept apart, so that no count depends on which pairs a keyed hash keeps: a prompt that loses pairs to ``cap``
stands in one source and one split only, and a prompt that stands in two places has few enough pairs there.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence

from rm_workflow.samples import dialogues, ratings
from rm_workflow.samples.benchmarks import Item
from rm_workflow.samples.rows import SKILL_WHEEL, Messages, Row, to_line
from rm_workflow.samples.skills import Task, TaskMaker, stream

# (source, split) -> plant -> how many. README.md of the samples says in words what each of them is.
NUMBERS: dict[tuple[str, str], dict[str, int]] = {
    ("dialogues", "train"): {
        "broken_line": 4,
        "bad_field": 6,
        "context_differs": 7,
        "empty_message": 5,
        "not_alternating": 5,
        "identical_responses": 8,
        "exact_duplicate": 13,
        "two_pairs": 30,
        "cap_three_pairs": 10,
        "cap_four_pairs": 4,
        "contradictory": 6,
        "role_word_in_text": 5,
        "duplicate_across_sources": 10,
        "group_in_test_same_prompt": 6,
        "group_in_test_other_spelling": 4,
        "group_in_test_first_turn": 3,
        "group_in_test_other_source": 2,
        "leak": 5,
    },
    ("dialogues", "test"): {
        "broken_line": 1,
        "bad_field": 2,
        "context_differs": 2,
        "empty_message": 2,
        "not_alternating": 1,
        "identical_responses": 2,
        "exact_duplicate": 3,
        "two_pairs": 4,
        "cap_three_pairs": 2,
        "duplicate_across_sources": 3,
        "benchmark_prompt_in_test": 2,
    },
    ("ratings", "train"): {
        "broken_line": 1,
        "bad_field": 4,
        "empty_message": 2,
        "identical_responses": 4,
        "exact_duplicate": 4,
        "contradictory": 3,
        "duplicate_across_sources": 10,
        "group_in_test_other_source": 3,
        "group_in_test_other_spelling": 2,
        "leak": 3,
    },
    ("ratings", "test"): {
        "bad_field": 1,
        "empty_message": 1,
        "identical_responses": 1,
        "exact_duplicate": 1,
        "duplicate_across_sources": 3,
    },
}

# This pattern leaves four pairs of a prompt, so that `cap` (4) takes none of a duplicated row.
_UNCAPPED = "two_good"


def new_task(maker: TaskMaker, rng: random.Random, takes_remarks: bool = False) -> Task:
    """Return a new task of a random skill."""
    return maker.make(rng.choice(SKILL_WHEEL), rng, takes_remarks)


def respelled(prompt: str, number: int) -> str:
    """Return the prompt in another spelling that is equal after normalising (NFKC, case, white space)."""
    spellings: tuple[Callable[[str], str], ...] = (
        str.upper,
        lambda text: text.replace(" ", "  "),
        lambda text: text.replace(". ", ".\n", 1) + " ",
        # Full-width letters fold to plain ones under NFKC.
        lambda text: chr(ord(text[0]) + 0xFEE0) + text[1:].lower(),
    )
    return spellings[number % len(spellings)](prompt)


# Row rules ----------------------------------------------------------------------------------------------------------


def broken_dialogues(maker: TaskMaker, split: str) -> list[Row]:
    """Return rows that one of the row rules must drop."""
    makers: dict[str, Callable[[Row, int], str]] = {
        "broken_line": _cut_line,
        "bad_field": _bad_dialogue_field,
        "context_differs": _other_context,
        "empty_message": _empty_dialogue_message,
        "not_alternating": _not_alternating,
    }
    rows = []
    for rule, make_line in makers.items():
        for number in range(NUMBERS["dialogues", split][rule]):
            rng = stream("dialogues", split, rule, number)
            task = new_task(maker, rng)
            whole = dialogues.with_pair(dialogues.single_turn(task), task, rng)
            rows.append(Row(make_line(whole, number), row_rule=rule, plant=rule))
    return rows


def _cut_line(row: Row, number: int) -> str:
    """Cut the JSON text in the middle, or put no JSON there at all."""
    return "chosen,rejected" if number % 4 == 3 else row.line[: len(row.line) // 2]


def _bad_dialogue_field(row: Row, number: int) -> str:
    chosen = dialogues.transcript((*row.prompt, ("assistant", row.replies[0])))
    fields = ({"chosen": chosen, "rejected": None}, {"chosen": chosen}, {"chosen": 7, "rejected": chosen})
    return to_line(fields[number % len(fields)])


def _sides(chosen: Messages, rejected: Messages) -> str:
    return to_line({"chosen": dialogues.transcript(chosen), "rejected": dialogues.transcript(rejected)})


def _other_context(row: Row, number: int) -> str:
    user = row.prompt[0][1]
    other = (
        (("user", user + " Thank you."),),
        (("user", "Hello there."), ("assistant", "Hello, what can I do for you?"), ("user", user)),
    )[number % 2]
    return _sides((*row.prompt, ("assistant", row.replies[0])), (*other, ("assistant", row.replies[1])))


def _empty_dialogue_message(row: Row, number: int) -> str:
    if number % 3 == 2:
        prompt = (("user", ""), ("assistant", "Please say that again."), *row.prompt)
        return _sides((*prompt, ("assistant", row.replies[0])), (*prompt, ("assistant", row.replies[1])))
    return _sides((*row.prompt, ("assistant", row.replies[0])), (*row.prompt, ("assistant", "  " * (number % 2))))


def _not_alternating(row: Row, number: int) -> str:
    twice = (("user", "Hello there."), *row.prompt) if number % 2 else (*row.prompt, ("assistant", "One moment."))
    return _sides((*twice, ("assistant", row.replies[0])), (*twice, ("assistant", row.replies[1])))


def broken_ratings(maker: TaskMaker, split: str) -> list[Row]:
    """Return rated rows that one of the row rules must drop."""
    numbers = NUMBERS["ratings", split]
    rows = []
    for rule in ("broken_line", "bad_field", "empty_message"):
        for number in range(numbers.get(rule, 0)):
            rng = stream("ratings", split, rule, number)
            task = new_task(maker, rng, takes_remarks=True)
            whole = ratings.rated(task.prompt, task, _UNCAPPED, rng)
            line = _cut_line(whole, 0) if rule == "broken_line" else _bad_rating(whole, rule, number)
            rows.append(Row(line, row_rule=rule, plant=rule))
    return rows


def _bad_rating(row: Row, rule: str, number: int) -> str:
    prompt = row.prompt[0][1]
    ratings_of_all = {"helpfulness": 3, "correctness": 3, "style": 3}
    completions: list[object] = [{"text": text, "model": "writer-a", "ratings": ratings_of_all} for text in row.replies]
    if rule == "empty_message":
        completions[1] = {"text": "  ", "model": "writer-a", "ratings": ratings_of_all}
        return to_line({"prompt": prompt, "completions": completions})
    completions[2] = {"text": None, "model": "writer-a", "ratings": ratings_of_all}
    fields = (
        {"prompt": None, "completions": completions[:2]},
        {"prompt": prompt, "completions": "see above"},
        {"prompt": prompt, "completions": completions},
        {"prompt": prompt},
    )
    return to_line(fields[number % len(fields)])


# Pair rules ---------------------------------------------------------------------------------------------------------


def dialogue_pairs(maker: TaskMaker, split: str) -> list[Row]:
    """Return rows with identical replies, several pairs of one prompt, opposite labels and role words in the text."""
    numbers = NUMBERS["dialogues", split]
    rows = []
    for number in range(numbers["identical_responses"]):
        rng = stream("dialogues", split, "identical_responses", number)
        task = new_task(maker, rng)
        text = task.reply(rng, True, True)
        rows.append(dialogues.dialogue(dialogues.single_turn(task), text, text, task, "identical_responses"))
    for plant, pairs in (("two_pairs", 2), ("cap_three_pairs", 3), ("cap_four_pairs", 4)):
        for number in range(numbers.get(plant, 0)):
            rows += _several_pairs(maker, split, plant, number, pairs)
    for number in range(numbers.get("contradictory", 0)):
        rows += _contradictory_dialogues(maker, stream("dialogues", split, "contradictory", number))
    for number in range(numbers.get("role_word_in_text", 0)):
        rows.append(_role_word(maker, stream("dialogues", split, "role_word_in_text", number), number))
    return rows


def _several_pairs(maker: TaskMaker, split: str, plant: str, number: int, pairs: int) -> list[Row]:
    rng = stream("dialogues", split, plant, number)
    task = new_task(maker, rng, takes_remarks=True)
    rows: tuple[Row, ...] = ()
    for _ in range(pairs):
        rows = (*rows, dialogues.with_pair(dialogues.single_turn(task), task, rng, rows, plant))
    return list(rows)


def _contradictory_dialogues(maker: TaskMaker, rng: random.Random) -> list[Row]:
    """Return two rows with the same replies and opposite labels."""
    task = new_task(maker, rng)
    row = dialogues.with_pair(dialogues.single_turn(task), task, rng, plant="contradictory")
    chosen, rejected = row.replies
    return [row, dialogues.dialogue(row.prompt, rejected, chosen, task, "contradictory")]


def _role_word(maker: TaskMaker, rng: random.Random, number: int) -> Row:
    """Return a good row in whose text stands a role word, or an empty line, that is no turn mark."""
    task = new_task(maker, rng, takes_remarks=True)
    row = dialogues.with_pair(dialogues.single_turn(task), task, rng)
    chosen, rejected = row.replies
    extra = (" The card is signed Human: a reader.", "\n\nAssistants and humans may read this twice.")[number % 2]
    return dialogues.dialogue(row.prompt, chosen + extra, rejected + extra, task, "role_word_in_text")


def rating_pairs(maker: TaskMaker, split: str) -> list[Row]:
    """Return rated rows where two completions have the same text, and rows rated twice with opposite results."""
    numbers = NUMBERS["ratings", split]
    rows = [
        _same_text_twice(maker, stream("ratings", split, "identical_responses", number))
        for number in range(numbers["identical_responses"])
    ]
    for number in range(numbers.get("contradictory", 0)):
        rows += _contradictory_ratings(maker, stream("ratings", split, "contradictory", number))
    return rows


def _same_text_twice(maker: TaskMaker, rng: random.Random) -> Row:
    """Return texts X, X, Y, Z with scores 5, 2.5, 1, 1.

    X with X is dropped as identical, Y with Z as equal; X over Y and X over Z come twice, the second time each is an
    exact duplicate. Two pairs are left.
    """
    task = new_task(maker, rng, takes_remarks=True)
    row = ratings.rated(task.prompt, task, _UNCAPPED, rng)
    by_score = sorted(range(4), key=lambda slot: -(row.scores or ())[slot])
    texts = [row.replies[by_score[index]] for index in (0, 0, 2, 3)]
    grades = [
        ratings.Grade(True, True, 5, 5),
        ratings.Grade(True, True, 3, 2),
        ratings.Grade(False, True, 1, 1),
        ratings.Grade(False, True, 1, 1),
    ]
    return ratings.rated_row(task.prompt, task, texts, grades, rng, "identical_responses")


def _contradictory_ratings(maker: TaskMaker, rng: random.Random) -> list[Row]:
    """Return two rows with the same four texts and opposite ratings; `cap` leaves four pairs of the eight."""
    task = new_task(maker, rng, takes_remarks=True)
    row = ratings.rated(task.prompt, task, _UNCAPPED, rng, "contradictory")
    low = min(row.scores or ())
    good, bad = ratings.PATTERNS[_UNCAPPED][0], ratings.PATTERNS[_UNCAPPED][2]
    grades = [good if score == low else bad for score in row.scores or ()]
    return [row, ratings.rated_row(task.prompt, task, row.replies, grades, rng, "contradictory")]


def with_repeats(rows: list[Row], source: str, split: str) -> list[Row]:
    """Return the rows with some of the unplanted ones standing there once more, further down.

    The first of them stands there three times where more than five are planted.
    """
    rng = stream(source, split, "exact_duplicate")
    count = NUMBERS[source, split]["exact_duplicate"]
    repeated = rng.sample([row for row in rows if row.plant is None], count - (count > 5))
    if count > 5:
        repeated.append(repeated[0])
    rows = list(rows)
    for row in repeated:
        place = rng.randrange(rows.index(row) + 1, len(rows) + 1)
        rows.insert(place, dataclasses.replace(row, plant="exact_duplicate"))
    return rows


# Mixture rules ------------------------------------------------------------------------------------------------------


def shared_ratings(maker: TaskMaker, split: str) -> list[Row]:
    """Return rated rows of which one pair also stands in the dialogues."""
    rows = []
    for number in range(NUMBERS["ratings", split]["duplicate_across_sources"]):
        rng = stream("ratings", split, "duplicate_across_sources", number)
        task = new_task(maker, rng, takes_remarks=True)
        rows.append(ratings.rated(task.prompt, task, _UNCAPPED, rng, "duplicate_across_sources"))
    return rows


def shared_dialogues(rated: Sequence[Row]) -> list[Row]:
    """Return the best and the worst completion of each rated row as a dialogue."""
    rows = []
    for row in rated:
        scores = row.scores or ()
        best, worst = scores.index(max(scores)), scores.index(min(scores))
        chosen, rejected = row.replies[best], row.replies[worst]
        rows.append(dialogues.dialogue(row.prompt, chosen, rejected, row.task, "duplicate_across_sources"))
    return rows


def group_in_test(
    dialogue_tests: Sequence[Row], rating_tests: Sequence[Row], maker: TaskMaker
) -> tuple[list[Row], list[Row]]:
    """Return train rows (dialogues, ratings) whose first user turn stands in a test file, each time with other replies.

    Args:
        dialogue_tests: unplanted test rows of one turn, enough for all plants; each is used once.
        rating_tests: unplanted test rows, likewise.
        maker: source of the second user turns.
    """
    of_dialogues, of_ratings = NUMBERS["dialogues", "train"], NUMBERS["ratings", "train"]
    tests, rated_tests = iter(dialogue_tests), iter(rating_tests)
    train: list[Row] = []
    rated: list[Row] = []
    for plant in (name for name in of_dialogues if name.startswith("group_in_test")):
        for number in range(of_dialogues[plant]):
            test = next(rated_tests if plant.endswith("other_source") else tests)
            train.append(_dialogue_like(test, plant, number, maker))
    for plant in (name for name in of_ratings if name.startswith("group_in_test")):
        for number in range(of_ratings[plant]):
            test = next(tests if plant.endswith("other_source") else rated_tests)
            rng = stream("ratings", plant, number)
            spelled = respelled(test.prompt[0][1], number) if plant.endswith("other_spelling") else test.prompt[0][1]
            assert test.task is not None
            rated.append(ratings.rated(spelled, test.task, _UNCAPPED, rng, plant))
    return train, rated


def _dialogue_like(test: Row, plant: str, number: int, maker: TaskMaker) -> Row:
    rng = stream("dialogues", plant, number)
    assert test.task is not None
    task, prompt = test.task, test.prompt
    if plant.endswith("other_spelling"):
        prompt = (("user", respelled(prompt[0][1], number)),)
    if plant.endswith("first_turn"):
        task = new_task(maker, rng)
        prompt = (*prompt, ("assistant", test.task.reply(rng, True, True)), *dialogues.single_turn(task))
    return dialogues.with_pair(prompt, task, rng, (test,), plant)


def leaks(items: Sequence[Item]) -> tuple[list[Row], list[Row]]:
    """Return train rows (dialogues, ratings) whose prompt is that of a benchmark item, most in another spelling."""
    train, rated = [], []
    num_dialogues = NUMBERS["dialogues", "train"]["leak"]
    for number, item in enumerate(items):
        assert item.task is not None
        prompt = item.task.prompt if number % 5 == 4 else respelled(item.task.prompt, number)
        rng = stream("leak", number)
        if number < num_dialogues:
            train.append(dialogues.with_pair((("user", prompt),), item.task, rng, plant="leak"))
        else:
            rated.append(ratings.rated(prompt, item.task, _UNCAPPED, rng, "leak"))
    return train, rated


def benchmark_prompts_in_test(items: Sequence[Item]) -> list[Row]:
    """Return test rows with the prompt of a benchmark item: test pairs are not judged, so nothing drops them."""
    rows = []
    for number, item in enumerate(items):
        assert item.task is not None
        rng = stream("benchmark_prompt_in_test", number)
        prompt = dialogues.single_turn(item.task)
        rows.append(dialogues.with_pair(prompt, item.task, rng, plant="benchmark_prompt_in_test"))
    return rows
