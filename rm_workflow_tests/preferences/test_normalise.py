from hypothesis import given
from hypothesis import strategies as st

from rm_workflow.preferences.normalise import normalise


def test_case_width_and_white_space_do_not_count() -> None:
    assert normalise(" Ｗhat \n\t IS\u00a0this? ") == "what is this?"
    assert normalise("ﬁne") == normalise("FINE")


def test_other_words_stay_different() -> None:
    assert normalise("Name a river.") != normalise("Name a river")


@given(st.text())
def test_white_space_around_a_text_never_counts(text: str) -> None:
    assert normalise(f"\n {text}\u2003\t") == normalise(text)
