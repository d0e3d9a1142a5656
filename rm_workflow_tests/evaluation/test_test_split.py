from dataclasses import replace

import pytest

from rm_workflow.errors import UserError
from rm_workflow.evaluation.test_split import ScoredPairs, margin_histogram, summarise

PAIRS = ScoredPairs(
    pair_ids=["a", "b", "c", "d"],
    score_chosen=[2.0, 1.0, 0.0, 1.0],
    score_rejected=[0.0, 1.0, 1.0, 0.0],
    sources=["hh", "hh", "shp", "shp"],
    groups=["g1", "g2", "g3", "g4"],
    chosen_lengths=[10, 10, 5, 7],
    rejected_lengths=[5, 20, 9, 7],
)


def test_the_test_object_has_score_ties_margin_and_null_baselines():
    result = summarise(PAIRS)

    assert result["score"] == 0.5
    assert result["n"] == 4
    assert result["ties"] == 1
    assert result["accuracy_ties_half"] == 0.625
    assert result["mean_margin"] == 0.5
    assert result["ci_low"] < 0.5 < result["ci_high"]


def test_replies_of_one_length_count_one_half_in_both_null_baselines():
    result = summarise(PAIRS)

    assert result["pick_longer"] == (1 + 0 + 0 + 0.5) / 4
    assert result["pick_longer"] + result["pick_shorter"] == 1


def test_each_source_has_the_same_figures():
    result = summarise(PAIRS)

    assert set(result["per_source"]) == {"hh", "shp"}
    assert set(result) - set(result["per_source"]["hh"]) == {"per_source"}
    assert result["per_source"]["hh"]["score"] == 0.5
    assert result["per_source"]["hh"]["pick_longer"] == 0.5
    assert result["per_source"]["shp"]["pick_longer"] == 0.25


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused_with_the_first_pair(missing: float | None):
    with pytest.raises(UserError, match=r"test pair b \(row 2\) has the score"):
        summarise(replace(PAIRS, score_chosen=[2.0, missing, 0.0, missing]))


def test_no_pair_is_refused():
    with pytest.raises(UserError, match="no pair"):
        summarise(ScoredPairs([], [], [], [], [], [], []))


def test_the_histogram_counts_every_margin():
    histogram = margin_histogram([0.0, 1.0, -1.0, 0.5], bins=4)

    assert sum(histogram["counts"]) == 4
    assert histogram["edges"] == [-1.0, -0.5, 0.0, 0.5, 1.0]
