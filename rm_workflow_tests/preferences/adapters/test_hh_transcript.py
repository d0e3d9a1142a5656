from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters import hh_transcript
from rm_workflow.preferences.adapters._fields import TRANSCRIPT_MARK
from rm_workflow.preferences.files import read_rows
from rm_workflow.preferences.tables import Example, RowDropped
from rm_workflow_tests.preferences.sources import transcript

SOURCE = Source(path="folder", files={"train": ["a.jsonl"]}, adapter="hh_transcript", licence="MIT")
QUESTION = ("Human", "Name a river.")


def read(chosen: object, rejected: object) -> Example:
    return hh_transcript.read({"chosen": chosen, "rejected": rejected}, SOURCE)


def dropped(chosen: object, rejected: object) -> RowDropped:
    with pytest.raises(RowDropped) as caught:
        read(chosen, rejected)
    return caught.value


def sides(*turns: tuple[str, str]) -> tuple[str, str]:
    """Return two transcripts that differ in a last good reply."""
    return transcript(*turns, ("Assistant", "The Danube.")), transcript(*turns, ("Assistant", "No."))


def test_a_row_becomes_a_prompt_and_two_responses() -> None:
    example = read(*sides(QUESTION, ("Assistant", "Which land?"), ("Human", "Hungary.")))
    assert [(turn["role"], turn["content"]) for turn in example.messages] == [
        ("user", "Name a river."),
        ("assistant", "Which land?"),
        ("user", "Hungary."),
    ]
    responses = [(response.slot, response.text) for response in example.responses]
    assert responses == [("chosen", "The Danube."), ("rejected", "No.")]


def test_one_space_after_the_mark_is_cut_and_the_rest_is_verbatim() -> None:
    example = read("\n\nHuman:  two spaces \n\n\nAssistant:none\n ", "\n\nHuman:  two spaces \n\n\nAssistant: one ")
    assert example.messages[0]["content"] == " two spaces \n"
    assert [response.text for response in example.responses] == ["none\n ", "one "]


# Pieces out of which the turn mark could be put together by mistake, and characters that other readers trip over.
PIECES = st.sampled_from(
    ["Human:", "Assistant:", "\n", "\n\n", " ", "Human", "Assistant", ":", "a", "\nHuman:", "\u2028", "é", "😀", "\x00"]
)
TEXTS = (
    st.lists(PIECES, min_size=1, max_size=6)
    .map("".join)
    .filter(lambda text: text.strip() and not TRANSCRIPT_MARK.search(f" {text}"))
)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=3), TEXTS, TEXTS, TEXTS)
def test_any_dialogue_without_a_mark_in_its_texts_comes_back_whole(
    earlier: list[tuple[str, str]], question: str, chosen: str, rejected: str
) -> None:
    turns = [turn for pair in earlier for turn in zip(("Human", "Assistant"), pair, strict=True)]
    turns.append(("Human", question))
    example = read(transcript(*turns, ("Assistant", chosen)), transcript(*turns, ("Assistant", rejected)))
    assert [turn["content"] for turn in example.messages] == [text for _, text in turns]
    assert [response.text for response in example.responses] == [chosen, rejected]


@given(st.text(), st.text())
def test_any_text_is_understood_or_dropped_under_a_rule(chosen: str, rejected: str) -> None:
    try:
        example = read(f"\n\nHuman:{chosen}", f"\n\nHuman:{rejected}")
    except RowDropped:
        return
    assert example.responses


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        (None, transcript(QUESTION, ("Assistant", "No."))),
        (transcript(QUESTION, ("Assistant", "No.")), 7),
        ("", transcript(QUESTION, ("Assistant", "No."))),
        ("no mark at all", "no mark at all"),
        ("Human: Name a river.\n\nAssistant: No.", "Human: Name a river.\n\nAssistant: Yes."),
        sides(("Human", "half \ud83d of a pair")),
    ],
)
def test_what_is_no_transcript_is_a_bad_field(chosen: object, rejected: object) -> None:
    assert dropped(chosen, rejected).rule == "bad_field"


def test_sides_that_answer_different_dialogues_are_dropped() -> None:
    chosen, _ = sides(QUESTION)
    _, rejected = sides(("Human", "Name a river!"))
    drop = dropped(chosen, rejected)
    assert (drop.rule, drop.detail) == ("context_differs", "turn 0")
    _, longer = sides(QUESTION, ("Assistant", "Which land?"), ("Human", "Hungary."))
    assert (dropped(chosen, longer).rule, dropped(chosen, longer).detail) == ("context_differs", "2 turns against 4")


def test_an_empty_message_anywhere_drops_the_row() -> None:
    reply = transcript(QUESTION, ("Assistant", "No."))
    assert dropped(transcript(QUESTION) + "\n\nAssistant:", reply).detail == "response chosen"
    assert dropped(reply, transcript(QUESTION, ("Assistant", " \n\u2003"))).detail == "response rejected"
    drop = dropped(*sides(("Human", " "), ("Assistant", "Pardon?"), QUESTION))
    assert (drop.rule, drop.detail) == ("empty_message", "prompt turn 0 (user)")


@pytest.mark.parametrize(
    "turns",
    [
        (QUESTION, QUESTION),
        (QUESTION, ("Assistant", "One moment.")),
        (("Assistant", "Hello."), QUESTION),
        (),
    ],
)
def test_speakers_that_do_not_take_turns_are_dropped(turns: tuple[tuple[str, str], ...]) -> None:
    assert dropped(*sides(*turns)).rule == "not_alternating"


def test_a_side_that_ends_in_a_human_turn_is_dropped() -> None:
    reply = transcript(QUESTION, ("Assistant", "No."))
    assert dropped(reply, transcript(QUESTION, ("Human", "Hello?"))).rule == "not_alternating"


def test_the_first_matching_rule_counts() -> None:
    chosen = transcript(QUESTION, QUESTION, ("Assistant", " "))
    assert dropped(chosen, transcript(QUESTION, ("Assistant", "No."))).rule == "context_differs"
    assert dropped(chosen, transcript(QUESTION, QUESTION, ("Assistant", "No."))).rule == "empty_message"
    assert dropped(chosen, 7).rule == "bad_field"


@pytest.mark.shared_rows
def test_the_drops_of_the_contract_are_found_on_the_real_rows(shared_rows: Path) -> None:
    counts: Counter[str] = Counter()
    for path in sorted((shared_rows / "hub/Anthropic/hh-rlhf").glob("helpful-*/*.jsonl.gz")):
        for _, row in read_rows(path, path.name):
            counts["rows"] += 1
            try:
                chosen, rejected = hh_transcript.read(row, SOURCE).responses
            except RowDropped as drop:
                counts[drop.rule] += 1
            else:
                counts["identical" if chosen.text == rejected.text else "left"] += 1
    assert counts == {
        "rows": 4861,
        "context_differs": 9,
        "empty_message": 6,
        "not_alternating": 5,
        "identical": 30,
        "left": 4811,
    }
