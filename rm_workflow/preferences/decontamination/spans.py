"""Where a text repeats another: the longest run of words that both have."""

from dataclasses import dataclass
from difflib import SequenceMatcher

from rm_workflow.preferences.decontamination.words import word_places, words

MAX_CHARACTERS = 300


@dataclass(frozen=True)
class Span:
    """A stretch of a text.

    Attributes:
        start: first character, from 0.
        stop: character behind the last.
        text: the stretch as it stands there, cut to 300 characters.
    """

    start: int
    stop: int
    text: str


def longest_common_run(text: str, other: str) -> Span:
    """Return where the longest run of words that ``text`` shares with ``other`` stands in ``text``."""
    places = word_places(text)
    run = SequenceMatcher(None, places.words, words(other), autojunk=False).find_longest_match()
    if not run.size:
        return Span(0, 0, "")
    start, stop = places.starts[run.a], places.stops[run.a + run.size - 1]
    return Span(start, stop, text[start : min(stop, start + MAX_CHARACTERS)])
