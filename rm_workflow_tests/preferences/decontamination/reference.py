"""The guard as slow obvious Python: every text against every other, no hashes, no joins, no numpy."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rm_workflow.catalog.models import Guard
from rm_workflow.preferences.decontamination.words import words
from rm_workflow.preferences.normalise import normalise

Gram = tuple[str, ...]


def grams(found: Sequence[str], n: int) -> list[Gram]:
    return [tuple(found[start : start + n]) for start in range(len(found) - n + 1)]


def boilerplate(mixture: Mapping[str, str], targets: Mapping[str, set[str]], guard: Guard, listed: list[str]) -> set:
    """N-grams in many texts of the mixture (text -> owner) or of one benchmark (name -> owner's texts), or listed."""
    n = guard.ngram_words
    owners: dict[Gram, set[str]] = {}
    for text, owner in mixture.items():
        for gram in grams(words(text), n):
            owners.setdefault(gram, set()).add(owner)
    frequent = {gram for gram, found in owners.items() if len(found) >= guard.boilerplate_texts}
    for texts in targets.values():
        counted = Counter(gram for text in texts for gram in set(grams(words(text), n)))
        frequent |= {gram for gram, number in counted.items() if number >= guard.boilerplate_items}
    return frequent | {gram for text in listed for gram in grams(words(text), n)}


def covered(target: Sequence[str], shared: set[Gram], n: int) -> list[bool]:
    marks = [False] * len(target)
    for start, gram in enumerate(grams(target, n)):
        if gram in shared:
            marks[start : start + n] = [True] * n
    return marks


class Reference:
    """Judges user turns.

    Args:
        turns: distinct texts of user turns of the mixture.
        targets: benchmark -> distinct user turns.
    """

    def __init__(self, turns: set[str], targets: Mapping[str, set[str]], guard: Guard, listed: list[str]) -> None:
        self.turns, self.targets, self.guard = turns, targets, guard
        self.frequent = boilerplate({text: text for text in turns}, targets, guard, listed)
        texts = [*turns, *{text for found in targets.values() for text in found}]
        stands_in = Counter(word for text in texts for word in set(words(text)))
        self.weight = {word: round(1000 * math.log((1 + len(texts)) / n)) for word, n in stands_in.items()}

    def hits(self) -> Iterator[tuple[str, str, str, str, float]]:
        """Yield turn, benchmark, target, kind and share of every hit."""
        for text in self.turns:
            for benchmark, targets in self.targets.items():
                for target in targets:
                    found = self.judge(text, target)
                    if found:
                        yield (text, benchmark, target, *found)

    def judge(self, text: str, target: str) -> tuple[str, float] | None:
        guard, mine, theirs = self.guard, words(text), words(target)
        if normalise(text) == normalise(target):
            return "exact", 1.0
        if len(theirs) < guard.min_words or len(mine) < guard.ngram_words or not self.is_alike(mine, theirs):
            return None
        shared = set(grams(mine, guard.ngram_words)) & set(grams(theirs, guard.ngram_words))
        num_covered = sum(covered(theirs, shared, guard.ngram_words))
        if shared - self.frequent and num_covered >= guard.prompt_share * len(theirs):
            return "ngram", num_covered / len(theirs)
        near = guard.near_duplicate
        a, b = set(mine), set(theirs)
        if near and len(a & b) >= near.threshold * len(a | b):
            return "near_duplicate", (Counter(mine) & Counter(theirs)).total() / len(theirs)
        return None

    def is_alike(self, mine: list[str], theirs: list[str]) -> bool:
        both = Counter(mine) & Counter(theirs)
        weighed = [sum(self.weight[word] * n for word, n in Counter(found).items()) for found in (mine, theirs)]
        shared = sum(self.weight[word] * n for word, n in both.items())
        frequent = covered(theirs, self.frequent, self.guard.ngram_words)
        in_theirs = Counter(theirs)
        telling = Counter(word for word, is_frequent in zip(theirs, frequent, strict=True) if not is_frequent)
        shared_telling = sum(self.weight[word] * n * telling[word] // in_theirs[word] for word, n in both.items())
        different = min(weighed) - shared
        if not different + shared_telling:
            return False
        share = different / (different + shared_telling)
        changed = min(len(mine), len(theirs)) - both.total()
        return share <= self.guard.max_difference or (changed <= 1 and share <= 0.5)


def response_share(text: str, target: str, frequent: set[Gram], guard: Guard) -> float | None:
    """Return the share of a target response that a response repeats, or None where that is no hit."""
    mine, theirs = words(text), words(target)
    if min(len(mine), len(theirs)) < guard.min_response_words:
        return None
    shared = (set(grams(mine, guard.ngram_words)) & set(grams(theirs, guard.ngram_words))) - frequent
    share = sum(covered(theirs, shared, guard.ngram_words)) / len(theirs)
    return share if shared and share >= guard.response_share else None
