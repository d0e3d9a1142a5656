import pytest

from rm_workflow.preferences.tables import RowDropped
from rm_workflow_tests.preferences.adapters.maths import read, said, turns

SOLUTION = "Step 1: 2 + 3 = 5.\nStep 2: 5 - 1 = 4. The answer is: 4"
STARTS = {"solution_starts": "Step 1:"}


@pytest.mark.parametrize(("sign", "value"), [("+", 1.0), ("-", 0.0)])
def test_question_and_solution_are_parted_and_the_last_turn_is_the_label(sign: str, value: float):
    example = read({"conversations": turns(f"2 + 3 - 1? {SOLUTION}", sign)}, "outcome_turn", **STARTS)
    assert example.messages == [{"role": "user", "content": "2 + 3 - 1?"}]
    assert example.responses[0].text == SOLUTION
    assert said(example) == [("0", [], [("outcome", value, None)])]
    assert example.responses[0].step_ends is None


def test_a_separator_gives_steps_without_labels_of_their_own():
    row = {"conversations": turns(f"2 + 3 - 1? {SOLUTION}", "+")}
    assert said(read(row, "outcome_turn", **STARTS, step_separator="\n")) == [
        ("0", SOLUTION.split("\n"), [("outcome", 1.0, None)])
    ]


@pytest.mark.parametrize(
    ("dialogue", "rule"),
    [
        (turns("2 + 3? It is 5.", "+"), "bad_field"),
        (turns("2 + 3? Step 1: 5.", "yes"), "bad_field"),
        (turns("2 + 3? Step 1: 5."), "not_alternating"),
        (turns("2 + 3? Step 1: 5.", "+", "Step 2: done", "-"), "not_alternating"),
        ([], "bad_field"),
    ],
)
def test_a_row_that_is_no_solution_with_its_label_is_dropped(dialogue: list, rule: str):
    with pytest.raises(RowDropped) as caught:
        read({"conversations": dialogue}, "outcome_turn", **STARTS)
    assert caught.value.rule == rule
