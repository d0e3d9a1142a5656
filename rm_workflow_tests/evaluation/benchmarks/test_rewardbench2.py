import itertools
import math

import pytest

from rm_workflow.errors import UserError
from rm_workflow.evaluation.benchmarks import rewardbench2
from rm_workflow.evaluation.benchmarks.rewardbench2 import SUBSETS, aggregate, headline
from rm_workflow.evaluation.items import FieldError, ScoredItem


def ties(identity: str, num_correct: int, scores: list[float]) -> dict:
    return {"id": identity, "subset": "Ties", "scores": scores, "num_correct": num_correct}


def best_of(scores: list[float], subset: str = "Math", identity: int = 0) -> dict:
    return {"id": identity, "subset": subset, "scores": scores, "num_correct": 1}


# Worked by hand and by the upstream function, allenai/reward-bench 05a9005.
GOLDEN = [
    ties("ref:0", 1, [2.0, 0.5, -1.0]),
    ties("tied:0", 3, [3.0, 2.5, 2.0, 1.0, 0.0]),
    ties("ref:1", 1, [1.0, 1.0, 0.0]),
    ties("tied:1", 2, [4.0, 1.0, 0.0]),
]
GOLDEN_SCORE = 0.4461920292202211


def ties_score(rows: list[dict]) -> float:
    return aggregate(rows)["subsets"]["Ties"]["score"]


def test_ties_equals_the_golden_example():
    result = aggregate(GOLDEN)

    assert abs(result["subsets"]["Ties"]["score"] - GOLDEN_SCORE) < 1e-12
    assert result["ties_terms"] == {
        "tied": 1.0,
        "ref": 0.5,
        "correct_preferred": 0.0,
        "correct_preferred_hard": 0.0,
        "margin": pytest.approx(math.tanh(-1) / 2),
    }


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_ties_does_not_depend_on_the_order_of_rows(order: tuple[int, ...]):
    assert aggregate([GOLDEN[i] for i in order]) == aggregate(GOLDEN)


def test_ties_is_invariant_to_a_positive_scale_and_to_a_shift_of_one_prompt():
    scaled = [row | {"scores": [8 * s for s in row["scores"]]} for row in GOLDEN]
    shifted = [GOLDEN[0] | {"scores": [s + 64 for s in GOLDEN[0]["scores"]]}, *GOLDEN[1:]]

    assert ties_score(scaled) == pytest.approx(GOLDEN_SCORE, abs=1e-12)
    assert ties_score(shifted) == pytest.approx(GOLDEN_SCORE, abs=1e-12)


@pytest.mark.parametrize(
    ("tied", "ref", "expected"),
    [
        ([2.0, 2.0, 0.0], [2.0, 1.0], 1.01),  # within 0, gap positive: tanh(+inf) = 1
        ([2.0, 2.0, 3.0], [0.0, 1.0], -0.01),  # within 0, gap negative: tanh(-inf) = -1
        ([2.0, 2.0, 2.0], [1.0, 1.0], 0.0),  # 0/0 counts 0
    ],
)
def test_zero_spread_of_the_correct_replies_gives_the_limits(tied: list[float], ref: list[float], expected: float):
    assert ties_score([ties("tied:a", 2, tied), ties("ref:a", 1, ref)]) == pytest.approx(expected, abs=1e-12)


def test_prompts_without_partner_count_in_their_own_accuracy_only():
    alone = [ties("tied:7", 2, [2.0, 1.0, 5.0]), ties("ref:8", 1, [1.0, 0.0])]

    terms = aggregate([*GOLDEN, *alone])["ties_terms"]

    assert terms["tied"] == pytest.approx(2 / 3)
    assert terms["ref"] == pytest.approx(2 / 3)
    assert terms["correct_preferred"] == 0.0
    assert terms["margin"] == pytest.approx(math.tanh(-1) / 2)


def test_ties_without_any_pair_is_missing_with_a_warning():
    result = aggregate([ties("ref:0", 1, [1.0, 0.0])])

    assert result["subsets"]["Ties"] is None
    assert "Ties" in result["missing_subsets"]
    assert "no number with both" in result["warnings"][0]


@pytest.mark.parametrize(
    ("scores", "expected", "tied"),
    [
        ([2.0, 1.0, 0.0, -1.0], 1.0, 0),
        ([2.0, 2.0, 0.0, -1.0], 1 / 2, 1),
        ([2.0, 2.0, 2.0, -1.0], 1 / 3, 1),
        ([2.0, 2.0, 2.0, 2.0], 1 / 4, 1),
        ([1.0, 2.0, 2.0, 0.0], 0.0, 1),
        ([1.0, 2.0, 1.0, 0.0], 0.0, 0),
    ],
)
def test_replies_that_share_the_top_share_the_point(scores: list[float], expected: float, tied: int):
    score = aggregate([best_of(scores)])["subsets"]["Math"]

    assert score["score"] == pytest.approx(expected)
    assert score["ties"] == tied


def test_overall_is_the_plain_mean_of_six_whatever_their_sizes():
    won, lost = [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]
    rows = [best_of(won, subset, i) for i, subset in enumerate(SUBSETS[:4])]
    rows += [best_of(lost, "Focus", i) for i in range(10)]

    result = aggregate([*rows, *GOLDEN])

    assert result["overall"] == pytest.approx((4 + 0 + GOLDEN_SCORE) / 6)
    assert headline(result)["n"] == 4 + 10 + 4
    assert result["missing_subsets"] == []
    assert result["overall_interval"]["ci_low"] <= result["overall"] <= result["overall_interval"]["ci_high"]


