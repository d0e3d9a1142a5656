from typing import Any

import pytest

from rm_workflow.preferences.tables import RowDropped
from rm_workflow_tests.preferences.adapters.maths import read, said

ANSWERS = ["Step 1: 2 + 3 = 5 ки\nThe answer is: 5 ки", "The answer is: 6 ки", "The answer is: 6 ки"]


def test_every_answer_keeps_its_own_label_and_text_also_where_texts_are_equal():
    row = {"prompt": "2 + 3?", "answers": ANSWERS, "label": [1, 0, True]}
    example = read(row, "labelled_answers", step_separator="ки")
    assert [response.text for response in example.responses] == ANSWERS
    assert said(example) == [
        ("0", ["Step 1: 2 + 3 = 5 ки", "The answer is: 5 ки"], [("outcome", 1.0, None)]),
        ("1", ["The answer is: 6 ки"], [("outcome", 0.0, None)]),
        ("2", ["The answer is: 6 ки"], [("outcome", 1.0, None)]),
    ]


def test_an_empty_answer_is_one_of_so_many_and_costs_no_other_its_place():
    row = {"prompt": "2 + 3?", "answers": ["5", " ", "6"], "label": [1, 0, 0]}
    example = read(row, "labelled_answers", step_separator="\n\n")
    assert [(one.slot, one.text) for one in example.responses] == [("0", "5"), ("1", " "), ("2", "6")]
    with pytest.raises(RowDropped, match="empty_message"):
        read({**row, "prompt": " "}, "labelled_answers")


def test_the_column_of_the_labels_may_be_called_otherwise():
    row = {"prompt": "2 + 3?", "answers": ["One.\n\nTwo."], "labels": [0]}
    example = read(row, "labelled_answers", step_separator="\n\n", columns={"labels": "labels"})
    assert said(example) == [("0", ["One.", "Two."], [("outcome", 0.0, None)])]


@pytest.mark.parametrize(
    ("change", "rule", "detail"),
    [
        ({"label": [1, 0]}, "bad_field", "labels"),
        ({"label": [1, 0, 0.5]}, "bad_field", "labels[2]"),
        ({"label": [1, 0, "1"]}, "bad_field", "labels[2]"),
        ({"label": None}, "bad_field", "labels"),
        ({"answers": [], "label": []}, "bad_field", "answers"),
        ({"answers": ["a", None, "c"]}, "bad_field", "answers[1]"),
        ({"answers": ["", " ", "\n"]}, "empty_message", "answers"),
    ],
)
def test_a_row_whose_labels_do_not_fit_its_answers_is_dropped(change: dict[str, Any], rule: str, detail: str):
    row = {"prompt": "2 + 3?", "answers": ANSWERS, "label": [1, 0, 0]}
    with pytest.raises(RowDropped) as caught:
        read(row | change, "labelled_answers")
    assert (caught.value.rule, caught.value.detail) == (rule, detail)
