import pytest

from rm_workflow.errors import UserError
from rm_workflow.evaluation.benchmarks import judgebench
from rm_workflow.evaluation.benchmarks.judgebench import aggregate, headline
from rm_workflow.evaluation.items import FieldError, ScoredItem
from rm_workflow.intervals import wilson_interval


def pair(label: str, score_a: float, score_b: float, identity: str = "a", source: str = "livebench-math") -> dict:
    return {"pair_id": identity, "source": source, "label": label, "score_A": score_a, "score_B": score_b}


@pytest.mark.parametrize(
    ("label", "score_a", "score_b", "right"),
    [
        ("A>B", 1.0, 0.0, True),
        ("A>B", 0.0, 1.0, False),
        ("B>A", 0.0, 1.0, True),
        ("B>A", 1.0, 0.0, False),
        ("A>B", 0.5, 0.5, False),
        ("B>A", 0.5, 0.5, True),
    ],
)
def test_the_higher_score_decides_and_a_tie_decides_b(label: str, score_a: float, score_b: float, right: bool):
    assert aggregate([pair(label, score_a, score_b)])["score"] == float(right)


def test_ties_are_counted_and_accuracy_with_ties_half_stands_beside_it():
    rows = [pair("B>A", 1, 1, "a"), pair("A>B", 1, 1, "b"), pair("A>B", 3, 1, "c"), pair("B>A", 0, 1, "d")]

    result = aggregate([*rows, pair("B>A", 1, 1, "e")])

    low, high = wilson_interval(4, 5)
    assert {name: result[name] for name in ("score", "accuracy", "n", "ties", "ci_low", "ci_high")} == {
        "score": 0.8,
        "accuracy": 0.8,
        "n": 5,
        "ties": 3,
        "ci_low": low,
        "ci_high": high,
    }
    assert result["accuracy_ties_half"] == pytest.approx((2 + 3 / 2) / 5)
    assert result["mean_margin"] == pytest.approx((0 + 0 + 2 + 1 + 0) / 5)
    assert headline(result)["score"] == 0.8


def test_sources_and_their_categories_are_scored_apart():
    rows = [
        pair("A>B", 1, 0, "a", "mmlu-pro-law"),
        pair("A>B", 0, 1, "b", "mmlu-pro-physics"),
        pair("A>B", 1, 0, "c", "mmlu-pro-physics"),
        pair("A>B", 1, 0, "d", "livecodebench"),
    ]

    result = aggregate(rows)

    assert {name: (score["score"], score["n"]) for name, score in result["subsets"].items()} == {
        "livecodebench": (1.0, 1),
        "mmlu-pro-law": (1.0, 1),
        "mmlu-pro-physics": (0.5, 2),
    }
    assert {name: score["score"] for name, score in result["sections"].items()} == {
        "mmlu-pro": pytest.approx(2 / 3),
        "livecodebench": 1.0,
    }
    assert result["warnings"] == []


def test_figures_do_not_depend_on_the_order_of_rows():
    rows = [pair("A>B", i % 5, i % 3, str(i), ("livebench-math", "livecodebench")[i % 2]) for i in range(30)]

    assert aggregate(rows[::-1]) == aggregate(rows)


def test_swapping_the_sides_of_every_pair_changes_only_ties():
    rows = [pair("A>B", i % 5, i % 3, str(i)) for i in range(30)]
    swapped = [pair("B>A", row["score_B"], row["score_A"], row["pair_id"]) for row in rows]

    result, other = aggregate(rows), aggregate(swapped)

    assert other["score"] == pytest.approx(result["score"] + result["ties"] / 30)
    assert other["accuracy_ties_half"] == result["accuracy_ties_half"]


GOOD = pair("A>B", 1.0, 0.0)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (
            GOOD | {"source": "livebench-maths"},
            "row 2: field source is 'livebench-maths'.*did you mean 'livebench-math'",
        ),
        (GOOD | {"label": "A"}, "row 2: field label is 'A'"),
        (GOOD | {"label": "A=B"}, "row 2: field label is 'A=B'"),
        (GOOD | {"score_A": None}, "row 2: field score_A is None"),
        (GOOD | {"score_B": float("nan")}, "row 2: field score_B is nan"),
        (GOOD | {"score_B": "0.1"}, "row 2: field score_B is '0.1'"),
        (GOOD | {"pair_id": None}, "row 2: field pair_id is None"),
        ({name: GOOD[name] for name in ("pair_id", "label", "score_A", "score_B")}, "row 2: field source is missing"),
        (GOOD, "row 2: pair_id 'a' of source livebench-math stands in row 1 already"),
    ],
)
def test_a_bad_row_is_refused_with_its_number_and_field(bad: dict, said: str):
    with pytest.raises(UserError, match=said):
        aggregate([GOOD, bad])


NATIVE = {
    "pair_id": "81ec",
    "original_id": "10646",
    "source": "livebench-math",
    "question": "What is 7 x 8?",
    "response_model": "model-a",
    "response_A": "54",
    "response_B": "56",
    "label": "B>A",
}


@pytest.mark.parametrize(("label", "responses"), [("B>A", ["56", "54"]), ("A>B", ["54", "56"])])
def test_a_native_row_becomes_an_item_with_the_right_reply_first_and_its_scores_go_back_to_a_and_b(
    label: str, responses: list[str]
):
    item = judgebench.read_item(NATIVE | {"label": label})

    assert item.responses == responses
    by_text = {"56": 2.0, "54": -1.0}
    scored = ScoredItem(item.subset, [by_text[text] for text in item.responses], item.num_correct, item.meta)
    row = judgebench.scored_row(scored)
    assert (row["label"], row["score_A"], row["score_B"]) == (label, -1.0, 2.0)
    assert aggregate([row])["score"] == float(label == "B>A")


def test_pairs_on_one_question_are_clustered():
    items = [judgebench.read_item(NATIVE | {"pair_id": name}) for name in ("x", "y")]

    assert items[0].meta["group"] == items[1].meta["group"]
    rows = [pair("A>B", float(i % 4 != 0), 0.5, f"{i} {j}") | {"group": i} for i in range(100) for j in range(3)]
    grouped, alone = aggregate(rows), aggregate([{**row, "group": None} for row in rows])
    assert grouped["ci_high"] - grouped["ci_low"] > 1.5 * (alone["ci_high"] - alone["ci_low"])


def test_a_native_row_with_another_label_or_source_is_refused():
    with pytest.raises(FieldError, match="field source is 'mmlu'"):
        judgebench.read_item(NATIVE | {"source": "mmlu"})
    with pytest.raises(FieldError, match="field label is 'tie'"):
        judgebench.read_item(NATIVE | {"label": "tie"})
