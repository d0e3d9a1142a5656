"""Each rule: what it keeps, what it drops, and the value between."""

from dataclasses import replace
from pathlib import Path

import pytest

from rm_workflow.catalog.models import PairSet
from rm_workflow.errors import UserError
from rm_workflow.preferences.pairs import build_pair_set
from rm_workflow.preferences.rules import ORDER, built
from rm_workflow_tests.preferences.raw_tables import RawRow, given, rated, read, write_raw


def run(folder: Path, rows: list[RawRow], *rules, score=(), candidates="given") -> tuple[list[dict], list[dict]]:
    pair_set = PairSet(source="src", candidates=candidates, score=list(score), rules=list(rules))
    raw = write_raw(folder / "raw", rows)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    build_pair_set("x", pair_set, raw, out)
    return read(out / "pairs.parquet"), read(out / "dropped.parquet")


def test_the_contracts_order_stands_with_every_rule_that_is_built():
    assert [name for name in ORDER if name not in ("rating", "score_ratio", "status", "in_gsm8k_train")] == [
        *("equal_score", "identical_responses", "exact_duplicate", "near_duplicate", "contradictory", "cycle"),
        *("length", "cap"),
    ]
    assert built() == [
        *("rating", "score_ratio", "status", "in_gsm8k_train", "equal_score", "identical_responses"),
        *("exact_duplicate", "contradictory", "cycle", "cap"),
    ]


@pytest.mark.parametrize(
    ("chosen", "rejected", "parameters", "rule"),
    [
        (15, 7, {"min": 2}, None),
        (14, 7, {"min": 2}, "score_ratio"),
        (14, 7, {"min": 2, "strict": False}, None),
        (13.999, 7, {"min": 2, "strict": False}, "score_ratio"),
        (1.1, 1.0, {"min": 1.1, "strict": False}, None),  # as floats 1.1 * 10 / 10 and the like may miss it
        (0.33, 0.3, {"min": 1.1, "strict": False}, None),  # 0.33 / 0.3 = 1.0999999999999999 as floats
        (0.33, 0.3, {"min": 1.1}, "score_ratio"),
        (5, 5, {"min": 2}, "equal_score"),
        (0, 0, {"min": 2}, "equal_score"),
        (-3, -3, {"min": 2}, "equal_score"),
        (5, 0, {"min": 2}, "score_ratio"),
        (5, -1, {"min": 2}, "score_ratio"),
        (-1, -5, {"min": 2}, "score_ratio"),
        (1, 5, {"min": 2}, "score_ratio"),
    ],
)
def test_score_ratio_keeps_clear_preferences(tmp_path: Path, chosen, rejected, parameters, rule):
    row = given("Hi", "a", "b", 1, chosen_votes=chosen, rejected_votes=rejected)
    pairs, dropped = run(tmp_path, [row], {"score_ratio": parameters}, "equal_score", score=["votes"])
    assert [drop["rule"] for drop in dropped] == ([rule] if rule else [])
    assert len(pairs) == (not rule)


def test_score_ratio_states_why_there_is_none(tmp_path: Path):
    rows = [
        given("Hi", "a", "b", 1, chosen_votes=3, rejected_votes=0),
        given("Hi", "a", "b", 2, chosen_votes=3),
        given("Hi", "a", "b", 3, chosen_votes=3, rejected_votes=2),
    ]
    _, dropped = run(tmp_path, rows, {"score_ratio": {"min": 2}}, score=["votes"])
    assert [(drop["reason"], drop["detail"]) for drop in dropped] == [
        ("the rejected score is not positive, so there is no ratio", "3 against 0"),
        ("a score is missing, so there is no ratio", "3 against none"),
        ("score ratio is not above 2", "3 against 2"),
    ]


def test_equal_scores_are_dropped_and_counted(tmp_path: Path):
    # 0.1 + 0.2 is not 0.3 as floats; as decimals it is
    texts = [("a", {"x": 0.1, "y": 0.2}), ("b", {"x": 0.3, "y": 0.0}), ("c", {"x": 0.15}), ("d", {"x": 0.151})]
    pairs, dropped = run(tmp_path, [rated("Hi", texts, 1)], "equal_score", score=["x", "y"], candidates="rated")
    assert sorted(tuple(drop["slots"]) for drop in dropped) == [("0", "1"), ("0", "2"), ("1", "2")]
    assert {drop["detail"] for drop in dropped} == {"0.15"}
    assert len(pairs) == 3


