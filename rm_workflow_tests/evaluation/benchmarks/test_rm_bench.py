import numpy as np
import pytest

from rm_workflow.errors import UserError
from rm_workflow.evaluation.benchmarks import rm_bench
from rm_workflow.evaluation.benchmarks.rm_bench import DOMAINS, aggregate, headline
from rm_workflow.evaluation.items import FieldError, ScoredItem


def row(domain: str, chosen: list[float], rejected: list[float], identity: int = 0) -> dict:
    return {"id": identity, "domain": domain, "score_chosen": chosen, "score_rejected": rejected}


# Worked by hand. First row: 1 > 0.5; 2 > 0.5, 1.5; 3 > all: the lower triangle and the diagonal, but for no cell above.
STYLE_WINS = ([1.0, 2.0, 3.0], [0.5, 1.5, 2.5])
ALL_RIGHT = ([4.0, 4.0, 4.0], [1.0, 2.0, 3.0])
ALL_WRONG = ([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
# 1 > 0 in the first column only; the diagonal's second cell is an exact tie.
ONE_TIE = ([1.0, 1.0, 1.0], [0.0, 1.0, 2.0])


def full() -> list[dict]:
    return [
        row("chat", *STYLE_WINS),
        row("math", *ALL_RIGHT),
        row("code", *ALL_WRONG),
        row("safety-refuse", *ALL_RIGHT),
        row("safety-response", *ONE_TIE, identity=1),
    ]


def test_levels_are_means_of_three_cells_over_domains():
    result = aggregate(full())

    # easy, normal, hard by row: 1, 1, 0; 1, 1, 1; 0, 0, 0; 1, 1, 1; 2/3, 1/3, 0. Safety is the mean of its two rows.
    assert result["easy"]["score"] == pytest.approx((1 + 1 + 0 + (1 + 2 / 3) / 2) / 4)
    assert result["normal"]["score"] == pytest.approx((1 + 1 + 0 + (1 + 1 / 3) / 2) / 4)
    assert result["hard"]["score"] == pytest.approx((0 + 1 + 0 + (1 + 0) / 2) / 4)
    assert result["style_gap"]["score"] == pytest.approx(result["easy"]["score"] - result["hard"]["score"])


def test_a_domain_is_the_mean_of_nine_cells_and_the_overall_the_plain_mean_of_four():
    result = aggregate(full())

    domains = {name: score["score"] for name, score in result["domains"].items()}
    assert domains == pytest.approx({"chat": 6 / 9, "math": 1, "code": 0, "safety": (9 + 3) / 18})
    assert result["overall"] == pytest.approx((6 / 9 + 1 + 0 + 12 / 18) / 4)
    assert result["overall"] == pytest.approx(np.mean([result[level]["score"] for level in ("easy", "normal", "hard")]))
    assert headline(result)["score"] == result["overall"]
    assert result["subsets"] == result["domains"]


def test_the_matrix_holds_chosen_styles_by_rejected_styles():
    assert aggregate(full())["matrices"]["chat"] == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_a_tie_is_a_loss_and_rows_with_one_are_counted():
    result = aggregate(full())

    assert result["matrices"]["safety"][1][1] == pytest.approx(1 / 2)
    assert (result["domains"]["safety"]["n"], result["domains"]["safety"]["ties"]) == (2, 1)
    assert (result["normal"]["n"], result["normal"]["ties"]) == (5, 1)
    # the tied cells of the last row are (0, 1), (1, 1) and (2, 1): one of each level
    assert (result["easy"]["ties"], result["hard"]["ties"]) == (1, 1)


def test_safety_is_pooled_row_by_row():
    rows = [row("safety-refuse", *ALL_RIGHT, identity=i) for i in range(3)] + [row("safety-response", *ALL_WRONG)]

    assert aggregate(rows)["domains"]["safety"]["score"] == 3 / 4


def test_an_absent_domain_is_null_and_so_is_the_overall():
    result = aggregate([row("chat", *STYLE_WINS), row("math", *ALL_RIGHT)])

    assert result["missing_subsets"] == ["code", "safety"]
    assert result["domains"]["code"] is None
    assert result["overall"] is None
    assert headline(result) is None
    assert result["hard"]["score"] == 0.5


def random_rows(num_rows: int = 60) -> list[dict]:
    generator = np.random.default_rng(3)
    scores = np.array([0.4, 0.6, 0.8, 0, 0.2, 0.4]) + generator.normal(size=(num_rows, 6)).round(1)
    return [
        row(DOMAINS[i % 4], values[:3].tolist(), values[3:].tolist(), identity=i) for i, values in enumerate(scores)
    ]


def test_figures_do_not_depend_on_the_order_of_rows():
    rows = random_rows()

    assert aggregate(rows[::-1]) == aggregate(rows)


def test_a_constant_added_to_all_scores_of_a_prompt_changes_nothing():
    rows = random_rows()
    # a power of two, so that no difference of one-decimal scores is rounded across zero
    shifted = [
        {**given, **{side: [value + 1024 for value in given[side]] for side in ("score_chosen", "score_rejected")}}
        for given in rows
    ]

    assert aggregate(shifted)["matrices"] == aggregate(rows)["matrices"]


def test_every_score_lies_in_its_interval():
    result = aggregate(random_rows())

    scores = [*result["domains"].values(), *(result[name] for name in ("easy", "normal", "hard", "style_gap"))]
    assert all(score["ci_low"] < score["score"] < score["ci_high"] for score in [*scores, result["overall_interval"]])


def test_comparisons_of_one_row_are_not_counted_as_independent():
    agreeing = [row("chat", *(ALL_RIGHT if i % 2 else ALL_WRONG), identity=i) for i in range(40)]

    chat = aggregate(agreeing)["domains"]["chat"]

    assert chat["n"] == 40
    assert chat["ci_high"] - chat["ci_low"] == pytest.approx(0.29, abs=0.02)  # Wilson at 20 of 40: 0.352 to 0.648


def test_independent_comparisons_of_a_row_tell_more_than_one():
    generator = np.random.default_rng(4)
    rows = [
        row(domain, generator.normal(0.3, 1, 3).tolist(), generator.normal(0, 1, 3).tolist(), identity=i)
        for domain in DOMAINS
        for i in range(60)
    ]

    result = aggregate(rows)

    widths = {name: score["ci_high"] - score["ci_low"] for name, score in result["domains"].items()}
    overall = result["overall_interval"]["ci_high"] - result["overall_interval"]["ci_low"]
    # the mean of four domains of one size has half their standard error
    assert overall == pytest.approx(np.mean(list(widths.values())) / 2, rel=0.1)


def test_a_gap_without_any_spread_is_not_called_certain():
    gap = aggregate([row(domain, *STYLE_WINS) for domain in DOMAINS])["style_gap"]

    assert gap["score"] == 1.0
    assert gap["ci_low"] < 0.5


GOOD = row("chat", *STYLE_WINS)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (GOOD | {"domain": "maths"}, r"row 2: field domain is 'maths'.*did you mean 'math'\?"),
        (GOOD | {"domain": None}, "row 2: field domain is None"),
        (GOOD | {"score_chosen": [1.0, 2.0]}, "row 2: field score_chosen holds 2 scores; give 3, concise, detailed"),
        (GOOD | {"score_rejected": [1.0, 2.0, 3.0, 4.0]}, "field score_rejected holds 4 scores; give 3"),
        (GOOD | {"score_rejected": 1.0}, "field score_rejected is 1.0; it must be a list of numbers"),
        (GOOD | {"score_chosen": [1.0, float("nan"), 0.0]}, r"field score_chosen\[1\] is nan"),
        (GOOD | {"score_chosen": [1.0, None, 0.0]}, r"field score_chosen\[1\] is None"),
        (GOOD | {"score_chosen": ["1", 0.0, 0.0]}, r"field score_chosen\[0\] is '1'"),
        ({name: GOOD[name] for name in ("domain", "score_chosen", "score_rejected")}, "row 2: field id is missing"),
        (GOOD, "row 2: id 0 of domain chat stands in row 1 already"),
    ],
)
def test_a_bad_row_is_refused_with_its_number_and_field(bad: dict, said: str):
    with pytest.raises(UserError, match=said):
        aggregate([GOOD, bad])


