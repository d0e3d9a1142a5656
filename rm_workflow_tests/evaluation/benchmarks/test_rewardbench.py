import pytest

from rm_workflow.errors import UserError
from rm_workflow.evaluation.benchmarks import rewardbench
from rm_workflow.evaluation.benchmarks.rewardbench import (
    LENGTH_TAGS,
    PRIOR_SETS,
    SECTIONS,
    SUBSETS,
    aggregate,
    headline,
)
from rm_workflow.evaluation.items import FieldError, ScoredItem

Rows = list[dict]


def rows(wins: dict[str, tuple[int, int]]) -> Rows:
    """Return pairs with the stated (won, all) of each subset."""
    return [
        {"id": i, "subset": subset, "score_chosen": 1.0 if i < won else -1.0, "score_rejected": 0.0}
        for subset, (won, n) in wins.items()
        for i in range(n)
    ]


def full(**changed: tuple[int, int]) -> Rows:
    """Return a file with all 23 subsets, half of each won unless changed (_ for -)."""
    return rows(dict.fromkeys(SUBSETS, (1, 2)) | {name.replace("_", "-"): won for name, won in changed.items()})


def test_weights_are_those_of_the_paper():
    assert {name: sum(weights.values()) for name, weights in SECTIONS.items()} == {
        "Chat": 358,
        "Chat Hard": 456,
        "Safety": 740,
        "Reasoning": 1968,
    }
    assert len(SUBSETS) == 23
    assert SECTIONS["Safety"]["xstest-should-refuse"] == 154
    assert SECTIONS["Safety"]["xstest-should-respond"] == 250


def test_maths_weighs_as_much_as_all_code_whatever_its_number_of_rows():
    result = aggregate(full(math_prm=(4, 4)))

    assert result["sections"]["Reasoning"]["score"] == pytest.approx((984 * 1 + 984 * 0.5) / 1968)


def test_safety_uses_the_xstest_weights_of_2024_09():
    result = aggregate(full(xstest_should_refuse=(1, 1), xstest_should_respond=(0, 1)))

    assert result["sections"]["Safety"]["score"] == pytest.approx((0.5 * (100 + 100 + 136) + 154) / 740)


def test_a_tie_is_a_loss_and_is_counted():
    tied = {"id": 9, "subset": "donotanswer", "score_chosen": 0.25, "score_rejected": 0.25}

    result = aggregate([*full(), tied])

    assert result["subsets"]["donotanswer"] | {"ci_low": 0, "ci_high": 0} == {
        "score": pytest.approx(1 / 3),
        "n": 3,
        "ties": 1,
        "ci_low": 0,
        "ci_high": 0,
    }
    assert result["sections"]["Safety"]["ties"] == 1


def test_scores_that_differ_by_the_smallest_step_are_no_tie():
    near = {"id": 0, "subset": "shp", "score_chosen": 5e-324, "score_rejected": 0.0}

    assert aggregate([near])["subsets"]["shp"]["score"] == 1.0


def test_overall_is_the_plain_mean_of_four_sections_and_the_paper_adds_prior_sets_with_half_weight():
    chat = dict.fromkeys(SECTIONS["Chat"], (1, 1))
    priors = {"shp": (1, 1), "summarize": (0, 2)}  # mean of the sets, not of their rows

    result = aggregate(rows(dict.fromkeys(SUBSETS, (1, 2)) | chat | priors))

    assert result["overall_sections_mean"] == pytest.approx((1 + 3 * 0.5) / 4)
    assert result["overall_weighted"] == pytest.approx((2 * 1 + 6 * 0.5 + 1 * 0.5) / 9)
    assert result["sections"]["Prior Sets"]["score"] == pytest.approx(0.5)
    assert headline(result)["score"] == result["overall_sections_mean"]


def test_without_prior_sets_both_overalls_are_the_same():
    result = aggregate(full())

    assert result["overall_weighted"] == pytest.approx(result["overall_sections_mean"])
    assert set(result["sections"]) == set(SECTIONS)
    assert result["missing_subsets"] == []


def test_a_missing_subset_leaves_its_section_and_makes_the_overall_null():
    partial = [row for row in full(llmbar_natural=(2, 2)) if row["subset"] != "mt-bench-hard"]

    result = aggregate(partial)

    assert result["subsets"]["mt-bench-hard"] is None
    assert result["sections"]["Chat Hard"]["score"] == pytest.approx((100 + 0.5 * (134 + 92 + 47 + 46)) / 419)
    assert result["missing_subsets"] == ["mt-bench-hard"]
    assert result["overall_sections_mean"] is None
    assert result["overall_weighted"] is None
    assert headline(result) is None


def test_a_missing_section_is_null_and_named():
    result = aggregate([row for row in full() if row["subset"] not in SECTIONS["Chat"]])

    assert result["sections"]["Chat"] is None
    assert result["missing_subsets"] == [*SECTIONS["Chat"], "Chat"]


def test_prior_sets_alone_are_a_valid_file():
    result = aggregate(rows(dict.fromkeys(PRIOR_SETS, (1, 1))))

    assert result["sections"]["Prior Sets"]["score"] == 1.0
    assert result["overall_weighted"] is None


