import numpy as np
import pytest
from scipy.stats import spearmanr

from rm_workflow.errors import UserError
from rm_workflow.evaluation.benchmarks import rating_correlation
from rm_workflow.evaluation.benchmarks.rating_correlation import aggregate, headline
from rm_workflow.evaluation.items import FieldError, ScoredItem


def rows(group: str, pairs: list[tuple[float, float]]) -> list[dict]:
    """Return replies to one prompt with the stated (score, rating)."""
    return [
        {"id": f"{group}{i}", "group": group, "score": score, "rating": rating}
        for i, (score, rating) in enumerate(pairs)
    ]


# By hand: ranks of the scores 1 2 3 4, of the ratings 1 2 4 3; rho = 1 - 6 * (0 + 0 + 1 + 1) / (4 * 15) = 0.8.
FOUR = rows("a", [(0.1, 0), (0.2, 1), (0.5, 4), (0.9, 3)])
AGREES = rows("b", [(1.0, 4), (0.0, 2)])
DISAGREES = rows("c", [(1.0, 2), (0.0, 4)])
EQUAL_SCORES = rows("d", [(1.0, 2), (1.0, 4)])
EQUAL_RATINGS = rows("e", [(1.0, 3), (0.0, 3)])
ALONE = rows("f", [(1.0, 3)])


def test_the_score_is_the_mean_correlation_within_prompts():
    result = aggregate([*FOUR, *AGREES, *DISAGREES])

    assert result["score"] == pytest.approx((0.8 + 1 - 1) / 3)
    assert (result["n"], result["ties"], result["prompts_left_out"]) == (3, 0, 0)
    assert headline(result)["score"] == result["score"]


def test_equal_scores_count_nothing_and_prompts_without_a_correlation_are_left_out():
    result = aggregate([*AGREES, *EQUAL_SCORES, *EQUAL_RATINGS, *ALONE])

    assert result["score"] == pytest.approx((1 + 0) / 2)
    assert (result["n"], result["ties"], result["prompts_left_out"]) == (2, 1, 2)


def test_tied_ranks_share_their_mean():
    # ranks 1.5 1.5 3 against 1 2 3: covariance 1.5, variances 1.5 and 2
    result = aggregate(rows("a", [(0.0, 1), (0.0, 2), (1.0, 3)]))

    assert result["score"] == pytest.approx(1.5 / np.sqrt(1.5 * 2))


def test_better_prompts_count_in_the_correlation_over_all_replies_only():
    # within each prompt the order is wrong; the second prompt's replies have higher scores and ratings
    result = aggregate([*rows("a", [(0, 2), (1, 1)]), *rows("b", [(10, 6), (11, 5)])])

    assert result["score"] == -1.0
    assert result["spearman"]["score"] == pytest.approx(1 - 6 * 4 / (4 * 15))


def random_rows(num_prompts: int = 80) -> list[dict]:
    generator = np.random.default_rng(5)
    ratings = generator.integers(0, 5, (num_prompts, 3))
    scores = (ratings + generator.normal(0, 2, ratings.shape)).round(1)
    listed = [rows(str(i), list(zip(scores[i].tolist(), ratings[i].tolist(), strict=True))) for i in range(num_prompts)]
    return [{**row, "ratings": {"style": row["rating"] * 2}} for group in listed for row in group]


def test_the_correlation_over_all_replies_is_scipys():
    given = random_rows()

    expected = spearmanr([row["score"] for row in given], [row["rating"] for row in given]).statistic
    assert aggregate(given)["spearman"]["score"] == pytest.approx(expected, abs=1e-12)


def test_draws_of_whole_prompts_are_scipys_on_the_drawn_rows():
    pairs = np.array([[row["score"], row["rating"]] for row in random_rows(20)])
    times = np.random.default_rng(1).integers(0, 4, (5, len(pairs))).astype(float)

    drawn = rating_correlation._weighted_spearman(pairs, times)

    for weights, correlation in zip(times, drawn, strict=True):
        repeated = np.repeat(pairs, weights.astype(int), axis=0)
        assert correlation == pytest.approx(spearmanr(*repeated.T).statistic, abs=1e-12)


