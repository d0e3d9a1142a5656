import pytest

from rm_workflow.preferences.tables import RowDropped
from rm_workflow_tests.preferences.adapters.maths import read, said

ANSWER = "He has 2 + 3 = <<2+3=5>>5 apples.\nThat is 5.\n#### 5"


def test_the_answer_is_a_response_with_its_final_answer_and_no_label():
    example = read({"question": "How many?", "answer": ANSWER}, "reference_answer", step_separator="\n")
    assert said(example) == [("reference", ["He has 2 + 3 = <<2+3=5>>5 apples.", "That is 5."], [])]
    assert example.responses[0].text == ANSWER
    assert example.responses[0].extra == {"final_answer": "5"}


@pytest.mark.parametrize("answer", ["It is 5.", "It is 5.\n####", None])
def test_an_answer_without_a_final_one_is_a_bad_field(answer: str | None):
    with pytest.raises(RowDropped) as caught:
        read({"question": "How many?", "answer": answer}, "reference_answer")
    assert (caught.value.rule, caught.value.detail) == ("bad_field", "answer")


def test_the_final_answer_may_stand_in_a_column_of_its_own():
    columns = {"prompt": "problem", "answer": "solution", "final": "answer"}
    row = {"problem": "2 + 3?", "solution": "It is 5.\n\nDone #### no.", "answer": " 5 "}
    example = read(row, "reference_answer", columns=columns, step_separator="\n")
    assert example.responses[0].extra == {"final_answer": "5"}
    assert example.responses[0].text == row["solution"]
    assert [step.strip() for step in example.responses[0].steps] == ["It is 5.", "Done #### no."]
    with pytest.raises(RowDropped, match="only white space"):
        read(row | {"answer": " "}, "reference_answer", columns=columns)