def test_equal_means_of_different_counts_are_equal(tmp_path: Path):
    # 3.3 / 3 is 1.0999999999999999 as floats
    texts = [("a", {"x": 1.1, "y": 1.1}), ("b", {"x": 1.1, "y": 1.1, "z": 1.1})]
    pairs, dropped = run(tmp_path, [rated("Hi", texts, 1)], "equal_score", score=["x", "y", "z"], candidates="rated")
    assert (len(pairs), len(dropped)) == (0, 1)


def test_pairs_without_a_score_are_left_by_equal_score(tmp_path: Path):
    rows = [given("Hi", "a", "b", 1, chosen_votes=3), given("Hi", "a", "c", 2, chosen_votes=1, rejected_votes=1)]
    pairs, dropped = run(tmp_path, rows, "equal_score", score=["votes"])
    assert [pair["row"] for pair in pairs] == [1]
    assert [drop["row"] for drop in dropped] == [2]


def test_rating_drops_what_cannot_be_ranked(tmp_path: Path):
    texts = [("a", {"x": 2}), ("b", {"y": 1}), ("c", {}), ("d", {"z": 5})]
    pairs, dropped = run(tmp_path, [rated("Hi", texts, 1)], "rating", score=["x", "y"], candidates="rated")
    assert len(pairs) == 1
    assert sorted(drop["detail"] for drop in dropped) == ["both sides", "slot 2", "slot 2", "slot 3", "slot 3"]


def test_identical_means_the_same_characters(tmp_path: Path):
    rows = [given("Hi", "Yes.", "Yes.", 1), given("Hi", "Yes.", "Yes", 2), given("Hi", "Yes.", "Yes. ", 3)]
    _, dropped = run(tmp_path, rows, "identical_responses")
    assert [drop["row"] for drop in dropped] == [1]


def test_exact_duplicates_name_the_first_one_as_twin(tmp_path: Path):
    rows = [
        *(given("Hi", "a", "b", row) for row in (9, 7, 8)),
        given("Hi", "a", "b", 99, file="a_first.jsonl"),
        given("Hi", "b", "a", 10),
        given("Ho", "a", "b", 11),
    ]
    pairs, dropped = run(tmp_path, rows, "exact_duplicate")
    assert sorted(pair["row"] for pair in pairs) == [10, 11, 99]
    twin = next(pair["pair_id"] for pair in pairs if pair["row"] == 99)
    assert [(drop["row"], drop["detail"]) for drop in dropped] == [(7, twin), (8, twin), (9, twin)]


def test_a_duplicate_of_a_dropped_pair_is_none(tmp_path: Path):
    rows = [
        given("Hi", "a", "b", 1, chosen_votes=3, rejected_votes=2),
        given("Hi", "a", "b", 2, chosen_votes=9, rejected_votes=2),
        given("Hi", "a", "b", 3, chosen_votes=8, rejected_votes=2),
    ]
    pairs, dropped = run(tmp_path, rows, {"score_ratio": {"min": 2}}, "exact_duplicate", score=["votes"])
    assert [pair["row"] for pair in pairs] == [2]
    assert [(drop["row"], drop["rule"]) for drop in dropped] == [(1, "score_ratio"), (3, "exact_duplicate")]


def capped(folder: Path, rows: list[RawRow], seed: int) -> set[str]:
    pairs, _ = run(folder, rows, {"cap": {"max_pairs": 5, "seed": seed}})
    return {pair["pair_key"] for pair in pairs}


def test_cap_keeps_so_many_of_each_prompt_whatever_their_order(tmp_path: Path):
    numbers = list(range(8))
    rows = [given("Hi", f"good {i}", "bad", row=i) for i in numbers] + [given("Ho", "good", "bad", 100)]
    turned = [given("Hi", f"good {i}", "bad", row=50 - i) for i in numbers] + [given("Ho", "good", "bad", 1)]
    kept = capped(tmp_path / "rows", rows, seed=0)
    assert len(kept) == 6
    assert capped(tmp_path / "turned", turned, seed=0) == kept
    assert any(capped(tmp_path / f"seed{seed}", rows, seed) != kept for seed in (1, 2))
    assert len(capped(tmp_path / "five", rows[:5], seed=0)) == 5


def marked(row: int, **extra: object) -> RawRow:
    return replace(given(f"Question {row}", "a", "b", row), extra=extra)


def test_a_status_that_is_named_drops_the_pair(tmp_path: Path):
    rows = [marked(1, status="tie"), marked(2, status="swapped"), marked(3, status=None), marked(4, status="it's")]
    pairs, dropped = run(tmp_path, rows, {"status": {"drop": ["tie", "it's"]}})
    assert sorted(pair["row"] for pair in pairs) == [2, 3]
    assert [(drop["row"], drop["rule"], drop["detail"]) for drop in dropped] == [
        (1, "status", "tie"),
        (4, "status", "it's"),
    ]


