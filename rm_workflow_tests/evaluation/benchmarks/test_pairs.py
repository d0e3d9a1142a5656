import pytest

from rm_workflow.errors import UserError
from rm_workflow.evaluation.benchmarks.pairs import aggregate
from rm_workflow.intervals import wilson_interval


def pair(chosen: float, rejected: float, **more: object) -> dict:
    return {"score_chosen": chosen, "score_rejected": rejected, **more}


def test_accuracy_is_strict_with_ties_half_and_their_number_beside_it():
    result = aggregate([pair(1, 0), pair(0.5, 0.5), pair(0, 1), pair(3, 0)])

    low, high = wilson_interval(2, 4)
    assert result == {
        "score": 0.5,
        "accuracy": 0.5,
        "accuracy_ties_half": 0.625,
        "n": 4,
        "ties": 1,
        "mean_margin": 0.75,
        "ci_low": low,
        "ci_high": high,
        "subsets": {},
        "warnings": [],
    }


def test_swapping_the_sides_gives_one_minus_accuracy_minus_ties():
    rows = [pair(1, 0), pair(0.5, 0.5), pair(0, 1), pair(3, 0), pair(2, 1)]
    swapped = [pair(row["score_rejected"], row["score_chosen"]) for row in rows]

    assert aggregate(swapped)["score"] == pytest.approx(1 - aggregate(rows)["score"] - 1 / 5)


def test_sources_are_scored_apart():
    result = aggregate([pair(1, 0, source="shp"), pair(0, 1, source="hh"), pair(1, 0, source="hh"), pair(1, 0)])

    assert {name: (score["score"], score["n"]) for name, score in result["subsets"].items()} == {
        "hh": (0.5, 2),
        "shp": (1.0, 1),
    }
    assert result["n"] == 4


def test_pairs_of_one_group_widen_the_interval():
    outcomes = [float(i % 4 != 0) for i in range(100)]
    alone = aggregate([pair(won, 0.5) for won in outcomes])
    grouped = aggregate([pair(won, 0.5, group=i) for i, won in enumerate(outcomes) for _ in range(3)])

    assert grouped["n"] == 300
    assert grouped["ci_high"] - grouped["ci_low"] == pytest.approx(alone["ci_high"] - alone["ci_low"], rel=0.05)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (pair(float("nan"), 0), "row 2: field score_chosen is nan"),
        (pair("1", 0), "row 2: field score_chosen is '1'"),
        ({"score_chosen": 1}, "row 2: field score_rejected is missing"),
        (pair(1, 0, source=3), "row 2: field source is 3"),
        (pair(1, 0, group=["a"]), "row 2: field group is a list"),
    ],
)
def test_a_bad_row_is_refused(bad: dict, said: str):
    with pytest.raises(UserError, match=said):
        aggregate([pair(1, 0), bad])


def test_a_repeated_id_is_an_error_for_equal_rows_and_a_warning_for_other_scores():
    first = pair(1, 0, id="a", source="hh")

    with pytest.raises(UserError, match="row 2: id 'a' of source hh stands in row 1 already"):
        aggregate([first, dict(first)])
    assert aggregate([first, first | {"source": "shp"}])["warnings"] == []
    assert aggregate([first, first | {"score_chosen": 3}])["warnings"] == [
        "row 2: id 'a' of source hh stands in row 1 with other scores; both are counted"
    ]
    assert aggregate([first, first | {"judge": "x"}])["warnings"] == [
        "row 2: id 'a' of source hh stands in row 1 too, with the same scores; both are counted"
    ]
    assert aggregate([pair(1, 0), pair(1, 0)])["n"] == 2


@pytest.mark.parametrize("huge", [10**400, 1.7e308, -1.7e308])
def test_scores_whose_differences_are_no_numbers_are_refused(huge: float):
    with pytest.raises(UserError, match="a score must be a finite number, of at most 1e100"):
        aggregate([pair(huge, 0)])
