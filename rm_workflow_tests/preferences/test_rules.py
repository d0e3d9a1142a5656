"""Each rule: what it keeps, what it drops, and the value between."""

from dataclasses import replace
from pathlib import Path

import pytest

from rm_workflow.catalog.models import PairSet
from rm_workflow.errors import UserError
from rm_workflow.preferences.pairs import build_pair_set, check_pair_set
from rm_workflow.preferences.rules import ORDER, SOURCE_RULES, built
from rm_workflow_tests.preferences.raw_tables import RawRow, given, rated, read, write_raw


def run(folder: Path, rows: list[RawRow], *rules, score=(), candidates="given") -> tuple[list[dict], list[dict]]:
    pair_set = PairSet(source="src", candidates=candidates, score=list(score), rules=list(rules))
    raw = write_raw(folder / "raw", rows)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    build_pair_set("x", pair_set, raw, out)
    return read(out / "pairs.parquet"), read(out / "dropped.parquet")


def test_the_contracts_order_stands_with_every_rule_that_is_built():
    assert [name for name in ORDER if name not in SOURCE_RULES] == [
        *("equal_score", "identical_responses", "exact_duplicate", "near_duplicate", "contradictory", "cycle"),
        *("length", "cap"),
    ]
    assert built() == list(ORDER)


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


@pytest.mark.parametrize(
    ("chosen", "rejected", "parameters", "kept"),
    [
        (4.5, 3.5, {"min": 1}, True),
        (4.5, 3.5, {"min": 1, "strict": True}, False),
        (0.3, 0.1, {"min": 0.2}, True),  # 0.3 - 0.1 is 0.19999999999999998 as floats
        (0.3, 0.1, {"min": 0.2, "strict": True}, False),
        (4.499999, 3.5, {"min": 1}, False),
        (3, 4.5, {"min": 1}, False),
        (3, 3, {"min": 0}, True),
        (3, 3, {"min": 0, "strict": True}, False),
        (-1, -5, {"min": 4}, True),
        (5, 1, {"min": 1, "max": 4}, True),
        (5.1, 1, {"min": 1, "max": 4}, False),
        (5, 1, {"max": 3}, False),
    ],
)
def test_score_gap_is_exact_at_both_ends(tmp_path: Path, chosen, rejected, parameters, kept):
    row = given("Hi", "a", "b", 1, chosen_votes=chosen, rejected_votes=rejected)
    pairs, dropped = run(tmp_path, [row], {"score_gap": parameters}, score=["votes"])
    assert (len(pairs), [drop["rule"] for drop in dropped]) == ((1, []) if kept else (0, ["score_gap"]))


def test_score_gap_compares_means_of_different_counts_exactly(tmp_path: Path):
    # 3.3 / 3 - 0.1 is 0.9999999999999999 as floats
    texts = [("a", {"x": 1.1, "y": 1.1, "z": 1.1}), ("b", {"x": 0.1})]
    rule = {"score_gap": {"min": 1}}
    pairs, _ = run(tmp_path, [rated("Hi", texts, 1)], rule, score=["x", "y", "z"], candidates="rated")
    assert len(pairs) == 1


def test_score_gap_states_why(tmp_path: Path):
    rows = [
        given("Hi", "a", "b", 1, chosen_votes=3),
        given("Hi", "a", "b", 2, chosen_votes=3, rejected_votes=2.5),
        given("Hi", "a", "b", 3, chosen_votes=9, rejected_votes=1),
    ]
    _, dropped = run(tmp_path, rows, {"score_gap": {"min": 1, "max": 5}}, score=["votes"])
    assert [(drop["reason"], drop["detail"]) for drop in dropped] == [
        ("a score is missing, so there is no score gap", "3 against none"),
        ("score gap is not at least 1", "3 against 2.5"),
        ("score gap is above 5", "9 against 1"),
    ]


