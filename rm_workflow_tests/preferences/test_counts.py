from rm_workflow.catalog.models import Catalog, PairSet, Recipe, Source
from rm_workflow.preferences.counts import beside_published, counts, funnel, with_published

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


def catalog_of(published_rows: dict[str, int], **pair_set: object) -> tuple[Recipe, Catalog]:
    source = Source(
        path="rows",
        files={"train": ["train.jsonl"], "test": ["test.jsonl"]},
        adapter="any",
        licence="MIT",
        published_rows=published_rows,
    )
    recipe = Recipe(
        name="some",
        base="base",
        mixture={"pair_sets": ["some_set"], "split": {"by": "native"}},
        training={"learning_rate": 1e-5, "batch_size": 4},
        published={"num_pairs": 9, "note": "raw rows"},
    )
    sets = {"some_set": PairSet(source="src", candidates="given", rules=[], **pair_set)}
    return recipe, Catalog(sources={"src": source}, pair_sets=sets, benchmarks={}, recipes={"some": recipe})


def compared(published_rows: dict[str, int], **pair_set: object) -> dict:
    raw = {"src": {**RAW["src"], "files": {"train.jsonl": 7, "test.jsonl": 3}}}
    pairs = {"some_set": {**PAIRS["some_set"], "published": pair_set.get("published")}}
    recipe, catalog = catalog_of(published_rows, **pair_set)
    counted = counts(raw, pairs, MIXTURE, None)
    return with_published(counted, raw, recipe, "some_mixture", catalog)


def test_published_counts_stand_beside_ours_with_difference_and_note():
    counted = compared({"train": 8}, published=6, published_note="the cap draws others")
    assert counted["sources"]["src"]["splits"] == {
        "train": {"rows": 7, "published": 8, "published_difference": -1},
        "test": {"rows": 3, "published": None, "published_difference": None},
    }
    kept = counted["pair_sets"]["some_set"]
    assert (kept["kept"], kept["published"], kept["published_difference"]) == (5, 6, -1)
    assert kept["published_note"] == "the cap draws others"
    mixture = counted["mixtures"]["some_mixture"]
    assert (mixture["train"], mixture["published"], mixture["published_difference"]) == (3, 9, -6)
    assert [tuple(row.values()) for row in beside_published(counted)] == [
        ("src", "rows of train", 7, 8, -1, None),
        ("some_set", "pairs kept", 5, 6, -1, "the cap draws others"),
        ("some_mixture", "train pairs", 3, 9, -6, "raw rows"),
    ]


def test_what_is_not_published_has_no_difference_and_no_row():
    counted = compared({})
    assert counted["pair_sets"]["some_set"]["published_difference"] is None
    assert counted["pair_sets"]["some_set"]["published_note"] is None
    assert [row["name"] for row in beside_published(counted)] == ["some_mixture"]


def test_a_note_is_told_once():
    rows = beside_published(compared({}, published_note="raw rows"))
    assert [(row["name"], row["published"], row["note"]) for row in rows] == [
        ("some_set", None, "raw rows"),
        ("some_mixture", 9, "as above"),
    ]
