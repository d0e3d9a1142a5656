from rm_workflow.preferences.counts import counts, funnel

RAW = {"src": {"rows": 10, "used": 8, "dropped": {"broken_line": 2}, "files": {"train.jsonl": 10}, "num_prompts": 8}}
PAIRS = {"some_set": {"candidates": 8, "kept": 5, "dropped": {"equal_score": 3, "cap": 0}, "published": 6}}
MIXTURE = {
    "some_mixture": {
        "candidates": 5,
        "kept": 4,
        "dropped": {"leak": 1},
        "train": 3,
        "test": 1,
        "marked": 0,
        "sources": {"src": {"train": 3, "test": 1}},
    }
}
TOKENS = {"some_tokens": {"pairs": 4, "kept": 3, "dropped": {"too_long": 1}, "train": 2, "test": 1, "histogram": {}}}


def test_counts_have_the_contracts_shape():
    assert counts(RAW, PAIRS, MIXTURE, TOKENS) == {
        "sources": {"src": {"rows": 10, "used": 8, "dropped": {"broken_line": 2}}},
        "pair_sets": PAIRS,
        "mixtures": {"some_mixture": {"candidates": 5, "kept": 4, "dropped": {"leak": 1}, "train": 3, "test": 1}},
        "tokens": {"some_tokens": {"pairs": 4, "kept": 3, "dropped": {"too_long": 1}}},
    }


def test_tokens_are_null_before_training():
    assert counts(RAW, PAIRS, MIXTURE, None)["tokens"] is None


def test_the_funnel_steps_down_rule_by_rule():
    rows = funnel(counts(RAW, PAIRS, MIXTURE, None))
    assert [tuple(row.values()) for row in rows] == [
        ("sources", "src", "rows", 10, 0, 10),
        ("sources", "src", "broken_line", 10, 2, 8),
        ("pair_sets", "some_set", "candidates", 8, 0, 8),
        ("pair_sets", "some_set", "equal_score", 8, 3, 5),
        ("pair_sets", "some_set", "cap", 5, 0, 5),
        ("mixtures", "some_mixture", "candidates", 5, 0, 5),
        ("mixtures", "some_mixture", "leak", 5, 1, 4),
    ]
    assert list(rows[0]) == ["stage", "name", "rule", "before", "dropped", "after"]
