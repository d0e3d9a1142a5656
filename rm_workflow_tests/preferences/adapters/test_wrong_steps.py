import pytest

from rm_workflow.preferences.tables import RowDropped
from rm_workflow_tests.preferences.adapters.maths import read, said

ROW = {"prompt": "2 + 3 - 1?", "steps": ["5.", "6.", "Done."], "errors": [2, 3]}
COLUMNS = {"wrong": "errors"}


def test_wrong_steps_are_counted_from_one():
    assert said(read(ROW, "wrong_steps", columns=COLUMNS)) == [
        ("0", ["5.", "6.", "Done."], [("hard", 1.0, 0), ("hard", 0.0, 1), ("hard", 0.0, 2)])
    ]


def test_without_a_column_of_wrong_steps_all_are_right():
    example = read(ROW, "wrong_steps", step_separator="\n\n")
    assert example.responses[0].text == "5.\n\n6.\n\nDone."
    assert [label.value for label in example.responses[0].labels] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "rule", "detail"),
    [
        ({"errors": [4]}, "bad_field", "wrong: step 4 of 3"),
        ({"errors": [0]}, "bad_field", "wrong: step 0 of 3"),
        ({"errors": [True]}, "bad_field", "wrong"),
        ({"errors": None}, "bad_field", "wrong"),
        ({"steps": []}, "bad_field", "steps"),
        ({"steps": ["5.", "", "Done."]}, "empty_message", "steps, step 1"),
    ],
)
def test_a_row_whose_wrong_steps_cannot_be_placed_is_dropped(change: dict, rule: str, detail: str):
    with pytest.raises(RowDropped) as caught:
        read(ROW | change, "wrong_steps", columns=COLUMNS)
    assert (caught.value.rule, caught.value.detail) == (rule, detail)
