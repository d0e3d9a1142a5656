from typing import Any

import pytest

from rm_workflow.preferences.tables import RowDropped
from rm_workflow_tests.preferences.adapters.maths import read, said


def step(*completions: tuple[str, int | None], chosen: int | None = None, human: str | None = None) -> dict[str, Any]:
    return {
        "completions": [{"text": text, "rating": rating, "flagged": False} for text, rating in completions],
        "chosen_completion": chosen,
        "human_completion": None if human is None else {"text": human, "rating": None, "source": "human"},
    }


def row(*steps: dict[str, Any], finish_reason: str = "solution") -> dict[str, Any]:
    return {
        "labeler": "a",
        "generation": None,
        "is_quality_control_question": False,
        "question": {"problem": "2 + 3 - 1?", "ground_truth_answer": "4"},
        "label": {"steps": list(steps), "finish_reason": finish_reason},
    }


END = {"completions": None, "chosen_completion": None, "human_completion": None}


def test_the_path_carries_the_ratings_of_what_was_chosen_and_each_branch_only_its_own():
    rated = row(
        step(("5.", 1), chosen=0),
        step(("6.", -1), ("Hm.", 0), ("4.", 1), chosen=2),
        step(("Done.", None), chosen=0),
    )
    assert said(read(rated, "step_ratings")) == [
        ("path", ["5.", "4.", "Done."], [("rating", 1.0, 0), ("rating", 1.0, 1)]),
        ("1.0", ["5.", "6."], [("rating", -1.0, 1)]),
        ("1.1", ["5.", "Hm."], [("rating", 0.0, 1)]),
    ]


def test_a_step_that_the_labeller_wrote_continues_the_path_without_a_label():
    rated = row(step(("6.", -1), human="4."), step(("Done.", 1), chosen=0))
    assert said(read(rated, "step_ratings")) == [
        ("path", ["4.", "Done."], [("rating", 1.0, 1)]),
        ("0.0", ["6."], [("rating", -1.0, 0)]),
    ]


def test_a_choice_that_a_table_with_empty_cells_holds_as_0_0_is_that_choice():
    rated = row(step(("5.", 1), chosen=0))
    rated["label"]["steps"][0]["chosen_completion"] = 0.0
    assert said(read(rated, "step_ratings")) == said(read(row(step(("5.", 1), chosen=0)), "step_ratings"))


@pytest.mark.parametrize(
    ("last", "reason", "branches"),
    [
        (step(("6.", -1), ("7.", 1)), "found_error", [("1.0", -1.0), ("1.1", 1.0)]),
        (END, "give_up", []),
        ({}, "give_up", []),
    ],
)
def test_the_path_ends_where_nothing_was_chosen(last: dict, reason: str, branches: list):
    example = read(row(step(("5.", 1), chosen=0), last, finish_reason=reason), "step_ratings")
    path, *others = said(example)
    assert path == ("path", ["5."], [("rating", 1.0, 0)])
    assert [(slot, labels[0][1]) for slot, _, labels in others] == branches
    assert {response.extra["finish_reason"] for response in example.responses} == {reason}


@pytest.mark.parametrize(
    ("neutral", "labels"),
    [("keep", [0.0]), ("positive", [1.0]), ("negative", [-1.0]), ("unlabelled", [])],
)
def test_the_source_says_what_becomes_of_a_neutral_rating(neutral: str, labels: list[float]):
    example = read(row(step(("Hm.", 0), chosen=0)), "step_ratings", neutral=neutral)
    assert [label.value for label in example.responses[0].labels] == labels
    kept = read(row(step(("5.", 1), ("6.", -1), chosen=0)), "step_ratings", neutral=neutral)
    assert [label.value for response in kept.responses for label in response.labels] == [1.0, -1.0]


def test_what_tells_test_questions_of_the_labeller_is_carried_along():
    extra = read(row(step(("5.", 1), chosen=0)), "step_ratings").responses[0].extra
    assert extra == {"labeler": "a", "is_quality_control_question": False, "finish_reason": "solution"}


@pytest.mark.parametrize(
    ("steps", "detail"),
    [
        ([step(("5.", 1), chosen=1)], "label.steps[0].chosen_completion"),
        ([step(("5.", 1), chosen=True)], "label.steps[0].chosen_completion"),
        ([step(("5.", 2), chosen=0)], "label.steps[0].completions[0].rating"),
        ([step(("5.", True), chosen=0)], "label.steps[0].completions[0].rating"),
        ([step((None, 1), chosen=0)], "label.steps[0].completions[0].text"),
        ([step(("5.", 1)), step(("6.", 1), chosen=0)], "label.steps[1]"),
        ([END], "label.steps"),
        ([], "label.steps"),
        (["5."], "label.steps[0]"),
    ],
)
def test_a_row_that_cannot_be_followed_is_a_bad_field(steps: list, detail: str):
    with pytest.raises(RowDropped) as caught:
        read(row(*steps), "step_ratings")
    assert (caught.value.rule, caught.value.detail) == ("bad_field", detail)
