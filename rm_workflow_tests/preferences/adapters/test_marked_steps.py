import pytest

from rm_workflow.preferences.tables import RowDropped
from rm_workflow_tests.preferences.adapters.maths import read, said

FIELDS = {"solution_starts": "Step 1:", "step_separator": "ки"}
MARKED = "What is 4 - 3 + 1? Step 1: 4 - 3 = 1. ки\nStep 2: 1 + 1 = 3. ки Step 3: The answer is: 3 ки"
LABELLED = "What is 4 - 3 + 1? Step 1: 4 - 3 = 1. +\nStep 2: 1 + 1 = 3. - Step 3: The answer is: 3 -"


def test_labels_are_read_at_the_places_of_the_marks_only():
    example = read({"input": MARKED, "label": LABELLED}, "marked_steps", **FIELDS)
    assert example.messages == [{"role": "user", "content": "What is 4 - 3 + 1?"}]
    assert example.responses[0].text == MARKED.removeprefix("What is 4 - 3 + 1? ")
    assert said(example) == [
        (
            "0",
            ["Step 1: 4 - 3 = 1. ки", "Step 2: 1 + 1 = 3. ки", "Step 3: The answer is: 3 ки"],
            [("hard", 1.0, 0), ("hard", 0.0, 1), ("hard", 0.0, 2)],
        )
    ]


def test_a_last_step_without_a_mark_has_no_label():
    row = {"input": "2? Step 1: 2. ки Step 2: so", "label": "2? Step 1: 2. + Step 2: so"}
    assert said(read(row, "marked_steps", **FIELDS)) == [("0", ["Step 1: 2. ки", "Step 2: so"], [("hard", 1.0, 0)])]


@pytest.mark.parametrize(
    ("marked", "labelled", "rule"),
    [
        (MARKED, LABELLED.replace("4 - 3 = 1", "4 - 3 = 2"), "bad_field"),
        (MARKED, LABELLED + " +", "bad_field"),
        (MARKED, LABELLED[:-1], "bad_field"),
        (MARKED, LABELLED[:-1] + "0", "bad_field"),
        (MARKED, MARKED, "bad_field"),
        (MARKED.replace("ки", "."), LABELLED, "bad_field"),
        ("What ки is 2? Step 1: 2. ки", "What + is 2? Step 1: 2. +", "bad_field"),
        ("2? Step 1: 2. ки ки", "2? Step 1: 2. + -", "empty_message"),
        ("2? It is 2. ки", "2? It is 2. +", "bad_field"),
    ],
)
def test_a_row_whose_two_texts_do_not_fit_is_dropped(marked: str, labelled: str, rule: str):
    with pytest.raises(RowDropped) as caught:
        read({"input": marked, "label": labelled}, "marked_steps", **FIELDS)
    assert caught.value.rule == rule