def test_pairs_marked_as_gsm8k_train_questions_are_dropped(tmp_path: Path):
    rows = [marked(1, in_gsm8k_train=True), marked(2, in_gsm8k_train=False), marked(3, in_gsm8k_train=None)]
    pairs, dropped = run(tmp_path, rows, "in_gsm8k_train")
    assert sorted(pair["row"] for pair in pairs) == [2, 3]
    assert [(drop["row"], drop["rule"]) for drop in dropped] == [(1, "in_gsm8k_train")]


def test_a_rule_on_a_column_that_is_not_carried_along_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"rule 'status' reads 'status', which source 'src' does not carry along; add"):
        run(tmp_path, [marked(1, statu="tie")], {"status": {"drop": ["tie"]}})


def test_pairs_with_opposed_labels_are_both_dropped_and_name_each_other(tmp_path: Path):
    rows = [given("Hi", "a", "b", 1), given("Hi", "b", "a", 2), given("Hi", "a", "c", 3), given("Ho", "b", "a", 4)]
    pairs, dropped = run(tmp_path, rows, "contradictory")
    assert sorted(pair["row"] for pair in pairs) == [3, 4]
    by_row = {drop["row"]: drop for drop in dropped}
    assert sorted(by_row) == [1, 2]
    assert (by_row[1]["detail"], by_row[2]["detail"]) == (by_row[2]["pair_id"], by_row[1]["pair_id"])


def test_the_label_of_the_majority_may_stay(tmp_path: Path):
    rows = [given("Hi", "a", "b", 1), given("Hi", "b", "a", 2), given("Hi", "a", "b", 3), given("Ho", "a", "c", 4)]
    pairs, dropped = run(tmp_path, rows, {"contradictory": {"keep": "majority"}})
    assert sorted(pair["row"] for pair in pairs) == [1, 3, 4]
    assert [drop["row"] for drop in dropped] == [2]


def test_of_as_many_labels_either_way_none_is_the_majority(tmp_path: Path):
    rows = [given("Hi", "a", "b", 1), given("Hi", "b", "a", 2), given("Hi", "a", "c", 3)]
    pairs, dropped = run(tmp_path, rows, {"contradictory": {"keep": "majority"}})
    assert [pair["row"] for pair in pairs] == [3]
    assert sorted(drop["row"] for drop in dropped) == [1, 2]


@pytest.mark.parametrize("rule", ["contradictory", "cycle"])
def test_a_pair_of_one_text_is_no_contradiction_and_no_circle(tmp_path: Path, rule: str):
    ring = [given("Hi", "a", "b", 1), given("Hi", "b", "c", 2), given("Hi", "c", "a", 3)]
    pairs, _ = run(tmp_path, [*ring, given("Hi", "a", "a", 4), given("Ho", "a", "a", 5)], rule)
    assert {pair["row"] for pair in pairs} >= {4, 5}


def test_of_repeated_pairs_cap_keeps_those_with_the_smallest_ids(tmp_path: Path):
    pairs, dropped = run(tmp_path, [given("Hi", "a", "b", row) for row in range(40)], {"cap": {"max_pairs": 2}})
    ids = sorted(row["pair_id"] for row in (*pairs, *dropped))
    assert sorted(pair["pair_id"] for pair in pairs) == ids[:2]


def test_pairs_that_go_round_in_a_circle_are_dropped_and_those_beside_it_stay(tmp_path: Path):
    circle = [given("Hi", "a", "b", 1), given("Hi", "b", "c", 2), given("Hi", "c", "a", 3)]
    beside = [given("Hi", "x", "a", 4), given("Hi", "b", "y", 5), given("Ho", "c", "b", 6)]
    pairs, dropped = run(tmp_path, [*circle, *beside], "cycle")
    assert sorted(pair["row"] for pair in pairs) == [4, 5, 6]
    assert sorted((drop["row"], drop["rule"]) for drop in dropped) == [(1, "cycle"), (2, "cycle"), (3, "cycle")]


def test_a_consistent_ranking_has_no_circle(tmp_path: Path):
    rows = [given("Hi", "a", "b", 1), given("Hi", "b", "c", 2), given("Hi", "a", "c", 3), given("Hi", "a", "b", 4)]
    pairs, _ = run(tmp_path, rows, "cycle")
    assert len(pairs) == 4
