"""Texts as sequences of normalised words, and as arrays of word and n-gram hashes.

A word is a run of letters, digits and underscores of the normalised text (``normalise.py``), so that case, white space
and punctuation do not count. ``words`` is the definition; ``hash_words`` reads many texts at once with numpy and agrees
with it: text that is plain ASCII is read from its bytes, any other goes through ``words``.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from rm_workflow.preferences.normalise import normalise

WORD = re.compile(r"\w+")
CHUNK = re.compile(r"\S+")

Hashes: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]
Indices: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

# Odd multipliers of the polynomial hashes modulo 2**64: of the bytes of a word, and of the words of an n-gram.
BYTE_BASE = 0x9E3779B97F4A7C15
WORD_BASE = 0xD6E8FEB86659FD93

_BYTES = np.arange(256)
_ASCII_WORD = np.array([chr(byte).isalnum() or chr(byte) == "_" for byte in range(128)])
# Beyond ASCII only words are left when bytes are read, see _readable.
_IS_WORD = np.concatenate([_ASCII_WORD, np.ones(128, dtype=bool)])
_LOWER = np.where((ord("A") <= _BYTES) & (ord("Z") >= _BYTES), _BYTES + 32, _BYTES).astype(np.uint64)


def words(text: str) -> list[str]:
    """Return the words of a text: ``words("Don't\\nPANIC!") == ["don", "t", "panic"]``."""
    return WORD.findall(normalise(text))


@dataclass(frozen=True)
class WordPlaces:
    """The words of a text with the stretch of the text that each stands in, up to white space on both sides."""

    words: list[str]
    starts: list[int]
    stops: list[int]


def word_places(text: str) -> WordPlaces:
    """Return the words of a text with their places, in characters of the text as it is."""
    places = WordPlaces([], [], [])
    for chunk in CHUNK.finditer(text):
        found = words(chunk[0])
        places.words.extend(found)
        places.starts.extend([chunk.start()] * len(found))
        places.stops.extend([chunk.end()] * len(found))
    return places


@dataclass(frozen=True)
class HashedWords:
    """The words of several texts, one after the other.

    Attributes:
        hashes: one for each word.
        starts: index of each text's first word, and behind the last text the number of all words.
    """

    hashes: Hashes
    starts: Indices

    @property
    def lengths(self) -> Indices:
        """Return the number of words of each text."""
        return np.diff(self.starts)

    @property
    def texts(self) -> Indices:
        """Return for each word the index of its text."""
        texts: Indices = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return texts


@dataclass(frozen=True)
class HashedNgrams:
    """N-grams of several texts: index of the text, position of the first word in it (from 0), hash."""

    texts: Indices
    positions: Indices
    hashes: Hashes

    def where(self, mask: Mask) -> "HashedNgrams":
        """Return those that a mask selects."""
        return HashedNgrams(self.texts[mask], self.positions[mask], self.hashes[mask])


def hash_words(texts: Sequence[str]) -> HashedWords:
    """Return the hashes of the words of many texts; equal words have equal hashes on every machine."""
    readable = [_readable(text) for text in texts]
    ends = np.cumsum([0, *(len(part) + 1 for part in readable)])
    buffer = np.frombuffer(b" ".join([*readable, b""]), dtype=np.uint8)
    edges = np.flatnonzero(np.diff(_IS_WORD[buffer], prepend=False, append=False))
    first, behind = edges[::2], edges[1::2]
    hashes = hash_stretches(_LOWER[buffer], first, behind, BYTE_BASE)
    return HashedWords(hashes, np.searchsorted(first, ends))


def _readable(text: str) -> bytes:
    """Return bytes whose words, as ``_IS_WORD`` and ``_LOWER`` see them, are the words of the text."""
    return text.encode() if text.isascii() else " ".join(words(text)).encode()


def hash_ngrams(hashed: HashedWords, num_words: int, among: "HashSet | None" = None) -> HashedNgrams:
    """Return every run of ``num_words`` words that lies within one text, or those of them that a set holds."""
    num = max(0, len(hashed.hashes) - num_words + 1)
    running, inverses = _running_sum(hashed.hashes, WORD_BASE)
    hashes = _mixed((running[num_words:] - running[:num]) * inverses[:num]) if num else hashed.hashes[:0]
    first = np.flatnonzero(among.holds(hashes)) if among else np.arange(num)
    hashes = hashes[first]
    texts = np.searchsorted(hashed.starts, first, side="right") - 1
    within = first + num_words <= hashed.starts[texts + 1]
    first, texts, hashes = first[within], texts[within], hashes[within]
    return HashedNgrams(texts, first - hashed.starts[texts], hashes)


def hash_whole(hashed: HashedWords) -> Hashes:
    """Return one hash for each text, over all its words in order."""
    return hash_stretches(hashed.hashes, hashed.starts[:-1], hashed.starts[1:])


def count_words(hashed: HashedWords) -> tuple[Indices, Hashes, Indices]:
    """Return for each text and each word in it: index of the text, hash of the word, how often it stands there."""
    keys = _mixed(hashed.hashes + hashed.texts.astype(np.uint64) * np.uint64(WORD_BASE))
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    return hashed.texts[first], hashed.hashes[first], counts


def hash_stretches(values: Hashes, first: Indices, behind: Indices, base: int = WORD_BASE) -> Hashes:
    """Return a hash of each stretch of values: the sum of value * base**(place in the stretch) modulo 2**64, mixed."""
    running, inverses = _running_sum(values, base)
    return _mixed((running[behind] - running[first]) * inverses[first])


def _running_sum(values: Hashes, base: int) -> tuple[Hashes, Hashes]:
    """Return the sums of value * base**place over the first 0, 1, ... values, and base**-place.

    The difference of two sums, divided by base**first, is the sum over the stretch between them alone.
    """
    powers, inverses = _powers(base, 1 << len(values).bit_length())
    running = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * powers[: len(values)], out=running[1:])
    return running, inverses


@functools.lru_cache(maxsize=4)
def _powers(base: int, num: int) -> tuple[Hashes, Hashes]:
    """Return base**i and its inverse modulo 2**64 for i from 0 to ``num`` - 1."""
    both = []
    for factor in (base, pow(base, -1, 2**64)):
        factors = np.full(num, factor, dtype=np.uint64)
        factors[0] = 1
        both.append(np.cumprod(factors))
    return both[0], both[1]


def _mixed(hashes: Hashes) -> Hashes:
    """Return hashes whose low and high bits depend on all bits (the finaliser of SplitMix64)."""
    mixed = hashes ^ (hashes >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


class HashSet:
    """A set of hashes that many others are looked up in: a table of bits first, then exactly."""

    def __init__(self, hashes: Hashes) -> None:
        self.sorted = np.unique(hashes)
        bits = min(26, max(10, len(self.sorted).bit_length() + 5))
        self._shift = np.uint64(64 - bits)
        self._seen = np.zeros(2**bits, dtype=bool)
        self._seen[self.sorted >> self._shift] = True

    def holds(self, hashes: Hashes) -> Mask:
        """Return for each hash whether it is in the set."""
        mask: Mask = self._seen[hashes >> self._shift]
        candidates = hashes[mask]
        if len(candidates):
            places = np.minimum(np.searchsorted(self.sorted, candidates), len(self.sorted) - 1)
            mask[mask] = self.sorted[places] == candidates
        return mask
