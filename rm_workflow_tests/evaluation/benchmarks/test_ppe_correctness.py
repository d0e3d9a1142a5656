from itertools import combinations

import numpy as np
import pytest

from rm_workflow.errors import UserError
from rm_workflow.evaluation.benchmarks.ppe_correctness import aggregate, headline, read_item, scored_row
from rm_workflow.evaluation.items import FieldError, ScoredItem

NATIVE = {
    "question_id": "q7",
    "model_name": "one",
    "prompt": "What is 7 x 8?",
    "response_1": "54",
    "response_2": "56",
    "response_3": "It is 56.",
    "scores": [False, True, True],
    "sampled_conflict_pairs": [[0, 1], [2, 0]],
}


def question(correct: list, scores: list, pairs: list, identity: str = "a", **more) -> dict:
    return {"id": identity, "correct": correct, "scores": scores, "pairs": pairs, **more}


def random_questions(num: int, num_replies: int, seed: int = 5) -> list[dict]:
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(num):
        correct = (draw.random(num_replies) < 0.4).tolist()
        # Few values, so that there are ties.
        scores = draw.integers(0, 4, num_replies).astype(float).tolist()
        pairs = [[i, j] for i in range(num_replies) for j in range(num_replies) if correct[i] and not correct[j]][:3]
        rows.append(question(correct, scores, pairs, str(number), source=f"model {number % 2}"))
    return rows


def test_of_a_sampled_pair_the_right_reply_must_score_higher_whichever_stands_first():
    rows = [question([False, True], [0, 1], [[0, 1]], "a"), question([True, False], [1, 1], [[0, 1]], "b")]

    result = aggregate(rows)

    assert (result["score"], result["n"], result["ties"], result["accuracy_ties_half"]) == (0.5, 2, 1, 0.75)
    assert headline(result) == {name: result[name] for name in ("score", "n", "ci_low", "ci_high", "ties")}


def test_best_of_k_is_the_mean_over_all_subsets_with_ties_shared():
    rows = random_questions(6, 5)
    result = aggregate(rows)

    def picked(row: dict, chosen: tuple[int, ...]) -> float:
        best = max(row["scores"][place] for place in chosen)
        return float(np.mean([row["correct"][place] for place in chosen if row["scores"][place] == best]))

    curve = {
        size: np.mean([np.mean([picked(row, chosen) for chosen in combinations(range(5), size)]) for row in rows])
        for size in range(1, 6)
    }
    assert list(result["best_of_k"]) == ["1", "2", "4", "5"]
    assert {size: point["score"] for size, point in result["best_of_k"].items()} == pytest.approx(
        {str(size): curve[size] for size in (1, 2, 4, 5)}
    )
    assert (result["end_score"], result["max_score"]) == pytest.approx((curve[5], max(curve.values())))
    assert result["max_at"] == max(curve, key=lambda size: curve[size])
    possible = np.mean([any(row["correct"]) for row in rows])
    assert result["best_of_k"]["5"]["best_possible"] == pytest.approx(possible)
    assert all(point["ci_low"] <= point["score"] <= point["ci_high"] for point in result["best_of_k"].values())


def test_the_area_is_the_chance_that_a_right_reply_of_a_model_scores_above_a_wrong_one():
    rows = random_questions(6, 5)

    def area(source: str) -> float:
        replies = [
            pair for row in rows if row["source"] == source for pair in zip(row["correct"], row["scores"], strict=True)
        ]
        right = [score for correct, score in replies if correct]
        wrong = [score for correct, score in replies if not correct]
        return float(np.mean([(r > w) + (r == w) / 2 for r in right for w in wrong]))

    assert aggregate(rows)["roc_auc"] == pytest.approx((area("model 0") + area("model 1")) / 2)


def test_there_is_no_area_where_a_model_has_only_right_replies():
    rows = [
        question([True, False], [1, 0], [[0, 1]], "a", source="one"),
        question([True, True], [1, 0], [], "b", source="two"),
    ]

    assert aggregate(rows)["roc_auc"] is None


def test_a_native_row_comes_back_with_the_right_reply_of_a_pair_first():
    item = read_item(NATIVE)

    scored = scored_row(ScoredItem(item.subset, [0.5, 1.0, 0.0], item.num_correct, item.meta))

    assert (item.num_correct, item.responses, item.subset) == (2, ["54", "56", "It is 56."], "one")
    assert scored == {
        "id": "q7 one",
        "group": "q7",
        "correct": [False, True, True],
        "pairs": [[1, 0], [2, 0]],
        "source": "one",
        "scores": [0.5, 1.0, 0.0],
    }
    assert aggregate([scored])["score"] == 0.5


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"sampled_conflict_pairs": [[1, 2]]}, r"sampled_conflict_pairs\[0\] names two replies that are both right"),
        (
            {"sampled_conflict_pairs": [[0, 3]]},
            r"sampled_conflict_pairs\[0\] is \[0, 3\]; it must be two places",
        ),
        ({"scores": [True, False]}, "field scores has 2 entries and there are more replies"),
        ({"scores": [True, False, 0.5]}, r"field scores\[2\] is 0.5; a label is true or false"),
        ({"scores": [True] * 4}, "field response_4 is missing"),
    ],
)
def test_a_bad_native_row_is_told(bad: dict, sentence: str):
    with pytest.raises(FieldError, match=sentence):
        read_item(NATIVE | bad)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([question([True, False], [1], [[0, 1]])], "row 1: field scores holds 1 scores; give 2, one a reply"),
        (
            [question([True, False], [1, 0], [[0, 1]]), question([True, False, False], [1, 0, 0], [[0, 1]], "b")],
            "row 2: it has 3 replies and the first row 2",
        ),
        ([question([True, True], [1, 0], [])], "row 1: neither it nor any other row has a pair"),
        ([question([True, False], [1, float("nan")], [[0, 1]])], r"row 1: field scores\[1\] is nan"),
    ],
)
def test_bad_scored_rows_are_told(rows: list[dict], sentence: str):
    with pytest.raises(UserError, match=sentence):
        aggregate(rows)