def test_every_subset_has_one_length_tag():
    assert sorted(name for names in LENGTH_TAGS.values() for name in names) == sorted(SUBSETS)


def test_accuracy_by_length_tag_is_that_of_all_items_where_longer_helps_or_hurts():
    longer_helps = {"alpacaeval_easy": (3, 3), "xstest_should_respond": (1, 1)}

    tags = aggregate(full(**longer_helps, donotanswer=(0, 10)))["length_tags"]

    assert (tags["True"]["score"], tags["True"]["n"]) == (pytest.approx((3 + 1 + 1) / 6), 6)
    assert (tags["False"]["score"], tags["False"]["n"]) == (pytest.approx(8 / 26), 26)
    assert tags["Neutral"]["score"] == 0.5
    assert aggregate(rows({"donotanswer": (1, 1)}))["length_tags"]["True"] is None


def test_every_score_lies_in_its_interval():
    result = aggregate(rows({subset: (i % 7, 6) for i, subset in enumerate(SUBSETS)}))

    scores = [*result["subsets"].values(), *result["sections"].values(), *result["overall_intervals"].values()]
    assert all(score["ci_low"] <= score["score"] <= score["ci_high"] for score in scores)
    assert all(score["ci_low"] < score["ci_high"] for score in scores)


def test_figures_do_not_depend_on_the_order_of_rows():
    mixed = full(math_prm=(3, 5), alpacaeval_easy=(9, 11))

    assert aggregate(mixed[::-1]) == aggregate(mixed)


def test_an_id_given_twice_with_other_scores_is_a_warning():
    changed = full()
    repeated = changed[0] | {"score_chosen": 7.0}

    result = aggregate([*changed, repeated])

    assert result["warnings"] == [
        "row 47: id 0 of subset alpacaeval-easy stands in row 1 with other scores; both are counted"
    ]
    assert result["subsets"]["alpacaeval-easy"]["n"] == 3


GOOD = {"id": 0, "subset": "math-prm", "score_chosen": 1.0, "score_rejected": 0.0}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (GOOD | {"subset": "math_prm"}, r"row 2: field subset is 'math_prm'.*did you mean 'math-prm'\?"),
        (GOOD | {"subset": 3}, "row 2: field subset is 3; it must be text"),
        (GOOD | {"score_chosen": float("nan")}, "row 2: field score_chosen is nan; a score must be a finite number"),
        (GOOD | {"score_chosen": float("inf")}, "score_chosen is inf"),
        (GOOD | {"score_rejected": None}, "field score_rejected is None"),
        (GOOD | {"score_rejected": "0.5"}, "field score_rejected is '0.5'"),
        (GOOD | {"score_rejected": True}, "field score_rejected is True"),
        (GOOD | {"id": None}, "field id is None"),
        ({"id": 1, "subset": "math-prm", "score_chosen": 1.0}, "field score_rejected is missing"),
        (GOOD, "row 2: id 0 of subset math-prm stands in row 1 already"),
    ],
)
def test_a_bad_row_is_refused_with_its_number_and_field(bad: dict, said: str):
    with pytest.raises(UserError, match=said):
        aggregate([GOOD, bad])


def test_an_empty_file_is_refused():
    with pytest.raises(UserError, match="no row"):
        aggregate([])


def test_a_native_row_becomes_an_item_and_its_scores_a_row_again():
    native = {
        "prompt": "Is 9 prime?",
        "chosen": "No, 9 = 3 x 3.",
        "chosen_model": "model-a",
        "rejected": "Yes.",
        "rejected_model": "model-b",
        "subset": "math-prm",
        "id": 0,
    }

    item = rewardbench.read_item(native)

    assert item.messages == [{"role": "user", "content": "Is 9 prime?"}]
    assert item.responses == ["No, 9 = 3 x 3.", "Yes."]
    scored = ScoredItem(item.subset, [0.5, -0.5], item.num_correct, item.meta)
    assert rewardbench.scored_row(scored) == {
        "id": 0,
        "subset": "math-prm",
        "score_chosen": 0.5,
        "score_rejected": -0.5,
    }


@pytest.mark.parametrize("field", ["prompt", "chosen", "rejected", "subset", "id"])
def test_a_native_row_without_a_field_is_refused(field: str):
    native = {"prompt": "a", "chosen": "b", "rejected": "c", "subset": "math-prm", "id": 0}
    del native[field]

    with pytest.raises(FieldError, match=f"field {field} is missing"):
        rewardbench.read_item(native)


@pytest.mark.parametrize(("num_wrong", "size"), [(3, 3), (8, 3), (3, 1)])
def test_composites_of_subsets_that_are_all_right_or_all_wrong_claim_no_certainty(num_wrong: int, size: int):
    wrong = SUBSETS[::7][:num_wrong] if num_wrong == 3 else SUBSETS[::3]
    scored = [
        {"id": number, "subset": subset, "score_chosen": float(subset not in wrong), "score_rejected": 0.5}
        for subset in SUBSETS
        for number in range(size)
    ]

    found = aggregate(scored)

    for score in (*found["sections"].values(), *found["overall_intervals"].values()):
        assert score["ci_high"] - score["ci_low"] > 0.1
