"""What every rule promises on any candidates: nothing vanishes, order does not matter, a second pass drops nothing."""

import dataclasses
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rm_workflow.artifacts import Built
from rm_workflow.catalog.models import PairSet
from rm_workflow.preferences import rules
from rm_workflow.preferences.pairs import build_pair_set
from rm_workflow_tests.preferences.raw_tables import RawRow, Shown, read, write_raw

# rule -> parameters, for the rules that do not work without; and the columns that rules ask for, with their values
PARAMETERS: dict[str, dict[str, Any]] = {
    "score_ratio": {"min": 2, "strict": True},
    "status": {"drop": ["tie"]},
    "refusal": {"side": "either"},
    "length": {"response": {"max_words": 100}},
    "cap": {"max_pairs": 2},
}
EXTRA: dict[str, list[Any]] = {"status": ["tie", "swapped", None], "in_gsm8k_train": [True, False, None]}

UNMARKED: dict[str, Any] = dict.fromkeys(EXTRA)

# Prompts that are one after normalising, and texts that are alike, long, short, a refusal, or of another script.
PROMPTS = ["Which river is the longest one of all in this land?", "Which river", "which  river", "Name a colour."]
LONG = "the river rises in the high hills of the north and winds past nine old towns before it reaches the sea"
TEXTS = ["yes", "no", "Yes", "I cannot help with that.", LONG, LONG.replace("nine", "ten"), LONG * 30, "河の名前です"]
SCORES = [None, -2, 0, 1, 2, 4, 5]

each_rule = pytest.mark.parametrize("rule", rules.built())
# An example builds tables: it is drawn whole from a seed, and a failing one is not made smaller, which takes minutes.
SEEDS = st.integers(0, 2**32).map(random.Random)
FEW = settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def ratings(score: int | None) -> dict[str, float]:
    return {} if score is None else {"quality": score}


def given_rows(rng: random.Random) -> list[RawRow]:
    """Return pairs of few prompts and few texts, so that most of what a rule looks for is met."""
    return [
        RawRow(
            rng.choice(PROMPTS),
            [Shown(slot, rng.choice(TEXTS), ratings(rng.choice(SCORES))) for slot in ("chosen", "rejected")],
            row,
            extra={name: rng.choice(values) for name, values in EXTRA.items()},
        )
        for row in range(1, rng.randrange(15, 40))
    ]


def rated_rows(rng: random.Random) -> list[RawRow]:
    """Return lists of one to five rated responses, the first of which can be ranked."""
    lists = [
        [Shown(str(slot), rng.choice(TEXTS), ratings(rng.choice(SCORES))) for slot in range(rng.randrange(1, 6))]
        for _ in range(rng.randrange(6, 12))
    ]
    first = [Shown("0", "yes", ratings(4)), Shown("1", "no", ratings(1))]
    return [
        RawRow(rng.choice(PROMPTS), responses, row, extra=UNMARKED)
        for row, responses in enumerate([first, *lists], start=1)
    ]


def with_rule(rule: str, candidates: str) -> PairSet:
    """Return a pair set of the rule; rated candidates have their scores told apart before it."""
    names = {rule} if candidates == "given" else {rule, "rating", "equal_score"}
    used = [{"name": name, "parameters": PARAMETERS.get(name, {})} for name in rules.ORDER if name in names]
    return PairSet(source="src", candidates=candidates, score=["quality"], rules=used)


def build(folder: Path, rows: Sequence[RawRow], pair_set: PairSet) -> tuple[Built, list[dict[str, Any]], list[dict]]:
    # A rating that no response has is refused, and so is a source without any.
    known = [Shown("chosen", "a", ratings(9)), Shown("rejected", "b", ratings(1))]
    more = [RawRow("Known", known, 9999, extra=UNMARKED)] if pair_set.candidates == "given" else []
    raw = write_raw(folder / "raw", [*rows, *more])
    (folder / "out").mkdir()
    built = build_pair_set("some_set", pair_set, raw, folder / "out")
    return built, read(folder / "out/pairs.parquet"), read(folder / "out/dropped.parquet")


def check_conservation(built: Built, pairs: Sequence[Mapping], dropped: Sequence[Mapping], pair_set: PairSet) -> None:
    law, *_ = built.checks
    assert (law.name, law.passed) == ("candidates_accounted_for", True)
    assert built.facts["kept"] == len(pairs)
    counted = {rule: number for rule, number in built.facts["dropped"].items() if number}
    assert Counter(drop["rule"] for drop in dropped) == counted
    assert list(built.facts["dropped"]) == [use.name for use in pair_set.rules]
    ids = [row["pair_id"] for row in (*pairs, *dropped)]
    assert len(set(ids)) == len(ids) == built.facts["candidates"]
    assert all(drop["reason"] for drop in dropped)


def keys(pairs: Sequence[Mapping[str, Any]]) -> Counter[str]:
    return Counter(pair["pair_key"] for pair in pairs)