def test_replies_to_one_prompt_are_drawn_together():
    once = random_rows(40)
    thrice = [{**row, "id": f"{row['id']} {copy}"} for row in once for copy in range(3)]

    widths = [
        found["ci_high"] - found["ci_low"] for found in (aggregate(given)["spearman"] for given in (once, thrice))
    ]
    assert widths[1] == pytest.approx(widths[0], rel=0.02)


def test_every_score_lies_in_its_interval():
    result = aggregate(random_rows())

    for score in (result, result["spearman"], result["subsets"]["style"]):
        assert -1 <= score["ci_low"] < score["score"] < score["ci_high"] <= 1


def test_attributes_are_correlated_apart():
    result = aggregate([{**row, "ratings": {"same": row["rating"], "turned": -row["rating"]}} for row in FOUR])

    assert {name: score["score"] for name, score in result["subsets"].items()} == pytest.approx(
        {"same": 0.8, "turned": -0.8}
    )


def test_order_shift_within_a_prompt_and_positive_scale_change_nothing():
    given = random_rows(20)
    orders = [np.random.default_rng(seed).permutation(len(given)) for seed in range(12)]
    shifted = [{**row, "score": row["score"] + 64 * int(row["group"])} for row in given]

    result = aggregate(given)
    assert all(aggregate([{**given[i], "score": given[i]["score"] * 4} for i in order]) == result for order in orders)
    assert aggregate(shifted)["score"] == pytest.approx(aggregate(given)["score"])


def test_prompts_with_one_reply_each_have_no_headline_but_a_correlation_over_all():
    result = aggregate([*ALONE, *rows("g", [(2.0, 4)]), *rows("h", [(0.0, 1)])])

    assert (result["score"], headline(result)) == (None, None)
    assert result["spearman"]["score"] == pytest.approx(1.0)


GOOD = FOUR[0]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (GOOD | {"score": float("nan")}, "row 2: field score is nan"),
        (GOOD | {"rating": None}, "row 2: field rating is None"),
        (GOOD | {"rating": "4"}, "field rating is '4'"),
        (GOOD | {"group": None}, "field group is None"),
        ({name: GOOD[name] for name in ("id", "score", "rating")}, "field group is missing"),
        (GOOD | {"ratings": [1]}, "field ratings must be an object"),
        (GOOD | {"ratings": {"style": "x"}}, "field ratings.style is 'x'"),
        (GOOD, "row 2: id 'a0' of group a stands in row 1 already"),
    ],
)
def test_a_bad_row_is_refused_with_its_number_and_field(bad: dict, said: str):
    with pytest.raises(UserError, match=said):
        aggregate([GOOD, bad])


def test_ratings_that_are_all_equal_are_refused():
    with pytest.raises(UserError, match="all ratings are equal"):
        aggregate(EQUAL_RATINGS)


NATIVE = {
    "prompt": "Name a river.\n<extra_id_1>Assistant\nThe Danube.\n<extra_id_1>User\nAnother.",
    "response": "The Rhine.",
    "helpfulness": 4,
    "correctness": 3,
    "coherence": 4,
    "complexity": 1,
    "verbosity": 0,
}


def test_a_native_row_becomes_an_item_and_its_score_a_row_again():
    item = rating_correlation.read_item(NATIVE)

    assert [turn["content"] for turn in item.messages] == ["Name a river.", "The Danube.", "Another."]
    row = rating_correlation.scored_row(ScoredItem(item.subset, [1.5], item.num_correct, item.meta))
    assert (row["score"], row["rating"], row["ratings"]["verbosity"]) == (1.5, 3.5, 0.0)
    other = rating_correlation.read_item(NATIVE | {"response": "No."})
    assert (other.meta["group"], other.meta["id"] == item.meta["id"]) == (item.meta["group"], False)


def test_a_native_row_without_a_rating_is_refused():
    with pytest.raises(FieldError, match="field correctness is None"):
        rating_correlation.read_item(NATIVE | {"correctness": None})


def test_one_reply_a_prompt_says_why_there_is_no_score():
    result = aggregate([{"id": n, "group": n, "score": float(n), "rating": n % 3} for n in range(6)])

    assert result["score"] is None
    assert result["warnings"] == [
        "no prompt (group) has two replies with different ratings, so there is no score; see spearman"
    ]
