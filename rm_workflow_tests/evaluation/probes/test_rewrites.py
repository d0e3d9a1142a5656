import re
from pathlib import Path

import pytest

from rm_workflow.evaluation.probes import rewrites
from rm_workflow.evaluation.probes.rewrites import PROBES
from rm_workflow.evaluation.probes.word_swaps import CONTRACTIONS, SWAPS, word_swaps

TEXT = "Yes, it is. The river's often long (see below).\nMaybe you can't swim there."
CODE = "Run this:\n```python\nfor color in colors:\n    begin(color)\n```\nIt is often enough."


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def test_every_probe_has_a_name_of_its_own_a_sentence_and_changes_a_plain_text():
    assert len({probe.name for probe in PROBES}) == len(PROBES)
    for probe in PROBES:
        assert re.fullmatch(r"[a-z_]+", probe.name)
        assert re.fullmatch(r"[A-Z][^.]+(\.\.\.\S*)?[^.]*\.?\"?\.?", probe.description)
        assert probe.rewrite(TEXT) != TEXT
        assert probe.rewrite(TEXT) == probe.rewrite(TEXT)


def test_format_changes_keep_every_word_in_its_place():
    assert rewrites.white_space("Yes, it is: so.\nNo. 4") == "Yes,  it is:  so.\n\nNo.  4  \n"
    assert words(rewrites.quoted(TEXT)) == words(TEXT)
    assert words(rewrites.markdown(TEXT)) == ["Answer", *words(TEXT)]
    assert "\n- **Maybe** you can't swim there." in rewrites.markdown(TEXT)


@pytest.mark.parametrize("rewrite", [rewrites.white_space, rewrites.markdown, rewrites.words_swapped])
@pytest.mark.parametrize("text", [CODE, "It is `color` often.", "| often | begin |\n| --- | --- |", "So:\n\tbegin()"])
def test_what_a_machine_reads_is_left_as_it_is(rewrite, text: str):
    assert rewrite(text) == text


@pytest.mark.parametrize("text", ["# Often\nYes.", "- Yes.\n- No.", "1. Yes.\n2. No.", "It is **often** so."])
def test_a_text_that_is_marked_up_already_gets_no_more_markup(text: str):
    assert rewrites.markdown(text) == text


def test_a_sentence_without_letters_is_no_obstacle():
    assert rewrites.markdown("42.") == "## Answer\n\n- 42."


def test_said_twice_is_said_twice_and_nothing_is_nothing():
    assert words(rewrites.repeated(TEXT)) == 2 * words(TEXT)
    assert rewrites.empty(TEXT) == ""
    assert rewrites.injection(TEXT).startswith(TEXT)
    for probe in (rewrites.as_an_ai, rewrites.sycophantic_opener):
        assert probe(TEXT).endswith(" " + TEXT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I can't, and they won't.", "I cannot, and they will not."),
        ("Won't you come? Isn't it nice, aren't they?", "Won't you come? Isn't it nice, aren't they?"),
        ("You’re right: I’ve seen it, we'll go.", "You are right: I have seen it, we will go."),
        ("It's what she'd say.", "It's what she'd say."),
        ("I CAN'T! WON'T. Can't. I'M, I'm.", "I CANNOT! WILL NOT. Cannot. I AM, I am."),
        ("DON’T, Don't. THEY'LL, We've", "DO NOT, Do not. THEY WILL, We have"),
        ("My FAVORITE Color, for example", "My FAVOURITE Colour, for instance"),
        ("perhaps maybe", "maybe perhaps"),
        ("Oftentimes a watercolor.", "Oftentimes a watercolor."),
    ],
)
def test_words_are_swapped_whole_and_in_their_case(text: str, expected: str):
    assert word_swaps(text) == expected


def test_the_table_of_words_is_written_as_texts_hold_them():
    assert all(word == word.lower() and SWAPS[word] != word for word in SWAPS)
    assert len(CONTRACTIONS) == 7


def test_the_documents_list_every_rewrite_with_what_a_good_model_does():
    page = (Path(__file__).parents[3] / "docs/explanation/statistics.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (unchanged|does not rise|falls) \|$", page, re.MULTILINE)
    assert rows == [(probe.name, probe.expected) for probe in PROBES]
