"""Near duplicates against the slow reference: every pair with every other, on sets of shingles as texts."""

import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from rm_workflow.keys import content_id
from rm_workflow.preferences.normalise import normalise
from rm_workflow.preferences.rules.near_duplicate import bands
from rm_workflow_tests.preferences.raw_tables import RawRow, given
from rm_workflow_tests.preferences.test_rules import run

WORDS = [f"word{number}" for number in range(400)]
RULE = {"near_duplicate": {"threshold": 0.8}}


def text_of(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(WORDS, k=words))


def edited(draw: random.Random, text: str, edits: int) -> str:
    words = text.split()
    for place in draw.sample(range(len(words)), edits):
        words[place] = draw.choice(WORDS)
    return " ".join(words)


def corpus(families: int, seed: int = 0, words: int = 60) -> list[RawRow]:
    """Return families of up to five distinct pairs: one, and four with 0 to 2 words of each text edited."""
    draw = random.Random(seed)
    rows = []
    for _ in range(families):
        sides = [text_of(draw, words) for _ in range(3)]
        family = [sides, *([edited(draw, side, draw.randint(0, 2)) for side in sides] for _ in range(4))]
        rows += [given(*three, row) for row, three in enumerate(map(list, sorted(set(map(tuple, family)))), len(rows))]
    return rows


def shingles(text: str, words_each: int = 3) -> set[tuple[str, ...]]:
    words = normalise(text).split()
    words += [""] * (words_each - len(words))
    return {tuple(words[place : place + words_each]) for place in range(len(words) - words_each + 1)}


def texts_of(row: RawRow) -> list[str]:
    return [row.messages[0]["content"], *(shown.text for shown in row.responses)]


def alike(one: Sequence[set], other: Sequence[set]) -> float:
    return min(len(a & b) / len(a | b) for a, b in zip(one, other, strict=True))


def keys_of(row: RawRow) -> str:
    ids = [content_id([row.prompt_id, shown.text]) for shown in row.responses]
    return content_id([row.prompt_id, *ids])


def reference(rows: Sequence[RawRow], threshold: float) -> set[int]:
    """Return the rows to drop: in keyed order each that is close to one that stayed."""
    sets = {row.row: [shingles(text) for text in texts_of(row)] for row in rows}
    kept: list[int] = []
    for row in sorted(rows, key=lambda row: content_id(["near_duplicate", 0, keys_of(row)])):
        if all(alike(sets[row.row], sets[other]) < threshold for other in kept):
            kept.append(row.row)
    return {row.row for row in rows} - set(kept)


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.9])
def test_what_is_dropped_is_what_all_pairs_compared_would_drop(tmp_path: Path, threshold: float):
    rows = corpus(60)
    expected = reference(rows, threshold)
    assert 30 < len(expected) <= 240
    _, dropped = run(tmp_path, rows, {"near_duplicate": {"threshold": threshold}})
    assert {drop["row"] for drop in dropped} == expected


def test_recall_of_close_pairs_is_at_least_0_995_and_no_hit_is_false(tmp_path: Path):
    rows = corpus(150, seed=1, words=40)
    sets = {row.row: [shingles(text) for text in texts_of(row)] for row in rows}
    # Of two that are close one must go, whatever the order.
    close = [(a, b) for a, b in combinations(sorted(sets), 2) if b - a < 5 and alike(sets[a], sets[b]) >= 0.8]
    assert len(close) > 100
    _, dropped = run(tmp_path / "all", rows, RULE)
    gone = {drop["row"] for drop in dropped}
    missed = [pair for pair in close if gone.isdisjoint(pair)]
    assert len(missed) <= 0.005 * len(close)
    by_pair_id = {drop["pair_id"]: drop["row"] for drop in dropped}
    pairs, _ = run(tmp_path / "again", rows)
    rows_of = {pair["pair_id"]: pair["row"] for pair in pairs}
    for drop in dropped:
        assert drop["detail"] not in by_pair_id
        assert alike(sets[drop["row"]], sets[rows_of[drop["detail"]]]) >= 0.8


