import pytest

from rm_workflow.preferences.tables import RowDropped
from rm_workflow_tests.preferences.adapters.maths import read, said

ROW = {"prompt": "2 + 3 - 1?", "completions": ["2 + 3 = 5.", "5 - 1 = 6."], "labels": [True, False]}


@pytest.mark.parametrize(
    ("labels", "read_as"),
    [
        ([True, False], [("hard", 1.0, 0), ("hard", 0.0, 1)]),
        ([1, 0], [("hard", 1.0, 0), ("hard", 0.0, 1)]),
        ([1.0, 0.25], [("soft", 1.0, 0), ("soft", 0.25, 1)]),
        ([None, 0], [("hard", 0.0, 1)]),
    ],
)
def test_booleans_and_whole_numbers_are_hard_labels_and_decimals_soft_ones(labels: list, read_as: list):
    example = read(ROW | {"labels": labels}, "labelled_steps")
    assert said(example) == [("0", ROW["completions"], read_as)]


@pytest.mark.parametrize(
    ("change", "rule", "detail"),
    [
        ({"labels": [True]}, "bad_field", "labels"),
        ({"labels": [1, 2]}, "bad_field", "labels[1]"),
        ({"labels": [1.0, float("nan")]}, "bad_field", "labels[1]"),
        ({"labels": ["+", "-"]}, "bad_field", "labels[0]"),
        ({"completions": [], "labels": []}, "bad_field", "steps"),
        ({"completions": ["2 + 3 = 5.", " "]}, "empty_message", "steps, step 1"),
    ],
)
def test_a_row_whose_labels_have_no_place_or_no_meaning_is_dropped(change: dict, rule: str, detail: str):
    with pytest.raises(RowDropped) as caught:
        read(ROW | change, "labelled_steps")
    assert (caught.value.rule, caught.value.detail) == (rule, detail)
