import pytest
from hypothesis import given
from hypothesis import strategies as st

from rm_workflow.preferences.adapters import _steps
from rm_workflow.preferences.tables import Response, RowDropped
from rm_workflow_tests.preferences.adapters.maths import source

STEP = st.text(st.sampled_from("aÄ+- \n\u2028🙂"), min_size=1).filter(str.strip)
ORM = source("outcome_turn", solution_starts="Step 1:")


@given(st.lists(STEP, min_size=1, max_size=6), st.sampled_from(["\n", "\n\n", " "]))
def test_joined_steps_are_cut_at_their_ends_again(steps: list[str], separator: str):
    text, ends = _steps.joined(steps, separator, "steps")
    assert text == separator.join(steps)
    assert [step.strip() for step in Response("0", text, step_ends=ends).steps] == [step.strip() for step in steps]


@given(st.lists(STEP, min_size=1, max_size=6), st.sampled_from([" ки\n", "ки"]), st.booleans())
def test_marked_steps_are_cut_after_their_marks(steps: list[str], between: str, marked_last: bool):
    text = between.join(steps) + (between if marked_last else "")
    ends = _steps.step_ends(text, "ки")
    cut = [step.strip() for step in Response("0", text, step_ends=ends).steps]
    assert [step.removesuffix("ки").strip() for step in cut] == [step.strip() for step in steps]
    assert all(step.endswith("ки") for step in cut[:-1])
    assert cut[-1].endswith("ки") == marked_last


def test_steps_between_empty_lines_end_before_them():
    text = "One\nhere.\n\n\nTwo. \n\n \n\nThree."
    steps = Response("0", text, step_ends=_steps.step_ends(text, "\n\n")).steps
    assert steps == ["One\nhere.", "\n\n\nTwo.", " \n\n \n\nThree."]
    assert _steps.step_ends(text, None) is None


def test_a_step_of_white_space_has_no_place_for_a_label():
    with pytest.raises(RowDropped) as caught:
        _steps.joined(["One.", " \n"], "\n", "turns")
    assert (caught.value.rule, caught.value.detail) == ("empty_message", "turns, step 1")


@pytest.mark.parametrize(
    ("text", "question", "solution"),
    [
        ("2 + 3? Step 1: 5.", "2 + 3?", "Step 1: 5."),
        ("2 + 3?\n\nStep 1: 5. Step 1: again", "2 + 3?\n", "Step 1: 5. Step 1: again"),
        ("Why is Step 1: true?  Step 1: 5.", "Why is", "Step 1: true?  Step 1: 5."),
        ("NoStep 1: here, but Step 1: there", "NoStep 1: here, but", "Step 1: there"),
    ],
)
def test_the_first_start_of_a_solution_counts(text: str, question: str, solution: str):
    assert _steps.split_solution(text, ORM, "text") == (question, solution)


@pytest.mark.parametrize("text", ["2 + 3? It is 5.", "Step 1: 5.", "  Step 1: 5.", ""])
def test_a_text_without_question_or_start_of_the_solution_is_a_bad_field(text: str):
    with pytest.raises(RowDropped) as caught:
        _steps.split_solution(text, ORM, "turns[0]")
    assert (caught.value.rule, caught.value.detail) == ("bad_field", "turns[0]")


@pytest.mark.parametrize("value", ["", "++", " +", "0", "−"])
def test_a_sign_is_plus_or_minus_and_nothing_else(value: str):
    assert (_steps.sign("+", "x"), _steps.sign("-", "x")) == (1.0, 0.0)
    with pytest.raises(RowDropped, match="neither"):
        _steps.sign(value, "x")