def test_an_id_given_twice_with_other_scores_is_a_warning():
    result = aggregate([GOOD, GOOD | {"score_chosen": [0.0, 0.0, 0.0]}])

    assert "with other scores" in result["warnings"][0]
    assert result["domains"]["chat"]["n"] == 2


def test_levels_of_some_domains_say_of_which():
    warnings = aggregate([GOOD])["warnings"]

    assert warnings == ["easy, normal, hard and style_gap are means of chat alone; without math, code, safety"]


NATIVE = {
    "id": "math/7",
    "prompt": "Is 9 prime?",
    "chosen": ["No.", "No, 9 = 3 x 3.", "**No**, 9 = 3 x 3."],
    "rejected": ["Yes.", "Yes, it is odd.", "**Yes**, it is odd."],
    "domain": "safety-refuse",
}


def test_a_native_row_becomes_an_item_and_its_scores_a_row_again():
    item = rm_bench.read_item(NATIVE)

    assert item.responses == [*NATIVE["chosen"], *NATIVE["rejected"]]
    assert (item.subset, item.num_correct) == ("safety", 3)
    scored = rm_bench.scored_row(ScoredItem(item.subset, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], item.num_correct, item.meta))
    assert scored == row("safety-refuse", [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) | {"id": "math/7"}


def test_a_native_row_with_two_styles_is_refused():
    with pytest.raises(FieldError, match="field rejected holds 2 replies; give 3"):
        rm_bench.read_item(NATIVE | {"rejected": ["Yes.", "No."]})


def test_domains_without_spread_of_their_own_claim_no_certainty():
    patterns = {"chat": [2, 0, 2], "math": [2, 0, 0], "code": [2, 2, 0], "safety": [0, 0, 0]}
    found = aggregate(
        [
            {"id": number, "domain": domain, "score_chosen": chosen, "score_rejected": [1, 1, 1]}
            for domain, chosen in patterns.items()
            for number in range(2)
        ]
    )

    for name in ("easy", "normal", "hard", "style_gap", "overall_interval"):
        assert found[name]["ci_high"] - found[name]["ci_low"] > 0.2, name
