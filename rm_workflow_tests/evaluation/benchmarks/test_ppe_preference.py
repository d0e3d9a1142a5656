import pytest

from rm_workflow.errors import UserError
from rm_workflow.evaluation.benchmarks.ppe_preference import aggregate, headline, is_mine, read_item, scored_row
from rm_workflow.evaluation.items import FieldError, ScoredItem
from rm_workflow.intervals import wilson_interval

NATIVE = {
    "question_id": "q7",
    "model_a": "one",
    "model_b": "two",
    "winner": "model_b",
    "prompt": "Name a river.",
    "response_1": "A river.",
    "response_2": "The Danube.",
    "language": "English",
    "hard_prompt": False,
    "easy_prompt": True,
    "is_code": None,
}


def row(winner: str, first: float, second: float, identity: str = "a", **more) -> dict:
    return {"question_id": identity, "winner": winner, "score_1": first, "score_2": second, **more}


@pytest.mark.parametrize(
    ("winner", "first", "second", "right"),
    [
        ("model_a", 1, 0, True),
        ("model_a", 0, 1, False),
        ("model_b", 0, 1, True),
        ("model_b", 1, 0, False),
        ("model_a", 1, 1, False),
        ("model_b", 1, 1, False),
    ],
)
def test_the_preferred_reply_must_score_higher(winner: str, first: float, second: float, right: bool):
    assert aggregate([row(winner, first, second)])["score"] == float(right)


def test_languages_and_kinds_of_prompt_are_scored_apart():
    rows = [
        row("model_a", 1, 0, "a", source="english", tags=["hard_prompt", "is_code"]),
        row("model_a", 0, 1, "b", source="english", tags=["is_code"]),
        row("model_b", 0, 1, "c", source="other languages"),
    ]

    result = aggregate(rows)

    assert {name: (found["score"], found["n"]) for name, found in result["subsets"].items()} == {
        "english": (0.5, 2),
        "other languages": (1.0, 1),
    }
    assert {name: (found["score"], found["n"]) for name, found in result["sections"].items()} == {
        "hard_prompt": (1.0, 1),
        "is_code": (0.5, 2),
    }
    low, high = wilson_interval(2, 3)
    assert headline(result) == {"score": 2 / 3, "n": 3, "ci_low": low, "ci_high": high, "ties": 0}


@pytest.mark.parametrize("winner", ["model_a", "model_b"])
def test_a_native_row_comes_back_with_its_scores_on_their_sides(winner: str):
    item = read_item(NATIVE | {"winner": winner})
    reply_scores = {"A river.": 0.25, "The Danube.": 0.75}

    scored = scored_row(ScoredItem(item.subset, [reply_scores[text] for text in item.responses], 1, item.meta))

    assert item.responses[0] == {"model_a": "A river.", "model_b": "The Danube."}[winner]
    assert (scored["score_1"], scored["score_2"], scored["winner"]) == (0.25, 0.75, winner)
    assert (scored["source"], scored["tags"]) == ("english", ["easy_prompt"])
    assert aggregate([scored])["score"] == float(winner == "model_b")


def test_rows_that_answer_one_prompt_share_a_group_and_other_languages_a_subset():
    first, second = (read_item(NATIVE | {"question_id": name, "language": "Russian"}) for name in ("a", "b"))

    assert first.meta["group"] == second.meta["group"]
    assert first.subset == "other languages"


@pytest.mark.parametrize(("winner", "is_item"), [("tie", False), ("tie (bothbad)", False), ("model_a", True)])
def test_a_row_without_a_winner_is_no_item(winner: str, is_item: bool):
    assert is_mine(NATIVE | {"winner": winner}) == is_item


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"winner": "gpt-4o"}, "field winner is 'gpt-4o'; it is one of model_a and model_b"),
        ({"score_1": "0.5"}, "field score_1 is '0.5'; a score must be a finite number"),
        ({"tags": ["poem"]}, r"field tags is \['poem'\]; it must be a list of hard_prompt"),
    ],
)
def test_a_bad_scored_row_is_told_with_its_number(bad: dict, sentence: str):
    with pytest.raises(UserError, match=f"row 2: {sentence}"):
        aggregate([row("model_a", 1, 0, "a"), row("model_a", 1, 0, "b") | bad])


def test_a_native_row_without_a_field_is_told():
    assert is_mine({"prompt": "x"})
    with pytest.raises(FieldError, match="field response_1 is missing"):
        read_item({"prompt": "x"})