@each_rule
@pytest.mark.parametrize("candidates", ["given", "rated"])
@FEW
@given(rng=SEEDS)
def test_a_rule_loses_nothing_and_does_not_look_at_order(
    rule: str, candidates: str, rng: random.Random, tmp_path_factory: pytest.TempPathFactory
):
    rows = given_rows(rng) if candidates == "given" else rated_rows(rng)
    shuffled = [
        dataclasses.replace(row, row=number, file=rng.choice(["a.jsonl", "b.jsonl"]))
        for number, row in enumerate(rng.sample(rows, len(rows)), start=1)
    ]
    pair_set, folder = with_rule(rule, candidates), tmp_path_factory.mktemp("rule")
    built, pairs, dropped = build(folder / "one", rows, pair_set)
    again, same_pairs, also_dropped = build(folder / "two", shuffled, pair_set)
    check_conservation(built, pairs, dropped, pair_set)
    check_conservation(again, same_pairs, also_dropped, pair_set)
    assert again.facts == built.facts
    assert keys(same_pairs) == keys(pairs)


@each_rule
@FEW
@given(rng=SEEDS)
def test_a_second_pass_over_what_a_rule_kept_drops_nothing(
    rule: str, rng: random.Random, tmp_path_factory: pytest.TempPathFactory
):
    rows = given_rows(rng)
    pair_set, folder = with_rule(rule, "given"), tmp_path_factory.mktemp("rule")
    _, pairs, _ = build(folder / "one", rows, pair_set)
    kept = {pair["row"] for pair in pairs}
    left = [row for row in rows if row.row in kept]
    again, same_pairs, _ = build(folder / "two", left, pair_set)
    assert sum(again.facts["dropped"].values()) == 0
    assert keys(same_pairs) == keys(pairs)


# A circle, a contradiction, a repeat, a near repeat, equal and close and missing scores, marks, lengths, a refusal.
def told_apart() -> list[RawRow]:
    pairs: list[tuple[str, str, str, int | None, int | None, dict[str, Any]]] = [
        ("circle", "a", "b", 5, 1, {}),
        ("circle", "b", "c", 5, 1, {}),
        ("circle", "c", "a", 5, 1, {}),
        ("opposed", "a", "b", 5, 1, {}),
        ("opposed", "b", "a", 5, 1, {}),
        ("twice", "a", "b", 5, 1, {}),
        ("twice", "a", "b", 5, 1, {}),
        ("nearly", LONG * 3, "b", 5, 1, {}),
        ("nearly", LONG * 3 + ".", "b", 5, 1, {}),
        ("same", "a", "a", 5, 1, {}),
        ("equal", "a", "b", 2, 2, {}),
        ("close", "a", "b", 4, 3, {}),
        ("unrated", "a", "b", None, 1, {}),
        ("marked", "a", "b", 5, 1, {name: values[0] for name, values in EXTRA.items()}),
        ("long", LONG * 300, "b", 5, 1, {}),
        ("refused", "I cannot help with that.", "b", 5, 1, {}),
        *(("many", f"reply {number}", "b", 5, 1, {}) for number in range(4)),
    ]
    return [
        RawRow(prompt, [Shown("chosen", a, ratings(x)), Shown("rejected", b, ratings(y))], row, extra=UNMARKED | marks)
        for row, (prompt, a, b, x, y, marks) in enumerate(pairs, start=1)
    ]


@each_rule
def test_a_rule_drops_some_candidates_and_not_all(rule: str, tmp_path: Path):
    built, _, _ = build(tmp_path, told_apart(), with_rule(rule, "given"))
    assert 0 < built.facts["dropped"][rule] < built.facts["candidates"] - 5, "add a row that the rule drops"


@FEW
@given(rng=SEEDS)
def test_all_rules_together_leave_no_pair_of_one_text(rng: random.Random, tmp_path_factory: pytest.TempPathFactory):
    rows = given_rows(rng)
    used = [{"name": name, "parameters": PARAMETERS.get(name, {})} for name in rules.built()]
    pair_set = PairSet(source="src", candidates="given", score=["quality"], rules=used)
    built, pairs, dropped = build(tmp_path_factory.mktemp("rules"), rows, pair_set)
    check_conservation(built, pairs, dropped, pair_set)
    assert all(pair["chosen_id"] != pair["rejected_id"] for pair in pairs)
    assert all(check.passed for check in built.checks)
    assert max(Counter(pair["prompt_id"] for pair in pairs).values()) <= PARAMETERS["cap"]["max_pairs"]


@FEW
@given(rng=SEEDS)
def test_responses_in_rows_of_their_own_are_paired_as_those_of_one_row(
    rng: random.Random, tmp_path_factory: pytest.TempPathFactory
):
    rows = rated_rows(rng)
    by_prompt: dict[str, list[Shown]] = {}
    for row in rows:
        by_prompt.setdefault(row.prompt_id, []).extend(row.responses)
    prompts = {row.prompt_id: row.prompt for row in rows}
    one_row = [
        RawRow(
            prompts[prompt_id], [dataclasses.replace(shown, slot=str(slot)) for slot, shown in enumerate(responses)], 1
        )
        for prompt_id, responses in by_prompt.items()
    ]
    own_rows = [
        RawRow(prompts[prompt_id], [dataclasses.replace(shown, slot="0")], number)
        for prompt_id, responses in by_prompt.items()
        for number, shown in enumerate(responses, start=1)
    ]
    folder = tmp_path_factory.mktemp("rules")
    names = ["rating", "equal_score", "identical_responses", "exact_duplicate"]
    found = [
        build(folder / candidates, rows, PairSet(source="src", candidates=candidates, score=["quality"], rules=names))
        for candidates, rows in (("rated", one_row), ("rated_prompt", own_rows))
    ]
    assert found[0][0].facts == found[1][0].facts
    assert keys(found[0][1]) == keys(found[1][1])
