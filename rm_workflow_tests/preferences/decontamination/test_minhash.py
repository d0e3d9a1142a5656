import random

import numpy as np
import pytest

from rm_workflow.catalog.models import NearDuplicate
from rm_workflow.preferences.decontamination.minhash import bands, rows_of_band
from rm_workflow.preferences.decontamination.words import hash_words


def found(first: list[str], second: list[str], near_duplicate: NearDuplicate) -> list[bool]:
    sides = [bands(hash_words(side), np.arange(len(side)), near_duplicate).tolist() for side in (first, second)]
    return [not set(a).isdisjoint(b) for a, b in zip(*sides, strict=True)]


def alike(shared: int, own: int, number: int) -> tuple[str, str]:
    """Two texts with a Jaccard similarity of shared / (shared + 2 * own), their words in different orders."""
    common = [f"c{number}x{i}" for i in range(shared)]
    texts = [common + [f"{side}{number}x{i}" for i in range(own)] for side in "ab"]
    for text in texts:
        random.Random(number).shuffle(text)
    return " ".join(texts[0]), " ".join(reversed(texts[1]))


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_texts_at_the_threshold_share_a_band_nearly_always(threshold: float):
    own = 30
    shared = round(2 * own * threshold / (1 - threshold))
    first, second = zip(*(alike(shared, own, number) for number in range(400)), strict=True)
    assert np.mean(found(list(first), list(second), NearDuplicate(threshold=threshold))) >= 0.97


def test_unlike_texts_seldom_share_a_band():
    first, second = zip(*(alike(10, 35, number) for number in range(400)), strict=True)
    assert np.mean(found(list(first), list(second), NearDuplicate())) <= 0.02


def test_only_the_chosen_texts_are_read():
    hashed = hash_words(["one two", "three four five", "six"])
    near = NearDuplicate(permutations=16)
    chosen = bands(hashed, np.array([0, 2]), near)
    assert chosen.tolist() == bands(hash_words(["one two", "six"]), np.array([0, 1]), near).tolist()
    assert bands(hashed, np.array([], dtype=np.int64), near).shape[0] == 0


@pytest.mark.parametrize(("threshold", "permutations"), [(0.5, 16), (0.5, 128), (0.7, 128), (0.9, 1024), (1.0, 64)])
def test_bands_are_as_long_as_the_recall_allows(threshold: float, permutations: int):
    rows = rows_of_band(NearDuplicate(threshold=threshold, permutations=permutations))

    def recall(rows: int) -> float:
        return 1 - (1 - threshold**rows) ** (permutations // rows)

    assert recall(rows) >= 0.99
    assert rows == permutations or recall(rows + 1) < 0.99
