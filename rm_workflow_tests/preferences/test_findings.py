"""What an audit says in sentences, and that it says nothing where the interval allows no lean."""

from typing import Any

import pytest

from rm_workflow.intervals import wilson_interval
from rm_workflow.preferences.findings import findings


def share(successes: float, n: int) -> dict[str, float]:
    low, high = wilson_interval(successes, n)
    return {"share": successes / n, "n": n, "ci_low": low, "ci_high": high}


def source(**changed: Any) -> dict[str, Any]:
    plain = {
        "pairs": 100,
        "candidates": 120,
        "dropped": {},
        "length": {"chosen_longer": share(50, 100), "pick_longer": share(50, 100)},
        "repeated_pairs": 0,
        "contradicting_pairs": 0,
        "same_text": 0,
        "refusals": {"lean": None},
        "marker_lean": None,
        "phrase": None,
    }
    return {**plain, **changed}


def sentences(sources: dict[str, dict[str, Any]] | None = None, **facts: Any) -> list[str]:
    sources = sources or {"one": source(), "two": source()}
    whole = {
        "pairs": sum(one["pairs"] for one in sources.values()),
        "sources": sources,
        "markers": [],
        "conflicts": {"between": []},
        "overlap": [],
        "licences": {"commercial_use": "yes", "generators_not_stated": []},
    }
    return [found["sentence"] for found in findings({**whole, **facts})]


def test_nothing_of_note_is_no_sentence():
    assert sentences() == []


@pytest.mark.parametrize(
    ("longer", "n", "told"), [(680, 1000, True), (68, 100, True), (6, 10, False), (53, 100, False)]
)
def test_a_length_bias_is_told_only_where_its_interval_supports_it(longer: int, n: int, told: bool):
    length = {"chosen_longer": share(longer, n), "pick_longer": share(longer, n)}
    found = sentences({"one": source(length=length)})
    assert bool(found) == told
    if n == 1000:
        assert found == [
            "chosen is the longer one in 68 % (65 to 71) of pairs of one: a model that counts words gets 68 % of them "
            "right"
        ]


def test_a_bias_for_the_shorter_reply_is_told_as_such():
    length = {"chosen_longer": share(300, 1000), "pick_longer": share(320, 1000)}
    assert sentences({"one": source(length=length)}) == [
        "chosen is the longer one in only 30 % (27 to 33) of pairs of one: a model that picks the shorter reply gets "
        "68 % of them right"
    ]


def test_equal_lengths_do_not_make_a_bias():
    length = {"chosen_longer": share(300, 1000), "pick_longer": share(500, 1000)}
    assert sentences({"one": source(length=length)}) == []


@pytest.mark.parametrize(
    ("lean", "verb"), [(share(58, 60), "wins over"), (share(2, 60), "loses against"), (share(29, 60), None)]
)
def test_refusals_are_told_where_one_side_has_them(lean: dict[str, float], verb: str | None):
    found = sentences({"one": source(refusals={"lean": lean})})
    if verb is None:
        assert found == []
    else:
        (sentence,) = found
        assert sentence.startswith(f"a mere refusal {verb} an answer in 97 % (")
        assert "60 pairs of one" in sentence


def test_marks_are_told_with_the_most_frequent_first_and_the_side_they_lean_to():
    marks = [
        {"marker": "<s>", "source": "one", "side": "chosen", "pairs": 2, "pair_ids": ["aa"]},
        {"marker": "[INST]", "source": "one", "side": "rejected", "pairs": 40, "pair_ids": ["bb", "cc"]},
        {"marker": "</s>", "source": "two", "side": "prompt", "pairs": 99, "pair_ids": ["dd"]},
    ]
    found = sentences({"one": source(marker_lean=share(2, 42)), "two": source()}, markers=marks)
    assert found[0].endswith("'[INST]' in 40 rejected texts, '<s>' in 2 chosen texts; for instance pair bb")
    assert found[1].startswith(
        "of the 42 pairs of one with such a mark on one side alone it is the rejected side in 95 %"
    )
    assert found[2].startswith("texts of two hold marks of a chat template: '</s>' in 99 prompt texts")


def test_drops_and_what_is_left_of_repeats_are_told():
    one = source(
        dropped={"exact_duplicate": 10, "near_duplicate": 2, "contradictory": 6, "cap": 50},
        repeated_pairs=3,
        contradicting_pairs=2,
        same_text=1,
    )
    assert sentences({"one": one}) == [
        "12 of 120 candidates of one were dropped as duplicates",
        "6 of 120 candidates of one were dropped as contradictions",
        "3 of 100 pairs of one repeat another but for case and spaces",
        "2 of 100 pairs of one stand beside one with the opposite label, which cannot be learnt",
        "1 of 100 pairs of one differ in nothing but case and spaces",
    ]
    assert sentences({"one": source(dropped={"exact_duplicate": 1})}) == []


def test_one_source_that_outweighs_the_others_is_told():
    assert sentences({"one": source(pairs=900), "two": source()}) == ["one gives 90 % of the pairs"]
    assert sentences({"one": source(pairs=900)}) == []


def test_overlaps_and_conflicts_are_told_once_for_two_sources():
    def row(one: str, other: str, shared: int) -> dict[str, Any]:
        return {"what": "responses", "source": one, "other_source": other, "shared": shared}

    overlap = [row("one", "one", 900), row("one", "two", 30), row("two", "one", 30), row("two", "two", 200)]
    conflicts = {"between": [{"source": "one", "other_source": "two", "conflicts": 7}]}
    assert sentences(overlap=overlap, conflicts=conflicts) == [
        "one and two label 7 pairs in opposite ways",
        "one and two share 30 responses, 15 % of those of the smaller one",
    ]
    assert sentences(overlap=[row("one", "one", 900), row("one", "two", 1), row("two", "two", 200)]) == []


def test_licences_come_first():
    licences = {"commercial_use": "no", "summary": "commercial use is not allowed", "generators_not_stated": ["one"]}
    found = sentences({"one": source(same_text=1)}, licences=licences)
    assert found[:2] == [
        "commercial use is not allowed",
        "who wrote the responses of one is not stated (generators in sources.yaml)",
    ]
