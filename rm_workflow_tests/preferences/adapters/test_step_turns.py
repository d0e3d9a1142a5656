import pytest

from rm_workflow.preferences.tables import RowDropped
from rm_workflow_tests.preferences.adapters.maths import read, said, turns

STARTS = {"solution_starts": "Step 1:"}
STEPS = ("2 + 3 - 1? Step 1: 2 + 3 = 5.", "+", "Step 2: 5 - 1 = 6.", "-", "Step 3: 6.", "-")


@pytest.mark.parametrize(("separator", "between"), [({}, "\n"), ({"step_separator": "\n\n"}, "\n\n")])
def test_each_label_stands_at_the_end_of_its_step(separator: dict[str, str], between: str):
    example = read({"conversations": turns(*STEPS)}, "step_turns", **STARTS, **separator)
    steps = ["Step 1: 2 + 3 = 5.", "Step 2: 5 - 1 = 6.", "Step 3: 6."]
    assert example.messages == [{"role": "user", "content": "2 + 3 - 1?"}]
    assert example.responses[0].text == between.join(steps)
    assert said(example) == [("0", steps, [("hard", 1.0, 0), ("hard", 0.0, 1), ("hard", 0.0, 2)])]


@pytest.mark.parametrize(
    ("dialogue", "rule"),
    [
        (turns(*STEPS[:3]), "not_alternating"),
        (turns(*STEPS)[1:], "not_alternating"),
        (turns(*STEPS[:3], "0"), "bad_field"),
        (turns(*STEPS[:2], " ", "+"), "empty_message"),
        (turns("2 + 3 - 1? 2 + 3 = 5.", "+", "Step 1: 5 - 1", "+"), "bad_field"),
    ],
)
def test_a_row_whose_labels_cannot_be_placed_is_dropped(dialogue: list, rule: str):
    with pytest.raises(RowDropped) as caught:
        read({"conversations": dialogue}, "step_turns", **STARTS)
    assert caught.value.rule == rule
