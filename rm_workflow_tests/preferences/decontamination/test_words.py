"""The fast reading of words and n-grams is the definition's, for any text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rm_workflow.preferences.decontamination.words import (
    BYTE_BASE,
    HashSet,
    count_words,
    hash_ngrams,
    hash_whole,
    hash_words,
    word_places,
    words,
)

# Letters of several scripts, combining marks, ligatures, digits beyond ASCII, white space and separators of all kinds.
CHARACTERS = st.sampled_from(
    "aAbZ_09 \t\n\r\x0b\x0c\x1c\x1f\x00.,'-éÉe\u0301İıßſﬁΣςあ漢字कि\u0300\u00a0\u2028\u200d½²٣_Ａ"
)
TEXTS = st.lists(st.text(CHARACTERS | st.characters(codec="utf-8"), max_size=30), max_size=6)


def test_words_are_normalised_runs_of_letters_digits_and_underscores():
    assert words("Don't\nPANIC, x_1!  Ｆｕｌｌ e\u0301") == ["don", "t", "panic", "x_1", "full", "é"]


@given(TEXTS)
def test_texts_have_as_many_words_as_the_definition_says(texts: list[str]):
    assert hash_words(texts).lengths.tolist() == [len(words(text)) for text in texts]


@given(TEXTS)
def test_words_have_equal_hashes_exactly_where_they_are_equal(texts: list[str]):
    found = [word for text in texts for word in words(text)]
    hashes = hash_words(texts).hashes.tolist()
    assert len(set(zip(found, hashes, strict=True))) == len(set(found)) == len(set(hashes))


@given(TEXTS, st.integers(1, 4))
def test_ngrams_stay_within_their_text_and_are_told_apart(texts: list[str], n: int):
    expected = [
        (number, start, tuple(words(text)[start : start + n]))
        for number, text in enumerate(texts)
        for start in range(len(words(text)) - n + 1)
    ]
    ngrams = hash_ngrams(hash_words(texts), n)
    assert list(zip(ngrams.texts.tolist(), ngrams.positions.tolist(), strict=True)) == [one[:2] for one in expected]
    pairs = {(one[2], gram) for one, gram in zip(expected, ngrams.hashes.tolist(), strict=True)}
    assert len(pairs) == len({one[2] for one in expected}) == len(set(ngrams.hashes.tolist()))


@given(TEXTS)
def test_only_ngrams_of_a_set_are_returned(texts: list[str]):
    hashed = hash_words(texts)
    every = hash_ngrams(hashed, 2)
    known = every.hashes[::3]
    found = hash_ngrams(hashed, 2, HashSet(known))
    assert found.hashes.tolist() == [gram for gram in every.hashes.tolist() if gram in set(known.tolist())]


@given(TEXTS)
def test_whole_texts_are_equal_where_all_their_words_are(texts: list[str]):
    found = [tuple(words(text)) for text in texts]
    hashes = hash_whole(hash_words(texts)).tolist()
    assert len(set(zip(found, hashes, strict=True))) == len(set(found)) == len(set(hashes))


@given(TEXTS)
def test_words_are_counted_within_each_text(texts: list[str]):
    hashed = hash_words(texts)
    names = dict(zip(hashed.hashes.tolist(), [word for text in texts for word in words(text)], strict=True))
    counted = {
        (number, names[word]): n for number, word, n in zip(*(c.tolist() for c in count_words(hashed)), strict=True)
    }
    assert counted == {(i, word): words(t).count(word) for i, t in enumerate(texts) for word in words(t)}


def test_a_word_is_hashed_by_the_stated_formula_on_every_machine():
    def mixed(value: int) -> int:
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            value = (value ^ (value >> shift)) * factor % 2**64
        return value

    expected = [mixed(sum(b * BYTE_BASE**i for i, b in enumerate(w.encode())) % 2**64) for w in ("the", "end", "é")]
    assert hash_words(["The end", "É"]).hashes.tolist() == expected


def test_a_word_of_megabytes_does_not_merge_with_its_neighbours():
    long = "x" * 3_000_000
    hashed = hash_words([f"a {long} b", f"a {long}y b", long])
    assert hashed.lengths.tolist() == [3, 3, 1]
    assert hashed.hashes[1] == hashed.hashes[6] != hashed.hashes[4]


@given(st.text(CHARACTERS, max_size=40))
def test_places_name_the_stretch_in_which_each_word_stands(text: str):
    places = word_places(text)
    assert places.words == words(text)
    for word, start, stop in zip(places.words, places.starts, places.stops, strict=True):
        assert word in words(text[start:stop])


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_a_hash_set_holds_its_own_and_no_others(size: int):
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, size=2 * size, dtype=np.uint64)
    assert HashSet(hashes[:size]).holds(hashes).tolist() == [True] * size + [False] * size