def test_the_order_of_rows_changes_nothing(tmp_path: Path):
    rows = corpus(30, seed=2)
    turned = [RawRow(row.prompt, row.responses, 1000 - row.row) for row in reversed(rows)]
    kept = [
        {pair["pair_key"] for pair in run(tmp_path / str(n), some, RULE)[0]} for n, some in enumerate((rows, turned))
    ]
    assert kept[0] == kept[1]
    other_seed = {"near_duplicate": {"threshold": 0.8, "seed": 5}}
    assert {pair["pair_key"] for pair in run(tmp_path / "seed", rows, other_seed)[0]} != kept[0]


def test_case_space_and_unicode_forms_do_not_count_and_any_side_that_differs_does(tmp_path: Path):
    prompt, chosen, rejected = (" ".join(WORDS[start : start + 30]) for start in (0, 50, 100))
    other = " ".join(WORDS[200:230])
    rows = [
        given(prompt, chosen, rejected, 1),
        given(prompt.upper(), chosen.replace(" ", "\n\n"), rejected.replace("w", "ｗ"), 2),
        given(prompt, other, rejected, 3),
        given(prompt, chosen, other, 4),
        given(other, chosen, rejected, 5),
        given(prompt, rejected, chosen, 6),
    ]
    pairs, dropped = run(tmp_path, rows, RULE)
    assert len(dropped) == 1
    assert dropped[0]["row"] in (1, 2)
    assert dropped[0]["detail"] == next(pair["pair_id"] for pair in pairs if pair["row"] == 3 - dropped[0]["row"])


def test_short_texts_are_close_only_where_they_are_the_same(tmp_path: Path):
    texts = [
        ("Hi", "Yes", "No"),
        ("HI", "yes", "no"),
        ("Hi", "Yes", "Never"),
        ("Hi you", "Yes", "No"),
        ("Hi", "No", "No no"),
    ]
    rows = [given(*three, row) for row, three in enumerate(texts)]
    _, dropped = run(tmp_path, rows, RULE)
    assert [drop["row"] in (0, 1) for drop in dropped] == [True]


def test_prompts_alone_may_be_compared_and_all_pairs_of_a_prompt_go_or_stay(tmp_path: Path):
    draw = random.Random(3)
    prompt = text_of(draw, 60)
    rows = [given(prompt, f"good {n}", f"bad {n}", n) for n in range(3)]
    close = edited(draw, prompt, 1)
    rows += [given(close, f"fine {n}", f"poor {n}", 10 + n) for n in range(3)]
    rows += [given(text_of(draw, 60), "good", "bad", 20)]
    pairs, dropped = run(tmp_path, rows, {"near_duplicate": {"of": "prompt"}})
    assert {drop["row"] // 10 for drop in dropped} in ({0}, {1})
    assert len(dropped) == 3
    stays = [pair for pair in pairs if pair["row"] < 20]
    assert {drop["detail"] for drop in dropped} == {min(pair["pair_id"] for pair in stays)}


def test_exact_repeats_are_left_to_their_own_rule(tmp_path: Path):
    rows = [given("Hi", "a", "b", 1), given("Hi", "a", "b", 2)]
    assert len(run(tmp_path, rows, RULE)[0]) == 2


def test_no_candidate_left_is_no_error(tmp_path: Path):
    pairs, dropped = run(tmp_path, [given("Hi", "a", "a", 1)], "identical_responses", RULE)
    assert (pairs, [drop["rule"] for drop in dropped]) == ([], ["identical_responses"])


@pytest.mark.parametrize("num_texts", [1, 3])
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_meet_a_pair_at_the_threshold(threshold: float, num_texts: int):
    number, width = bands(threshold, 128, num_texts)
    assert number * width <= 128
    assert 1 - (1 - threshold ** (num_texts * width)) ** number >= 0.995