def test_rating_may_ask_for_a_good_chosen_response_and_for_the_chosen_score_alone(tmp_path: Path):
    rows = [
        given("Hi", "a", "b", 1, chosen_votes=8),
        given("Hi", "a", "b", 2, chosen_votes=7.9),
        given("Hi", "a", "b", 3),
        given("Hi", "a", "b", 4, chosen_votes=9, rejected_votes=9),
    ]
    pairs, dropped = run(tmp_path / "chosen", rows, {"rating": {"min": 8, "of": "chosen"}}, score=["votes"])
    assert sorted(pair["row"] for pair in pairs) == [1, 4]
    assert [(drop["reason"], drop["detail"]) for drop in dropped] == [
        ("the score of the chosen response is below 8", "7.9"),
        ("a response has none of the ratings that make its score", "both sides"),
    ]
    pairs, dropped = run(tmp_path / "both", rows, {"rating": {"min": 8}}, score=["votes"])
    assert [pair["row"] for pair in pairs] == [4]
    assert dropped[0]["detail"] == "slot rejected"


REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I can’t assist with that request.",
    "Sorry, I cannot help you with this.",
    "I apologize, but as an AI language model, I cannot provide you with that information.",
    "As an AI assistant, I'm not able to provide instructions for building weapons. It would be illegal and harmful.",
    "I'm sorry. I won't do that.\n\nIs there anything else I can help you with?",
    "I must respectfully decline. Thank you for your understanding!",
    "I'm not comfortable helping with this.",
    "Sorry, that's not something I can help with. Please let me know if you have any other questions.",
    "Unfortunately, I am unable to assist with such requests.",
]
ANSWERS = [
    "I'm sorry to hear that you lost your dog.",
    "I'm sorry, but the capital of Australia is Canberra, not Sydney.",
    "I'm sorry, but I can't open files. Paste the text here and I will read it.",
    "I cannot help you with that, but you could ask a lawyer about your lease.",
    "I can't help but smile at that.",
    "I can't write with my left hand, so this may look odd.",
    "Sorry, I can't answer that without knowing how old you are.",
    "As an AI language model, I was trained on books and articles.",
    "I can't give you medical advice. Rest, drink a lot and see a doctor if the fever stays.",
    "It is illegal to park there.",
    "Unfortunately, the museum is closed on Mondays.",
    "I'm sorry.",
    "I can't help with that: try the town hall.",
    "No, I can't.  I can lend you mine.",
]


def test_refusals_are_dropped_and_answers_that_begin_alike_stay(tmp_path: Path):
    rows = [given("Hi", text, "An answer.", row) for row, text in enumerate([*REFUSALS, *ANSWERS])]
    _, dropped = run(tmp_path, rows, {"refusal": {"side": "chosen"}})
    assert [drop["row"] for drop in dropped] == list(range(len(REFUSALS)))
    assert {(drop["rule"], drop["detail"]) for drop in dropped} == {("refusal", "chosen")}


@pytest.mark.parametrize(
    ("side", "rows"), [("chosen", [1, 3]), ("rejected", [2, 3]), ("both", [3]), ("either", [1, 2, 3])]
)
def test_refusal_judges_the_sides_that_it_is_told_to(tmp_path: Path, side: str, rows: list[int]):
    no, yes = REFUSALS[0], "The Danube."
    data = [
        given("Hi", no, yes, 1),
        given("Hi", yes, no, 2),
        given("Hi", no, REFUSALS[2], 3),
        given("Hi", yes, "b", 4),
    ]
    _, dropped = run(tmp_path, data, {"refusal": {"side": side}})
    assert [drop["row"] for drop in dropped] == rows


def test_a_refusal_beyond_the_word_limit_is_none(tmp_path: Path):
    data = [given("Hi", "I'm sorry, but I can't help with that.", "b", 1)]  # 8 words
    assert run(tmp_path / "8", data, {"refusal": {"side": "chosen", "max_words": 8}})[0] == []
    assert len(run(tmp_path / "7", data, {"refusal": {"side": "chosen", "max_words": 7}})[0]) == 1


