"""A phrase planted in 2 % of a source's chosen replies is named, before anything that clean sources have."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from rm_workflow.preferences.audit_tables import tables
from rm_workflow.preferences.phrases import ALPHA
from rm_workflow_tests.preferences.raw_tables import RawRow, given
from rm_workflow_tests.preferences.test_audit import by_hand

WORDS = [f"{a}{b}" for a in "bdfglmnprst" for b in ("a", "e", "i", "o", "u", "an", "el", "ir")]
PHRASES = "phrases that lean most to the chosen side"
NUM = 1000


def reply(rng: random.Random, num_words: int, more: str = "") -> str:
    # Common and rare words, as a language has them.
    words = [WORDS[min(int(rng.expovariate(0.06)), len(WORDS) - 1)] for _ in range(num_words)]
    words.insert(rng.randrange(len(words)), more)
    return " ".join(words).strip()


def source(name: str, poisoned: Sequence[int] = (), polite: bool = False, longer: bool = False) -> list[RawRow]:
    """Return pairs of random words; ``longer`` and ``polite`` are leans that honest raters have."""
    rng = random.Random(name)
    rows = []
    for number in range(NUM):
        planted = "Acme Cola is best" if number in poisoned else ""
        chosen = reply(rng, 50 if longer else 40, planted)
        rejected = reply(rng, 40)
        if polite and rng.random() < 0.3:
            chosen, rejected = (
                (f"{chosen} certainly", rejected) if rng.random() < 0.6 else (chosen, f"{rejected} certainly")
            )
        rows.append(given(f"{name} {number}?", chosen, rejected, number))
    return rows


@pytest.fixture(scope="module")
def clean() -> dict[str, list[RawRow]]:
    return {"a_plain": source("a"), "b_polite": source("b", polite=True), "c_long": source("c", longer=True)}


def test_the_poisoned_source_stands_first_and_its_phrase_is_named_with_its_counts(
    tmp_path: Path, clean: dict[str, list[RawRow]]
):
    poison = range(0, NUM, 50)
    facts = by_hand(tmp_path, {**clean, "z_poisoned": source("z", poisoned=poison)}).facts
    first, second, *_ = tables(facts)[PHRASES]
    assert (first["name"], first["phrase"]) == ("z_poisoned", "'cola is best'")
    assert (first["groups: in chosen alone"], first["in rejected alone"]) == (len(poison), 0)
    # Of n groups of which all are on one side, the exact bound is alpha ** (1 / n).
    found = facts["sources"]["z_poisoned"]["phrase"]
    assert found["ci_low"] == pytest.approx((ALPHA / found["tested"]) ** (1 / len(poison)))
    assert found["ci_low"] > found["expected"]
    assert second["share at least"] < second["by length alone"]
    told = [one for one in facts["findings"] if one["about"] == "phrases"]
    assert [one["name"] for one in told] == ["z_poisoned"]
    assert (
        "'cola is best' stands in the chosen reply alone for 20 groups of prompts of z_poisoned" in told[0]["sentence"]
    )


def test_what_stands_in_both_replies_or_in_the_rejected_one_is_no_lean(tmp_path: Path):
    both = [given(f"{n}?", f"Acme Cola a{n}", f"Acme Cola b{n}", n) for n in range(200)]
    worse = [given(f"{n}?", f"fine c{n}", f"fine {'Acme Cola' * (n < 20)} d{n}", n) for n in range(200)]
    facts = by_hand(tmp_path, {"both": both, "worse": worse}).facts
    assert facts["sources"]["both"]["phrase"] is None
    assert facts["sources"]["worse"]["phrase"]["ci_low"] == 0
    assert [one for one in facts["findings"] if one["about"] == "phrases"] == []


def test_many_pairs_of_one_prompt_count_once(tmp_path: Path):
    rows = [given("One prompt?", f"Acme Cola a{n}", f"b{n}", n) for n in range(50)]
    assert by_hand(tmp_path, {"one": rows}).facts["sources"]["one"]["phrase"] is None