def test_a_partial_file_has_nulls_and_no_overall():
    result = aggregate([best_of([1.0, 0.0, 0.0, 0.0])])

    assert result["overall"] is None
    assert headline(result) is None
    assert result["missing_subsets"] == [name for name in SUBSETS if name != "Math"]
    assert result["subsets"]["Focus"] is None


def test_published_files_with_wrapped_scores_are_read():
    row = best_of([1.0, 0.0, 0.0, 0.0]) | {"scores": [[1.0], [0.0], [0.0], [0.0]]}

    assert aggregate([row])["subsets"]["Math"]["score"] == 1.0


GOOD = best_of([1.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (GOOD | {"subset": "math"}, r"row 2: field subset is 'math'.*did you mean 'Math'\?"),
        (GOOD | {"scores": [1.0, float("nan"), 0.0, 0.0]}, r"row 2: field scores\[1\] is nan"),
        (GOOD | {"scores": [1.0, None, 0.0, 0.0]}, r"field scores\[1\] is None"),
        (GOOD | {"scores": ["1.0", 0.0, 0.0, 0.0]}, r"field scores\[0\] is '1.0'"),
        (GOOD | {"scores": []}, "must be a list of numbers"),
        (GOOD | {"scores": 1.0}, "must be a list of numbers"),
        (GOOD | {"scores": [1.0, 0.0, 0.0], "id": 1}, "scores has 3 entries where the rows before have 4"),
        (GOOD | {"num_correct": 0}, "at least one must be correct and one wrong"),
        (GOOD | {"num_correct": 4}, "at least one must be correct and one wrong"),
        (GOOD | {"num_correct": 2}, "an item of Math has exactly one correct reply"),
        (GOOD | {"num_correct": "1"}, "must be a whole number"),
        ({key: GOOD[key] for key in ("subset", "scores", "num_correct")}, "field id is missing"),
        (ties("0", 1, [1.0, 0.0]), "an id of Ties is ref:N or tied:N"),
        (ties("tied:0", 1, [1.0, 0.0]), "prompt tied:0 must have at least two correct"),
        (ties("ref:0", 2, [1.0, 0.5, 0.0]), "prompt ref:0 must have exactly one correct"),
        (GOOD, "row 2: id 0 of subset Math stands in row 1 already"),
    ],
)
def test_a_bad_row_is_refused_with_its_number_and_field(bad: dict, said: str):
    with pytest.raises(UserError, match=said):
        aggregate([GOOD, bad])


def test_a_ties_id_given_twice_is_an_error_even_with_other_scores():
    with pytest.raises(UserError, match="row 5: id 'ref:0' of subset Ties stands in row 1 already"):
        aggregate([*GOLDEN, ties("ref:0", 1, [5.0, 0.0])])


def test_another_id_given_twice_with_other_scores_is_a_warning():
    result = aggregate([GOOD, best_of([0.0, 1.0, 0.0, 0.0])])

    assert len(result["warnings"]) == 1
    assert result["subsets"]["Math"]["n"] == 2


NATIVE = {
    "id": "tied:0",
    "prompt": "Name a primary colour of light.",
    "chosen": ["Red", "Green", "Blue"],
    "rejected": ["Brown", "Grey"],
    "num_correct": 3,
    "num_incorrect": 2,
    "total_completions": 5,
    "models": [],
    "subset": "Ties",
    "additional_metadata": {},
}


def test_a_native_row_becomes_an_item_with_the_correct_replies_first():
    item = rewardbench2.read_item(NATIVE)

    assert item.responses == ["Red", "Green", "Blue", "Brown", "Grey"]
    assert item.num_correct == 3
    scored = ScoredItem(item.subset, [3.0, 2.5, 2.0, 1.0, 0.0], item.num_correct, item.meta)
    assert rewardbench2.scored_row(scored) == GOLDEN[1]


def test_a_native_row_whose_count_differs_from_its_replies_is_refused():
    with pytest.raises(FieldError, match="num_correct is 2 where chosen holds 3"):
        rewardbench2.read_item(NATIVE | {"num_correct": 2})


@pytest.mark.parametrize(("num", "warned"), [(3, True), (4, False)])
def test_items_with_another_number_of_replies_than_the_benchmark_has_are_told(num: int, warned: bool):
    rows = [{"id": 1, "subset": "Math", "scores": [1.0, *[0.0] * (num - 1)], "num_correct": 1}]

    warnings = aggregate(rows)["warnings"]

    assert warnings == (["items have 3 replies where the benchmark has 4: chance is 1/3, not 1/4"] if warned else [])


def test_ties_whose_prompts_are_all_right_claim_no_more_than_its_prompts_can_tell():
    gaps = (0.0, 0.02, 0.04, 0.06)
    rows = [ties(f"ref:{n}", 1, [1.0, -gap]) for n, gap in enumerate(gaps)]
    rows += [ties(f"tied:{n}", 2, [1.0, 0.05, -gap]) for n, gap in enumerate(gaps)]

    score = aggregate(rows)["subsets"]["Ties"]

    assert score["ci_high"] - score["ci_low"] > 0.3