@pytest.mark.parametrize(
    ("parameters", "reason", "detail"),
    [
        ({"prompt": {"min_words": 3}}, None, None),
        ({"prompt": {"min_words": 4}}, "the prompt has fewer than 4 words", "3 words"),
        ({"prompt": {"max_words": 2}}, "the prompt has more than 2 words", "3 words"),
        ({"prompt": {"max_characters": 15}}, "the prompt has more than 15 characters", "16 characters"),
        ({"prompt": {"min_characters": 16, "max_characters": 16}}, None, None),
        ({"response": {"min_words": 1, "max_words": 3}}, None, None),
        ({"response": {"min_words": 2}}, "the rejected response has fewer than 2 words", "1 words"),
        ({"response": {"max_words": 2}}, "the chosen response has more than 2 words", "3 words"),
        ({"response": {"min_characters": 4}}, "the rejected response has fewer than 4 characters", "3 characters"),
        ({"max_ratio": 6}, None, None),
        (
            {"max_ratio": 5.9},
            "one response is more than 5.9 times as long as the other",
            "18 against 3 characters",
        ),
    ],
)
def test_length_names_the_limit_that_is_broken(tmp_path: Path, parameters, reason, detail):
    turns = [
        {"role": "user", "content": "Name a"},
        {"role": "assistant", "content": "Yes?\n"},
    ]
    prompt = [turns[0], {"role": "user", "content": "\u00a0 river!\n"}]
    row = replace(given("", "The river Dänemark", "Ja.", 1), prompt=prompt)
    _, dropped = run(tmp_path, [row], {"length": parameters})
    assert [(drop["rule"], drop["reason"], drop["detail"]) for drop in dropped] == (
        [("length", reason, detail)] if reason else []
    )


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"length": {}}, "rule 'length': no limit is set; set one of prompt, response and max_ratio"),
        ({"length": {"prompt": {"min_words": 0}}}, r"rule 'length': prompt\.min_words is 0, out of its range"),
        (
            {"length": {"response": {"min_words": 9, "max_words": 3}}},
            "min_words is 9 and max_words 3, so that no length is between them",
        ),
        ({"length": {"response": {"max_word": 3}}}, r"there is no parameter 'response\.max_word'"),
        ({"score_gap": {"min": 3, "max": 2}}, "max is 2 and min 3, so that no gap is between them"),
        ({"score_gap": {"min": -1}}, "min is -1, out of its range"),
        ({"refusal": {}}, r"parameter 'side' is missing \(side is chosen, rejected, both or either"),
        ({"near_duplicate": {"threshold": 0.2}}, r"threshold is 0\.2, out of its range \(threshold is a number from"),
        ({"contradictory": {"keep": "all"}}, r"keep is 'all', out of its range \(keep is none, majority or marked\)"),
    ],
)
def test_wrong_parameters_name_the_rule_and_what_is_allowed(rule, message):
    with pytest.raises(UserError, match=message):
        check_pair_set("x", PairSet(source="src", candidates="given", score=["votes"], rules=[rule]))


def test_contradictions_may_stay_and_be_marked(tmp_path: Path):
    rows = [given("Hi", "a", "b", 1), given("Hi", "b", "a", 2), given("Hi", "a", "c", 3)]
    pair_set = PairSet(source="src", candidates="given", rules=[{"contradictory": {"keep": "marked"}}])
    raw = write_raw(tmp_path / "raw", rows)
    (tmp_path / "out").mkdir()
    built = build_pair_set("x", pair_set, raw, tmp_path / "out")
    assert {pair["row"]: pair["marks"] for pair in read(tmp_path / "out" / "pairs.parquet")} == {
        1: ["contradictory"],
        2: ["contradictory"],
        3: [],
    }
    assert (built.facts["kept"], built.facts["dropped"], built.facts["marked"]) == (
        3,
        {"contradictory": 0},
        {"contradictory": 2},
    )
    assert all(check.passed for check in built.checks)
